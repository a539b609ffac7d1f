package cloudsim_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/aliyun/alibaba-cloud-sdk-go/services/cas"
	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// nameServer is a DNS server that knows a few zones and no recursion: it follows
// no alias and refuses what lies elsewhere.
type nameServer struct {
	addr string

	mu      sync.Mutex
	records []dns.RR
	broken  string // a name that cannot be looked up
	failed  int    // how often it was asked for
}

func startNameServer(t *testing.T, records ...string) *nameServer {
	t.Helper()
	n := &nameServer{}
	n.add(t, records...)
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = conn.LocalAddr().String()
	started := make(chan struct{})
	server := &dns.Server{PacketConn: conn, Handler: n, NotifyStartedFunc: func() { close(started) }}
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := server.ShutdownContext(context.Background()); err != nil {
			t.Error(err)
		}
		<-ended
	})
	return n
}

func (n *nameServer) add(t *testing.T, records ...string) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		n.records = append(n.records, rr)
	}
}

func (n *nameServer) breakAt(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broken, n.failed = name, 0
}

func (n *nameServer) failures() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failed
}

// ServeDNS answers from the records; example.com and example.net are its zones.
func (n *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	name := strings.ToLower(q.Question[0].Name)
	switch {
	case !dns.IsSubDomain("example.com.", name) && !dns.IsSubDomain("example.net.", name):
		m.Rcode = dns.RcodeRefused
	case n.broken != "" && name == dns.Fqdn(n.broken):
		m.Rcode = dns.RcodeServerFailure
		n.failed++
	}
	for _, rr := range n.records {
		h := rr.Header()
		if m.Rcode == dns.RcodeSuccess && strings.EqualFold(h.Name, name) && (h.Rrtype == q.Question[0].Qtype || h.Rrtype == dns.TypeCNAME) {
			m.Answer = append(m.Answer, rr)
		}
	}
	_ = w.WriteMsg(m)
}

// TestValidationByAnotherResolver proves orders by a name server that the
// simulator has nothing to do with, through aliases that this one does not follow.
func TestValidationByAnotherResolver(t *testing.T) {
	t.Parallel()
	n := startNameServer(t, "_dnsauth.www.example.com. 5 CNAME _dnsauth.delegated.example.net.",
		"_dnsauth.delegated.example.net. 5 CNAME end.example.net.")
	cfg := quick()
	cfg.Resolver = n.addr
	a := startAli(t, cfg)
	id := a.mustOrder(nil)
	s := a.until(id, "domain_verify")
	a.put("_dnsauth.www.example.com", "TXT", s.RecordValue) // in a DNS that nobody asks
	n.add(t, `end.example.net. 5 TXT "another order's"`, `end.example.net. 5 TXT "`+s.RecordValue+`"`)
	a.until(id, "certificate")

	if err := a.SetConfig(func(c *cloudsim.Config) { c.CASRecordType = "CNAME" }); err != nil {
		t.Fatal(err)
	}
	id = a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.Domain = "b.example.com" })
	s = a.until(id, "domain_verify")
	n.add(t, s.RecordDomain+". 5 CNAME "+s.RecordValue+".")
	a.until(id, "certificate")
}

// TestAliasInTheOwnDNS delegates a challenge within the simulator's DNS.
func TestAliasInTheOwnDNS(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	a.put("_dnsauth.www.example.com", "CNAME", "www.delegated.example.net")
	id := a.mustOrder(nil)
	a.put("www.delegated.example.net", "TXT", a.until(id, "domain_verify").RecordValue)
	a.until(id, "certificate")
}

// TestFileByAnotherResolver finds the host of a file behind an alias.
func TestFileByAnotherResolver(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	content := ""
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Host == "www.example.com" && r.URL.Path == "/.well-known/pki-validation/fileauth.txt" {
			_, _ = w.Write([]byte(content))
		}
	}))
	t.Cleanup(web.Close)
	n := startNameServer(t, "www.example.com. 5 CNAME web.example.net.", "web.example.net. 5 A 127.0.0.1")
	cfg := quick()
	cfg.Resolver, cfg.FilePort = n.addr, web.Listener.Addr().(*net.TCPAddr).Port
	a := startAli(t, cfg)
	id := a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.ValidateType = "FILE" })
	s := a.until(id, "domain_verify")
	mu.Lock()
	content = s.Content
	mu.Unlock()
	a.until(id, "certificate")
}

