package dcv_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// world is a small Internet on loopback addresses: a resolver, and name servers
// that all listen on one port.
type world struct {
	t        *testing.T
	port     int
	resolver *nameServer
	next     byte
}

// nameServer is a real one, over UDP and TCP, for a few zones.
type nameServer struct {
	addr string
	tcp  *dns.Server

	mu       sync.Mutex
	zones    map[string][]dns.RR // by apex
	asked    []string            // "name TYPE"
	packets  int                 // questions that came over UDP
	serial   uint32              // of the SOA in negative answers, if set
	distort  func(*dns.Msg)      // applied to every answer
	truncate int                 // UDP answers are cut at this size, if set
}

func newWorld(t *testing.T) *world {
	for range 50 { // until a port is free at all addresses
		l, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.LocalAddr().(*net.UDPAddr).Port
		l.Close()
		w := &world{t: t, port: port, next: 1}
		if w.resolver, err = w.start(); err == nil {
			return w
		}
	}
	t.Fatal("no free port")
	return nil
}

func (w *world) start() (*nameServer, error) {
	s := &nameServer{addr: fmt.Sprintf("127.0.0.%d", w.next), zones: map[string][]dns.RR{}}
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
	for _, server := range []*dns.Server{{PacketConn: udp, Handler: s}, {Listener: tcp, Handler: s}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go server.ActivateAndServe()
		<-started
		w.t.Cleanup(func() { server.Shutdown() })
		if server.Listener != nil {
			s.tcp = server
		}
	}
	return s, nil
}

// server starts a name server of a zone under a name, and tells the resolver.
// The zone's records are given without its NS.
func (w *world) server(zone, name string, records ...string) *nameServer {
	w.t.Helper()
	s, err := w.start()
	if err != nil {
		w.t.Fatal(err)
	}
	w.resolver.add(w.t, ".", name+" 60 IN A "+s.addr)
	w.resolver.add(w.t, ".", zone+" 60 IN NS "+name)
	s.add(w.t, zone, records...)
	return s
}

func (w *world) resolverAddr() string { return fmt.Sprintf("%s:%d", w.resolver.addr, w.port) }

// add adds records to a zone of the server.
func (s *nameServer) add(t *testing.T, zone string, records ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	zone = dns.Fqdn(zone)
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			t.Fatal(err)
		}
		s.zones[zone] = append(s.zones[zone], rr)
	}
	if len(records) == 0 {
		s.zones[zone] = append(s.zones[zone], nil...)
	}
}

func (s *nameServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	name := strings.ToLower(q.Question[0].Name)
	if w.RemoteAddr().Network() == "udp" {
		s.packets++
	}
	s.asked = append(s.asked, name+" "+dns.TypeToString[q.Question[0].Qtype])
	apex := ""
	for zone := range s.zones {
		if dns.IsSubDomain(zone, name) && len(zone) > len(apex) {
			apex = zone
		}
	}
	if apex == "" {
		m.Rcode = dns.RcodeRefused
	} else {
		s.answer(m, apex, name, q.Question[0].Qtype)
	}
	if s.truncate > 0 && w.RemoteAddr().Network() == "udp" {
		m.Truncate(s.truncate)
	}
	if s.distort != nil {
		s.distort(m)
	}
	_ = w.WriteMsg(m)
}

// answer answers from a zone: a referral below a cut, what is there, or nothing.
func (s *nameServer) answer(m *dns.Msg, apex, name string, t uint16) {
	exists := false
	for _, rr := range s.zones[apex] {
		owner := strings.ToLower(rr.Header().Name)
		switch kind := rr.Header().Rrtype; {
		case apex != "." && kind == dns.TypeNS && owner != apex && dns.IsSubDomain(owner, name):
			m.Ns = append(m.Ns, rr)
		case owner == name && (kind == t || kind == dns.TypeCNAME):
			m.Answer = append(m.Answer, rr)
		}
		exists = exists || dns.IsSubDomain(name, owner)
	}
	if len(m.Ns) > 0 {
		m.Answer = nil
		return
	}
	m.Authoritative = true
	if len(m.Answer) == 0 && !exists && name != apex {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 && s.serial != 0 {
		m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: apex, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "ns." + apex, Mbox: "x." + apex, Serial: s.serial}}
	}
}

func (s *nameServer) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// overUDP counts the questions that came over UDP.
func (s *nameServer) overUDP() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.packets
}
