package stage

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// IssuingSweep looks after the orders that wait for the CA. It pages the
// cloud's list of what still waits and compares; only orders that are no longer
// listed are asked about. Ten thousand waiting orders cost 200 list calls, not
// ten thousand.
type IssuingSweep struct {
	Accounts Accounts
	Line     *pipeline.Line
	Trouble  Trouble
	Log      *slog.Logger
	Now      func() time.Time

	mu      sync.Mutex
	notes   map[string]note          // by order id; lost with the process, then learned again
	average map[string]time.Duration // by label: how long orders now take
}

// note is what the sweep remembers of one order between two rounds.
type note struct {
	instance string // CAS instance id, by which the certificate list names it
	asked    time.Time
	distance time.Duration // until it is asked about again
}

// Bounds of the sweep's rhythm.
const (
	shortestSweep = time.Second
	longestSweep  = 5 * time.Minute
	firstDistance = 2 * time.Second
	farDistance   = 10 * time.Minute
)

// Interval is about a tenth of the time that orders now take.
func (s *IssuingSweep) Interval(label string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(max(s.average[label]/10, shortestSweep), longestSweep)
}

// Sweep looks at the issuing orders of an account once.
func (s *IssuingSweep) Sweep(ctx context.Context, a *Account) error {
	byFlow := map[string][]pipeline.Item{}
	for _, lane := range []string{a.Label, a.Label + order.UrgentSuffix} {
		err := s.Line.Each(ctx, order.Issuing, lane, func(it pipeline.Item) error {
			byFlow[it.Operation] = append(byFlow[it.Operation], it)
			return nil
		})
		if err != nil {
			return err
		}
	}
	for op, items := range byFlow {
		if f := a.Flows[op]; f != nil {
			if err := s.sweepFlow(ctx, a, f, items); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *IssuingSweep) sweepFlow(ctx context.Context, a *Account, f issuer.Flow, items []pipeline.Item) error {
	waits := map[string]issuer.Row{}
	if err := eachRow(ctx, f.Waiting, func(row issuer.Row) error { waits[row.CloudID] = row; return nil }); err != nil {
		return err
	}
	var changed []pipeline.Item
	for _, it := range items {
		if s.changed(it, waits) {
			changed = append(changed, it)
		}
	}
	certs, err := s.certificates(ctx, f, changed)
	if err != nil {
		return err
	}
	for _, it := range changed {
		if err := s.Line.Visit(ctx, it, pipeline.HandlerFunc(func(ctx context.Context, o order.Order) (order.Order, error) {
			return s.ask(ctx, a, f, o, certs[s.instance(o.ID())])
		})); err != nil {
			return err
		}
	}
	return nil
}

// changed tells whether an order is to be asked about: it was listed and no
// longer is, or the list, which lags, should have shown it by now, or it has
// names for which no challenge was shown yet (CAS has room for one at a time).
// Each further time is at twice the distance.
func (s *IssuingSweep) changed(it pipeline.Item, waits map[string]issuer.Row) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notes == nil {
		s.notes = map[string]note{}
	}
	n, known := s.notes[it.ID()]
	if row, still := waits[it.CloudID]; still {
		if len(it.Challenges) >= len(it.Request.Names) {
			s.notes[it.ID()] = note{instance: row.InstanceID} // once it is gone, it is asked about at once
			return false
		}
		n.instance = row.InstanceID
	}
	if !known { // it may have been issued before it was ever listed
		n.asked, n.distance = it.Stored, firstDistance
	}
	due := s.Now().Sub(n.asked) >= n.distance
	if due {
		n.asked, n.distance = s.Now(), min(max(2*n.distance, firstDistance), farDistance)
	}
	s.notes[it.ID()] = n
	return due
}

func (s *IssuingSweep) instance(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notes[id].instance
}

// certificates reads the newest pages of the certificate list, as long as they
// bring ids that are wanted: one call for many orders.
func (s *IssuingSweep) certificates(ctx context.Context, f issuer.Flow, changed []pipeline.Item) (map[string]string, error) {
	l, ok := f.(issuer.CertLister)
	wanted := map[string]bool{}
	for _, it := range changed {
		if i := s.instance(it.ID()); i != "" {
			wanted[i] = true
		}
	}
	found := map[string]string{}
	if !ok || len(wanted) == 0 {
		return found, nil
	}
	for page := 0; len(found) < len(wanted) && page < maxPages; page++ {
		p, err := l.Certificates(ctx, page)
		if err != nil {
			return nil, fmt.Errorf("list certificates: %w", err)
		}
		brought := false
		for _, row := range p.Rows {
			if wanted[row.InstanceID] {
				found[row.InstanceID], brought = row.CertID, true
			}
		}
		if !brought || !p.More {
			break
		}
	}
	return found, nil
}

// ask decides about an order that the list no longer shows as waiting.
func (s *IssuingSweep) ask(ctx context.Context, a *Account, f issuer.Flow, o order.Order, certID string) (order.Order, error) {
	if certID != "" {
		s.finished(a, o)
		o.State, o.CertID = order.Collect, certID
		return o, nil
	}
	st, err := f.Look(ctx, o.CloudID)
	if err != nil {
		if issuer.KindOf(err) == issuer.Rejected {
			return o, pipeline.Snooze(time.Second) // a look that is refused decides nothing
		}
		return o, s.Trouble.Verb(ctx, a, err)
	}
	switch st.Phase {
	case issuer.IssuedPhase:
		s.finished(a, o)
		o.State, o.CertID = order.Collect, st.CertID
	case issuer.Refused:
		return o, refusedByCA(o, st)
	case issuer.Challenged:
		more := further(o.Challenges, st.Challenges)
		if len(more) == 0 {
			return o, pipeline.Snooze(time.Second)
		}
		// The earlier ones stay: they must show until the order ends.
		o.Challenges, o.Placed, o.State = append(slices.Clone(o.Challenges), more...), true, order.Verify
	case issuer.Unlisted:
		s.Log.WarnContext(ctx, "the cloud reports a state that no document lists", "order", o.ID(), "state", st.Raw)
		return o, pipeline.Snooze(time.Second)
	default:
		return o, pipeline.Snooze(time.Second)
	}
	return o, nil
}

// further are the challenges that an order does not know yet.
func further(known, shown []order.Challenge) []order.Challenge {
	var more []order.Challenge
	for _, c := range shown {
		if !slices.Contains(known, c) {
			more = append(more, c)
		}
	}
	return more
}

// finished learns how long orders now take, as a moving average, and forgets
// the order.
func (s *IssuingSweep) finished(a *Account, o order.Order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.notes, o.ID())
	if len(o.Timeline) == 0 {
		return
	}
	took := s.Now().Sub(o.Timeline[len(o.Timeline)-1].At)
	if s.average == nil {
		s.average = map[string]time.Duration{}
	}
	if was := s.average[a.Label]; was > 0 {
		took = (4*was + took) / 5
	}
	s.average[a.Label] = took
}