func TestCAA(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.SelfValidate, cfg.Accounts = true, cloudsim.DefaultAccounts()
	zones := []string{"none.com", "other.com", "ours.com", "wild.com", "nobody.com", "critical.com", "iodef.com", "deep.com"}
	cfg.Accounts[0].Zones, cfg.Accounts[2].Zones = zones, zones
	for _, r := range [][2]string{
		{"other.com", `0 issue "letsencrypt.org"`},
		{"ours.com", `0 issue "letsencrypt.org"`}, {"ours.com", `0 issue "DigiCert.com; policy=ev"`},
		{"wild.com", `0 issue "digicert.com"`}, {"wild.com", `0 issuewild ";"`},
		{"nobody.com", `0 issue ";"`},
		{"critical.com", `128 tbs "unknown"`},
		{"iodef.com", `0 iodef "mailto:security@iodef.com"`},
		{"deep.com", `0 issue "letsencrypt.org"`}, {"www.deep.com", `0 issue "digicert.com"`},
	} {
		cfg.Records = append(cfg.Records, cloudsim.StaticRecord{Name: r[0], Type: "CAA", Value: r[1]})
	}
	a := startAli(t, cfg)
	for _, tt := range []struct{ name, product, want string }{
		{"www.none.com", paid, "certificate"},
		{"www.other.com", paid, "verify_fail"},
		{"a.b.other.com", "globalsign-dv-1-personal", "verify_fail"},
		{"www.ours.com", paid, "certificate"},
		{"www.ours.com", "globalsign-dv-1-personal", "verify_fail"},
		{"*.wild.com", wild, "verify_fail"},
		{"www.wild.com", paid, "certificate"},
		{"www.nobody.com", paid, "verify_fail"},
		{"www.critical.com", paid, "verify_fail"},
		{"www.iodef.com", paid, "certificate"},
		{"www.deep.com", paid, "certificate"},
		{"deep.com", paid, "verify_fail"},
	} {
		id := a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.Domain, r.ProductCode = tt.name, tt.product })
		var s *cas.DescribeCertificateStateResponse
		eventually(t, tt.name, func() bool { s = a.state(id); return s.Type == "certificate" || s.Type == "verify_fail" })
		if s.Type != tt.want {
			t.Errorf("%s by %s: %s, want %s", tt.name, tt.product, s.Type, tt.want)
		}
	}
	if err := a.SetConfig(func(c *cloudsim.Config) { c.IgnoreCAA = true }); err != nil {
		t.Fatal(err)
	}
	a.until(a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.Domain = "www.other.com" }), "certificate")
}

// TestCAALookFails has a name server that cannot say: no permission, until it can.
func TestCAALookFails(t *testing.T) {
	t.Parallel()
	n := startNameServer(t)
	cfg := quick()
	cfg.Resolver = n.addr
	a := startAli(t, cfg)
	id := a.mustOrder(nil)
	s := a.until(id, "domain_verify")
	n.breakAt("example.com")
	n.add(t, s.RecordDomain+`. 5 TXT "`+s.RecordValue+`"`)
	a.until(id, "process")
	eventually(t, "it is looked up again and again", func() bool { return n.failures() > 3 })
	if s := a.state(id); s.Type != "process" {
		t.Errorf("with CAA that cannot be looked up: %s", s.Type)
	}
	n.breakAt("")
	a.until(id, "certificate")
}

// TestStaticRecords asks for every type that a config may serve.
func TestStaticRecords(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Records = []cloudsim.StaticRecord{
		{Name: "example.com", Type: "CAA", Value: `0 issue "digicert.com"`}, {Name: "example.com.", Type: "NS", Value: "ns.example.net"},
		{Name: "Host.example.com", Type: "A", Value: "192.0.2.1"}, {Name: "host.example.com", Type: "aaaa", Value: "2001:db8::1"},
		{Name: "t.example.com", Type: "TXT", Value: `say "it"`}, {Name: "c.example.com", Type: "CNAME", Value: "host.example.com"},
	}
	a := startAli(t, cfg)
	for _, tt := range []struct {
		name string
		kind uint16
		want string
	}{
		{"example.com", dns.TypeCAA, "example.com.\t1\tIN\tCAA\t0 issue \"digicert.com\""},
		{"example.com", dns.TypeNS, "example.com.\t1\tIN\tNS\tns.example.net."},
		{"host.example.com", dns.TypeA, "host.example.com.\t1\tIN\tA\t192.0.2.1"},
		{"host.example.com", dns.TypeAAAA, "host.example.com.\t1\tIN\tAAAA\t2001:db8::1"},
		{"t.example.com", dns.TypeTXT, "t.example.com.\t1\tIN\tTXT\t\"say \\\"it\\\"\""},
		{"c.example.com", dns.TypeCNAME, "c.example.com.\t1\tIN\tCNAME\thost.example.com."},
	} {
		q := new(dns.Msg)
		q.SetQuestion(dns.Fqdn(tt.name), tt.kind)
		answer, err := dns.Exchange(q, a.DNSAddr())
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.Answer) != 1 || answer.Answer[0].String() != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, answer.Answer, tt.want)
		}
	}
}
