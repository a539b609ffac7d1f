// Package limit is the bench behind "certmill bench limit": limiters side by
// side against one strict provider, and the permit ring under everything that
// may happen to it.
//
// The provider is an HTTP server that counts a call when it arrives, after the
// way there, and allows 10 accepted calls in any sliding second. A violation is
// an arrival whose 10th predecessor arrived less than 1 s before, whether it
// was throttled or not. Every cell of the table has counters, keys and
// connections of its own, so cells run side by side.
package limit

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// The provider's limit.
const (
	allowed = 10
	period  = time.Second
)

// Options say what is run.
type Options struct {
	// Limiters, Replicas and Jitters span the table; nil means all limiters, 1,
	// 4, 16 and 64 replicas, and all profiles.
	Limiters []string
	Replicas []int
	Jitters  []string
	// Duration is how long a cell is measured, after a warm-up of 3 s; 60 s.
	Duration time.Duration
	// Parallel is how many cells run at a time; 4. More of them disturb each
	// other.
	Parallel int
	// RedisHelper is the program built from pkg/lab/limit/redisgcra; empty
	// leaves Redis out, and the rows say so.
	RedisHelper string
	// Disturbances are run after the table; nil means none. See Disturbances.
	Disturbances []string
	// Disturbing is how many disturbances there are at a time, each of a ring of its
	// own; 1. More of them spoil the utilisation, but no count of violations.
	Disturbing int
	// Events is how often a disturbance strikes, or what that is reckoned from;
	// 5. See Disturbances.
	Events int
	// Progress, if not nil, is told of each finished row.
	Progress func(Row)
}

// Short is what fits in a CI run of three minutes.
func Short() Options {
	return Options{Replicas: []int{1, 16}, Jitters: []string{"none", "uniform"}, Duration: 8 * time.Second, Parallel: 5,
		Disturbances: []string{"kill half", "stress", "stress, rule off"}, Disturbing: 3, Events: 2}
}

// Full is what reaches the figures of the README; it takes about 40 minutes.
func Full() Options {
	return Options{Duration: 80 * time.Second, Disturbances: Disturbances(), Events: 20}
}

// Row is one measured cell.
type Row struct {
	Limiter           string  `json:"limiter"`
	Replicas          int     `json:"replicas"`
	Jitter            string  `json:"jitter"`
	Disturbance       string  `json:"disturbance,omitempty"`
	Calls             int     `json:"calls"`               // that arrived
	Violations        int     `json:"violations"`          // of the sliding window
	FixedViolations   int     `json:"fixed_violations"`    // arrivals above 10 in one second of the clock
	Throttled         int     `json:"throttled"`           //
	Utilisation       float64 `json:"utilisation"`         // accepted calls per second / 10; 1 is full
	OfBound           float64 `json:"of_bound"`            // utilisation against 10/(1 + mean response time)
	MessagesPerPermit float64 `json:"messages_per_permit"` // from client to server; negative: not counted
	MeanRTT           float64 `json:"mean_rtt_seconds"`    // as the callers saw it
	Per3s             []int   `json:"per_3s,omitempty"`    // accepted calls after the first event
	Skipped           string  `json:"skipped,omitempty"`   // why there are no figures
	Note              string  `json:"note,omitempty"`      //
}

// Limiters are the limiters that can be compared.
func Limiters() []string {
	return []string{"ring", "x/time/rate each", "x/time/rate split", "kv token bucket", "redis gcra"}
}

// warmup is left out of the figures.
const warmup = 3 * time.Second

// Run measures the table, then the disturbances. Its rows are in the order of
// the table whatever finished first.
func Run(ctx context.Context, opt Options) ([]Row, error) {
	opt = opt.withDefaults()
	dir, err := os.MkdirTemp("", "certmill-limit")
	if err != nil {
		return nil, fmt.Errorf("bench limit: %w", err)
	}
	defer os.RemoveAll(dir)
	rows, err := compare(ctx, opt, dir)
	if err != nil {
		return nil, fmt.Errorf("bench limit: %w", err)
	}
	disturbed, err := disturbAll(ctx, opt, dir)
	if err != nil {
		return rows, fmt.Errorf("bench limit: %w", err)
	}
	return append(rows, disturbed...), nil
}

// disturbAll runs the disturbances. Its rows are in their order.
func disturbAll(ctx context.Context, opt Options, dir string) ([]Row, error) {
	rows := make([]Row, len(opt.Disturbances))
	var mu sync.Mutex // of opt.Progress
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(opt.Disturbing)
	for i, name := range opt.Disturbances {
		g.Go(func() (err error) {
			if rows[i], err = disturb(ctx, opt, dir, name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			opt.Progress(rows[i])
			return nil
		})
	}
	return rows, g.Wait()
}

func (o Options) withDefaults() Options {
	if o.Limiters == nil {
		o.Limiters = Limiters()
	}
	if o.Replicas == nil {
		o.Replicas = []int{1, 4, 16, 64}
	}
	if o.Jitters == nil {
		o.Jitters = Jitters()
	}
	o.Duration = cmp.Or(o.Duration, time.Minute)
	o.Parallel = cmp.Or(o.Parallel, 4)
	o.Disturbing = cmp.Or(o.Disturbing, 1)
	o.Events = cmp.Or(o.Events, 5)
	if o.Progress == nil {
		o.Progress = func(Row) {}
	}
	return o
}

func (o Options) cells() []Row {
	var cells []Row
	for _, n := range o.Replicas {
		for _, j := range o.Jitters {
			for _, l := range o.Limiters {
				cells = append(cells, Row{Limiter: l, Replicas: n, Jitter: j})
			}
		}
	}
	return cells
}

// compare runs the cells of the table side by side on one NATS and one Redis server.
func compare(ctx context.Context, opt Options, dir string) ([]Row, error) {
	b, err := newBench(ctx, opt, dir)
	if err != nil {
		return nil, err
	}
	defer b.close()
	cells := opt.cells()
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(opt.Parallel)
	for i := range cells {
		g.Go(func() error {
			r, err := b.cell(ctx, cells[i])
			if err != nil {
				return fmt.Errorf("%s, %d replicas, jitter %s: %w", r.Limiter, r.Replicas, r.Jitter, err)
			}
			mu.Lock()
			defer mu.Unlock()
			cells[i] = r
			opt.Progress(r)
			return nil
		})
	}
	return cells, g.Wait()
}

// slope is the rate of events per second by least squares: it does not depend
// on where in a cycle the measuring began or ended.
func slope(at []time.Time) float64 {
	if len(at) < 3 {
		return 0
	}
	var sx, sy, sxx, sxy float64
	for i, t := range at {
		x, y := t.Sub(at[0]).Seconds(), float64(i)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	n := float64(len(at))
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

// known tells whether every name is one of those there are.
func known(what string, names, there []string) error {
	for _, n := range names {
		if !slices.Contains(there, n) {
			return fmt.Errorf("no %s is called %q; there are: %q", what, n, there)
		}
	}
	return nil
}
