package stage_test

import (
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// By DESIGN 12.5, after a lost JetStream an order whose own number in the key store
// names something that it has started takes that up, whatever else the cloud shows
// for its names: its successor's certificate is nobody's question.
func TestOwnResourceComesBeforeItsSuccessors(t *testing.T) {
	t.Parallel()
	for _, r := range []order.Request{{Account: "ten"}, {Account: "ali", Resource: "any"}} {
		t.Run(r.Account, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			r := r
			r.ID, r.Names = "a", []string{"a.example.com"}
			w.publish(r)
			p := w.worker()
			was := p.drive("a", order.Issued).Resource
			w.must(p.buyAgain("a"))
			next := p.drive("a-2", order.Issued).Resource
			n := w.afterWipe()
			n.sweepFirst()
			n.publish(r)
			p = n.worker()
			p.drive("a", order.Issued)
			n.must(p.buyAgain("a"))
			p.drive("a-2", order.Issued)
			if a, b := n.last("a"), n.last("a-2"); a.Resource != was || b.Resource != next {
				t.Errorf("they had %s and %s, and have %s and %s", was, next, a.Resource, b.Resource)
			}
			n.wantPaid(2, "a.example.com")
		})
	}
}

// What its number names and was not started yet waits for a person's word where
// somebody has bought for its names meanwhile.
func TestOwnResourceThatWasNotStartedIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	r := order.Request{ID: "a", Account: "ali", Resource: "any", Names: []string{"a.example.com"}}
	w.publish(r)
	p, died := w.dying("start: number stored")
	for !died() {
		p.survive(func() { p.visit("a") })
	}
	w.stranger("a.example.com")
	n := w.afterWipe()
	n.sweepFirst()
	n.publish(r)
	n.worker().drive("a", order.Held)
	n.wantHeld("a", "no ledger entry claims it", "certmill approve a")
	n.wantPaid(1, "a.example.com") // the stranger's
}

// After a lost JetStream no successor is made where another order's pair lies: that
// order, handed in, has its own again, and the successor goes past it. Whoever makes
// one asks: the verb, the intake for what says again, and who says before what the
// intake will do.
func TestSuccessorLeavesAnEarlierOrderItsID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	first, second := request("sq", "one.example.com"), request("sq-2", "two.example.com")
	w.publish(first)
	w.publish(second)
	w.worker().drive("sq", order.Issued)
	w.worker().drive("sq-2", order.Issued)
	key := w.last("sq-2").Key.Fingerprint
	n := w.afterWipe()
	n.sweepFirst()
	n.publish(first)
	p := n.worker()
	p.drive("sq", order.Issued)
	n.wantNotNow("sq", p.buyAgain("sq"), "the id sq-2 was another order's, for two.example.com")
	again := order.Request{Again: "sq", Account: "ali", Names: []string{"one.example.com"}}.Normal()
	look := stage.Preflight{Ledger: n.ledger, Line: n.line, Keys: n.keys, Now: time.Now, Publisher: stage.CommandLine}
	ins, err := look.HandIns(t.Context(), []order.Request{again})
	n.must(err)
	if bad := ins[0].Refused; bad == nil || !strings.Contains(bad.Reason, "the id sq-2 was another order's, for two.example.com") {
		t.Errorf("it is thought to be %+v", ins[0])
	}
	n.accept(`{"again":"sq","account":"ali","names":["one.example.com"]}`)
	if orders := n.orders(); orders != 1 {
		t.Errorf("again makes %d orders", orders)
	}
	n.publish(second)
	p.drive("sq-2", order.Issued)
	if o := n.last("sq-2"); o.Key.Fingerprint != key || o.Predecessor != "" {
		t.Errorf("sq-2 has another key, or follows %q", o.Predecessor)
	}
	n.accept(`{"again":"sq","account":"ali","names":["one.example.com"]}`)
	p.drive("sq-3", order.Issued)
	n.must(p.buyAgain("sq"))
	n.wantPaid(2, "one.example.com")
	n.wantPaid(1, "two.example.com")
}
