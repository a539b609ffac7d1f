package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// Handler is one stage's work on one order. It MUST be a function of the
// stored order: it may be called again for the same record at any time, by any
// worker. What it returns is stored by the loop alone; see Snooze, Retry,
// Wait, Fail and Hold.
type Handler interface {
	Handle(ctx context.Context, o order.Order) (order.Order, error)
}

// HandlerFunc makes a function a Handler.
type HandlerFunc func(ctx context.Context, o order.Order) (order.Order, error)

func (f HandlerFunc) Handle(ctx context.Context, o order.Order) (order.Order, error) {
	return f(ctx, o)
}

// Times of the loop.
const (
	standardAckWait = 60 * time.Second // a dead worker's orders come back after this; heartbeats go at a third of it
	drainTime       = 30 * time.Second // what a stopped worker's handlers may still take
	// Longer than any nak may delay a message, or one would be forgotten with
	// its consumer and handed out early.
	urgentIdle = 2 * maxSnooze
)

// Work handles the orders of one state and lane until ctx ends, at most
// parallel at a time. Then it stops fetching, lets the handlers finish and
// gives the rest back. It returns an error only when the consumer cannot be
// had at first, or, wrapping ErrLost, when the connection was lost.
func (l *Line) Work(ctx context.Context, state order.State, lane string, parallel int, h Handler) error {
	var running sync.WaitGroup
	defer running.Wait()
	hands := make(chan struct{}, parallel)
	return l.pull(ctx, OrdersStream, l.stageConsumer(state, lane), func(cons jetstream.Consumer) error {
		return l.pullFrom(ctx, cons, hands, &running, func(m jetstream.Msg) { l.one(ctx, m, h) })
	})
}

// pull is the loop that all workers share: serve takes messages of a consumer
// until ctx ends. A consumer that is lost is made again.
func (l *Line) pull(ctx context.Context, from string, cfg jetstream.ConsumerConfig, serve func(jetstream.Consumer) error) error {
	defer l.tended.pulls(from, cfg)()
	for begun := false; ctx.Err() == nil; {
		cons, err := l.consumer(ctx, from, cfg)
		if err == nil {
			begun = true
			err = serve(cons)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case l.lost.Err() != nil:
			return fmt.Errorf("consumer %s: %w", cfg.Durable, ErrLost)
		case err != nil && !begun:
			return fmt.Errorf("consumer %s: %w", cfg.Durable, err)
		}
		l.log.WarnContext(ctx, "consumer lost; it is made again", "consumer", cfg.Durable, "err", err)
		if !errors.Is(err, jetstream.ErrConsumerDeleted) {
			_ = stream.Sleep(ctx, time.Second)
		}
	}
	return nil
}

// pullFrom serves one consumer until ctx ends or the consumer does not answer: it
// takes messages and hands at most as many of them to work at a time as there
// are hands. When ctx ends it gives back what was not begun.
//
// Nothing is fetched in reserve: a message is asked for when a hand is free for
// it. One that lay here unbegun would get no heartbeats, and would be counted
// as another delivery without a result.
func (l *Line) pullFrom(ctx context.Context, cons jetstream.Consumer, hands chan struct{}, running *sync.WaitGroup, work func(jetstream.Msg)) error {
	msgs, err := cons.Messages(jetstream.PullMaxMessages(1), jetstream.PullHeartbeat(5*time.Second))
	if err != nil {
		return err
	}
	defer msgs.Stop()
	stop := context.AfterFunc(ctx, msgs.Drain)
	defer stop()
	for {
		hands <- struct{}{}
		m, err := msgs.Next()
		if err == nil && ctx.Err() == nil {
			running.Go(func() {
				defer func() { <-hands }()
				work(m)
			})
			continue
		}
		<-hands
		if err != nil {
			return err
		}
		_ = m.Nak() // not begun: another worker has it at once
	}
}

// stageConsumer is in memory, also in a cluster: losing it costs a redelivery,
// which is harmless, and the line is three times faster (measured).
//
// That of an urgent lane goes when nobody pulls from it: few are in use at a
// time, and a stream bears some hundreds.
func (l *Line) stageConsumer(state order.State, lane string) jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		Durable:       string(state) + "-" + lane,
		FilterSubject: order.Subject(state, "*", lane),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       l.ackWait,
		MaxDeliver:    -1,
		MaxAckPending: -1, // see unreadRest
		MemoryStorage: true,
	}
	if strings.HasSuffix(lane, order.UrgentSuffix) {
		cfg.InactiveThreshold = urgentIdle
	}
	return cfg
}

