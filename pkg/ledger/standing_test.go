package ledger

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/stream"
)

// DESIGN 12.2: names are taken until the order is issued or has ended, in service
// until they are due, and after a paid failure stop the next order once; a successor
// passes its own predecessor's end only.
// DESIGN 12.2: what is due is the renewal's business: it stops nobody.
func TestStanding(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	ended := func(id string, end TakeEnd, ago, left time.Duration, paid bool) Take {
		return Take{Order: id, End: end, At: now.Add(-ago), NotAfter: now.Add(left), Paid: paid}
	}
	at := func(takes ...Take) Entry { return Entry{Main: "1", Takes: takes} }
	for name, c := range map[string]struct {
		e           Entry
		id, follows string
		want        Stands
		by          string
	}{
		"nothing":                      {at(), "b", "", Free, ""},
		"its own":                      {at(Take{Order: "b"}), "b", "", Free, ""},
		"under way":                    {at(Take{Order: "a"}), "b", "", Taken, "a"},
		"under way elsewhere":          {Entry{Main: "2", others: []Entry{at(Take{Order: "a"})}}, "b", "", Taken, "a"},
		"its predecessor is under way": {at(Take{Order: "a"}), "a-2", "a", Taken, "a"},
		"open elsewhere": {Entry{Main: "2", others: []Entry{{Main: "1", Attempts: []Attempt{{Order: "a", Ending: Open}}}}},
			"b", "", Taken, "a"},
		"in service":                   {at(ended("a", TakeIssued, day, 90*day, false)), "b", "", InService, "a"},
		"in service elsewhere":         {Entry{Main: "2", others: []Entry{at(ended("a", TakeIssued, day, 90*day, false))}}, "b", "", InService, "a"},
		"due":                          {at(ended("a", TakeIssued, 80*day, 20*day, false)), "b", "", Free, ""},
		"over":                         {at(ended("a", TakeIssued, 90*day, -day, false)), "b", "", Free, ""},
		"its predecessor's":            {at(ended("a", TakeIssued, day, 90*day, false)), "a-2", "a", Free, ""},
		"failed":                       {at(ended("a", TakeOver, day, 0, false)), "b", "", Free, ""},
		"paid and failed":              {at(ended("a", TakeOver, day, 0, true)), "b", "", PaidAndFailed, "a"},
		"paid and failed, its own":     {at(ended("a", TakeOver, day, 0, true)), "a-2", "a", Free, ""},
		"a later one came":             {at(ended("a", TakeOver, 2*day, 0, true), ended("a-2", TakeIssued, day, 90*day, false)), "b", "", InService, "a-2"},
		"a later one failed unpaid":    {at(ended("a", TakeIssued, 2*day, 90*day, false), ended("c", TakeOver, day, 0, false)), "b", "", InService, "a"},
		"another than its predecessor": {at(ended("a", TakeOver, 2*day, 0, true), ended("c", TakeIssued, day, 90*day, false)), "a-2", "a", InService, "c"},
	} {
		if got := c.e.Standing(c.id, c.follows, now); got.Is != c.want || c.by != "" && got.Order != c.by {
			t.Errorf("%s: %+v, want %s by %q", name, got, c.want, c.by)
		}
	}
}

// DESIGN 12.3: one condition over all main accounts. Two orders for one set, at
// two accounts, which both read nothing: one begins.
func TestOneSetAtTwoAccounts(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	one, two := read(t, l), Entry{Main: "100002", Names: names}
	if _, _, err := l.Begin(t.Context(), one, attempt("a", 1)); err != nil {
		t.Fatal(err)
	}
	_, _, err := l.Begin(t.Context(), two, attempt("b", 1))
	wantErr(t, "on what was read before", err, ErrConflict)
	two, err = l.Read(t.Context(), "100002", names)
	if err != nil || len(two.Elsewhere()) != 1 {
		t.Fatalf("%+v, %v", two, err)
	}
	_, _, err = l.Begin(t.Context(), two, attempt("b", 1))
	wantErr(t, "while the other is open", err, ErrNotOpener)
	if by, is := errors.AsType[*NotFree](err); !is || by.Order != "a" || by.Main != main {
		t.Errorf("who has them: %v", err)
	}
	wantErr(t, "to claim something for them", l.Take(t.Context(), two, "b", "cas-1", decided), ErrTaken)
}

