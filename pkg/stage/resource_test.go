package stage_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/stage"
)

const hour = time.Hour

// holder is which order has a resource.
func (w *world) holder(main, id string) string {
	w.t.Helper()
	r, err := w.ledger.Owner(w.t.Context(), main, id)
	w.must(err)
	return r.Order
}

// claimed gives a resource of "ali" to an order that is nowhere but in the ledger.
func (w *world) claimed(id, resource string, names ...string) {
	w.t.Helper()
	w.claimedAt(aliUID, id, resource, names...)
}

func (w *world) claimedAt(main, id, resource string, names ...string) {
	w.t.Helper()
	e, now := w.entry(main, names...), time.Now()
	w.must(w.ledger.Take(w.t.Context(), e, id, resource, e.Decision(id, now)))
	w.must(w.ledger.Claim(w.t.Context(), e, resource, id, 1, e.Decision(id, now)))
}

// startElsewhere applies with a resource past certmill.
func (w *world) startElsewhere(label, op, resource string, names ...string) {
	w.t.Helper()
	f := w.accounts[label].Flow(op)
	app := issuer.Application{Names: names, Resource: resource, Validation: order.DNS, Contact: w.accounts[label].Contact}
	if op == orderSubmit {
		app.CSR = issuertest.CSR(w.t, names...)
	}
	_, err := issuertest.Submit(w.t, f, app, issuertest.Fence())
	w.must(err)
}

// Named and "any" at both clouds: issued, with a claim that stays.
func TestResources(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, r := range []order.Request{
		{ID: "ali-named", Account: "ali", Resource: "cas-cn-stage1"},
		{ID: "ali-any", Account: "ali", Resource: "any"},
		{ID: "ten-named", Account: "ten", Resource: "stage1"},
		{ID: "ten-any", Account: "ten", Resource: "any"},
		{ID: "ten-open", Account: "ten"},
	} {
		r.Names = []string{r.ID + ".example.com"}
		w.publish(r)
		w.worker().drive(r.ID, order.Issued)
		o := w.wantIssued(r.ID)
		if o.Resource == "" || o.CloudID != o.Resource || w.holder(o.Main, o.Resource) != r.ID {
			t.Errorf("%s: resource %q, held by %q", r.ID, o.Resource, w.holder(o.Main, o.Resource))
		}
		if named := r.Resource; named != "any" && named != "" && o.Resource != named {
			t.Errorf("%s has %s", r.ID, o.Resource)
		}
	}
}

// A named resource of another order, of another program, or of nobody.
func TestNamedResourceThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.publish(order.Request{ID: "first", Account: "ali", Resource: "cas-cn-stage0", Names: []string{"first.example.com"}})
	p.drive("first", order.Verify)
	w.startElsewhere("ali", dvAudit, "cas-cn-stage1", "elsewhere.example.com")
	p.drive("first", order.Issued)
	for id, c := range map[string]struct{ instance, class, says string }{
		"taken":   {"cas-cn-stage0", stage.ClassInUse, "stays with other names, first.example.com"},
		"in-use":  {"cas-cn-stage1", stage.ClassInUse, "in use already"},
		"unknown": {"cas-cn-nobody", stage.ClassRejected, "does not know cas-cn-nobody"},
	} {
		w.publish(order.Request{ID: id, Account: "ali", Resource: c.instance, Names: []string{id + ".example.com"}})
		p.drive(id, order.Failed)
		if o := w.wantFailed(id, c.class); !strings.Contains(o.Failure.Reason, c.says) || o.Failure.Advice == "" {
			t.Errorf("%s: %+v", id, o.Failure)
		}
	}
	if h := w.holder(aliUID, "cas-cn-stage0"); h != "first" {
		t.Errorf("cas-cn-stage0 is held by %q", h)
	}
	if h := w.holder(aliUID, "cas-cn-stage1"); h != "" {
		t.Errorf("cas-cn-stage1 was not given back: %q", h)
	}
}

