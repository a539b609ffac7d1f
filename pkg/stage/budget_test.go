package stage_test

import (
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// Over a budget orders are held, and an approved one goes on.
func TestBudgets(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		set  func(w *world, p *worker)
		used func(w *world) int
	}{
		{"day", func(w *world, p *worker) { w.accounts["ali"].Daily = 1 },
			func(w *world) int { return w.states.State(aliUID).Bought[time.Now().UTC().Format(time.DateOnly)] }},
		{"batch", func(w *world, p *worker) {
			p.submit.Budgets = stage.Budgets{States: w.states, Batches: map[string]int{"trial": 1}}
		},
			func(w *world) int { return w.states.State(account.BatchKey("trial")).Bought["all"] }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			p := w.worker()
			p.submit.Budgets = stage.Budgets{States: w.states}
			tt.set(w, p)
			for _, id := range []string{"a", "b"} {
				r := request(id, id+".example.com")
				r.Batch = "trial"
				w.publish(r)
			}
			p.drive("a", order.Issued)
			p.drive("b", order.Held)
			w.wantHeld("b", "is used up", "certmill approve b")
			w.wantPaid(0, "b.example.com")
			w.must(p.by.Approve(t.Context(), "b"))
			p.drive("b", order.Issued)
			if n := tt.used(w); n != 2 {
				t.Errorf("%d purchases are counted, want 2", n)
			}
		})
	}
}

// TestBudgetsOfWhatIsBought: what is used up of something already bought counts as spent,
// at both clouds: over the budget of a publisher, of those that the config does not name,
// of nobody or of the account, nothing is started, and the resource stays free for others.
func TestBudgetsOfWhatIsBought(t *testing.T) {
	t.Parallel()
	rules := stage.Publishers{"shop": {Daily: 1}, stage.EverybodyElse: {Daily: 1}, stage.Anonymous: {Daily: 1}}
	for _, label := range []string{"ten", "ali"} {
		for _, tt := range []struct{ first, second, fact string }{
			{"shop", "shop", "publisher shop"},
			{"one", "two", "publishers that the config does not name"},
			{"", "", "publisher anonymous"},
			{stage.CommandLine, stage.CommandLine, "account " + label},
		} {
			t.Run(label+" "+tt.fact, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, setup{})
				p := w.worker()
				p.submit.Budgets.Publishers = rules
				if tt.first == stage.CommandLine {
					w.accounts[label].Daily = 1
				}
				for id, publisher := range map[string]string{"a": tt.first, "b": tt.second} {
					r := order.Request{ID: id, Account: label, Names: []string{id + ".example.com"}}
					if label == "ali" {
						r.Resource = "any"
					}
					w.by(rules, publisher, r)
				}
				p.drive("a", order.Issued)
				p.drive("b", order.Held)
				o := w.wantHeld("b", "is used up", "certmill approve b")
				if o.Hold.Fact != order.FactBudget(tt.fact+" on "+time.Now().UTC().Format(time.DateOnly)) || o.Resource != "" {
					t.Errorf("it is held for %q, and has %q", o.Hold.Fact, o.Resource)
				}
				w.wantPaid(0, "b.example.com")
				w.must(p.by.Approve(t.Context(), "b"))
				p.drive("b", order.Issued)
			})
		}
	}
}

// What was started for nobody is not counted: of a resource that is given back, or that
// somebody else has.
func TestBudgetOfWhatIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		make func(w *world)
		do   func(w *world, p *worker)
	}{
		"cancelled": {make: atItsResource, do: func(w *world, p *worker) { w.must(p.by.Cancel(p.ctx, "a")) }},
		"refused":   {make: resource(order.Request{Account: "ali", Resource: "cas-cn-nobody"})},
		"retried": {make: atItsResource, do: func(w *world, p *worker) {
			w.must(p.by.Cancel(p.ctx, "a"))
			p.drive("a", order.Failed)
			w.must(p.by.Retry(p.ctx, "a"))
			p.driveTo("a", "about to start", func(o order.Order) bool { return len(o.Counted) == 1 })
			if n := w.counted(); n != 1 {
				w.t.Errorf("%d are counted of an order that is about to start again", n)
			}
			w.must(p.by.Cancel(p.ctx, "a"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			budgeted(tt.make)(w)
			p := w.worker()
			if tt.do != nil {
				if n := w.counted(); n != 1 {
					t.Errorf("%d are counted of an order that is about to start", n)
				}
				tt.do(w, p)
			}
			p.drive("a", order.Failed)
			if n := w.counted(); n != 0 || len(w.last("a").Counted) != 0 {
				t.Errorf("%d are counted: %v", n, w.last("a").Counted)
			}
		})
	}
}

// A purchase that surely was not made is not counted.
func TestBudgetOfARefusedPurchase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.accounts["ali"].Daily = 5
	p.submit.Budgets = stage.Budgets{States: w.states}
	w.order("a", "*.example.com") // the product binds no wildcard
	p.drive("a", order.Failed)
	if n := w.states.State(aliUID).Bought[time.Now().UTC().Format(time.DateOnly)]; n != 0 {
		t.Errorf("%d purchases are counted", n)
	}
}

// TestAnApprovalIsOfOneFact: DESIGN 12.2: an approval carries the fact it answers:
// what a person lets pass is what the hold says, and the next thing in the way holds
// again: the deadline, the finding, the budget of the account, that of the batch.
func TestAnApprovalIsOfOneFact(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: forbidding})
	w.accounts["ali"].Daily = 1
	p := w.flying(true)
	p.submit.Budgets = stage.Budgets{States: w.states, Batches: map[string]int{"trial": 1}}
	first := request("first", "first.example.com")
	first.Batch = "trial"
	w.publish(first)
	p.drive("first", order.Issued)
	over := time.Now().Add(-time.Minute)
	r := request("a", "www.forbidden.com")
	r.Batch, r.Deadline = "trial", &over
	w.publish(r)
	for _, says := range []string{"deadline", "CAA of forbidden.com", "budget of account ali", "budget of batch trial"} {
		p.drive("a", order.Held)
		o := w.wantHeld("a", says, "certmill approve a")
		w.wantPaid(0, "www.forbidden.com")
		w.must(p.by.Approve(t.Context(), "a"))
		if o = w.last("a"); o.State != order.Submit || !o.Approves(o.Approvals[len(o.Approvals)-1]) {
			t.Errorf("%s", w.tell("a"))
		}
	}
	p.drive("a", order.Failed) // the simulated CA obeys CAA, too
	w.wantPaid(1, "www.forbidden.com")
	if got := w.last("a").Approvals; len(got) != 4 {
		t.Errorf("approvals %q", got)
	}
}
