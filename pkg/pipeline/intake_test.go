package pipeline

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
)

func publish(t testing.TB, l *Line, subject string, data []byte) uint64 {
	t.Helper()
	seq, err := Publish(t.Context(), l.js, subject, data)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func intake(t testing.TB, l *Line, urgent bool, accept func(context.Context, Message) error) (stop func()) {
	t.Helper()
	return running(t, func(ctx context.Context) error { return l.Intake(ctx, urgent, AcceptFunc(accept)) })
}

func TestIntake(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	big := bytes.Repeat([]byte("x"), 60<<10)
	taken := make(chan Message, 10)
	accept := func(_ context.Context, m Message) error { taken <- m; return nil }
	for _, c := range []struct {
		subject, publisher string
		urgent             bool
		data               []byte
	}{
		{"orders.new", "", false, []byte("a")},
		{"orders.new.crm", "crm", false, []byte("b")},
		{"orders.urgent", "", true, []byte("c")},
		{"orders.urgent.ops", "ops", true, big},
	} {
		seq := publish(t, l, c.subject, c.data)
		if n, err := l.Pending(t.Context()); err != nil || n != 1 {
			t.Errorf("pending %d, %v", n, err)
		}
		stop := intake(t, l, c.urgent, accept)
		m := receive(t, "the message", taken)
		if !bytes.Equal(m.Data, c.data) || m.Publisher != c.publisher || m.Urgent != c.urgent || m.Seq != seq || m.Stored.IsZero() {
			t.Errorf("%s came as %+v", c.subject, m)
		}
		await(t, "the inbox empty", func() bool { n, err := l.Pending(t.Context()); return err == nil && n == 0 })
		stop()
	}
}

func TestOversizedMessagesAreRefusedInWords(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	_, err := Publish(t.Context(), l.js, NewSubject, make([]byte, MaxRequestBytes+1))
	if err == nil || !strings.Contains(err.Error(), "65536") {
		t.Errorf("a message of %d bytes: %v", MaxRequestBytes+1, err)
	}
	// Any other client is refused by the server.
	if _, err := l.js.Publish(t.Context(), NewSubject, make([]byte, MaxRequestBytes+1)); err == nil {
		t.Error("the server took an oversized message")
	}
	// The largest message still fits into a failed order's record.
	seq := publish(t, l, NewSubject, bytes.Repeat([]byte{0xff}, MaxRequestBytes-200))
	o := order.Order{V: 1, Request: order.Request{ID: l.BadID(seq)}, State: order.Failed, Original: bytes.Repeat([]byte{0xff}, MaxRequestBytes-200)}
	create(t, l, o)
	if it, err := l.Last(t.Context(), l.BadID(seq)); err != nil || len(it.Original) != MaxRequestBytes-200 {
		t.Errorf("%v", err)
	}
}

// accept fails, then the process dies before the ack: the message comes again,
// and the order is created once.
func TestIntakeComesAgain(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	publish(t, l, NewSubject, []byte("a"))
	var tries atomic.Int32
	intake(t, l, false, func(ctx context.Context, m Message) error {
		_, err := l.Create(ctx, anOrder("a"))
		switch tries.Add(1) {
		case 1:
			if err != nil {
				t.Error(err)
			}
			return errors.New("died")
		default:
			if !errors.Is(err, ErrMoved) {
				t.Errorf("the second creation: %v", err)
			}
			return nil
		}
	})
	await(t, "the inbox empty", func() bool { n, err := l.Pending(t.Context()); return err == nil && n == 0 })
	if got := stored(t, l, "a"); len(got) != 1 || tries.Load() != 2 {
		t.Errorf("%d tries left %q", tries.Load(), got)
	}
}

// A message that makes accept panic neither stops the worker nor blocks the
// inbox for ever: it ends as a failed order with its bytes.
func TestIntakePanic(t *testing.T) {
	restore := intakeRest
	intakeRest = time.Millisecond
	defer func() { intakeRest = restore }()
	l := openLine(t)
	seq := publish(t, l, "orders.new.crm", []byte("poison"))
	publish(t, l, NewSubject, []byte("good"))
	good := make(chan struct{}, 1)
	stop := intake(t, l, false, func(_ context.Context, m Message) error {
		if string(m.Data) == "poison" {
			panic("bad luck")
		}
		good <- struct{}{}
		return nil
	})
	receive(t, "the good message", good)
	it := inState(t, l, l.BadID(seq), order.Failed)
	if string(it.Original) != "poison" || it.Publisher != "crm" || it.Failure == nil || !strings.Contains(it.Failure.Reason, "bad luck") {
		t.Errorf("the failed order: %+v", it.Order)
	}
	await(t, "the inbox empty", func() bool { n, err := l.Pending(t.Context()); return err == nil && n == 0 })
	stop()
}

func TestBadIDIsAnIDOfItsIncarnation(t *testing.T) {
	t.Parallel()
	a, b := openLine(t), openLine(t)
	if id := a.BadID(1790000000000000); !order.ValidID(id) || !strings.HasPrefix(id, "bad-") {
		t.Errorf("%q is no id", id)
	}
	if a.BadID(7) == b.BadID(7) || a.BadID(7) == a.BadID(8) {
		t.Error("two messages have one bad id")
	}
}

func TestTicket(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	var at, most, ran atomic.Int32
	done := make(chan struct{})
	var once sync.Once
	sweep := func(context.Context) {
		if n := at.Add(1); n > most.Load() {
			most.Store(n)
		}
		time.Sleep(5 * time.Millisecond) // shorter than the interval: two at once would be two tickets
		at.Add(-1)
		if n := ran.Add(1); n == 3 {
			panic("bad luck")
		} else if n == 6 {
			once.Do(func() { close(done) })
		}
	}
	for range 2 {
		l := lineOn(t, s)
		running(t, func(ctx context.Context) error {
			return l.Ticket(ctx, "sweep-acme", func() time.Duration { return 100 * time.Millisecond }, sweep)
		})
	}
	receive(t, "six sweeps", done)
	if most.Load() != 1 {
		t.Errorf("%d sweeps ran at once", most.Load())
	}
}

// The tickets lie in memory: when they are lost, they are made again.
func TestTicketIsMadeAgain(t *testing.T) {
	restore := ticketSilence
	ticketSilence = 200 * time.Millisecond
	defer func() { ticketSilence = restore }()
	l := openLine(t)
	swept := make(chan struct{}, 100)
	running(t, func(ctx context.Context) error {
		return l.Ticket(ctx, "sweep-acme", func() time.Duration { return 50 * time.Millisecond }, func(context.Context) { swept <- struct{}{} })
	})
	receive(t, "the first sweep", swept)
	st, err := l.js.Stream(t.Context(), TicketStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := st.DeleteConsumer(t.Context(), "sweep-acme"); err != nil {
		t.Fatal(err)
	}
	for len(swept) > 0 {
		<-swept
	}
	for range 3 {
		receive(t, "a sweep after the loss", swept)
	}
}