// one handles one delivery.
func (l *Line) one(ctx context.Context, m jetstream.Msg, h Handler) {
	md, err := m.Metadata()
	if err != nil {
		return // not a message of a consumer; it comes again
	}
	_ = m.InProgress() // a new leader knows only when the message was stored
	log := l.log.With("subject", m.Subject())
	it, err := decodeItem(m.Subject(), m.Headers(), m.Data(), md.Sequence.Stream, md.Timestamp)
	if err != nil {
		// A record of a newer program is left to newer workers; a broken one can
		// only come from a foreign publisher on our own subject.
		stream.Unreadable{Subject: m.Subject(), Seq: md.Sequence.Stream, Err: err}.Tell(ctx, l.log)
		_ = m.NakWithDelay(unreadRest(l.ackWait, md.NumDelivered))
		return
	}
	deliveries := int(md.NumDelivered)
	// Also on the first delivery: a consumer that was made again, or a verb that
	// died half way, hands an old state out for the first time.
	if last, err := l.Settle(ctx, it); err != nil {
		log.WarnContext(ctx, "cannot tell whether this is the order's last state", "err", err)
		_ = m.NakWithDelay(rest(deliveries))
		return
	} else if !last {
		return // removed, which is the acknowledgement
	}
	if until := time.Until(it.NotBefore); until > 0 {
		_ = m.NakWithDelay(until)
		return
	}
	l.handle(ctx, log, m, it, deliveries, h)
}

// handle runs the handler under a heartbeat and carries out its verb. The work
// context outlives ctx by drainTime, so that a stopped worker finishes what it
// began.
func (l *Line) handle(ctx context.Context, log *slog.Logger, m jetstream.Msg, it Item, deliveries int, h Handler) {
	work, cancel := l.drained(ctx, drainTime)
	defer cancel()
	var out outcome
	if begun, err := l.begin(work, it.Seq, deliveries); err != nil {
		log.WarnContext(ctx, "cannot note that the order's work begins", "order", it.ID(), "err", err)
		_ = m.NakWithDelay(rest(deliveries))
		return
	} else if begun > maxDeliveries {
		out = held(it.Order, it.Order, order.Hold{
			Reason:   fmt.Sprintf("begun %d times without a result: it stops or stalls its worker", begun-1),
			Commands: orRetry(it.ID())})
	} else {
		next, err := underHeartbeat(work, func() { _ = m.InProgress() }, l.ackWait/3, func() (order.Order, error) { return protect(work, log, h, it.Order) })
		if work.Err() != nil {
			_ = m.Nak() // interrupted: another worker begins again from the stored order
			return
		}
		l.ended(work, it.Seq, deliveries)
		out = decide(it.Order, next, err, deliveries, time.Now().UTC())
	}
	if out.nak > 0 {
		_ = m.NakWithDelay(out.nak)
		return
	}
	if !l.store(work, log, it, out) {
		// Nothing was stored, or we do not know: the order is handed out again
		// and begins from what is stored.
		_ = m.NakWithDelay(rest(deliveries))
	}
}

// unreadRest is how long a message rests that this worker cannot read, as another
// one may. It grows with the deliveries: after a build that all workers were set
// back from, many such records may lie in a lane. They occupy nothing: the
// consumer bounds no deliveries that are under way, because a thousand unread
// records would be all of a thousand. (With 20,000 of them in a lane, handed out
// again every 20 s, another order was handled within 10 ms as ever, at a tenth of
// a core.) What is really under way the hands bound; and what snoozes comes
// before what was not handed out yet.
func unreadRest(ackWait time.Duration, deliveries uint64) time.Duration {
	return min(ackWait*time.Duration(max(deliveries, 1)), max(ackWait, maxSnooze))
}

// rest is how long a message rests that NATS would not let us deal with. It
// grows, because each delivery counts towards maxDeliveries, and a stream that
// takes no messages for minutes must not get its orders held.
func rest(deliveries int) time.Duration {
	return min(2*time.Second<<min(max(deliveries-1, 0), 10), standardAckWait)
}

