package issue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// SweepOptions say what Sweep measures: scenes, one after another.
type SweepOptions struct {
	Scenes   []Scene
	Dir      string       // new; a temporary one by default
	Log      *slog.Logger // of the workers; nil: none
	Progress func(string) // is told how far it is; nil: nobody
}

// Scene is a number of orders on one account that wait for the CA.
type Scene struct {
	Orders int
	Waits  cloudsim.Range // how long the CA takes
	// Scale speeds the clouds up: their limits are multiplied by it, their delays
	// and Waits divided. Nothing of certmill's own is any quicker for that, so
	// its fixed costs count that many times against it. 1 by default.
	Scale int
	Naive bool // the naive poller, too
	// Bound is what the 95th percentile of the delay is held against: a tenth of
	// the shortest wait, or else the larger of 10 s and twice a sweep.
	Bound Bound
}

// Bound is a rule for the delay of detection.
type Bound string

const (
	TenthOfWait Bound = "a tenth of the wait"
	TwoSweeps   Bound = "max(10 s, two sweeps)"
)

// FullSweep is what the README shows: ten thousand orders in flight, ten times
// as fast, and less than a thousand as they are. The ten thousand wait for
// longer than it takes to hand them all in, else they would not be in flight
// together. It takes about 20 minutes.
func FullSweep() SweepOptions {
	return SweepOptions{Scenes: []Scene{
		{Orders: 10_000, Waits: cloudsim.Between(1400*time.Second, 1600*time.Second), Scale: 10, Naive: true, Bound: TenthOfWait},
		{Orders: 1000, Waits: cloudsim.Between(60*time.Second, 100*time.Second), Scale: 1, Naive: true, Bound: TwoSweeps},
	}}
}

// ShortSweep takes less than 20 s.
func ShortSweep() SweepOptions {
	return SweepOptions{Scenes: []Scene{
		{Orders: 200, Waits: cloudsim.Between(25*time.Second, 30*time.Second), Scale: 5, Bound: TwoSweeps},
	}}
}

// SweepRow is what one program did in a scene. Times are those of the real
// clouds: what was measured, multiplied by the scale.
type SweepRow struct {
	Who      string  `json:"who"`
	Orders   int     `json:"orders"`
	Issued   int     `json:"issued"`
	Scale    int     `json:"scale"`
	InFlight int     `json:"in_flight"` // the most that waited for the CA at a time
	Wait     float64 `json:"wait"`      // seconds that the CA took at least
	P50      float64 `json:"p50"`       // seconds from issued at the cloud to noticed
	P95      float64 `json:"p95"`
	Max      float64 `json:"max"`
	Rule     Bound   `json:"rule"`
	Allowed  float64 `json:"allowed"` // seconds, for P95
	CPU      float64 `json:"cpu"`     // seconds of this process, not scaled
	Seconds  float64 `json:"seconds"` // that it took, not scaled
	Bill
}

// Met tells whether the delay is within its bound.
func (r SweepRow) Met() bool { return r.P95 <= r.Allowed }

// Wrong says what must not be in a row, whatever the machine.
func (r SweepRow) Wrong() error { return r.wrong(r.Who, r.Orders, r.Issued) }

// Sweep measures each scene with certmill and, where it is wanted, with a naive
// poller on a cloud of its own.
func Sweep(ctx context.Context, opt SweepOptions) ([]SweepRow, error) {
	if opt.Progress == nil {
		opt.Progress = func(string) {}
	}
	dir, remove, err := workplace(opt.Dir)
	if err != nil {
		return nil, err
	}
	defer remove()
	var rows []SweepRow
	for _, scene := range opt.Scenes {
		scene.Scale = cmp.Or(scene.Scale, 1)
		programs := []program{{certmill, sweepOurs}}
		if scene.Naive {
			programs = append(programs, program{naiveName, sweepNaive})
		}
		for _, p := range programs {
			s := setup{dir: filepath.Join(dir, fmt.Sprint(len(rows))), orders: scene.Orders, issue: scene.Waits, scale: scene.Scale, log: discard(opt.Log)}
			if err := os.MkdirAll(s.dir, 0o700); err != nil {
				return rows, err
			}
			r := SweepRow{Who: p.who, Orders: scene.Orders, Scale: scene.Scale, Wait: scene.Waits.Min.Seconds(), Rule: scene.Bound}
			noticed, book, err := p.run(ctx, s, &r, tell(opt.Progress, p.who, scene.Orders))
			if err != nil {
				return rows, fmt.Errorf("bench sweep: %s: %w", p.who, err)
			}
			r.figures(s, noticed, book)
			rows = append(rows, r)
		}
	}
	return rows, nil
}

