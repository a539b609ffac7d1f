package pipeline

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// Each reads the present orders of one state and lane ("*": all) and calls f
// for each. The reads may be stale; act on them only through Move. Orders whose
// record cannot be read are told of in the log, once, and left alone.
func (l *Line) Each(ctx context.Context, state order.State, lane string, f func(Item) error) error {
	return l.EachAfter(ctx, state, lane, 0, f)
}

// EachAfter is Each for the orders whose message came after a sequence of the
// stream: those that a reader who remembers the rest has not seen yet.
func (l *Line) EachAfter(ctx context.Context, state order.State, lane string, seq uint64, f func(Item) error) error {
	return stream.Read(ctx, l.orders, order.Subject(state, "*", lane), seq, func(m stream.Message) error {
		return l.visit(ctx, m, f)
	})
}

// EachOrder is Each for orders of all states.
func (l *Line) EachOrder(ctx context.Context, f func(Item) error) error {
	return l.Each(ctx, "*", "*", f)
}

// visit calls f for an order that can be read, and tells of one that cannot.
func (l *Line) visit(ctx context.Context, m stream.Message, f func(Item) error) error {
	it, err := decodeItem(m.Subject, m.Header, m.Data, m.Seq, m.Stored)
	if err != nil {
		stream.Unreadable{Subject: m.Subject, Seq: m.Seq, Err: err}.Tell(ctx, l.log)
		return nil
	}
	return f(it)
}

// Unread is an order whose record this program cannot read: what its subject
// says, and why. No worker of this program moves it, and no sweep looks at it.
type Unread struct {
	ID     string      `json:"id"`
	State  order.State `json:"state"`
	Lane   string      `json:"lane"`
	Seq    uint64      `json:"seq"`
	Stored time.Time   `json:"stored"`
	Newer  bool        `json:"newer"` // a newer program wrote it; else it is no record
	Why    string      `json:"why"`
}

// List reads the orders of one state ("*": all), as Each does, for those who
// look: it calls f for each that can be read, and unread for each that cannot.
// Both end it with an error.
func (l *Line) List(ctx context.Context, state order.State, f func(Item) error, unread func(Unread) error) error {
	return stream.Read(ctx, l.orders, order.Subject(state, "*", "*"), 0, func(m stream.Message) error {
		return either(m, f, unread)
	})
}

func either(m stream.Message, f func(Item) error, unread func(Unread) error) error {
	it, err := decodeItem(m.Subject, m.Header, m.Data, m.Seq, m.Stored)
	if err != nil {
		return unread(unreadAt(stream.Unreadable{Subject: m.Subject, Seq: m.Seq, Err: err}, m.Stored))
	}
	return f(it)
}

// Unreadable lists the orders of one state ("*": all) whose record this program
// cannot read.
func (l *Line) Unreadable(ctx context.Context, state order.State) ([]Unread, error) {
	var all []Unread
	err := l.List(ctx, state, func(Item) error { return nil }, func(u Unread) error { all = append(all, u); return nil })
	return all, err
}

func unreadAt(u stream.Unreadable, stored time.Time) Unread {
	out := Unread{Seq: u.Seq, Stored: stored, Newer: u.Newer(), Why: u.Err.Error()}
	if parts := strings.Split(u.Subject, "."); len(parts) == 4 {
		out.State, out.ID, out.Lane = order.State(parts[1]), parts[2], parts[3]
	}
	return out
}

// Counts tells how many orders lie in each state, also those that cannot be
// read: cheap also at a million orders.
func (l *Line) Counts(ctx context.Context) (map[order.State]int, error) {
	counts := map[order.State]int{}
	for _, s := range order.States {
		n, err := l.Count(ctx, s)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			counts[s] = int(n)
		}
	}
	return counts, nil
}

// Count tells how many orders lie in one state.
func (l *Line) Count(ctx context.Context, s order.State) (uint64, error) {
	return l.CountIn(ctx, s, "*")
}

// CountIn tells how many of them lie in one lane.
func (l *Line) CountIn(ctx context.Context, s order.State, lane string) (uint64, error) {
	n, err := stream.Count(ctx, l.orders, order.Subject(s, "*", lane))
	if err != nil {
		return 0, fmt.Errorf("count %s: %w", s, err)
	}
	return n, nil
}

// IDs are those of all orders that have a message, ended and archived ones too,
// and those that cannot be read. It costs the server a list of all subjects: 12 s
// of CPU at a million orders.
func (l *Line) IDs(ctx context.Context) (map[string]struct{}, error) {
	info, err := l.orders.Info(ctx, jetstream.WithSubjectFilter(order.Subject("*", "*", "*")))
	if err != nil {
		return nil, fmt.Errorf("list the orders: %w", err)
	}
	ids := make(map[string]struct{}, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		if parts := strings.Split(subject, "."); len(parts) == 4 {
			ids[parts[2]] = struct{}{}
		}
	}
	return ids, nil
}
