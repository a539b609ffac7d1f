package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/certmill/certmill/pkg/app"
)

type initCmd struct {
	Mend bool `help:"Put back what somebody edited in the streams: it says each setting first, and asks."`
	Yes  bool `help:"Do not ask."`
}

// Run is certmill init.
func (i *initCmd) Run(ctx context.Context, c *cli) error {
	if i.Mend {
		return i.mend(ctx, c)
	}
	cfg, err := c.loadQuiet()
	if err != nil {
		return err
	}
	all, err := app.Init(ctx, cfg, app.NewLogger(os.Stderr, cfg.Log))
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(all)
	}
	t := newTable(table.Row{"stream, bucket, folder", ""})
	for _, m := range all {
		what := "was there"
		if m.Made {
			what = "made"
		}
		if m.Path != "" {
			what += ": " + m.Path
		}
		t.AppendRow(table.Row{m.Name, what})
	}
	fmt.Println(t.Render())
	for _, m := range all {
		if m.Lost != "" {
			fmt.Printf("LOST: %s was missing beside the others and was made anew: %s\n", m.Name, m.Lost)
		}
	}
	return nil
}

// mend puts edited streams back.
func (i *initCmd) mend(ctx context.Context, c *cli) error {
	return c.atServer(ctx, func(cfg app.Config) error {
		m, err := app.OpenMender(cfg, app.NewLogger(os.Stderr, cfg.Log))
		if err != nil {
			return err
		}
		defer m.Close()
		edited, err := m.Look(ctx)
		if err != nil {
			return err
		}
		for _, e := range edited {
			fmt.Fprintln(os.Stderr, e)
		}
		const question = "These settings are put back; everything else of the streams stays. Write yes to go on: "
		if len(edited) > 0 && !i.Yes && !confirmed(question, "yes") {
			return fmt.Errorf("nothing was changed")
		}
		done, err := m.Mend(ctx)
		if c.Output == "json" {
			return errors.Join(err, printJSON(done))
		}
		if len(done) > 0 || err == nil {
			fmt.Println(app.Mended(done))
		}
		return err
	})
}
