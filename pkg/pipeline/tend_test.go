package pipeline

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
)

// tendQuickly lets Tend look more often.
func tendQuickly(t *testing.T) {
	t.Helper()
	was, pause := tendEvery, anewPause
	tendEvery, anewPause = 100*time.Millisecond, 500*time.Millisecond
	t.Cleanup(func() { tendEvery, anewPause = was, pause })
}

// TestEditedConsumersAreMadeAnew: whatever somebody with the stock command does to
// a stage's consumer, its orders move within seconds, also those that it had
// passed over; and it is told.
func TestEditedConsumersAreMadeAnew(t *testing.T) {
	tendQuickly(t)
	edit := func(f func(*jetstream.ConsumerConfig)) func(context.Context, *Line) error {
		return func(ctx context.Context, l *Line) error {
			c, err := l.orders.Consumer(ctx, "submit-acme")
			if err != nil {
				return err
			}
			cfg := c.CachedInfo().Config
			f(&cfg)
			_, err = l.orders.UpdateConsumer(ctx, cfg)
			return err
		}
	}
	instead := func(cfg jetstream.ConsumerConfig) func(context.Context, *Line) error {
		return func(ctx context.Context, l *Line) error {
			if err := l.orders.DeleteConsumer(ctx, "submit-acme"); err != nil {
				return err
			}
			cfg.Durable = "submit-acme"
			_, err := l.orders.CreateOrUpdateConsumer(ctx, cfg)
			return err
		}
	}
	for name, c := range map[string]struct {
		does func(context.Context, *Line) error
		says string
	}{
		"another filter": {edit(func(c *jetstream.ConsumerConfig) { c.FilterSubject = "order.submit.*.nobody" }), "filter is order.submit.*.nobody"},
		"no deliveries":  {edit(func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 1 }), "maximum of deliveries is 1"},
		"a short wait":   {edit(func(c *jetstream.ConsumerConfig) { c.AckWait = time.Hour }), "ack wait is 1h"},
		"one at a time":  {edit(func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 1 }), "maximum of unacknowledged is 1"},
		"headers only":   {edit(func(c *jetstream.ConsumerConfig) { c.HeadersOnly = true }), "headers only is on"},
		"paused": {func(ctx context.Context, l *Line) error {
			_, err := l.orders.PauseConsumer(ctx, "submit-acme", time.Now().Add(time.Hour))
			return err
		}, "pause is until"},
		"removed":            {func(ctx context.Context, l *Line) error { return l.orders.DeleteConsumer(ctx, "submit-acme") }, "consumer lost"},
		"another, on a file": {instead(jetstream.ConsumerConfig{FilterSubject: "order.submit.*.acme", AckPolicy: jetstream.AckExplicitPolicy}), ""},
		"another, new only": {instead(jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy, MemoryStorage: true,
			AckPolicy: jetstream.AckExplicitPolicy}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log lines
			l := lineWith(t, natstest.Server(t), slog.New(slog.NewTextHandler(&log, nil)))
			release := make(chan struct{})
			work(t, l, order.Submit, func(ctx context.Context, o order.Order) (order.Order, error) {
				select {
				case <-release:
				case <-ctx.Done():
				}
				return to(o, order.Verify), nil
			})
			for _, id := range []string{"a", "b", "c", "d", "e"} { // more than there are hands
				create(t, l, anOrder(id))
			}
			await(t, "four are being handled", func() bool { return pending(t, l) >= 4 })
			if err := c.does(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			create(t, l, anOrder("f"))
			running(t, l.Tend)
			close(release)
			for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
				inState(t, l, id, order.Verify)
			}
			await(t, "it says "+c.says, func() bool { return strings.Contains(log.String(), c.says) })
			await(t, "it is as it must be", func() bool {
				is := config(t, l)
				return is.FilterSubject == "order.submit.*.acme" && is.MaxDeliver == -1 && is.PauseUntil == nil && is.MemoryStorage &&
					!is.HeadersOnly && is.DeliverPolicy == jetstream.DeliverAllPolicy
			})
		})
	}
}

// config is how the stage's consumer is now, pending how much it has handed out;
// zero while there is none.
func config(t *testing.T, l *Line) (is jetstream.ConsumerConfig) {
	t.Helper()
	c, err := l.orders.Consumer(t.Context(), "submit-acme")
	if err == nil {
		is = c.CachedInfo().Config
	}
	return is
}

func pending(t *testing.T, l *Line) int {
	t.Helper()
	c, err := l.orders.Consumer(t.Context(), "submit-acme")
	if err != nil {
		return 0
	}
	return c.CachedInfo().NumAckPending
}

