package dcv

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
)

// AnyZone stands for all zones that no other solver of a Route serves.
const AnyZone = "*"

// Aliases tells where names lead. A Looker does.
type Aliases interface {
	Follow(ctx context.Context, name string) (Place, error)
}

// Locator is a Solver that knows at which place a challenge belongs.
type Locator interface {
	// Locate returns the challenge at its place: what Present, Look and CleanUp
	// MUST be given, the last also when the CNAME that led there is gone, so
	// the caller keeps it. It changes nothing and is safe to repeat. The error
	// SHOULD be NoZone where no solver can write there.
	Locate(ctx context.Context, c order.Challenge) (order.Challenge, error)
}

// Route is the Solver of DNS challenges where several share the work: each name
// goes to the solver of the longest zone that it lies in.
//
// It is a Locator: a TXT challenge whose name is a CNAME, such as
// _dnsauth.example.com to a name in a zone that is kept for challenges alone,
// belongs at the end of the CNAMEs, with the solver of the zone there. A CNAME
// challenge is never followed: it asks for this very record.
type Route struct {
	solvers map[string]Solver // by zone or AnyZone
	aliases Aliases           // nil: names are what they seem
}

// NewRoute returns the route. The keys are zones, or names above or below them,
// and AnyZone.
func NewRoute(solvers map[string]Solver, aliases Aliases) *Route {
	r := &Route{solvers: map[string]Solver{}, aliases: aliases}
	for zone, s := range solvers {
		r.solvers[canonical(ALabels(zone))] = s
	}
	return r
}

// Present implements Solver. It acts on the name as it is: Locate comes first.
func (r *Route) Present(ctx context.Context, c order.Challenge) error {
	s, err := r.solver(c.Host)
	if err != nil {
		return err
	}
	return s.Present(ctx, c)
}

// CleanUp implements Solver. It acts on the name as it is.
func (r *Route) CleanUp(ctx context.Context, c order.Challenge) error {
	s, err := r.solver(c.Host)
	if err != nil {
		return err
	}
	return s.CleanUp(ctx, c)
}

// Locate implements Locator.
func (r *Route) Locate(ctx context.Context, c order.Challenge) (order.Challenge, error) {
	if c.Type != TXT || r.aliases == nil {
		return c, nil
	}
	place, err := r.aliases.Follow(ctx, c.Host)
	if err != nil {
		return c, err
	}
	if err := r.serves(ctx, place); err != nil {
		if len(place.Via) > 0 {
			err = fmt.Errorf("%s leads to %s by CNAME: %w", quote(c.Host), quote(place.Name), err)
		}
		return c, err
	}
	if len(place.Via) > 0 {
		c.Host = place.Name
	}
	return c, nil
}

// serves tells whether what a solver writes at the place can be seen there: it
// has a zone, and no delegation below that leads elsewhere.
func (r *Route) serves(ctx context.Context, p Place) error {
	s, err := r.solver(p.Name)
	if err != nil {
		return err
	}
	zone, err := zoneOf(ctx, s, p.Name)
	switch {
	case errors.Is(err, ErrZonesUnknown):
		return nil
	case err != nil:
		return err
	}
	if strings.HasSuffix(p.Zone, "."+zone) {
		return fmt.Errorf("%w: %s lies in the zone %s, which is delegated away from the account's %s; add that zone to dcv.solvers with the account that hosts it", NoZone, quote(p.Name), quote(p.Zone), quote(zone))
	}
	return nil
}

func (r *Route) solver(host string) (Solver, error) {
	if zone, _, ok := Split(ALabels(host), r.solvers); ok {
		return r.solvers[zone], nil
	}
	if s := r.solvers[AnyZone]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%w: no solver serves %s; add its zone, or %q, to one of dcv.solvers", NoZone, quote(host), AnyZone)
}

// Locate implements Locator where DNS is a Locator. All else is where it
// belongs already.
func (b ByType) Locate(ctx context.Context, c order.Challenge) (order.Challenge, error) {
	s, err := b.solver(c)
	if err != nil {
		return c, err
	}
	if l, ok := s.(Locator); ok {
		at, err := l.Locate(ctx, c)
		return at, redact.Error(err)
	}
	return c, nil
}
