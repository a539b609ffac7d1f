package permit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// shardRate is how many calls per second one consumer is trusted with: the
// server looks at what is due at most about a hundred times a second.
const shardRate = 50

// ring is one process's part of the ring of one Key.
type ring struct {
	key   Key
	set   *Set
	fence *rate.Limiter // an error in all the rest cannot make this process run away

	mu      sync.Mutex // guards all below
	limit   Limit
	retuned bool // by SetLimit: the number of calls is no longer the configuration's
	waiters queue
	shards  []*shard
	pulling int // shards with a pull under way
	next    int // shard to ask next
	credit  int // fence tokens of permits that were not used
	stats   Stats
}

// shard is one consumer of a ring. Its fields are guarded by the ring's mu,
// except n and src, which do not change.
type shard struct {
	n       int
	src     source
	busy    bool // its one pull is under way
	life    string
	full    string    // the life whose slots were all put, as seen by this process
	filling bool      // a filler is at work
	since   time.Time // a permit came last, or the life began
}

func newRing(s *Set, k Key) *ring {
	l := s.limit(k).withDefaults()
	r := &ring{key: k, set: s, limit: l, fence: rate.NewLimiter(rate.Limit(l.perSecond()), l.Calls)}
	r.stats.Key = k
	r.shards = []*shard{{src: s.store.source(k, 0, r.stray)}}
	return r
}

func (r *ring) settings() Limit {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.limit
}

// wait queues for a permit.
func (r *ring) wait(ctx context.Context) (*Permit, error) {
	w := &waiter{got: make(chan grant, 1), since: time.Now()}
	w.urgent, _ = ctx.Value(urgentKey{}).(bool)
	r.mu.Lock()
	r.waiters.push(w)
	r.kick()
	r.mu.Unlock()
	select {
	case g := <-w.got:
		return g.permit, g.err
	case <-ctx.Done():
	}
	r.mu.Lock()
	gone := r.waiters.drop(w)
	r.mu.Unlock()
	if !gone { // a grant was under way
		if g := <-w.got; g.permit != nil {
			g.permit.Give(Unused, 0)
		}
	}
	return nil, ctx.Err()
}

// kick starts pulls while more is waited for than is being pulled: one per
// shard, in turn. The caller holds mu.
func (r *ring) kick() {
	for range r.shards {
		if r.pulling >= r.waiters.len() || r.idle() {
			return
		}
		s := r.shards[r.next%len(r.shards)]
		r.next++
		if s.busy {
			continue
		}
		s.busy = true
		r.pulling++
		if !r.set.spawn(func() { r.turn(s) }) {
			s.busy = false
			r.pulling--
			return
		}
	}
}

// idle tells whether no permit may be taken now. The caller holds mu.
func (r *ring) idle() bool { return r.set.pausedNow(r.key.Account) }

// turn pulls permits from one shard while somebody waits for them.
func (r *ring) turn(s *shard) {
	token, errs := false, 0
	for r.needed(s, token) {
		if !token {
			if r.takeToken() != nil {
				continue // closed
			}
			token = true
			continue // look again: waiting at the fence took time
		}
		used, err := r.pull(s)
		switch {
		case err == nil || errors.Is(err, errNothing):
			errs = 0
		default:
			errs++
			r.failed(s, err, errs)
		}
		if used {
			token = false
		}
	}
}

// needed tells whether the shard's turn goes on, and ends it if not.
func (r *ring) needed(s *shard, token bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pulling <= r.waiters.len() && !r.idle() && r.set.ctx.Err() == nil {
		return true
	}
	s.busy = false
	r.pulling--
	if token {
		r.credit++
	}
	return false
}

// takeToken passes the fence.
func (r *ring) takeToken() error {
	r.mu.Lock()
	if r.credit > 0 {
		r.credit--
		r.mu.Unlock()
		return nil
	}
	r.mu.Unlock()
	return r.fence.Wait(r.set.work)
}

// pull takes one permit off the shard and tells whether somebody got it.
func (r *ring) pull(s *shard) (used bool, err error) {
	if err := r.open(r.set.ctx, s); err != nil {
		return false, err
	}
	l := r.settings()
	began := time.Now() // t0: before the pull is sent
	d, err := s.src.pull(r.set.ctx, l)
	if errors.Is(err, errNothing) {
		r.starving(s, l)
	}
	if err != nil {
		return false, err
	}
	return r.received(s, d, began), nil
}

