package stage_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// dark are name servers, or a DNS API, that say nothing of names below
// dark.example until the test lets a question run into its time-out. It counts
// the others.
type dark struct {
	dcv.Solver
	timeout chan struct{}

	mu   sync.Mutex
	seen map[string]int // by host
}

func newDark(s dcv.Solver) *dark {
	return &dark{Solver: s, timeout: make(chan struct{}), seen: map[string]int{}}
}

// at waits at a dark host until the time-out, or counts.
func (d *dark) at(ctx context.Context, host string) (timedOut bool, err error) {
	if strings.HasSuffix(host, ".dark.example") {
		select {
		case <-d.timeout:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[host]++
	return false, nil
}

func (d *dark) count(host string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seen[host]
}

func (d *dark) Look(ctx context.Context, c order.Challenge) (dcv.Sighting, error) {
	if late, err := d.at(ctx, c.Host); late || err != nil {
		return dcv.Sighting{Silent: true, Missing: []string{"its name servers take too long to answer"}}, err
	}
	return dcv.Sighting{Seen: true}, nil
}

// soon waits until something is so. Only a test that fails waits to the end.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(natstest.Patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %s", what)
		}
	}
}

// With the name servers of one account's orders silent, another account's are
// looked at in every round.
func TestRecheckBesideASilentZone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: slowCA})
	for i := range 4 {
		w.atCA("ten", fmt.Sprint("dark", i), fmt.Sprintf("_dnsauth.%d.dark.example", i))
	}
	w.atCA("ali", "clear", "_dnsauth.clear.example")
	servers := newDark(nil)
	r := w.worker().recheck
	var days atomic.Int64 // after one, every order is due again
	r.Looker, r.Now = servers, func() time.Time { return time.Now().AddDate(0, 0, int(days.Load())) }
	days.Add(1)
	ctx, stop := context.WithCancel(t.Context())
	var sweeps sync.WaitGroup
	defer sweeps.Wait()
	defer stop()
	sweeps.Go(func() {
		for ctx.Err() == nil {
			_ = r.Sweep(ctx, w.accounts["ten"])
		}
	})
	const timeouts, rounds = 4, 5
	for range timeouts {
		servers.timeout <- struct{}{} // one of the other account's looks is over
		for range rounds {
			days.Add(1)
			var ended atomic.Bool
			sweeps.Go(func() { _ = r.Sweep(ctx, w.accounts["ali"]); ended.Store(true) })
			soon(t, "swept beside another account's silent name servers", ended.Load)
		}
	}
	if n := servers.count("_dnsauth.clear.example"); n != timeouts*rounds {
		t.Errorf("looked %d times in %d sweeps", n, timeouts*rounds)
	}
}

// CleanUp takes nothing away; it comes to its end, or into a time-out.
func (d *dark) CleanUp(ctx context.Context, c order.Challenge) error {
	if late, err := d.at(ctx, c.Host); late || err != nil {
		return fmt.Errorf("the DNS does not answer (%w)", errors.Join(err, context.DeadlineExceeded))
	}
	return nil
}

// leftovers are entries of the book that no order needs.
func (w *world) leftovers(label string, hosts ...string) {
	w.t.Helper()
	for _, host := range hosts {
		_, err := w.placed.Need(w.t.Context(), order.Challenge{Type: "TXT", Host: host, Value: "v"}, label, "ended",
			false)
		w.must(err)
	}
}

// With one account's DNS silent, what another account's orders left is taken
// back all the same.
func TestPlacedSweepBesideASilentAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{uncopied: true})
	silent := newDark(nil)
	w.solvers = map[string]dcv.Solver{"ali": silent, "ten": silent}
	for i := range 4 { // in turn; the silent account is the first in every order
		w.leftovers("ali", fmt.Sprintf("_dnsauth.%d.dark.example", i))
		w.leftovers("ten", fmt.Sprintf("_dnsauth.%d.clear.example", i))
	}
	ctx, stop := context.WithCancel(t.Context())
	var sweep sync.WaitGroup
	defer sweep.Wait()
	defer stop()
	sweep.Go(func() { _ = w.worker().placing.Sweep(ctx) })
	soon(t, "taken back beside another account's silent DNS", func() bool { return len(w.booked()) == 4 })
	for _, pl := range w.booked() {
		if pl.Labels[0] != "ali" {
			t.Errorf("left: %+v", pl)
		}
	}
}

