package dcv

import (
	"time"

	"github.com/certmill/certmill/pkg/order"
)

// Lagger is a Solver, or a Provider without the parameter, that may not find at
// first what another process has placed.
type Lagger interface {
	// Lag is how long after Present CleanUp may find nothing, call that a
	// success, and leave the record, and Has may miss it. Whoever cleans up
	// sooner than that MUST clean up again later. The process that placed a
	// record always finds it.
	Lag(c order.Challenge) time.Duration
}

var (
	_ Lagger = (*Records)(nil)
	_ Lagger = (*Route)(nil)
	_ Lagger = ByType{}
)

// Lag implements Lagger.
func (s *Records) Lag(order.Challenge) time.Duration {
	if l, ok := s.provider.(interface{ Lag() time.Duration }); ok {
		return l.Lag()
	}
	return 0
}

// Lag implements Lagger.
func (r *Route) Lag(c order.Challenge) time.Duration {
	s, err := r.solver(c.Host)
	return lag(s, err, c)
}

// Lag implements Lagger.
func (b ByType) Lag(c order.Challenge) time.Duration {
	s, err := b.solver(c)
	return lag(s, err, c)
}

func lag(s Solver, err error, c order.Challenge) time.Duration {
	if l, ok := s.(Lagger); ok && err == nil {
		return l.Lag(c)
	}
	return 0
}
