package account

import (
	"context"
	"maps"
	"slices"

	"github.com/certmill/certmill/pkg/stream"
)

// keptPeriods is how many periods of a budget are remembered.
const keptPeriods = 8

// BatchKey is the key of a batch's budget, and PublisherKey that of a publisher's.
// Main accounts have no dot, so none of these meet.
func BatchKey(batch string) string { return "batch." + stream.Token(batch) }

func PublisherKey(name string) string { return "publisher." + stream.Token(name) }

// Spend counts one purchase of a period towards the budget of a main account,
// of a batch or a publisher, and tells whether it was within most. What is over
// is not counted. It comes before the purchase: a crash in between counts one
// that was not made, never the other way round.
func (a *Accounts) Spend(ctx context.Context, key, period string, most int) (within bool, err error) {
	err = a.change(ctx, key, func(s *State) {
		if within = s.Bought[period] < most; !within {
			return
		}
		if s.Bought == nil {
			s.Bought = map[string]int{}
		}
		s.Bought[period]++
		for old := slices.Sorted(maps.Keys(s.Bought)); len(old) > keptPeriods; old = old[1:] {
			delete(s.Bought, old[0])
		}
	}, stream.Cell.ChangeOnce)
	return within, err
}

// Unspend takes a purchase back that was counted and surely not made.
func (a *Accounts) Unspend(ctx context.Context, key, period string) error {
	return a.change(ctx, key, func(s *State) {
		if s.Bought[period] > 0 {
			s.Bought[period]--
		}
	}, stream.Cell.ChangeOnce)
}
