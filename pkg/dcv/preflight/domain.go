package preflight

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"
	"golang.org/x/net/publicsuffix"

	"github.com/certmill/certmill/pkg/dcv"
)

// registrable is the domain under a public suffix in which a name lies; without
// one, nobody can own the name.
func registrable(base string, wild bool) (apex string, f Finding, ok bool) {
	apex, err := publicsuffix.EffectiveTLDPlusOne(base)
	if err == nil {
		return apex, Finding{}, true
	}
	what := base + " is a public suffix, under which names belong to different owners"
	if wild {
		what = "*." + base + " covers a public suffix, under which names belong to different owners"
	}
	return "", Finding{Level: Error, Kind: Suffix, What: what, Do: "order names of your own under it"}, false
}

// domain is a registrable domain as the DNS has it.
type domain struct {
	absent bool
	zone   dcv.Zone // the zone that it lies in: its own, as a rule
}

// domain asks the resolver whether a domain is there, and who serves it. It asks
// without validation: broken signatures are a finding of their own.
func (c *Checker) domain(ctx context.Context, apex string) (domain, error) {
	return c.domains.Get(ctx, apex, learnt, func(ctx context.Context) (domain, error) {
		m, err := c.dns.Resolve(ctx, dcv.Question{Name: apex, Type: dns.TypeSOA, Unchecked: true})
		switch {
		case err != nil:
			return domain{}, err
		case m.Rcode == dns.RcodeNameError:
			return domain{absent: true}, nil
		case m.Rcode != dns.RcodeSuccess:
			return domain{}, fmt.Errorf("the resolver answers %s for %s", dns.RcodeToString[m.Rcode], apex)
		}
		name := apex
		if above := soaOwner(m.Ns); above != "" && len(m.Answer) == 0 && dns.IsSubDomain(above, dns.Fqdn(apex)) {
			name = above // registered, but no zone of its own
		}
		z, err := c.dns.ZoneServers(ctx, name)
		if err == nil && len(z.Servers) == 0 {
			err = errors.New("the resolver knows no name servers of " + name)
		}
		return domain{zone: z}, err
	})
}

