package preflight

import (
	"crypto"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
)

// world is a small Internet on loopback addresses: a resolver, and name servers
// of zones, which may be signed.
type world struct {
	t        *testing.T
	port     int
	resolver *nameServer
	next     byte
	waiting  []*dns.Server
}

// nameServer is a real one, over UDP and TCP, for a few zones. As a resolver it
// serves all zones and follows CNAMEs.
type nameServer struct {
	addr      string
	recursive bool

	zones map[string][]dns.RR // by apex
	bogus map[string]bool     // names whose answers a validating resolver holds back
	codes map[string]int      // answers of "name TYPE" that are only a code

	mu    sync.Mutex
	asked map[string]int // by "name TYPE"; guarded by mu
}

func newWorld(t *testing.T) *world {
	for range 50 { // until a port is free at all addresses
		l, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, port: l.LocalAddr().(*net.UDPAddr).Port, next: 1}
		l.Close()
		if w.resolver, err = w.start(); err == nil {
			w.resolver.recursive = true
			return w
		}
	}
	t.Fatal("no free port")
	return nil
}

func (w *world) start() (*nameServer, error) {
	s := &nameServer{addr: fmt.Sprintf("127.0.0.%d", w.next), zones: map[string][]dns.RR{}, bogus: map[string]bool{}, codes: map[string]int{}, asked: map[string]int{}}
	w.next++
	at := fmt.Sprintf("%s:%d", s.addr, w.port)
	udp, err := net.ListenPacket("udp", at)
	if err != nil {
		return nil, err
	}
	tcp, err := net.Listen("tcp", at)
	if err != nil {
		udp.Close()
		return nil, err
	}
	w.waiting = append(w.waiting, &dns.Server{PacketConn: udp, Handler: s}, &dns.Server{Listener: tcp, Handler: s})
	return s, nil
}

// serve starts the servers. Zones are not edited any more from here on.
func (w *world) serve() {
	for _, server := range w.waiting {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go server.ActivateAndServe()
		<-started
		w.t.Cleanup(func() { server.Shutdown() })
	}
	w.waiting = nil
}

// checker asks this Internet. The zones are complete by now.
func (w *world) checker() *Checker {
	w.serve()
	looker, err := dcv.NewLooker(dcv.LookerConfig{Resolvers: []string{fmt.Sprintf("%s:%d", w.resolver.addr, w.port)}, ServerPort: w.port, Timeout: time.Second, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		w.t.Fatal(err)
	}
	return New(looker)
}

// zone makes a zone with a server of its own, which the resolver knows, too.
func (w *world) zone(name string, records ...string) *nameServer {
	w.t.Helper()
	s, err := w.start()
	if err != nil {
		w.t.Fatal(err)
	}
	all := append([]string{name + " 60 IN SOA ns." + name + " admin." + name + " 1 3600 600 86400 60", name + " 60 IN NS ns." + name,
		"ns." + name + " 60 IN A " + s.addr}, records...)
	s.zones[dns.Fqdn(name)] = parse(w.t, all...)
	w.publish(s, name)
	return s
}

// publish lets the resolver know what the server serves.
func (w *world) publish(s *nameServer, name string) {
	w.resolver.zones[dns.Fqdn(name)] = slices.Clone(s.zones[dns.Fqdn(name)])
}

// delegate puts a zone's name servers into its parent.
func (w *world) delegate(parent *nameServer, parentName, child string) {
	parent.zones[dns.Fqdn(parentName)] = append(parent.zones[dns.Fqdn(parentName)], parse(w.t, child+" 60 IN NS ns."+child)...)
}

func parse(t *testing.T, records ...string) []dns.RR {
	t.Helper()
	var all []dns.RR
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil || rr == nil {
			t.Fatalf("%s: %v", r, err)
		}
		all = append(all, rr)
	}
	return all
}

// signer signs a zone.
type signer struct {
	key     *dns.DNSKEY
	private crypto.Signer
}

