package issue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// BatchOptions say what Batch measures.
type BatchOptions struct {
	Orders int // of certmill; 2,000
	Alone  int // orders that are issued one after another before, for the time that one alone takes; 5
	// Pool and Sequential are how many orders the rivals get; 0 leaves one out.
	Pool, Sequential int
	Poll             time.Duration  // how long the rivals wait until they ask about an order again; 3s
	Issue            cloudsim.Range // what the CA takes; 2s..5s
	Dir              string         // new; a temporary one by default
	Log              *slog.Logger   // of the workers; nil: none
	Progress         func(string)   // is told how far it is; nil: nobody
}

// FullBatch is what the README shows; it takes about ten minutes.
func FullBatch() BatchOptions { return BatchOptions{Orders: 2000, Pool: 300, Sequential: 10} }

// ShortBatch takes less than 20 s.
func ShortBatch() BatchOptions { return BatchOptions{Orders: 60, Alone: 1} }

// BatchRow is one program's time for a batch.
type BatchRow struct {
	Who       string  `json:"who"`
	Orders    int     `json:"orders"`
	Delivered int     `json:"delivered"` // certificates that lie on disk and are what was ordered
	Seconds   float64 `json:"seconds"`   // from the first order to the last certificate on disk
	Ended     float64 `json:"ended"`     // until all were cleaned up, too
	Alone     float64 `json:"alone"`     // seconds that one order takes when there is no other, on average; 0: not measured
	Ratio     float64 `json:"ratio"`     // Seconds against orders / 10 per second
	Allowed   float64 `json:"allowed"`   // seconds: 1.05 x orders / 10 per second + Alone; 0: not measured
	CPU       float64 `json:"cpu"`       // seconds of this process, which is program, server and clouds
	Bill
}

// Met tells whether the time is within what is allowed.
func (r BatchRow) Met() bool { return r.Allowed > 0 && r.Seconds <= r.Allowed }

// slack is how much longer than the bare limit a batch may take.
const slack = 1.05

// Wrong says what must not be in a row, whatever the machine.
func (r BatchRow) Wrong() error { return r.wrong(r.Who, r.Orders, r.Delivered) }

// Batch measures certmill, and then each rival on a cloud of its own.
func Batch(ctx context.Context, opt BatchOptions) ([]BatchRow, error) {
	opt = opt.withDefaults()
	dir, remove, err := workplace(opt.Dir)
	if err != nil {
		return nil, err
	}
	defer remove()
	var rows []BatchRow
	for _, p := range []struct {
		who     string
		orders  int
		measure func(context.Context, string, setup, BatchOptions) (BatchRow, error)
	}{
		{certmill, opt.Orders, batchOurs},
		{poolName, opt.Pool, batchRival(pool)},
		{sequentialName, opt.Sequential, batchRival(sequential)},
	} {
		if p.orders == 0 {
			continue
		}
		s := setup{dir: filepath.Join(dir, fmt.Sprint(len(rows))), orders: p.orders, issue: opt.Issue, scale: 1, log: discard(opt.Log)}
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return rows, err
		}
		r, err := p.measure(ctx, p.who, s, opt)
		if err != nil {
			return rows, fmt.Errorf("bench batch: %s: %w", p.who, err)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func (o BatchOptions) withDefaults() BatchOptions {
	o.Alone, o.Poll = cmp.Or(o.Alone, 5), cmp.Or(o.Poll, 3*time.Second)
	if o.Issue == (cloudsim.Range{}) {
		o.Issue = cloudsim.Between(2*time.Second, 5*time.Second)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return o
}

// workplace is the folder that was named, which is kept, or a temporary one. A
// folder with an earlier run in it is refused: its orders would be known.
func workplace(named string) (dir string, remove func(), err error) {
	if named != "" {
		there, err := os.ReadDir(named)
		if err == nil && len(there) > 0 {
			return "", nil, fmt.Errorf("%s is not empty: name a new folder", named)
		}
		return named, func() {}, nil
	}
	dir, err = os.MkdirTemp("", "certmill-bench")
	return dir, func() { _ = os.RemoveAll(dir) }, err
}

func batchOurs(ctx context.Context, who string, with setup, opt BatchOptions) (r BatchRow, err error) {
	with.orders += opt.Alone
	s, err := openSite(ctx, with)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r = BatchRow{Who: who, Orders: opt.Orders}
	if r.Alone, err = s.alone(ctx, opt.Alone); err != nil {
		return r, err
	}
	opt.Progress(fmt.Sprintf("%s: one order alone takes %.1f s", who, r.Alone))

	all := batchOf("batch", opt.Orders)
	before, cpu := s.sim.Report(), cpuTime()
	did, err := s.issue(ctx, all, tell(opt.Progress, who, opt.Orders))
	if err != nil {
		return r, err
	}
	r.Ended, r.CPU = time.Since(did.began).Seconds(), (cpuTime() - cpu).Seconds()
	r.figures(inspect(s.certificates(), s.sim.RootPEM(), all), did.began, callsSince(before, s.sim.Report()))
	r.Allowed = slack*float64(r.Orders)/usualLimit + r.Alone
	return r, nil
}

// alone issues some orders one after another and returns the seconds that one
// takes, on average.
func (s *site) alone(ctx context.Context, orders int) (float64, error) {
	sum := 0.0
	for i := range orders {
		one := batchOf(fmt.Sprintf("alone%d", i), 1)
		did, err := s.issue(ctx, one, func(int) {})
		if err != nil {
			return 0, err
		}
		got := inspect(s.certificates(), s.sim.RootPEM(), one)
		if got.wrong != nil {
			return 0, got.wrong
		}
		sum += got.last.Sub(did.began).Seconds()
	}
	return sum / float64(orders), nil
}

// figures computes what follows from what lies on disk and what was called.
func (r *BatchRow) figures(got delivered, began time.Time, calls []Calls) {
	r.Delivered, r.Bill = got.right, newBill(calls, got.right)
	r.Seconds = got.last.Sub(began).Seconds()
	r.Ratio = r.Seconds / (float64(r.Orders) / usualLimit)
}
