package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Operator carries out a person's verbs. Each ends in a state that a worker
// handles, by one conditional transition.
type Operator struct {
	Ledger *ledger.Ledger
	States *account.Accounts
	Line   *pipeline.Line
	Who    string // stands in the record

	// Cancel and NotBought need these two besides: they may ask a cloud, and go by
	// the attempts' numbers.
	Accounts Accounts
	Keys     KeyStore
}

// ErrNotNow is wrapped by the errors of verbs that the order's state does not
// allow; the text says what to do instead.
var ErrNotNow = errors.New("not possible now")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotNow, fmt.Sprintf(format, args...))
}

// move stores the outcome of a verb and purges what lies below: a command that
// died half way must not leave a second state that nobody is handed.
func (p *Operator) move(ctx context.Context, it pipeline.Item, o order.Order, to order.State, note string) error {
	o.State, o.Hold, o.Wait, o.NotBefore, o.Retries = to, nil, order.Wait{}, time.Time{}, 0
	o.Tell(order.Event{At: time.Now().UTC().Truncate(time.Millisecond), State: to, Worker: p.Who, Note: note})
	return p.Line.MoveByHand(ctx, it, o)
}

// entry reads the ledger for an order that has an account.
func (p *Operator) entry(ctx context.Context, o order.Order) (ledger.Entry, error) {
	if o.Account == "" {
		return ledger.Entry{}, refuse("order %s never became one: mend the message and publish it again", o.ID())
	}
	return p.Ledger.Read(ctx, o.Main, o.Request.Names)
}

func resting(s order.State) bool { return s == order.Held || s == order.Failed }

// Retry sends a held or failed order where its record says: with an open entry
// to unsure, with a cloud id to verify, else to submit. It never buys again.
func (p *Operator) Retry(ctx context.Context, id string) error {
	it, err := p.Line.Last(ctx, id)
	if err != nil {
		return err
	}
	if !resting(it.State) {
		return refuse("order %s is in state %s; only held and failed orders are retried", id, it.State)
	}
	e, err := p.entry(ctx, it.Order)
	if err != nil {
		return err
	}
	o := it.Order
	o.Failure = nil
	last, tried := e.Last(id)
	switch {
	case tried && last.Ending == ledger.Open && last.Provisional == "":
		return p.move(ctx, it, o, order.Unsure, "retry")
	case o.CloudID != "":
		o.Challenges, o.Proofs = nil, nil // asked for anew: it may have changed
		return p.move(ctx, it, o, order.Verify, "retry")
	}
	if tried && last.Ending != ledger.Bought && o.Attempt <= last.Attempt {
		o.Attempt = last.Attempt + 1
	}
	return p.move(ctx, it, o, order.Submit, "retry")
}

// Approve lets an order that was held before it was bought go on.
func (p *Operator) Approve(ctx context.Context, id string) error {
	it, err := p.Line.Last(ctx, id)
	if err != nil {
		return err
	}
	if it.State != order.Held || it.Hold == nil || it.Hold.From != order.Submit || it.Hold.Open {
		return refuse("order %s is not held for an approval (state %s)", id, it.State)
	}
	o := it.Order
	o.Approved = true // past its deadline, or over a budget
	return p.move(ctx, it, o, order.Submit, "approved")
}

// Cancel gives an order up: to collect, which cleans up and ends it. With an
// open entry it is refused. Quota that was spent stays spent.
func (p *Operator) Cancel(ctx context.Context, id string) error {
	it, err := p.Line.Last(ctx, id)
	if err != nil {
		return err
	}
	if it.State.Final() || it.State == order.Collect {
		return refuse("order %s is in state %s", id, it.State)
	}
	o := it.Order
	if err := p.forgo(ctx, &o); err != nil {
		return err
	}
	// A crash here leaves an order whose attempt is closed as cancelled: its
	// next visit follows that ending.
	gap.At(ctx, "cancel: attempt closed")
	o.Failure = &order.Failure{Class: ClassCancelled, Reason: "cancelled by " + p.Who}
	if o.CloudID != "" {
		o.Failure.Advice = "cloud order " + o.CloudID + " still exists; cancel it in the cloud's console if it is not wanted"
	}
	return p.move(ctx, it, o, order.Collect, "cancelled")
}

// forgo closes the purchase in the ledger first. Nobody says "never bought"
// before the first sweep, with an unclaimed row, or while the key store has a
// number above the ledger's last attempt.
func (p *Operator) forgo(ctx context.Context, o *order.Order) error {
	e, err := p.entry(ctx, *o)
	if err != nil {
		return err
	}
	a, err := p.Accounts.Find(o.Account)
	if err != nil {
		return err
	}
	f := a.Flow(o.Operation)
	if _, bought := e.Claim(o.ID(), o.Purchase); bought || f == nil {
		return nil
	}
	if !f.Spends() {
		return p.giveBack(ctx, f, o)
	}
	last, _ := e.Last(o.ID())
	if last.Ending == ledger.Open {
		return refuse("it is unknown whether order %s was bought: wait for the reconciliation, or end it with adopt or not-bought", o.ID())
	}
	raised, err := p.Keys.Number(o.ID())
	if err != nil {
		return err
	}
	row, stops, err := unclaimed(ctx, f, e, time.Now())
	if err != nil {
		return err
	}
	switch {
	case raised.Attempt > last.Attempt:
		return refuse("the key store knows attempt %d of order %s, the ledger does not: retry it, so that it is reconciled", raised.Attempt, o.ID())
	case !p.States.State(o.Main).Marked(p.Line.Incarnation()):
		return refuse("account %s was not swept yet, so nobody knows what was bought there", o.Main)
	case stops:
		return refuse("cloud order %s for the same names is claimed by nobody: adopt it first (certmill adopt %s %s)", row.CloudID, o.ID(), row.CloudID)
	}
	err = p.Ledger.Forgo(ctx, o.Main, o.Request.Names, ledger.Attempt{Order: o.ID(), Purchase: o.Purchase, Attempt: o.Attempt},
		ledger.Cancelled, "by "+p.Who)
	if errors.Is(err, ledger.ErrNotOpener) || errors.Is(err, ledger.ErrConflict) {
		return refuse("order %s is being bought at this moment: look again", o.ID())
	}
	return err
}

