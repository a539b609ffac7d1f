package stage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Sealer seals private keys to the operator's recipients.
type Sealer interface {
	Seal(secret order.Secret) ([]byte, error)
	// ID tells these recipients from others. It stands beside what Seal returns.
	ID() string
}

// Submitter makes the key, and starts the order at the cloud: one paid call, or
// the call on something already bought.
type Submitter struct {
	Accounts Accounts
	Ledger   *ledger.Ledger
	States   *account.Accounts
	Keys     KeyStore
	Sealer   Sealer
	Usages   *Usages
	Pools    *Pools
	Trouble  Trouble
	Budgets  Budgets
	Flight   *Flight // nil: nothing is looked at before an order is bought
	Line     *pipeline.Line
	Numbers  Numbers // nil: the key store cannot tell whose calls it remembers
	// MayBuy is asked before each call that buys or uses something up: not where what
	// comes of it could not be delivered. nil: it always may.
	MayBuy func() bool
	// Duplicates lets an order go on whose names are in service already.
	Duplicates bool
}

// Handle is one visit. The purchase takes several, each of which ends in a
// transition, so that every side effect is preceded by what a successor needs
// to know of it.
func (s *Submitter) Handle(ctx context.Context, o order.Order) (order.Order, error) {
	a, flow, err := s.Accounts.flow(o)
	if err != nil {
		return o, err
	}
	if err := s.Trouble.paused(a); err != nil {
		return o, err
	}
	if o.Main != a.Main {
		return s.mended(o, a)
	}
	if o.Attempt == 0 && past(o) {
		return heldWithNothing(ctx, s.Ledger, s.States, o, tooLate(o))
	}
	if needsKey(flow, o) {
		// A visit of its own, if the intake did not do it: the sealed pair is in
		// the record before anything is done with it, so every later attempt uses
		// the same key.
		return makeKey(flow, s.Sealer, o)
	}
	if o.Key != nil && !o.Key.Stored {
		kept, ours, err := s.storeKey(ctx, o)
		// Where the record has that very pair it need not be rewritten first: that
		// it is stored goes into the record with the first attempt's number.
		if o = kept; err != nil || !ours || !flow.Spends() || o.Attempt > 0 {
			return o, err
		}
	}
	way := s.start
	if flow.Spends() {
		way = s.purchase
	}
	next, verb := way(ctx, a, flow, o)
	return heldWithNothing(ctx, s.Ledger, s.States, next, verb)
}

// past tells whether the order's deadline is over.
func past(o order.Order) bool {
	return o.Request.Deadline != nil && !o.Approves(order.FactDeadline) && time.Now().After(*o.Request.Deadline)
}

// tooLate: nobody wants it any more without saying so. One that was bought goes
// on and is flagged.
func tooLate(o order.Order) error {
	return pipeline.HoldFor(order.FactDeadline, "its deadline has passed and nothing was bought",
		"certmill approve "+o.ID(), "certmill cancel "+o.ID())
}

// needsKey: where no CSR is sent, the cloud makes the key.
func needsKey(flow issuer.Flow, o order.Order) bool {
	return o.Key == nil && flow.CSR(o.Request) != issuer.NoCSR
}

// makeKey makes the order's pair and seals it, or takes what its CSR says.
func makeKey(flow issuer.Flow, seal Sealer, o order.Order) (order.Order, error) {
	kind := flow.CSR(o.Request)
	if kind == issuer.GivenCSR {
		fp, err := certstore.FingerprintOfCSR(o.Request.CSR)
		if err != nil {
			return o, pipeline.Fail(order.Failure{Class: ClassInvalid, Reason: err.Error(), Advice: "make a new CSR and order under a new id", Mend: true})
		}
		o.Key = &order.Key{Fingerprint: fp, CSR: o.Request.CSR}
		return o, nil
	}
	key, csr, fp, err := certstore.NewKey(o.Request.Key, o.Request.Names, kind == issuer.AllNamesCSR)
	if err != nil {
		return o, fmt.Errorf("make key: %w", err)
	}
	sealed, err := seal.Seal(key)
	if err != nil {
		return o, fmt.Errorf("seal key: %w", err)
	}
	o.Key = &order.Key{Algorithm: o.Request.Key, Fingerprint: fp, CSR: csr, Sealed: sealed, SealedTo: seal.ID()}
	return o, nil
}