// received decides what becomes of a delivery: rules 1 and 2.
func (r *ring) received(s *shard, d delivery, began time.Time) (used bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, now := r.limit, time.Now()
	s.since = now
	if d.life != s.life {
		s.life = "" // the consumer was made anew: look at it, and see that it gets filled
	}
	switch {
	case !d.first && !r.set.opt.BreakFirstDelivery:
		r.stats.Redelivered++
		r.keep(s, d, now.Add(l.quiet()), nil)
		return false
	case now.Sub(began) > l.Pull:
		r.stats.Late++
		r.keep(s, d, now, nil)
		return false
	case d.slot >= l.Calls || r.idle() || r.waiters.len() == 0:
		r.keep(s, d, now, nil) // never used: back, or away, at once
		return false
	}
	p := &Permit{key: r.key, ring: r, began: began, expires: began.Add(l.Pull + l.Deadline), back: make(chan time.Time, 1)}
	w := r.waiters.pop()
	r.stats.granted(now.Sub(w.since))
	r.keep(s, d, began.Add(l.quiet()), p.back)
	w.got <- grant{permit: p}
	return true
}

// stray takes a delivery whose pull nobody waits for any more: too late to be
// used, but this process alone knows that it was not.
func (r *ring) stray(shard int, d delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if shard >= len(r.shards) {
		return
	}
	s, at := r.shards[shard], time.Now()
	if d.first {
		r.stats.Late++
	} else {
		r.stats.Redelivered++
		at = at.Add(r.limit.quiet())
	}
	r.keep(s, d, at, nil)
}

// ended says when the permit of a call that ended just now is back: rule 3.
func (r *ring) ended(o Outcome, began time.Time, rest time.Duration) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, l := time.Now(), r.limit
	back := now
	switch o {
	case Unused:
		r.stats.Unused++
		r.credit++
	case Answered:
		back = now.Add(l.Period)
	case Throttled:
		if back = now.Add(l.Period); rest == 0 {
			back = back.Add(throttleRest())
		}
		// The provider has counted this call at some time after its permit was
		// asked for, and with it those of the period before.
		if r.stats.since(began.Add(-l.Period)) <= l.Calls {
			r.stats.Below++
		}
	default:
		r.stats.Unknown++
		back = began.Add(l.quiet())
	}
	if o == Throttled || rest > l.Period {
		r.stats.Throttled++
	}
	if asked := now.Add(rest); asked.After(back) {
		back = asked
	}
	return back
}

// throttleRest is how long a throttled permit rests beyond T when the provider
// does not say: long enough to leave a foreign program its share, short enough
// to keep ours and to be back at full speed within 12 s after it stops; and
// never the same twice, so that the slots do not come back together. Measured
// beside a program with 3 of 10 calls/s: 4.5 to 7.5 s gives 91-95 % of the fair
// share at 0.45 throttles/s, 6 to 10 s gives 87-92 % at 0.38.
func throttleRest() time.Duration { return 4500*time.Millisecond + rand.N(3*time.Second) }

// keep owns a delivery until its slot is put back or has moved on. The time for
// it is at, unless back says otherwise. The caller holds mu.
func (r *ring) keep(s *shard, d delivery, at time.Time, back <-chan time.Time) {
	r.stats.Out++
	r.set.spawn(func() {
		if r.rest(s, d, at, back) {
			r.giveBack(s, d)
		}
		r.mu.Lock()
		r.stats.Out--
		r.mu.Unlock()
	})
}

// rest waits until it is time to put the slot back, and tells the server every
// half AckWait that its holder lives. Nothing in the proof needs that: whoever
// the permit is handed to as well would only put it back Q later. It saves the
// others a pull, and a long rest from being cut short.
func (r *ring) rest(s *shard, d delivery, at time.Time, back <-chan time.Time) bool {
	alive := time.NewTicker(r.set.opt.AckWait / 2)
	defer alive.Stop()
	due := time.NewTimer(time.Until(at))
	defer due.Stop()
	for {
		select {
		case <-due.C:
			return true
		case t := <-back:
			due.Reset(time.Until(t))
		case <-alive.C:
			s.src.touch(d)
		case <-r.set.ctx.Done():
			return false // it comes back by AckWait and Q
		}
	}
}