// giveBack releases the instance or certificate of an order that is given up,
// if a look shows that it was not started. A started one stays claimed: it is
// this order's for good.
func (p *Operator) giveBack(ctx context.Context, f issuer.Flow, o *order.Order) error {
	if o.Resource == "" {
		return nil
	}
	st, err := f.Look(ctx, o.Resource)
	if err != nil && issuer.KindOf(err) != issuer.NotFound {
		return err
	}
	if err == nil && st.Phase != issuer.Unstarted {
		return nil
	}
	if err := forgetResource(p.Keys, *o); err != nil {
		return err
	}
	if err := p.Ledger.Release(ctx, o.Main, o.Resource, o.ID()); err != nil {
		return err
	}
	o.Resource = "" // by the time of a retry it may be somebody else's
	return nil
}

// Adopt says that a cloud order is this order's purchase.
func (p *Operator) Adopt(ctx context.Context, id, cloudID string) error {
	it, err := p.Line.Last(ctx, id)
	if err != nil {
		return err
	}
	if !resting(it.State) && it.State != order.Unsure {
		return refuse("order %s is in state %s", id, it.State)
	}
	if _, err := p.entry(ctx, it.Order); err != nil {
		return err
	}
	err = p.Ledger.Assign(ctx, it.Main, it.Request.Names, ledger.Claim{CloudID: cloudID, Order: id, Purchase: it.Purchase,
		Attempt: it.Attempt, At: time.Now().UTC(), How: "by hand: " + p.Who})
	if err != nil {
		return err
	}
	// A crash here leaves the claim: the order's next visit finds it.
	gap.At(ctx, "adopt: claimed")
	o := it.Order
	o.CloudID, o.Failure, o.Challenges, o.Proofs = cloudID, nil, nil, nil
	return p.move(ctx, it, o, order.Verify, "adopted "+cloudID)
}

// NotBought says that an open attempt bought nothing. It is refused before the
// waiting time is over and before the first sweep; past that, use buy-again.
func (p *Operator) NotBought(ctx context.Context, id string) error {
	it, err := p.Line.Last(ctx, id)
	if err != nil {
		return err
	}
	if it.State != order.Held {
		return refuse("order %s is in state %s; only held orders are decided by hand", id, it.State)
	}
	e, err := p.entry(ctx, it.Order)
	if err != nil {
		return err
	}
	a, err := p.Accounts.Find(it.Account)
	if err != nil {
		return err
	}
	last, _ := e.Last(id)
	if last.Ending != ledger.Open {
		return refuse("order %s has no open attempt: certmill retry %s", id, id)
	}
	if err := p.surelyNot(ctx, a, it.Order, last); err != nil {
		return err
	}
	if err := p.Ledger.End(ctx, it.Main, it.Request.Names, last, ledger.NotBought, "by "+p.Who); err != nil {
		return err
	}
	// A crash here leaves a held order with a closed attempt: retry it.
	gap.At(ctx, "not-bought: attempt closed")
	return p.move(ctx, it, it.Order, order.Submit, "not bought, said "+p.Who)
}

// surelyNot checks what must be over before anybody may say so.
func (p *Operator) surelyNot(ctx context.Context, a *Account, o order.Order, open ledger.Attempt) error {
	if left := time.Until(open.Opened.Add(a.Waits.Total())); left > 0 {
		return refuse("the call may still land: again in %v", left.Round(time.Second))
	}
	if !p.States.State(o.Main).Marked(p.Line.Incarnation()) {
		return refuse("account %s was not swept yet", o.Main)
	}
	flow := a.Flow(o.Operation)
	c, ok := flow.(issuer.Counter)
	if !ok || open.Used == nil {
		return nil
	}
	r := Reconciler{Accounts: p.Accounts, Ledger: p.Ledger, States: p.States, Line: p.Line, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	n, err := r.unexplained(ctx, a, flow, c, open)
	if err != nil {
		return err
	}
	if n > 0 {
		return refuse("the quota of %s fell by %d that no listed order explains: find that order in the cloud's console; if it is for these names: certmill adopt %s <cloud id>; else again when the list shows it", open.Product, n, o.ID())
	}
	return nil
}

// BuyAgain authorises spending once more for a held or failed order. It is the
// only verb that raises the purchase, and stands in the record.
func (p *Operator) BuyAgain(ctx context.Context, id string) error {
	it, err := p.Line.Last(ctx, id)
	if err != nil {
		return err
	}
	if !resting(it.State) {
		return refuse("order %s is in state %s; only held and failed orders are bought again", id, it.State)
	}
	e, err := p.entry(ctx, it.Order)
	if err != nil {
		return err
	}
	o := it.Order
	if last, ok := e.Last(id); ok {
		if last.Ending == ledger.Open {
			return refuse("an attempt of order %s is open: end it with adopt or not-bought first", id)
		}
		o.Attempt = max(o.Attempt, last.Attempt)
	}
	o.Purchase++
	o.Attempt++
	o.CloudID, o.CertID, o.Resource, o.Failure, o.Challenges, o.Proofs, o.Provisional = "", "", "", nil, nil, nil, false
	return p.move(ctx, it, o, order.Submit, fmt.Sprintf("purchase %d authorised by %s", o.Purchase, p.Who))
}