// Of two orders for one resource the one that comes later to it waits, whichever was
// handed in first, and has it where the other gives it back. Where that one has it for
// good it is held with what helps: it was ordered when the resource could be had.
func TestTwoOrdersForOneResource(t *testing.T) {
	t.Parallel()
	for label, resource := range map[string]string{"ali": "cas-cn-stage0", "ten": "stage0"} {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			p := w.worker()
			for _, id := range []string{"first", "second"} {
				w.publish(order.Request{ID: id, Account: label, Resource: resource, Names: []string{id + ".example.com"}})
			}
			p.driveTo("second", "about to start", func(o order.Order) bool { return o.Attempt == 1 })
			if o := p.drive("first", order.Waiting); o.Wait.For != order.WaitForResource || o.Wait.What != "second" {
				t.Fatalf("it waits for %+v", o.Wait)
			}
			p.visit("first")
			if o := w.last("first"); o.State != order.Waiting {
				t.Errorf("while the other goes on it is %s", w.tell("first"))
			}
			w.must(p.by.Cancel(t.Context(), "second"))
			p.drive("second", order.Failed)
			p.drive("first", order.Issued)
			if o := w.wantIssued("first"); o.Resource != resource {
				t.Errorf("it has %s", o.Resource)
			}
			w.wantPaid(0, "second.example.com")
		})
	}
	t.Run("it is gone", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setup{})
		p := w.worker()
		for _, id := range []string{"first", "second"} {
			w.publish(order.Request{ID: id, Account: "ten", Resource: "stage0", Names: []string{id + ".example.com"}})
		}
		p.drive("second", order.Verify)
		p.drive("first", order.Waiting)
		p.drive("second", order.Issued)
		p.drive("first", order.Held)
		o := w.wantHeld("first", "order second came first to the resource stage0, which serves second.example.com now until", "certmill cancel first")
		if st := w.entry(tenUID, "first.example.com").Standing("other", "", time.Now()); o.Resource != "" || st.Is != ledger.Free {
			t.Errorf("it has %q, and its names are %+v", o.Resource, st)
		}
		w.publish(order.Request{ID: "other", Account: "ten", Names: []string{"first.example.com"}})
		p.drive("other", order.Issued)
	})
	t.Run("the other is held", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setup{})
		p := w.worker()
		for _, id := range []string{"first", "second"} {
			w.publish(order.Request{ID: id, Account: "ten", Resource: "stage0", Names: []string{id + ".example.com"}})
		}
		p.driveTo("second", "about to start", func(o order.Order) bool { return o.Attempt == 1 })
		w.startElsewhere("ten", orderSubmit, "stage0", "elsewhere.example.com")
		p.drive("second", order.Held)
		p.drive("first", order.Held)
		w.wantHeld("first", "it waits for order second, which has the resource stage0 and is held", "certmill retry first")
	})
}

// An empty pool is exhausted quota: the order waits, and takes what is bought.
func TestEmptyPool(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	for _, id := range []string{"a", "b", "c", "d"} {
		w.publish(order.Request{ID: id, Account: "ten", Names: []string{id + ".example.com"}})
		p.driveTo(id, "started, or waiting", func(o order.Order) bool { return o.State != order.Submit })
	}
	if o := w.last("d"); o.State != order.Waiting || o.Wait.For != order.WaitForQuota {
		t.Fatalf("d is %s", w.tell("d"))
	}
	w.must(w.sim.AddStock(cloudsim.Stock{Cloud: "tencent", UID: tenUID, Certificates: []cloudsim.Certificate{{ID: "more"}}}))
	w.worker().drive("d", order.Issued)
	if o := w.wantIssued("d"); o.Resource != "more" {
		t.Errorf("d has %s", o.Resource)
	}
}

