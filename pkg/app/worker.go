package app

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
	"github.com/certmill/certmill/pkg/stream"
)

// work runs one worker on a session until ctx ends; then it stops fetching,
// lets its handlers finish and gives the rest back.
func (s *session) work(ctx context.Context, r order.Role) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.govern(ctx) })
	switch r {
	case order.Submitter:
		s.submitter(ctx, g)
	case order.Verifier:
		if err := s.verifier(ctx, g); err != nil {
			return err
		}
	case order.Collector:
		if err := s.collector(ctx, g); err != nil {
			return err
		}
	default:
		return fmt.Errorf("no worker is called %q", r)
	}
	return g.Wait()
}

func (s *session) submitter(ctx context.Context, g *errgroup.Group) {
	intake := stage.Intake{Accounts: s.accounts, Ledger: s.ledger, Line: s.line, Log: s.log, Sealer: s.recipients, Keys: s.keys, Publishers: s.cfg.publishers()}
	for _, urgent := range []bool{false, true} {
		g.Go(func() error {
			return s.while(ctx, s.roomy, func(ctx context.Context) error { return s.line.Intake(ctx, urgent, intake) })
		})
	}
	s.lanes(ctx, g, order.Submit, &stage.Submitter{Accounts: s.accounts, Ledger: s.ledger, States: s.states,
		Keys:   feltKeys{s.keys, s.place(account.KeyStorePlace)},
		Sealer: s.recipients, Usages: &stage.Usages{Now: s.ledger.Now}, Pools: &stage.Pools{}, Trouble: s.trouble(), Budgets: s.budgets(), Flight: s.flight(), Duplicates: s.cfg.Duplicates == duplicatesAllow, Line: s.line, Numbers: s.keys, MayBuy: s.mayBuy})

	reconciler := &stage.Reconciler{Accounts: s.accounts, Ledger: s.ledger, States: s.states, Line: s.line, Guard: s.guard(), Log: s.log, Now: time.Now}
	neighbours := s.neighbours(true)
	g.Go(func() error { return s.watchThrottles(ctx, neighbours) })
	waiter := &stage.Waiter{Accounts: s.accounts, Ledger: s.ledger, States: s.states, Line: s.line, Guard: s.guard(), Log: s.log, Now: time.Now}
	s.sweepGone(ctx, g)
	for i, a := range s.accounts.Mains() {
		pace := &pace{}
		removed := &stage.Removed{Ledger: s.ledger, States: s.states, Line: s.line, Log: s.log, Now: time.Now}
		if i == 0 { // a key's main account stands elsewhere
			removed.Keys = s.keys
		}
		s.sweepMain(ctx, g, "removed", a.Main,
			func() time.Duration { return pace.every(s.removedEvery) }, pace.timed(removed.Sweep))
		s.sweepMain(ctx, g, "neighbours", a.Main, func() time.Duration { return s.neighboursEvery }, neighbours.Sweep)
		s.firstSweep(ctx, g, waiter, a.Main)
		s.sweepMain(ctx, g, "surplus", a.Main, func() time.Duration { return waiter.SurplusEvery(a.Main) }, s.lists(waiter.Surplus))
	}
	for _, a := range s.accounts {
		s.sweep(ctx, g, "unsure", a, nil, reconciler.Sweep)
		s.sweep(ctx, g, "waiting", a, nil, waiter.Sweep)
	}
}

func (s *session) verifier(ctx context.Context, g *errgroup.Group) error {
	book, err := s.book()
	if err != nil {
		return err
	}
	if s.files.handler != nil {
		g.Go(func() error { return serveFiles(ctx, s.cfg.DCV.Serve, s.files.handler, s.log) })
	}
	s.lanes(ctx, g, order.Verify, &stage.Verifier{Accounts: s.accounts, Solvers: s.solvers, Placed: book, Looker: s.looker, Since: s.line.Since(), Trouble: s.trouble(), Pace: &stage.Pace{}, Rights: s.rights()})
	checks := &stage.Checks{Accounts: s.accounts, Solvers: s.solvers, Placed: book, States: s.states, Log: s.log}
	g.Go(func() error { return checks.Serve(ctx) })
	neighbours := s.neighbours(false)
	g.Go(func() error { return s.watchNeighbours(ctx, neighbours) })
	issuing := &stage.IssuingSweep{Accounts: s.accounts, Line: s.line, Trouble: s.trouble(), Log: s.log, Now: time.Now, Neighbours: neighbours}
	recheck := &stage.Recheck{Accounts: s.accounts, Line: s.line, Looker: s.looker, Log: s.log, Now: time.Now, Takes: issuing.Takes}
	for _, a := range s.accounts {
		s.sweep(ctx, g, "issuing", a, func() time.Duration { return issuing.Interval(a.Label) }, issuing.Sweep)
		s.sweep(ctx, g, "recheck", a, func() time.Duration { return recheckEvery }, recheck.Sweep)
	}
	return nil
}

