package stage

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// unsweptAfter is how long a first sweep must have failed, past the waiting time,
// for its account to count as one that cannot be swept: others then go on.
const unsweptAfter = 10 * time.Minute

// elsewhere makes an order wait while another main account may have bought for
// its names in a life whose ledger was lost: the key store knows numbers there,
// and the account was not swept since (DESIGN 12.6). One that cannot be swept
// holds nobody up for ever: that it was passed over stands in the order's story.
func (s *Submitter) elsewhere(ctx context.Context, o *order.Order) error {
	if s.Numbers == nil {
		return nil
	}
	for _, a := range s.Accounts.Mains() {
		st := s.States.State(a.Main)
		if a.Main == o.Main || st.Marked(s.Line.Incarnation()) {
			continue
		}
		known, err := s.Numbers.Callers(ctx, a.Main)
		if err != nil {
			return pipeline.Retry(fmt.Errorf("numbers of account %s: %w", a.Main, err), 0)
		}
		if len(known) == 0 {
			continue
		}
		if !unsweepable(st, a.Waits.Total(), time.Now()) {
			return pipeline.Wait(order.Wait{For: order.WaitForSweep, What: a.Main, Till: time.Now().UTC().Add(10 * time.Second)})
		}
		tellOnce(o, order.Submit, fmt.Sprintf("account %s could not be swept (%s) and may have bought for these names in a life whose ledger was lost; "+
			"it was not waited for any longer", a.Label, st.Unswept.Why))
	}
	return nil
}

// unsweepable tells whether an account counts as one that cannot be swept.
func unsweepable(st account.State, waiting time.Duration, now time.Time) bool {
	return !st.Unswept.Since.IsZero() && now.Sub(st.Unswept.Since) > waiting+unsweptAfter
}

// tellOnce adds a note to an order's story, unless it is there.
func tellOnce(o *order.Order, s order.State, note string) {
	if !slices.ContainsFunc(o.Timeline, func(e order.Event) bool { return e.Note == note }) {
		o.Tell(order.Event{At: time.Now().UTC(), State: s, Note: note})
	}
}
