package stage_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
)

var modelChecks = flag.Int("model-checks", 333, "runs of the purchase's model; .ci/long model has many more")

// TestPurchaseModel lets the real submitter, reconciler, verifier and collector,
// on a real ledger and line, go through any interleaving of deliveries, of
// records that are handed out again, of workers that die or stand still at any
// gap, of answers that are lost and of requests that arrive late. The cloud is a
// pure model here, which knows for whom each of its orders was bought, and whose
// clock the test turns. A run that failed is repeated by -rapid.seed.
//
// Whatever happens: for a set of names there is one cloud order, of whichever of
// their orders (DESIGN 12.2). And when it is over, and time goes on, one of these is
// issued with it, and the others are held for it; or an order is held where somebody
// else bought the same names or the list hides what was bought.
func TestPurchaseModel(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of runs")
	}
	t.Parallel() // no other test of this package looks at rapid's flags
	checks := flag.Lookup("rapid.checks")
	was := checks.Value.String()
	defer func() { _ = checks.Value.Set(was) }()
	if err := checks.Value.Set(fmt.Sprint(*modelChecks)); err != nil {
		t.Fatal(err)
	}
	f := newFloor(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := f.model(t, run)
		defer m.thawAll()
		t.Repeat(map[string]func(*rapid.T){
			"deliver":   m.deliver,
			"redeliver": m.redeliver,
			"freeze":    m.freeze,
			"thaw":      m.thaw,
			"arrive":    func(t *rapid.T) { m.cloud.arrive(t) },
			"time":      func(t *rapid.T) { m.cloud.pass(rapid.SampledFrom([]time.Duration{1, 2, 7}).Draw(t, "s") * time.Second) },
			"outsider":  m.outsider,
			"":          m.check,
		})
		m.finish(t)
	})
}

// modelWaits are never waited out: the cloud's clock is turned.
var modelWaits = stage.Waits{Entry: time.Second, Signature: 3 * time.Second, Clocks: time.Second, ListLag: time.Second}

const modelMain = "300300"

// floor is what all runs share.
type floor struct {
	line   *pipeline.Line
	ledger *ledger.Ledger
	states *account.Accounts
	ca     *authority
}

func newFloor(t *testing.T) *floor {
	t.Helper()
	w := &world{t: t}
	ctx := t.Context()
	js := natstest.Connect(t, natstest.Server(t))
	w.must(provision(ctx, js))
	f := &floor{ca: newAuthority(t)}
	var err error
	f.line, err = pipeline.Open(ctx, js, "model", slog.New(slog.DiscardHandler))
	w.must(err)
	f.ledger, err = ledger.New(ctx, js, 1)
	w.must(err)
	f.states, err = account.Open(ctx, js, 1, slog.New(slog.DiscardHandler))
	w.must(err)
	w.must(f.states.Change(ctx, modelMain, func(s *account.State) {
		s.Mark = account.Mark{Incarnation: f.line.Incarnation(), At: time.Now()}
	}))
	return f
}

// model is one run: one or two orders for the same names.
type model struct {
	*floor
	cloud  *cloud
	keys   *memoryKeys
	ids    []string
	names  []string
	owner  map[string]string // order by key fingerprint
	seen   []pipeline.Item   // what was ever handed out
	asleep []*sleeper
	alien  bool // somebody else bought these names
}

type sleeper struct{ wake, ended chan struct{} }

func (f *floor) model(t *rapid.T, run int) *model {
	m := &model{floor: f, keys: &memoryKeys{raised: map[string]certstore.Raised{}}, owner: map[string]string{},
		names: []string{fmt.Sprintf("m%d.example.com", run)}}
	m.cloud = &cloud{ca: f.ca, run: run, skew: rapid.SampledFrom([]time.Duration{0, modelWaits.Clocks}).Draw(t, "skew"),
		hides: rapid.IntRange(0, 9).Draw(t, "hides") == 0}
	for n := range rapid.IntRange(1, 2).Draw(t, "orders") {
		id := fmt.Sprintf("m%d-%d", run, n)
		m.ids = append(m.ids, id)
		_, csr, fp, err := certstore.NewKey("ecdsa-p256", m.names, false)
		must(t, err)
		m.owner[fp] = id
		_, err = f.line.Create(context.Background(), order.Order{V: order.SchemaVersion, State: order.Submit, Account: "ali", Main: modelMain,
			Request:   order.Request{ID: id, Account: "ali", Names: m.names, Validation: order.DNS},
			Operation: forPackage, Product: plenty, Purchase: 1,
			Key: &order.Key{Fingerprint: fp, CSR: csr, Sealed: []byte("sealed"), Stored: true}})
		must(t, err)
	}
	return m
}

