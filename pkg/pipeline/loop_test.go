package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
)

// work serves lane "acme" of a state with a function until the test ends.
func work(t testing.TB, l *Line, s order.State, h HandlerFunc) (stop func()) {
	t.Helper()
	return running(t, func(ctx context.Context) error { return l.Work(ctx, s, "acme", 4, h) })
}

func consumerInfo(t testing.TB, l *Line, name string) *jetstream.ConsumerInfo {
	t.Helper()
	c, err := l.orders.Consumer(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// Each verb, carried out by the real loop on the real stream.
func TestVerbsThroughTheLoop(t *testing.T) {
	l := openLine(t)
	type seen struct {
		State order.State
		Note  string
	}
	cases := map[string]struct {
		handle func(order.Order) (order.Order, error)
		want   seen
	}{
		"moved": {func(o order.Order) (order.Order, error) { o.CloudID = "1"; return to(o, order.Verify), nil }, seen{order.Verify, ""}},
		"late":  {func(o order.Order) (order.Order, error) { return o, Snooze(time.Hour) }, seen{order.Waiting, "waits for time"}},
		"waits": {func(o order.Order) (order.Order, error) {
			return o, Wait(order.Wait{For: order.WaitForQuota, What: "p"})
		}, seen{order.Waiting, "waits for quota: p"}},
		"rests":   {func(o order.Order) (order.Order, error) { return o, Retry(errors.New("busy"), time.Hour) }, seen{order.Waiting, "busy"}},
		"fails":   {func(o order.Order) (order.Order, error) { return o, Fail(order.Failure{Reason: "no such name"}) }, seen{order.Failed, "no such name"}},
		"cleans":  {func(o order.Order) (order.Order, error) { o.Placed = true; return o, Fail(order.Failure{Reason: "no"}) }, seen{order.Collect, "no"}},
		"held":    {func(o order.Order) (order.Order, error) { return o, Hold("a person", "certmill retry held") }, seen{order.Held, "a person"}},
		"astray":  {func(o order.Order) (order.Order, error) { return to(o, order.Issued), nil }, seen{order.Held, "cannot go to"}},
		"panics":  {func(o order.Order) (order.Order, error) { o.Retries = maxRetries; panic("bad luck") }, seen{order.Submit, "panic in the handler: bad luck"}},
		"retries": {func(o order.Order) (order.Order, error) { return o, errors.New("passes") }, seen{order.Submit, "passes"}},
	}
	for id := range cases {
		create(t, l, anOrder(id))
	}
	stop := work(t, l, order.Submit, func(_ context.Context, o order.Order) (order.Order, error) {
		if o.Retries > 0 {
			return o, Snooze(time.Second) // the first answer is what the test looks at
		}
		return cases[o.ID()].handle(o)
	})
	for id, c := range cases {
		await(t, id, func() bool {
			it, err := l.Last(t.Context(), id)
			if err != nil || len(it.Timeline) == 0 {
				return false
			}
			e := it.Timeline[0]
			if e.State != c.want.State || !strings.Contains(e.Note, c.want.Note) || e.Worker != "worker-1" {
				t.Fatalf("%s: the record says %+v, want %+v", id, e, c.want)
			}
			return true
		})
	}
	stop() // a transition removes the old state only after it stored the new one
	for id := range cases {
		if got := stored(t, l, id); len(got) != 1 {
			t.Errorf("%s leaves %q", id, got)
		}
	}
}

// A snooze stores nothing and is forgotten only into waiting.
func TestSnoozeFiveTimes(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	first := create(t, l, anOrder("a"))
	var visits atomic.Int32
	work(t, l, order.Submit, func(_ context.Context, o order.Order) (order.Order, error) {
		if visits.Add(1) < 5 {
			if it, err := l.Last(t.Context(), "a"); err != nil || it.Seq != first.Seq {
				t.Errorf("a snooze stored something: %+v, %v", it, err)
			}
		}
		o.CloudID = "lost"
		return o, Snooze(time.Millisecond)
	})
	it := inState(t, l, "a", order.Waiting)
	if visits.Load() != 5 || it.CloudID != "" || it.Wait.Then != order.Submit {
		t.Errorf("after %d visits: %+v", visits.Load(), it.Order)
	}
}

// A memory consumer may be lost at any time; the lane must not stand still.
func TestWorkOutlivesItsConsumer(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	work(t, l, order.Submit, func(_ context.Context, o order.Order) (order.Order, error) { return to(o, order.Verify), nil })
	create(t, l, anOrder("before"))
	inState(t, l, "before", order.Verify)
	if err := l.orders.DeleteConsumer(t.Context(), "submit-acme"); err != nil {
		t.Fatal(err)
	}
	create(t, l, anOrder("after"))
	inState(t, l, "after", order.Verify)
}

// What a crash left below the last state is not handled again, although a new
// consumer delivers it for the first time.
func TestOldStateIsRemovedNotHandled(t *testing.T) {
	l := openLine(t)
	old := create(t, l, anOrder("a"))
	crashedMove(t, l, old, to(old.Order, order.Verify))
	create(t, l, anOrder("marker"))
	handled := make(chan string, 10)
	work(t, l, order.Submit, func(_ context.Context, o order.Order) (order.Order, error) {
		handled <- o.ID()
		return to(o, order.Verify), nil
	})
	await(t, "the old state removed", func() bool { return len(stored(t, l, "a")) == 1 })
	inState(t, l, "marker", order.Verify)
	for len(handled) > 0 {
		if id := <-handled; id != "marker" {
			t.Errorf("the old state of %s was handled", id)
		}
	}
	if got := stored(t, l, "a"); got[0] != "order.verify.a.acme" {
		t.Errorf("left: %q", got)
	}
}

// The order is moved by somebody else while its handler runs: the handler's
// answer changes nothing, and nothing of the order is left in the lane.
func TestOvertakenWhileHandled(t *testing.T) {
	l := openLine(t)
	it := create(t, l, anOrder("a"))
	visited := make(chan struct{}, 10)
	stop := work(t, l, order.Submit, func(ctx context.Context, o order.Order) (order.Order, error) {
		crashedMove(t, l, it, to(o, order.Held)) // an operator's verb that died half way
		visited <- struct{}{}
		return to(o, order.Verify), nil
	})
	receive(t, "a visit", visited)
	await(t, "the old state removed", func() bool { return len(stored(t, l, "a")) == 1 })
	stop()
	if got := stored(t, l, "a"); got[0] != "order.held.a.acme" {
		t.Errorf("left: %q", got)
	}
}

// An order that kills its worker is held, also in the midst of its retries.
func TestAnOrderThatKillsItsWorkerIsHeld(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	create(t, l, anOrder("fresh"))
	tried := anOrder("tried")
	tried.Retries, tried.NotBefore = 2, time.Now().Add(-time.Minute).UTC()
	create(t, l, tried)
	begunAndKilled(t, l, 2, maxDeliveries)
	work(t, l, order.Submit, func(_ context.Context, o order.Order) (order.Order, error) {
		t.Errorf("order %s was handled once more", o.ID())
		return to(o, order.Verify), nil
	})
	for _, id := range []string{"fresh", "tried"} {
		it := inState(t, l, id, order.Held)
		if it.Hold == nil || len(it.Hold.Commands) == 0 || it.Hold.From != order.Submit || !strings.Contains(it.Hold.Reason, "10 times") {
			t.Errorf("%s: hold %+v", id, it.Hold)
		}
	}
}

// begunAndKilled hands each of n orders out so often to a worker that dies while
// it works on it.
func begunAndKilled(t testing.TB, l *Line, n, often int) {
	t.Helper()
	cons, err := l.orders.CreateOrUpdateConsumer(t.Context(), l.stageConsumer(order.Submit, "acme"))
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for left := n * often; left > 0; {
		m, err := cons.Next(jetstream.FetchMaxWait(natstest.Patience))
		if err != nil {
			t.Fatal(err)
		}
		if times[m.Subject()] == often {
			_ = m.NakWithDelay(50 * time.Millisecond)
			continue
		}
		times[m.Subject()]++
		left--
		ctx, kill := context.WithCancelCause(t.Context())
		l.one(ctx, m, HandlerFunc(func(work context.Context, o order.Order) (order.Order, error) {
			kill(ErrLost)
			<-work.Done()
			return o, work.Err()
		}))
		if ctx.Err() == nil {
			t.Fatalf("the work on %s did not begin", m.Subject())
		}
	}
}

// A record that workers gave back unread, however often, is no order that kills
// its worker: the one that can read it handles it, also when that one dies a few
// times under it for another reason.
func TestWhatWasGivenBackUnreadIsHandled(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	create(t, l, anOrder("a"))
	deliver(t, l, 3*maxDeliveries)
	begunAndKilled(t, l, 1, trusted-1)
	snoozed := false
	stop := work(t, l, order.Submit, func(_ context.Context, o order.Order) (order.Order, error) {
		if !snoozed {
			snoozed = true
			return o, Retry(errors.New("busy"), time.Millisecond)
		}
		return to(o, order.Verify), nil
	})
	inState(t, l, "a", order.Verify)
	stop()
	tickets, err := l.js.Stream(t.Context(), TicketStream)
	if err != nil {
		t.Fatal(err)
	}
	if n := tickets.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d notes are left", n)
	}
}

// More unread records than a consumer may usually have under way hold up nobody:
// neither in a lane, nor in the inbox.
//
// In a process of its own, because only so many are told of in one.
func TestUnreadRecordsHoldUpNobody(t *testing.T) {
	t.Parallel()
	const many, child = 1010, "CERTMILL_TEST_UNREAD"
	if os.Getenv(child) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-patience="+natstest.Patience.String())
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	l := openLine(t)
	newer := fmt.Sprintf(`{"v":%d,"request":{"id":"newer"},"state":"submit","account":"acme"}`, order.SchemaVersion+1)
	for i := range many {
		if _, err := l.js.PublishAsync(order.Subject(order.Submit, fmt.Sprint("newer", i), "acme"), []byte(newer)); err != nil {
			t.Fatal(err)
		}
	}
	<-l.js.PublishAsyncComplete()
	create(t, l, anOrder("good"))
	work(t, l, order.Submit, func(_ context.Context, o order.Order) (order.Order, error) { return to(o, order.Verify), nil })
	for end := time.Now().Add(3 * natstest.Patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) { // a pull each
		if it, err := l.Last(t.Context(), "good"); err == nil && it.State == order.Verify {
			break
		}
	}
	inState(t, l, "good", order.Verify)

	flood(t, l, NewSubject, "newer", many)
	publish(t, l, NewSubject, []byte("good"))
	taken := make(chan struct{}, 1)
	intake(t, l, false, func(_ context.Context, m Message) error {
		if string(m.Data) == "good" {
			taken <- struct{}{}
			return nil
		}
		return fmt.Errorf("of its id: %w", ErrUnreadable)
	})
	receive(t, "the good message", taken)
}

// deliver hands everything of the lane out n times without a result.
func deliver(t testing.TB, l *Line, n int) {
	t.Helper()
	cons, err := l.orders.CreateOrUpdateConsumer(t.Context(), l.stageConsumer(order.Submit, "acme"))
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := cons.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer msgs.Stop()
	info := consumerInfo(t, l, "submit-acme")
	for left := n * int(info.NumPending); left > 0; left-- {
		m, err := msgs.Next(jetstream.NextMaxWait(natstest.Patience))
		if err != nil {
			t.Fatal(err)
		}
		md, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if md.NumDelivered == uint64(n) {
			_ = m.NakWithDelay(100 * time.Millisecond)
		} else {
			_ = m.Nak()
		}
	}
	if err := l.js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
}

// A worker that stops lets its handlers finish and gives the rest back: nothing
// stays pending until AckWait.
func TestDrain(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	for i := range 60 {
		create(t, l, anOrder(fmt.Sprintf("a%d", i)))
	}
	begun, finish := make(chan string, 100), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- l.Work(ctx, order.Submit, "acme", 4, HandlerFunc(func(ctx context.Context, o order.Order) (order.Order, error) {
			begun <- o.ID()
			select {
			case <-finish:
				return to(o, order.Verify), nil
			case <-ctx.Done():
				return o, ctx.Err()
			}
		}))
	}()
	for range 4 {
		receive(t, "a visit", begun)
	}
	cancel()
	close(finish)
	if err := receive(t, "the worker's end", ended); err != nil {
		t.Errorf("a stopped worker returns %v", err)
	}
	counts, err := l.Counts(t.Context())
	if err != nil || counts[order.Verify] != 4 || counts[order.Submit] != 56 {
		t.Errorf("after the drain: %v, %v: what was begun must be finished and the rest left", counts, err)
	}
	// Another worker has the rest at once: the test's patience is shorter than
	// AckWait.
	work(t, l, order.Submit, func(_ context.Context, o order.Order) (order.Order, error) { return to(o, order.Verify), nil })
	await(t, "all orders done", func() bool {
		counts, err := l.Counts(t.Context())
		return err == nil && counts[order.Verify] == 60
	})
}

