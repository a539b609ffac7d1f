package stage_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// booked is what the book of placements has.
func (w *world) booked() []ledger.Placement {
	w.t.Helper()
	var all []ledger.Placement
	unread, err := w.placed.Each(w.t.Context(), func(pl ledger.Placement) error { all = append(all, pl); return nil })
	if w.must(err); len(unread) > 0 {
		w.t.Fatal(unread)
	}
	return all
}

// ours are the records that were written with our keys, and the files.
func (w *world) ours() []string {
	w.t.Helper()
	var all []string
	for _, r := range w.sim.Records() {
		if r.By == aliKey || r.By == tenKey {
			all = append(all, r.Name+" "+r.Type+" "+r.Value)
		}
	}
	w.must(filepath.WalkDir(w.web, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		return err
	}))
	return all
}

// wantNothingPlaced checks, after a sweep, that nothing of ours is left, but for
// orders that are not at their end, and nothing of others was touched.
func (w *world) wantNothingPlaced() {
	w.t.Helper()
	w.must(w.worker().placing.Sweep(w.t.Context()))
	live := false
	for _, pl := range w.booked() {
		for _, id := range pl.Orders {
			o := w.last(id)
			live = live || !o.State.Final()
			if o.State.Final() {
				w.t.Errorf("%s is booked for order %s, which is %s", pl.Challenge.Host, id, o.State)
			}
		}
	}
	if left := w.ours(); len(left) > 0 && !live {
		w.t.Errorf("left behind: %v", left)
	}
	if f := w.sim.Report().DNS.Foreign; len(f) > 0 {
		w.t.Errorf("records of others were changed: %+v", f)
	}
}

// console writes a record at the vendor's web page.
func (w *world) console(c order.Challenge) string {
	w.t.Helper()
	zone := strings.Join(strings.Split(c.Host, ".")[len(strings.Split(c.Host, "."))-2:], ".")
	id, err := w.sim.AddRecord(cloudsim.ConsoleRecord{Cloud: "aliyun", UID: aliUID, Zone: zone, RR: strings.TrimSuffix(c.Host, "."+zone), Type: c.Type, Value: c.Value})
	w.must(err)
	return id
}

func challenged(o order.Order) bool { return o.State == order.Verify && len(o.Challenges) > 0 }

func chosen(o order.Order) bool { return o.Resource != "" }

func placed(o order.Order) bool { return len(o.Proofs) > 0 && !o.Proofs[0].Placed.IsZero() }

// slow is a cloud at which orders stay in issuing.
func slowCA(c *cloudsim.Config) { c.IssueDelay = cloudsim.Exactly(hour) }

// An order costs one call of each kind, and leaves neither a record nor an entry.
func TestPlacedAndTakenBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	p := w.worker()
	p.driveTo("a", "placed", placed)
	all := w.booked()
	if len(all) != 1 || all[0].Challenge != w.last("a").Challenges[0] || !slices.Equal(all[0].Orders, []string{"a"}) || all[0].Found {
		t.Errorf("booked: %+v", all)
	}
	p.drive("a", order.Issued)
	if left, book := w.ours(), w.booked(); len(left)+len(book) > 0 {
		t.Errorf("left behind: %v, %v", left, book)
	}
	for action, n := range map[string]int{"AddDomainRecord": 1, "DeleteDomainRecord": 1, "DescribeSubDomainRecords": 2} {
		if got := w.calls(action); got != n {
			t.Errorf("%d calls of %s, want %d", got, action, n)
		}
	}
}

