package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// Message is one order message as somebody published it.
type Message struct {
	Data      []byte
	Publisher string // last token of orders.new.<publisher>; "" for orders.new
	subject   string
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

// Taker is who takes order messages in.
type Taker interface {
	// Accept MUST make the order's first transition. It may be called again for
	// the same message, also for one that was accepted: a crash between it and the
	// acknowledgement hands the message out once more, and one that was accepted
	// before its turn is handed out in its turn. The second creation finds the id
	// taken.
	Accept(ctx context.Context, m Message) error
	// Account tells, of a message's bytes, which account it is for, so that those
	// of one account do not wait behind those of all others. Whatever is no account
	// SHOULD be "".
	Account(data []byte) string
}

// AcceptFunc is a Taker that takes all messages for those of one account.
type AcceptFunc func(ctx context.Context, m Message) error

func (f AcceptFunc) Accept(ctx context.Context, m Message) error { return f(ctx, m) }

func (AcceptFunc) Account([]byte) string { return "" }

// Intake takes order messages, urgent ones or all others, until ctx ends: fair
// over publishers, and within each over its accounts (backlog). Messages of one
// publisher for one account are accepted in the order in which they came, but
// several at a time.
func (l *Line) Intake(ctx context.Context, urgent bool, t Taker) error {
	cfg := jetstream.ConsumerConfig{Durable: "intake", AckPolicy: jetstream.AckExplicitPolicy, AckWait: l.ackWait,
		MaxDeliver: -1, MaxAckPending: -1, FilterSubjects: []string{NewSubject, NewSubject + ".*"}}
	if urgent {
		cfg.Durable, cfg.FilterSubjects = "intake-urgent", []string{UrgentSubject, UrgentSubject + ".*"}
	}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	ahead := l.backlog("ahead-of-"+cfg.Durable, cfg.FilterSubjects, t)
	running.Go(func() { ahead.run(ctx) })
	hands := make(chan struct{}, intakeHands)
	return l.pull(ctx, IntakeStream, cfg, func(cons jetstream.Consumer) error {
		return l.fetchFrom(ctx, cons, hands, &running, func(m *nats.Msg) { l.acceptOne(ctx, m, ahead) })
	})
}

// intakeHands is how many messages one replica accepts at a time.
const intakeHands = 8

// intakeRest is how long a message that was not accepted rests. A variable for
// the tests only.
var intakeRest = 2 * time.Second

// acceptOne accepts what the consumer handed out, when it is its turn.
func (l *Line) acceptOne(ctx context.Context, m *nats.Msg, ahead *backlog) {
	md, err := m.Metadata()
	if err != nil {
		return
	}
	inProgress := func() { _ = m.InProgress() }
	inProgress() // a new leader knows only when the message was stored
	msg := inboxMessage(m.Subject, m.Data, md.Sequence.Stream, md.Timestamp)
	q := ahead.queueOf(ctx, msg)
	ahead.take(q, md)
	work, cancel := l.drained(ctx, drainTime)
	defer cancel()
	_, err = underHeartbeat(work, inProgress, l.ackWait/3, func() (struct{}, error) {
		if ahead.wasEarly(msg.Seq) {
			return struct{}{}, nil
		}
		ahead.await(ctx)
		if err := ahead.turns.take(ctx, q); err != nil {
			return struct{}{}, err
		}
		defer ahead.turns.give()
		return struct{}{}, ahead.accept(work, msg)
	})
	switch {
	case err != nil && ctx.Err() != nil:
		_ = m.Nak() // another worker has it at once
		return
	case err != nil:
		_ = m.NakWithDelay(l.notTaken(ctx, msg, err, md.NumDelivered))
		return
	}
	// The order exists now. A crash here hands the message out again; the
	// creation from sequence 0 then finds it known.
	if err := m.AckSync(nats.Context(work)); err != nil {
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

// Pending counts the messages of the inbox: those that nobody has taken yet, and
// those that were taken before their turn (backlog).
func (l *Line) Pending(ctx context.Context) (uint64, error) {
	s, err := l.js.Stream(ctx, IntakeStream)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", IntakeStream, err)
	}
	return s.CachedInfo().State.Msgs, nil
}

// Tickets makes the stream of the tickets where it is missing, and else verifies
// it. Ticket does so by itself; a worker that begins with it is told of a stream
// that is not as it must be before it works. See stream.Ensure for the errors.
func (l *Line) Tickets(ctx context.Context, replicas int) error {
	_, err := stream.Ensure(ctx, l.js, ticketConfig(replicas))
	return err
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
	defer l.tended.pulls(TicketStream, l.ticketConfig(name))()
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
			_ = stream.Sleep(ctx, time.Second)
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

// ticketConsumer makes sure of a ticket and its consumer.
func (l *Line) ticketConsumer(ctx context.Context, name string) (jetstream.Consumer, error) {
	if err := l.Tickets(ctx, l.replicas); err != nil {
		return nil, fmt.Errorf("ticket %s: %w", name, err)
	}
	if err := l.putTicket(ctx, name); err != nil {
		return nil, err
	}
	cons, err := l.consumer(ctx, TicketStream, l.ticketConfig(name))
	if err != nil {
		return nil, fmt.Errorf("ticket %s: %w", name, err)
	}
	return cons, nil
}

func (l *Line) ticketConfig(name string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{Durable: name, FilterSubject: ticketSubject(name), AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: l.ackWait, MaxDeliver: -1, MaxAckPending: 1000, MemoryStorage: true}
}

// putTicket puts a ticket that is not there.
func (l *Line) putTicket(ctx context.Context, name string) error {
	_, err := l.js.Publish(ctx, ticketSubject(name), nil, jetstream.WithExpectLastSequencePerSubject(0))
	if api, ok := errors.AsType[*jetstream.APIError](err); err != nil && (!ok || api.ErrorCode != codeWrongSequence) {
		return fmt.Errorf("ticket %s: %w", name, err)
	}
	return nil
}
