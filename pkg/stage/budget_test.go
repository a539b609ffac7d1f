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
