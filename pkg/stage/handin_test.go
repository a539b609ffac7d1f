package stage_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// handIns is what is said of requests before they are handed in, one line each.
func (w *world) handIns(requests ...order.Request) (said []string) {
	w.t.Helper()
	look := stage.Preflight{Ledger: w.ledger, Line: w.line, Now: time.Now}
	ins, err := look.HandIns(w.t.Context(), requests)
	w.must(err)
	for _, in := range ins {
		switch {
		case in.Refused != nil:
			said = append(said, in.Refused.Error())
		case in.Known != nil:
			said = append(said, fmt.Sprintf("known %s %s", in.ID, in.Known.State))
		default:
			said = append(said, strings.TrimSpace(fmt.Sprintf("new %s again %s taken %s", in.ID, in.Request.Again, in.Taken.Order)))
		}
	}
	return said
}

// TestRowsOfNobodyAreToldBeforeTheyHold: an order that is held for a cloud order which
// nobody claims, at its own account or at another one of the installation, was told so
// before it was handed in, by what decides it; one that is not held was not.
// DESIGN 12.2, 12.5.
func TestRowsOfNobodyAreToldBeforeTheyHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	row := func(main, id, name string) {
		t.Helper()
		w.must(w.ledger.Report(t.Context(), main, []string{name}, ledger.Unclaimed{CloudID: id, Status: "CHECKING", Seen: time.Now()}))
	}
	row(tenUID, "77", "there.example.com")
	row(aliUID, "78", "here.example.com")
	w.publish(request("first", "claimed.example.com"))
	p.drive("first", order.Issued)
	for _, c := range []struct {
		r    order.Request
		row  string // that is told of; "": none
		ends order.State
	}{
		{request("there", "there.example.com"), "cloud order 77 (CHECKING) at main account " + tenUID, order.Held},
		{request("here", "here.example.com"), "cloud order 78 (CHECKING) at main account " + aliUID, order.Held},
		{request("free", "free.example.com"), "", order.Issued},
		{request("again", "claimed.example.com"), "", order.Held}, // for who has it in service
	} {
		look := stage.Preflight{Ledger: w.ledger, Line: w.line, Now: time.Now}
		ins, err := look.HandIns(t.Context(), []order.Request{c.r})
		w.must(err)
		found := stage.Findings(ins)
		told := slices.ContainsFunc(found, func(f preflight.Finding) bool { return c.row != "" && strings.Contains(f.Example, c.row) })
		if told != (c.row != "") || slices.ContainsFunc(found, func(f preflight.Finding) bool { return strings.Contains(f.What, "nobody") }) != told {
			t.Errorf("%s: told %+v", c.r.ID, found)
		}
		w.publish(c.r)
		p.drive(c.r.ID, c.ends)
		if o := w.last(c.r.ID); c.row != "" && !strings.Contains(o.Hold.Reason, "no ledger entry claims it") {
			t.Errorf("%s: %s", c.r.ID, o.Hold.Reason)
		}
	}
}

