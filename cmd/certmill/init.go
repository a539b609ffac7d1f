package main

import (
	"context"
	"fmt"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/certmill/certmill/pkg/app"
)

type initCmd struct{}

// Run is certmill init.
func (initCmd) Run(ctx context.Context, c *cli) error {
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
