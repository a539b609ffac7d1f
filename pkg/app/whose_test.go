package app

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// newHouse is a server and simulated clouds, without workers.
func newHouse(t *testing.T) *house {
	t.Helper()
	c := inDir(t.TempDir())
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	c.Keys.Identity = filepath.Join(c.State, "identity.age")
	h, err := openHouse(t.Context(), c, NewLogger(io.Discard, "error"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.close() })
	return h
}

// only leaves some accounts in the config.
func (h *house) only(labels ...string) {
	kept := map[string]Account{}
	for _, label := range labels {
		kept[label] = h.cfg.Accounts[label]
	}
	h.cfg.Accounts = kept
}

// edit changes an account of the config.
func (h *house) edit(label string, f func(*Account)) {
	a := h.cfg.Accounts[label]
	f(&a)
	h.cfg.Accounts = maps.Clone(h.cfg.Accounts)
	h.cfg.Accounts[label] = a
}

// shift is workers that run until the test ends them, and a console.
type shift struct {
	t       *testing.T
	h       *house
	p       *Process
	console *Console
	end     func()
}

// work starts all three workers, of a process that is edited.
func (h *house) work(t *testing.T, log *slog.Logger, edits ...func(*Process)) *shift {
	t.Helper()
	p, err := NewProcess(h.workers(), "test", true, log, order.Roles...)
	if err != nil {
		t.Fatal(err)
	}
	for _, edit := range edits {
		edit(p)
	}
	ctx, stop := context.WithCancel(t.Context())
	worked := make(chan error, 1)
	go func() { worked <- p.Run(ctx, order.Roles...) }()
	console, err := OpenConsole(t.Context(), h.cfg, NewLogger(io.Discard, "error"))
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	s := &shift{t: t, h: h, p: p, console: console, end: func() {
		if ended {
			return
		}
		ended = true
		stop()
		if err := <-worked; err != nil {
			t.Error(err)
		}
		console.Close()
	}}
	t.Cleanup(s.end)
	return s
}