// A start whose answer was lost is looked at, and not sent again if it landed.
func TestStartIsRepeatedAfterALook(t *testing.T) {
	t.Parallel()
	for label, op := range map[string]string{"ali": dvAudit, "ten": orderSubmit} {
		for kind, calls := range map[string]int{"reset_after_commit": 1, "reset_before_commit": 2, "throttle": 2} {
			t.Run(label+" "+kind, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, setup{})
				w.fault(cloudsim.Fault{Action: op, Kind: kind, Times: 1})
				r := order.Request{ID: "a", Account: label, Names: []string{"a.example.com"}}
				if label == "ali" {
					r.Resource = "any"
				}
				w.publish(r)
				w.worker().drive("a", order.Issued)
				w.wantIssued("a")
				w.wantPaid(1, "a.example.com")
				if n := w.calls(op); n != calls {
					t.Errorf("%d calls, want %d", n, calls)
				}
			})
		}
	}
}

// A cancelled order gives back what it did not start, and keeps what it did.
func TestCancelGivesTheResourceBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.publish(order.Request{ID: "free", Account: "ali", Resource: "cas-cn-stage0", Names: []string{"free.example.com"}})
	p.driveTo("free", "claimed", func(o order.Order) bool { return w.holder(aliUID, "cas-cn-stage0") == "free" })
	w.must(p.by.Cancel(t.Context(), "free"))
	p.drive("free", order.Failed)
	if h := w.holder(aliUID, "cas-cn-stage0"); h != "" {
		t.Errorf("held by %q", h)
	}
	w.publish(order.Request{ID: "started", Account: "ali", Resource: "cas-cn-stage1", Names: []string{"started.example.com"}})
	p.drive("started", order.Verify)
	w.must(p.by.Cancel(t.Context(), "started"))
	p.drive("started", order.Failed)
	if h := w.holder(aliUID, "cas-cn-stage1"); h != "started" {
		t.Errorf("held by %q", h)
	}
}

// What was given back may be somebody else's by the time the order is retried:
// it must not take what it did not start.
func TestRetryDoesNotTakeWhatAnotherProgramStarted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.publish(order.Request{ID: "a", Account: "ali", Resource: "cas-cn-stage0", Names: []string{"a.example.com"}})
	p.driveTo("a", "about to start", func(o order.Order) bool { return o.Attempt == 1 })
	w.must(p.by.Cancel(t.Context(), "a"))
	p.drive("a", order.Failed)
	w.startElsewhere("ali", dvAudit, "cas-cn-stage0", "elsewhere.example.com")
	w.must(p.by.Retry(t.Context(), "a"))
	p.drive("a", order.Failed)
	w.wantFailed("a", stage.ClassInUse)
}

// The same after a start that the cloud refused.
func TestRetryAfterARefusedStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.must(w.sim.AddStock(cloudsim.Stock{Cloud: "aliyun", UID: aliUID, Instances: []cloudsim.Instance{{ID: "one", Domains: 1}}}))
	w.publish(order.Request{ID: "a", Account: "ali", Resource: "one", Names: []string{"a.example.com", "b.example.com"}})
	p.drive("a", order.Failed)
	w.wantFailed("a", stage.ClassRejected)
	if h := w.holder(aliUID, "one"); h != "" {
		t.Errorf("held by %q", h)
	}
	w.startElsewhere("ali", dvAudit, "one", "elsewhere.example.com")
	w.must(p.by.Retry(t.Context(), "a"))
	p.drive("a", order.Failed)
	w.wantFailed("a", stage.ClassInUse)
}

// Buying again with "any" takes another resource, one that is free.
func TestBuyAgainWithAnotherResource(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.publish(order.Request{ID: "a", Account: "ten", Names: []string{"a.refused.example"}})
	p.drive("a", order.Failed)
	first := w.wantFailed("a", stage.ClassReview)
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.RefuseNames = []string{"other.example"} }))
	w.must(p.buyAgain("a"))
	p = w.worker() // with an empty memory of the pool
	p.drive("a-2", order.Issued)
	if o := w.wantIssued("a-2"); o.Resource == first.Resource || w.holder(tenUID, first.Resource) != "a" {
		t.Errorf("it has %s, before %s", o.Resource, first.Resource)
	}
}

