package pipeline

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

var (
	// ErrMoved: the order's last message is another one than was read.
	ErrMoved = errors.New("the order has moved on")
	// ErrNoOrder: no message of this order exists.
	ErrNoOrder = errors.New("no such order")
	// ErrUnreadable: the order is there, and its record is a newer program's, or
	// none. It MUST be left alone.
	ErrUnreadable = errors.New("the order's record cannot be read")
)

// Line is the way of orders through the states.
type Line struct {
	js     jetstream.JetStream
	orders jetstream.Stream
	worker string
	token  string
	since  time.Time
	log    *slog.Logger
	lost   context.Context // ends with the connection, its cause is ErrLost

	ackWait  time.Duration
	replicas int // of the streams; 0: any
}

// Item is an order as it lies in the stream: Seq is what a transition is
// conditional on.
type Item struct {
	order.Order
	Seq    uint64
	Stored time.Time // server's clock
}

// Option changes how a Line works.
type Option func(*Line)

// AckWait is after how long without a heartbeat a worker's orders are handed
// out again. All workers of an installation should have the same. Default 60 s.
func AckWait(d time.Duration) Option { return func(l *Line) { l.ackWait = d } }

// Replicas is how many the streams must have, and TICKETS gets; 0, the default,
// means any, for those who look.
func Replicas(n int) Option { return func(l *Line) { l.replicas = n } }

// Open binds to the streams of one incarnation, if they are as OrdersConfig and
// IntakeConfig have them, and makes nothing. See stream.Open for the errors.
// worker is the name that appears in the orders' timelines.
func Open(ctx context.Context, js jetstream.JetStream, worker string, log *slog.Logger, options ...Option) (*Line, error) {
	l := &Line{js: js, worker: worker, log: log, ackWait: standardAckWait}
	for _, o := range options {
		o(l)
	}
	var err error
	if l.orders, err = stream.Open(ctx, js, OrdersConfig(l.replicas)); err != nil {
		return nil, err
	}
	if l.token, l.since, err = incarnationOf(l.orders.CachedInfo()); err != nil {
		return nil, err
	}
	if _, err = stream.Open(ctx, js, IntakeConfig(l.replicas)); err != nil {
		return nil, err
	}
	l.lost = lostWith(js.Conn())
	return l, nil
}

// lostWith returns a context that ends when the connection is closed. Its
// goroutine ends then, too.
func lostWith(nc *nats.Conn) context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	closed := nc.StatusChanged(nats.CLOSED)
	if nc.IsClosed() { // before the listener was there
		cancel(ErrLost)
		return ctx
	}
	go func() {
		<-closed
		cancel(ErrLost)
	}()
	return ctx
}

// Incarnation is the token of the streams this line was opened on.
func (l *Line) Incarnation() string { return l.token }

// Since is when this incarnation began.
func (l *Line) Since() time.Time { return l.since }

// Create makes the first transition of an order, from sequence 0: the same id
// never runs twice. The error wraps ErrMoved if the id exists.
func (l *Line) Create(ctx context.Context, o order.Order) (Item, error) {
	if err := order.Check("", o.State); err != nil {
		return Item{}, err
	}
	return l.publish(ctx, 0, o)
}

// Move makes a transition from the item that was read. It returns an error
// that wraps ErrMoved if that item is no longer the order's last; then nothing
// was changed.
func (l *Line) Move(ctx context.Context, from Item, to order.Order) (Item, error) {
	if err := order.Check(from.State, to.State); err != nil {
		return Item{}, err
	}
	if from.ID() != to.ID() {
		return Item{}, fmt.Errorf("transition of %q would change the id to %q", from.ID(), to.ID())
	}
	next, err := l.publish(ctx, from.Seq, to)
	if err != nil {
		return Item{}, err
	}
	// A crash here leaves both messages. The older one is handed out again (or
	// read by a sweep), is seen not to be the last, and is removed by Settle.
	gap.At(ctx, "move: stored")
	if to.State.Final() {
		// Normally empty. A command that died half way would otherwise leave a
		// second final state that nobody is ever handed. It comes before the
		// removal, so that a crash in between leaves a message that is handed out.
		l.purgeBelow(ctx, to.ID(), from.Seq)
	}
	if err := l.remove(ctx, from.Seq); err != nil {
		l.log.WarnContext(ctx, "could not remove the old state; it will be handed out once more", "order", to.ID(), "err", err)
	}
	return next, nil
}

