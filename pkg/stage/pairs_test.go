package stage_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

var (
	pairsOf  = flag.String("pairs", "few", "pairs of gaps that are tried: few or some (drawn by -pairs-seed), or all")
	pairPart = flag.String("pairs-part", "1/1", "only this part of the routes, such as 2/8: every eighth, from the second")
	pairSeed = flag.Uint64("pairs-seed", 0, "what draws the pairs; 0 draws the seed, too")
)

// seed is what draws; it is drawn itself if none was given.
var seed = sync.OnceValue(func() uint64 {
	if *pairSeed != 0 {
		return *pairSeed
	}
	return rand.Uint64()
})

// fewer is how many of some there are for each of few: each case is a world of its
// own, and every run of the tests draws others.
const fewer = 6

// drawn tells whether one of the many cases is tried: one in so many of some.
func drawn(oneIn uint64, c ...any) bool {
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, seed(), c)
	switch *pairsOf {
	case "all":
		return true
	case "some":
		return h.Sum64()%oneIn == 0
	default:
		return h.Sum64()%(fewer*oneIn) == 0
	}
}

// inPart are the routes of the part that was asked for. Each world that was costs
// memory as long as the process lives (what servers and clients of it keep), so that
// all pairs of all routes are more than one process can try.
func inPart(t *testing.T) (mine []*route) {
	t.Helper()
	var part, of int
	if n, err := fmt.Sscanf(*pairPart, "%d/%d", &part, &of); n != 2 || part < 1 || part > of {
		t.Fatalf("-pairs-part=%s: write 2/8 (%v)", *pairPart, err)
	}
	for i, r := range routes {
		if i%of == part-1 {
			mine = append(mine, r)
		}
	}
	return mine
}

// worthIt: of the places that a worker passes, the gaps of the stages are all
// tried alone where some are asked for (TestCrashAtEveryGap tries each always). Of
// the transitions, which are all alike, some are.
func (r *route) worthIt(p place) bool {
	if p.gap == "move: stored" {
		return drawn(12, r.name, p)
	}
	return drawn(1, r.name, p)
}

// route is one way of order "a" to its end. All gaps that a worker passes on it
// are found by going it; each is then a place to die, or to freeze.
type route struct {
	name     string
	make     func(w *world)  // brings the order to where the way begins
	do       func(p *worker) // what a person does first, if anything
	again    func(p *worker) // what a person does who finds the order after a crash
	ends     order.State
	paid     int  // cloud orders for its names at the end
	unmarked bool // no first sweep was made yet

	once   sync.Once
	passed []place // of the undisturbed way
}

func tagged(fault string) func(*world) {
	return func(w *world) {
		w.showTags("a")
		w.order("a", crashName)
		w.loses(fault)
	}
}

func losing(fault string) func(*world) {
	return func(w *world) {
		w.order("a", crashName)
		w.loses(fault)
	}
}

// atItsResource brings an order to the call on what it has chosen and claimed.
func atItsResource(w *world) {
	resource(order.Request{Account: "ten"})(w)
	w.worker().driveTo("a", "about to start", func(o order.Order) bool { return o.Attempt == 1 })
}

// olderChoice has the record of an older copy: it chose one resource, and the order's
// number in the key store names another.
func olderChoice(w *world) {
	resource(order.Request{Account: "ten"})(w)
	o := w.worker().driveTo("a", "chosen", chosen)
	other := "stage1"
	if o.Resource == other {
		other = "stage2"
	}
	w.claimedAt(tenUID, "a", o.Resource, crashName)
	w.must(w.keys.Raise(w.ref("a"), certstore.Raised{Attempt: 1, Purchase: 1, Main: tenUID, Resource: other, Hash: o.Hash}))
}

func retry(p *worker)     { _ = p.by.Retry(p.ctx, "a") }
func buyAgain(p *worker)  { _ = p.buyAgain("a") }
func cancel(p *worker)    { _ = p.by.Cancel(p.ctx, "a") }
func notBought(p *worker) { _ = p.by.NotBought(p.ctx, "a") }
func again(p *worker)     { _ = p.buyAgain("a") }

