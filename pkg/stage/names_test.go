package stage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// DESIGN 12.2: names that are in service are not bought again without a question,
// whatever the way of ordering. The question says which order, until when, and
// what an approval takes.
// DESIGN 12.2: in service is written before the order is issued, with its end.
func TestNamesInServiceAreHeld(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		label, cost string
	}{{"ali", "one more of the quota of " + plenty}, {"ten", "one more unused resource"}} {
		t.Run(tt.label, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			p := w.worker()
			for _, id := range []string{"a", "b"} {
				w.publish(order.Request{ID: id, Account: tt.label, Names: []string{"same.example.com"}})
			}
			first := p.drive("a", order.Issued)
			if take, _ := w.entry(first.Main, "same.example.com").Take("a"); take.End != ledger.TakeIssued || !take.NotAfter.Equal(first.Certificate.NotAfter) {
				t.Errorf("of an order that is issued the ledger says %+v", take)
			}
			p.drive("b", order.Held)
			o := w.wantHeld("b", "order a has a certificate for these names in service until "+first.Certificate.NotAfter.Format(time.DateTime), "certmill approve b")
			if o.Hold.Fact != order.FactInService("a", first.Certificate.NotAfter) || !strings.Contains(o.Hold.Reason, tt.cost) || o.Attempt != 0 || o.Resource != "" {
				t.Errorf("held for %q with attempt %d and resource %q: %s", o.Hold.Fact, o.Attempt, o.Resource, o.Hold.Reason)
			}
			w.wantPaid(1, "same.example.com")
			w.must(p.by.Approve(t.Context(), "b"))
			p.drive("b", order.Issued)
			w.wantPaid(2, "same.example.com")
		})
	}
}

// DESIGN 12.2: duplicates: allow lets sets pass that are in service; what was paid and
// failed it does not.
func TestDuplicatesAllowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	p.submit.Duplicates = true
	for _, id := range []string{"a", "b"} {
		w.publish(request(id, "same.example.com"))
		p.drive(id, order.Issued)
	}
	w.wantPaid(2, "same.example.com")
	w.publish(request("c", "c.refused.example"))
	p.drive("c", order.Failed)
	w.publish(request("d", "c.refused.example"))
	p.drive("d", order.Held)
	w.wantHeld("d", "order c for these names was paid", "certmill approve d")
}

// DESIGN 12.2: what was paid and failed, and is handed in anew every day, is bought
// once. Each new order is held, and says which order failed.
// DESIGN 12.2: a claim carries its end.
func TestPaidFailedAndHandedInDaily(t *testing.T) {
	t.Parallel()
	for label, names := range map[string]string{"ali": "a.refused.example", "ten": "b.refused.example"} {
		w := newWorld(t, setup{})
		p := w.worker()
		w.publish(order.Request{ID: "day-1", Account: label, Names: []string{names}})
		p.drive("day-1", order.Failed)
		for day := 2; day < 5; day++ {
			id := fmt.Sprint("day-", day)
			w.publish(order.Request{ID: id, Account: label, Names: []string{names}})
			p.drive(id, order.Held)
			if o := w.wantHeld(id, "certmill show day-1", "certmill approve "+id); o.Hold.Fact != order.FactPaidAndFailed("day-1") {
				t.Errorf("%s is held for %q", id, o.Hold.Fact)
			}
		}
		w.wantPaid(1, names)
	}
}

// An order of which nothing was paid leaves its names free.
// DESIGN 12.2: an order that ends without a certificate frees its names.
func TestNamesAreFreeAfterARefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.publish(order.Request{ID: "a", Account: "ali", Resource: "cas-cn-nobody", Names: []string{"same.example.com"}})
	p.drive("a", order.Failed)
	w.order("b", "same.example.com")
	p.drive("b", order.Issued)
	w.wantIssued("b")
}

