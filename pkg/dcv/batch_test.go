package dcv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// slowAPI takes a second for each call and remembers what came in which.
type slowAPI struct {
	mu    sync.Mutex
	calls []string
	ended int // calls whose context ended before they did
}

func (a *slowAPI) write(ctx context.Context, zone string, rs []Record) func() []error {
	var names []string
	for _, r := range rs {
		names = append(names, r.RR)
	}
	slices.Sort(names)
	a.mu.Lock()
	a.calls = append(a.calls, zone+": "+strings.Join(names, " "))
	a.mu.Unlock()
	outcomes := make([]error, len(rs))
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		a.mu.Lock()
		a.ended++
		a.mu.Unlock()
	}
	for i, r := range rs {
		if ctx.Err() != nil || strings.HasPrefix(r.RR, "bad") {
			outcomes[i] = fmt.Errorf("%s went wrong", r.RR)
		}
	}
	return Known(outcomes)
}

// start has somebody write a record, and returns when that waits or is at work.
func start(q *queue, ctx context.Context, zone, rr string) <-chan error {
	done := make(chan error, 1)
	go func() { done <- q.do(ctx, zone, Record{RR: rr}) }()
	synctest.Wait()
	return done
}

func wantCalls(t *testing.T, a *slowAPI, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, a.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestQueueWritesTogetherWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a slowAPI
		q := newQueue(a.write)
		began := time.Now()
		first := start(q, t.Context(), "one", "a")
		other := start(q, t.Context(), "two", "x") // another zone waits for nobody
		var rest []<-chan error
		for _, rr := range []string{"b", "bad", "C", "c", "b"} { // twice the same: written once
			rest = append(rest, start(q, t.Context(), "one", rr))
		}
		if err := errors.Join(<-first, <-other); err != nil || time.Since(began) != time.Second {
			t.Errorf("the first took %v: %v", time.Since(began), err)
		}
		var got []string
		for _, done := range rest {
			got = append(got, fmt.Sprint(<-done))
		}
		if diff := cmp.Diff([]string{"<nil>", "bad went wrong", "<nil>", "<nil>", "<nil>"}, got); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("all took %v, want two calls", took)
		}
		if err := <-start(q, t.Context(), "one", "d"); err != nil { // the line is open again
			t.Error(err)
		}
		wantCalls(t, &a, "one: a", "two: x", "one: C b bad", "one: d")
		if len(q.lines) != 0 {
			t.Errorf("%d lines are left", len(q.lines))
		}
	})
}

// While an API is at work on what was handed in, more can be handed in.
func TestQueueWaitsOutsideTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a slowAPI
		q := newQueue(func(ctx context.Context, zone string, rs []Record) func() []error {
			wait := a.write(ctx, zone, rs)
			return func() []error { time.Sleep(10 * time.Second); return wait() }
		})
		began := time.Now()
		var all []<-chan error
		for _, rr := range []string{"a", "b", "c"} {
			all = append(all, start(q, t.Context(), "one", rr))
		}
		for _, done := range all {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		wantCalls(t, &a, "one: a", "one: b c")
		if took := time.Since(began); took != 12*time.Second {
			t.Errorf("it took %v, want 1 s + 1 s + 10 s", took)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a slowAPI
		q := newQueue(a.write)
		var all []<-chan error
		for i := range 2 + mostAtOnce {
			all = append(all, start(q, t.Context(), "one", fmt.Sprint(i)))
		}
		for _, done := range all {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		var sizes []int
		for _, call := range a.calls {
			sizes = append(sizes, len(strings.Fields(call))-1)
		}
		if diff := cmp.Diff([]int{1, mostAtOnce, 1}, sizes); diff != "" {
			t.Errorf("sizes of the calls (-want +got):\n%s", diff)
		}
	})
}

// Whoever leaves does not spoil it for the others, whatever they were about to do.
func TestQueueWhenSomeLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a slowAPI
		q := newQueue(a.write)
		leaves, leave := context.WithCancel(t.Context())
		first := start(q, leaves, "one", "a") // leads, and leaves during its call
		second := start(q, leaves, "one", "b")
		third := start(q, t.Context(), "one", "c")
		fourth := start(q, leaves, "one", "d")
		leave()
		if err := <-first; err == nil {
			t.Error("the only one in its batch left, and it went on")
		}
		if err := errors.Join(<-second, <-fourth); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if err := <-third; err != nil {
			t.Error(err)
		}
		wantCalls(t, &a, "one: a", "one: c")

		// One leaves a batch that somebody else runs, or that it runs itself for others.
		for _, i := range []int{1, 2} {
			a = slowAPI{}
			ctxs := []context.Context{t.Context(), t.Context(), t.Context()}
			var leave context.CancelFunc
			ctxs[i], leave = context.WithCancel(t.Context())
			var all []<-chan error
			for n, ctx := range ctxs {
				all = append(all, start(q, ctx, "one", fmt.Sprint(n)))
			}
			time.Sleep(1500 * time.Millisecond) // the second call is under way
			leave()
			for n, done := range all {
				if err := <-done; err != nil && n != i {
					t.Errorf("%d of a batch that %d left: %v", n, i, err)
				}
			}
			synctest.Wait()
			wantCalls(t, &a, "one: 0", "one: 1 2")
			if a.ended != 0 {
				t.Errorf("%d calls were cut off although others wait for them", a.ended)
			}
		}
		if len(q.lines) != 0 {
			t.Errorf("%d lines are left", len(q.lines))
		}
	})
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		if !g.Open() {
			t.Error("a new gate is shut")
		}
		g.Shut(time.Minute)
		if time.Sleep(59 * time.Second); g.Open() {
			t.Error("it is open too soon")
		}
		if time.Sleep(time.Second); !g.Open() {
			t.Error("it is not open again")
		}
		g.Shut(Forever)
		if time.Sleep(10_000 * time.Hour); g.Open() {
			t.Error("it was shut for good")
		}
	})
}
