// Package permit keeps a provider's call limit: at most L calls in any sliding
// period T, for one account and API action, as counted at the provider.
//
// The limit is a ring of L permits. To call, take one; T after the response it
// is put back. Any L+1 calls use one permit twice, and two uses of one permit
// are counted at least T apart, because the second leaves only T after the
// answer to the first came back. So no sliding period sees more than L calls,
// whatever the jitter of the network: a proof, not a margin.
//
// The permit is taken before the provider's SDK is called (waiting inside a
// transport would eat the SDK's timeout and age the signature) and travels in
// the request's context. Transport refuses every request that carries no live
// permit for its account and action, so that no call can miss the limit.
//
// The rings of this version live in one process. The package imports nothing
// of certmill.
package permit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Key names one limit: calls are counted per main account and API action.
type Key struct {
	Account string
	Action  string
}

func (k Key) String() string { return k.Account + "/" + k.Action }

// Limit is what the provider allows for one Key.
type Limit struct {
	Calls    int           // L: calls per period
	Period   time.Duration // T
	Deadline time.Duration // D: a request is given up after this long
}

// Outcome says how a call ended, which decides when its permit is back.
type Outcome int

const (
	Unused   Outcome = iota // the request never left: back at once
	Answered                // the provider answered: back after T
	Unknown                 // no answer, it may still arrive: back after D + T
)

// ErrNoPermit is returned, wrapped, by Transport for a request that carries no
// live permit for its account and action. Such a request was never sent.
var ErrNoPermit = errors.New("no live permit")

// Set holds the rings of one process, made on first use.
type Set struct {
	limit func(Key) Limit

	mu    sync.Mutex
	rings map[Key]*ring
}

// NewSet returns rings whose sizes are what limit says. It is asked once for
// each Key.
func NewSet(limit func(Key) Limit) *Set {
	return &Set{limit: limit, rings: map[Key]*ring{}}
}

// ring is the limit of one Key: a channel that holds the permits at hand.
type ring struct {
	Limit
	free  chan struct{}
	fence *rate.Limiter // evens out a burst after an idle time; never what keeps the limit
}

func (s *Set) ring(k Key) *ring {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rings[k]; r != nil {
		return r
	}
	l := s.limit(k)
	r := &ring{Limit: l, free: make(chan struct{}, l.Calls),
		fence: rate.NewLimiter(rate.Every(l.Period/time.Duration(l.Calls)), l.Calls)}
	for range l.Calls {
		r.free <- struct{}{}
	}
	s.rings[k] = r
	return r
}

// Permit allows one call. Give must be called exactly once; further calls do
// nothing.
type Permit struct {
	key   Key
	ring  *ring
	since time.Time

	mu    sync.Mutex
	used  bool
	given bool
}

// Deadline is how long the call may take, counted from when it starts.
func (p *Permit) Deadline() time.Duration { return p.ring.Deadline }

// Wait takes a permit. The context it returns carries the permit: the request
// must be sent with it. The error is ctx's.
func (s *Set) Wait(ctx context.Context, k Key) (context.Context, *Permit, error) {
	r := s.ring(k)
	if err := r.fence.Wait(ctx); err != nil {
		return nil, nil, fmt.Errorf("wait for a permit for %v: %w", k, err)
	}
	select {
	case <-r.free:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("wait for a permit for %v: %w", k, ctx.Err())
	}
	p := &Permit{key: k, ring: r, since: time.Now()}
	return context.WithValue(ctx, permitKey{}, p), p, nil
}

// Give puts the permit back when its outcome allows; rest, if longer, is how
// long the provider asked to be left alone.
func (p *Permit) Give(o Outcome, rest time.Duration) {
	p.mu.Lock()
	given := p.given
	p.given = true
	if o == Unused && p.used {
		o = Unknown // the transport let it out: the caller cannot know better
	}
	p.mu.Unlock()
	if given {
		return
	}
	after := time.Duration(0)
	switch o {
	case Answered:
		after = p.ring.Period
	case Unknown:
		after = p.ring.Deadline + p.ring.Period
	}
	if after = max(after, rest); after == 0 {
		p.ring.free <- struct{}{}
		return
	}
	time.AfterFunc(after, func() { p.ring.free <- struct{}{} })
}

// use marks the permit as spent on one request.
func (p *Permit) use(k Key) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.key != k:
		return fmt.Errorf("the permit is for %v, the request is %v: %w", p.key, k, ErrNoPermit)
	case p.used || p.given:
		return fmt.Errorf("the permit for %v was used already: %w", k, ErrNoPermit)
	}
	p.used = true
	return nil
}

type permitKey struct{}

// FromContext returns the permit that ctx carries, or nil.
func FromContext(ctx context.Context) *Permit {
	p, _ := ctx.Value(permitKey{}).(*Permit)
	return p
}

// For tells whether ctx carries a permit for k that was not used yet.
func For(ctx context.Context, k Key) *Permit {
	p := FromContext(ctx)
	if p == nil || p.key != k {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used || p.given {
		return nil
	}
	return p
}

// Transport is the http.RoundTripper under a provider's SDK. It refuses, before
// anything is sent, every request that carries no live permit for its account
// and action.
type Transport struct {
	Next     http.RoundTripper
	Identify func(*http.Request) (Key, error) // finds account and action of a request
}

func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	k, err := t.Identify(r)
	if err == nil {
		if p := FromContext(r.Context()); p == nil {
			err = fmt.Errorf("request %v: %w", k, ErrNoPermit)
		} else {
			err = p.use(k)
		}
	}
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	return t.Next.RoundTrip(r)
}