// DESIGN 12.2: an approval carries the fact it answers and lets pass that fact
// only: that of a budget does not pass the names, and the other way round.
func TestApprovalPassesItsFactOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	p.submit.Budgets = stage.Budgets{States: w.states, Batches: map[string]int{"trial": 1}}
	for _, id := range []string{"a", "b"} {
		r := request(id, "same.example.com")
		r.Batch = "trial"
		w.publish(r)
	}
	p.drive("a", order.Verify)
	c := request("c", "other.example.com")
	c.Batch = "trial"
	w.publish(c)
	p.drive("c", order.Held)
	w.wantHeld("c", "is used up", "certmill approve c")
	w.must(p.by.Approve(t.Context(), "c"))
	w.publish(request("d", "other.example.com"))
	p.drive("d", order.Issued) // between the approval and c's next visit
	p.drive("c", order.Held)
	w.wantHeld("c", "order d has a certificate for these names in service", "certmill approve c")
	w.wantPaid(1, "other.example.com")

	p.drive("a", order.Issued)
	p.drive("b", order.Held)
	w.wantHeld("b", "order a has a certificate for these names in service", "certmill approve b")
	w.must(p.by.Approve(t.Context(), "b"))
	p.drive("b", order.Held)
	w.wantHeld("b", "is used up", "certmill approve b")
	w.wantPaid(1, "same.example.com")
	w.must(p.by.Approve(t.Context(), "b"))
	p.drive("b", order.Issued)
	w.wantPaid(2, "same.example.com")
}

// DESIGN 12.2: a successor passes the hold for its own predecessor, and waits while
// that one is under way. Others are held for it.
func TestSuccessorPassesItsPredecessor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	p := w.worker()
	p.drive("a", order.Issued)
	w.must(p.buyAgain("a"))
	p.drive("a-2", order.Verify)
	w.publish(request("b", "a.example.com"))
	if o := p.drive("b", order.Waiting); o.Wait.What != "a-2" {
		t.Errorf("b waits for %+v", o.Wait)
	}
	w.must(p.by.Cancel(t.Context(), "a-2"))
	p.drive("a-2", order.Failed)
	w.must(p.buyAgain("a-2"))
	p.drive("a-3", order.Issued) // past both
	p.drive("b", order.Held)
	w.wantHeld("b", "order a-3 has a certificate", "certmill approve b")
	w.wantPaid(3, "a.example.com")
}

// A held order ends by buy-again, which makes its successor first: that one waits
// for it and is not held for it.
func TestSuccessorOfAHeldOrderWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	heldPaid(w, "a", "a.example.com")
	p, died := w.dying("buy-again: successor made")
	p.survive(func() { _ = p.buyAgain("a") })
	if !died() {
		t.Fatal("it did not die")
	}
	p = w.worker()
	p.drive("a-2", order.Waiting)
	p.visit("a-2")
	if o := w.last("a-2"); o.State != order.Waiting || o.Wait.What != "a" {
		t.Errorf("the successor is %s", w.tell("a-2"))
	}
	w.must(p.buyAgain("a"))
	p.drive("a", order.Failed)
	p.drive("a-2", order.Issued)
	w.wantPaid(2, "a.example.com")
}

// DESIGN 12.1: an order has ended when its end is decided: one that was cancelled is
// handed in while it cleans up, its successor is made, and waits for its names.
func TestHandedInAgainWhileItCleansUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	r := order.Request{ID: "a", Account: "ali", Resource: "any", Names: []string{"a.example.com"}}
	w.publish(r)
	late := w.freezing("start: call noted")
	ended := late.freeze("a")
	p := w.worker()
	w.must(p.by.Cancel(t.Context(), "a"))
	for _, state := range []order.State{order.Collect, order.Waiting} {
		p.drive("a", state)
		r.ID, r.Again = "", "a"
		w.publish(r)
		if n := w.orders(); n != 2 {
			t.Errorf("with the order in %s, there are %d orders", state, n)
		}
	}
	p.drive("a-2", order.Waiting)
	p.visit("a-2")
	if o := w.last("a-2"); o.State != order.Waiting || o.Wait.For != order.WaitForNames || o.Wait.What != "a" {
		t.Errorf("while it cleans up, the successor is %s", w.tell("a-2"))
	}
	used := w.last("a").Resource
	late.thaw() // in time: the instance is started for the order that was given up
	<-ended
	p.drive("a", order.Failed)
	w.wantFailed("a", stage.ClassCancelled)
	p.drive("a-2", order.Issued)
	if o := w.wantIssued("a-2"); o.Resource == used || w.holder(aliUID, used) != "a" {
		t.Errorf("it has %s, and a had started %s, which is held by %q", o.Resource, used, w.holder(aliUID, used))
	}
}

