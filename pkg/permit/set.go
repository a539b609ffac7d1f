package permit

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Options are about all rings of a Set. The zero value is right for a single
// server. All processes should have the same.
type Options struct {
	Stream   string        // name of the stream; PERMITS. It is made when it is missing
	Prefix   string        // first token of its subjects; permit
	Replicas int           // of the stream. 0 and 1: in memory, for a single server; 3: on file, for a cluster
	AckWait  time.Duration // a dead holder's permit is handed out again after this; 4 s
	Log      *slog.Logger  // hears when a ring has no permits for a while; none

	// Join uses the rings that others have made and fill, by the settings that
	// stand there, and makes, fills and changes none: ErrNoRing where there is
	// none. It is for whoever makes a call now and then beside the processes
	// whose work it is.
	Join bool

	// SkipWait fills a new ring at once instead of Q later. It is right only
	// where no call of an earlier life of the ring can still be counted: where
	// the provider is simulated in this very process.
	SkipWait bool
	// BreakFirstDelivery uses permits on any delivery and so gives up the
	// proof. It is there to measure what the rule is worth. Never set it.
	BreakFirstDelivery bool
}

func (o Options) withDefaults() Options {
	if o.Stream == "" {
		o.Stream = "PERMITS"
	}
	if o.Prefix == "" {
		o.Prefix = "permit"
	}
	o.Replicas = max(o.Replicas, 1)
	if o.AckWait <= 0 {
		o.AckWait = 4 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Set holds one process's part in the rings of all Keys. A ring is joined on
// first use and costs nothing while nobody waits for it. A Set is safe for
// concurrent use.
type Set struct {
	limit func(Key) Limit
	store store
	opt   Options

	ctx     context.Context // of everything; ends at the end of Close
	cancel  context.CancelFunc
	work    context.Context // of what is pointless once Close began
	closing context.CancelFunc

	mu      sync.Mutex // taken after a ring's mu, never before
	rings   map[Key]*ring
	paused  map[string]bool
	running int // goroutines
	closed  bool
	drained chan struct{} // closed when closed is set and none is running
}

// store makes the sources of all rings. stray gets what comes after its pull
// was given up.
type store interface {
	source(k Key, shard int, stray func(int, delivery)) source
	close()
}

// New returns rings on a JetStream, which all processes that share the limits
// must use. limit says what holds for a Key; it is asked once for each. Close
// should be called at the end.
func New(js jetstream.JetStream, limit func(Key) Limit, opt Options) *Set {
	opt = opt.withDefaults()
	return newSet(limit, newStreamStore(js, opt), opt)
}

// NewSet returns rings of this process alone, by the same rules, with their
// slots in memory: for tests, and where there is one process whose earlier life
// made no calls within Q. It needs no Close.
func NewSet(limit func(Key) Limit) *Set {
	return newSet(limit, newMemory(), Options{SkipWait: true})
}

func newSet(limit func(Key) Limit, st store, opt Options) *Set {
	s := &Set{limit: limit, store: st, opt: opt.withDefaults(),
		rings: map[Key]*ring{}, paused: map[string]bool{}, drained: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.work, s.closing = context.WithCancel(s.ctx)
	return s
}

func (s *Set) ring(k Key) (*ring, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	r := s.rings[k]
	if r == nil {
		r = newRing(s, k)
		s.rings[k] = r
	}
	return r, nil
}

func (s *Set) all() []*ring {
	s.mu.Lock()
	defer s.mu.Unlock()
	rings := make([]*ring, 0, len(s.rings))
	for _, r := range s.rings {
		rings = append(rings, r)
	}
	slices.SortFunc(rings, func(a, b *ring) int { return strings.Compare(a.key.String(), b.key.String()) })
	return rings
}

// Open joins the rings of these Keys now instead of on first use, so that a
// process whose settings differ from the others' finds out when it starts
// (ErrSettings, wrapped).
func (s *Set) Open(ctx context.Context, keys ...Key) error {
	for _, k := range keys {
		r, err := s.ring(k)
		if err != nil {
			return fmt.Errorf("join the ring of %v: %w", k, err)
		}
		r.mu.Lock()
		first := r.shards[0]
		r.mu.Unlock()
		if _, err := retry(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, r.open(ctx, first) }); err != nil {
			return fmt.Errorf("join the ring of %v: %w", k, err)
		}
	}
	return nil
}

// Wait takes a permit. The context it returns carries the permit: the request
// must be sent with it, and must end by the permit's Deadline. The permit
// should be taken before the provider's SDK is called: waiting inside a
// transport would eat the SDK's timeout and age the signature. Keeping it
// unused shortens what is left for the call.
//
// While NATS is away Wait waits. The error is ctx's, ErrSettings, ErrClosed or,
// with Options.Join, ErrNoRing, wrapped.
func (s *Set) Wait(ctx context.Context, k Key) (context.Context, *Permit, error) {
	r, err := s.ring(k)
	var p *Permit
	if err == nil {
		p, err = r.wait(ctx)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("wait for a permit for %v: %w", k, err)
	}
	return context.WithValue(ctx, permitKey{}, p), p, nil
}

// Do waits for a permit and makes one call with it. The context that call gets
// carries the permit and ends at its deadline. If call gives the permit itself,
// for example as Throttled, that holds; else nil means Answered and an error
// Unknown. The error is call's, or Wait's.
func (s *Set) Do(ctx context.Context, k Key, call func(context.Context, *Permit) error) error {
	ctx, p, err := s.Wait(ctx, k)
	if err != nil {
		return err
	}
	defer p.Give(Unknown, 0) // also when call panics
	ctx, cancel := context.WithDeadline(ctx, p.expires)
	defer cancel()
	if err := call(ctx, p); err != nil {
		return err
	}
	p.Give(Answered, 0)
	return nil
}

// Pause takes no more permits for an account, in this process, until Resume.
// Who waits goes on waiting.
func (s *Set) Pause(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused[account] = true
}

// Resume ends Pause.
func (s *Set) Resume(account string) {
	s.mu.Lock()
	delete(s.paused, account)
	s.mu.Unlock()
	for _, r := range s.all() {
		r.mu.Lock()
		r.kick()
		r.mu.Unlock()
	}
}

func (s *Set) pausedNow(account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused[account]
}

// SetLimit changes the calls per period of a Key while processes run; each of
// them must be told. A lower limit holds at once: permits above it are removed
// as they come in. A higher one holds Q later. One that starts meanwhile must
// be told before it first uses the Key, or it gets ErrSettings. An error means
// that the others may not have been told by the consumer's metadata; repeating
// is safe.
func (s *Set) SetLimit(ctx context.Context, k Key, calls int) error {
	if calls < 1 {
		return fmt.Errorf("limit of %v: %d calls; use Pause for none", k, calls)
	}
	if s.opt.Join {
		return fmt.Errorf("limit of %v: a ring that was only joined is not changed", k)
	}
	r, err := s.ring(k)
	if err != nil {
		return fmt.Errorf("limit of %v: %w", k, err)
	}
	return r.setLimit(ctx, calls)
}

// Stats are the counters of one ring in this process.
type Stats struct {
	Key         Key
	Calls       int           // L
	Granted     int           // permits handed to callers
	Unused      int           // given back without a call
	Throttled   int           // calls that met the provider's limit all the same
	Below       int           // of those, while this process had made no more calls than the limit: somebody else calls, or it is lower
	Unknown     int           // calls without an answer
	Redelivered int           // permits of holders that were taken for dead; not used
	Late        int           // permits that came too late to be used
	Refused     int           // put-backs that somebody else had made
	Waiting     int           // callers that wait now
	Out         int           // permits this process has now: in calls, or resting
	Waited      time.Duration // by all granted callers together
	LongestWait time.Duration
	Peak        int // most permits that this process handed out within one second

	recent []time.Time // when it handed them out
}

func (s *Stats) granted(wait time.Duration) {
	s.Granted++
	now := time.Now()
	s.recent = append(s.recent, now)
	for now.Sub(s.recent[0]) >= recently {
		s.recent = s.recent[1:]
	}
	s.Peak = max(s.Peak, s.since(now.Add(-time.Second)))
	s.Waited += wait
	s.LongestWait = max(s.LongestWait, wait)
}

// recently is how long grants are remembered: longer than a call may take and the
// second before it.
const recently = 30 * time.Second

// since counts the permits that were handed out after a moment.
func (s *Stats) since(at time.Time) int {
	n := len(s.recent)
	for n > 0 && s.recent[n-1].After(at) {
		n--
	}
	return len(s.recent) - n
}

// Stats returns the counters of all rings that were used, sorted by Key.
func (s *Set) Stats() []Stats {
	var all []Stats
	for _, r := range s.all() {
		r.mu.Lock()
		one := r.stats
		one.Waiting, one.Calls, one.recent = r.waiters.len(), r.limit.Calls, nil
		r.mu.Unlock()
		all = append(all, one)
	}
	return all
}

// Close hands out no more permits and waits until those that are out were put
// back, or until ctx ends; what is not put back then comes back to the others
// after AckWait and Q. The error is ctx's.
func (s *Set) Close(ctx context.Context) error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		if s.running == 0 {
			close(s.drained)
		}
	}
	s.mu.Unlock()
	s.closing()
	for _, r := range s.all() {
		r.mu.Lock()
		r.dismiss(ErrClosed)
		r.mu.Unlock()
	}
	defer s.store.close()
	defer s.cancel()
	select {
	case <-s.drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("put permits back: %w", ctx.Err())
	}
}

// spawn runs f in a goroutine that Close waits for. It tells whether it did:
// not after Close has waited.
func (s *Set) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed && s.running == 0 {
		return false
	}
	s.running++
	go func() {
		defer s.ended()
		f()
	}()
	return true
}

func (s *Set) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running--; s.running == 0 && s.closed {
		close(s.drained)
	}
}
