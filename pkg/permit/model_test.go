package permit

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// provider counts calls as a cloud would, and strictly: every arrival whose
// L-th predecessor is less than T old is a violation.
type provider struct {
	limit Limit

	mu         sync.Mutex
	arrivals   []time.Time
	accepted   []time.Time
	violations int
}

// count takes one call and tells whether it was throttled.
func (p *provider) count() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, l := time.Now(), p.limit.Calls
	if n := len(p.arrivals); n >= l && now.Sub(p.arrivals[n-l]) < p.limit.Period {
		p.violations++
	}
	p.arrivals = append(p.arrivals, now)
	if n := len(p.accepted); n >= l && now.Sub(p.accepted[n-l]) < p.limit.Period {
		return true
	}
	p.accepted = append(p.accepted, now)
	return false
}

func (p *provider) calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.arrivals)
}

// hostile makes of the slots in memory a consumer as bad as a real one can be,
// and worse: it delivers late or not at all, delivers again after AckWait or
// long before, stores puts late, and loses the answers to them.
type hostile struct {
	*memory
	ackWait time.Duration

	mu        sync.Mutex
	rnd       *rand.Rand
	lose      float64                              // share of deliveries that nobody gets
	early     float64                              // share of deliveries that are repeated within 100 ms
	lateness  func(*rand.Rand) time.Duration       // of a delivery
	putDelay  func(*rand.Rand) time.Duration       // before a put is stored
	mute      float64                              // share of puts whose answer is lost
	again     map[*memoryShard]map[int]*time.Timer // AckWait of what is out
	processes []*process
}

func newHostile(ackWait time.Duration, seed uint64) *hostile {
	none := func(*rand.Rand) time.Duration { return 0 }
	return &hostile{memory: newMemory(), ackWait: ackWait, rnd: rand.New(rand.NewPCG(seed, 1)), lateness: none, putDelay: none,
		again: map[*memoryShard]map[int]*time.Timer{}}
}

func (h *hostile) source(k Key, shard int, stray func(int, delivery)) source {
	return &hostileShard{memoryShard: h.memory.source(k, shard, stray).(*memoryShard), h: h}
}

// hostileShard is one process's way to the consumer.
type hostileShard struct {
	*memoryShard
	h    *hostile
	dead bool // guarded by h.mu: kill -9
}

func (h *hostile) chance(p float64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rnd.Float64() < p
}

func (h *hostile) draw(f func(*rand.Rand) time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return f(h.rnd)
}

func (s *hostileShard) pull(ctx context.Context, l Limit) (delivery, error) {
	d, err := s.memoryShard.pull(ctx, l)
	if err != nil {
		return d, err
	}
	wait := s.h.ackWait
	if s.h.chance(s.h.early) {
		wait = s.h.draw(func(r *rand.Rand) time.Duration { return time.Duration(r.Int64N(int64(100 * time.Millisecond))) })
	}
	s.repeat(d, wait)
	if s.h.chance(s.h.lose) || s.gone() {
		return d, errNothing
	}
	time.Sleep(s.h.draw(s.h.lateness))
	return d, nil
}

func (s *hostileShard) gone() bool {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return s.dead
}

// repeat hands d out again after a while unless its slot has moved on.
func (s *hostileShard) repeat(d delivery, after time.Duration) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	timers := s.h.again[s.memoryShard]
	if timers == nil {
		timers = map[int]*time.Timer{}
		s.h.again[s.memoryShard] = timers
	}
	if t := timers[d.slot]; t != nil {
		t.Stop()
	}
	timers[d.slot] = time.AfterFunc(after, func() {
		m := s.memoryShard
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.last[d.slot] != d.seq {
			return
		}
		d.first = false
		if len(m.asking) > 0 {
			m.asking[0] <- d
			m.asking = m.asking[1:]
			return
		}
		m.ready = append(m.ready, d)
	})
}

func (s *hostileShard) touch(d delivery) {
	if s.gone() {
		return
	}
	s.memoryShard.mu.Lock()
	current := s.last[d.slot] == d.seq
	s.memoryShard.mu.Unlock()
	if current {
		s.repeat(d, s.h.ackWait)
	}
}

func (s *hostileShard) put(ctx context.Context, d delivery) error {
	time.Sleep(s.h.draw(s.h.putDelay))
	if s.gone() {
		return errors.New("dead")
	}
	err := s.memoryShard.put(ctx, d)
	if s.h.chance(s.h.mute) {
		return errors.New("no answer")
	}
	return err
}

// process is one process's Set on the shared slots, whose kill -9 can be
// simulated.
type process struct {
	*Set
	st *processStore
}

type processStore struct {
	*hostile
	mu   sync.Mutex
	mine []*hostileShard
}

func (p *processStore) source(k Key, shard int, stray func(int, delivery)) source {
	s := p.hostile.source(k, shard, stray).(*hostileShard)
	p.mu.Lock()
	p.mine = append(p.mine, s)
	p.mu.Unlock()
	return s
}

func (h *hostile) process(l Limit, opt Options) *process {
	st := &processStore{hostile: h}
	opt.AckWait = h.ackWait
	p := &process{newSet(func(Key) Limit { return l }, st, opt), st}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes = append(h.processes, p)
	return p
}

// stop ends all processes and what is still under way, so that the bubble of
// virtual time can end.
func (h *hostile) stop() {
	h.mu.Lock()
	all := h.processes
	h.mu.Unlock()
	for _, p := range all {
		p.Set.cancel()
	}
	time.Sleep(time.Minute)
}

// kill ends the process: nothing of it reaches the slots any more.
func (p *process) kill() {
	p.st.mu.Lock()
	defer p.st.mu.Unlock()
	for _, s := range p.st.mine {
		p.st.hostile.mu.Lock()
		s.dead = true
		p.st.hostile.mu.Unlock()
	}
	p.Set.cancel()
}