// DESIGN 12.2: another account's open attempt is waited for: a set is one, whichever
// main account its orders are at. While one may have been bought at one account,
// nothing is bought for it at another; when nobody says so for twice the waiting time,
// a person is asked. The answer passes that attempt of that order, and no other.
func TestOneSetAtTwoAccounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "same.example.com")
	w.loses("reset_after_commit")
	p := w.worker()
	p.drive("a", order.Unsure)
	w.publish(order.Request{ID: "b", Account: "ten", Names: []string{"same.example.com"}})
	if o := p.drive("b", order.Waiting); o.Wait.What != "a" || !o.Wait.Open {
		t.Errorf("b waits for %+v", o.Wait)
	}
	p.waiter.Now = func() time.Time { return w.attempt("a").Opened.Add(2*waits.Total() - time.Second) }
	p.visit("b")
	if o := w.last("b"); o.State != order.Waiting {
		t.Errorf("before twice the waiting time: %s", w.tell("b"))
	}
	p.waiter.Now = func() time.Time { return w.attempt("a").Opened.Add(2*waits.Total() + time.Second) }
	p.drive("b", order.Held)
	if o := w.wantHeld("b", "attempt 1 at main account "+aliUID, "certmill approve b"); o.Hold.Fact != order.FactElsewhere(aliUID, "a", 1) {
		t.Errorf("held for %q", o.Hold.Fact)
	}
	other := w.last("b")
	other.Approvals = []string{order.FactElsewhere(aliUID, "z", 1), order.FactElsewhere(aliUID, "a", 2)}
	it, err := w.line.Last(t.Context(), "b")
	w.must(err)
	other.State, other.Hold = order.Submit, nil
	w.must(w.line.MoveByHand(t.Context(), it, other))
	p.drive("b", order.Held) // an approval of another attempt
	w.must(p.by.Approve(t.Context(), "b"))
	p.drive("b", order.Verify)
	if o := w.last("b"); o.Resource == "" {
		t.Errorf("let pass, it is %s", w.tell("b"))
	}
}

// Two orders for one set at two accounts: issued at one, it is in service for the
// other. An order that leaves the account open goes where the names are known.
func TestOneSetInServiceElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.publish(order.Request{ID: "a", Account: "ten", Names: []string{"same.example.com"}})
	w.publish(order.Request{ID: "b", Account: "ali", Names: []string{"same.example.com"}})
	p.drive("a", order.Verify)
	if o := p.drive("b", order.Waiting); o.Wait.What != "a" || o.Wait.Open {
		t.Errorf("b waits for %+v", o.Wait)
	}
	p.drive("a", order.Issued)
	p.drive("b", order.Held)
	w.wantHeld("b", "order a (main account "+tenUID+") has a certificate", "certmill approve b")
	for n := range 4 { // by their hash alone, some would go to the other account
		names := []string{fmt.Sprintf("s%d.example.com", n)}
		label := []string{"ali", "ten"}[n%2]
		id := fmt.Sprint("first", n)
		w.publish(order.Request{ID: id, Account: label, Names: names})
		p.driveTo(id, "at the ledger", func(o order.Order) bool { return o.State != order.Submit })
		w.publish(order.Request{ID: fmt.Sprint("open", n), Account: order.AnyAccount, Names: names})
		if o := w.last(fmt.Sprint("open", n)); o.Account != label {
			t.Errorf("names that %s knows went to %s", label, o.Account)
		}
	}
}

// DESIGN 12.2: both ways of ordering open the names' entry, the claiming one before
// its claim: two claiming orders for one set at Tencent take one certificate.
func TestTwoClaimingOrdersTakeOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	for _, id := range []string{"a", "b"} {
		w.publish(order.Request{ID: id, Account: "ten", Names: []string{"same.example.com"}})
	}
	p.driveTo("a", "about to start", func(o order.Order) bool { return o.Attempt == 1 })
	if o := p.drive("b", order.Waiting); o.Wait.For != order.WaitForNames || o.Wait.What != "a" || o.Resource != "" {
		t.Errorf("b has %q and waits for %+v", o.Resource, o.Wait)
	}
	p.drive("a", order.Issued)
	p.drive("b", order.Held)
	w.wantPaid(1, "same.example.com")
	for n := range 3 {
		if h := w.holder(tenUID, fmt.Sprint("stage", n)); h != "" && h != "a" {
			t.Errorf("stage%d is held by %q", n, h)
		}
	}
	// A third one, at the very moment: whoever comes second finds the names taken.
	w.publish(order.Request{ID: "c", Account: "ten", Names: []string{"more.example.com"}})
	w.publish(order.Request{ID: "d", Account: "ten", Names: []string{"more.example.com"}})
	slow := w.freezing("start: names taken")
	ended := slow.freeze("c")
	p.drive("d", order.Waiting)
	slow.thaw()
	<-ended
	p.drive("c", order.Issued)
	w.wantPaid(1, "more.example.com")
}