// A record that another process placed a moment ago, and that the provider does
// not list yet, is not forgotten when the order ends: the sweep removes it.
func TestRecordThatIsNotListedYet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.RecordListLag = cloudsim.Exactly(2 * time.Second) }})
	w.publish(order.Request{ID: "t", Account: "ten", Names: []string{"t.example.com"}})
	w.worker().driveTo("t", "placed", placed)
	w.solvers = w.openSolvers() // of another process
	w.worker().drive("t", order.Issued)
	for end := time.Now().Add(natstest.Patience); len(w.booked()) > 0; time.Sleep(50 * time.Millisecond) {
		pl := w.booked()[0]
		if there, err := w.solvers["ten"].(dcv.Haser).Has(t.Context(), pl.Challenge); err != nil {
			t.Fatal(err)
		} else if there {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the record is never listed")
		}
	}
	w.wantNothingPlaced()
}

// What was there before us is not ours: it stays when the order ends, and also
// when a worker died in between.
func TestRecordOfOthersStays(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"", "place: noted", "collect: cleaned up"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			w.order("a", "a.example.com")
			p, died := w.dying(where)
			theirs := w.console(p.driveTo("a", "challenged", challenged).Challenges[0])
			p.drive("a", order.Issued)
			if died() {
				w.worker().drive("a", order.Issued)
			} else if where != "" {
				t.Error("the worker did not come there")
			}
			if o := w.last("a"); len(o.Proofs) != 1 || !o.Proofs[0].Found {
				t.Errorf("the record does not say that it was there: %+v", o.Proofs)
			}
			w.wantNothingPlaced()
			if all := w.sim.Records(); len(all) != 1 || all[0].ID != theirs {
				t.Errorf("records: %+v", all)
			}
		})
	}
}

// When they take theirs away while we need it, ours takes its place, and goes.
func TestRecordOfOthersThatGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: slowCA})
	w.order("a", "a.example.com")
	p := w.worker()
	theirs := w.console(p.driveTo("a", "challenged", challenged).Challenges[0])
	p.drive("a", order.Issuing)
	w.must(w.sim.DropRecord(theirs))
	w.recheck(p, "a")
	w.age("a", presentAgain)
	p.drive("a", order.Issuing)
	if o := w.last("a"); o.Proofs[0].Found || len(w.ours()) != 1 {
		t.Errorf("proof %+v, records %v", o.Proofs[0], w.ours())
	}
	w.must(p.by.Cancel(t.Context(), "a"))
	p.drive("a", order.Failed)
	w.wantNothingPlaced()
}

// A challenge that two orders share stays until both have ended.
func TestSharedChallenge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	p := w.worker()
	c := p.driveTo("a", "placed", placed).Challenges[0]
	w.order("b", "b.example.com")
	_, err := w.placed.Need(t.Context(), c, "ali", "b", false)
	w.must(err)
	p.drive("a", order.Issued)
	if !w.shows(c) {
		t.Error("it went with the first order")
	}
	p.drive("b", order.Verify) // an order whose challenge is another
	p.drive("b", order.Issued)
	w.wantNothingPlaced()
	if w.shows(c) {
		t.Error("it stays after the second")
	}
}

// An order that comes to need a challenge while it is removed gets it back.
func TestSharedWhileItIsRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	w.worker().driveTo("a", "placed", placed)
	c := w.last("a").Challenges[0]
	p := w.at(func(ctx context.Context, name string) {
		if name == "clean up: removed" {
			_, err := w.placed.Need(ctx, c, "ali", "b", false)
			w.must(err)
		}
	})
	p.drive("a", order.Issued)
	all := w.booked()
	if !w.shows(c) || len(all) != 1 || !slices.Equal(all[0].Orders, []string{"b"}) {
		t.Errorf("shows: %v, booked %+v", w.shows(c), all)
	}
}

