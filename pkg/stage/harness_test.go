package stage_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/alidns"
	"github.com/certmill/certmill/pkg/dcv/dnspod"
	"github.com/certmill/certmill/pkg/dcv/file"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/issuer/tencent"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
	"github.com/certmill/certmill/pkg/stream"
)

// The accounts of every world.
const (
	aliUID, aliKey = "100100", "LTAIstage"
	tenUID, tenKey = "200200", "AKIDstage"
	secret         = "canary-stage-secret-77"

	plenty = "symantec-dv-1-starter"    // a thousand of it
	scarce = "globalsign-dv-1-personal" // one of it

	// A thousand of it. What it certifies nobody documents; this cloud refuses
	// wildcards.
	refuses = "cfca-ev-w-advanced"

	// API actions that start an order.
	forPackage  = "CreateCertificateForPackageRequest" // at "ali"
	csrRequest  = "CreateCertificateWithCsrRequest"    // at "ali"
	dvAudit     = "CreateDVOrderAudit"                 // at "ali", on something already bought
	orderSubmit = "CertificateOrderSubmit"             // at "ten", on something already bought
)

// waits are scaled down with the signature's life at the simulated cloud. Both
// clouds sign whole seconds, so Clocks and Signature are more than one.
var waits = stage.Waits{Entry: time.Second, Signature: 3 * time.Second, Clocks: 1500 * time.Millisecond, ListLag: 200 * time.Millisecond}

// world is the clouds, a NATS server, and what all workers share. Workers on it
// may die.
type world struct {
	t       *testing.T
	sim     *cloudsim.Sim
	permits *permit.Set
	web     string // folder of FILE challenges
	looker  *dcv.Looker

	keys       *certstore.KeyStore
	store      string // its folder
	identities certstore.Identities
	recipients certstore.Recipients
	out        string // where certificates are delivered

	js       jetstream.JetStream
	line     *pipeline.Line
	ledger   *ledger.Ledger
	placed   *ledger.Placed
	copy     *ledger.Copy
	states   *account.Accounts
	accounts stage.Accounts
	solvers  map[string]dcv.Solver
	// openSolvers makes solvers that remember nothing.
	openSolvers func() map[string]dcv.Solver

	seq  atomic.Uint64 // of messages
	late atomic.Int64  // how far the reconciler's clock runs ahead
	full atomic.Bool   // nothing could be delivered
}

// guard is that of the world's lists.
func (w *world) guard() stage.Guard {
	return stage.Guard{Ledger: w.ledger, States: w.states, Incarnation: w.line.Incarnation(), Now: time.Now}
}

// setup says how a world differs from the usual one.
type setup struct {
	cloud    func(*cloudsim.Config)
	unmarked bool // no first sweep yet
	uncopied bool // what is placed is in the book only
	permits  func(permit.Key) permit.Limit
}