// another is a console that looks anew: each reads the accounts' states once.
func (s *shift) another() *Console {
	s.t.Helper()
	c, err := OpenConsole(s.t.Context(), s.h.cfg, NewLogger(io.Discard, "error"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

// hand publishes orders.
func (s *shift) hand(requests ...order.Request) {
	s.t.Helper()
	if _, err := s.console.handIn(s.t.Context(), requests, false); err != nil {
		s.t.Fatal(err)
	}
}

// await waits until an order is somewhere.
func (s *shift) await(id string, state order.State) pipeline.Item {
	s.t.Helper()
	var it pipeline.Item
	eventually(s.t, id+" is "+string(state), func() bool {
		var err error
		it, err = s.console.Find(s.t.Context(), id)
		return err == nil && it.State == state
	})
	return it
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(natstest.Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("timed out: %s", what)
}

// probe asks the process's readiness as Kubernetes does.
func (s *shift) probe() (int, string) {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.p.readyz(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	return w.Code, w.Body.String()
}

// calls are those of a main account, by action, but for the question whose it is.
func calls(sim *cloudsim.Sim, uid string) map[string]int {
	all := map[string]int{}
	for _, c := range sim.Report().Calls {
		if c.UID == uid && !strings.Contains(c.Action, "GetCallerIdentity") && !strings.Contains(c.Action, "GetUserAppId") {
			all[c.Action] += c.Calls
		}
	}
	return all
}

func fewOf(a cloudsim.Account) cloudsim.Account {
	a.Products = map[string]int{"symantec-dv-1-starter": 50}
	return a
}

// DESIGN 12.7: a difference stops that account only, and nothing is called with
// it; it is told everywhere, with what to write, and ends once that was written.
func TestAnotherMainAccountStopsTheAccount(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	further(t, h, "stray", fewOf(cloudsim.Account{Cloud: "aliyun", UID: "400400", AccessKeyID: "LTAIstray"}), "400999")
	h.only("aliyun-1", "stray")
	log := &logLines{}
	s := h.work(t, NewLogger(log, "warn"))
	s.hand(order.Request{ID: "lost", Account: "stray", Names: []string{"lost.example.com"}},
		order.Request{ID: "own", Account: "aliyun-1", Names: []string{"own.example.com"}})
	s.await("own", order.Issued)
	lost := s.await("lost", order.Submit)
	if got := calls(h.world.sim, "400400"); len(got) > 0 {
		t.Errorf("called with a stopped account: %v", got)
	}
	const sentence = `write main: "400400" for accounts.stray, or the key of 400999`
	if n := log.with("write main: ", "400400", "for accounts.stray, or the key of 400999"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.buf.String())
	}
	console := s.another()
	e, err := console.Explain(t.Context(), lost)
	if err != nil || !strings.Contains(e.Blocker, sentence) {
		t.Errorf("its order is explained by %q, %v", e.Blocker, err)
	}
	stuck, err := console.Stuck(t.Context(), time.Hour)
	if err != nil || len(stuck.Groups) != 1 || !strings.Contains(stuck.Groups[0].Example.Blocker, sentence) {
		t.Errorf("stuck: %+v, %v", stuck.Groups, err)
	}
	if code, body := s.probe(); code != http.StatusOK || !strings.HasPrefix(body, "ready\n") || !strings.Contains(body, sentence) {
		t.Errorf("readyz: %d %q", code, body)
	}
	s.end()

	h.edit("stray", func(a *Account) { a.Main = "400400" })
	s = h.work(t, NewLogger(io.Discard, "error"))
	if it := s.await("lost", order.Issued); it.Main != "400400" {
		t.Errorf("issued at %s", it.Main)
	}
	console = s.another()
	status, err := console.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range status.Accounts {
		if strings.Contains(a.State, "stopped") {
			t.Errorf("%s: %s", a.Label, a.State)
		}
	}
	if stuck, err := console.Stuck(t.Context(), time.Hour); err != nil || len(stuck.Groups) > 0 {
		t.Errorf("still stuck: %+v, %v", stuck.Groups, err)
	}
}

// Where all accounts are stopped the process is not ready.
func TestNoAccountIsReady(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	further(t, h, "stray", fewOf(cloudsim.Account{Cloud: "aliyun", UID: "400400", AccessKeyID: "LTAIstray"}), "400999")
	h.only("stray")
	s := h.work(t, NewLogger(io.Discard, "error"))
	eventually(t, "not ready", func() bool {
		code, body := s.probe()
		return code == http.StatusServiceUnavailable && strings.Contains(body, "accounts.stray")
	})
}

// DESIGN 12.7: an account is who the cloud says it is: a missing main account is
// filled in, before anything goes by it: two labels with one key share one ring and
// one ledger.
func TestMainIsFilledIn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.only("aliyun-1")
	uid := h.cfg.Accounts["aliyun-1"].Main
	h.edit("aliyun-1", func(a *Account) { a.Main = "" })
	h.edit("twin", func(a *Account) { *a = h.cfg.Accounts["aliyun-1"] })
	if err := h.cfg.check(); err != nil {
		t.Fatal(err)
	}
	s := h.work(t, NewLogger(io.Discard, "error"))
	var wanted []order.Request
	for _, label := range []string{"aliyun-1", "twin"} {
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
			id := label + "-" + name
			wanted = append(wanted, order.Request{ID: id, Account: label, Names: []string{id + ".example.com"}})
		}
	}
	s.hand(wanted...)
	for _, r := range wanted {
		if it := s.await(r.ID, order.Issued); it.Main != uid {
			t.Errorf("%s: main account %q, want %q", r.ID, it.Main, uid)
		}
	}
	for _, c := range h.world.sim.Report().Calls {
		if c.UID == uid && c.Violations > 0 {
			t.Errorf("%s: %d calls beyond %d a second", c.Action, c.Violations, c.Limit)
		}
	}
	// A console whose config leaves it out too knows it from the workers.
	console := s.another()
	if main, err := console.main(t.Context(), "twin"); err != nil || main != uid {
		t.Errorf("the console knows %q, %v", main, err)
	}
	if mains := console.states.Mains(); len(mains) != 1 {
		t.Errorf("states of %v", mains)
	}
}

// DESIGN 12.7: a difference stops that account only. One that names no main account
// works, although another one has its key and names a main account that is not the
// key's.
func TestMainThatIsFilledInStopsNobodyElse(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.only("aliyun-1", "aliyun-2")
	wrong := h.cfg.Accounts["aliyun-2"].Main
	h.edit("aliyun-1", func(a *Account) { a.Main = "" })
	h.edit("aliyun-2", func(a *Account) {
		key := h.cfg.Accounts["aliyun-1"]
		a.KeyID, a.Secret = key.KeyID, key.Secret
	})
	s := h.work(t, NewLogger(io.Discard, "error"))
	s.hand(order.Request{ID: "waits", Account: "aliyun-2", Names: []string{"waits.example.com"}},
		order.Request{ID: "goes", Account: "aliyun-1", Names: []string{"goes.example.com"}})
	s.await("goes", order.Issued)
	console := s.another()
	eventually(t, "told", func() bool {
		status, err := console.Status(t.Context())
		return err == nil && slices.ContainsFunc(status.Accounts, func(a AccountStatus) bool {
			return a.Label == "aliyun-2" && strings.Contains(a.State, "is stopped: the config says main account "+wrong)
		})
	})
	if _, err := console.reach(); err != nil {
		t.Errorf("the console cannot call any cloud: %v", err)
	}
}

// An account whose main account nobody knows waits, with its orders; the others go
// on, and it begins once its cloud has answered.
func TestMainThatNobodyTells(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.only("aliyun-1", "tencent-1")
	h.edit("aliyun-1", func(a *Account) { a.Main = "" })
	sim := h.world.sim
	if err := sim.AddFault(cloudsim.Fault{Cloud: "aliyun", Action: "GetCallerIdentity", Kind: "http_502_html"}); err != nil {
		t.Fatal(err)
	}
	log := &logLines{}
	s := h.work(t, NewLogger(log, "warn"), func(p *Process) { p.askEvery = 200 * time.Millisecond })
	s.hand(order.Request{ID: "waits", Account: "aliyun-1", Names: []string{"waits.example.com"}},
		order.Request{ID: "goes", Account: "tencent-1", Names: []string{"goes.example.com"}, Resource: order.AnyResource, Contact: simContact})
	s.await("goes", order.Issued)
	if n := log.with("ERROR", "names no main account", "write accounts.aliyun-1.main"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.buf.String())
	}
	if it := s.await("waits", order.Submit); it.Main != "" || it.Attempt != 0 || len(it.Timeline) > 1 {
		t.Errorf("an order of an account of which nobody knows the ledger was worked on: %+v", it.Timeline)
	}
	sim.ClearFaults()
	s.await("waits", order.Issued)
}

// A cloud that does not know the question cannot fill in what the config leaves
// out: it says what to write.
func TestMainOfASilentCloud(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.only("aliyun-1", "tencent-1")
	h.edit("tencent-1", func(a *Account) { a.Main = "" })
	if err := h.world.sim.SetConfig(func(c *cloudsim.Config) {
		c.Unknown = []string{"tencent/GetCallerIdentity", "tencent/GetUserAppId"}
	}); err != nil {
		t.Fatal(err)
	}
	log := &logLines{}
	s := h.work(t, NewLogger(log, "warn"))
	s.hand(order.Request{ID: "own", Account: "aliyun-1", Names: []string{"own.example.com"}})
	s.await("own", order.Issued)
	if n := log.with("does not say whose its key is", "write accounts.tencent-1.main and start again"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.buf.String())
	}
	if code, body := s.probe(); code != http.StatusOK || !strings.Contains(body, "accounts.tencent-1.main") {
		t.Errorf("readyz: %d %q", code, body)
	}
}

