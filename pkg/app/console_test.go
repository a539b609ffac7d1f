package app

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/pipeline"
)

// openConsole opens one that is closed with the test.
func openConsole(t *testing.T, c Config) *Console {
	t.Helper()
	console, err := OpenConsole(t.Context(), c, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(console.Close)
	return console
}

// initialised is an installation without workers, and a config of its workers.
func initialised(t *testing.T) (jetstream.JetStream, Config) {
	t.Helper()
	js := natstest.Connect(t, natstest.Server(t))
	c := withClouds(t, js.Conn().ConnectedUrl(), 1)
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	return js, c
}

// lay puts an order of the account aliyun-1 where it is.
func lay(t *testing.T, js jetstream.JetStream, c Config, o order.Order) order.Order {
	t.Helper()
	o.Account, o.Main, o.Purchase, o.Attempt = "aliyun-1", c.Accounts["aliyun-1"].Main, 1, 1
	body, err := o.Encode()
	if err == nil {
		_, err = js.Publish(t.Context(), order.Subject(o.State, o.ID(), o.Lane()), body)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func named(o order.Order, id string) order.Order {
	o.Request = order.Request{ID: id, Names: []string{"www." + id + ".example"}}
	return o
}

// TestVerbsWithoutWorkers: what a verb needs and is not there is said, and made
// by nobody.
func TestVerbsWithoutWorkers(t *testing.T) {
	t.Parallel()
	js, c := initialised(t)
	atCA := lay(t, js, c, named(orderIn(order.Issuing), "at-ca"))
	early := named(orderIn(order.Submit), "early")
	early.CloudID = ""
	lay(t, js, c, early)
	held := named(orderIn(order.Held), "held")
	held.CloudID, held.Hold = "", &order.Hold{Reason: "for the test", Open: true, From: order.Unsure}
	lay(t, js, c, held)
	l, err := ledger.New(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	row := ledger.Unclaimed{CloudID: "77", Status: "ISSUED", Seen: time.Now()}
	if err := l.Report(t.Context(), atCA.Main, early.Request.Names, row); err != nil {
		t.Fatal(err)
	}
	console := openConsole(t, c)
	if err := os.RemoveAll(c.Keys.Store); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error, words string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %q", what, err, words)
		}
	}
	const noStore = "no key store is there; it is looked for where keys.store of the config says"
	refused("cancel", console.Cancel(t.Context(), "eve", "early"), noStore)
	refused("not-bought", console.NotBought(t.Context(), "eve", "early"), noStore)
	if _, err := os.Stat(c.Keys.Store); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a console made a key store: %v", err)
	}
	makeStore(t, c)
	refused("cancel", console.Cancel(t.Context(), "eve", "early"), "and these streams belong to the one with the id")
	if _, err := console.AcceptStore(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	before := natstest.Take(t, js)
	const none = "no worker of that account is running"
	refused("adopt", console.Adopt(t.Context(), "eve", "held", "42"), none)
	_, err = console.Now(t.Context(), atCA)
	refused("now", err, none)
	before.Same(t, js)
}

// TestVerbsWithoutConfig: what goes by the books alone needs neither accounts nor
// secrets nor a key store.
func TestVerbsWithoutConfig(t *testing.T) {
	t.Parallel()
	js, c := initialised(t)
	held := orderIn(order.Held)
	held.CloudID, held.Hold = "", &order.Hold{Reason: "for the test", Fact: order.FactDeadline, From: order.Submit}
	for _, id := range []string{"retried", "approved"} {
		lay(t, js, c, named(held, id))
	}
	lay(t, js, c, named(orderIn(order.Issued), "again"))
	main := c.Accounts["aliyun-1"].Main
	if _, err := js.CreateConsumer(t.Context(), pipeline.OrdersStream, jetstream.ConsumerConfig{Durable: "submit-aliyun-1"}); err != nil {
		t.Fatal(err)
	}
	console := openConsole(t, at(c.NATS.URL, 1))
	_, _, again := console.BuyAgain(t.Context(), "eve", "again")
	for want, err := range map[string]error{
		"retried submit":  console.Retry(t.Context(), "eve", "retried"),
		"approved submit": console.Approve(t.Context(), "eve", "approved", order.FactDeadline),
		"again-2 submit":  again,
	} {
		id, state, _ := strings.Cut(want, " ")
		if it, ferr := console.Find(t.Context(), id); err != nil || ferr != nil || string(it.State) != state {
			t.Errorf("%s: now %s (%v, %v)", want, it.State, err, ferr)
		}
	}
	err := errors.Join(console.Pause(t.Context(), "aliyun-1", "for the test"),
		console.FirstUse(t.Context(), "aliyun-1"), console.Limit(t.Context(), "aliyun-1", "DescribePackageState", 3))
	if err != nil {
		t.Error(err)
	}
	states, err := account.Look(t.Context(), js, 1, quiet)
	if err != nil {
		t.Fatal(err)
	}
	s := states.State(main)
	if text := describe(s, nil, "aliyun-1", false, console.firstUseSaid(s)); strings.Contains(text, "skips the wait") || !strings.Contains(text, "first-use was said") {
		t.Errorf("status offers what was given: %s", text)
	}
	if s.Paused["aliyun-1"].Why != "for the test" || s.FirstUse != console.line.Incarnation() || s.Limits["DescribePackageState"] != 3 {
		t.Errorf("state %+v", s)
	}
	if err := console.Pause(t.Context(), "nobody", ""); err == nil || !strings.Contains(err.Error(), "there are: aliyun-1") {
		t.Errorf("an account that nobody knows: %v", err)
	}
	for says, err := range map[string]error{
		`certmill makes no call "nosuch" that has a limit; write one as the cloud `: console.Limit(t.Context(), "aliyun-1", "nosuch", 5),
		`certmill makes no call "GetCallerIdentity" that has a limit`:               console.Limit(t.Context(), "aliyun-1", "GetCallerIdentity", 5),
		`product "nosuch" does not rest at account aliyun-1; those without quota `:  console.Resume(t.Context(), "aliyun-1", "nosuch"),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), says) || states.State(main).Limits["nosuch"] != 0 {
			t.Errorf("%v, want %q", err, says)
		}
	}
	if _, err := js.Stream(t.Context(), "PERMITS"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("PERMITS: %v", err)
	}
}

