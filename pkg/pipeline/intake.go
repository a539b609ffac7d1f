package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
)

// Message is one order message as somebody published it.
type Message struct {
	Data      []byte
	Publisher string // last token of orders.new.<publisher>; "" for orders.new
	Urgent    bool
	Seq       uint64 // of stream INTAKE
	Stored    time.Time
}

// Subjects of the inbox.
const (
	NewSubject    = "orders.new"
	UrgentSubject = "orders.urgent"
)

// Publish puts an order message into the inbox, as any NATS client can, and
// waits until it is stored.
func Publish(ctx context.Context, js jetstream.JetStream, subject string, data []byte) error {
	if _, err := js.Publish(ctx, subject, data); err != nil {
		return fmt.Errorf("publish to %s: %w", subject, err)
	}
	return nil
}

// Intake takes order messages until ctx ends. accept must make the order's
// first transition and may be called again for the same message: a crash
// between it and the ack hands the message out once more, and the second
// creation finds the id taken.
func (l *Line) Intake(ctx context.Context, urgent bool, accept func(context.Context, Message) error) error {
	cfg := jetstream.ConsumerConfig{Durable: "intake", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		MaxDeliver: -1, MaxAckPending: 1000, FilterSubjects: []string{NewSubject, NewSubject + ".*"}}
	if urgent {
		cfg.Durable, cfg.FilterSubjects = "intake-urgent", []string{UrgentSubject, UrgentSubject + ".*"}
	}
	cons, err := l.js.CreateOrUpdateConsumer(ctx, IntakeStream, cfg)
	if err != nil {
		return fmt.Errorf("consumer %s: %w", cfg.Durable, err)
	}
	return l.pull(ctx, cons, cfg.Durable, 8, func(m jetstream.Msg) {
		l.acceptOne(ctx, m, urgent, accept)
	})
}

func (l *Line) acceptOne(ctx context.Context, m jetstream.Msg, urgent bool, accept func(context.Context, Message) error) {
	md, err := m.Metadata()
	if err != nil {
		return
	}
	msg := Message{Data: m.Data(), Urgent: urgent, Seq: md.Sequence.Stream, Stored: md.Timestamp}
	if parts := strings.Split(m.Subject(), "."); len(parts) == 3 {
		msg.Publisher = parts[2]
	}
	work, cancel := drained(ctx, drainTime)
	defer cancel()
	if err := accept(work, msg); err != nil {
		l.log.WarnContext(ctx, "order message not taken yet", "seq", msg.Seq, "err", err)
		_ = m.NakWithDelay(2 * time.Second)
		return
	}
	// The order exists now. A crash here hands the message out again; the
	// creation from sequence 0 then finds it known.
	if err := m.DoubleAck(work); err != nil {
		l.log.WarnContext(ctx, "order message taken but not acknowledged", "seq", msg.Seq, "err", err)
	}
}

// BadID is the id of the order that stands for a message which cannot be read
// or whose id is taken by another order.
func (l *Line) BadID(seq uint64) string {
	return fmt.Sprintf("bad-%s-%d", strings.ToLower(l.token[:min(8, len(l.token))]), seq)
}

// Pending counts the messages of the inbox that nobody has taken yet.
func (l *Line) Pending(ctx context.Context) (uint64, error) {
	s, err := l.js.Stream(ctx, IntakeStream)
	if err != nil {
		return 0, wrapStream(IntakeStream, err)
	}
	return s.CachedInfo().State.Msgs, nil
}

// Each reads the present orders of one state and lane ("*": all) and calls f
// for each. The reads may be stale; act on them only through Move.
func (l *Line) Each(ctx context.Context, state order.State, lane string, f func(Item) error) error {
	return l.each(ctx, order.Subject(state, "*", lane), f)
}

// EachOrder is Each for orders of all states.
func (l *Line) EachOrder(ctx context.Context, f func(Item) error) error {
	return l.each(ctx, order.Subject("*", "*", "*"), f)
}

func (l *Line) each(ctx context.Context, filter string, f func(Item) error) error {
	cons, err := l.orders.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: filter, AckPolicy: jetstream.AckNonePolicy,
		DeliverPolicy: jetstream.DeliverAllPolicy, MemoryStorage: true, InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", filter, err)
	}
	name := cons.CachedInfo().Name
	defer func() { _ = l.orders.DeleteConsumer(context.WithoutCancel(ctx), name) }()
	for left := cons.CachedInfo().NumPending; left > 0; {
		batch, err := cons.Fetch(int(min(left, 500)), jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return fmt.Errorf("read %s: %w", filter, err)
		}
		got := uint64(0)
		for m := range batch.Messages() {
			got++
			if err := visit(m, f); err != nil {
				return err
			}
		}
		if got == 0 { // the rest was removed meanwhile
			return batch.Error()
		}
		left -= min(got, left)
	}
	return nil
}

func visit(m jetstream.Msg, f func(Item) error) error {
	md, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("read %s: %w", m.Subject(), err)
	}
	it, err := decodeItem(m.Subject(), m.Data(), md.Sequence.Stream, md.Timestamp)
	if err != nil {
		return nil // archived, or a newer program's: not ours to judge
	}
	return f(it)
}

// Counts tells how many orders lie in each state, as a throw-away consumer
// counts them: cheap also at a million orders.
func (l *Line) Counts(ctx context.Context) (map[order.State]int, error) {
	counts := map[order.State]int{}
	for _, s := range order.States {
		cons, err := l.orders.CreateConsumer(ctx, jetstream.ConsumerConfig{
			FilterSubject: order.Subject(s, "*", "*"), AckPolicy: jetstream.AckNonePolicy,
			MemoryStorage: true, InactiveThreshold: 10 * time.Second})
		if err != nil {
			return nil, fmt.Errorf("count %s: %w", s, err)
		}
		info := cons.CachedInfo()
		if info.NumPending > 0 {
			counts[s] = int(info.NumPending)
		}
		_ = l.orders.DeleteConsumer(ctx, info.Name)
	}
	return counts, nil
}

// Ticket runs f every interval, in one replica at a time where it can be had:
// whoever pulls the ticket gives it back with the interval first, and works
// then. Two at once do no harm, so no proof is owed.
func (l *Line) Ticket(ctx context.Context, name string, interval func() time.Duration, f func(context.Context)) error {
	cons, err := l.ticketConsumer(ctx, name)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		m, err := cons.Next(jetstream.FetchMaxWait(5*time.Second), jetstream.FetchContext(ctx))
		if err != nil {
			if !errors.Is(err, nats.ErrTimeout) && sleep(ctx, time.Second) != nil {
				return nil
			}
			continue
		}
		// A crash after this costs nothing: the ticket comes again by itself.
		_ = m.NakWithDelay(interval())
		f(ctx)
	}
	return nil
}

func (l *Line) ticketConsumer(ctx context.Context, name string) (jetstream.Consumer, error) {
	subject := "ticket." + name
	_, err := l.js.Publish(ctx, subject, nil, jetstream.WithExpectLastSequencePerSubject(0))
	if api, ok := errors.AsType[*jetstream.APIError](err); err != nil && (!ok || api.ErrorCode != codeWrongSequence) {
		return nil, fmt.Errorf("ticket %s: %w", name, err)
	}
	cons, err := l.js.CreateOrUpdateConsumer(ctx, TicketStream, jetstream.ConsumerConfig{
		Durable: name, FilterSubject: subject, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxDeliver: -1, MemoryStorage: true})
	if err != nil {
		return nil, fmt.Errorf("ticket %s: %w", name, err)
	}
	return cons, nil
}
