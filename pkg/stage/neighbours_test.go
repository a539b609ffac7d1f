package stage_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/stage"
)

// neighbours look at the world, some time from now.
func (w *world) neighbours(ahead time.Duration) *stage.Neighbours {
	return &stage.Neighbours{Ledger: w.ledger, States: w.states, Incarnation: w.line.Incarnation(), Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Now().Add(ahead) }, Counts: true}
}

func (w *world) troubles() map[string]account.Trouble {
	all := map[string]account.Trouble{}
	for _, t := range w.states.State(aliUID).Troubled(time.Now()) {
		all[t.Kind] = t
	}
	return all
}

// now sets the clock of the first sweep's mark, which is an hour ahead here.
func (w *world) now() {
	w.t.Helper()
	w.must(w.states.Change(w.t.Context(), aliUID, func(s *account.State) { s.Mark.At = time.Now().UTC() }))
	time.Sleep(5 * time.Millisecond) // lists tell milliseconds
}

// listed are the rows of the account's list.
func (w *world) listed(a *stage.Account) []issuer.Row {
	w.t.Helper()
	page, err := a.Flow(forPackage).(issuer.AllLister).All(w.t.Context(), 0)
	w.must(err)
	return page.Rows
}

// Issue 18, point 8: a cloud order that no order of ours has, made after our first
// sweep, is somebody else's. What is ours, or may become so, is not; nor is what
// was there before.
func TestOrdersOfSomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	ali, other := w.accounts["ali"], w.caller(aliUID, "LTAIother", "", "", "")
	w.cloudOrders(other, "before")
	w.sweepFirst()
	w.now()
	w.bought(ali, "ours")
	w.opened(ali, "unsure")
	w.cloudOrders(ali, "unsure")
	n := w.neighbours(0)
	n.Saw(ali, w.listed(ali)...)
	w.must(n.Sweep(t.Context(), ali))
	if got := w.troubles(); len(got) > 0 {
		t.Fatalf("told of what is ours: %+v", got)
	}
	id := w.cloudOrders(other, "theirs")
	for _, ahead := range []time.Duration{0, time.Minute} {
		n = w.neighbours(ahead)
		n.Saw(ali, w.listed(ali)...)
		w.must(n.Sweep(t.Context(), ali))
		if told := len(w.troubles()) > 0; told != (ahead > 0) { // at once it may be a call of ours that is under way
			t.Errorf("after %v told: %v", ahead, told)
		}
	}
	got := w.troubles()[account.Elsewhere]
	if !strings.Contains(got.What, "cloud order "+id+" for theirs.example.com") || strings.Contains(got.What, "more") || got.Helps == "" {
		t.Errorf("told: %+v", got)
	}
}

// A row that the hourly sweep has reported is a sign, too.
func TestReportedRowsOfSomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.now()
	id := w.cloudOrders(w.caller(aliUID, "LTAIother", "", "", ""), "theirs")
	w.must(w.worker().waiter.Surplus(t.Context(), w.accounts["ali"]))
	w.must(w.neighbours(time.Minute).Sweep(t.Context(), w.accounts["ali"]))
	if got := w.troubles()[account.Elsewhere]; !strings.Contains(got.What, id) {
		t.Errorf("told: %+v", got)
	}
}

// A count that grows beyond what was bought here, while nothing was listed.
func TestQuotaOfSomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ali, other := w.accounts["ali"], w.caller(aliUID, "LTAIother", "", "", "")
	n := w.neighbours(0)
	w.bought(ali, "first") // from now on its product is looked at
	sweep := func() { w.t.Helper(); w.must(n.Sweep(t.Context(), ali)) }
	sweep()
	w.bought(ali, "second")
	open := w.opened(ali, "open")
	w.cloudOrders(ali, "open") // its answer was lost
	sweep()
	w.must(w.ledger.End(t.Context(), aliUID, namesOf("open"), open, ledger.NotBought, "a lie"))
	sweep()
	if got := w.troubles(); len(got) > 0 {
		t.Fatalf("told of what was bought here: %+v", got)
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		w.cloudOrders(other, name)
	}
	sweep()
	got := w.troubles()[account.Growth]
	if !strings.Contains(got.What, "the used count of "+plenty+" grew by ") || !strings.Contains(got.What, "bought ") {
		t.Errorf("told: %+v", got)
	}
}

// A sign is told once an hour, by whomever.
func TestSignsAreToldOnceAnHour(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	var log strings.Builder
	for _, ahead := range []time.Duration{0, 10 * time.Minute, 59 * time.Minute, 61 * time.Minute, 3 * time.Hour} {
		n := w.neighbours(ahead)
		n.Log = slog.New(slog.NewTextHandler(&log, nil))
		n.Throttled(t.Context(), aliUID, "ali", forPackage, 7, 10)
	}
	if n := strings.Count(log.String(), "somebody else calls "+forPackage); n != 3 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
	got := w.troubles()[account.Throttled]
	if took := got.Last.Sub(got.Since); took < 3*time.Hour-time.Minute || !strings.Contains(got.Helps, "certmill limit ali "+forPackage) {
		t.Errorf("kept: %+v", got)
	}
	if later := w.states.State(aliUID).Troubled(time.Now().Add(28 * time.Hour)); len(later) > 0 {
		t.Errorf("still told a day later: %+v", later)
	}
}
