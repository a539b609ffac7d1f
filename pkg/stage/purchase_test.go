package stage_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
)

// The key is made in a visit of its own, stored in the next, which also takes the
// attempt's number, and only the third buys.
func TestKeyThenStoreThenPurchase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(request("a", "a.example.com"))
	p := w.worker()
	p.visit("a")
	made := w.last("a")
	if made.Key == nil || made.Key.Stored || len(made.Key.Sealed) == 0 || made.Key.Fingerprint == "" {
		t.Fatalf("after the first visit: %+v", made.Key)
	}
	if _, err := w.keys.Get(w.ref("a")); err == nil {
		t.Error("the key store has the pair before the record does")
	}
	p.visit("a")
	stored := w.last("a")
	if !stored.Key.Stored || stored.Key.Fingerprint != made.Key.Fingerprint || stored.Attempt != 1 || stored.State != order.Submit {
		t.Fatalf("after the second visit: %s %+v", stored.State, stored.Key)
	}
	if k, err := w.keys.Get(w.ref("a")); err != nil || k.Fingerprint != made.Key.Fingerprint {
		t.Errorf("the key store has %+v, %v", k, err)
	}
	w.wantPaid(0, "a.example.com")
	o := p.drive("a", order.Issued)
	w.wantPaid(1, "a.example.com")
	if got := w.paid("a.example.com")[0].KeyFP; got != made.Key.Fingerprint {
		t.Errorf("the cloud signed key %s, ours is %s", got, made.Key.Fingerprint)
	}
	w.wantIssued("a")
	if o.Key.Fingerprint != made.Key.Fingerprint || o.Attempt != 1 || o.Purchase != 1 {
		t.Errorf("the record has key %+v, attempt %d, purchase %d", o.Key, o.Attempt, o.Purchase)
	}
}

// The intake makes the key of an order that it can make quickly, so that it is in
// the first record; what it cannot make, it leaves to the submitter.
func TestKeyOfTheIntake(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	in := w.worker().intake
	in.Sealer = w.recipients
	for id, more := range map[string]string{"a": "", "r": `,"key":"rsa-2048"`} {
		w.must(in.Accept(t.Context(), w.message([]byte(`{"id":"`+id+`","account":"ali","names":["`+id+`.example.com"]`+more+`}`))))
	}
	if k := w.last("r").Key; k != nil {
		t.Errorf("the intake made an RSA key: %+v", k)
	}
	made := w.last("a").Key
	if made == nil || made.Stored || len(made.Sealed) == 0 {
		t.Fatalf("the first record has the key %+v", made)
	}
	if _, err := w.keys.Get(w.ref("a")); err == nil {
		t.Error("the key store has the pair before the submitter wrote it there")
	}
	for _, id := range []string{"a", "r"} {
		w.worker().drive(id, order.Issued)
		w.wantIssued(id)
		w.wantPaid(1, id+".example.com")
	}
	if got := w.paid("a.example.com")[0].KeyFP; got != made.Fingerprint {
		t.Errorf("the cloud signed key %s, the intake's is %s", got, made.Fingerprint)
	}
}

// A pair that is in the key store under this id wins over the record's.
func TestPairInTheKeyStoreWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	first, err := w.keys.Get(w.ref("a"))
	w.must(err)
	n := w.afterWipe()
	n.sweepFirst()
	n.order("a", "a.example.com")
	if got := n.last("a").Key.Fingerprint; got != first.Fingerprint {
		t.Errorf("the record has key %s, the key store %s", got, first.Fingerprint)
	}
}