func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	w := &world{t: t, web: t.TempDir(), out: t.TempDir()}
	files := httptest.NewServer(file.Handler(w.web))
	t.Cleanup(files.Close)
	u, err := url.Parse(files.URL)
	w.must(err)
	port, err := strconv.Atoi(u.Port())
	w.must(err)
	w.sim = startClouds(t, s, port)
	w.looker, err = dcv.NewLooker(dcv.LookerConfig{Resolvers: []string{w.sim.DNSAddr()}, Servers: []string{w.sim.DNSAddr()}, HTTPPort: port,
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	w.must(err)
	w.store = t.TempDir()
	w.keys, _, err = certstore.MakeKeyStore(w.store)
	w.must(err)
	w.identities, err = certstore.NewIdentity()
	w.must(err)
	w.recipients, err = w.identities.Recipients()
	w.must(err)
	if s.permits == nil {
		s.permits = func(permit.Key) permit.Limit {
			return permit.Limit{Calls: 500, Period: 10 * time.Millisecond, Deadline: 2 * time.Second}
		}
	}
	w.permits = permit.NewSet(s.permits)
	w.openAccounts()
	if !s.uncopied {
		w.copy, err = ledger.OpenCopy(t.TempDir())
		w.must(err)
	}
	w.openStreams()
	if !s.unmarked {
		w.sweepFirst()
	}
	return w
}

// startClouds starts both clouds, which are quick and do not lag.
func startClouds(t *testing.T, s setup, filePort int) *cloudsim.Sim {
	t.Helper()
	ali := cloudsim.Account{Cloud: "aliyun", UID: aliUID, AccessKeyID: aliKey, AccessKeySecret: secret, Products: map[string]int{plenty: 1000, scarce: 1, refuses: 1000}}
	ten := cloudsim.Account{Cloud: "tencent", UID: tenUID, AccessKeyID: tenKey, AccessKeySecret: secret}
	for n := range 3 {
		ali.Instances = append(ali.Instances, cloudsim.Instance{ID: fmt.Sprint("cas-cn-stage", n)})
		ten.Certificates = append(ten.Certificates, cloudsim.Certificate{ID: fmt.Sprint("stage", n)})
	}
	cfg := cloudsim.Config{
		Accounts: []cloudsim.Account{ali, ten}, Limits: map[string]int{"default": 100_000}, FilePort: filePort,
		AliyunSignatureLife: cloudsim.Duration(waits.Signature), TencentSignatureLife: cloudsim.Duration(waits.Signature),
		ChallengeDelay: cloudsim.None, IssueDelay: cloudsim.None, CheckInterval: cloudsim.Duration(20 * time.Millisecond),
		ListLag: cloudsim.None, DNSLag: cloudsim.None, Latency: cloudsim.None,
		CloudKey: "p256", Logger: slog.New(slog.DiscardHandler),
	}
	if s.cloud != nil {
		s.cloud(&cfg)
	}
	sim, err := cloudsim.Start(context.WithoutCancel(t.Context()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	return sim
}

// aliCloud makes a client of the account of "ali".
func (w *world) aliCloud(change func(*issuer.Access)) *aliyun.Client {
	w.t.Helper()
	to := issuer.Access{Endpoint: w.sim.AliyunURL(), DNSEndpoint: w.sim.AliyunURL(), KeyID: aliKey, Secret: secret, Main: aliUID,
		Permits: w.permits, Product: plenty}
	change(&to)
	c, err := aliyun.New(to)
	w.must(err)
	return c
}

// openAccounts makes the labels "ali" and "ten", with the real clients.
func (w *world) openAccounts() {
	w.t.Helper()
	ali := w.aliCloud(func(*issuer.Access) {})
	ten, err := tencent.New(issuer.Access{Endpoint: w.sim.TencentURL(), DNSEndpoint: w.sim.TencentURL(), KeyID: tenKey,
		Secret: secret, Main: tenUID, Permits: w.permits})
	w.must(err)
	contact := order.Contact{Name: "Tom Zhang", Email: "tom@example.com", Phone: "13000000000", Province: "zhejiang", City: "hangzhou"}
	w.accounts = stage.Accounts{
		"ali": {Label: "ali", Main: aliUID, Cloud: ali},
		"ten": {Label: "ten", Main: tenUID, Cloud: ten},
	}
	for _, a := range w.accounts {
		a.Contact, a.Waits, a.Simulated = contact, waits, true
	}
	w.openSolvers = func() map[string]dcv.Solver {
		return map[string]dcv.Solver{
			"ali": dcv.ByType{DNS: alidns.New(ali), FILE: file.Solver{Dir: w.web}},
			"ten": dcv.ByType{DNS: dnspod.New(ten), FILE: file.Solver{Dir: w.web}},
		}
	}
	w.solvers = w.openSolvers()
}

// openStreams begins a life of the streams.
func (w *world) openStreams() {
	w.t.Helper()
	ctx := w.t.Context()
	w.js = natstest.Connect(w.t, natstest.Server(w.t))
	w.must(provision(ctx, w.js))
	var err error
	w.line, err = pipeline.Open(ctx, w.js, "test", slog.New(slog.DiscardHandler))
	w.must(err)
	w.ledger, err = ledger.New(ctx, w.js, 1)
	w.must(err)
	book, err := ledger.OpenPlaced(ctx, w.js, 1)
	w.must(err)
	w.placed = book.Copied(w.copy)
	w.states, err = account.Open(ctx, w.js, 1, slog.New(slog.DiscardHandler))
	w.must(err)
}

// provision makes the streams as certmill init does.
func provision(ctx context.Context, js jetstream.JetStream) error {
	for _, c := range []jetstream.StreamConfig{pipeline.OrdersConfig(1), pipeline.IntakeConfig(1), ledger.Config(1), ledger.PlacedConfig(1), account.Config(1)} {
		if _, err := stream.Ensure(ctx, js, c); err != nil {
			return err
		}
	}
	return nil
}

// afterWipe is the same world after its JetStream was lost: clouds and key
// store are there, streams and ledger begin anew.
func (w *world) afterWipe() *world {
	w.t.Helper()
	n := &world{t: w.t, sim: w.sim, permits: w.permits, web: w.web, looker: w.looker, keys: w.keys, store: w.store, identities: w.identities,
		recipients: w.recipients, out: w.out, accounts: w.accounts, solvers: w.solvers, copy: w.copy}
	n.openStreams()
	return n
}

func (w *world) sweepFirst() {
	w.t.Helper()
	for _, a := range w.accounts.Mains() {
		if left, err := w.worker().waiter.FirstSweep(w.t.Context(), a); err != nil || left != 0 {
			w.t.Fatalf("first sweep of %s: %v left, %v", a.Main, left, err)
		}
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// worker is one process with all stages. Nothing outlives it but what lies in
// the streams, the key store and the clouds.
type worker struct {
	*world
	ctx     context.Context // carries what happens at gaps
	intake  stage.Intake
	submit  *stage.Submitter
	verify  *stage.Verifier
	collect *stage.Collector
	unsure  *stage.Reconciler
	waiter  *stage.Waiter
	issuing *stage.IssuingSweep
	placing *stage.PlacedSweep
	recheck *stage.Recheck
	by      person
}

// elapsed are the accounts as the operator sees them, whose clock is the wall's:
// what later lets pass is taken off the waiting time.
func (w *world) elapsed() stage.Accounts {
	all := stage.Accounts{}
	for label, a := range w.accounts {
		c := *a
		c.Waits = stage.Waits{Signature: a.Waits.Total() - time.Duration(w.late.Load())}
		all[label] = &c
	}
	return all
}

// worker starts a process. Its sweeps live in a time of their own: what waits
// is due, and the reconciler's clock is what the test sets (later).
func (w *world) worker() *worker {
	log := slog.New(slog.DiscardHandler)
	trouble := stage.Trouble{States: w.states, Log: log}
	var asked atomic.Int64
	guard := w.guard()
	return &worker{world: w, ctx: w.t.Context(),
		intake: stage.Intake{Accounts: w.accounts, Ledger: w.ledger, Line: w.line, Log: log, Keys: w.keys},
		submit: &stage.Submitter{Accounts: w.accounts, Ledger: w.ledger, States: w.states, Keys: w.keys, Sealer: w.recipients,
			Usages: &stage.Usages{Now: w.ledger.Now}, Pools: &stage.Pools{}, Trouble: trouble, Budgets: stage.Budgets{States: w.states}, Line: w.line,
			MayBuy: func() bool { return !w.full.Load() }},
		verify: &stage.Verifier{Accounts: w.accounts, Solvers: w.solvers, Placed: w.placed, Looker: w.looker, Since: w.line.Since(), Trouble: trouble},
		collect: &stage.Collector{Accounts: w.accounts, Ledger: w.ledger, Solvers: w.solvers, Placed: w.placed, Sinks: []stage.Sink{certstore.Dir{Path: w.out}},
			Sealer: w.recipients, Opener: w.identities, Trouble: trouble, Guard: &guard,
			Now: func() time.Time { return time.Now().Add(time.Duration(w.late.Load())) }},
		unsure: &stage.Reconciler{Accounts: w.accounts, Ledger: w.ledger, States: w.states, Line: w.line, Guard: w.guard(), Log: log,
			Now: func() time.Time { return time.Now().Add(time.Duration(w.late.Load())) }},
		waiter: &stage.Waiter{Accounts: w.accounts, Ledger: w.ledger, States: w.states, Line: w.line, Guard: w.guard(), Log: log,
			Now: func() time.Time { return time.Now().Add(time.Hour) }},
		issuing: &stage.IssuingSweep{Accounts: w.accounts, Line: w.line, Trouble: trouble, Log: log,
			Now: func() time.Time { return time.Now().Add(time.Duration(asked.Add(1)) * time.Hour) }},
		recheck: &stage.Recheck{Accounts: w.accounts, Line: w.line, Looker: w.looker, Log: log, Takes: func(string) time.Duration { return 0 },
			Now: func() time.Time { return time.Now().Add(time.Duration(asked.Add(1)) * 3 * time.Minute) }},
		placing: &stage.PlacedSweep{Accounts: w.accounts, Placed: w.placed, Solvers: w.solvers, Line: w.line, Trouble: trouble, Log: log,
			Now: func() time.Time { return time.Now().Add(time.Duration(asked.Add(1)) * 24 * time.Hour) }},
		by: person{&stage.Operator{Accounts: w.elapsed(), Ledger: w.ledger, States: w.states, Keys: w.keys, Line: w.line, Guard: w.guard(), Who: "eve"}},
	}
}

// later lets the waiting time pass, for the reconcilers, for the looks of
// collectors, and for operators that come after it.
func (w *world) later() { w.late.Store(int64(waits.Total() + time.Second)) }

// at returns a worker that calls f at gaps.
func (w *world) at(f func(ctx context.Context, name string)) *worker {
	p := w.worker()
	p.ctx = gap.With(p.ctx, f)
	return p
}

// dying returns a worker that ends at a gap, the first time it comes there, and
// tells whether it did.
func (w *world) dying(where string) (*worker, func() bool) {
	var died atomic.Bool
	p := w.at(func(_ context.Context, name string) {
		if name == where && died.CompareAndSwap(false, true) {
			runtime.Goexit()
		}
	})
	return p, died.Load
}

// frozen is a worker that stands still at a gap.
type frozen struct {
	*worker
	reached, wake chan struct{}
	once          sync.Once
}

// freezing returns a worker that stands still at a gap until thaw.
func (w *world) freezing(where string) *frozen {
	f := &frozen{reached: make(chan struct{}), wake: make(chan struct{})}
	var first sync.Once
	f.worker = w.at(func(_ context.Context, name string) {
		if name == where {
			first.Do(func() {
				close(f.reached)
				<-f.wake
			})
		}
	})
	w.t.Cleanup(f.thaw)
	return f
}

func (f *frozen) thaw() { f.once.Do(func() { close(f.wake) }) }

// freeze visits an order until the gap is reached. The channel it returns is
// closed when the visit, thawed, has ended.
func (f *frozen) freeze(id string) <-chan struct{} {
	f.t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-f.reached: // that visit is over
				return
			default:
				f.visit(id)
			}
		}
	}()
	select {
	case <-f.reached:
	case <-time.After(natstest.Patience):
		f.t.Fatalf("order %s does not come to the gap; it is %s", id, f.tell(id))
	}
	return ended
}

// visit does what the worker of the order's present state does, once. It
// reports false if the worker died over it.
func (p *worker) visit(id string) (survived bool) {
	it, err := p.line.Last(p.ctx, id)
	if err != nil {
		p.t.Errorf("visit %s: %v", id, err)
		return true
	}
	it.NotBefore = time.Time{} // tests do not wait out what only is backoff
	return p.survive(func() {
		switch h := p.stage(it.State); {
		case h != nil:
			_ = p.line.Visit(p.ctx, it, h)
		case it.State == order.Issuing:
			if err := p.issuing.Sweep(p.ctx, p.accounts[it.Account]); err != nil && p.ctx.Err() == nil {
				p.t.Logf("issuing sweep: %v", err)
			}
		}
	})
}

// survive runs f and reports whether it came to its end.
func (p *worker) survive(f func()) (survived bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
		survived = true
	}()
	<-done
	return survived
}

// stage is whose work a state is; nil where nobody's, or that of a list sweep.
func (p *worker) stage(s order.State) pipeline.Handler {
	switch s {
	case order.Submit:
		return p.submit
	case order.Verify:
		return p.verify
	case order.Collect:
		return p.collect
	case order.Unsure:
		return pipeline.HandlerFunc(p.unsure.Handle)
	case order.Waiting:
		return pipeline.HandlerFunc(p.waiter.Handle)
	}
	return nil
}

// drive visits an order until it is in one of the states, or the worker died.
func (p *worker) drive(id string, until ...order.State) order.Order {
	p.t.Helper()
	for end := time.Now().Add(natstest.Patience); ; time.Sleep(5 * time.Millisecond) {
		o := p.last(id)
		if slices.Contains(until, o.State) || !p.visit(id) {
			return p.last(id)
		}
		if o.State == order.Held || o.State.Final() || time.Now().After(end) {
			p.t.Fatalf("order %s does not come to %v; it is %s", id, until, p.tell(id))
		}
	}
}

// driveTo visits an order until it is as wanted.
func (p *worker) driveTo(id, what string, is func(order.Order) bool) order.Order {
	p.t.Helper()
	for end := time.Now().Add(natstest.Patience); !is(p.last(id)); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("order %s: not %s; it is %s", id, what, p.tell(id))
		}
		p.visit(id)
	}
	return p.last(id)
}

