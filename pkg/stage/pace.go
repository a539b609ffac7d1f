package stage

import (
	"sync"
	"time"
)

// Pace learns how long a cloud takes to show a challenge, so that an order is
// asked about once: each early question is a call of an action that allows ten
// a second, and delays another order. The zero value is ready; nil asks at once.
type Pace struct {
	mu    sync.Mutex
	usual map[string]time.Duration // by what takes that long
}

const (
	firstPace   = 500 * time.Millisecond
	longestPace = time.Minute
	tooEarly    = 1.15        // a challenge that was not there comes later than this times its age
	onTime      = 1.0 / 1_000 // of the pace is tried off by each that was there: so about 1 in 140 is too early
)

// wait is how much older an order must get before it is worth a question.
func (p *Pace) wait(what string, age time.Duration) time.Duration {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.of(what)-age, 0)
}

// shown: a challenge was there when the order was so old.
func (p *Pace) shown(what string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(what, p.of(what)-time.Duration(onTime*float64(p.of(what))))
}

// early: it was not. It returns how long to wait until the next question: half
// as long again.
func (p *Pace) early(what string, age time.Duration) time.Duration {
	if p == nil {
		return firstPace
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(what, max(p.of(what), min(time.Duration(tooEarly*float64(age)), longestPace)))
	return max(age/2, firstPace)
}

func (p *Pace) of(what string) time.Duration {
	if d, known := p.usual[what]; known {
		return d
	}
	return firstPace
}

func (p *Pace) set(what string, d time.Duration) {
	if p.usual == nil {
		p.usual = map[string]time.Duration{}
	}
	p.usual[what] = d
}
