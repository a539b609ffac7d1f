package dcv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/miekg/dns"
	"golang.org/x/net/publicsuffix"

	"github.com/certmill/certmill/pkg/order"
)

// What others can make us do is bounded: an answer is one message of the
// protocol (64 KiB at most), and of these there are no more than this.
const (
	maxHops      = 8    // CNAMEs
	maxServers   = 32   // name servers of a zone
	maxAddresses = 64   // of all of them
	maxShown     = 5    // values in a sentence
	udpSize      = 1232 // bytes that get through everywhere (DNS flag day 2020)
)

// lookDNS follows CNAMEs for TXT, as CAs do, one at a time: the servers of each
// name's own zone are asked for it, and must agree.
func (l *Looker) lookDNS(ctx context.Context, c order.Challenge) (Sighting, error) {
	name := dns.Fqdn(c.Host)
	if _, ok := dns.IsDomainName(name); !ok {
		return Sighting{}, fmt.Errorf("look for %s: that is no name", quote(c.Host))
	}
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, lookTimeouts*l.timeout) // many servers may be silent
	defer cancel()
	for range maxHops {
		servers, err := l.serversOf(ctx, name)
		if err != nil {
			return Sighting{}, err
		}
		if parent.Err() == nil && ctx.Err() != nil {
			return Sighting{Silent: true, Missing: []string{canonical(name) + ": its name servers take too long to answer"}}, nil
		}
		views := l.askAll(ctx, servers, name, dns.StringToType[c.Type])
		target := commonAlias(views)
		if c.Type != TXT || target == "" {
			return Sighting{Missing: missing(views, name, c), Silent: silent(views, c)}, nil
		}
		name = target
	}
	return Sighting{Missing: []string{fmt.Sprintf("%s leads through more than %d CNAMEs", c.Host, maxHops)}}, nil
}

// server is one address of a name server.
type server struct {
	host string // for people
	addr string // host:port; empty: the host has no address
}

func (s server) String() string {
	switch ip, _, _ := net.SplitHostPort(s.addr); {
	case s.host == "":
		return s.addr
	case s.addr == "":
		return s.host
	default:
		return s.host + " (" + ip + ")"
	}
}

// view is what one server says of a name.
type view struct {
	server
	values []string // of the type that was asked for
	alias  string   // target of a CNAME, where another type was asked for
	said   string   // in place of values
	serial uint32   // of the zone, where the answer is negative; 0: not known
	noTCP  error    // why it was asked over UDP; nil: over TCP
	err    error    // no answer
}

// commonAlias is the target on which all agree, "" if there is none.
func commonAlias(views []view) string {
	for _, v := range views {
		if v.alias == "" || v.alias != views[0].alias {
			return ""
		}
	}
	return views[0].alias
}

// has tells whether a server shows the challenge.
func (v view) has(c order.Challenge) bool {
	return slices.ContainsFunc(v.values, func(s string) bool { return sameValue(c.Type, s, c.Value) })
}

// silent tells whether all who do not show the challenge do not answer at all.
func silent(views []view, c order.Challenge) bool {
	quiet := false
	for _, v := range views {
		if v.err == nil && !v.has(c) {
			return false
		}
		quiet = quiet || v.err != nil
	}
	return quiet
}

// missing lists who does not have the value, in words.
func missing(views []view, name string, c order.Challenge) []string {
	var all []string
	for _, v := range views {
		if v.has(c) {
			continue
		}
		said := v.said
		switch {
		case v.err != nil:
			said = "does not answer: " + reason(v.err)
		case v.alias != "":
			said = "has a CNAME to " + quote(canonical(v.alias)) + ", other servers do not"
		case said == "" && len(v.values) == 0:
			said = "has no " + c.Type
		case said == "":
			said = "has " + c.Type + " " + list(v.values) + ", not " + quote(c.Value)
		}
		all = append(all, fmt.Sprintf("%s: %s %s%s", plain(canonical(name)), plain(v.server.String()), said, v.circumstances()))
	}
	return all
}