// TestLimitStaysBelowTheCloudsCeiling: more calls than the cloud documents, or than the
// config says was granted, are refused with the number that may be written; 0 says
// what holds then.
func TestLimitStaysBelowTheCloudsCeiling(t *testing.T) {
	t.Parallel()
	js, c := initialised(t)
	if _, err := js.CreateConsumer(t.Context(), pipeline.OrdersStream, jetstream.ConsumerConfig{Durable: "submit-aliyun-1"}); err != nil {
		t.Fatal(err)
	}
	lay(t, js, c, orderIn(order.Issued))
	const listed, granted, dns = "DescribeCertificateState", "DescribePackageState", "AddDomainRecord"
	c.Accounts = maps.Clone(c.Accounts)
	a := c.Accounts["aliyun-1"]
	a.Limits = map[string]int{granted: 25}
	c.Accounts["aliyun-1"] = a
	console, stranger := openConsole(t, c), openConsole(t, at(c.NATS.URL, 1))
	for _, tt := range []struct {
		by     *Console
		action string
		calls  int
		says   string // of the refusal; empty: taken
	}{
		{console, listed, 100000, "write 1 to 10, or 0"}, {console, listed, 11, "10 is what its cloud documents"}, {console, listed, 10, ""}, {console, listed, 1, ""},
		{console, granted, 26, "25 is what accounts.aliyun-1.limits of the config says was granted"}, {console, granted, 25, ""},
		{console, dns, 61, "write 1 to 60"}, {console, dns, 60, ""}, {console, listed, -1, "certmill pause aliyun-1"}, {console, listed, 0, ""},
		{stranger, listed, 11, "write 1 to 10"}, {stranger, dns, 60, ""},
	} {
		err := tt.by.Limit(t.Context(), "aliyun-1", tt.action, tt.calls)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s %d: %v, want %q", tt.action, tt.calls, err, tt.says)
		}
	}
	states, err := account.Look(t.Context(), js, 1, quiet)
	if now := states.State(c.Accounts["aliyun-1"].Main).Limits; err != nil || now[listed] != 0 || now[granted] != 25 || now[dns] != 60 {
		t.Errorf("in force are %v, %v", now, err)
	}
	for says, is := range map[string]string{
		"3 a second": console.Limited("aliyun-1", listed, 3),
		"10 a second again: the config says noth": console.Limited("aliyun-1", listed, 0),
		"25 a second again, as accounts.aliyun-1": console.Limited("aliyun-1", granted, 0),
		"what accounts.aliyun-1.limits of the wo": stranger.Limited("aliyun-1", granted, 0),
	} {
		if !strings.HasPrefix(is, says) {
			t.Errorf("%q, want %q", is, says)
		}
	}
}