func (w *world) last(id string) order.Order {
	w.t.Helper()
	it, err := w.line.Last(context.WithoutCancel(w.t.Context()), id)
	w.must(err)
	return it.Order
}

// tell is an order's story, for failures.
func (w *world) tell(id string) string {
	o := w.last(id)
	s := fmt.Sprintf("%s, attempt %d, cloud id %q", o.State, o.Attempt, o.CloudID)
	if o.Hold != nil {
		s += ", " + o.Hold.Reason
	}
	if o.Failure != nil {
		s += ", " + o.Failure.Reason
	}
	for _, e := range o.Timeline {
		s += fmt.Sprintf("\n\t%s %s", e.State, e.Note)
	}
	return s
}

// request is an order message for "ali". The cloud refuses those for wildcards
// (refuses), and nobody knows before.
func request(id string, names ...string) order.Request {
	r := order.Request{ID: id, Account: "ali", Names: names}
	if strings.HasPrefix(names[0], "*.") {
		r.Product = refuses
	}
	return r
}

// publish hands a message to the intake.
func (w *world) publish(r order.Request) {
	w.t.Helper()
	w.publishTo(w.worker().intake, r)
}

func (w *world) publishTo(in stage.Intake, r order.Request) {
	w.t.Helper()
	data, err := json.Marshal(r)
	w.must(err)
	w.must(in.Accept(w.t.Context(), w.message(data)))
}