func must(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *model) last(t *rapid.T, id string) pipeline.Item {
	it, err := m.line.Last(context.Background(), id)
	must(t, err)
	return it
}

// handler is whose work a state is. Each visit has a worker of its own, that
// remembers nothing; the reconciler's clock is the cloud's.
func (m *model) handler(t *rapid.T, s order.State) pipeline.Handler {
	a := &stage.Account{Label: "ali", Main: modelMain, Cloud: m.cloud, Waits: modelWaits}
	all, log := stage.Accounts{"ali": a}, slog.New(slog.DiscardHandler)
	trouble := stage.Trouble{States: m.states, Log: log}
	switch s {
	case order.Submit:
		return &stage.Submitter{Accounts: all, Ledger: m.ledger, States: m.states, Keys: m.keys, Usages: &stage.Usages{Now: m.ledger.Now},
			Pools: &stage.Pools{}, Trouble: trouble, Line: m.line}
	case order.Verify:
		return &stage.Verifier{Accounts: all, Trouble: trouble}
	case order.Collect:
		return &stage.Collector{Accounts: all, Ledger: m.ledger, Trouble: trouble}
	case order.Waiting:
		return pipeline.HandlerFunc((&stage.Waiter{Accounts: all, Ledger: m.ledger, States: m.states, Line: m.line, Log: slog.New(slog.DiscardHandler),
			Now: func() time.Time { return time.Now().Add(time.Hour) }}).Handle)
	case order.Unsure:
		ahead := time.Duration(0)
		e, err := m.ledger.Read(context.Background(), modelMain, m.names)
		must(t, err)
		if open, is := e.OpenAttempt(); is {
			ahead = m.cloud.turned(open.Opened)
		}
		return pipeline.HandlerFunc((&stage.Reconciler{Accounts: all, Ledger: m.ledger, States: m.states, Line: m.line, Log: log,
			Now: func() time.Time { return time.Now().Add(ahead) }}).Handle)
	}
	return nil
}

// visit hands an item out. at is called at the n-th gap that the worker passes.
func (m *model) visit(t *rapid.T, it pipeline.Item, n int, at func()) (ended chan struct{}) {
	ended = make(chan struct{})
	h := m.handler(t, it.State)
	if h == nil {
		close(ended)
		return ended
	}
	it.NotBefore = time.Time{}
	ctx := gap.With(context.WithValue(context.Background(), fateKey{}, rapid.SampledFrom(fates).Draw(t, "fate")), func(context.Context, string) {
		if n--; n == 0 {
			at()
		}
	})
	go func() {
		defer close(ended)
		_ = m.line.Visit(ctx, it, h)
	}()
	return ended
}

func (m *model) draw(t *rapid.T) string { return rapid.SampledFrom(m.ids).Draw(t, "order") }

// deliver hands an order to a worker, which may die.
func (m *model) deliver(t *rapid.T) {
	it := m.last(t, m.draw(t))
	m.seen = append(m.seen, it)
	<-m.visit(t, it, rapid.IntRange(0, 8).Draw(t, "dies at"), runtime.Goexit)
}

// redeliver hands out what may have been overtaken long ago.
func (m *model) redeliver(t *rapid.T) {
	if len(m.seen) == 0 {
		t.Skip()
	}
	<-m.visit(t, rapid.SampledFrom(m.seen).Draw(t, "item"), rapid.IntRange(0, 8).Draw(t, "dies at"), runtime.Goexit)
}

// freeze hands an order to a worker that stands still.
func (m *model) freeze(t *rapid.T) {
	if len(m.asleep) == 3 {
		t.Skip()
	}
	it := m.last(t, m.draw(t))
	m.seen = append(m.seen, it)
	s := &sleeper{wake: make(chan struct{})}
	still := make(chan struct{})
	s.ended = m.visit(t, it, rapid.IntRange(1, 6).Draw(t, "freezes at"), func() { close(still); <-s.wake })
	select {
	case <-still:
		m.asleep = append(m.asleep, s)
	case <-s.ended:
	}
}

