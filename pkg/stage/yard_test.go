package stage_test

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
	"github.com/certmill/certmill/pkg/stream"
)

// yardWaits are never waited out: what lies there is made older (pass). They are
// long, so that the time that a test takes is none.
var yardWaits = stage.Waits{Entry: time.Hour, Signature: 8 * time.Hour, Clocks: time.Hour}

const (
	yardName = "y.example.com"
	useThing = "UseThing" // the action of the yard's clouds that starts what was bought
	yardMain = "ali"      // main accounts of the yard have their labels' names
)

// yard is a place where orders, books, key store and clouds can be put back to any
// situation that was there before. Handlers and verbs are the real ones; workers
// remember nothing.
type yard struct {
	t                *testing.T
	table            *table
	line             *pipeline.Line
	ledger           *ledger.Ledger
	marked, unmarked *account.Accounts
	ca               *authority
	situation
}

// situation is all that there is. Values in it are never changed in place.
type situation struct {
	rows   map[string]row
	raised map[string][]certstore.Raised // the key store's numbers, by id
	pairs  map[string]order.Key          // and its pairs
	clouds map[string]shop               // by label
	gone   string                        // label that the config has no more
	swept  bool
}

// shop is a cloud account.
type shop struct {
	n      int
	rows   []shopRow
	things []shopThing
	onWay  []shopCall
}

type shopRow struct {
	id, csr, key string
	made         time.Time
	phase        issuer.Phase
	wrong        bool // its certificate is for another key
}

type shopThing struct {
	id, csr string
	phase   issuer.Phase
}

type shopCall struct {
	csr, thing string
	signed     time.Time
}

func newYard(t *testing.T, labels ...string) *yard {
	t.Helper()
	w := &world{t: t}
	y := &yard{t: t, ca: newAuthority(t)}
	ctx := t.Context()
	server := natstest.Connect(t, natstest.Server(t))
	w.must(provision(ctx, server))
	var err error
	y.unmarked, err = account.Open(ctx, server, 1, slog.New(slog.DiscardHandler))
	w.must(err)
	server = natstest.Connect(t, natstest.Server(t))
	w.must(provision(ctx, server))
	y.marked, err = account.Open(ctx, server, 1, slog.New(slog.DiscardHandler))
	w.must(err)
	y.table = newTable(server)
	js := stream.WithoutConsumers(y.table)
	y.line, err = pipeline.Open(ctx, js, "yard", slog.New(slog.DiscardHandler))
	w.must(err)
	y.ledger, err = ledger.New(ctx, js, 1)
	w.must(err)
	y.clouds, y.swept = map[string]shop{}, true
	for _, label := range labels {
		y.clouds[label] = shop{things: []shopThing{{id: label + "-thing", phase: issuer.Unstarted}}}
		w.must(y.marked.Change(ctx, label, func(s *account.State) {
			s.Mark = account.Mark{Incarnation: y.line.Incarnation(), At: time.Now()}
		}))
	}
	return y
}

// now is the situation as it is.
func (y *yard) now() situation {
	s := y.situation
	s.rows = y.table.take()
	return s
}

// back puts everything back.
func (y *yard) back(s situation) {
	y.situation = s
	y.table.put(s.rows)
}

// pass lets the waiting time go by: everything there becomes older. What is in
// service stays so, or nothing would have an end.
func (y *yard) pass() {
	const by = 100 * time.Hour
	rows := map[string]row{}
	for subject, r := range y.table.take() {
		r.data, r.at, r.read = older(r.data, by), r.at.Add(-by), &reading{}
		rows[subject] = r
	}
	y.table.put(rows)
	raised := map[string][]certstore.Raised{}
	for id, all := range y.raised {
		all = slices.Clone(all)
		for i := range all {
			all[i].At = all[i].At.Add(-by)
		}
		raised[id] = all
	}
	y.raised = raised
	y.eachCloud(func(_ string, s *shop) {
		s.onWay = nil // what was signed so long ago is refused
		for i := range s.rows {
			s.rows[i].made = s.rows[i].made.Add(-by)
		}
	})
}

// times are those of a record that grow older. A time in which something is in
// service is none.
var times = regexp.MustCompile(`"([a-z_]+)":"(20\d\d-\d\d-\d\dT[0-9:.]+Z)"`)