// Two orders for one set between bought and issued: the names stay taken.
// DESIGN 12.2: names are taken until the order is issued.
func TestNamesStayTakenUntilIssued(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	a := begin(t, l, attempt("a", 1))
	if err := l.Bought(t.Context(), main, names, a, "77", "answered"); err != nil {
		t.Fatal(err)
	}
	_, _, err := l.Begin(t.Context(), read(t, l), attempt("b", 1))
	wantErr(t, "between bought and issued", err, ErrNotOpener)
	till := time.Now().Add(80 * 24 * time.Hour).UTC()
	for range 2 {
		if err := l.Issued(t.Context(), main, names, "a", time.Now(), till); err != nil {
			t.Fatal(err)
		}
	}
	if s := read(t, l).Standing("b", "", time.Now()); s.Is != InService || s.Order != "a" || !s.Till.Equal(till) {
		t.Errorf("after issue: %+v", s)
	}
}

// An order that was paid and failed is remembered so, and may go on while nobody
// else has the names.
// DESIGN 12.2: a claim carries its end: one that was paid for in vain is told from one
// that cost nothing.
func TestOverAndResume(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	a := begin(t, l, attempt("a", 1))
	wantErr(t, "over while it is open", l.Over(t.Context(), main, names, a, false), ErrOpen)
	if err := l.Bought(t.Context(), main, names, a, "77", "answered"); err != nil {
		t.Fatal(err)
	}
	if err := l.Over(t.Context(), main, names, a, false); err != nil {
		t.Fatal(err)
	}
	if s := read(t, l).Standing("b", "", time.Now()); s.Is != PaidAndFailed {
		t.Errorf("%+v", s)
	}
	if err := l.Resume(t.Context(), main, names, "a"); err != nil {
		t.Fatal(err)
	}
	if s := read(t, l).Standing("b", "", time.Now()); s.Is != Taken {
		t.Errorf("resumed: %+v", s)
	}
	if err := l.Over(t.Context(), main, names, a, false); err != nil {
		t.Fatal(err)
	}
	begin(t, l, attempt("b", 1))
	wantErr(t, "resume beside another", l.Resume(t.Context(), main, names, "a"), ErrTaken)
}

// Names that an order has for nothing it may leave; with an attempt that may have
// bought something, or one that did, it keeps them.
func TestLeave(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	leave := func() Stands {
		t.Helper()
		if err := l.Leave(t.Context(), main, names, "a", time.Time{}); err != nil {
			t.Fatal(err)
		}
		return read(t, l).Standing("b", "", time.Now()).Is
	}
	if is := leave(); is != Free || read(t, l).Known() {
		t.Errorf("without names: %s", is)
	}
	a := begin(t, l, attempt("a", 1))
	if is := leave(); is != Taken {
		t.Errorf("with an open attempt: %s", is)
	}
	if take, _ := read(t, l).Take("a"); take.End != "" {
		t.Errorf("with an open attempt, they are given back: %+v", take)
	}
	if err := l.End(t.Context(), main, names, a, NeverSent, "throttled"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if is := leave(); is != Free {
			t.Errorf("with nothing: %s", is)
		}
	}
	a = begin(t, l, attempt("a", 2)) // it may take them again
	if err := l.Bought(t.Context(), main, names, a, "77", "answered"); err != nil {
		t.Fatal(err)
	}
	if is := leave(); is != Taken {
		t.Errorf("with something bought: %s", is)
	}
}

