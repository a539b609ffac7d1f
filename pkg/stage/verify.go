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
	"github.com/certmill/certmill/pkg/ledger"
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
	Placed   *ledger.Placed
	Looker   Looker
	Trouble  Trouble
	Pace     *Pace     // at which challenges come
	Since    time.Time // when this life of the streams began
	Rights   *Rights   // learns from what becomes of challenges; nil: nobody does
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
	if o.Resource != "" && st.Phase != issuer.Refused {
		// It is seen started: the materials may have been overwritten in between.
		if err := startedForOthers(o, st.Names, st.CSR); err != nil {
			return o, err
		}
	}
	if next, done := v.byItself(ctx, a, o, st); done {
		return next, nil
	}
	switch st.Phase {
	case issuer.Refused:
		return o, refusedByCA(o, st)
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

// byItself sends an order on for which the cloud needs nothing of us: it validates
// names in its own DNS by itself.
func (v *Verifier) byItself(ctx context.Context, a *Account, o order.Order, st issuer.Status) (next order.Order, done bool) {
	switch st.Phase {
	case issuer.IssuedPhase:
		o.State, o.CertID = order.Collect, st.CertID
	case issuer.Reviewing:
		o.State = order.Issuing
	default:
		return o, false
	}
	for _, name := range o.Request.Names {
		if !a.records(o.Request) {
			break // files say nothing of the DNS
		}
		if err := v.Rights.proved(ctx, a, name, ""); err != nil {
			v.untold(ctx, o, err)
		}
	}
	return o, true
}

// untold: what an order has shown of an account's rights is not known to others.
// It does not hold up the order.
func (v *Verifier) untold(ctx context.Context, o order.Order, err error) {
	if ctx.Err() == nil {
		v.Trouble.Log.WarnContext(ctx, "what a challenge says of the account's DNS rights could not be stored", "order", o.ID(), "err", err)
	}
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
			return pipeline.Wait(order.Wait{For: order.WaitForChallenge, What: "the cloud says " + issuer.Word(st.Raw), Till: time.Now().UTC().Add(30 * time.Second)})
		}
	}
	return pipeline.Snooze(time.Second)
}

// refusedByCA: it will never be issued. One that was adopted without proof has
// no key to compare, so nobody can say whose it was: a person must.
func refusedByCA(o order.Order, st issuer.Status) error {
	reason := fmt.Sprintf("the cloud ended order %s: %s", o.CloudID, issuer.Word(st.Raw))
	if st.Detail != "" {
		reason += ": " + st.Detail
	}
	if o.Provisional {
		return pipeline.HoldOpen(o.ID(), reason+"; it was adopted without proof")
	}
	return pipeline.Fail(order.Failure{Class: ClassReview, Code: issuer.Word(st.Raw), RequestID: st.RequestID, Reason: reason,
		Advice: "see the order in the cloud's console for the reason; then order again under a new id"})
}

// presentAgain is how long a challenge that does not show is waited for before
// it is placed once more: somebody may have removed it.
const presentAgain = 30 * time.Second

