package stage

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// start is a visit of an order on something already bought. The call is keyed by
// that id, so it may be repeated after a look.
func (s *Submitter) start(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	if o.Resource == "" {
		o, err := s.Flight.before(ctx, a, o)
		if err != nil {
			return o, err
		}
		// The choice is stored before it is claimed: a crash in between leaves
		// no claim that nobody remembers.
		return s.chooseResource(ctx, a, flow, o)
	}
	if err := s.Ledger.Claim(ctx, o.Main, o.Resource, o.ID(), o.Purchase); err != nil {
		return s.notOurs(o, err)
	}
	// A crash here leaves a claim of this order, which the next visit repeats.
	gap.At(ctx, "start: resource claimed")
	st, err := flow.Look(ctx, o.Resource)
	if err != nil && issuer.KindOf(err) != issuer.NotFound {
		return o, s.Trouble.Verb(ctx, a, err)
	}
	if err != nil {
		return s.giveBack(ctx, o, order.Failure{Class: ClassRejected, Code: "NotFound",
			Reason: fmt.Sprintf("the cloud does not know %s", o.Resource), Advice: "name an id that the account has bought"})
	}
	switch {
	case st.Phase == issuer.Unstarted && o.Attempt == 0:
		// From here on the resource may be ours: that it was free before the
		// first call is in the record, so what a later look shows is our doing.
		raised, err := s.Keys.Number(o.ID())
		o.Attempt = raised.Attempt + 1
		return o, err
	case st.Phase == issuer.Unstarted:
		return s.sendStart(ctx, a, flow, o, st)
	case o.Attempt == 0:
		return s.inUse(ctx, o, st)
	}
	o.State, o.CloudID = order.Verify, o.Resource
	return o, nil
}

func (s *Submitter) sendStart(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, st issuer.Status) (order.Order, error) {
	app := s.application(a, o)
	if p, ok := flow.(issuer.Preparer); ok && !st.Submitted {
		if err := p.Prepare(ctx, app); err != nil && issuer.KindOf(err) != issuer.WrongState {
			return s.startFailed(ctx, a, o, err)
		}
		// A crash here leaves materials that the next Prepare overwrites.
		gap.At(ctx, "start: materials in")
	}
	reserved, release, err := flow.Reserve(ctx)
	if err != nil {
		return o, pipeline.Retry(err, 0)
	}
	defer release()
	if err := s.noteResource(o); err != nil {
		return o, err
	}
	// A crash here leaves a number that names a resource which is free yet: it
	// is this order's all the same.
	gap.At(ctx, "start: number stored")
	now := time.Now()
	r, err := flow.Submit(reserved, app, issuer.Fence{NotBefore: now.Add(-a.Waits.Clocks), NotAfter: now.Add(a.Waits.Entry)})
	if err != nil {
		return s.startFailed(ctx, a, o, err)
	}
	// A crash here leaves a started resource: the next look shows it.
	gap.At(ctx, "start: started")
	o.Tell(order.Event{At: time.Now().UTC(), State: order.Submit, Worker: "cloud", Note: "started " + r.CloudID, RequestID: r.RequestID})
	o.State, o.CloudID = order.Verify, r.CloudID
	return o, nil
}

// noteResource writes into the key store which resource the order uses, before
// the first call: after a lost JetStream, the order handed in again finds it,
// where the record and the claim are gone, and does not use up another one. A
// number that is there already is that of an earlier visit, whose call may be
// repeated after the look that this one took.
func (s *Submitter) noteResource(o order.Order) error {
	raised, err := s.Keys.Number(o.ID())
	if err != nil || raised.Attempt == o.Attempt && raised.Resource == o.Resource {
		return err
	}
	err = s.Keys.Raise(o.ID(), o.Attempt, o.Purchase, o.Resource)
	if errors.Is(err, certstore.ErrExists) {
		return pipeline.Snooze(100 * time.Millisecond) // a rival visit: look again
	}
	return err
}

// forgetResource notes that the order uses nothing, before a claim is given
// back. A crash in between leaves a claim that the next visit takes up again.
func forgetResource(keys KeyStore, o order.Order) error {
	raised, err := keys.Number(o.ID())
	if err != nil || raised.Resource == "" {
		return err
	}
	err = keys.Raise(o.ID(), raised.Attempt+1, max(o.Purchase, raised.Purchase), "")
	if errors.Is(err, certstore.ErrExists) {
		return pipeline.Snooze(100 * time.Millisecond)
	}
	return err
}

