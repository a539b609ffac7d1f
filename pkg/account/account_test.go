package account

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/certmill/certmill/pkg/natstest"
)

const main = "100001"

func open(t testing.TB, s *server.Server) *Accounts {
	t.Helper()
	a, err := Open(t.Context(), natstest.Connect(t, s), 1)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("timed out: %s", what)
}

func TestChangesReachEveryWorker(t *testing.T) {
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

func TestADeletedKeyIsAnUnknownAccount(t *testing.T) {
	a := open(t, natstest.Server(t))
	if err := a.Pause(t.Context(), main, "acme", Pause{Why: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := a.kv.Delete(t.Context(), main); err != nil {
		t.Fatal(err)
	}
	await(t, "the pause gone", func() bool { return len(a.State(main).Paused) == 0 })
	if err := a.Pause(t.Context(), main, "other", Pause{Why: "y"}); err != nil {
		t.Fatalf("after a deletion: %v", err)
	}
	if st := a.State(main); len(st.Paused) != 1 || st.Paused["other"].Why != "y" {
		t.Errorf("after a deletion: %+v", st)
	}
}

func TestAStateThatCannotBeReadChangesNothing(t *testing.T) {
	a := open(t, natstest.Server(t))
	if err := a.Pause(t.Context(), main, "acme", Pause{Why: "x"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.kv.Put(t.Context(), main, []byte(`{"paused":"a newer form"}`)); err != nil {
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
	js := natstest.Connect(t, natstest.Server(t))
	js.Conn().Close()
	if _, err := Open(t.Context(), js, 1); err == nil {
		t.Error("opened on a closed connection")
	}
}

func TestPauseOver(t *testing.T) {
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
	s := natstest.Server(t)
	a, b := open(t, s), open(t, s)
	ctx := t.Context()
	revision := func() uint64 {
		e, err := a.kv.Get(ctx, main)
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
