package stage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Sink is where certificates are delivered. Deliver MUST be durable when it
// returns and safe to repeat.
type Sink interface {
	Deliver(ctx context.Context, d certstore.Delivery) (where string, err error)
}

// Opener opens sealed keys. A collector without one delivers them sealed.
type Opener interface {
	Open(sealed []byte) (order.Secret, error)
}

// Collector fetches the certificate, refuses what is wrong, delivers it and
// cleans the challenge up.
type Collector struct {
	Accounts Accounts
	Ledger   *ledger.Ledger
	Solvers  map[string]dcv.Solver
	Placed   *ledger.Placed
	Sinks    []Sink
	Sealer   Sealer
	Opener   Opener // nil: keys are delivered sealed
	Trouble  Trouble
	Guard    *Guard           // whether a look may say that something is not there; nil: it is not asked
	Now      func() time.Time // nil: time.Now
}

func (c *Collector) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// Handle is one visit.
func (c *Collector) Handle(ctx context.Context, o order.Order) (order.Order, error) {
	a, flow, err := c.Accounts.flow(o)
	if err != nil {
		return o, err
	}
	if o.Failure != nil { // it ends without a certificate: only the clean-up is owed
		return c.end(ctx, a, flow, o, order.Failed)
	}
	if err := c.Trouble.paused(a); err != nil {
		return o, err
	}
	got, err := flow.Fetch(ctx, o.CloudID, o.CertID)
	if err != nil {
		return c.notFetched(ctx, a, o, err)
	}
	cert, err := certstore.CheckCertificate(got.Chain, c.expect(o, got))
	if err != nil {
		return c.wrong(ctx, a, o, err)
	}
	if err := c.prove(ctx, o); err != nil {
		return c.unproved(ctx, a, o, err)
	}
	o.Provisional = false
	o.Certificate = cert
	o.Tell(order.Event{At: time.Now().UTC(), State: order.Collect, Worker: "cloud", Note: "fetched, serial " + cert.Serial, RequestID: got.RequestID})
	if err := c.deliver(ctx, &o, got.Key); err != nil {
		return o, notDelivered(o, err)
	}
	// A crash here delivers the same again, to the same place.
	gap.At(ctx, "collect: delivered")
	return c.end(ctx, a, flow, o, order.Issued)
}

// notDelivered: a person has to make room where other names are served; what else is
// wrong with a place may pass.
func notDelivered(o order.Order, err error) error {
	if other, is := errors.AsType[*certstore.OtherNames](err); is {
		return pipeline.Hold("its certificate is not delivered: "+other.Error()+", then retry", "certmill retry "+o.ID())
	}
	return pipeline.Retry(err, 0)
}

// notFetched: the sweep was early, or the cloud is.
func (c *Collector) notFetched(ctx context.Context, a *Account, o order.Order, err error) (order.Order, error) {
	switch issuer.KindOf(err) {
	case issuer.WrongState, issuer.NotFound:
		if o.Retries < 3 {
			return o, pipeline.Retry(err, 0)
		}
		o.State, o.CertID = order.Issuing, ""
		return o, nil
	case issuer.Rejected:
		return o, pipeline.Hold(fmt.Sprintf("the certificate of %s cannot be fetched: %v", o.CloudID, err),
			"certmill retry "+o.ID(), "certmill cancel "+o.ID())
	}
	return o, c.Trouble.Verb(ctx, a, err)
}

func (c *Collector) expect(o order.Order, got issuer.Certificate) certstore.Expect {
	return certstore.Expect{Fingerprint: fingerprint(o), Key: got.Key, Names: o.Request.Names, Now: time.Now()}
}

// wrong: the certificate is not what was ordered. A provisional adoption with
// another key was a stranger's; anything else is for a person, because the
// purchase is spent.
func (c *Collector) wrong(ctx context.Context, acct *Account, o order.Order, err error) (order.Order, error) {
	if o.Provisional && errors.Is(err, certstore.ErrWrongKey) {
		if err := c.cleanUp(ctx, acct, &o, false); err != nil {
			return o, err
		}
		a := ledger.Attempt{Order: o.ID(), Purchase: o.Purchase, Attempt: o.Attempt}
		if err := c.Ledger.Disown(ctx, o.Main, o.Request.Names, a, o.CloudID); err != nil {
			return c.unproved(ctx, acct, o, err)
		}
		// A crash here leaves the order in collect with a foreign row: the next
		// visit disowns it again, which does nothing.
		gap.At(ctx, "collect: disowned")
		o.Tell(order.Event{At: time.Now().UTC(), State: order.Collect, Note: "cloud order " + o.CloudID + " has another key: not ours"})
		o.State, o.CloudID, o.CertID, o.Provisional = order.Unsure, "", "", false
		o.Challenges, o.Proofs, o.Placed = nil, nil, false
		return o, nil
	}
	return o, pipeline.Hold(fmt.Sprintf("the certificate of cloud order %s is not what was ordered: %v", o.CloudID, err),
		"certmill retry "+o.ID(), "certmill cancel "+o.ID())
}