// circumstances are what helps to find out why: how old the zone is that the
// server has, and that its answer came over UDP, which anybody could have sent.
func (v view) circumstances() string {
	var s string
	if v.serial != 0 && v.err == nil {
		s = fmt.Sprintf(" (serial %d)", v.serial)
	}
	if v.noTCP != nil && v.err == nil {
		s += " (over UDP; over TCP: " + reason(v.noTCP) + ")"
	}
	return s
}

// reason is an error of the network in words that are the same each time: no
// source ports.
func reason(err error) string {
	var refused *refusedAddress
	var late net.Error
	var op *net.OpError
	switch {
	case errors.As(err, &refused):
		return refused.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &late) && late.Timeout():
		return "no answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case noRoute(err):
		return "no route to it"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it breaks the connection off"
	case errors.As(err, &op):
		err = op.Err
	}
	return plain(err.Error())
}

// plain shows a text of others inside a sentence: one short line of ASCII.
func plain(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "..."
	}
	q := strconv.QuoteToASCII(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

// list shows some values.
func list(values []string) string {
	var shown []string
	for _, v := range values[:min(len(values), maxShown)] {
		shown = append(shown, quote(v))
	}
	if n := len(values) - len(shown); n > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(shown, ", ")
}

// serversOf finds every address of every authoritative server of a name's zone.
//
// The resolver is asked about the registrable domain only, which exists; from
// there down the zone's own servers are asked, which tells cuts that servers of
// both sides share, and leaves no "no such name" in a cache that the CA might
// use, too.
func (l *Looker) serversOf(ctx context.Context, name string) ([]server, error) {
	if len(l.servers) > 0 {
		var all []server
		for _, s := range l.servers {
			all = append(all, server{addr: s})
		}
		return all, nil
	}
	zone, hosts, err := l.closestZone(ctx, name)
	if err != nil {
		return nil, err
	}
	servers, err := l.addresses(ctx, hosts)
	for _, cut := range between(name, zone) {
		if lower := l.delegated(ctx, servers, cut); err == nil && len(lower) > 0 {
			servers, err = l.addresses(ctx, lower)
		}
	}
	return servers, err
}

// closestZone goes up from the registrable domain to the first name that has NS
// records.
func (l *Looker) closestZone(ctx context.Context, name string) (zone string, hosts []string, err error) {
	zone = dns.Fqdn(canonical(name))
	if domain, err := publicsuffix.EffectiveTLDPlusOne(canonical(name)); err == nil {
		zone = dns.Fqdn(domain)
	}
	for {
		m, err := l.resolve(ctx, zone, dns.TypeNS)
		if err != nil {
			return "", nil, err
		}
		if hosts := nsAt(m.Answer, zone); len(hosts) > 0 {
			return zone, hosts, nil
		}
		if zone == "." {
			return "", nil, fmt.Errorf("the resolver knows no name servers above %s", name)
		}
		next, end := dns.NextLabel(zone, 0)
		if zone = zone[next:]; end {
			zone = "."
		}
	}
}

// between lists the names from below zone down to name.
func between(name, zone string) []string {
	var all []string
	for _, at := range slices.Backward(dns.Split(name)) {
		if suffix := strings.ToLower(name[at:]); dns.CountLabel(suffix) > dns.CountLabel(zone) {
			all = append(all, suffix)
		}
	}
	return all
}

// delegated asks the servers of a zone, until one answers, whether a name in it
// is a zone of its own: a referral, or NS records where they serve both. It
// returns the servers of that.
func (l *Looker) delegated(ctx context.Context, servers []server, name string) []string {
	for i, s := range servers {
		m, err := l.exchange(ctx, s.addr, name, dns.TypeNS, false)
		if err != nil || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			continue
		}
		servers[0], servers[i] = s, servers[0] // the next question goes to who answers
		if m.Rcode == dns.RcodeNameError {
			return nil
		}
		return nsAt(append(m.Answer, m.Ns...), name)
	}
	return nil
}

