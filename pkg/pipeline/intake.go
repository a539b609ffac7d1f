package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
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
// waits until it is stored. It returns the message's sequence there.
func Publish(ctx context.Context, js jetstream.JetStream, subject string, data []byte) (uint64, error) {
	if len(data) > MaxRequestBytes {
		return 0, fmt.Errorf("the order message has %d bytes, %d are allowed: shorten its labels or CSR", len(data), MaxRequestBytes)
	}
	ack, err := js.Publish(ctx, subject, data)
	if err != nil {
		return 0, fmt.Errorf("publish to %s: %w", subject, err)
	}
	return ack.Sequence, nil
}

// Intake takes order messages until ctx ends. accept must make the order's
// first transition and may be called again for the same message: a crash
// between it and the ack hands the message out once more, and the second
// creation finds the id taken.
func (l *Line) Intake(ctx context.Context, urgent bool, accept func(context.Context, Message) error) error {
	cfg := jetstream.ConsumerConfig{Durable: "intake", AckPolicy: jetstream.AckExplicitPolicy, AckWait: l.ackWait,
		MaxDeliver: -1, MaxAckPending: 1000, FilterSubjects: []string{NewSubject, NewSubject + ".*"}}
	if urgent {
		cfg.Durable, cfg.FilterSubjects = "intake-urgent", []string{UrgentSubject, UrgentSubject + ".*"}
	}
	return l.pull(ctx, IntakeStream, cfg, intakeHands, func(m jetstream.Msg) {
		l.acceptOne(ctx, m, urgent, accept)
	})
}

// intakeHands is how many messages one replica accepts at a time.
const intakeHands = 8

// intakeRest is how long a message that was not accepted rests. A variable for
// the tests only.
var intakeRest = 2 * time.Second

func (l *Line) acceptOne(ctx context.Context, m jetstream.Msg, urgent bool, accept func(context.Context, Message) error) {
	md, err := m.Metadata()
	if err != nil {
		return
	}
	_ = m.InProgress() // a new leader knows only when the message was stored
	msg := Message{Data: m.Data(), Urgent: urgent, Seq: md.Sequence.Stream, Stored: md.Timestamp}
	if parts := strings.Split(m.Subject(), "."); len(parts) == 3 {
		msg.Publisher = parts[2]
	}
	work, cancel := l.drained(ctx, drainTime)
	defer cancel()
	_, err = underHeartbeat(work, m, l.ackWait/3, func() (struct{}, error) {
		err := unpanicked(work, l.log, func() error { return accept(work, msg) })
		if p := (*panicked)(nil); errors.As(err, &p) && md.NumDelivered > maxDeliveries {
			err = l.refusePoison(work, msg, p)
		}
		return struct{}{}, err
	})
	if err != nil {
		l.log.WarnContext(ctx, "order message not taken yet", "seq", msg.Seq, "err", err)
		_ = m.NakWithDelay(intakeRest)
		return
	}
	// The order exists now. A crash here hands the message out again; the
	// creation from sequence 0 then finds it known.
	if err := m.DoubleAck(work); err != nil {
		l.log.WarnContext(ctx, "order message taken but not acknowledged", "seq", msg.Seq, "err", err)
	}
}

// refusePoison stores a message that makes its worker panic every time as a
// failed order, so that it does not come again for ever.
func (l *Line) refusePoison(ctx context.Context, m Message, why error) error {
	o := order.Order{V: order.SchemaVersion, Request: order.Request{ID: l.BadID(m.Seq)}, Publisher: m.Publisher,
		Urgent: m.Urgent, Received: m.Stored.UTC(), State: order.Failed, Original: m.Data,
		Failure: &order.Failure{Class: "fault", Reason: "the message cannot be taken: " + why.Error(),
			Advice: "report it as a fault in certmill; publish the order again when it is mended"}}
	o.Tell(l.event(order.Failed, o.Failure.Reason))
	_, err := l.Create(ctx, o)
	if errors.Is(err, ErrMoved) {
		return nil // stored by the delivery before a crash
	}
	return err
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
	return l.EachAfter(ctx, state, lane, 0, f)
}

// EachAfter is Each for the orders whose message came after a sequence of the
// stream: those that a reader who remembers the rest has not seen yet.
func (l *Line) EachAfter(ctx context.Context, state order.State, lane string, seq uint64, f func(Item) error) error {
	return l.each(ctx, order.Subject(state, "*", lane), seq, f)
}

// EachOrder is Each for orders of all states.
func (l *Line) EachOrder(ctx context.Context, f func(Item) error) error {
	return l.each(ctx, order.Subject("*", "*", "*"), 0, f)
}

func (l *Line) each(ctx context.Context, filter string, after uint64, f func(Item) error) error {
	r := reading{filter: filter, next: after + 1, left: math.MaxInt}
	for r.left > 0 {
		if err := l.readOn(ctx, &r, f); err != nil {
			return err
		}
	}
	return nil
}

// reading is how far Each has come.
type reading struct {
	filter string
	next   uint64 // sequence of the stream to go on at
	left   int    // at most so many orders are read, or what f moves would come for ever
	barren int    // pages in a row that brought nothing
}

