package pipeline

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
	"github.com/certmill/certmill/pkg/stream"
)

var (
	// ErrMoved: the order's last message is another one than was read.
	ErrMoved = errors.New("the order has moved on")
	// ErrNoOrder: no message of this order exists.
	ErrNoOrder = errors.New("no such order")
	// ErrRemoved: no message of this order exists any more, although nothing of
	// ours ever removes the last one.
	ErrRemoved = errors.New("the order's message was removed from stream " + OrdersStream + ", and not by certmill; hand the order in again")
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
	tended   *tended
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
	l := &Line{js: js, worker: worker, log: log, ackWait: standardAckWait, tended: &tended{}}
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

// Rewrite replaces an order's record where it is: its state and everything that
// decides where it goes stay. Whoever works on it finds that it has moved on, and is
// handed it again. The error wraps ErrMoved if the item is no longer the order's
// last.
func (l *Line) Rewrite(ctx context.Context, from Item, to order.Order) error {
	if from.ID() != to.ID() || from.State != to.State || from.Lane() != to.Lane() {
		return fmt.Errorf("rewriting order %q would move it", from.ID())
	}
	// The stream keeps one message of a subject: the new one takes the old one's
	// place.
	_, err := l.publish(ctx, from.Seq, to)
	return err
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
	msg.Data = redact.Bytes(body)
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
		case seq > 0 && errors.Is(lerr, ErrNoOrder) && nothingThere(err):
			return Item{}, fmt.Errorf("move order %q to %s: %w", o.ID(), o.State, ErrRemoved)
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

// nothingThere tells whether a condition did not hold because there is no message.
func nothingThere(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == codeWrongSequence && strings.HasSuffix(api.Description, ": 0")
}

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

// Headers of an archived order: what whoever orders it again must know. Its hash
// makes its message, handed in again, known; names, publisher and place in its line
// are what a successor is held against; how it ended is what people ask.
const (
	hashHeader        = "Certmill-Hash"
	namesHeader       = "Certmill-Names"
	predecessorHeader = "Certmill-Predecessor"
	generationHeader  = "Certmill-Generation"
	publisherHeader   = "Certmill-Publisher"
	endedHeader       = "Certmill-Ended" // issued, or the failure's class
)

func decodeArchived(subject string, header nats.Header, data []byte) (order.Order, bool) {
	parts := strings.Split(subject, ".")
	if len(data) > 0 || len(parts) != 4 || parts[1] != string(order.Archived) || !order.ValidID(parts[2]) {
		return order.Order{}, false
	}
	o := order.Order{V: order.SchemaVersion, State: order.Archived, Hash: header.Get(hashHeader), Predecessor: header.Get(predecessorHeader),
		Publisher: header.Get(publisherHeader), Request: order.Request{ID: parts[2], Names: strings.Fields(header.Get(namesHeader))}}
	o.Generation, _ = strconv.Atoi(header.Get(generationHeader)) // absent: the first of its line
	if how := header.Get(endedHeader); how != "" && how != string(order.Issued) {
		o.Failure = &order.Failure{Class: how}
	}
	return o, true
}

// archived is the empty message that keeps an ended order's id taken.
func archived(o order.Order) *nats.Msg {
	msg := nats.NewMsg(order.Subject(order.Archived, o.ID(), o.Lane()))
	msg.Header.Set(hashHeader, o.Hash)
	msg.Header.Set(namesHeader, strings.Join(o.Request.Names, " "))
	msg.Header.Set(endedHeader, string(o.State))
	if o.State == order.Failed && o.Failure != nil {
		msg.Header.Set(endedHeader, o.Failure.Class)
	}
	if o.Publisher != "" {
		msg.Header.Set(publisherHeader, o.Publisher)
	}
	if o.Predecessor != "" {
		msg.Header.Set(predecessorHeader, o.Predecessor)
		msg.Header.Set(generationHeader, strconv.Itoa(o.Generation))
	}
	return msg
}

// Archive replaces an ended order, which was written out before, by an empty
// message, so that its id stays taken. Safe to repeat.
func (l *Line) Archive(ctx context.Context, it Item) error {
	if err := order.Check(it.State, order.Archived); err != nil {
		return err
	}
	ack, err := l.js.PublishMsg(ctx, archived(it.Order), jetstream.WithExpectLastSequenceForSubject(it.Seq, order.AllOf(it.ID())))
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
		return false, l.putBack(ctx, it.Order)
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

// putBack stores an order of which somebody has removed the only message, while it
// was being worked on. Nobody knows what was meant by that, so it is held for a
// person; an end stays an end. Whoever is quicker puts it back, or hands it in
// again.
func (l *Line) putBack(ctx context.Context, o order.Order) error {
	s, err := stream.Open(ctx, l.js, OrdersConfig(l.replicas))
	if err != nil {
		return err
	}
	if token, _, err := incarnationOf(s.CachedInfo()); err != nil || token != l.token {
		return fmt.Errorf("order %q belongs to another life of stream %s: %w", o.ID(), OrdersStream, err)
	}
	const why = "its message was removed from stream " + OrdersStream + ", and not by certmill, while it was worked on"
	if !o.State.Final() && o.State != order.Held {
		o = held(o, o, order.Hold{Reason: why + "; it was put back as a worker had it", Commands: orRetry(o.ID())}).next
	}
	o.Tell(l.event(o.State, why))
	_, err = l.publish(ctx, 0, o)
	if errors.Is(err, ErrMoved) {
		return nil
	}
	if err == nil {
		l.log.ErrorContext(ctx, "an order's message was removed, and not by certmill; it was put back", "order", o.ID(), "state", o.State)
	}
	return err
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
	if err == nil || NoMessage(err) {
		return nil
	}
	return fmt.Errorf("delete message %d: %w", seq, err)
}

// NoMessage tells whether a message could not be deleted because it is not there.
// The client has one error for that and for a store that cannot be written: only
// the server's words differ, and its code for a sequence that is gone (10043).
func NoMessage(err error) bool {
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true
	}
	return errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) &&
		gone.MatchString(err.Error())
}

var gone = regexp.MustCompile(`err_code=10043\b|no message found|stream store EOF`)

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
