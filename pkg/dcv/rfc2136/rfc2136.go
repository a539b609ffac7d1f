// Package rfc2136 places DNS challenges by dynamic update (RFC 2136), signed with
// TSIG (RFC 8945): BIND, Knot, PowerDNS, Windows DNS and others.
//
// One update carries many records. Its prerequisites see to it that it changes
// nothing else: a TXT record is added where there is none and no CNAME, or else
// beside those that are there with their time to live (of which a set has only
// one, RFC 2181, 5.2); a CNAME only at a name that is not in use, because some
// servers drop it in silence beside others. A record is deleted by its exact
// value.
//
// The server must answer queries for its zones too; they are signed with the
// same key, so that a view that goes by the key is the one that is asked.
package rfc2136

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
)

// Config says which server is updated, and with which key.
type Config struct {
	Server    string        // primary server of the zones, host or host:port
	Key       string        // name of the TSIG key
	Algorithm string        // of the key; default hmac-sha256
	Secret    order.Secret  // of the key, in base64
	Timeout   time.Duration // of one message; default 10 s
}

// Algorithms are those of TSIG that a Config may name. MD5 is not among them.
var Algorithms = []string{"hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"}

// New returns the solver for the zones of the server. Nothing is sent.
func New(cfg Config) (*dcv.Records, error) {
	s, err := newServer(cfg)
	if err != nil {
		return nil, err
	}
	return dcv.NewRecords(s), nil
}

// atOnce bounds the connections to a server: BIND's queue of new ones has 10
// places, and what does not fit waits a second for TCP to try again.
const atOnce = 8

// server is the dcv.Provider. It has no state but its settings.
type server struct {
	places    chan struct{} // one for each connection
	addr      string
	key       string
	algorithm string
	secrets   map[string]string
	timeout   time.Duration
}

func newServer(cfg Config) (*server, error) {
	s := &server{places: make(chan struct{}, atOnce), addr: cfg.Server, key: dns.Fqdn(strings.ToLower(cfg.Key)), algorithm: dns.HmacSHA256, timeout: 10 * time.Second}
	if _, _, err := net.SplitHostPort(s.addr); err != nil {
		s.addr = net.JoinHostPort(strings.Trim(cfg.Server, "[]"), "53")
	}
	redact.Learn(cfg.Secret.Reveal())
	if cfg.Timeout > 0 {
		s.timeout = cfg.Timeout
	}
	if cfg.Algorithm != "" {
		s.algorithm = dns.Fqdn(strings.ToLower(cfg.Algorithm))
	}
	secret := cfg.Secret.Reveal()
	_, wrongSecret := base64.StdEncoding.DecodeString(secret)
	_, isName := dns.IsDomainName(s.key)
	switch {
	case cfg.Server == "":
		return nil, errors.New("server is empty: write host:port of the zones' primary name server")
	case cfg.Key == "" || !isName:
		return nil, fmt.Errorf("key is %q: write the name of the TSIG key, as the name server knows it", cfg.Key)
	case !known(s.algorithm):
		return nil, fmt.Errorf("algorithm is %q: write one of %s, as the name server has it for the key", cfg.Algorithm, strings.Join(Algorithms, ", "))
	case secret == "" || wrongSecret != nil:
		return nil, errors.New("the secret of the TSIG key is not base64: give it as tsig-keygen or keymgr wrote it, without quotes")
	}
	s.secrets = map[string]string{s.key: secret}
	return s, nil
}

func known(algorithm string) bool {
	for _, a := range Algorithms {
		if dns.Fqdn(a) == algorithm {
			return true
		}
	}
	return false
}

// Zones implements dcv.Provider. A name server has no list to give out.
func (s *server) Zones(context.Context, string) ([]string, error) { return nil, nil }

// ZoneOf implements dcv.ZoneFinder: the SOA record that the server shows of a
// name, or in its "no such data", is that of the zone.
func (s *server) ZoneOf(ctx context.Context, host string) (string, error) {
	for name := dns.Fqdn(host); ; {
		m, err := s.query(ctx, name, dns.TypeSOA)
		if err != nil {
			return "", err
		}
		if m.Rcode == dns.RcodeRefused || !m.Authoritative {
			return "", fmt.Errorf("%w: server %s has no authority over %s; configure the server that has, for its zone", dcv.NoZone, s.addr, host)
		}
		if !aliased(m, name) {
			return apex(append(m.Answer, m.Ns...), name, s.addr)
		}
		// What it says below concerns the CNAME's target. No apex is a CNAME, so
		// the name above is in the same zone.
		next, end := dns.NextLabel(name, 0)
		if end {
			return "", fmt.Errorf("server %s says that the root is a CNAME", s.addr)
		}
		name = name[next:]
	}
}

