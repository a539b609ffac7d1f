package permit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Key names one limit: calls are counted per account and API action.
type Key struct {
	Account string
	Action  string
}

func (k Key) String() string { return k.Account + "/" + k.Action }

// Limit is what the provider allows for one Key and how its calls are made. All
// processes must agree on it. Zero values stand for the defaults.
type Limit struct {
	Calls    int           // L: calls per period; 10
	Period   time.Duration // T; 1 s
	Deadline time.Duration // D: a request is given up after this long; 3 s
	Pull     time.Duration // E: a permit that took longer to come is not used; 2 s
}

func (l Limit) withDefaults() Limit {
	if l.Calls <= 0 {
		l.Calls = 10
	}
	if l.Period <= 0 {
		l.Period = time.Second
	}
	if l.Deadline <= 0 {
		l.Deadline = 3 * time.Second
	}
	if l.Pull <= 0 {
		l.Pull = 2 * time.Second
	}
	return l
}

// quiet is Q: a permit whose fate is not known is safe to put back this long
// after its pull began.
func (l Limit) quiet() time.Duration { return l.Pull + l.Deadline + l.Period }

// perSecond is the ring's rate when no call takes any time.
func (l Limit) perSecond() float64 { return float64(l.Calls) / l.Period.Seconds() }

// Outcome says how a call ended, which decides when its permit is back.
type Outcome int

const (
	Unused    Outcome = iota // the request never left: back at once
	Answered                 // the provider answered: back after T
	Unknown                  // no answer, it may still arrive: back Q after the pull
	Throttled                // the provider's limit was met: back after T, and what it asked for or else 4.5 to 7.5 s
)

var (
	// ErrNoPermit is returned, wrapped, by Transport for a request that carries
	// no live permit for its account and action. Such a request was never sent.
	ErrNoPermit = errors.New("no live permit")
	// ErrSettings is returned, wrapped, when another process runs this ring with
	// other settings. Nothing but a change of configuration mends it.
	ErrSettings = errors.New("the ring's settings differ")
	// ErrNoRing is returned, wrapped, with Options.Join, where nobody has made the
	// ring or nobody has filled it: the processes whose work it is do not run.
	ErrNoRing = errors.New("nobody has made this ring")
	// ErrClosed is returned, wrapped, after Close, and when the connection to
	// NATS was closed for good.
	ErrClosed = errors.New("the permits are closed")
)

// Permit allows one call. Give should be called exactly once; further calls do
// nothing, and without any the permit counts as Unknown.
type Permit struct {
	key     Key
	ring    *ring
	began   time.Time      // t0: before the pull was sent
	expires time.Time      // t0 + E + D: no request may be under way after this
	back    chan time.Time // buffered: Give tells the lease when to put it back

	mu    sync.Mutex
	used  bool
	given bool
}

// Deadline is how long the call may take from now on: D, or less if the permit
// was kept for a while. Not above zero means that it is too late to call.
func (p *Permit) Deadline() time.Duration {
	return min(p.ring.settings().Deadline, time.Until(p.expires))
}

// Give tells how the call ended. The permit is back when that allows it, but
// not before rest is over, counted from now: what the provider asked for.
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
	p.back <- p.ring.ended(o, p.began, rest)
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
	case !time.Now().Before(p.expires):
		return fmt.Errorf("the permit for %v is %v old: %w", k, time.Since(p.began).Round(time.Millisecond), ErrNoPermit)
	}
	p.used = true
	return nil
}

type (
	permitKey struct{}
	urgentKey struct{}
)

// Urgent marks the waiting below ctx: inside one process it is served before
// what is not urgent.
func Urgent(ctx context.Context) context.Context { return context.WithValue(ctx, urgentKey{}, true) }

// FromContext returns the permit that ctx carries, or nil.
func FromContext(ctx context.Context) *Permit {
	p, _ := ctx.Value(permitKey{}).(*Permit)
	return p
}

// For returns the permit for k that ctx carries, if it can still be used, else
// nil.
func For(ctx context.Context, k Key) *Permit {
	p := FromContext(ctx)
	if p == nil || p.key != k {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used || p.given || !time.Now().Before(p.expires) {
		return nil
	}
	return p
}
