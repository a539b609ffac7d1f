package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// The consumer of the inbox hands messages out in the order in which they came,
// so behind 100,000 of one publisher those of all others would wait for minutes.
// backlog looks ahead: it reads what lies behind, without taking it, and has
// those of other publishers and accounts accepted in turn (rota). A message that
// was accepted early stays in the stream until the consumer comes to it, and is
// then acknowledged at once; by another replica after it was found known. That
// is what makes it safe: accepting twice is what a redelivery is. One replica at
// a time accepts early, where it can be had, so that the work is not done twice.
//
// One consumer for each publisher would have been the other way. It says nothing
// about accounts, which stand in the message; a thousand publishers would be a
// thousand consumers (142 µs of CPU a message in place of 10, measured); and
// the filters of a work queue's consumers may not overlap. Looking ahead costs
// 50 µs of CPU a message, and only while more is waiting than there are hands.
type backlog struct {
	line    *Line
	ticket  string
	filters []string // subjects of the messages
	taker   Taker
	turns   turns
	wake    chan struct{} // there may be something to accept early
	kick    chan struct{} // there may be something to look at
	began   chan struct{} // this replica accepts early

	mu      sync.Mutex
	next    map[string]uint64      // by filter: what was not looked at yet
	seen    rota[uint64]           // sequences that wait
	waiting int                    // how many they are
	recent  [2 * intakeHands]queue // of what the consumer handed out last
	handed  map[queue]uint64       // the newest of what it did
	early   map[uint64]bool        // accepted before the consumer came to them
	newest  uint64                 // what the consumer handed out
	behind  uint64                 // what it said is waiting
	count   int                    // of what it handed out
	seenAt  int                    // count, when what was looked at last began to be
	looked  chan struct{}          // closed when it was
	panics  map[uint64]int
	told    bool // that looking ahead does not work
	silent  int  // how often in a row the inbox has not answered; -1 before it ever did
}

const (
	// lookAhead bounds what is remembered, 8 bytes each. What lies further behind
	// waits until something before it was taken.
	lookAhead = 250_000
	// lookEvery is after how many messages of the consumer what came meanwhile is
	// looked at, and lookAfter after how long. So many times lookEvery are accepted
	// at most before that was done.
	lookEvery = 32
	lookAfter = 50 * time.Millisecond
	lookLate  = 3
	// earlyTurn is how long one replica accepts early before another may, and
	// earlyOver how much longer, so that there is no pause in between.
	earlyTurn = 4 * time.Second
	earlyOver = 500 * time.Millisecond
	// manyQueues bounds what is remembered of publishers who have nothing here.
	manyQueues = 10_000
	// firstLook is how long nothing is accepted at first, so that the first ones
	// are not all of whoever came first.
	firstLook = 10 * time.Second
)

func (l *Line) backlog(ticket string, filters []string, t Taker) *backlog {
	b := &backlog{line: l, ticket: ticket, filters: filters, taker: t, silent: -1,
		wake: make(chan struct{}, 1), began: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		looked: make(chan struct{}), next: map[string]uint64{}, handed: map[queue]uint64{},
		early: map[uint64]bool{}, panics: map[uint64]int{}}
	for i := range b.recent {
		b.recent[i].publisher = " " // nobody's
	}
	return b
}

// queueOf is where a message waits.
func (b *backlog) queueOf(ctx context.Context, m Message) queue {
	q := queue{publisher: m.Publisher}
	_ = unpanicked(ctx, b.line.log, func() error { q.account = b.taker.Account(m.Data); return nil })
	return q
}

// take notes a message of the consumer's.
func (b *backlog) take(q queue, md *nats.MsgMetadata) {
	seq := md.Sequence.Stream
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recent[b.count%len(b.recent)] = q
	if len(b.handed) > manyQueues {
		clear(b.handed) // what it would have told is found known
	}
	b.handed[q] = max(b.handed[q], seq)
	b.newest = max(b.newest, seq)
	b.waiting -= b.seen.drop(q, func(s uint64) bool { return s <= b.handed[q] })
	b.behind = md.NumPending
	if b.count++; b.hidden() && b.count%lookEvery == 0 {
		signal(b.kick)
	}
	signal(b.wake) // a queue may have left those that were handed out last
}

// await waits until what came meanwhile was looked at, as long as an answer may
// take: on a busy machine a hundred messages are accepted quickly.
func (b *backlog) await(ctx context.Context) {
	b.mu.Lock()
	late, looked := b.hidden() && !b.told && b.count-b.seenAt > lookLate*lookEvery, b.looked
	b.mu.Unlock()
	if !late {
		return
	}
	signal(b.kick)
	ctx, cancel := context.WithTimeout(ctx, inboxAnswers)
	defer cancel()
	select {
	case <-looked:
	case <-ctx.Done():
	}
}