// A row whose names somebody sorted in another way is the same order (DESIGN 12.1):
// after a lost JetStream its pair is that of the first life, whatever common name is
// in it, and what was prepared then is started with it.
func TestNamesSortedInAnotherWayHaveTheirPair(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	set := []string{"a.example.com", "b.example.com", "c.example.com"}
	request := func(id string) order.Request {
		r := order.Request{ID: id, Account: "ten"}
		for _, n := range set {
			r.Names = append(r.Names, id+"-"+n)
		}
		return r
	}
	w.publish(request("issued"))
	w.publish(request("begun"))
	w.worker().drive("issued", order.Issued)
	w.worker().driveTo("begun", "its pair is stored", keyStored)
	set[0], set[2] = set[2], set[0]
	n := w.afterWipe()
	n.sweepFirst()
	for _, id := range []string{"issued", "begun"} {
		first, err := w.keys.Get(w.ref(id))
		w.must(err)
		n.publish(request(id))
		n.worker().drive(id, order.Issued)
		n.wantPaid(1, request(id).Names...)
		if got := n.wantIssued(id).Key.Fingerprint; got != first.Fingerprint {
			t.Errorf("%s: the record has key %s, the first life's is %s", id, got, first.Fingerprint)
		}
	}
}

// A customer's CSR may have any of the names as its common name.
func TestCommonNameOfACSR(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	names := []string{"a.example.com", "b.example.com"}
	_, csr, _, err := certstore.NewKey("ecdsa-p256", []string{names[1], names[0]}, true)
	w.must(err)
	w.publish(order.Request{ID: "a", Account: "ten", Names: names, CSR: csr})
	w.worker().drive("a", order.Issued)
	w.wantIssued("a")
}

// DESIGN section 4, 3: waiting for the permit leaves no number and no entry.
func TestPermitComesBeforeNumberAndEntry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{permits: func(k permit.Key) permit.Limit {
		l := permit.Limit{Calls: 500, Period: 10 * time.Millisecond, Deadline: 2 * time.Second}
		if k.Action == forPackage {
			l.Calls = 1
		}
		return l
	}})
	w.order("a", "a.example.com") // has attempt 1
	_, release, err := w.accounts["ali"].Flow(forPackage).Reserve(t.Context())
	w.must(err)
	defer release()
	arrived := make(chan struct{})
	p := w.at(func(_ context.Context, name string) {
		if name == "submit: quota read" {
			close(arrived)
		}
	})
	ctx, cancel := context.WithCancel(p.ctx)
	p.ctx = ctx
	ended := make(chan struct{})
	go func() { defer close(ended); p.visit("a") }()
	<-arrived
	select {
	case <-ended:
		t.Error("the visit ended without a permit")
	case <-time.After(50 * time.Millisecond):
	}
	if r, err := w.keys.Number(w.ref("a")); err != nil || r.Attempt != 0 {
		t.Errorf("number %+v, %v while the worker queues for a permit", r, err)
	}
	if e := w.entry(aliUID, "a.example.com"); len(e.Attempts) != 0 {
		t.Errorf("entry %+v while the worker queues for a permit", e.Attempts)
	}
	cancel()
	<-ended
}

// DESIGN section 4, 4 and 5: number, then entry, then call.
func TestNumberThenEntryThenCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	var seen []string
	p := w.at(func(_ context.Context, name string) {
		if name == "move: stored" {
			return
		}
		r, err := w.keys.Number(w.ref("a"))
		w.must(err)
		a := w.attempt("a")
		what := map[bool]string{true: " number", false: ""}[r.Attempt == 1 && r.Purchase == 1]
		if a.Ending == ledger.Open && a.Token != "" && a.Fingerprint != "" && a.Used != nil && a.Product == plenty && !a.Opened.IsZero() {
			what += " open"
		}
		if a.Ending == ledger.Bought {
			what += " bought"
		}
		if len(w.paid("a.example.com")) == 1 {
			what += " paid"
		}
		seen = append(seen, name+":"+what)
	})
	// The attempt's number was taken in a transition of its own.
	if o := w.last("a"); o.Attempt != 1 || len(seen) != 0 {
		t.Fatalf("attempt %d, %v", o.Attempt, seen)
	}
	p.visit("a")
	want := []string{"submit: quota read:", "submit: budget taken:", "submit: number stored: number", "submit: entry opened: number open",
		"submit: answered: number open paid", "ledger: owner written: number open paid", "submit: bought: number bought paid"}
	if !slices.Equal(seen, want) {
		t.Errorf("effects:\n%q, want\n%q", seen, want)
	}
	if o := w.last("a"); o.State != order.Verify || o.CloudID == "" {
		t.Errorf("then it is %s", w.tell("a"))
	}
}