// unproved: the entry is not as this visit believes. The opener's answer may
// have come late and closed it with another cloud order: reconciling follows
// what the ledger says.
func (c *Collector) unproved(ctx context.Context, a *Account, o order.Order, err error) (order.Order, error) {
	if !errors.Is(err, ledger.ErrConflict) && !errors.Is(err, ledger.ErrTaken) {
		return o, err
	}
	if err := c.cleanUp(ctx, a, &o, false); err != nil {
		return o, err
	}
	o.Tell(order.Event{At: time.Now().UTC(), State: order.Collect, Note: "the ledger knows another outcome than cloud order " + o.CloudID})
	o.State, o.CloudID, o.CertID, o.Provisional = order.Unsure, "", "", false
	o.Challenges, o.Proofs, o.Placed = nil, nil, false
	return o, nil
}

// prove closes the entry of a provisional adoption: the key was compared, or
// the cloud made it and nothing else can be compared.
func (c *Collector) prove(ctx context.Context, o order.Order) error {
	if !o.Provisional {
		return nil
	}
	a := ledger.Attempt{Order: o.ID(), Purchase: o.Purchase, Attempt: o.Attempt}
	if err := c.Ledger.Bought(ctx, o.Main, o.Request.Names, a, o.CloudID, "adopted, key compared"); err != nil {
		return err
	}
	return nil
}

// deliver hands chain and key to every sink. Where the cloud made the key, it
// is sealed at once if nobody here may see keys.
func (c *Collector) deliver(ctx context.Context, o *order.Order, cloudKey order.Secret) error {
	d := certstore.Delivery{ID: o.ID(), Chain: o.Certificate.Chain}
	switch {
	case cloudKey != "" && c.Opener != nil:
		d.Key = cloudKey
	case cloudKey != "":
		sealed, err := c.Sealer.Seal(cloudKey)
		if err != nil {
			return fmt.Errorf("seal key: %w", err)
		}
		d.Sealed = sealed
	case o.Key != nil && len(o.Key.Sealed) > 0 && c.Opener != nil:
		key, err := c.Opener.Open(o.Key.Sealed)
		if err != nil {
			return fmt.Errorf("open key: %w", err)
		}
		d.Key = key
	case o.Key != nil:
		d.Sealed = o.Key.Sealed
	}
	public := *o
	if public.Key != nil { // the file is for people and scripts: no ciphertext
		k := *public.Key
		k.Sealed = nil
		public.Key = &k
	}
	record, err := public.Encode()
	if err != nil {
		return err
	}
	d.Record = record
	o.Certificate.Delivered = nil
	for _, s := range c.Sinks {
		where, err := s.Deliver(ctx, d)
		if err != nil {
			return fmt.Errorf("deliver: %w", err)
		}
		o.Certificate.Delivered = append(o.Certificate.Delivered, where)
	}
	return nil
}

// end is the end of every order that has taken anything: its challenges are taken
// back, its resource is given back or stays with its names, and the ledger says
// how its names stand from now on. Only then the order is final: whoever sees it
// so finds its names free, or in service, or paid for in vain.
func (c *Collector) end(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, s order.State) (order.Order, error) {
	o, err := c.withAdopted(ctx, a, flow, o)
	if err != nil {
		return o, err
	}
	ours := o.Key != nil && len(o.Key.Sealed) > 0 // a key that nobody else has
	if err := c.cleanUp(ctx, a, &o, s == order.Issued && ours); err != nil {
		return o, err
	}
	// A crash here cleans up again, which finds nothing.
	gap.At(ctx, "collect: cleaned up")
	o.Placed = false
	if s == order.Issued {
		err = c.inService(ctx, flow, o)
	} else {
		err = c.over(ctx, a, flow, &o)
	}
	if err != nil {
		return o, err
	}
	o.State = s
	return o, nil
}