// book is that of what was placed, with its copy, if there is to be one.
func (s *session) book() (*ledger.Placed, error) {
	if s.cfg.DCV.Copy == "" {
		return s.placed, nil
	}
	c, err := ledger.OpenCopy(absolute(s.cfg.DCV.Copy))
	return s.placed.Copied(c), err
}

// recheckEvery is how often some of the orders that wait long for the CA are
// looked at from outside.
const recheckEvery = 30 * time.Second

func (s *session) collector(ctx context.Context, g *errgroup.Group) error {
	book, err := s.book()
	if err != nil {
		return err
	}
	guard := s.guard()
	c := &stage.Collector{Accounts: s.accounts, Ledger: s.ledger, Solvers: s.solvers, Placed: book, Sinks: s.sinks, Sealer: s.recipients,
		Trouble: s.trouble(), Guard: &guard}
	if s.identities != nil { // a nil pointer in the interface would not be nil
		c.Opener = s.identities
	}
	s.lanes(ctx, g, order.Collect, c)
	s.sweepPlaced(ctx, g, book)
	return nil
}

// sweepPlaced removes what lies in the DNS and on web servers and no order needs
// any more.
func (s *session) sweepPlaced(ctx context.Context, g *errgroup.Group, book *ledger.Placed) {
	placed := &stage.PlacedSweep{Accounts: s.accounts, Placed: book, Solvers: s.solvers, Line: s.line, Trouble: s.trouble(), Log: s.log,
		Now: time.Now, Older: s.cfg.DCV.CleanUp}
	g.Go(func() error {
		return s.line.Ticket(ctx, "placed", func() time.Duration { return s.cfg.DCV.CleanUp / 2 }, func(ctx context.Context) {
			if err := placed.Sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "sweep failed; the next one comes by itself", "sweep", "placed", "err", err)
			}
		})
	})
}

func (s *session) budgets() stage.Budgets {
	zone, _ := time.LoadLocation(s.cfg.Zone) // checked when the config was read
	return stage.Budgets{States: s.states, Batches: s.cfg.Batches, Publishers: s.cfg.publishers(), Zone: zone}
}

func (s *session) trouble() stage.Trouble { return stage.Trouble{States: s.states, Log: s.log} }

// lanes serves one stage of every account: the usual lane always, the urgent
// one while there is something in it.
func (s *session) lanes(ctx context.Context, g *errgroup.Group, state order.State, h pipeline.Handler) {
	for _, a := range s.accounts {
		open := func(ctx context.Context) bool {
			return s.active(a)(ctx) && (state != order.Submit || s.mayBuy())
		}
		g.Go(func() error {
			return s.while(ctx, open, func(ctx context.Context) error {
				return s.line.Work(ctx, state, a.Label, s.cfg.Parallel, h)
			})
		})
		g.Go(func() error {
			lane := a.Label + order.UrgentSuffix
			busy := func(ctx context.Context) bool {
				some, err := s.line.Any(ctx, state, lane)
				return open(ctx) && (some || err != nil)
			}
			urgent := pipeline.HandlerFunc(func(ctx context.Context, o order.Order) (order.Order, error) {
				return h.Handle(permit.Urgent(ctx), o) // its calls pass the others of this process
			})
			return s.while(ctx, busy, func(ctx context.Context) error { return s.line.Work(ctx, state, lane, s.cfg.Parallel, urgent) })
		})
	}
}

// fullShare is where the intake stops: the orders that are under way need the
// rest of the storage.
const fullShare = 0.8

// roomy tells whether new orders are taken: not when most of what the NATS
// account may store is used. Without such a bound nothing can be told. Who
// publishes goes on being acknowledged until the inbox itself is full.
func (s *session) roomy(ctx context.Context) bool {
	if time.Since(time.Unix(s.looked.Load(), 0)) < roomyEvery {
		return !s.full.Load()
	}
	s.looked.Store(time.Now().Unix())
	info, err := s.js.AccountInfo(ctx)
	if err != nil {
		return !s.full.Load()
	}
	full := info.Limits.MaxStore > 0 && float64(info.Store) >= fullShare*float64(info.Limits.MaxStore)
	if full && !s.full.Swap(full) {
		s.log.ErrorContext(ctx, "no more orders are taken: the NATS account has used most of its storage; archive ended orders (certmill archive) or give it more",
			"used", info.Store, "allowed", info.Limits.MaxStore)
	}
	s.full.Store(full)
	return !full
}