// giveBack puts the slot back, or removes it if the limit has shrunk below it,
// and repeats that until the server has answered it.
func (r *ring) giveBack(s *shard, d delivery) {
	for try := 0; ; try++ {
		ctx, cancel := context.WithTimeout(r.set.ctx, 2*time.Second)
		var err error
		// Who has only joined does not hear of a raised limit: the slot may be one
		// of those that it added.
		if r.set.opt.Join || d.slot < r.settings().Calls {
			err = s.src.put(ctx, d)
		} else {
			err = s.src.remove(ctx, d)
		}
		cancel()
		if errors.Is(err, errRefused) {
			r.mu.Lock()
			r.stats.Refused++
			r.mu.Unlock()
			return
		}
		if err == nil || errors.Is(err, ErrClosed) || sleep(r.set.ctx, pauseAfter(try)) != nil {
			return
		}
	}
}

// failed waits a little after an error, or tells everybody who waits if
// waiting will not mend it.
func (r *ring) failed(s *shard, err error, times int) {
	r.mu.Lock()
	if errors.Is(err, errGone) {
		s.life = ""
	}
	lasting := isLasting(err)
	if lasting {
		r.dismiss(err)
	}
	r.mu.Unlock()
	if lasting || r.set.ctx.Err() != nil {
		return
	}
	if times == 5 { // an election makes a few
		r.set.opt.Log.Warn("no permits", slog.String("ring", r.key.String()), slog.Any("err", err))
	}
	_ = sleep(r.set.ctx, pauseAfter(times))
}

// dismiss tells everybody who waits that it is in vain. The caller holds mu.
func (r *ring) dismiss(err error) {
	for w := r.waiters.pop(); w != nil; w = r.waiters.pop() {
		w.got <- grant{err: err}
	}
}

