package stage_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
)

// crash is one gap: how a worker comes there, and how the order ends when
// another takes over. Every gap of the package has a line in the table.
type crash struct {
	gap      string
	make     func(w *world)            // makes order "a", and brings it near the gap
	do       func(p *worker)           // what the worker dies over; nil: driving the order
	ends     order.State               // how the order ends
	paid     int                       // by orders of certmill
	unmarked bool                      // no first sweep was made yet
	then     func(w *world, p *worker) // what a person does after the crash, if anything
}

const crashName = "a.example.com"

func purchase(w *world) { w.order("a", crashName) }

// after makes an order whose purchase was lost, and lets the waiting time pass.
func after(fault string) func(*world) {
	return func(w *world) {
		w.order("a", crashName)
		w.loses(fault)
		w.worker().drive("a", order.Unsure)
		w.later()
	}
}

func resource(r order.Request) func(*world) {
	return func(w *world) {
		r.ID, r.Names = "a", []string{crashName}
		w.publish(r)
	}
}

// budgeted lets few orders a day be bought, of each account.
func budgeted(make func(*world)) func(*world) {
	return func(w *world) {
		for _, a := range w.accounts {
			a.Daily = 9
		}
		make(w)
	}
}

// countedAndLate brings an order to the call on what it has claimed, when it is too late.
func countedAndLate(w *world) {
	budgeted(resource(order.Request{Account: "ten"}))(w)
	w.worker().driveTo("a", "counted", func(o order.Order) bool { return len(o.Counted) > 0 })
	over := time.Now().Add(-time.Second)
	w.deadline("a", &over)
}

// deadline changes an order's.
func (w *world) deadline(id string, to *time.Time) {
	it, err := w.line.Last(w.t.Context(), id)
	w.must(err)
	o := it.Order
	o.Request.Deadline = to
	_, err = w.line.Move(w.t.Context(), it, o)
	w.must(err)
}

// counted is how many purchases are counted towards the accounts' budgets of today, or
// of the day before where midnight has just passed.
func (w *world) counted() (n int) {
	for _, a := range w.accounts {
		for _, day := range w.states.State(a.Main).Bought {
			n += day
		}
	}
	return n
}

// wantCounted checks, where there are budgets, that all that was paid is counted; and
// no more than workers that died had counted besides.
func (w *world) wantCounted(paid, died int) {
	w.t.Helper()
	budgets := false
	for _, a := range w.accounts {
		budgets = budgets || a.Daily > 0
	}
	if n := w.counted(); budgets && (n < paid || n > paid+died) {
		w.t.Errorf("%d purchases are counted, %d were made, and %d workers died", n, paid, died)
	}
}

// refusedPurchase makes an order that the cloud refused.
func refusedPurchase(w *world) {
	w.order("a", "*."+crashName)
	w.worker().drive("a", order.Failed)
}

// usedMeanwhile makes an order whose choice somebody else starts before it does.
func usedMeanwhile(w *world) {
	resource(order.Request{Account: "ali", Resource: "any"})(w)
	o := w.worker().driveTo("a", "chosen", chosen)
	w.startElsewhere("ali", dvAudit, o.Resource, "elsewhere.example.com")
}

// twoCandidates leaves an order held with an open entry.
func twoCandidates(w *world) {
	w.order("a", crashName)
	w.loses("reset_before_commit")
	w.worker().drive("a", order.Unsure)
	w.stranger(crashName)
	w.stranger(crashName)
	w.worker().drive("a", order.Held)
}