var routes = []*route{
	{name: "answered", make: purchase, ends: order.Issued, paid: 1},
	{name: "answer lost", make: losing("reset_after_commit"), ends: order.Issued, paid: 1},
	{name: "answer lost, tagged", make: tagged("reset_after_commit"), ends: order.Issued, paid: 1},
	{name: "request lost", make: losing("reset_before_commit"), ends: order.Issued, paid: 1},
	{name: "throttled", make: losing("throttle"), ends: order.Issued, paid: 1},
	{name: "refused", make: func(w *world) { w.order("a", "*."+crashName) }, ends: order.Failed},
	{name: "unknown number", ends: order.Issued, paid: 1, make: func(w *world) {
		w.order("a", crashName)
		w.raise("a", 1)
	}},
	{name: "left over", unmarked: true, ends: order.Issued, paid: 1, make: func(w *world) { leftOver(w, crashName) }},
	{name: "a stranger's", ends: order.Held, paid: 1, make: func(w *world) { // it is the stranger's
		w.order("a", crashName)
		w.loses("reset_before_commit")
		w.worker().drive("a", order.Unsure)
		w.stranger(crashName)
	}},
	{name: "any instance", make: resource(order.Request{Account: "ali", Resource: "any"}), ends: order.Issued, paid: 1},
	{name: "an instance that somebody else starts", make: usedMeanwhile, ends: order.Issued, paid: 1},
	{name: "named instance", make: resource(order.Request{Account: "ali", Resource: "cas-cn-stage1"}), ends: order.Issued, paid: 1},
	{name: "any certificate", make: resource(order.Request{Account: "ten"}), ends: order.Issued, paid: 1},
	{name: "named certificate", make: resource(order.Request{Account: "ten", Resource: "stage2"}), ends: order.Issued, paid: 1},
	{name: "an older copy's choice", make: olderChoice, ends: order.Issued, paid: 1},
	{name: "another is adopted", make: adoptsAnother, ends: order.Issued, paid: 1},
	{name: "unknown instance", make: resource(order.Request{Account: "ali", Resource: "cas-cn-nobody"}), ends: order.Failed},
	{name: "any certificate, on a budget", make: budgeted(resource(order.Request{Account: "ten"})), ends: order.Issued, paid: 1},
	{name: "cancelled certificate, on a budget", make: budgeted(atItsResource), do: cancel, again: cancel, ends: order.Failed},
	{name: "counted, and too late", make: countedAndLate, ends: order.Held},
	{name: "cancelled certificate", make: atItsResource, do: cancel, again: cancel, ends: order.Failed},
	{name: "cancelled, the answer lost", make: func(w *world) {
		w.fault(cloudsim.Fault{Action: dvAudit, Kind: "reset_before_commit", Times: 1})
		resource(order.Request{Account: "ali", Resource: "any"})(w)
		w.worker().driveTo("a", "called", func(order.Order) bool { return w.calls(dvAudit) == 1 })
	}, do: cancel, again: cancel, ends: order.Failed},
	{name: "cancelled", make: purchase, do: cancel, again: cancel, ends: order.Failed},
	{name: "cancelled, and left to the workers", make: purchase, do: cancel, ends: order.Failed},
	{name: "bought again", make: func(w *world) { heldPaid(w, "a", crashName) }, do: again, again: again, ends: order.Failed, paid: 1}, // its successor waits
	{name: "adopted by hand", make: twoCandidates, ends: order.Held, paid: 2, // both are strangers'
		do: func(p *worker) { _ = p.by.Adopt(p.ctx, "a", p.anyRow()) }, again: func(p *worker) {
			if p.last("a").CloudID == "" {
				retry(p)
			}
		}},
	{name: "retried", make: refusedPurchase, do: retry, again: retry, ends: order.Failed},
	{name: "bought again", make: func(w *world) { heldPaid(w, "a", crashName) }, do: buyAgain, again: buyAgain, ends: order.Failed, paid: 1},
	{name: "not bought, by hand", make: func(w *world) { heldOpen(w, "a", crashName) }, do: notBought, again: retry, ends: order.Issued, paid: 1},
	{name: "sealed anew", make: toOthers, do: reseal, again: reseal, ends: order.Issued, paid: 1},
	{name: "key store filled again", make: emptied, do: refill, again: refill, ends: order.Issued, paid: 1},
}

