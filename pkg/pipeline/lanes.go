package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
)

// Lanes are those that workers serve, as far as the server remembers: the
// consumers lie in memory, so after a restart of a single server a lane shows
// when a worker of it runs again.
func (l *Line) Lanes(ctx context.Context) ([]string, error) {
	names := l.orders.ConsumerNames(ctx)
	var lanes []string
	for name := range names.Name() {
		if lane, ok := strings.CutPrefix(name, string(order.Submit)+"-"); ok {
			lanes = append(lanes, lane)
		}
	}
	if err := names.Err(); err != nil {
		return nil, fmt.Errorf("list lanes: %w", err)
	}
	slices.Sort(lanes)
	return lanes, nil
}

// OfLane is one order of a lane, whichever. The error wraps ErrNoOrder if there
// is none, or its record cannot be read.
func (l *Line) OfLane(ctx context.Context, lane string) (Item, error) {
	raw, err := l.orders.GetLastMsgForSubject(ctx, order.Subject("*", "*", lane))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Item{}, fmt.Errorf("look into lane %s: %w", lane, ErrNoOrder)
	}
	if err != nil {
		return Item{}, fmt.Errorf("look into lane %s: %w", lane, err)
	}
	it, err := decodeItem(raw.Subject, raw.Header, raw.Data, raw.Sequence, raw.Time)
	if err != nil {
		return Item{}, fmt.Errorf("look into lane %s: %w: %w", lane, ErrNoOrder, err)
	}
	return it, nil
}
