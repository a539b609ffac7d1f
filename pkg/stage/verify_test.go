package stage_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
)

// A challenge that comes late is waited for; one that does not come leads to
// waiting, never to issuing.
func TestChallengeThatComesLateOrNever(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.ChallengeDelay = cloudsim.Exactly(300 * time.Millisecond) }})
	p := w.worker()
	w.order("late", "late.example.com")
	p.drive("late", order.Verify)
	p.visit("late")
	if o := w.last("late"); o.State != order.Verify || len(o.Challenges) != 0 {
		t.Errorf("before the challenge is there: %s", w.tell("late"))
	}
	p.drive("late", order.Issued)

	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.ChallengeDelay = cloudsim.Exactly(hour) }))
	w.order("never", "never.example.com")
	p.drive("never", order.Verify)
	it, err := w.line.Last(t.Context(), "never")
	w.must(err)
	o := it.Order
	for i := range o.Timeline { // it has been there for two minutes
		o.Timeline[i].At = o.Timeline[i].At.Add(-2 * time.Minute)
	}
	_, err = w.line.Move(t.Context(), it, o)
	w.must(err)
	if o := p.drive("never", order.Waiting); o.Wait.For != order.WaitForChallenge || o.Wait.Then != order.Verify {
		t.Errorf("it waits for %+v", o.Wait)
	}
}

// CAS shows one challenge at a time: the next is placed when the first is
// proved, and the first stays until the order ends.
func TestChallengesOneAfterTheOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Exactly(200 * time.Millisecond) }})
	p := w.worker()
	w.publish(request("a", "a.example.com", "b.example.net"))
	o := p.driveTo("a", "with both challenges", func(o order.Order) bool { return len(o.Challenges) == 2 && o.State == order.Issuing })
	for _, c := range o.Challenges {
		if !w.shows(c) {
			t.Errorf("%+v does not show", c)
		}
	}
	p.drive("a", order.Issued)
	if got := w.wantIssued("a").Certificate.Names; !slices.Contains(got, "a.example.com") || !slices.Contains(got, "b.example.net") {
		t.Errorf("certificate for %v", got)
	}
	for _, c := range o.Challenges {
		if w.shows(c) {
			t.Errorf("%+v was left behind", c)
		}
	}
}

// Files are placed, seen and taken back like records, at both clouds.
func TestFileValidation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, r := range []order.Request{{ID: "ali", Account: "ali"}, {ID: "ten", Account: "ten"}} {
		r.Names, r.Validation = []string{r.ID + ".example.com"}, order.FILE
		w.publish(r)
		p := w.worker()
		o := p.driveTo(r.ID, "past the placing", func(o order.Order) bool { return o.State == order.Issuing || o.State == order.Collect })
		if c := o.Challenges[0]; c.Type != dcv.FILE || !w.shows(c) {
			t.Errorf("%s: challenge %+v shows: %v", r.ID, c, w.shows(c))
		}
		p.drive(r.ID, order.Issued)
		if w.shows(o.Challenges[0]) {
			t.Errorf("%s: the file was left behind", r.ID)
		}
	}
}

// The CA's no fails the order, by way of the clean-up.
func TestRefusedByTheCA(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	for _, r := range []order.Request{{ID: "ali", Account: "ali"}, {ID: "ten", Account: "ten"}} {
		r.Names = []string{r.ID + ".refused.example"}
		w.publish(r)
		o := p.drive(r.ID, order.Collect)
		if len(o.Challenges) == 0 {
			t.Fatalf("%s: %s", r.ID, w.tell(r.ID))
		}
		p.drive(r.ID, order.Failed)
		if f := w.wantFailed(r.ID, stage.ClassReview); f.Failure.Advice == "" || f.Placed || w.shows(o.Challenges[0]) {
			t.Errorf("%s: %+v, placed %v", r.ID, f.Failure, f.Placed)
		}
	}
}

// A name in no zone of the account is for a person; so is one where something
// else stands.
func TestChallengeThatCannotBePlaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	key := w.sim.Accounts()[0]
	key.Zones = []string{"example.com"}
	w.must(w.sim.AddAccount(key))
	p := w.worker()
	w.order("a", "a.example.net")
	p.drive("a", order.Held)
	w.wantHeld("a", "a.example.net", "certmill retry a")
	key.Zones = []string{"example.com", "example.net"}
	w.must(w.sim.AddAccount(key))
	w.must(p.by.Retry(t.Context(), "a"))
	p.drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, "a.example.net")
}

// A challenge that is placed and does not show leads to waiting and, when it
// shows at last, on.
func TestChallengeThatDoesNotShow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.DNSLag = cloudsim.Exactly(1500 * time.Millisecond) }})
	p := w.worker()
	w.order("a", "a.example.com")
	o := p.drive("a", order.Waiting)
	if o.Wait.For != order.WaitForChallenge || !strings.Contains(o.Wait.What, "_dnsauth.a.example.com") {
		t.Errorf("it waits for %+v", o.Wait)
	}
	p.drive("a", order.Issued)
	w.wantIssued("a")
}

