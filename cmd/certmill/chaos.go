package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/certmill/certmill/pkg/lab/chaos"
)

type chaosCmd struct {
	Batteries []string      `arg:"" optional:"" help:"Only these: kill, nats, faults, late, wipe, zombie, same, builds, stock, disk, spreadsheets, identities, keystore, poison."`
	Orders    int           `help:"Orders of each run, in place of the battery's own number."`
	For       time.Duration `help:"How long each run is disturbed."`
	Runs      int           `help:"Runs of each battery."`
	Accounts  int           `help:"Accounts, half of them at each cloud."`
	Seed      uint64        `help:"Of everything that is drawn; a failing run prints its own."`
	Short     bool          `help:"What fits into five minutes."`
	Parallel  int           `default:"2" help:"Batteries at a time."`
	Dir       string        `type:"path" help:"Folder to keep logs, streams and findings in. Default: kept only when something was found."`
}

// Run is certmill chaos.
func (x *chaosCmd) Run(ctx context.Context, c *cli) error {
	began := time.Now()
	report, err := chaos.Run(ctx, chaos.Options{
		Batteries: x.Batteries, Short: x.Short, Seed: x.Seed, Parallel: x.Parallel, Dir: x.Dir,
		Size: chaos.Size{Orders: x.Orders, For: x.For, Runs: x.Runs, Accounts: x.Accounts},
		Progress: func(battery, what string) {
			fmt.Fprintf(os.Stderr, "%6.1f %-12s %s\n", time.Since(began).Seconds(), battery, what)
		},
	})
	if c.Output == "json" {
		err = errors.Join(err, printJSON(report))
	} else {
		fmt.Print(report.Text())
	}
	switch {
	case err != nil:
		return err
	case !report.OK():
		return errFound
	}
	return nil
}

// errFound ends the command with status 1 after the report said what was found.
var errFound = errors.New("something was lost, paid twice, or is unaccounted for: see the report")
