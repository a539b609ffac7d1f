package app

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/order"
)

// handIn looks requests up and hands them in, as Order does.
func (c *Console) handIn(ctx context.Context, requests []order.Request, urgent bool) (handed, error) {
	l, err := c.lookUp(ctx, Batch{Requests: requests})
	if err != nil {
		return handed{}, err
	}
	return c.hand(ctx, l.ins, urgent)
}

// spreadsheet is a list of names as people hand it in again and again.
type spreadsheet struct {
	rows []string
	rand *rand.Rand
}

// saved writes the list as it is this time: under another name, sorted in another
// way, shortened, with a row more, with other columns.
func (s *spreadsheet) saved(t *testing.T, dir string, n int) (path string, rows []string) {
	t.Helper()
	if n%3 == 0 {
		s.rows = append(s.rows, fmt.Sprintf("www.shop%d.example shop%[1]d.example", len(s.rows)))
	}
	rows = slices.Clone(s.rows)
	s.rand.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	rows = rows[:len(rows)-n%2]
	text := "names,account,contact_email,labels\n"
	for _, row := range rows {
		cell := strings.Fields(row)
		s.rand.Shuffle(len(cell), func(i, j int) { cell[i], cell[j] = cell[j], cell[i] })
		text += fmt.Sprintf("%q,aliyun-1,it%d@shop.example,saved=%[2]d\n", strings.ToUpper(strings.Join(cell, "; ")), n)
	}
	path = filepath.Join(dir, fmt.Sprintf("list (%d).csv", n))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, rows
}

// TestHandedInAgainAndAgain: DESIGN 12.1: an order is what it buys: the same list, renamed,
// sorted, shortened, a row inserted, again and again, and JetStream lost in the middle:
// as many purchases as there are sets of names. Chaos does it twenty times.
func TestHandedInAgainAndAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list := spreadsheet{rand: rand.New(rand.NewPCG(18, 1))}
	ordered, sets := map[string]bool{}, map[string]bool{}
	for n := range 7 {
		path, rows := list.saved(t, dir, n)
		news := 0
		for _, row := range rows {
			if !ordered[row] {
				news++
			}
			ordered[row], sets[row] = true, true
		}
		sum, err := runIn(t.Context(), dir, &seen{}, path)
		if err != nil || !sum.OK() || sum.New != news || sum.Known != len(rows)-news || sum.KnownAs["issued"] != sum.Known {
			t.Fatalf("%d: %+v, %v; want %d new of %d", n, sum, err, news, len(rows))
		}
		if n == 3 {
			if err := os.RemoveAll(filepath.Join(dir, "state", "nats")); err != nil {
				t.Fatal(err)
			}
			clear(ordered)
		}
	}
	h, err := openHouse(t.Context(), inDir(dir), NewLogger(io.Discard, "error"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.close() }()
	report := h.world.sim.Report()
	if len(report.Duplicates) > 0 || len(report.Orders) != len(sets) || len(sets) != len(list.rows) {
		t.Errorf("%d orders at the cloud for %d sets of names, twice: %+v", len(report.Orders), len(sets), report.Duplicates)
	}
}