// DESIGN 12.3: the filter's text belongs to the format: the server compares the
// filters of conditions as text, so a build that writes another one stands beside no
// build of this format.
func TestTheConditionsFilter(t *testing.T) {
	l := openLedger(t)
	a := begin(t, l, attempt("a", 1))
	for _, write := range []func() error{
		func() error { return l.End(t.Context(), main, names, a, NeverSent, "") },
		func() error { return l.Over(t.Context(), main, names, a, false) },
		func() error { return l.Take(t.Context(), read(t, l), "b", "cas-1", decided) },
	} {
		if err := write(); err != nil {
			t.Fatal(err)
		}
		m, err := l.stream.GetLastMsgForSubject(t.Context(), "spend.>")
		if err != nil {
			t.Fatal(err)
		}
		const filter = "spend.*.5c62fcb445599f5fea7370ae9f2be19b421ada96"
		if got := m.Header.Get(jetstream.ExpectedLastSubjSeqSubjHeader); got != filter || stream.Format != 2 {
			t.Errorf("the condition's filter is %q in format %d, want %q in format 2: with another one the format's number rises", got, stream.Format, filter)
		}
	}
}

// DESIGN 12.5: the owner is written before the entry says so. It names the order, the
// purchase, and whether there is a proof.
// DESIGN 12.5: answers and adoptions go through the owner: what is another order's is
// refused to each of them, and their entries say nothing of it.
func TestTheOwnerIsWrittenFirst(t *testing.T) {
	for what, c := range map[string]struct {
		provisional bool
		claims      func(ctx context.Context, l *Ledger, a Attempt) error
	}{
		"an answer": {false, func(ctx context.Context, l *Ledger, a Attempt) error {
			return l.Bought(ctx, main, names, a, "77", "answered")
		}},
		"an adoption without proof": {true, func(ctx context.Context, l *Ledger, a Attempt) error {
			return l.Adopt(ctx, main, names, a, "77")
		}},
		"an adoption by hand": {false, func(ctx context.Context, l *Ledger, a Attempt) error {
			return l.Assign(ctx, main, names, Claim{CloudID: "77", Order: a.Order, Purchase: a.Purchase})
		}},
	} {
		l := openLedger(t)
		a := begin(t, l, attempt("a", 1))
		between := false
		err := c.claims(gap.With(t.Context(), func(_ context.Context, name string) {
			between = name == "ledger: owner written"
			e := read(t, l)
			_, claimed := e.Claimed("77")
			if last, _ := e.Last("a"); claimed || last.Provisional != "" {
				t.Errorf("%s: the entry says so already: %+v", what, e)
			}
			o, err := l.Owner(t.Context(), main, "77")
			if err != nil || o.Order != "a" || o.Purchase != 1 || o.Provisional != c.provisional || !o.sameNames(names) {
				t.Errorf("%s: the owner is %+v, %v", what, o, err)
			}
		}), l, a)
		if err != nil || !between {
			t.Errorf("%s: %v; between the two: %v", what, err, between)
		}

		l = openLedger(t)
		theirs := Claim{CloudID: "77", Order: "b", Purchase: 1}
		if err := l.Assign(t.Context(), main, []string{"other.example.com"}, theirs); err != nil {
			t.Fatal(err)
		}
		a = begin(t, l, attempt("a", 1))
		wantErr(t, what+" of another order's", c.claims(t.Context(), l, a), ErrTaken)
		if e := read(t, l); len(e.Claims) > 0 || e.Attempts[0].Ending != Open || e.Attempts[0].Provisional != "" {
			t.Errorf("%s of another order's: the entry is %+v", what, e)
		}
	}
}

// DESIGN 12.5: one cloud order has one claimant, whatever names its claimants
// have. One without proof holds it as long as its entry says so.
// DESIGN 12.5: an owner without proof is replaced when its entry says otherwise.
func TestOneClaimant(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	a := begin(t, l, attempt("a", 1))
	other := []string{"other.example.com"}
	b := attempt("b", 1)
	if _, _, err := l.Begin(t.Context(), of(other), b); err != nil {
		t.Fatal(err)
	}
	if err := l.Adopt(t.Context(), main, names, a, "77"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "without proof, beside one without", l.Adopt(t.Context(), main, other, b, "77"), ErrTaken)
	if err := l.Disown(t.Context(), main, names, a, "77"); err != nil {
		t.Fatal(err)
	}
	if err := l.Adopt(t.Context(), main, other, b, "77"); err != nil {
		t.Errorf("after the other disowned it: %v", err)
	}
	if err := l.Bought(t.Context(), main, names, a, "77", "answered"); err != nil {
		t.Errorf("a proof against none: %v", err)
	}
	wantErr(t, "without proof, beside a proof", l.Bought(t.Context(), main, other, b, "77", "adopted"), ErrTaken)
	if o, err := l.Owner(t.Context(), main, "77"); err != nil || o.Order != "a" || o.Provisional {
		t.Errorf("%+v, %v", o, err)
	}
}

