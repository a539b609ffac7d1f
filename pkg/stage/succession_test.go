package stage_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
)

// buyAgain is the verb, of which most tests only want to know whether it was
// refused.
func (p *worker) buyAgain(id string) error {
	_, _, err := p.by.BuyAgain(p.ctx, id)
	return err
}

// heldPaid leaves an order held after it was bought.
func heldPaid(w *world, id string, names ...string) {
	w.t.Helper()
	w.order(id, names...)
	w.worker().drive(id, order.Verify)
	it, err := w.line.Last(w.t.Context(), id)
	w.must(err)
	held := it.Order
	held.State, held.Hold = order.Held, &order.Hold{Reason: "for the test", From: order.Verify, Commands: []string{"certmill retry " + id}}
	_, err = w.line.Move(w.t.Context(), it, held)
	w.must(err)
}

// orders counts the orders that were made, refused messages left out.
func (w *world) orders() int {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), pipeline.OrdersStream)
	w.must(err)
	info, err := s.Info(w.t.Context(), jetstream.WithSubjectFilter(">"))
	w.must(err)
	n := 0
	for subject := range info.State.Subjects {
		if !strings.Contains(subject, "."+order.BadPrefix) {
			n++
		}
	}
	return n
}

// TestBuyAgain: another purchase is a successor (DESIGN 12.1); what was bought
// stays as it ended.
// DESIGN 12.1: another purchase is a successor, by whatever way it is asked for.
func TestBuyAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.refused.example")
	p := w.worker()
	first := p.drive("a", order.Failed)
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.RefuseNames = []string{"other.example"} }))
	next, made, err := p.by.BuyAgain(t.Context(), "a")
	w.must(err)
	if o := next.Order; !made || o.ID() != "a-2" || o.Predecessor != "a" || o.Generation != 2 || o.Request.Again != "a" || o.Purchase != 1 ||
		o.Attempt != 0 || o.CloudID != "" || o.Hash != first.Hash || o.Key != nil || o.Account != first.Account {
		t.Fatalf("made %v, record %+v", made, o)
	}
	p.drive("a-2", order.Issued)
	if o := w.wantIssued("a-2"); o.CloudID == first.CloudID {
		t.Error("it was answered with the first purchase")
	}
	w.wantFailed("a", stage.ClassReview)
	if again, made, err := p.by.BuyAgain(t.Context(), "a"); made || err != nil || again.ID() != "a-2" || again.State != order.Issued {
		t.Errorf("repeated, it makes another one: %v %v %v", again.ID(), made, err)
	}
	w.wantPaid(2, "a.refused.example")
	if e := w.entry(aliUID, "a.refused.example"); len(e.Claims) != 2 {
		t.Errorf("claims %+v", e.Claims)
	}
	next, made, err = p.by.BuyAgain(t.Context(), "a-2") // an issued one
	if err != nil || !made || next.ID() != "a-3" || next.Predecessor != "a-2" || next.Generation != 3 {
		t.Errorf("%+v %v %v", next.Order, made, err)
	}
}

// TestBuyAgainEndsAHeldOrder: one that was paid and is held ends when its
// successor is there, also where the verb died in between (DESIGN 12.1, and the
// table of crashes).
// DESIGN 12.1: another purchase is a successor of the very order that it is made for.
func TestBuyAgainEndsAHeldOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	heldPaid(w, "a", "a.example.com")
	p, died := w.dying("buy-again: successor made")
	p.survive(func() { _ = p.buyAgain("a") })
	if o := w.last("a"); !died() || o.State != order.Held || w.last("a-2").State != order.Submit {
		t.Fatalf("died %v, it is %s", died(), w.tell("a"))
	}
	p = w.worker()
	next, made, err := p.by.BuyAgain(t.Context(), "a")
	if err != nil || made || next.ID() != "a-2" {
		t.Errorf("%v %v %v", next.ID(), made, err)
	}
	if o := w.last("a"); o.State != order.Collect || !o.Ended() {
		t.Errorf("it is %s", w.tell("a"))
	}
	p.drive("a", order.Failed)
	if f := w.wantFailed("a", stage.ClassSucceeded).Failure; !strings.Contains(f.Reason, "a-2") {
		t.Errorf("%+v", f)
	}
	p.drive("a-2", order.Issued)
	w.wantIssued("a-2")
	w.wantPaid(2, "a.example.com")
	w.must(p.buyAgain("a"))
	if n := w.orders(); n != 2 {
		t.Errorf("%d orders", n)
	}
}

