package app

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/order"
)

// asked counts the questions whose credentials they are.
func asked(sim *cloudsim.Sim) int {
	n := 0
	for _, c := range sim.Report().Calls {
		if strings.HasPrefix(c.Action, "GetCallerIdentity") || strings.HasSuffix(c.Action, "/GetCallerIdentity") {
			n += c.Calls
		}
	}
	return n
}

// logLines is a log that tests read.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// with are the lines that have all of the texts.
func (l *logLines) with(texts ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
line:
	for line := range strings.Lines(l.buf.String()) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue line
			}
		}
		n++
	}
	return n
}

// Workers ask each account's cloud once a session whose its credentials are, keep
// the answers, and say once where they are not those of the config's main
// account. Where a cloud cannot say, the account works all the same.
// DESIGN 12.7: it is asked once a session, without a permit.
func TestWhoseCredentials(t *testing.T) {
	t.Parallel()
	c := inDir(t.TempDir())
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	c.Keys.Identity = filepath.Join(c.State, "identity.age")
	h, err := openHouse(t.Context(), c, NewLogger(io.Discard, "error"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.close() }()
	sim := h.world.sim
	further(t, h, "clerk", cloudsim.Account{Cloud: "aliyun", UID: "300300", AccessKeyID: "LTAIclerk", CallerKind: "user", CallerID: "300301"}, "300300")
	further(t, h, "stray", cloudsim.Account{Cloud: "aliyun", UID: "400400", AccessKeyID: "LTAIstray"}, "400999")
	if err := sim.SetConfig(func(c *cloudsim.Config) {
		c.Unknown = []string{"tencent/GetCallerIdentity", "tencent/GetUserAppId"}
	}); err != nil {
		t.Fatal(err)
	}

	said := &logLines{}
	log := NewLogger(said, "warn")
	p, err := NewProcess(h.workers(), "test", true, log, order.Roles...)
	if err != nil {
		t.Fatal(err)
	}
	session := func() { // the questions of one session, and no other work
		s, ctx, err := p.connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		if err := s.identify(ctx); err != nil {
			t.Fatal(err)
		}
		for _, k := range s.permits.Stats() {
			if k.Granted > 0 {
				t.Errorf("%v took %d permits", k.Key, k.Granted)
			}
		}
	}
	session()
	const differs, silent = "is stopped", "does not say whose"
	if n := said.with(differs); n != 1 || said.with(differs, `"account":"stray"`, `"main":"400999"`, `"credentials_main":"400400"`) != 1 {
		t.Errorf("%d lines of a difference:\n%s", n, said.buf.String())
	}
	if n := said.with(silent); n != 2 || said.with(silent, `"account":"tencent-1"`) != 1 {
		t.Errorf("%d lines of a cloud that cannot say:\n%s", n, said.buf.String())
	}

	console, err := OpenConsole(t.Context(), h.cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	status, err := console.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"aliyun-1": "of the main account", "tencent-1": "its cloud does not tell", "stray": "of main account 400400, not 400999"}
	for _, a := range status.Accounts {
		got := a.Credentials()
		if w, checked := want[a.Label]; checked && !strings.HasPrefix(got, w) {
			t.Errorf("%s: credentials %q, want %q", a.Label, got, w)
		}
		if a.Label == "stray" && !strings.Contains(a.State, `write main: "400400" for accounts.stray`) {
			t.Errorf("the state of a stray account is %q", a.State)
		}
		if a.Label == "clerk" && (a.Identity == nil || a.Identity.Main != "300300" || a.Identity.Caller != "300301" || got != a.Identity.Kind+" 300301 of the main account" || a.Identity.Kind == "") {
			t.Errorf("clerk: %q, %+v", got, a.Identity)
		}
	}

	// The next session asks anew and writes nothing that is known.
	bucket, err := console.js.Stream(t.Context(), "KV_ACCOUNTS")
	if err != nil {
		t.Fatal(err)
	}
	before, err := bucket.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	was := before.State.LastSeq
	session()
	after, err := bucket.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.State.LastSeq != was {
		t.Errorf("%d writes of what was known", after.State.LastSeq-was)
	}
	if said.with(differs) != 2 || said.with(silent) != 4 {
		t.Errorf("each session says it once:\n%s", said.buf.String())
	}
}

func TestCredentialsInWords(t *testing.T) {
	for want, id := range map[string]*account.Identity{
		"not known":                                nil,
		"of the main account":                      {Main: "1", Caller: "1", Kind: "Account"},
		"RAMUser 7 of the main account":            {Main: "1", Caller: "7", Kind: "RAMUser"},
		"7 of the main account":                    {Main: "1", Caller: "7"},
		"of the main account or a user of it":      {Main: "1"},
		"of main account 2, not 1":                 {Main: "2", Caller: "2", Kind: "Account"},
		"CAMUser 7 of main account 2, not 1":       {Main: "2", Caller: "7", Kind: "CAMUser"},
		"of main account 2 or a user of it, not 1": {Main: "2", Caller: account.Unnamed("k")},
		"its cloud does not tell":                  {Main: "1", Caller: account.Unnamed("k"), Silent: true},
	} {
		if got := (AccountStatus{Main: "1", Identity: id}).Credentials(); got != want {
			t.Errorf("%+v: %q, want %q", id, got, want)
		}
	}
}

// DESIGN 12.7: the endpoint is part of identity where the cloud cannot say: what it is
// known by there tells keys and endpoints from each other, and nothing of either.
func TestKeysAreKnownByTheirEndpoints(t *testing.T) {
	seen := map[string]string{}
	for _, endpoint := range []string{"", "https://one.example.com", "https://two.example.com"} {
		for _, id := range []order.Secret{"LTAIone", "LTAItwo"} {
			is := endpoint + " " + id.Reveal()
			f := Account{Cloud: "aliyun", Endpoint: endpoint}.fingerprint(id)
			if other, known := seen[f]; known || strings.Contains(f, "LTAI") {
				t.Errorf("%s is known as %s, and so is %q", is, f, other)
			}
			seen[f] = is
		}
	}
}

// A cloud that does not answer, and never did, keeps nothing from working.
func TestWhoseCredentialsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	c := inDir(t.TempDir())
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	c.Keys.Identity = filepath.Join(c.State, "identity.age")
	h, err := openHouse(t.Context(), c, NewLogger(io.Discard, "error"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.close() }()
	// The questions are never answered: orders are issued all the same.
	if err := h.world.sim.AddFault(cloudsim.Fault{Action: "GetCallerIdentity", Kind: "stall", Times: 1000, Seconds: 60}); err != nil {
		t.Fatal(err)
	}
	all := runOrders(t, h, []order.Request{{ID: "a", Account: "aliyun-1", Names: []string{"a.example.com"}}})
	if o := all["a"]; o.State != order.Issued {
		t.Errorf("a is %s: %s", o.State, Why(o.Order))
	}
	if n := asked(h.world.sim); n < len(h.cfg.Accounts) || n > askedAtOnce*len(h.cfg.Accounts) {
		t.Errorf("%d accounts, asked about %d times", len(h.cfg.Accounts), n)
	}
}

// further adds an account to the simulated clouds and to the config.
func further(t *testing.T, h *house, label string, a cloudsim.Account, main string) {
	t.Helper()
	a.Label, a.AccessKeySecret = label, "canary-secret"
	if err := h.world.sim.AddAccount(a); err != nil {
		t.Fatal(err)
	}
	var like Account
	for _, b := range h.cfg.Accounts {
		if b.Cloud == a.Cloud {
			like = b
		}
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"id": a.AccessKeyID, "secret": a.AccessKeySecret} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	like.Main, like.KeyID, like.Secret = main, Ref("file:"+filepath.Join(dir, "id")), Ref("file:"+filepath.Join(dir, "secret"))
	h.cfg.Accounts[label] = like
}