// nsAt are the name servers of exactly this zone.
func nsAt(rrs []dns.RR, zone string) []string {
	var hosts []string
	for _, rr := range rrs {
		ns, ok := rr.(*dns.NS)
		if ok && strings.EqualFold(ns.Hdr.Name, zone) && !slices.Contains(hosts, ns.Ns) && len(hosts) < maxServers {
			hosts = append(hosts, ns.Ns)
		}
	}
	slices.Sort(hosts)
	return hosts
}

// addresses resolves name servers. One without an address stays, without one:
// the CA might be sent to it.
func (l *Looker) addresses(ctx context.Context, hosts []string) ([]server, error) {
	var all []server
	for _, host := range hosts {
		found, err := l.lookup(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("address of name server %s: %w", host, err)
		}
		for _, ip := range found {
			all = append(all, server{host: canonical(host), addr: net.JoinHostPort(ip, l.port)})
		}
		if len(found) == 0 {
			all = append(all, server{host: canonical(host)})
		}
	}
	return all[:min(len(all), maxAddresses)], nil
}

// lookup resolves a host to all its addresses, IPv4 first.
func (l *Looker) lookup(ctx context.Context, host string) ([]string, error) {
	var all []string
	for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
		m, err := l.resolve(ctx, dns.Fqdn(host), t)
		if err != nil {
			return nil, err
		}
		for _, rr := range m.Answer {
			switch r := rr.(type) {
			case *dns.A:
				all = append(all, r.A.String())
			case *dns.AAAA:
				all = append(all, r.AAAA.String())
			}
		}
	}
	return all, nil
}

// askAll asks all servers at once.
func (l *Looker) askAll(ctx context.Context, servers []server, name string, t uint16) []view {
	views := make([]view, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { views[i] = l.ask(ctx, s, name, t) })
	}
	wg.Wait()
	return reachable(views)
}

// reachable leaves out the addresses to which this machine has no way, such as
// IPv6 ones, where the same host answers at another address; and those that are
// not public, to which the CA has no way either, where any server answers.
func reachable(views []view) []view {
	answers, some := map[string]bool{}, false
	for _, v := range views {
		answers[v.host] = answers[v.host] || v.err == nil
		some = some || v.err == nil && v.addr != ""
	}
	return slices.DeleteFunc(views, func(v view) bool {
		return noRoute(v.err) && !v.noPort() && answers[v.host] || notPublic(v.err) && some
	})
}

// noPort tells whether it was not asked because all ports of this machine were
// in use. Over IPv6 the same error means that there is no IPv6.
func (v view) noPort() bool {
	return errors.Is(v.err, syscall.EADDRNOTAVAIL) && !strings.HasPrefix(v.addr, "[")
}

func notPublic(err error) bool {
	var refused *refusedAddress
	return errors.As(err, &refused)
}

