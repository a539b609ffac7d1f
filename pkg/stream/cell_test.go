package stream_test

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/stream"
)

func cell(t testing.TB) (jetstream.JetStream, jetstream.Stream, stream.Cell) {
	t.Helper()
	js := natstest.Connect(t, natstest.Server(t))
	s := open(t, js, lasting(1))
	return js, s, stream.At(js, s, "book.a")
}

// A write counts only on top of what was read.
func TestWriteNeedsTheLastRead(t *testing.T) {
	t.Parallel()
	_, _, c := cell(t)
	v, err := c.Read(t.Context())
	if err != nil || v.Seq != 0 || v.Data != nil {
		t.Fatalf("of an empty cell: %+v, %v", v, err)
	}
	first, err := c.Write(t.Context(), []byte("1"), v.Seq)
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{0, first.Seq + 1, first.Seq - 1} {
		if _, err := c.Write(t.Context(), []byte("x"), seq); !errors.Is(err, stream.ErrConflict) || errors.Is(err, stream.ErrNoAnswer) {
			t.Errorf("on top of %d in place of %d: %v", seq, first.Seq, err)
		}
	}
	if v, err = c.Read(t.Context()); err != nil || string(v.Data) != "1" || v.Seq != first.Seq || v.Stored.IsZero() {
		t.Errorf("read %+v, %v", v, err)
	}
}

// count adds one to a number.
func count(v stream.Value) ([]byte, error) {
	var n uint64
	if v.Seq > 0 {
		n = binary.BigEndian.Uint64(v.Data)
	}
	return binary.BigEndian.AppendUint64(nil, n+1), nil
}

// Nothing that a rival wrote is lost.
func TestRivalsChange(t *testing.T) {
	t.Parallel()
	_, _, c := cell(t)
	var wg sync.WaitGroup
	const rivals, each = 8, 5
	for range rivals {
		wg.Go(func() {
			for range each {
				if _, err := c.ChangeOnce(t.Context(), count); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	v, err := c.Read(t.Context())
	if err != nil || binary.BigEndian.Uint64(v.Data) != rivals*each {
		t.Errorf("%+v, %v", v, err)
	}
}

// deaf loses the answers of the first publishes, and where sent is false these,
// too.
type deaf struct {
	jetstream.JetStream
	times int
	sent  bool
}

func (d *deaf) Publish(ctx context.Context, subject string, data []byte, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if d.times--; d.times < 0 {
		return d.JetStream.Publish(ctx, subject, data, opts...)
	}
	if d.sent {
		if _, err := d.JetStream.Publish(ctx, subject, data, opts...); err != nil {
			return nil, err
		}
	}
	return nil, nats.ErrTimeout
}

// Without an answer Change reads again, and f finds its own change done, or
// makes it; ChangeOnce says that it does not know.
func TestChangeWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	js, s, _ := cell(t)
	for _, sent := range []bool{true, false} {
		c := stream.At(&deaf{js, 1, sent}, s, "book."+map[bool]string{true: "sent", false: "lost"}[sent])
		asked := 0
		v, err := c.Change(t.Context(), func(v stream.Value) ([]byte, error) {
			if asked++; string(v.Data) == "done" {
				return nil, nil
			}
			return []byte("done"), nil
		})
		if err != nil || asked != 2 || string(v.Data) != "done" {
			t.Errorf("sent %v: asked %d times, now %+v, %v", sent, asked, v, err)
		}
		once := stream.At(&deaf{js, 1, sent}, s, "claim."+map[bool]string{true: "sent", false: "lost"}[sent])
		if _, err := once.ChangeOnce(t.Context(), count); !errors.Is(err, stream.ErrNoAnswer) || errors.Is(err, stream.ErrConflict) {
			t.Errorf("sent %v, once: %v", sent, err)
		}
		if v, err := once.Read(t.Context()); err != nil || (v.Seq > 0) != sent {
			t.Errorf("sent %v, once: now %+v, %v", sent, v, err)
		}
	}
	if _, err := stream.At(&deaf{js, 1 << 30, false}, s, "book.never").Change(t.Context(), count); !errors.Is(err, stream.ErrNoAnswer) {
		t.Errorf("a server that never answers: %v", err)
	}
}

// What f says ends the change: nothing to do, or an error of its own.
func TestChangeIsDecidedByF(t *testing.T) {
	t.Parallel()
	_, _, c := cell(t)
	first, err := c.Change(t.Context(), count)
	if err != nil || first.Seq == 0 {
		t.Fatal(err)
	}
	own := errors.New("no")
	for _, want := range []error{nil, own} {
		v, err := c.Change(t.Context(), func(stream.Value) ([]byte, error) { return nil, want })
		if err != want || v.Seq != first.Seq {
			t.Errorf("now %+v, %v", v, err)
		}
	}
}

// Tokens are one token each, and no two texts have the same.
func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "a", "a.b", "*", ">", "x", "x612e62", "612e62", "ä", "a b", "x6", "X61"} {
		f.Add(s, "a.b")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := stream.Token(a), stream.Token(b)
		if x == "" || strings.ContainsAny(x, ".*> \t\r\n") {
			t.Errorf("%q becomes %q", a, x)
		}
		if (x == y) != (a == b) {
			t.Errorf("%q and %q become %q and %q", a, b, x, y)
		}
	})
}