// What no order needs any more goes: an order that never was, one that ended,
// one that has other challenges now. What a live or held order needs stays.
func TestPlacedSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: slowCA})
	p := w.worker()
	for _, id := range []string{"live", "held", "ended"} {
		w.order(id, id+".example.com")
		p.drive(id, order.Issuing)
	}
	it, err := w.line.Last(t.Context(), "held")
	w.must(err)
	held := it.Order
	held.State, held.Hold = order.Held, &order.Hold{Reason: "for the test", From: order.Issuing, Commands: []string{"certmill retry held"}}
	w.must(w.line.MoveByHand(t.Context(), it, held))
	w.must(p.by.Cancel(t.Context(), "ended"))
	p.drive("ended", order.Failed)

	var gone []order.Challenge
	for _, id := range []string{"never", "live", "ended"} {
		c := order.Challenge{Name: "x.example.com", Type: "TXT", Host: "_dnsauth." + id + "x.example.com", Value: "of " + id}
		_, err := w.placed.Need(t.Context(), c, "ali", id, false)
		w.must(err)
		if id != "ended" { // a crash before the record was placed
			w.must(w.solvers["ali"].Present(t.Context(), c))
		}
		gone = append(gone, c)
	}
	p.placing.Now, p.placing.Older = time.Now, hour
	w.must(p.placing.Sweep(t.Context()))
	if n := len(w.booked()); n != 5 {
		t.Errorf("%d entries after a sweep to which all are young", n)
	}
	w.must(w.worker().placing.Sweep(t.Context()))
	for _, c := range gone {
		if w.shows(c) {
			t.Errorf("%s is left", c.Host)
		}
	}
	if all := w.booked(); len(all) != 2 || !w.shows(w.last("live").Challenges[0]) || !w.shows(w.last("held").Challenges[0]) {
		t.Errorf("booked %+v", all)
	}
}

// withoutZone takes the account's zone away from its key, until back is called.
func (w *world) withoutZone() (back func()) {
	w.t.Helper()
	key := w.sim.Accounts()[0]
	zones := key.Zones
	key.Zones = []string{"example.org"}
	w.must(w.sim.AddAccount(key))
	w.solvers["ali"] = w.openSolvers()["ali"] // which does not remember the zones
	return func() {
		key.Zones = zones
		w.must(w.sim.AddAccount(key))
	}
}

// A record that cannot be removed does not keep its order from being delivered.
// It stays in the book, with the reason, until it can be.
func TestRecordThatCannotBeRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	p := w.worker()
	p.driveTo("a", "placed", placed)
	back := w.withoutZone()
	w.worker().drive("a", order.Issued)
	w.wantIssued("a")
	all := w.booked()
	if len(all) != 1 || !strings.Contains(all[0].Why, "no zone") || all[0].Tries != 1 || all[0].Since.IsZero() {
		t.Fatalf("booked %+v", all)
	}
	if !slices.ContainsFunc(w.last("a").Timeline, func(e order.Event) bool { return strings.Contains(e.Note, "left behind at _dnsauth.a.example.com") }) {
		t.Errorf("the story does not tell: %s", w.tell("a"))
	}
	near := w.worker().placing
	near.Now = time.Now
	w.must(near.Sweep(t.Context()))
	if w.booked()[0].Tries != 1 {
		t.Error("it was tried again at once")
	}
	w.must(w.worker().placing.Sweep(t.Context()))
	if all := w.booked(); len(all) != 1 || all[0].Tries != 2 || time.Until(all[0].Next) < time.Minute {
		t.Errorf("booked %+v", all)
	}
	back()
	w.wantNothingPlaced()
	if len(w.booked()) > 0 {
		t.Error("the entry is left")
	}
}

// CAS has one path for all orders of a host: they take turns. A file of somebody
// else's is for a person.
func TestFilesOfOneHostTakeTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Exactly(500 * time.Millisecond) }})
	p := w.worker()
	for id, names := range map[string][]string{"a": {"www.example.com"}, "b": {"www.example.com", "api.example.com"}} {
		w.publish(order.Request{ID: id, Account: "ali", Names: names, Validation: order.FILE})
		p.drive(id, order.Verify)
	}
	p.driveTo("a", "placed", placed)
	o := p.drive("b", order.Waiting)
	if o.Wait.For != order.WaitForChallenge || !strings.Contains(o.Wait.What, "order a has its FILE at www.example.com/.well-known/pki-validation/") {
		t.Errorf("b waits for %+v", o.Wait)
	}
	if n := len(w.booked()); n != 1 {
		t.Errorf("%d entries: one that waits has nothing there", n)
	}
	p.drive("a", order.Issued)
	p.drive("b", order.Issued)
	w.wantNothingPlaced()
}

func TestFileOfSomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(order.Request{ID: "a", Account: "ali", Names: []string{"www.example.com"}, Validation: order.FILE})
	p := w.worker()
	c := p.driveTo("a", "challenged", challenged).Challenges[0]
	path := filepath.Join(w.web, c.Host, filepath.FromSlash(c.Path))
	w.must(os.MkdirAll(filepath.Dir(path), 0o755))
	w.must(os.WriteFile(path, []byte("somebody else's"), 0o644))
	p.drive("a", order.Held)
	w.wantHeld("a", "holds something else", "certmill retry a")
	if all := w.booked(); len(all) != 0 {
		t.Errorf("booked %+v", all)
	}
	w.must(os.Remove(path))
	w.must(p.by.Retry(t.Context(), "a"))
	p.drive("a", order.Issued)
	w.wantNothingPlaced()
}

// The record tells where a challenge does not show, and when it first did.
func TestProofs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.DNSLag = cloudsim.Exactly(400 * time.Millisecond) }})
	w.order("a", "a.example.com")
	p := w.worker()
	o := p.driveTo("a", "looked for", func(o order.Order) bool { return len(o.Proofs) == 1 && !o.Proofs[0].Looked.IsZero() })
	pr := o.Proofs[0]
	if !pr.Seen.IsZero() || len(pr.Missing) != 1 || !strings.Contains(pr.Missing[0], w.sim.DNSAddr()) || pr.Placed.IsZero() {
		t.Errorf("before it shows: %+v", pr)
	}
	o = p.driveTo("a", "at the CA", func(o order.Order) bool { return o.State == order.Issuing || o.State == order.Collect })
	if pr = o.Proofs[0]; pr.Seen.IsZero() || len(pr.Missing) != 0 || pr.Looked.Before(pr.Seen) {
		t.Errorf("when it shows: %+v", pr)
	}
	if n := w.calls("AddDomainRecord"); n != 1 {
		t.Errorf("it was placed %d times", n)
	}
}

// recheck looks at what waits for the CA until the order was sent back.
func (w *world) recheck(p *worker, id string) int {
	w.t.Helper()
	for n := range 20 {
		if w.last(id).State != order.Issuing {
			return n
		}
		w.must(p.recheck.Sweep(w.t.Context(), w.accounts["ali"]))
	}
	w.t.Fatalf("order %s stays: %s", id, w.tell(id))
	return 0
}

// An order whose record somebody removed goes back and places it again. Orders
// whose records show stay, and are looked at less and less.
func TestRecheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: slowCA})
	p := w.worker()
	for _, id := range []string{"a", "b"} {
		w.order(id, id+".example.com")
		p.drive(id, order.Issuing)
	}
	before, now := w.last("b"), time.Now()
	p.recheck.Now = func() time.Time { return now }
	w.must(p.recheck.Sweep(t.Context(), w.accounts["ali"])) // too young
	for _, r := range w.sim.Records() {
		if r.Name == "_dnsauth.a.example.com" {
			w.must(w.sim.DropRecord(r.ID))
		}
	}
	calls := w.calls("DescribeSubDomainRecords") + w.calls("DescribeCertificateState")
	for range 2 {
		now = now.Add(2 * time.Minute)
		if o := w.last("a"); o.State != order.Issuing {
			t.Errorf("one look sent it back: %s", w.tell("a"))
		}
		w.must(p.recheck.Sweep(t.Context(), w.accounts["ali"]))
	}
	o := w.last("a")
	if o.State != order.Verify || len(o.Proofs[0].Missing) != 1 || o.Proofs[0].Seen.IsZero() {
		t.Fatalf("%s, %+v", w.tell("a"), o.Proofs)
	}
	if n := w.calls("DescribeSubDomainRecords") + w.calls("DescribeCertificateState"); n != calls {
		t.Errorf("%d calls of APIs", n-calls)
	}
	w.age("a", presentAgain)
	p.drive("a", order.Issuing)
	if !w.shows(o.Challenges[0]) {
		t.Error("it was not placed again")
	}
	if o := w.last("b"); o.State != order.Issuing || len(o.Timeline) != len(before.Timeline) {
		t.Errorf("the other was moved: %s", w.tell("b"))
	}
}

