package stage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
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
//
// A worker may sleep anywhere here and wake when the order has ended, or uses
// another resource: its record's decision (Order.Taken) is older than the names'
// entry then, and nothing is taken, claimed or called by it.
func (s *Submitter) start(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	e, err := s.Ledger.Read(ctx, o.Main, o.Request.Names)
	if err != nil {
		return o, err
	}
	if c, ok := e.Claim(o.ID(), o.Purchase); ok {
		return bought(o, c.CloudID), nil // a left-over of an earlier life, adopted
	}
	if o, err = s.withoutOldChoice(ctx, a, o); err != nil {
		return o, err
	}
	if o.Resource == "" {
		// What an earlier life called elsewhere is looked for there first: a row of
		// it is nobody else's.
		if _, next, verb, done := s.lost(ctx, o, e, false); done {
			return next, verb
		}
	}
	e, next, verb, done := s.mayStart(ctx, a, flow, o, e)
	if done {
		return next, verb
	}
	o = next
	if o.Resource == "" {
		if o, err = s.Flight.before(ctx, a, o); err != nil {
			return o, err
		}
		// The choice is stored before it is claimed: a crash in between leaves
		// no claim that nobody remembers.
		return s.chooseResource(ctx, a, flow, o, e)
	}
	if !e.Decided(o.ID(), o.Taken) {
		// The order had ended, and goes on. By a conditional publish first: a worker
		// that slept comes here, too. What was counted for it may have been taken back.
		o.Taken, o.Counted = e.Decision(o.ID(), time.Now()), nil
		return o, nil
	}
	if used, err := s.usedByAnother(ctx, a, flow, o); err != nil || used != "" {
		return s.usedUp(a, flow, o, used, err)
	}
	if err := s.claim(ctx, o, e); err != nil {
		return s.notOurs(ctx, a, flow, o, err)
	}
	// A crash here leaves a claim of this order, which the next visit repeats.
	gap.At(ctx, "start: resource claimed")
	return s.look(ctx, a, flow, o)
}

// withoutOldChoice is the order without the resource that its record has chosen, if its
// number in the key store names another one since: the record is that of an older copy
// of the streams. Until it takes up the number's (chooseResource) it has none, as after
// a lost JetStream, and what its record says is not taken for what it has started.
func (s *Submitter) withoutOldChoice(ctx context.Context, a *Account, o order.Order) (order.Order, error) {
	uses, err := s.used(o)
	if err != nil || uses.Resource == "" || uses.Resource == o.Resource || o.Resource == "" || uses.Attempt <= o.Attempt {
		return o, err
	}
	// The copy of the ledger may have this order's claim on its old choice, although
	// another order has used that one in the life that is lost: the claim would keep the
	// other from what it has started.
	if _, err := s.Ledger.Release(ctx, o.Main, o.Resource, o.ID(), time.Now(), a.Waits.Total()); errors.Is(err, ledger.ErrTooEarly) {
		return o, pipeline.Wait(order.Wait{For: order.WaitForTime, Till: time.Now().UTC().Add(time.Minute),
			What: "a call on " + o.Resource + " may still land, which it chose before " + uses.Resource})
	} else if err != nil {
		return o, err
	}
	// A crash here leaves a record that chose what nobody has: the next visit comes here.
	gap.At(ctx, "start: old choice given back")
	o.Resource = ""
	return o, nil
}

// mayStart lets an order go on whose way is free, with the entry to go on with. What
// else was bought for its names stops none that has started its own resource, in an
// earlier life of the streams: that is no purchase any more.
func (s *Submitter) mayStart(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, e ledger.Entry) (at ledger.Entry, next order.Order, verb error, done bool) {
	if at, next, verb, done = s.asksBefore(ctx, a, flow, o, e); !done {
		return at, next, nil, false
	}
	_, st := passes(o, e, s.Duplicates, time.Now())
	if st.Is == ledger.Taken || !s.States.State(o.Main).Marked(s.Line.Incarnation()) {
		return e, next, verb, true
	}
	switch started, err := s.startedBefore(ctx, a, flow, o); {
	case err != nil:
		return e, o, err, true
	case started:
		return e, o, nil, false
	}
	return e, next, verb, true
}