// After a lost JetStream an order on something already bought takes up the one
// that it had started, and does not use up another.
func TestResourceAfterAWipe(t *testing.T) {
	t.Parallel()
	for _, r := range []order.Request{{Account: "ali", Resource: "any"}, {Account: "ten"}} {
		t.Run(r.Account, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			r := r
			r.ID, r.Names = "a", []string{"a.example.com"}
			w.publish(r)
			was := w.worker().drive("a", order.Verify).Resource
			n := w.afterWipe()
			n.sweepFirst()
			n.publish(r)
			n.worker().drive("a", order.Issued)
			if o := n.wantIssued("a"); o.Resource != was {
				t.Errorf("it used %s, and then %s", was, o.Resource)
			}
			n.wantPaid(1, "a.example.com")
		})
	}
}

// A visit that froze before the first call and wakes after another visit of the
// same order made it sees the resource in use: by its own order, which keeps it.
func TestLateVisitLeavesItsOrdersResourceAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, r := range []order.Request{{ID: "ali", Account: "ali", Resource: "any"}, {ID: "ten", Account: "ten"}} {
		r.Names = []string{r.ID + ".example.com"}
		w.publish(r)
		late := w.freezing("start: resource claimed")
		ended := late.freeze(r.ID)
		o := w.worker().drive(r.ID, order.Verify)
		late.thaw()
		<-ended
		if h := w.holder(o.Main, o.Resource); h != r.ID {
			t.Errorf("%s: its resource is held by %q", r.ID, h)
		}
		if n, err := w.keys.Number(w.ref(r.ID)); err != nil || n.Resource != o.Resource {
			t.Errorf("%s: the key store knows %+v, %v", r.ID, n, err)
		}
		w.worker().drive(r.ID, order.Issued)
		w.wantIssued(r.ID)
	}
}

// The permit for the materials comes before the note of their call: an order that waits
// for it behind many others, for longer than a note stands, sends them all the same.
func TestPermitComesBeforeTheNoteOfTheMaterials(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{permits: func(k permit.Key) permit.Limit {
		l := permit.Limit{Calls: 500, Period: 10 * time.Millisecond, Deadline: 3 * waits.Entry}
		if k.Action == "CertificateInfoSubmit" {
			l.Calls = 1
		}
		return l
	}})
	w.publish(order.Request{ID: "a", Account: "ten", Resource: "stage1", Names: []string{"a.example.com"}})
	p := w.worker()
	p.driveTo("a", "chosen and decided", func(o order.Order) bool { return o.Resource != "" && !o.Taken.IsZero() })
	_, release, err := w.accounts["ten"].Flow(orderSubmit).(issuer.Preparer).ReservePrepare(t.Context())
	w.must(err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.driveTo("a", "with a number", func(o order.Order) bool { return o.Attempt == 1 })
	}()
	time.Sleep(waits.Entry + 200*time.Millisecond)
	if is, err := w.ledger.Owner(t.Context(), tenUID, "stage1"); err != nil || is.Order != "a" || !is.Called.IsZero() {
		t.Errorf("while it waits: %+v, %v", is, err)
	}
	release()
	<-ended
	if tl := w.tell("a"); strings.Contains(tl, "never sent") {
		t.Error(tl)
	}
	p.drive("a", order.Issued)
}

