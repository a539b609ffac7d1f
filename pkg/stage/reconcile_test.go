package stage_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
)

// lost makes an order whose purchase got no answer, in state unsure.
func (w *world) lost(id, fault string, names ...string) *worker {
	w.t.Helper()
	w.order(id, names...)
	w.loses(fault)
	p := w.worker()
	p.drive(id, order.Unsure)
	return p
}

// lostApart is lost, with all clocks' distance between the reading of the count and the
// purchase, and again since then: no clock is in doubt.
func (w *world) lostApart(id, fault string, names ...string) *worker {
	w.t.Helper()
	w.order(id, names...)
	w.loses(fault)
	p := w.at(func(_ context.Context, name string) {
		if name == "submit: quota read" {
			w.apart()
		}
	})
	p.drive(id, order.Unsure)
	w.apart()
	return p
}

// A single candidate is adopted without proof: the entry stays open until the
// key was compared at collection.
func TestProvisionalAdoptionWithTheRightKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_after_commit", "a.example.com")
	w.must(p.unsure.Sweep(t.Context(), w.accounts["ali"]))
	o := p.drive("a", order.Verify)
	a := w.attempt("a")
	if !o.Provisional || a.Ending != ledger.Open || a.Provisional != o.CloudID {
		t.Fatalf("order %s, attempt %+v", w.tell("a"), a)
	}
	p.drive("a", order.Collect)
	if a := w.attempt("a"); a.Ending != ledger.Open {
		t.Errorf("before the key is compared: %+v", a)
	}
	p.drive("a", order.Issued)
	if o := w.wantIssued("a"); o.Provisional {
		t.Error("it is still provisional")
	}
	if a := w.attempt("a"); a.Ending != ledger.Bought || a.Provisional != "" {
		t.Errorf("attempt %+v", a)
	}
	w.wantPaid(1, "a.example.com")
}

// A row that shows our tag is proved: it is claimed at once, whatever else is
// listed.
func TestAdoptionByTag(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.showTags("a")
	p := w.lost("a", "reset_after_commit", "a.example.com")
	o := p.drive("a", order.Verify)
	if a := w.attempt("a"); o.Provisional || a.Ending != ledger.Bought {
		t.Errorf("order %s, attempt %+v", w.tell("a"), a)
	}
	p.drive("a", order.Issued)
	w.wantPaid(1, "a.example.com")
}

// A wrong key (mutations X_PROV, M_NOFOREIGN): the row is foreign for this
// order, the attempt is open again with its old intent, and the order goes on.
// DESIGN 12.5: a foreign row stops the purchase.
func TestProvisionalAdoptionOfAStrangersOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_before_commit", "a.example.com")
	opened := w.attempt("a").Opened
	w.apart()
	foreign := w.stranger("a.example.com")
	if o := p.drive("a", order.Collect); o.CloudID != foreign {
		t.Fatalf("it adopted %s", o.CloudID)
	}
	o := p.drive("a", order.Unsure)
	a, e := w.attempt("a"), w.entry(aliUID, "a.example.com")
	if a.Ending != ledger.Open || !a.Opened.Equal(opened) || !slices.Equal(a.Foreign, []string{foreign}) || e.Free(foreign, "a") || !e.Free(foreign, "b") {
		t.Errorf("attempt %+v", a)
	}
	if o.CloudID != "" || o.Provisional || o.Placed || len(o.Challenges) != 0 {
		t.Errorf("the order keeps what was the stranger's: %+v", o)
	}
	p.visit("a")
	if o := w.last("a"); o.State != order.Unsure {
		t.Errorf("it tried the foreign row again, or did not wait: %s", w.tell("a"))
	}
	w.later()
	// The foreign row stops the purchase, as one that nobody claims (DESIGN 12.5).
	p.drive("a", order.Held)
	w.wantHeld("a", "key is another than this order's", "certmill approve a")
	w.must(p.by.Approve(t.Context(), "a"))
	p.drive("a", order.Issued)
	if o := w.wantIssued("a"); o.CloudID == foreign || o.Attempt != 2 {
		t.Errorf("order %s", w.tell("a"))
	}
	w.wantPaid(2, "a.example.com") // one is the stranger's
}

