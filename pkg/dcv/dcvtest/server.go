package dcvtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
)

// The keys of the name servers. The first may write TXT and CNAME records, the
// other everything.
const (
	Key       = "certmill-test"
	Secret    = "bm90IGEgc2VjcmV0OiB0aGUga2V5IG9mIGEgdGVzdC4="
	owner     = "owner"
	ownersKey = "bm90IGEgc2VjcmV0OiB0aGUgb3duZXIncyBrZXkuLi4="
)

// NameServer is a real one on a loopback address, with a few zones:
// example.com, dev.example.com below it, example.co.uk and xn--fiqs8s.example.
// example.com delegates away.example.com to somebody else.
type NameServer struct {
	Addr string // host:port, UDP and TCP
}

var zoneNames = []string{"example.com", "dev.example.com", "example.co.uk", "xn--fiqs8s.example"}

const zoneFile = `$TTL 300
@ IN SOA ns1 hostmaster 1 3600 600 86400 60
@ IN NS ns1
ns1 IN A 127.0.0.1
{{if eq . "example.com"}}dev IN NS ns1
away IN NS ns.example.net.
{{end}}`

const bindConfig = `options {
  directory "{{.Dir}}"; pid-file none; session-keyfile "{{.Dir}}/session.key";
  listen-on port {{.Port}} { 127.0.0.1; }; listen-on-v6 { none; };
  recursion no; notify no; dnssec-validation no; allow-query { any; };
  allow-transfer { key "owner"; }; tcp-clients 1000;
};
controls { };
key "certmill-test" { algorithm hmac-sha256; secret "{{.Secret}}"; };
key "owner" { algorithm hmac-sha256; secret "{{.Owner}}"; };
{{range .Zones}}zone "{{.}}" { type primary; file "{{.}}.zone"; max-journal-size 100m;
  update-policy { grant certmill-test zonesub TXT CNAME; grant owner zonesub ANY; }; };
{{end}}`

const knotConfig = `server:
    rundir: {{.Dir}}
    listen: 127.0.0.1@{{.Port}}
    tcp-max-clients: 1000
log:
  - target: stderr
    any: warning
database:
    storage: {{.Dir}}
key:
  - id: certmill-test
    algorithm: hmac-sha256
    secret: {{.Secret}}
  - id: owner
    algorithm: hmac-sha256
    secret: {{.Owner}}
acl:
  - id: challenges
    key: certmill-test
    action: update
    update-type: [TXT, CNAME]
  - id: everything
    key: owner
    action: [update, transfer]
template:
  - id: default
    storage: {{.Dir}}
    file: "%s.zone"
    acl: [challenges, everything]
zone:
{{range .Zones}}  - domain: {{.}}
{{end}}`

// BIND starts a named for the test, or skips the test.
func BIND(t *testing.T) *NameServer {
	return start(t, "named", "bind9", bindConfig, func(conf string) []string { return []string{"-g", "-n", "1", "-c", conf} })
}

// Knot starts a knotd for the test, or skips the test.
func Knot(t *testing.T) *NameServer {
	return start(t, "knotd", "knot", knotConfig, func(conf string) []string { return []string{"-c", conf} })
}

func start(t *testing.T, program, pack, config string, args func(conf string) []string) *NameServer {
	t.Helper()
	path, err := find(program)
	if err != nil {
		t.Skipf("%s is not installed (apt-get install %s): nothing was shown about it", program, pack)
	}
	dir := t.TempDir()
	for range 5 { // another process may take the port meanwhile
		port := freePort(t)
		conf := write(t, dir, config, port)
		s := &NameServer{Addr: fmt.Sprintf("127.0.0.1:%d", port)}
		if s.run(t, path, args(conf)) {
			return s
		}
	}
	t.Fatalf("%s does not answer", program)
	return nil
}