func (m *model) thaw(t *rapid.T) {
	if len(m.asleep) == 0 {
		t.Skip()
	}
	i := rapid.IntRange(0, len(m.asleep)-1).Draw(t, "sleeper")
	close(m.asleep[i].wake)
	<-m.asleep[i].ended
	m.asleep = slices.Delete(m.asleep, i, i+1)
}

func (m *model) thawAll() {
	for _, s := range m.asleep {
		close(s.wake)
		<-s.ended
	}
	m.asleep = nil
}

func (m *model) outsider(t *rapid.T) {
	if m.alien || rapid.IntRange(0, 4).Draw(t, "buys") > 0 {
		t.Skip()
	}
	m.alien = true
	_, csr, _, err := certstore.NewKey("ecdsa-p256", m.names, false)
	must(t, err)
	m.cloud.land(m.names, csr, false, true)
}

// check holds at any time.
func (m *model) check(t *rapid.T) {
	var bought []string
	for _, r := range m.cloud.listed(true) {
		if id := m.owner[r.key]; id != "" {
			bought = append(bought, id)
		}
	}
	if len(bought) > 1 {
		e, _ := m.ledger.Read(context.Background(), modelMain, m.names)
		t.Fatalf("bought for %s, although they are for one set of names:\n%+v\nhidden: %v\nledger %+v\norder %+v", strings.Join(bought, " and "), m.cloud.listed(true), m.cloud.hides, e, m.last(t, bought[0]).Timeline)
	}
	e, err := m.ledger.Read(context.Background(), modelMain, m.names)
	must(t, err)
	open := 0
	for _, a := range e.Attempts {
		if a.Ending == ledger.Open {
			open++
		}
	}
	if open > 1 {
		t.Fatalf("%d attempts are open: %+v", open, e.Attempts)
	}
}

// finish lets everybody who stood still go on and everybody work, and looks at
// how it ends.
func (m *model) finish(t *rapid.T) {
	m.thawAll()
	rests := func(s order.State) bool { return s.Final() || s == order.Held }
	for range 100 {
		left := 0
		for _, id := range m.ids {
			it := m.last(t, id)
			if !rests(it.State) {
				left++
				it.NotBefore = time.Time{}
				_ = m.line.Visit(context.Background(), it, m.handler(t, it.State))
			}
		}
		m.check(t)
		if left == 0 {
			break
		}
		m.cloud.pass(time.Second)
	}
	for _, id := range m.ids {
		m.ends(t, m.last(t, id).Order)
	}
}

func (m *model) ends(t *rapid.T, o order.Order) {
	e, err := m.ledger.Read(context.Background(), modelMain, m.names)
	must(t, err)
	switch o.State {
	case order.Issued:
		r, ok := m.cloud.find(o.CloudID)
		c, claimed := e.Claimed(o.CloudID)
		if !ok || m.owner[r.key] != o.ID() || !claimed || c.Order != o.ID() {
			t.Fatalf("order %s is issued with cloud order %q of %q, claimed %+v", o.ID(), o.CloudID, m.owner[r.key], c)
		}
		if a, _ := e.Last(o.ID()); a.Ending == ledger.Open {
			t.Fatalf("order %s is issued with an open attempt: %+v", o.ID(), a)
		}
	case order.Held:
		if !m.alien && !m.cloud.hides && !m.served(t, o) {
			t.Fatalf("order %s is held: %s\n%+v", o.ID(), o.Hold.Reason, o.Timeline)
		}
	default:
		t.Fatalf("order %s does not come to its end; it is %s: %+v\n%+v\nledger %+v", o.ID(), o.State, o.Wait, o.Timeline, e)
	}
}

// served tells whether an order is held because another one serves its names.
func (m *model) served(t *rapid.T, o order.Order) bool {
	return slices.ContainsFunc(m.ids, func(id string) bool {
		it := m.last(t, id)
		return it.State == order.Issued && o.Hold.Fact == order.FactInService(id, it.Certificate.NotAfter)
	})
}

// fate is what becomes of a paid call.
type fate string

var fates = []fate{"answered", "answered", "answer lost", "request lost", "on its way", "throttled"}

type fateKey struct{}

