package stage

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// IssuingSweep looks after the orders that wait for the CA, by the cloud's
// lists. The list of what still waits tells what has changed; where the cloud
// lists certificates, too, its newest pages tell what was issued, with the ids
// to fetch it by, so that the long list is paged seldom. An order is asked about
// by itself only when no list explains it. Ten thousand waiting orders cost 200
// list calls a pass, not ten thousand.
//
// What it knows lies in memory: another replica, or the next process, learns it
// again from the lists. Two sweeps of one account at once do no harm.
type IssuingSweep struct {
	Accounts Accounts
	Line     *pipeline.Line
	Trouble  Trouble
	Log      *slog.Logger
	Now      func() time.Time
	// Neighbours hear of rows that are of no order here; nil: nobody does.
	Neighbours *Neighbours

	mu     sync.Mutex
	fleets map[string]*fleet // by label
}

// hands is how many orders a sweep moves at the same time.
const hands = 8

// Interval is how long the next sweep may wait: about a tenth of the time that
// orders now take, a twentieth where a sweep is one or two calls.
func (s *IssuingSweep) Interval(label string) time.Duration {
	f := s.fleet(label)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.interval()
}

func (s *IssuingSweep) fleet(label string) *fleet {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fleets == nil {
		s.fleets = map[string]*fleet{}
	}
	if s.fleets[label] == nil {
		s.fleets[label] = newFleet()
	}
	return s.fleets[label]
}

// Sweep looks at the issuing orders of an account once.
func (s *IssuingSweep) Sweep(ctx context.Context, a *Account) error {
	f := s.fleet(a.Label)
	f.turn.Lock() // of this process; the interval is asked for meanwhile
	defer f.turn.Unlock()
	if err := s.read(ctx, a, f); err != nil {
		return err
	}
	f.begin()
	for _, flow := range a.Cloud.Flows() {
		if err := s.sweepFlow(ctx, a, flow, f); err != nil {
			return err
		}
	}
	return nil
}

// read learns which orders came to issuing since the last sweep. From time to
// time it reads all, and forgets those that left by another way: a command, or
// another replica's sweep.
func (s *IssuingSweep) read(ctx context.Context, a *Account, f *fleet) error {
	all := f.readAllDue(s.Now())
	present := map[string]bool{}
	var strayed []pipeline.Item
	for _, lane := range []string{a.Label, a.Label + order.UrgentSuffix} {
		after := f.upTo[lane]
		if all {
			after = 0
		}
		err := s.Line.EachAfter(ctx, order.Issuing, lane, after, func(it pipeline.Item) error {
			f.upTo[lane] = max(f.upTo[lane], it.Seq)
			if Strayed(it.Order, a.Label, a.Main) != nil {
				strayed = append(strayed, it)
				return nil
			}
			f.add(it)
			present[it.ID()] = true
			return nil
		})
		if err != nil {
			return err
		}
	}
	if all {
		f.keep(present, s.Now())
	}
	f.age(s.Now())
	return s.hold(ctx, a, strayed)
}

// hold holds the orders that were taken for another main account than the label is of
// now: its clouds know nothing of them. One that could not be stored is held when all
// are read again.
func (s *IssuingSweep) hold(ctx context.Context, a *Account, strayed []pipeline.Item) error {
	for _, it := range strayed {
		last, err := s.Line.Settle(ctx, it)
		if err == nil && last {
			err = s.Line.Visit(ctx, it, pipeline.HandlerFunc(func(_ context.Context, o order.Order) (order.Order, error) {
				return o, ofAnother(o, a)
			}))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *IssuingSweep) sweepFlow(ctx context.Context, a *Account, flow issuer.Flow, f *fleet) error {
	orders := f.of(flow.Action())
	if len(orders) == 0 {
		return nil
	}
	l := f.lists(flow)
	err := l.readWaiting(ctx, orders, s.Now(), f.passEvery(l))
	s.Neighbours.Saw(a, l.others...)
	if err != nil {
		return err
	}
	if err := l.readCertificates(ctx, orders); err != nil {
		return err
	}
	now, began := s.Now(), time.Now()
	l.settle(now)
	issued, unexplained := l.judge(orders, now, f.grace(l))
	if o := l.probe(orders, now, f.probeEvery()); o != nil {
		unexplained = slices.Insert(unexplained, 0, o)
	}
	if err := s.collect(ctx, a, f, l, issued); err != nil {
		return err
	}
	for _, o := range unexplained {
		if time.Since(began) > s.Interval(a.Label) {
			break // the lists are old by now; the next sweep asks about the rest
		}
		o.asked, o.distance = now, min(max(2*o.distance, firstDistance), farDistance)
		if err := s.visit(ctx, f, o, func(ctx context.Context, rec order.Order) (order.Order, error) {
			rec, err := s.ask(ctx, a, flow, f, rec)
			if err == nil && rec.State == order.Collect {
				l.foundByAsking(o, now)
			}
			return rec, err
		}); err != nil {
			return err
		}
	}
	return nil
}

// collect sends on what the list of certificates shows as issued.
func (s *IssuingSweep) collect(ctx context.Context, a *Account, f *fleet, l *lists, issued []*flying) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(hands)
	l.doubt = max(l.doubt-len(issued), 0)
	for _, o := range issued {
		certID := l.certificate(o)
		g.Go(func() error {
			return s.visit(ctx, f, o, func(_ context.Context, rec order.Order) (order.Order, error) {
				f.finished(rec, s.Now())
				rec.State, rec.CertID = order.Collect, certID
				return rec, nil
			})
		})
	}
	return g.Wait()
}

// visit runs a handler on an order, if it is still where the sweep saw it.
func (s *IssuingSweep) visit(ctx context.Context, f *fleet, o *flying, h pipeline.HandlerFunc) error {
	it, err := s.Line.Last(ctx, o.id)
	switch {
	case errors.Is(err, pipeline.ErrNoOrder), errors.Is(err, pipeline.ErrUnreadable): // gone, or not ours to judge any more
		f.forget(o)
		return nil
	case err != nil:
		return err
	case it.Seq != o.seq || it.State != order.Issuing:
		// It moved on, or a crash between publish and removal left what we saw.
		f.forget(o)
		_, err := s.Line.Settle(ctx, o.item())
		return err
	}
	err = s.Line.Visit(ctx, it, h)
	if last, failed := s.Line.Last(ctx, o.id); failed == nil && last.Seq != o.seq && last.State != order.Issuing {
		f.forget(o)
	}
	return err
}

// ask decides about an order that no list explains.
func (s *IssuingSweep) ask(ctx context.Context, a *Account, flow issuer.Flow, f *fleet, o order.Order) (order.Order, error) {
	st, err := flow.Look(ctx, o.CloudID)
	if err != nil {
		if issuer.KindOf(err) == issuer.Rejected {
			return o, pipeline.Snooze(time.Second) // a look that is refused decides nothing
		}
		return o, s.Trouble.Verb(ctx, a, err)
	}
	switch st.Phase {
	case issuer.IssuedPhase:
		f.finished(o, s.Now())
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
		s.Log.WarnContext(ctx, "the cloud reports a state that no document lists", "order", o.ID(), "state", issuer.Word(st.Raw))
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
