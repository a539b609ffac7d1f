package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
)

// policy is the CAA record set of one name.
type policy struct {
	at      string // where it stands: the name, or the end of its CNAMEs
	records []*dns.CAA
}

// errBogus: the resolver's validation refuses the answer.
var errBogus = errors.New("not validated")

// lookup asks the resolver for the CAA records of one name. It follows CNAMEs,
// as the CA does (RFC 8659, 3).
func (c *Checker) lookup(ctx context.Context, name string) (policy, error) {
	return c.caa.Get(ctx, name, learnt, func(ctx context.Context) (policy, error) {
		q := dcv.Question{Name: name, Type: dns.TypeCAA}
		m, err := c.dns.Resolve(ctx, q)
		if err != nil {
			return policy{}, err
		}
		if m.Rcode == dns.RcodeServerFailure {
			what, err := c.heldBack(ctx, q)
			if err != nil {
				return policy{}, err
			}
			return policy{}, fmt.Errorf("%w: %s", errBogus, what)
		}
		if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			return policy{}, fmt.Errorf("the resolver answers %s for CAA of %s", dns.RcodeToString[m.Rcode], name)
		}
		p := policy{at: name}
		for _, rr := range m.Answer {
			if r, is := rr.(*dns.CAA); is {
				p.at = canonical(r.Hdr.Name)
				p.records = append(p.records, r)
			}
		}
		return p, nil
	})
}

// relevant climbs from a name towards the root to the first record set
// (RFC 8659, 3). A wildcard begins at the name without its first label.
func (c *Checker) relevant(ctx context.Context, base string) (p policy, asked string, err error) {
	for name, more := base, true; more; _, name, more = strings.Cut(name, ".") {
		p, err := c.lookup(ctx, name)
		if err != nil || len(p.records) > 0 {
			return p, name, err
		}
	}
	return policy{}, "", nil
}

// allowed checks whether CAA lets the product's CA issue for a name.
func (c *Checker) allowed(ctx context.Context, s Subject, base string, wild bool) []Finding {
	p, asked, err := c.relevant(ctx, base)
	if errors.Is(err, errBogus) {
		return []Finding{{Level: Error, Kind: DNSSEC, What: "DNSSEC of " + asked + " is broken: " + strings.TrimPrefix(err.Error(), errBogus.Error()+": "),
			Do: "sign the zone anew, or remove the DS at its parent"}}
	}
	if err != nil {
		return []Finding{c.unseen(ctx, "CAA of "+asked, err)}
	}
	f, bad := p.judge(s.Product, wild)
	if !bad {
		return nil
	}
	if p.at != asked {
		f.What = strings.Replace(f.What, "CAA of "+p.at, "CAA of "+p.at+", where a CNAME leads,", 1)
	}
	return []Finding{f}
}

// judge applies the record set to the CA of a product.
func (p policy) judge(product issuer.Product, wild bool) (Finding, bool) {
	ca, known := product.CA, product.CA.Name != ""
	if tag := p.criticalUnknown(); tag != "" {
		return Finding{Level: Error, Kind: CAA, What: fmt.Sprintf("CAA of %s has the critical property %q, which CAs that do not know it must answer by refusing", p.at, tag),
			Do: "remove it, or clear its critical flag (128)"}, true
	}
	tag, issuers, restricted := p.issuers(wild)
	switch {
	case !restricted || known && slices.ContainsFunc(ca.Identities, func(id string) bool { return slices.Contains(issuers, id) }):
		return Finding{}, false
	case known && ca.Unread && len(issuers) > 0:
		return Finding{Level: Warning, Kind: CAA, What: fmt.Sprintf("CAA of %s seems to forbid %s%s", p.at, ca.Identities[0], kindOf(tag)),
			Do: fmt.Sprintf("ask the cloud by which name %s issues, and add 0 %s %q to it if it is this one; it allows %s", ca.Name, tag, ca.Identities[0], allowed(issuers))}, true
	case known:
		return Finding{Level: Error, Kind: CAA, What: fmt.Sprintf("CAA of %s forbids %s%s", p.at, ca.Identities[0], kindOf(tag)),
			Do: fmt.Sprintf("add 0 %s %q to it, or order another brand; it allows %s", tag, ca.Identities[0], allowed(issuers))}, true
	case len(issuers) == 0:
		return Finding{Level: Error, Kind: CAA, What: fmt.Sprintf("CAA of %s forbids every CA%s", p.at, kindOf(tag)),
			Do: fmt.Sprintf("add 0 %s with the CA of the product to it", tag)}, true
	}
	return Finding{Level: Warning, Kind: CAA, What: fmt.Sprintf("CAA of %s allows only %s%s, and which CA issues %s is not known", p.at, allowed(issuers), kindOf(tag), named(product.Code)),
		Do: fmt.Sprintf("ask the cloud which CA issues it, and add 0 %s with its name if it is missing", tag)}, true
}

func kindOf(tag string) string {
	if tag == issueWild {
		return " for wildcards"
	}
	return ""
}

func named(product string) string {
	if product == "" {
		return "the account's certificates"
	}
	return "product " + product
}

func allowed(issuers []string) string {
	if len(issuers) == 0 {
		return "nobody"
	}
	return strings.Join(issuers, ", ")
}

// Property tags (RFC 8659, 4).
const (
	issue     = "issue"
	issueWild = "issuewild"
	iodef     = "iodef"
)

const critical = 128 // bit 0 of the flags (RFC 8659, 4.1)

// criticalUnknown is a critical property that CAs need not know: only issue,
// issuewild and iodef are asked of them (BR 3.2.2.8).
func (p policy) criticalUnknown() string {
	for _, r := range p.records {
		switch strings.ToLower(r.Tag) {
		case issue, issueWild, iodef:
		default:
			if r.Flag&critical != 0 {
				return r.Tag
			}
		}
	}
	return ""
}

// issuers are those who may issue, and the property that says so. Without such
// a property nobody is restricted; issuewild, where it is, takes the place of
// issue for wildcards (RFC 8659, 4.3).
func (p policy) issuers(wild bool) (tag string, all []string, restricted bool) {
	has := func(tag string) bool {
		return slices.ContainsFunc(p.records, func(r *dns.CAA) bool { return strings.EqualFold(r.Tag, tag) })
	}
	switch {
	case wild && has(issueWild):
		tag = issueWild
	case has(issue):
		tag = issue
	default:
		return "", nil, false
	}
	for _, r := range p.records {
		// The issuer's name; parameters follow after a semicolon. An empty or
		// malformed one allows nobody (RFC 8659, 4.2).
		name, _, _ := strings.Cut(r.Value, ";")
		name = strings.ToLower(strings.Trim(name, " \t"))
		if strings.EqualFold(r.Tag, tag) && name != "" && !strings.ContainsAny(name, " \t") && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return tag, all, true
}
