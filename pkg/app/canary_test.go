package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
)

// The secrets of the canary's world, of which every outsider repeats what it
// knows, and a few more.
const (
	canarySecret = `cloud/canary+secret="a"&%77`
	canaryToken  = `token/canary+of'a role'<b>%%`
	canaryHook   = `hook/canary+token=&%20x`
	canaryProg   = `program-canary+token/&%20y`
	canaryTSIG   = `tsigCanary+secret/ABC77A` // itself base64, as a name server wants it
	canaryNATS   = `nats-canary+password/&%20z`
)

// spelled are the forms in which a canary is looked for.
func spelled(secret string) map[string]string {
	quoted, _ := json.Marshal(secret)
	return map[string]string{
		"clear": secret, "JSON": strings.Trim(string(quoted), `"`), "base64": strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "="),
		"base64url": base64.RawURLEncoding.EncodeToString([]byte(secret)), "hex": hex.EncodeToString([]byte(secret)),
		"HEX": fmt.Sprintf("%X", secret), "query": url.QueryEscape(secret), "path": url.PathEscape(secret),
		// What is inside base64 of something longer, whatever stands before it.
		"inside base64": base64.StdEncoding.EncodeToString([]byte("x:" + secret))[4:20],
	}
}

// cage has the canaries and what was found of them.
type cage struct {
	t        *testing.T
	canaries map[string]string
}

func (c cage) search(where string, text []byte) {
	c.t.Helper()
	for name, secret := range c.canaries {
		for form, s := range spelled(secret) {
			if i := bytes.Index(text, []byte(s)); i >= 0 {
				c.t.Errorf("%s has %s in %s: …%s…", where, name, form, text[max(0, i-120):min(len(text), i+len(s)+40)])
			}
		}
	}
}

// streams searches every message of every stream.
func (c cage) streams(js jetstream.JetStream) {
	c.t.Helper()
	searched := 0
	for info := range js.ListStreams(c.t.Context()).Info() {
		s, err := js.Stream(c.t.Context(), info.Config.Name)
		if err != nil {
			c.t.Fatal(err)
		}
		for seq := info.State.FirstSeq; seq <= info.State.LastSeq; {
			m, err := s.GetMsg(c.t.Context(), seq, jetstream.WithGetMsgSubject(">"))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
			if err != nil {
				c.t.Fatal(err)
			}
			c.search(fmt.Sprintf("message %d of %s (%s)", m.Sequence, info.Config.Name, m.Subject), fmt.Appendf(m.Data, " %v %s", m.Header, m.Subject))
			seq, searched = m.Sequence+1, searched+1
		}
	}
	if searched < 10 {
		c.t.Errorf("only %d messages were searched", searched)
	}
}

// files searches what a run leaves on disk, but for where the secrets belong: the
// simulator's own books, the identity and the accounts' secrets.
func (c cage) files(dir string) {
	c.t.Helper()
	searched := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "cloudsim", d.Name() == "identity.age":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err == nil {
			searched++
			c.search(path, append(data, " "+path...))
		}
		return err
	})
	if err != nil || searched < 5 {
		c.t.Errorf("%d files searched, %v", searched, err)
	}
}

// talkative is a web service that repeats the token, and whatever else it found, in
// every answer; it places the records in the end.
func talkative(t *testing.T, sim *cloudsim.Sim, more ...string) *httptest.Server {
	var mu sync.Mutex
	asked := map[string]int{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Action, Type, Name, Value string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		mu.Lock()
		asked[in.Action+in.Name]++
		n := asked[in.Action+in.Name]
		mu.Unlock()
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		said := strings.Join(append(cloudsim.Spellings(token), more...), " ")
		if n < 3 { // the first time in the middle of what is kept
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, strings.Repeat("x", 490*(n%2))+said)
			return
		}
		if in.Action == "present" {
			if err := sim.SetConfig(func(c *cloudsim.Config) {
				c.Records = append(c.Records, cloudsim.StaticRecord{Name: in.Name, Type: in.Type, Value: in.Value})
			}); err != nil {
				t.Error(err)
			}
		}
		_, _ = io.WriteString(w, said)
	}))
	t.Cleanup(s.Close)
	return s
}