const roomyEvery = 10 * time.Second

// active tells whether an account is not paused, and whose it is: the consumers of
// any other are not pulled, so that its orders stay where they are.
func (s *session) active(a *stage.Account) func(context.Context) bool {
	return func(context.Context) bool {
		_, rests := s.states.State(a.Main).Rest(a.Label, time.Now())
		return !rests && mayWork(a)
	}
}

// govern carries what commands changed over to the permits: a main account all
// of whose labels rest hands out none, and a changed limit is in force at once.
func (s *session) govern(ctx context.Context) error {
	limit, told := s.settled.limits(s.states), map[permit.Key]int{}
	for ; ctx.Err() == nil; _ = stream.Sleep(ctx, look) {
		for _, a := range s.accounts.Mains() {
			if s.resting(ctx, a.Main) {
				s.permits.Pause(a.Main)
			} else {
				s.permits.Resume(a.Main)
			}
			for action := range s.states.State(a.Main).Limits {
				told[permit.Key{Account: a.Main, Action: action}] += 0 // looked after from now on
			}
		}
		for k, was := range told {
			want := limit(k).Calls
			if was == want {
				continue
			}
			if err := s.permits.SetLimit(ctx, k, want); err != nil {
				s.log.WarnContext(ctx, "limit not changed yet", "ring", k, "err", err)
				continue
			}
			told[k] = want
		}
	}
	return nil
}

func (s *session) resting(ctx context.Context, main string) bool {
	for _, a := range s.accounts {
		if a.Main == main && s.active(a)(ctx) {
			return false
		}
	}
	return true
}

// removedEvery is how often, at the least, orders are looked for whose message somebody
// removed. It costs a list of all subjects: where that takes no time it is done more
// often, for nothing else tells of them.
const removedEvery = 10 * time.Minute

// pace lets what is done again and again take a small share of the time only.
type pace struct{ took atomic.Int64 } // the last time, in nanoseconds; 0: it was not done yet

// Share of the time, and what is often enough.
const (
	paceShare = 200
	paceLeast = 5 * time.Second
)

// timed is f, of which is noted how long it takes.
func (p *pace) timed(f func(context.Context, *stage.Account) error) func(context.Context, *stage.Account) error {
	return func(ctx context.Context, a *stage.Account) error {
		began := time.Now()
		defer func() { p.took.Store(max(int64(time.Since(began)), 1)) }()
		return f(ctx, a)
	}
}

// every is how often, at most that seldom.
func (p *pace) every(most time.Duration) time.Duration {
	took := time.Duration(p.took.Load())
	if took == 0 {
		return most // some other worker does it
	}
	return min(most, max(paceLeast, paceShare*took))
}

// look is how often a lane's condition is looked at.
const look = time.Second

// while runs f as long as the condition holds, again and again, until ctx ends.
// f drains when its context ends.
func (s *session) while(ctx context.Context, holds func(context.Context) bool, f func(context.Context) error) error {
	for ctx.Err() == nil {
		if !holds(ctx) {
			_ = stream.Sleep(ctx, look)
			continue
		}
		run, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- f(run) }() // joined below
		for holds(ctx) && stream.Sleep(ctx, look) == nil && len(ended) == 0 {
		}
		stop()
		if err := <-ended; err != nil {
			return err
		}
	}
	return nil
}

// sweep runs f for one account again and again, in one replica at a time.
func (s *session) sweep(ctx context.Context, g *errgroup.Group, what string, a *stage.Account, interval func() time.Duration, f func(context.Context, *stage.Account) error) {
	if interval == nil {
		interval = func() time.Duration { return time.Second }
	}
	g.Go(func() error {
		return s.line.Ticket(ctx, what+"-"+a.Label, interval, func(ctx context.Context) {
			if !s.active(a)(ctx) {
				return
			}
			if err := f(ctx, a); ctx.Err() == nil && s.fails.news(what+"-"+a.Label, err) {
				s.log.WarnContext(ctx, "sweep failed; the next one comes by itself", "sweep", what, "account", a.Label, "err", err)
			}
		})
	})
}