// hidden tells whether something waits that nobody here has in hand.
func (b *backlog) hidden() bool { return b.behind >= intakeHands || b.waiting > 0 }

// wasEarly tells, once, whether a message was accepted before the consumer came
// to it.
func (b *backlog) wasEarly(seq uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer delete(b.early, seq)
	return b.early[seq]
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run looks ahead and has accepted early until ctx ends.
func (b *backlog) run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	b.feel(ctx)
	b.lookFirst(ctx)
	running.Go(func() { b.acceptInTurn(ctx) })
	select {
	case <-b.began:
	case <-time.After(4 * lookAfter): // another replica does it
	}
	b.turns.open(intakeHands)
	tick, feel := time.NewTicker(lookAfter), time.NewTicker(feelEvery)
	defer tick.Stop()
	defer feel.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-feel.C:
			b.feel(ctx)
			continue
		case <-b.kick:
		case <-tick.C:
			b.mu.Lock()
			hidden := b.hidden()
			b.mu.Unlock()
			if !hidden {
				continue
			}
		}
		b.look(ctx)
	}
}

// feelEvery is how often the inbox is asked whether it is there. A variable for the
// tests only.
var feelEvery = 30 * time.Second

// feel tells when the inbox has not answered twice, which is longer than the
// election of a leader takes. Its consumer may go on all the while.
func (b *backlog) feel(ctx context.Context) {
	_, err := b.line.inInbox(ctx, b.filters[0], 1)
	switch {
	case err == nil, errors.Is(err, errNothing):
		b.silent = 0
	case ctx.Err() == nil && b.line.lost.Err() == nil && b.silent >= 0: // else we may not ask
		if b.silent++; b.silent == 2 {
			b.line.log.ErrorContext(ctx, "the inbox does not answer: who publishes an order gets no acknowledgement. "+
				"A replicated stream of nats-server 2.14.0 to 2.15.3 ends so; what was acknowledged before is taken all the same. "+
				"When no order comes any more: nats stream rm INTAKE, certmill init, and start the workers again", "err", err)
		}
	}
}

// lookFirst looks at what was there before this worker.
func (b *backlog) lookFirst(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	if n, err := b.line.Pending(ctx); err == nil && n > intakeHands {
		b.look(ctx)
	}
}

// look reads what was not looked at yet.
func (b *backlog) look(ctx context.Context) {
	b.mu.Lock()
	count := b.count
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.seenAt = count
		close(b.looked)
		b.looked = make(chan struct{})
	}()
	for _, filter := range b.filters {
		for b.room() && ctx.Err() == nil {
			m, err := b.line.inInbox(ctx, filter, b.next[filter])
			if errors.Is(err, errNothing) {
				break
			}
			if err != nil {
				b.tell(ctx, err)
				return
			}
			b.next[filter] = m.Seq + 1
			b.note(b.queueOf(ctx, m), m.Seq)
		}
	}
	if ctx.Err() == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.told = false
	}
}

// tell says once that looking ahead does not work.
func (b *backlog) tell(ctx context.Context, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() == nil && !b.told {
		b.told = true
		b.line.log.WarnContext(ctx, "cannot look ahead into the inbox; orders are taken as they came, "+
			"one publisher's behind another's", "err", err)
	}
}

// room tells whether more may be remembered, and forgets what is over.
func (b *backlog) room() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.early) > lookAhead {
		for seq := range b.early {
			if seq < b.newest { // another replica had it
				delete(b.early, seq)
			}
		}
	}
	return b.waiting+len(b.early) < 2*lookAhead && b.waiting < lookAhead
}

func (b *backlog) note(q queue, seq uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if seq > b.handed[q] {
		b.seen.add(q, seq)
		b.waiting++
		signal(b.wake)
	}
}

// acceptInTurn accepts early while it is this replica's turn.
func (b *backlog) acceptInTurn(ctx context.Context) {
	err := b.line.Ticket(ctx, b.ticket, func() time.Duration { return earlyTurn }, func(ctx context.Context) {
		signal(b.began)
		b.acceptEarly(ctx, time.After(earlyTurn+earlyOver))
	})
	if err != nil && ctx.Err() == nil { // without tickets all do it
		b.acceptEarly(ctx, nil)
	}
}

// acceptEarly accepts what waits behind other queues, at most as much at a time
// as there are hands.
func (b *backlog) acceptEarly(ctx context.Context, over <-chan time.Time) {
	var running sync.WaitGroup
	defer running.Wait()
	hands := make(chan struct{}, intakeHands)
	for ctx.Err() == nil {
		select {
		case <-over:
			return
		default:
		}
		q, seq, ok := b.pick()
		if !ok {
			select {
			case <-b.wake:
			case <-over:
				return
			case <-ctx.Done():
			}
			continue
		}
		hands <- struct{}{}
		running.Go(func() {
			defer func() { <-hands }()
			b.one(ctx, q, seq)
		})
	}
}

