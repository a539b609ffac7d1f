package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// openLine makes the streams of one server and opens a line on them.
func openLine(t testing.TB) *Line {
	t.Helper()
	return lineOn(t, natstest.Server(t))
}

// provision makes the streams as certmill init does.
func provision(ctx context.Context, js jetstream.JetStream, replicas int) error {
	for _, c := range []jetstream.StreamConfig{OrdersConfig(replicas), IntakeConfig(replicas)} {
		if _, err := stream.Ensure(ctx, js, c); err != nil {
			return err
		}
	}
	return nil
}

func lineOn(t testing.TB, s *server.Server) *Line {
	t.Helper()
	return lineWith(t, s, slog.New(slog.DiscardHandler))
}

func lineWith(t testing.TB, s *server.Server, log *slog.Logger) *Line {
	t.Helper()
	js := natstest.Connect(t, s)
	if err := provision(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	l, err := Open(t.Context(), js, "worker-1", log)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func anOrder(id string) order.Order {
	return order.Order{V: order.SchemaVersion, Request: order.Request{ID: id, Names: []string{id + ".example.com"}},
		State: order.Submit, Account: "acme", Main: "100001", Purchase: 1}
}

func create(t testing.TB, l *Line, o order.Order) Item {
	t.Helper()
	it, err := l.Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return it
}

func to(o order.Order, s order.State) order.Order {
	o.State = s
	return o
}

// stored are the subjects under which messages of an order lie, sorted.
func stored(t testing.TB, l *Line, id string) []string {
	t.Helper()
	info, err := l.orders.Info(t.Context(), jetstream.WithSubjectFilter(order.AllOf(id)))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(info.State.Subjects))
}

// await waits for an event by asking.
func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(natstest.Patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("timed out: %s", what)
}

// receive takes one value that must come.
func receive[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(natstest.Patience):
		t.Fatalf("timed out: %s", what)
		panic("unreachable")
	}
}

// inState waits until an order lies in a state, and returns it.
func inState(t testing.TB, l *Line, id string, s order.State) Item {
	t.Helper()
	var it Item
	await(t, fmt.Sprintf("order %s in state %s", id, s), func() bool {
		var err error
		it, err = l.Last(t.Context(), id)
		return err == nil && it.State == s
	})
	return it
}

// running starts f and returns what stops it and waits for its end.
func running(t testing.TB, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := receive(t, "the loop's end", ended); err != nil {
				t.Errorf("the loop ended with %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func TestStreamsAreAsTheDesignNeedsThem(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	if err := provision(t.Context(), l.js, 1); err != nil {
		t.Fatalf("provisioning again: %v", err)
	}
	again, err := Incarnation(t.Context(), l.js)
	if err != nil || again != l.Incarnation() {
		t.Errorf("provisioning again changed the incarnation from %q to %q (%v)", l.Incarnation(), again, err)
	}
	c := l.orders.CachedInfo().Config
	if c.AllowDirect || c.AllowMsgTTL || c.MaxAge > 0 || c.MaxMsgs > 0 || c.MaxBytes > 0 {
		t.Errorf("ORDERS has a limit or direct get: %+v", c)
	}
	if c.MaxMsgsPerSubject != 1 || c.FirstSeq < uint64(time.Now().Add(-time.Hour).UnixMicro()) {
		t.Errorf("ORDERS: MaxMsgsPerSubject %d, FirstSeq %d", c.MaxMsgsPerSubject, c.FirstSeq)
	}
	in, err := l.js.Stream(t.Context(), IntakeStream)
	if err != nil {
		t.Fatal(err)
	}
	if c := in.CachedInfo().Config; !c.DenyDelete || !c.DenyPurge || c.AllowRollup || c.Discard != jetstream.DiscardNew {
		t.Errorf("INTAKE lets messages vanish: %+v", c)
	}
}

func TestProvisionByRivals(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	var wg sync.WaitGroup
	tokens := make([]string, 6)
	for i := range tokens {
		js := natstest.Connect(t, s)
		wg.Go(func() {
			if err := provision(t.Context(), js, 1); err != nil {
				t.Errorf("rival %d: %v", i, err)
				return
			}
			tokens[i], _ = Incarnation(t.Context(), js)
		})
	}
	wg.Wait()
	for _, token := range tokens {
		if token == "" || token != tokens[0] {
			t.Fatalf("rivals see different incarnations: %q", tokens)
		}
	}
}

func TestOpenRefusesForeignStreams(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	if _, err := Open(t.Context(), js, "w", slog.Default()); !errors.Is(err, stream.ErrMissing) {
		t.Errorf("without streams: %v", err)
	}
	for name := range js.StreamNames(t.Context()).Name() {
		t.Errorf("%s was made", name)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: OrdersStream, Subjects: []string{"order.*.*.*"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), js, "w", slog.Default()); err == nil || !errors.As(err, new(*stream.OtherFormat)) {
		t.Errorf("with a foreign stream: %v", err)
	}
	js = natstest.Connect(t, natstest.Server(t))
	unborn := OrdersConfig(1)
	unborn.Metadata = nil
	if _, err := stream.Ensure(t.Context(), js, unborn); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), js, "w", slog.Default()); err == nil || !strings.Contains(err.Error(), "not made by certmill") {
		t.Errorf("with a stream that has no incarnation: %v", err)
	}
	js = natstest.Connect(t, natstest.Server(t))
	if _, err := stream.Ensure(t.Context(), js, OrdersConfig(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), js, "w", slog.Default()); !errors.Is(err, stream.ErrMissing) {
		t.Errorf("without the inbox: %v", err)
	}
}