// DESIGN section 4, 5 (mutation M_ANYONECALLS): only who opened the entry sends.
// A rival finds the number first, and opens an entry that nobody owns.
func TestOnlyTheOpenerSends(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	slow := w.freezing("submit: number stored")
	ended := slow.freeze("a")
	rival := w.worker()
	rival.drive("a", order.Unsure)
	if a := w.attempt("a"); a.Ending != ledger.Open || a.Token != "" || a.Attempt != 1 {
		t.Errorf("the entry is %+v, want one that nobody owns", a)
	}
	slow.thaw()
	<-ended
	if n := w.calls(forPackage); n != 0 {
		t.Errorf("%d calls by who is not the opener", n)
	}
	rival.visit("a")
	if o := w.last("a"); o.State != order.Unsure {
		t.Errorf("before the waiting time: %s", w.tell("a"))
	}
	w.later()
	rival.drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, "a.example.com")
}

// An opener that finds its entry open while another visits: the other one does
// not send either (mutation M_NOENTRY).
func TestOpenEntryIsNotSentTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	slow := w.freezing("submit: entry opened")
	ended := slow.freeze("a")
	rival := w.worker()
	rival.drive("a", order.Unsure)
	rival.visit("a")
	slow.thaw() // in time: its stamp lies within the fence
	<-ended
	w.wantPaid(1, "a.example.com")
	rival.drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, "a.example.com")
}

// DESIGN section 4, 6 (mutations X_D, X_STAMP, M_NODEADLINE): an opener that
// slept too long is stopped by the stamp that it signs, and its successor buys
// once.
func TestFrozenOpenerIsStoppedByItsStamp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	slow := w.freezing("submit: entry opened")
	ended := slow.freeze("a")
	w.later()
	next := w.worker()
	next.drive("a", order.Unsure)
	next.drive("a", order.Submit)
	if a := w.attempt("a"); a.Ending != ledger.NotBought {
		t.Fatalf("attempt %+v", a)
	}
	time.Sleep(time.Until(w.attempt("a").Opened.Add(waits.Entry + 1100*time.Millisecond))) // stamps are whole seconds
	slow.thaw()
	<-ended
	if n := w.calls(forPackage); n != 0 {
		t.Errorf("%d calls with a stamp outside the fence", n)
	}
	next.drive("a", order.Issued)
	if o := w.wantIssued("a"); o.Attempt != 2 {
		t.Errorf("attempt %d", o.Attempt)
	}
	w.wantPaid(1, "a.example.com")
}

// The same without anybody else there: the entry is closed as never sent, and a
// further attempt is made at once.
func TestStampOutsideTheFenceIsNeverSent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	slow := w.freezing("submit: entry opened")
	ended := slow.freeze("a")
	time.Sleep(time.Until(w.attempt("a").Opened.Add(waits.Entry + 1100*time.Millisecond)))
	slow.thaw()
	<-ended
	if a := w.attempt("a"); a.Ending != ledger.NeverSent {
		t.Errorf("attempt %+v", a)
	}
	w.worker().drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, "a.example.com")
}