// Two orders of the same names after a wipe (mutation X_FORALL): the row that is
// foreign for one is the other's purchase.
func TestForeignIsRecordedPerOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "same.example.com")
	w.raise("a", 1) // a number without a purchase
	w.order("b", "same.example.com")
	w.raise("b", 1)
	k, err := w.keys.Get(w.ref("b"))
	w.must(err)
	theirs := w.buyWith(k.CSR, "same.example.com")
	n := w.afterWipe()
	n.sweepFirst()
	n.publish(request("a", "same.example.com"))
	n.publish(request("b", "same.example.com"))
	p := n.worker()
	p.drive("a", order.Collect) // with b's row
	p.drive("a", order.Unsure)
	n.later()
	p.driveTo("b", "waiting for a, or issued", func(o order.Order) bool { return o.State == order.Waiting || o.State == order.Issued })
	p.driveTo("a", "not bought", func(order.Order) bool { return n.attempt("a").Ending != ledger.Open })
	p.drive("b", order.Issued)
	if o := n.wantIssued("b"); o.CloudID != theirs {
		t.Errorf("b has %s, its purchase was %s", o.CloudID, theirs)
	}
	p.drive("a", order.Held)
	n.wantHeld("a", "order b has a certificate for these names in service", "certmill approve a")
	n.wantPaid(1, "same.example.com")
}

// Several candidates and nothing that tells which: a person must.
func TestSeveralCandidatesAreHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_after_commit", "a.example.com")
	foreign := w.stranger("a.example.com")
	p.drive("a", order.Held)
	o := w.wantHeld("a", foreign, "certmill adopt a")
	if !o.Hold.Open || w.attempt("a").Ending != ledger.Open {
		t.Errorf("hold %+v, attempt %+v", o.Hold, w.attempt("a"))
	}
}

// A provisional row that ends without a certificate has no key to compare: held
// with an open entry (model: DEADROW).
func TestProvisionalRowThatIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_after_commit", "a.refused.example")
	p.drive("a", order.Held)
	o := w.wantHeld("a", "without proof", "certmill not-bought a")
	if !o.Hold.Open || w.attempt("a").Ending != ledger.Open {
		t.Errorf("hold %+v, attempt %+v", o.Hold, w.attempt("a"))
	}
	// Looked at again it is the same row, and stays with the person.
	w.later()
	w.must(p.unsure.Sweep(t.Context(), w.accounts["ali"]))
	if o := w.last("a"); o.State != order.Held {
		t.Errorf("it runs in circles: %s", w.tell("a"))
	}
}

// "Not bought" needs a list that was read after the waiting time (mutations
// M_NOSIGLIFE, M_NOLAG) and the mark (M_NOMARK).
func TestNotBoughtNeedsTheWaitingTimeAndTheMark(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_before_commit", "a.example.com")
	still := func(why string) {
		t.Helper()
		p.visit("a")
		if o := w.last("a"); o.State != order.Unsure || w.attempt("a").Ending != ledger.Open {
			t.Errorf("%s: %s", why, w.tell("a"))
		}
	}
	still("at once")
	w.late.Store(int64(waits.Total() - 2*time.Second))
	still("shortly before the waiting time is over")
	w.later()
	mark := w.states.State(aliUID).Mark
	w.must(w.states.Change(t.Context(), aliUID, func(s *account.State) { s.Mark = account.Mark{} }))
	still("without the mark")
	w.must(w.states.Change(t.Context(), aliUID, func(s *account.State) { s.Mark = mark }))
	p.drive("a", order.Submit)
	if a := w.attempt("a"); a.Ending != ledger.NotBought {
		t.Errorf("attempt %+v", a)
	}
}

