package main

import (
	"context"
	"fmt"
	"os"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/order"
)

type orderCmd struct {
	Files  []string `arg:"" type:"existingfile" help:"Order files."`
	Batch  string   `help:"Batch of orders that name none. Default: the file's name."`
	Follow bool     `short:"f" help:"Follow the orders to their end."`
	Urgent bool     `help:"Hand in as urgent: they pass the others."`
}

// Run is certmill order.
func (o *orderCmd) Run(ctx context.Context, c *cli) error {
	batch, err := app.ReadFiles(o.Batch, o.Files...)
	if err != nil {
		return err
	}
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	view := newView(c.Output)
	defer view.close()
	sum, err := console.Order(ctx, batch, view, o.Follow, o.Urgent)
	if err != nil {
		return err
	}
	if len(sum.Bad) > 0 || o.Follow && !sum.OK() {
		return errNotAll
	}
	return nil
}

type planCmd struct {
	Files []string `arg:"" type:"existingfile" help:"Order files."`
	Batch string   `help:"Batch of orders that name none."`
}

// Run is certmill plan.
func (p *planCmd) Run(ctx context.Context, c *cli) error {
	batch, err := app.ReadFiles(p.Batch, p.Files...)
	if err != nil {
		return err
	}
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	steps, err := console.Plan(ctx, batch)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(map[string]any{"steps": steps, "bad_lines": batch.Bad})
	}
	newView("text").Planned(steps, batch)
	return badLines(batch)
}

func badLines(b app.Batch) error {
	if len(b.Bad) > 0 {
		return fmt.Errorf("%d lines are no orders", len(b.Bad))
	}
	return nil
}

type checkCmd struct {
	Files []string `arg:"" type:"existingfile" help:"Order files."`
}

// Run is certmill check.
func (k *checkCmd) Run(c *cli) error {
	batch, err := app.ReadFiles("", k.Files...)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(map[string]any{"orders": len(batch.Requests), "bad_lines": batch.Bad})
	}
	for _, l := range batch.Bad {
		fmt.Printf("%s:%d: %s\n", l.File, l.Line, l.Why)
	}
	fmt.Printf("%d orders, %d bad lines\n", len(batch.Requests), len(batch.Bad))
	return badLines(batch)
}

type schemaCmd struct{}

// Run is certmill schema.
func (schemaCmd) Run() error {
	_, err := os.Stdout.Write(order.Schema())
	return err
}

type settingCmd struct {
	Table bool `help:"Print the table of settings in Markdown."`
	Check bool `help:"Check the config in force and say what is wrong with it."`
}

// Run is certmill config.
func (s *settingCmd) Run(c *cli) error {
	switch {
	case s.Table:
		fmt.Print(app.Table())
	case s.Check:
		if _, err := c.load(); err != nil {
			return err
		}
		fmt.Println("ok")
	default:
		fmt.Print(app.Example)
	}
	return nil
}