// DESIGN 12.1: an id never runs twice, however many create it at once.
func TestCreateOnce(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	first := create(t, l, anOrder("a"))
	for _, again := range []order.Order{anOrder("a"), to(anOrder("a"), order.Failed), {V: 1, Request: order.Request{ID: "a"}, State: order.Submit, Account: "other"}} {
		if _, err := l.Create(t.Context(), again); !errors.Is(err, ErrMoved) {
			t.Errorf("creating %q again in %s, lane %s: %v, want ErrMoved", again.ID(), again.State, again.Lane(), err)
		}
	}
	got, err := l.Last(t.Context(), "a")
	if err != nil || got.Seq != first.Seq {
		t.Errorf("the first order was replaced: %+v, %v", got, err)
	}
	if _, err := l.Create(t.Context(), to(anOrder("b"), order.Verify)); err == nil {
		t.Error("an order was created in state verify")
	}
	if _, err := l.Last(t.Context(), "c"); !errors.Is(err, ErrNoOrder) {
		t.Errorf("an unknown order: %v, want ErrNoOrder", err)
	}
}

// An id is a token of subjects and of purge filters: anything else would reach
// other orders.
func TestBadIDsTouchNothing(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	it := create(t, l, anOrder("a"))
	for _, id := range []string{"", "*", ">", "a.b", "a b", "A", "ä", strings.Repeat("x", 64)} {
		if _, err := l.Create(t.Context(), anOrder(id)); err == nil || errors.Is(err, ErrMoved) {
			t.Errorf("Create of id %q: %v, want a refusal", id, err)
		}
		if it, err := l.Last(t.Context(), id); err == nil {
			t.Errorf("Last of id %q found %q", id, it.ID())
		}
	}
	if got := stored(t, l, "a"); len(got) != 1 {
		t.Errorf("order a has messages %q", got)
	}
	if _, err := l.Move(t.Context(), it, to(anOrder("b"), order.Verify)); err == nil {
		t.Error("a transition changed the id")
	}
}

// Rivals read the same state and move it to different ones: one wins each time,
// the others are told, and one message is left.
func TestOneWinnerPerTransition(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	l := lineOn(t, s)
	rivals := []*Line{l}
	for range 3 {
		rivals = append(rivals, lineOn(t, s))
	}
	race(t, rivals, 40)
}