// cloud is the model of a cloud account: a list of orders and requests on their
// way. It is a cloud of package issuer, and the one flow there.
type cloud struct {
	ca    *authority
	run   int           // its ids are those of this run: all runs share one main account
	skew  time.Duration // its clock lets signatures live longer
	hides bool          // its list shows an order much later than was allowed for

	mu     sync.Mutex
	turns  []turn
	rows   []modelRow
	onWay  []onWay
	number int
}

// turn is a moment at which the clock was turned on.
type turn struct {
	at time.Time
	by time.Duration
}

type modelRow struct {
	id, csr, key string
	names        []string
	made         time.Time
	late         bool // is listed late
	issued       bool // is listed as issued
}

type onWay struct {
	names  []string
	csr    string
	signed time.Time
}

// pass turns the clock on.
func (c *cloud) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turns = append(c.turns, turn{time.Now(), d})
}

// turned is how far the clock was turned on since a moment.
func (c *cloud) turned(since time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.turnedLocked(since)
}

func (c *cloud) turnedLocked(since time.Time) time.Duration {
	var d time.Duration
	for _, t := range c.turns {
		if t.at.After(since) {
			d += t.by
		}
	}
	return d
}

func (c *cloud) age(t time.Time) time.Duration { return time.Since(t) + c.turnedLocked(t) }

// arrive lets a request that is on its way come in, if its signature still lives.
func (c *cloud) arrive(t *rapid.T) {
	c.mu.Lock()
	if len(c.onWay) == 0 {
		c.mu.Unlock()
		t.Skip()
	}
	r := c.onWay[0]
	c.onWay = c.onWay[1:]
	alive := c.age(r.signed) <= modelWaits.Signature+c.skew
	c.mu.Unlock()
	if alive {
		c.land(r.names, r.csr, rapid.Bool().Draw(t, "listed late"), rapid.Bool().Draw(t, "issued"))
	}
}

// land carries a request out.
func (c *cloud) land(names []string, csr string, late, issued bool) string {
	block, _ := pem.Decode([]byte(csr))
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.number++
	r := modelRow{id: fmt.Sprintf("%d-%d", c.run, c.number), csr: csr, key: certstore.Fingerprint(req.PublicKey.(crypto.PublicKey)), names: names, made: time.Now(),
		late: late, issued: issued}
	c.rows = append(c.rows, r)
	return r.id
}

// listed are the rows that the list shows; all of them if hidden is set.
func (c *cloud) listed(hidden bool) []modelRow {
	c.mu.Lock()
	defer c.mu.Unlock()
	var rows []modelRow
	for _, r := range c.rows {
		lag := time.Duration(0)
		switch {
		case r.late && c.hides:
			lag = 2 * modelWaits.Total()
		case r.late:
			lag = modelWaits.ListLag - 100*time.Millisecond
		}
		if hidden || c.age(r.made) >= lag {
			rows = append(rows, r)
		}
	}
	return rows
}

func (c *cloud) find(id string) (modelRow, bool) {
	for _, r := range c.listed(true) {
		if r.id == id {
			return r, true
		}
	}
	return modelRow{}, false
}

func (c *cloud) About() issuer.About                { return issuer.About{Name: "a model"} }
func (c *cloud) Flows() []issuer.Flow               { return []issuer.Flow{c} }
func (c *cloud) Product(code string) issuer.Product { return issuer.Product{Code: code, Several: true} }

func (c *cloud) Route(order.Request) (issuer.Route, error) {
	return issuer.Route{Flow: c, Product: plenty}, nil
}

func (c *cloud) Identify(context.Context) (issuer.Identity, error) {
	return issuer.Identity{Main: modelMain, Caller: modelMain}, nil
}

func (c *cloud) Action() string               { return forPackage }
func (c *cloud) Spends() bool                 { return true }
func (c *cloud) CSR(order.Request) issuer.CSR { return issuer.FirstNameCSR }

func (c *cloud) Reserve(ctx context.Context) (context.Context, func(), error) {
	return ctx, func() {}, nil
}