// talkativeProgram is a hook program that says what it knows on both its outputs, each
// time a little later in what is kept of it, and ends with the status of its argument.
func talkativeProgram(t *testing.T, said ...string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "program")
	script := `#!/bin/sh
n=$(cat "$0.n" 2>/dev/null || echo 0); echo $((n + 1)) > "$0.n"
cat "$0.said"; printf "%$((1 + n % 2 * 490))s" x >&2; cat "$0.said" >&2; echo "$CANARY_PROGRAM_TOKEN" >&2
exit $1
`
	err := errors.Join(os.WriteFile(path, []byte(script), 0o755), os.WriteFile(path+".said", []byte(strings.Join(said, "\n")+"\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// talkativeServer is a name server that has what it knows in every answer, where
// a text or a name can carry it, and lets nobody write: in taken.example a CNAME stands
// at every name, in other zones it refuses.
func talkativeServer(t *testing.T, key, secret string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	server := &dns.Server{Listener: l, TsigSecret: map[string]string{key: secret}, NotifyStartedFunc: func() { close(started) }}
	server.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
	server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m, asked := new(dns.Msg).SetReply(q), q.Question[0]
		m.Authoritative = true
		labels := dns.SplitDomainName(asked.Name)
		zone := dns.Fqdn(strings.Join(labels[max(0, len(labels)-2):], "."))
		header := func(name string, kind uint16) dns.RR_Header {
			return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 60}
		}
		text := &dns.TXT{Hdr: header(asked.Name, dns.TypeTXT), Txt: cloudsim.Spellings(secret)}
		switch {
		case q.Opcode == dns.OpcodeUpdate && zone == "taken.example.":
			m.Rcode = dns.RcodeYXRrset
		case q.Opcode == dns.OpcodeUpdate:
			m.Rcode, m.Extra = dns.RcodeRefused, []dns.RR{text}
		case asked.Qtype == dns.TypeSOA:
			m.Ns = []dns.RR{&dns.SOA{Hdr: header(zone, dns.TypeSOA), Ns: "ns." + zone, Mbox: hex.EncodeToString([]byte(secret)) + "." + zone, Minttl: 60}}
		case zone == "taken.example.":
			m.Answer = []dns.RR{&dns.CNAME{Hdr: header(asked.Name, dns.TypeCNAME), Target: hex.EncodeToString([]byte(secret)) + "." + zone}}
		default:
			m.Answer = []dns.RR{text}
		}
		if sign := q.IsTsig(); sign != nil {
			m.SetTsig(sign.Hdr.Name, sign.Algorithm, 300, time.Now().Unix())
		}
		_ = w.WriteMsg(m)
	})
	go func() { _ = server.ActivateAndServe() }() // ends with the test
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })
	return l.Addr().String()
}