// TestWhatWasNotBoughtIsNotBoughtAgain: the verb for that is another one.
func TestWhatWasNotBoughtIsNotBoughtAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: forbidding})
	p := w.flying(true)
	w.publish(request("held", "www.forbidden.com"))
	p.drive("held", order.Held)
	w.wantNotNow("held", p.buyAgain("held"), "certmill approve held")
	w.publish(request("failed", "*.example.com")) // the product binds no wildcard
	p.drive("failed", order.Failed)
	w.wantNotNow("failed", p.buyAgain("failed"), "certmill order <file>")
	w.must(p.by.Retry(t.Context(), "failed")) // the cloud may know better by now
	p.drive("failed", order.Failed)
	heldOpen(w, "open", "open.example.com")
	w.wantNotNow("open", p.buyAgain("open"), "certmill adopt open <cloud id>, or certmill not-bought open")
	w.order("living", "living.example.com")
	w.wantNotNow("living", p.buyAgain("living"), "only orders that ended, and held ones")
	if n := w.orders(); n != 4 {
		t.Errorf("%d orders", n)
	}
}

// TestAgain: DESIGN 12.1: again: <id> makes one successor, whatever is redelivered,
// repeated, or said by several at once.
func TestAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.accept(`{"id":"a","account":"ali","names":["a.example.com"]}`)
	p := w.worker()
	p.drive("a", order.Issued)
	text := `{"again":"a","account":"ali","names":["A.example.com"],"labels":{"why":"lost key"}}`
	m := w.message([]byte(text))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			again := m
			if i%2 == 0 {
				again = w.message([]byte(text))
			}
			if err := p.intake.Accept(t.Context(), again); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	o := w.last("a-2")
	if o.State != order.Submit || o.Predecessor != "a" || o.Generation != 2 || o.Request.Again != "a" || o.Request.Labels["why"] == "" || o.Hash != w.last("a").Hash {
		t.Errorf("record %+v", o)
	}
	p.drive("a-2", order.Issued)
	w.accept(text)
	if n := w.orders(); n != 2 {
		t.Errorf("%d orders", n)
	}
	w.accept(`{"id":"a","again":"a-2","account":"ali","names":["a.example.com"]}`)
	if o := w.last("a-3"); o.Predecessor != "a-2" || o.Generation != 3 {
		t.Errorf("record %+v", o)
	}
	w.wantPaid(2, "a.example.com")
}

// TestAgainIsRefused: each with a sentence, on an id of its own, and nothing is
// made.
// DESIGN 12.1: again: true is resolved before anything is published: a message that
// says it is refused.
func TestAgainIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.accept(`{"id":"a","account":"ali","names":["a.example.com","b.example.com"]}`)
	refused := func(message, says string) {
		t.Helper()
		w.accept(message)
		if o := w.refusal(); !strings.Contains(o.Failure.Reason, says) || string(o.Original) != message {
			t.Errorf("%s: %+v", message, o.Failure)
		}
	}
	refused(`{"again":"a","account":"ali","names":["a.example.com","b.example.com"]}`, "has not ended (state submit)")
	heldPaid(w, "held", "held.example.com")
	refused(`{"again":"held","account":"ali","names":["held.example.com"]}`, "certmill show held says what helps")
	p.drive("a", order.Issued)
	refused(`{"again":"a","account":"ali","names":["a.example.com"]}`, "is for other names (a.example.com b.example.com)")
	refused(`{"again":"b","account":"ali","names":["b.example.com"]}`, `there is no order "b"`)
	refused(`{"again":"a","id":"c","account":"ali","names":["b.example.com","a.example.com"]}`, "leave id out")
	refused(`{"again":true,"account":"ali","names":["b.example.com","a.example.com"]}`, "only files and the command")
	w.accept(`{"again":"a","account":"ali","names":["b.example.com","a.example.com"]}`)
	refused(`{"again":"a","account":"ali","key":"rsa-2048","names":["b.example.com","a.example.com"]}`, "write again: a-2")
	if n := w.orders(); n != 3 {
		t.Errorf("%d orders", n)
	}
	// A living predecessor is no reason to refuse what was heard before.
	w.must(p.buyAgain("held"))
	w.accept(`{"again":"held","account":"ali","names":["held.example.com"]}`)
	if n := w.orders(); n != 4 {
		t.Errorf("%d orders", n)
	}
}