// program runs the orders of a setup, counts into its row what only it knows,
// and returns when it noticed which cloud order, and the cloud's books.
type program struct {
	who string
	run func(ctx context.Context, s setup, r *SweepRow, progress func(int)) (noticed map[string]time.Time, book cloudsim.Report, err error)
}

func sweepOurs(ctx context.Context, with setup, r *SweepRow, progress func(int)) (noticed map[string]time.Time, book cloudsim.Report, err error) {
	s, err := openSite(ctx, with)
	if err != nil {
		return nil, book, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	began, cpu := time.Now(), cpuTime()
	all := batchOf("sweep", with.orders)
	did, err := s.issue(ctx, all, progress)
	if err != nil {
		return nil, book, err
	}
	r.Seconds, r.CPU = time.Since(began).Seconds(), (cpuTime() - cpu).Seconds()
	r.Issued = inspect(s.certificates(), s.sim.RootPEM(), all).right
	noticed = map[string]time.Time{}
	for _, it := range did.ended {
		if at, ok := collected(it); ok {
			noticed[it.CloudID] = at
		}
	}
	return noticed, s.sim.Report(), nil
}

// collected is when an order's message in state collect was published.
func collected(it pipeline.Item) (time.Time, bool) {
	for _, e := range it.Timeline {
		if e.State == order.Collect {
			return e.At, true
		}
	}
	return time.Time{}, false
}

// figures computes what follows from the cloud's books.
func (r *SweepRow) figures(s setup, noticed map[string]time.Time, book cloudsim.Report) {
	r.Bill = newBill(callsSince(cloudsim.Report{}, book), r.Issued)
	var delays []time.Duration
	for _, o := range book.Orders {
		if at, ok := noticed[o.ID]; ok && !o.IssuedAt.IsZero() {
			delays = append(delays, s.unscaled(max(at.Sub(o.IssuedAt), 0)))
		}
	}
	slices.Sort(delays)
	r.P50, r.P95, r.Max = quantile(delays, 0.5), quantile(delays, 0.95), quantile(delays, 1)
	r.InFlight = mostAtOnce(book.Orders)
	switch r.Rule {
	case TenthOfWait:
		r.Allowed = r.Wait / 10
	case TwoSweeps:
		r.Allowed = max(10, 2*sweepSeconds(r.InFlight))
	}
}

// pageSize is how many orders a page of the list has.
const pageSize = 50

// sweepSeconds is how long it takes to page the list of so many orders.
func sweepSeconds(orders int) float64 {
	return math.Ceil(float64(orders)/pageSize) / usualLimit
}

// quantile of what is sorted, in seconds.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[max(i, 0)].Seconds()
}

// mostAtOnce is how many orders waited for the CA at the same time: after the
// last proof was seen and before issue.
func mostAtOnce(orders []cloudsim.OrderReport) int {
	type step struct {
		at time.Time
		by int
	}
	var steps []step
	for _, o := range orders {
		if !o.ValidatedAt.IsZero() {
			steps = append(steps, step{o.ValidatedAt, 1}, step{o.IssuedAt, -1})
		}
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.by, b.by)) })
	now, most := 0, 0
	for _, s := range steps {
		now += s.by
		most = max(most, now)
	}
	return most
}