func older(data []byte, by time.Duration) []byte {
	return times.ReplaceAllFunc(data, func(m []byte) []byte {
		parts := times.FindSubmatch(m)
		at, err := time.Parse(time.RFC3339Nano, string(parts[2]))
		if key := string(parts[1]); err != nil || key == "not_after" || key == "not_before" && len(parts[2]) == 20 {
			return m
		}
		return fmt.Appendf(nil, `"%s":"%s"`, parts[1], at.Add(-by).Format(time.RFC3339Nano))
	})
}

// eachCloud changes copies of the clouds.
func (y *yard) eachCloud(f func(label string, s *shop)) {
	clouds := maps.Clone(y.clouds)
	for label, s := range clouds {
		s.rows, s.things, s.onWay = slices.Clone(s.rows), slices.Clone(s.things), slices.Clone(s.onWay)
		f(label, &s)
		clouds[label] = s
	}
	y.clouds = clouds
}

// change changes a copy of one cloud.
func (y *yard) change(label string, f func(s *shop)) {
	y.eachCloud(func(l string, s *shop) {
		if l == label {
			f(s)
		}
	})
}

func (y *yard) accounts() stage.Accounts {
	all := stage.Accounts{}
	for label := range y.clouds {
		if label != y.gone {
			all[label] = &stage.Account{Label: label, Main: label, Cloud: yardCloud{y, label}, Waits: yardWaits}
		}
	}
	return all
}

func (y *yard) states() *account.Accounts {
	if y.swept {
		return y.marked
	}
	return y.unmarked
}

func (y *yard) guard() stage.Guard {
	return stage.Guard{Ledger: y.ledger, States: y.states(), Incarnation: y.line.Incarnation(), Now: time.Now}
}

// later is a clock that is ahead of all that rests for seconds or minutes.
func later() time.Time { return time.Now().Add(time.Hour) }

func (y *yard) submitter() *stage.Submitter {
	quiet := slog.New(slog.DiscardHandler)
	return &stage.Submitter{Accounts: y.accounts(), Ledger: y.ledger, States: y.states(), Keys: yardKeys{y}, Sealer: open{}, Usages: &stage.Usages{Now: y.ledger.Now},
		Pools: &stage.Pools{}, Trouble: stage.Trouble{States: y.states(), Log: quiet}, Line: y.line}
}

func (y *yard) waiter() *stage.Waiter {
	return &stage.Waiter{Accounts: y.accounts(), Ledger: y.ledger, States: y.states(), Line: y.line, Guard: y.guard(),
		Log: slog.New(slog.DiscardHandler), Now: later}
}

func (y *yard) operator() *stage.Operator {
	return &stage.Operator{Ledger: y.ledger, States: y.states(), Line: y.line, Who: "eve", Accounts: y.accounts(), Keys: yardKeys{y}, Guard: y.guard()}
}

// visit does what the workers do with an order in its state, once.
func (y *yard) visit(ctx context.Context, id string, worn bool) error {
	it, err := y.line.Last(ctx, id)
	if err != nil {
		return err
	}
	a := y.accounts()[it.Account]
	if a == nil {
		return nil // nobody serves its lane
	}
	if err := y.settled(ctx, it); err != nil { // who is handed an older message does so first
		return err
	}
	quiet := slog.New(slog.DiscardHandler)
	trouble, guard := stage.Trouble{States: y.states(), Log: quiet}, y.guard()
	it.NotBefore = time.Time{}
	if worn {
		it.Retries = 25
	}
	switch it.State {
	case order.Submit:
		return y.line.Visit(ctx, it, y.submitter())
	case order.Verify:
		return y.line.Visit(ctx, it, &stage.Verifier{Accounts: y.accounts(), Trouble: trouble})
	case order.Collect:
		return y.line.Visit(ctx, it, &stage.Collector{Accounts: y.accounts(), Ledger: y.ledger, Sealer: open{}, Trouble: trouble, Guard: &guard})
	case order.Waiting:
		return y.line.Visit(ctx, it, pipeline.HandlerFunc(y.waiter().Handle))
	case order.Unsure, order.Held:
		r := &stage.Reconciler{Accounts: y.accounts(), Ledger: y.ledger, States: y.states(), Line: y.line, Guard: y.guard(), Log: quiet, Now: time.Now}
		if worn && it.State == order.Unsure {
			return y.line.Visit(ctx, it, pipeline.HandlerFunc(r.Handle))
		}
		return r.Sweep(ctx, a)
	case order.Issuing:
		asked := 0
		s := &stage.IssuingSweep{Accounts: y.accounts(), Line: y.line, Trouble: trouble, Log: quiet,
			Now: func() time.Time { asked++; return time.Now().Add(time.Duration(asked) * time.Hour) }}
		return errors.Join(s.Sweep(ctx, a), s.Sweep(ctx, a))
	}
	return nil
}

