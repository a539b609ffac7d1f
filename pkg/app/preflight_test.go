package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// foreignDNS is a real name server beside the simulated clouds' one: every name
// exists but those of gone.cn, and shut.cn lets another CA issue.
func foreignDNS(t *testing.T) string {
	t.Helper()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	server := &dns.Server{PacketConn: udp, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Authoritative = true
		name := strings.ToLower(q.Question[0].Name)
		switch {
		case dns.IsSubDomain("gone.cn.", name):
			m.Rcode = dns.RcodeNameError
		case name == "shut.cn." && q.Question[0].Qtype == dns.TypeCAA:
			rr, _ := dns.NewRR(`shut.cn. 60 IN CAA 0 issue "letsencrypt.org"`)
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })
	return udp.LocalAddr().String()
}

// linesOf are a plan's findings, one line each.
func linesOf(p Plan) []string {
	var out []string
	for _, f := range p.Findings {
		out = append(out, fmt.Sprintf("%s %s %d: %s", f.Level, f.Kind, len(f.Orders), f.What))
	}
	return out
}

// batchFile writes an order file and reads it as the command does.
func batchFile(t *testing.T, lines ...string) Batch {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shop.jsonl")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := ReadFiles("", path)
	if err != nil || len(b.Bad) > 0 {
		t.Fatalf("%+v, %v", b.Bad, err)
	}
	return b
}

