package dcv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// silentServers are addresses that take questions and answer none.
func silentServers(t *testing.T, n int) (addrs []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// liveServer answers that there is no such name.
func liveServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeNameError))
	})}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
	return l.Addr().String()
}

// TestQuestionsBesideSilentServers: a zone whose servers are silent, of which
// many orders ask, does not hold up questions to others.
func TestQuestionsBesideSilentServers(t *testing.T) {
	t.Parallel()
	live := liveServer(t)
	l, err := NewLooker(LookerConfig{Resolvers: []string{live}, Timeout: 200 * time.Millisecond,
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var crowd sync.WaitGroup
	defer crowd.Wait()
	defer stop()
	var timeouts atomic.Int64
	for _, addr := range silentServers(t, 8) {
		for range 2 * maxQuestions / 8 {
			crowd.Go(func() {
				for ctx.Err() == nil {
					if _, err := l.send(ctx, "tcp", addr, query("x.dark.example.", dns.TypeTXT, false)); err != nil {
						timeouts.Add(1)
					}
				}
			})
		}
	}
	for timeouts.Load() < maxQuestions { // they have been at it for a while
		time.Sleep(time.Millisecond)
	}
	const questions = 30
	before := timeouts.Load()
	for i := range questions {
		if _, err := l.send(ctx, "tcp", live, query(fmt.Sprintf("x%d.clear.example.", i), dns.TypeTXT,
			false)); err != nil {
			t.Fatalf("question %d: %v", i, err)
		}
	}
	if n := timeouts.Load() - before; n > maxQuestions {
		t.Errorf("%d questions were answered only after %d time-outs of others", questions, n)
	}
}

// TestPlaces: who has as many as are free gets none, whoever it is that waits.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPlaces(9)
		got := map[string]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		take := func(n int, who string, keep time.Duration) {
			for range n {
				wg.Go(func() {
					leave, err := p.Take(t.Context(), who)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					got[who]++
					mu.Unlock()
					time.Sleep(keep)
					leave()
				})
			}
			synctest.Wait()
		}
		want := func(who string, n int) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if got[who] != n {
				t.Errorf("%s has %d places, want %d", who, got[who], n)
			}
		}
		take(20, "dead", time.Hour)
		want("dead", 5) // the fifth came while five were free
		take(20, "also dead", time.Hour)
		want("also dead", 2)
		take(3, "alive", time.Second)
		want("alive", 1)
		time.Sleep(3 * time.Second)
		want("alive", 3)
		want("dead", 5)
		wg.Wait()
		want("dead", 20)
		want("also dead", 20)
		if p.free != 9 || len(p.has) > 0 || len(p.line) > 0 {
			t.Errorf("in the end: %+v", p)
		}
	})
}

// TestPlacesGivenUp: who leaves the line leaves nothing behind.
func TestPlacesGivenUp(t *testing.T) {
	p := NewPlaces(1)
	leave, err := p.Take(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if leave, err := p.Take(gone, "b"); err == nil {
			t.Error("taken twice")
			leave()
		} else if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	leave()
	for range 100 { // a place and the end at once: either way it is free afterwards
		if leave, err := p.Take(gone, "b"); err == nil {
			leave()
		}
	}
	if p.free != 1 || len(p.has) > 0 || len(p.line) > 0 {
		t.Errorf("in the end: %+v", p)
	}
}