// TestOrderAgain: order --again buys the last of each line once more, follows what
// is made, whatever id it gets, and says what it does not do.
// DESIGN 12.1: again: true is resolved before anything is published.
func TestOrderAgain(t *testing.T) {
	t.Parallel()
	console, _, _ := serving(t)
	lines := []string{`{"names":["www.one.example"],"account":"aliyun-1"}`, `{"id":"two","names":["www.two.example"],"account":"aliyun-1"}`}
	handed := func(again bool, lines ...string) Summary {
		t.Helper()
		b := batchFile(t, lines...)
		if again {
			b.Again()
		}
		sum, err := console.Order(t.Context(), b, &seen{}, true, false)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	if sum := handed(true, lines...); !sum.OK() || sum.New != 2 { // of new lines the first
		t.Fatalf("%+v", sum)
	}
	if sum := handed(false, lines...); !sum.OK() || sum.New != 0 || sum.KnownAs["issued"] != 2 {
		t.Errorf("%+v", sum)
	}
	if sum := handed(true, lines...); !sum.OK() || sum.New != 2 || sum.Issued != 2 {
		t.Errorf("%+v", sum)
	}
	it, err := console.Find(t.Context(), "two-2")
	if err != nil || it.Predecessor != "two" || it.State != order.Issued {
		t.Errorf("%+v, %v", it, err)
	}
	sum := handed(false, `{"names":["www.two.example"],"account":"aliyun-1","again":"two"}`, `{"id":"two","names":["www.three.example"],"account":"aliyun-1"}`)
	if sum.New != 0 || sum.Known != 1 || sum.Issued != 1 || len(sum.Bad) != 1 || sum.Bad[0].Line != 2 || sum.OK() {
		t.Errorf("%+v", sum)
	}
	counts, err := console.line.Counts(t.Context())
	if err != nil || counts[order.Issued] != 4 || counts[order.Failed] != 0 {
		t.Errorf("%v, %v", counts, err)
	}
}

// TestCheckSaysWhatIsKnown: with a server the lines that are known there, without
// one that nobody looked.
func TestCheckSaysWhatIsKnown(t *testing.T) {
	t.Parallel()
	js, c := initialised(t)
	lay(t, js, c, named(orderIn(order.Issued), "issued"))
	held := named(orderIn(order.Held), "held")
	held.Hold = &order.Hold{Reason: "for the test", From: order.Submit, Commands: []string{"certmill approve held"}}
	held.Hash = order.Request{ID: "held", Names: held.Request.Names}.Hash()
	lay(t, js, c, held)
	b := batchFile(t, `{"id":"held","names":["www.held.example"]}`, `{"id":"issued","names":["www.issued.example"]}`, `{"names":["www.new.example"]}`)
	at := b.places[0].file
	got, err := LookUp(t.Context(), c, quiet, b)
	if err != nil || len(got.Known) != 1 || len(got.Bad) != 1 || len(got.Requests) != 2 || got.Blind != "" {
		t.Fatalf("%+v, %v", got, err)
	}
	if k := got.Known[0]; k.ID != "held" || k.State != order.Held || k.File != at || k.Line != 1 || k.Why != "for the test" || len(k.Commands) != 1 {
		t.Errorf("%+v", k)
	}
	if bad := got.Bad[0]; bad.Line != 2 || !strings.Contains(bad.Why, "taken by another order (state issued)") {
		t.Errorf("%+v", bad)
	}
	if got, err := LookUp(t.Context(), Defaults(), quiet, b); err != nil || !strings.Contains(got.Blind, "no server is known") || len(got.Requests) != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestHandInSaysThatAnAccountWaits: before anything is handed in it is said of an account
// that is stopped, rests, or cannot be swept, that nothing is bought there, and until
// when: of the new orders and of the known ones that have not ended, to who checks,
// plans and orders.
func TestHandInSaysThatAnAccountWaits(t *testing.T) {
	t.Parallel()
	for what, tt := range map[string]struct {
		change func(*account.State)
		says   string // the finding
		do     string
		why    string // of the known order
	}{
		"stopped": {func(s *account.State) {
			s.Identities = map[string]account.Identity{"aliyun-1": {Main: "999", Caller: "999", At: time.Now()}}
		}, "account aliyun-1 is stopped", "start the workers again", "account aliyun-1 is stopped"},
		"paused": {func(s *account.State) {
			s.Paused = map[string]account.Pause{"aliyun-1": {Why: "by a test", Since: time.Now()}}
		}, "account aliyun-1 rests, and buys nothing meanwhile: by a test", "certmill resume aliyun-1 ends that", "account aliyun-1 is paused: by a test"},
		"paused for a while": {func(s *account.State) {
			s.Paused = map[string]account.Pause{"aliyun-1": {Why: "by a test", Until: time.Now().Add(time.Hour)}}
		}, "rests", "it goes on at 20", "account aliyun-1 is paused"},
		"not to be swept": {func(s *account.State) { s.Unswept = account.Unswept{Since: time.Now(), Why: "no answer"} },
			"account aliyun-1 buys nothing until its list was swept, which fails: no answer", "certmill status", "until its list was swept once, which fails: no answer"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			js, c := initialised(t)
			known, ended := named(orderIn(order.Submit), "known"), named(orderIn(order.Issued), "ended")
			for _, o := range []*order.Order{&known, &ended} {
				o.Request.Account, o.CloudID = "aliyun-1", ""
				o.Hash = o.Request.Hash()
				lay(t, js, c, *o)
			}
			console := openConsole(t, c)
			if err := console.states.Change(t.Context(), c.Accounts["aliyun-1"].Main, tt.change); err != nil {
				t.Fatal(err)
			}
			fresh := order.Request{ID: "fresh", Names: []string{"www.fresh.example"}, Account: "aliyun-1"}
			other := order.Request{ID: "other", Names: []string{"www.other.example"}, Account: "tencent-1"}
			b, err := LookUp(t.Context(), c, quiet, Batch{Requests: []order.Request{known.Request, ended.Request, fresh, other}})
			if err != nil || len(b.Findings) != 1 || len(b.Known) != 2 {
				t.Fatalf("%+v, known %+v, %v", b.Findings, b.Known, err)
			}
			f := b.Findings[0]
			if !strings.Contains(f.What, tt.says) || !strings.Contains(f.Do, tt.do) || !slices.Equal(f.Orders, []string{"known", "fresh"}) {
				t.Errorf("%+v", f)
			}
			if k := b.Known[slices.IndexFunc(b.Known, func(k KnownLine) bool { return k.ID == "known" })]; !strings.Contains(k.Why, tt.why) {
				t.Errorf("%+v", k)
			}
			p, err := console.Review(t.Context(), Batch{Requests: []order.Request{fresh}}, PlanOptions{NoDNS: true, Within: time.Second})
			if told := slices.ContainsFunc(p.Findings, func(f preflight.Finding) bool { return strings.Contains(f.What, tt.says) }); err != nil || !told {
				t.Errorf("the plan: %+v, %v", p.Findings, err)
			}
		})
	}
}

// TestWhatCannotBeOrderedIsNotHandedIn: a line that no account takes is a bad line
// for check, plan and order; nothing of it is published. Without accounts in the
// config nobody can say so.
func TestWhatCannotBeOrderedIsNotHandedIn(t *testing.T) {
	t.Parallel()
	js, c := initialised(t)
	b := batchFile(t, `{"id":"typo","names":["www.typo.example"],"account":"aliyun1"}`, `{"id":"good","names":["www.good.example"],"account":"aliyun-1"}`,
		`{"id":"whose","names":["www.whose.example"],"resource":"one-of-two"}`,
		`{"id":"wild","names":["*.wild.example"],"account":"aliyun-1"}`)
	want := func(who string, bad []BadLine, err error) {
		t.Helper()
		if err != nil || len(bad) != 3 || bad[0].Line != 1 || bad[0].ID != "typo" || !strings.Contains(bad[0].Why, `no account "aliyun1" in the config`) ||
			bad[1].Line != 3 || !strings.Contains(bad[1].Why, "account") ||
			bad[2].ID != "wild" || !strings.Contains(bad[2].Why, "product symantec-dv-1-starter certifies single names only") {
			t.Errorf("%s: %+v, %v", who, bad, err)
		}
	}
	got, err := LookUp(t.Context(), c, quiet, b)
	want("check", got.Bad, err)
	plan, err := MakePlan(t.Context(), c, quiet, b, PlanOptions{NoDNS: true, Within: time.Minute})
	want("plan", plan.BadLines, err)
	offline := c
	offline.NATS.URL = ""
	plan, err = MakePlan(t.Context(), offline, quiet, b, PlanOptions{NoDNS: true, Within: time.Minute})
	want("plan without a server", plan.BadLines, err)
	got, err = LookUp(t.Context(), offline, quiet, b)
	want("check without a server", got.Bad, err)
	inbox := func() uint64 {
		s, err := js.Stream(t.Context(), "INTAKE")
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	sum, err := openConsole(t, c).Order(t.Context(), b, &seen{}, false, false)
	want("order", sum.Bad, err)
	if sum.New != 1 || inbox() != 1 {
		t.Errorf("%+v, %d in the inbox", sum, inbox())
	}

	plan, err = MakePlan(t.Context(), at(c.NATS.URL, 1), quiet, b, PlanOptions{NoDNS: true, Within: time.Minute})
	if err != nil || len(plan.BadLines) > 0 || !slices.Contains(plan.NotLookedAt, noAccounts) {
		t.Errorf("%+v, %v", plan, err)
	}
	sum, err = openConsole(t, at(c.NATS.URL, 1)).Order(t.Context(), b, &seen{}, false, false)
	if err != nil || len(sum.Bad) > 0 || inbox() != 5 {
		t.Errorf("%+v, %d in the inbox, %v", sum, inbox(), err)
	}
}

// A file whose contact the cloud refused is mended and handed in again as it is,
// without ids: its orders go on, the run waits for them, and nothing else is bought.
func TestAMendedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "orders.csv")
	hand := func(phone string) (Summary, error) {
		write(t, file, "names,account,contact_phone", "www.a.example,aliyun-1,"+phone, "www.b.example,aliyun-1,"+phone)
		return runIn(t.Context(), dir, &seen{}, file)
	}
	if sum, err := hand("010.1234567"); err != nil || sum.Issued != 0 || len(sum.Failed) != 1 {
		t.Fatalf("refused: %+v, %v", sum, err)
	}
	if sum, err := hand("13000000000"); err != nil || sum.Issued != 2 || len(sum.Failed) != 0 {
		t.Errorf("mended: %+v, %v", sum, err)
	}
	w := booksOf(t, inDir(dir))
	for _, name := range []string{"www.a.example", "www.b.example"} {
		if n := bought(w, name); n != 1 {
			t.Errorf("%s was bought %d times", name, n)
		}
	}
}