// The second witness (mutation M_NOUSED with LAGLONG): a list that lags longer
// than was allowed for does not lead to a second purchase. The order is held,
// and a person who finds the row ends it.
func TestUsedCountStopsNotBought(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("before", "before.example.com")
	w.worker().drive("before", order.Verify) // is listed, and was counted before the reading
	w.order("a", "a.example.com")
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.ListLag = cloudsim.Exactly(time.Hour) }))
	w.loses("reset_after_commit")
	p := w.worker()
	p.drive("a", order.Unsure)
	w.later()
	p.visit("a")
	if o := w.last("a"); o.State != order.Unsure {
		t.Fatalf("with a use that no row explains: %s", w.tell("a"))
	}
	w.late.Store(int64(4 * waits.Total()))
	p.drive("a", order.Held)
	w.wantHeld("a", "fell by 1", "certmill adopt a")
	w.wantPaid(1, "a.example.com")
}

// The list may come to show the order's own row between the question for its names
// and the one for all rows: that row does not explain its own use.
func TestOwnRowExplainsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lostApart("a", "reset_after_commit", "a.example.com")
	shown := w.accounts["ali"].Cloud
	w.replaceFlow("ali", late{w.accounts["ali"].Flow(forPackage).(packages)})
	w.later()
	p.visit("a")
	if o := w.last("a"); o.State != order.Unsure {
		t.Errorf("with its own row in the second list: %s", w.tell("a"))
	}
	w.accounts["ali"].Cloud = shown
	p.drive("a", order.Issued)
	w.wantPaid(1, "a.example.com")
}

// The same where the list shows with the names what a CA adds to them: the row is
// not found by the names that were ordered, and explains its own use no more.
func TestOwnRowWithAddedNamesExplainsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lostApart("a", "reset_after_commit", "a.example.com")
	w.replaceFlow("ali", lateAdding{late{w.accounts["ali"].Flow(forPackage).(packages)}})
	w.later()
	p.visit("a")
	if o := w.last("a"); o.State != order.Unsure {
		t.Errorf("with its own row under more names: %s", w.tell("a"))
	}
}

// lateAdding lists no order by the names that were ordered, and each under more.
type lateAdding struct{ late }

func (f lateAdding) All(ctx context.Context, page int) (issuer.Page, error) {
	p, err := f.late.All(ctx, page)
	p.Rows = added(p.Rows)
	return p, err
}

// late is the package flow at a cloud whose list by names does not show yet what
// the list of all does.
type late struct{ packages }

func (late) Find(context.Context, []string) ([]issuer.Row, error) { return nil, nil }

// Growth that the ledger explains is no obstacle, also where the list does not
// show those purchases yet.
func TestUsedCountExplainedByTheLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_before_commit", "a.example.com")
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.ListLag = cloudsim.Exactly(time.Hour) }))
	w.order("b", "b.example.com")
	p.drive("b", order.Verify)
	w.later()
	p.visit("a")
	if o := w.last("a"); o.State != order.Submit {
		t.Errorf("although the ledger has the purchase that was counted: %s", w.tell("a"))
	}
}

// What a stranger buys after the count was read is not in it, and explains no use.
func TestRowFromAfterTheCountExplainsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_after_commit", "a.example.com")
	shown := w.accounts["ali"].Cloud
	own := w.paid("a.example.com")[0].ID
	w.replaceFlow("ali", boughtBeside{w.accounts["ali"].Flow(forPackage).(packages), own, sync.OnceFunc(func() { w.stranger("b.example.com") })})
	w.apart()
	w.later()
	p.visit("a")
	if o := w.last("a"); o.State != order.Unsure {
		t.Errorf("with a stranger's row from after the count: %s", w.tell("a"))
	}
	w.accounts["ali"].Cloud = shown
	p.drive("a", order.Issued)
	w.wantPaid(1, "a.example.com")
}