// DESIGN 12.4: a claim is given back only by a look that was taken a waiting time
// after its last call without a clear answer. Until then a cancelled order waits,
// and nobody else has the resource: a call that lands late lands on its own.
// DESIGN 12.4: a cancelled order waits until then.
func TestClaimIsKeptUntilALateCallCannotLand(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T) (w *world, late *frozen, ended <-chan struct{}, resource string) {
		w = newWorld(t, setup{})
		w.publish(order.Request{ID: "a", Account: "ali", Resource: "any", Names: []string{"a.example.com"}})
		late = w.freezing("start: call noted")
		ended = late.freeze("a")
		p := w.worker()
		w.must(p.by.Cancel(t.Context(), "a"))
		o := p.drive("a", order.Waiting)
		if !strings.Contains(o.Wait.What, "may still start it") || o.Wait.Then != order.Collect || w.holder(aliUID, o.Resource) != "a" {
			t.Errorf("it waits for %+v, and its instance is held by %q", o.Wait, w.holder(aliUID, o.Resource))
		}
		return w, late, ended, o.Resource
	}
	t.Run("it lands", func(t *testing.T) {
		t.Parallel()
		w, late, ended, resource := begin(t)
		w.publish(order.Request{ID: "b", Account: "ali", Resource: resource, Names: []string{"b.example.com"}})
		p := w.worker()
		p.drive("b", order.Waiting)
		late.thaw()
		<-ended
		w.later()
		p.drive("a", order.Failed)
		p.drive("b", order.Failed)
		w.wantFailed("b", stage.ClassInUse)
		w.wantPaid(1, "a.example.com")
		w.wantPaid(0, "b.example.com")
		if h := w.holder(aliUID, resource); h != "a" {
			t.Errorf("what it started is held by %q", h)
		}
		w.publish(request("c", "a.example.com"))
		p.drive("c", order.Held)
		w.wantHeld("c", "order a for these names was paid", "certmill approve c")
	})
	t.Run("it does not", func(t *testing.T) {
		t.Parallel()
		w, late, ended, resource := begin(t)
		noted, err := w.ledger.Owner(t.Context(), aliUID, resource)
		w.must(err)
		w.later()
		p := w.worker()
		p.drive("a", order.Failed)
		if h := w.holder(aliUID, resource); h != "" {
			t.Errorf("a waiting time later it is held by %q", h)
		}
		w.publish(order.Request{ID: "b", Account: "ali", Resource: resource, Names: []string{"b.example.com"}})
		p.driveTo("b", "about to start", func(o order.Order) bool { return o.Attempt == 1 })
		time.Sleep(time.Until(noted.Called.Add(waits.Entry + 1100*time.Millisecond))) // stamps are whole seconds
		late.thaw()
		<-ended
		p.drive("b", order.Issued)
		w.wantPaid(0, "a.example.com")
		w.wantPaid(1, "b.example.com")
	})
}

// unknowing is a flow whose cloud knows nothing that it is asked for.
type unknowing struct{ issuer.Flow }

func (unknowing) Look(context.Context, string) (issuer.Status, error) {
	return issuer.Status{}, &issuer.Error{Kind: issuer.NotFound, Err: errors.New("no such instance")}
}

