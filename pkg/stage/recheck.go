package stage

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Recheck looks whether the challenges of orders that wait long for the CA still
// show. One whose record is gone, because somebody removed it or the zone moved,
// goes back to verify, which places it again. It looks from outside only, and
// calls no API.
//
// What it knows lies in memory: another replica, or the next process, begins at
// the oldest order again.
type Recheck struct {
	Accounts Accounts
	Line     *pipeline.Line
	Looker   Looker
	Log      *slog.Logger
	Now      func() time.Time
	Takes    func(label string) time.Duration // how long orders now take; 0: not known

	mu     sync.Mutex
	rounds map[string]*rounds // by label; owned by mu
}

// rounds are how far the rounds of one label have come.
type rounds struct {
	turn  sync.Mutex         // held by whoever sweeps; owns what follows
	upTo  map[string]uint64  // by lane: the last message that was read
	known map[string]recheck // by order
}

// recheck is what is remembered of one order.
type recheck struct {
	next     time.Time
	distance time.Duration
	misses   int // looks in a row that did not see it
}

// Bounds of a round.
const (
	shortestWait = time.Minute      // younger orders are not looked at
	longestGrace = 15 * time.Minute // older ones are, however long orders take
	perRound     = 20               // orders that are looked at
	readPerRound = 500              // and that are read for it
	surelyHidden = 2                // looks that must miss it
	firstRecheck = time.Minute
	farRecheck   = time.Hour
)

var errEnough = errors.New("enough for this round")

// Sweep looks at some of an account's orders, those that have waited longest
// first, and goes on where the last round ended.
func (r *Recheck) Sweep(ctx context.Context, a *Account) error {
	f := r.of(a.Label)
	f.turn.Lock() // of this process; name servers that are silent hold up their own account only
	defer f.turn.Unlock()
	for _, lane := range []string{a.Label, a.Label + order.UrgentSuffix} {
		due, err := r.due(ctx, f, a, lane)
		if err != nil {
			return err
		}
		if err := r.look(ctx, due); err != nil {
			return err
		}
		for _, d := range due {
			if err := r.judge(ctx, f, d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Recheck) of(label string) *rounds {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rounds == nil {
		r.rounds = map[string]*rounds{}
	}
	if r.rounds[label] == nil {
		r.rounds[label] = &rounds{upTo: map[string]uint64{}, known: map[string]recheck{}}
	}
	return r.rounds[label]
}

// looked is one order of a round.
type looked struct {
	pipeline.Item
	proofs []order.Proof // with what this look brought
	hidden []string      // where it does not show
}

// due reads on in a lane. The stream has the oldest first, so the first one that
// is young ends the round, and the next begins anew.
func (r *Recheck) due(ctx context.Context, f *rounds, a *Account, lane string) (due []*looked, err error) {
	now, old := r.Now(), max(shortestWait, min(3*r.Takes(a.Label), longestGrace))
	read, end := 0, true
	err = r.Line.EachAfter(ctx, order.Issuing, lane, f.upTo[lane], func(it pipeline.Item) error {
		if now.Sub(it.Stored) < old {
			return errEnough
		}
		if len(due) == perRound || read == readPerRound {
			end = false
			return errEnough
		}
		read++
		f.upTo[lane] = it.Seq
		if Strayed(it.Order, a.Label, a.Main) != nil {
			return nil // the issuing sweep holds it
		}
		if len(it.Challenges) > 0 && !now.Before(f.known[it.ID()].next) {
			due = append(due, &looked{Item: it, proofs: it.Prove()})
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err == nil && end {
		f.upTo[lane] = 0
		f.forget(now)
	}
	return due, err
}

// forget drops what is long overdue: the order is not in issuing any more.
func (f *rounds) forget(now time.Time) {
	for id, k := range f.known {
		if now.Sub(k.next) > 2*farRecheck {
			delete(f.known, id)
		}
	}
}

// look looks for the challenges of some orders, several at a time.
func (r *Recheck) look(ctx context.Context, due []*looked) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(hands)
	for _, d := range due {
		g.Go(func() error {
			for i := range d.proofs {
				s, err := r.Looker.Look(ctx, d.proofs[i].Place())
				if err != nil {
					return ctx.Err() // nothing can be said: the next look may
				}
				d.proofs[i].Saw(r.Now().UTC().Truncate(time.Millisecond), s.Seen, s.Missing)
				if !s.Silent { // a server that is down says nothing about the record
					d.hidden = append(d.hidden, d.proofs[i].Missing...)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// judge sends an order back whose challenge two looks in a row did not see.
func (r *Recheck) judge(ctx context.Context, f *rounds, d *looked) error {
	k := f.known[d.ID()]
	k.distance = min(max(2*k.distance, firstRecheck), farRecheck)
	if k.misses++; len(d.hidden) == 0 {
		k.misses = 0
	} else if k.misses < surelyHidden {
		k.distance = firstRecheck
	}
	k.next = r.Now().Add(k.distance)
	f.known[d.ID()] = k
	if k.misses < surelyHidden {
		return nil
	}
	what := brief(d.hidden)
	r.Log.WarnContext(ctx, "the challenge of an order at the CA does not show any more: it is placed again", "order", d.ID(), "missing", what)
	return r.Line.Visit(ctx, d.Item, pipeline.HandlerFunc(func(_ context.Context, o order.Order) (order.Order, error) {
		o.Tell(order.Event{At: r.Now().UTC().Truncate(time.Millisecond), State: order.Issuing, Note: "its challenge does not show any more: " + what})
		o.Proofs, o.State = d.proofs, order.Verify
		return o, nil
	}))
}

// Takes is how long the orders of a label now take.
func (s *IssuingSweep) Takes(label string) time.Duration {
	f := s.fleet(label)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.takes()
}
