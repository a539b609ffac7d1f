package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Waiter sends waiting orders back to their stage when what they wait for has
// come.
type Waiter struct {
	Accounts Accounts
	Ledger   *ledger.Ledger
	States   *account.Accounts
	Line     *pipeline.Line
	Log      *slog.Logger
	Now      func() time.Time
}

// Sweep looks at every waiting order of an account once.
func (w *Waiter) Sweep(ctx context.Context, a *Account) error {
	w.replenish(ctx, a)
	for _, lane := range []string{a.Label, a.Label + order.UrgentSuffix} {
		err := w.Line.Each(ctx, order.Waiting, lane, func(it pipeline.Item) error {
			return w.Line.Visit(ctx, it, pipeline.HandlerFunc(w.Handle))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Handle decides about one waiting order.
func (w *Waiter) Handle(ctx context.Context, o order.Order) (order.Order, error) {
	if w.Now().Before(o.Wait.Till) {
		return o, pipeline.Snooze(time.Second)
	}
	switch o.Wait.For {
	case order.WaitForSweep:
		if !w.States.State(o.Main).Marked(w.Line.Incarnation()) {
			return o, pipeline.Snooze(time.Second)
		}
	case order.WaitForQuota:
		if _, none := w.States.State(o.Main).Exhausted[o.Wait.What]; none {
			return o, pipeline.Snooze(time.Second)
		}
	case order.WaitForNames:
		if err := w.names(ctx, o); err != nil {
			return o, err
		}
	}
	o.State = o.Wait.Then
	return o, nil
}

// names: two orders for the same names wait for each other until the entry is
// closed; one that waits for a held order is held too.
func (w *Waiter) names(ctx context.Context, o order.Order) error {
	e, err := w.Ledger.Read(ctx, o.Main, o.Request.Names)
	if err != nil {
		return err
	}
	open, is := e.OpenAttempt()
	if !is || open.Order == o.ID() {
		return nil
	}
	other, err := w.Line.Last(ctx, open.Order)
	switch {
	case errors.Is(err, pipeline.ErrUnreadable):
		// It is there, for others to move: whatever became of it, its entry is
		// closed by them, and it must not be handed in again.
		return pipeline.Snooze(time.Second)
	case err != nil && !errors.Is(err, pipeline.ErrNoOrder):
		return err
	}
	return w.blocked(ctx, o, open, other)
}

// blocked decides by the order whose open entry is in the way. One that is under
// way closes it by itself. One that ended leaves an open entry only where orders
// and ledger were restored from copies of different moments.
func (w *Waiter) blocked(ctx context.Context, o order.Order, open ledger.Attempt, other pipeline.Item) error {
	switch {
	case other.State == order.Issued && other.CloudID != "":
		// What it was issued from is what it bought: the entry is closed for it.
		if err := w.Ledger.Bought(ctx, o.Main, o.Request.Names, open, other.CloudID, "the order is issued"); err != nil {
			return again(err)
		}
		return pipeline.Snooze(time.Second)
	case other.State == order.Held:
		return pipeline.Hold(fmt.Sprintf("it waits for order %s, which has the same names and is held", open.Order),
			"certmill retry "+o.ID(), "certmill cancel "+o.ID())
	case other.State == order.Failed:
		return pipeline.Hold(fmt.Sprintf("it waits for order %s, which has the same names and failed although its purchase is not known: retry that one, so that it is reconciled, and then this one", open.Order),
			"certmill retry "+open.Order, "certmill retry "+o.ID(), "certmill cancel "+o.ID())
	case other.State == "" || other.State == order.Archived:
		return pipeline.Hold(fmt.Sprintf("it waits for order %s, which has the same names, whose purchase is not known, and which is not there any more: hand that one in again, so that it is reconciled, and then retry this one", open.Order),
			"certmill retry "+o.ID(), "certmill cancel "+o.ID())
	}
	return pipeline.Snooze(time.Second)
}

// replenish resumes exhausted products of which there is quota again.
func (w *Waiter) replenish(ctx context.Context, a *Account) {
	st := w.States.State(a.Main)
	for product, p := range st.Exhausted {
		if w.Now().Sub(p.Since) < time.Minute {
			continue
		}
		for _, f := range a.Cloud.Flows() {
			c, ok := f.(issuer.Counter)
			if !ok {
				continue
			}
			if u, err := c.Usage(ctx, product); err == nil && u.Bought > u.Used {
				_ = w.States.Replenish(ctx, a.Main, product) // the next sweep tries again
			} else {
				p.Since = w.Now().UTC() // asked now: again in a minute
				_ = w.States.Exhaust(ctx, a.Main, product, p)
			}
			break
		}
	}
}

// FirstSweep reads an account's whole list once in the streams' incarnation,
// writes what no entry claims into the ledger, and sets the mark without which
// nothing is bought. It must not begin before the waiting time after this
// ledger began, because a call of an earlier life could still land: unless the
// clouds are simulated here, or an operator said that there was none
// (certmill first-use). It returns how long to wait yet; 0 when marked.
func (w *Waiter) FirstSweep(ctx context.Context, a *Account) (time.Duration, error) {
	incarnation := w.Line.Incarnation()
	st := w.States.State(a.Main)
	if st.Marked(incarnation) {
		return 0, nil
	}
	if st.FirstUse != incarnation && !a.Simulated {
		began := w.Ledger.Began() // a restored ledger is older than its restoration
		if since := w.Line.Since(); since.After(began) {
			began = since
		}
		if left := began.Add(a.Waits.Total()).Sub(w.Now()); left > 0 {
			return left, nil
		}
	}
	left, err := w.surplus(ctx, a)
	if err != nil {
		return 0, fmt.Errorf("first sweep of %s: %w", a.Main, err)
	}
	if left > 0 {
		return 0, fmt.Errorf("first sweep of %s: %d cloud orders that nobody claims belong to ledger entries "+
			"which this certmill cannot read; the mark is left to one that can", a.Main, left)
	}
	return 0, w.States.Change(ctx, a.Main, func(s *account.State) {
		s.Mark = account.Mark{Incarnation: incarnation, At: w.Now().UTC()}
	})
}