// withAdopted is the order with the cloud order that it adopted as its resource, where
// it uses what is bought: that one serves its names. What its record had chosen before,
// in a life that is lost or before a person chose, is given back.
func (c *Collector) withAdopted(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	if flow.Spends() || o.CloudID == "" || o.Resource == o.CloudID {
		return o, nil
	}
	if has, err := c.Ledger.Owner(ctx, o.Main, o.CloudID); err != nil || has.Order != o.ID() {
		return o, err
	}
	if o.Resource != "" {
		is, err := c.Ledger.Owner(ctx, o.Main, o.Resource)
		if err == nil && is.Order == o.ID() {
			_, _, err = c.release(ctx, a, flow, o, is)
		}
		if err != nil {
			return o, err
		}
	}
	// A crash here leaves a choice that is given back: the next visit finds it so.
	gap.At(ctx, "collect: old choice given back")
	o.Resource = o.CloudID
	return o, nil
}

// inService notes the certificate's term, of the resource and of the names.
func (c *Collector) inService(ctx context.Context, flow issuer.Flow, o order.Order) error {
	if !flow.Spends() && o.Resource != "" {
		if err := c.Ledger.Started(ctx, o.Main, o.Resource, o.ID(), o.Certificate.NotAfter); err != nil {
			return err
		}
	}
	// A crash here leaves names that are taken by an order which is about to be
	// issued: the next visit notes the same again.
	gap.At(ctx, "collect: term noted")
	if err := c.Ledger.Issued(ctx, o.Main, o.Request.Names, o.ID(), o.Certificate.NotBefore, o.Certificate.NotAfter); err != nil {
		return err
	}
	// A crash here leaves names in service by an order that is not issued yet:
	// others are held for it, as they should be.
	gap.At(ctx, "collect: in service")
	return nil
}

// over gives back what the order has, and frees its names: or, if something was
// paid for it, lets them stop the next order once more.
func (c *Collector) over(ctx context.Context, a *Account, flow issuer.Flow, o *order.Order) error {
	was := *o
	started, err := c.giveBack(ctx, a, flow, o)
	if err != nil {
		return err
	}
	// A crash here leaves names that nobody uses and nobody may take: the next
	// visit finds the resource given back, and goes on here.
	gap.At(ctx, "collect: given back")
	last := ledger.Attempt{Order: o.ID(), Purchase: was.Purchase}
	if flow.Spends() {
		last.Attempt, last.Note = was.Attempt, "the order ended: "+was.Failure.Reason
	}
	err = c.Ledger.Over(ctx, o.Main, o.Request.Names, last, started)
	if errors.Is(err, ledger.ErrOpen) {
		return pipeline.HoldOpen(o.ID(), "it is to end ("+o.Failure.Reason+"), but it is unknown whether it was bought")
	}
	if err != nil {
		return err
	}
	// A crash here leaves an order that has ended for all but itself.
	gap.At(ctx, "collect: over")
	return nil
}

// giveBack gives the order's resource back, if a look shows that it was not
// started by this order: one that was taken a waiting time after the last call
// without a clear answer (DESIGN 12.4), which the order waits for. One that was
// started stays with the order's names until its term is over.
func (c *Collector) giveBack(ctx context.Context, a *Account, flow issuer.Flow, o *order.Order) (started bool, err error) {
	if flow.Spends() || o.Resource == "" && o.Taken.IsZero() {
		return false, nil
	}
	// First of all, so that a worker that slept claims nothing behind this look.
	if err := c.Ledger.Ending(ctx, o.Main, o.Request.Names, o.ID(), o.Taken); err != nil {
		return false, err
	}
	// A crash here leaves names that nobody uses, as above.
	gap.At(ctx, "collect: end noted")
	if o.Resource == "" {
		return false, nil
	}
	is, err := c.Ledger.Owner(ctx, o.Main, o.Resource)
	if err != nil {
		return false, err
	}
	if is.Order != o.ID() { // given back before a crash, or never had
		if started = o.CloudID == o.Resource; !started {
			o.Counted = nil
		}
		return started, nil
	}
	started, released, err := c.release(ctx, a, flow, *o, is)
	if err != nil || started {
		return started, err
	}
	if released {
		// A crash here leaves a use counted that was none.
		uncount(ctx, c.Trouble.States, o)
	}
	if o.CloudID == o.Resource {
		o.CloudID = ""
	}
	o.Resource = "" // by the time of a retry it may be somebody else's
	return false, nil
}