// DESIGN 12.4 and 12.7: a resource whose call got no clear answer is given back by
// "there is no such thing" only where whoever is told so sees everything, or called
// himself.
func TestClaimIsNotGivenBackByAnotherCallersLook(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(order.Request{ID: "a", Account: "ali", Resource: "any", Names: []string{"a.example.com"}})
	p, died := w.dying("start: call noted")
	for range 20 {
		if !p.visit("a") {
			break
		}
	}
	resource := w.last("a").Resource
	w.must(w.worker().by.Cancel(t.Context(), "a"))
	w.later()
	own := w.accounts["ali"]
	w.accounts["ali"] = w.caller(aliUID, "LTAInarrow", "user", "333", "own")
	w.replaceFlow("ali", unknowing{w.accounts["ali"].Flow(dvAudit)})
	w.worker().drive("a", order.Held)
	w.wantHeld("a", "whether it was started nobody knows: account ali calls as 333", "certmill first-use ali")
	if h := w.holder(aliUID, resource); !died() || h != "a" {
		t.Errorf("died %v; another caller's look gave it back: it is held by %q", died(), h)
	}
	w.accounts["ali"] = own
	w.replaceFlow("ali", unknowing{own.Flow(dvAudit)})
	w.must(w.worker().by.Retry(t.Context(), "a"))
	w.worker().drive("a", order.Failed)
	if h := w.holder(aliUID, resource); h != "" {
		t.Errorf("the caller's own look did not: it is held by %q", h)
	}
}

// A clear answer to every call: nothing is waited for.
func TestClaimIsGivenBackAtOnceAfterClearAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(order.Request{ID: "a", Account: "ten", Names: []string{"a.example.com"}})
	w.fault(cloudsim.Fault{Action: orderSubmit, Kind: "throttle", Times: 1})
	p := w.worker()
	p.driveTo("a", "called", func(order.Order) bool { return w.calls(orderSubmit) == 1 })
	resource := w.last("a").Resource
	w.must(p.by.Cancel(t.Context(), "a"))
	p.visit("a")
	if o := w.last("a"); o.State != order.Failed || w.holder(tenUID, resource) != "" {
		t.Errorf("it is %s, and %s is held by %q", w.tell("a"), resource, w.holder(tenUID, resource))
	}
}

// Model finding F2: a worker that slept over the end of its order starts nothing
// for it, wherever it stood still.
func TestWorkerThatSleptStartsNothing(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"start: names taken", "ledger: resource claimed", "start: resource claimed", "start: materials in"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			w.publish(order.Request{ID: "x", Account: "ten", Names: []string{"same.example.com"}})
			slept := w.freezing(where)
			ended := slept.freeze("x")
			p := w.worker()
			w.must(p.by.Cancel(t.Context(), "x"))
			w.later()
			p.drive("x", order.Failed)
			w.publish(order.Request{ID: "y", Account: "ten", Names: []string{"same.example.com"}})
			p.drive("y", order.Verify)
			slept.thaw()
			<-ended
			w.wantPaid(1, "same.example.com")
			p.drive("y", order.Issued)
			for n := range 3 {
				if h := w.holder(tenUID, fmt.Sprint("stage", n)); h != "" && h != "y" {
					t.Errorf("stage%d is held by %q", n, h)
				}
			}
			if o := w.last("x"); o.State != order.Failed {
				t.Errorf("x is %s", o.State)
			}
		})
	}
}

// An order that ends has no claim and is about to say so, when a worker that slept
// claims something for it: that it ends was told before, by its collector.
func TestNothingIsClaimedBehindALook(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(order.Request{ID: "x", Account: "ten", Names: []string{"x.example.com"}})
	slept := w.freezing("start: names taken")
	ended := slept.freeze("x")
	it, err := w.line.Last(t.Context(), "x") // it ends by a transition alone, as of a worker
	w.must(err)
	ends := it.Order
	ends.State, ends.Failure = order.Collect, &order.Failure{Class: "rejected", Reason: "it ends"}
	w.must(w.line.MoveByHand(t.Context(), it, ends))
	resource := it.Resource
	looks := w.freezing("collect: given back")
	looked := looks.freeze("x")
	slept.thaw()
	<-ended
	looks.thaw()
	<-looked
	w.worker().drive("x", order.Failed)
	if h := w.holder(tenUID, resource); h != "" {
		t.Errorf("%s is held by %q", resource, h)
	}
}