// TestNowWithWorkersPermits: a console asks a cloud with the permits of the
// workers' rings, and goes by their settings.
func TestNowWithWorkersPermits(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	w, c := openClouded(t, js.Conn().ConnectedUrl(), 1)
	if err := w.sim.SetConfig(func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Exactly(time.Hour) }); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	startWorkers(t, c).work(t)
	other := c
	other.Accounts = map[string]Account{}
	for label, a := range c.Accounts {
		a.Deadline, a.SpendDeadline = 7*time.Second, 70*time.Second // the workers' are others
		other.Accounts[label] = a
	}
	console := openConsole(t, other)
	slow := order.Request{ID: "slow", Names: []string{"www.slow.example"}, Account: "aliyun-1"}
	if _, err := console.handIn(t.Context(), []order.Request{slow}, false); err != nil {
		t.Fatal(err)
	}
	var it pipeline.Item
	await(t, "the order is at the CA", func() (is bool) {
		it, _ = console.Find(t.Context(), "slow")
		return it.State == order.Issuing
	})
	said, err := console.Now(t.Context(), it.Order)
	if err != nil || !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, "now: the cloud says ") }) {
		t.Errorf("it says %q, %v", said, err)
	}
	if console.hands == nil || len(console.hands.permits.Stats()) != 1 || console.hands.permits.Stats()[0].Granted != 1 {
		t.Errorf("the console has used other permits than one: %+v", console.hands)
	}
	nobodys := permit.Key{Account: it.Main, Action: "NobodyMakesThis"}
	if _, _, err := console.hands.permits.Wait(t.Context(), nobodys); !errors.Is(err, permit.ErrNoRing) {
		t.Errorf("a ring that no worker has: %v", err)
	}
}

// TestOrderWithoutConfig: handing in needs the streams alone, also to follow what
// the workers refuse.
func TestOrderWithoutConfig(t *testing.T) {
	t.Parallel()
	_, c := initialised(t)
	startWorkers(t, c).work(t)
	bare := at(c.NATS.URL, 1)
	bare.State = t.TempDir()
	console := openConsole(t, bare)
	batch := Batch{Requests: []order.Request{
		{ID: "good", Names: []string{"www.good.example"}, Account: "aliyun-1"},
		{ID: "refused", Names: []string{"www.refused.example"}, Account: "nobody"},
	}}
	v := &seen{}
	sum, err := console.Order(t.Context(), batch, v, true, false)
	if err != nil || sum.Issued != 1 || sum.Failed["invalid"] != 1 || sum.Unfinished != 0 || len(v.steps) != 0 {
		t.Fatalf("%+v, %v, planned %v", sum, err, v.steps)
	}
	if p := sum.Problems; len(p) != 1 || p[0].ID != "refused" || !strings.Contains(p[0].Reason, `no account "nobody"`) {
		t.Errorf("problems %+v", p)
	}
	taken := Batch{Requests: []order.Request{{ID: "good", Names: []string{"www.another.example"}, Account: "aliyun-1"}}}
	sum, err = console.Order(t.Context(), taken, v, true, false)
	if err != nil || len(sum.Bad) != 1 || !strings.Contains(sum.Bad[0].Why, "taken by another order (state issued)") || sum.Orders != 0 || sum.OK() {
		t.Errorf("an id that is taken: %+v, %v", sum, err)
	}
	if counts, err := console.line.Counts(t.Context()); err != nil || counts[order.Failed] != 1 {
		t.Errorf("it was handed in all the same: %v, %v", counts, err)
	}
	if left, _ := filepath.Glob(filepath.Join(bare.State, "*")); len(left) > 0 {
		t.Errorf("files were made: %v", left)
	}
}