func aliased(m *dns.Msg, name string) bool {
	for _, rr := range m.Answer {
		if _, ok := rr.(*dns.CNAME); ok && strings.EqualFold(rr.Header().Name, name) {
			return true
		}
	}
	return false
}

func apex(rrs []dns.RR, name, addr string) (string, error) {
	for _, rr := range rrs {
		if _, ok := rr.(*dns.SOA); ok && dns.IsSubDomain(rr.Header().Name, name) {
			return rr.Header().Name, nil
		}
	}
	return "", fmt.Errorf("server %s shows no SOA record for %s", addr, name)
}

// Find implements dcv.Provider. Not every server tells all types at once
// (RFC 8482), so TXT, which brings a CNAME along, is asked for by itself.
func (s *server) Find(ctx context.Context, zone, rr string) ([]dcv.Record, error) {
	name := absolute(zone, rr)
	var all []dcv.Record
	for _, t := range []uint16{dns.TypeTXT, dns.TypeANY} {
		m, err := s.query(ctx, name, t)
		if err != nil {
			return nil, err
		}
		if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			return nil, fmt.Errorf("server %s answers %s for %s", s.addr, dns.RcodeToString[m.Rcode], name)
		}
		for _, found := range m.Answer {
			if strings.EqualFold(found.Header().Name, name) {
				all = append(all, shown(rr, found))
			}
		}
		if len(all) > 0 {
			break
		}
	}
	return all, nil
}

// shown is a record as the port has it.
func shown(rr string, found dns.RR) dcv.Record {
	r := dcv.Record{RR: rr, Type: dns.TypeToString[found.Header().Rrtype]}
	switch f := found.(type) {
	case *dns.TXT:
		r.Value = dcv.Text(f)
	case *dns.CNAME:
		r.Value = f.Target
	default:
		r.Value = strings.TrimPrefix(found.String(), found.Header().String())
	}
	return r
}

// query asks the server itself, signed, over TCP.
func (s *server) query(ctx context.Context, name string, t uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, t)
	q.RecursionDesired = false
	return s.exchange(ctx, q)
}

// exchange signs a message, sends it and reads the answer, which must be signed
// too. The answer's code is for the caller, except where it means that the key
// does not hold.
func (s *server) exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m.SetTsig(s.key, s.algorithm, 300, time.Now().Unix())
	c := dns.Client{Net: "tcp", Timeout: s.timeout, TsigSecret: s.secrets}
	a, _, err := c.ExchangeContext(ctx, m, s.addr)
	if a != nil && a.Id == m.Id && a.Rcode == dns.RcodeNotAuth {
		return nil, s.notAuth(a)
	}
	switch {
	case err != nil && errors.Is(err, dns.ErrAuth):
		return nil, fmt.Errorf("server %s does not authenticate its answer: %w", s.addr, err)
	case err != nil:
		return nil, fmt.Errorf("ask server %s: %w", s.addr, err)
	case a.IsTsig() == nil && a.Rcode != dns.RcodeRefused: // Knot refuses a foreign zone's query before it reads the signature
		return nil, fmt.Errorf("server %s does not sign its answer (%s); let it know the key %s", s.addr, dns.RcodeToString[a.Rcode], s.key)
	}
	return a, nil
}

// notAuth explains "not authorised", which is said of keys and of zones
// (RFC 8945, 5.3.2).
func (s *server) notAuth(a *dns.Msg) error {
	t := a.IsTsig()
	switch {
	case t == nil || t.Error == dns.RcodeBadKey:
		return fmt.Errorf("%w: server %s does not know the key %s with this algorithm; correct dcv.solvers, or add the key to the server", dcv.Denied, s.addr, s.key)
	case t.Error == dns.RcodeBadSig:
		return fmt.Errorf("%w: server %s has another secret for the key %s; correct the secret", dcv.Denied, s.addr, s.key)
	case t.Error == dns.RcodeBadTime:
		return fmt.Errorf("server %s: its clock and this one are more than 5 minutes apart; set them", s.addr)
	}
	return fmt.Errorf("%w: server %s may not update this zone, or not with the key %s", dcv.Denied, s.addr, s.key)
}

func absolute(zone, rr string) string {
	if rr == dcv.Apex {
		return dns.Fqdn(zone)
	}
	return dns.Fqdn(rr + "." + zone)
}
