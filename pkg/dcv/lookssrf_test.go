package dcv_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
)

// The one address that the looker of these tests takes for a public one. Servers
// on all the others are traps, which would say what the looker wants to hear.
const publicIP = "127.0.0.99"

// minefield is a world in which every connection to another address than
// publicIP is counted.
type minefield struct {
	*world
	web     *http.ServeMux // on publicIP
	looker  *dcv.Looker
	names   int
	sprung  atomic.Int64 // connections that a trap accepted
	mu      sync.Mutex
	reached []netip.AddrPort // let through
	refused []netip.AddrPort
}

func newMinefield(t *testing.T) *minefield {
	m := &minefield{world: newWorld(t), web: http.NewServeMux()}
	l, err := net.Listen("tcp", publicIP+":0")
	must(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	m.serve(l, m.web)
	for _, ip := range []string{"127.0.0.1", "127.0.0.2", "127.255.255.254", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, fmt.Sprint(port)))
		if err != nil && ip == "::1" {
			continue // a machine without IPv6
		}
		must(t, err)
		m.serve(trap{l, &m.sprung}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "value") }))
	}
	m.looker = newLooker(t, dcv.LookerConfig{Resolvers: []string{m.resolverAddr()}, ServerPort: m.port, HTTPPort: port,
		Timeout: time.Second, Allow: []netip.Prefix{netip.MustParsePrefix(publicIP + "/32")}})
	m.looker.Told(func(to netip.AddrPort, refusal error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if refusal != nil {
			m.refused = append(m.refused, to)
		} else {
			m.reached = append(m.reached, to)
		}
	})
	return m
}

func (m *minefield) serve(l net.Listener, h http.Handler) {
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	server.Start()
	m.t.Cleanup(server.Close)
}

type trap struct {
	net.Listener
	sprung *atomic.Int64
}

func (t trap) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err == nil {
		t.sprung.Add(1)
	}
	return c, err
}

// name makes a fresh host with these addresses.
func (m *minefield) name(ips ...string) string {
	m.names++
	host := fmt.Sprintf("h%d.example.com", m.names)
	for _, ip := range ips {
		kind := "A"
		if strings.Contains(ip, ":") {
			kind = "AAAA"
		}
		m.resolver.add(m.t, ".", host+" 0 IN "+kind+" "+ip)
	}
	return host
}

// wantNothing looks, and nothing but publicIP may have been connected to, nor
// what it says be taken for the challenge.
func (m *minefield) wantNothing(what string, c order.Challenge) {
	m.t.Helper()
	got, err := m.looker.Look(m.t.Context(), c)
	if err == nil && (got.Seen || len(got.Missing) == 0) {
		m.t.Errorf("%s: %+v", what, got)
	}
	for _, line := range got.Missing {
		if len(line) > 600 || strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
			m.t.Errorf("%s: not a short printable line: %q", what, line)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.IndexFunc(m.reached, func(a netip.AddrPort) bool { return a.Addr().String() != publicIP }); i >= 0 {
		m.t.Errorf("%s: a connection to %s was let through", what, m.reached[i])
	}
	if n := m.sprung.Swap(0); n != 0 {
		m.t.Errorf("%s: %d connections to a trap", what, n)
	}
	m.reached = nil
}

// forbiddenIPs is each kind of address that is not public. The loopback ones,
// and the unspecified, which mean loopback to Linux, lead to a trap.
var forbiddenIPs = []string{
	"127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "0.1.2.3", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:0.0.0.0",
	"64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::1",
	"10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255", "::ffff:10.0.0.1", "::ffff:192.168.0.1",
	"100.64.0.1", "100.127.255.255", "169.254.0.1", "169.254.169.254", "169.254.169.253", "169.254.0.23", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "::ffff:169.254.169.254",
	"fe80::1", "fc00::1", "fd12:3456::1", "fec0::1", "224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1", "240.0.0.1", "255.255.255.255",
	"192.0.0.1", "192.0.0.170", "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "198.19.255.255", "2001:db8::1", "3fff::1", "100::1", "192.88.99.1",
}

// hostileHosts are what a cloud, or whoever speaks for it, could send as the host
// of a challenge.
var hostileHosts = []string{
	"127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "0", "0.0.0.0", "2130706433", "017700000001", "0177.0.0.1", "0x7f000001", "0x7f.1", "0x7F.0x0.0x0.0x1", "127.0.0.0x1",
	"[::1]", "::1", "[::]", "[::ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:1]", "[fe80::1%25lo]", "[::1]:80", "127.0.0.1:22", "127.0.0.1:6379",
	"localhost", "localhost.", "LOCALHOST", "www.localhost", "localhost.localdomain.", "metadata", "kubernetes.default.svc:443",
	"user@127.0.0.1", "user:password@127.0.0.1", "www.example.com@127.0.0.1", "www.example.com:80@127.0.0.1", "www.example.com#@127.0.0.1", "www.example.com/@127.0.0.1",
	`www.example.com\@127.0.0.1`, "127.0.0.1/", "127.0.0.1?", "127.0.0.1#", "127.0.0.1%2f.example.com", "127.0.0.1%00.example.com", "127.0.0.1 .example.com", "www.example.com\r\nHost: 127.0.0.1", "①②⑦.⓪.⓪.①", "127。0。0。1",
	"169.254.169.254", "100.100.100.200", "[fd00:ec2::254]", "2852039166", "0xa9fea9fe", "", ".", "..", "com", "co.uk", "unix:/run/docker.sock",
}

func TestSSRFHosts(t *testing.T) {
	m := newMinefield(t)
	for _, host := range hostileHosts {
		if name, ok := dns.IsDomainName(host); ok && name > 0 && !strings.ContainsAny(host, "[]@:/?#\\% \r") { // whoever asks would get a trap
			m.resolver.add(t, ".", dns.Fqdn(host)+" 0 IN A 127.0.0.1")
		}
		m.wantNothing("host "+host, fileAt(host, "/x"))
	}
}

func TestSSRFAddresses(t *testing.T) {
	m := newMinefield(t)
	for _, ip := range forbiddenIPs {
		m.wantNothing("a host at "+ip, fileAt(m.name(ip), "/x"))
	}
	if len(m.refused) < len(forbiddenIPs) {
		t.Errorf("only %d of %d addresses came as far as the guard: %v", len(m.refused), len(forbiddenIPs), m.refused)
	}
}

func TestSSRFRedirects(t *testing.T) {
	m := newMinefield(t)
	start := m.name(publicIP)
	var to string
	m.web.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
	})
	var targets []string
	for _, ip := range forbiddenIPs {
		targets = append(targets, "http://"+m.name(ip)+"/x")
	}
	for _, ip := range []string{"127.0.0.1", "169.254.169.254", "100.100.100.200", "10.0.0.1"} {
		targets = append(targets, "http://"+ip+"/x", "https://"+ip+"/x", "//"+ip+"/x", "https://"+m.name(ip)+"/x", "http://"+ip+":22/x", "http://"+start+"@"+ip+"/x", "http://"+start+":x@"+ip+":80/x")
	}
	for _, host := range hostileHosts {
		targets = append(targets, "http://"+host+"/x")
	}
	targets = append(targets, "file:///etc/passwd", "gopher://127.0.0.1/x", "ftp://"+start+"/x", "http://"+start+":6379/x", "http://user:password@"+start+"/x", "dict://127.0.0.1:11211/", "unix:///run/docker.sock", "http:127.0.0.1/x", "http:///x", "http://"+strings.Repeat("a", 70000)+"/")
	for _, to = range targets {
		m.wantNothing(fmt.Sprintf("a redirect to %.80q", to), fileAt(start, "/"))
	}
	t.Logf("%d redirects", len(targets))
}