// sweepMain runs f for one main account again and again, in one replica at a
// time, by any of its labels.
func (s *session) sweepMain(ctx context.Context, g *errgroup.Group, what, main string, every func() time.Duration, f func(context.Context, *stage.Account) error) {
	g.Go(func() error {
		return s.line.Ticket(ctx, what+"-"+main, every, func(ctx context.Context) {
			if err := s.byAnyLabel(ctx, main, f); ctx.Err() == nil && s.fails.news(what+" of "+main, err) {
				s.log.WarnContext(ctx, "sweep failed; the next one comes by itself", "sweep", what, "main", main, "err", err)
			}
		})
	})
}

// sweepGone looks for main accounts that the config has no more, in one replica at a
// time.
func (s *session) sweepGone(ctx context.Context, g *errgroup.Group) {
	gone := &stage.Gone{Accounts: s.accounts, Ledger: s.ledger, States: s.states, Log: s.log, Now: time.Now}
	g.Go(func() error {
		return s.line.Ticket(ctx, "gone", func() time.Duration { return s.removedEvery }, func(ctx context.Context) {
			if err := gone.Sweep(ctx); ctx.Err() == nil && s.fails.news("gone", err) {
				s.log.WarnContext(ctx, "sweep failed; the next one comes by itself", "sweep", "gone", "err", err)
			}
		})
	})
}

// byAnyLabel does what concerns a whole main account by one of its labels that
// does not rest, and by the next if that fails: one whose key is refused, or whose
// endpoint does not answer, does not hold up the others.
func (s *session) byAnyLabel(ctx context.Context, main string, f func(context.Context, *stage.Account) error) error {
	var failed error
	for _, label := range s.accounts.Labels() {
		a := s.accounts[label]
		if a.Main != main || !s.active(a)(ctx) {
			continue
		}
		err := f(ctx, a)
		if err == nil || ctx.Err() != nil {
			return err
		}
		failed = errors.Join(failed, fmt.Errorf("account %s: %w", label, err))
	}
	return failed
}

// firstSweep marks a main account once. Each replica tries until it is marked.
func (s *session) firstSweep(ctx context.Context, g *errgroup.Group, w *stage.Waiter, main string) {
	g.Go(func() error {
		told, marked, tried := false, false, false
		sweep := func(ctx context.Context, a *stage.Account) error {
			left, err := w.FirstSweep(ctx, a)
			if marked, tried = err == nil && left == 0, true; err != nil || marked {
				s.listed(ctx, a, err)
			}
			if left > 0 && !told && len(s.answers.of(a.Label)) == 0 { // else nobody is led to that word
				told = true
				s.log.InfoContext(ctx, "nothing is bought on this account until its list was swept, which waits for calls of an earlier life of the streams; "+
					"only where nothing was ever bought there before, not after a loss, it need not: certmill first-use "+a.Label,
					"account", a.Label, "sweep_in", left.Round(time.Second))
			}
			return err
		}
		for ctx.Err() == nil {
			err := s.byAnyLabel(ctx, main, sweep)
			if err != nil && ctx.Err() == nil {
				s.tellUnswept(ctx, main, err)
			} else if err == nil && !tried {
				err = s.idle(main) // each cause of it was told where it came up
			}
			if err != nil && !errors.Is(err, context.Canceled) {
				s.sweepFailed(ctx, w, main, err)
			}
			if marked {
				return nil
			}
			_ = stream.Sleep(ctx, 2*time.Second)
		}
		return nil
	})
}

// idle is why no label of a main account may sweep it; nil where its clouds were not
// asked yet whose they are, as at each start.
func (s *session) idle(main string) error {
	var all []error
	for _, label := range s.accounts.Labels() {
		a := s.accounts[label]
		if a.Main != main {
			continue
		}
		told := s.answers.of(label)
		p, rests := s.states.State(main).Rest(label, time.Now())
		switch why := a.Stopped(); {
		case why != nil:
			all = append(all, why)
		case rests:
			all = append(all, fmt.Errorf("account %s rests: %s", label, p.Why))
		case len(told) > 0:
			all = append(all, errors.New(sentence(told[0])))
		default:
			return nil
		}
	}
	return errors.Join(all...)
}

// tellUnswept tells that a first sweep fails, once of each cause, unless that was told
// already (answered).
func (s *session) tellUnswept(ctx context.Context, main string, why error) {
	if s.fails.news("first sweep of "+main, why) && issuer.KindOf(why) != issuer.Credentials {
		s.log.WarnContext(ctx, "first sweep failed; it is tried again and again, and nothing is bought before", "main", main, "err", why)
	}
}

func (s *session) sweepFailed(ctx context.Context, w *stage.Waiter, main string, why error) {
	if err := w.SweepFailed(ctx, main, why); err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "that the first sweep fails could not be stored", "main", main, "err", err)
	}
}