func soaOwner(rrs []dns.RR) string {
	for _, rr := range rrs {
		if _, is := rr.(*dns.SOA); is {
			return canonical(rr.Header().Name)
		}
	}
	return ""
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// place is where the record of a challenge would be served.
type place struct {
	host  string // at the end of the CNAMEs
	zone  dcv.Zone
	via   string // zone in which a CNAME leads there; empty: none does
	loops bool   // the CNAMEs do not end
}

// challengeLabel is where the clouds put their records, below the name.
const challengeLabel = "_dnsauth."

// maxHops bounds referrals and CNAMEs.
const maxHops = 8

// find goes from the domain's servers by referrals and CNAMEs to where the
// record would be. Only authoritative servers are asked: a resolver would
// remember that there is nothing at the name yet.
func (c *Checker) find(ctx context.Context, d domain, host string) (place, error) {
	return c.places.Get(ctx, host, learnt, func(ctx context.Context) (place, error) {
		p := place{zone: d.zone}
		for range maxHops {
			m, err := c.ask(ctx, p.zone, dcv.Question{Name: host, Type: dns.TypeCNAME})
			if err != nil {
				return p, err
			}
			below, referred, err := c.dns.Referred(ctx, m, host)
			switch target := alias(m, host); {
			case err != nil:
				return p, err
			case referred && dns.IsSubDomain(dns.Fqdn(p.zone.Name), dns.Fqdn(below.Name)):
				p.zone = below
			case target != "":
				p.via, host = p.zone.Name, target
				if p.zone, err = c.home(ctx, target); err != nil {
					return p, err
				}
			default:
				if own := soaOwner(m.Ns); strings.HasSuffix(own, "."+p.zone.Name) {
					p.zone.Name = own // its servers serve both sides of the cut
				}
				p.host = host
				return p, nil
			}
		}
		p.loops = true
		return p, nil
	})
}

// Place is where the record of a name's challenge would be served: the name at the
// end of the CNAMEs, and the zone by the delegations. What Check learnt is not asked
// again.
func (c *Checker) Place(ctx context.Context, name string) (dcv.Place, error) {
	base, wild := strings.CutPrefix(name, "*.")
	apex, f, ok := registrable(base, wild)
	if !ok {
		return dcv.Place{}, errors.New(f.What)
	}
	d, err := c.domain(ctx, apex)
	if err == nil && d.absent {
		err = fmt.Errorf("the domain %s does not exist", apex)
	}
	if err != nil {
		return dcv.Place{}, err
	}
	p, err := c.find(ctx, d, challengeLabel+base)
	if err == nil && p.loops {
		err = fmt.Errorf("CNAMEs of %s%s do not end", challengeLabel, base)
	}
	return dcv.Place{Name: p.host, Zone: p.zone.Name}, err
}

// home is the zone of the domain in which a name lies.
func (c *Checker) home(ctx context.Context, name string) (dcv.Zone, error) {
	apex, err := publicsuffix.EffectiveTLDPlusOne(name)
	if err != nil {
		return dcv.Zone{}, fmt.Errorf("a CNAME leads to %s, which nobody owns", name)
	}
	d, err := c.domain(ctx, apex)
	if err == nil && d.absent {
		err = fmt.Errorf("a CNAME leads to %s, whose domain does not exist", name)
	}
	return d.zone, err
}

// alias is the target of the CNAME at a name.
func alias(m *dns.Msg, name string) string {
	for _, rr := range m.Answer {
		if r, is := rr.(*dns.CNAME); is && canonical(r.Hdr.Name) == name {
			return canonical(r.Target)
		}
	}
	return ""
}

// ask asks the servers of a zone, one after the other, until one answers.
func (c *Checker) ask(ctx context.Context, z dcv.Zone, q dcv.Question) (*dns.Msg, error) {
	failed := errors.New("it has no name servers")
	for _, s := range z.Servers {
		m, err := c.dns.Ask(ctx, s, q)
		switch {
		case err != nil:
			failed = fmt.Errorf("%s does not answer: %w", s, err)
		case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
			failed = fmt.Errorf("%s answers %s", s, dns.RcodeToString[m.Rcode])
		default:
			return m, nil
		}
	}
	return nil, failed
}

// place finds whether the account's solver can write where the challenge's
// record would be, and checks the signatures of the zones on the way.
func (c *Checker) place(ctx context.Context, s Subject, d domain, base string) []Finding {
	p, err := c.find(ctx, d, challengeLabel+base)
	if err != nil {
		return []Finding{c.unseen(ctx, "the challenge's place in "+d.zone.Name, err)}
	}
	if p.loops {
		return []Finding{{Level: Error, Kind: InTheWay, What: "CNAMEs of " + challengeLabel + "… in " + d.zone.Name + " do not end",
			Do: "let each lead straight to a name in a zone of the account, or remove it"}}
	}
	var all []Finding
	if p.zone.Name != d.zone.Name {
		all = c.chain(ctx, p.zone)
	}
	if s.Zones == nil {
		return all
	}
	zone, err := c.zones.Get(ctx, s.Account+" "+p.zone.Name, learnt, func(ctx context.Context) (string, error) { return s.Zones.Zone(ctx, p.zone.Name) })
	switch {
	case errors.Is(err, dcv.ErrZonesUnknown):
	case errors.Is(err, dcv.NoZone):
		all = append(all, elsewhere(s, p))
	case err != nil:
		all = append(all, c.unseen(ctx, "the zones of account "+s.Account, err))
	case strings.HasSuffix(p.zone.Name, "."+zone):
		all = append(all, Finding{Level: Error, Kind: ZoneAbsent,
			What: fmt.Sprintf("%s is delegated away from %s, the zone that account %s has", p.zone.Name, zone, s.Account),
			Do:   "name the solver of that zone in dcv.solvers, or remove the delegation"})
	}
	return all
}

// elsewhere: the record would be in a zone that the solver does not have.
func elsewhere(s Subject, p place) Finding {
	if p.via != "" {
		return Finding{Level: Error, Kind: InTheWay,
			What: fmt.Sprintf("CNAMEs of %s… in %s lead to %s, a zone that no solver of account %s has", challengeLabel, p.via, p.zone.Name, s.Account),
			Do:   "remove them, or name the solver of that zone in dcv.solvers"}
	}
	return Finding{Level: Error, Kind: ZoneAbsent,
		What: fmt.Sprintf("no solver of account %s has the zone %s", s.Account, p.zone.Name),
		Do:   fmt.Sprintf("name its solver in dcv.solvers, order through the account that has it, or let %s<name> be a CNAME into a zone that it has", challengeLabel)}
}