// DESIGN section 4, 4: a number that the ledger does not know opens an entry
// that nobody owns; the look back goes to the number's own time, the waiting
// time runs from the opening (mutation M_NUMNOWAIT).
func TestUnknownNumberOpensAnOwnerlessEntry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	w.raise("a", 3)
	number, err := w.keys.Number(w.ref("a"))
	w.must(err)
	time.Sleep(time.Until(number.At.Add(1100 * time.Millisecond))) // it is kept in whole seconds
	p := w.worker()
	p.visit("a")
	o, a := w.last("a"), w.attempt("a")
	if o.State != order.Unsure || o.Attempt != 3 || a.Ending != ledger.Open || a.Token != "" || a.Attempt != 3 {
		t.Fatalf("attempt %+v, order %s", a, w.tell("a"))
	}
	if !a.Since().Equal(number.At) || !a.Opened.After(number.At.Add(time.Second)) {
		t.Errorf("rows since %v are looked at and the entry was opened %v; the number was written %v", a.Since(), a.Opened, number.At)
	}
	p.visit("a")
	if got := w.last("a"); got.State != order.Unsure {
		t.Errorf("before the waiting time: %s", w.tell("a"))
	}
	w.later()
	p.drive("a", order.Issued)
	if o := w.wantIssued("a"); o.Attempt != 4 {
		t.Errorf("bought as attempt %d", o.Attempt)
	}
	w.wantPaid(1, "a.example.com")
}

// DESIGN section 4, 8: whatever is no clear answer leaves the entry open, and
// the call is never repeated; the list tells what became of it.
func TestUnknownOutcomeIsNeverRetried(t *testing.T) {
	t.Parallel()
	for kind, landed := range map[string]bool{"reset_after_commit": true, "http_500": true, "http_502_html": true, "empty_200": true,
		"truncated": true, "wrong_type": true, "nonce_used": true, "stall": true, "reset_before_commit": false, "redirect_307": false} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{permits: func(permit.Key) permit.Limit {
				return permit.Limit{Calls: 500, Period: 10 * time.Millisecond, Deadline: time.Second}
			}})
			w.order("a", "a.example.com")
			w.fault(cloudsim.Fault{Action: forPackage, Kind: kind, Times: 1, Seconds: 1.5})
			p := w.worker()
			o := p.drive("a", order.Unsure)
			if a := w.attempt("a"); a.Ending != ledger.Open || a.Attempt != 1 {
				t.Errorf("attempt %+v", a)
			}
			p.visit("a")
			if n := w.calls(forPackage); n != 1 {
				t.Errorf("%d calls, want 1", n)
			}
			if !landed {
				if o = w.last("a"); o.State != order.Unsure {
					t.Errorf("before the waiting time: %s", w.tell("a"))
				}
				w.later()
			}
			p.drive("a", order.Issued)
			w.wantIssued("a")
			w.wantPaid(1, "a.example.com")
		})
	}
}

// Clear answers that had no effect close the entry, and a further attempt is
// made under a further number.
func TestThrottledPurchaseIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	w.loses("throttle")
	p := w.worker()
	p.driveTo("a", "an attempt that was never sent", func(order.Order) bool { return w.attempt("a").Ending == ledger.NeverSent })
	p.drive("a", order.Issued)
	if o := w.wantIssued("a"); o.Attempt != 2 {
		t.Errorf("attempt %d", o.Attempt)
	}
	w.wantPaid(1, "a.example.com")
}

// DESIGN section 4, "two numbers" (mutations M_CLAIMNOATT, X_PURCHASE): a claim
// for order and purchase is the outcome, whatever the attempt.
func TestClaimIsTheOutcomeWhateverTheAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	p, died := w.dying("submit: bought")
	p.drive("a")
	if !died() {
		t.Fatal("it did not die")
	}
	it, err := w.line.Last(t.Context(), "a")
	w.must(err)
	o := it.Order
	o.Attempt = 7 // as a record of another life might say
	_, err = w.line.Move(t.Context(), it, o)
	w.must(err)
	w.worker().drive("a", order.Issued)
	w.wantIssued("a")
	w.wantAtRest("a") // no attempt was begun that nobody needs
	if n := w.calls(forPackage); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// A record from before a restore takes the ledger's attempt, and never an old