// asksBefore are the reasons not to use something already bought now.
func (s *Submitter) asksBefore(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, e ledger.Entry) (at ledger.Entry, next order.Order, verb error, done bool) {
	if o.Attempt == 0 { // nothing was called yet, in this life
		own, err := s.own(o)
		if err != nil {
			return e, o, err, true
		}
		if next, verb, done = s.inTheWay(ctx, a, flow, o, e.Explained(own)); done {
			return e, next, verb, true
		}
		o = next
	}
	at, verb = s.names(flow, o, e)
	return at, o, verb, verb != nil
}

// startedBefore tells whether the resource that the order's own number in the key
// store names was started for this order.
func (s *Submitter) startedBefore(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (bool, error) {
	uses, err := s.used(o)
	if err != nil || uses.Resource == "" || o.Resource != "" && uses.Resource != o.Resource {
		return false, err
	}
	st, err := flow.Look(ctx, uses.Resource)
	switch {
	case issuer.KindOf(err) == issuer.NotFound:
		return false, nil
	case err != nil:
		return false, s.Trouble.Verb(ctx, a, err)
	case st.Phase == issuer.Unstarted:
		return false, nil
	}
	names, err := shownNames(ctx, flow, uses.Resource, st)
	if err != nil {
		return false, s.Trouble.Verb(ctx, a, err)
	}
	_, others := differs(o, names, st.CSR)
	return !others, nil
}

// usedByAnother returns the order of the same names that has used the resource up,
// if there is one. What serves a certificate stays that order's (DESIGN 12.4): it is
// not taken over, or it would be given back by an order that never had it. An unused
// one passes to the next order of its names.
func (s *Submitter) usedByAnother(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (by string, err error) {
	is, err := s.Ledger.Owner(ctx, o.Main, o.Resource)
	if err != nil || is.Order == "" || is.Order == o.ID() {
		return "", err
	}
	uses, err := s.used(o)
	if err != nil || uses.Resource == o.Resource {
		return "", err // this order may have started it
	}
	st, err := flow.Look(ctx, o.Resource)
	switch {
	case issuer.KindOf(err) == issuer.NotFound:
		return "", nil
	case err != nil:
		return "", s.Trouble.Verb(ctx, a, err)
	case st.Phase == issuer.Unstarted || order.NamesHash(is.Names) != order.NamesHash(o.Request.Names):
		return "", nil
	}
	return is.Order, nil
}

// usedUp is what becomes of an order whose resource another one of its names used.
func (s *Submitter) usedUp(a *Account, flow issuer.Flow, o order.Order, by string, err error) (order.Order, error) {
	if err != nil {
		return o, err
	}
	if !named(o.Request) {
		return s.chooseAnother(a, flow, o)
	}
	return o, pipeline.Fail(order.Failure{Class: ClassInUse,
		Reason: fmt.Sprintf("order %s, for the same names, has used %s up", by, o.Resource),
		Advice: "name another id, or 'any' for an unused one", Mend: true})
}

// chooseAnother forgets a choice that came from a list which is old.
func (s *Submitter) chooseAnother(a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	s.Pools.forget(a, flow)
	what := o.Resource + " is in use already: another one is chosen"
	o.Resource = ""
	return o, pipeline.Wait(order.Wait{For: order.WaitForTime, What: what, Till: time.Now().UTC().Add(poolKeep.Answer)})
}

// claim takes the names, then the resource.
func (s *Submitter) claim(ctx context.Context, o order.Order, e ledger.Entry) error {
	if err := s.Ledger.Take(ctx, e, o.ID(), o.Resource, o.Taken); err != nil {
		return err
	}
	// A crash here leaves names that are taken for nothing as yet: the next visit
	// repeats it.
	gap.At(ctx, "start: names taken")
	return s.Ledger.Claim(ctx, e, o.Resource, o.ID(), o.Purchase, o.Taken)
}

// look decides by how the resource stands.
func (s *Submitter) look(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	st, err := flow.Look(ctx, o.Resource)
	switch {
	case issuer.KindOf(err) == issuer.NotFound:
		return o, pipeline.Fail(order.Failure{Class: ClassRejected, Code: "NotFound",
			Reason: fmt.Sprintf("the cloud does not know %s", o.Resource), Advice: "name an id that the account has bought", Mend: named(o.Request)})
	case err != nil:
		return o, s.Trouble.Verb(ctx, a, err)
	case st.Phase == issuer.Unstarted:
		return s.use(ctx, a, flow, o, st)
	case o.Attempt == 0:
		return s.inUse(ctx, a, flow, o, st)
	}
	if err := s.compare(ctx, a, flow, o, st); err != nil {
		return o, err
	}
	o.State, o.CloudID = order.Verify, o.Resource
	return o, nil
}

// use takes the next step with a resource that is free yet. First of all it is counted.
func (s *Submitter) use(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, st issuer.Status) (order.Order, error) {
	next, verb, done := s.Budgets.count(ctx, a, o)
	switch {
	case done:
		return next, verb
	case o.Attempt == 0:
		return s.prepare(ctx, a, flow, o)
	}
	return s.sendStart(ctx, a, flow, o, st)
}

// prepare hands the materials in, where the resource needs any, and takes a
// number. That the resource was free before the number is in the record: what a
// later look shows is the order's doing.
func (s *Submitter) prepare(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	if err := s.materials(ctx, a, flow, o); err != nil {
		return o, s.startFailed(ctx, a, err)
	}
	// A crash here leaves materials that the next visit overwrites.
	gap.At(ctx, "start: materials in")
	raised, err := s.Keys.Number(ref(o))
	o.Attempt = raised.Attempt + 1
	return o, err
}

func (s *Submitter) materials(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) error {
	p, ok := flow.(issuer.Preparer)
	if !ok {
		return nil
	}
	app, err := s.application(a, o)
	if err != nil {
		return err
	}
	reserved, release, err := p.ReservePrepare(ctx)
	if err != nil {
		return err
	}
	defer release()
	return s.call(ctx, a, o, false, func(f issuer.Fence) error { return p.Prepare(issuer.Within(reserved, f), app) })
}

// call makes a call on the order's resource. It is noted before, and the request
// is signed within a fence from that moment: so nobody gives the resource back, or
// to another, while it may arrive. A clear answer takes the note back, unless the
// call has started the resource.
func (s *Submitter) call(ctx context.Context, a *Account, o order.Order, starts bool, send func(issuer.Fence) error) error {
	who, err := a.Whose(ctx)
	if err != nil {
		return pipeline.Retry(err, 0)
	}
	at := time.Now()
	note, err := s.Ledger.Calling(ctx, o.Main, o.Resource, o.ID(), who.Caller, at)
	if errors.Is(err, ledger.ErrTaken) {
		return pipeline.Snooze(time.Second) // given back: the order has ended
	}
	if err != nil {
		return err
	}
	// A crash here leaves a note of a call that nobody made: the resource is given
	// back a waiting time later.
	gap.At(ctx, "start: call noted")
	err = send(issuer.Fence{NotBefore: at.Add(-a.Waits.Clocks), NotAfter: at.Add(a.Waits.Entry)})
	// A crash here leaves what the call did: the next look shows it.
	gap.At(ctx, "start: call answered")
	if _, clear := ending(err); err == nil && !starts || clear {
		return errors.Join(err, s.Ledger.Answered(ctx, o.Main, o.Resource, o.ID(), note))
	}
	return err
}

// sendStart starts the resource, if what is in it is this order's: materials of a
// worker that slept, or of a person in the console, may have come in between.
func (s *Submitter) sendStart(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, st issuer.Status) (order.Order, error) {
	if _, needs := flow.(issuer.Preparer); needs && !s.ours(o, st) {
		if err := s.materials(ctx, a, flow, o); err != nil {
			return o, s.startFailed(ctx, a, err)
		}
		st, err := flow.Look(ctx, o.Resource)
		if err != nil {
			return o, s.Trouble.Verb(ctx, a, err)
		}
		if why, differ := differs(o, st.Names, st.CSR); differ {
			return o, otherMaterials(o, why)
		}
	}
	app, err := s.application(a, o)
	if err != nil {
		return o, err
	}
	reserved, release, err := flow.Reserve(ctx)
	if err != nil {
		return o, pipeline.Retry(err, 0)
	}
	defer release()
	if s.MayBuy != nil && !s.MayBuy() {
		return o, pipeline.Snooze(restForPlace)
	}
	if err := s.noteResource(o); err != nil {
		return notRaised(o, err)
	}
	// A crash here leaves a number that names a resource which is free yet: it
	// is this order's all the same.
	gap.At(ctx, "start: number stored")
	var r issuer.Receipt
	err = s.call(ctx, a, o, true, func(f issuer.Fence) (err error) {
		r, err = flow.Submit(reserved, app, f)
		return err
	})
	if err != nil {
		return o, s.startFailed(ctx, a, err)
	}
	// A crash here leaves a started resource: the next look shows it.
	gap.At(ctx, "start: started")
	o.Tell(order.Event{At: time.Now().UTC(), State: order.Submit, Worker: "cloud", Note: "started " + r.CloudID, RequestID: r.RequestID})
	o.State, o.CloudID = order.Verify, r.CloudID
	return o, nil
}

// ours tells whether the materials that are in are this order's.
func (s *Submitter) ours(o order.Order, st issuer.Status) bool {
	_, differ := differs(o, st.Names, st.CSR)
	return st.Submitted && !differ
}

// otherMaterials: what is in the resource is not this order's, although it was
// just handed in. Nothing is started.
func otherMaterials(o order.Order, why string) error {
	return pipeline.Hold(fmt.Sprintf("%s was not started: the cloud shows other materials in it than were handed in, %s. Somebody else uses it, or changes it in the console",
		o.Resource, why), "certmill retry "+o.ID(), "certmill cancel "+o.ID())
}

// compare holds an order whose resource was started for something else.
func (s *Submitter) compare(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, st issuer.Status) error {
	names, err := shownNames(ctx, flow, o.Resource, st)
	if err != nil {
		return s.Trouble.Verb(ctx, a, err)
	}
	verb := startedForOthers(o, names, st.CSR)
	if pipeline.Holds(verb) {
		if err := seenStarted(ctx, s.Ledger, flow, o, st); err != nil {
			return again(err)
		}
	}
	return verb
}

// seenStarted notes a resource that was started, and not by the order that looked, as
// a row that nobody claims: once the order has given it back it stops purchases for
// its names at once, and not only when the list is read the next time. Safe to repeat.
func seenStarted(ctx context.Context, l *ledger.Ledger, flow issuer.Flow, o order.Order, st issuer.Status) error {
	now := time.Now()
	row := issuer.Row{CloudID: o.Resource, Phase: st.Phase, Raw: st.Raw, Expires: st.Expires}
	if st.Phase == "" || !inTheWay(row, now) {
		return nil
	}
	names, err := shownNames(ctx, flow, o.Resource, st)
	if err != nil || len(names) == 0 {
		return err
	}
	for _, set := range order.MayBeFor(names) {
		u := ledger.Unclaimed{CloudID: row.CloudID, Status: row.Raw, Seen: now.UTC()}
		if order.NamesHash(set) != order.NamesHash(names) {
			u.Shown = names
		}
		if err := l.Report(ctx, o.Main, set, u); err != nil {
			return err
		}
	}
	return nil
}

// startedForOthers: it is not collected, whoever started it.
func startedForOthers(o order.Order, names []string, csr string) error {
	why, differ := differs(o, names, csr)
	if !differ {
		return nil
	}
	return pipeline.Hold(fmt.Sprintf("%s was started for something else: %s. What it brings is not this order's", o.Resource, why),
		"certmill cancel "+o.ID(), "certmill retry "+o.ID())
}

// shownNames are what a started resource is for, as far as the cloud shows it.
func shownNames(ctx context.Context, flow issuer.Flow, resource string, st issuer.Status) ([]string, error) {
	if n, ok := flow.(issuer.Namer); ok && len(st.Names) == 0 {
		return n.Names(ctx, resource)
	}
	return st.Names, nil
}

// own is the resource that the order may have started in this life or an earlier
// one: a row of it in the cloud's list is explained.
func (s *Submitter) own(o order.Order) (string, error) {
	uses, err := s.used(o)
	return cmp.Or(o.Resource, uses.Resource), err
}

// noteResource writes into the key store which resource the order uses, before
// the first call: after a lost JetStream, the order handed in again finds it,
// where the record and the claim are gone, and does not use up another one. A
// number that is there already is that of an earlier visit, whose call may be
// repeated after the look that this one took.
func (s *Submitter) noteResource(o order.Order) error {
	raised, err := s.Keys.Number(ref(o))
	if err != nil || raised.Attempt == o.Attempt && raised.Resource == o.Resource && raised.Hash == o.Hash {
		return err
	}
	return s.Keys.Raise(ref(o), s.number(o))
}

// forgetResource notes that the order uses nothing, before a claim is given
// back. A crash in between leaves a claim that the next visit takes up again.
func forgetResource(keys KeyStore, o order.Order) error {
	uses, err := usedAt(keys, o)
	if err != nil || uses.Resource == "" {
		return err
	}
	top, err := keys.Number(ref(o))
	if err != nil {
		return err
	}
	err = keys.Raise(ref(o), certstore.Raised{Attempt: top.Attempt + 1, Purchase: max(o.Purchase, uses.Purchase), Main: o.Main, GaveBack: true})
	if errors.Is(err, certstore.ErrExists) {
		return pipeline.Snooze(100 * time.Millisecond)
	}
	return err
}

// startFailed: the next visit looks first, whatever became of the call. What the
// order has taken is given back by its end.
func (s *Submitter) startFailed(ctx context.Context, a *Account, err error) error {
	e, ok := errorAs(err)
	switch {
	case !ok: // the ledger's, or a verb
		return err
	case e.Kind == issuer.WrongState:
		return pipeline.Retry(err, time.Second) // probably started already: look
	}
	return s.Trouble.Verb(ctx, a, e)
}

// chooseResource takes what the request names, or an unused one of what the
// account has bought, and decides to take the names for it.
func (s *Submitter) chooseResource(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, e ledger.Entry) (order.Order, error) {
	uses, err := s.used(o)
	decided := e.Decision(o.ID(), time.Now())
	switch {
	case err != nil:
		return o, err
	case uses.Resource == "":
	case uses.Hash != o.Hash && named(o.Request) && uses.Resource != o.Request.Resource:
		return o, otherWay(o, uses)
	case uses.Attempt > o.Attempt:
		// From a life before a lost JetStream: what a look shows there may be our
		// doing.
		o.Resource, o.Attempt, o.Taken = uses.Resource, uses.Attempt, decided
		return o, nil
	default:
		// The record knows that number: it was given back since, or is another's.
		if err := forgetResource(s.Keys, o); err != nil {
			return o, err
		}
	}
	o.Attempt = 0 // nothing was sent for what is chosen now
	if o.Resource = o.Request.Resource; !named(o.Request) {
		if o.Resource, err = s.unusedOne(ctx, a, flow, o, e); err != nil {
			return o, err
		}
	}
	if o.Resource != "" {
		o.Taken = decided
		return o, nil
	}
	return o, pipeline.Wait(order.Wait{For: order.WaitForQuota, What: "unused " + o.Operation + " resources", Till: time.Now().UTC().Add(time.Minute)})
}

// unusedOne is one of the account's unused resources that the order may have; empty
// if there is none. What stays with the order's own names comes first (DESIGN
// 12.4).
func (s *Submitter) unusedOne(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, e ledger.Entry) (string, error) {
	rows, err := s.Pools.unused(ctx, a, flow)
	if err != nil {
		return "", s.Trouble.Verb(ctx, a, err)
	}
	theirs := func(row issuer.Row) bool { return row.Origin != "" || e.Used(row.CloudID) }
	for _, first := range []bool{true, false} {
		for i := range rows {
			// Rivals begin at different places, so that few of them meet.
			row := rows[(i+spread(o.ID()))%len(rows)]
			if theirs(row) != first {
				continue
			}
			may, err := s.mayUse(ctx, a, flow, o, e, row)
			if err != nil {
				return "", err
			}
			if may {
				return row.CloudID, nil
			}
		}
	}
	return "", nil
}

// mayUse tells whether a resource is free for the order's names. What follows
// another one is for that one's names alone.
func (s *Submitter) mayUse(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, e ledger.Entry, row issuer.Row) (bool, error) {
	if row.Origin != "" {
		if of, err := s.servedBy(ctx, a, flow, o, row.Origin); err != nil || !order.Shows(of, o.Request.Names) {
			return false, err
		}
	}
	err := s.Ledger.MayClaim(ctx, e, row.CloudID, o.ID())
	if errors.Is(err, ledger.ErrTaken) || errors.Is(err, ledger.ErrOtherNames) || errors.Is(err, order.ErrNewer) {
		return false, nil // by a newer program's claim it is taken, as far as this one can tell
	}
	return err == nil, err
}

// servedBy are the names that a resource serves: by the ledger, or by the cloud for
// one that certmill did not start. None if nothing tells.
func (s *Submitter) servedBy(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, resource string) ([]string, error) {
	is, err := s.Ledger.Owner(ctx, o.Main, resource)
	if errors.Is(err, order.ErrNewer) {
		return nil, nil
	}
	if err != nil || len(is.Names) > 0 {
		return is.Names, err
	}
	st, err := flow.Look(ctx, resource)
	if issuer.KindOf(err) == issuer.NotFound {
		return nil, nil
	}
	if err == nil {
		st.Names, err = shownNames(ctx, flow, resource, st)
	}
	if err != nil {
		return nil, s.Trouble.Verb(ctx, a, err)
	}
	return st.Names, nil
}

func spread(id string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return int(h.Sum32() >> 1)
}

// notOurs: another order has the names, or the resource. One that was chosen is
// chosen anew, one that was named ends the order.
func (s *Submitter) notOurs(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, err error) (order.Order, error) {
	if by, is := errors.AsType[*ledger.NotFree](err); is {
		return o, waitForNames(by.Standing)
	}
	if !errors.Is(err, ledger.ErrTaken) && !errors.Is(err, ledger.ErrOtherNames) {
		return o, again(err)
	}
	if named(o.Request) {
		return o, s.anothers(ctx, o, err)
	}
	return s.chosenByAnother(ctx, a, flow, o)
}

// chosenByAnother: another order has the claim on what this one chose. Another resource
// is chosen, unless this very order has started that one in a life that is lost, or its
// call may still do so: then whoever has the claim sees it started for others, and
// gives it back.
func (s *Submitter) chosenByAnother(ctx context.Context, a *Account, flow issuer.Flow, o order.Order) (order.Order, error) {
	uses, err := s.used(o)
	if err != nil {
		return o, err
	}
	if uses.Resource == o.Resource {
		started, err := s.startedBefore(ctx, a, flow, o)
		if err != nil {
			return o, err
		}
		if started || time.Since(uses.At) < a.Waits.Total() {
			return o, s.startedBeside(ctx, o)
		}
		if err := forgetResource(s.Keys, o); err != nil { // or it would be chosen again
			return o, err
		}
	}
	o.Resource = ""
	return o, nil
}

// startedBeside is what becomes of an order that has started, perhaps, what another one
// has the claim on: that one gives it back, or a person must.
func (s *Submitter) startedBeside(ctx context.Context, o order.Order) error {
	is, other, err := resourceOf(ctx, s.Ledger, s.Line, o)
	switch {
	case err != nil:
		return err
	case is.Order == "" || is.Order == o.ID():
		return pipeline.Snooze(100 * time.Millisecond) // it was given back meanwhile
	case goesOn(other):
		return pipeline.Wait(order.Wait{For: order.WaitForResource, What: is.Order, Till: time.Now().UTC().Add(time.Second)})
	}
	return pipeline.Hold(fmt.Sprintf("the key store says that it has called for %s, on which the ledger has the claim of order %s: "+
		"hand that one in again, or decide about it (certmill show %[2]s), and then retry this one", o.Resource, is.Order),
		"certmill retry "+o.ID(), "certmill cancel "+o.ID())
}

// anothers is what becomes of an order whose named resource another order has. While
// that one is under way it may give it back: nobody fails because of who came first.
// Once it has it for good, an order that was there before it is held: it was ordered
// when it could be had.
func (s *Submitter) anothers(ctx context.Context, o order.Order, why error) error {
	is, other, err := resourceOf(ctx, s.Ledger, s.Line, o)
	switch {
	case err != nil:
		return err
	case errors.Is(why, ledger.ErrTaken) && is.Order == "":
		return pipeline.Snooze(100 * time.Millisecond) // it was given back meanwhile
	case errors.Is(why, ledger.ErrTaken) && other == order.Held:
		return pipeline.Hold(fmt.Sprintf("it waits for order %s, which has the resource %s and is held: "+
			"decide about that one (certmill show %[1]s), and when it has ended retry this one; "+
			"or hand this one in with another resource, or with any", is.Order, o.Resource),
			"certmill retry "+o.ID(), "certmill cancel "+o.ID())
	case errors.Is(why, ledger.ErrTaken) && goesOn(other):
		return pipeline.Wait(order.Wait{For: order.WaitForResource, What: is.Order, Till: time.Now().UTC().Add(time.Second)})
	case is.At.After(o.Received):
		return pipeline.Hold(fmt.Sprintf("order %s came first to the resource %s, which serves %s now%s: "+
			"hand this one in with another resource, or with any; once that is over, retry goes on with this one",
			is.Order, o.Resource, strings.Join(is.Names, " "), until(is.Till)),
			"certmill cancel "+o.ID(), "certmill retry "+o.ID())
	}
	return pipeline.Fail(order.Failure{Class: ClassInUse, Reason: why.Error(),
		Advice: "name another id, or 'any' for an unused one", Mend: true})
}

// resourceOf is who has an order's resource, and in which state that one is.
func resourceOf(ctx context.Context, l *ledger.Ledger, line *pipeline.Line, o order.Order) (is ledger.Owner, state order.State, err error) {
	if is, err = l.Owner(ctx, o.Main, o.Resource); err != nil || is.Order == "" {
		return is, "", err
	}
	other, err := line.Last(ctx, is.Order)
	switch {
	case errors.Is(err, pipeline.ErrUnreadable):
		return is, order.Submit, nil // it is there, for others to move
	case errors.Is(err, pipeline.ErrNoOrder):
		return is, "", nil
	}
	return is, other.State, err
}

// goesOn tells of an order's state that workers move it.
func goesOn(s order.State) bool { return s != "" && s != order.Held && !s.Final() }

// until is the end of a term, in a sentence; empty if it is not known.
func until(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " until " + t.UTC().Format(time.DateTime+" UTC")
}

// inUse: the look shows that somebody else started it, before our first call. One
// that was chosen is chosen anew, one that was named ends the order; unless this
// very order did, in a later visit while this one was frozen, or
// before the streams were put back to an earlier copy. Who calls notes the
// resource in the key store first: the record takes that number, which for an
// old visit is a transition that fails.
func (s *Submitter) inUse(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, st issuer.Status) (order.Order, error) {
	raised, err := s.used(o)
	if err != nil {
		return o, err
	}
	if raised.Resource == o.Resource {
		o.Attempt = raised.Attempt
		return o, nil
	}
	if err := seenStarted(ctx, s.Ledger, flow, o, st); err != nil {
		return o, again(err)
	}
	if !named(o.Request) {
		// The list that it was chosen from is old. It was called for nothing, and
		// whatever is on its way cannot start it once more.
		if _, err := s.Ledger.Release(ctx, o.Main, o.Resource, o.ID(), time.Now(), 0); err != nil {
			return o, err
		}
		// A crash here leaves a choice that the next visit claims again.
		gap.At(ctx, "start: choice given back")
		return s.chooseAnother(a, flow, o)
	}
	return o, pipeline.Fail(order.Failure{Class: ClassInUse,
		Reason: fmt.Sprintf("%s is in use already: the cloud says %q", o.Resource, st.Raw),
		Advice: "name another id, or 'any' for an unused one", Mend: true})
}
