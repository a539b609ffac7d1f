package stage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/memo"
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
	Guard    Guard // whether a list may be the first sweep
	Log      *slog.Logger
	Now      func() time.Time

	took  sync.Map // by main account: how long the last pass through its lists took
	zones memo.Memo[account.Zone]
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
	if a := w.Accounts[o.Account]; a != nil && Strayed(o, a.Label, a.Main) != nil {
		// What it waits for may never come: nobody looks after that main account. Its
		// stage holds it, or moves it along.
		o.State = o.Wait.Then
		return o, nil
	}
	switch o.Wait.For {
	case order.WaitForSweep:
		if !w.swept(o) {
			return o, pipeline.Snooze(time.Second)
		}
	case order.WaitForQuota:
		if _, none := w.States.State(o.Main).Exhausted[o.Wait.What]; none {
			return o, pipeline.Snooze(time.Second)
		}
	case order.WaitForNames:
		if err := w.names(ctx, o); err != nil {
			return heldWithNothing(ctx, w.Ledger, w.States, o, err)
		}
	case order.WaitForResource:
		if err := w.resource(ctx, o); err != nil {
			return o, err
		}
	case order.WaitForRights:
		if known, err := w.rightsKnown(ctx, o); err != nil {
			return o, err
		} else if !known {
			return o, pipeline.Snooze(time.Second)
		}
	}
	o.State = o.Wait.Then
	return o, nil
}

// rightsKnown tells whether it is known what an order waits for that needs a zone,
// or that it comes no more. A zone is read once for all that wait for it.
func (w *Waiter) rightsKnown(ctx context.Context, o order.Order) (bool, error) {
	zone, first := waitsFor(o.Wait)
	z, err := w.zones.Get(ctx, o.Account+" "+zone, memo.Keep{Answer: memo.Moment}, func(ctx context.Context) (account.Zone, error) {
		return w.States.Zone(ctx, account.ZoneKey{Main: o.Main, Label: o.Account, Zone: zone})
	})
	return decided(z, first, w.Now()), err
}

// swept tells whether the first sweep that an order waits for has come: its own
// account's, or another's, which counts as come when it cannot be had.
func (w *Waiter) swept(o order.Order) bool {
	main := cmp.Or(o.Wait.What, o.Main)
	st := w.States.State(main)
	if st.Marked(w.Line.Incarnation()) {
		return true
	}
	for _, a := range w.Accounts.Mains() {
		if a.Main == main {
			return main != o.Main && unsweepable(st, a.Waits.Total(), w.Now())
		}
	}
	return main != o.Main // the config has it no more
}

// resource: an order waits for another that has the resource which it names, as long
// as that one goes on by itself. What is then, the submitter says.
func (w *Waiter) resource(ctx context.Context, o order.Order) error {
	e, err := w.Ledger.Read(ctx, o.Main, o.Request.Names)
	if err != nil {
		return err
	}
	if err := w.Ledger.MayClaim(ctx, e, o.Resource, o.ID()); !errors.Is(err, ledger.ErrTaken) {
		return nil
	}
	_, other, err := resourceOf(ctx, w.Ledger, w.Line, o)
	if err == nil && goesOn(other) {
		return pipeline.Snooze(time.Second)
	}
	return err
}

// names: orders for the same names wait for each other, until the one that has
// them is issued or has ended; one that waits for a held order is held too. What
// else is in the way (DESIGN 12.2) the submitter says.
func (w *Waiter) names(ctx context.Context, o order.Order) error {
	e, err := w.Ledger.Read(ctx, o.Main, o.Request.Names)
	if err != nil {
		return err
	}
	_, st := passes(o, e, false, w.Now())
	if st.Is != ledger.Taken || o.Wait.Open && !st.Open {
		return nil // also to look at what the order's own number in the key store says
	}
	other, err := w.Line.Last(ctx, st.Order)
	switch {
	case errors.Is(err, pipeline.ErrUnreadable):
		// It is there, for others to move: whatever became of it, its names are
		// freed by them, and it must not be handed in again.
		return pipeline.Snooze(time.Second)
	case err != nil && !errors.Is(err, pipeline.ErrNoOrder):
		return err
	}
	return w.blocked(ctx, o, e, st, other)
}

// blocked decides by the order that has the names. One that is under way frees
// them by itself. One that ended has done so before: else orders and ledger were
// restored from copies of different moments, and the ledger is told.
func (w *Waiter) blocked(ctx context.Context, o order.Order, e ledger.Entry, st ledger.Standing, other pipeline.Item) error {
	switch {
	case other.State == order.Held && st.Order == o.Predecessor:
		return pipeline.Snooze(time.Second) // the verb that made this one ends it next
	case other.State == order.Held:
		return behind(o, other.Order)
	case st.Open:
		return w.openAttempt(ctx, o, e, st, other)
	case other.State == order.Issued && other.Certificate != nil:
		return untold(w.Ledger.Issued(ctx, st.Main, o.Request.Names, st.Order, other.Certificate.NotBefore, other.Certificate.NotAfter))
	case other.State == "" || other.State.Final():
		paid, err := w.paid(ctx, e, st, other)
		if err != nil {
			return err
		}
		return untold(w.Ledger.Over(ctx, st.Main, o.Request.Names, ledger.Attempt{Order: st.Order}, paid))
	}
	return pipeline.Snooze(time.Second)
}

