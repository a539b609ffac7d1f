package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/redact"
)

var (
	// ErrConflict: somebody else has written since it was read. Nothing was
	// stored; read again and decide.
	ErrConflict = errors.New("it was changed since it was read")
	// ErrNoAnswer: what was sent may have been stored, or not, or may be yet.
	ErrNoAnswer = errors.New("the server gave no answer")
)

// Cell is the last message of one subject, as a value that is changed only on
// condition that it is still the one that was read. It is bound to a stream
// that Open or Ensure accepted: one that answers direct gets would read what a
// replica that lags has.
type Cell struct {
	js      jetstream.JetStream
	stream  jetstream.Stream
	subject string
}

// At is the cell of a subject, which must not have wildcards (see Token).
func At(js jetstream.JetStream, s jetstream.Stream, subject string) Cell { return Cell{js, s, subject} }

// Value is what lies in a cell.
type Value struct {
	Subject string
	Data    []byte
	Header  nats.Header
	Seq     uint64    // of the message; 0: there is none
	Stored  time.Time // by the server's clock; zero for what was just written
}

// valueOf is a message of the stream as a value.
func valueOf(raw *jetstream.RawStreamMsg) Value {
	return Value{Subject: raw.Subject, Data: raw.Data, Header: raw.Header, Seq: raw.Sequence, Stored: raw.Time}
}

// Read returns what lies there; the zero Value if nothing does.
func (c Cell) Read(ctx context.Context) (Value, error) {
	raw, err := c.stream.GetLastMsgForSubject(ctx, c.subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Value{}, nil
	}
	if err != nil {
		return Value{}, fmt.Errorf("read %s: %w", c.subject, err)
	}
	return valueOf(raw), nil
}

// Write stores data on condition that the last message is the one with this
// sequence; 0: that there is none. The error wraps ErrConflict if it is not,
// and ErrNoAnswer if nobody knows.
func (c Cell) Write(ctx context.Context, data []byte, seq uint64) (Value, error) {
	return write(ctx, c.js, c.subject, data, jetstream.WithExpectLastSequencePerSubject(seq))
}

// write stores data on a condition.
func write(ctx context.Context, js jetstream.JetStream, subject string, data []byte, on jetstream.PublishOpt) (Value, error) {
	data = redact.Bytes(data)
	ack, err := js.Publish(ctx, subject, data, on)
	switch {
	case err == nil:
		return Value{Subject: subject, Data: data, Seq: ack.Sequence}, nil
	case conflict(err):
		return Value{}, fmt.Errorf("write %s: %w", subject, ErrConflict)
	case noAnswer(err):
		return Value{}, fmt.Errorf("write %s: %w: %w", subject, ErrNoAnswer, err)
	}
	return Value{}, fmt.Errorf("write %s: %w", subject, err)
}

// conflict: 10071 is a condition that does not hold, 10164 one that cannot be
// judged yet, because a rival's write is under way; both mean to read again.
func conflict(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == 10071 || api.ErrorCode == 10164)
}

func noAnswer(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrNoStreamResponse)
}

// Change lets f decide about what lies there and stores what it returns; nil
// leaves it as it is. After a conflict, or without an answer, it reads again and
// asks f again, a bounded number of times. f MUST find its own change done: the
// one that got no answer may have been stored. Change returns what lies there
// now. An error of f is returned as it is.
func (c Cell) Change(ctx context.Context, f func(Value) ([]byte, error)) (Value, error) {
	return c.change(ctx, f, func(err error) bool {
		return errors.Is(err, ErrConflict) || errors.Is(err, ErrNoAnswer)
	})
}

// ChangeOnce is Change for an f whose change, made twice, is another one, such
// as one that counts: it is made again after a conflict only. Without an answer
// the error wraps ErrNoAnswer.
func (c Cell) ChangeOnce(ctx context.Context, f func(Value) ([]byte, error)) (Value, error) {
	return c.change(ctx, f, func(err error) bool { return errors.Is(err, ErrConflict) })
}

// tries bounds how often a change is made again.
const tries = 30

func (c Cell) change(ctx context.Context, f func(Value) ([]byte, error), again func(error) bool) (at Value, err error) {
	err = attempt(ctx, again, func() error {
		now, err := c.Read(ctx)
		if err != nil {
			return err
		}
		at = now
		data, err := f(now)
		if err != nil {
			return final{err}
		}
		if data == nil {
			return nil
		}
		next, err := c.Write(ctx, data, now.Seq)
		if err == nil {
			at = next
		}
		return err
	})
	return at, err
}

// final is an error that no further try mends.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// attempt tries to change something until it is done, a bounded number of times.
func attempt(ctx context.Context, again func(error) bool, try func() error) (err error) {
	for n := range tries {
		if err = try(); err == nil {
			return nil
		}
		if last, is := err.(final); is { //nolint:errorlint // it is ours, and on top
			return last.error
		}
		if ctx.Err() != nil || !again(err) {
			return err
		}
		if err := pause(ctx, n); err != nil {
			return err
		}
	}
	return fmt.Errorf("after %d tries: %w", tries, err)
}

// pause waits before the n-th further try: rivals that met once should not meet
// again, and a server that lags gets time.
func pause(ctx context.Context, n int) error {
	return Sleep(ctx, rand.N(min(time.Millisecond<<n, 250*time.Millisecond))+time.Millisecond)
}

// Sleep waits, and returns early, with its error, when ctx ends.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
