package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Surplus reads all lists of an account and writes into the ledger, under their
// names, the cloud orders that no entry claims: bought past certmill, or paid
// twice by an accident that was thought impossible. They stop further purchases
// for these names, and a person sees them (certmill surplus).
//
// A purchase reads the ledger and not the list: what somebody else bought an
// interval ago is there (SurplusEvery), what he buys at this moment is not.
func (w *Waiter) Surplus(ctx context.Context, a *Account) error {
	began := w.Now()
	_, err := w.surplus(ctx, a)
	if err == nil {
		w.took.Store(a.Main, w.Now().Sub(began))
	}
	return err
}

// Bounds of the surplus sweep's rhythm.
const (
	leastSurplus = 30 * time.Second
	mostSurplus  = time.Hour
)

// SurplusEvery is how often the lists of a main account are read for what nobody
// claims: about a twentieth of the time goes into it, because the lists' permits
// are those of the orders under way.
func (w *Waiter) SurplusEvery(main string) time.Duration {
	took, _ := w.took.Load(main)
	d, _ := took.(time.Duration)
	return min(max(leastSurplus, 20*d), mostSurplus)
}

// surplus also tells how many rows it left alone, because their names' entry
// cannot be read by this program: who can reports them, and who cannot buys
// nothing for these names.
func (w *Waiter) surplus(ctx context.Context, a *Account) (left int, err error) {
	claimed, unread, err := w.claimed(ctx, a.Main)
	if err != nil {
		return 0, err
	}
	err = eachListed(ctx, a, func(row issuer.Row) error {
		if claimed[row.CloudID] {
			return nil
		}
		if len(row.Names) == 0 || !inTheWay(row, w.Now()) {
			return nil
		}
		for _, names := range order.MayBeFor(row.Names) {
			err := w.report(ctx, a, row, names)
			if err != nil && slices.ContainsFunc(unread, func(u ledger.Unread) bool { return u.Of(a.Main, names) }) {
				left++
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return left, err
}

// claimed are the cloud orders and resources of a main account that some order
// has, by the entries and by the owners' cells.
func (w *Waiter) claimed(ctx context.Context, main string) (map[string]bool, []ledger.Unread, error) {
	claimed := map[string]bool{}
	unread, err := w.Ledger.Each(ctx, main, func(e ledger.Entry) error {
		for _, c := range e.Claims {
			claimed[c.CloudID] = true
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for _, u := range unread {
		u.Tell(ctx, w.Log)
		for _, id := range u.Claims { // by the look of it: reported, it would stop purchases for nothing
			claimed[id] = true
		}
	}
	owners, _, err := w.Ledger.Owners(ctx, main)
	for id, o := range owners {
		// One that is had without proof may yet turn out to be a stranger's: it is
		// reported, and unclaimed no more once it is proved.
		claimed[id] = claimed[id] || o.Order != "" && !o.Provisional
	}
	return claimed, unread, err
}

// eachListed calls f for every row of every list that shows what an account has,
// whatever ways of ordering are in use (DESIGN 12.6), and one list once. A row may
// come twice.
func eachListed(ctx context.Context, a *Account, f func(issuer.Row) error) error {
	read := map[string]bool{}
	for _, flow := range a.Cloud.Flows() {
		all, ok := flow.(issuer.AllLister)
		if !ok || read[all.List()] {
			continue
		}
		read[all.List()] = true
		err := eachRow(ctx, all.All, func(row issuer.Row) error {
			if row.CloudID == "" { // a row without an id is none
				return nil
			}
			return f(row)
		})
		if err != nil {
			return fmt.Errorf("list of %s: %w", flow.Action(), err)
		}
	}
	return nil
}

// inTheWay tells whether a row would stop a purchase: it is open, or issued and
// not yet due.
func inTheWay(row issuer.Row, now time.Time) bool {
	due := row.Phase == issuer.IssuedPhase && order.Due(time.Time{}, row.Expires, now)
	return row.Phase != issuer.Refused && row.Phase != issuer.Unstarted && !due
}

// report writes a row that no entry claims, and that would stop a purchase, under
// names that it may be for. The ledger looks once more at what is claimed, because
// the list was read after the claims.
func (w *Waiter) report(ctx context.Context, a *Account, row issuer.Row, names []string) error {
	u := ledger.Unclaimed{CloudID: row.CloudID, Status: row.Raw, Product: row.Product, Created: row.Created, Seen: w.Now().UTC()}
	if order.NamesHash(names) != order.NamesHash(row.Names) {
		u.Shown = row.Names
	}
	return w.Ledger.Report(ctx, a.Main, names, u)
}

// Left is what a person should look at: a cloud order that nobody claims, or an
// ended order whose last attempt the ledger does not know.
type Left struct {
	Account string   `json:"account"`
	Names   []string `json:"names"`
	CloudID string   `json:"cloud_id,omitempty"`
	Status  string   `json:"status,omitempty"`
	Product string   `json:"product,omitempty"`
	Order   string   `json:"order,omitempty"`
	Why     string   `json:"why"`
	Command string   `json:"command,omitempty"`
}

// Lefts lists them for one main account. Ended orders are looked at only with
// Keys.
func (p *Operator) Lefts(ctx context.Context, a *Account) ([]Left, error) {
	var all []Left
	claimed := map[string]bool{}
	unread, err := p.Ledger.Each(ctx, a.Main, func(e ledger.Entry) error {
		for _, c := range e.Claims {
			claimed[c.CloudID] = true
		}
		for _, u := range e.Loose() {
			if len(u.Shown) > 0 {
				continue // listed under those
			}
			all = append(all, Left{Account: a.Label, Names: e.Names, CloudID: u.CloudID, Status: issuer.Word(u.Status), Product: u.Product,
				Why: "no ledger entry claims it; it used up one of its product's quota", Command: "certmill adopt <order> " + u.CloudID})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, u := range unread {
		all = append(all, Left{Account: a.Label, Why: "a ledger entry cannot be read by this certmill; it is left alone: " + u.Error()})
		for _, id := range u.Claims {
			claimed[id] = true
		}
	}
	// A cloud may list an order under more names than were ordered: it is then
	// claimed under others.
	all = slices.DeleteFunc(all, func(l Left) bool { return claimed[l.CloudID] })
	if p.Keys == nil {
		return all, nil
	}
	err = p.Line.Each(ctx, order.Failed, "*", func(it pipeline.Item) error {
		if it.Main != a.Main {
			return nil
		}
		left, found, err := p.unknownAttempt(ctx, a, it.Order)
		if found {
			all = append(all, left)
		}
		return err
	})
	return all, err
}

// Gone lists the orders of one main account whose message somebody has removed.
func (p *Operator) Gone(ctx context.Context, a *Account, now time.Time) (all []Left, err error) {
	r := Removed{Ledger: p.Ledger, States: p.States, Line: p.Line, Now: func() time.Time { return now }}
	r.Keys, _ = p.Keys.(KeyLister)
	found, err := r.Find(ctx, a.Main)
	for _, o := range found {
		all = append(all, Left{Account: a.Label, Names: o.Names, Order: o.Order, Command: BringsBack(o),
			Why: "its message was removed from stream " + pipeline.OrdersStream + ", and not by certmill: " + o.Known})
	}
	return all, err
}

// unknownAttempt: an ended order whose number in the key store is above the
// ledger's last attempt may have been bought in a life that was lost.
func (p *Operator) unknownAttempt(ctx context.Context, a *Account, o order.Order) (Left, bool, error) {
	f := a.Flow(o.Operation)
	if f == nil || !f.Spends() {
		return Left{}, false, nil
	}
	raised, is, err := unknownNumber(ctx, p.Keys, p.Ledger, o)
	if errors.Is(err, order.ErrNewer) {
		return Left{}, false, nil // told of as an entry that cannot be read
	}
	if err != nil || !is {
		return Left{}, false, err
	}
	return Left{Account: a.Label, Names: o.Request.Names, Order: o.ID(), Product: o.Product,
		Why:     fmt.Sprintf("it ended, but the key store knows its attempt %d of %s, which the ledger does not", raised.Attempt, raised.At.Format(time.RFC3339)),
		Command: "certmill retry " + o.ID()}, true, nil
}
