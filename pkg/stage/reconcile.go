package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Reconciler finds out what became of paid calls without a clear answer. It
// looks for the cloud order in the list, adopts it, or, when the waiting time
// is over and a second witness agrees, says that nothing was bought. It never
// repeats a call.
type Reconciler struct {
	Accounts Accounts
	Ledger   *ledger.Ledger
	States   *account.Accounts
	Line     *pipeline.Line
	Guard    Guard // who may say, by a list, that something was not bought
	Log      *slog.Logger
	Now      func() time.Time

	mu     sync.Mutex
	looked map[string]time.Time // held orders, when they were looked at again
}

// heldEvery is how often an order that is held with an open entry is looked at
// again: what nobody could explain may have explained itself.
const heldEvery = time.Minute

// lookBack is how long before the intent a row may have been created and still
// be ours: the clouds' clocks are not ours.
const lookBack = 15 * time.Minute

// Sweep looks at every unsure order of an account once, and now and then at those
// that are held because nothing told what became of their purchase.
func (r *Reconciler) Sweep(ctx context.Context, a *Account) error {
	for _, lane := range []string{a.Label, a.Label + order.UrgentSuffix} {
		err := r.Line.Each(ctx, order.Unsure, lane, func(it pipeline.Item) error {
			return r.Line.Visit(ctx, it, pipeline.HandlerFunc(r.Handle))
		})
		if err != nil {
			return err
		}
		err = r.Line.Each(ctx, order.Held, lane, func(it pipeline.Item) error {
			if it.Hold == nil || !it.Hold.Open || !r.due(it.ID()) {
				return nil
			}
			return r.Line.Visit(ctx, it, pipeline.HandlerFunc(r.reconsider))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// due tells whether a held order is to be looked at again, and notes that it is.
func (r *Reconciler) due(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Now().Sub(r.looked[id]) < heldEvery {
		return false
	}
	if r.looked == nil {
		r.looked = map[string]time.Time{}
	}
	r.looked[id] = r.Now()
	return true
}

// reconsider decides once more about an order that was held. What a look cannot decide
// stays with the person.
func (r *Reconciler) reconsider(ctx context.Context, o order.Order) (order.Order, error) {
	hold := o.Hold
	if e, err := r.Ledger.Read(ctx, o.Main, o.Request.Names); err != nil {
		return o, err
	} else if last, _ := e.Last(o.ID()); last.Provisional != "" {
		return o, pipeline.Snooze(heldEvery) // it was followed to its end: nothing is new
	}
	next, err := r.Handle(ctx, o)
	if err != nil || next.State == order.Held {
		return o, pipeline.Snooze(heldEvery)
	}
	next.Hold = nil
	next.Tell(order.Event{At: r.Now().UTC(), State: next.State, Note: "looked at again, no longer held: " + hold.Reason})
	return next, nil
}

// Handle decides about one unsure order. Snooze means: looked, not known yet.
func (r *Reconciler) Handle(ctx context.Context, o order.Order) (order.Order, error) {
	a, flow, err := r.Accounts.flow(o)
	if err != nil {
		return o, err
	}
	e, err := r.Ledger.Read(ctx, o.Main, o.Request.Names)
	if err != nil {
		return o, err
	}
	if c, ok := e.Claim(o.ID(), o.Purchase); ok {
		o.Provisional = false
		return bought(o, c.CloudID), nil
	}
	last, ok := e.Last(o.ID())
	if !ok || last.Ending != ledger.Open {
		o.State = order.Submit // it follows the ending, or begins from what a wiped ledger knows
		return o, nil
	}
	o.Attempt = last.Attempt
	if last.Provisional != "" {
		o.Provisional = true
		return bought(o, last.Provisional), nil
	}
	return r.search(ctx, a, flow, o, e, last)
}

// search reads the list and judges by it.
func (r *Reconciler) search(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, e ledger.Entry, open ledger.Attempt) (order.Order, error) {
	finder, ok := flow.(issuer.Finder)
	if !ok {
		return o, pipeline.HoldOpen(o.ID(), o.Operation+" cannot be searched by names: only a person can say what became of it")
	}
	began := r.Now()
	rows, err := finder.Find(ctx, o.Request.Names)
	if err != nil {
		return o, pipeline.Retry(err, 0)
	}
	found, err := r.unowned(ctx, o, candidates(rows, e, open, o.ID()))
	if err != nil {
		return o, err
	}
	for _, row := range found {
		if row.Tag == o.ID() {
			return r.adopt(ctx, o, open, row.CloudID)
		}
	}
	switch {
	case len(found) == 1:
		return r.adoptProvisionally(ctx, o, open, found[0].CloudID)
	case len(found) > 1:
		return r.tellApart(ctx, flow, o, open, found)
	case began.Before(open.Opened.Add(a.Waits.Total())):
		return o, pipeline.Snooze(time.Second) // the list was read too early to say no
	}
	return r.notBought(ctx, a, flow, o, e, open, rows)
}

// candidates are the rows that could be this attempt's: created since the
// intent, claimed by nobody, not known to have another key.
func candidates(rows []issuer.Row, e ledger.Entry, open ledger.Attempt, id string) []issuer.Row {
	var out []issuer.Row
	since := open.Since().Add(-lookBack)
	for _, row := range rows {
		if row.CloudID == "" || row.Created.Before(since) && !row.Created.IsZero() || !e.Free(row.CloudID, id) {
			continue
		}
		if row.Tag != "" && row.Tag != id {
			continue // tagged by us for another order
		}
		out = append(out, row)
	}
	return out
}

// unowned leaves out the rows that another order has, whatever its names: a cloud
// may list an order under more names than were ordered (DESIGN 12.5). One that
// another has without proof stays: whoever adopts it is told.
func (r *Reconciler) unowned(ctx context.Context, o order.Order, rows []issuer.Row) ([]issuer.Row, error) {
	var free []issuer.Row
	for _, row := range rows {
		has, err := r.Ledger.Owner(ctx, o.Main, row.CloudID)
		if errors.Is(err, order.ErrNewer) {
			continue // somebody's, as far as this program can tell
		}
		if err != nil {
			return nil, err
		}
		if has.Order == "" || has.Order == o.ID() || has.Provisional {
			free = append(free, row)
		}
	}
	return free, nil
}

func ids(rows []issuer.Row) string {
	s := ""
	for i, row := range rows {
		if i > 0 {
			s += ", "
		}
		s += row.CloudID
	}
	return s
}

// tellApart compares the keys of several candidates, as far as they are issued.
func (r *Reconciler) tellApart(ctx context.Context, flow issuer.Flow, o order.Order, open ledger.Attempt, found []issuer.Row) (order.Order, error) {
	mine, others, err := byKey(ctx, flow, open.Fingerprint, found)
	switch {
	case err != nil:
		return o, pipeline.Retry(err, 0)
	case mine != "":
		return r.adopt(ctx, o, open, mine)
	case len(others) > 0:
		if err := r.Ledger.Foreign(ctx, o.Main, o.Request.Names, open, others...); err != nil {
			return o, again(err)
		}
		return o, pipeline.Snooze(time.Second) // with fewer candidates now
	}
	return o, pipeline.HoldOpen(o.ID(), fmt.Sprintf("%d cloud orders for these names could be its purchase and nothing tells which: %s", len(found), ids(found)))
}

// byKey compares the keys of rows that are issued with an order's own. It
// returns the row that has it, or those that have another. Without a key of the
// order's own (the cloud makes it) nothing can be told.
func byKey(ctx context.Context, flow issuer.Flow, fingerprint string, rows []issuer.Row) (mine string, others []string, err error) {
	for _, row := range rows {
		if fingerprint == "" || row.Phase != issuer.IssuedPhase {
			continue
		}
		got, err := flow.Fetch(ctx, row.CloudID, row.CertID)
		if err != nil {
			return "", nil, fmt.Errorf("compare the key of cloud order %s: %w", row.CloudID, err)
		}
		key, err := certstore.KeyOf(got.Chain)
		switch {
		case err != nil:
			return "", nil, fmt.Errorf("compare the key of cloud order %s: %w", row.CloudID, err)
		case key == fingerprint:
			return row.CloudID, nil, nil
		}
		others = append(others, row.CloudID)
	}
	return "", others, nil
}

// adopt takes a row that is proved to be this order's.
func (r *Reconciler) adopt(ctx context.Context, o order.Order, open ledger.Attempt, cloudID string) (order.Order, error) {
	if err := r.Ledger.Bought(ctx, o.Main, o.Request.Names, open, cloudID, "adopted"); err != nil {
		return o, again(err)
	}
	// A crash here leaves the order unsure with a claim: Handle finds it.
	gap.At(ctx, "reconcile: claimed")
	return bought(o, cloudID), nil
}

// adoptProvisionally takes the only candidate, without proof. The entry stays
// open until the key is compared at collection.
func (r *Reconciler) adoptProvisionally(ctx context.Context, o order.Order, open ledger.Attempt, cloudID string) (order.Order, error) {
	if err := r.Ledger.Adopt(ctx, o.Main, o.Request.Names, open, cloudID); err != nil {
		return o, again(err)
	}
	// A crash here leaves the order unsure with a provisional row: Handle finds
	// it.
	gap.At(ctx, "reconcile: adopted provisionally")
	o.Provisional = true
	return bought(o, cloudID), nil
}

// again: a conflict means that the entry changed; look again soon.
func again(err error) error {
	if errors.Is(err, ledger.ErrConflict) || errors.Is(err, ledger.ErrTaken) || errors.Is(err, ledger.ErrStale) {
		return pipeline.Snooze(time.Second)
	}
	return err
}

// notBought says that nothing was bought, if the second witness agrees, which is
// asked after the list: growth of the product's count since the entry's reading
// must be explained by what else was bought.
func (r *Reconciler) notBought(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, e ledger.Entry, open ledger.Attempt, rows []issuer.Row) (order.Order, error) {
	if !r.States.State(o.Main).Marked(r.Line.Incarnation()) {
		return o, pipeline.Snooze(time.Second) // nobody says "never bought" before the first sweep
	}
	if err := r.Guard.MayDeny(ctx, a, o.Main, open); err != nil {
		return r.mayNot(o, a, open, err)
	}
	if c, ok := flow.(issuer.Counter); ok && open.Used != nil {
		unexplained, err := r.unexplained(ctx, a, flow, c, open, o.Request.Names)
		if err != nil {
			return o, pipeline.Retry(err, 0)
		}
		if unexplained > 0 {
			if r.Now().After(open.Opened.Add(3 * a.Waits.Total())) {
				return o, pipeline.HoldOpen(o.ID(), fmt.Sprintf(
					"no cloud order for its names is listed, but the quota of %s fell by %d that neither the ledger nor the list explains", open.Product, unexplained))
			}
			return o, pipeline.Snooze(5 * time.Second)
		}
	}
	if err := r.Ledger.End(ctx, o.Main, o.Request.Names, open, ledger.NotBought, "not in the list after the waiting time"); err != nil {
		return o, again(err)
	}
	// A crash here leaves the order unsure with a closed attempt: Handle sends
	// it back to submit.
	gap.At(ctx, "reconcile: not bought")
	o.State = order.Submit
	return o, nil
}

// mayNot: the list is not one that may say so. A person must do something about
// the account, or the cloud could not be asked about it.
func (r *Reconciler) mayNot(o order.Order, a *Account, open ledger.Attempt, err error) (order.Order, error) {
	if !narrow(err) {
		return o, pipeline.Retry(err, 0)
	}
	if r.Now().After(open.Opened.Add(3 * a.Waits.Total())) {
		return o, pipeline.HoldOpen(o.ID(), "no cloud order for its names is listed, and "+err.Error())
	}
	return o, pipeline.Snooze(5 * time.Second)
}

// narrow tells whether an error says that a caller's lists may not be taken for
// everything that there is.
func narrow(err error) bool {
	_, one := errors.AsType[*Unwitnessed](err)
	_, other := errors.AsType[*Stranger](err)
	_, elsewhere := errors.AsType[*Elsewhere](err)
	return one || other || elsewhere
}

// unexplained is how many uses of a product since the entry's reading neither
// the ledger nor an unclaimed row accounts for.
func (r *Reconciler) unexplained(ctx context.Context, a *Account, flow issuer.Flow, c issuer.Counter, open ledger.Attempt, names []string) (int64, error) {
	asked, err := r.Ledger.Now(ctx) // what came since may not be in the count
	if err != nil {
		return 0, err
	}
	now, err := c.Usage(ctx, open.Product)
	if err != nil {
		return 0, err
	}
	growth := now.Used - open.Used.Count
	if growth <= 0 {
		return 0, nil
	}
	// The ledger is read after the count, so that it knows what the count has.
	known := map[string]bool{}
	unread, err := r.Ledger.Each(ctx, a.Main, func(e ledger.Entry) error {
		for _, c := range e.Claims {
			known[c.CloudID] = true
			if explains(c.Product, c.Intent, c.At, open, asked) {
				growth--
			}
		}
		for _, other := range e.Attempts {
			known[other.Provisional] = true
			if other.Provisional != "" && explains(other.Product, other.Since(), other.Adopted, open, asked) {
				growth--
			}
		}
		return nil
	})
	if err != nil || growth <= 0 {
		return growth, err
	}
	for _, u := range unread {
		u.Tell(ctx, r.Log)
	}
	if len(unread) > 0 {
		// Rows that nobody seems to claim may be theirs, also without proof, and
		// such a row explains nothing (explains): better a hold than a second
		// purchase.
		return growth, nil
	}
	strangers, err := strangers(ctx, flow, known, open, a.Waits.Clocks, asked, names)
	return growth - strangers, err
}

// explains tells whether a purchase, which has a row at the cloud, is one of the
// uses that were counted since the entry's reading and until the count of now was
// asked for: one with a later intent, by whatever order (an earlier purchase of this
// very one, too), whose row was known by then. One whose call was under way while the
// entry's count was read may be in that one already; one whose call was under way while
// the count of now was asked for may not be in this one, and explains something when it
// is asked for again. All of these times are of the ledger's clock. An attempt without a row never explains: to let it buys twice where
// the list hides longer than was allowed for (TestPurchaseModel finds it), not to
// costs a hold now and then, which is looked at again (Sweep).
func explains(product string, intent, known time.Time, open ledger.Attempt, asked time.Time) bool {
	return product == open.Product && intent.After(open.Used.Read) && known.Before(asked)
}

// strangers counts the rows of the product that nobody claims and that came
// between the entry's reading and the count of now: orders of every status, because
// the cloud counts every successful call. A row from before the reading is in the first
// count already, one from after the second in neither, and each would hide a purchase
// that is not listed: their times are of the cloud's clock, so what may be either, as
// far as clocks may be apart, explains nothing. Nor does a row of the
// attempt's own names explain anything, unless its key is known to be another: it may
// be this very purchase, that the list shows only now.
func strangers(ctx context.Context, flow issuer.Flow, known map[string]bool, open ledger.Attempt, clocks time.Duration, asked time.Time, names []string) (int64, error) {
	all, ok := flow.(issuer.AllLister)
	if !ok {
		return 0, nil
	}
	seen := map[string]bool{}
	err := eachRow(ctx, all.All, func(row issuer.Row) error {
		own := order.Shows(row.Names, names) && !slices.Contains(open.Foreign, row.CloudID)
		if row.CloudID != "" && explains(row.Product, row.Created.Add(-clocks), row.Created.Add(clocks), open, asked) && !known[row.CloudID] && !own {
			seen[row.CloudID] = true
		}
		return nil
	})
	return int64(len(seen)), err
}

// maxPages bounds a list that never ends.
const maxPages = 10_000

// eachRow reads all pages. Rows shift while one pages: the same row may come
// twice, and f must not mind.
func eachRow(ctx context.Context, list func(context.Context, int) (issuer.Page, error), f func(issuer.Row) error) error {
	for page := range maxPages {
		p, err := list(ctx, page)
		if err != nil {
			return fmt.Errorf("list page %d: %w", page, err)
		}
		for _, row := range p.Rows {
			if err := f(row); err != nil {
				return err
			}
		}
		if !p.More {
			return nil
		}
	}
	return fmt.Errorf("the list has more than %d pages", maxPages)
}