// presentAgain is how old a placing is that is done once more.
const presentAgain = time.Minute

// age makes an order's placings older than they are.
func (w *world) age(id string, by time.Duration) {
	w.t.Helper()
	it, err := w.line.Last(w.t.Context(), id)
	w.must(err)
	o := it.Order
	for i := range o.Proofs {
		o.Proofs[i].Placed = o.Proofs[i].Placed.Add(-by)
	}
	_, err = w.line.Move(w.t.Context(), it, o)
	w.must(err)
}

// atCA makes an order that waits for the CA with a challenge at a host.
func (w *world) atCA(account, id, host string) {
	w.t.Helper()
	o := order.Order{V: order.SchemaVersion, Request: order.Request{ID: id, Names: []string{"x.example.com"}}, State: order.Submit, Account: account,
		Challenges: []order.Challenge{{Name: "x.example.com", Type: "TXT", Host: host, Value: "v"}}}
	it, err := w.line.Create(w.t.Context(), o)
	w.must(err)
	for _, s := range []order.State{order.Verify, order.Issuing} {
		o.State = s
		it, err = w.line.Move(w.t.Context(), it, o)
		w.must(err)
	}
}

// Many waiting orders are looked at some at a time, each in its turn.
func TestRecheckIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: slowCA})
	const n = 45
	for i := range n {
		w.atCA("ali", fmt.Sprint("o", i), fmt.Sprintf("_dnsauth.o%d.example.com", i))
	}
	r := w.worker().recheck
	now := time.Now().Add(hour)
	r.Now = func() time.Time { return now }
	moved := func() (all int) {
		w.must(w.line.Each(t.Context(), order.Verify, "ali", func(pipeline.Item) error { all++; return nil }))
		return all
	}
	for round, want := range []int{0, 0, 0, 20, 40, n} {
		w.must(r.Sweep(t.Context(), w.accounts["ali"]))
		if got := moved(); got != want {
			t.Errorf("after round %d %d orders were sent back, want %d", round, got, want)
		}
		if round == 2 { // all were looked at once
			now = now.Add(2 * time.Minute)
		}
	}
}

// After JetStream was lost, what lay in the DNS is taken back by the book's copy,
// whether its order was handed in again or not.
func TestRecordsOfALostBook(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.CheckInterval = cloudsim.Duration(3 * time.Second) }})
	for _, id := range []string{"a", "b"} {
		w.order(id, id+".example.com")
		w.worker().driveTo(id, "placed", placed)
	}
	others := w.console(order.Challenge{Host: "_dnsauth.c.example.com", Type: dcv.TXT, Value: "theirs"})
	n := w.afterWipe()
	n.sweepFirst()
	n.order("a", "a.example.com")
	n.later()
	n.worker().drive("a", order.Issued)
	if o := n.wantIssued("a"); len(o.Proofs) != 1 || o.Proofs[0].Found {
		t.Errorf("the record of its own life counts as others': %+v", o.Proofs)
	}
	if left := n.ours(); len(left) != 1 || !strings.HasPrefix(left[0], "_dnsauth.b.") {
		t.Errorf("records after the end of a: %v", left)
	}
	n.must(n.worker().placing.Sweep(t.Context())) // enters what the copy has
	if book := n.booked(); len(book) != 1 || !slices.Equal(book[0].Orders, []string{"b"}) {
		t.Errorf("booked: %+v", book)
	}
	n.wantNothingPlaced()
	if all := n.sim.Records(); len(all) != 1 || all[0].ID != others {
		t.Errorf("records: %+v", all)
	}
}

