package pipeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// Any tells whether at least one order lies in a state and lane. It costs one
// look-up by subject, whatever the number of orders.
func (l *Line) Any(ctx context.Context, state order.State, lane string) (bool, error) {
	_, err := l.orders.GetLastMsgForSubject(ctx, order.Subject(state, "*", lane))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look into lane %s of %s: %w", lane, state, err)
	}
	return true, nil
}

// Watch calls f for the present state of every order, and then for each
// transition, in the order of the stream, until ctx ends or f returns an error.
// Of several quick transitions of one order some may be left out, never the
// last. What cannot be read is told of and left out.
func (l *Line) Watch(ctx context.Context, f func(Item) error) error {
	return stream.Follow(ctx, l.orders, order.Subject("*", "*", "*"), 0, func(m stream.Message) error {
		return l.visit(ctx, m, f)
	})
}

// WatchAll is Watch that calls unread for what cannot be read: for those who
// wait for the orders' end, which they would not see.
func (l *Line) WatchAll(ctx context.Context, f func(Item) error, unread func(Unread) error) error {
	return stream.Follow(ctx, l.orders, order.Subject("*", "*", "*"), 0, func(m stream.Message) error {
		return either(m, f, unread)
	})
}
