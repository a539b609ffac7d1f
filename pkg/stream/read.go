package stream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Message is one message of a stream.
type Message struct {
	Subject string
	Header  nats.Header
	Data    []byte
	Seq     uint64
	Stored  time.Time // by the server's clock
}

// Read calls f for the messages of a stream that match filter and have a
// sequence above after, in their order, until f returns an error, which is
// returned as it is. It reads at most as many as there are when it begins, or
// what f moves would come for ever; what is written meanwhile may come twice, or
// as it was, or not at all.
func Read(ctx context.Context, s jetstream.Stream, filter string, after uint64, f func(Message) error) error {
	if b, is := s.(bare); is {
		return b.each(ctx, filter, after, f)
	}
	r := reader{stream: s, filter: filter, next: after + 1, left: math.MaxInt, f: f}
	for r.left > 0 {
		if err := r.on(ctx); err != nil {
			return err
		}
	}
	return nil
}

// ReadAll is Read that goes on until nothing more comes, for an f that writes
// nothing itself: whatever was there when it began is seen, also what was
// written anew meanwhile, in one of its versions. last is the sequence of the
// last message, or after.
func ReadAll(ctx context.Context, s jetstream.Stream, filter string, after uint64,
	f func(Message) error) (last uint64, err error) {
	for last = after; ; after = last {
		err := Read(ctx, s, filter, after, func(m Message) error { last = m.Seq; return f(m) })
		if err != nil || last == after {
			return last, err
		}
	}
}

// reader is how far a reading has come.
type reader struct {
	stream jetstream.Stream
	filter string
	next   uint64 // sequence to go on at
	left   int    // at most so many messages are read
	barren int    // pages in a row that brought nothing
	f      func(Message) error
}

// Of a reading: messages per page, how long the server may take for one, how
// many in a row may bring nothing, and how long the server keeps a consumer that
// nobody asks while f works on a page, or whose reader died.
const (
	pageSize  = 500
	pageWait  = 2 * time.Second
	maxBarren = 5
	idle      = 30 * time.Second
)

// on reads with one throw-away consumer, until everything is read or the server
// dropped the consumer because f took long.
func (r *reader) on(ctx context.Context) error {
	cons, end, err := consume(ctx, r.stream, r.filter, r.next)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.filter, err)
	}
	defer end()
	r.left = min(r.left, int(cons.CachedInfo().NumPending))
	for o := (ordered{}); r.left > 0 && ctx.Err() == nil; {
		got, err := r.page(cons, &o)
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
			return fmt.Errorf("read %s: the server counts %d more messages and delivers none", r.filter, r.left)
		}
		return ctx.Err()
	}
	return ctx.Err()
}

// page reads one page and visits it.
func (r *reader) page(cons jetstream.Consumer, o *ordered) (got int, err error) {
	batch, err := cons.Fetch(min(r.left, pageSize), jetstream.FetchMaxWait(pageWait))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", r.filter, err)
	}
	for m := range batch.Messages() {
		md, err := o.next(m)
		if err != nil {
			return got, nil // another consumer goes on where this one was
		}
		got, r.next, r.left = got+1, md.Sequence.Stream+1, r.left-1
		if err := r.f(message(m, md)); err != nil {
			return got, err
		}
		if md.NumPending == 0 { // the last one there is: do not wait for those that were removed
			r.left = 0
			break
		}
	}
	return got, nil
}

// Follow is Read that does not end: f is called for the present messages and
// then for each that comes, until ctx ends (nil), f returns an error, which is
// returned as it is, or the connection or the stream is gone. Of several quick
// messages of one subject some may be left out where the stream keeps only the
// last. No consumer stays behind when it returns, unless the connection is lost.
func Follow(ctx context.Context, s jetstream.Stream, filter string, after uint64, f func(Message) error) error {
	if b, is := s.(bare); is {
		return b.follow(ctx, filter, after, f)
	}
	r := reader{stream: s, filter: filter, next: after + 1}
	var stop error
	r.f = func(m Message) error { stop = f(m); return stop }
	for ctx.Err() == nil {
		err := r.follow(ctx)
		switch {
		case stop != nil:
			return stop
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, jetstream.ErrStreamNotFound):
			return fmt.Errorf("follow %s: %w", filter, err)
		}
		// The consumer is in memory: it goes with its server, or with a leader.
		// Another one goes on where it was.
		_ = Sleep(ctx, time.Second)
	}
	return nil
}

func (r *reader) follow(ctx context.Context) error {
	cons, end, err := consume(ctx, r.stream, r.filter, r.next)
	if err != nil {
		return err
	}
	defer end()
	msgs, err := cons.Messages(jetstream.PullMaxMessages(pageSize), jetstream.PullHeartbeat(5*time.Second))
	if err != nil {
		return err
	}
	defer msgs.Stop()
	for o := (ordered{}); ; {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		md, err := o.next(m)
		if err != nil {
			return err
		}
		r.next = md.Sequence.Stream + 1
		if err := r.f(message(m, md)); err != nil {
			return err
		}
	}
}

// Count is how many messages of a stream match filter, as a throw-away consumer
// counts them: cheap also at a million.
func Count(ctx context.Context, s jetstream.Stream, filter string) (uint64, error) {
	if b, is := s.(bare); is {
		return b.count(ctx, filter)
	}
	cons, end, err := consume(ctx, s, filter, 1)
	if err != nil {
		return 0, fmt.Errorf("count %s: %w", filter, err)
	}
	defer end()
	return cons.CachedInfo().NumPending, nil
}

// endTime is what the removal of a consumer may take. One that is not removed
// goes by itself a little later (idle).
const endTime = 2 * time.Second

// consume makes a throw-away consumer, and the function that removes it again. The
// name is ours: one whose making was not waited for can be removed, too.
func consume(ctx context.Context, s jetstream.Stream, filter string, from uint64) (jetstream.Consumer, func(), error) {
	name := rand.Text()
	end := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		_ = s.DeleteConsumer(ctx, name)
	}
	cons, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Name: name, FilterSubject: filter, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: idle,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
	})
	if err != nil {
		if ctx.Err() != nil { // the server may have made it all the same
			end()
		}
		return nil, nil, err
	}
	return cons, end, nil
}

// ordered sees that nothing was lost between the server and us: what a consumer
// without acknowledgements has sent does not come again.
type ordered struct{ last uint64 }

var errGap = errors.New("messages were lost on their way")

func (o *ordered) next(m jetstream.Msg) (*jetstream.MsgMetadata, error) {
	md, err := m.Metadata()
	if err != nil {
		return nil, err
	}
	if md.Sequence.Consumer != o.last+1 {
		return nil, errGap
	}
	o.last++
	return md, nil
}

func message(m jetstream.Msg, md *jetstream.MsgMetadata) Message {
	return Message{Subject: m.Subject(), Header: m.Headers(), Data: m.Data(),
		Seq: md.Sequence.Stream, Stored: md.Timestamp}
}