// DESIGN 12.4: a resource stays with its names until its term ends, also while no
// order holds it.
// DESIGN 12.4: their renewal takes it over.
func TestAResourceStaysWithItsNames(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	started := func(by string, till time.Time) {
		t.Helper()
		if err := l.Started(t.Context(), main, "cas-1", by, till); err != nil {
			t.Fatal(err)
		}
		if err := l.Issued(t.Context(), main, names, by, time.Now(), till); err != nil {
			t.Fatal(err)
		}
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := []string{"other.example.com"}
	must("free", claim(t, l, names, "cas-1", "a", 1))
	wantErr(t, "for the same while it is under way", claim(t, l, names, "cas-1", "a-2", 1), ErrTaken)
	wantErr(t, "for others while it is under way", claim(t, l, other, "cas-1", "b", 1), ErrTaken)
	started("a", time.Now().Add(time.Hour))
	wantErr(t, "for other names", claim(t, l, other, "cas-1", "b", 1), ErrOtherNames)
	wantErr(t, "for other names, by an order of the same id in another life", claim(t, l, []string{"earlier.example.com"}, "cas-1", "a", 1), ErrOtherNames)
	wantErr(t, "for other names, before it is tried", l.MayClaim(t.Context(), of(other), "cas-1", "b"), ErrOtherNames)
	must("their renewal", claim(t, l, names, "cas-1", "a-2", 1))
	started("a-2", time.Now().Add(-time.Hour))
	must("after its term", claim(t, l, other, "cas-1", "b", 1))
}

// DESIGN 12.4: a claim is given back by a look that was taken a waiting time after
// the last call without a clear answer. An answer takes back its own note only.
func TestGivenBackAfterALateCall(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	if err := claim(t, l, names, "cas-1", "a", 1); err != nil {
		t.Fatal(err)
	}
	first := time.Now()
	call := func(at time.Time) Call {
		t.Helper()
		c, err := l.Calling(t.Context(), main, "cas-1", "a", "who", at)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	release := func(looked time.Time) error {
		_, err := l.Release(t.Context(), main, "cas-1", "a", looked, time.Hour)
		return err
	}
	one := call(first)
	two := call(first.Add(time.Minute))
	if err := l.Answered(t.Context(), main, "cas-1", "a", one); err != nil { // a later one is on its way
		t.Fatal(err)
	}
	wantErr(t, "while the second call is on its way", release(first.Add(time.Hour)), ErrTooEarly)
	if err := l.Answered(t.Context(), main, "cas-1", "a", two); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "while the first may be", release(first.Add(59*time.Minute)), ErrTooEarly)
	if err := release(first.Add(time.Hour)); err != nil {
		t.Errorf("a waiting time later: %v", err)
	}
	_, err := l.Calling(t.Context(), main, "cas-1", "a", "who", time.Now())
	wantErr(t, "a call on what was given back", err, ErrTaken)
}

// Model finding F2: a worker that slept over the end of its order claims and calls
// nothing, wherever it had come to.
func TestAWorkerThatSleptClaimsNothing(t *testing.T) {
	t.Parallel()
	free := func(t *testing.T, l *Ledger) {
		t.Helper()
		if o, err := l.Owner(t.Context(), main, "cas-1"); err != nil || o.Order != "" {
			t.Errorf("the resource of an order that ended is held by %+v, %v", o, err)
		}
		if s := read(t, l).Standing("b", "", time.Now()); s.Is != Free {
			t.Errorf("its names are %+v", s)
		}
	}
	end := func(t *testing.T, l *Ledger) {
		t.Helper()
		if err := l.Ending(t.Context(), main, names, "a", decided); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Release(t.Context(), main, "cas-1", "a", time.Now(), 0); err != nil {
			t.Fatal(err)
		}
		if err := l.Over(t.Context(), main, names, Attempt{Order: "a"}, false); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("before it took the names", func(t *testing.T) {
		l := openLedger(t)
		end(t, l)
		wantErr(t, "take", l.Take(t.Context(), read(t, l), "a", "cas-1", decided), ErrStale)
		free(t, l)
	})
	t.Run("before its claim", func(t *testing.T) {
		l := openLedger(t)
		e := read(t, l)
		if err := l.Take(t.Context(), e, "a", "cas-1", decided); err != nil {
			t.Fatal(err)
		}
		end(t, l)
		wantErr(t, "claim", l.Claim(t.Context(), e, "cas-1", "a", 1, decided), ErrStale)
		free(t, l)
	})
	t.Run("of an earlier decision", func(t *testing.T) {
		l := openLedger(t)
		if err := claimAt(t, l, main, names, "cas-1", "a", 1, decided); err != nil {
			t.Fatal(err)
		}
		end(t, l)
		if err := l.Resume(t.Context(), main, names, "a"); err != nil { // a person's retry
			t.Fatal(err)
		}
		wantErr(t, "take", l.Take(t.Context(), read(t, l), "a", "cas-1", decided), ErrStale)
		wantErr(t, "claim", l.Claim(t.Context(), read(t, l), "cas-1", "a", 1, decided), ErrStale)
		if err := claim(t, l, names, "cas-2", "a", 1); err != nil {
			t.Errorf("by its new decision: %v", err)
		}
	})
	t.Run("a claim that is left behind is nobody's", func(t *testing.T) {
		l := openLedger(t)
		if err := claimAt(t, l, main, names, "cas-1", "a", 1, decided); err != nil {
			t.Fatal(err)
		}
		if err := l.Over(t.Context(), main, names, Attempt{Order: "a"}, false); err != nil {
			t.Fatal(err)
		}
		if err := claim(t, l, []string{"other.example.com"}, "cas-1", "b", 1); err != nil {
			t.Error(err)
		}
	})
}

// A number that was never opened is closed with its order, so that no worker that
// slept buys for it.
func TestOverClosesTheNumber(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	slept := read(t, l)
	for range 2 {
		if err := l.Over(t.Context(), main, names, attempt("a", 1), false); err != nil {
			t.Fatal(err)
		}
	}
	for what, e := range map[string]Entry{"by what it had read": slept, "by what it reads now": read(t, l)} {
		_, _, err := l.Begin(t.Context(), e, attempt("a", 1))
		wantErr(t, what, err, ErrConflict)
	}
	begin(t, l, attempt("b", 1))
}

// Every fact by itself: the last order was paid and failed, and a certificate of
// an earlier one is still in service. A successor passes its predecessor, and what
// that one had passed.
func TestAllThatIsInTheWay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	at := func(h int) time.Time { return now.Add(time.Duration(h) * time.Hour) }
	e := Entry{Main: main, Names: names, Takes: []Take{
		{Order: "a", Since: at(-90), At: at(-80), End: TakeIssued, NotAfter: at(2000)},
		{Order: "b", Since: at(-50), At: at(-40), End: TakeOver, Paid: true},
	}}
	for _, tt := range []struct {
		id, predecessor string
		want            []Stands
	}{
		{"c", "", []Stands{PaidAndFailed, InService}},
		{"b-2", "b", nil},
		{"a-2", "a", []Stands{PaidAndFailed}},
		{"b", "", []Stands{InService}},
	} {
		var got []Stands
		for _, s := range e.InTheWay(tt.id, tt.predecessor, now) {
			got = append(got, s.Is)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("for %s after %q: %v, want %v", tt.id, tt.predecessor, got, tt.want)
		}
	}
	if s := e.Standing("c", "", now); s.Is != PaidAndFailed || s.Order != "b" {
		t.Errorf("first %+v", s)
	}
}

// An attempt that nobody owns is opened beside an order that has the names. Once
// it is closed, one of the two goes on: else each would wait for the other.
func TestTwoThatHaveTheNames(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	a := begin(t, l, attempt("a", 1))
	if err := l.End(t.Context(), main, names, a, NeverSent, "throttled"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Millisecond) // entries keep milliseconds
	if err := l.BeginOwnerless(t.Context(), read(t, l), attempt("b", 1)); err != nil {
		t.Fatal(err)
	}
	is := func(id string) Standing { return read(t, l).Standing(id, "", time.Now()) }
	if s := is("a"); s.Is != Taken || s.Order != "b" || !s.Open || s.Attempt != 1 {
		t.Errorf("while it is open: %+v", s)
	}
	b, _ := read(t, l).Last("b")
	if err := l.End(t.Context(), main, names, b, NotBought, "looked"); err != nil {
		t.Fatal(err)
	}
	if is("a").Is != Free || is("b").Order != "a" {
		t.Errorf("then a is %+v, b %+v", is("a"), is("b"))
	}
	again := attempt("b", 2)
	if err := l.BeginOwnerless(t.Context(), read(t, l), again); err != nil {
		t.Fatal(err)
	}
	if err := l.Bought(t.Context(), main, names, again, "77", "adopted"); err != nil {
		t.Fatal(err)
	}
	if s := is("a"); s.Is != Taken || s.Order != "b" {
		t.Errorf("once it was bought: %+v", s)
	}
}

// What a person let pass is passed for that order at that account only.
func TestWithoutWhatIsElsewhere(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	begin(t, l, attempt("a", 1))
	e, err := l.Read(t.Context(), "100002", names)
	if err != nil {
		t.Fatal(err)
	}
	if s := e.Without(main, "z").Standing("b", "", time.Now()); s.Order != "a" {
		t.Errorf("of another order: %+v", s)
	}
	if _, _, err := l.Begin(t.Context(), e.Without(main, "a"), attempt("b", 1)); err != nil {
		t.Errorf("let pass: %v", err)
	}
}

// What was adopted has the names, and the accounts that know them are told.
func TestAdoptedOrdersHaveTheNames(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	if err := l.Assign(t.Context(), main, names, Claim{CloudID: "77", Order: "a", Purchase: 1}); err != nil {
		t.Fatal(err)
	}
	if s := read(t, l).Standing("b", "", time.Now()); s.Is != Taken || s.Order != "a" {
		t.Errorf("%+v", s)
	}
	put(t, l.js, spendSubject("100002", names), `{"v":9}`)
	if mains, err := l.Mains(t.Context(), names); err != nil || !slices.Equal(mains, []string{main, "100002"}) {
		t.Errorf("%v, %v", mains, err)
	}
}

// DESIGN 12.5: a foreign row stops the purchase: a row of what an order uses is
// explained while it does, and when it was issued with it, whichever was written first;
// what was given back stops purchases again.
func TestARowOfWhatAnOrderUses(t *testing.T) {
	t.Parallel()
	l, ctx := openLedger(t), t.Context()
	names := []string{"a.example.com"}
	row := Unclaimed{CloudID: "r1", Status: "issued"}
	loose := func() int {
		t.Helper()
		e, err := l.Read(ctx, "1", names)
		if err != nil {
			t.Fatal(err)
		}
		return len(e.Loose())
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	take := func() {
		t.Helper()
		e, err := l.Read(ctx, "1", names)
		must(err)
		must(l.Take(ctx, e, "a", "r1", e.Decision("a", time.Now())))
	}
	must(l.Report(ctx, "1", names, row))
	if loose() != 1 {
		t.Error("a row that nobody explains is not loose")
	}
	take()
	if loose() != 0 {
		t.Error("what an order uses is loose")
	}
	must(l.Over(ctx, "1", names, Attempt{Order: "a", Purchase: 1}, false))
	if loose() != 1 {
		t.Error("what was given back is not loose")
	}
	take()
	must(l.Report(ctx, "1", names, Unclaimed{CloudID: "r1", Status: "reported late"}))
	must(l.Issued(ctx, "1", names, "a", time.Now(), time.Now().Add(time.Hour)))
	if loose() != 0 {
		t.Error("what an order was issued with is loose")
	}
}