// publishTries bounds how often one publish is asked again. Each try waits for
// the server; a worker that gives up leaves the order where it is.
const publishTries = 5

const moveHeader = "Certmill-Move"

// publish stores the record on condition that the order's last message is at
// seq. A conflict is ErrMoved. "A condition is in flight" (10164) and no answer
// mean: read, compare, decide.
func (l *Line) publish(ctx context.Context, seq uint64, o order.Order) (Item, error) {
	if !order.ValidID(o.ID()) {
		// It would be more than one token of a subject, or a wildcard in the
		// filter of a purge.
		return Item{}, fmt.Errorf("store order %q: %w", o.ID(), errBadID)
	}
	body, err := o.Encode()
	if err != nil {
		return Item{}, err
	}
	msg := nats.NewMsg(order.Subject(o.State, o.ID(), o.Lane()))
	msg.Data = body
	msg.Header.Set(moveHeader, rand.Text()) // tells our own publish from an equal one
	for try := range publishTries {
		ack, err := l.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequenceForSubject(seq, order.AllOf(o.ID())))
		if err == nil {
			return Item{Order: o, Seq: ack.Sequence}, nil
		}
		if ctx.Err() != nil {
			return Item{}, fmt.Errorf("move order %q to %s: %w", o.ID(), o.State, err)
		}
		last, lerr := l.lastRaw(ctx, o.ID())
		switch {
		case lerr == nil && last.Header.Get(moveHeader) == msg.Header.Get(moveHeader):
			return Item{Order: o, Seq: last.Sequence}, nil // the answer was lost, not the publish
		case lerr == nil && last.Sequence > seq:
			// A lower one is a stale read: it decides nothing.
			return Item{}, fmt.Errorf("move order %q to %s: %w", o.ID(), o.State, ErrMoved)
		case permanent(err):
			return Item{}, fmt.Errorf("move order %q to %s: %w", o.ID(), o.State, err)
		}
		if err := stream.Sleep(ctx, time.Duration(try+1)*100*time.Millisecond); err != nil {
			return Item{}, err
		}
	}
	return Item{}, fmt.Errorf("move order %q to %s: the server gave no clear answer", o.ID(), o.State)
}

var errBadID = errors.New("an id is lower-case letters, digits, '-' and '_', at most 63 of them, and begins with a letter or digit")

// permanent tells whether asking again is useless: the message itself was
// refused, by the server or before it was sent.
func permanent(err error) bool {
	if errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) || errors.Is(err, nats.ErrConnectionClosed) {
		return true
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.Code == 400 && api.ErrorCode != codeWrongSequence && api.ErrorCode != codeSequenceInFlight
}

// Error codes of nats-server: a condition that does not hold, and one that
// cannot be judged yet because another publish is in flight.
const (
	codeWrongSequence    jetstream.ErrorCode = 10071
	codeSequenceInFlight jetstream.ErrorCode = 10164
)

// Last returns the present state of an order. The read may be stale: act on it
// only through Move. The error wraps ErrNoOrder if the order does not exist, and
// ErrUnreadable if it does and cannot be read: then the item has its sequence.
func (l *Line) Last(ctx context.Context, id string) (Item, error) {
	raw, err := l.lastRaw(ctx, id)
	if err != nil {
		return Item{}, fmt.Errorf("read order %q: %w", id, err)
	}
	it, err := decodeItem(raw.Subject, raw.Header, raw.Data, raw.Sequence, raw.Time)
	if err != nil {
		stream.Unreadable{Subject: raw.Subject, Seq: raw.Sequence, Err: err}.Tell(ctx, l.log)
	}
	return it, err
}

func (l *Line) lastRaw(ctx context.Context, id string) (*jetstream.RawStreamMsg, error) {
	if !order.ValidID(id) {
		return nil, fmt.Errorf("%w: %w", ErrNoOrder, errBadID)
	}
	raw, err := l.orders.GetLastMsgForSubject(ctx, order.AllOf(id))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, ErrNoOrder
	}
	return raw, err
}