func (w *world) message(data []byte) pipeline.Message {
	return pipeline.Message{Data: data, Seq: w.seq.Add(1), Stored: time.Now()}
}

// order makes an order at "ali" and drives it up to the purchase: its key is in
// the key store.
func (w *world) order(id string, names ...string) {
	w.t.Helper()
	w.publish(request(id, names...))
	w.worker().driveTo(id, "at the purchase", keyStored)
}

func keyStored(o order.Order) bool { return o.Key != nil && o.Key.Stored }

// refOf is a request as the key store knows its order at "ali".
func refOf(r order.Request) certstore.Ref {
	return certstore.Ref{ID: r.ID, Hash: r.Hash(), Main: aliUID, Names: r.Names}
}

// ref is an order as the key store knows it.
func (w *world) ref(id string) certstore.Ref {
	o := w.last(id)
	return certstore.Ref{ID: id, Hash: o.Hash, Main: o.Main, Names: o.Request.Names}
}

// number is what the key store knows of an order.
func (w *world) number(id string) certstore.Raised {
	w.t.Helper()
	n, err := w.keys.Number(w.ref(id))
	w.must(err)
	return n
}

// raise puts an attempt's number into the key store, as a life does of which
// nothing else is left.
func (w *world) raise(id string, attempt int) {
	w.t.Helper()
	w.must(w.keys.Raise(w.ref(id), certstore.Raised{Attempt: attempt, Purchase: 1}))
}