// What this installation buys explains nothing that was counted before: a purchase
// whose intent is from before the count of now, and whose call lands after it.
func TestPurchaseUnderWayExplainsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_after_commit", "a.example.com")
	shown := w.accounts["ali"].Cloud
	own := w.paid("a.example.com")[0].ID
	w.order("b", "b.example.com")
	slow := w.freezing("submit: entry opened")
	ended := slow.freeze("b")
	w.replaceFlow("ali", boughtBeside{w.accounts["ali"].Flow(forPackage).(packages), own, func() { slow.thaw(); <-ended }})
	w.later()
	p.visit("a")
	if o := w.last("b"); o.State != order.Verify {
		t.Fatalf("the other purchase did not land: %s", w.tell("b"))
	}
	if o := w.last("a"); o.State != order.Unsure {
		t.Errorf("with a purchase that landed after the count: %s", w.tell("a"))
	}
	w.accounts["ali"].Cloud = shown
	p.drive("a", order.Issued)
	w.wantPaid(1, "a.example.com")
}

// boughtBeside is the package flow at a cloud that lists one cloud order only later,
// where something else is bought once the count was read.
type boughtBeside struct {
	packages
	unlisted string
	buy      func()
}

func (boughtBeside) Find(context.Context, []string) ([]issuer.Row, error) { return nil, nil }

func (f boughtBeside) Usage(ctx context.Context, product string) (issuer.Usage, error) {
	u, err := f.packages.Usage(ctx, product)
	f.buy()
	return u, err
}

func (f boughtBeside) All(ctx context.Context, page int) (issuer.Page, error) {
	p, err := f.packages.All(ctx, page)
	p.Rows = slices.DeleteFunc(p.Rows, func(r issuer.Row) bool { return r.CloudID == f.unlisted })
	return p, err
}

// Growth that other orders' rows explain is no obstacle.
func TestExplainedUsedCount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_before_commit", "a.example.com")
	w.order("b", "b.example.com")
	p.drive("b", order.Verify)
	w.apart()
	w.stranger("c.example.com")
	w.later()
	p.drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, "a.example.com")
}

// What the first sweep of a new ledger finds: open orders and certificates that
// are good for a while stop a purchase; what is due for renewal, or came to
// nothing, does not.
func TestFirstSweepReportsOnlyWhatStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.ValidityDays = 20 }})
	p := w.worker()
	w.order("due", "due.example.com")
	p.drive("due", order.Issued)
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.ValidityDays = 90 }))
	w.order("fresh", "fresh.example.com")
	p.drive("fresh", order.Issued)
	w.order("refused", "a.refused.example")
	p.drive("refused", order.Failed)
	w.order("open", "open.example.com")
	p.drive("open", order.Verify)
	n := w.afterWipe()
	n.sweepFirst()
	for name, want := range map[string]int{"due.example.com": 0, "fresh.example.com": 1, "a.refused.example": 0, "open.example.com": 1} {
		if e := n.entry(aliUID, name); len(e.Unclaimed) != want {
			t.Errorf("%s: %+v, want %d", name, e.Unclaimed, want)
		}
	}
}

// A row that the first sweep reported and that came to nothing since then no
// longer stands in the way: nothing would ever take it out of the ledger.
func TestUnclaimedRowThatCameToNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true, cloud: func(c *cloudsim.Config) {
		c.ValidationDeadline = cloudsim.Duration(1500 * time.Millisecond)
	}})
	w.stranger("a.example.com")
	w.sweepFirst()
	if e := w.entry(aliUID, "a.example.com"); len(e.Unclaimed) != 1 {
		t.Fatalf("entry %+v", e)
	}
	for end := time.Now().Add(natstest.Patience); w.sim.Report().Orders[0].State != "failed"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the stranger's order does not fail")
		}
	}
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.ValidationDeadline = cloudsim.Duration(time.Minute) }))
	w.order("a", "a.example.com")
	w.worker().drive("a", order.Issued)
	w.wantIssued("a")
}

