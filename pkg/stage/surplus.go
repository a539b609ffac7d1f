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

// Surplus reads an account's whole list and writes into the ledger, under their
// names, the cloud orders that no entry claims: bought past certmill, or paid
// twice by an accident that was thought impossible. They stop further purchases
// for these names, and a person sees them (certmill surplus).
func (w *Waiter) Surplus(ctx context.Context, a *Account) error {
	_, err := w.surplus(ctx, a)
	return err
}

// surplus also tells how many rows it left alone, because their names' entry
// cannot be read by this program: who can reports them, and who cannot buys
// nothing for these names.
func (w *Waiter) surplus(ctx context.Context, a *Account) (left int, err error) {
	claimed := map[string]bool{}
	unread, err := w.Ledger.Each(ctx, a.Main, func(e ledger.Entry) error {
		for _, c := range e.Claims {
			claimed[c.CloudID] = true
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, u := range unread {
		u.Tell(ctx, w.Log)
		for _, id := range u.Claims { // by the look of it: reported, it would stop purchases for nothing
			claimed[id] = true
		}
	}
	for _, flow := range a.Cloud.Flows() {
		all, ok := flow.(issuer.AllLister)
		if !ok || !flow.Spends() {
			continue
		}
		// The flows of one main account share one list.
		err := eachRow(ctx, all.All, func(row issuer.Row) error {
			if claimed[row.CloudID] {
				return nil
			}
			err := w.report(ctx, a, row)
			if err != nil && slices.ContainsFunc(unread, func(u ledger.Unread) bool { return u.Of(a.Main, row.Names) }) {
				left++
				return nil
			}
			return err
		})
		return left, err
	}
	return left, nil
}

// renewalDue is how long before its end an issued certificate no longer stands
// in the way of a new purchase.
const renewalDue = 30 * 24 * time.Hour

// inTheWay tells whether a row would stop a purchase: it is open, or issued and
// not yet due for renewal.
func inTheWay(row issuer.Row, now time.Time) bool {
	due := row.Phase == issuer.IssuedPhase && !row.Expires.IsZero() && row.Expires.Sub(now) < renewalDue
	return row.Phase != issuer.Refused && !due
}

// report writes a row that no entry claims under its names, if it would stop a
// purchase. The ledger looks once more at what is claimed, because the list was
// read after the claims.
func (w *Waiter) report(ctx context.Context, a *Account, row issuer.Row) error {
	if len(row.Names) == 0 || !inTheWay(row, w.Now()) {
		return nil
	}
	return w.Ledger.Report(ctx, a.Main, row.Names, ledger.Unclaimed{
		CloudID: row.CloudID, Status: row.Raw, Product: row.Product, Created: row.Created, Seen: w.Now().UTC()})
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
		for _, u := range e.Unclaimed {
			all = append(all, Left{Account: a.Label, Names: e.Names, CloudID: u.CloudID, Status: u.Status, Product: u.Product,
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

// unknownAttempt: an ended order whose number in the key store is above the
// ledger's last attempt may have been bought in a life that was lost.
func (p *Operator) unknownAttempt(ctx context.Context, a *Account, o order.Order) (Left, bool, error) {
	f := a.Flow(o.Operation)
	if f == nil || !f.Spends() {
		return Left{}, false, nil
	}
	raised, err := p.Keys.Number(o.ID())
	if err != nil || raised.Attempt == 0 {
		return Left{}, false, err
	}
	e, err := p.Ledger.Read(ctx, o.Main, o.Request.Names)
	if errors.Is(err, order.ErrNewer) {
		return Left{}, false, nil // told of as an entry that cannot be read
	}
	if err != nil {
		return Left{}, false, err
	}
	if last, _ := e.Last(o.ID()); raised.Attempt <= last.Attempt {
		return Left{}, false, nil
	}
	return Left{Account: a.Label, Names: o.Request.Names, Order: o.ID(), Product: o.Product,
		Why:     fmt.Sprintf("it ended, but the key store knows its attempt %d of %s, which the ledger does not", raised.Attempt, raised.At.Format(time.RFC3339)),
		Command: "certmill retry " + o.ID()}, true, nil
}
