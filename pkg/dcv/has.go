package dcv

import (
	"context"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
)

// Haser is a Solver that can tell whether a challenge is there, so that what
// others have put there is known, and left alone when the order ends.
type Haser interface {
	// Has tells whether exactly this challenge is there, at its place, as the
	// provider has it now. It changes nothing and is safe to repeat. The error
	// is ErrNobodyKnows where only the one who placed it could tell.
	Has(ctx context.Context, c order.Challenge) (bool, error)
}

// ErrNobodyKnows: the solver cannot tell what is there (a web hook, a program).
const ErrNobodyKnows Kind = "nobody knows what is there"

var (
	_ Haser = (*Records)(nil)
	_ Haser = (*Route)(nil)
	_ Haser = ByType{}
)

// Has implements Haser. A record that is disabled does not count: Present says
// what is wrong with it.
func (s *Records) Has(ctx context.Context, c order.Challenge) (bool, error) {
	zone, want, err := s.locate(ctx, c)
	if err != nil {
		return false, err
	}
	all, err := s.provider.Find(ctx, zone, want.RR)
	if err != nil {
		return false, final(err)
	}
	for _, r := range all {
		if want.same(r) && !r.Disabled {
			return true, nil
		}
	}
	return false, nil
}

// Has implements Haser, at the solver of the name's zone.
func (r *Route) Has(ctx context.Context, c order.Challenge) (bool, error) {
	s, err := r.solver(c.Host)
	if err != nil {
		return false, err
	}
	return has(ctx, s, c)
}

// Has implements Haser.
func (b ByType) Has(ctx context.Context, c order.Challenge) (bool, error) {
	s, err := b.solver(c)
	if err != nil {
		return false, err
	}
	there, err := has(ctx, s, c)
	return there, redact.Error(err)
}

func has(ctx context.Context, s Solver, c order.Challenge) (bool, error) {
	if h, ok := s.(Haser); ok {
		return h.Has(ctx, c)
	}
	return false, ErrNobodyKnows
}
