package stage_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// numbers is a key store that remembers calls on these main accounts.
type numbers map[string]int

func (n numbers) Callers(_ context.Context, main string) (map[string]int, error) {
	if n[main] == 0 {
		return nil, nil
	}
	return map[string]int{"somebody": n[main]}, nil
}

// DESIGN 12.6: an account that cannot be swept holds nobody up for ever: after a lost
// ledger an order waits while another account, where the key store remembers calls,
// was not swept; one that cannot be swept is passed over after a while, and that is
// told.
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

// DESIGN 12.5: a foreign row stops the purchase, at whatever main account it lies:
// what was bought for these names at one is in the way of an order at another, until
// a person lets that cloud order pass, or it came to nothing.
func TestForeignRowElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	w.startElsewhere("ten", orderSubmit, "stage0", "same.example.com")
	w.proved(w.stranger("theirs.example.com"))
	w.sweepFirst()
	p := w.worker()
	w.publish(request("a", "same.example.com"))
	p.drive("a", order.Held)
	o := w.wantHeld("a", "exists for these names at main account "+tenUID, "certmill approve a")
	if o.Hold.Fact != order.FactUnclaimed("stage0") || w.calls(forPackage) != 1 {
		t.Errorf("held for %q after %d purchases", o.Hold.Fact, w.calls(forPackage))
	}
	w.must(p.by.Approve(t.Context(), "a"))
	p.drive("a", order.Issued)

	w.publish(order.Request{ID: "b", Account: "ten", Names: []string{"theirs.example.com"}})
	p.drive("b", order.Held)
	w.wantHeld("b", "at main account "+aliUID, "certmill approve b")
	if free := w.holder(tenUID, "stage2"); free != "" {
		t.Errorf("stage2 is held by %q", free)
	}

	short := func(d cloudsim.Duration) {
		w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.ValidationDeadline = d }))
	}
	short(cloudsim.Duration(10 * time.Millisecond))
	gone := w.stranger("gone.example.com")
	short(cloudsim.Duration(time.Minute))
	w.must(w.ledger.Report(t.Context(), aliUID, []string{"gone.example.com"}, ledger.Unclaimed{CloudID: gone, Status: "CHECKING"}))
	eventually(t, "refused", func() bool {
		return slices.ContainsFunc(w.sim.Report().Orders, func(o cloudsim.OrderReport) bool { return o.ID == gone && o.State == "failed" })
	})
	w.publish(order.Request{ID: "c", Account: "ten", Names: []string{"gone.example.com"}})
	p.drive("c", order.Issued)
}

// TestANumberIsNoWord: what an earlier build has noted of a cloud order, a number alone,
// is not shown bare, in the hold and in the list of what nobody claims.
func TestANumberIsNoWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.must(w.ledger.Report(t.Context(), aliUID, []string{"old.example.com"}, ledger.Unclaimed{CloudID: "77", Status: "1", Seen: time.Now()}))
	p := w.worker()
	w.order("a", "old.example.com")
	p.drive("a", order.Held)
	w.wantHeld("a", "cloud order 77 (state 1) exists", "certmill approve a")
	left, err := (&stage.Operator{Ledger: w.ledger, Line: w.line}).Lefts(t.Context(), w.accounts["ali"])
	if err != nil || len(left) != 1 || left[0].Status != "state 1" {
		t.Errorf("nobody claims %+v, %v", left, err)
	}
}

// eventually waits for what is stored to be known.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(natstest.Patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %s", what)
		}
	}
}
