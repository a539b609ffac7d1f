package stage_test

import (
	"slices"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
)

// By DESIGN 12.2 an order that is held for names in service has taken nothing, also
// where it had taken them once, ended, and was retried: the renewal of the
// certificate in service goes past it.
func TestRetriedAndHeldOwnsNoNames(t *testing.T) {
	t.Parallel()
	for label, other := range map[string]string{"ali": "ten", "ten": "ali"} {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			p := w.worker()
			w.publish(order.Request{ID: "first", Account: label, Names: []string{"same.example.com"}})
			w.endsUnpaid(p, "first", label)
			w.publish(order.Request{ID: "second", Account: other, Names: []string{"same.example.com"}})
			p.drive("second", order.Issued)
			w.must(p.by.Retry(t.Context(), "first"))
			p.drive("first", order.Held)
			w.wantHeld("first", "order second", "certmill approve first")
			w.must(p.buyAgain("second"))
			p.drive("second-2", order.Issued)
			w.wantPaid(2, "same.example.com")
			w.must(p.by.Approve(t.Context(), "first")) // of what is in service no more
			p.drive("first", order.Held)
			w.wantHeld("first", "order second-2", "certmill approve first")
			w.must(p.by.Approve(t.Context(), "first"))
			p.drive("first", order.Issued)
			w.wantPaid(3, "same.example.com")
		})
	}
}

// endsUnpaid ends an order that has taken its names and paid nothing.
func (w *world) endsUnpaid(p *worker, id, label string) {
	w.t.Helper()
	ctx := w.t.Context()
	if label == "ten" {
		p.driveTo(id, "about to start", func(o order.Order) bool { return o.Attempt == 1 })
	} else {
		w.neverSent(p, id)
	}
	w.must(p.by.Cancel(ctx, id))
	p.drive(id, order.Failed)
}

// neverSent lets an order take its names for an attempt that came to nothing.
func (w *world) neverSent(p *worker, id string) {
	w.t.Helper()
	o := w.last(id)
	e, err := w.ledger.Read(w.t.Context(), o.Main, o.Request.Names)
	w.must(err)
	_, open, err := w.ledger.Begin(w.t.Context(), e, ledger.Attempt{Order: id, Purchase: o.Purchase, Attempt: 1,
		Action: o.Operation, Product: o.Product})
	w.must(err)
	w.must(w.ledger.End(w.t.Context(), o.Main, o.Request.Names, open, ledger.NeverSent, "throttled"))
	p.driveTo(id, "behind its attempt", func(o order.Order) bool { return o.Attempt >= 1 })
}

// By DESIGN 12.2, what an order took for an attempt that came to nothing it gives back
// before it is held for another's certificate.
func TestHeldGivesItsNamesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.order("a", "same.example.com")
	w.neverSent(p, "a")
	o := w.last("a")
	till := time.Now().Add(1000 * time.Hour)
	w.must(w.ledger.Issued(t.Context(), tenUID, o.Request.Names, "z", time.Now(), till)) // adopted beside it
	p.drive("a", order.Held)
	w.wantHeld("a", "order z (main account "+tenUID+")", "certmill approve a")
	if st := w.entry(aliUID, "same.example.com").Standing("z-2", "z", time.Now()); st.Is != ledger.Free {
		t.Errorf("for the renewal of what is in service the names are %+v", st)
	}
	w.must(p.by.Approve(t.Context(), "a"))
	p.drive("a", order.Issued)
	w.wantPaid(1, "same.example.com")
}

// An order that waits for a held one offers what helps that one: nothing of its own
// does.
func TestBehindAHeldOrderItsCommandsHelp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	heldPaid(w, "a", "same.example.com")
	p := w.worker()
	w.order("b", "same.example.com")
	p.drive("b", order.Waiting)
	p.drive("b", order.Held)
	o := w.wantHeld("b", w.last("a").Hold.Reason, "certmill retry b")
	for _, c := range w.last("a").Hold.Commands {
		if !slices.Contains(o.Hold.Commands, c) {
			t.Errorf("%q is not offered, but %q", c, o.Hold.Commands)
		}
	}
}
