package cloudsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// errMissing and errOther say how a proof failed: nothing there, or another value.
// CheckCertificateDomainVerification tells the two apart.
var (
	errMissing = errors.New("not found")
	errOther   = errors.New("does not match")
)

// prove looks whether a challenge is answered, over the network, as a CA would.
func (s *Sim) prove(ctx context.Context, c challenge) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch c.Type {
	case typeFILE:
		return s.proveFile(ctx, c)
	case typeCNAME:
		return s.proveRecord(ctx, c, dns.TypeCNAME, func(rr dns.RR) (string, bool) {
			cname, ok := rr.(*dns.CNAME)
			return strings.ToLower(strings.TrimSuffix(targetOf(cname), ".")), ok
		})
	default:
		return s.proveRecord(ctx, c, dns.TypeTXT, func(rr dns.RR) (string, bool) {
			txt, ok := rr.(*dns.TXT)
			return textOf(txt), ok
		})
	}
}

func targetOf(rr *dns.CNAME) string {
	if rr == nil {
		return ""
	}
	return rr.Target
}

func textOf(rr *dns.TXT) string {
	if rr == nil {
		return ""
	}
	return strings.Join(rr.Txt, "")
}

// proveRecord accepts when any value at the name is the expected one, exactly:
// other orders may have values at the same name.
func (s *Sim) proveRecord(ctx context.Context, c challenge, t uint16, value func(dns.RR) (string, bool)) error {
	answer, err := s.follow(ctx, c.Name, t)
	if err != nil {
		return err
	}
	result := fmt.Errorf("%s %s: %w", c.Type, c.Name, errMissing)
	for _, rr := range answer.Answer {
		got, ok := value(rr)
		if !ok {
			continue
		}
		if got == c.Value {
			return nil
		}
		result = fmt.Errorf("%s %s: %w", c.Type, c.Name, errOther)
	}
	return result
}

// follow asks for a name and goes on where the answer ends in an alias, as a server
// that is not recursive leaves it (RFC 1034, section 3.6.2).
func (s *Sim) follow(ctx context.Context, name string, t uint16) (*dns.Msg, error) {
	all, err := s.ask(ctx, name, t)
	for range 8 {
		if err != nil || t == dns.TypeCNAME {
			break
		}
		next := aliasEnd(all.Answer, dns.Fqdn(name))
		if strings.EqualFold(next, dns.Fqdn(name)) || hasType(all.Answer, t) {
			break
		}
		name = next
		answer, failed := s.ask(ctx, name, t)
		if err = failed; err == nil {
			all.Rcode, all.Answer = answer.Rcode, append(all.Answer, answer.Answer...)
		}
	}
	return all, err
}

// aliasEnd is where the aliases of an answer lead from a name.
func aliasEnd(answer []dns.RR, name string) string {
	for range len(answer) {
		for _, rr := range answer {
			if c, is := rr.(*dns.CNAME); is && strings.EqualFold(c.Hdr.Name, name) {
				name = c.Target
			}
		}
	}
	return name
}

// ask queries the resolver, over TCP when the answer does not fit into UDP.
func (s *Sim) ask(ctx context.Context, name string, t uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), t)
	q.SetEdns0(1232, false)
	server := s.cfg().Resolver
	if server == "" {
		server = s.dnsAddr
	}
	client := &dns.Client{Timeout: 2 * time.Second}
	answer, _, err := client.ExchangeContext(ctx, q, server)
	if err == nil && answer.Truncated {
		client.Net = "tcp"
		answer, _, err = client.ExchangeContext(ctx, q, server)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s for %s: %w", server, name, err)
	}
	return answer, nil
}

// proveFile fetches http://<host><path>: final status 200, at most two redirects
// within the same registrable domain (tencentcloud.com 1007/43542), exact content.
func (s *Sim) proveFile(ctx context.Context, c challenge) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Name+c.Path, nil)
	if err != nil {
		return fmt.Errorf("fetch file: %w", err)
	}
	client := &http.Client{Transport: s.webTransport(), CheckRedirect: sameDomain}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("fetch file from %s: %w: %w", c.Name, errMissing, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch file from %s: status %d: %w", c.Name, resp.StatusCode, errMissing)
	}
	if string(bytes.TrimRight(body, "\r\n")) != c.Value {
		return fmt.Errorf("file at %s: %w", c.Name, errOther)
	}
	return nil
}

// webTransport resolves hosts through the validation's resolver and goes to
// FilePort in place of port 80.
func (s *Sim) webTransport() *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			if port == "80" {
				port = strconv.Itoa(s.cfg().FilePort)
			}
			ip, err := s.hostIP(ctx, host)
			if err != nil {
				return nil, err
			}
			var d net.Dialer
			return d.DialContext(ctx, network, net.JoinHostPort(ip.String(), port))
		},
	}
}

// hostIP is a host's first address, IPv4 before IPv6.
func (s *Sim) hostIP(ctx context.Context, host string) (net.IP, error) {
	for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
		answer, err := s.follow(ctx, host, t)
		if err != nil {
			return nil, err
		}
		for _, rr := range answer.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				return rr.A, nil
			case *dns.AAAA:
				return rr.AAAA, nil
			}
		}
	}
	return nil, fmt.Errorf("no address for %s", host)
}

func sameDomain(req *http.Request, via []*http.Request) error {
	if len(via) > 2 {
		return errors.New("more than two redirects")
	}
	if !sameRegistrable(req.URL, via[0].URL) {
		return fmt.Errorf("redirected to another domain: %s", req.URL.Hostname())
	}
	return nil
}

func sameRegistrable(x, y *url.URL) bool {
	a, errA := registrable(x.Hostname())
	b, errB := registrable(y.Hostname())
	return errA == nil && errB == nil && a == b
}
