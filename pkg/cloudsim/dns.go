package cloudsim

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	simDomain   = "cloudsim.test"
	nameServer  = "ns1." + simDomain
	negativeTTL = 5
)

// listenDNS serves UDP and TCP on one port.
func (s *Sim) listenDNS(addr string) error {
	udp, tcp, err := listenBoth(addr)
	if err != nil {
		return fmt.Errorf("listen for DNS: %w", err)
	}
	s.dnsAddr = udp.LocalAddr().String()
	handler := dns.HandlerFunc(s.answerDNS)
	for _, server := range []*dns.Server{{PacketConn: udp, Handler: handler}, {Listener: tcp, Handler: handler}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		s.dns = append(s.dns, server)
		s.done.Go(func() {
			if err := server.ActivateAndServe(); err != nil {
				s.log.Debug("cloudsim DNS listener ended", "error", err)
			}
		})
		<-started
	}
	return nil
}

// listenBoth finds a port that is free for UDP and for TCP.
func listenBoth(addr string) (net.PacketConn, net.Listener, error) {
	var last error
	for range 20 {
		udp, err := net.ListenPacket("udp", addr)
		if err != nil {
			return nil, nil, err
		}
		tcp, err := net.Listen("tcp", udp.LocalAddr().String())
		if err == nil {
			return udp, tcp, nil
		}
		last = err
		_ = udp.Close()
		if !strings.HasSuffix(addr, ":0") {
			break
		}
	}
	return nil, nil, last
}

// answerDNS answers one query, authoritatively.
func (s *Sim) answerDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative, m.Compress = true, true
	if len(q.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
	} else {
		s.books.mu.Lock()
		s.resolve(m, q.Question[0])
		s.books.mu.Unlock()
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, false)
	}
	if w.RemoteAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = int(max(opt.UDPSize(), dns.MinMsgSize))
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m)
}

// resolve fills the answer and follows CNAMEs within what is known here. Callers
// hold the lock.
func (s *Sim) resolve(m *dns.Msg, q dns.Question) {
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	for range 8 {
		zone, ok := s.cut(name)
		if !ok {
			if len(m.Answer) == 0 {
				m.Rcode, m.Authoritative = dns.RcodeRefused, false
			}
			return
		}
		found, exists := s.lookup(name, zone)
		target := ""
		for _, rr := range found {
			t := rr.Header().Rrtype
			if t == q.Qtype || q.Qtype == dns.TypeANY || t == dns.TypeCNAME {
				m.Answer = append(m.Answer, rr)
			}
			if c, is := rr.(*dns.CNAME); is && q.Qtype != dns.TypeCNAME && q.Qtype != dns.TypeANY {
				target = strings.TrimSuffix(c.Target, ".")
			}
		}
		if target != "" {
			name = strings.ToLower(target)
			continue
		}
		s.deny(m, name, zone, q.Qtype, exists)
		return
	}
}

// deny completes an answer that holds no record of the asked type at its end.
func (s *Sim) deny(m *dns.Msg, name, zone string, qtype uint16, exists bool) {
	for _, rr := range m.Answer {
		if strings.EqualFold(rr.Header().Name, dns.Fqdn(name)) && (rr.Header().Rrtype == qtype || qtype == dns.TypeANY) {
			return
		}
	}
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	m.Ns = append(m.Ns, soa(zone))
}

// lookup lists every record at a name and says whether the name exists. Callers
// hold the lock.
func (s *Sim) lookup(name, zone string) ([]dns.RR, bool) {
	found := s.written(name)
	if name == zone {
		if !hasType(found, dns.TypeNS) {
			found = append(found, &dns.NS{Hdr: header(zone, dns.TypeNS, 3600), Ns: dns.Fqdn(nameServer)})
		}
		found = append(found, soa(zone))
	}
	if len(found) > 0 && found[0].Header().Rrtype == dns.TypeCNAME {
		return found, true
	}
	if ip := s.address(name); ip != nil && !hasType(found, dns.TypeA) {
		found = append(found, &dns.A{Hdr: header(name, dns.TypeA, 60), A: ip})
	}
	return found, len(found) > 0 || s.hasBelow(name)
}

// written are the records that an API or the config wrote, without repetitions
// (two accounts may both host the zone).
func (s *Sim) written(name string) []dns.RR {
	now := time.Now()
	var found []dns.RR
	add := func(typ, value string, ttl uint32) {
		rr, err := makeRR(name, typ, value, ttl)
		if err != nil {
			s.log.Warn("a record that the DNS cannot serve", "name", name, "error", err)
			return
		}
		for _, known := range found {
			if dns.IsDuplicate(known, rr) {
				return
			}
		}
		found = append(found, rr)
	}
	for _, id := range s.books.names[name] {
		if r := s.books.records[id]; !now.Before(r.VisibleAt) {
			add(r.Type, r.Value, r.TTL)
		}
	}
	for _, r := range s.cfg().records[name] {
		add(strings.ToUpper(r.Type), r.Value, max(r.TTL, 1))
	}
	return found
}

// address answers for hosts without records of their own: names with no
// underscore label. The name server has one always.
func (s *Sim) address(name string) net.IP {
	if name == nameServer {
		return net.IPv4(127, 0, 0, 1)
	}
	if s.cfg().HostAddress == "none" || !strings.Contains(name, ".") || strings.Contains(name, "_") {
		return nil
	}
	return net.ParseIP(s.cfg().HostAddress)
}

// hasBelow says whether the name exists without records of its own: hosts and
// zones always do, others when a record lies below them.
func (s *Sim) hasBelow(name string) bool {
	return !strings.Contains(name, "_") || s.books.below[name] > 0
}

func hasType(rrs []dns.RR, t uint16) bool {
	for _, rr := range rrs {
		if rr.Header().Rrtype == t {
			return true
		}
	}
	return false
}

func header(name string, t uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: dns.Fqdn(name), Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

func soa(zone string) dns.RR {
	return &dns.SOA{
		Hdr: header(zone, dns.TypeSOA, negativeTTL), Ns: dns.Fqdn(nameServer), Mbox: "hostmaster." + dns.Fqdn(simDomain),
		Serial: uint32(time.Now().Unix()), Refresh: 3600, Retry: 600, Expire: 86400, Minttl: negativeTTL,
	}
}

// makeRR turns an API's text form into a record.
func makeRR(name, typ, value string, ttl uint32) (dns.RR, error) {
	if typ == typeTXT {
		return &dns.TXT{Hdr: header(name, dns.TypeTXT, ttl), Txt: chunks(value)}, nil
	}
	if typ == typeCNAME || typ == "NS" || typ == "MX" {
		value = dns.Fqdn(value)
	}
	if typ == "MX" {
		value = "10 " + value // the APIs carry the priority apart; nothing here needs it
	}
	rr, err := dns.NewRR(dns.Fqdn(name) + " " + strconv.Itoa(int(ttl)) + " IN " + typ + " " + value)
	if err != nil {
		return nil, fmt.Errorf("record %s %s: %w", name, typ, err)
	}
	if rr == nil {
		return nil, fmt.Errorf("record %s %s is empty", name, typ)
	}
	return rr, nil
}

// chunks cuts a text into the character strings of a TXT record, 255 bytes each,
// in the master file's form, in which a backslash escapes.
func chunks(value string) []string {
	var parts []string
	for len(value) > 255 {
		parts = append(parts, escapeTXT(value[:255]))
		value = value[255:]
	}
	return append(parts, escapeTXT(value))
}

func escapeTXT(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }
