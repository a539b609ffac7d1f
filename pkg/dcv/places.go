package dcv

import (
	"context"
	"slices"
	"sync"
)

// Places bound what is done at a time: sockets, processes. They are shared by
// all, and whoever keeps them for long because nobody answers leaves places to
// the others: who has some gets another one only while more than so many are
// free. So one in trouble has half of them at most, two have a third each, and
// there is one for a newcomer until there are as many in trouble as places.
type Places struct {
	mu   sync.Mutex // owns what follows
	free int
	has  map[string]int
	line []*seeker // the first that came first
}

// seeker waits for a place.
type seeker struct {
	who   string
	there chan struct{} // closed when it has one
}

// NewPlaces returns n free places.
func NewPlaces(n int) *Places { return &Places{free: n, has: map[string]int{}} }

// Take waits for a place. Who takes and gives up together is one who: a server, a
// zone. Leave MUST be called, once. The error is ctx's.
func (p *Places) Take(ctx context.Context, who string) (leave func(), err error) {
	s := p.seek(who)
	select {
	case <-s.there:
		return func() { p.leave(who) }, nil
	case <-ctx.Done():
		p.giveUp(s)
		return nil, ctx.Err()
	}
}

func (p *Places) seek(who string) *seeker {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &seeker{who, make(chan struct{})}
	p.line = append(p.line, s)
	p.admit()
	return s
}

// admit gives free places to those who wait and may have one. Callers hold the
// lock.
func (p *Places) admit() {
	p.line = slices.DeleteFunc(p.line, func(s *seeker) bool {
		if p.has[s.who] >= p.free {
			return false
		}
		p.free--
		p.has[s.who]++
		close(s.there)
		return true
	})
}

func (p *Places) leave(who string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free++
	if p.has[who]--; p.has[who] == 0 {
		delete(p.has, who)
	}
	p.admit()
}

// giveUp takes a seeker out of the line, or gives back what it got meanwhile.
func (p *Places) giveUp(s *seeker) {
	p.mu.Lock()
	i := slices.Index(p.line, s)
	if i >= 0 {
		p.line = slices.Delete(p.line, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 {
		p.leave(s.who)
	}
}