// settled hands out what lies below an order's last message.
func (y *yard) settled(ctx context.Context, last pipeline.Item) error {
	for subject, r := range y.table.take() {
		if !covers(order.AllOf(last.ID()), subject) || r.seq >= last.Seq {
			continue
		}
		if _, err := y.line.Settle(ctx, pipeline.Item{Order: r.order(), Seq: r.seq}); err != nil {
			return err
		}
	}
	return nil
}

// handIn publishes a request, as its publisher does again and again.
func (y *yard) handIn(ctx context.Context, r order.Request) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	in := stage.Intake{Accounts: y.accounts(), Ledger: y.ledger, Line: y.line, Log: slog.New(slog.DiscardHandler)}
	return in.Accept(ctx, pipeline.Message{Data: data, Seq: 1, Stored: time.Now()})
}

// sweepFirst is the first sweep of all accounts.
func (y *yard) sweepFirst(ctx context.Context) error {
	var errs []error
	w := y.waiter()
	for _, a := range w.Accounts.Mains() {
		errs = append(errs, w.Surplus(ctx, a)) // the mark is set by the yard: it is as the situation says
	}
	y.swept = true
	return errors.Join(errs...)
}

// dies runs f, which ends at the n-th gap that it comes to, and tells how many it
// came to.
func (y *yard) dies(ctx context.Context, n int, f func(context.Context) error) (passed int, err error) {
	ctx = gap.With(ctx, func(context.Context, string) {
		if passed++; passed == n {
			runtime.Goexit()
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = f(ctx)
	}()
	<-done
	return passed, err
}

// orders are the ids of the orders that there are.
func (y *yard) orders() []string {
	var ids []string
	for subject := range y.table.take() {
		if parts := strings.Split(subject, "."); parts[0] == "order" && !strings.HasPrefix(parts[2], order.BadPrefix) {
			ids = append(ids, parts[2])
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// yardCloud is an account's cloud.
type yardCloud struct {
	y     *yard
	label string
}

func (c yardCloud) shop() shop { return c.y.clouds[c.label] }

func (c yardCloud) About() issuer.About  { return issuer.About{Name: "a yard"} }
func (c yardCloud) Flows() []issuer.Flow { return []issuer.Flow{buying{c}, using{c}} }
func (c yardCloud) Product(code string) issuer.Product {
	return issuer.Product{Code: code, Several: true}
}

func (c yardCloud) Route(r order.Request) (issuer.Route, error) {
	if r.Resource != "" {
		return issuer.Route{Flow: using{c}}, nil
	}
	return issuer.Route{Flow: buying{c}, Product: plenty}, nil
}

func (c yardCloud) Identify(context.Context) (issuer.Identity, error) {
	return issuer.Identity{Main: c.label, Caller: c.label}, nil
}

func (c yardCloud) CSR(order.Request) issuer.CSR { return issuer.FirstNameCSR }

func (c yardCloud) Reserve(ctx context.Context) (context.Context, func(), error) {
	return ctx, func() {}, nil
}

func (c yardCloud) Waiting(context.Context, int) (issuer.Page, error) { return issuer.Page{}, nil }

// fateOf is what becomes of a call: an error, and whether it has its effect now.
func (c yardCloud) fateOf(ctx context.Context, csr, thing string) (has bool, err error) {
	fails := func(kind issuer.Kind) error { return &issuer.Error{Kind: kind, Err: errors.New("as it happens")} }
	switch ctx.Value(fateKey{}) {
	case fate("answer lost"):
		return true, fails(issuer.UnknownOutcome)
	case fate("request lost"):
		return false, fails(issuer.UnknownOutcome)
	case fate("on its way"):
		c.y.change(c.label, func(s *shop) { s.onWay = append(s.onWay, shopCall{csr, thing, time.Now()}) })
		return false, fails(issuer.UnknownOutcome)
	case fate("throttled"):
		return false, fails(issuer.Throttled)
	case fate("refused"):
		return false, fails(issuer.Rejected)
	}
	return true, nil
}

// arrive lets a call come in.
func (y *yard) arrive(label string, call shopCall) {
	if call.thing != "" {
		y.change(label, func(s *shop) { s.start(call.thing, call.csr) })
		return
	}
	y.buy(label, call.csr)
}

func (s *shop) start(thing, csr string) {
	for i := range s.things {
		if t := &s.things[i]; t.id == thing && t.phase == issuer.Unstarted {
			t.phase, t.csr = issuer.Reviewing, csr
		}
	}
}

func (y *yard) buy(label, csr string) (id string) {
	y.change(label, func(s *shop) {
		s.n++
		id = fmt.Sprintf("%s:%d", label, s.n)
		s.rows = append(s.rows, shopRow{id: id, csr: csr, key: keyOf(csr), made: time.Now(), phase: issuer.Reviewing})
	})
	return id
}

func keyOf(csr string) string {
	block, _ := pem.Decode([]byte(csr))
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		panic(err)
	}
	return certstore.Fingerprint(req.PublicKey.(crypto.PublicKey))
}

func notFound() error { return &issuer.Error{Kind: issuer.NotFound, Err: errors.New("no such thing")} }

// buying is the flow that spends.
type buying struct{ yardCloud }

func (buying) Action() string { return forPackage }
func (buying) Spends() bool   { return true }
func (buying) List() string   { return "orders" }

func (c buying) Submit(ctx context.Context, a issuer.Application, _ issuer.Fence) (issuer.Receipt, error) {
	has, err := c.fateOf(ctx, a.CSR, "")
	var r issuer.Receipt
	if has {
		r.CloudID = c.y.buy(c.label, a.CSR)
	}
	if err != nil {
		return issuer.Receipt{}, err
	}
	return r, nil
}

func (c buying) find(id string) (shopRow, bool) {
	for _, r := range c.shop().rows {
		if r.id == id {
			return r, true
		}
	}
	return shopRow{}, false
}

func (c buying) Look(_ context.Context, id string) (issuer.Status, error) {
	r, ok := c.find(id)
	if !ok {
		return issuer.Status{}, notFound()
	}
	return issuer.Status{Phase: r.phase, Raw: string(r.phase), CertID: id}, nil
}

func (c buying) Fetch(_ context.Context, id, _ string) (issuer.Certificate, error) {
	r, ok := c.find(id)
	switch {
	case !ok:
		return issuer.Certificate{}, notFound()
	case r.phase != issuer.IssuedPhase:
		return issuer.Certificate{}, &issuer.Error{Kind: issuer.WrongState, Err: errors.New("not issued")}
	}
	return issuer.Certificate{Chain: c.y.ca.signFor(r.csr, r.wrong)}, nil
}

func (c buying) Find(context.Context, []string) ([]issuer.Row, error) {
	var rows []issuer.Row
	for _, r := range c.shop().rows {
		listed := issuer.Row{CloudID: r.id, CertID: r.id, Names: []string{yardName}, Product: plenty, Phase: r.phase, Raw: string(r.phase), Created: r.made}
		if r.phase == issuer.IssuedPhase {
			listed.Expires = time.Now().Add(yardLife)
		}
		rows = append(rows, listed)
	}
	return rows, nil
}

func (c buying) All(ctx context.Context, _ int) (issuer.Page, error) {
	rows, err := c.Find(ctx, nil)
	return issuer.Page{Rows: rows}, err
}

func (c buying) Usage(context.Context, string) (issuer.Usage, error) {
	return issuer.Usage{Bought: 1000, Used: int64(c.shop().n), Read: time.Now()}, nil
}

// using is the flow on what was bought before.
type using struct{ yardCloud }

func (using) Action() string { return useThing }
func (using) Spends() bool   { return false }

func (c using) find(id string) (shopThing, bool) {
	for _, t := range c.shop().things {
		if t.id == id {
			return t, true
		}
	}
	return shopThing{}, false
}

func (c using) Submit(ctx context.Context, a issuer.Application, _ issuer.Fence) (issuer.Receipt, error) {
	has, err := c.fateOf(ctx, a.CSR, a.Resource)
	if has {
		c.y.change(c.label, func(s *shop) { s.start(a.Resource, a.CSR) })
	}
	if err != nil {
		return issuer.Receipt{}, err
	}
	return issuer.Receipt{CloudID: a.Resource}, nil
}

func (c using) Look(_ context.Context, id string) (issuer.Status, error) {
	t, ok := c.find(id)
	if !ok {
		return issuer.Status{}, notFound()
	}
	st := issuer.Status{Phase: t.phase, Raw: string(t.phase), CertID: id, CSR: t.csr}
	if t.csr != "" {
		st.Names = []string{yardName}
	}
	if t.phase == issuer.IssuedPhase {
		st.Expires = time.Now().Add(yardLife)
	}
	return st, nil
}

func (c using) Fetch(_ context.Context, id, _ string) (issuer.Certificate, error) {
	t, ok := c.find(id)
	switch {
	case !ok:
		return issuer.Certificate{}, notFound()
	case t.phase != issuer.IssuedPhase:
		return issuer.Certificate{}, &issuer.Error{Kind: issuer.WrongState, Err: errors.New("not issued")}
	}
	return issuer.Certificate{Chain: c.y.ca.signFor(t.csr, false)}, nil
}

func (c using) Unused(context.Context) ([]issuer.Row, error) {
	var rows []issuer.Row
	for _, t := range c.shop().things {
		if t.phase == issuer.Unstarted {
			rows = append(rows, issuer.Row{CloudID: t.id, Phase: t.phase})
		}
	}
	return rows, nil
}

// yardLife is how long a certificate of the yard is valid.
const yardLife = 300 * 24 * time.Hour

// signFor signs what a CSR asks for; wrong: for a key of nobody's.
func (a *authority) signFor(csr string, wrong bool) string {
	block, _ := pem.Decode([]byte(csr))
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		panic(err)
	}
	key := req.PublicKey
	if wrong {
		key = a.key.Public()
	}
	began := time.Now().Truncate(time.Hour) // whoever downloads it again gets the same term
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: yardName}, DNSNames: []string{yardName},
		NotBefore: began, NotAfter: began.Add(yardLife)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		panic(err)
	}
	return encodeCertificate(der) + a.pem
}

// open seals nothing: nobody looks.
type open struct{}

func (open) Seal(order.Secret) ([]byte, error) { return []byte("sealed"), nil }
func (open) ID() string                        { return "nobody" }

// yardKeys is the key store.
type yardKeys struct{ y *yard }

func (k yardKeys) Put(_ context.Context, r certstore.Ref, key order.Key) (order.Key, bool, error) {
	if is, ok := k.y.pairs[r.ID+r.Hash]; ok {
		return is, false, nil
	}
	k.y.pairs = maps.Clone(k.y.pairs)
	if k.y.pairs == nil {
		k.y.pairs = map[string]order.Key{}
	}
	k.y.pairs[r.ID+r.Hash] = key
	return key, true, nil
}

func (k yardKeys) Number(r certstore.Ref) (certstore.Raised, error) {
	if all := k.y.raised[r.ID]; len(all) > 0 {
		return all[len(all)-1], nil
	}
	return certstore.Raised{}, nil
}

func (k yardKeys) Numbers(r certstore.Ref) ([]certstore.Raised, error) {
	var all []certstore.Raised
	for _, n := range slices.Backward(k.y.raised[r.ID]) {
		if !slices.ContainsFunc(all, func(o certstore.Raised) bool { return o.Main == n.Main }) {
			all = append(all, n)
		}
	}
	return all, nil
}

func (k yardKeys) Raise(r certstore.Ref, to certstore.Raised) error {
	last, _ := k.Number(r)
	if last.Attempt >= to.Attempt {
		return certstore.ErrExists
	}
	to.At, to.Hash, to.Names, to.Main = time.Now(), r.Hash, r.Names, cmp.Or(to.Main, r.Main)
	k.y.raised = maps.Clone(k.y.raised)
	if k.y.raised == nil {
		k.y.raised = map[string][]certstore.Raised{}
	}
	k.y.raised[r.ID] = append(slices.Clone(k.y.raised[r.ID]), to)
	return nil
}

// fingerprint is the situation without what makes no difference: which time it is,
// how often something was tried, and what things are called.
func (s situation) fingerprint() string {
	p := printer{w: &strings.Builder{}, names: map[string]string{}, now: time.Now()}
	p.attempts(s)
	for _, subject := range slices.Sorted(maps.Keys(s.rows)) {
		if strings.HasPrefix(subject, "order.") {
			p.order(s.rows[subject].order())
		}
	}
	for _, subject := range slices.Sorted(maps.Keys(s.rows)) {
		switch {
		case strings.HasPrefix(subject, "spend."):
			p.entry(s.rows[subject].entry(), s.rows[subject].at)
		case strings.HasPrefix(subject, "claim."):
			var o ledger.Owner
			if err := json.Unmarshal(s.rows[subject].data, &o); err != nil {
				panic(err)
			}
			fmt.Fprintf(p.w, "owner %s %s %d %v %s %s\n", p.name(o.ID), o.Order, o.Purchase, o.Provisional, p.age(o.Called), p.age(o.Till))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.raised)) {
		n, _ := yardKeys{&yard{situation: s}}.Numbers(certstore.Ref{ID: id})
		for _, r := range n {
			fmt.Fprintf(p.w, "number %s %d %d %s %s %v\n", id, p.rank(id, r.Attempt), r.Purchase, r.Resource, r.Main, r.GaveBack)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.pairs)) {
		fmt.Fprintf(p.w, "pair %s %s\n", id, p.name(s.pairs[id].Fingerprint))
	}
	for _, label := range slices.Sorted(maps.Keys(s.clouds)) {
		c := s.clouds[label]
		for _, r := range c.rows {
			fmt.Fprintf(p.w, "row %s %s %s %v early %v\n", p.name(r.id), p.name(r.key), r.phase, r.wrong, p.early(s, r.made))
		}
		for _, t := range c.things {
			key := ""
			if t.csr != "" {
				key = p.name(keyOf(t.csr))
			}
			fmt.Fprintf(p.w, "thing %s %s %s\n", t.id, t.phase, key)
		}
		for _, call := range c.onWay {
			fmt.Fprintf(p.w, "on its way %s %s\n", call.thing, p.name(keyOf(call.csr)))
		}
		p.counts(s, label, c.n)
	}
	fmt.Fprintf(p.w, "gone %s swept %v\n", s.gone, s.swept)
	return p.w.String()
}

// printer writes a fingerprint.
type printer struct {
	w     *strings.Builder
	names map[string]string // of keys and cloud orders, by what they are called here
	ranks map[string][]int  // attempts of an order, in their order
	now   time.Time
}

// name is what something is called by where it stands first.
func (p printer) name(s string) string {
	if s == "" {
		return "-"
	}
	if p.names[s] == "" {
		p.names[s] = fmt.Sprint("n", len(p.names))
	}
	return p.names[s]
}

// age tells times apart that make a difference.
func (p printer) age(t time.Time) string {
	switch {
	case t.IsZero():
		return "-"
	case t.After(p.now.Add(2 * time.Hour)):
		return "ahead"
	case t.After(p.now.Add(-yardWaits.Total())):
		return "new"
	}
	return "old"
}

func (p printer) rank(id string, attempt int) int { return slices.Index(p.ranks[id], attempt) }

func (p *printer) attempts(s situation) {
	p.ranks = map[string][]int{}
	add := func(id string, n int) { p.ranks[id] = append(p.ranks[id], n) }
	for subject, r := range s.rows {
		switch {
		case strings.HasPrefix(subject, "order."):
			add(r.order().ID(), r.order().Attempt)
		case strings.HasPrefix(subject, "spend."):
			for _, a := range r.entry().Attempts {
				add(a.Order, a.Attempt)
			}
		}
	}
	for id, all := range s.raised {
		for _, n := range all {
			add(id, n.Attempt)
		}
	}
	for id := range p.ranks {
		p.ranks[id] = append(p.ranks[id], 0)
		slices.Sort(p.ranks[id])
		p.ranks[id] = slices.Compact(p.ranks[id])
	}
}

var anyTime = regexp.MustCompile(`20\d\d-\d\d-\d\d[T ][0-9:.]+(Z| UTC)?`)
var anyID = regexp.MustCompile(`[a-z]+:\d+`)

// text is a sentence without times, and with things as they are called here.
func (p printer) text(s string) string {
	return anyID.ReplaceAllStringFunc(anyTime.ReplaceAllString(s, "T"), p.name)
}

func (p printer) order(o order.Order) {
	key := "no key"
	if o.Key != nil {
		key = fmt.Sprint(p.name(o.Key.Fingerprint), o.Key.Stored)
	}
	fmt.Fprintf(p.w, "order %s %s %s %s p%d a%d %s cloud %s %s prov %v res %s retries %d late %v for %s/%d\n", o.ID(), o.State, o.Account, o.Operation,
		o.Purchase, p.rank(o.ID(), o.Attempt), key, p.name(o.CloudID), p.name(o.CertID), o.Provisional, o.Resource, min(o.Retries, 4)/2, o.Late,
		o.Predecessor, o.Generation)
	fmt.Fprintf(p.w, " wait %s %s %v %v %s\n", o.Wait.For, p.text(o.Wait.What), o.Wait.Open, o.Wait.Till.After(later()), o.Wait.Then)
	for _, a := range o.Approvals {
		fmt.Fprintf(p.w, " approves %s\n", p.text(a))
	}
	if o.Hold != nil {
		fmt.Fprintf(p.w, " hold %s %s %s %v\n", p.text(strings.Join(o.Hold.Commands, "; ")), p.text(o.Hold.Fact), o.Hold.From, o.Hold.Open)
	}
	if o.Failure != nil {
		fmt.Fprintf(p.w, " failure %s\n", o.Failure.Class)
	}
}

func (p printer) entry(e ledger.Entry, at time.Time) {
	fmt.Fprintf(p.w, "entry %s\n", e.Main)
	for _, a := range e.Attempts {
		opened := a.Opened
		if opened.IsZero() {
			opened = at
		}
		if a.Ending != ledger.Open {
			opened = time.Time{}
		}
		fmt.Fprintf(p.w, " attempt %s p%d a%d %s %s %s owned %v", a.Order, a.Purchase, p.rank(a.Order, a.Attempt), a.Ending, p.name(a.Provisional), p.age(opened), a.Token != "")
		for _, f := range a.Foreign {
			fmt.Fprintf(p.w, " foreign %s", p.name(f))
		}
		fmt.Fprintln(p.w)
	}
	for _, c := range e.Claims {
		fmt.Fprintf(p.w, " claim %s %s p%d\n", p.name(c.CloudID), c.Order, c.Purchase)
	}
	for _, u := range e.Unclaimed {
		fmt.Fprintf(p.w, " unclaimed %s %s\n", p.name(u.CloudID), u.Status)
	}
	var since []time.Time
	for _, t := range e.Takes {
		since = append(since, t.Since, t.At)
	}
	slices.SortFunc(since, time.Time.Compare)
	for _, t := range e.Takes {
		fmt.Fprintf(p.w, " take %s %s %v %s paid %v since %d at %d\n", t.Order, t.Resource, t.Ending, t.End, t.Paid, slices.Index(since, t.Since), slices.Index(since, t.At))
	}
}

// early tells whether a row was made before an open attempt, so that it is none of
// its candidates.
func (p printer) early(s situation, made time.Time) bool {
	for subject, r := range s.rows {
		if !strings.HasPrefix(subject, "spend.") {
			continue
		}
		for _, a := range r.entry().Attempts {
			if a.Ending == ledger.Open && made.Before(cmp.Or(a.Since(), r.at).Add(-15*time.Minute)) {
				return true
			}
		}
	}
	return false
}

// counts writes how much more was used than an open attempt knows.
func (p printer) counts(s situation, label string, n int) {
	for subject, r := range s.rows {
		if !strings.HasPrefix(subject, "spend."+label+".") {
			continue
		}
		for _, a := range r.entry().Attempts {
			if a.Ending == ledger.Open && a.Used != nil {
				fmt.Fprintf(p.w, "grown by %d\n", int64(n)-a.Used.Count)
			}
		}
	}
}

// strangersCSR is of a key that nobody here has.
func strangersCSR(t *testing.T) string {
	t.Helper()
	_, csr, _, err := certstore.NewKey("ecdsa-p256", []string{yardName}, false)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// order and entry are what a row says. It is read once.
func (r row) order() order.Order {
	if r.read.order == nil {
		o, err := order.Decode(r.data)
		if err != nil {
			panic(err)
		}
		r.read.order = &o
	}
	return *r.read.order
}

func (r row) entry() ledger.Entry {
	if r.read.entry == nil {
		r.read.entry = &ledger.Entry{}
		if err := json.Unmarshal(r.data, r.read.entry); err != nil {
			panic(err)
		}
	}
	return *r.read.entry
}