// A host's addresses change between two looks at the DNS, or are of both kinds.
func TestSSRFRebinding(t *testing.T) {
	m := newMinefield(t)
	host := m.name(publicIP)
	m.web.Handle("/", http.RedirectHandler("http://"+host+"/again", http.StatusFound))
	m.web.HandleFunc("/again", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "value") })
	for _, second := range forbiddenIPs {
		if strings.Contains(second, ":") {
			continue
		}
		asked := 0
		m.resolver.set(func() {
			m.resolver.distort = func(a *dns.Msg) {
				if a.Question[0].Qtype != dns.TypeA || len(a.Answer) != 1 {
					return
				}
				if asked++; asked > 1 {
					a.Answer = []dns.RR{&dns.A{Hdr: *a.Answer[0].Header(), A: net.ParseIP(second)}}
				}
			}
		})
		m.wantNothing("rebinding to "+second, fileAt(host, "/"))
	}
	m.resolver.set(func() { m.resolver.distort = nil })
	mixed := m.name("127.0.0.1", publicIP, "::1")
	got, err := m.looker.Look(t.Context(), fileAt(mixed, "/again"))
	must(t, err)
	if !got.Seen || m.sprung.Load() != 0 {
		t.Errorf("a host with addresses of both kinds: %+v, %d connections to traps", got, m.sprung.Load())
	}
}

// The owner of a zone chooses the addresses of its name servers, too. Those that
// are not public are asked nothing, over TCP or UDP; where others answer, these
// do not count, since no CA can ask them either.
func TestSSRFNameServers(t *testing.T) {
	m := newMinefield(t)
	traps := []*nameServer{m.server("trap.example", "ns.trap.example"), m.server("trap.example", "ns.trap.example")} // 127.0.0.2 and .3
	m.resolver.set(func() { m.resolver.truncate = 1232 })
	m.next = 99
	m.server("both.example", "ns.public.example", `_dnsauth.both.example 60 IN TXT "value"`)
	for i, ip := range append(forbiddenIPs, "127.0.0.3") {
		zone, ns := fmt.Sprintf("z%d.example", i), fmt.Sprintf("ns%d.example.com", i)
		kind := "A"
		if strings.Contains(ip, ":") {
			kind = "AAAA"
		}
		m.resolver.add(t, ".", zone+" 0 IN NS "+ns, ns+" 0 IN "+kind+" "+ip, "both.example 0 IN NS "+ns)
		for _, s := range traps {
			s.add(t, zone, `_dnsauth.`+zone+` 60 IN TXT "value"`)
		}
		m.wantNothing("a name server at "+ip, txt("_dnsauth."+zone, "value"))
	}
	for _, s := range traps {
		if q := s.questions(); len(q) != 0 {
			t.Errorf("%s was asked %v", s.addr, q)
		}
	}
	got, err := m.looker.Look(t.Context(), txt("_dnsauth.both.example", "value"))
	must(t, err)
	if !got.Seen {
		t.Errorf("a zone that has name servers of both kinds: %+v", got)
	}
}