// application is what the cloud is asked for. Nothing is sent that is not what was
// ordered: this is looked at last, before anything is counted or paid.
func (s *Submitter) application(a *Account, o order.Order) (issuer.Application, error) {
	app := issuer.Application{
		OrderID: o.ID(), Names: o.Request.Names, Key: o.Request.Key, Product: o.Product,
		Validation: o.Request.Validation, Contact: o.Request.Contact.Or(a.Contact),
		Company: o.Request.Company, Resource: o.Resource,
	}
	if app.Company == "" {
		app.Company = a.Company
	}
	if o.Key == nil {
		return app, nil
	}
	app.CSR = o.Key.CSR
	if err := certstore.CheckCSR(app.CSR, o.Key.Fingerprint, app.Names); err != nil {
		return app, pipeline.Hold(fmt.Sprintf("its key is not for what was ordered: %v; nothing was sent", err), "certmill cancel "+o.ID())
	}
	app.Names = certstore.CommonFirst(app.CSR, app.Names)
	return app, nil
}

// purchase is a visit of an order that spends quota. It decides by the ledger;
// only a number that is higher than all before goes on to the call.
func (s *Submitter) purchase(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	e, err := s.Ledger.Read(ctx, o.Main, o.Request.Names)
	if err != nil {
		return o, err
	}
	if next, verb, done := follow(o, e); done {
		return next, verb
	}
	if open, is := e.OpenAttempt(); is { // of another order, or follow had seen it
		return o, waitForNames(ledger.Standing{Order: open.Order, Open: true})
	}
	highest, next, verb, done := s.lost(ctx, o, e, true)
	if done {
		return next, verb
	}
	if e, err = s.names(flow, o, e); err != nil {
		return o, err // no number is taken while it waits for its names
	}
	if o, verb, done = s.inTheWay(ctx, a, flow, o, e); done {
		return o, verb
	}
	last, _ := e.Last(o.ID())
	if o.Attempt <= max(last.Attempt, highest) {
		if o, err = s.Flight.before(ctx, a, o); err != nil {
			return o, err
		}
		// The next attempt is a conditional publish of the order first: two
		// workers never hold the same number.
		// An id's numbers are never used twice, whatever order had it in an earlier
		// life.
		o.Attempt = max(last.Attempt, highest) + 1
		return o, nil
	}
	return s.buy(ctx, a, flow, o, e)
}

// follow is what the ledger already decides for this order: an outcome of this
// purchase, or the ending of its last attempt.
func follow(o order.Order, e ledger.Entry) (next order.Order, verb error, done bool) {
	if c, ok := e.Claim(o.ID(), o.Purchase); ok {
		return bought(o, c.CloudID), nil, true
	}
	last, ok := e.Last(o.ID())
	if !ok || o.Attempt > last.Attempt {
		if ok && last.Ending == ledger.Open {
			o.State = order.Unsure
			return o, nil, true
		}
		return o, nil, false
	}
	if o.Attempt < last.Attempt {
		o.Attempt = last.Attempt // from before a restore; its ending is followed next time
		return o, nil, true
	}
	switch last.Ending {
	case ledger.Open:
		o.State = order.Unsure
		return o, nil, true
	case ledger.Cancelled:
		return o, pipeline.Fail(order.Failure{Class: ClassCancelled, Reason: "cancelled: " + last.Note}), true
	case ledger.Refused:
		return o, pipeline.Fail(order.Failure{Class: ClassRejected, Reason: last.Note}), true
	}
	return o, nil, false // never sent, not bought: another attempt may be made
}

// bought sends an order on with its cloud id.
func bought(o order.Order, cloudID string) order.Order {
	o.State, o.CloudID = order.Verify, cloudID
	return o
}