// TestACancelledOrderThatCleansUp: one of the sequences of DESIGN 12: handed in
// again it is known, and ordered again it has a successor, while its record is
// still in the DNS.
func TestACancelledOrderThatCleansUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Exactly(hour) }})
	w.order("a", "a.example.com")
	p := w.worker()
	p.drive("a", order.Issuing)
	w.must(p.by.Cancel(t.Context(), "a"))
	if o := w.last("a"); o.State != order.Collect {
		t.Fatalf("it is %s", w.tell("a"))
	}
	w.publish(request("a", "a.example.com"))
	if n := w.orders(); n != 1 {
		t.Errorf("handed in again it makes %d orders", n)
	}
	r := request("", "a.example.com")
	r.Again = "a"
	w.publish(r)
	if o := w.last("a-2"); o.Predecessor != "a" {
		t.Errorf("record %+v", o)
	}
	p.drive("a", order.Failed)
	w.wantFailed("a", stage.ClassCancelled)
}

// TestAgainAfterTheArchive: what is left of an archived order is enough to follow
// it, and not to buy by hand what nobody knows any more.
func TestAgainAfterTheArchive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	archive := func(id string) {
		t.Helper()
		it, err := w.line.Last(t.Context(), id)
		w.must(err)
		w.must(w.line.Archive(t.Context(), it))
	}
	w.publish(request("a", "a.example.com"))
	p.drive("a", order.Issued)
	archive("a")
	w.wantNotNow("a", p.buyAgain("a"), "hand that in with again: a")
	w.publish(request("a", "a.example.com")) // known
	r := request("", "b.example.com")
	r.Again = "a"
	w.publish(r)
	if f := w.refusal().Failure; !strings.Contains(f.Reason, "other names (a.example.com)") {
		t.Errorf("%+v", f)
	}
	r.Names = []string{"a.example.com"}
	w.publish(r)
	p.drive("a-2", order.Issued)
	archive("a-2")
	w.publish(r) // known, though both are archived
	r.Again = "a-2"
	w.publish(r)
	if o := w.last("a-3"); o.Predecessor != "a-2" || o.Generation != 3 {
		t.Errorf("record %+v", o)
	}
	if n := w.orders(); n != 3 {
		t.Errorf("%d orders", n)
	}
}

