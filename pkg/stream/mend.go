package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Mend puts the settings of a stream back that are not as they are wanted, and
// leaves everything else of it as it is, its metadata above all. The error is an
// *Unmendable where the server does not change some of them: it has then put back
// the others, and those that forget messages go on doing so no longer than they must.
// It is an *OtherFormat where there is nothing that this program may touch. Safe to
// repeat.
func Mend(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) error {
	left, err := edited(ctx, js, want)
	if err != nil || len(left) == 0 {
		return err
	}
	// All at once first: some settings are allowed beside each other only.
	if err := put(ctx, js, want, left); !refusedByServer(err) {
		return err
	}
	var why error
	for before := len(left) + 1; len(left) > 0 && len(left) < before; {
		before = len(left)
		for _, d := range left {
			if err := put(ctx, js, want, []Difference{d}); refusedByServer(err) {
				why = err
			} else if err != nil {
				return err
			}
		}
		// A crash here leaves what the next Mend finds.
		if left, err = edited(ctx, js, want); err != nil {
			return err
		}
	}
	if len(left) == 0 {
		return nil
	}
	return &Unmendable{Stream: want.Name, Fields: left, Why: why}
}

// MendLimits puts back, of what Mend does, only the limits by which a stream forgets.
func MendLimits(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) error {
	all, err := edited(ctx, js, want)
	limits := slices.DeleteFunc(all, func(d Difference) bool { return !d.forgets() })
	if err != nil || len(limits) == 0 {
		return err
	}
	return put(ctx, js, want, limits)
}

// edited are the settings of a stream that are not as they are wanted.
func edited(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) ([]Difference, error) {
	_, err := Open(ctx, js, want)
	if d, is := errors.AsType[*Differs](err); is {
		return d.Fields, nil
	}
	return nil, err
}

// put puts some settings back, and goes by what the stream has now.
func put(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, fields []Difference) error {
	s, err := js.Stream(ctx, want.Name)
	if err != nil {
		return fmt.Errorf("stream %s: %w", want.Name, err)
	}
	is := s.CachedInfo().Config
	for _, c := range compared {
		if slices.ContainsFunc(fields, func(d Difference) bool { return d.Field == c.field }) {
			c.put(&is, want)
		}
	}
	if _, err := js.UpdateStream(ctx, is); err != nil {
		return fmt.Errorf("stream %s: %w", want.Name, err)
	}
	return nil
}

// Codes of a server's errors about a configuration that it does not take.
const (
	invalidConfig = 10052
	noUpdate      = 10069
)

// refusedByServer tells whether a server does not change a stream so.
func refusedByServer(err error) bool {
	api, is := errors.AsType[*jetstream.APIError](err)
	return is && (api.ErrorCode == invalidConfig || api.ErrorCode == noUpdate)
}

// Unmendable is returned for a stream with settings that a server does not change.
type Unmendable struct {
	Stream string
	Fields []Difference // that stay
	Why    error        // the server's word
}

func (e *Unmendable) Error() string {
	return fmt.Sprintf("stream %s: the server does not change this in a stream that is there: %s (%v). "+
		"Stop the workers, put the streams back from a backup of theirs, and then: certmill restored; "+
		"without a backup, begin with a NATS account (or a state folder) of its own and the key store of this one, "+
		"and hand the order files in again", e.Stream, Sentence(e.Fields), e.Why)
}

// Unwrap returns the server's word.
func (e *Unmendable) Unwrap() error { return e.Why }

// Forgets are the limits among these by which a stream removes messages that should
// stay; "" if there is none. What they removed is gone.
func Forgets(fields []Difference) string {
	var all []string
	for _, d := range fields {
		if d.forgets() {
			all = append(all, d.Field+" "+d.Is)
		}
	}
	return strings.Join(all, ", ")
}

func (d Difference) forgets() bool {
	return slices.Contains(forgetting, d.Field) && d.Is != "unlimited" // that keeps more than it should
}

var forgetting = []string{fieldRetention, fieldMsgs, fieldPerSubject, fieldBytes, fieldAge}