// number again.
func TestOldRecordTakesTheLedgersAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	w.loses("reset_before_commit")
	p := w.worker()
	p.drive("a", order.Unsure)
	w.later()
	p.drive("a", order.Submit)
	it, err := w.line.Last(t.Context(), "a")
	w.must(err)
	o := it.Order
	o.Attempt = 0
	_, err = w.line.Move(t.Context(), it, o)
	w.must(err)
	p.visit("a")
	if got := w.last("a"); got.Attempt != 1 || got.State != order.Submit {
		t.Errorf("it is %s", w.tell("a"))
	}
	p.drive("a", order.Issued)
	if o := w.wantIssued("a"); o.Attempt != 2 {
		t.Errorf("bought as attempt %d", o.Attempt)
	}
	w.wantPaid(1, "a.example.com")
}

// DESIGN section 4, "an empty ledger": nothing is bought before the mark.
// DESIGN 12.6: nothing is bought before the mark.
func TestNothingIsBoughtBeforeTheFirstSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	w.order("a", "a.example.com")
	p := w.worker()
	o := p.drive("a", order.Waiting)
	if o.Wait.For != order.WaitForSweep {
		t.Errorf("it waits for %+v", o.Wait)
	}
	p.visit("a")
	if o := w.last("a"); o.State != order.Waiting {
		t.Errorf("before the mark it is %s", o.State)
	}
	w.wantPaid(0, "a.example.com")
	w.sweepFirst()
	p.drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, "a.example.com")
}

// The first sweep does not begin before the waiting time after the ledger
// began, unless an operator said that there was no earlier installation.
func TestFirstSweepWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	a := w.accounts["ali"]
	a.Simulated = false
	p := w.worker()
	p.waiter.Now = time.Now
	left, err := p.waiter.FirstSweep(t.Context(), a)
	if err != nil || left <= 0 || left > waits.Total() {
		t.Errorf("%v left, %v", left, err)
	}
	if n := w.calls("ListUserCertificateOrder"); n != 0 || w.states.State(aliUID).Marked(w.line.Incarnation()) {
		t.Errorf("%d list calls, state %+v", n, w.states.State(aliUID))
	}
	p.by.Accounts = w.accounts
	p.waiter.Now = func() time.Time { return w.ledger.Began().Add(waits.Total() + time.Millisecond) }
	if left, err := p.waiter.FirstSweep(t.Context(), a); err != nil || left != 0 {
		t.Errorf("%v left, %v", left, err)
	}
	if !w.states.State(aliUID).Marked(w.line.Incarnation()) || w.calls("ListUserCertificateOrder") == 0 {
		t.Errorf("state %+v", w.states.State(aliUID))
	}
}

// After a JetStream was lost the key store's number leads to what was bought:
// nothing is bought twice, and the certificate fits the key.
func TestAfterAWipeNothingIsBoughtTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	w.worker().drive("a", order.Verify)
	n := w.afterWipe()
	n.sweepFirst()
	n.publish(request("a", "a.example.com"))
	n.worker().drive("a", order.Issued)
	n.wantIssued("a")
	n.wantPaid(1, "a.example.com")
}

// DESIGN section 4, "an empty ledger" (mutation M_NOUNCLAIMED): with the key
// store lost as well, the unclaimed row stops the purchase, and a person's word lets that
// row pass and no other.
func TestUnclaimedRowStopsThePurchase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	id := w.stranger("a.example.com")
	w.sweepFirst()
	w.order("a", "a.example.com")
	p := w.worker()
	p.drive("a", order.Held)
	w.wantHeld("a", id, "certmill approve a")
	w.wantPaid(1, "a.example.com")
	another := w.stranger("a.example.com")
	w.must(p.waiter.Surplus(t.Context(), w.accounts["ali"]))
	w.must(p.by.Approve(t.Context(), "a"))
	p.drive("a", order.Held)
	w.wantHeld("a", another, "certmill approve a")
	w.wantPaid(2, "a.example.com")
}

// Where the cloud makes the key there is nothing to compare: a person decides.
func TestUnclaimedRowWithoutAKeyToCompare(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	id := w.buyWith("", "a.example.com", "b.example.com")
	w.sweepFirst()
	w.publish(request("a", "a.example.com", "b.example.com"))
	w.worker().drive("a", order.Held)
	w.wantHeld("a", "the cloud makes this order's key", "certmill adopt a "+id)
}

