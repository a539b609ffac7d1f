package issue

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/order"
)

// What the rivals are called in the tables.
const (
	sequentialName = "sequential SDK loop"
	poolName       = "worker pool, one limiter per action"
)

// rival issues a batch.
type rival func(ctx context.Context, r race, all []order.Request) error

// race is what a rival has.
type race struct {
	sim      *cloudsim.Sim
	folder   string        // for the certificates
	poll     time.Duration // until it asks about an order again
	progress func(ended int)
}

// poolWorkers is how many orders the pool has in hand at a time: the best of
// what was tried. 300 orders took 3.5 times orders ÷ 10/s with 30 workers, 2.6
// with 60 and 2.5 with 100.
const poolWorkers = 100

// sequential issues one order after another.
func sequential(ctx context.Context, r race, all []order.Request) error {
	c, err := newCustomer(r.sim, r.folder, nil)
	if err != nil {
		return err
	}
	for i, q := range all {
		if err := c.issue(ctx, q, r.poll); err != nil {
			return err
		}
		r.progress(i + 1)
	}
	return nil
}

// pool has workers of which each issues one order at a time. All of them share
// one limiter per action, set to the documented limit.
func pool(ctx context.Context, r race, all []order.Request) error {
	waiting := make(chan order.Request, len(all))
	for _, q := range all {
		waiting <- q
	}
	close(waiting)
	var done atomic.Int64
	p := newPace(r.sim.Settings().Limits)
	g, ctx := errgroup.WithContext(ctx)
	for range min(poolWorkers, len(all)) {
		g.Go(func() error {
			c, err := newCustomer(r.sim, r.folder, p)
			if err != nil {
				return err
			}
			for q := range waiting {
				if err := c.issue(ctx, q, r.poll); err != nil {
					return err
				}
				r.progress(int(done.Add(1)))
			}
			return nil
		})
	}
	return g.Wait()
}

// newPace has a limiter for each action, shared by whoever gets the pace.
func newPace(limits map[string]int) pace {
	var mu sync.Mutex
	limiters := map[string]*rate.Limiter{}
	return func(ctx context.Context, action string) error {
		mu.Lock()
		l := limiters[action]
		if l == nil {
			n, known := limits[action]
			if !known {
				n = limits["default"]
			}
			l = rate.NewLimiter(rate.Limit(n), 1)
			limiters[action] = l
		}
		mu.Unlock()
		return l.Wait(ctx)
	}
}

// batchRival measures a rival.
func batchRival(issue rival) func(context.Context, string, setup, BatchOptions) (BatchRow, error) {
	return func(ctx context.Context, who string, with setup, opt BatchOptions) (r BatchRow, err error) {
		sim, err := openCloud(ctx, with)
		if err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, sim.Close()) }()
		all := batchOf("batch", with.orders)
		began, before, cpu := time.Now(), sim.Report(), cpuTime()
		if err := issue(ctx, race{sim, with.dir, opt.Poll, tell(opt.Progress, who, len(all))}, all); err != nil {
			return r, err
		}
		r = BatchRow{Who: who, Orders: len(all), Ended: time.Since(began).Seconds(), CPU: (cpuTime() - cpu).Seconds()}
		r.figures(inspect(with.dir, sim.RootPEM(), all), began, callsSince(before, sim.Report()))
		return r, nil
	}
}
