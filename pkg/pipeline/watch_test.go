package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// The present states come, then each transition; what cannot be read is told
// apart, and nothing stays on the server.
func TestWatch(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	it := create(t, l, anOrder("a"))
	if _, err := l.js.Publish(t.Context(), order.Subject(order.Verify, "newer", "acme"), []byte(`{"v":2}`)); err != nil {
		t.Fatal(err)
	}
	items, unread, watched := make(chan Item, 10), make(chan Unread, 10), make(chan Item, 10)
	stops := []func(){
		running(t, func(ctx context.Context) error {
			return l.WatchAll(ctx, func(it Item) error { items <- it; return nil }, func(u Unread) error { unread <- u; return nil })
		}),
		running(t, func(ctx context.Context) error {
			return l.Watch(ctx, func(it Item) error { watched <- it; return nil })
		}),
	}
	if got := receive(t, "the present state", items); got.ID() != "a" || got.Seq != it.Seq {
		t.Errorf("%+v", got)
	}
	if u := receive(t, "what cannot be read", unread); u.ID != "newer" || u.State != order.Verify || u.Lane != "acme" || !u.Newer {
		t.Errorf("%+v", u)
	}
	if _, err := l.Move(t.Context(), it, to(it.Order, order.Verify)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []chan Item{items, watched} {
		for receive(t, "the transition", c).State != order.Verify {
		}
	}
	for _, stop := range stops {
		stop()
	}
	if names := consumers(t, l); len(names) != 0 {
		t.Errorf("left on the server: %q", names)
	}
	boom := errors.New("boom")
	if err := l.Watch(t.Context(), func(Item) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("f's error is lost: %v", err)
	}
}

// A message in whose way there is what only a newer program can read comes again
// later, and is told of once.
func TestMessageBehindANewerProgramRests(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	var told lines
	l.log, l.ackWait = slog.New(slog.NewTextHandler(&told, nil)), 50*time.Millisecond
	var calls atomic.Int32
	for _, why := range []error{ErrUnreadable, order.ErrNewer} {
		seq := publish(t, l, NewSubject, []byte(why.Error()))
		calls.Store(0)
		stop := intake(t, l, false, func(_ context.Context, m Message) error {
			if m.Seq == seq {
				calls.Add(1)
			}
			return fmt.Errorf("of its id: %w", why)
		})
		await(t, "several deliveries", func() bool { return calls.Load() > 5 })
		stop()
		if n := told.of(fmt.Sprint("seq=", seq)); n != 1 {
			t.Errorf("%v: logged %d times\n%s", why, n, told.String())
		}
	}
	if n, err := l.Pending(t.Context()); err != nil || n != 2 {
		t.Errorf("%d messages are left, %v", n, err)
	}
}

// TICKETS is made by whoever needs it, and one that is not as it must be ends
// the loop with the difference.
func TestTicketsAreVerified(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	for range 2 {
		if err := l.Tickets(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.js.DeleteStream(t.Context(), TicketStream); err != nil {
		t.Fatal(err)
	}
	ran := make(chan struct{}, 1)
	stop := running(t, func(ctx context.Context) error {
		return l.Ticket(ctx, "sweep", func() time.Duration { return time.Hour }, func(context.Context) { ran <- struct{}{} })
	})
	receive(t, "the ticket", ran)
	stop()
	if err := l.js.DeleteStream(t.Context(), TicketStream); err != nil {
		t.Fatal(err)
	}
	lasting := ticketConfig(1)
	lasting.Storage = jetstream.FileStorage
	if _, err := stream.Ensure(t.Context(), l.js, lasting); err != nil {
		t.Fatal(err)
	}
	if err := l.Ticket(t.Context(), "sweep", nil, nil); err == nil || !errors.As(err, new(*stream.Differs)) {
		t.Errorf("of a stream on disk: %v", err)
	}
}
