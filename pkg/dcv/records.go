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
	// about, or all if it is empty. IDNs may be U-labels.
	Zones(ctx context.Context, about string) ([]string, error)
	// Find lists the records of every type at a name, at least.
	Find(ctx context.Context, zone, rr string) ([]Record, error)
	// Add adds a record. It MUST NOT change any other. The error MUST be
	// Refused where the reason may be what stands at the name: a duplicate, a
	// conflict, or a code that does not say; it MAY be Exists where Find could
	// miss the duplicate.
	Add(ctx context.Context, zone string, r Record) error
	// Delete removes this record, which Find returned, and no other; it is gone
	// is a success.
	Delete(ctx context.Context, zone string, r Record) error
}

// Further abilities, found by type assertion.
type (
	// Batcher is a Provider whose API writes several records of one zone in one
	// call. Both methods mean what Add and Delete mean for each record. How many
	// records one call takes, and from how many on it is worth while, is for the
	// Batcher to know.
	//
	// They hand the records in. What they return is called once, waits until the
	// API has dealt with them, and tells the outcome of each, in their order:
	// while it waits, other records of the zone may be handed in.
	Batcher interface {
		AddAll(ctx context.Context, zone string, rs []Record) func() []error
		DeleteAll(ctx context.Context, zone string, rs []Record) func() []error
	}
	// ZoneFinder is a Provider without a list of zones: its server tells of
	// each name in which zone it lies. Zones is not called then.
	ZoneFinder interface {
		// ZoneOf returns the apex, or NoZone where the server does not serve the
		// name with authority.
		ZoneOf(ctx context.Context, host string) (string, error)
	}
)

// Kinds that a Provider returns; what a solver returns in their place depends on
// what stands at the name.
const (
	// Refused: what was asked for is wrong. After Add, a look may tell why.
	Refused Kind = "refused"
	// Exists: this very record is there, though perhaps disabled.
	Exists Kind = "exists"
)

// Records is the Solver of DNS challenges at one provider. An order costs at
// most one call of each kind: Add when it is placed, Find and Delete when it is
// taken back. What waits for one zone while a call to it is under way is written
// together, where the provider is a Batcher. The zones are listed at times.
//
// A record is looked for by its exact value before it is deleted, although the
// APIs return an id when it is added: what an id stands for may have been edited
// since, and the search needs no memory that a crash could take.
type Records struct {
	provider Provider
	zones    *zones
	add      func(ctx context.Context, zone string, r Record) error
	remove   func(ctx context.Context, zone string, r Record) error
}

// NewRecords returns the solver for the provider's account. Nothing is sent.
func NewRecords(p Provider) *Records {
	s := &Records{provider: p, zones: newZones(p), add: p.Add, remove: p.Delete}
	if b, ok := p.(Batcher); ok {
		s.add, s.remove = newQueue(b.AddAll).do, newQueue(b.DeleteAll).do
	}
	return s
}

// Zone is the zone of the account in which a name lies, or NoZone.
func (s *Records) Zone(ctx context.Context, host string) (string, error) {
	zone, _, err := s.zones.split(ctx, host)
	return canonical(ALabels(zone)), final(err)
}

// Present implements Solver. It adds without looking first: only the
// provider can tell without a race whether the name is free.
func (s *Records) Present(ctx context.Context, c order.Challenge) error {
	zone, want, err := s.locate(ctx, c)
	if err != nil {
		return err
	}
	err = s.add(ctx, zone, want)
	// A crash here leaves a record that the order knows of: the next visit
	// finds a duplicate, and the collector removes it.
	switch {
	case errors.Is(err, Refused), errors.Is(err, Exists):
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
	if errors.Is(refusal, Exists) {
		return nil // and not listed yet; whether it is served is for the Looker to see
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
		if err := s.remove(ctx, zone, r); err != nil {
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