// DESIGN 12.4: a resource stays with its names until its term ends, also while no
// order holds it: others are refused, and their renewal takes it over.
// DESIGN 12.4: their renewal takes it over.
func TestResourceInTheMiddleOfItsTerm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	const theirs = "cas-cn-stage1"
	w.claimed("x", theirs, "x.example.com")
	w.must(w.ledger.Started(t.Context(), aliUID, theirs, "x", time.Now().Add(100*24*time.Hour)))
	w.must(w.ledger.Issued(t.Context(), aliUID, []string{"x.example.com"}, "x", time.Now().Add(-80*24*time.Hour), time.Now().Add(20*24*time.Hour)))
	w.publish(order.Request{ID: "b", Account: "ali", Resource: theirs, Names: []string{"b.example.com"}})
	p.drive("b", order.Failed)
	if o := w.wantFailed("b", stage.ClassInUse); !strings.Contains(o.Failure.Reason, "stays with other names, x.example.com") {
		t.Errorf("failure %+v", o.Failure)
	}
	for n := range 2 {
		id := fmt.Sprint("any", n)
		w.publish(order.Request{ID: id, Account: "ali", Resource: "any", Names: []string{id + ".example.com"}})
		p.drive(id, order.Issued)
	}
	w.publish(order.Request{ID: "none", Account: "ali", Resource: "any", Names: []string{"none.example.com"}})
	if o := p.drive("none", order.Waiting); o.Wait.For != order.WaitForQuota {
		t.Errorf("it has %q and waits for %+v", o.Resource, o.Wait)
	}
	w.publish(order.Request{ID: "x-renewed", Account: "ali", Resource: "any", Names: []string{"x.example.com"}}) // due: no question
	p.drive("x-renewed", order.Issued)
	if o := w.wantIssued("x-renewed"); o.Resource != theirs {
		t.Errorf("their renewal has %s", o.Resource)
	}
}

// DESIGN 12.4: a follow-up certificate is never in the pool but its origin's: by
// the ledger, and for an origin that certmill did not start by what the cloud shows.
func TestFollowUpCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.publish(order.Request{ID: "a", Account: "ten", Names: []string{"a.example.com"}})
	all := []string{"stage0", "stage1", "stage2"}
	left := slices.DeleteFunc(all, func(id string) bool { return id == p.drive("a", order.Issued).Resource })
	w.startElsewhere("ten", orderSubmit, left[0], "c.example.com")
	w.must(w.sim.AddStock(cloudsim.Stock{Cloud: "tencent", UID: tenUID, Certificates: []cloudsim.Certificate{
		{ID: "next-of-a", Origin: w.last("a").Resource}, {ID: "next-of-c", Origin: left[0]}, {ID: "next-of-nobody", Origin: "gone"}}}))
	p = w.worker() // with an empty memory of the pool
	for n, id := range []string{"b0", "b1"} {
		w.publish(order.Request{ID: id, Account: "ten", Names: []string{id + ".example.com"}})
		p.driveTo(id, "started, or waiting", func(o order.Order) bool { return o.State != order.Submit })
		if o := w.last(id); n == 0 && o.Resource != left[1] || n == 1 && (o.State != order.Waiting || o.Wait.For != order.WaitForQuota) {
			t.Errorf("%s has %q: %s", id, o.Resource, w.tell(id))
		}
	}
	w.must(p.buyAgain("a"))
	w.publish(order.Request{ID: "c", Account: "ten", Names: []string{"c.example.com"}})
	p.submit.Duplicates = true
	for id, want := range map[string]string{"a-2": "next-of-a", "c": "next-of-c"} {
		p.driveTo(id, "chosen", func(o order.Order) bool { return o.Resource != "" || o.State != order.Submit })
		if o := w.last(id); o.Resource != want {
			t.Errorf("%s has %q, want %s: %s", id, o.Resource, want, w.tell(id))
		}
	}
}

// DESIGN 12.4: who starts a resource compares, before the irreversible call, that
// the materials which are in are its own. Others are overwritten; where the cloud
// goes on showing others, nothing is started.
func TestMaterialsAreComparedBeforeTheStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.at(func(_ context.Context, name string) {
		if name == "start: materials in" { // by a person in the console, say
			w.materials(w.last("a").Resource, "other.example.com")
		}
	})
	w.publish(order.Request{ID: "a", Account: "ten", Names: []string{"a.example.com"}})
	p.drive("a", order.Issued)
	w.wantPaid(1, "a.example.com")

	w.publish(order.Request{ID: "b", Account: "ten", Names: []string{"b.example.com"}})
	p = w.worker()
	p.driveTo("b", "about to start", func(o order.Order) bool { return o.Attempt == 1 })
	w.replaceFlow("ten", showing{w.accounts["ten"].Flow(orderSubmit).(certificateFlow), []string{"other.example.com"}})
	calls := w.calls(orderSubmit)
	p.drive("b", order.Held)
	w.wantHeld("b", "was not started: the cloud shows other materials in it than were handed in, it is for other.example.com, and this order for b.example.com", "certmill cancel b")
	if n := w.calls(orderSubmit); n != calls {
		t.Errorf("%d calls to start it", n-calls)
	}
}