// TestWhatIsSaidIsWhatIsDone: what is said of a line before it is handed in is what
// the intake does with it, for every kind of line. DESIGN 12.1: what is known is said,
// with what helps.
func TestWhatIsSaidIsWhatIsDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.publish(request("issued", "issued.example.com"))
	p.drive("issued", order.Issued)
	w.publish(request("twice", "twice.example.com"))
	p.drive("twice", order.Issued)
	w.must(p.buyAgain("twice"))
	p.drive("twice-2", order.Issued)
	heldPaid(w, "held", "held.example.com")
	w.publish(request("refused", "*.example.com"))
	p.drive("refused", order.Failed)

	r := func(id, again, name string) order.Request {
		r := request(id, name)
		r.Again = again
		return r
	}
	for _, c := range []struct {
		r    order.Request
		said string // before
		made string // what the intake makes of it; "": nothing, "bad": a refusal
	}{
		{r("issued", "", "issued.example.com"), "known issued issued", ""},
		{r("twice", "", "twice.example.com"), "known twice-2 issued", ""},
		{r("held", "", "held.example.com"), "known held held", ""},
		{r("held", order.AgainLast, "held.example.com"), "known held held", ""},
		{r("refused", "", "*.example.com"), "known refused failed", ""},
		{r("new", "", "new.example.com"), "new new again  taken", "new"},
		{r("first", order.AgainLast, "first.example.com"), "new first again  taken", "first"},
		{r("taken", "", "issued.example.com"), "new taken again  taken issued", "taken"},
		{r("issued", "", "other.example.com"), "taken by another order (state issued)", "bad"},
		{r("issued", order.AgainLast, "other.example.com"), "is for other names", "bad"},
		{r("issued", "issued", "other.example.com"), "is for other names", "bad"},
		{r("held", "held", "held.example.com"), "has not ended (state held)", "bad"},
		{r("", "nobody", "nobody.example.com"), `there is no order "nobody"`, "bad"},
		{r("twice", "twice", "twice.example.com"), "known twice-2 issued", ""},
		{r("twice", order.AgainLast, "twice.example.com"), "new twice-3 again twice-2 taken", "twice-3"},
		{r("issued", "issued", "issued.example.com"), "new issued-2 again issued taken", "issued-2"},
		{r("issued", "issued", "issued.example.com"), "known issued-2 submit", ""},
		{r("", "refused", "*.example.com"), "new refused-2 again refused taken", "refused-2"},
	} {
		said := w.handIns(c.r)
		if !strings.Contains(said[0], c.said) {
			t.Errorf("%q again %q: it says %q, want %q", c.r.ID, c.r.Again, said[0], c.said)
		}
		if c.r.Again == order.AgainLast {
			if c.made == "" || c.made == "bad" {
				continue // it is not handed in
			}
			ins, err := stage.Preflight{Ledger: w.ledger, Line: w.line, Now: time.Now}.HandIns(t.Context(), []order.Request{c.r})
			w.must(err)
			c.r = ins[0].Request
		}
		before := w.orders()
		w.publish(c.r)
		switch made := w.orders() - before; {
		case c.made == "bad":
			w.refusal()
		case c.made == "" && made != 0, c.made != "" && (made != 1 || w.last(c.made).State != order.Submit):
			t.Errorf("%q again %q: %d orders were made, want %q", c.r.ID, c.r.Again, made, c.made)
		}
	}
}

// TestLinesOfOneBatch: what two lines of one batch say of one order.
func TestLinesOfOneBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	again := request("a", "a.example.com")
	again.Again = order.AgainLast
	got := w.handIns(request("a", "a.example.com"), again, request("b", "b.example.com"))
	if !slices.Equal(got[:1], []string{"new a again  taken"}) || !strings.Contains(got[1], "another line of this batch orders a") || len(got) != 3 {
		t.Errorf("%q", got)
	}
	w.publish(request("a", "a.example.com"))
	w.worker().drive("a", order.Issued)
	got = w.handIns(request("a", "a.example.com"), again, again)
	if got[0] != "known a issued" || got[1] != "new a-2 again a taken" || !strings.Contains(got[2], "another line of this batch orders a-2") {
		t.Errorf("%q", got)
	}
}

// TestOverlaps: names that several orders of a batch have are told.
func TestOverlaps(t *testing.T) {
	twin := request("d", "D.example.com")
	twin.Again = order.AgainLast
	got := lines(stage.Overlaps([]order.Request{request("a", "a.example.com", "www.a.example.com").Normal(), request("b", "www.a.example.com").Normal(),
		request("c", "c.example.com"), request("d", "d.example.com"), twin.Normal(), request("e", "*.example.com")}))
	want := []string{"warning duplicate [a b]: some of their names are in other orders of this batch, too",
		"warning duplicate [d]: another order of this batch has the same names"}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

// TestAFindingNamesWhoHasTheNames: the order that has them, and the one that is to be
// made, which has another id than the line's first.
func TestAFindingNamesWhoHasTheNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.publish(request("gone", "same.example.com"))
	w.must(p.by.Cancel(t.Context(), "gone"))
	p.drive("gone", order.Failed)
	w.publish(request("has", "same.example.com"))
	p.drive("has", order.Issued)
	again := request("gone", "same.example.com")
	again.Again = order.AgainLast
	ins, err := stage.Preflight{Ledger: w.ledger, Line: w.line, Now: time.Now}.HandIns(t.Context(), []order.Request{again, request("new", "same.example.com")})
	w.must(err)
	for i, id := range []string{"gone-2", "new"} {
		found := stage.Findings(ins[i : i+1])
		if len(found) != 1 || found[0].Example != "same.example.com, which order has has" || found[0].Orders[0] != id {
			t.Errorf("%s: %+v", id, found)
		}
	}
}
