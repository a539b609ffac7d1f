package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
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
	// the attempts' numbers. Retry asks the accounts what their products certify, if
	// it has them, and calls none.
	Accounts Accounts
	Keys     KeyStore
	Guard    Guard // whether a list may say that something was not bought
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
	return p.retry(ctx, it, it.Order, "retry")
}

// Mend sends an order that failed for what stands in it, and of which nothing was
// bought, on its way with what this request has in its place (mends). Safe to repeat.
func (p *Operator) Mend(ctx context.Context, r order.Request, by string) error {
	it, err := p.Line.Last(ctx, r.ID)
	if err != nil {
		return err
	}
	if !mends(r, it.Order, by) {
		return refuse("order %s is in state %s, and nothing of it is mended", r.ID, it.State)
	}
	o := it.Order
	o.Request.Contact, o.Request.Validation, o.Request.Company = r.Contact, r.Validation, r.Company
	return p.retry(ctx, it, o, "handed in again, mended")
}

// mends tells whether a request mends an order, by what is no part of what it buys:
// one that failed for what stands in it, before anything was bought. It is the
// publisher's own, or an operator's word.
func mends(r order.Request, of order.Order, by string) bool {
	if of.State != order.Failed || !of.OnlyMended() || r.Hash() != of.Hash || by != CommandLine && publisherName(by) != publisherName(of.Publisher) {
		return false
	}
	now, was := r.Normal(), of.Request.Normal()
	return now.Contact != was.Contact || now.Validation != was.Validation || now.Company != was.Company
}

// retry sends an order on as o, which is its record or a mended one.
func (p *Operator) retry(ctx context.Context, it pipeline.Item, o order.Order, note string) error {
	id := it.ID()
	if !resting(it.State) {
		return refuse("order %s is in state %s; only held and failed orders are retried", id, it.State)
	}
	e, err := p.entry(ctx, it.Order)
	if err != nil {
		return err
	}
	if it.State == order.Held && o.Failure != nil {
		return p.move(ctx, it, o, order.Collect, note) // its end is decided: it was held while it cleaned up
	}
	if err := p.succeeded(ctx, o); err != nil {
		return err
	}
	if err := p.certified(o, e); err != nil {
		return err
	}
	if err := p.resume(ctx, o, e); err != nil {
		return err
	}
	// A crash here leaves names that are taken for an order which has ended: the
	// verb is repeated, or whoever wants the names says its end (Waiter).
	gap.At(ctx, "retry: names taken")
	o.Failure = nil
	last, tried := e.Last(id)
	switch {
	case tried && last.Ending == ledger.Open && last.Provisional == "":
		return p.move(ctx, it, o, order.Unsure, note)
	case o.CloudID != "":
		o.Challenges, o.Proofs = nil, nil // asked for anew: it may have changed
		return p.move(ctx, it, o, order.Verify, note)
	}
	if tried && last.Ending != ledger.Bought && o.Attempt <= last.Attempt {
		o.Attempt = last.Attempt + 1
	}
	return p.move(ctx, it, o, order.Submit, note)
}

// succeeded refuses to go on with an order that was bought again: its line goes on
// with the successor.
func (p *Operator) succeeded(ctx context.Context, o order.Order) error {
	_, next, made, err := Succession{Line: p.Line}.Find(ctx, o)
	if err != nil || !made {
		return err
	}
	help := "certmill show " + next.ID()
	switch {
	case o.State == order.Held:
		help = "certmill buy-again " + o.ID() + " ends this one"
	case resting(next.State):
		help = "certmill retry " + next.ID()
	}
	return refuse("order %s was bought again as %s (state %s): %s", o.ID(), next.ID(), next.State, help)
}

// certified refuses to go on with an order of which nothing was bought, and nothing
// can be: its product, which stands in the record, does not certify its names. Where
// the config's accounts are not at hand, the cloud says so.
func (p *Operator) certified(o order.Order, e ledger.Entry) error {
	a := p.Accounts[o.Account]
	if a == nil || mayHave(o, e) || Strayed(o, a.Label, a.Main) != nil {
		return nil
	}
	f := a.Flow(o.Operation)
	if f == nil {
		return nil
	}
	if why := a.certifies(f, o.Product, o.Request.Names); why != nil {
		return refuse("order %s would be refused again: %v: %s", o.ID(), why, HandInMended)
	}
	return nil
}