// entry is what the ledger knows.
func (w *world) entry(main string, names ...string) ledger.Entry {
	w.t.Helper()
	e, err := w.ledger.Read(w.t.Context(), main, names)
	w.must(err)
	return e
}

// reopen puts the ledger back to before an answer came: the last attempt is
// open, the claim unknown.
func (w *world) reopen(names ...string) {
	w.t.Helper()
	e := w.entry(aliUID, names...)
	e.Claims, e.Attempts[0].Ending = nil, ledger.Open
	data, err := json.Marshal(e)
	w.must(err)
	_, err = w.js.Publish(w.t.Context(), "spend."+aliUID+"."+order.NamesHash(names), data)
	w.must(err)
}

// retake puts the ledger back to before the names' last order had ended.
func (w *world) retake(names ...string) {
	w.t.Helper()
	e := w.entry(aliUID, names...)
	e.Takes[0].End = ""
	data, err := json.Marshal(e)
	w.must(err)
	_, err = w.js.Publish(w.t.Context(), "spend."+aliUID+"."+order.NamesHash(names), data)
	w.must(err)
}

// attempt is an order's last one in the ledger.
func (w *world) attempt(id string) ledger.Attempt {
	w.t.Helper()
	o := w.last(id)
	a, _ := w.entry(o.Main, o.Request.Names...).Last(id)
	return a
}

