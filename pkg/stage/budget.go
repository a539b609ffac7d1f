package stage

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Budgets bound what is spent; over one, orders are held for a person. What was
// bought before, quota and resources alike, counts as spent when an order uses it
// up: a purchase by its number, a resource by its claim.
type Budgets struct {
	States     *account.Accounts
	Batches    map[string]int // most purchases of a batch; others are free
	Publishers Publishers     // may have a budget a day
	Zone       *time.Location // of the calendar day; nil: UTC
}

// counter is one budget that an order counts towards.
type counter struct {
	what        string // in a sentence
	key, period string
	most        int
}

func (b Budgets) of(a *Account, o order.Order, now time.Time) []counter {
	zone := b.Zone
	if zone == nil {
		zone = time.UTC
	}
	var all []counter
	if a.Daily > 0 {
		day := now.In(zone).Format(time.DateOnly)
		all = append(all, counter{fmt.Sprintf("account %s on %s", a.Label, day), a.Main, day, a.Daily})
	}
	if c, bounded := b.Publishers.daily(o.Publisher, now.In(zone)); bounded {
		all = append(all, c)
	}
	if most, bounded := b.Batches[o.Request.Batch]; bounded {
		all = append(all, counter{"batch " + o.Request.Batch, account.BatchKey(o.Request.Batch), "all", most})
	}
	return all
}

// take counts a purchase that is about to be made, towards all budgets or none,
// and returns how to take it back when it surely was not made. The verb holds
// the order. One with an approval of the very budget is counted, and passes.
func (b Budgets) take(ctx context.Context, a *Account, o order.Order) (back func(context.Context), verb error) {
	return b.takeAll(ctx, o, b.of(a, o, time.Now()))
}

func (b Budgets) takeAll(ctx context.Context, o order.Order, all []counter) (back func(context.Context), verb error) {
	var taken []counter
	back = func(ctx context.Context) {
		for _, c := range taken {
			// A failure leaves a purchase counted that was not made: on the safe
			// side.
			_ = b.States.Unspend(ctx, c.key, c.period)
		}
	}
	for _, c := range all {
		most, fact := c.most, order.FactBudget(c.what)
		if o.Approves(fact) {
			most = int(^uint(0) >> 1)
		}
		within, err := b.States.Spend(ctx, c.key, c.period, most)
		if err != nil {
			back(ctx)
			return back, err
		}
		if !within {
			back(ctx)
			return back, pipeline.HoldFor(fact, fmt.Sprintf("the budget of %s, %d, is used up", c.what, c.most),
				"certmill approve "+o.ID(), "certmill cancel "+o.ID())
		}
		taken = append(taken, c)
	}
	return back, nil
}

// count counts the resource that an order has claimed, before anything is called for
// it: once for the order and the day, however often it is visited, because its record
// knows it. done: it is held, or the record has to be stored before it goes on.
func (b Budgets) count(ctx context.Context, a *Account, o order.Order) (next order.Order, verb error, done bool) {
	all := b.of(a, o, time.Now())
	left := slices.DeleteFunc(slices.Clone(all), func(c counter) bool { return slices.Contains(o.Counted, order.Count{Key: c.key, Period: c.period}) })
	if len(left) == 0 {
		return o, nil, false
	}
	if _, verb := b.takeAll(ctx, o, left); verb != nil {
		return o, verb, true
	}
	// A crash here leaves a resource counted of which the record does not know it:
	// the next visit counts it once more, which is on the safe side.
	gap.At(ctx, "start: budget taken")
	o.Counted = nil // what was counted on an earlier day stays counted there
	for _, c := range all {
		o.Counted = append(o.Counted, order.Count{Key: c.key, Period: c.period})
	}
	return o, nil, true
}

// uncount takes back what was counted for an order whose resource was not started. MUST
// be called only by who has just given back the order's claim for its end, or a hold:
// that is done once, so nobody takes it back twice. A crash in between leaves it
// counted, which is on the safe side; so does a failure.
func uncount(ctx context.Context, states *account.Accounts, o *order.Order) {
	for _, c := range o.Counted {
		_ = states.Unspend(ctx, c.Key, c.Period)
	}
	o.Counted = nil
}
