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

// By DESIGN 12.2 an order that claims a resource gives it back with its names before
// it is held, as long as it called nothing: for another's certificate, or behind
// another order that is held. What may have been called for it keeps both.
func TestHeldGivesItsResourceBack(t *testing.T) {
	t.Parallel()
	const name, resource = "same.example.com", "stage0"
	begin := func(t *testing.T, gap string) (*world, order.Order) {
		w := newWorld(t, setup{})
		w.publish(order.Request{ID: "a", Account: "ten", Resource: resource, Names: []string{name}})
		p, died := w.dying(gap)
		p.drive("a", order.Verify)
		if !died() {
			t.Fatalf("it did not come to %q", gap)
		}
		o := w.last("a")
		if st := w.entry(tenUID, name).Standing("z", "", time.Now()); st.Order != "a" || w.holder(tenUID, resource) != "a" {
			t.Fatalf("the names are %+v, the certificate is held by %q", st, w.holder(tenUID, resource))
		}
		return w, o
	}
	free := func(t *testing.T, w *world) {
		t.Helper()
		st := w.entry(tenUID, name).Standing("z-2", "z", time.Now())
		if h := w.holder(tenUID, resource); st.Is != ledger.Free || h != "" {
			t.Errorf("the names are %+v, the certificate is held by %q", st, h)
		}
	}
	t.Run("for another's certificate", func(t *testing.T) {
		t.Parallel()
		w, o := begin(t, "start: resource claimed")
		p := w.worker()
		w.must(w.ledger.Issued(t.Context(), aliUID, o.Request.Names, "z", time.Now(), time.Now().Add(1000*time.Hour))) // adopted beside it
		p.drive("a", order.Held)
		w.wantHeld("a", "order z (main account "+aliUID+")", "certmill approve a")
		free(t, w)
		w.must(p.by.Approve(t.Context(), "a"))
		p.drive("a", order.Issued)
		if o := w.wantIssued("a"); o.Resource != resource {
			t.Errorf("it has %s", o.Resource)
		}
		w.wantPaid(1, name)
	})
	t.Run("for its deadline", func(t *testing.T) {
		t.Parallel()
		w, _ := begin(t, "start: resource claimed")
		it, err := w.line.Last(t.Context(), "a")
		w.must(err)
		late, over := it.Order, time.Now().Add(-hour)
		late.Request.Deadline = &over
		_, err = w.line.Move(t.Context(), it, late)
		w.must(err)
		w.worker().drive("a", order.Held)
		w.wantHeld("a", "its deadline has passed", "certmill approve a")
		free(t, w)
	})
	t.Run("behind a held order", func(t *testing.T) {
		t.Parallel()
		w, o := begin(t, "start: resource claimed")
		p := w.worker()
		w.publish(request("z", name))
		w.must(w.ledger.Assign(t.Context(), aliUID, o.Request.Names, ledger.Claim{CloudID: "7", Order: "z", Purchase: 1, How: "adopted beside it"}))
		z, err := w.line.Last(t.Context(), "z")
		w.must(err)
		held := z.Order
		held.State, held.Hold = order.Held, &order.Hold{Reason: "for the test", From: order.Submit, Commands: []string{"certmill retry z"}}
		_, err = w.line.Move(t.Context(), z, held)
		w.must(err)
		p.drive("a", order.Waiting)
		p.drive("a", order.Held)
		w.wantHeld("a", "it waits for order z", "certmill retry a")
		if h := w.holder(tenUID, resource); h != "" {
			t.Errorf("the certificate is held by %q", h)
		}
		if take, _ := w.entry(tenUID, name).Take("a"); take.End != ledger.TakeOver {
			t.Errorf("it keeps its names: %+v", take)
		}
	})
	t.Run("while a call may start it", func(t *testing.T) {
		t.Parallel()
		w, o := begin(t, "start: call noted")
		p := w.worker()
		w.must(w.ledger.Issued(t.Context(), aliUID, o.Request.Names, "z", time.Now(), time.Now().Add(1000*time.Hour)))
		p.drive("a", order.Held)
		if h := w.holder(tenUID, resource); h != "a" {
			t.Errorf("the certificate is held by %q", h)
		}
		if take, _ := w.entry(tenUID, name).Take("a"); take.End != "" {
			t.Errorf("its names are given back: %+v", take)
		}
	})
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
