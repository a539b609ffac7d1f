package stage_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// wantNotNow checks a refusal: its sentence, and that the order did not move.
func (w *world) wantNotNow(id string, err error, says string) {
	w.t.Helper()
	if !errors.Is(err, stage.ErrNotNow) || !strings.Contains(err.Error(), says) {
		w.t.Errorf("order %s (%s): %v, want a refusal that says %q", id, w.last(id).State, err, says)
	}
}

func TestVerbsThatTheStateRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	ctx := t.Context()
	w.order("a", "a.example.com")
	w.wantNotNow("a", p.by.Retry(ctx, "a"), "only held and failed")
	w.wantNotNow("a", p.buyAgain("a"), "only orders that ended, and held ones")
	w.wantNotNow("a", p.by.Approve(ctx, "a"), "not held for an approval")
	w.wantNotNow("a", p.by.Adopt(ctx, "a", "1"), "state submit")
	w.wantNotNow("a", p.by.NotBought(ctx, "a"), "only held orders")
	p.drive("a", order.Issued)
	for _, err := range []error{p.by.Retry(ctx, "a"), p.by.Cancel(ctx, "a"), p.by.Adopt(ctx, "a", "1"), p.by.NotBought(ctx, "a")} {
		w.wantNotNow("a", err, "state issued")
	}
	w.must(w.worker().intake.Accept(ctx, w.message([]byte("{"))))
	bad := w.line.BadID(w.seq.Load())
	w.wantNotNow(bad, p.by.Retry(ctx, bad), "mend the message")
}

// Cancelling says "never bought", so it needs what that needs (mutations
// X_LEDGERFIRST, M_NUMGIVEUP).
func TestCancelIsRefusedWhileTheOutcomeIsUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ctx := t.Context()
	p := w.lost("open", "reset_before_commit", "open.example.com")
	w.wantNotNow("open", p.by.Cancel(ctx, "open"), "unknown whether")

	w.order("number", "number.example.com")
	w.raise("number", 1)
	w.wantNotNow("number", p.by.Cancel(ctx, "number"), "the key store knows attempt 1")

	w.order("free", "free.example.com")
	mark := w.states.State(aliUID).Mark
	w.must(w.states.Change(ctx, aliUID, func(s *account.State) { s.Mark = account.Mark{} }))
	w.wantNotNow("free", p.by.Cancel(ctx, "free"), "not swept")
	w.must(w.states.Change(ctx, aliUID, func(s *account.State) { s.Mark = mark }))
	w.must(p.by.Cancel(ctx, "free"))
	p.drive("free", order.Failed)
	w.wantFailed("free", stage.ClassCancelled)
	w.wantPaid(0, "free.example.com")
}

// Cancelling a bought order keeps its claim, cleans up, and says what is left.
func TestCancelAfterThePurchase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Exactly(hour) }})
	w.order("a", "a.example.com")
	p := w.worker()
	o := p.drive("a", order.Issuing)
	if !w.shows(o.Challenges[0]) {
		t.Fatal("the challenge does not show")
	}
	w.must(p.by.Cancel(t.Context(), "a"))
	p.drive("a", order.Failed)
	f := w.wantFailed("a", stage.ClassCancelled)
	if !strings.Contains(f.Failure.Advice, o.CloudID) || w.shows(o.Challenges[0]) {
		t.Errorf("failure %+v, the challenge shows: %v", f.Failure, w.shows(o.Challenges[0]))
	}
	if c, ok := w.entry(aliUID, "a.example.com").Claim("a", 1); !ok || c.CloudID != o.CloudID {
		t.Errorf("claim %+v", c)
	}
}

// Retrying never buys again: with a claim it follows the claim, with an open
// entry it is reconciled.
func TestRetryNeverBuysAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ctx := t.Context()
	w.order("refused", "refused.example")
	p := w.worker()
	p.drive("refused", order.Failed)
	w.wantFailed("refused", stage.ClassReview)
	w.must(p.by.Retry(ctx, "refused"))
	if o := w.last("refused"); o.State != order.Verify || o.Failure != nil {
		t.Errorf("it goes to %s", w.tell("refused"))
	}
	p.drive("refused", order.Failed)
	w.wantPaid(1, "refused.example")

	heldOpen(w, "open", "open.example.com")
	w.must(p.by.Retry(ctx, "open"))
	if o := w.last("open"); o.State != order.Unsure {
		t.Errorf("it goes to %s", w.tell("open"))
	}
}

// A cancelled order may be retried: it was never bought.
func TestRetryOfACancelledOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	p := w.worker()
	w.must(p.by.Cancel(t.Context(), "a"))
	p.drive("a", order.Failed)
	w.must(p.by.Retry(t.Context(), "a"))
	p.drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, "a.example.com")
}