// open finds or makes the shard's consumer, unless that was done, and has its
// slots filled.
func (r *ring) open(ctx context.Context, s *shard) error {
	r.mu.Lock()
	done, l, want, retune := s.life != "", r.limit, r.shardsWanted(), r.retuned
	r.mu.Unlock()
	if done {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	o, err := s.src.open(ctx, l, want, retune)
	if err == nil && r.set.opt.Join {
		err = r.joined(ctx, s, o)
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.life, s.since = o.life, time.Now()
	for n := len(r.shards); n < o.shards; n++ {
		r.shards = append(r.shards, &shard{n: n, src: r.set.store.source(r.key, n, r.stray)})
	}
	if s.full != o.life {
		r.fill(s, 0, l.Calls)
	}
	r.kick() // the new shards
	return nil
}

// joined takes the settings that stand at a ring of others. Nothing is filled
// here: if nothing has come for long, and nothing is there to come, nobody does.
func (r *ring) joined(ctx context.Context, s *shard, o opened) error {
	r.mu.Lock()
	dry := s.full == o.life
	r.mu.Unlock()
	if dry {
		have, err := s.src.filled(ctx, o.life)
		if err != nil {
			return err
		}
		if len(have) == 0 {
			return fmt.Errorf("join %v, which has no slots: %w", r.key, ErrNoRing)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.full = o.life
	r.limit = o.limit
	r.fence.SetLimit(rate.Limit(r.limit.perSecond()))
	r.fence.SetBurst(r.limit.Calls)
	return nil
}

// shardsWanted is over how many consumers this process would split the ring.
// What the first consumer's metadata says wins over it, so that a changed limit
// does not move slots between consumers.
func (r *ring) shardsWanted() int {
	if n := len(r.shards); n > 1 {
		return n
	}
	return max(1, int(math.Ceil(r.limit.perSecond()/shardRate)))
}

// starving looks at the shard again when nothing has come for much longer than
// any slot can be away: somebody may have removed its slots or made it anew.
func (r *ring) starving(s *shard, l Limit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(s.since) > r.set.opt.AckWait+2*l.quiet() {
		s.life, s.since = "", time.Now()
		if !r.set.opt.Join {
			s.full = ""
		}
	}
}

// fill puts the empty ones of the slots from to to, Q from now: rule 4. Any
// process does it, so one that dies is no loss; the condition makes sure that a
// slot is put once. The caller holds mu.
func (r *ring) fill(s *shard, from, to int) {
	if s.filling && from == 0 {
		return
	}
	s.filling = s.filling || from == 0
	r.set.spawn(func() {
		err := r.filled(s, from, to)
		r.mu.Lock()
		defer r.mu.Unlock()
		if from == 0 {
			s.filling = false
		}
		if err != nil {
			s.life, s.full = "", "" // the next pull opens it, which fills it
		}
	})
}

func (r *ring) filled(s *shard, from, to int) error {
	seen := ""
	for {
		r.mu.Lock()
		l, life, want, retune := r.limit, s.life, r.shardsWanted(), r.retuned
		r.mu.Unlock()
		if seen == "" {
			seen = life
		}
		if !r.set.opt.SkipWait {
			if err := sleep(r.set.work, l.quiet()); err != nil {
				return err
			}
		}
		// It may have been made anew meanwhile. Then Q begins again.
		o, err := retry(r.set.work, func(ctx context.Context) (opened, error) { return s.src.open(ctx, l, want, retune) })
		if err != nil {
			return err
		}
		if o.life == seen {
			break
		}
		seen = o.life
		r.mu.Lock()
		s.life = seen
		r.mu.Unlock()
	}
	have, err := retry(r.set.work, func(ctx context.Context) (map[int]bool, error) { return s.src.filled(ctx, seen) })
	if err != nil {
		return err
	}
	if err := r.putEmpty(s, seen, from, to, have); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if from == 0 {
		s.full = seen
	}
	return nil
}

// putEmpty puts the slots that are not there, T/L apart: a ring whose slots
// come back evenly keeps the server's timer exact.
func (r *ring) putEmpty(s *shard, life string, from, to int, have map[int]bool) error {
	r.mu.Lock()
	shards := len(r.shards)
	r.mu.Unlock()
	for slot := from; slot < to; slot++ {
		l := r.settings()
		if slot%shards != s.n || slot >= l.Calls || have[slot] {
			continue
		}
		_, err := retry(r.set.work, func(ctx context.Context) (struct{}, error) {
			err := s.src.fill(ctx, life, slot)
			if errors.Is(err, errRefused) {
				err = nil // another process was first
			}
			return struct{}{}, err
		})
		if err != nil {
			return err
		}
		if err := sleep(r.set.work, l.Period/time.Duration(l.Calls)); err != nil {
			return err
		}
	}
	return nil
}

// setLimit changes L. See Set.SetLimit.
func (r *ring) setLimit(ctx context.Context, calls int) error {
	r.mu.Lock()
	before := r.limit.Calls
	r.limit.Calls, r.retuned = calls, true
	r.fence.SetLimit(rate.Limit(r.limit.perSecond()))
	r.fence.SetBurst(calls)
	l, want, shards := r.limit, r.shardsWanted(), slices.Clone(r.shards)
	if calls > before {
		for _, s := range shards {
			if s.life != "" {
				r.fill(s, before, calls)
			}
		}
	}
	r.mu.Unlock()
	for _, s := range shards {
		if s.life == "" {
			continue // the first use opens it with the new limit
		}
		if _, err := s.src.open(ctx, l, want, true); err != nil {
			return fmt.Errorf("limit of %v: %w", r.key, err)
		}
	}
	return nil
}

// isLasting: asking again does not mend it.
func isLasting(err error) bool {
	return errors.Is(err, ErrSettings) || errors.Is(err, ErrClosed) || errors.Is(err, ErrNoRing)
}

// retry calls f until it succeeds or has told something lasting.
func retry[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	for try := 0; ; try++ {
		one, cancel := context.WithTimeout(ctx, 2*time.Second)
		v, err := f(one)
		cancel()
		if err == nil || isLasting(err) {
			return v, err
		}
		if err := sleep(ctx, pauseAfter(try)); err != nil {
			return v, err
		}
	}
}

// pauseAfter is how long to wait after so many failures: 50 ms doubling to
// 800 ms, with jitter.
func pauseAfter(failures int) time.Duration {
	d := 50 * time.Millisecond << min(failures, 4)
	return d/2 + rand.N(d)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waiter is one caller of Wait.
type waiter struct {
	got    chan grant
	since  time.Time
	urgent bool
}

type grant struct {
	permit *Permit
	err    error
}

// queue serves urgent waiters first, else in the order of their coming.
type queue struct{ urgent, normal []*waiter }

func (q *queue) len() int { return len(q.urgent) + len(q.normal) }

func (q *queue) of(w *waiter) *[]*waiter {
	if w.urgent {
		return &q.urgent
	}
	return &q.normal
}

func (q *queue) push(w *waiter) { l := q.of(w); *l = append(*l, w) }

func (q *queue) pop() *waiter {
	for _, l := range []*[]*waiter{&q.urgent, &q.normal} {
		if len(*l) > 0 {
			w := (*l)[0]
			*l = (*l)[1:]
			return w
		}
	}
	return nil
}

// drop takes w out and tells whether it was there.
func (q *queue) drop(w *waiter) bool {
	l := q.of(w)
	i := slices.Index(*l, w)
	if i >= 0 {
		*l = slices.Delete(*l, i, i+1)
	}
	return i >= 0
}
