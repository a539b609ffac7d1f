package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
)

// verdict is what is wrong with the signatures of a zone.
type verdict struct {
	what string
	do   string
}

// chain checks the link from a zone's parent to the zone: since 2026-03-15 CAs
// must validate all answers on which they issue (CA/Browser Forum BR, 3.2.2.4
// and 3.2.2.8.1), so a broken one fails every order.
//
// What is checked: that at each authoritative server a DNSKEY matches the DS at
// the parent and signs the keys, and that one of them signs the SOA, now
// (RFC 4034, RFC 4035 section 5). What lies above the zone, and all other records
// in it, are for the resolver: what it holds back unless it is told not to
// validate (RFC 4035, 3.2.2) does not validate for the CA either. A resolver
// that does not validate sees none of that.
func (c *Checker) chain(ctx context.Context, z dcv.Zone) []Finding {
	found, err := c.chains.Get(ctx, z.Name, learnt, func(ctx context.Context) ([]verdict, error) { return c.link(ctx, z) })
	if err != nil {
		return []Finding{c.unseen(ctx, "DNSSEC of "+z.Name, err)}
	}
	var all []Finding
	for _, v := range found {
		all = append(all, Finding{Level: Error, Kind: DNSSEC, What: "DNSSEC of " + z.Name + " is broken: " + v.what, Do: v.do})
	}
	return all
}

func (c *Checker) link(ctx context.Context, z dcv.Zone) ([]verdict, error) {
	m, err := c.dns.Resolve(ctx, dcv.Question{Name: z.Name, Type: dns.TypeDS, Unchecked: true, Signed: true})
	if err != nil {
		return nil, err
	}
	ds := recordsOf[*dns.DS](m.Answer, z.Name)
	reached := len(ds) == 0
	for _, s := range z.Servers {
		if len(ds) == 0 {
			break // not signed, as far as the parent says
		}
		keys, soa, err := c.signed(ctx, s, z.Name)
		if err != nil {
			continue // the next one; that it is silent is seen when the challenge is looked for
		}
		reached = true
		if what := verify(z.Name, ds, keys, soa, c.now()); what != "" {
			return []verdict{{what: what + at(s), do: "sign the zone anew, or put the DS of its present key at the registrar; a zone without DS is not signed and passes"}}, nil
		}
	}
	bogus, err := c.heldBack(ctx, dcv.Question{Name: z.Name, Type: dns.TypeSOA})
	switch {
	case err != nil:
		return nil, err
	case bogus != "":
		return []verdict{{what: bogus, do: "look at the chain from the root (dnsviz.net shows it), and mend it at the registrar or in the zone above"}}, nil
	case !reached:
		return nil, fmt.Errorf("none of its %d name servers answers for its keys", len(z.Servers))
	}
	return nil, nil
}

func at(s dcv.Server) string {
	if s.Host == "" {
		return ""
	}
	return " (at " + s.String() + ")"
}

// signed asks one server for the zone's keys and its SOA, with signatures.
func (c *Checker) signed(ctx context.Context, s dcv.Server, zone string) (keys, soa []dns.RR, err error) {
	for t, into := range map[uint16]*[]dns.RR{dns.TypeDNSKEY: &keys, dns.TypeSOA: &soa} {
		m, err := c.dns.Ask(ctx, s, dcv.Question{Name: zone, Type: t, Signed: true})
		if err != nil {
			return nil, nil, err
		}
		if m.Rcode != dns.RcodeSuccess {
			return nil, nil, fmt.Errorf("%s answers %s", s, dns.RcodeToString[m.Rcode])
		}
		*into = m.Answer
	}
	return keys, soa, nil
}

// heldBack tells what a validating resolver says of an answer that it gives only
// to those who do not want it validated; empty, if it does not hold it back.
func (c *Checker) heldBack(ctx context.Context, q dcv.Question) (string, error) {
	q.Signed = true
	m, err := c.dns.Resolve(ctx, q)
	if err != nil || m.Rcode != dns.RcodeServerFailure {
		return "", err
	}
	q.Unchecked = true
	all, err := c.dns.Resolve(ctx, q)
	switch {
	case err != nil:
		return "", err
	case all.Rcode == dns.RcodeServerFailure:
		return "", fmt.Errorf("the resolver answers SERVFAIL for %s %s, validated or not", q.Name, dns.TypeToString[q.Type])
	}
	what := "the resolver's validation refuses its " + dns.TypeToString[q.Type]
	if said := extended(m); said != "" {
		what += " (" + said + ")"
	}
	return what, nil
}

