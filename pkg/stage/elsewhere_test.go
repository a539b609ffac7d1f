package stage_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/order"
)

// numbers is a key store that remembers calls on these main accounts.
type numbers map[string]int

func (n numbers) Callers(_ context.Context, main string) (map[string]int, error) {
	if n[main] == 0 {
		return nil, nil
	}
	return map[string]int{"somebody": n[main]}, nil
}

// DESIGN 12.6: after a lost ledger an order waits while another account, where the
// key store remembers calls, was not swept; one that cannot be swept is passed
// over after a while, and that is told.
func TestAnotherAccountMayHaveTheNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	ctx := t.Context()
	p := w.worker()
	p.submit.Numbers = numbers{tenUID: 1}
	_, err := p.waiter.FirstSweep(ctx, w.accounts["ali"])
	w.must(err)
	w.order("a", "a.example.com")
	if o := p.drive("a", order.Waiting); o.Wait.For != order.WaitForSweep || o.Wait.What != tenUID {
		t.Fatalf("it waits for %+v", o.Wait)
	}
	w.wantPaid(0, "a.example.com")

	w.must(p.waiter.SweepFailed(ctx, tenUID, errors.New("no answer")))
	p.waiter.Now = func() time.Time { return time.Now().Add(time.Minute) }
	p.visit("a")
	if o := w.last("a"); o.State != order.Waiting || o.Wait.What != tenUID {
		t.Fatalf("as soon as it failed: %s", w.tell("a"))
	}
	w.must(w.states.Change(ctx, tenUID, func(s *account.State) { s.Unswept.Since = time.Now().Add(-time.Hour) }))
	eventually(t, "the failure is known", func() bool { return time.Since(w.states.State(tenUID).Unswept.Since) > time.Minute })
	p.drive("a", order.Issued)
	if told := w.tell("a"); !strings.Contains(told, "account ten could not be swept (no answer)") {
		t.Errorf("nothing tells that it was passed over: %s", told)
	}
	_, err = p.waiter.FirstSweep(ctx, w.accounts["ten"])
	w.must(err)
	eventually(t, "the mark", func() bool {
		s := w.states.State(tenUID)
		return s.Marked(w.line.Incarnation()) && s.Unswept.Since.IsZero()
	})
}

// eventually waits for what is stored to be known.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %s", what)
		}
	}
}
