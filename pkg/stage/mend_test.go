package stage_test

import (
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// An order that a cloud refused for its contact, before anything was bought, goes on
// when it is handed in again with another one, under the id that it has: with one of
// its own and with the derived one. It is bought once, whatever is handed in again.
// DESIGN 12.1: an id never runs twice, and what was not bought under it may go on.
func TestAMendedContact(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"own", ""} {
		t.Run("id "+id, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			bad := order.Request{ID: id, Account: "ali", Names: []string{"a.example.com"}, Contact: order.Contact{Phone: "010.1234567"}}
			w.publish(bad)
			if id == "" {
				id = bad.DerivedID()
			}
			p := w.worker()
			p.drive(id, order.Failed)
			if o := w.wantFailed(id, stage.ClassRejected); !o.OnlyMended() {
				t.Fatalf("failed: %+v", o.Failure)
			}
			look := stage.Preflight{Ledger: w.ledger, Line: w.line, Now: time.Now, Publisher: stage.CommandLine}
			good := bad
			good.Contact.Phone = "13000000000"
			for r, want := range map[*order.Request]bool{&bad: false, &good: true} {
				in := *r
				in.ID = id
				if ins, err := look.HandIns(t.Context(), []order.Request{in}); err != nil || ins[0].Mends != want || ins[0].New() {
					t.Errorf("%+v, %v: that it mends is said to be %v", in.Contact, err, !want)
				}
			}
			w.publish(bad)
			if o := w.last(id); o.State != order.Failed {
				t.Errorf("as it was it is %s", o.State)
			}
			w.publish(good)
			w.publish(good)
			p.drive(id, order.Issued)
			w.publish(bad)
			if o := w.wantIssued(id); o.Request.Contact.Phone != good.Contact.Phone {
				t.Errorf("contact %+v", o.Request.Contact)
			}
			w.wantPaid(1, "a.example.com")
		})
	}
}

// Somebody else's message mends nothing, nor one for something else.
func TestWhoMends(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	bad := order.Request{ID: "a", Account: "ali", Names: []string{"a.example.com"}, Contact: order.Contact{Phone: "010.1234567"}}
	good := bad
	good.Contact.Phone = "13000000000"
	w.by(nil, "shop", bad)
	w.worker().drive("a", order.Failed)
	w.by(nil, "another", good)
	if o := w.last("a"); o.State != order.Failed {
		t.Errorf("another publisher's message: %s", o.State)
	}
	w.by(nil, "shop", good)
	w.worker().drive("a", order.Issued)
	w.wantPaid(1, "a.example.com")
}