// extended is the resolver's explanation (RFC 8914).
func extended(m *dns.Msg) string {
	opt := m.IsEdns0()
	if opt == nil {
		return ""
	}
	for _, o := range opt.Option {
		if e, is := o.(*dns.EDNS0_EDE); is {
			return dns.ExtendedErrorCodeToString[e.InfoCode]
		}
	}
	return ""
}

// recordsOf are the records of one kind at exactly this name.
func recordsOf[T dns.RR](rrs []dns.RR, name string) []T {
	var all []T
	for _, rr := range rrs {
		if r, is := rr.(T); is && canonical(rr.Header().Name) == name {
			all = append(all, r)
		}
	}
	return all
}

// verify says what is wrong between a DS set and what one server answers for
// keys and SOA; nothing, if all is well.
func verify(zone string, ds []*dns.DS, keys, soa []dns.RR, now time.Time) string {
	ds = slices.DeleteFunc(slices.Clone(ds), func(d *dns.DS) bool { return !supported(d) })
	if len(ds) == 0 {
		return "" // nothing that validators know: not signed (RFC 4035, 5.2)
	}
	all := recordsOf[*dns.DNSKEY](keys, zone)
	if len(all) == 0 {
		return "the parent has a DS (key tag " + tags(ds, dsTag) + "), but the zone has no DNSKEY"
	}
	entry := slices.DeleteFunc(slices.Clone(all), func(k *dns.DNSKEY) bool {
		return !slices.ContainsFunc(ds, func(d *dns.DS) bool { return matches(d, k) })
	})
	if len(entry) == 0 {
		return fmt.Sprintf("no key matches the DS at the parent (the DS is for key tag %s, the zone has %s)", tags(ds, dsTag), tags(all, (*dns.DNSKEY).KeyTag))
	}
	if what := signature(zone, "DNSKEY", keys, entry, now); what != "" {
		return what
	}
	return signature(zone, "SOA", soa, all, now)
}

func dsTag(d *dns.DS) uint16 { return d.KeyTag }

func tags[T any](all []T, tag func(T) uint16) string {
	var out []string
	for _, x := range all {
		out = append(out, fmt.Sprint(tag(x)))
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}

// supported tells whether validators know the algorithms of a DS: those that
// RFC 8624 says to validate, which are those that can be computed here.
func supported(d *dns.DS) bool {
	switch d.DigestType {
	case dns.SHA1, dns.SHA256, dns.SHA384:
	default:
		return false
	}
	switch d.Algorithm {
	case dns.RSASHA1, dns.RSASHA1NSEC3SHA1, dns.RSASHA256, dns.RSASHA512, dns.ECDSAP256SHA256, dns.ECDSAP384SHA384, dns.ED25519:
		return true
	}
	return false
}

func matches(d *dns.DS, k *dns.DNSKEY) bool {
	if k.Flags&dns.ZONE == 0 || k.Flags&dns.REVOKE != 0 || d.Algorithm != k.Algorithm || d.KeyTag != k.KeyTag() {
		return false
	}
	own := k.ToDS(d.DigestType)
	return own != nil && strings.EqualFold(own.Digest, d.Digest)
}

// signature says what is wrong with the signatures of one record set; one good
// one is enough.
func signature(zone, kind string, answer []dns.RR, keys []*dns.DNSKEY, now time.Time) string {
	set := slices.DeleteFunc(slices.Clone(answer), func(rr dns.RR) bool { return rr.Header().Rrtype != dns.StringToType[kind] })
	if len(set) == 0 {
		return "a name server has no " + kind
	}
	what := "its " + kind + " is not signed by a key that its DS leads to"
	for _, sig := range recordsOf[*dns.RRSIG](answer, zone) {
		if sig.TypeCovered != dns.StringToType[kind] || canonical(sig.SignerName) != zone {
			continue
		}
		for _, k := range keys {
			switch {
			case k.KeyTag() != sig.KeyTag || k.Algorithm != sig.Algorithm:
				continue
			case sig.Verify(k, set) != nil:
				what = fmt.Sprintf("the signature of its %s does not verify (key tag %d)", kind, sig.KeyTag)
			case sig.ValidityPeriod(now):
				return ""
			case int32(sig.Inception-uint32(now.Unix())) > 0: // serial arithmetic (RFC 4034, 3.1.5)
				what = fmt.Sprintf("the signature of its %s holds only from %s on", kind, day(sig.Inception))
			default:
				what = fmt.Sprintf("the signature of its %s expired on %s", kind, day(sig.Expiration))
			}
		}
	}
	return what
}

func day(at uint32) string { return time.Unix(int64(at), 0).UTC().Format("2006-01-02 15:04 UTC") }