// Nobody asks about single orders while the list shows them as waiting: many
// waiting orders cost one call of each of the two lists a sweep.
func TestIssuingSweepIsByList(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Exactly(hour) }})
	p := w.worker()
	p.issuing.Now = time.Now // or lists that say nothing new for hours are tried
	ids := []string{"a", "b", "c", "d", "e"}
	for _, id := range ids {
		w.order(id, id+".example.com")
		p.drive(id, order.Issuing)
	}
	asked, listed := w.calls("DescribeCertificateState"), w.calls("ListUserCertificateOrder")
	const sweeps = 4
	for range sweeps {
		w.must(p.issuing.Sweep(t.Context(), w.accounts["ali"]))
	}
	if n := w.calls("DescribeCertificateState") - asked; n != 0 {
		t.Errorf("%d orders were asked about one by one", n)
	}
	if n := w.calls("ListUserCertificateOrder") - listed; n > 2*sweeps {
		t.Errorf("%d list calls for %d sweeps", n, sweeps)
	}
}

// Orders that left the list are learned about from the list of certificates:
// no order is asked about by itself.
func TestIssuedOrdersAreLearnedFromTheList(t *testing.T) {
	t.Parallel()
	ids := []string{"a", "b", "c"}
	var w *world
	var p *worker
	unissued := func(o cloudsim.OrderReport) bool { return o.IssuedAt.IsZero() }
	for delay := 700 * time.Millisecond; ; delay *= 3 { // until all were seen to wait: the machine may be busy
		w = newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Exactly(delay) }})
		p = w.worker()
		began := time.Now() // slowly, or lists that say nothing new for seconds are tried
		p.issuing.Now = func() time.Time { return began.Add(time.Since(began) / 20) }
		for _, id := range ids {
			w.order(id, id+".example.com")
			p.drive(id, order.Issuing)
		}
		w.must(p.issuing.Sweep(t.Context(), w.accounts["ali"])) // all are listed as waiting
		if all := w.sim.Report().Orders; len(slices.DeleteFunc(all, unissued)) == 0 {
			break
		}
	}
	// One that is issued while a sweep is between the two lists may be asked about.
	eventually(t, "all are issued", func() bool {
		return !slices.ContainsFunc(w.sim.Report().Orders, unissued)
	})
	asked := w.calls("DescribeCertificateState")
	for end := time.Now().Add(natstest.Patience); slices.ContainsFunc(ids, func(id string) bool { return w.last(id).State == order.Issuing }); time.Sleep(50 * time.Millisecond) {
		w.must(p.issuing.Sweep(t.Context(), w.accounts["ali"]))
		if time.Now().After(end) {
			t.Fatal("not all come to collect")
		}
	}
	if n := w.calls("DescribeCertificateState") - asked; n > 0 {
		t.Errorf("%d calls for single orders", n)
	}
	for _, id := range ids {
		if o := w.last(id); o.CertID == "" {
			t.Errorf("%s came to collect without its certificate's id", id)
		}
	}
}

// An order that is in no list is asked about at growing distance.
func TestUnlistedOrderIsAskedAtGrowingDistance(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) {
		c.IssueDelay, c.ListLag = cloudsim.Exactly(hour), cloudsim.Exactly(hour)
	}})
	p := w.worker()
	w.order("a", "a.example.com")
	p.drive("a", order.Issuing)
	now := time.Now()
	p.issuing.Now = func() time.Time { return now }
	asked := w.calls("DescribeCertificateState")
	for range 120 { // two minutes, a sweep a second
		now = now.Add(time.Second)
		w.must(p.issuing.Sweep(t.Context(), w.accounts["ali"]))
	}
	if n := w.calls("DescribeCertificateState") - asked; n < 4 || n > 6 { // at 2, 4, 8, 16, 32, 64 seconds' distance
		t.Errorf("asked %d times in two minutes", n)
	}
}

// The whole line at work, with real consumers: what the loop does with the
// handlers' verbs.
func TestSmallPipeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	for state, h := range map[order.State]pipeline.Handler{order.Submit: p.submit, order.Verify: p.verify, order.Collect: p.collect} {
		for label := range w.accounts {
			go func() { _ = w.line.Work(t.Context(), state, label, 4, h) }()
		}
	}
	go func() { _ = w.line.Intake(t.Context(), false, p.intake) }()
	ids := []string{"a", "b", "c", "t"}
	for _, id := range ids {
		label := map[bool]string{true: "ten", false: "ali"}[id == "t"]
		_, err := pipeline.Publish(t.Context(), w.js, pipeline.NewSubject, []byte(`{"id":"`+id+`","account":"`+label+`","names":["`+id+`.example.com"]}`))
		w.must(err)
	}
	for end := time.Now().Add(natstest.Patience); ; time.Sleep(50 * time.Millisecond) {
		for _, a := range w.accounts {
			w.must(p.issuing.Sweep(t.Context(), a))
		}
		counts, err := w.line.Counts(t.Context())
		w.must(err)
		if counts[order.Issued] == len(ids) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("states %v", counts)
		}
	}
	for _, id := range ids {
		w.wantIssued(id)
		w.wantPaid(1, id+".example.com")
	}
	if d := w.sim.Report().Duplicates; len(d) != 0 {
		t.Errorf("duplicates %v", d)
	}
}