// TestConsoleReconnects: a console outlives its server, also while it follows
// orders.
func TestConsoleReconnects(t *testing.T) {
	t.Parallel()
	server := natstest.Server(t)
	c := withClouds(t, server.ClientURL(), 1)
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	held := orderIn(order.Held)
	held.Hold = &order.Hold{Reason: "for the test", From: order.Submit}
	lay(t, natstest.Connect(t, server), c, named(orderIn(order.Submit), "first"))
	console := openConsole(t, at(c.NATS.URL, 1))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		first := true
		_, err := console.follow(ctx, []awaited{{id: "first"}, {id: "second"}}, func(Progress) {
			if first {
				close(began)
			}
			first = false
		})
		ended <- err
	}()
	<-began
	server = natstest.Restart(t, server)
	js := natstest.Connect(t, server)
	await(t, "the console looks again", func() bool {
		_, err := console.Status(t.Context())
		return err == nil
	})
	lay(t, js, c, named(held, "second"))
	it, err := console.Find(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	o := it.Order
	o.State, o.Hold = order.Held, held.Hold
	if _, err := console.line.Move(t.Context(), it, o); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("following ended with %v", err)
	}
}

// TestFollowingWhatOnlyAnotherBuildCanRead: such an order stops nobody's batch,
// and where it lies tells how it ended.
func TestFollowingWhatOnlyAnotherBuildCanRead(t *testing.T) {
	t.Parallel()
	js, c := initialised(t)
	console := openConsole(t, c)
	var batch []order.Request
	for id, state := range map[string]order.State{"done": order.Issued, "broken": order.Failed, "asks": order.Held} {
		batch = append(batch, order.Request{ID: id, Names: []string{id + ".example.com"}}.Normal())
		if _, err := js.Publish(t.Context(), order.Subject(state, id, "aliyun-1"), []byte(`{"v":99}`)); err != nil {
			t.Fatal(err)
		}
	}
	in, err := console.handIn(t.Context(), batch, false)
	if err != nil || in.fresh != 3 {
		t.Fatalf("handed in: %+v, %v", in, err)
	}
	ended, err := console.follow(t.Context(), in.wanted, func(Progress) {})
	if err != nil || len(ended) != 3 {
		t.Fatalf("followed: %v, %v", ended, err)
	}
	sum := summarise(Batch{Requests: batch}, in, ended, 0)
	if sum.Issued != 1 || sum.Held != 1 || sum.Failed["unreadable"] != 1 || sum.Unfinished != 0 || len(sum.Problems) != 2 {
		t.Errorf("%+v", sum)
	}
	for _, p := range sum.Problems {
		if !strings.Contains(p.Reason, "cannot be read here") || !strings.Contains(p.Reason, "version 99") {
			t.Errorf("%+v", p)
		}
	}
}

// TestFailedTellsOfOneOrder: the id, the reason and the commands that stand for a
// group are those of one order, in whatever sequence the orders came.
func TestFailedTellsOfOneOrder(t *testing.T) {
	t.Parallel()
	js, c := initialised(t)
	for _, id := range []string{"m", "z", "b", "q"} {
		o := named(orderIn(order.Held), id)
		o.Hold = &order.Hold{Reason: "why of " + id, Fact: order.FactDeadline, From: order.Submit, Commands: []string{"certmill approve " + id}}
		lay(t, js, c, o)
		o = named(orderIn(order.Failed), "f-"+id)
		o.Failure = &order.Failure{Class: "rejected", Reason: "why of f-" + id, Advice: "advice for f-" + id}
		if id == "m" {
			o.Failure.Advice = ""
		}
		lay(t, js, c, o)
	}
	groups, err := openConsole(t, c).Failed(t.Context(), "")
	if err != nil || len(groups) != 2 {
		t.Fatalf("%+v, %v", groups, err)
	}
	for _, g := range groups {
		id := g.IDs[0]
		want := map[order.State]string{order.Held: "| certmill approve " + id, order.Failed: "advice for " + id}[g.State]
		if g.Reason != "why of "+id || !strings.HasSuffix(g.Advice, want) {
			t.Errorf("%+v", g)
		}
	}
}