func noRoute(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// ask asks one server for a name.
func (l *Looker) ask(ctx context.Context, s server, name string, t uint16) view {
	v := view{server: s}
	if s.addr == "" {
		v.said = "has no address"
		return v
	}
	instead := len(l.servers) > 0
	m, noTCP, err := l.inquire(ctx, s.addr, name, t, instead)
	v.noTCP = noTCP
	if err == nil {
		v.serial = serial(m)
	}
	switch {
	case err != nil:
		v.err = err
	case m.Rcode == dns.RcodeNameError && len(m.Answer) == 0:
		v.said = "says that there is no such name"
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError: // a CNAME's target may be missing
		v.said = "answers " + rcode(m.Rcode)
	case !m.Authoritative && !instead:
		v.said = "is not authoritative for it"
	default:
		v.read(m, name, t)
	}
	return v
}

// read takes what the answer says of this very name. What lies behind a CNAME is
// for the servers of that to say.
func (v *view) read(m *dns.Msg, name string, t uint16) {
	for _, rr := range m.Answer {
		if !strings.EqualFold(rr.Header().Name, name) {
			continue
		}
		switch r := rr.(type) {
		case *dns.TXT:
			v.values = append(v.values, text(r))
		case *dns.CNAME:
			if t == dns.TypeCNAME {
				v.values = append(v.values, canonical(r.Target))
			} else {
				v.alias = strings.ToLower(r.Target)
			}
		}
	}
}

// text is the content of a TXT record: its strings, without the escapes of the
// library's presentation form (RFC 1035, 5.1).
func text(r *dns.TXT) string {
	var b strings.Builder
	s := strings.Join(r.Txt, "")
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:min(i+4, len(s))], 10, 8); err == nil && i+4 <= len(s) {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// resolve asks the resolvers, one after the other, until one knows.
func (l *Looker) resolve(ctx context.Context, name string, t uint16) (*dns.Msg, error) {
	var failed error
	for _, r := range l.resolvers {
		m, err := l.askResolver(ctx, r, name, t)
		switch {
		case err != nil:
			failed = fmt.Errorf("resolver %s does not answer for %s: %w", r, name, err)
		case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
			failed = fmt.Errorf("resolver %s answers %s for %s", r, rcode(m.Rcode), name)
		default:
			return m, nil
		}
	}
	return nil, failed
}

// exchange asks a name server.
func (l *Looker) exchange(ctx context.Context, addr, name string, t uint16, recurse bool) (*dns.Msg, error) {
	m, _, err := l.inquire(ctx, addr, name, t, recurse)
	return m, err
}

// inquire asks a name server over TCP: such an answer is never cut short, and
// nobody else can give it. A server has to take TCP (RFC 7766, 5); one that does
// not is asked over UDP, and noTCP says why.
func (l *Looker) inquire(ctx context.Context, addr, name string, t uint16, recurse bool) (m *dns.Msg, noTCP, err error) {
	q := query(name, t, recurse)
	m, err = l.send(ctx, "tcp", addr, q)
	if err != nil && !notPublic(err) && ctx.Err() == nil {
		noTCP = err
		m, err = l.overUDP(ctx, addr, q)
	}
	if err == nil {
		err = answers(m, q)
	}
	return m, noTCP, err
}

// askResolver asks over UDP, and over TCP where the answer does not fit.
func (l *Looker) askResolver(ctx context.Context, addr, name string, t uint16) (*dns.Msg, error) {
	q := query(name, t, true)
	m, err := l.overUDP(ctx, addr, q)
	if err == nil && m.Truncated {
		m, err = l.send(ctx, "tcp", addr, q)
	}
	if err == nil {
		err = answers(m, q)
	}
	return m, err
}

// overUDP asks twice because packets get lost.
func (l *Looker) overUDP(ctx context.Context, addr string, q *dns.Msg) (*dns.Msg, error) {
	m, err := l.send(ctx, "udp", addr, q)
	if err != nil && !noRoute(err) && ctx.Err() == nil {
		m, err = l.send(ctx, "udp", addr, q)
	}
	return m, err
}

func query(name string, t uint16, recurse bool) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(name, t)
	q.RecursionDesired = recurse
	q.SetEdns0(udpSize, false)
	return q
}

// answers tells whether m is a whole answer to q.
func answers(m, q *dns.Msg) error {
	switch {
	case len(m.Question) != 1 || m.Question[0].Qtype != q.Question[0].Qtype || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name):
		return errors.New("the answer is to another question")
	case m.Truncated:
		return errors.New("the answer is truncated, and there is no other over TCP")
	}
	return nil
}

// send sends a question. Only who is the operator's own, a resolver or a server
// of the config, is asked to recurse; every other address was chosen by the
// owner of a name, and must be a public one.
func (l *Looker) send(ctx context.Context, network, addr string, q *dns.Msg) (*dns.Msg, error) {
	leave, err := l.places.Take(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer leave()
	dialer := &net.Dialer{Timeout: l.timeout}
	if !q.RecursionDesired {
		dialer.Control = l.guard.control
	}
	client := dns.Client{Net: network, Timeout: l.timeout, Dialer: dialer}
	m, _, err := client.ExchangeContext(ctx, q, addr)
	return m, err
}

// serial is that of the zone in a negative answer (RFC 2308, 3).
func serial(m *dns.Msg) uint32 {
	if len(m.Answer) > 0 {
		return 0
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa.Serial
		}
	}
	return 0
}

func rcode(code int) string {
	if s, ok := dns.RcodeToString[code]; ok {
		return s
	}
	return "code " + strconv.Itoa(code)
}