// inTheWay are the reasons not to spend now.
func (s *Submitter) inTheWay(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, e ledger.Entry) (next order.Order, verb error, done bool) {
	if past(o) {
		return o, tooLate(o), true
	}
	st := s.States.State(o.Main)
	if !st.Marked(s.Line.Incarnation()) {
		return o, pipeline.Wait(order.Wait{For: order.WaitForSweep, What: o.Main}), true
	}
	if err := s.elsewhere(ctx, &o); err != nil {
		return o, err, true
	}
	if _, none := st.Exhausted[o.Product]; none {
		return o, pipeline.Wait(order.Wait{For: order.WaitForQuota, What: o.Product, Till: time.Now().UTC().Add(30 * time.Second)}), true
	}
	return s.unclaimed(ctx, a, flow, o, e)
}

func fingerprint(o order.Order) string {
	if o.Key == nil {
		return ""
	}
	return o.Key.Fingerprint
}

// restForPlace is how long an order rests whose purchase has to wait for a place. No
// others come meanwhile.
const restForPlace = 5 * time.Second

// buy is the paid call. The order of its effects is what keeps money safe:
// permit, number, entry, call, closing, transition.
func (s *Submitter) buy(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, e ledger.Entry) (order.Order, error) {
	app, err := s.application(a, o)
	if err != nil {
		return o, err
	}
	used, err := s.Usages.Before(ctx, a, flow, o.Product)
	if e, ok := errorAs(err); ok && e.Kind == issuer.QuotaExhausted {
		return s.refused(ctx, a, o, e) // there is no plan of the product
	}
	if err != nil {
		return o, s.Trouble.Verb(ctx, a, err)
	}
	who, err := a.Whose(ctx)
	if err != nil {
		return o, pipeline.Retry(err, 0)
	}
	// Waiting for the permit comes before the entry, so that no entry is open
	// while a worker queues. A crash up to here leaves nothing.
	gap.At(ctx, "submit: quota read")
	reserved, release, err := flow.Reserve(ctx)
	if err != nil {
		return o, pipeline.Retry(err, 0)
	}
	defer release()
	if s.MayBuy != nil && !s.MayBuy() { // since this visit began
		return o, pipeline.Snooze(restForPlace)
	}
	unspend, verb := s.Budgets.take(ctx, a, o)
	if verb != nil {
		return o, verb
	}
	// A crash here leaves a purchase counted that was not made.
	gap.At(ctx, "submit: budget taken")
	if err := s.Keys.Raise(ref(o), s.number(o)); err != nil {
		unspend(ctx)
		return notRaised(o, err) // where a rival is here, lost decides
	}
	// A crash here leaves a number that the ledger does not know: the next
	// visit opens an entry that nobody owns, and reconciles (lost).
	gap.At(ctx, "submit: number stored")
	e, open, err := s.Ledger.Begin(ctx, e, ledger.Attempt{Order: o.ID(), Purchase: o.Purchase, Attempt: o.Attempt,
		Action: o.Operation, Product: o.Product, Fingerprint: fingerprint(o), Caller: who.Caller, Used: used})
	if err != nil {
		unspend(ctx)
		return s.notOpener(ctx, o, err)
	}
	// A crash here leaves an open entry, whose opener is gone: unsure.
	gap.At(ctx, "submit: entry opened")
	receipt, err := flow.Submit(reserved, app, issuer.Fence{
		NotBefore: open.Opened.Add(-a.Waits.Clocks), NotAfter: open.Opened.Add(a.Waits.Entry)})
	// A crash here may leave a cloud order that only the list shows: unsure.
	gap.At(ctx, "submit: answered")
	if _, clear := ending(err); clear {
		unspend(ctx)
	}
	return s.answered(ctx, a, o, e, open, receipt, err)
}

