package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/stream"
)

const main = "100001"

var names = []string{"b.example.com", "a.example.com"}

func openLedger(t testing.TB) *Ledger {
	t.Helper()
	js := natstest.Connect(t, natstest.Server(t))
	if _, err := stream.Ensure(t.Context(), js, Config(1)); err != nil {
		t.Fatal(err)
	}
	l, err := New(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func read(t testing.TB, l *Ledger) Entry {
	t.Helper()
	e, err := l.Read(t.Context(), main, names)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func attempt(order string, n int) Attempt { return Attempt{Order: order, Purchase: 1, Attempt: n} }

// begin opens an attempt that must open.
func begin(t testing.TB, l *Ledger, a Attempt) Attempt {
	t.Helper()
	_, open, err := l.Begin(t.Context(), read(t, l), a)
	if err != nil {
		t.Fatal(err)
	}
	return open
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestStreamForgetsNothing(t *testing.T) {
	l := openLedger(t)
	c := l.stream.CachedInfo().Config
	if !c.DenyDelete || !c.DenyPurge || c.AllowDirect || c.AllowRollup || c.MaxAge > 0 || c.MaxMsgs > 0 || c.MaxBytes > 0 || c.MaxMsgsPerSubject != 1 {
		t.Errorf("LEDGER can lose an entry or answer with an old one: %+v", c)
	}
	if time.Since(l.Began()) > time.Minute {
		t.Errorf("began at %v", l.Began())
	}
}

func TestOneOpenerAmongRivals(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	e := read(t, l)
	var mu sync.Mutex
	var openers []Attempt
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			_, open, err := l.Begin(t.Context(), e, attempt(fmt.Sprintf("o%d", i), 1))
			switch {
			case err == nil:
				mu.Lock()
				openers = append(openers, open)
				mu.Unlock()
			case !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotOpener):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(openers) != 1 {
		t.Fatalf("%d openers", len(openers))
	}
	open, is := read(t, l).OpenAttempt()
	if !is || open.Token == "" || open.Token != openers[0].Token || open.Opened.IsZero() {
		t.Errorf("stored %+v, the opener has %+v", open, openers[0])
	}
}

func TestOnlyAnUnusedNumberOfAnOpenPurchaseBegins(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	a := begin(t, l, attempt("a", 3))
	_, _, err := l.Begin(t.Context(), read(t, l), attempt("b", 1))
	wantErr(t, "another order while one is open", err, ErrNotOpener)
	_, _, err = l.Begin(t.Context(), read(t, l), attempt("a", 4))
	wantErr(t, "the next attempt while one is open", err, ErrNotOpener)
	if err := l.End(t.Context(), main, names, a, NeverSent, "no connection"); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 3} {
		_, _, err = l.Begin(t.Context(), read(t, l), attempt("a", n))
		wantErr(t, fmt.Sprintf("attempt %d after 3", n), err, ErrConflict)
		wantErr(t, fmt.Sprintf("ownerless attempt %d after 3", n), l.BeginOwnerless(t.Context(), read(t, l), attempt("a", n)), ErrConflict)
	}
	a = begin(t, l, attempt("a", 4))
	if err := l.Bought(t.Context(), main, names, a, "77", "answered"); err != nil {
		t.Fatal(err)
	}
	_, _, err = l.Begin(t.Context(), read(t, l), attempt("a", 5))
	wantErr(t, "a purchase that has its claim", err, ErrConflict)
	again := attempt("a", 5)
	again.Purchase = 2
	begin(t, l, again)
}

// The worker slept between write and read for so long that its entry was closed
// meanwhile: it must not send.
func TestAClosedEntryIsNotSent(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	e := read(t, l)
	ctx := t.Context()
	slow := *l
	slow.js = &slowJetStream{JetStream: l.js, after: func() {
		open, _ := read(t, l).OpenAttempt()
		if err := l.End(ctx, main, names, open, NotBought, "waiting time over"); err != nil {
			t.Error(err)
		}
	}}
	_, _, err := slow.Begin(ctx, e, attempt("a", 1))
	wantErr(t, "an opener that woke too late", err, ErrNotOpener)
}

// What an attempt of an earlier life bought was bought since then, although its entry was
// opened anew later: it explains no use of today. When it was claimed is the server's word.
func TestClaimOfAnEarlierLife(t *testing.T) {
	t.Parallel()
	for how, claim := range map[string]func(*Ledger, Attempt) error{
		"bought": func(l *Ledger, a Attempt) error { return l.Bought(t.Context(), main, names, a, "77", "adopted") },
		"assigned": func(l *Ledger, a Attempt) error {
			return l.Assign(t.Context(), main, names, Claim{CloudID: "77", Order: a.Order})
		},
	} {
		l := openLedger(t)
		a := attempt("a", 2)
		a.Sought = time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
		if err := l.BeginOwnerless(t.Context(), read(t, l), a); err != nil {
			t.Fatal(err)
		}
		before, err := l.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		open, _ := read(t, l).OpenAttempt()
		if err := claim(l, open); err != nil {
			t.Fatal(err)
		}
		after, err := l.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, _ := read(t, l).Claimed("77")
		if !c.Intent.Equal(a.Sought) || !c.At.After(before) || !c.At.Before(after) {
			t.Errorf("%s: %+v; it was sent after %v, and claimed from %v to %v", how, c, a.Sought, before, after)
		}
	}
}

func TestOwnerless(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	stale := read(t, l)
	sought := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	a := attempt("a", 2)
	a.Sought, a.Token = sought, "nobody's"
	if err := l.BeginOwnerless(t.Context(), stale, a); err != nil {
		t.Fatal(err)
	}
	open, is := read(t, l).OpenAttempt()
	if !is || open.Token != "" || !open.Since().Equal(sought) || time.Since(open.Opened) > time.Minute {
		t.Errorf("opened %+v (%v)", open, is)
	}
	_, _, err := l.Begin(t.Context(), stale, attempt("a", 2))
	wantErr(t, "the worker whose number it is", err, ErrConflict)
	wantErr(t, "a second one", l.BeginOwnerless(t.Context(), read(t, l), attempt("b", 1)), ErrNotOpener)
	wantErr(t, "giving up meanwhile", l.Forgo(t.Context(), main, names, attempt("a", 2), Cancelled, ""), ErrNotOpener)
	if err := l.End(t.Context(), main, names, open, NotBought, "looked"); err != nil {
		t.Fatal(err)
	}
}

func TestEnd(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	a := begin(t, l, attempt("a", 1))
	opened := a.Opened
	foreign := a
	foreign.Token = "another"
	wantErr(t, "another token", l.End(t.Context(), main, names, foreign, Refused, ""), ErrConflict)
	wantErr(t, "an order without attempts", l.End(t.Context(), main, names, attempt("b", 1), Refused, ""), ErrConflict)
	// A write in between (another order gives up) is no reason not to close, and
	// keeps the intent's time.
	if err := l.Forgo(t.Context(), main, names, attempt("b", 1), Cancelled, "by hand"); err != nil {
		t.Fatal(err)
	}
	if open, _ := read(t, l).OpenAttempt(); !open.Opened.Equal(opened) {
		t.Errorf("opened at %v, after another's write %v", opened, open.Opened)
	}
	for range 2 {
		if err := l.End(t.Context(), main, names, a, Refused, "bad contact"); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, "another ending", l.End(t.Context(), main, names, a, NotBought, ""), ErrConflict)
	if last, _ := read(t, l).Last("a"); last.Ending != Refused || last.Note != "bad contact" {
		t.Errorf("ended as %+v", last)
	}
}

func TestBought(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	if err := l.Report(t.Context(), main, names, Unclaimed{CloudID: "77", Status: "CHECKING"}); err != nil {
		t.Fatal(err)
	}
	a := begin(t, l, attempt("a", 1))
	if err := l.Bought(t.Context(), main, names, a, "", "answered"); err == nil {
		t.Error("bought without a cloud id")
	}
	for range 2 {
		if err := l.Bought(t.Context(), main, names, a, "77", "answered"); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, "another id", l.Bought(t.Context(), main, names, a, "78", "answered"), ErrConflict)
	wantErr(t, "another order", l.Bought(t.Context(), main, names, attempt("b", 1), "77", "answered"), ErrTaken)
	e := read(t, l)
	if c, ok := e.Claim("a", 1); !ok || c.CloudID != "77" || c.How != "answered" {
		t.Errorf("claim %+v", c)
	}
	if _, ok := e.Claim("a", 2); ok {
		t.Error("a purchase that was authorised again is answered by the earlier claim")
	}
	if _, is := e.OpenAttempt(); is || len(e.Unclaimed) != 0 {
		t.Errorf("left open or unclaimed: %+v", e)
	}
	wantErr(t, "giving up what was bought", l.Forgo(t.Context(), main, names, attempt("a", 1), Cancelled, ""), ErrConflict)
}

func TestProvisional(t *testing.T) {
	l := openLedger(t)
	a := begin(t, l, attempt("a", 1))
	for range 2 {
		if err := l.Adopt(t.Context(), main, names, a, "77"); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, "a second candidate", l.Adopt(t.Context(), main, names, a, "78"), ErrConflict)
	wantErr(t, "not bought meanwhile", l.End(t.Context(), main, names, a, NotBought, ""), ErrConflict)
	wantErr(t, "taken by hand for another order", l.Assign(t.Context(), main, names, Claim{CloudID: "77", Order: "b", Purchase: 1}), ErrTaken)
	if e := read(t, l); e.Free("77", "b") || !e.Free("78", "b") {
		t.Error("a provisional row is free for another order")
	}
	for range 2 {
		if err := l.Disown(t.Context(), main, names, a, "77"); err != nil {
			t.Fatal(err)
		}
	}
	e := read(t, l)
	open, is := e.OpenAttempt()
	if !is || open.Provisional != "" || !open.Opened.Equal(a.Opened) || len(open.Foreign) != 1 {
		t.Errorf("after a wrong key: %+v", open)
	}
	if e.Free("77", "a") || !e.Free("77", "b") {
		t.Error("a foreign row is foreign for this order only")
	}
	wantErr(t, "the foreign row again", l.Adopt(t.Context(), main, names, a, "77"), ErrConflict)
	wantErr(t, "the foreign row by hand", l.Assign(t.Context(), main, names, Claim{CloudID: "77", Order: "a", Purchase: 1}), ErrTaken)
	// A visit that still collects the first row must not touch the second.
	if err := l.Adopt(t.Context(), main, names, a, "78"); err != nil {
		t.Fatal(err)
	}
	if err := l.Disown(t.Context(), main, names, a, "77"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "a row that was never adopted", l.Disown(t.Context(), main, names, a, "79"), ErrConflict)
	if open, _ := read(t, l).OpenAttempt(); open.Provisional != "78" || len(open.Foreign) != 1 {
		t.Errorf("an old visit undid the second adoption: %+v", open)
	}
	if err := l.Bought(t.Context(), main, names, a, "78", "key compared"); err != nil {
		t.Fatal(err)
	}
	// What is foreign outlasts the attempt.
	again := attempt("a", 2)
	again.Purchase = 2
	if open := begin(t, l, again); len(open.Foreign) != 1 || open.Foreign[0] != "77" {
		t.Errorf("forgot what is foreign: %+v", open)
	}
}

func TestForgo(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	e := read(t, l)
	for range 2 {
		if err := l.Forgo(t.Context(), main, names, attempt("a", 1), Cancelled, "by hand"); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := l.Begin(t.Context(), e, attempt("a", 1))
	wantErr(t, "a worker that read before the cancel", err, ErrConflict)
	_, _, err = l.Begin(t.Context(), read(t, l), attempt("a", 1))
	wantErr(t, "the number that was given up", err, ErrConflict)
	// A worker that lost its race says of its number that it was never sent; that
	// takes no cancellation back.
	if err := l.Forgo(t.Context(), main, names, attempt("a", 1), NeverSent, "another entry came first"); err != nil {
		t.Fatal(err)
	}
	if last, _ := read(t, l).Last("a"); last.Ending != Cancelled || last.Attempt != 1 {
		t.Errorf("the cancellation became %+v", last)
	}
	// A later purchase is another matter, even if its record lags behind.
	later := attempt("a", 1)
	later.Purchase = 2
	if err := l.Forgo(t.Context(), main, names, later, Cancelled, "by hand"); err != nil {
		t.Fatal(err)
	}
	if last, _ := read(t, l).Last("a"); last.Purchase != 2 || last.Attempt != 2 || last.Ending != Cancelled {
		t.Errorf("the second purchase was not given up: %+v", last)
	}
}

func TestAssign(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	begin(t, l, attempt("a", 1))
	for range 2 {
		if err := l.Assign(t.Context(), main, names, Claim{CloudID: "77", Order: "a", Purchase: 1, How: "by hand"}); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, "for another order", l.Assign(t.Context(), main, names, Claim{CloudID: "77", Order: "b", Purchase: 1}), ErrTaken)
	if last, _ := read(t, l).Last("a"); last.Ending != Bought {
		t.Errorf("the attempt is %s", last.Ending)
	}
	if err := l.Assign(t.Context(), main, names, Claim{CloudID: "78", Order: "a", Purchase: 1}); err != nil {
		t.Fatal(err)
	}
	e := read(t, l)
	if c, _ := e.Claim("a", 1); c.CloudID != "78" {
		t.Errorf("the claim in force is %s, the person said 78", c.CloudID)
	}
	if _, ok := e.Claimed("77"); !ok {
		t.Error("an earlier claim was forgotten")
	}
}

// A row is reported also where an attempt is open (DESIGN 12.6): if it is not the
// attempt's own, it stops the next purchase.
// DESIGN 12.5: a row without an id is none.
// DESIGN 12.6: rows of names with an open attempt are reported.
func TestReport(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	a := begin(t, l, attempt("a", 1))
	report := func(id, status string) []Unclaimed {
		t.Helper()
		if err := l.Report(t.Context(), main, names, Unclaimed{CloudID: id, Status: status}); err != nil {
			t.Fatal(err)
		}
		return read(t, l).Unclaimed
	}
	if got := report("77", "CHECKING"); len(got) != 1 {
		t.Errorf("unclaimed while an attempt is open: %+v", got)
	}
	if got := report("", "CHECKING"); len(got) != 1 {
		t.Errorf("a row without an id is none: %+v", got)
	}
	if err := l.Bought(t.Context(), main, names, a, "77", "answered"); err != nil {
		t.Fatal(err)
	}
	if got := report("77", "CHECKING"); len(got) != 0 {
		t.Errorf("a claimed row was reported: %+v", got)
	}
	report("78", "CHECKING")
	report("78", "CHECKING")
	if got := report("78", "CERT"); len(got) != 1 || got[0].Status != "CERT" {
		t.Errorf("unclaimed: %+v", got)
	}
}

func TestNamesAreASet(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	begin(t, l, attempt("a", 1))
	for _, same := range [][]string{{"a.example.com", "b.example.com"}, {"B.Example.com", "A.EXAMPLE.COM", "b.example.com"}} {
		e, err := l.Read(t.Context(), main, same)
		if err != nil || len(e.Attempts) != 1 {
			t.Errorf("%q: %+v, %v", same, e, err)
		}
	}
	for main, other := range map[string][]string{main: {"a.example.com"}, "100002": names} {
		if e, err := l.Read(t.Context(), main, other); err != nil || len(e.Attempts) != 0 {
			t.Errorf("%s %q: %+v, %v", main, other, e, err)
		}
	}
}

// of is the empty entry of a set of names.
func of(names []string) Entry { return Entry{Main: main, Names: names} }

// decided is when the records of these tests have decided.
var decided = moment(time.Now())

// claim takes the names, and the resource for them, as an order's visits do.
func claim(t testing.TB, l *Ledger, names []string, id, by string, purchase int) error {
	t.Helper()
	return claimAt(t, l, main, names, id, by, purchase, time.Time{})
}

// claimAt is claim by a decision of a record; the zero time: a new one.
func claimAt(t testing.TB, l *Ledger, main string, names []string, id, by string, purchase int, at time.Time) error {
	t.Helper()
	e, err := l.Read(t.Context(), main, names)
	if err != nil {
		t.Fatal(err)
	}
	if at.IsZero() {
		at = e.Decision(by, time.Now())
	}
	if err := l.Take(t.Context(), e, by, id, at); err != nil {
		return err
	}
	return l.Claim(t.Context(), e, id, by, purchase, at)
}

func TestResources(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	for i, id := range []string{"cas-ivauto-abc", "8nC1xQ", "a.b", "*", ">", "ü"} {
		a, b := []string{fmt.Sprintf("a%d.example.com", i)}, []string{fmt.Sprintf("b%d.example.com", i)}
		for range 2 {
			if err := claim(t, l, a, id, "a", 1); err != nil {
				t.Fatalf("%q: %v", id, err)
			}
		}
		wantErr(t, id, claim(t, l, b, id, "b", 1), ErrTaken)
		if err := claimAt(t, l, "100002", []string{"elsewhere" + b[0]}, id, "b", 1, time.Time{}); err != nil {
			t.Errorf("%q on another main account: %v", id, err)
		}
		if _, err := l.Release(t.Context(), main, id, "b", time.Now(), 0); err != nil {
			t.Errorf("%q: %v", id, err)
		}
		if h, err := l.Owner(t.Context(), main, id); err != nil || h.Order != "a" {
			t.Errorf("%q is held by %+v, %v", id, h, err)
		}
		for range 2 {
			if _, err := l.Release(t.Context(), main, id, "a", time.Now(), 0); err != nil {
				t.Errorf("%q: %v", id, err)
			}
		}
		if err := claim(t, l, b, id, "b", 1); err != nil {
			t.Errorf("%q after its release: %v", id, err)
		}
	}
}

func TestOneHolderAmongRivals(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	var wg sync.WaitGroup
	got := make([]error, 8)
	for i := range got {
		wg.Go(func() {
			got[i] = claim(t, l, []string{fmt.Sprintf("o%d.example.com", i)}, "one", fmt.Sprintf("o%d", i), 1)
		})
	}
	wg.Wait()
	won := 0
	for _, err := range got {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrTaken) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d orders hold one instance", won)
	}
}

// DESIGN 12.9: a build that knows another format refuses, and leaves what a newer one wrote.
func TestNewerEntriesAreLeftAlone(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	if _, err := l.js.Publish(t.Context(), spendSubject(main, names), fmt.Appendf(nil, `{"v":%d,"main":"100001"}`, version+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Read(t.Context(), main, names); err == nil {
		t.Error("an entry of a newer program was read")
	}
	if err := l.Report(t.Context(), main, names, Unclaimed{CloudID: "1"}); err == nil {
		t.Error("an entry of a newer program was overwritten")
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte(`{"main":"1","names":["a"],"attempts":[{"order":"a","attempt":1,"ending":"open"}],"claims":[{"cloud_id":"7","order":"a","purchase":1}]}`))
	f.Add([]byte(`{"v":2}`))
	f.Add([]byte(`{"attempts":[{"ending":"open","opened":"2026-11-25T12:00:00Z","foreign":["1"]}]}`))
	f.Add([]byte(`null`))
	stored := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEntry(data, 7, stored)
		if err != nil {
			return
		}
		for _, a := range e.Attempts {
			if a.Ending == Open && a.Opened.IsZero() {
				t.Fatal("an open attempt without a time: the waiting time would be over at once")
			}
		}
		again, err := json.Marshal(e)
		if err != nil {
			t.Skip() // a year that JSON cannot write
		}
		twice, err := decodeEntry(again, 7, stored.Add(time.Hour))
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		once, _ := json.Marshal(twice)
		if string(once) != string(again) {
			t.Fatalf("reading twice changes the entry:\n%s\n%s", again, once)
		}
	})
}

func TestEach(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	want := map[string]bool{}
	for i := range 1203 { // more than two pages
		name := fmt.Sprintf("n%d.example.com", i)
		if err := l.Report(t.Context(), "m1", []string{name}, Unclaimed{CloudID: name, Status: "CHECKING"}); err != nil {
			t.Fatal(err)
		}
		want[name] = true
	}
	if err := l.Report(t.Context(), "m2", []string{"other.example.com"}, Unclaimed{CloudID: "1"}); err != nil {
		t.Fatal(err)
	}
	unread, err := l.Each(t.Context(), "m1", func(e Entry) error { delete(want, e.Names[0]); return nil })
	if err != nil || len(want) > 0 || len(unread) > 0 {
		t.Errorf("%d entries did not come, %d cannot be read: %v", len(want), len(unread), err)
	}
	stop := errors.New("stop")
	if _, err := l.Each(t.Context(), "m1", func(Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}
