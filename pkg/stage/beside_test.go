package stage_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
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
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
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