// behind holds an order whose names a held order has. What helps is that one's:
// this one is retried when that one has ended.
func behind(o, other order.Order) error {
	var why string
	var commands []string
	if h := other.Hold; h != nil {
		why, commands = " ("+h.Reason+")", h.Commands
	}
	return pipeline.Hold(fmt.Sprintf("it waits for order %s, which has the same names and is held%s: decide about that one, and when it has ended retry this one",
		other.ID(), why), append(slices.Clone(commands), "certmill retry "+o.ID(), "certmill cancel "+o.ID())...)
}

// untold: the ledger knows now. The next look goes by what it says.
func untold(err error) error {
	if err != nil {
		return again(err)
	}
	return pipeline.Snooze(time.Second)
}

// paid tells whether an order that is not there any more, or does not say so, may
// have started a resource. Of cloud orders that it bought the ledger knows.
func (w *Waiter) paid(ctx context.Context, e ledger.Entry, st ledger.Standing, other pipeline.Item) (bool, error) {
	if other.State != "" && other.State != order.Archived {
		return other.Resource != "" || other.CloudID != "", nil
	}
	t, _ := entryAt(e, st.Main).Take(st.Order)
	if t.Resource == "" {
		return false, nil
	}
	is, err := w.Ledger.Owner(ctx, st.Main, t.Resource)
	return is.Order == st.Order && !(is.Called.IsZero() && is.Till.IsZero()), err
}

// entryAt is that of a main account, among those that were read.
func entryAt(e ledger.Entry, main string) ledger.Entry {
	for _, other := range e.Elsewhere() {
		if other.Main == main {
			return other
		}
	}
	return e
}

// openAttempt decides by another order's attempt of which nobody knows whether it
// was bought.
func (w *Waiter) openAttempt(ctx context.Context, o order.Order, e ledger.Entry, st ledger.Standing, other pipeline.Item) error {
	open, _ := entryAt(e, st.Main).Last(st.Order)
	waits, known := w.waits(st.Main, o)
	switch {
	case other.State == order.Issued && other.CloudID != "" && other.Main == st.Main:
		// What it was issued from is what it bought: the entry is closed for it. Of an
		// attempt at another main account than it was issued at that says nothing.
		return untold(w.Ledger.Bought(ctx, st.Main, o.Request.Names, open, other.CloudID, "the order is issued"))
	case st.Main != o.Main && other.Main != st.Main && other.State.Final():
		return elsewhereOpen(o, st, known) // nobody reconciles it there
	case other.State == order.Failed:
		return pipeline.Hold(fmt.Sprintf("it waits for order %s, which has the same names and failed although its purchase is not known: retry that one, so that it is reconciled, and then this one", st.Order),
			"certmill retry "+st.Order, "certmill retry "+o.ID(), "certmill cancel "+o.ID())
	case other.State == "" || other.State.Final():
		return pipeline.Hold(fmt.Sprintf("it waits for order %s, which has the same names, whose purchase is not known, and which is not there any more: hand that one in again, so that it is reconciled, and then retry this one", st.Order),
			"certmill retry "+o.ID(), "certmill cancel "+o.ID())
	case st.Main != o.Main && w.Now().Sub(st.Since) > 2*waits.Total():
		return elsewhereOpen(o, st, known)
	}
	return pipeline.Snooze(time.Second)
}

// elsewhereOpen holds an order for another's attempt at another main account, which
// the config has, or not.
func elsewhereOpen(o order.Order, st ledger.Standing, known bool) error {
	why := fmt.Sprintf("order %s has the same names, and since %s nobody knows whether its attempt %d at main account %s was bought",
		st.Order, st.Since.UTC().Format(time.DateTime+" UTC"), st.Attempt, st.Main)
	if !known {
		why += ", which is in no account of the config any more"
	}
	return pipeline.HoldFor(order.FactElsewhere(st.Main, st.Order, st.Attempt),
		why+"; nothing was bought for this one. approve goes on all the same: then they may be bought twice",
		"certmill approve "+o.ID(), "certmill cancel "+o.ID())
}

// waits are a main account's, if the config has it; else those of the order's own.
func (w *Waiter) waits(main string, o order.Order) (waits Waits, known bool) {
	for _, a := range w.Accounts.Mains() {
		if a.Main == main {
			return a.Waits, true
		}
	}
	if a := w.Accounts[o.Account]; a != nil {
		return a.Waits, false
	}
	return Waits{}, false
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

// FirstSweep reads all lists of an account once in the streams' incarnation,
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
	skip, err := w.Guard.MaySkipWait(ctx, a)
	if err != nil {
		return 0, fmt.Errorf("first sweep of %s: %w", a.Main, err)
	}
	if !skip && !a.Simulated {
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
	if err := w.Guard.MayMark(ctx, a); err != nil {
		return 0, fmt.Errorf("first sweep of %s: %w", a.Main, err)
	}
	return 0, w.States.Change(ctx, a.Main, func(s *account.State) {
		s.Mark, s.Unswept = account.Mark{Incarnation: incarnation, At: w.Now().UTC()}, account.Unswept{}
	})
}

// SweepFailed notes that no label of a main account could sweep it: after a while
// orders elsewhere do not wait for it any longer (elsewhere). Safe to repeat.
func (w *Waiter) SweepFailed(ctx context.Context, main string, why error) error {
	if !w.States.State(main).Unswept.Since.IsZero() {
		return nil
	}
	return w.States.Change(ctx, main, func(s *account.State) {
		if s.Unswept.Since.IsZero() {
			s.Unswept = account.Unswept{Since: w.Now().UTC(), Why: why.Error()}
		}
	})
}
