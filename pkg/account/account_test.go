package account

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/record"
	"github.com/certmill/certmill/pkg/stream"
)

const main = "100001"

func open(t testing.TB, s *server.Server) *Accounts {
	t.Helper()
	js := natstest.Connect(t, s)
	if _, err := stream.Ensure(t.Context(), js, Config(1)); err != nil {
		t.Fatal(err)
	}
	a, err := Open(t.Context(), js, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// bucket is what any NATS client sees of it.
func bucket(t testing.TB, a *Accounts) jetstream.KeyValue {
	t.Helper()
	kv, err := a.js.KeyValue(t.Context(), Bucket)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("timed out: %s", what)
}

func TestChangesReachEveryWorker(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	a, b := open(t, s), open(t, s)
	if st := a.State(main); st.Marked("i1") || len(st.Paused) > 0 {
		t.Errorf("an unknown account: %+v", st)
	}
	steps := []struct {
		name string
		do   func(context.Context) error
		is   func(State) bool
	}{
		{"pause", func(ctx context.Context) error { return a.Pause(ctx, main, "acme", Pause{Why: "by hand"}) },
			func(s State) bool { return s.Paused["acme"].Why == "by hand" }},
		{"pause another label", func(ctx context.Context) error { return b.Pause(ctx, main, "other", Pause{Why: "key"}) },
			func(s State) bool { return len(s.Paused) == 2 }},
		{"exhaust", func(ctx context.Context) error { return a.Exhaust(ctx, main, "p", Pause{Why: "none left"}) },
			func(s State) bool { return s.Exhausted["p"].Why == "none left" && len(s.Paused) == 2 }},
		{"resume", func(ctx context.Context) error { return b.Resume(ctx, main, "acme") },
			func(s State) bool { _, is := s.Paused["acme"]; return !is && s.Paused["other"].Why == "key" }},
		{"replenish", func(ctx context.Context) error { return a.Replenish(ctx, main, "p") },
			func(s State) bool { return len(s.Exhausted) == 0 }},
		{"mark", func(ctx context.Context) error {
			return b.Change(ctx, main, func(s *State) { s.Mark = Mark{Incarnation: "i1"} })
		},
			func(s State) bool { return s.Marked("i1") && !s.Marked("i2") && len(s.Paused) == 1 }},
	}
	for _, step := range steps {
		if err := step.do(t.Context()); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		for _, w := range []*Accounts{a, b} {
			await(t, step.name, func() bool { return step.is(w.State(main)) })
		}
	}
	late := open(t, s)
	if st := late.State(main); !st.Marked("i1") || len(st.Paused) != 1 {
		t.Errorf("a worker that starts later sees %+v", st)
	}
	if st := late.State("another"); len(st.Paused) > 0 {
		t.Errorf("another main account has %+v", st)
	}
}

// Nothing that a rival wrote is lost, and at rest everybody sees the same.
func TestRivals(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	var workers []*Accounts
	for range 4 {
		workers = append(workers, open(t, s))
	}
	var wg sync.WaitGroup
	const each = 5
	for i, w := range workers {
		for j := range each {
			wg.Go(func() {
				if err := w.Pause(t.Context(), main, fmt.Sprintf("l%d-%d", i, j), Pause{Why: "x"}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for i, w := range workers {
		await(t, fmt.Sprintf("worker %d sees all pauses", i), func() bool { return len(w.State(main).Paused) == each*len(workers) })
	}
}

// The answer to our own write may come after the watch has told of a rival's
// later one: the later one stays.
func TestTheNewestRevisionStays(t *testing.T) {
	a := open(t, natstest.Server(t))
	a.set(main, State{FirstUse: "new"}, 1<<40)
	a.set(main, State{FirstUse: "old"}, 1<<39)
	if got := a.State(main).FirstUse; got != "new" {
		t.Errorf("the state went back to %q", got)
	}
}

// A key that was deleted while nobody followed is an unknown account's.
func TestADeletedKeyIsAnUnknownAccount(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	first := open(t, s)
	if err := first.Pause(t.Context(), main, "acme", Pause{Why: "x"}); err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := bucket(t, first).Delete(t.Context(), main); err != nil {
		t.Fatal(err)
	}
	a := open(t, s)
	if err := a.Pause(t.Context(), main, "other", Pause{Why: "y"}); err != nil {
		t.Fatalf("after a deletion: %v", err)
	}
	if st := a.State(main); len(st.Paused) != 1 || st.Paused["other"].Why != "y" {
		t.Errorf("after a deletion: %+v", st)
	}
}

func TestAStateThatCannotBeReadChangesNothing(t *testing.T) {
	t.Parallel()
	a := open(t, natstest.Server(t))
	if err := a.Pause(t.Context(), main, "acme", Pause{Why: "x"}); err != nil {
		t.Fatal(err)
	}
	if _, err := bucket(t, a).Put(t.Context(), main, []byte(`{"paused":"a newer form"}`)); err != nil {
		t.Fatal(err)
	}
	if err := a.Resume(t.Context(), main, "acme"); err == nil {
		t.Error("a state of a newer program was overwritten")
	}
	if st := a.State(main); st.Paused["acme"].Why != "x" {
		t.Errorf("the last state that was understood is gone: %+v", st)
	}
}

func TestOpenWithoutAConnection(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	js.Conn().Close()
	if _, err := Open(t.Context(), js, 1, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("opened on a closed connection")
	}
}

func TestPauseOver(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		until time.Time
		over  bool
	}{{time.Time{}, false}, {now.Add(time.Second), false}, {now, false}, {now.Add(-time.Second), true}} {
		if got := (Pause{Until: c.until}).Over(now); got != c.over {
			t.Errorf("until %v: over %v", c.until, got)
		}
	}
}

// Whose the credentials are is written when it changed, and else not: each worker
// tells it at each start.
func TestIdentifiedIsWrittenOnce(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	a, b := open(t, s), open(t, s)
	ctx := t.Context()
	revision := func() uint64 {
		e, err := bucket(t, a).Get(ctx, main)
		if err != nil {
			t.Fatal(err)
		}
		return e.Revision()
	}
	tell := func(a *Accounts, label string, id Identity) uint64 {
		if err := a.Identified(ctx, main, label, id); err != nil {
			t.Fatal(err)
		}
		return revision()
	}
	clerk := Identity{Main: main, Caller: "7", Kind: "user", At: time.Unix(1000, 0).UTC()}
	first := tell(a, "acme", clerk)
	await(t, "the other worker knows", func() bool { return b.State(main).Identities["acme"] == clerk })
	again := clerk
	again.At = again.At.Add(time.Hour)
	if tell(b, "acme", again) != first || b.State(main).Identities["acme"] != clerk {
		t.Errorf("the same was written again: %+v", b.State(main).Identities)
	}
	root := Identity{Main: main, Caller: main, Kind: "account", At: again.At}
	if tell(b, "acme", root) == first || tell(a, "other", clerk) == first {
		t.Error("what changed was not written")
	}
	if got := a.State(main).Identities; len(got) != 2 || got["acme"] != root || got["other"] != clerk {
		t.Errorf("%+v", got)
	}
}

// Nobody but init makes the bucket, and one that is not as it must be is
// refused.
func TestOpenMakesNothing(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	quiet := slog.New(slog.DiscardHandler)
	for _, open := range []func(context.Context, jetstream.JetStream, int, *slog.Logger) (*Accounts, error){Open, Look} {
		if _, err := open(t.Context(), js, 1, quiet); !errors.Is(err, stream.ErrMissing) {
			t.Errorf("with no bucket: %v", err)
		}
	}
	for name := range js.StreamNames(t.Context()).Name() {
		t.Errorf("%s was made", name)
	}
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: Bucket, Metadata: map[string]string{stream.FormatKey: "2"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), js, 1, quiet); err == nil || !errors.As(err, new(*stream.Differs)) {
		t.Errorf("of a bucket that answers direct gets: %v", err)
	}
}

func consumers(t testing.TB, a *Accounts) (names []string) {
	t.Helper()
	lister := a.stream.ConsumerNames(t.Context())
	for name := range lister.Name() {
		names = append(names, name)
	}
	if err := lister.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// Whoever follows leaves nothing behind, and who only looks never has anything
// there.
func TestNoConsumerStaysBehind(t *testing.T) {
	t.Parallel()
	a := open(t, natstest.Server(t))
	if err := a.Pause(t.Context(), main, "acme", Pause{Why: "x"}); err != nil {
		t.Fatal(err)
	}
	await(t, "the consumers that follow", func() bool { return len(consumers(t, a)) == len(stateFilters) })
	a.Close()
	a.Close()
	if names := consumers(t, a); len(names) != 0 {
		t.Errorf("after Close: %q", names)
	}
	looking, err := Look(t.Context(), a.js, 0, slog.New(slog.DiscardHandler))
	if err != nil || looking.State(main).Paused["acme"].Why != "x" {
		t.Fatalf("%+v, %v", looking.State(main), err)
	}
	if err := looking.Resume(t.Context(), main, "acme"); err != nil || len(looking.State(main).Paused) != 0 {
		t.Errorf("changed: %+v, %v", looking.State(main), err)
	}
	if names := consumers(t, a); len(names) != 0 {
		t.Errorf("after a look: %q", names)
	}
	looking.Close()

	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Open(ctx, a.js, 1, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	await(t, "the consumers that follow", func() bool { return len(consumers(t, a)) == len(stateFilters) })
	cancel()
	await(t, "no consumer after the context's end", func() bool { return len(consumers(t, a)) == 0 })
}

// What another build of the same format wrote stays, whatever this one changes.
func TestStatesKeepWhatAnotherBuildWrote(t *testing.T) {
	t.Parallel()
	a := open(t, natstest.Server(t))
	kv := bucket(t, a)
	if _, err := kv.Put(t.Context(), main, []byte(`{"v":1,"new":[1],"paused":{"acme":{"why":"x","since":"2026-11-25T12:00:00Z","new":"p"}},"mark":{"incarnation":"i1","at":"2026-11-25T12:00:00Z","new":"m"}}`)); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{a.Pause(t.Context(), main, "other", Pause{Why: "y"}), a.Replenish(t.Context(), main, "p")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	e, err := kv.Get(t.Context(), main)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		V      int
		New    []int
		Paused map[string]struct{ New string }
		Mark   struct{ New string }
	}
	if err := json.Unmarshal(e.Value(), &got); err != nil || got.V != 1 || !reflect.DeepEqual(got.New, []int{1}) ||
		got.Paused["acme"].New != "p" || len(got.Paused) != 2 || got.Mark.New != "m" {
		t.Errorf("%s (%v)", e.Value(), err)
	}
}

// A state that cannot be read is told of once, counted, and left alone. Where no
// state was ever understood its labels rest: they may be paused.
func TestStatesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	first := open(t, natstest.Server(t))
	kv := bucket(t, first)
	for key, data := range map[string]string{main: `{"v":2,"paused":"a newer form"}`, "broken": `no state`} {
		if _, err := kv.Put(t.Context(), key, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	for range 2 {
		a, err := Look(t.Context(), first.js, 1, slog.New(slog.NewTextHandler(&out, nil)))
		if err != nil {
			t.Fatal(err)
		}
		unread := a.Unreadable()
		if len(unread) != 2 || !unread[0].Newer() || unread[1].Newer() || unread[0].Subject != "$KV.ACCOUNTS."+main {
			t.Errorf("%v", unread)
		}
		if p, rests := a.State(main).Rest("acme", time.Now()); !rests || !strings.Contains(p.Why, "version 2") {
			t.Errorf("an account that may be paused: %+v, %v", p, rests)
		}
		if err := a.Resume(t.Context(), main, "acme"); !errors.Is(err, record.ErrNewer) {
			t.Errorf("changing it: %v", err)
		}
	}
	await(t, "the follower counts them", func() bool { return len(first.Unreadable()) == 2 })
	if n := strings.Count(out.String(), "\n"); n > 2 {
		t.Errorf("told of %d times:\n%s", n, out.String())
	}
	if _, err := kv.Put(t.Context(), main, []byte(`{"v":1,"paused":{"acme":{"why":"x","since":"2026-11-25T12:00:00Z"}}}`)); err != nil {
		t.Fatal(err)
	}
	await(t, "the state that can be read", func() bool {
		p, rests := first.State(main).Rest("acme", time.Now())
		return rests && p.Why == "x" && len(first.Unreadable()) == 1
	})
	if _, rests := first.State(main).Rest("other", time.Now()); rests {
		t.Error("every label rests")
	}
}

// deaf loses the answers of its publishes.
type deaf struct{ jetstream.JetStream }

func (d deaf) Publish(ctx context.Context, subject string, data []byte, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if _, err := d.JetStream.Publish(ctx, subject, data, opts...); err != nil {
		return nil, err
	}
	return nil, nats.ErrTimeout
}

// A purchase whose counting got no answer is an error, not counted twice.
func TestBudgetWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	a := open(t, natstest.Server(t))
	lost := &Accounts{js: deaf{a.js}, stream: a.stream, log: a.log, states: map[string]known{}, unread: map[string]stream.Unreadable{}}
	if _, err := lost.Spend(t.Context(), main, "all", 5); !errors.Is(err, stream.ErrNoAnswer) {
		t.Errorf("%v", err)
	}
	await(t, "what was stored", func() bool { return a.State(main).Bought["all"] == 1 })
	if err := lost.Unspend(t.Context(), main, "all"); !errors.Is(err, stream.ErrNoAnswer) {
		t.Errorf("%v", err)
	}
	await(t, "what was stored", func() bool { return a.State(main).Bought["all"] == 0 })
}