// paid are the cloud orders for these names that cost something: quota, or an
// instance that was bought before.
func (w *world) paid(names ...string) []cloudsim.OrderReport {
	var all []cloudsim.OrderReport
	for _, o := range w.sim.Report().Orders {
		if (o.Spent || o.Kind == "instance") && slices.Equal(slices.Sorted(slices.Values(o.Names)), slices.Sorted(slices.Values(names))) {
			all = append(all, o)
		}
	}
	return all
}

func (w *world) wantPaid(n int, names ...string) {
	w.t.Helper()
	if all := w.paid(names...); len(all) != n {
		w.t.Errorf("the cloud has %d paid orders for %v, want %d: %+v", len(all), names, n, all)
	}
}

// calls counts those that reached the cloud.
func (w *world) calls(action string) int {
	n := 0
	for _, c := range w.sim.Report().Calls {
		if c.Action == action {
			n += c.Calls
		}
	}
	return n
}

func (w *world) fault(f cloudsim.Fault) {
	w.t.Helper()
	w.must(w.sim.AddFault(f))
}

// loses makes the next purchase's answer disappear, after or before it had its
// effect.
func (w *world) loses(kind string) {
	w.t.Helper()
	w.fault(cloudsim.Fault{Action: forPackage, Kind: kind, Times: 1})
}

// stranger buys for the same names past certmill, with a key of its own, and
// returns the order's id.
func (w *world) stranger(names ...string) string {
	w.t.Helper()
	return w.buyWith(issuertest.CSR(w.t, names...), names...)
}

// apart waits until what is bought from now on is after what was read before, as far as
// the cloud's clock and the ledger's may be apart.
func (w *world) apart() {
	w.t.Helper()
	time.Sleep(waits.Clocks + 100*time.Millisecond)
}

func (w *world) buyWith(csr string, names ...string) string {
	w.t.Helper()
	f := w.accounts["ali"].Flow(forPackage)
	ctx, release, err := f.Reserve(w.t.Context())
	w.must(err)
	defer release()
	r, err := f.Submit(ctx, issuer.Application{Names: names, CSR: csr, Product: plenty, Validation: order.DNS,
		Contact: w.accounts["ali"].Contact}, issuertest.Fence())
	w.must(err)
	return r.CloudID
}

// proved places the challenge of a cloud order past certmill, waits until it is
// issued, and cleans up.
func (w *world) proved(id string) {
	w.t.Helper()
	var put []order.Challenge
	for end := time.Now().Add(natstest.Patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		st, err := w.accounts["ali"].Flow(forPackage).Look(w.t.Context(), id)
		w.must(err)
		if st.Phase == issuer.IssuedPhase {
			for _, c := range put {
				w.must(w.solvers["ali"].CleanUp(w.t.Context(), c))
			}
			return
		}
		for _, c := range st.Challenges {
			w.must(w.solvers["ali"].Present(w.t.Context(), c))
			put = append(put, c)
		}
	}
	w.t.Fatalf("cloud order %s is not issued", id)
}

// delivered reads a file of an issued order.
func (w *world) delivered(id, name string) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.out, id, name))
	w.must(err)
	return string(data)
}

// wantIssued checks an issued order: delivered, with a claim that is its own.
func (w *world) wantIssued(id string) order.Order {
	w.t.Helper()
	o := w.last(id)
	if o.State != order.Issued || o.Certificate == nil || !strings.Contains(w.delivered(id, "fullchain.pem"), "BEGIN CERTIFICATE") {
		w.t.Fatalf("order %s is not issued: %s", id, w.tell(id))
	}
	if c, ok := w.entry(o.Main, o.Request.Names...).Claim(id, o.Purchase); o.Resource == "" && (!ok || c.CloudID != o.CloudID) {
		w.t.Errorf("order %s has cloud order %q, the ledger's claim is %+v", id, o.CloudID, c)
	}
	return o
}

