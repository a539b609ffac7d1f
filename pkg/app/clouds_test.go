package app

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

// market is a cloud of the tests' own, with one way of ordering and a DNS.
type market struct {
	issuer.Cloud
	issuer.Flow
	access issuer.Access
}

func (m *market) About() issuer.About  { return marketAbout }
func (m *market) Flows() []issuer.Flow { return []issuer.Flow{m} }
func (m *market) Action() string       { return "Buy" }
func (m *market) Spends() bool         { return true }

func (m *market) Product(code string) issuer.Product { return issuer.Product{Code: code} }

func (m *market) Route(order.Request) (issuer.Route, error) {
	return issuer.Route{Flow: m, Product: m.access.Product}, nil
}

var (
	marketAbout = issuer.About{Name: "a market", Codes: &issuer.Table{Cloud: "a market"}, SignatureLife: 7 * time.Minute, Calls: issuer.Calls{
		{Action: "Buy", Roles: []order.Role{order.Submitter}, Starts: true},
		{Action: "Ask", Roles: order.Roles, Limit: 3},
		{Action: "WhoAmI", Roles: order.Roles, Free: true},
	}}
	marketDNS = issuer.Calls{
		{Action: "Zones", Roles: []order.Role{order.Verifier}, Limit: 40},
		{Action: "Zones", Roles: []order.Role{order.Submitter}, Limit: 40, Optional: true},
	}
)

// register adds a cloud for the time of a test, which must not be parallel.
func register(t *testing.T, word string, p Provider) {
	t.Helper()
	Register(word, p)
	t.Cleanup(func() {
		registering.Lock()
		defer registering.Unlock()
		delete(clouds, word)
	})
}

const marketConfig = `dcv:
  solvers:
    theirs: {kind: market-dns, zones: [example.org], account: m}
accounts:
  m: {cloud: market, main: m, key_id: env:TEST_KEY, secret: env:TEST_KEY, product: p1, csr_sans: true, identity_endpoint: "http://127.0.0.1:1"}
`