// place is a gap on a route: the n-th time that a worker passes it.
type place struct {
	gap string
	n   int
}

func (p place) String() string { return fmt.Sprintf("%s (%d)", p.gap, p.n) }

// walker is a worker whose passages are counted.
type walker struct {
	*worker
	mu     sync.Mutex
	passed []place
}

// walking returns a worker that calls f at each place that it passes.
func (w *world) walking(f func(place)) *walker {
	k := &walker{}
	k.worker = w.at(func(_ context.Context, name string) {
		k.mu.Lock()
		at := place{gap: name, n: 1}
		for _, p := range k.passed {
			if p.gap == name {
				at.n++
			}
		}
		k.passed = append(k.passed, at)
		k.mu.Unlock()
		f(at)
	})
	return k
}

func (k *walker) places() []place {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.passed)
}

// walk goes a route from where it is: as the first worker, or as one that takes
// over.
func (r *route) walk(p *worker, first bool, until ...order.State) {
	switch {
	case !first && r.again != nil:
		r.again(p.worker()) // a person, who does not die
	case first && r.do != nil && !p.survive(func() { r.do(p) }):
		return
	}
	if !first && !p.handOld("a") {
		return
	}
	if o := p.last("a"); o.State == order.Held && r.ends == order.Held && o.CloudID == "" {
		return // held as it was in the beginning: nobody has decided
	}
	p.drive("a", append(until, r.ends)...)
}

// handOld hands a worker what lies below the order's last message, as after a
// crash between the two steps of a transition. A read may be stale, so the
// worker is not told that it is old. It reports false if the worker died.
func (p *worker) handOld(id string) (survived bool) {
	s, err := p.js.Stream(p.t.Context(), "ORDERS")
	p.must(err)
	last, err := p.line.Last(p.t.Context(), id)
	p.must(err)
	for seq := uint64(0); ; seq++ {
		raw, err := s.GetMsg(p.t.Context(), seq, jetstream.WithGetMsgSubject(order.AllOf(id)))
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && raw.Sequence >= last.Seq {
			return true
		}
		p.must(err)
		o, err := order.Decode(raw.Data)
		p.must(err)
		it := pipeline.Item{Order: o, Seq: raw.Sequence, Stored: raw.Time}
		if h := p.stage(o.State); h != nil && !p.survive(func() { _ = p.line.Visit(p.ctx, it, h) }) {
			return false
		}
		if o.State != order.Held && !o.State.Final() {
			_, err = p.line.Settle(p.t.Context(), it) // as whoever is handed it a minute later does first
			p.must(err)
		}
		seq = raw.Sequence
	}
}

// die goes a route with a worker that dies at each of the places, one after the
// other, and one that finishes. It returns what the last one passed, and whether
// all came to where they should die.
func (r *route) die(t *testing.T, deaths ...place) (passed []place, all bool) {
	t.Helper()
	w := newWorld(t, setup{unmarked: r.unmarked})
	r.make(w)
	w.later()
	all = true
	for i, d := range deaths {
		died := false
		p := w.walking(func(at place) {
			if at == d {
				died = true
				runtime.Goexit()
			}
		})
		r.walk(p.worker, i == 0)
		all = all && died
	}
	last := w.walking(func(place) {})
	r.walk(last.worker, len(deaths) == 0)
	r.check(w, len(deaths))
	return last.places(), all
}