// DESIGN 5, issue 18 point 12: what certmill knows as secret is in nothing that it
// stores or logs, whatever the clouds, web services and programs answer.
func TestNothingRepeatsASecret(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	sim := h.world.sim
	identity := func() string {
		if _, err := certstore.OpenIdentity(h.cfg.Keys.Identity); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(h.cfg.Keys.Identity)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if strings.HasPrefix(line, "AGE-SECRET-KEY") {
				return strings.TrimSpace(line)
			}
		}
		t.Fatal("no identity")
		return ""
	}()
	role := fewOf(cloudsim.Account{Cloud: "aliyun", UID: "500500", AccessKeyID: "LTAIcanary", CallerKind: "role", CallerID: "77", Token: canaryToken})
	further(t, h, "role", role, "500500")
	ten := cloudsim.Account{Cloud: "tencent", UID: "600600", AccessKeyID: "AKIDcanary", Certificates: []cloudsim.Certificate{{ID: "canary01"}, {ID: "canary02"}}}
	further(t, h, "ten", ten, "600600")
	for label, a := range map[string]cloudsim.Account{"role": role, "ten": ten} { // with secrets of their own
		a.Label, a.AccessKeySecret = label, canarySecret
		if err := sim.AddAccount(a); err != nil {
			t.Fatal(err)
		}
		h.edit(label, func(to *Account) {
			to.Secret = secretFile(t, canarySecret)
			if a.Token != "" {
				to.Token = secretFile(t, canaryToken)
			}
		})
	}
	h.only("role", "ten")
	hook := talkative(t, sim, identity)
	program := talkativeProgram(t, append(cloudsim.Spellings(canaryProg), identity, canarySecret)...)
	server := talkativeServer(t, "canary.", canaryTSIG)
	exec := func(status, zone string) Solver {
		return Solver{Kind: kindExec, Command: []string{program, status}, Env: []string{"CANARY_PROGRAM_TOKEN"}, Zones: []string{zone}, Timeout: 5 * time.Second}
	}
	h.cfg.DCV.Solvers = map[string]Solver{
		"hook":    {Kind: kindWebhook, URL: hook.URL + "/?key=" + url.QueryEscape(canaryHook), Zones: []string{"hook.example"}, Token: secretFile(t, canaryHook), Timeout: 5 * time.Second},
		"program": exec("75", "program.example"), "denied": exec("77", "denied.example"),
		"rfc2136": {Kind: kindRFC2136, Server: server, Key: "canary", Secret: secretFile(t, canaryTSIG), Zones: []string{"rfc.example", "taken.example"}, Timeout: 5 * time.Second},
	}
	if err := sim.SetConfig(func(c *cloudsim.Config) { c.Repeat, c.OddStates = true, 0.2 }); err != nil {
		t.Fatal(err)
	}
	for _, f := range []cloudsim.Fault{
		{Kind: "http_500", Action: "CreateCertificateForPackageRequest", Times: 1}, {Kind: "reset_after_commit", Action: "CertificateOrderSubmit", Times: 1},
		{Kind: "code_in_200", Action: "DescribeCertificate", Times: 2}, {Kind: "http_500", Action: "DescribeCertificateState", Times: 2},
		{Kind: "http_500", Action: "ListUserCertificateOrder", Times: 2}, {Kind: "http_500", Action: "AddDomainRecord", Times: 2},
		// The DNS services' own answers and refusals, as they are kept with an order.
		{Kind: "code_in_200", Action: "DescribeSubDomainRecords", Times: 2}, {Kind: "http_500", Action: "DeleteDomainRecord", Times: 2},
		{Kind: "http_500", Action: "CreateRecord", Times: 2}, {Kind: "http_500", Action: "DescribeRecordList", Times: 2}, {Kind: "http_500", Action: "DeleteRecord", Times: 2},
	} {
		if err := sim.AddFault(f); err != nil {
			t.Fatal(err)
		}
	}
	log := &logLines{}
	s := h.work(t, NewLogger(log, "debug"))
	s.hand(
		order.Request{ID: "own", Account: "role", Names: []string{"own.example.com"}},
		order.Request{ID: "ten", Account: "ten", Names: []string{"ten.example.com"}, Resource: order.AnyResource, Contact: simContact},
		order.Request{ID: "hook", Account: "role", Names: []string{"www.hook.example"}},
		order.Request{ID: "program", Account: "role", Names: []string{"www.program.example"}},
		order.Request{ID: "denied", Account: "role", Names: []string{"www.denied.example"}},
		order.Request{ID: "rfc", Account: "role", Names: []string{"www.rfc.example"}},
		order.Request{ID: "taken", Account: "role", Names: []string{"www.taken.example"}},
		order.Request{ID: "refused", Account: "role", Names: []string{"a.example.com"}, Product: "cfca-ev-w-advanced"},
		order.Request{ID: "review", Account: "role", Names: []string{"x.refused.example"}},
	)
	for _, id := range []string{"own", "ten", "hook"} {
		s.await(id, order.Issued)
	}
	eventually(t, "the program's order fails", func() bool {
		it, err := s.console.Find(t.Context(), "program")
		return err == nil && it.Retries > 0 && strings.Contains(fmt.Sprint(it.Timeline), "[redacted]")
	})
	for _, id := range []string{"denied", "rfc", "taken"} {
		eventually(t, id+" is refused by its solver, which says more than it should", func() bool {
			it, err := s.console.Find(t.Context(), id)
			told := it.Failure != nil && strings.Contains(it.Failure.Reason, redact.Mark) || strings.Contains(fmt.Sprint(it.Hold, it.Timeline), redact.Mark)
			return err == nil && it.CloudID != "" && (told || id == "rfc" && (it.State == order.Held || it.State == order.Failed))
		})
	}
	eventually(t, "the refused ones end", func() bool {
		a, errA := s.console.Find(t.Context(), "refused")
		b, errB := s.console.Find(t.Context(), "review")
		return errors.Join(errA, errB) == nil && a.State != order.Submit && (b.State == order.Failed || b.State == order.Held)
	})
	dns := calls(sim, "600600")
	if calls(sim, "500500")["AddDomainRecord"] < 3 || dns["CreateRecord"] < 3 {
		t.Errorf("the DNS services were not asked again: %v", dns)
	}
	stuck, err := s.another().Stuck(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	c := cage{t, map[string]string{"the cloud's secret": canarySecret, "the cloud's token": canaryToken, "the hook's token": canaryHook,
		"the program's token": canaryProg, "the TSIG secret": canaryTSIG, "the identity": identity}}
	c.search("stuck", fmt.Appendf(nil, "%+v", stuck))
	c.streams(s.console.js)
	s.end()
	c.search("the log", log.buf.Bytes())
	if !strings.Contains(log.buf.String(), "[redacted]") {
		t.Error("nothing was there to be taken out: the clouds repeat nothing")
	}
	c.files(h.cfg.State)
	c.files(h.cfg.Deliver.Directory)
}

