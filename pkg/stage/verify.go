package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Looker sees a challenge from outside.
type Looker interface {
	Look(ctx context.Context, c order.Challenge) (dcv.Sighting, error)
}

// Verifier proves control of the names: asks for the challenge, places it, sees
// it at every authoritative server, and leaves the order to the CA.
type Verifier struct {
	Accounts Accounts
	Solvers  map[string]dcv.Solver // by account label
	Looker   Looker
	Trouble  Trouble
	Pace     *Pace // at which challenges come
}

// Handle is one visit: first for the challenge, then with it.
func (v *Verifier) Handle(ctx context.Context, o order.Order) (order.Order, error) {
	a, flow, err := v.Accounts.flow(o)
	if err != nil {
		return o, err
	}
	if err := v.Trouble.paused(a); err != nil {
		return o, err
	}
	if o.Request.Deadline != nil && time.Now().After(*o.Request.Deadline) {
		o.Late = true
	}
	if len(o.Challenges) == 0 {
		return v.ask(ctx, a, flow, o)
	}
	return v.place(ctx, a, flow, o)
}

// ask gets the challenge. It is stored, with the note that clean-up is owed,
// before anything is placed: a crash while placing leaves records that the
// order knows of. An order that was just bought is not asked about before its
// challenge usually comes.
func (v *Verifier) ask(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	age, fresh := sinceBought(o)
	what := a.Label + " " + o.Operation
	if wait := v.Pace.wait(what, age); fresh && wait > 0 {
		return o, pipeline.Snooze(wait)
	}
	st, err := flow.Look(ctx, o.CloudID)
	if err != nil {
		if issuer.KindOf(err) == issuer.NotFound && fresh && age < time.Minute {
			return o, pipeline.Snooze(v.Pace.early(what, age)) // a new order may not be visible yet
		} else if issuer.KindOf(err) == issuer.NotFound {
			return o, pipeline.Snooze(2 * time.Second)
		}
		return o, v.Trouble.Verb(ctx, a, err)
	}
	switch st.Phase {
	case issuer.IssuedPhase:
		o.State, o.CertID = order.Collect, st.CertID
	case issuer.Refused:
		return o, refusedByCA(o, st)
	case issuer.Reviewing: // the cloud validates names in its own DNS by itself
		o.State = order.Issuing
	case issuer.Challenged:
		if len(st.Challenges) == 0 {
			return o, pipeline.Snooze(time.Second)
		}
		o.Challenges, o.Placed = st.Challenges, true
		if fresh {
			v.Pace.shown(what)
		}
	default:
		if fresh && age < time.Minute {
			return o, pipeline.Snooze(v.Pace.early(what, age))
		}
		return o, v.late(o, st)
	}
	return o, nil
}

// sinceBought is how long an order has been in verify, and whether it came
// there from its purchase.
func sinceBought(o order.Order) (age time.Duration, fresh bool) {
	for i, e := range slices.Backward(o.Timeline) {
		if e.State != order.Verify {
			return age, age > 0 && e.State == order.Submit
		}
		age = max(time.Since(o.Timeline[i].At), 1)
	}
	return age, false
}

// late: the challenge has not come yet. It takes a moment by nature; after a
// minute the order waits where it holds no delivery slot.
func (v *Verifier) late(o order.Order, st issuer.Status) error {
	for _, e := range o.Timeline {
		if e.State == order.Verify && time.Since(e.At) > time.Minute {
			return pipeline.Wait(order.Wait{For: order.WaitForChallenge, What: "the cloud says " + st.Raw, Till: time.Now().UTC().Add(30 * time.Second)})
		}
	}
	return pipeline.Snooze(time.Second)
}

// refusedByCA: it will never be issued. One that was adopted without proof has
// no key to compare, so nobody can say whose it was: a person must.
func refusedByCA(o order.Order, st issuer.Status) error {
	reason := fmt.Sprintf("the cloud ended order %s: %s", o.CloudID, st.Raw)
	if st.Detail != "" {
		reason += ": " + st.Detail
	}
	if o.Provisional {
		return pipeline.HoldOpen(o.ID(), reason+"; it was adopted without proof")
	}
	return pipeline.Fail(order.Failure{Class: ClassReview, Code: st.Raw, RequestID: st.RequestID, Reason: reason,
		Advice: "see the order in the cloud's console for the reason; then order again under a new id"})
}

// place puts the challenges out and looks whether they show. Both are safe to
// repeat, so a crash anywhere here is repaired by the next visit.
func (v *Verifier) place(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	solver := v.Solvers[a.Label]
	for _, c := range o.Challenges {
		if err := solver.Present(ctx, c); err != nil {
			return o, v.unplaced(ctx, a, o, c, err)
		}
	}
	var missing []string
	for _, c := range o.Challenges {
		s, err := v.Looker.Look(ctx, c)
		if err != nil {
			return o, pipeline.Retry(fmt.Errorf("look for %s: %w", c.Host, err), 0)
		}
		if !s.Seen {
			missing = append(missing, s.Missing...)
		}
	}
	if len(missing) > 0 {
		if o.Retries >= 5 { // the next backoff could be too long to rest in place
			o.Retries = 0
			return o, pipeline.Wait(order.Wait{For: order.WaitForChallenge, What: strings.Join(missing, "; "), Till: time.Now().UTC().Add(time.Minute)})
		}
		return o, pipeline.Retry(errors.New(strings.Join(missing, "; ")), 0)
	}
	if k, ok := flow.(issuer.Kicker); ok {
		// Only a nudge: the cloud looks by itself, too.
		if err := k.Kick(ctx, o.CloudID); err != nil && issuer.KindOf(err) == issuer.Throttled {
			return o, v.Trouble.Verb(ctx, a, err)
		}
	}
	o.State = order.Issuing
	return o, nil
}

// unplaced: a challenge cannot be put out. What concerns the account as a whole
// (a refused key, throttling) is no matter of this order.
func (v *Verifier) unplaced(ctx context.Context, a *Account, o order.Order, c order.Challenge, err error) error {
	switch issuer.KindOf(err) {
	case issuer.Credentials, issuer.Throttled, issuer.Unavailable, issuer.NeverSent:
		return v.Trouble.Verb(ctx, a, err)
	}
	if errors.Is(err, dcv.NoZone) || errors.Is(err, dcv.Conflict) || errors.Is(err, dcv.Denied) {
		return pipeline.Hold(fmt.Sprintf("cannot place the challenge for %s (%s %s): %v", c.Name, c.Type, c.Host, err),
			"certmill retry "+o.ID(), "certmill cancel "+o.ID())
	}
	return pipeline.Retry(fmt.Errorf("place challenge at %s: %w", c.Host, err), 0)
}