// places are those that a worker passes who goes the route undisturbed. Several
// tests ask, and the route is gone for the first of them.
func (r *route) places(t *testing.T) []place {
	t.Helper()
	r.once.Do(func() { r.passed, _ = r.die(t) })
	if len(r.passed) == 0 {
		t.Fatal("the route was not gone to its end: another test tells why")
	}
	return r.passed
}

// freeze goes a route with a worker that stands still at one place. Another
// takes over; when it comes to its place, or to its end, the first one goes on
// with what it had begun, until that visit is over. Then the other finishes.
//
// late: the waiting time is over for who takes over. That is the reconciler's
// clock alone, so the first one is woken only when the fence is shut by the
// real one.
func (r *route) freeze(t *testing.T, late bool, at, wake place) (passed []place, all bool) {
	t.Helper()
	w := newWorld(t, setup{unmarked: r.unmarked})
	r.make(w)
	until := []order.State{order.Unsure}
	if late {
		w.later()
		until = nil
	}
	reached, woken, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var fence time.Time
	first := w.walking(func(p place) {
		if p == at {
			if late && at.gap == "submit: entry opened" {
				fence = w.attempt("a").Opened.Add(waits.Entry + 1100*time.Millisecond) // stamps are whole seconds
			}
			close(reached)
			<-woken
		}
	})
	go func() {
		defer close(ended)
		r.untilReached(first.worker, reached, append(until, r.ends, order.Held)...)
	}()
	select {
	case <-reached:
	case <-ended: // before the waiting time is over, it does not come there
		return nil, false
	}
	thaw := sync.OnceFunc(func() {
		time.Sleep(time.Until(fence))
		close(woken)
		<-ended
	})
	t.Cleanup(thaw)
	second := w.walking(func(p place) {
		if p == wake {
			all = true
			thaw()
		}
	})
	r.walk(second.worker, false, until...)
	passed = second.places()
	thaw()
	w.later()
	r.walk(w.worker(), false)
	r.check(w, 1)
	return passed, all
}

// untilReached visits until the visit is over in which the place was reached.
func (r *route) untilReached(p *worker, reached <-chan struct{}, until ...order.State) {
	if r.do != nil {
		r.do(p)
	}
	for !slices.Contains(until, p.last("a").State) {
		select {
		case <-reached:
			return
		case <-time.After(5 * time.Millisecond):
			p.visit("a")
		}
	}
}

// check asks the clouds' own books. Of the workers, so many died or stood still.
func (r *route) check(w *world, died int) {
	w.t.Helper()
	o := w.last("a")
	if o.State != r.ends {
		w.t.Errorf("the order is %s", w.tell("a"))
	}
	if r.ends == order.Issued {
		w.wantIssued("a")
	}
	w.wantPaid(r.paid, o.Request.Names...)
	w.wantCounted(r.paid, died)
	w.wantAtRest("a")
	w.wantNothingPlaced()
	spent, known := 0, 0
	for _, m := range w.sim.Report().Money {
		spent += m.Spent
		known += m.Issued + m.Pending + m.Failed
	}
	if spent != known {
		w.t.Errorf("%d were spent, %d are issued or on their way", spent, known)
	}
}

// TestPairsOfCrashes goes every route with a worker that dies, at the places
// that it passes, and with a second one that dies while it takes over, at the
// places that that one passes. A third one finishes.
func TestPairsOfCrashes(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("hundreds of worlds")
	}
	t.Logf("drawn by -pairs-seed=%d", seed())
	var tried, unreached atomic.Int64
	for _, r := range inPart(t) {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			for _, first := range r.places(t) {
				if !r.worthIt(first) {
					continue
				}
				t.Run(first.String(), func(t *testing.T) {
					seconds, all := r.die(t, first)
					if !all {
						t.Error("the worker did not come there")
					}
					tried.Add(1)
					for _, second := range seconds {
						if !drawn(somePairs, r.name, first, second) {
							continue
						}
						t.Run(second.String(), func(t *testing.T) {
							tried.Add(1)
							if _, all := r.die(t, first, second); !all {
								unreached.Add(1)
							}
						})
					}
				})
			}
		})
	}
	t.Cleanup(func() { tell(t, &tried, &unreached) })
}