// Of a reading: orders per page, how long the server may take for one, how many
// in a row may bring nothing, and how long the server keeps the consumer while f
// works on a page.
const (
	pageSize  = 500
	pageWait  = 2 * time.Second
	maxBarren = 5
	readIdle  = 30 * time.Second
)

// readOn reads with one throw-away consumer, until everything is read or the
// server dropped the consumer because f took long.
func (l *Line) readOn(ctx context.Context, r *reading, f func(Item) error) error {
	cons, err := l.orders.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: r.filter, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: readIdle,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.next,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", r.filter, err)
	}
	name := cons.CachedInfo().Name
	defer func() { _ = l.orders.DeleteConsumer(context.WithoutCancel(ctx), name) }()
	r.left = min(r.left, int(cons.CachedInfo().NumPending))
	for r.left > 0 && ctx.Err() == nil {
		got, err := r.page(cons, f)
		if err != nil {
			return err
		}
		if got > 0 {
			r.barren = 0
			continue
		}
		// The rest was removed, the consumer is gone, or a server that is just
		// coming up delivers nothing yet (seen: it said 70 and sent none). Only
		// another consumer's count tells.
		if r.barren++; r.barren > maxBarren {
			return fmt.Errorf("read %s: the server counts %d more orders and delivers none", r.filter, r.left)
		}
		return ctx.Err()
	}
	return ctx.Err()
}

// page reads one page and then visits it.
func (r *reading) page(cons jetstream.Consumer, f func(Item) error) (got int, err error) {
	batch, err := cons.Fetch(min(r.left, pageSize), jetstream.FetchMaxWait(pageWait))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", r.filter, err)
	}
	for m := range batch.Messages() {
		md, err := m.Metadata()
		if err != nil {
			return got, fmt.Errorf("read %s: %w", m.Subject(), err)
		}
		got, r.next = got+1, md.Sequence.Stream+1
		r.left--
		if err := visit(m, f); err != nil {
			return got, err
		}
		if md.NumPending == 0 { // the last one there is: do not wait for those that were removed
			r.left = 0
			break
		}
	}
	return got, nil
}

func visit(m jetstream.Msg, f func(Item) error) error {
	md, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("read %s: %w", m.Subject(), err)
	}
	it, err := decodeItem(m.Subject(), m.Headers(), m.Data(), md.Sequence.Stream, md.Timestamp)
	if err != nil {
		return nil // a newer program's: not ours to judge
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

// ticketSilence is after how long without a ticket it is made again. A variable
// for the tests only.
var ticketSilence = time.Minute

// Ticket runs f every interval, in one replica at a time where it can be had:
// whoever pulls the ticket gives it back with the interval first, and works
// then. Two at once do no harm, so no proof is owed. It returns when ctx ends,
// or with an error that wraps ErrLost when the connection does.
func (l *Line) Ticket(ctx context.Context, name string, interval func() time.Duration, f func(context.Context)) error {
	cons, err := l.ticketConsumer(ctx, name)
	if err != nil {
		return err
	}
	heard := time.Now()
	for ctx.Err() == nil {
		m, err := nextTicket(ctx, cons)
		switch {
		case err == nil:
			heard = time.Now()
			// A crash after this costs nothing: the ticket comes again by itself.
			_ = m.NakWithDelay(max(interval(), time.Millisecond))
			_ = unpanicked(ctx, l.log, func() error { f(ctx); return nil })
			continue
		case l.lost.Err() != nil:
			return fmt.Errorf("ticket %s: %w", name, ErrLost)
		}
		// Tickets lie in memory and may be lost with a server: whoever misses
		// one makes it again, which does nothing if it is there.
		if time.Since(heard) > max(ticketSilence, interval()+l.ackWait) || errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, nats.ErrNoResponders) {
			heard = time.Now()
			if again, err := l.ticketConsumer(ctx, name); err == nil {
				cons = again
			}
		}
		if !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, context.DeadlineExceeded) {
			_ = sleep(ctx, time.Second)
		}
	}
	return nil
}

// nextTicket waits a few seconds for the ticket.
func nextTicket(ctx context.Context, cons jetstream.Consumer) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return cons.Next(jetstream.FetchContext(ctx))
}

func (l *Line) ticketConsumer(ctx context.Context, name string) (jetstream.Consumer, error) {
	subject := "ticket." + name
	_, err := l.js.Publish(ctx, subject, nil, jetstream.WithExpectLastSequencePerSubject(0))
	if api, ok := errors.AsType[*jetstream.APIError](err); err != nil && (!ok || api.ErrorCode != codeWrongSequence) {
		return nil, fmt.Errorf("ticket %s: %w", name, err)
	}
	cons, err := l.js.CreateOrUpdateConsumer(ctx, TicketStream, jetstream.ConsumerConfig{
		Durable: name, FilterSubject: subject, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: l.ackWait, MaxDeliver: -1, MemoryStorage: true})
	if err != nil {
		return nil, fmt.Errorf("ticket %s: %w", name, err)
	}
	return cons, nil
}