// TestSuccessorsPassOverWhatIsNotTheirs: publishers may have used an id of the
// line, also one at the limit of 63.
func TestSuccessorsPassOverWhatIsNotTheirs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	full := strings.Repeat("a", 63)
	for id, name := range map[string]string{"a": "a.example.com", "a-2": "other.example.com", "a-3": "third.example.com", full: "full.example.com"} {
		w.publish(request(id, name))
		p.drive(id, order.Issued)
	}
	for _, c := range []struct{ of, want string }{{"a", "a-4"}, {"a-4", "a-5"}, {"a-2", "a-2-2"},
		{full, order.Base(full, 1) + "-2"}, {order.Base(full, 1) + "-2", order.Base(full, 1) + "-3"}} {
		next, made, err := p.by.BuyAgain(t.Context(), c.of)
		if err != nil || !made || next.ID() != c.want || next.Predecessor != c.of {
			t.Fatalf("after %s came %s (made %v, %v), want %s", c.of, next.ID(), made, err, c.want)
		}
		p.drive(c.want, order.Issued)
	}
	line := stage.Succession{Line: w.line}
	for first, want := range map[string]string{"a": "a-5", "a-4": "a-5", "a-2": "a-2-2", "a-3": "a-3", full: order.Base(full, 1) + "-3"} {
		if it, err := line.Last(t.Context(), first); err != nil || it.ID() != want {
			t.Errorf("the last of the line of %s is %s, want %s (%v)", first, it.ID(), want, err)
		}
	}
	if _, err := line.Last(t.Context(), "nobody"); !errors.Is(err, pipeline.ErrNoOrder) {
		t.Error(err)
	}
}

// TestOneSuccessor: many make successors of the orders of one line, and orders of
// their own on its ids, all at once: an order has one successor (DESIGN 12.1).
// DESIGN 12.1: another purchase is a successor, made by a conditional create.
func TestOneSuccessor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	line := stage.Succession{Line: w.line}
	lay := func(id string) {
		o := order.Order{V: 1, Request: request(id, "a.example.com"), State: order.Failed, Account: "ali", Main: aliUID, Failure: &order.Failure{Class: "x"}}
		if _, err := w.line.Create(t.Context(), o); err != nil && !errors.Is(err, pipeline.ErrMoved) {
			t.Error(err)
		}
	}
	lay("a")
	var all sync.WaitGroup
	for hand := range 8 {
		all.Go(func() {
			for n := range 6 {
				of, err := line.Last(t.Context(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				if hand%4 == 3 {
					lay(order.Numbered("a", n+2))
					continue
				}
				_, _, err = line.Make(t.Context(), of.Order, func() order.Order {
					return order.Order{V: 1, Request: of.Request, State: order.Failed, Account: "ali", Main: aliUID, Failure: &order.Failure{Class: "x"}}
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	after := map[string][]string{}
	w.must(w.line.Each(t.Context(), order.Failed, "*", func(it pipeline.Item) error {
		if it.Predecessor != "" {
			after[it.Predecessor] = append(after[it.Predecessor], it.ID())
		}
		return nil
	}))
	if len(after) < 4 {
		t.Errorf("only %d successors: %v", len(after), after)
	}
	for of, next := range after {
		if len(next) != 1 {
			t.Errorf("order %s has the successors %v", of, next)
		}
	}
}

// A line goes on with its last order: one that was bought again is not retried, or
// two of them would be on their way for one set of names (DESIGN 12.1). What helps
// is said, and one that cleans up does so all the same.
func TestRetryOfAnOrderThatWasBoughtAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ctx := t.Context()
	w.order("a", "a.refused.example")
	p := w.worker()
	p.drive("a", order.Failed)
	w.must(p.buyAgain("a"))
	w.wantNotNow("a", p.by.Retry(ctx, "a"), "bought again as a-2 (state submit): certmill show a-2")
	w.wantNotNow("a", p.by.Adopt(ctx, "a", w.stranger("a.refused.example")), "bought again as a-2") // else it is retried by that
	p.drive("a-2", order.Failed)
	w.wantNotNow("a", p.by.Retry(ctx, "a"), "bought again as a-2 (state failed): certmill retry a-2")
	w.must(p.by.Retry(ctx, "a-2"))
	w.wantFailed("a", stage.ClassReview)

	heldPaid(w, "b", "b.example.com")
	dying, _ := w.dying("buy-again: successor made")
	dying.survive(func() { _ = dying.buyAgain("b") })
	w.wantNotNow("b", p.by.Retry(ctx, "b"), "bought again as b-2 (state submit): certmill buy-again b ends this one")
	w.must(p.buyAgain("b"))
}
