package dcv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Place is where a record would be served.
type Place struct {
	Name string   // the name at the end of the CNAMEs
	Zone string   // the zone that really serves it, by the delegations; empty: not known
	Via  []string // the names that led there, in order
}

// Follow finds where the CNAMEs of a name lead, as a CA that looks for a TXT
// record would, and which zone the end lies in. The servers of each name's own
// zone are asked, all of them: while those that answer do not agree, a change is
// under way, and the error says "try again". The error is a Conflict if the
// CNAMEs do not end.
func (l *Looker) Follow(ctx context.Context, name string) (Place, error) {
	p := Place{Name: canonical(name)}
	for range maxHops {
		target, zone, err := l.hop(ctx, dns.Fqdn(p.Name))
		if err != nil {
			return Place{}, fmt.Errorf("see where %s leads: %w", quote(p.Name), err)
		}
		if target == "" {
			p.Zone = zone
			return p, nil
		}
		p.Via = append(p.Via, p.Name)
		p.Name = target
	}
	return Place{}, fmt.Errorf("%w: %s leads through more than %d CNAMEs; let it point to the last one", Conflict, quote(name), maxHops)
}

// hop asks for the CNAME of one name, "" if it has none, and for its zone.
func (l *Looker) hop(ctx context.Context, name string) (target, zone string, err error) {
	if _, ok := dns.IsDomainName(name); !ok {
		return "", "", errors.New("that is no name")
	}
	zone, servers, err := l.cut(ctx, name)
	if err != nil {
		return "", "", err
	}
	answers := make([]alias, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { answers[i] = l.aliasAt(ctx, s, name) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return "", "", ctx.Err()
	}
	target, err = agree(answers)
	return target, zone, err
}

// cut finds the zone of a name by the delegations, and the zone's servers. The
// zone is not known where other servers are asked in their place.
func (l *Looker) cut(ctx context.Context, name string) (zone string, servers []server, err error) {
	if len(l.servers) > 0 {
		servers, err = l.serversOf(ctx, name)
		return "", servers, err
	}
	zone, hosts, err := l.closestZone(ctx, name)
	if err != nil {
		return "", nil, err
	}
	servers, err = l.addresses(ctx, hosts)
	for _, below := range between(name, zone) {
		if lower := l.delegated(ctx, servers, below); err == nil && len(lower) > 0 {
			zone = below
			servers, err = l.addresses(ctx, lower)
		}
	}
	return canonical(zone), servers, err
}

// alias is what one server says of a name.
type alias struct {
	server
	target string // of its CNAME; empty: it has none
	err    error  // it does not say
}

func (l *Looker) aliasAt(ctx context.Context, s server, name string) alias {
	a := alias{server: s}
	if s.addr == "" {
		a.err = errors.New("has no address")
		return a
	}
	m, err := l.exchange(ctx, s.addr, name, dns.TypeTXT, len(l.servers) > 0)
	switch {
	case err != nil:
		a.err = err
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError: // a CNAME's target may be missing
		a.err = errors.New("answers " + rcode(m.Rcode))
	case !m.Authoritative && len(l.servers) == 0:
		a.err = errors.New("is not authoritative for it")
	default:
		for _, rr := range m.Answer {
			if c, ok := rr.(*dns.CNAME); ok && strings.EqualFold(c.Hdr.Name, name) {
				a.target = canonical(c.Target)
			}
		}
	}
	return a
}

// agree is what all who answer say. One server that is down does not hold it up.
func agree(answers []alias) (target string, err error) {
	var said *alias
	failed := errors.New("it has no name servers")
	for i, a := range answers {
		switch {
		case a.err != nil:
			failed = fmt.Errorf("%s: %w", a.server, a.err)
		case said == nil:
			said = &answers[i]
		case said.target != a.target:
			return "", fmt.Errorf("its name servers do not agree: %s has %s, %s has %s", said.server, said.words(), a.server, a.words())
		}
	}
	if said == nil {
		return "", failed
	}
	return said.target, nil
}

func (a alias) words() string {
	if a.target == "" {
		return "no CNAME"
	}
	return "a CNAME to " + quote(a.target)
}

// Text is the content of a TXT record: its strings joined, byte by byte, without
// the escapes of the library's presentation form.
func Text(r *dns.TXT) string { return text(r) }