// TestOtherBuildsConsumersStay: two builds, or two configs, that want a consumer
// otherwise do not take it from each other.
// DESIGN 12.9: builds of one format work side by side.
func TestOtherBuildsConsumersStay(t *testing.T) {
	tendQuickly(t)
	s := natstest.Server(t)
	var log lines
	l, other := lineWith(t, s, slog.New(slog.NewTextHandler(&log, nil))), lineOn(t, s)
	other.ackWait = time.Hour
	move := func(_ context.Context, o order.Order) (order.Order, error) { return to(o, order.Verify), nil }
	stop := work(t, l, order.Submit, move)
	create(t, l, anOrder("a"))
	inState(t, l, "a", order.Verify)
	work(t, other, order.Submit, move)
	await(t, "it is as the other wants it", func() bool { return consumerInfo(t, l, "submit-acme").Config.AckWait == time.Hour })
	made := consumerInfo(t, l, "submit-acme").Created
	tending := running(t, l.Tend)
	time.Sleep(20 * tendEvery)
	if info := consumerInfo(t, l, "submit-acme"); info.Created != made || info.Config.AckWait != time.Hour {
		t.Errorf("it was made anew: %+v", info.Config)
	}
	tending()
	stop()
	if said := log.String(); strings.Count(said, "as another certmill wants it") != 1 {
		t.Errorf("it does not say so once:\n%s", said)
	}
}

// TestInboxAndTicketsAreTended: the consumers of the inbox are as safe, and
// tickets that were purged come back.
func TestInboxAndTicketsAreTended(t *testing.T) {
	tendQuickly(t)
	l := openLine(t)
	var taken, ticks atomic.Int32
	intake(t, l, false, func(context.Context, Message) error { taken.Add(1); return nil })
	running(t, func(ctx context.Context) error {
		return l.Ticket(ctx, "tick", func() time.Duration { return 50 * time.Millisecond }, func(context.Context) { ticks.Add(1) })
	})
	running(t, l.Tend)
	publish(t, l, NewSubject, []byte("1"))
	await(t, "it is taken", func() bool { return taken.Load() == 1 })
	in, err := l.js.Stream(t.Context(), IntakeStream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.PauseConsumer(t.Context(), "intake", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	publish(t, l, NewSubject, []byte("2"))
	await(t, "it is taken although somebody paused the inbox", func() bool { return taken.Load() == 2 })

	await(t, "the ticket comes", func() bool { return ticks.Load() > 0 })
	tickets, err := l.js.Stream(t.Context(), TicketStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := tickets.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := ticks.Load()
	await(t, "the ticket comes although somebody purged it", func() bool { return ticks.Load() > n+1 })
	if _, err := tickets.PauseConsumer(t.Context(), "tick", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * tendEvery)
	n = ticks.Load()
	await(t, "the ticket comes although somebody paused it", func() bool { return ticks.Load() > n+1 })
	edited := tickets.CachedInfo().Config
	edited.MaxAge, edited.Duplicates = 100*time.Millisecond, 100*time.Millisecond
	if _, err := l.js.UpdateStream(t.Context(), edited); err != nil {
		t.Fatal(err)
	}
	await(t, "the stream is as it must be", func() bool {
		s, err := l.js.Stream(t.Context(), TicketStream)
		return err == nil && s.CachedInfo().Config.MaxAge == 0
	})
	n = ticks.Load()
	await(t, "the ticket comes although somebody edited its stream", func() bool { return ticks.Load() > n+1 })
}

// TestRemovedMessagesArePutBack: an order whose only message somebody deletes while
// it is worked on is held for a person; what the handler has learned stays.
func TestRemovedMessagesArePutBack(t *testing.T) {
	t.Parallel()
	var log lines
	l := lineWith(t, natstest.Server(t), slog.New(slog.NewTextHandler(&log, nil)))
	begun, removed := make(chan string, 10), make(chan struct{})
	stop := work(t, l, order.Submit, func(_ context.Context, o order.Order) (order.Order, error) {
		if o.ID() == "handled" {
			begun <- o.ID()
			<-removed
			o.CloudID = "bought meanwhile"
		}
		return to(o, order.Verify), nil
	})
	it := create(t, l, anOrder("handled"))
	receive(t, "it is being handled", begun)
	if err := l.orders.DeleteMsg(t.Context(), it.Seq); err != nil {
		t.Fatal(err)
	}
	close(removed)
	got := inState(t, l, "handled", order.Held)
	stop() // which says so after it is stored
	if got.CloudID != "bought meanwhile" || got.Hold.From != order.Verify || len(got.Hold.Commands) == 0 || log.of("put back") != 1 {
		t.Errorf("%+v %+v\n%s", got.Order, got.Hold, log.String())
	}

	// A sweep that had read it finds out, too, and an end stays one.
	for id, s := range map[string]order.State{"swept": order.Issuing, "ended": order.Collect} {
		it := create(t, l, anOrder(id))
		next := it.Order
		next.State = s
		moved, err := l.publish(t.Context(), it.Seq, next)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.orders.Purge(t.Context(), jetstream.WithPurgeSubject(order.AllOf(id))); err != nil {
			t.Fatal(err)
		}
		moved.Stored = time.Now().Add(-time.Hour)
		visit := func(_ context.Context, o order.Order) (order.Order, error) { return to(o, order.Issued), nil }
		if id == "ended" {
			moved.Stored = time.Now()
		}
		if err := l.Visit(t.Context(), moved, HandlerFunc(visit)); err != nil {
			t.Fatal(err)
		}
		want := map[string]order.State{"swept": order.Held, "ended": order.Issued}[id]
		inState(t, l, id, want)
	}
}

// TestOrdersOfAnEarlierLifeAreNotPutBack: streams that were made anew have none of
// the orders of those before.
func TestOrdersOfAnEarlierLifeAreNotPutBack(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	l := lineOn(t, s)
	it := create(t, l, anOrder("a"))
	if err := l.js.DeleteStream(t.Context(), OrdersStream); err != nil {
		t.Fatal(err)
	}
	anew := lineOn(t, s)
	if _, err := l.Settle(t.Context(), it); err == nil {
		t.Error("it was put back")
	}
	if got := stored(t, anew, "a"); len(got) > 0 {
		t.Errorf("there is %v", got)
	}
}

// TestNobodysMessagesOfTheInboxAreHandedOut: a message that the inbox's consumer has
// behind it, and that is there, is handed out once more. A disk that was full
// leaves such: acknowledged, and not removed.
func TestNobodysMessagesOfTheInboxAreHandedOut(t *testing.T) {
	tendQuickly(t)
	var log lines
	l := lineWith(t, natstest.Server(t), slog.New(slog.NewTextHandler(&log, nil)))
	in, err := l.js.Stream(t.Context(), IntakeStream)
	if err != nil {
		t.Fatal(err)
	}
	once, err := in.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "intake", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: 100 * time.Millisecond, MaxDeliver: 1, FilterSubjects: []string{NewSubject, NewSubject + ".*"}})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, l, NewSubject, []byte("1"))
	if _, err := once.Next(); err != nil {
		t.Fatal(err)
	}
	await(t, "it is given up", func() bool {
		info, err := once.Info(t.Context())
		return err == nil && info.NumAckPending == 0 && info.NumPending == 0
	})
	var taken atomic.Int32
	intake(t, l, false, func(context.Context, Message) error { taken.Add(1); return nil })
	intake(t, l, true, func(context.Context, Message) error { return nil })
	running(t, l.Tend)
	await(t, "it is taken", func() bool { return taken.Load() > 0 })
	if n := log.of("nobody is handed"); n == 0 {
		t.Errorf("it is not told:\n%s", log.String())
	}
}