// With an open entry only adopt and not-bought end a hold; not-bought only when
// nothing can land any more (mutations M_NBEARLY, X_NBUSED).
func TestNotBoughtByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ctx := t.Context()
	p := w.lost("early", "reset_before_commit", "early.example.com")
	w.stranger("early.example.com")
	w.stranger("early.example.com")
	p.drive("early", order.Held)
	w.wantNotNow("early", p.by.NotBought(ctx, "early"), "may still land")
	w.wantNotNow("early", p.buyAgain("early"), "certmill adopt early <cloud id>, or certmill not-bought early")
	w.wantNotNow("early", p.by.Cancel(ctx, "early"), "unknown whether")
	w.wantNotNow("early", p.by.Approve(ctx, "early"), "not held for an approval")

	heldOpen(w, "a", "a.example.com")
	p = w.worker()
	mark := w.states.State(aliUID).Mark
	w.must(w.states.Change(ctx, aliUID, func(s *account.State) { s.Mark = account.Mark{} }))
	w.wantNotNow("a", p.by.NotBought(ctx, "a"), "not swept")
	w.must(w.states.Change(ctx, aliUID, func(s *account.State) { s.Mark = mark }))
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.ListLag = cloudsim.Exactly(hour) }))
	w.stranger("unlisted.example.com") // which the open entry of "early" could explain
	w.stranger("another.example.com")
	err := p.by.NotBought(ctx, "a")
	w.wantNotNow("a", err, "no listed order explains")
	if strings.Contains(err.Error(), "buy-again") {
		t.Errorf("it advises what is refused while the entry is open: %v", err)
	}
}

func TestNotBoughtByHandBuysOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	heldOpen(w, "a", "a.example.com")
	p := w.worker()
	w.must(p.by.NotBought(t.Context(), "a"))
	p.drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, "a.example.com")
	w.wantNotNow("a", p.by.NotBought(t.Context(), "a"), "only held orders")
}

// Adopting by hand claims; what another order has is refused.
func TestAdoptByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ctx := t.Context()
	p := w.lost("a", "reset_before_commit", "a.example.com")
	k, err := w.keys.Get(w.ref("a"))
	w.must(err)
	mine := w.buyWith(k.CSR, "a.example.com")
	w.stranger("a.example.com")
	p.drive("a", order.Held)
	w.must(p.by.Adopt(ctx, "a", mine))
	p.drive("a", order.Issued)
	if o := w.wantIssued("a"); o.CloudID != mine {
		t.Errorf("it has %s", o.CloudID)
	}
}

// DESIGN 12.5: answers and adoptions go through the owner: what is adopted by hand is
// asked for and compared: it must exist, be for these names, be nobody else's, not
// have ended, and have this order's key if it has one.
func TestAdoptIsCompared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.lost("b", "reset_before_commit", "b.example.com")
	other, others, ours := w.stranger("a.example.com"), w.stranger("b.example.com"), w.stranger("b.example.com")
	foreign := w.stranger("b.example.com")
	w.proved(foreign)
	w.must(w.ledger.Assign(t.Context(), aliUID, []string{"b.example.com", "c.example.com"}, ledger.Claim{CloudID: others, Order: "c", Purchase: 1}))
	for id, want := range map[string]string{
		"99":    "has no cloud order 99",
		"":      "has no cloud order",
		other:   "for other names",
		others:  "already claimed by another order",
		foreign: "another key",
	} {
		w.wantNotNow("b", p.by.Adopt(t.Context(), "b", id), want)
	}
	if a := w.attempt("b"); a.Ending != ledger.Open {
		t.Errorf("a refused adoption closed the attempt: %+v", a)
	}
	w.must(p.by.Adopt(t.Context(), "b", ours))
	if o, err := w.ledger.Owner(t.Context(), aliUID, ours); err != nil || o.Order != "b" {
		t.Errorf("owner %+v, %v", o, err)
	}
}

// A hold names only commands that end it: what somebody else bought for these
// names cannot be adopted, and one verb lets it pass (issue 18, money 6).
func TestHoldForAnUnclaimedRowNamesItsWayOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	ctx := t.Context()
	foreign := w.stranger("a.example.com")
	w.proved(foreign)
	w.sweepFirst()
	w.order("a", "a.example.com")
	p := w.worker()
	p.drive("a", order.Held)
	o := w.wantHeld("a", "or by somebody else", "certmill approve a")
	if all := strings.Join(o.Hold.Commands, " "); strings.Contains(all, "adopt") || !strings.Contains(o.Hold.Reason, "one more of the quota of "+plenty) {
		t.Errorf("hold %+v", o.Hold)
	}
	w.wantNotNow("a", p.by.Adopt(ctx, "a", foreign), "another key")
	w.must(p.by.Retry(ctx, "a"))
	p.drive("a", order.Held) // retry lets nothing pass
	w.must(p.by.Approve(ctx, "a"))
	p.drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(2, "a.example.com") // one is the stranger's
}

// Quota that was used by something no list shows any more is never explained: after
// a day a person's word is enough, or no verb would end the order (issue 18 point 7).
func TestNotBoughtWhatNothingEverExplains(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ctx := t.Context()
	heldOpen(w, "a", "a.example.com")
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.ListLag = cloudsim.Exactly(hour) }))
	w.stranger("unlisted.example.com")
	p := w.worker()
	w.wantNotNow("a", p.by.NotBought(ctx, "a"), "or again at")

	e := w.entry(aliUID, "a.example.com")
	e.Attempts[0].Opened = e.Attempts[0].Opened.Add(-25 * time.Hour)
	data, err := json.Marshal(e)
	w.must(err)
	_, err = w.js.Publish(ctx, "spend."+aliUID+"."+order.NamesHash([]string{"a.example.com"}), data)
	w.must(err)
	w.must(p.by.NotBought(ctx, "a"))
	p.drive("a", order.Issued)
	w.wantPaid(1, "a.example.com")
}