// place puts the challenges out and looks whether they show. Both are safe to
// repeat, so a crash anywhere here is repaired by the next visit.
func (v *Verifier) place(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	o.Proofs = o.Prove()
	for i := range o.Proofs {
		pr := &o.Proofs[i]
		if !pr.Placed.IsZero() && (len(pr.Missing) == 0 || time.Since(pr.Placed) < presentAgain) {
			continue
		}
		if err := v.places().put(ctx, a.Label, o.ID(), pr); err != nil {
			return v.notPlaced(ctx, a, flow, o, pr.Challenge, err)
		}
		if err := v.Rights.proved(ctx, a, pr.Challenge.Name, pr.Challenge.Type); err != nil {
			v.untold(ctx, o, err)
		}
		pr.Inherited = pr.Found && (o.Received.Before(v.Since) || !boughtHere(o))
	}
	missing, err := v.look(ctx, o.Proofs)
	if err != nil {
		return o, err
	}
	if len(missing) > 0 {
		if o.Retries >= 5 { // the next backoff could be too long to rest in place
			return v.hidden(ctx, a, flow, o, missing)
		}
		return o, pipeline.Retry(errors.New(brief(missing)), 0)
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

// boughtHere tells whether the order's own call made its cloud order, in this
// life of the streams. Else it was adopted, and what an earlier life of it placed
// may still be there.
func boughtHere(o order.Order) bool {
	return slices.ContainsFunc(o.Timeline, func(e order.Event) bool {
		return e.Worker == "cloud" && (e.Note == "bought "+o.CloudID || e.Note == "started "+o.CloudID)
	})
}

func (v *Verifier) places() places { return places{v.Placed, v.Solvers} }

// look looks for the challenges where they were put, and notes what it sees.
func (v *Verifier) look(ctx context.Context, proofs []order.Proof) (missing []string, err error) {
	for i := range proofs {
		s, err := v.Looker.Look(ctx, proofs[i].Place())
		if err != nil {
			return nil, pipeline.Retry(fmt.Errorf("look for %s: %w", proofs[i].Place().Host, err), 0)
		}
		proofs[i].Saw(time.Now().UTC().Truncate(time.Millisecond), s.Seen, s.Missing)
		missing = append(missing, proofs[i].Missing...)
	}
	return missing, nil
}

// hidden: a challenge has not shown for a while. The order waits where it holds
// no delivery slot, the longer the longer it took; and the cloud is asked,
// because what one of our servers does not show may have been seen by the CA.
func (v *Verifier) hidden(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, missing []string) (order.Order, error) {
	st, err := flow.Look(ctx, o.CloudID)
	switch {
	case err != nil && issuer.KindOf(err) != issuer.NotFound && issuer.KindOf(err) != issuer.Rejected:
		return o, v.Trouble.Verb(ctx, a, err)
	case err == nil && st.Phase == issuer.IssuedPhase:
		o.State, o.CertID = order.Collect, st.CertID
		return o, nil
	case err == nil && st.Phase == issuer.Refused:
		return o, refusedByCA(o, st)
	case err == nil:
		o.Tell(order.Event{At: time.Now().UTC().Truncate(time.Millisecond), State: order.Verify, Worker: "cloud", Note: said(st), RequestID: st.RequestID})
	}
	rest := min(max(time.Since(firstIn(o, order.Verify))/4, time.Minute), 15*time.Minute)
	o.Retries = 0
	return o, pipeline.Wait(order.Wait{For: order.WaitForChallenge, What: brief(missing), Till: time.Now().UTC().Add(rest)})
}

// brief is what is missing, for a line of the order's story, of which there may
// be many; the proofs have more.
func brief(missing []string) string {
	const most = 1000 // bytes
	s := strings.Join(missing, "; ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// said is a cloud's own word.
func said(st issuer.Status) string {
	if st.Detail == "" {
		return "the cloud says " + issuer.Word(st.Raw)
	}
	return "the cloud says " + issuer.Word(st.Raw) + ": " + st.Detail
}

// firstIn is when an order first came to a state; now if it never did.
func firstIn(o order.Order, s order.State) time.Time {
	for _, e := range o.Timeline {
		if e.State == s {
			return e.At
		}
	}
	return time.Now()
}

// notPlaced: a challenge cannot be put out. Where that is for want of rights, the
// cloud may have done it by itself; if not, further orders of the zone are held
// before they are bought.
func (v *Verifier) notPlaced(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, c order.Challenge, why error) (order.Order, error) {
	if noRight(why) {
		if st, err := flow.Look(ctx, o.CloudID); err == nil {
			if next, done := v.byItself(ctx, a, o, st); done {
				return next, nil
			}
		}
		if err := v.Rights.refused(ctx, a, o, c, why); err != nil {
			v.untold(ctx, o, err)
		}
	}
	return o, v.unplaced(ctx, a, o, c, why)
}

// unplaced: a challenge cannot be put out. What concerns the solver as a whole
// (a refused key, throttling) is no matter of this order, and another order's
// challenge at the same place none of a person. A key that may not write records
// may be another account's, or may order all the same: the label is not paused.
func (v *Verifier) unplaced(ctx context.Context, a *Account, o order.Order, c order.Challenge, err error) error {
	switch issuer.KindOf(err) {
	case issuer.Credentials:
		return pipeline.Retry(fmt.Errorf("place challenge at %s: %w", c.Host, err), credentialsRest)
	case issuer.Throttled, issuer.Unavailable, issuer.NeverSent:
		return v.Trouble.Verb(ctx, a, err)
	}
	if errors.Is(err, dcv.Conflict) {
		other, lerr := v.places().inTheWay(ctx, a.Label, o.ID(), c)
		if lerr != nil {
			return pipeline.Retry(lerr, 0)
		}
		if other != "" {
			return pipeline.Wait(order.Wait{For: order.WaitForChallenge, Till: time.Now().UTC().Add(30 * time.Second),
				What: fmt.Sprintf("order %s has its %s at %s%s, where there is room for one at a time", other, c.Type, c.Host, c.Path)})
		}
		if c.Type == dcv.FILE && o.Retries < 3 { // the other order may just have ended
			return pipeline.Retry(fmt.Errorf("place challenge at %s: %w", c.Host, err), 0)
		}
	}
	if forAPerson(err) {
		return pipeline.Hold(fmt.Sprintf("cannot place the challenge for %s (%s %s): %v", c.Name, c.Type, c.Host, err),
			"certmill retry "+o.ID(), "certmill cancel "+o.ID())
	}
	return pipeline.Retry(fmt.Errorf("place challenge at %s: %w", c.Host, err), 0)
}