// TestPairsWithAFrozenWorker goes every route with a worker that stands still, at
// the places that it passes, while another takes over, and goes on when that one
// is at one of its own places: before and after the waiting time is over.
func TestPairsWithAFrozenWorker(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("hundreds of worlds")
	}
	t.Logf("drawn by -pairs-seed=%d", seed())
	var tried, unreached atomic.Int64
	for _, r := range inPart(t) {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			for _, at := range r.places(t) {
				for _, late := range []bool{false, true} {
					if r.worthIt(at) && drawn(4, r.name, at, late) {
						t.Run(fmt.Sprintf("%v late=%v", at, late), func(t *testing.T) {
							r.freezeAt(t, late, at, &tried, &unreached)
						})
					}
				}
			}
		})
	}
	t.Cleanup(func() { tell(t, &tried, &unreached) })
}

// freezeAt freezes at one place and wakes at all that are drawn.
func (r *route) freezeAt(t *testing.T, late bool, at place, tried, unreached *atomic.Int64) {
	wakes, _ := r.freeze(t, late, at, place{})
	tried.Add(1)
	for _, wake := range wakes {
		if !drawn(somePairs, r.name, late, at, wake) {
			continue
		}
		t.Run(wake.String(), func(t *testing.T) {
			tried.Add(1)
			if _, all := r.freeze(t, late, at, wake); !all {
				unreached.Add(1)
			}
		})
	}
}

// somePairs: one in so many pairs is tried unless all are asked for.
const somePairs = 40

func tell(t *testing.T, tried, unreached *atomic.Int64) {
	t.Logf("%d cases; in %d of them a worker came to its end before it came to its place", tried.Load(), unreached.Load())
}

// TestRoutesPassEveryGap: what no route passes would never be tried.
func TestRoutesPassEveryGap(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	passed := map[string]bool{}
	t.Run("go", func(t *testing.T) {
		for _, r := range routes {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				places := r.places(t)
				mu.Lock()
				defer mu.Unlock()
				for _, p := range places {
					passed[p.gap] = true
				}
			})
		}
	})
	for _, name := range gapsNamed(t, "*.go", "../pipeline/*.go") {
		if !passed[name] && !slices.Contains(checkGaps, name) { // those are of a zone, and no order passes them
			t.Errorf("no route passes %q", name)
		}
	}
}

// gapsNamed are the gaps in the source files.
func gapsNamed(t *testing.T, globs ...string) []string {
	t.Helper()
	named := regexp.MustCompile(`gap\.At\(ctx, "([^"]+)"\)`)
	var names []string
	for _, g := range globs {
		files, err := filepath.Glob(g)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range named.FindAllStringSubmatch(string(text), -1) {
				names = append(names, m[1])
			}
		}
	}
	if len(names) == 0 {
		t.Error("no gap was found")
	}
	return names
}

// TestPairsThatOnceFailed: a command that died between the two steps of its
// transition leaves a state that nobody is handed. A collector that died in its
// last transition must not leave it there.
func TestPairsThatOnceFailed(t *testing.T) {
	t.Parallel()
	for _, once := range []struct {
		route  string
		deaths []place
	}{
		{"not bought, by hand", []place{{"move: stored", 1}, {"move: stored", 6}}},
		{"cancelled certificate", []place{{"move: stored", 1}}},
	} {
		for _, r := range routes {
			if r.name != once.route {
				continue
			}
			if _, all := r.die(t, once.deaths...); !all {
				t.Errorf("%s: the workers did not come there", r.name)
			}
		}
	}
}
