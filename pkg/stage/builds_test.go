package stage_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
)

// What follows is of two builds that work side by side, of which the other one
// is newer: it writes records that this one cannot read. They are left alone,
// and whatever else there is goes on.

// rewrite stores what lies under a subject as a newer build would.
func (w *world) rewrite(stream, subject string) {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), stream)
	w.must(err)
	m, err := s.GetLastMsgForSubject(w.t.Context(), subject)
	w.must(err)
	newer := bytes.Replace(m.Data, []byte(`"v":1`), []byte(`"v":2`), 1)
	if bytes.Equal(newer, m.Data) {
		w.t.Fatalf("%s has no version: %s", subject, m.Data)
	}
	_, err = w.js.Publish(w.t.Context(), m.Subject, newer)
	w.must(err)
}

// newerOrder makes an order one of a newer build, where it stands.
func (w *world) newerOrder(id string) {
	w.t.Helper()
	o := w.last(id)
	w.rewrite(pipeline.OrdersStream, order.Subject(o.State, id, o.Lane()))
	if _, err := w.line.Last(w.t.Context(), id); !errors.Is(err, pipeline.ErrUnreadable) {
		w.t.Fatalf("order %s can be read: %v", id, err)
	}
}

// newerEntry makes a ledger entry one of a newer build.
func (w *world) newerEntry(main string, names ...string) {
	w.t.Helper()
	w.rewrite(ledger.StreamName, "spend."+main+"."+order.NamesHash(names))
}

// An order that waits for one which cannot be read goes on waiting: the other
// one is there, and must not be handed in again.
func TestWaitingForAnOrderThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "same.example.com")
	w.order("b", "same.example.com")
	w.loses("reset_before_commit")
	p := w.worker()
	p.drive("a", order.Unsure)
	p.drive("b", order.Waiting)
	w.newerOrder("a")
	w.must(p.waiter.Sweep(t.Context(), w.accounts["ali"]))
	p.visit("b")
	if o := w.last("b"); o.State != order.Waiting || o.Wait.For != order.WaitForNames || o.Retries != 0 {
		t.Errorf("order b: %s", w.tell("b"))
	}
}

// The list sweep loses sight of an order that it remembers and that a newer
// build took, and looks after the others.
func TestIssuingSweepPastARecordThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Exactly(1500 * time.Millisecond) }})
	p := w.worker()
	p.issuing.Now = time.Now
	for _, id := range []string{"a", "b", "c"} {
		w.order(id, id+".example.com")
		p.drive(id, order.Issuing)
	}
	w.must(p.issuing.Sweep(t.Context(), w.accounts["ali"])) // all are remembered
	w.newerOrder("b")
	for end := time.Now().Add(natstest.Patience); w.last("a").State == order.Issuing || w.last("c").State == order.Issuing; time.Sleep(50 * time.Millisecond) {
		w.must(p.issuing.Sweep(t.Context(), w.accounts["ali"]))
		if time.Now().After(end) {
			t.Fatal("the others stay in issuing")
		}
	}
	unread, err := w.line.Unreadable(t.Context(), order.Issuing)
	if err != nil || len(unread) != 1 || unread[0].ID != "b" || !unread[0].Newer {
		t.Errorf("%+v, %v", unread, err)
	}
}