// decodeItem reads an order from the stream. An archived order has no body:
// its subject says all that is left of it. A record that lies under another
// order's subject was not put there by a transition.
func decodeItem(subject string, header nats.Header, data []byte, seq uint64, stored time.Time) (Item, error) {
	if o, archived := decodeArchived(subject, header, data); archived {
		return Item{Order: o, Seq: seq, Stored: stored}, nil
	}
	o, err := order.Decode(data)
	if err != nil {
		return Item{Seq: seq, Stored: stored}, fmt.Errorf("order at %s: %w: %w", subject, ErrUnreadable, err)
	}
	if !strings.HasPrefix(subject, order.Subject(o.State, o.ID(), "")) {
		return Item{Seq: seq, Stored: stored}, fmt.Errorf("order at %s: %w: it is of order %q in state %s", subject, ErrUnreadable, o.ID(), o.State)
	}
	return Item{Order: o, Seq: seq, Stored: stored}, nil
}

// hashHeader keeps the hash of an archived order, so that its message, handed in
// again, is known.
const hashHeader = "Certmill-Hash"

func decodeArchived(subject string, header nats.Header, data []byte) (order.Order, bool) {
	parts := strings.Split(subject, ".")
	if len(data) > 0 || len(parts) != 4 || parts[1] != string(order.Archived) || !order.ValidID(parts[2]) {
		return order.Order{}, false
	}
	return order.Order{V: order.SchemaVersion, State: order.Archived, Request: order.Request{ID: parts[2]}, Hash: header.Get(hashHeader)}, true
}

// Archive replaces an ended order, which was written out before, by an empty
// message, so that its id stays taken. Safe to repeat.
func (l *Line) Archive(ctx context.Context, it Item) error {
	if err := order.Check(it.State, order.Archived); err != nil {
		return err
	}
	msg := nats.NewMsg(order.Subject(order.Archived, it.ID(), it.Lane()))
	msg.Header.Set(hashHeader, it.Hash)
	ack, err := l.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequenceForSubject(it.Seq, order.AllOf(it.ID())))
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == codeWrongSequence {
		return fmt.Errorf("archive order %q: %w", it.ID(), ErrMoved)
	}
	if err != nil {
		return fmt.Errorf("archive order %q: %w", it.ID(), err)
	}
	// A crash here leaves the ended order below the empty one. Nobody is handed
	// it, and the purge of a second archiving takes it: both are listed as they
	// are.
	l.purgeBelow(ctx, it.ID(), ack.Sequence)
	return nil
}

// Settle removes the item if it is not its order's last message, and tells
// whether it is. It is what repairs a crash between publish and removal. Only
// what lies below the last message is ever removed.
func (l *Line) Settle(ctx context.Context, it Item) (last bool, err error) {
	raw, err := l.lastRaw(ctx, it.ID())
	switch {
	case errors.Is(err, ErrNoOrder):
		return false, nil // removed meanwhile
	case err != nil:
		return false, fmt.Errorf("read order %q: %w", it.ID(), err)
	case raw.Sequence > it.Seq:
		err := l.remove(ctx, it.Seq)
		l.purgeIfFinal(ctx, it.ID(), raw)
		return false, err
	case raw.Sequence < it.Seq:
		return false, fmt.Errorf("read order %q: the read is older than what is to be judged (%d < %d): ask again", it.ID(), raw.Sequence, it.Seq)
	}
	return true, nil
}

// purgeIfFinal does the last step of a final transition that a crash left out:
// what lies there may be a state that nobody is ever handed.
func (l *Line) purgeIfFinal(ctx context.Context, id string, last *jetstream.RawStreamMsg) {
	for _, s := range []order.State{order.Issued, order.Failed, order.Archived} {
		if strings.HasPrefix(last.Subject, order.Subject(s, id, "")) {
			l.purgeBelow(ctx, id, last.Sequence)
		}
	}
}

// remove deletes one message. One that is gone already is no error.
func (l *Line) remove(ctx context.Context, seq uint64) error {
	err := l.orders.DeleteMsg(ctx, seq)
	if err == nil || errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return nil
	}
	return fmt.Errorf("delete message %d: %w", seq, err)
}

func (l *Line) purgeBelow(ctx context.Context, id string, seq uint64) {
	err := l.orders.Purge(ctx, jetstream.WithPurgeSubject(order.AllOf(id)), jetstream.WithPurgeSequence(seq))
	if err != nil {
		l.log.WarnContext(ctx, "could not purge older states", "order", id, "err", err)
	}
}

// MoveByHand is Move for an operator's verb: it also purges what lies below the
// new state, so that no second state stays behind.
func (l *Line) MoveByHand(ctx context.Context, from Item, to order.Order) error {
	next, err := l.Move(ctx, from, to)
	if err == nil {
		l.purgeBelow(ctx, to.ID(), next.Seq)
	}
	return err
}