// After JetStream was lost, and without a copy of the book, an order that is
// handed in again takes over the record that its earlier life placed.
func TestRecordOfAnEarlierLifeIsInherited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{uncopied: true, cloud: func(c *cloudsim.Config) { c.CheckInterval = cloudsim.Duration(3 * time.Second) }})
	w.order("a", "a.example.com")
	w.worker().driveTo("a", "placed", placed)
	records := w.ours()
	n := w.afterWipe()
	n.sweepFirst()
	n.order("a", "a.example.com")
	n.later()
	p := n.worker()
	p.drive("a", order.Issued)
	o := n.wantIssued("a")
	if len(records) != 1 || len(o.Proofs) != 1 || !o.Proofs[0].Inherited {
		t.Errorf("records before %v, proofs %+v", records, o.Proofs)
	}
	n.wantNothingPlaced()
}

// A verifier that stood still between the entry and the record, until another
// had brought the order to its end, takes its record back.
func TestPlacedTooLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	f := w.freezing("place: noted")
	ended := f.freeze("a")
	w.worker().drive("a", order.Issued)
	f.thaw()
	<-ended
	w.must(f.placing.Sweep(t.Context())) // which would enter what the book's copy has
	if left, book := w.ours(), w.booked(); len(left)+len(book) > 0 {
		t.Errorf("left behind: %v, %v", left, book)
	}
	if n := w.calls("AddDomainRecord"); n != 2 {
		t.Errorf("%d records were placed, want that of the late one, too", n)
	}
}

// One whose call got no answer, and that put its record there all the same when all
// was taken back, is taken back, too: by the entry that it makes anew.
func TestPlacedTooLateWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	f := w.freezing("place: noted")
	ended := f.freeze("a")
	w.worker().drive("a", order.Issued)
	w.fault(cloudsim.Fault{Action: "AddDomainRecord", Kind: "http_502_html"})
	f.thaw()
	<-ended
	w.sim.ClearFaults()
	if len(w.ours()) != 1 || len(w.booked()) != 1 {
		t.Errorf("there is %v, booked %+v", w.ours(), w.booked())
	}
	w.wantNothingPlaced()
}

// The record of one that comes too late is found by another order as that of
// strangers: it is not, and goes with that order.
func TestPlacedTooLateAndFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	f := w.freezing("place: placed")
	ended := f.freeze("a")
	c := w.last("a").Challenges[0]
	pl, err := w.placed.Read(t.Context(), c)
	w.must(err)
	w.must(w.placed.Remove(t.Context(), pl)) // as the order's end does that saw no record
	w.order("b", "b.example.com")
	_, err = w.placed.Need(t.Context(), c, "ali", "b", true)
	w.must(err)
	f.thaw()
	<-ended
	if all := w.booked(); len(all) != 1 || all[0].Found || !slices.Equal(all[0].Orders, []string{"b"}) {
		t.Errorf("booked %+v", all)
	}
	w.must(w.worker().placing.Sweep(t.Context())) // b does not need it
	if w.shows(c) {
		t.Error("it is left behind")
	}
}

// A record of a book that was lost, which cannot be removed when its order ends, is
// booked anew: somebody must go on trying.
func TestRecordOfALostBookThatCannotBeRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	w.worker().driveTo("a", "placed", placed)
	w.must(w.placed.Remove(t.Context(), w.booked()[0]))
	back := w.withoutZone()
	w.worker().drive("a", order.Issued)
	if all := w.booked(); len(all) != 1 || !strings.Contains(all[0].Why, "no zone") {
		t.Fatalf("booked %+v", all)
	}
	back()
	w.wantNothingPlaced()
}

