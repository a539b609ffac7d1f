package dcv

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/certmill/certmill/pkg/order"
)

// Apex is the relative name of a zone's own records.
const Apex = "@"

// TTL of the records, in seconds: the least that the free editions of both
// clouds allow.
const TTL = 600

// Record is one record of a zone, as a provider's API shows it.
type Record struct {
	ID       string // the provider's; large numbers do not survive a float64
	RR       string // name relative to the zone, Apex for the zone itself
	Type     string
	Value    string // of a TXT: the text itself, not quoted
	Disabled bool   // stored, but not served
}

// Provider is a DNS API with one account's key. Values of one name and type are
// separate records.
//
// Each method MUST be safe to repeat and for concurrent use. Errors for which
// only a person can help SHOULD be of a Kind.
type Provider interface {
	// Zones lists the zones that the account hosts: those whose name contains
	// about, or all if it is empty.
	Zones(ctx context.Context, about string) ([]string, error)
	// Find lists the records of every type at a name, at least.
	Find(ctx context.Context, zone, rr string) ([]Record, error)
	// Add adds a record. It MUST NOT change any other. The error MUST be
	// Refused where the reason may be what stands at the name: a duplicate, a
	// conflict, or a code that does not say.
	Add(ctx context.Context, zone string, r Record) error
	// Delete removes the record with this id; it is gone is a success.
	Delete(ctx context.Context, zone, id string) error
}

// Refused is returned by a Provider: what was asked for is wrong; after Add, a
// look at the name may tell why. Solvers return Conflict or Denied instead.
const Refused Kind = "refused"

// Records is the Solver of DNS challenges at one provider. An order costs one
// call of each kind: Add when it is placed, Find and Delete when it is taken
// back. The zones are listed at times.
type Records struct {
	provider Provider
	zones    *zones
}

// NewRecords returns the solver for the provider's account. Nothing is sent.
func NewRecords(p Provider) *Records {
	return &Records{provider: p, zones: newZones(p)}
}

// Present implements Solver. It adds without looking first: only the
// provider can tell without a race whether the name is free.
func (s *Records) Present(ctx context.Context, c order.Challenge) error {
	zone, want, err := s.locate(ctx, c)
	if err != nil {
		return err
	}
	err = s.provider.Add(ctx, zone, want)
	// A crash here leaves a record that the order knows of: the next visit
	// finds a duplicate, and the collector removes it.
	switch {
	case errors.Is(err, Refused):
		return s.explain(ctx, zone, want, err)
	case errors.Is(err, NoZone):
		s.zones.forget()
	}
	return err
}

// explain finds out what a refusal means: a success if the record is there.
func (s *Records) explain(ctx context.Context, zone string, want Record, refusal error) error {
	all, err := s.provider.Find(ctx, zone, want.RR)
	if err != nil {
		return final(err)
	}
	var inTheWay []string
	for _, r := range all {
		switch {
		case !strings.EqualFold(r.RR, want.RR):
		case want.same(r) && !r.Disabled:
			return nil
		case want.same(r):
			return fmt.Errorf("%w: the record is there, but disabled; enable it or delete it", Conflict)
		case want.Type == CNAME || r.Type == CNAME:
			inTheWay = append(inTheWay, r.Type+" "+quote(r.Value))
		}
	}
	if len(inTheWay) > 0 {
		return fmt.Errorf("%w: the name has %s, and a CNAME stands alone; delete one or delegate another name", Conflict, strings.Join(inTheWay, ", "))
	}
	return final(refusal)
}

// CleanUp implements Solver.
func (s *Records) CleanUp(ctx context.Context, c order.Challenge) error {
	zone, mine, err := s.locate(ctx, c)
	if err != nil {
		return err
	}
	all, err := s.provider.Find(ctx, zone, mine.RR)
	if err != nil {
		return final(err)
	}
	for _, r := range all {
		if !mine.same(r) {
			continue
		}
		if err := s.provider.Delete(ctx, zone, r.ID); err != nil {
			return final(err)
		}
	}
	return nil
}

// locate says in which zone a challenge lies, and as which record.
func (s *Records) locate(ctx context.Context, c order.Challenge) (zone string, r Record, err error) {
	if c.Type != TXT && c.Type != CNAME || c.Value == "" {
		return "", Record{}, fmt.Errorf("%w: a %s challenge with the value %s is no record", Denied, c.Type, quote(c.Value))
	}
	zone, rr, err := s.zones.split(ctx, c.Host)
	return zone, Record{RR: rr, Type: c.Type, Value: c.Value}, final(err)
}

// final is the error for those who use the solver: a refusal that nothing at
// the name explains is for a person.
func final(err error) error {
	if errors.Is(err, Refused) {
		return fmt.Errorf("%w: %w", Denied, err)
	}
	return err
}

// same tells whether both are one record, whatever their ids.
func (r Record) same(o Record) bool {
	return strings.EqualFold(r.RR, o.RR) && r.Type == o.Type && sameValue(r.Type, r.Value, o.Value)
}

// sameValue compares the values of two records: texts byte by byte, targets as
// names.
func sameValue(kind, a, b string) bool {
	if kind == CNAME {
		return canonical(a) == canonical(b)
	}
	return a == b
}

// canonical is a name in lower case without the trailing dot.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// quote shows a text of others in a sentence: one short, printable line.
func quote(s string) string {
	if len(s) > 100 {
		return fmt.Sprintf("%q…", s[:100])
	}
	return fmt.Sprintf("%q", s)
}