// leftOver buys for order "a" in a life of which only the key is left, neither
// ledger nor attempt's number.
func leftOver(w *world, name string) {
	w.t.Helper()
	key, csr, fp, err := certstore.NewKey("ecdsa-p256", []string{name}, false)
	w.must(err)
	sealed, err := w.recipients.Seal(key)
	w.must(err)
	_, _, err = w.keys.Put(w.t.Context(), refOf(request("a", name)), order.Key{Algorithm: "ecdsa-p256", Fingerprint: fp, CSR: csr, Sealed: sealed})
	w.must(err)
	w.proved(w.buyWith(csr, name))
	w.sweepFirst()
	w.order("a", name)
}

// DESIGN section 4: an issued, unclaimed order whose key is the one in the key
// store under this order's id is this order's.
func TestLeftOverWithOurKeyIsAdopted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	leftOver(w, "a.example.com")
	w.worker().drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, "a.example.com")
}

// DESIGN 12.2: names are taken until the order is issued. Two more orders for them
// wait while it is not known whether the first one was bought, and between bought
// and issued; then they are held, and nothing more is bought.
func TestOrdersForTheSameNamesWaitForEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, id := range []string{"a", "b", "c"} {
		w.order(id, "same.example.com")
	}
	slow := w.freezing("submit: entry opened")
	ended := slow.freeze("a")
	p := w.worker()
	waits := func(when string, open bool) {
		t.Helper()
		for _, id := range []string{"b", "c"} {
			p.visit(id)
			if o := p.drive(id, order.Waiting); o.Wait.For != order.WaitForNames || o.Wait.What != "a" || o.Wait.Open != open {
				t.Errorf("%s, %s waits for %+v", when, id, o.Wait)
			}
		}
	}
	waits("with the entry open", true)
	slow.thaw()
	<-ended
	w.wantPaid(1, "same.example.com")
	for _, id := range []string{"b", "c"} {
		p.drive(id, order.Submit)
	}
	waits("between bought and issued", false)
	attempts := w.last("b").Attempt
	p.drive("a", order.Issued)
	w.wantIssued("a")
	for _, id := range []string{"b", "c"} {
		p.drive(id, order.Held)
		w.wantHeld(id, "order a has a certificate for these names in service until", "certmill approve "+id)
	}
	if n := w.number("b").Attempt; n != 0 || w.last("b").Attempt != attempts {
		t.Errorf("b has number %d in the key store and attempt %d: waiting burns none", n, w.last("b").Attempt)
	}
	w.wantPaid(1, "same.example.com")
}

// Rivals at the very moment of the purchase: one of them buys, the others are held.
func TestRivalsForTheSameNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ids := []string{"a", "b", "c"}
	for _, id := range ids {
		w.order(id, "same.example.com")
	}
	w.later()
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			w.worker().driveTo(id, "issued or held", func(o order.Order) bool { return o.State == order.Issued || o.State == order.Held })
		})
	}
	wg.Wait()
	held := slices.DeleteFunc(ids, func(id string) bool { return w.last(id).State == order.Issued })
	if len(held) != 2 {
		t.Errorf("%q are held", held)
	}
	for _, id := range held {
		w.wantHeld(id, "in service until", "certmill approve "+id)
	}
	w.wantPaid(1, "same.example.com")
}

// One that finds another order's entry where it wanted to open its own gives its
// number up: nobody can send under it, so it costs no waiting time.
func TestNumberOfALateRivalIsGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "same.example.com")
	w.order("b", "same.example.com")
	slow := w.freezing("submit: number stored")
	ended := slow.freeze("a")
	p := w.worker()
	p.drive("b", order.Verify)
	slow.thaw()
	<-ended
	if a := w.attempt("a"); a.Ending != ledger.NeverSent || a.Attempt != 1 {
		t.Errorf("attempt %+v", a)
	}
	p.drive("a", order.Waiting)
	p.drive("b", order.Issued)
	p.drive("a", order.Held)
	w.must(p.by.Approve(t.Context(), "a"))
	p.drive("a", order.Issued)
	if o := w.wantIssued("a"); o.Attempt != 2 {
		t.Errorf("bought as attempt %d", o.Attempt)
	}
	w.wantPaid(2, "same.example.com")
}