// What an order that cannot be read may need stays, and the sweep is no failure.
func TestPlacedSweepPastWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: slowCA})
	p := w.worker()
	w.order("newer", "newer.example.com")
	p.drive("newer", order.Issuing)
	theirs := w.last("newer").Challenges[0]
	w.newerOrder("newer")
	hidden := order.Challenge{Name: "x.example.com", Type: "TXT", Host: "_dnsauth.hidden.example.com", Value: "of an entry that cannot be read"}
	gone := order.Challenge{Name: "x.example.com", Type: "TXT", Host: "_dnsauth.gone.example.com", Value: "of nobody"}
	for _, c := range []order.Challenge{hidden, gone} {
		_, err := w.placed.Need(t.Context(), c, "ali", "never", false)
		w.must(err)
		w.must(w.solvers["ali"].Present(t.Context(), c))
	}
	s, err := w.js.Stream(t.Context(), ledger.PlacedStream)
	w.must(err)
	m, err := s.GetLastMsgForSubject(t.Context(), "placed.*.*") // gone's
	w.must(err)
	w.must(s.DeleteMsg(t.Context(), m.Sequence))
	last, err := s.GetLastMsgForSubject(t.Context(), "placed.*.*") // hidden's
	w.must(err)
	w.rewrite(ledger.PlacedStream, last.Subject)
	_, err = w.placed.Need(t.Context(), gone, "ali", "never", false)
	w.must(err)

	w.must(w.worker().placing.Sweep(t.Context()))
	if !w.shows(theirs) || !w.shows(hidden) || w.shows(gone) {
		t.Errorf("shown: what an order needs that cannot be read %v, what an entry is of that cannot be read %v, what nobody needs %v",
			w.shows(theirs), w.shows(hidden), w.shows(gone))
	}
}

// Growth of a product's count that a row explains is no obstacle
// (TestExplainedUsedCount), unless there is an entry that cannot be read: the
// row may be adopted there without proof, and then it explains nothing.
func TestNotBoughtBesideAnEntryThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_before_commit", "a.example.com")
	w.apart()
	p2 := w.lost("b", "reset_after_commit", "b.example.com")
	w.must(p2.unsure.Sweep(t.Context(), w.accounts["ali"]))
	if a := w.attempt("b"); a.Provisional == "" {
		t.Fatalf("b has adopted nothing: %+v", a)
	}
	w.newerEntry(aliUID, "b.example.com")
	w.apart()
	w.later()
	p.visit("a")
	if o := w.last("a"); o.State != order.Unsure || w.attempt("a").Ending != ledger.Open {
		t.Fatalf("although nobody knows whose the row is: %s", w.tell("a"))
	}
	w.late.Store(int64(4 * waits.Total()))
	p.drive("a", order.Held)
	w.wantHeld("a", "fell by 1", "certmill not-bought a")
}

// What an entry claims that cannot be read is no surplus, and what may belong to
// it is left to those who can read it; the rest is reported. The entry is
// listed, and the mark of the first sweep is left to others.
func TestSurplusBesideEntriesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	p := w.worker()
	ali := w.accounts["ali"]
	claimed, row, free := w.stranger("claimed.example.com"), w.stranger("row.example.com"), w.stranger("free.example.com")
	w.must(w.ledger.Assign(t.Context(), aliUID, []string{"others.example.com"}, ledger.Claim{CloudID: claimed, Order: "x", Purchase: 1}))
	w.newerEntry(aliUID, "others.example.com") // listed under other names than it was claimed for
	w.must(w.ledger.Report(t.Context(), aliUID, []string{"row.example.com"}, ledger.Unclaimed{CloudID: "1", Seen: time.Now()}))
	w.newerEntry(aliUID, "row.example.com")

	w.must(p.waiter.Surplus(t.Context(), ali))
	if e := w.entry(aliUID, "free.example.com"); len(e.Unclaimed) != 1 || e.Unclaimed[0].CloudID != free {
		t.Errorf("what nobody claims: %+v", e)
	}
	if e := w.entry(aliUID, "claimed.example.com"); len(e.Unclaimed) != 0 {
		t.Errorf("what is claimed: %+v", e)
	}
	lefts, err := p.by.Lefts(t.Context(), ali)
	w.must(err)
	hidden := slices.DeleteFunc(slices.Clone(lefts), func(l stage.Left) bool { return !strings.Contains(l.Why, "cannot be read") })
	if len(lefts) != 3 || len(hidden) != 2 {
		t.Errorf("listed: %+v", lefts)
	}
	w.must(w.states.Change(t.Context(), aliUID, func(s *account.State) { s.FirstUse = w.line.Incarnation() }))
	if _, err := p.waiter.FirstSweep(t.Context(), ali); err == nil || w.states.State(aliUID).Marked(w.line.Incarnation()) {
		t.Errorf("the account is marked although cloud order %s was reported by nobody: %v", row, err)
	}
}