// A further cloud is known to the whole config by one line in the table.
func TestRegister(t *testing.T) {
	t.Setenv("TEST_KEY", "key")
	if _, err := Parse([]byte(marketConfig)); err == nil || !strings.Contains(err.Error(), `accounts.m.cloud is "market": write aliyun or tencent`) ||
		!strings.Contains(err.Error(), `dcv.solvers.theirs.kind is "market-dns"`) {
		t.Fatalf("before: %v", err)
	}
	var opened []*market // a vendor need not have a DNS that anybody can write to
	register(t, "market", Provider{About: marketAbout, DNS: "market-dns", DNSCalls: marketDNS,
		Open: func(a issuer.Access) (issuer.Cloud, dcv.Solver, error) {
			opened = append(opened, &market{access: a})
			return opened[len(opened)-1], nil, nil
		}})
	c, err := Parse([]byte(marketConfig))
	if err != nil {
		t.Fatal(err)
	}
	if life := c.Accounts["m"].SignatureLife; life != 7*time.Minute {
		t.Errorf("signatures live %v", life)
	}
	all, err := openClouds(c, anyPermits(), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	to := opened[0].access
	if to.Main != "m" || to.KeyID != "key" || to.Secret != "key" || to.Product != "p1" || !to.CSRSANs || to.IdentityEndpoint != "http://127.0.0.1:1" || to.Permits == nil {
		t.Errorf("opened with %+v", to)
	}
	if p, step, err := all.place(t.Context(), order.Request{Account: order.AnyAccount}); err != nil || step != (Step{Account: "any", Operation: "Buy", Product: "p1", Spends: true}) || p.Product != "p1" {
		t.Errorf("planned as %+v, %+v, %v", p, step, err)
	}
	if names := CloudNames(); names != "Alibaba Cloud, a market and Tencent Cloud" {
		t.Errorf("the clouds are %s", names)
	}
	limit := c.limits(new(account.Accounts))
	for action, want := range map[string]permit.Limit{
		"Buy":   {Calls: issuer.UsualLimit, Period: time.Second, Deadline: 15 * time.Second},
		"Ask":   {Calls: 3, Period: time.Second, Deadline: 3 * time.Second},
		"Zones": {Calls: 40, Period: time.Second, Deadline: 3 * time.Second},
	} {
		if got := limit(permit.Key{Account: "m", Action: action}); got != want {
			t.Errorf("%s: %+v, want %+v", action, got, want)
		}
	}
	for role, want := range map[order.Role]string{order.Submitter: "Ask Buy Zones", order.Verifier: "Ask Zones", order.Collector: "Ask"} {
		if got := actions(c.rings(all.accounts, []order.Role{role}), "m"); got != want {
			t.Errorf("the %s joins %q, want %q", role, got, want)
		}
	}
	if keys := c.rings(all.accounts, nil); len(keys) > 0 {
		t.Errorf("whoever works in no role joins %v", keys)
	}
}

// actions are those of an account's rings, in one line.
func actions(keys []permit.Key, main string) string {
	var all []string
	for _, k := range keys {
		if k.Account == main {
			all = append(all, k.Action)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// What the vendors' pages say, as far as it is more than the usual.
func TestDocumentedLimits(t *testing.T) {
	c, err := Parse([]byte(Example))
	if err != nil {
		t.Fatal(err)
	}
	ali, ten := c.Accounts["aliyun-1"].Main, c.Accounts["tencent-1"].Main
	ali1 := c.Accounts["aliyun-1"]
	ali1.Limits = map[string]int{"ListUserCertificateOrder": 3}
	c.Accounts["aliyun-1"] = ali1
	limit := c.limits(new(account.Accounts))
	for k, want := range map[permit.Key]int{
		{Account: ali, Action: "AddDomainRecord"}: 60, {Account: ali, Action: "DeleteDomainRecord"}: 60, {Account: ali, Action: "DescribeSubDomainRecords"}: 300,
		{Account: ten, Action: "CreateRecord"}: 500, {Account: ten, Action: "DeleteRecord"}: 500, {Account: ten, Action: "DescribeRecordList"}: 100,
		{Account: ten, Action: "DescribeDomainList"}: 20, {Account: ten, Action: "CreateRecordBatch"}: 20, {Account: ten, Action: "DeleteRecordBatch"}: 20,
		{Account: ten, Action: "DescribeBatchTask"}: 20, {Account: ali, Action: "CreateCertificateForPackageRequest"}: 10,
		{Account: ten, Action: "CertificateOrderSubmit"}: 10, {Account: ali, Action: "ListUserCertificateOrder"}: 3, {Account: ali, Action: "SomethingNew"}: 10,
	} {
		if got := limit(k); got.Calls != want || got.Period != time.Second {
			t.Errorf("%v: %+v, want %d", k, got, want)
		}
	}
	for k, want := range map[permit.Key]time.Duration{
		{Account: ali, Action: "CreateCertificateForPackageRequest"}: 15 * time.Second, {Account: ali, Action: "CreateCertificateWithCsrRequest"}: 15 * time.Second,
		{Account: ali, Action: "CreateDVOrderAudit"}: 15 * time.Second, {Account: ten, Action: "CertificateOrderSubmit"}: 15 * time.Second,
		{Account: ten, Action: "CertificateInfoSubmit"}: 15 * time.Second, {Account: ali, Action: "DescribeCertificateState"}: 3 * time.Second,
		{Account: ten, Action: "CreateRecord"}: 3 * time.Second,
	} {
		if got := limit(k); got.Deadline != want {
			t.Errorf("%v may take %v, want %v", k, got.Deadline, want)
		}
	}
}

// Workers join the rings of all that they call when they start, so that the
// first order does not wait for one to be laid out.
func TestRingsAreOpenBeforeTheFirstOrder(t *testing.T) {
	t.Parallel()
	console, js, _ := serving(t)
	want := map[string]bool{}
	for _, a := range console.cfg.Accounts {
		p := vendors()[a.Cloud]
		for _, call := range p.calls() {
			if !call.Free {
				want[a.Main+"_"+call.Action] = true
			}
		}
	}
	if len(want) < 40 {
		t.Fatalf("only %d rings: %v", len(want), want)
	}
	missing := want
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && len(missing) > 0; time.Sleep(20 * time.Millisecond) {
		missing = maps.Clone(want)
		stream, err := js.Stream(t.Context(), "PERMITS")
		if err != nil {
			continue // not made yet
		}
		for name := range stream.ConsumerNames(t.Context()).Name() {
			delete(missing, name)
		}
	}
	if len(missing) > 0 {
		t.Errorf("not joined: %v", slices.Sorted(maps.Keys(missing)))
	}
}

// A process whose settings differ from the others' refuses to start, whichever
// of its calls it is about.
func TestOtherLimitsAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := inDir(dir)
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	c.Keys.Identity = filepath.Join(c.State, "identity.age")
	log := NewLogger(io.Discard, "error")
	h, err := openHouse(t.Context(), c, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.close() }()
	open := func(c Config, roles ...order.Role) (*session, error) {
		p, err := NewProcess(c, "test", true, log, roles...)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		s, _, err := p.connect(ctx)
		return s, err
	}
	first, err := open(h.workers(), order.Collector)
	if err != nil {
		t.Fatal(err)
	}
	defer first.close()
	other := h.workers()
	other.Accounts = maps.Clone(h.cfg.Accounts)
	label := sorted(other.Accounts)[0]
	a := other.Accounts[label]
	a.Limits = map[string]int{"DeleteDomainRecord": 7}
	other.Accounts[label] = a
	if s, err := open(other, order.Verifier); err == nil || !strings.Contains(err.Error(), permit.ErrSettings.Error()) {
		if s != nil {
			s.close()
		}
		t.Errorf("another limit of a call that both make: %v", err)
	}
	s, err := open(other, order.Submitter) // which does not make that call
	if err != nil {
		t.Fatal(err)
	}
	s.close()
}