// notOpener: nothing may be sent.
func (s *Submitter) notOpener(ctx context.Context, o order.Order, err error) (order.Order, error) {
	switch {
	case errors.Is(err, ledger.ErrConflict):
		// The entry was written by somebody else meanwhile and ours is surely not
		// there. Only the opener of a number sends, so this number never will
		// be: say so, or it would cost a waiting time (lost). If a rival opened
		// an ownerless entry for it first, Forgo is refused and follow sees it.
		err := s.Ledger.Forgo(ctx, o.Main, o.Request.Names, ledger.Attempt{Order: o.ID(), Purchase: o.Purchase, Attempt: o.Attempt},
			ledger.NeverSent, "another order's entry came first")
		if err != nil && !errors.Is(err, ledger.ErrNotOpener) && !errors.Is(err, ledger.ErrConflict) {
			return o, err
		}
		return o, pipeline.Snooze(100 * time.Millisecond)
	case errors.Is(err, ledger.ErrNotOpener):
		return o, pipeline.Snooze(time.Second)
	}
	return o, pipeline.Retry(fmt.Errorf("open ledger entry: %w", err), 0)
}

// ending is how an attempt ended whose call failed with a clear answer. All
// else is unknown; WrongState and NotFound too: they say "look first", and
// nothing can be looked at before its id is known.
func ending(err error) (how ledger.Ending, clear bool) {
	switch issuer.KindOf(err) {
	case issuer.NeverSent, issuer.Throttled, issuer.QuotaExhausted, issuer.Credentials:
		return ledger.NeverSent, true // it had no effect, and another attempt may be made
	case issuer.Rejected:
		return ledger.Refused, true
	}
	return "", false
}

// answered closes the entry by what the cloud said. Anything that is not clear
// leaves it open.
func (s *Submitter) answered(ctx context.Context, a *Account, o order.Order, e ledger.Entry, open ledger.Attempt, r issuer.Receipt, err error) (order.Order, error) {
	if err == nil {
		if err := s.Ledger.Bought(ctx, o.Main, o.Request.Names, open, r.CloudID, "answered"); err != nil {
			// The cloud's answer is lost with this visit; the list has it.
			return unsure(o, fmt.Errorf("bought %s, but the ledger entry could not be closed: %w", r.CloudID, err)), nil
		}
		// A crash here leaves the order in submit: follow finds the claim.
		gap.At(ctx, "submit: bought")
		o.Tell(order.Event{At: time.Now().UTC(), State: order.Submit, Worker: "cloud", Note: "bought " + r.CloudID, RequestID: r.RequestID})
		return bought(o, r.CloudID), nil
	}
	how, clear := ending(err)
	if !clear {
		return unsure(o, err), nil
	}
	ce, _ := errorAs(err)
	if err := s.Ledger.End(ctx, o.Main, e.Names, open, how, ce.Error()); err != nil {
		return unsure(o, fmt.Errorf("close ledger entry: %w", err)), nil
	}
	// A crash here leaves the order in submit with a closed attempt: follow.
	gap.At(ctx, "submit: refused")
	return s.refused(ctx, a, o, ce)
}

// refused: the entry is closed, nothing was bought.
func (s *Submitter) refused(ctx context.Context, a *Account, o order.Order, e *issuer.Error) (order.Order, error) {
	if e.Kind != issuer.QuotaExhausted {
		return o, s.Trouble.Verb(ctx, a, e)
	}
	why := account.Pause{Why: e.Error(), Since: time.Now().UTC()}
	if err := s.States.Exhaust(ctx, o.Main, o.Product, why); err != nil {
		return o, pipeline.Retry(err, 0)
	}
	s.Trouble.Log.ErrorContext(ctx, "product exhausted: its orders wait until there is quota again", "account", a.Label, "product", o.Product)
	return o, pipeline.Wait(order.Wait{For: order.WaitForQuota, What: o.Product, Till: time.Now().UTC().Add(30 * time.Second)})
}

// unsure sends an order to be reconciled.
func unsure(o order.Order, why error) order.Order {
	o.State = order.Unsure
	o.Tell(order.Event{At: time.Now().UTC(), State: order.Submit, Note: "outcome unknown: " + why.Error()})
	return o
}