// A purchase whose names' entry cannot be read is left alone, and that counts as
// no try.
func TestPurchaseBehindAnEntryThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.must(w.ledger.Report(t.Context(), aliUID, []string{"a.example.com"}, ledger.Unclaimed{CloudID: "1", Seen: time.Now()}))
	w.newerEntry(aliUID, "a.example.com")
	w.publish(request("a", "a.example.com"))
	p := w.worker()
	for range 60 {
		p.visit("a")
	}
	if o := w.last("a"); o.State == order.Held || o.State.Final() || o.Retries != 0 {
		t.Errorf("order a: %s", w.tell("a"))
	}
	w.wantPaid(0, "a.example.com")
}

// The names are known where an entry is, whatever it says.
func TestChoosePrefersAnEntryThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for i := range 4 {
		r := order.Request{Names: []string{fmt.Sprintf("n%d.example.com", i)}}
		for _, a := range w.accounts {
			w.must(w.ledger.Report(t.Context(), a.Main, r.Names, ledger.Unclaimed{CloudID: "1", Seen: time.Now()}))
		}
		a, err := w.accounts.Choose(t.Context(), w.ledger, r)
		w.must(err)
		w.newerEntry(a.Main, r.Names...)
		if again, err := w.accounts.Choose(t.Context(), w.ledger, r); err != nil || again != a {
			t.Errorf("%v: %s, %v although it was %s before", r.Names, again.Label, err, a.Label)
		}
	}
}

// A resource whose claim cannot be read counts as taken, wherever an order
// begins to look.
func TestAnyResourceButThoseThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for free := range 3 {
		w := newWorld(t, setup{})
		for i := range 3 {
			if i != free {
				_, err := w.js.Publish(t.Context(), fmt.Sprint("claim.", tenUID, ".stage", i), []byte(`{"v":2,"order":{"of":"a newer build"}}`))
				w.must(err)
			}
		}
		w.publish(order.Request{ID: "any", Account: "ten", Names: []string{"any.example.com"}})
		w.worker().drive("any", order.Issued)
		if o := w.wantIssued("any"); o.Resource != fmt.Sprint("stage", free) {
			t.Errorf("it took %s, free is stage%d", o.Resource, free)
		}
	}
}

// A message with the id of an order that cannot be read is neither taken nor
// refused: nobody here can tell whether it is the same.
func TestMessageOfAnOrderThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(request("a", "a.example.com"))
	w.newerOrder("a")
	message := w.message([]byte(`{"id":"a","account":"ali","names":["a.example.com"]}`))
	if err := w.worker().intake.Accept(t.Context(), message); !errors.Is(err, pipeline.ErrUnreadable) {
		t.Errorf("%v", err)
	}
	if counts, err := w.line.Counts(t.Context()); err != nil || len(counts) != 1 || counts[order.Submit] != 1 {
		t.Errorf("%v, %v", counts, err)
	}
}

// A plan names what it cannot read, and goes on.
func TestPreflightPastWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(request("newer", "newer.example.com"))
	w.order("bought", "bought.example.com")
	w.worker().drive("bought", order.Issuing, order.Issued)
	all := w.planned(request("newer", "newer.example.com"), request("entry", "entry.example.com"), request("again", "bought.example.com"), request("new", "new.example.com"))
	w.newerOrder("newer")
	w.newerOrder("bought")
	w.must(w.ledger.Report(t.Context(), aliUID, []string{"entry.example.com"}, ledger.Unclaimed{CloudID: "1", Seen: time.Now()}))
	w.newerEntry(aliUID, "entry.example.com")
	got := w.look(all)
	slices.Sort(got)
	want := []string{
		"error duplicate [newer]: the ids are of orders that this certmill cannot read",
		"warning duplicate [again]: an order for exactly these names is under way",
		"warning duplicate [entry]: a newer certmill bought, or tried to buy, for exactly these names; what came of it this one cannot read",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}