// TestPlan is pre-flight in one test: a batch with something of everything, held
// against a running installation.
func TestPlan(t *testing.T) {
	t.Parallel()
	console, js, dir := serving(t)
	if _, err := pipeline.Publish(t.Context(), js, "orders.new", []byte(`{"id":"first","names":["www.done.cn"],"account":"aliyun-1","batch":"shop"}`)); err != nil {
		t.Fatal(err)
	}
	if it := ended(t, console, "first"); it.State != order.Issued {
		t.Fatalf("the first order is %s: %s", it.State, Why(it.Order))
	}

	one := func(id, name, more string) string {
		return fmt.Sprintf(`{"id":%q,"names":[%q],"account":"aliyun-1"%s}`, id, name, more)
	}
	lines := []string{one("first", "www.done.cn", ""), one("dup", "www.done.cn", `,"key":"rsa-2048","again":true`), one("gone", "www.gone.cn", ""), one("odd", "pay.fine.cn", ""),
		`{"id":"nobody","names":["a.fine.cn"],"account":"aliyun-9"}`}
	for i := range 12 {
		lines = append(lines, one(fmt.Sprint("shut-", i), fmt.Sprintf("h%d.shut.cn", i), ""))
	}
	for i := range 21 {
		lines = append(lines, one(fmt.Sprint("free-", i), fmt.Sprintf("www.gratis%d.cn", i), `,"product":"digicert-free-1-free"`))
	}
	batch := batchFile(t, lines...)

	cfg, err := Load(filepath.Join(dir, "state", ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	cfg.DCV.Resolvers = []string{foreignDNS(t)}
	cfg.DCV.Servers = cfg.DCV.Resolvers
	log := NewLogger(io.Discard, "error")
	plan, err := MakePlan(t.Context(), cfg, log, batch, PlanOptions{Within: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"error caa 12: CAA of shut.cn forbids digicert.com",
		"error no-domain 1: the domain gone.cn does not exist",
		"error quota 1: product digicert-free-1-free has 20 left on account aliyun-1, and 21 are ordered",
		"warning duplicate 2: another order of this batch has the same names",
		"warning duplicate 1: a valid certificate for exactly these names exists, and is not due for renewal",
		`warning words 1: the word "pay" is in the names, at which CAs are known to refuse DV certificates or to review them by hand`,
		"advice packing 12: they could be 3 of up to 5 names each: names of shut.cn",
	}
	if got := linesOf(plan); !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if n := plan.Failing(); n != 14 || len(plan.NotLookedAt) > 0 {
		t.Errorf("%d orders would fail, not looked at: %v", n, plan.NotLookedAt)
	}
	if len(plan.BadLines) != 1 || plan.BadLines[0].Line != 5 || !strings.Contains(plan.BadLines[0].Why, `no account "aliyun-9"`) {
		t.Errorf("bad lines %+v", plan.BadLines)
	}
	packed, err := plan.Packed()
	if err != nil || len(packed) != len(batch.Requests)-10 {
		t.Errorf("%d packed orders of %d, %v", len(packed), len(batch.Requests), err)
	}
	unchanged(t, js, console)

	t.Run("no DNS", func(t *testing.T) {
		plan, err := MakePlan(t.Context(), cfg, log, batch, PlanOptions{NoDNS: true, Within: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if got := linesOf(plan); len(got) != len(want)-2 || slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "caa") }) {
			t.Errorf("got\n%s", strings.Join(got, "\n"))
		}
	})
	t.Run("no server", func(t *testing.T) {
		cfg := cfg
		cfg.NATS.URL = ""
		plan, err := MakePlan(t.Context(), cfg, log, batch, PlanOptions{Within: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if len(plan.NotLookedAt) != 1 || !strings.HasPrefix(plan.NotLookedAt[0], "quota, valid certificates") {
			t.Errorf("not looked at: %q", plan.NotLookedAt)
		}
		got := linesOf(plan)
		if !slices.Contains(got, want[0]) || !slices.Contains(got, want[1]) || slices.ContainsFunc(plan.Findings, func(f preflight.Finding) bool { return f.Kind == preflight.Quota }) {
			t.Errorf("got\n%s", strings.Join(got, "\n"))
		}
		if _, err := plan.Packed(); !errors.Is(err, ErrBlind) {
			t.Errorf("packed blindly: %v", err)
		}
	})
	t.Run("rights", func(t *testing.T) { rightsAreTold(t, console, js, cfg) })
	t.Run("for machines", func(t *testing.T) {
		data, err := json.Marshal(plan)
		if err != nil {
			t.Fatal(err)
		}
		var read struct {
			Steps    []Step              `json:"steps"`
			Findings []preflight.Finding `json:"findings"`
		}
		if err := json.Unmarshal(data, &read); err != nil || len(read.Findings) != len(want) || len(read.Findings[0].Orders) != 12 || read.Findings[0].Do == "" || len(read.Steps) == 0 {
			t.Errorf("%v: %s", err, data)
		}
	})
}

// rightsAreTold: what is known of an account's rights in a zone is said by all who
// look.
func rightsAreTold(t *testing.T, console *Console, js jetstream.JetStream, cfg Config) {
	states, err := account.Look(t.Context(), js, 1, quiet)
	if err != nil {
		t.Fatal(err)
	}
	main := cfg.Accounts["aliyun-1"].Main
	if main == "" {
		main = console.states.Mains()[0]
	}
	k := account.ZoneKey{Main: main, Label: "aliyun-1", Zone: "norights.cn"}
	is := account.Refusal{Order: "first", Host: "_dnsauth.www.norights.cn", Why: "may not", At: time.Now().UTC()}
	_, _, err = states.ChangeZone(t.Context(), k, func(z *account.Zone) bool {
		z.Refused = map[string]account.Refusal{"TXT": is}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	const what = "the TXT record of a challenge in the zone norights.cn was refused to account aliyun-1"
	if _, err := states.TellZone(t.Context(), k, account.Trouble{What: what, Helps: "give it the right", Last: time.Now().UTC()}); err != nil {
		t.Fatal(err)
	}
	batch := batchFile(t, `{"id":"n","names":["www.norights.cn"],"account":"aliyun-1"}`, `{"id":"o","names":["www.other.cn"],"account":"aliyun-1"}`,
		`{"id":"f","names":["f.norights.cn"],"account":"aliyun-1","validation":"FILE"}`)
	plan, err := MakePlan(t.Context(), cfg, quiet, batch, PlanOptions{Within: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if got := linesOf(plan); len(got) < 1 || got[0] != "error rights 1: "+what || plan.Failing() != 1 || strings.Count(strings.Join(got, "\n"), "norights") != 1 {
		t.Errorf("plan: %q", got)
	}
	checked, err := LookUp(t.Context(), cfg, quiet, batch)
	if err != nil || len(checked.Findings) != 1 || checked.Findings[0].What != what || !slices.Equal(checked.Findings[0].Orders, []string{"n"}) {
		t.Errorf("check: %+v, %v", checked.Findings, err)
	}
	fresh, err := OpenConsole(t.Context(), cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	status, err := fresh.Status(t.Context())
	if err != nil || !slices.ContainsFunc(status.Accounts, func(a AccountStatus) bool { return len(a.Troubles) == 1 && a.Troubles[0].What == what }) {
		t.Errorf("status: %+v, %v", status.Accounts, err)
	}
	stuck, err := fresh.Stuck(t.Context(), 0)
	if err != nil || !slices.ContainsFunc(stuck.Groups, func(g StuckGroup) bool { return strings.Contains(g.Cause, "DNS rights of aliyun-1 in norights.cn") }) {
		t.Errorf("stuck: %+v, %v", stuck.Groups, err)
	}
}

// unchanged: a plan hands nothing in.
func unchanged(t *testing.T, js jetstream.JetStream, c *Console) {
	t.Helper()
	counts, err := c.line.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, n := range counts {
		total += n
	}
	if total != 1 {
		t.Errorf("orders after a plan: %v", counts)
	}
}

// TestPreflightSetting: the setting reaches the submitters, and nonsense is
// refused.
func TestPreflightSetting(t *testing.T) {
	c, err := Parse([]byte("preflight: hold\n"))
	if err != nil || c.Preflight != flightHold {
		t.Fatalf("%q, %v", c.Preflight, err)
	}
	if c, err := Parse([]byte("preflight: off\n")); err != nil || c.Preflight != flightOff {
		t.Errorf("%q, %v", c.Preflight, err)
	}
	if _, err := Parse([]byte("preflight: maybe\n")); err == nil || !strings.Contains(err.Error(), `preflight is "maybe": write off, warn or hold`) {
		t.Errorf("%v", err)
	}
	for setting, want := range map[string]string{flightOff: "nothing", flightWarn: "tells", flightHold: "holds"} {
		c.Preflight, c.DCV.Resolvers = setting, []string{"127.0.0.1:5353"}
		looker, err := newLooker(c.DCV)
		if err != nil {
			t.Fatal(err)
		}
		s := &session{Process: &Process{cfg: c, looker: looker}}
		got := "nothing"
		if f := s.flight(); f != nil {
			got = map[bool]string{false: "tells", true: "holds"}[f.Hold]
		}
		if got != want {
			t.Errorf("preflight: %s: it %s", setting, got)
		}
	}
}