var crashes = []crash{
	{gap: "submit: quota read", make: purchase, ends: order.Issued, paid: 1},
	{gap: "submit: budget taken", make: purchase, ends: order.Issued, paid: 1},
	{gap: "submit: number stored", make: purchase, ends: order.Issued, paid: 1},
	{gap: "submit: entry opened", make: purchase, ends: order.Issued, paid: 1},
	{gap: "submit: answered", make: purchase, ends: order.Issued, paid: 1},
	{gap: "submit: bought", make: purchase, ends: order.Issued, paid: 1},
	{gap: "submit: ownerless entry opened", ends: order.Issued, paid: 1, make: func(w *world) {
		w.order("a", crashName)
		w.raise("a", 1)
	}},
	{gap: "submit: left-over adopted", unmarked: true, ends: order.Issued, paid: 1, make: func(w *world) { leftOver(w, crashName) }},
	{gap: "submit: refused", make: func(w *world) { w.order("a", "*."+crashName) }, ends: order.Failed},
	{gap: "reconcile: adopted provisionally", make: after("reset_after_commit"), ends: order.Issued, paid: 1},
	{gap: "reconcile: claimed", make: func(w *world) { w.showTags("a"); after("reset_after_commit")(w) }, ends: order.Issued, paid: 1},
	{gap: "reconcile: not bought", make: after("reset_before_commit"), ends: order.Issued, paid: 1},
	{gap: "start: names taken", make: resource(order.Request{Account: "ten"}), ends: order.Issued, paid: 1},
	{gap: "start: resource claimed", make: resource(order.Request{Account: "ali", Resource: "any"}), ends: order.Issued, paid: 1},
	{gap: "start: budget taken", make: budgeted(resource(order.Request{Account: "ten"})), ends: order.Issued, paid: 1},
	{gap: "start: budget taken", make: budgeted(resource(order.Request{Account: "ali", Resource: "any"})), ends: order.Failed,
		then: func(w *world, p *worker) { w.must(p.by.Cancel(p.ctx, "a")) }},
	{gap: "held: given back", make: countedAndLate, ends: order.Issued, paid: 1, then: func(w *world, p *worker) {
		p.drive("a", order.Held)
		w.must(p.by.Approve(p.ctx, "a"))
	}},
	{gap: "held: given back", make: countedAndLate, ends: order.Issued, paid: 1, then: func(w *world, _ *worker) {
		w.deadline("a", nil) // what it was to be held for is over
	}},
	{gap: "start: choice given back", make: usedMeanwhile, ends: order.Issued, paid: 1},
	{gap: "start: old choice given back", make: olderChoice, ends: order.Issued, paid: 1},
	{gap: "start: call noted", make: resource(order.Request{Account: "ten"}), ends: order.Issued, paid: 1},
	{gap: "start: call noted", make: resource(order.Request{Account: "ali", Resource: "any"}), ends: order.Failed,
		then: func(w *world, p *worker) { w.must(p.by.Cancel(p.ctx, "a")) }},
	{gap: "start: call answered", make: resource(order.Request{Account: "ten"}), ends: order.Issued, paid: 1},
	{gap: "start: call answered", make: resource(order.Request{Account: "ali", Resource: "any"}), ends: order.Failed, paid: 1,
		then: func(w *world, p *worker) { w.must(p.by.Cancel(p.ctx, "a")) }},
	{gap: "start: started", make: resource(order.Request{Account: "ali", Resource: "cas-cn-stage1"}), ends: order.Issued, paid: 1},
	{gap: "start: number stored", make: resource(order.Request{Account: "ali", Resource: "any"}), ends: order.Issued, paid: 1},
	{gap: "start: materials in", make: resource(order.Request{Account: "ten"}), ends: order.Issued, paid: 1},
	{gap: "start: started", make: resource(order.Request{Account: "ten", Resource: "stage2"}), ends: order.Issued, paid: 1},
	{gap: "place: noted", make: purchase, ends: order.Issued, paid: 1},
	{gap: "place: placed", make: purchase, ends: order.Issued, paid: 1},
	{gap: "clean up: removed", make: purchase, ends: order.Issued, paid: 1},
	{gap: "collect: delivered", make: purchase, ends: order.Issued, paid: 1},
	{gap: "collect: cleaned up", make: purchase, ends: order.Issued, paid: 1},
	{gap: "collect: term noted", make: resource(order.Request{Account: "ten"}), ends: order.Issued, paid: 1},
	{gap: "collect: in service", make: purchase, ends: order.Issued, paid: 1},
	{gap: "collect: old choice given back", make: adoptsAnother, ends: order.Issued, paid: 1},
	{gap: "collect: end noted", make: resource(order.Request{Account: "ali", Resource: "cas-cn-nobody"}), ends: order.Failed},
	{gap: "collect: given back", make: resource(order.Request{Account: "ali", Resource: "cas-cn-nobody"}), ends: order.Failed},
	{gap: "collect: over", make: func(w *world) { w.order("a", "*."+crashName) }, ends: order.Failed},
	{gap: "collect: disowned", ends: order.Held, paid: 1, make: func(w *world) { // it is the stranger's
		w.order("a", crashName)
		w.loses("reset_before_commit")
		w.worker().drive("a", order.Unsure)
		w.stranger(crashName)
		w.later()
	}},
	{gap: "cancel: attempt closed", make: purchase, ends: order.Failed,
		do: func(p *worker) { _ = p.by.Cancel(p.ctx, "a") }},
	{gap: "cancel: attempt closed", make: purchase, ends: order.Failed,
		do:   func(p *worker) { _ = p.by.Cancel(p.ctx, "a") },
		then: func(_ *world, p *worker) { _ = p.by.Cancel(p.ctx, "a") }},
	{gap: "retry: names taken", make: refusedPurchase, ends: order.Failed,
		do:   func(p *worker) { _ = p.by.Retry(p.ctx, "a") },
		then: func(w *world, p *worker) { w.must(p.by.Retry(p.ctx, "a")) }},
	{gap: "buy-again: successor made", make: func(w *world) { heldPaid(w, "a", crashName) }, ends: order.Failed, paid: 1, // the successor was not driven
		do:   func(p *worker) { _ = p.buyAgain("a") },
		then: func(w *world, p *worker) { w.must(p.buyAgain("a")) }},
	{gap: "adopt: claimed", make: twoCandidates, ends: order.Verify, paid: 2, // whose key is wrong is another test's matter
		do:   func(p *worker) { _ = p.by.Adopt(p.ctx, "a", p.anyRow()) },
		then: func(w *world, p *worker) { w.must(p.by.Retry(p.ctx, "a")) }},
	{gap: "not-bought: attempt closed", ends: order.Issued, paid: 1, make: func(w *world) { heldOpen(w, "a", crashName) },
		do:   func(p *worker) { _ = p.by.NotBought(p.ctx, "a") },
		then: func(w *world, p *worker) { w.must(p.by.Retry(p.ctx, "a")) }},
	{gap: "reseal: recipients changed", make: toOthers, do: reseal, then: func(_ *world, p *worker) { reseal(p) }, ends: order.Issued, paid: 1},
	{gap: "reseal: pairs sealed", make: toOthers, do: reseal, then: func(_ *world, p *worker) { reseal(p) }, ends: order.Issued, paid: 1},
	{gap: "reseal: pairs sealed", make: toOthers, do: reseal, ends: order.Issued, paid: 1}, // the order goes on with the store's seal
	{gap: "refill: pair stored", make: emptied, do: refill, then: func(_ *world, p *worker) { refill(p) }, ends: order.Issued, paid: 1},
	{gap: "refill: pair stored", make: emptied, do: refill, ends: order.Issued, paid: 1},
}

