package stage_test

import (
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/order"
)

// A refusal names verbs that are not refused in their turn.
func TestRefusalsNameWhatHelps(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Exactly(hour) }})
	ctx := t.Context()
	w.order("lost", "lost.example.com")
	w.loses("reset_after_commit")
	p := w.worker()
	p.drive("lost", order.Unsure)
	err := p.by.Cancel(ctx, "lost")
	w.wantNotNow("lost", err, "certmill adopt lost <cloud id>")
	if strings.Contains(err.Error(), "not-bought") {
		t.Errorf("%v", err)
	}
	w.later()
	p.drive("lost", order.Issuing)
	found := w.attempt("lost").Provisional
	if found == "" {
		t.Fatalf("it was not adopted: %s", w.tell("lost"))
	}
	err = p.by.Cancel(ctx, "lost")
	w.wantNotNow("lost", err, "cloud order "+found+" was found in the list")
	if strings.Contains(err.Error(), "adopt") || strings.Contains(err.Error(), "not-bought") {
		t.Errorf("%v", err)
	}
}

// An order that is held for names in service has no open attempt: what it offers is
// the answer to not-bought.
func TestNotBoughtOfAnOrderThatIsHeldForNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	for _, id := range []string{"a", "b"} {
		w.publish(request(id, "same.example.com"))
	}
	p.drive("a", order.Issued)
	p.drive("b", order.Held)
	w.wantNotNow("b", p.by.NotBought(t.Context(), "b"), "certmill approve b, or certmill cancel b")
}