// find looks where Debian puts daemons, too.
func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + program)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// write writes the config and the zones.
func write(t *testing.T, dir, config string, port int) (conf string) {
	t.Helper()
	fill := func(name, text string, data any) string {
		var b bytes.Buffer
		if err := template.Must(template.New(name).Parse(text)).Execute(&b, data); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, zone := range zoneNames {
		fill(zone+".zone", zoneFile, zone)
	}
	return fill("server.conf", config, map[string]any{"Dir": dir, "Port": port, "Secret": Secret, "Owner": ownersKey, "Zones": zoneNames})
}

// run starts the daemon in the foreground and waits until it serves the zones.
// It ends with the test.
func (s *NameServer) run(t *testing.T, path string, args []string) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	var said safeBuffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	stop := func() { cancel(); <-exited }
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if s.serves() {
			t.Cleanup(func() {
				stop()
				if t.Failed() {
					t.Logf("%s said: %s", path, said.tail())
				}
			})
			return true
		}
		select {
		case <-exited:
			cancel()
			t.Logf("%s ended: %s", path, said.tail())
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	stop()
	t.Logf("%s does not answer: %s", path, said.tail())
	return false
}

func (s *NameServer) serves() bool {
	for _, zone := range zoneNames {
		m, err := dns.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(zone), dns.TypeSOA), s.Addr)
		if err != nil || m.Rcode != dns.RcodeSuccess || !m.Authoritative {
			return false
		}
	}
	return true
}

// Content is the zone as a transfer shows it, sorted, without what the server
// itself writes: SOA, whose serial rises with every update.
func (s *NameServer) Content(t *testing.T, zone string) []string {
	t.Helper()
	q := new(dns.Msg)
	q.SetAxfr(dns.Fqdn(zone))
	q.SetTsig(owner+".", dns.HmacSHA256, 300, time.Now().Unix())
	parts, err := (&dns.Transfer{TsigSecret: map[string]string{owner + ".": ownersKey}}).In(q, s.Addr)
	if err != nil {
		t.Fatalf("transfer of %s: %v", zone, err)
	}
	var all []string
	for part := range parts {
		if part.Error != nil {
			t.Fatalf("transfer of %s: %v", zone, part.Error)
		}
		for _, rr := range part.RR {
			if _, soa := rr.(*dns.SOA); !soa {
				all = append(all, strings.ReplaceAll(rr.String(), "\t", " "))
			}
		}
	}
	slices.Sort(all)
	return all
}

// Serial is the zone's: each update that changes something raises it by one.
func (s *NameServer) Serial(t *testing.T, zone string) int {
	t.Helper()
	m, err := dns.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(zone), dns.TypeSOA), s.Addr)
	if err != nil || len(m.Answer) != 1 {
		t.Fatalf("SOA of %s: %v", zone, err)
	}
	return int(m.Answer[0].(*dns.SOA).Serial)
}

// Put adds a record as the zone's owner would.
func (s *NameServer) Put(t *testing.T, zone, name, kind, value string) {
	t.Helper()
	if kind == dcv.TXT {
		value = fmt.Sprintf("%q", value)
	} else if kind == dcv.CNAME {
		value = dns.Fqdn(value)
	}
	s.Update(t, zone, fmt.Sprintf("%s 300 IN %s %s", dns.Fqdn(name), kind, value))
}

// Update adds records in their presentation form.
func (s *NameServer) Update(t *testing.T, zone string, records ...string) {
	t.Helper()
	u := new(dns.Msg)
	u.SetUpdate(dns.Fqdn(zone))
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			t.Fatal(err)
		}
		u.Insert([]dns.RR{rr})
	}
	u.SetTsig(owner+".", dns.HmacSHA256, 300, time.Now().Unix())
	c := dns.Client{Net: "tcp", TsigSecret: map[string]string{owner + ".": ownersKey}}
	m, _, err := c.Exchange(u, s.Addr)
	if err != nil || m.Rcode != dns.RcodeSuccess {
		t.Fatalf("update of %s: %v, %v", zone, err, m)
	}
}

// safeBuffer collects what a daemon says.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) tail() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := s.b.String()
	return said[max(0, len(said)-2000):]
}
