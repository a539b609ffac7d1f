package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

type statusCmd struct{}

// Run is certmill status.
func (statusCmd) Run(ctx context.Context, c *cli) error {
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	s, err := console.Status(ctx)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(s)
	}
	t := newTable(table.Row{"state", "orders"})
	t.AppendRow(table.Row{"inbox", s.Inbox})
	for _, state := range order.States {
		if n := s.States[state]; n > 0 {
			t.AppendRow(table.Row{state, n})
		}
	}
	fmt.Println(t.Render())
	a := newTable(table.Row{"account", "main account", "credentials", "state"})
	for _, line := range s.Accounts {
		a.AppendRow(table.Row{line.Label, line.Main, line.Credentials(), line.State})
	}
	fmt.Println(a.Render())
	told := map[string]bool{} // labels of one main account have the same
	for _, line := range s.Accounts {
		for _, t := range line.Troubles {
			if !told[t.What] {
				fmt.Printf("since %s: %s\n    %s\n", t.Since.UTC().Format(time.DateTime), t.What, t.Helps)
			}
			told[t.What] = true
		}
	}
	printTroubles(s.Troubles)
	if s.Unreadable > 0 {
		fmt.Printf("%d records cannot be read by this certmill and are left alone: certmill stuck\n", s.Unreadable)
	}
	if s.Left > 0 {
		fmt.Printf("%d records or files of ended orders could not be removed: certmill stuck\n", s.Left)
	}
	return nil
}

type listCmd struct {
	In      string `help:"Only this state."`
	Account string `help:"Only this account label."`
	Batch   string `help:"Only this batch."`
}