// A cloud that does not answer leaves an account whose key is the one of which it
// has spoken; with another key the account waits, for that may be anybody's.
func TestAnotherKeyWaitsForTheAnswer(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	further(t, h, "clerk", fewOf(cloudsim.Account{Cloud: "aliyun", UID: "300300", AccessKeyID: "LTAIclerk"}), "300300")
	h.only("clerk", "aliyun-1")
	s := h.work(t, NewLogger(io.Discard, "error"))
	s.hand(order.Request{ID: "one", Account: "clerk", Names: []string{"one.example.com"}})
	s.await("one", order.Issued)
	s.end()

	silent := func() {
		if err := h.world.sim.AddFault(cloudsim.Fault{Cloud: "aliyun", Action: "GetCallerIdentity", Kind: "http_502_html"}); err != nil {
			t.Fatal(err)
		}
	}
	silent()
	s = h.work(t, NewLogger(io.Discard, "error"))
	s.hand(order.Request{ID: "two", Account: "clerk", Names: []string{"two.example.com"}})
	s.await("two", order.Issued) // it is the key of before
	s.end()

	further(t, h, "clerk", fewOf(cloudsim.Account{Cloud: "aliyun", UID: "300300", AccessKeyID: "LTAIother"}), "300300")
	log := &logLines{}
	s = h.work(t, NewLogger(log, "error"))
	s.hand(order.Request{ID: "three", Account: "clerk", Names: []string{"three.example.com"}},
		order.Request{ID: "own", Account: "aliyun-1", Names: []string{"own.example.com"}})
	s.await("own", order.Issued)
	eventually(t, "told", func() bool { return log.with("another key than before") == 1 })
	if it := s.await("three", order.Submit); it.Attempt != 0 {
		t.Errorf("bought with a key of which nobody knows whose it is: %+v", it)
	}
	h.world.sim.ClearFaults()
	s.await("three", order.Issued)
}

