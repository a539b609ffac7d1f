package app

import (
	"context"
	"time"

	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/stage"
	"github.com/certmill/certmill/pkg/stream"
)

// neighboursEvery is how often the signs of somebody else on an account are looked
// for: a call for each product in use.
const neighboursEvery = time.Minute

// neighbours notice whoever else uses the session's accounts.
func (s *session) neighbours(counts bool) *stage.Neighbours {
	return &stage.Neighbours{Ledger: s.ledger, States: s.states, Incarnation: s.line.Incarnation(), Log: s.log, Now: time.Now, Counts: counts}
}

// watchNeighbours looks at the rows that this process's own sweeps saw.
func (s *session) watchNeighbours(ctx context.Context, n *stage.Neighbours) error {
	for stream.Sleep(ctx, s.neighboursEvery/2) == nil {
		for _, a := range s.accounts.Mains() {
			if err := s.byAnyLabel(ctx, a.Main, n.Sweep); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "rows of nobody could not be looked at; again in a moment", "main", a.Main, "err", err)
			}
		}
	}
	return nil
}

// Throttling below our own rate is told once there was so much of it in a minute:
// a single one may be the cloud's own affair.
const (
	throttledOften = 3
	throttleEvery  = 10 * time.Second
)

// watchThrottles tells of calls that the cloud throttled although we kept below
// the limit. All replicas together keep below it (package permit), so each
// may speak for itself.
func (s *session) watchThrottles(ctx context.Context, n *stage.Neighbours) error {
	labels := map[string]string{}
	for _, a := range s.accounts.Mains() {
		labels[a.Main] = a.Label
	}
	seen, begun := map[permit.Key]int{}, time.Now()
	for stream.Sleep(ctx, throttleEvery) == nil {
		for _, r := range s.permits.Stats() {
			if times := r.Below - seen[r.Key]; times >= throttledOften {
				n.Throttled(ctx, r.Key.Account, labels[r.Key.Account], r.Key.Action, times, r.Calls)
				seen[r.Key] = r.Below
			}
			if time.Since(begun) >= time.Minute {
				seen[r.Key] = r.Below
			}
		}
		if time.Since(begun) >= time.Minute {
			begun = time.Now()
		}
	}
	return nil
}