// Put back to a copy from between the choice and the first call, an order knows
// its instance and not that it started it; the key store does.
func TestResourceAfterARestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	r := order.Request{ID: "a", Names: []string{"a.example.com"}, Account: "ali", Resource: "any"}
	w.publish(r)
	p := w.worker()
	early := p.drive("a", order.Submit)
	for early.Resource == "" {
		p.visit("a")
		early = w.last("a")
	}
	if early.Attempt != 0 {
		t.Fatalf("attempt %d", early.Attempt)
	}
	p.drive("a", order.Verify)
	n := w.afterWipe()
	n.sweepFirst()
	_, err := n.line.Create(t.Context(), early)
	w.must(err)
	n.worker().drive("a", order.Issued)
	if o := n.wantIssued("a"); o.Resource != early.Resource {
		t.Errorf("it used %s, and then %s", early.Resource, o.Resource)
	}
	n.wantPaid(1, "a.example.com")
}

// Put back to a copy from before an order chose another resource, because its first
// choice was another order's, it uses the one that it has started: the key store knows
// that, and it is not forgotten for the record's choice.
func TestAnOlderCopysChoice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(order.Request{ID: "a", Names: []string{"a.example.com"}, Account: "ten", Resource: order.AnyResource})
	p := w.worker()
	early := p.driveTo("a", "chosen", chosen)
	other := order.Request{ID: "b", Names: []string{"b.example.com"}, Account: "ten", Resource: early.Resource}
	w.publish(other)
	p.drive("b", order.Issued)
	p.drive("a", order.Issued)
	used := w.wantIssued("a").Resource
	if early.Attempt != 0 || used == early.Resource {
		t.Fatalf("attempt %d, resource %s and then %s", early.Attempt, early.Resource, used)
	}
	n := w.afterWipe()
	n.sweepFirst()
	n.publish(other)
	q := n.worker()
	q.drive("b", order.Issued)
	_, err := n.line.Create(t.Context(), early)
	w.must(err)
	q.drive("a", order.Issued)
	if o := n.wantIssued("a"); o.Resource != used || o.CloudID != used {
		t.Errorf("it used %s, and then %s (%s)", used, o.Resource, o.CloudID)
	}
	n.wantPaid(1, "a.example.com")
}

// Nobody has used the first choice: the other order only claimed it, and the lost
// JetStream has taken that claim with it. What is unused again is not used besides
// what the order has started, which is not issued yet: no key tells whose that is.
func TestAnOlderCopysChoiceIsUnusedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(order.Request{ID: "a", Names: []string{"a.example.com"}, Account: "ten", Resource: order.AnyResource})
	p := w.worker()
	early := p.driveTo("a", "chosen", chosen)
	w.claimedAt(tenUID, "b", early.Resource, "b.example.com")
	p.drive("a", order.Verify)
	used := w.last("a").Resource
	if used == early.Resource {
		t.Fatalf("it used %s, which another order has claimed", used)
	}
	n := w.afterWipe()
	n.sweepFirst()
	_, err := n.line.Create(t.Context(), early)
	w.must(err)
	n.worker().drive("a", order.Issued)
	if o := n.wantIssued("a"); o.Resource != used || o.CloudID != used {
		t.Errorf("it used %s, and then %s (%s)", used, o.Resource, o.CloudID)
	}
	n.wantPaid(1, "a.example.com")
}

// The other way about: the copy of the ledger has the claim of the order that chose the
// resource first, and not that of the one that started it in the life that is lost. That
// one waits until the claim is given back, and uses no other.
func TestAnOlderCopysClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, id := range []string{"a", "b"} {
		w.publish(order.Request{ID: id, Names: []string{id + ".example.com"}, Account: "ten", Resource: order.AnyResource})
	}
	p := w.worker()
	early, used := p.driveTo("a", "chosen", chosen), map[string]string{}
	for _, id := range []string{"a", "b"} {
		p.drive(id, order.Issued)
		used[id] = w.wantIssued(id).Resource
	}

	n := w.afterWipe()
	n.sweepFirst()
	n.claimedAt(tenUID, "a", used["b"], "a.example.com")
	early.Resource = used["b"]
	_, err := n.line.Create(t.Context(), early)
	w.must(err)
	n.publish(order.Request{ID: "b", Names: []string{"b.example.com"}, Account: "ten", Resource: order.AnyResource})
	q := n.worker()
	q.drive("b", order.Waiting)
	if o := n.last("b"); o.Wait.For != order.WaitForResource || o.Wait.What != "a" {
		t.Errorf("b waits for %+v", o.Wait)
	}
	q.drive("a", order.Issued)
	q.drive("b", order.Issued)
	for id, resource := range used {
		if o := n.wantIssued(id); o.Resource != resource {
			t.Errorf("%s used %s, and then %s", id, resource, o.Resource)
		}
		n.wantPaid(1, id+".example.com")
	}
}