// pick is what is accepted next: nothing of a queue that the consumer is handing
// out anyway.
func (b *backlog) pick() (q queue, seq uint64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q, seq, ok = b.seen.next(func(q queue) bool { return slices.Contains(b.recent[:], q) })
	if ok {
		b.waiting--
	}
	return q, seq, ok
}

// one accepts one message early. A crash after it leaves the message: it is
// handed out in its turn, and found known.
func (b *backlog) one(ctx context.Context, q queue, seq uint64) {
	if b.turns.take(ctx, q) != nil {
		return
	}
	defer b.turns.give()
	work, cancel := b.line.drained(ctx, drainTime)
	defer cancel()
	m, err := b.line.inInbox(work, "", seq)
	if errors.Is(err, errNothing) {
		return // another replica has taken it
	}
	if err == nil {
		err = b.accept(work, m)
	}
	if err != nil {
		rests := b.line.notTaken(ctx, m, err, 1)
		time.AfterFunc(rests, func() { b.note(q, seq) }) // unless the consumer has come to it by then
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.early[seq] = true
}

// accept hands a message to the taker. One that makes it panic every time is
// refused, so that it does not come again for ever. Only panics count: what was
// given back for another reason harms nobody.
func (b *backlog) accept(ctx context.Context, m Message) error {
	err := unpanicked(ctx, b.line.log, func() error { return b.taker.Accept(ctx, m) })
	p, is := errors.AsType[*panicked](err)
	b.mu.Lock()
	if is {
		b.panics[m.Seq]++
	} else {
		delete(b.panics, m.Seq)
	}
	often := b.panics[m.Seq] > maxDeliveries
	b.mu.Unlock()
	if !often {
		return err
	}
	if err = b.line.refusePoison(ctx, m, p); err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.panics, m.Seq)
	}
	return err
}

// inboxAnswers is how long a read of the inbox may take. One without an answer is
// made again.
const inboxAnswers = 2 * time.Second

var errNothing = errors.New("no such message")

// inInbox reads a message of the inbox and leaves it there: the first one of a
// subject at seq or later, or without a subject the one at seq. The error is
// errNothing if there is none.
//
// The server answers in JSON. A direct get would be five times cheaper, but it
// tells subject and sequence in headers, among which whoever published the
// message has put his own (measured: a blank line among them hides the server's).
func (l *Line) inInbox(ctx context.Context, subject string, seq uint64) (Message, error) {
	ctx, cancel := context.WithTimeout(ctx, inboxAnswers)
	defer cancel()
	request, err := json.Marshal(struct {
		Seq  uint64 `json:"seq"`
		Next string `json:"next_by_subj,omitempty"`
	}{max(seq, 1), subject})
	if err != nil {
		return Message{}, err
	}
	m, err := l.js.Conn().RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.GET."+IntakeStream, request)
	if err != nil {
		return Message{}, fmt.Errorf("read the inbox: %w", err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return Message{}, fmt.Errorf("read the inbox: %w", err)
	}
	switch is := answer.Message; {
	case answer.Error != nil && answer.Error.Code == 404:
		return Message{}, errNothing
	case answer.Error != nil:
		return Message{}, fmt.Errorf("read the inbox: %w", answer.Error)
	default:
		return inboxMessage(is.Subject, is.Data, is.Seq, is.Time), nil
	}
}

// inboxMessage is a message of the inbox: its subject tells who published it.
func inboxMessage(subject string, data []byte, seq uint64, stored time.Time) Message {
	return Message{subject: subject, Data: data, Publisher: PublisherOf(subject),
		Urgent: strings.HasPrefix(subject, UrgentSubject), Seq: seq, Stored: stored}
}

// PublisherOf is who publishes to a subject of the inbox; "" for one without a
// name.
func PublisherOf(subject string) string {
	if parts := strings.Split(subject, "."); len(parts) == 3 {
		return parts[2]
	}
	return ""
}

// retold is at every how manyth try it is told again that a message is not taken.
const retold = 300

// notTaken tells why a message was not taken, and returns how long it rests.
func (l *Line) notTaken(ctx context.Context, m Message, err error, deliveries uint64) time.Duration {
	if errors.Is(err, ErrUnreadable) || errors.Is(err, order.ErrNewer) {
		// What is in its way only another program can read.
		stream.Unreadable{Subject: m.subject, Seq: m.Seq, Err: err}.Tell(ctx, l.log)
		return unreadRest(l.ackWait, deliveries)
	}
	level := slog.LevelDebug
	if deliveries%retold == 1 {
		level = slog.LevelWarn
	}
	l.log.Log(ctx, level, "order message not taken yet", "seq", m.Seq, "tries", deliveries, "err", err)
	return intakeRest
}