// Approve lets an order go on that is held for a fact which a person may let
// pass: that fact only (DESIGN 12.2), which stands in the record from then on. fact
// is the hold's as the person saw it: what the order is held for by now nobody has
// answered, and the hold that was read is the condition of the write.
func (p *Operator) Approve(ctx context.Context, id, fact string) error {
	it, err := p.Line.Last(ctx, id)
	if err == nil {
		err = Approvable(it.Order)
	}
	if err != nil {
		return err
	}
	if it.Hold.Fact != fact {
		return refuse("order %s is held for another fact than the one that was approved, which was %q, and is %q now: certmill show %s",
			id, order.FactLine(fact), order.FactLine(it.Hold.Fact), id)
	}
	o := it.Order
	o.Approve(*it.Hold)
	return p.move(ctx, it, o, it.Hold.From, "approved: "+order.FactLine(it.Hold.Fact))
}

// Approvable says why an order is not held for what a person may let pass, nil if it
// is: whoever asks for the word looks first.
func Approvable(o order.Order) error {
	if o.State != order.Held || o.Hold == nil || o.Hold.Fact == "" {
		return refuse("order %s is not held for an approval (state %s)%s", o.ID(), o.State, helps(o))
	}
	return nil
}

// Cancel gives an order up: to collect, which cleans up and ends it. With an
// open entry it is refused. Quota that was spent stays spent.
func (p *Operator) Cancel(ctx context.Context, id string) error {
	it, err := p.Line.Last(ctx, id)
	if err != nil {
		return err
	}
	if it.Ended() || it.State == order.Collect {
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

// noStart lets no worker start the order's resource any more by what it read before.
// A crash behind it leaves an order that decides anew to take its names, and goes on:
// the verb, repeated, ends it.
func (p *Operator) noStart(ctx context.Context, o order.Order) error {
	if o.Resource == "" && o.Taken.IsZero() {
		return nil
	}
	return p.Ledger.Ending(ctx, o.Main, o.Request.Names, o.ID(), o.Taken)
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
	if o.Main == "" {
		if err := settled(o, a); err != nil {
			return err
		}
		if e, err = p.entry(ctx, *o); err != nil {
			return err
		}
	}
	if err := Strayed(*o, a.Label, a.Main); err != nil {
		return refuse("order %s cannot end here, where nobody can take back what it has: %v, then cancel it", o.ID(), err)
	}
	f := a.Flow(o.Operation)
	if _, bought := e.Claim(o.ID(), o.Purchase); bought || f == nil {
		return nil
	}
	raised, lost, err := unknownNumber(ctx, p.Keys, p.Ledger, *o)
	if err != nil {
		return err
	}
	if lost && raised.Main != o.Main {
		there := slices.ContainsFunc(p.Accounts.Mains(), func(a *Account) bool { return a.Main == raised.Main })
		if there || o.Hold == nil || o.Hold.Fact != order.FactElsewhere(raised.Main, o.ID(), raised.Attempt) {
			return refuse("the key store knows attempt %d of order %s at main account %s, and nobody knows what came of it: "+
				"it is to be reconciled there%s",
				raised.Attempt, o.ID(), raised.Main, retries(*o))
		}
		lost = false // nobody can reconcile it; its entry there stays open, for whoever wants the names next
	}
	if !f.Spends() {
		return p.noStart(ctx, *o) // what it has is given back by its end, after a look
	}
	last, _ := e.Last(o.ID())
	if last.Ending == ledger.Open {
		return refuse("it is unknown whether order %s was bought: %s", o.ID(), endsOpen(*o, last))
	}
	if err := p.surelyUnpaid(ctx, f, *o, e, raised, lost); err != nil {
		return err
	}
	err = p.Ledger.Forgo(ctx, o.Main, o.Request.Names, ledger.Attempt{Order: o.ID(), Purchase: o.Purchase, Attempt: o.Attempt},
		ledger.Cancelled, "by "+p.Who)
	if errors.Is(err, ledger.ErrNotOpener) || errors.Is(err, ledger.ErrConflict) {
		return refuse("order %s is being bought at this moment: look again", o.ID())
	}
	return err
}

// surelyUnpaid refuses to give an order up while something that exists may be its
// purchase. One for which nothing was ever sent has none.
func (p *Operator) surelyUnpaid(ctx context.Context, f issuer.Flow, o order.Order, e ledger.Entry, raised certstore.Raised, lost bool) error {
	last, _ := e.Last(o.ID())
	switch {
	case lost:
		return refuse("the key store knows attempt %d of order %s, the ledger does not: it is to be reconciled%s",
			raised.Attempt, o.ID(), retries(o))
	case !p.States.State(o.Main).Marked(p.Line.Incarnation()):
		return refuse("account %s was not swept yet, so nobody knows what was bought there", o.Main)
	case raised.Attempt == 0 && last.Attempt == 0:
		return nil
	}
	if _, err := p.Accounts.of(o); err != nil { // its clouds are asked below
		return err
	}
	rows, err := unclaimed(ctx, p.Ledger, []issuer.Flow{f}, o, e, time.Now())
	if err != nil || len(rows) == 0 {
		return err
	}
	_, others, err := byKey(ctx, f, fingerprint(o), bare(rows))
	if err != nil {
		return err
	}
	for _, row := range rows {
		if !slices.Contains(others, row.CloudID) {
			return refuse("%s; it may be this order's purchase: %s", row.facts(), settles(o, row.CloudID))
		}
	}
	return nil // all have another key
}

// Adopt says that a cloud order is this order's purchase. The cloud is asked for
// it, and what it says is compared with the order; what does not fit is refused
// with the fact (DESIGN 12.5).
func (p *Operator) Adopt(ctx context.Context, id, cloudID string) error {
	it, err := p.Line.Last(ctx, id)
	if err != nil {
		return err
	}
	if !resting(it.State) && it.State != order.Unsure {
		return refuse("order %s is in state %s", id, it.State)
	}
	e, err := p.entry(ctx, it.Order)
	if err != nil {
		return err
	}
	if err := p.succeeded(ctx, it.Order); err != nil {
		return err
	}
	a, flow, err := p.Accounts.flow(it.Order)
	if err != nil {
		return err
	}
	if err := compare(ctx, a, flow, it.Order, cloudID); err != nil {
		return err
	}
	err = p.Ledger.Assign(ctx, it.Main, it.Request.Names, ledger.Claim{CloudID: cloudID, Order: id, Purchase: it.Purchase,
		Attempt: it.Attempt, How: "by hand: " + p.Who})
	if errors.Is(err, ledger.ErrTaken) || errors.Is(err, ledger.ErrOtherNames) {
		return refuse("%v", err)
	}
	if err != nil {
		return err
	}
	// A crash here leaves the claim: the order's next visit finds it.
	gap.At(ctx, "adopt: claimed")
	o := it.Order
	o.CloudID, o.Failure, o.Challenges, o.Proofs = cloudID, nil, nil, nil
	if err := p.resume(ctx, o, e); err != nil {
		return err
	}
	return p.move(ctx, it, o, order.Verify, "adopted "+cloudID)
}

// compare asks the cloud for a cloud order that is to be adopted, and returns
// what speaks against it.
func compare(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, cloudID string) error {
	row, err := listedAs(ctx, a, flow, o, cloudID)
	if err != nil {
		return err
	}
	switch row.Phase {
	case issuer.Refused:
		return refuse("cloud order %s ended without a certificate (%s)", cloudID, issuer.Word(row.Raw))
	case issuer.Unstarted:
		return refuse("%s was not started (%s), so it is no purchase of an order; one that uses it names it: \"resource\": %q", cloudID, issuer.Word(row.Raw), cloudID)
	}
	_, others, err := byKey(ctx, flow, fingerprint(o), []issuer.Row{row})
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return refuse("the certificate of cloud order %s has another key than order %s, so that this order could not use it", cloudID, o.ID())
	}
	return nil
}

// listedAs is how the cloud shows a cloud order. One that is not for the order's
// names, or that the account does not have, is refused.
func listedAs(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, cloudID string) (issuer.Row, error) {
	names := strings.Join(o.Request.Names, " ")
	if finder, ok := flow.(issuer.Finder); ok {
		rows, err := finder.Find(ctx, o.Request.Names)
		if err != nil {
			return issuer.Row{}, err
		}
		for _, row := range rows {
			if row.CloudID == cloudID && cloudID != "" {
				return row, nil
			}
		}
	}
	st, err := flow.Look(ctx, cloudID)
	switch {
	case issuer.KindOf(err) == issuer.NotFound, issuer.KindOf(err) == issuer.Rejected:
		return issuer.Row{}, noneOf(ctx, a, flow, o, cloudID, err)
	case err != nil:
		return issuer.Row{}, err
	}
	if _, ok := flow.(issuer.Finder); ok {
		return issuer.Row{}, refuse("cloud order %s is there (%s), but not among those for %s: it is for other names, or the list does not show it yet",
			cloudID, st.Raw, names)
	}
	if st.Phase != issuer.Unstarted {
		shown, err := shownNames(ctx, flow, cloudID, st)
		if err != nil {
			return issuer.Row{}, err
		}
		if why, others := differs(o, shown, st.CSR); others {
			return issuer.Row{}, refuse("cloud order %s is not this order's: %s", cloudID, why)
		}
	}
	return issuer.Row{CloudID: cloudID, CertID: st.CertID, Phase: st.Phase, Raw: st.Raw}, nil
}

// noneOf: what one way of ordering does not know may be there by another.
func noneOf(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, cloudID string, why error) error {
	for _, other := range a.Cloud.Flows() {
		if other.Action() == flow.Action() {
			continue
		}
		if st, err := other.Look(ctx, cloudID); err == nil {
			return refuse("%s is there (%s), ordered another way (%s) than order %s (%s), so it is no purchase of this one; "+
				"an order that is to use it names it: \"resource\": %q", cloudID, issuer.Word(st.Raw), other.Action(), o.ID(), flow.Action(), cloudID)
		}
	}
	return refuse("%v has no cloud order %s (%v)", a, cloudID, why)
}

// resume takes the names again for an order that had ended and goes on with what
// it bought, or may have bought. One that only asks to be bought takes nothing:
// the submitter asks first how its names stand (DESIGN 12.2), and a person whom
// that stops has blocked nobody.
func (p *Operator) resume(ctx context.Context, o order.Order, e ledger.Entry) error {
	var err error
	if mayHave(o, e) {
		err = p.Ledger.Resume(ctx, o.Main, o.Request.Names, o.ID())
	} else {
		err = e.MayResume(o.ID())
	}
	if by, is := errors.AsType[*ledger.NotFree](err); is {
		return refuse("%v: it ends first (certmill show %s)", by, by.Order)
	}
	return err
}

// mayHave tells whether something was bought for an order, or may have been.
func mayHave(o order.Order, e ledger.Entry) bool {
	last, _ := e.Last(o.ID())
	_, claimed := e.Claim(o.ID(), o.Purchase)
	return claimed || o.CloudID != "" || last.Ending == ledger.Open
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
	a, err := p.Accounts.of(it.Order)
	if err != nil {
		return err
	}
	last, _ := e.Last(id)
	switch {
	case last.Ending != ledger.Open:
		return refuse("order %s has no open attempt, and is held for something else%s", id, helps(it.Order))
	case last.Provisional != "":
		return refuse("cloud order %s was found for order %s, and nothing shows that it is another's: %s",
			last.Provisional, id, endsOpen(it.Order, last))
	}
	if err := p.surelyNot(ctx, a, it.Order, last); err != nil {
		return err
	}
	if err := p.Ledger.End(ctx, it.Main, it.Request.Names, last, ledger.NotBought, "by "+p.Who); err != nil {
		return err
	}
	// A crash here leaves a held order with a closed attempt: retry it.
	gap.At(ctx, "not-bought: attempt closed")
	to := order.Submit
	if it.Failure != nil {
		to = order.Collect // it was about to end
	}
	return p.move(ctx, it, it.Order, to, "not bought, said "+p.Who)
}

// surelyNot checks what must be over before anybody may say so.
func (p *Operator) surelyNot(ctx context.Context, a *Account, o order.Order, open ledger.Attempt) error {
	if left := time.Until(open.Opened.Add(a.Waits.Total())); left > 0 {
		return refuse("the call may still land: again in %v", left.Round(time.Second))
	}
	if !p.States.State(o.Main).Marked(p.Line.Incarnation()) {
		return refuse("account %s was not swept yet", o.Main)
	}
	if err := p.Guard.MayDeny(ctx, a, o.Main, open); narrow(err) {
		return refuse("%v", err)
	} else if err != nil {
		return err
	}
	flow := a.Flow(o.Operation)
	c, ok := flow.(issuer.Counter)
	if !ok || open.Used == nil {
		return nil
	}
	r := Reconciler{Accounts: p.Accounts, Ledger: p.Ledger, States: p.States, Line: p.Line, Guard: p.Guard, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	n, err := r.unexplained(ctx, a, flow, c, open, o.Request.Names)
	if err != nil {
		return err
	}
	// What no list has shown in a day, none may ever show: then the person's word is
	// all there is.
	if word := open.Opened.Add(waitedFor); n > 0 && time.Now().Before(word) {
		return refuse("the quota of %s fell by %d that no listed order explains: find that order in the cloud's console; "+
			"if it is for these names: certmill adopt %s <cloud id>; else again when the list shows it, or again at %s: then your word is enough",
			open.Product, n, o.ID(), word.UTC().Format(time.DateTime+" UTC"))
	}
	return nil
}
