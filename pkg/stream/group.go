package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Group is the last messages of all subjects that a filter covers, of which one
// is changed only on condition that none was written since all of them were
// read. What may be true of one of several subjects at most is decided so.
type Group struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	filter string
}

// Within is the group of the subjects that a filter covers. The server compares
// the filters of conditions as text: everybody MUST build the same one.
func Within(js jetstream.JetStream, s jetstream.Stream, filter string) Group {
	return Group{js, s, filter}
}

// Read returns what lies there, in the order of writing, and the greatest
// sequence among it: what a write is conditional on. It is that of what was read
// and never asked for by itself: what was written between two questions would be
// under the condition and unseen.
//
// The newest is read first, and then the others up to it: to ask for one more than
// there is costs a walk through the stream. What is written anew meanwhile may be
// missing; it is newer than the sequence that is returned, and a write on top of
// that is in conflict.
func (g Group) Read(ctx context.Context) (all []Value, last uint64, err error) {
	newest, err := g.stream.GetLastMsgForSubject(ctx, g.filter)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", g.filter, err)
	}
	at := map[string]int{}
	for last < newest.Sequence {
		raw, err := g.stream.GetMsg(ctx, last+1, jetstream.WithGetMsgSubject(g.filter))
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", g.filter, err)
		}
		if was, seen := at[raw.Subject]; seen {
			all[was] = Value{}
		}
		at[raw.Subject], last = len(all), raw.Sequence
		all = append(all, valueOf(raw))
	}
	return compact(all), last, nil
}

// compact removes what was replaced while it was read.
func compact(all []Value) []Value {
	kept := all[:0]
	for _, v := range all {
		if v.Seq > 0 {
			kept = append(kept, v)
		}
	}
	return kept
}

// Write stores data under a subject of the group on condition that its last
// message is the one with this sequence; 0: that there is none. The errors are
// those of Cell.Write.
func (g Group) Write(ctx context.Context, subject string, data []byte, last uint64) (Value, error) {
	return write(ctx, g.js, subject, data, jetstream.WithExpectLastSequenceForSubject(last, g.filter))
}

// Change lets f decide about what lies there and stores what it returns under the
// subject; nil leaves it as it is. It asks again as Cell.Change does, and f MUST
// find its own change done.
func (g Group) Change(ctx context.Context, subject string, f func(all []Value, last uint64) ([]byte, error)) error {
	again := func(err error) bool { return errors.Is(err, ErrConflict) || errors.Is(err, ErrNoAnswer) }
	return attempt(ctx, again, func() error {
		all, last, err := g.Read(ctx)
		if err != nil {
			return err
		}
		data, err := f(all, last)
		if err != nil {
			return final{err}
		}
		if data == nil {
			return nil
		}
		_, err = g.Write(ctx, subject, data, last)
		return err
	})
}