// Materials of a worker that slept over the end of its order do not overwrite those
// of the order that has the resource by now, after that one has compared them.
func TestMaterialsThatComeLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(order.Request{ID: "x", Account: "ten", Resource: "stage0", Names: []string{"x.example.com"}})
	slept := w.freezing("start: call noted")
	ended := slept.freeze("x")
	noted, err := w.ledger.Owner(t.Context(), tenUID, "stage0")
	w.must(err)
	p := w.worker()
	w.must(p.by.Cancel(t.Context(), "x"))
	w.later()
	p.drive("x", order.Failed)
	w.publish(order.Request{ID: "y", Account: "ten", Resource: "stage0", Names: []string{"y.example.com"}})
	starts := w.freezing("start: number stored") // it has compared
	started := starts.freeze("y")
	time.Sleep(time.Until(noted.Called.Add(waits.Entry + 1100*time.Millisecond)))
	slept.thaw()
	<-ended
	starts.thaw()
	<-started
	p.drive("y", order.Issued)
	w.wantPaid(1, "y.example.com")
}

// DESIGN 12.4: who starts a resource compares, when it is seen started: materials that
// came in between the look and the call are another order's, whose certificate is not
// this one's.
func TestStartedForSomethingElse(t *testing.T) {
	t.Parallel()
	for how, fault := range map[string]string{"answered": "", "answer lost": "reset_after_commit"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			if fault != "" {
				w.fault(cloudsim.Fault{Action: orderSubmit, Kind: fault, Times: 1})
			}
			calls := 0
			p := w.at(func(_ context.Context, name string) {
				if name != "start: call noted" {
					return
				}
				if calls++; calls == 2 { // the first hands the materials in
					w.materials(w.last("a").Resource, "other.example.com")
				}
			})
			w.publish(order.Request{ID: "a", Account: "ten", Names: []string{"a.example.com"}})
			p.drive("a", order.Held)
			o := w.wantHeld("a", "was started for something else: it is for other.example.com, and this order for a.example.com", "certmill cancel a")
			w.must(p.by.Cancel(t.Context(), "a"))
			w.later()
			p.drive("a", order.Failed)
			if h := w.holder(tenUID, o.Resource); h != "" {
				t.Errorf("what serves other names is held by %q", h)
			}
			w.publish(request("b", "a.example.com"))
			w.worker().drive("b", order.Issued) // nothing was paid for these names
		})
	}
}

// The CSR is compared where the cloud shows it: the same names, and another key.
func TestCSRIsCompared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	calls := 0
	p := w.at(func(_ context.Context, name string) {
		if name != "start: call noted" {
			return
		}
		if calls++; calls == 2 {
			w.materials(w.last("a").Resource, "a.example.com")
		}
	})
	w.publish(order.Request{ID: "a", Account: "ten", Names: []string{"a.example.com"}})
	p.drive("a", order.Held)
	w.wantHeld("a", "its CSR is for key", "certmill cancel a")
	w.must(p.by.Cancel(t.Context(), "a"))
	w.later()
	p.drive("a", order.Failed)
	// No list was read since, and nothing is bought for these names without a question.
	w.publish(request("b", "a.example.com"))
	p = w.worker()
	p.drive("b", order.Held)
	w.wantHeld("b", "no ledger entry claims it", "certmill approve b")
}

