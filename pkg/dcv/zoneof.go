package dcv

import (
	"context"
	"errors"

	"github.com/certmill/certmill/pkg/redact"
)

// Zoner is a solver that can tell which of its zones a name lies in.
type Zoner interface {
	// Zone returns the zone of an absolute name. The error is NoZone where it
	// lies in none, ErrZonesUnknown where nobody can tell before a record is
	// placed. It changes nothing and is safe to repeat.
	Zone(ctx context.Context, host string) (string, error)
}

var (
	_ Zoner = (*Records)(nil)
	_ Zoner = (*Route)(nil)
	_ Zoner = ByType{}
)

// ErrZonesUnknown: the solver cannot tell its zones (a web hook, a program).
var ErrZonesUnknown = errors.New("the solver cannot tell which zones it serves")

// Zone implements Zoner: it asks the solver that has the longest zone.
func (r *Route) Zone(ctx context.Context, host string) (string, error) {
	s, err := r.solver(host)
	if err != nil {
		return "", err
	}
	return zoneOf(ctx, s, host)
}

// Zone implements Zoner, for records.
func (b ByType) Zone(ctx context.Context, host string) (string, error) {
	zone, err := zoneOf(ctx, b.DNS, host)
	return zone, redact.Error(err)
}

func zoneOf(ctx context.Context, s Solver, host string) (string, error) {
	if z, ok := s.(Zoner); ok {
		return z.Zone(ctx, host)
	}
	return "", ErrZonesUnknown
}