// TestNoMessage tells a message that is gone from one that cannot be deleted: the
// client has one error for both.
func TestNoMessage(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	it := create(t, l, anOrder("a"))
	for range 2 { // the second time it is gone
		if err := l.orders.DeleteMsg(t.Context(), it.Seq); err != nil && !NoMessage(err) {
			t.Errorf("it is gone: %v", err)
		}
	}
	if err := l.orders.DeleteMsg(t.Context(), it.Seq+1000); !NoMessage(err) {
		t.Errorf("it was never there: %v", err)
	}
	cfg := OrdersConfig(1)
	cfg.Name, cfg.Subjects, cfg.DenyDelete = "DENIED", []string{"denied"}, true
	s, err := l.js.CreateStream(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), 1); err == nil || NoMessage(err) {
		t.Errorf("it is not permitted: %v", err)
	}
}

// TestAConsumerWithoutItsFolder: a server that has lost the folder of the inbox's
// consumer, as it does where one is removed and made again at the same time, refuses
// each change of it. Orders are taken all the same.
func TestAConsumerWithoutItsFolder(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	l := lineOn(t, s)
	cfg := jetstream.ConsumerConfig{Durable: "intake", AckPolicy: jetstream.AckExplicitPolicy}
	_, err := l.consumer(t.Context(), IntakeStream, cfg)
	if err != nil {
		t.Fatal(err)
	}
	folders, err := filepath.Glob(filepath.Join(s.JetStreamConfig().StoreDir, "*", "streams", IntakeStream, "obs", cfg.Durable))
	if err != nil || len(folders) != 1 {
		t.Fatalf("%v, %v", folders, err)
	}
	if err := os.RemoveAll(folders[0]); err != nil {
		t.Fatal(err)
	}
	cfg.AckWait = time.Minute // as another build, or a start with another setting, wants it
	if _, err := l.js.CreateOrUpdateConsumer(t.Context(), IntakeStream, cfg); err == nil {
		t.Fatal("the server does not mind")
	}
	cons, err := l.consumer(t.Context(), IntakeStream, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = Publish(t.Context(), l.js, NewSubject, []byte(`{"id":"a","names":["a.example.com"]}`)); err != nil {
		t.Fatal(err)
	}
	if m, err := cons.Next(jetstream.FetchMaxWait(natstest.Patience)); err != nil || string(m.Data()) == "" {
		t.Errorf("%v", err)
	}
}
