package issuer

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/certmill/certmill/pkg/permit"
)

// Spending marks every call below ctx as one that Submit makes: Transport
// checks the fence, gives it a connection of its own, and an answer that is not
// clear is UnknownOutcome instead of Unavailable.
func Spending(ctx context.Context, f Fence) context.Context {
	return context.WithValue(ctx, fenceKey{}, f)
}

type fenceKey struct{}

func fenceOf(ctx context.Context) (Fence, bool) {
	f, ok := ctx.Value(fenceKey{}).(Fence)
	return f, ok
}

// Within bounds the time stamps of every call below ctx that does not spend: one
// that was signed outside the fence is NeverSent. So a worker that slept does not
// overwrite what by now is another's.
func Within(ctx context.Context, f Fence) context.Context {
	return context.WithValue(ctx, withinKey{}, f)
}

type withinKey struct{}

// bounds are the fence of a call, and whether it has one.
func bounds(ctx context.Context) (Fence, bool) {
	if f, spending := fenceOf(ctx); spending {
		return f, true
	}
	f, ok := ctx.Value(withinKey{}).(Fence)
	return f, ok
}

// Unclear is the kind of an answer that says neither yes nor no: UnknownOutcome
// below Spending, else Unavailable.
func Unclear(ctx context.Context) Kind {
	if _, spending := fenceOf(ctx); spending {
		return UnknownOutcome
	}
	return Unavailable
}

// Caller makes the calls of one main account: it takes the permit, sets the
// deadline and gives the permit back as the outcome demands. Both clouds'
// clients are built on it.
type Caller struct {
	Main    string
	Permits *permit.Set
	Gate    func(context.Context) error // see Access.Gate
}

// open asks the gate.
func (c Caller) open(ctx context.Context, action string) error {
	if c.Gate == nil {
		return nil
	}
	if err := c.Gate(ctx); err != nil {
		return &Error{Kind: NeverSent, Action: action, Err: err}
	}
	return nil
}

// Reserve waits for the permit of action. See Flow.Reserve.
func (c Caller) Reserve(ctx context.Context, action string) (context.Context, func(), error) {
	if err := c.open(ctx, action); err != nil {
		return nil, nil, err
	}
	reserved, p, err := c.Permits.Wait(ctx, permit.Key{Account: c.Main, Action: action})
	if err != nil {
		return nil, nil, &Error{Kind: NeverSent, Action: action, Err: err}
	}
	return reserved, func() { p.Give(permit.Unused, 0) }, nil
}

// Do runs send, which makes one call of action through the Transport, at most
// once, with a permit in its context. Below Spending that permit must be there
// already: waiting for it now would keep a ledger entry open. The call ends at
// the permit's deadline. A panic of send becomes an error. The error is *Error.
func (c Caller) Do(ctx context.Context, action string, send func(context.Context) error) error {
	if err := c.open(ctx, action); err != nil {
		return err
	}
	ctx, p, err := c.permitted(ctx, permit.Key{Account: c.Main, Action: action})
	if err != nil {
		return &Error{Kind: NeverSent, Action: action, Err: err}
	}
	trip := &trip{}
	ctx, cancel := context.WithTimeout(ctx, p.Deadline())
	defer cancel()
	failed := trip.run(ctx, action, send)
	switch {
	case failed == nil:
		p.Give(trip.outcome(), 0)
		return nil
	case failed.Kind == Throttled: // the permit rests longer, or as long as the cloud asked for
		p.Give(permit.Throttled, failed.RetryAfter)
	default:
		p.Give(trip.outcome(), 0)
	}
	return failed
}

// Free runs send, which makes one call of an action that takes no permit
// (Call.Free) through the Transport, which refuses any other. Else it is as Do.
func (c Caller) Free(ctx context.Context, action string, send func(context.Context) error) error {
	if failed := new(trip).run(ctx, action, send); failed != nil {
		return failed
	}
	return nil
}

// permitted returns a context with a live permit for k.
func (c Caller) permitted(ctx context.Context, k permit.Key) (context.Context, *permit.Permit, error) {
	if p := permit.For(ctx, k); p != nil {
		return ctx, p, nil
	}
	if _, spending := fenceOf(ctx); spending {
		return nil, nil, fmt.Errorf("submit %v: %w", k, permit.ErrNoPermit)
	}
	return c.Permits.Wait(ctx, k)
}

// guard turns a panic of an SDK into an error: there is one that panics on an
// answer whose code is a number. The value is shown only where the runtime made
// it: others could quote the answer.
func guard(ctx context.Context, send func(context.Context) error) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case runtime.Error:
			err = fmt.Errorf("the SDK panicked: %w", v)
		default:
			err = fmt.Errorf("the SDK panicked with a %T", v)
		}
	}()
	return send(ctx)
}

// trip is what the Transport saw of one call. Only the goroutine that makes the
// call touches it: both SDKs call their transport synchronously.
type trip struct {
	sent       bool // at least one byte of the request left
	answered   bool // the whole answer was read
	status     int  // of HTTP
	retryAfter time.Duration
}

type tripKey struct{}

// tripOf returns the trip of ctx, or one that nobody looks at.
func tripOf(ctx context.Context) *trip {
	if t, ok := ctx.Value(tripKey{}).(*trip); ok {
		return t
	}
	return &trip{}
}

// HTTPStatus is the status of the answer that Do's call got, 0 if none.
// Some SDKs hide it where they fail to read the answer, others always.
func HTTPStatus(ctx context.Context) int { return tripOf(ctx).status }

// run runs send, with this trip in its context, and completes the error.
func (t *trip) run(ctx context.Context, action string, send func(context.Context) error) *Error {
	ctx = context.WithValue(ctx, tripKey{}, t)
	failed := t.judge(ctx, guard(ctx, send))
	if failed == nil {
		return nil
	}
	if failed.Action == "" {
		failed.Action = action
	}
	if failed.RetryAfter == 0 {
		failed.RetryAfter = t.retryAfter
	}
	return failed
}

// judge makes sure that an error has a kind.
func (t *trip) judge(ctx context.Context, err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	kind := Unclear(ctx)
	if !t.sent {
		kind = NeverSent
	}
	return &Error{Kind: kind, Err: err}
}

func (t *trip) outcome() permit.Outcome {
	switch {
	case t.answered:
		return permit.Answered
	case t.sent:
		return permit.Unknown
	}
	return permit.Unused
}
