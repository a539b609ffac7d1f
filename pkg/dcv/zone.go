package dcv

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/memo"
)

// zonesAge is how long a list of zones holds. It may be long, because a name
// that lies in none of them is asked about at once; only a zone that was cut out
// of another one meanwhile is noticed late, and then the challenge does not
// show until it is.
const zonesAge = 10 * time.Minute

// zones knows which zones an account hosts.
type zones struct {
	provider Provider
	listing  memo.Memo[struct{}] // one lists, for all who need it; what was listed is in known

	mu     sync.Mutex        // owns what is below
	known  map[string]string // by A-labels, as the provider writes them
	listed time.Time         // zero: not, or the list was wrong
}

func newZones(p Provider) *zones { return &zones{provider: p, known: map[string]string{}} }

// split finds the zone of an absolute name, as the provider writes it, and the
// name's part below it.
func (z *zones) split(ctx context.Context, host string) (zone, rr string, err error) {
	host = ALabels(host)
	if f, ok := z.provider.(ZoneFinder); ok {
		return askFor(ctx, f, host)
	}
	if err := z.list(ctx); err != nil {
		return "", "", fmt.Errorf("list zones: %w", err)
	}
	if zone, rr, ok := z.find(host); ok {
		return zone, rr, nil
	}
	if err := z.askAbout(ctx, host); err != nil {
		return "", "", fmt.Errorf("look for the zone of %s: %w", quote(host), err)
	}
	if zone, rr, ok := z.find(host); ok {
		return zone, rr, nil
	}
	return "", "", fmt.Errorf("%w: no zone of the account holds %s; add it to the account's DNS, or configure the account that has it", NoZone, quote(host))
}

// askFor asks the server itself for the zone.
func askFor(ctx context.Context, f ZoneFinder, host string) (zone, rr string, err error) {
	if zone, err = f.ZoneOf(ctx, host); err != nil {
		return "", "", fmt.Errorf("look for the zone of %s: %w", quote(host), err)
	}
	if _, rr, ok := Split(host, map[string]bool{canonical(zone): true}); ok {
		return canonical(zone), rr, nil
	}
	return "", "", fmt.Errorf("look for the zone of %s: the server says %s, in which the name does not lie", quote(host), quote(zone))
}

func (z *zones) find(host string) (zone, rr string, ok bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	zone, rr, ok = Split(host, z.known)
	return z.known[zone], rr, ok
}

// list reads all zones unless somebody did so lately. An API that does not answer
// is not asked by one after the other: who waits for it does nothing else.
func (z *zones) list(ctx context.Context) error {
	if z.fresh() {
		return nil
	}
	_, err := z.listing.Get(ctx, "", memo.Keep{Failure: memo.Moment, Silence: issuer.Silent}, func(ctx context.Context) (none struct{}, err error) {
		if z.fresh() { // somebody was first
			return none, nil
		}
		all, err := z.provider.Zones(ctx, "")
		if err != nil {
			return none, err
		}
		z.mu.Lock()
		defer z.mu.Unlock()
		z.known, z.listed = map[string]string{}, time.Now()
		z.add(all)
		return none, nil
	})
	return err
}

func (z *zones) fresh() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return !z.listed.IsZero() && time.Since(z.listed) < zonesAge
}

// askAbout asks for the zones of one domain, because a zone may have been added
// since the list was read. One call, however many zones the account has.
func (z *zones) askAbout(ctx context.Context, host string) error {
	domain, err := publicsuffix.EffectiveTLDPlusOne(canonical(host))
	if err != nil {
		return nil // a public suffix itself: nobody's zone
	}
	some, err := z.provider.Zones(ctx, domain)
	if err != nil {
		return err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.add(some)
	return nil
}

// add enters zones. Callers hold the lock.
func (z *zones) add(names []string) {
	for _, n := range names {
		if n = canonical(n); n != "" {
			z.known[canonical(ALabels(n))] = n
		}
	}
}

// forget makes the next split list again: the list was wrong.
func (z *zones) forget() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.listed = time.Time{}
}

// Split cuts an absolute name at the longest of the zones (the map's keys, lower
// case, without the root's dot) in which it lies. The
// rest is relative to the zone, Apex for the zone itself. It goes label by
// label, so that a name that repeats its zone's, or a zone under a public suffix
// of several labels, is cut where it should be.
func Split[V any](host string, zones map[string]V) (zone, rr string, ok bool) {
	host = canonical(host)
	if _, ok := zones[host]; ok {
		return host, Apex, true
	}
	for rest := host; ; {
		if _, rest, ok = strings.Cut(rest, "."); !ok {
			return "", "", false
		}
		if _, ok := zones[rest]; ok {
			return rest, host[:len(host)-len(rest)-1], true
		}
	}
}

// wire turns U-labels into A-labels. It lets underscores pass, which names of
// challenges have and host names may not.
var wire = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false))

// ALabels is a name as it goes on the wire (RFC 5890, 2.3.2.1), in lower case.
// What cannot be a name stays as it is.
func ALabels(name string) string {
	if a, err := wire.ToASCII(name); err == nil {
		return a
	}
	return name
}