// An account that has no plan of the product waits for one, like one whose plan
// is used up.
func TestProductThatWasNeverBought(t *testing.T) {
	t.Parallel()
	const product = "geotrust-dv-1-starter"
	w := newWorld(t, setup{})
	r := request("a", "a.example.com")
	r.Product = product
	w.publish(r)
	p := w.worker()
	if o := p.drive("a", order.Waiting); o.Wait.For != order.WaitForQuota || o.Wait.What != product {
		t.Errorf("it waits for %+v", o.Wait)
	}
	w.must(w.sim.AddStock(cloudsim.Stock{Cloud: "aliyun", UID: aliUID, Products: map[string]int{product: 1}}))
	w.must(p.waiter.Sweep(t.Context(), w.accounts["ali"]))
	p.drive("a", order.Issued)
	w.wantIssued("a")
}

// What cannot be searched by names is for a person.
func TestUnsureOrderThatCannotBeSearched(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_before_commit", "a.example.com")
	w.replaceFlow("ali", struct{ issuer.Flow }{w.accounts["ali"].Flow(forPackage)}) // which hides what else it can do
	p.drive("a", order.Held)
	if o := w.wantHeld("a", "cannot be searched", "certmill adopt a"); !strings.Contains(o.Hold.Reason, forPackage) {
		t.Errorf("hold %+v", o.Hold)
	}
}

// Several candidates are told apart by their keys, once they are issued.
func TestCandidatesAreToldApartByTheirKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, fault string
		paid        int // with the strangers'
	}{{"one is ours", "reset_after_commit", 3}, {"none is ours", "reset_before_commit", 3}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			w.order("a", "a.example.com")
			w.loses(tt.fault)
			p := w.worker()
			p.drive("a", order.Unsure)
			w.apart()
			for range 2 {
				w.stranger("a.example.com")
			}
			for _, o := range w.sim.Report().Orders {
				w.proved(o.ID)
			}
			w.later()
			p = w.worker()
			if tt.fault == "reset_before_commit" {
				// Both are foreign, and stop the purchase as unclaimed ones (DESIGN 12.5).
				p.drive("a", order.Held)
				w.wantHeld("a", "key is another than this order's", "certmill approve a")
				w.must(p.by.Approve(t.Context(), "a"))
			}
			p.drive("a", order.Issued)
			w.wantIssued("a")
			w.wantPaid(tt.paid, "a.example.com")
		})
	}
}

// The opener's answer came late and closed the entry with another cloud order
// than the one that was adopted meanwhile: what the ledger says is followed.
func TestLateAnswerAfterAnAdoption(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	slow := w.freezing("submit: answered")
	ended := slow.freeze("a")
	stranger := w.stranger("a.example.com")
	// The list shows only the stranger's row to whoever reconciles meanwhile.
	e := w.entry(aliUID, "a.example.com")
	last, _ := e.Last("a")
	w.must(w.ledger.Adopt(t.Context(), aliUID, []string{"a.example.com"}, last, stranger))
	p := w.worker()
	p.drive("a", order.Issuing)
	slow.thaw()
	<-ended
	p.drive("a", order.Issued)
	if o := w.wantIssued("a"); o.CloudID == stranger {
		t.Error("the stranger's certificate was taken")
	}
	w.wantPaid(2, "a.example.com")
}

// What held an order with an open entry is looked at again: a growth of the count
// that no row explained is explained once the list shows it (issue 18, money 7).
func TestHeldIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_before_commit", "a.example.com")
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.ListLag = cloudsim.Exactly(3 * time.Second) }))
	w.apart()
	w.stranger("c.example.com") // counted at once, listed late
	w.late.Store(int64(4 * waits.Total()))
	p.drive("a", order.Held)
	w.wantHeld("a", "fell by 1", "certmill not-bought a")
	a := w.accounts["ali"]
	w.must(p.unsure.Sweep(t.Context(), a))
	if o := w.last("a"); o.State != order.Held {
		t.Fatalf("while nothing explains it: %s", w.tell("a"))
	}
	for end := time.Now().Add(natstest.Patience); w.last("a").State == order.Held; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("although it explained itself: %s", w.tell("a"))
		}
		w.late.Add(int64(2 * time.Minute)) // held ones are looked at now and then
		w.must(p.unsure.Sweep(t.Context(), a))
	}
	if o := w.last("a"); o.Hold != nil {
		t.Errorf("it keeps its hold: %s", w.tell("a"))
	}
	p.drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, "a.example.com")
}

