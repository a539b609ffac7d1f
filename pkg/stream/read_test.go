package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/stream"
)

// patience is how long a test waits for an event that must come.
const patience = time.Minute

func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("timed out: %s", what)
}

// written makes a stream with n messages, book.0 and so on, of which each has
// its number.
func written(t testing.TB, js jetstream.JetStream, replicas, n int) jetstream.Stream {
	t.Helper()
	s := open(t, js, lasting(replicas))
	for i := range n {
		write(t, js, i)
	}
	return s
}

func write(t testing.TB, js jetstream.JetStream, i int) uint64 {
	t.Helper()
	ack, err := js.Publish(t.Context(), fmt.Sprintf("book.%d", i), fmt.Append(nil, i))
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

func consumers(t testing.TB, s jetstream.Stream) []string {
	t.Helper()
	var names []string
	lister := s.ConsumerNames(t.Context())
	for name := range lister.Name() {
		names = append(names, name)
	}
	if err := lister.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// All messages that match come, in their order, and no consumer is left.
func TestRead(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	const n = 1200 // more than two pages
	s := written(t, js, 1, n)
	if _, err := js.Publish(t.Context(), "claim.x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	read := func(filter string, after uint64) int {
		t.Helper()
		seqs = nil
		err := stream.Read(t.Context(), s, filter, after, func(m stream.Message) error {
			if m.Stored.IsZero() || m.Subject != "claim.x" && m.Subject != "book."+string(m.Data) {
				t.Errorf("%+v", m)
			}
			seqs = append(seqs, m.Seq)
			return nil
		})
		if err != nil || !slices.IsSorted(seqs) {
			t.Fatalf("%s after %d: %v, in the order %d", filter, after, err, seqs)
		}
		return len(seqs)
	}
	if got := read("book.*", 0); got != n {
		t.Errorf("%d of %d", got, n)
	}
	if got := read("book.*", seqs[n-11]); got != 10 {
		t.Errorf("%d of the last 10", got)
	}
	if got := read("book.*", seqs[len(seqs)-1]); got != 0 {
		t.Errorf("%d after the last one", got)
	}
	if all, none := read(">", 0), read("nothing.*", 0); all != n+1 || none != 0 {
		t.Errorf("%d of all, %d of none", all, none)
	}
	boom := errors.New("boom")
	if err := stream.Read(t.Context(), s, "book.*", 0, func(stream.Message) error { return boom }); err != boom {
		t.Errorf("f's error is lost: %v", err)
	}
	for filter, want := range map[string]uint64{"book.*": n, "claim.*": 1, "nothing.*": 0} {
		if got, err := stream.Count(t.Context(), s, filter); err != nil || got != want {
			t.Errorf("%d match %s, want %d (%v)", got, filter, want, err)
		}
	}
	if names := consumers(t, s); len(names) != 0 {
		t.Errorf("throw-away consumers are left: %q", names)
	}
}

// Messages that f itself writes again, or that vanish before they are read,
// neither end the reading nor prolong it.
func TestReadUnderChange(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	const n = 1200
	want := lasting(1)
	want.DenyDelete, want.DenyPurge = false, false
	s := open(t, js, want)
	for i := range n {
		write(t, js, i)
	}
	seen := map[string]int{}
	err := stream.Read(t.Context(), s, "book.*", 0, func(m stream.Message) error {
		if seen[m.Subject]++; len(seen) == 1 {
			for i := n - 100; i < n; i++ {
				if err := s.Purge(t.Context(), jetstream.WithPurgeSubject(fmt.Sprintf("book.%d", i))); err != nil {
					return err
				}
			}
		}
		_, err := js.Publish(t.Context(), m.Subject, m.Data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	visits := 0
	for i := range n - 100 {
		if seen[fmt.Sprintf("book.%d", i)] == 0 {
			t.Fatalf("book.%d was never seen", i)
		}
	}
	for _, times := range seen {
		visits += times
	}
	if visits > n {
		t.Errorf("%d visits for %d messages", visits, n)
	}
}

// What is written anew before it was read, while what was read is written anew,
// too, fills the bound of Read, but not that of ReadAll.
func TestReadAllMissesNothing(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	const n = 1000 // of which the first page has half
	s := written(t, js, 1, n)
	seen := map[string]bool{}
	last, err := stream.ReadAll(t.Context(), s, "book.*", 0, func(m stream.Message) error {
		if seen[m.Subject] = true; len(seen) == 1 {
			for i := range n {
				write(t, js, i)
			}
		}
		return nil
	})
	end, _ := s.Info(t.Context())
	if err != nil || len(seen) != n || last != end.State.LastSeq {
		t.Errorf("saw %d of %d, up to %d of %d: %v", len(seen), n, last, end.State.LastSeq, err)
	}
	if last, err := stream.ReadAll(t.Context(), s, "book.*", last, func(stream.Message) error { return nil }); err != nil || last != end.State.LastSeq {
		t.Errorf("after the last one: %d, %v", last, err)
	}
}

// A visit that takes longer than the consumer lives does not end the reading.
func TestReadOutlivesItsConsumer(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	const n = 1200
	s := written(t, js, 1, n)
	seen, lost := map[string]bool{}, 0
	err := stream.Read(t.Context(), s, "book.*", 0, func(m stream.Message) error {
		if seen[m.Subject] = true; len(seen)%500 == 250 { // as the server does when it was idle for long
			for _, name := range consumers(t, s) {
				lost++
				if err := s.DeleteConsumer(t.Context(), name); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil || len(seen) != n || lost == 0 {
		t.Errorf("saw %d of %d, %d consumers lost, %v", len(seen), n, lost, err)
	}
}

// silent counts messages and delivers none, as a server that is just coming up.
type silent struct {
	jetstream.Stream
	times *atomic.Int32
}

func (s silent) CreateConsumer(ctx context.Context, c jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	cons, err := s.Stream.CreateConsumer(ctx, c)
	if err == nil && s.times.Add(-1) >= 0 {
		return mute{cons}, nil
	}
	return cons, err
}

type mute struct{ jetstream.Consumer }

func (mute) Fetch(int, ...jetstream.FetchOpt) (jetstream.MessageBatch, error) { return nothing{}, nil }

type nothing struct{ jetstream.MessageBatch }

func (nothing) Messages() <-chan jetstream.Msg {
	c := make(chan jetstream.Msg)
	close(c)
	return c
}

// A server that lags gets some tries; one that never delivers what it counts is
// an error, and no end.
func TestReadOfALaggingServer(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	s := written(t, js, 1, 10)
	for times, works := range map[int32]bool{3: true, 1 << 30: false} {
		var left atomic.Int32
		left.Store(times)
		n := 0
		err := stream.Read(t.Context(), silent{s, &left}, "book.*", 0, func(stream.Message) error { n++; return nil })
		if (err == nil) != works || works != (n == 10) {
			t.Errorf("silent %d times: read %d, %v", times, n, err)
		}
	}
	if names := consumers(t, s); len(names) != 0 {
		t.Errorf("throw-away consumers are left: %q", names)
	}
}

// follow collects what Follow sends, until the test ends or stop is called.
func follow(t testing.TB, s jetstream.Stream, after uint64) (got <-chan stream.Message, stop func() error) {
	c, ended := make(chan stream.Message, 10_000), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- stream.Follow(ctx, s, "book.*", after, func(m stream.Message) error { c <- m; return nil })
	}()
	return c, func() error { cancel(); return <-ended }
}

func next(t testing.TB, got <-chan stream.Message) stream.Message {
	t.Helper()
	select {
	case m := <-got:
		return m
	case <-time.After(patience):
		t.Fatal("timed out: the next message")
		panic("unreachable")
	}
}

// What is there comes, then what is written; also after the consumer was lost.
// When it ends nothing stays behind.
func TestFollow(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	s := written(t, js, 1, 3)
	got, stop := follow(t, s, 0)
	for i := range 3 {
		if m := next(t, got); string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("message %d is %+v", i, m)
		}
	}
	write(t, js, 3)
	last := next(t, got)
	for _, name := range consumers(t, s) {
		if err := s.DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if seq := write(t, js, 4); next(t, got).Seq != seq {
		t.Error("after the loss of its consumer another message came")
	}
	later, stopLater := follow(t, s, last.Seq)
	if m := next(t, later); string(m.Data) != "4" {
		t.Errorf("after %d: %+v", last.Seq, m)
	}
	for _, stop := range []func() error{stop, stopLater} {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	if names := consumers(t, s); len(names) != 0 {
		t.Errorf("consumers are left: %q", names)
	}
	if len(got)+len(later) != 0 {
		t.Errorf("%d and %d messages too many", len(got), len(later))
	}
}

func TestFollowEndsWithAnError(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	s := written(t, js, 1, 1)
	boom := errors.New("boom")
	if err := stream.Follow(t.Context(), s, "book.*", 0, func(stream.Message) error { return boom }); err != boom {
		t.Errorf("f's error is lost: %v", err)
	}
	if names := consumers(t, s); len(names) != 0 {
		t.Errorf("consumers are left: %q", names)
	}
}

// Without its stream, or its connection, following is over.
func TestFollowEndsWithWhatItStandsOn(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"stream", "connection"} {
		js := natstest.Connect(t, natstest.Server(t))
		s := written(t, js, 1, 1)
		ended, begun := make(chan error, 1), make(chan struct{}, 1)
		go func() {
			ended <- stream.Follow(t.Context(), s, "book.*", 0, func(stream.Message) error { begun <- struct{}{}; return nil })
		}()
		<-begun
		if what == "connection" {
			js.Conn().Close()
		} else if err := js.DeleteStream(t.Context(), s.CachedInfo().Config.Name); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("the %s is gone, and it ended without an error", what)
			}
		case <-time.After(patience):
			t.Fatalf("the %s is gone, and it goes on", what)
		}
	}
}

// In a cluster reading and following survive the loss of a server.
func TestReadAndFollowInACluster(t *testing.T) {
	t.Parallel()
	servers := natstest.Cluster(t)
	js := natstest.Connect(t, servers[0])
	const n = 100
	s := written(t, js, 3, n)
	got, stop := follow(t, s, 0)
	for range n {
		next(t, got)
	}
	servers[1].Shutdown()
	servers[1].WaitForShutdown()
	var seq uint64
	await(t, "a write after the loss of a server", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		ack, err := js.Publish(ctx, "book.new", []byte("new"))
		if err == nil {
			seq = ack.Sequence
		}
		return err == nil
	})
	for next(t, got).Seq < seq {
	}
	seen := 0
	await(t, "a reading", func() bool {
		seen = 0
		return stream.Read(t.Context(), s, "book.*", 0, func(stream.Message) error { seen++; return nil }) == nil
	})
	if seen != n+1 {
		t.Errorf("read %d of %d", seen, n+1)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	await(t, "no consumer left", func() bool { return len(consumers(t, s)) == 0 })
}