// A zone whose servers are silent costs a sweep one time-out, not one for each of
// its records; and the zone's other records are tried by the next sweep.
func TestPlacedSweepBesideASilentZone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{uncopied: true})
	silent := newDark(nil)
	w.solvers = map[string]dcv.Solver{"ali": silent}
	for i := range 3 {
		w.leftovers("ali", fmt.Sprintf("_dnsauth.%d.dark.example", i), fmt.Sprintf("_dnsauth.%d.clear.example", i))
	}
	p := w.worker()
	for round := range 3 {
		ended := make(chan error, 1)
		go func() { ended <- p.placing.Sweep(t.Context()) }()
		silent.timeout <- struct{}{}
		select {
		case err := <-ended:
			w.must(err)
		case <-time.After(natstest.Patience):
			t.Fatalf("sweep %d runs into more than one time-out", round)
		}
	}
	tried := map[int]int{}
	for _, pl := range w.booked() {
		if tried[pl.Tries]++; !strings.HasSuffix(pl.Challenge.Host, ".dark.example") {
			t.Errorf("left: %+v", pl)
		}
	}
	if tried[1] != 3 {
		t.Errorf("records of the silent zone by how often they were tried: %v", tried)
	}
}

// counting is a cloud whose product has nothing left. It counts who asks, or
// hangs until ctx ends.
type counting struct {
	issuer.Cloud
	issuer.Flow
	hangs bool
	asked *atomic.Int32
}

func (c counting) About() issuer.About           { return issuer.About{Name: "a cloud"} }
func (c counting) Flows() []issuer.Flow          { return []issuer.Flow{c} }
func (c counting) Action() string                { return "Order" }
func (c counting) Spends() bool                  { return true }
func (c counting) Product(string) issuer.Product { return issuer.Product{} }

func (c counting) Usage(ctx context.Context, _ string) (issuer.Usage, error) {
	if c.hangs {
		<-ctx.Done()
		return issuer.Usage{}, ctx.Err()
	}
	c.asked.Add(1)
	return issuer.Usage{}, nil
}

func (c counting) Find(ctx context.Context, _ []string) ([]issuer.Row, error) {
	_, err := c.Usage(ctx, "")
	return nil, err
}

// With one account's cloud hanging, a plan tells what the others have.
func TestPlanBesideASilentCloud(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	const others = 6
	var asked atomic.Int32
	var all []stage.Planned
	for n := range 1 + others {
		a := &stage.Account{Label: fmt.Sprint("a", n), Main: fmt.Sprint("main", n), Cloud: counting{hangs: n == 0,
			asked: &asked}}
		for i := range 3 {
			all = append(all, stage.Planned{Account: a, Operation: "Order", Product: fmt.Sprint("product", i),
				Request: order.Request{ID: fmt.Sprintf("o%d-%d", n, i),
					Names: []string{fmt.Sprintf("h%d-%d.example.com", n, i)}}})
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	found := make(chan []preflight.Finding, 1)
	go func() { found <- stage.Preflight{Ledger: w.ledger, Line: w.line, Now: time.Now}.Look(ctx, all) }()
	soon(t, "asked for quota and lists of all but the silent account",
		func() bool { return asked.Load() == others*(3+3) })
	stop()
	short, unseen := 0, 0
	for _, f := range <-found {
		switch {
		case f.Kind == preflight.Quota:
			short++
		case f.Kind == preflight.Unseen && strings.HasPrefix(f.Orders[0], "o0-"):
			unseen++
		default:
			t.Errorf("found %+v", f)
		}
	}
	if short != others*3 || unseen == 0 {
		t.Errorf("%d products without quota were found, want %d; %d findings of the silent account", short, others*3,
			unseen)
	}
}
