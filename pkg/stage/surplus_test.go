package stage_test

import (
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/order"
)

// What nobody claims is found by the sweep and listed with its product; adopted
// by hand it is an order's, and listed no more.
func TestSurplus(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.order("ours", "ours.example.com")
	p.drive("ours", order.Issued)
	id := w.buyWith("", "a.example.com", "b.example.com") // the cloud makes the key: it can be used here
	w.must(p.waiter.Surplus(t.Context(), w.accounts["ali"]))
	lefts, err := p.by.Lefts(t.Context(), w.accounts["ali"])
	w.must(err)
	if len(lefts) != 1 || lefts[0].CloudID != id || lefts[0].Product != plenty || lefts[0].Names[0] != "a.example.com" || !strings.Contains(lefts[0].Command, id) {
		t.Fatalf("listed: %+v", lefts)
	}
	w.publish(request("a", "a.example.com", "b.example.com"))
	p.drive("a", order.Held)
	w.must(p.by.Adopt(t.Context(), "a", id))
	if lefts, err = p.by.Lefts(t.Context(), w.accounts["ali"]); err != nil || len(lefts) != 0 {
		t.Errorf("after the adoption: %+v, %v", lefts, err)
	}
}

// An order that ended while the key store knows an attempt that the ledger does
// not may have been bought: it is listed.
func TestEndedOrderWithAnUnknownAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.order("a", "*.example.com") // refused by the cloud
	p.drive("a", order.Failed)
	if lefts, err := p.by.Lefts(t.Context(), w.accounts["ali"]); err != nil || len(lefts) != 0 {
		t.Fatalf("%+v, %v", lefts, err)
	}
	w.raise("a", 7)
	lefts, err := p.by.Lefts(t.Context(), w.accounts["ali"])
	w.must(err)
	if len(lefts) != 1 || lefts[0].Order != "a" || !strings.Contains(lefts[0].Why, "attempt 7") {
		t.Errorf("listed: %+v", lefts)
	}
}