// A lost connection cancels the handlers at once and ends the worker.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	l, other := lineOn(t, s), lineOn(t, s)
	it := create(t, other, anOrder("a"))
	begun, cancelled := make(chan struct{}, 1), make(chan error, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- l.Work(t.Context(), order.Submit, "acme", 1, HandlerFunc(func(ctx context.Context, o order.Order) (order.Order, error) {
			begun <- struct{}{}
			<-ctx.Done()
			cancelled <- context.Cause(ctx)
			return to(o, order.Verify), nil
		}))
	}()
	receive(t, "a visit", begun)
	l.js.Conn().Close()
	if err := receive(t, "the handler cancelled", cancelled); !errors.Is(err, ErrLost) {
		t.Errorf("the handler was cancelled by %v, want ErrLost", err)
	}
	if err := receive(t, "the worker's end", ended); !errors.Is(err, ErrLost) {
		t.Errorf("the worker ended with %v, want ErrLost", err)
	}
	if last, err := other.Last(t.Context(), "a"); err != nil || last.Seq != it.Seq {
		t.Errorf("something was stored after the loss: %+v %v", last, err)
	}
	if err := l.Ticket(t.Context(), "sweep", func() time.Duration { return time.Hour }, func(context.Context) {}); err == nil {
		t.Error("a ticket loop on a closed connection ended without an error")
	}
}