// release looks at the order's resource, and gives it back unless the order has
// started it: then it stays with its names.
func (c *Collector) release(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, is ledger.Owner) (started, released bool, err error) {
	looked := c.now()
	st, started, err := c.startedByIt(ctx, a, flow, o, is)
	if err != nil {
		return false, false, err
	}
	if started {
		return true, false, c.keep(ctx, o, st)
	}
	if err := seenStarted(ctx, c.Ledger, flow, o, st); err != nil {
		return false, false, pipeline.Retry(err, 0)
	}
	// A crash here leaves a row that the order's own claim explains.
	released, err = c.Ledger.Release(ctx, o.Main, o.Resource, o.ID(), looked, a.Waits.Total())
	if errors.Is(err, ledger.ErrTooEarly) {
		return false, false, pipeline.Wait(order.Wait{For: order.WaitForTime, Till: is.Called.Add(a.Waits.Total()),
			What: "a call on " + o.Resource + " got no clear answer and may still start it: then it is looked at again"})
	}
	return false, released, err
}

// startedByIt looks whether the order has started its resource. What was started
// before its first call, or for other names, is somebody else's, unless it was
// adopted: then its key is the order's, or a person said so.
func (c *Collector) startedByIt(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, is ledger.Owner) (issuer.Status, bool, error) {
	st, err := flow.Look(ctx, o.Resource)
	switch issuer.KindOf(err) {
	case "":
	case issuer.NotFound:
		return st, false, c.mayDeny(ctx, a, o, is)
	case issuer.Rejected: // decides nothing
		return st, false, pipeline.Retry(err, 0)
	default:
		return st, false, c.Trouble.Verb(ctx, a, err)
	}
	if st.Phase == issuer.Unstarted || o.Attempt == 0 && o.CloudID != o.Resource {
		return st, false, nil
	}
	names, err := shownNames(ctx, flow, o.Resource, st)
	if err != nil {
		return st, false, pipeline.Retry(err, 0)
	}
	_, others := differs(o, names, st.CSR)
	return st, !others, nil
}

// mayDeny tells whether that the cloud does not know a resource says that it was not
// started. After a call without a clear answer not every look may say so: another
// caller may not be shown it, and another main account never is (DESIGN 12.7).
func (c *Collector) mayDeny(ctx context.Context, a *Account, o order.Order, is ledger.Owner) error {
	if is.Called.IsZero() || c.Guard == nil {
		return nil
	}
	err := c.Guard.MayDeny(ctx, a, o.Main, ledger.Attempt{Order: o.ID(), Caller: is.Caller})
	switch {
	case err == nil:
		return nil
	case !narrow(err):
		return pipeline.Retry(err, 0)
	}
	return pipeline.Hold(fmt.Sprintf("it is to end, a call on %s got no clear answer, and now the cloud says that there is no such thing; "+
		"whether it was started nobody knows: %v", o.Resource, err), "certmill retry "+o.ID(), "certmill first-use "+a.Label)
}

// keep notes until when a started resource stays with the order's names, if the
// cloud shows it. One of which it shows nothing stays with the order.
func (c *Collector) keep(ctx context.Context, o order.Order, st issuer.Status) error {
	till := st.Expires
	if till.IsZero() && st.Certificate != nil {
		if leaf, err := certstore.CheckCertificate(st.Certificate.Chain, c.expect(o, *st.Certificate)); err == nil {
			till = leaf.NotAfter
		}
	}
	if till.IsZero() {
		return nil
	}
	return c.Ledger.Started(ctx, o.Main, o.Resource, o.ID(), till)
}

// cleanUp takes the order's challenges back, by exact value. What nobody may
// remove stays, and is told: an order that is delivered does not wait for it.
// The sweep of what was placed goes on trying. proved says that the certificate
// has a key that only certmill has, so that the cloud order was ours from the
// beginning.
func (c *Collector) cleanUp(ctx context.Context, a *Account, o *order.Order, proved bool) error {
	p := places{c.Placed, c.Solvers}
	for _, pr := range o.Prove() {
		err := p.takeBack(ctx, a.Label, o.ID(), pr, proved)
		switch {
		case err == nil:
			continue
		case issuer.KindOf(err) == issuer.Credentials && !errors.Is(err, dcv.Denied):
			return c.Trouble.Verb(ctx, a, err)
		case !forAPerson(err):
			return pipeline.Retry(fmt.Errorf("clean up %s: %w", pr.Place().Host, err), 0)
		}
		if err := p.leftBehind(ctx, pr.Place(), a.Label, o.ID(), err); err != nil {
			return pipeline.Retry(err, 0)
		}
		o.Tell(order.Event{At: time.Now().UTC(), State: order.Collect, Note: fmt.Sprintf("left behind at %s %s: %v", pr.Place().Host, pr.Challenge.Path, err)})
	}
	return nil
}