// One that waits for a held order is held too.
func TestWaitingForAHeldOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "same.example.com")
	w.order("b", "same.example.com")
	w.loses("reset_before_commit")
	p := w.worker()
	p.drive("a", order.Unsure)
	w.stranger("same.example.com")
	w.stranger("same.example.com")
	p.drive("a", order.Held)
	p.drive("b", order.Waiting)
	p.drive("b", order.Held)
	w.wantHeld("b", "waits for order a", "certmill retry b")
}

// No quota: the order waits, others of the product wait without a call, and go
// on when more was bought.
func TestQuotaExhausted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, id := range []string{"a", "b", "c"} {
		r := request(id, id+".example.com")
		r.Product = scarce
		w.publish(r)
	}
	p := w.worker()
	p.drive("a", order.Issued)
	o := p.drive("b", order.Waiting)
	if o.Wait.For != order.WaitForQuota || o.Wait.What != scarce {
		t.Errorf("b waits for %+v", o.Wait)
	}
	if a := w.attempt("b"); a.Ending != ledger.NeverSent {
		t.Errorf("attempt %+v", a)
	}
	before := w.calls(forPackage)
	p.drive("c", order.Waiting)
	p.visit("b")
	w.must(p.waiter.Sweep(t.Context(), w.accounts["ali"])) // asks, and finds nothing new
	if n := w.calls(forPackage); n != before || w.last("b").State != order.Waiting {
		t.Errorf("%d further purchases tried, b is %s", n-before, w.last("b").State)
	}
	w.must(w.sim.AddStock(cloudsim.Stock{Cloud: "aliyun", UID: aliUID, Products: map[string]int{scarce: 2}}))
	p.waiter.Now = func() time.Time { return time.Now().Add(3 * time.Hour) }
	w.must(p.waiter.Sweep(t.Context(), w.accounts["ali"]))
	for _, id := range []string{"b", "c"} {
		p.drive(id, order.Issued)
		w.wantIssued(id)
		w.wantPaid(1, id+".example.com")
	}
}

// A refused access key rests the label; its other orders wait without a call,
// and go on when it was resumed.
func TestRefusedCredentialsPauseTheAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	w.order("b", "b.example.com")
	key := w.sim.Accounts()[0]
	key.Disabled = true
	w.must(w.sim.AddAccount(key))
	p := w.worker()
	p.drive("a", order.Waiting)
	if pause, is := w.states.State(aliUID).Paused["ali"]; !is || pause.Until.IsZero() {
		t.Fatalf("state %+v", w.states.State(aliUID))
	}
	calls := w.calls("DescribePackageState") + w.calls(forPackage)
	if o := p.drive("b", order.Waiting); o.Wait.For != order.WaitForTime {
		t.Errorf("b waits for %+v", o.Wait)
	}
	if n := w.calls("DescribePackageState") + w.calls(forPackage); n != calls {
		t.Errorf("%d calls while the account rests", n-calls)
	}
	key.Disabled = false
	w.must(w.sim.AddAccount(key))
	w.must(w.states.Resume(t.Context(), aliUID, "ali"))
	for _, id := range []string{"a", "b"} {
		p.drive(id, order.Issued)
		w.wantIssued(id)
		w.wantPaid(1, id+".example.com")
	}
}