func (w *world) wantHeld(id, reason, command string) order.Order {
	w.t.Helper()
	o := w.last(id)
	if o.State != order.Held || !strings.Contains(o.Hold.Reason, reason) || !slices.ContainsFunc(o.Hold.Commands, func(c string) bool { return strings.HasPrefix(c, command) }) {
		w.t.Fatalf("order %s is not held (%s; %s) but %s %v", id, reason, command, w.tell(id), o.Hold)
	}
	return o
}

func (w *world) wantFailed(id, class string) order.Order {
	w.t.Helper()
	o := w.last(id)
	if o.State != order.Failed || o.Failure == nil || o.Failure.Class != class || o.Failure.Reason == "" {
		w.t.Fatalf("order %s has not failed as %q: %s %+v", id, class, w.tell(id), o.Failure)
	}
	return o
}

// finder is what a flow with a list by names can do.
type finder = issuer.Finder

func withSubject(filter string) jetstream.StreamInfoOpt { return jetstream.WithSubjectFilter(filter) }

// heldOpen makes an order that is held with an open entry and bought nothing,
// because its call was lost (one that was handed out too often without a result
// is held so). The waiting time is over.
func heldOpen(w *world, id string, names ...string) {
	w.t.Helper()
	w.order(id, names...)
	w.loses("reset_before_commit")
	w.worker().drive(id, order.Unsure)
	it, err := w.line.Last(w.t.Context(), id)
	w.must(err)
	held := it.Order
	held.State = order.Held
	held.Hold = &order.Hold{Reason: "for the test", Open: true, From: order.Unsure, Commands: []string{"certmill not-bought " + id}}
	_, err = w.line.Move(w.t.Context(), it, held)
	w.must(err)
	w.later()
}

// packages is what the package flow can do.
type packages interface {
	issuer.Flow
	issuer.Finder
	issuer.Counter
	issuer.CertLister
	issuer.AllLister
}

// tagging is the package flow at a cloud whose list shows tags. The documents do
// not say whether it does; the simulated one does not.
type tagging struct {
	packages
	tag string
}

func (f tagging) Find(ctx context.Context, names []string) ([]issuer.Row, error) {
	rows, err := f.packages.Find(ctx, names)
	for i := range rows {
		rows[i].Tag = f.tag
	}
	return rows, err
}

func (w *world) showTags(tag string) {
	w.replaceFlow("ali", tagging{w.accounts["ali"].Flow(forPackage).(packages), tag})
}

// replaceFlow puts a flow in place of the one of the same action.
func (w *world) replaceFlow(label string, f issuer.Flow) {
	a := w.accounts[label]
	a.Cloud = replaced{a.Cloud, f}
}

// replaced is a cloud with one of its flows replaced.
type replaced struct {
	issuer.Cloud
	flow issuer.Flow
}

func (c replaced) Flows() []issuer.Flow {
	all := c.Cloud.Flows()
	for i, f := range all {
		if f.Action() == c.flow.Action() {
			all[i] = c.flow
		}
	}
	return all
}

func (c replaced) Route(r order.Request) (issuer.Route, error) {
	way, err := c.Cloud.Route(r)
	if err == nil && way.Flow.Action() == c.flow.Action() {
		way.Flow = c.flow
	}
	return way, err
}

// shows tells whether a challenge can be seen from outside.
func (w *world) shows(c order.Challenge) bool {
	w.t.Helper()
	s, err := w.looker.Look(w.t.Context(), c)
	w.must(err)
	return s.Seen
}

// person is an operator who approves what the order is held for when the verb is
// given.
type person struct{ *stage.Operator }

func (p person) Approve(ctx context.Context, id string) error {
	it, err := p.Line.Last(ctx, id)
	if err != nil {
		return err
	}
	fact := ""
	if it.Hold != nil {
		fact = it.Hold.Fact
	}
	return p.Operator.Approve(ctx, id, fact)
}