func newSigner(t *testing.T, zone string) signer {
	t.Helper()
	k := &dns.DNSKEY{Hdr: dns.RR_Header{Name: dns.Fqdn(zone), Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 60}, Flags: 257, Protocol: 3, Algorithm: dns.ECDSAP256SHA256}
	private, err := k.Generate(256)
	if err != nil {
		t.Fatal(err)
	}
	return signer{k, private.(crypto.Signer)}
}

func (k signer) sign(t *testing.T, set []dns.RR, from, until time.Time) dns.RR {
	t.Helper()
	sig := &dns.RRSIG{Hdr: dns.RR_Header{Ttl: 60}, KeyTag: k.key.KeyTag(), SignerName: k.key.Hdr.Name, Algorithm: k.key.Algorithm,
		Inception: uint32(from.Unix()), Expiration: uint32(until.Unix())}
	if err := sig.Sign(k.private, set); err != nil {
		t.Fatal(err)
	}
	return sig
}

// sign signs a zone's keys and SOA, and puts the DS of a key into the resolver.
func (w *world) sign(s *nameServer, zone string, k signer, ds *dns.DS, from, until time.Time) {
	w.t.Helper()
	apex := dns.Fqdn(zone)
	keys, soa := []dns.RR{k.key}, s.zones[apex][:1]
	s.zones[apex] = append(s.zones[apex], k.key, k.sign(w.t, keys, time.Now().Add(-time.Hour), time.Now().Add(time.Hour)), k.sign(w.t, soa, from, until))
	w.publish(s, zone)
	w.resolver.zones[apex] = append(w.resolver.zones[apex], ds)
}

func (s *nameServer) ServeDNS(rw dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	name, t := strings.ToLower(q.Question[0].Name), q.Question[0].Qtype
	what := name + " " + dns.TypeToString[t]
	s.mu.Lock()
	s.asked[what]++
	s.mu.Unlock()
	code, only := s.codes[what]
	switch {
	case only:
		m.Rcode = code
	case s.bogus[name] && !q.CheckingDisabled:
		m.Rcode = dns.RcodeServerFailure
		m.SetEdns0(1232, true)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeSignatureExpired})
	default:
		s.answer(m, name, t, q.IsEdns0() != nil && q.IsEdns0().Do())
	}
	_ = rw.WriteMsg(m)
}

// answer answers from the longest zone: a referral below a cut, what is there,
// or nothing.
func (s *nameServer) answer(m *dns.Msg, name string, t uint16, signed bool) {
	apex := ""
	for zone := range s.zones {
		if dns.IsSubDomain(zone, name) && len(zone) > len(apex) {
			apex = zone
		}
	}
	switch {
	case apex == "" && s.recursive && dns.CountLabel(name) > 1:
		m.Rcode = dns.RcodeNameError
		return
	case apex == "" && s.recursive:
		return // a top-level domain without records
	case apex == "":
		m.Rcode = dns.RcodeRefused
		return
	}
	exists := name == apex
	for _, rr := range s.zones[apex] {
		owner := strings.ToLower(rr.Header().Name)
		sig, isSig := rr.(*dns.RRSIG)
		switch kind := rr.Header().Rrtype; {
		case !s.recursive && kind == dns.TypeNS && owner != apex && dns.IsSubDomain(owner, name):
			m.Ns = append(m.Ns, rr)
		case owner == name && (kind == t || kind == dns.TypeCNAME || signed && isSig && sig.TypeCovered == t):
			m.Answer = append(m.Answer, rr)
		}
		exists = exists || dns.IsSubDomain(name, owner)
	}
	if len(m.Ns) > 0 {
		m.Answer = nil
		return
	}
	m.Authoritative = !s.recursive
	if len(m.Answer) == 0 {
		m.Ns = append(m.Ns, s.zones[apex][0])
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
	}
	if c, is := last(m.Answer).(*dns.CNAME); is && s.recursive && t != dns.TypeCNAME && strings.EqualFold(c.Hdr.Name, name) && len(m.Answer) < 8 {
		s.answer(m, strings.ToLower(c.Target), t, signed)
	}
}

// questions are those that were asked, and how often.
func (s *nameServer) questions() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.asked)
}

func last(rrs []dns.RR) dns.RR {
	if len(rrs) == 0 {
		return nil
	}
	return rrs[len(rrs)-1]
}
