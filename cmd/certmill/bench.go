package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/lab/issue"
	"github.com/certmill/certmill/pkg/lab/limit"
)

type benchCmd struct {
	Limit benchLimitCmd `cmd:"" help:"Limiters side by side against one strict provider, and the permit ring under disturbances."`
	Batch benchBatchCmd `cmd:"" help:"How long a batch takes on one account, beside programs that a user would write."`
	Sweep benchSweepCmd `cmd:"" help:"What noticing costs: calls per certificate and delay while thousands of orders wait for the CA, beside a naive poller."`
}

type benchBatchCmd struct {
	Orders     int    `help:"Orders of the batch; 2000."`
	Pool       int    `default:"-1" help:"Orders of the worker pool with a limiter for each action; 300, and 0 leaves it out."`
	Sequential int    `default:"-1" help:"Orders of the loop that issues one after another; 10, and 0 leaves it out."`
	Short      bool   `help:"What fits into 20 seconds; exit status 1 if something is missing, throttled or over the limit."`
	Dir        string `type:"path" help:"New folder to keep state and certificates in. Default: kept nowhere."`
}

// Run is certmill bench batch.
func (b *benchBatchCmd) Run(ctx context.Context, c *cli) error {
	opt := issue.FullBatch()
	if b.Short {
		opt = issue.ShortBatch()
	}
	setGiven(&opt.Orders, b.Orders, b.Orders > 0)
	setGiven(&opt.Pool, b.Pool, b.Pool >= 0)
	setGiven(&opt.Sequential, b.Sequential, b.Sequential >= 0)
	opt.Dir, opt.Progress, opt.Log = b.Dir, tellTime(), benchLog(c)
	rows, err := issue.Batch(ctx, opt)
	if c.Output == "json" {
		err = errors.Join(err, printJSON(rows))
	} else {
		err = errors.Join(err, issue.WriteBatch(os.Stdout, rows))
	}
	for _, r := range rows {
		err = errors.Join(err, r.Wrong())
	}
	return err
}

type benchSweepCmd struct {
	Orders   int    `default:"-1" help:"Orders of the large scene; 10000, and 0 leaves it out."`
	Few      int    `default:"-1" help:"Orders of the small scene; 1000, and 0 leaves it out."`
	Scale    int    `help:"How many times faster the clouds are in the large scene; 10."`
	FewScale int    `help:"The same in the small scene; 1."`
	NoNaive  bool   `help:"Leave the naive poller out."`
	Short    bool   `help:"What fits into 20 seconds; exit status 1 if something is missing, throttled or over the limit."`
	Dir      string `type:"path" help:"New folder to keep state and certificates in. Default: kept nowhere."`
}

// Run is certmill bench sweep.
func (b *benchSweepCmd) Run(ctx context.Context, c *cli) error {
	opt := b.options()
	opt.Dir, opt.Progress, opt.Log = b.Dir, tellTime(), benchLog(c)
	rows, err := issue.Sweep(ctx, opt)
	if c.Output == "json" {
		err = errors.Join(err, printJSON(rows))
	} else {
		err = errors.Join(err, issue.WriteSweep(os.Stdout, rows))
	}
	for _, r := range rows {
		err = errors.Join(err, r.Wrong())
	}
	return err
}

func (b *benchSweepCmd) options() issue.SweepOptions {
	if b.Short {
		return issue.ShortSweep()
	}
	opt := issue.FullSweep()
	large, small := &opt.Scenes[0], &opt.Scenes[1]
	setGiven(&large.Orders, b.Orders, b.Orders >= 0)
	setGiven(&large.Scale, b.Scale, b.Scale > 0)
	setGiven(&small.Orders, b.Few, b.Few >= 0)
	setGiven(&small.Scale, b.FewScale, b.FewScale > 0)
	large.Naive, small.Naive = !b.NoNaive, !b.NoNaive
	opt.Scenes = slices.DeleteFunc(opt.Scenes, func(s issue.Scene) bool { return s.Orders == 0 })
	return opt
}

func setGiven(field *int, value int, given bool) {
	if given {
		*field = value
	}
}

// tellTime writes progress with the seconds since the beginning.
func tellTime() func(string) {
	began := time.Now()
	return func(what string) { fmt.Fprintf(os.Stderr, "%6.1f %s\n", time.Since(began).Seconds(), what) }
}

// benchLog is the workers' log: their errors, or what --log says.
func benchLog(c *cli) *slog.Logger {
	return app.NewLogger(os.Stderr, cmp.Or(c.Log, "error"))
}

type benchLimitCmd struct {
	Short        bool          `help:"What fits into three minutes."`
	Limiters     []string      `help:"Only these limiters."`
	Replicas     []int         `help:"Only these numbers of replicas."`
	Jitters      []string      `help:"Only these profiles of delay."`
	Disturbances []string      `help:"Only these disturbances; 'none' for none."`
	Duration     time.Duration `help:"How long each cell of the table is measured."`
	Events       int           `help:"How often a disturbance strikes."`
	RedisHelper  string        `type:"existingfile" help:"Program built from pkg/lab/limit/redisgcra. In the project's folder it is built by itself."`
}

// Run is certmill bench limit.
func (b *benchLimitCmd) Run(ctx context.Context, c *cli) error {
	helper, remove, err := b.redis(ctx)
	if err != nil {
		return err
	}
	defer remove()
	rows, err := limit.Run(ctx, b.options(helper))
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return limit.WriteJSON(os.Stdout, rows)
	}
	return limit.WriteTable(os.Stdout, rows)
}

func (b *benchLimitCmd) options(helper string) limit.Options {
	opt := limit.Full()
	if b.Short {
		opt = limit.Short()
	}
	if b.Limiters != nil {
		opt.Limiters = b.Limiters
	}
	if b.Replicas != nil {
		opt.Replicas = b.Replicas
	}
	if b.Jitters != nil {
		opt.Jitters = b.Jitters
	}
	switch {
	case len(b.Disturbances) == 1 && b.Disturbances[0] == "none":
		opt.Disturbances = nil
	case b.Disturbances != nil:
		opt.Disturbances = b.Disturbances
	}
	if b.Duration > 0 {
		opt.Duration = b.Duration
	}
	if b.Events > 0 {
		opt.Events = b.Events
	}
	opt.RedisHelper = helper
	opt.Progress = func(r limit.Row) {
		fmt.Fprintf(os.Stderr, "%s, %d replicas, jitter %s %s: %d calls, %d violations\n", r.Limiter, r.Replicas, r.Jitter, r.Disturbance, r.Calls, r.Violations)
	}
	return opt
}

// redis builds the helper, a module of its own so that Redis's client stays out
// of the product's dependencies, if this is the project's folder.
func (b *benchLimitCmd) redis(ctx context.Context) (helper string, remove func(), err error) {
	const source = "pkg/lab/limit/redisgcra"
	nothing := func() {}
	if b.RedisHelper != "" {
		return b.RedisHelper, nothing, nil
	}
	if _, err := os.Stat(source); err != nil {
		return "", nothing, nil // the rows say that it was left out
	}
	dir, err := os.MkdirTemp("", "certmill-redis")
	if err != nil {
		return "", nothing, err
	}
	helper = filepath.Join(dir, "redisgcra")
	build := exec.CommandContext(ctx, "go", "build", "-C", source, "-o", helper)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		_ = os.RemoveAll(dir)
		return "", nothing, fmt.Errorf("build %s: %w", source, err)
	}
	return helper, func() { _ = os.RemoveAll(dir) }, nil
}