// An order that was bought, refused and bought once more beside an attempt that
// never landed: both purchases have rows, and explain the growth (DESIGN 4).
func TestGrowthOfTwoPurchasesOfOneOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_before_commit", "a.example.com")
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.ListLag = cloudsim.Exactly(time.Hour) }))
	names := []string{"b.refused.example"}
	for n := 1; n <= 2; n++ {
		e, err := w.ledger.Read(t.Context(), aliUID, names)
		w.must(err)
		_, open, err := w.ledger.Begin(t.Context(), e, ledger.Attempt{Order: "b", Purchase: n, Attempt: n, Product: plenty, Action: forPackage})
		w.must(err)
		w.must(w.ledger.Bought(t.Context(), aliUID, names, open, w.stranger(names...), "answered"))
	}
	w.later()
	p.visit("a")
	if o := w.last("a"); o.State != order.Submit {
		t.Errorf("although the ledger has both purchases that were counted: %s", w.tell("a"))
	}
}

// A purchase that was adopted without proof has a row, and explains the growth; an
// open attempt without a row never does.
func TestGrowthOfARowWithoutProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.lost("a", "reset_before_commit", "a.example.com")
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.ListLag = cloudsim.Exactly(time.Hour) }))
	p := w.lost("b", "reset_after_commit", "b.example.com")
	w.later()
	p.visit("a")
	if o := w.last("a"); o.State != order.Unsure {
		t.Fatalf("an attempt without a row explained it: %s", w.tell("a"))
	}
	w.must(w.ledger.Adopt(t.Context(), aliUID, []string{"b.example.com"}, w.attempt("b"), w.paid("b.example.com")[0].ID))
	p.visit("a")
	if o := w.last("a"); o.State != order.Submit {
		t.Errorf("the row did not explain it: %s", w.tell("a"))
	}
}

// DESIGN 12.6: rows of names with an open attempt are reported, too, by the first
// sweep, and a row that turns out to be a stranger's stops the purchase, although it
// was foreign for one order.
func TestARowSkippedByTheFirstSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	foreign := w.stranger("a.example.com")
	w.proved(foreign)
	w.must(w.keys.Raise(refOf(request("a", "a.example.com").Normal()), certstore.Raised{Attempt: 1, Purchase: 1})) // of an earlier life
	w.order("a", "a.example.com")
	p := w.worker()
	p.drive("a", order.Unsure)
	w.sweepFirst()
	if e := w.entry(aliUID, "a.example.com"); len(e.Unclaimed) != 1 {
		t.Fatalf("with an open attempt: %+v", e.Unclaimed)
	}
	w.later()
	p.drive("a", order.Held)
	w.wantHeld("a", foreign, "certmill approve a")
	w.wantPaid(1, "a.example.com")
}

// DESIGN 12.5: one cloud order has one claimant: a row that another order has, under
// whatever names, is no candidate.
func TestACandidateOfOtherNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("a", "reset_after_commit", "a.example.com")
	id := w.paid("a.example.com")[0].ID
	w.must(w.ledger.Assign(t.Context(), aliUID, []string{"a.example.com", "www.a.example.com"}, ledger.Claim{CloudID: id, Order: "b", Purchase: 1}))
	p.visit("a")
	if o := w.last("a"); o.State != order.Unsure || w.attempt("a").Provisional != "" {
		t.Errorf("it adopted another order's: %s", w.tell("a"))
	}
}