// What is in service is bought again by nobody unasked: an order that comes upon it with
// another key, after a lost JetStream, gives it back as it found it.
func TestGivenBackAsItWasFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	names := []string{"a.example.com"}
	r := order.Request{ID: "a", Account: "ten", Names: names}
	w.publish(r)
	w.worker().drive("a", order.Issued)
	r.Key = "rsa-2048" // a column was changed
	for _, sweptMeanwhile := range []bool{false, true} {
		n := w.afterWipe()
		n.sweepFirst()
		n.publish(r)
		p := n.worker()
		p.drive("a", order.Held)
		if sweptMeanwhile {
			n.must(p.waiter.Surplus(t.Context(), n.accounts["ten"]))
		}
		n.must(p.by.Cancel(t.Context(), "a"))
		n.later()
		p.drive("a", order.Failed)
		n.publish(order.Request{ID: "b", Account: "ten", Names: names})
		p = n.worker()
		p.drive("b", order.Held)
		n.wantHeld("b", "no ledger entry claims it", "certmill approve b")
		n.wantPaid(1, names...)
	}
}

// An instance shows what it was started for in the list of bought orders alone.
func TestInstanceStartedForOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(order.Request{ID: "a", Account: "ali", Resource: "cas-cn-stage0", Names: []string{"a.example.com"}})
	p := w.worker()
	p.driveTo("a", "about to start", func(o order.Order) bool { return o.Attempt == 1 })
	w.startElsewhere("ali", dvAudit, "cas-cn-stage0", "elsewhere.example.com")
	p.drive("a", order.Held)
	w.wantHeld("a", "it is for elsewhere.example.com, and this order for a.example.com", "certmill cancel a")
	w.must(p.by.Cancel(t.Context(), "a"))
	p.drive("a", order.Failed)
	w.wantPaid(0, "a.example.com")
}

// DESIGN 12.6: nothing is started before the mark of its account.
func TestNothingIsStartedBeforeTheFirstSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	w.publish(order.Request{ID: "a", Account: "ten", Names: []string{"a.example.com"}})
	p := w.worker()
	if o := p.drive("a", order.Waiting); o.Wait.For != order.WaitForSweep || o.Resource != "" {
		t.Errorf("it has %q and waits for %+v", o.Resource, o.Wait)
	}
	w.sweepFirst()
	p.drive("a", order.Issued)
}

// materials hands materials in past certmill, for names and with a key of their
// own.
func (w *world) materials(resource string, names ...string) {
	w.t.Helper()
	f := w.accounts["ten"].Flow(orderSubmit).(issuer.Preparer)
	w.must(f.Prepare(w.t.Context(), issuer.Application{Resource: resource, Names: names, CSR: issuertest.CSR(w.t, names...),
		Validation: order.DNS, Contact: w.accounts["ten"].Contact}))
}

// certificateFlow is what the flow of bought certificates can do.
type certificateFlow interface {
	issuer.Flow
	issuer.Preparer
	issuer.Kicker
	issuer.Finder
	issuer.Pool
	issuer.AllLister
}

// showing is a flow at a cloud that shows other names than were handed in.
type showing struct {
	certificateFlow
	names []string
}

func (f showing) Look(ctx context.Context, id string) (issuer.Status, error) {
	st, err := f.certificateFlow.Look(ctx, id)
	st.Names = slices.Clone(f.names)
	return st, err
}

// DESIGN 12.2: an approval carries the fact it answers: what a person read is
// approved, and not what the order is held for by the time that the verb is given.
func TestAnApprovalIsOfTheHoldThatWasSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ctx, p := t.Context(), w.worker()
	p.submit.Budgets = stage.Budgets{States: w.states, Batches: map[string]int{"trial": 1}}
	for _, id := range []string{"a", "c"} {
		r := request(id, id+".example.com")
		r.Batch = "trial"
		w.publish(r)
	}
	p.drive("a", order.Verify)
	p.drive("c", order.Held)
	seen := w.last("c").Hold.Fact
	w.publish(request("d", "c.example.com"))
	p.drive("d", order.Issued)
	w.must(p.by.Retry(ctx, "c"))
	p.drive("c", order.Held)
	now := w.wantHeld("c", "order d has a certificate for these names in service", "certmill approve c").Hold.Fact
	for _, other := range []string{seen, "", now + "\n" + seen} {
		w.wantNotNow("c", p.by.Operator.Approve(ctx, "c", other), "certmill show c")
	}
	if o := w.last("c"); o.State != order.Held || len(o.Approvals) > 0 {
		t.Errorf("%s, approved: %q", o.State, o.Approvals)
	}
	w.must(p.by.Operator.Approve(ctx, "c", now))
	p.drive("c", order.Held)
	w.wantHeld("c", "is used up", "certmill approve c")
	w.wantPaid(1, "c.example.com")
}