// store makes the transition, and tells whether the item is dealt with.
func (l *Line) store(ctx context.Context, log *slog.Logger, it Item, out outcome) bool {
	out.next.Tell(l.event(out.next.State, out.note))
	_, err := l.Move(ctx, it, out.next)
	switch {
	case errors.Is(err, ErrMoved):
		// Somebody else moved it: what we were handed is not the last.
		_, err = l.Settle(ctx, it)
		logIf(ctx, log, "cannot remove an old state", err)
		return err == nil
	case errors.Is(err, ErrRemoved):
		err = l.putBack(ctx, out.next)
		logIf(ctx, log, "cannot put an order back that somebody removed", err)
		return err == nil
	case err != nil:
		log.WarnContext(ctx, "transition failed", "order", it.ID(), "to", out.next.State, "err", err)
		return false
	default:
		logOutcome(ctx, log, it.Order, out)
	}
	return true
}

// staleAfter is how old an item of a sweep must be before it is worth a read to
// see whether it is the order's last message.
const staleAfter = time.Minute

// Visit runs a handler on an order that a sweep read, and carries out its verb.
// A snooze stores nothing: the next sweep comes anyway. It returns an error
// only when ctx ended.
func (l *Line) Visit(ctx context.Context, it Item, h Handler) error {
	if time.Until(it.NotBefore) > 0 {
		return ctx.Err()
	}
	log := l.log.With("order", it.ID(), "state", it.State)
	if time.Since(it.Stored) > staleAfter {
		if last, err := l.Settle(ctx, it); err != nil || !last {
			logIf(ctx, log, "cannot tell whether this is the order's last state", err)
			return ctx.Err()
		}
	}
	next, err := protect(ctx, log, h, it.Order)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	out := decide(it.Order, next, err, 0, time.Now().UTC())
	if out.nak > 0 {
		return nil
	}
	l.store(ctx, log, it, out)
	return ctx.Err()
}

func logOutcome(ctx context.Context, log *slog.Logger, before order.Order, out outcome) {
	level := slog.LevelDebug
	switch {
	case out.next.State == order.Failed, out.next.State == order.Held:
		level = slog.LevelWarn
	case out.next.Retries > before.Retries, out.next.State == order.Issued:
		level = slog.LevelInfo
	}
	log.Log(ctx, level, "order moved", "order", before.ID(), "from", before.State, "to", out.next.State, "note", out.note)
}

func (l *Line) event(s order.State, note string) order.Event {
	return order.Event{At: time.Now().UTC().Truncate(time.Millisecond), State: s, Worker: l.worker, Note: note}
}

func logIf(ctx context.Context, log *slog.Logger, msg string, err error) {
	if err != nil {
		log.WarnContext(ctx, msg, "err", err)
	}
}

// underHeartbeat runs f and tells the server every heartbeat that the message
// is being worked on.
func underHeartbeat[T any](ctx context.Context, inProgress func(), heartbeat time.Duration, f func() (T, error)) (T, error) {
	beat, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for stream.Sleep(beat, heartbeat) == nil {
			inProgress()
		}
	})
	defer done.Wait()
	defer stop()
	return f()
}

// protect turns a panic into an error: one bad order never stops a worker.
func protect(ctx context.Context, log *slog.Logger, h Handler, o order.Order) (next order.Order, err error) {
	next = o // a handler that panics returns nothing
	err = unpanicked(ctx, log, func() (err error) {
		next, err = h.Handle(ctx, o)
		return err
	})
	return next, err
}

// panicked is the error that a panic becomes.
type panicked struct{ value any }

func (p *panicked) Error() string { return fmt.Sprintf("panic in the handler: %v", p.value) }

// unpanicked runs f and returns a panic as an error.
func unpanicked(ctx context.Context, log *slog.Logger, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.ErrorContext(ctx, "handler panicked", "panic", p, "stack", string(debug.Stack()))
			err = &panicked{p}
		}
	}()
	return f()
}

// drained returns a context that is cancelled grace after ctx ends, or at once
// when the connection under the worker is lost.
func (l *Line) drained(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	dropped := context.AfterFunc(l.lost, func() { cancel(ErrLost) })
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(context.Cause(ctx), ErrLost) {
			cancel(ErrLost)
			return
		}
		end := time.AfterFunc(grace, func() { cancel(context.Canceled) })
		context.AfterFunc(work, func() { end.Stop() })
	})
	return work, func() { stop(); dropped(); cancel(context.Canceled) }
}

// ErrLost is why a worker ends whose connection dropped: its handlers are
// cancelled at once, because nothing may be published on another connection
// before the incarnation was checked. The composition may also cancel a worker
// with it as the cause.
var ErrLost = errors.New("connection to NATS lost")
