package account

import (
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/stream"
)

// TestDeletedStatesArePutBack: what nats kv del takes away is there again: a paused
// account stays paused, and what was counted stays counted, also for a change that
// comes in between. The server refuses nats kv purge.
func TestDeletedStatesArePutBack(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	a, b := open(t, s), open(t, s)
	if err := a.Pause(t.Context(), main, "acme", Pause{Why: "by hand"}); err != nil {
		t.Fatal(err)
	}
	await(t, "the other knows", func() bool { return b.State(main).Paused["acme"].Why != "" })
	kv := bucket(t, a)
	if err := kv.Purge(t.Context(), main); err == nil {
		t.Error("it was purged")
	}
	if err := kv.Delete(t.Context(), main); err != nil {
		t.Fatal(err)
	}
	await(t, "it is there again, by itself", func() bool {
		e, err := kv.Get(t.Context(), main)
		return err == nil && strings.Contains(string(e.Value()), "by hand")
	})
	for range 3 {
		if err := kv.Delete(t.Context(), main); err != nil {
			t.Fatal(err)
		}
		if err := b.Exhaust(t.Context(), main, "p", Pause{Why: "none left"}); err != nil {
			t.Fatal(err)
		}
		both := func(s State) bool { return s.Paused["acme"].Why == "by hand" && s.Exhausted["p"].Why == "none left" }
		await(t, "it is there again, with both", func() bool {
			e, err := kv.Get(t.Context(), main)
			if err != nil {
				return false
			}
			s, err := decode(stream.Value{Data: e.Value(), Seq: e.Revision()})
			return err == nil && both(s)
		})
		await(t, "everybody knows", func() bool { return both(a.State(main)) && both(b.State(main)) })
	}
}