// talkativeNATS is a server that repeats the password with which it lets nobody in:
// where somebody connects, or later, in an error of its own.
func talkativeNATS(t *testing.T, later bool, said string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	serve := func(c net.Conn) {
		defer c.Close()
		_, _ = io.WriteString(c, `INFO {"server_id":"X","version":"2.11.0","proto":1,"headers":true,"max_payload":1048576,"auth_required":true}`+"\r\n")
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			switch {
			case err != nil:
				return
			case !strings.HasPrefix(line, "PING"):
			case later:
				_, _ = io.WriteString(c, "PONG\r\n-ERR 'Permissions Violation for Publish to \""+said+"\"'\r\n-ERR 'it says "+said+"'\r\n")
			default:
				_, _ = io.WriteString(c, "-ERR 'it says "+said+"'\r\n")
				return
			}
		}
	}
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return "nats://" + l.Addr().String()
}

// What a NATS server says of why it lets nobody in repeats no secret: in the log, in
// what check and plan could not look at, in the error of a command, and for the probes.
func TestNATSRepeatsNoSecret(t *testing.T) {
	t.Parallel()
	said := strings.Join(cloudsim.Spellings(canaryNATS), " ")
	cage := cage{t, map[string]string{"the password": canaryNATS}}
	for _, later := range []bool{false, true} {
		c := at(talkativeNATS(t, later, said), 1)
		c.NATS.User, c.NATS.Password = Operator, secretFile(t, canaryNATS)
		log := &logLines{}
		_, err := OpenConsole(t.Context(), c, NewLogger(log, "debug"))
		if err == nil || !later && !strings.Contains(err.Error(), redact.Mark) { // later, the connection may just be gone
			t.Errorf("nothing was there to be taken out: %v", err)
		}
		cage.search("the console's error", fmt.Appendf(nil, "%v %+v", err, err))
		b, err := LookUp(t.Context(), c, NewLogger(log, "debug"), Batch{Requests: []order.Request{{ID: "x", Names: []string{"www.x.example"}}}})
		cage.search("check", fmt.Appendf(nil, "%s %v", b.Blind, err))
		p, err := MakePlan(t.Context(), c, NewLogger(log, "debug"), Batch{}, PlanOptions{NoDNS: true, Within: time.Second})
		cage.search("plan", fmt.Appendf(nil, "%v %v", p.NotLookedAt, err))
		_, err = Init(t.Context(), c, NewLogger(log, "debug"))
		cage.search("init", fmt.Append(nil, err))
		cage.search("the log", log.buf.Bytes())
	}
	var h health
	h.troubles.log = quiet
	h.troubles.set(t.Context(), refusesPrefix+"ORDERS", refuses("ORDERS", "the server says "+said, time.Now()))
	cage.search("the probes", []byte(h.why()))
	if !strings.Contains(h.why(), redact.Mark) {
		t.Errorf("nothing was there to be taken out: %s", h.why())
	}
}

func secretFile(t *testing.T, secret string) Ref {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Ref("file:" + path)
}

// talkativeSink repeats a secret, as where it delivered and as what went wrong.
type talkativeSink struct{ secret string }

func (s talkativeSink) Deliver(context.Context, certstore.Delivery) (string, error) {
	return "https://vault/" + s.secret, fmt.Errorf("refused %s: %w", s.secret, io.ErrUnexpectedEOF)
}

func TestSinksRepeatNoSecret(t *testing.T) {
	t.Setenv("CANARY_SINK", canaryHook)
	if _, err := Ref("env:CANARY_SINK").read(); err != nil {
		t.Fatal(err)
	}
	where, err := plainSink{talkativeSink{canaryHook}}.Deliver(t.Context(), certstore.Delivery{})
	if strings.Contains(where+err.Error(), canaryHook) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%s, %v", where, err)
	}
}
