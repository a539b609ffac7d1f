// Package chaos is the battery behind "certmill chaos": it puts up the real
// system as separate processes (NATS servers, submitters, verifiers, collectors
// before both simulated clouds), hands orders in as any NATS client does, and
// meanwhile kills, freezes, wipes and lies. Then it judges by the clouds' own
// books, which live in this process and survive everything else.
//
// # Times
//
// All times are scaled down together, at the clouds and in the workers' config,
// so that what takes minutes in production happens in seconds:
//
//	                                        production         here
//	life of a signature (cloud and config)  15m, Tencent 5m    4s
//	entry_life                              30s                1s
//	clocks (config; all clocks are equal)   60s                1s
//	list_lag (config; the clouds lag 0..1s) 60s                1s
//	waiting time, the sum of these          17m30s             7s
//	deadline, spend_deadline                3s, 15s            0.5s
//	Q of a permit (pull 2s + deadline + 1s) 6s, 18s            3.5s
//	ack_wait                                60s                2s
//	clean_up                                10m                4s
//	issuing delay at the cloud              minutes            0.2s..1s
//	answer of a cloud                       50ms..1s           5ms..40ms
//
// Not scaled are the limits (10 calls a second for each account and action), a
// permit's own AckWait (4 s), backoffs, and the rests of a minute of orders that
// wait for a row whose key cannot be compared yet.
//
// # Seeds
//
// What is done, to whom and when is drawn from the seed, so a failing run's
// schedule can be replayed; how the processes interleave under it cannot.
package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/lab/smalldisk"
)

// Size is how large a battery is.
type Size struct {
	Orders   int           // of each run
	For      time.Duration // orders come, and things happen to them, for this long
	Runs     int           // each on a site of its own; 0: one
	Accounts int           // of both vendors, half of them at each; 0: 8
}

// battery is one way of trying to break the system.
type battery struct {
	name        string
	about       string
	short, full Size
	run         func(context.Context, *site, int) error // of run n, from 0
	site        siteOptions
	// seldom: Short does not run it unless it is named, because it waits long for
	// what it has disturbed.
	seldom bool
}

var batteries = []battery{
	{"kill", "kill -9 of random workers every 0.5 to 2 s", Size{Orders: 80, For: 36 * time.Second}, Size{Orders: 10_000, For: 8 * time.Minute, Accounts: 12}, killWorkers, siteOptions{}, false},
	{"nats", "three servers, R3: leaders killed, frozen for 3 s and 12 s, all killed at once", Size{Orders: 60, For: 70 * time.Second}, Size{Orders: 2000, For: 8 * time.Minute}, shakeServers, siteOptions{cluster: true}, false},
	{"faults", "5 %, then 20 % of all calls go wrong; lists lag and are stale", Size{Orders: 70, For: 24 * time.Second}, Size{Orders: 4000, For: 6 * time.Minute}, faultyClouds, siteOptions{}, false},
	{"late", "create calls that land after their worker was frozen or killed", Size{Orders: 60, For: 34 * time.Second}, Size{Orders: 2000, For: 7 * time.Minute}, landLate, siteOptions{submitters: 4}, false},
	{"wipe", "JetStream lost, or put back to an earlier copy, in mid run", Size{Orders: 20, For: 12 * time.Second, Runs: 2}, Size{Orders: 100, For: 20 * time.Second, Runs: 20}, loseStreams, siteOptions{}, false},
	{"zombie", "submitters frozen at the gaps of a purchase for longer than ack_wait", Size{Orders: 50, For: 28 * time.Second}, Size{Orders: 1000, For: 4 * time.Minute}, freezeAtGaps, siteOptions{submitters: 4}, false},
	{"same", "two and three orders for the same names at once", Size{Orders: 40, For: 8 * time.Second}, Size{Orders: 500, For: 60 * time.Second}, sameNames, siteOptions{}, false},
	{"builds", "two builds of one format side by side, each worker rolled forth and back", Size{Orders: 50, For: 30 * time.Second}, Size{Orders: 1000, For: 4 * time.Minute}, twoBuilds, siteOptions{budget: true}, false},
	{"stock", "somebody with the stock nats command: consumers edited, paused, removed, messages and streams too", Size{Orders: 40, For: 30 * time.Second}, Size{Orders: 600, For: 6 * time.Minute}, stockCommand, siteOptions{}, true},
	{"disk", "the disk of the server, the keys and the certificates is full, again and again", Size{Orders: 40, For: 20 * time.Second}, Size{Orders: 1000, For: 5 * time.Minute}, fillDisk, siteOptions{disk: true}, true},
	{"spreadsheets", "one list handed in twenty times, saved in other ways, before and after JetStream is lost and put back", Size{Orders: 24, For: 18 * time.Second}, Size{Orders: 120, For: 2 * time.Minute, Runs: 6}, spreadsheets, siteOptions{}, false},
	{"identities", "two labels with one key; keys and endpoints swapped, and a user who sees little, while calls are open", Size{Orders: 80, For: time.Second}, Size{Orders: 240, For: 5 * time.Minute}, identities, siteOptions{rounds: 8}, false},
	{"keystore", "the key store removed, unmounted, replaced by another, lost for good", Size{Orders: 50, For: 12 * time.Second}, Size{Orders: 1500, For: 3 * time.Minute}, loseKeyStore, siteOptions{}, false},
	{"poison", "bad messages among good ones", Size{Orders: 40, For: 2 * time.Second}, Size{Orders: 4000, For: 2 * time.Second}, poisonInbox, siteOptions{}, false},
}