// Submit signs now. The fence is that of an entry whose time the clock's turns
// are counted from.
func (c *cloud) Submit(ctx context.Context, a issuer.Application, f issuer.Fence) (issuer.Receipt, error) {
	signed := time.Now()
	if signed.Add(c.turned(f.NotAfter.Add(-modelWaits.Entry))).After(f.NotAfter) {
		return issuer.Receipt{}, &issuer.Error{Kind: issuer.NeverSent, Err: issuer.ErrOutsideFence}
	}
	unknown := &issuer.Error{Kind: issuer.UnknownOutcome, Err: errors.New("no answer")}
	switch ctx.Value(fateKey{}) {
	case fate("answer lost"):
		c.land(a.Names, a.CSR, true, false)
		return issuer.Receipt{}, unknown
	case fate("request lost"):
		return issuer.Receipt{}, unknown
	case fate("on its way"):
		c.mu.Lock()
		defer c.mu.Unlock()
		c.onWay = append(c.onWay, onWay{a.Names, a.CSR, signed})
		return issuer.Receipt{}, unknown
	case fate("throttled"):
		return issuer.Receipt{}, &issuer.Error{Kind: issuer.Throttled, Err: errors.New("too many")}
	}
	return issuer.Receipt{CloudID: c.land(a.Names, a.CSR, true, true)}, nil
}

func (c *cloud) Look(_ context.Context, id string) (issuer.Status, error) {
	if _, ok := c.find(id); !ok {
		return issuer.Status{}, &issuer.Error{Kind: issuer.NotFound, Err: errors.New("no such order")}
	}
	return issuer.Status{Phase: issuer.IssuedPhase, Raw: "certificate", CertID: id}, nil
}

func (c *cloud) Waiting(context.Context, int) (issuer.Page, error) { return issuer.Page{}, nil }

func (c *cloud) Fetch(_ context.Context, id, _ string) (issuer.Certificate, error) {
	r, ok := c.find(id)
	if !ok {
		return issuer.Certificate{}, &issuer.Error{Kind: issuer.NotFound, Err: errors.New("no such order")}
	}
	return issuer.Certificate{Chain: c.ca.sign(r)}, nil
}

func (c *cloud) Find(context.Context, []string) ([]issuer.Row, error) {
	var rows []issuer.Row
	for _, r := range c.listed(false) {
		row := issuer.Row{CloudID: r.id, Names: r.names, Product: plenty, Raw: "CHECKING", Phase: issuer.Reviewing, Created: r.made, CertID: r.id}
		if r.issued {
			row.Phase = issuer.IssuedPhase
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (c *cloud) All(ctx context.Context, _ int) (issuer.Page, error) {
	rows, err := c.Find(ctx, nil)
	return issuer.Page{Rows: rows}, err
}

func (c *cloud) Usage(context.Context, string) (issuer.Usage, error) {
	return issuer.Usage{Bought: 1000, Used: int64(len(c.listed(true))), Read: time.Now()}, nil
}

// memoryKeys is a key store without a disk.
type memoryKeys struct {
	mu     sync.Mutex
	raised map[string]certstore.Raised
}

func (k *memoryKeys) Put(_ context.Context, _ certstore.Ref, key order.Key) (order.Key, bool, error) {
	return key, true, nil
}

func (k *memoryKeys) Number(r certstore.Ref) (certstore.Raised, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.raised[r.ID], nil
}

func (k *memoryKeys) Numbers(r certstore.Ref) ([]certstore.Raised, error) {
	highest, err := k.Number(r)
	if highest.Attempt == 0 {
		return nil, err
	}
	return []certstore.Raised{highest}, err
}

func (k *memoryKeys) Raise(r certstore.Ref, to certstore.Raised) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.raised[r.ID].Attempt >= to.Attempt {
		return certstore.ErrExists
	}
	to.At, to.Hash, to.Names = time.Now(), r.Hash, r.Names
	k.raised[r.ID] = to
	return nil
}

// authority signs what the model's cloud issues.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "model CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key: key, cert: cert, pem: encodeCertificate(der)}
}

func encodeCertificate(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (a *authority) sign(r modelRow) string {
	block, _ := pem.Decode([]byte(r.csr))
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		panic(err)
	}
	began := time.Now().Truncate(time.Hour) // whoever downloads it again gets the same term
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: r.names[0]}, DNSNames: r.names,
		NotBefore: began, NotAfter: began.Add(2 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, req.PublicKey, a.key)
	if err != nil {
		panic(err)
	}
	return encodeCertificate(der) + a.pem
}
