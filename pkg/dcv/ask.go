package dcv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/miekg/dns"
)

// Question is what a name server is asked.
type Question struct {
	Name string
	Type uint16
	// Signed asks for the signatures, too (the DO bit, RFC 4035, 3.2.1).
	Signed bool
	// Unchecked asks a validating resolver for what it would hold back as bogus
	// (the CD bit, RFC 4035, 3.2.2).
	Unchecked bool
}

// Server is one address of a name server of a zone.
type Server struct {
	Host string // for people; empty: it is asked in place of the zone's own
	Addr string // host:port
}

func (s Server) String() string { return server{host: s.Host, addr: s.Addr}.String() }

// Zone is a zone and who serves it.
type Zone struct {
	Name    string   // without the trailing dot
	Servers []Server // every address
}

// Resolve asks the resolvers, one after the other, until one answers that the
// name exists or not. If none does, the last answer is returned as it is: its
// code tells (SERVFAIL, REFUSED). An error means that nobody answered.
func (l *Looker) Resolve(ctx context.Context, q Question) (*dns.Msg, error) {
	var last *dns.Msg
	var failed error
	for _, r := range l.resolvers {
		m, err := l.put(ctx, r, q, true)
		switch {
		case err != nil:
			failed = fmt.Errorf("resolver %s does not answer for %s: %w", r, q.Name, err)
		case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
			return m, nil
		default:
			last = m
		}
	}
	if last != nil {
		return last, nil
	}
	return nil, failed
}

// Ask asks one server, which answers for itself.
func (l *Looker) Ask(ctx context.Context, s Server, q Question) (*dns.Msg, error) {
	return l.put(ctx, s.Addr, q, s.Host == "")
}

// ZoneServers returns the servers of the zone at exactly this name, as the
// resolver finds them, validated or not: a zone whose signatures are broken is
// served all the same. A name that is no zone has none. Where the config names
// servers to ask in their place, it is those.
func (l *Looker) ZoneServers(ctx context.Context, name string) (Zone, error) {
	z := Zone{Name: canonical(name)}
	if len(l.servers) > 0 {
		for _, addr := range l.servers {
			z.Servers = append(z.Servers, Server{Addr: addr})
		}
		return z, nil
	}
	m, err := l.Resolve(ctx, Question{Name: name, Type: dns.TypeNS, Unchecked: true})
	if err != nil {
		return Zone{}, err
	}
	z.Servers, err = l.serving(ctx, nsAt(m.Answer, dns.Fqdn(name)))
	return z, err
}

// Referred returns the zone to which an answer refers for a name, if it is a
// referral: name servers of something below, not authoritative.
func (l *Looker) Referred(ctx context.Context, m *dns.Msg, name string) (z Zone, ok bool, err error) {
	if m.Authoritative || len(m.Answer) > 0 {
		return Zone{}, false, nil
	}
	for _, rr := range m.Ns {
		if _, is := rr.(*dns.NS); is && dns.IsSubDomain(rr.Header().Name, dns.Fqdn(name)) {
			z.Name = canonical(rr.Header().Name)
			z.Servers, err = l.serving(ctx, nsAt(m.Ns, rr.Header().Name))
			return z, true, err
		}
	}
	return Zone{}, false, nil
}

// serving resolves name servers to all their addresses.
func (l *Looker) serving(ctx context.Context, hosts []string) ([]Server, error) {
	var all []Server
	for _, host := range hosts {
		for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
			m, err := l.Resolve(ctx, Question{Name: host, Type: t, Unchecked: true})
			if err != nil {
				return nil, fmt.Errorf("address of name server %s: %w", canonical(host), err)
			}
			for _, rr := range m.Answer {
				ip := ""
				switch r := rr.(type) {
				case *dns.A:
					ip = r.A.String()
				case *dns.AAAA:
					ip = r.AAAA.String()
				}
				if ip != "" && len(all) < maxAddresses {
					all = append(all, Server{Host: canonical(host), Addr: net.JoinHostPort(ip, l.port)})
				}
			}
		}
	}
	return all, nil
}

// put sends a question over UDP, twice because packets get lost, and over TCP
// where the answer does not fit.
func (l *Looker) put(ctx context.Context, addr string, q Question, recurse bool) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(q.Name), q.Type)
	m.RecursionDesired, m.CheckingDisabled = recurse, q.Unchecked
	m.SetEdns0(udpSize, q.Signed)
	answer, err := l.send(ctx, "udp", addr, m)
	if err != nil && !noRoute(err) && ctx.Err() == nil {
		answer, err = l.send(ctx, "udp", addr, m)
	}
	if err == nil && answer.Truncated {
		answer, err = l.send(ctx, "tcp", addr, m)
	}
	switch {
	case err != nil:
		return nil, err
	case len(answer.Question) != 1 || answer.Question[0].Qtype != q.Type || !strings.EqualFold(answer.Question[0].Name, dns.Fqdn(q.Name)):
		return nil, errors.New("the answer is to another question")
	case answer.Truncated:
		return nil, errors.New("the answer is truncated over TCP, too")
	}
	return answer, nil
}

// NoRoute tells whether this machine has no way to an address, such as IPv6
// ones: that says nothing about who is there.
func NoRoute(err error) bool { return noRoute(err) }
