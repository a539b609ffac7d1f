package account

import (
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/natstest"
)

// What is told of a label needs no main account, is seen by all who look, once however
// many roles tell it, and gives way at once to what was answered since.
func TestTroubleOfALabel(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	a := open(t, s)
	now := time.Now()
	tell := func(role, what string) {
		t.Helper()
		if _, err := a.TellLabel(t.Context(), "acme", Trouble{Kind: AnswerTo(role, AskedWhose), What: what, Last: now}); err != nil {
			t.Fatal(err)
		}
	}
	tell("submitter", "silent")
	tell("submitter", "refused")
	tell("verifier", "refused")
	look, err := Look(t.Context(), a.js, 1, a.log)
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []*Accounts{a, look} {
		if got := who.OfLabel("acme", now); len(got) != 1 || got[0].What != "refused" || got[0].Label != "acme" {
			t.Errorf("%+v", got)
		}
		if mains, labels := who.Mains(), who.Labels(now); len(mains) > 0 || len(labels) != 1 || labels[0] != "acme" {
			t.Errorf("main accounts %v, labels %v", mains, labels)
		}
	}
	for _, role := range []string{"submitter", "verifier"} {
		if err := a.CalmLabel(t.Context(), "acme", AnswerTo(role, AskedWhose)); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.OfLabel("acme", now); len(got) > 0 || len(a.Labels(now)) > 0 {
		t.Errorf("after it is over: %+v", got)
	}
}