// race makes rounds transitions of one order, each contested by two visits of
// every rival.
func race(t *testing.T, rivals []*Line, rounds int) {
	t.Helper()
	l := rivals[0]
	it := create(t, l, anOrder("contested"))
	for round := range rounds {
		next := []order.State{order.Verify, order.Waiting, order.Submit}[round%3]
		if it.State == order.Verify {
			next = order.Waiting
		}
		var mu sync.Mutex
		var won []Item
		var wg sync.WaitGroup
		for i := range 2 * len(rivals) {
			wg.Go(func() {
				o := to(it.Order, next)
				o.Attempt = round*100 + i
				got, err := rivals[i%len(rivals)].Move(t.Context(), it, o)
				switch {
				case err == nil:
					mu.Lock()
					won = append(won, got)
					mu.Unlock()
				case !errors.Is(err, ErrMoved):
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("round %d has %d winners", round, len(won))
		}
		last, err := l.Last(t.Context(), "contested")
		if err != nil || last.Seq != won[0].Seq || last.Attempt != won[0].Attempt {
			t.Fatalf("round %d: stored is %+v (%v), the winner is %+v", round, last, err, won[0])
		}
		if left := stored(t, l, "contested"); len(left) != 1 {
			t.Fatalf("round %d leaves %q", round, left)
		}
		it = last
	}
}

func TestCluster(t *testing.T) {
	servers := natstest.Cluster(t)
	var rivals []*Line
	for i, s := range servers {
		js := natstest.Connect(t, s)
		if err := provision(t.Context(), js, 3); err != nil {
			t.Fatal(err)
		}
		l, err := Open(t.Context(), js, fmt.Sprintf("worker-%d", i), slog.New(slog.DiscardHandler), Replicas(3))
		if err != nil {
			t.Fatal(err)
		}
		rivals = append(rivals, l)
	}
	race(t, rivals, 12)
	if _, err := rivals[0].ticketConsumer(t.Context(), "sweep"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{OrdersStream, IntakeStream, TicketStream} {
		st, err := rivals[0].js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if n := st.CachedInfo().Config.Replicas; n != 3 {
			t.Errorf("%s has %d replicas: losing one server stops it", name, n)
		}
	}
}

// crashedMove publishes the next state as Move does and dies before it removes
// the old one.
func crashedMove(t testing.TB, l *Line, from Item, next order.Order) Item {
	t.Helper()
	it, err := l.publish(t.Context(), from.Seq, next)
	if err != nil {
		t.Fatal(err)
	}
	if got := stored(t, l, from.ID()); len(got) < 2 {
		t.Fatalf("the crash left %q", got)
	}
	return it
}

func TestSettleRemovesOnlyWhatIsBelowTheLast(t *testing.T) {
	l := openLine(t)
	old := create(t, l, anOrder("a"))
	if last, err := l.Settle(t.Context(), old); err != nil || !last {
		t.Errorf("the only state: last %v, %v", last, err)
	}
	newer := crashedMove(t, l, old, to(old.Order, order.Verify))
	if last, err := l.Settle(t.Context(), newer); err != nil || !last {
		t.Errorf("the newer state: last %v, %v", last, err)
	}
	for range 2 { // the second time it is gone already
		if last, err := l.Settle(t.Context(), old); err != nil || last {
			t.Errorf("the older state: last %v, %v", last, err)
		}
	}
	if got := stored(t, l, "a"); len(got) != 1 || got[0] != "order.verify.a.acme" {
		t.Errorf("left: %q", got)
	}
	gone := newer
	gone.Request.ID = "never-was"
	if last, err := l.Settle(t.Context(), gone); err != nil || last {
		t.Errorf("an order that is not there: last %v, %v", last, err)
	}
	// A read that is older than what we hold decides nothing.
	ahead := newer
	ahead.Seq++
	if _, err := l.Settle(t.Context(), ahead); err == nil {
		t.Error("an item that is newer than the stream's last was judged by a stale read")
	}
	if got := stored(t, l, "a"); len(got) != 1 {
		t.Errorf("left: %q", got)
	}
}

func TestFinalStatesAndVerbsPurgeWhatLiesBelow(t *testing.T) {
	l := openLine(t)
	held := create(t, l, to(anOrder("a"), order.Held))
	other := create(t, l, anOrder("other"))
	// A command that died half way leaves a held message nobody is handed.
	back := crashedMove(t, l, held, to(held.Order, order.Collect))
	if _, err := l.Move(t.Context(), back, to(back.Order, order.Failed)); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, l, "a"); len(got) != 1 || got[0] != "order.failed.a.acme" {
		t.Errorf("after a final state: %q", got)
	}
	failed := inState(t, l, "a", order.Failed)
	again := crashedMove(t, l, failed, to(failed.Order, order.Verify))
	if err := l.MoveByHand(t.Context(), again, to(again.Order, order.Held)); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, l, "a"); len(got) != 1 || got[0] != "order.held.a.acme" {
		t.Errorf("after a verb: %q", got)
	}
	if err := l.MoveByHand(t.Context(), failed, to(failed.Order, order.Submit)); !errors.Is(err, ErrMoved) {
		t.Errorf("a verb on an old read: %v", err)
	}
	if last, err := l.Settle(t.Context(), other); err != nil || !last {
		t.Errorf("another order was touched: %v %v", last, err)
	}
}

// The answer to a publish is lost: what is stored tells whether it was ours.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	it := create(t, l, anOrder("a"))
	deaf := *l
	deaf.js = &deafJetStream{JetStream: l.js}
	next, err := deaf.Move(t.Context(), it, to(it.Order, order.Verify))
	if err != nil {
		t.Fatalf("our own publish was taken for a rival's: %v", err)
	}
	if last := inState(t, l, "a", order.Verify); last.Seq != next.Seq {
		t.Errorf("moved to %d, stored is %d", next.Seq, last.Seq)
	}
	if got := stored(t, l, "a"); len(got) != 1 {
		t.Errorf("left: %q", got)
	}
}

// deafJetStream loses the answer of its first publish.
type deafJetStream struct {
	jetstream.JetStream
	once sync.Once
}

func (d *deafJetStream) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (ack *jetstream.PubAck, err error) {
	ack, err = d.JetStream.PublishMsg(ctx, m, opts...)
	d.once.Do(func() { ack, err = nil, nats.ErrTimeout })
	return ack, err
}

func TestEachAndCounts(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	for i := range 30 {
		create(t, l, anOrder(fmt.Sprintf("a%d", i)))
	}
	create(t, l, order.Order{V: 1, Request: order.Request{ID: "u"}, State: order.Submit, Account: "acme", Urgent: true})
	create(t, l, order.Order{V: 1, Request: order.Request{ID: "h"}, State: order.Held, Account: "other"})
	if _, err := l.js.Publish(t.Context(), "order.submit.broken.acme", []byte("no record")); err != nil {
		t.Fatal(err)
	}
	counts, err := l.Counts(t.Context())
	if err != nil || counts[order.Submit] != 32 || counts[order.Held] != 1 || len(counts) != 2 {
		t.Errorf("counts %v, %v", counts, err)
	}
	for _, c := range []struct {
		lane string
		want int
	}{{"acme", 30}, {"acme-urgent", 1}, {"*", 31}, {"nobody", 0}} {
		n := 0
		err := l.Each(t.Context(), order.Submit, c.lane, func(Item) error { n++; return nil })
		if err != nil || n != c.want {
			t.Errorf("lane %s: %d orders, want %d (%v)", c.lane, n, c.want, err)
		}
	}
	listed := map[string]Unread{}
	n := 0
	err = l.List(t.Context(), "*", func(Item) error { n++; return nil }, func(u Unread) error { listed[u.ID] = u; return nil })
	if u := listed["broken"]; err != nil || n != 32 || len(listed) != 1 || u.State != order.Submit || u.Lane != "acme" || u.Seq == 0 || u.Stored.IsZero() || u.Newer || u.Why == "" {
		t.Errorf("listed %d orders, and %+v: %v", n, listed, err)
	}
	all := 0
	if err := l.EachOrder(t.Context(), func(Item) error { all++; return nil }); err != nil || all != 32 {
		t.Errorf("all: %d, %v", all, err)
	}
	boom := errors.New("boom")
	if err := l.EachOrder(t.Context(), func(Item) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("f's error is lost: %v", err)
	}
	if names := consumers(t, l); len(names) != 0 {
		t.Errorf("throw-away consumers are left: %q", names)
	}
}

// Orders that are moved by the visit itself, or vanish before they are read,
// neither end the reading nor prolong it.
func TestEachUnderChange(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	const n = 1200 // more than two pages
	for i := range n {
		create(t, l, anOrder(fmt.Sprintf("a%d", i)))
	}
	seen := map[string]int{}
	err := l.Each(t.Context(), order.Submit, "acme", func(it Item) error {
		seen[it.ID()]++
		if len(seen) == 1 { // the last ones leave before they are read
			for i := n - 100; i < n; i++ {
				it, err := l.Last(t.Context(), fmt.Sprintf("a%d", i))
				if err == nil {
					_, err = l.Move(t.Context(), it, to(it.Order, order.Verify))
				}
				if err != nil {
					return err
				}
			}
		}
		_, err := l.Move(t.Context(), it, it.Order) // stays, at the stream's end
		if errors.Is(err, ErrMoved) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n - 100 {
		if seen[fmt.Sprintf("a%d", i)] == 0 {
			t.Fatalf("order a%d was never seen", i)
		}
	}
}

// A visit that takes longer than the throw-away consumer lives must not end the
// reading: the orders behind it would never be seen.
func TestEachOutlivesItsConsumer(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	const n = 1200
	for i := range n {
		create(t, l, anOrder(fmt.Sprintf("a%d", i)))
	}
	seen, lost := map[string]bool{}, 0
	err := l.Each(t.Context(), order.Submit, "acme", func(it Item) error {
		seen[it.ID()] = true
		if len(seen)%500 == 250 { // as the server does when it was idle for long
			for _, name := range consumers(t, l) {
				lost++
				if err := l.orders.DeleteConsumer(t.Context(), name); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil || len(seen) != n || lost == 0 {
		t.Errorf("saw %d of %d orders, %d consumers lost, %v", len(seen), n, lost, err)
	}
}

func consumers(t testing.TB, l *Line) []string {
	t.Helper()
	var names []string
	lister := l.orders.ConsumerNames(t.Context())
	for name := range lister.Name() {
		names = append(names, name)
	}
	if err := lister.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// TestRenew: after a restore the incarnation is another one and begins now.
func TestRenew(t *testing.T) {
	t.Parallel()
	server := natstest.Server(t)
	l := lineOn(t, server)
	if err := Renew(t.Context(), l.js); err != nil {
		t.Fatal(err)
	}
	again := lineOn(t, server)
	if again.Incarnation() == l.Incarnation() || again.Since().Before(l.Since()) || time.Since(again.Since()) > time.Minute {
		t.Errorf("incarnation %q since %v, it was %q since %v", again.Incarnation(), again.Since(), l.Incarnation(), l.Since())
	}
}

// TestArchive: the order goes, its id stays taken and its message stays known.
func TestArchive(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	o := anOrder("a")
	o.Hash, o.State, o.Predecessor, o.Generation = "h1", order.Failed, "first", 3
	o.Failure = &order.Failure{Class: "review", Reason: "long"}
	it := create(t, l, o)
	if err := l.Archive(t.Context(), create(t, l, anOrder("b"))); err == nil {
		t.Error("an order that is under way was archived")
	}
	if err := l.Archive(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, l, "a"); len(got) != 1 || !strings.HasPrefix(got[0], "order.archived.a.acme") {
		t.Errorf("left: %q", got)
	}
	last, err := l.Last(t.Context(), "a")
	if err != nil || last.State != order.Archived || last.Hash != "h1" || last.ID() != "a" {
		t.Errorf("%+v, %v", last, err)
	}
	// What a successor needs stays (DESIGN 12.1).
	if last.Predecessor != "first" || last.Generation != 3 || !slices.Equal(last.Request.Names, o.Request.Names) || last.Failure.Class != "review" {
		t.Errorf("lost with the archiving: %+v", last)
	}
	if _, err := l.Create(t.Context(), anOrder("a")); !errors.Is(err, ErrMoved) {
		t.Errorf("the id is free again: %v", err)
	}
	if err := l.Archive(t.Context(), it); !errors.Is(err, ErrMoved) {
		t.Errorf("archived twice: %v", err)
	}
}
