package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/orderfile"
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
	Files   []string      `arg:"" type:"existingfile" help:"Order files."`
	Batch   string        `help:"Batch of orders that name none."`
	NoDNS   bool          `name:"no-dns" help:"Ask no name server: no CAA, DNSSEC, zones."`
	Timeout time.Duration `default:"5m" help:"How long the look at the DNS, and that at the clouds, may take."`
	Pack    string        `type:"path" placeholder:"FILE" help:"Write the batch, with single names of one domain packed into orders of up to five, as JSON lines."`
}

// Run is certmill plan. Its exit status is 1 if a line is no order, or an order
// would not be issued as things stand.
func (p *planCmd) Run(ctx context.Context, c *cli) error {
	batch, err := app.ReadFiles(p.Batch, p.Files...)
	if err != nil {
		return err
	}
	cfg, err := c.loadQuiet()
	if err != nil {
		return err
	}
	plan, err := app.MakePlan(ctx, cfg, app.NewLogger(os.Stderr, cfg.Log), batch, app.PlanOptions{NoDNS: p.NoDNS, Within: p.Timeout})
	if err != nil {
		return err
	}
	if c.Output == "json" {
		err = printJSON(plan)
	} else {
		newView("text").Planned(plan.Steps, batch)
		err = writeFindings(os.Stdout, plan)
	}
	if err == nil && p.Pack != "" {
		err = p.pack(plan)
	}
	if err == nil {
		err = badLines(batch)
	}
	if n := plan.Failing(); err == nil && n > 0 {
		err = fmt.Errorf("%d orders would not be issued as things stand", n)
	}
	return err
}

// pack writes the packed batch. A file that is there is not replaced.
func (p *planCmd) pack(plan app.Plan) error {
	packed, err := plan.Packed()
	if err != nil {
		return err
	}
	if f, err := orderfile.FormatOf(p.Pack); err != nil || f != orderfile.JSON {
		return fmt.Errorf("%s: let the name end in .jsonl", p.Pack)
	}
	out, err := os.OpenFile(p.Pack, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write packed orders: %w", err)
	}
	lines := json.NewEncoder(out)
	for _, r := range packed {
		err = errors.Join(err, lines.Encode(r))
	}
	return errors.Join(err, out.Close())
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
