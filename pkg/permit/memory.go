package permit

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// memory keeps slots as a consumer would: one sequence per slot, each handed
// out once, in the order in which they were put, to pulls in the order in which
// they came. Nobody dies here alone, so nothing is handed out again.
type memory struct {
	mu     sync.Mutex
	shards map[string]*memoryShard
}

func newMemory() *memory { return &memory{shards: map[string]*memoryShard{}} }

func (m *memory) source(k Key, shard int, _ func(int, delivery)) source {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := consumerName(k, shard)
	s := m.shards[name]
	if s == nil {
		s = &memoryShard{last: map[int]uint64{}}
		m.shards[name] = s
	}
	return s
}

func (m *memory) close() {}

type memoryShard struct {
	mu     sync.Mutex
	limit  Limit
	seq    uint64
	last   map[int]uint64 // by slot
	ready  []delivery
	asking []chan delivery
}

func (s *memoryShard) open(_ context.Context, l Limit, shards int, retune bool) (opened, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit == (Limit{}) {
		s.limit = l
	}
	if err := agree(s.limit, l, retune); err != nil {
		return opened{}, err
	}
	s.limit = l
	return opened{life: "1", shards: 1}, nil
}

// agree compares the settings that are in force with one's own.
func agree(there, own Limit, retune bool) error {
	if retune {
		there.Calls = own.Calls
	}
	if there != own {
		return fmt.Errorf("%w: %s here, %s in force", ErrSettings, own, there)
	}
	return nil
}

func (l Limit) String() string {
	return fmt.Sprintf("%d calls per %v, deadline %v, pull %v", l.Calls, l.Period, l.Deadline, l.Pull)
}

func (s *memoryShard) pull(ctx context.Context, l Limit) (delivery, error) {
	s.mu.Lock()
	if len(s.ready) > 0 {
		d := s.ready[0]
		s.ready = s.ready[1:]
		s.mu.Unlock()
		return d, nil
	}
	asked := make(chan delivery, 1)
	s.asking = append(s.asking, asked)
	s.mu.Unlock()
	expired := time.NewTimer(l.Pull)
	defer expired.Stop()
	select {
	case d := <-asked:
		return d, nil
	case <-expired.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, a := range s.asking {
		if a == asked {
			s.asking = append(s.asking[:i], s.asking[i+1:]...)
			return delivery{}, errNothing
		}
	}
	return <-asked, nil // it came at the last moment
}

func (s *memoryShard) put(_ context.Context, d delivery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last[d.slot] != d.seq {
		return errRefused
	}
	s.store(d)
	return nil
}

// store makes d its slot's next sequence and hands it to whoever asked first.
// The caller holds mu.
func (s *memoryShard) store(d delivery) {
	s.seq++
	d.seq, d.first = s.seq, true
	s.last[d.slot] = d.seq
	if len(s.asking) > 0 {
		s.asking[0] <- d
		s.asking = s.asking[1:]
		return
	}
	s.ready = append(s.ready, d)
}

func (s *memoryShard) remove(_ context.Context, d delivery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last[d.slot] != d.seq {
		return errRefused
	}
	delete(s.last, d.slot)
	return nil
}

func (s *memoryShard) fill(_ context.Context, life string, slot int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last[slot] != 0 {
		return errRefused
	}
	s.store(delivery{life: life, slot: slot})
	return nil
}

func (s *memoryShard) filled(context.Context, string) (map[int]bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := map[int]bool{}
	for slot := range s.last {
		have[slot] = true
	}
	return have, nil
}

func (s *memoryShard) touch(delivery) {}
