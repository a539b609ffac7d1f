package issuer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/redact"
)

// Access is how one account is reached: what a cloud's client is made of.
// Endpoints are scheme, host and port; an empty one is the vendor's own, but see
// ServiceAt for the identity's.
type Access struct {
	Endpoint         string       // of the certificate service
	DNSEndpoint      string       // of the vendor's DNS
	IdentityEndpoint string       // of who tells whose credentials these are
	Region           string       // where the vendor asks for one; empty: its usual one
	KeyID            string       // required
	Secret           order.Secret // required
	Token            order.Secret // with temporary credentials
	Main             string       // main account: what limits are keyed by; required
	Permits          *permit.Set  // required

	// Gate is asked before each call but that of Identify: an error means that
	// nothing may be called with these credentials. nil: everything may.
	Gate func(context.Context) error

	Product string // of orders that name none; empty: the vendor's default
	CSRSANs bool   // it was proved that the account's product honours the SANs of a CSR

	TLS   *tls.Config // nil: the system's roots
	Proxy *url.URL    // nil: none; the environment is not asked
}

// Check refuses what no client can be made of, and makes the secrets known to
// package redact.
func (a Access) Check() error {
	redact.Learn(a.Secret.Reveal(), a.Token.Reveal())
	if a.KeyID == "" || a.Secret == "" || a.Main == "" || a.Permits == nil {
		return errors.New("KeyID, Secret, Main and Permits are required")
	}
	for _, at := range []string{a.Endpoint, a.DNSEndpoint, a.IdentityEndpoint} {
		if at == "" {
			continue
		}
		if _, err := ParseEndpoint(at); err != nil {
			return err
		}
	}
	return nil
}

// ParseEndpoint reads scheme, host and port.
func ParseEndpoint(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		if u != nil && u.User != nil {
			s = u.Redacted()
		}
		return nil, fmt.Errorf("endpoint %q is not http(s)://host[:port]", s)
	}
	return u, nil
}

// ServiceAt is the endpoint of another of the vendor's services, for which the
// config names none: the vendor's own where endpoint is empty or on the vendor's
// domain, else endpoint itself. A simulator or gateway that stands in for one
// service answers for the others, and no credentials leave for another host.
func ServiceAt(endpoint, domain, own string) string {
	if endpoint == "" {
		return own
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return endpoint // Check refuses it
	}
	host := "." + strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if strings.HasSuffix(host, "."+domain) {
		return own
	}
	return endpoint
}
