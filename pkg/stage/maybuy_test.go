package stage_test

import (
	"testing"

	"github.com/certmill/certmill/pkg/order"
)

// What could not be delivered is neither bought nor used up, and goes on when it could.
func TestNothingIsBoughtThatCouldNotBeDelivered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.full.Store(true)
	w.order("buys", "buys.example.com")
	w.publish(order.Request{ID: "uses", Account: "ten", Names: []string{"uses.example.com"}})
	p := w.worker()
	for range 12 {
		p.visit("buys")
		p.visit("uses")
	}
	w.wantPaid(0, "buys.example.com")
	for id, o := range map[string]order.Order{"buys": w.last("buys"), "uses": w.last("uses")} {
		n, err := w.keys.Number(w.ref(id))
		if err != nil || n.Attempt != 0 || o.State == order.Verify || o.State.Final() || o.State == order.Held {
			t.Errorf("%s is %s with number %+v, %v", id, o.State, n, err)
		}
	}
	w.full.Store(false)
	p.drive("buys", order.Verify)
	p.drive("uses", order.Verify)
	w.wantPaid(1, "buys.example.com")
}