// An order that forgot its challenge, because it was retried after the cloud had
// seen it, keeps it until its end; then the sweep takes it back.
func TestForgottenChallengeStaysUntilTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: slowCA})
	w.order("a", "a.example.com")
	p := w.worker()
	c := p.drive("a", order.Issuing).Challenges[0]
	it, err := w.line.Last(t.Context(), "a")
	w.must(err)
	o := it.Order
	o.Challenges, o.Proofs = nil, nil
	_, err = w.line.Move(t.Context(), it, o)
	w.must(err)
	w.must(p.placing.Sweep(t.Context()))
	if !w.shows(c) {
		t.Error("it went while the order was at the CA")
	}
	w.must(p.by.Cancel(t.Context(), "a"))
	p.drive("a", order.Failed)
	w.wantNothingPlaced()
	if w.shows(c) {
		t.Error("it stays after the order's end")
	}
}

// Servers that are down say nothing about a record: its order stays at the CA.
func TestRecheckWhileServersAreDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: slowCA})
	w.order("a", "a.example.com")
	p := w.worker()
	p.drive("a", order.Issuing)
	nobody := "127.0.0.1:1"
	down, err := dcv.NewLooker(dcv.LookerConfig{Resolvers: []string{nobody}, Servers: []string{nobody}, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	w.must(err)
	p.recheck.Looker = down
	for range 5 {
		w.must(p.recheck.Sweep(t.Context(), w.accounts["ali"]))
	}
	if o := w.last("a"); o.State != order.Issuing {
		t.Errorf("it was sent back: %s", w.tell("a"))
	}
}

// A name that leads elsewhere by CNAME has its record there, and is taken back
// from there, also when the CNAME is gone by then.
func TestDelegatedChallenge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: slowCA})
	solver := w.solvers["ali"].(dcv.ByType)
	solver.DNS = dcv.NewRoute(map[string]dcv.Solver{dcv.AnyZone: solver.DNS}, w.looker)
	w.solvers["ali"] = solver
	alias := w.console(order.Challenge{Type: "CNAME", Host: "_dnsauth.a.example.com", Value: "a.kept.example.net"})
	w.order("a", "a.example.com")
	p := w.worker()
	o := p.drive("a", order.Issuing)
	at := o.Proofs[0].Place()
	if o.Proofs[0].At != "a.kept.example.net" || !w.shows(at) {
		t.Errorf("proof %+v", o.Proofs[0])
	}
	if all := w.booked(); len(all) != 1 || all[0].Challenge != at {
		t.Errorf("booked %+v", all)
	}
	if left := w.ours(); len(left) != 1 || !strings.HasPrefix(left[0], "a.kept.example.net TXT") {
		t.Errorf("records %v", left)
	}
	w.must(w.sim.DropRecord(alias))
	w.must(p.by.Cancel(t.Context(), "a"))
	p.drive("a", order.Failed)
	w.wantNothingPlaced()
}

// One that goes on while the record is removed, when the entry is still there,
// is taken back all the same.
func TestPlacedWhileItIsRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	f := w.freezing("place: noted")
	ended := f.freeze("a")
	thaw := sync.OnceFunc(func() {
		f.thaw()
		<-ended
	})
	w.at(func(_ context.Context, name string) {
		if name == "clean up: removed" {
			thaw()
		}
	}).drive("a", order.Issued)
	w.must(f.placing.Sweep(t.Context()))
	if left, book := w.ours(), w.booked(); len(left)+len(book) > 0 {
		t.Errorf("left behind: %v, %v", left, book)
	}
	if n := w.calls("AddDomainRecord"); n != 2 {
		t.Errorf("%d records were placed, want that of the late one, too", n)
	}
}
