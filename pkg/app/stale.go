package app

import (
	"context"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// A server that was killed may come up with messages that were removed just before.
// Workers remove each again as it is handed to them: but nobody is handed those of an
// account that is in no connected worker's config. There a message may be a state
// that its order has left, and is no second order.

// stale tells that a message is one that its order has left, where nobody removes it. It
// asks for the orders of such accounts only: it costs a question each.
func (c *Console) stale(ctx context.Context, it pipeline.Item) bool {
	if !c.gone(ctx, it.Account) {
		return false
	}
	last, err := c.line.Last(ctx, it.ID())
	return err == nil && last.Seq > it.Seq // one that cannot be read has left it, too, but is told of as that
}

// present calls f for those that are not stale.
func (c *Console) present(ctx context.Context, f func(pipeline.Item) error) func(pipeline.Item) error {
	return func(it pipeline.Item) error {
		if c.stale(ctx, it) {
			return nil
		}
		return f(it)
	}
}

// counts are the orders in each state, each counted once. The records are read only
// where orders are in no attended lane.
func (c *Console) counts(ctx context.Context) (map[order.State]int, error) {
	states, err := c.line.Counts(ctx)
	if err != nil {
		return nil, err
	}
	labels := c.attended(ctx)
	for s := range states {
		if len(labels) == 0 || s.Final() || s == order.Archived || s == order.Held {
			continue // nobody can tell, or no lane is of that state
		}
		elsewhere := states[s]
		for label := range labels {
			for _, lane := range []string{label, label + order.UrgentSuffix} {
				n, err := c.line.CountIn(ctx, s, lane)
				if err != nil {
					return nil, err
				}
				elsewhere -= int(n)
			}
		}
		if elsewhere <= 0 {
			continue
		}
		err := c.line.Each(ctx, s, "*", func(it pipeline.Item) error {
			if c.stale(ctx, it) {
				states[s]--
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if states[s] == 0 {
			delete(states, s)
		}
	}
	return states, nil
}
