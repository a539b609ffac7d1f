package cloudsim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// CAA (RFC 8659) and what the CA/B Forum's Baseline Requirements 3.2.2.8 add to
// it: a CA looks before it issues, and a look that fails is no permission.

// errForbidden says that CAA leaves this CA out. Any other error of mayIssue is a
// look that failed and may be repeated.
var errForbidden = errors.New("CAA forbids it")

// caaIdentities are the issuer domain names that each brand's CA answers to. Brands
// that are not named answer to those under "".
var caaIdentities = map[string][]string{
	"DigiCert":   {"digicert.com", "symantec.com", "geotrust.com", "rapidssl.com", "thawte.com"},
	"GeoTrust":   {"digicert.com", "symantec.com", "geotrust.com", "rapidssl.com", "thawte.com"},
	"GlobalSign": {"globalsign.com"},
	"CFCA":       {"cfca.com.cn"},
	"":           {"trustasia.com", "sectigo.com", "digicert.com"}, // Tencent's TrustAsia, and those who sign for it
}

// caaTags are the property tags that a CA for TLS knows or may pass over. A critical
// one of another name forbids issuing.
var caaTags = []string{"issue", "issuewild", "iodef", "contactemail", "contactphone", "issuemail", "issuevmc"}

// mayIssue looks at CAA for every ordered name.
func (s *Sim) mayIssue(ctx context.Context, o *order) error {
	if s.cfg().IgnoreCAA {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	identities, own := caaIdentities[productOf(o.Product).Brand]
	if !own {
		identities = caaIdentities[""]
	}
	for _, name := range o.Names {
		set, at, err := s.caaSet(ctx, base(name))
		if err != nil {
			return err
		}
		if !permits(set, isWildcard(name), identities) {
			return fmt.Errorf("%w: %s, by the records of %s", errForbidden, name, at)
		}
	}
	return nil
}

// caaSet climbs from a name to the first one that has CAA records (RFC 8659,
// section 3). A server that refuses to answer for a name, such as one that is not
// recursive, has nothing to say about it.
func (s *Sim) caaSet(ctx context.Context, name string) ([]*dns.CAA, string, error) {
	for at := name; at != ""; _, at, _ = strings.Cut(at, ".") {
		answer, err := s.follow(ctx, at, dns.TypeCAA)
		if err != nil {
			return nil, at, err
		}
		if answer.Rcode == dns.RcodeRefused {
			continue
		}
		if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
			return nil, at, fmt.Errorf("CAA of %s: %s", at, dns.RcodeToString[answer.Rcode])
		}
		var set []*dns.CAA
		for _, rr := range answer.Answer {
			if caa, ok := rr.(*dns.CAA); ok {
				set = append(set, caa)
			}
		}
		if len(set) > 0 {
			return set, at, nil
		}
	}
	return nil, "", nil
}

// permits reads a set of records: wildcards go by issuewild where there is one. A
// set without a property for the case forbids nothing.
func permits(set []*dns.CAA, wildcard bool, identities []string) bool {
	tag := "issue"
	for _, caa := range set {
		known := strings.ToLower(caa.Tag)
		if wildcard && known == "issuewild" {
			tag = known
		}
		if caa.Flag&128 != 0 && !contains(caaTags, known) {
			return false
		}
	}
	restricted := false
	for _, caa := range set {
		if !strings.EqualFold(caa.Tag, tag) {
			continue
		}
		restricted = true
		issuer, _, _ := strings.Cut(caa.Value, ";")
		if slices.Contains(identities, strings.ToLower(strings.TrimSuffix(strings.TrimSpace(issuer), "."))) {
			return true
		}
	}
	return !restricted
}