// anyRow is a cloud order for the crash table's name.
func (w *world) anyRow() string {
	rows, err := w.accounts["ali"].Flow(forPackage).(finder).Find(w.t.Context(), []string{crashName})
	w.must(err)
	return rows[0].CloudID
}

// Every gap once: the worker ends there, another takes over. The order has one
// final state, nothing is bought twice and nothing is lost.
func TestCrashAtEveryGap(t *testing.T) {
	t.Parallel()
	for _, c := range crashes {
		t.Run(c.gap, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{unmarked: c.unmarked})
			c.make(w)
			names := w.last("a").Request.Names
			p, died := w.dying(c.gap)
			if c.do != nil {
				p.survive(func() { c.do(p) })
			} else {
				p.drive("a", order.Issued, order.Failed)
			}
			if !died() {
				t.Fatalf("the worker did not come to the gap: %s", w.tell("a"))
			}
			w.later()
			next := w.worker()
			if c.then != nil {
				c.then(w, next)
			}
			next.drive("a", c.ends)
			if c.ends == order.Issued {
				w.wantIssued("a")
			}
			w.wantPaid(c.paid, names...)
			w.wantCounted(c.paid, 1)
			w.wantAtRest("a")
			w.wantNothingPlaced()
		})
	}
}

// Every gap that the package names has a line in the table.
func TestCrashTableIsComplete(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`gap\.At\(ctx, "([^"]+)"\)`)
	found := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			found++
			if !slices.Contains(checkGaps, m[1]) && !slices.ContainsFunc(crashes, func(c crash) bool { return c.gap == m[1] }) {
				t.Errorf("%s: no worker dies at %q", f, m[1])
			}
		}
	}
	if found == 0 {
		t.Error("no gap was found")
	}
}

// wantAtRest checks that one message of the order is left, and that no attempt
// of a final order is open.
func (w *world) wantAtRest(id string) {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), "ORDERS")
	w.must(err)
	info, err := s.Info(w.t.Context(), withSubject(order.AllOf(id)))
	w.must(err)
	if len(info.State.Subjects) != 1 {
		w.t.Errorf("order %s lies at %v", id, info.State.Subjects)
	}
	if o := w.last(id); o.State.Final() && w.attempt(id).Ending == ledger.Open {
		w.t.Errorf("order %s is %s with an open attempt", id, o.State)
	}
}