// Run is certmill list.
func (l *listCmd) Run(ctx context.Context, c *cli) error {
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	found := listed{Orders: []order.Order{}}
	err = console.Each(ctx, order.State(l.In), func(it pipeline.Item) error {
		if (l.Account == "" || it.Account == l.Account) && (l.Batch == "" || it.Request.Batch == l.Batch) {
			found.Orders = append(found.Orders, it.Order)
		}
		return nil
	}, func(u pipeline.Unread) error { // of whichever batch
		if l.Account == "" || strings.TrimSuffix(u.Lane, order.UrgentSuffix) == l.Account {
			found.Unreadable = append(found.Unreadable, u)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(found)
	}
	t := newTable(table.Row{"id", "state", "account", "names", "cloud id", "why"})
	for _, o := range found.Orders {
		t.AppendRow(table.Row{o.ID(), o.State, o.Account, app.Names(o), o.CloudID, console.Why(ctx, o)})
	}
	for _, u := range found.Unreadable {
		t.AppendRow(table.Row{u.ID, u.State, u.Lane, "", "", "cannot be read by this certmill: " + u.Why})
	}
	fmt.Println(t.Render())
	return nil
}

// listed is what certmill list tells machines.
type listed struct {
	Orders     []order.Order     `json:"orders"`
	Unreadable []pipeline.Unread `json:"unreadable,omitempty"`
}

type showCmd struct {
	ID  string `arg:"" help:"Order id."`
	Now bool   `help:"Also ask the cloud (one call) and look for its challenges from outside, now."`
}

// Run is certmill show.
func (s *showCmd) Run(ctx context.Context, c *cli) error {
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	it, err := console.Find(ctx, s.ID)
	if err != nil {
		return err
	}
	if c.Output == "json" && !s.Now {
		return printJSON(it.Order)
	}
	e, err := console.Explain(ctx, it)
	if err != nil {
		return err
	}
	o := it.Order
	if s.Now {
		now, err := console.Now(ctx, o)
		if err != nil {
			return err
		}
		e.Evidence = append(e.Evidence, now...)
	}
	if c.Output == "json" {
		return printJSON(e)
	}
	where := ""
	if o.Account != "" { // of an archived order it is not kept
		where = fmt.Sprintf("  account %s (%s)  %s", o.Account, o.Main, o.Operation)
	}
	if e.Since.IsZero() {
		e.Since = it.Stored
	}
	fmt.Printf("%s  %s%s\nnames     %s\n", o.ID(), o.State, where, app.Names(o))
	if o.CloudID != "" {
		fmt.Printf("cloud id  %s\n", o.CloudID)
	}
	fmt.Println(explained(e))
	if o.Certificate != nil {
		fmt.Printf("serial    %s, until %s, at %v\n", o.Certificate.Serial, o.Certificate.NotAfter.Format(time.RFC3339), o.Certificate.Delivered)
	}
	t := newTable(table.Row{"time", "state", "worker", "note", "request id"})
	for _, e := range o.Timeline {
		t.AppendRow(table.Row{e.At.Format("2006-01-02 15:04:05.000"), e.State, e.Worker, e.Note, e.RequestID})
	}
	fmt.Println(t.Render())
	return nil
}

// explained is an explanation for people.
func explained(e app.Explanation) string {
	var lines []string
	if !e.Since.IsZero() {
		lines = append(lines, fmt.Sprintf("since     %s (%v)", e.Since.Format(time.RFC3339), time.Since(e.Since).Round(time.Second)))
	}
	lines = append(lines, "why       "+e.Blocker)
	if e.Advice != "" {
		lines = append(lines, "          "+e.Advice)
	}
	if time.Until(e.Next) > 0 {
		lines = append(lines, "next      "+e.Next.Format(time.RFC3339))
	}
	for i, said := range e.Evidence {
		lines = append(lines, [...]string{"evidence  ", "          "}[min(i, 1)]+said)
	}
	for i, command := range e.Commands {
		lines = append(lines, [...]string{"helps     ", "          "}[min(i, 1)]+command)
	}
	return strings.Join(lines, "\n")
}

type stuckCmd struct {
	Older time.Duration `default:"10m" help:"Orders that have been at one stage for so long. Those that wait or are held come always."`
}

// Run is certmill stuck.
func (s *stuckCmd) Run(ctx context.Context, c *cli) error {
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	stuck, err := console.Stuck(ctx, s.Older)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(stuck)
	}
	printTroubles(stuck.Troubles)
	for _, g := range stuck.Groups {
		fmt.Println(groupText(g))
	}
	switch {
	case stuck.Inbox > 0:
		fmt.Printf("%s in the inbox and not taken yet\n", counted(int(stuck.Inbox)))
	case len(stuck.Groups)+len(stuck.Troubles) == 0:
		fmt.Println("every order moves")
	}
	if len(stuck.Left) > 0 {
		fmt.Println(leftTable(stuck.Left).Render())
	}
	return nil
}

// groupText is a group with its example. What no order waits for is an account.
func groupText(g app.StuckGroup) string {
	e := g.Example
	if e.State == "" {
		return fmt.Sprintf("%s\n%s\n", g.Cause, indented(e.ID+"\n"+explained(e)))
	}
	return fmt.Sprintf("%s: %s\n%s\n", counted(len(g.IDs)), g.Cause, indented(fmt.Sprintf("%s, %s, account %s\n%s", e.ID, e.State, e.Account, explained(e))))
}

// printTroubles prints what stands in no order's record.
func printTroubles(all []app.Trouble) {
	for _, t := range all {
		fmt.Printf("%s\n%s\n", t.What, indented(t.Why))
		for i, help := range t.Helps {
			fmt.Println(indented([...]string{"helps     ", "          "}[min(i, 1)] + help))
		}
		fmt.Println()
	}
}

func counted(n int) string {
	if n == 1 {
		return "1 order"
	}
	return fmt.Sprint(n, " orders")
}

func indented(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") }

// leftTable are the records that could not be removed.
func leftTable(left []ledger.Placement) table.Writer {
	t := newTable(table.Row{"left behind at", "type", "of orders", "since", "tries", "again", "why"})
	for _, pl := range left {
		t.AppendRow(table.Row{pl.Challenge.Host + pl.Challenge.Path, pl.Challenge.Type, strings.Join(pl.Orders, " "),
			pl.Since.Format(time.RFC3339), pl.Tries, pl.Next.Format(time.RFC3339), pl.Why})
	}
	return t
}

type failedCmd struct {
	Batch string `help:"Only this batch."`
}

// Run is certmill failed.
func (f *failedCmd) Run(ctx context.Context, c *cli) error {
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	groups, err := console.Failed(ctx, f.Batch)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(groups)
	}
	t := newTable(table.Row{"state", "cause", "orders", "for example", "what to do"})
	for _, g := range groups {
		t.AppendRow(table.Row{g.State, g.Cause, len(g.IDs), g.IDs[0] + ": " + g.Reason, g.Advice})
	}
	fmt.Println(t.Render())
	return nil
}

type retryCmd struct {
	IDs   []string `arg:"" optional:"" help:"Order ids."`
	Cause string   `help:"All orders of this cause, as certmill failed shows it."`
	Batch string   `help:"All failed and held orders of this batch."`
	Dry   bool     `name:"dry-run" help:"Only show which orders it would be."`
}

// Run is certmill retry.
func (r *retryCmd) Run(ctx context.Context, c *cli) error {
	if len(r.IDs) == 0 && r.Cause == "" && r.Batch == "" {
		return fmt.Errorf("name orders, --cause or --batch")
	}
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	ids, err := console.Select(ctx, r.IDs, r.Cause, r.Batch)
	if err != nil {
		return err
	}
	refused := 0
	for _, id := range ids {
		if r.Dry {
			fmt.Println("would retry", id)
			continue
		}
		if err := console.Retry(ctx, who(), id); err != nil {
			refused++
			fmt.Fprintf(os.Stderr, "%s: %v\n", id, err)
			continue
		}
		fmt.Println("retried", id)
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d orders were not retried", refused, len(ids))
	}
	return nil
}

type surplusCmd struct{}

// Run is certmill surplus.
func (surplusCmd) Run(ctx context.Context, c *cli) error {
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	s, err := console.Surplus(ctx)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(s)
	}
	t := newTable(table.Row{"account", "names", "cloud order", "status", "product", "order", "why", "what to do"})
	for _, l := range s.Left {
		t.AppendRow(table.Row{l.Account, strings.Join(l.Names, " "), l.CloudID, l.Status, l.Product, l.Order, l.Why, l.Command})
	}
	fmt.Println(t.Render())
	for _, what := range s.NotLookedAt {
		fmt.Printf("not looked at: %s\n", what)
	}
	return nil
}

type codesCmd struct {
	Lang string `enum:"en,zh" default:"en" help:"en or zh."`
}

// Run is certmill codes.
func (k *codesCmd) Run() error {
	return app.WriteCodes(os.Stdout, k.Lang)
}