// Batteries names them, each with a sentence.
func Batteries() (names, about []string) {
	for _, b := range batteries {
		names, about = append(names, b.name), append(about, b.about)
	}
	return names, about
}

// Options say what is run.
type Options struct {
	Batteries []string // nil means all
	Short     bool     // the sizes of a CI run of five minutes, else those of the README's figures
	Size      Size     // what is not zero replaces the battery's own
	Seed      uint64   // 0 draws one
	Parallel  int      // batteries at a time; 2. Most of their time they wait
	// Clouds are opened for each site; nil: both vendors, simulated. Whoever
	// brings others MUST have told package app of them before Child, too.
	Clouds func(Setting) (Clouds, error)
	Dir    string // folder for the sites; empty: a temporary one, kept only when something was found
	// Progress, if not nil, is told what happens. It may be called from several
	// goroutines at a time.
	Progress func(battery, what string)
}

// Run runs the batteries and returns the report of all of them. The error is
// about what kept a battery from being run, not about what it found: see
// Report.OK. A program that calls Run MUST call Child first.
func Run(ctx context.Context, opt Options) (Report, error) {
	if opt.Seed == 0 {
		opt.Seed = rand.Uint64()>>1 | 1 // fits every JSON reader's int64
	}
	opt.Parallel = cmp.Or(opt.Parallel, 2)
	if opt.Progress == nil {
		opt.Progress = func(string, string) {}
	}
	if opt.Clouds == nil {
		opt.Clouds = openSimulated
	}
	chosen, err := choose(opt.Batteries, opt.Short)
	if err != nil {
		return Report{}, err
	}
	dir, temporary := opt.Dir, opt.Dir == ""
	if temporary {
		if dir, err = os.MkdirTemp("", "certmill-chaos"); err != nil {
			return Report{}, fmt.Errorf("chaos: %w", err)
		}
	}
	total := Report{Seed: opt.Seed}
	began := time.Now()
	reports, err := runAll(ctx, opt, dir, chosen)
	for _, r := range reports {
		total.add(r)
	}
	total.Seconds = time.Since(began).Seconds()
	switch {
	case temporary && err == nil && total.OK():
		err = os.RemoveAll(dir)
	default:
		total.Kept = dir
	}
	return total, err
}

func choose(names []string, short bool) ([]battery, error) {
	if len(names) == 0 {
		return slices.DeleteFunc(slices.Clone(batteries), func(b battery) bool { return short && b.seldom }), nil
	}
	var chosen []battery
	for _, name := range names {
		i := slices.IndexFunc(batteries, func(b battery) bool { return b.name == name })
		if i < 0 {
			known, _ := Batteries()
			return nil, fmt.Errorf("no battery is called %q; there are: %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, batteries[i])
	}
	return chosen, nil
}

// runAll runs the batteries side by side. One that cannot be run does not keep
// the others from it. The reports are in the order of the batteries.
func runAll(ctx context.Context, opt Options, dir string, chosen []battery) ([]Report, error) {
	reports := make([]Report, len(chosen))
	var mu sync.Mutex
	var all error
	var g errgroup.Group
	g.SetLimit(opt.Parallel)
	for i, b := range chosen {
		g.Go(func() error {
			r, err := b.report(ctx, opt, dir)
			mu.Lock()
			defer mu.Unlock()
			reports[i] = r
			if err != nil {
				all = errors.Join(all, fmt.Errorf("battery %s: %w", b.name, err))
			}
			return nil
		})
	}
	_ = g.Wait()
	return slices.DeleteFunc(reports, func(r Report) bool { return r.Battery == "" }), all
}

// report runs one battery, all runs of it.
func (b battery) report(ctx context.Context, opt Options, dir string) (Report, error) {
	size := b.full
	if opt.Short {
		size = b.short
	}
	size.Orders, size.For = cmp.Or(opt.Size.Orders, size.Orders), cmp.Or(opt.Size.For, size.For)
	size.Runs, size.Accounts = cmp.Or(opt.Size.Runs, size.Runs, 1), cmp.Or(opt.Size.Accounts, size.Accounts, 8)
	total := Report{Battery: b.name, Seed: opt.Seed}
	began := time.Now()
	for n := range size.Runs {
		r, err := b.once(ctx, opt, size, filepath.Join(dir, fmt.Sprintf("%s-%d", b.name, n)), n)
		total.merge(r)
		if err != nil {
			return total, err
		}
	}
	total.Seconds = time.Since(began).Seconds()
	return total, nil
}

func (b battery) once(ctx context.Context, opt Options, size Size, dir string, n int) (Report, error) {
	s, err := newSite(ctx, b, size, opt.Clouds, dir, seedOf(opt.Seed, b.name, n), func(what string) { opt.Progress(b.name, what) })
	if errors.Is(err, smalldisk.ErrNotPermitted) {
		return Report{Battery: b.name, Seed: opt.Seed, NotRun: err.Error()}, nil
	}
	if err != nil {
		return Report{}, err
	}
	defer s.close()
	if err := b.run(ctx, s, n); err != nil {
		return s.tally(), err
	}
	if err := s.settle(ctx); err != nil {
		return s.tally(), err
	}
	return s.judge(ctx)
}

// seedOf gives each run of each battery a seed of its own, so that one battery
// alone does the same as among others.
func seedOf(seed uint64, name string, run int) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d/%s/%d", seed, name, run)
	return h.Sum64()
}