// DESIGN 12.7: an account is who the cloud says it is: two labels with one key must
// agree, where both are written.
func TestOneKeyTwoMains(t *testing.T) {
	t.Setenv("TEST_KEY", "key")
	c, err := Parse([]byte("accounts:\n" +
		"  a: {cloud: aliyun, main: \"1\", key_id: env:TEST_KEY, secret: env:TEST_KEY}\n" +
		"  b: {cloud: aliyun, main: \"2\", key_id: env:TEST_KEY, secret: env:TEST_KEY}\n"))
	if err == nil || !strings.Contains(err.Error(), "accounts.a and accounts.b have one access key but different main accounts (1, 2)") {
		t.Errorf("%v, %+v", err, c.Accounts)
	}
	// The same key by two references is found when it is read.
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err = Parse([]byte("accounts:\n" +
		"  a: {cloud: aliyun, main: \"1\", key_id: env:TEST_KEY, secret: env:TEST_KEY}\n" +
		"  b: {cloud: aliyun, main: \"2\", key_id: \"file:" + path + "\", secret: env:TEST_KEY}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewProcess(c, "test", false, NewLogger(io.Discard, "error")); err == nil || !strings.Contains(err.Error(), "have one access key") {
		t.Errorf("%v", err)
	}
	for _, second := range []string{"{cloud: aliyun, main: \"1\", key_id: env:TEST_KEY, secret: env:TEST_KEY}",
		"{cloud: aliyun, key_id: env:TEST_KEY, secret: env:TEST_KEY}", "{cloud: tencent, main: \"2\", key_id: env:TEST_KEY, secret: env:TEST_KEY}"} {
		if _, err := Parse([]byte("accounts:\n  a: {cloud: aliyun, main: \"1\", key_id: env:TEST_KEY, secret: env:TEST_KEY}\n  b: " + second + "\n")); err != nil {
			t.Errorf("%s: %v", second, err)
		}
	}
}

// Two labels whose keys turn out to be of one main account must agree in what
// holds for it: the second is stopped, the first goes on.
func TestMainsThatTurnOutToBeOne(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.only("aliyun-1")
	h.edit("aliyun-1", func(a *Account) { a.Main = "" })
	h.edit("twin", func(a *Account) {
		*a = h.cfg.Accounts["aliyun-1"]
		a.Limits = map[string]int{"DescribeCertificateState": 3}
	})
	log := &logLines{}
	s := h.work(t, NewLogger(log, "error"))
	s.hand(order.Request{ID: "own", Account: "aliyun-1", Names: []string{"own.example.com"}})
	s.await("own", order.Issued)
	if n := log.with("account twin is stopped", "differ in cloud, endpoint, limits or deadlines"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.buf.String())
	}
}

// DESIGN 12.7: a difference stops that account only, and all of it: whoever has a
// client of a stopped account cannot call with it: a worker, a console, a solver of
// its DNS.
func TestAStoppedAccountCallsNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	further(t, h, "stray", fewOf(cloudsim.Account{Cloud: "aliyun", UID: "400400", AccessKeyID: "LTAIstray"}), "400999")
	h.only("stray")
	all, err := openClouds(h.cfg, anyPermits(), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := all.accounts["stray"]
	stopped := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "account stray is stopped") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, flow := range a.Cloud.Flows() {
		_, _, err := flow.Reserve(t.Context())
		stopped("reserve "+flow.Action(), err)
		_, err = flow.Look(t.Context(), "1")
		stopped("look by "+flow.Action(), err)
	}
	stopped("place a record", all.solvers["stray"].Present(t.Context(), order.Challenge{Type: "TXT", Host: "_dnsauth.example.com", Value: "v"}))
	if got := calls(h.world.sim, "400400"); len(got) > 0 {
		t.Errorf("called: %v", got)
	}
}
