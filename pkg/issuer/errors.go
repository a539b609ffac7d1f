package issuer

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Kind is what an error of a cloud means to certmill. A Kind is an error, so
// errors.Is(err, issuer.Throttled) reads as English.
type Kind string

func (k Kind) Error() string { return string(k) }

const (
	// Throttled: refused at the gate by a rate limit; it had no effect.
	Throttled Kind = "throttled"
	// NeverSent: not one byte of the request left, or the transport refused it.
	NeverSent Kind = "never sent"
	// UnknownOutcome: it may have had its effect. On a call that only reads,
	// the same answer is Unavailable.
	UnknownOutcome Kind = "unknown outcome"
	// Unavailable: the cloud or the way there does not work now; ask again.
	Unavailable Kind = "unavailable"
	// QuotaExhausted: nothing left of the product; more must be bought.
	QuotaExhausted Kind = "quota exhausted"
	// Rejected: the request itself is wrong; repeating it will not help.
	Rejected Kind = "rejected"
	// Credentials: the access key does not work or may not do this.
	Credentials Kind = "credentials"
	// WrongState: the order is not in a state that allows the call; look first.
	WrongState Kind = "wrong state"
	// NotFound: the cloud does not know the id (or not yet).
	NotFound Kind = "not found"
)

// Error is an error of a cloud call. It never carries a secret, a URL or a
// body.
type Error struct {
	Kind       Kind
	Action     string
	Code       string // the cloud's code; empty when no answer came
	Message    string
	RequestID  string
	RetryAfter time.Duration // what the cloud asked for, if it did
	OfOrder    bool          // what is refused stands in the order itself: asked again, it is refused again
	Help       Text          // what the user should do, where the code says more than the kind
	Err        error         // the cause, where it is not the cloud's answer
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %s", e.Action, e.Kind)
	if e.Code != "" {
		s += ": " + e.Code
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.RequestID != "" {
		s += " (request " + e.RequestID + ")"
	}
	return s
}

// Is makes errors.Is match the kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

func (e *Error) Unwrap() error { return e.Err }

// Advice says in a language ("en" or "zh") what the user should do.
func (e *Error) Advice(lang string) string {
	if e.Help != (Text{}) {
		return e.Help.In(lang)
	}
	return kinds[e.Kind].advice.In(lang)
}

// LogValue logs the error as structure.
func (e *Error) LogValue() slog.Value {
	all := []slog.Attr{slog.String("kind", string(e.Kind)), slog.String("action", e.Action), slog.String("code", e.Code),
		slog.String("message", e.Message), slog.String("request_id", e.RequestID)}
	if e.Err != nil {
		all = append(all, slog.String("cause", e.Err.Error()))
	}
	return slog.GroupValue(all...)
}

// Silent tells whether a call failed because nobody answered, or not clearly. A
// clear refusal is none: it cost no time, and may be over as soon as a person has
// seen it.
func Silent(err error) bool {
	switch KindOf(err) {
	case Unavailable, NeverSent, UnknownOutcome:
		return true
	}
	return false
}

// KindOf returns the kind of err, or "" if it is no *Error.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return ""
}
