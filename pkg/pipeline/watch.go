package pipeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
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
// last.
func (l *Line) Watch(ctx context.Context, f func(Item) error) error {
	cons, err := l.orders.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{order.Subject("*", "*", "*")}})
	if err != nil {
		return fmt.Errorf("watch orders: %w", err)
	}
	msgs, err := cons.Messages()
	if err != nil {
		return fmt.Errorf("watch orders: %w", err)
	}
	stop := context.AfterFunc(ctx, msgs.Stop)
	defer stop()
	defer msgs.Stop()
	for {
		m, err := msgs.Next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch orders: %w", err)
		}
		if err := visit(m, f); err != nil {
			return err
		}
	}
}
