package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/certmill/certmill/pkg/lab/limit"
)

type benchCmd struct {
	Limit benchLimitCmd `cmd:"" help:"Limiters side by side against one strict provider, and the permit ring under disturbances."`
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