// A key store put back from an older copy knows an order's pair and not which resource it
// used: a certificate with its key is adopted, also where the worker dies behind that.
func TestALeftOverOfAClaimingOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(order.Request{ID: "a", Names: []string{"a.example.com"}, Account: "ten", Resource: order.AnyResource})
	p := w.worker()
	early := p.driveTo("a", "chosen", chosen)
	p.drive("a", order.Issued)
	used := w.wantIssued("a").Resource

	n := w.afterWipe()
	n.store = t.TempDir()
	w.must(os.CopyFS(n.store, os.DirFS(w.store)))
	numbers, err := filepath.Glob(filepath.Join(n.store, "*", "a", "attempt-*"))
	if err != nil || len(numbers) != 1 {
		t.Fatalf("%v, %v", numbers, err)
	}
	w.must(os.Remove(numbers[0]))
	n.keys, err = certstore.OpenKeyStore(n.store)
	w.must(err)
	n.sweepFirst()
	early.Resource, early.Taken = "", time.Time{}
	_, err = n.line.Create(t.Context(), early)
	w.must(err)
	q, died := n.dying("submit: left-over adopted")
	for !died() {
		q.visit("a")
	}
	n.worker().drive("a", order.Issued)
	if o := n.wantIssued("a"); o.CloudID != used {
		t.Errorf("it used %s, and then %s", used, o.CloudID)
	}
	n.wantServed("a", used)
	n.wantPaid(1, "a.example.com")
}

// wantServed checks that a resource serves an issued order until its certificate ends,
// by the record and by the ledger.
func (w *world) wantServed(id, resource string) {
	w.t.Helper()
	o := w.wantIssued(id)
	is, err := w.ledger.Owner(w.t.Context(), o.Main, resource)
	if w.must(err); o.Resource != resource || is.Order != id || !is.Till.Equal(o.Certificate.NotAfter) {
		w.t.Errorf("order %s has %s, and %s is %s's until %s, want %s", id, o.Resource, resource, is.Order, is.Till, o.Certificate.NotAfter)
	}
}

// adoptsAnother makes an order that has the claim on one instance, and for which a
// person adopts another one, started elsewhere.
func adoptsAnother(w *world) {
	resource(order.Request{Account: "ali", Resource: "cas-cn-stage1"})(w)
	w.startElsewhere("ali", dvAudit, "cas-cn-stage0", crashName)
	p := w.worker()
	o := p.driveTo("a", "chosen", chosen)
	w.claimed("a", o.Resource, crashName)
	it, err := w.line.Last(w.t.Context(), "a")
	w.must(err)
	o.State, o.Hold = order.Held, &order.Hold{Reason: "for the test", From: order.Submit, Commands: []string{"certmill adopt a cas-cn-stage0"}}
	w.must(w.line.MoveByHand(w.t.Context(), it, o))
	w.must(p.by.Adopt(w.t.Context(), "a", "cas-cn-stage0"))
}

