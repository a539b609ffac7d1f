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
}

// Handle is one visit.
func (c *Collector) Handle(ctx context.Context, o order.Order) (order.Order, error) {
	a, flow, err := c.Accounts.flow(o)
	if err != nil {
		return o, err
	}
	if o.Failure != nil { // it ends without a certificate: only the clean-up is owed
		return c.end(ctx, a, o, order.Failed)
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
		return o, pipeline.Retry(err, 0)
	}
	// A crash here delivers the same again, to the same place.
	gap.At(ctx, "collect: delivered")
	return c.end(ctx, a, o, order.Issued)
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

// end cleans up what was placed and makes the order final.
func (c *Collector) end(ctx context.Context, a *Account, o order.Order, s order.State) (order.Order, error) {
	ours := o.Key != nil && len(o.Key.Sealed) > 0 // a key that nobody else has
	if err := c.cleanUp(ctx, a, &o, s == order.Issued && ours); err != nil {
		return o, err
	}
	// A crash here cleans up again, which finds nothing.
	gap.At(ctx, "collect: cleaned up")
	o.State, o.Placed = s, false
	return o, nil
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
		if err := p.leftBehind(ctx, pr.Place(), err); err != nil {
			return pipeline.Retry(err, 0)
		}
		o.Tell(order.Event{At: time.Now().UTC(), State: order.Collect, Note: fmt.Sprintf("left behind at %s %s: %v", pr.Place().Host, pr.Challenge.Path, err)})
	}
	return nil
}