// lines is a log that may be written and read at the same time.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// of counts the lines that name something.
func (l *lines) of(what string) (n int) {
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, what) {
			n++
		}
	}
	return n
}

// A record that cannot be read is told of once, however often it is met, can be
// listed, and stays as it is.
func TestRecordsThatCannotBeReadStay(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	newer := fmt.Sprintf(`{"v":%d,"request":{"id":"newer"},"state":"submit","account":"acme"}`, order.SchemaVersion+1)
	for id, body := range map[string]string{"newer": newer, "broken": "{", "mine": `{"v":1,"request":{"id":"yours"},"state":"submit","account":"acme"}`} {
		if _, err := l.js.Publish(t.Context(), order.Subject(order.Submit, id, "acme"), []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	create(t, l, anOrder("good"))
	var told lines
	l.log, l.ackWait = slog.New(slog.NewTextHandler(&told, nil)), 50*time.Millisecond // handed out again soon
	work(t, l, order.Submit, func(_ context.Context, o order.Order) (order.Order, error) {
		if o.ID() != "good" {
			t.Errorf("order %q was handled", o.ID())
		}
		return to(o, order.Verify), nil
	})
	inState(t, l, "good", order.Verify)
	await(t, "several deliveries", func() bool {
		return consumerInfo(t, l, "submit-acme").Delivered.Consumer > 10
	})
	for range 2 { // sweeps meet them, too
		if err := l.Each(t.Context(), order.Submit, "acme", func(it Item) error { t.Errorf("a sweep was given %q", it.ID()); return nil }); err != nil {
			t.Error(err)
		}
	}
	unread, err := l.Unreadable(t.Context(), order.Submit)
	if err != nil || len(unread) != 3 {
		t.Errorf("listed: %+v, %v", unread, err)
	}
	for _, u := range unread {
		if u.Newer != (u.ID == "newer") || u.State != order.Submit || u.Lane != "acme" || u.Seq == 0 || u.Why == "" {
			t.Errorf("listed as %+v", u)
		}
	}
	for _, id := range []string{"newer", "broken", "mine"} {
		if n := told.of("order.submit." + id + ".acme"); n != 1 {
			t.Errorf("%s: logged %d times\n%s", id, n, told.String())
		}
		if it, err := l.Last(t.Context(), id); !errors.Is(err, ErrUnreadable) || errors.Is(err, ErrNoOrder) || it.Seq == 0 || errors.Is(err, order.ErrNewer) != (id == "newer") {
			t.Errorf("%s: %+v, %v", id, it, err)
		}
	}
	for _, id := range []string{"newer", "broken", "mine"} {
		if got := stored(t, l, id); len(got) != 1 {
			t.Errorf("%s: %q", id, got)
		}
	}
}

// Urgent lanes have consumers that go when nobody pulls from them.
func TestUrgentLanesGoWhenIdle(t *testing.T) {
	if c := new(Line).stageConsumer(order.Submit, "acme-urgent"); c.InactiveThreshold == 0 {
		t.Error("the consumer of an urgent lane stays for ever")
	}
	if c := new(Line).stageConsumer(order.Submit, "acme"); c.InactiveThreshold != 0 || c.MaxDeliver != -1 {
		t.Errorf("the consumer of a usual lane: %+v", c)
	}
	l := openLine(t)
	o := anOrder("a")
	o.Urgent = true
	create(t, l, o)
	running(t, func(ctx context.Context) error {
		return l.Work(ctx, order.Submit, "acme-urgent", 1, HandlerFunc(func(_ context.Context, o order.Order) (order.Order, error) { return to(o, order.Verify), nil }))
	})
	inState(t, l, "a", order.Verify)
	await(t, "the old state removed", func() bool { return len(stored(t, l, "a")) == 1 })
	if got := stored(t, l, "a"); got[0] != "order.verify.a.acme-urgent" {
		t.Errorf("moved to %q", got)
	}
}

func TestVisit(t *testing.T) {
	l := openLine(t)
	waiting := func(id string) Item {
		it := create(t, l, anOrder(id))
		o := to(it.Order, order.Waiting)
		o.Wait = order.Wait{For: order.WaitForQuota, What: "p", Then: order.Submit}
		it, err := l.Move(t.Context(), it, o)
		if err != nil {
			t.Fatal(err)
		}
		return it
	}
	visit := func(it Item, h HandlerFunc) order.Order {
		t.Helper()
		if err := l.Visit(t.Context(), it, h); err != nil {
			t.Fatal(err)
		}
		last, err := l.Last(t.Context(), it.ID())
		if err != nil {
			t.Fatal(err)
		}
		return last.Order
	}
	it := waiting("snoozes")
	if o := visit(it, func(_ context.Context, o order.Order) (order.Order, error) { return o, Snooze(time.Hour) }); o.Wait.For != order.WaitForQuota || len(o.Timeline) > 0 {
		t.Errorf("a snooze of a sweep stored %+v", o)
	}
	it = waiting("goes-on")
	if o := visit(it, func(_ context.Context, o order.Order) (order.Order, error) { return to(o, o.Wait.Then), nil }); o.State != order.Submit || o.Wait.For != "" {
		t.Errorf("went on to %+v", o)
	}
	it = waiting("panics")
	if o := visit(it, func(context.Context, order.Order) (order.Order, error) { panic("bad luck") }); o.State != order.Waiting || o.Retries != 1 {
		t.Errorf("after a panic: %+v", o)
	}
	it = waiting("later")
	it.NotBefore = time.Now().Add(time.Hour)
	visit(it, func(_ context.Context, o order.Order) (order.Order, error) {
		t.Error("visited before its time")
		return o, nil
	})
	it = waiting("old")
	crashedMove(t, l, it, to(it.Order, order.Submit))
	it.Stored = it.Stored.Add(-2 * staleAfter)
	visit(it, func(_ context.Context, o order.Order) (order.Order, error) {
		t.Error("an old state was handled")
		return o, nil
	})
	if got := stored(t, l, "old"); len(got) != 1 {
		t.Errorf("left: %q", got)
	}
}
