package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/durable"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/orderfile"
)

type orderCmd struct {
	Files  []string `arg:"" type:"existingfile" help:"Order files."`
	Batch  string   `help:"Batch of orders that name none. Default: the file's name."`
	Again  bool     `help:"Buy the last order of each line once more, if it has ended: for orders whose certificate is to be replaced. A line that was never ordered is ordered. Repeated after those have ended, it buys once more each time. Asks."`
	Yes    bool     `help:"Do not ask before lines that say again: true (or --again) are bought once more."`
	Follow bool     `short:"f" help:"Follow the orders to their end."`
	Urgent bool     `help:"Hand in as urgent: they pass the others."`
}

// Run is certmill order.
func (o *orderCmd) Run(ctx context.Context, c *cli) error {
	batch, err := app.ReadFiles(o.Batch, o.Files...)
	if err != nil {
		return err
	}
	if o.Again {
		batch.Again()
	}
	console, err := c.open(ctx)
	if missing, is := errors.AsType[*app.NoRight](err); is {
		return o.blind(ctx, c, batch, missing)
	}
	if err != nil {
		return err
	}
	defer console.Close()
	view := newView(c.Output)
	defer view.close()
	if !o.Yes {
		batch.Agree = onceMore
	}
	sum, err := console.Order(ctx, batch, view, o.Follow, o.Urgent)
	if err != nil {
		return err
	}
	if c.Output == "json" && !o.Follow {
		if err := printJSON(sum); err != nil {
			return err
		}
	}
	if len(sum.Bad) > 0 || o.Follow && !sum.OK() {
		return errNotAll
	}
	return nil
}

// onceMore asks about what is bought once more.
func onceMore(all []app.Again) error {
	var ids []string
	for _, a := range all {
		ids = append(ids, a.ID)
	}
	for _, cost := range app.CostsOf(all) {
		fmt.Fprintf(os.Stderr, "is bought once more: %s of %v\n", orders(cost.Orders), cost)
	}
	fmt.Fprintf(os.Stderr, "    for example %s, after %s, which has ended. Handed in like this again when that one has ended, "+
		"it buys yet another each time; again: %s in its line buys this one only\n", all[0].ID, all[0].Of, all[0].Of)
	if err := agreed(ids, false); err != nil {
		return fmt.Errorf("%w: not even the other lines were handed in; --yes does not ask", err)
	}
	return nil
}

// blind hands in for a user who may not look, and says so.
func (o *orderCmd) blind(ctx context.Context, c *cli, batch app.Batch, missing *app.NoRight) error {
	if o.Follow {
		return fmt.Errorf("%w. Without --follow the orders are handed in without looking", missing)
	}
	cfg, err := c.loadQuiet()
	if err != nil {
		return err
	}
	n, err := app.HandInBlind(ctx, cfg, batch.Requests, o.Urgent, app.NewLogger(os.Stderr, cfg.Log))
	if n == 0 && err != nil {
		return err
	}
	view := newView(c.Output)
	view.Planned(nil, batch)
	who := "the NATS user " + missing.User
	if missing.User == "" {
		who = "who connects without a user"
	}
	view.say("%d handed in, without looking: %s may only publish. Those that are known already will be dropped", n, who)
	if c.Output == "json" {
		err = errors.Join(err, printJSON(map[string]any{"handed_in": n, "blind": true, "bad_lines": batch.Bad}))
	}
	if err == nil && len(batch.Bad) > 0 {
		err = errNotAll
	}
	return err
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
		newView("text").Planned(plan.Steps, app.Batch{Bad: plan.BadLines, Known: plan.Known})
		err = writeFindings(os.Stdout, plan)
	}
	if err == nil && p.Pack != "" {
		err = p.pack(plan)
	}
	if err == nil {
		err = badLines(plan.BadLines)
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
	var out bytes.Buffer
	lines := json.NewEncoder(&out)
	for _, r := range packed {
		err = errors.Join(err, lines.Encode(r))
	}
	if err == nil {
		err = durable.Create(filepath.Dir(p.Pack), p.Pack, out.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write packed orders: %w", err)
	}
	return nil
}

func badLines(bad []app.BadLine) error {
	if len(bad) > 0 {
		return fmt.Errorf("%d lines are no orders, or would be refused", len(bad))
	}
	return nil
}

type checkCmd struct {
	Files []string `arg:"" type:"existingfile" help:"Order files."`
}

// Run is certmill check. It needs no server; where one answers, it also says what
// is known there.
func (k *checkCmd) Run(ctx context.Context, c *cli) error {
	batch, err := app.ReadFiles("", k.Files...)
	if err != nil {
		return err
	}
	cfg, err := c.loadQuiet()
	if err == nil {
		batch, err = app.LookUp(ctx, cfg, app.NewLogger(os.Stderr, cfg.Log), batch)
	} else {
		batch.Blind, err = err.Error(), nil // to check a file needs no config either
	}
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(map[string]any{"orders": len(batch.Requests), "bad_lines": batch.Bad, "known": batch.Known,
			"findings": batch.Findings, "not_looked_at": batch.Blind})
	}
	for _, line := range found(batch) {
		fmt.Println(line)
	}
	fmt.Printf("%d orders, %d bad lines\n", len(batch.Requests), len(batch.Bad))
	return badLines(batch.Bad)
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
		cfg, err := (&runCmd{}).load(c) // where a run takes another one, that one's run is checked
		if err == nil {
			err = cfg.MayRun()
		}
		if err != nil {
			return err
		}
		fmt.Println("ok")
	default:
		fmt.Print(app.Example)
	}
	return nil
}