// An order that adopts another cloud order than it had chosen gives its choice back: it
// serves nobody, and another order may use it.
func TestAnOrderThatAdoptsGivesItsChoiceBack(t *testing.T) {
	t.Parallel()
	for _, ends := range []order.State{order.Issued, order.Failed} {
		w := newWorld(t, setup{})
		adoptsAnother(w)
		p := w.worker()
		if ends == order.Failed {
			w.must(p.by.Cancel(t.Context(), "a"))
		}
		p.drive("a", ends)
		if h := w.holder(aliUID, "cas-cn-stage1"); h != "" {
			t.Errorf("%s: what it had chosen is held by %q", ends, h)
		}
		if h := w.holder(aliUID, "cas-cn-stage0"); h != "a" {
			t.Errorf("%s: what it adopted is held by %q", ends, h)
		}
		if ends == order.Issued {
			w.wantServed("a", "cas-cn-stage0")
		}
	}
}

// A named resource brings one certificate. Who buys its order again is told so, and
// what to write; a successor that names it all the same (a build before this one made
// such) ends without taking it from its predecessor, and nobody adopts it.
// DESIGN 12.4: a resource stays with its names until its term ends.
func TestANamedResourceIsUsedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	r := order.Request{ID: "a", Account: "ali", Resource: "cas-cn-stage0", Names: []string{"a.example.com"}}
	w.publish(r)
	p.drive("a", order.Issued)
	w.wantNotNow("a", p.buyAgain("a"), "it has used up")
	w.publish(order.Request{ID: "other", Account: "ali", Resource: "cas-cn-nobody", Names: []string{"other.example.com"}})
	p.drive("other", order.Failed)
	in, err := (stage.Preflight{Ledger: w.ledger, Line: w.line, Now: time.Now}).HandIns(t.Context(), []order.Request{{ID: "a", Again: order.AgainLast, Account: "ali", Resource: r.Resource, Names: r.Names}})
	if err != nil || in[0].Refused == nil || !strings.Contains(in[0].Refused.Error(), `was used up by order "a"`) {
		t.Errorf("handed in again: %+v, %v", in, err)
	}

	of, err := w.line.Last(t.Context(), "a")
	w.must(err)
	next, _, err := stage.Succession{Line: w.line}.Make(t.Context(), of.Order, func() order.Order {
		o := order.Order{V: of.V, Request: of.Request, Hash: of.Hash, Received: time.Now().UTC(), State: order.Submit,
			Account: of.Account, Main: of.Main, Operation: of.Operation, Product: of.Product, Purchase: 1}
		o.Tell(order.Event{At: o.Received, State: order.Submit})
		return o
	})
	w.must(err)
	p.drive(next.ID(), order.Failed)
	w.wantFailed(next.ID(), stage.ClassInUse)
	if h := w.holder(aliUID, r.Resource); h != "a" {
		t.Errorf("the resource of a is held by %q", h)
	}
	w.wantNotNow("other", p.by.Adopt(t.Context(), "other", r.Resource), "it is for a.example.com")
	w.must(p.by.Retry(t.Context(), next.ID()))
	p.drive(next.ID(), order.Failed)
	w.wantFailed(next.ID(), stage.ClassInUse)
	w.startElsewhere("ali", dvAudit, "cas-cn-stage1", "elsewhere.example.com")
	w.wantNotNow("other", p.by.Adopt(t.Context(), "other", "cas-cn-stage1"), "it is for elsewhere.example.com")
	if h := w.holder(aliUID, "cas-cn-stage1"); h != "" {
		t.Errorf("adopted by %q", h)
	}
	w.publish(order.Request{ID: "bought", Account: "ali", Names: []string{"elsewhere.example.com"}, Contact: order.Contact{Phone: "010.1234567"}})
	w.sweepFirst()
	w.worker().driveTo("bought", "at rest", func(o order.Order) bool { return o.State == order.Failed || o.State == order.Held })
	w.wantNotNow("bought", p.by.Adopt(t.Context(), "bought", "cas-cn-stage1"), "cas-cn-stage1 is there")
}