// Past its deadline an order that was not bought is held, wherever it was; one
// that was bought goes on and is flagged.
func TestDeadline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	soon := time.Now().Add(1500 * time.Millisecond).Truncate(time.Second).Add(time.Second)
	for _, id := range []string{"new", "keyed", "bought"} {
		r := request(id, id+".example.com")
		r.Deadline = &soon
		w.publish(r)
	}
	p := w.worker()
	p.driveTo("keyed", "at the purchase", keyStored)
	p.drive("bought", order.Verify)
	time.Sleep(time.Until(soon.Add(50 * time.Millisecond)))
	for _, id := range []string{"new", "keyed"} {
		p.drive(id, order.Held)
		w.wantHeld(id, "deadline", "certmill approve "+id)
		w.wantPaid(0, id+".example.com")
	}
	p.drive("bought", order.Issued)
	if o := w.wantIssued("bought"); !o.Late {
		t.Error("it is not flagged as late")
	}
	w.must(p.by.Approve(t.Context(), "new"))
	p.drive("new", order.Issued)
	w.wantIssued("new")
	w.must(p.by.Cancel(t.Context(), "keyed"))
	p.drive("keyed", order.Failed)
	w.wantFailed("keyed", stage.ClassCancelled)
	w.wantPaid(0, "keyed.example.com")
}

// A clear no ends the order with the cloud's code and its advice.
func TestRejectedPurchaseFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	r := request("a", "*.a.example.com") // of a product that has no wildcards
	w.publish(r)
	w.worker().drive("a", order.Failed)
	o := w.wantFailed("a", stage.ClassRejected)
	if o.Failure.Code == "" || o.Failure.RequestID == "" || o.Failure.Advice == "" {
		t.Errorf("failure %+v", o.Failure)
	}
	if a := w.attempt("a"); a.Ending != ledger.Refused {
		t.Errorf("attempt %+v", a)
	}
}

// An open entry whose order ended, as a restore of orders and ledger from
// different moments leaves it, keeps nobody waiting for ever. Nor do names that are
// taken by an order which has ended without a word: the ledger is told its end.
func TestOpenEntryOfAnOrderThatEnded(t *testing.T) {
	t.Parallel()
	const name = "a.example.com"
	issued := func(_ *world, p *worker) { p.drive("a", order.Issued) }
	failed := func(w *world, _ *worker) {
		it, err := w.line.Last(w.t.Context(), "a")
		w.must(err)
		it.Order.State, it.Order.Failure = order.Failed, &order.Failure{Class: "review", Reason: "made up"}
		w.must(w.line.MoveByHand(w.t.Context(), pipeline.Item{Order: w.last("a"), Seq: it.Seq}, it.Order))
	}
	gone := func(w *world, _ *worker) {
		s, err := w.js.Stream(w.t.Context(), pipeline.OrdersStream)
		w.must(err)
		w.must(s.Purge(w.t.Context(), jetstream.WithPurgeSubject(order.AllOf("a"))))
	}
	archived := func(w *world, p *worker) {
		p.drive("a", order.Issued)
		it, err := w.line.Last(w.t.Context(), "a")
		w.must(err)
		w.must(w.line.Archive(w.t.Context(), it))
	}
	const inService, paid = "order a has a certificate for these names in service", "order a for these names was paid and ended without"
	for _, tt := range []struct {
		name, want, command string
		end                 func(w *world, p *worker)       // ends order "a"
		put                 func(w *world, names ...string) // the ledger back to before
	}{
		{"issued, its attempt open", inService, "certmill approve b", issued, (*world).reopen},
		{"failed, its attempt open", "waits for order a", "certmill retry a", failed, (*world).reopen},
		{"gone, its attempt open", "waits for order a", "certmill retry b", gone, (*world).reopen},
		{"issued, its names taken", inService, "certmill approve b", issued, (*world).retake},
		{"failed, its names taken", paid, "certmill approve b", failed, (*world).retake},
		{"gone, its names taken", paid, "certmill approve b", gone, (*world).retake},
		{"archived, its names taken", paid, "certmill approve b", archived, (*world).retake},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			w.order("a", name)
			p := w.worker()
			p.drive("a", order.Verify)
			tt.end(w, p)
			w.publish(request("b", name))
			p.drive("b", order.Submit)
			tt.put(w, name)
			p.drive("b", order.Waiting)
			p.drive("b", order.Held)
			w.wantHeld("b", tt.want, tt.command)
			w.wantPaid(1, name)
		})
	}
}
