package stage_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
)

// By DESIGN 12.6, a main account that no account of the config is of any more, where
// attempts are open, is not passed over in silence: it is told, with what to write,
// logged once, and told no more once an account of it is there again.
func TestGoneAccountIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ctx := t.Context()
	opens := func(main, id, name string) {
		e, err := w.ledger.Read(ctx, main, []string{name})
		w.must(err)
		_, _, err = w.ledger.Begin(ctx, e, ledger.Attempt{Order: id, Purchase: 1, Attempt: 1, Action: forPackage, Product: plenty})
		w.must(err)
	}
	opens("300300", "old", "old.example.com")
	opens("300300", "old-2", "older.example.com")
	opens(aliUID, "ours", "ours.example.com")
	for id, issued := range map[string]bool{"paid": false, "done": true} { // both answered
		names := []string{id + ".example.com"}
		opens("300300", id, names[0])
		e, err := w.ledger.Read(ctx, "300300", names)
		w.must(err)
		at, _ := e.OpenAttempt()
		w.must(w.ledger.Bought(ctx, "300300", names, at, "cloud-"+id, "answered"))
		if issued {
			w.must(w.ledger.Issued(ctx, "300300", names, id, time.Now(), time.Now().Add(time.Hour)))
		}
	}
	var log bytes.Buffer
	gone := stage.Gone{Accounts: w.accounts, Ledger: w.ledger, States: w.states, Log: slog.New(slog.NewTextHandler(&log, nil)), Now: time.Now}
	told := func(main string) string {
		return w.states.State(main).Troubles[account.Gone].What + "; " + w.states.State(main).Troubles[account.Gone].Helps
	}
	for range 2 {
		w.must(gone.Sweep(ctx))
	}
	for _, says := range []string{"main account 300300", "(open attempts: 2)", "bought and is not issued (1)", "that of order old,", `main: "300300"`} {
		if !strings.Contains(told("300300"), says) {
			t.Errorf("%q is not told, but %q", says, told("300300"))
		}
	}
	if told(aliUID) != "; " {
		t.Errorf("of an account of the config: %q", told(aliUID))
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("it is logged %d times:\n%s", n, log.String())
	}
	gone.Accounts = stage.Accounts{"ali": w.accounts["ali"], "unknown": {Label: "unknown", Cloud: w.accounts["ali"].Cloud}}
	w.must(gone.Sweep(ctx)) // whose that one is nobody knows yet
	gone.Accounts = stage.Accounts{"ali": w.accounts["ali"], "old": {Label: "old", Main: "300300", Cloud: w.accounts["ali"].Cloud}}
	w.must(gone.Sweep(ctx))
	if told("300300") != "; " {
		t.Errorf("it is there again, and told is %q", told("300300"))
	}
}

// A successor whose message was removed is in no file: who looks is told to make it
// anew by the order that it follows, and that brings it back with what was bought.
func TestARemovedSuccessorIsBroughtBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	for _, id := range []string{"a", "row-2"} {
		w.order(id, id+".example.com")
		p.drive(id, order.Issued)
	}
	w.must(p.buyAgain("a"))
	p.drive("a-2", order.Issued)
	s, err := w.js.Stream(t.Context(), pipeline.OrdersStream)
	w.must(err)
	for _, id := range []string{"a-2", "row-2"} {
		w.must(s.Purge(t.Context(), jetstream.WithPurgeSubject(order.AllOf(id))))
	}
	found, err := (&stage.Removed{Ledger: w.ledger, States: w.states, Line: w.line, Now: time.Now}).Find(t.Context(), aliUID)
	w.must(err)
	helps := map[string]string{}
	for _, o := range found {
		helps[o.Order] = stage.BringsBack(o)
	}
	if len(helps) != 2 || !strings.HasPrefix(helps["a-2"], "certmill buy-again a ") || !strings.HasPrefix(helps["row-2"], "hand the order in again") {
		t.Errorf("%v", helps)
	}
	w.must(p.buyAgain("a"))
	p.drive("a-2", order.Issued)
	w.wantPaid(2, "a.example.com")
}