// startFailed: the next visit looks first, whatever became of the call.
func (s *Submitter) startFailed(ctx context.Context, a *Account, o order.Order, err error) (order.Order, error) {
	e, ok := errorAs(err)
	if ok && (e.Kind == issuer.Rejected || e.Kind == issuer.QuotaExhausted) {
		return s.giveBack(ctx, o, failureOf(e))
	}
	if ok && e.Kind == issuer.WrongState {
		return o, pipeline.Retry(err, time.Second) // probably started already: look
	}
	return o, s.Trouble.Verb(ctx, a, err)
}

// chooseResource takes what the request names, or an unused one of what the
// account has bought.
func (s *Submitter) chooseResource(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	raised, err := s.Keys.Number(o.ID())
	if err != nil {
		return o, err
	}
	if raised.Resource != "" && raised.Purchase == o.Purchase {
		// From a life before a lost JetStream, or a crash after a claim was to be
		// given back: what a look shows there may be our doing.
		o.Resource, o.Attempt = raised.Resource, raised.Attempt
		return o, nil
	}
	o.Attempt = 0 // nothing was sent for what is chosen now
	if named(o.Request) {
		o.Resource = o.Request.Resource
		return o, nil
	}
	rows, err := s.Pools.unused(ctx, a, flow)
	if err != nil {
		return o, s.Trouble.Verb(ctx, a, err)
	}
	for i := range rows {
		// Rivals begin at different places, so that few of them meet.
		row := rows[(i+spread(o.ID()))%len(rows)]
		h, err := s.Ledger.Holder(ctx, o.Main, row.CloudID)
		if errors.Is(err, order.ErrNewer) {
			continue // taken, as far as this program can tell
		}
		if err != nil {
			return o, err
		}
		if h.Order == "" || h.Order == o.ID() {
			o.Resource = row.CloudID
			return o, nil
		}
	}
	return o, pipeline.Wait(order.Wait{For: order.WaitForQuota, What: "unused " + o.Operation + " resources", Till: time.Now().UTC().Add(time.Minute)})
}

func spread(id string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return int(h.Sum32() >> 1)
}

// notOurs: another order has the resource. One that was chosen is chosen anew,
// one that was named ends the order.
func (s *Submitter) notOurs(o order.Order, err error) (order.Order, error) {
	if !errors.Is(err, ledger.ErrTaken) {
		return o, err
	}
	if !named(o.Request) {
		o.Resource = ""
		return o, nil
	}
	return o, pipeline.Fail(order.Failure{Class: ClassInUse, Reason: err.Error(),
		Advice: "name another id, or 'any' for an unused one"})
}

// inUse: the look shows that somebody else started it, before our first call:
// unless this very order did, in a later visit while this one was frozen, or
// before the streams were put back to an earlier copy. Who calls notes the
// resource in the key store first: the record takes that number, which for an
// old visit is a transition that fails.
func (s *Submitter) inUse(ctx context.Context, o order.Order, st issuer.Status) (order.Order, error) {
	raised, err := s.Keys.Number(o.ID())
	if err != nil {
		return o, err
	}
	if raised.Resource == o.Resource && raised.Purchase == o.Purchase {
		o.Attempt = raised.Attempt
		return o, nil
	}
	return s.giveBack(ctx, o, order.Failure{Class: ClassInUse,
		Reason: fmt.Sprintf("%s is in use already: the cloud says %q", o.Resource, st.Raw),
		Advice: "name another id, or 'any' for an unused one"})
}

// giveBack releases the claim before the order ends: released later, a crash in
// between would leave a claim of an order that is final.
func (s *Submitter) giveBack(ctx context.Context, o order.Order, f order.Failure) (order.Order, error) {
	if err := forgetResource(s.Keys, o); err != nil {
		return o, err
	}
	if err := s.Ledger.Release(ctx, o.Main, o.Resource, o.ID()); err != nil {
		return o, err
	}
	o.Resource = "" // by the time of a retry it may be somebody else's
	return o, pipeline.Fail(f)
}
