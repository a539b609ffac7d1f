package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/mattn/go-isatty"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/order"
)

// view shows a run: a bar on a terminal, plain lines elsewhere, one JSON
// document for machines.
type view struct {
	json  bool
	bars  *mpb.Progress // nil where there is no terminal
	bar   *mpb.Bar
	began time.Time

	mu    sync.Mutex // guards what follows
	last  app.Progress
	shown time.Time
}

func newView(output string) *view {
	v := &view{json: output == "json", began: time.Now()}
	if !v.json && isatty.IsTerminal(os.Stdout.Fd()) {
		v.bars = mpb.New(mpb.WithOutput(os.Stdout), mpb.WithRefreshRate(150*time.Millisecond))
	}
	return v
}

// logs is where log lines go without tearing the bar.
func (v *view) logs() io.Writer {
	if v.bars != nil {
		return v.bars
	}
	return os.Stderr
}

func (v *view) close() {
	if v.bar != nil && !v.bar.Completed() {
		v.bar.Abort(false)
	}
	if v.bars != nil {
		v.bars.Wait()
	}
}

func (v *view) say(format string, args ...any) {
	if v.json {
		return
	}
	var w io.Writer = os.Stdout
	if v.bars != nil {
		w = v.bars
	}
	fmt.Fprintf(w, format+"\n", args...)
}

func (v *view) Started(w app.Where) {
	clouds := "the accounts of the config"
	if w.Simulated {
		clouds = "SIMULATED clouds (no account is configured): nobody trusts these certificates"
	}
	v.say("nats %s   state %s\nclouds: %s", w.NATS, w.State, clouds)
	if w.Looking != "" {
		v.say("to look with the stock command: nats --context %s stream report", w.Looking)
	}
}

func (v *view) Planned(steps []app.Step, b app.Batch) {
	if v.json {
		return
	}
	for _, line := range found(b) {
		v.say("%s", line)
	}
	if len(steps) > 0 {
		v.say("%s", planTable(steps))
	}
}

// found is what is said of a batch before anything is handed in: bad lines, what
// is there already, and names that several orders have.
func found(b app.Batch) (lines []string) {
	for _, l := range b.Bad {
		lines = append(lines, fmt.Sprintf("%s:%d: %s", l.File, l.Line, l.Why))
	}
	if b.Blind != "" {
		lines = append(lines, "not looked at: which orders are known: "+b.Blind)
	}
	for i, f := range b.Findings {
		if i == mostShown {
			lines = append(lines, fmt.Sprintf("… and %d more: certmill plan -o json", len(b.Findings)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("%-8s %s: %s; %s; for example %s", f.Level, orders(len(f.Orders)), f.What, f.Do, example(f)))
	}
	if len(b.OnceMore) > 0 {
		lines = append(lines, fmt.Sprintf("again    %s bought once more, and once more each time that they are handed in like this "+
			"after they have ended; for example %s, after %s",
			orders(len(b.OnceMore)), b.OnceMore[0].ID, b.OnceMore[0].Of))
	}
	return append(lines, knownLines(b.Known)...)
}

// knownLines are the lines of files whose orders are there, by state, with an
// example of those that need somebody.
func knownLines(all []app.KnownLine) (lines []string) {
	byState := map[order.State][]app.KnownLine{}
	mended := 0
	for _, k := range all {
		if k.Mended {
			mended++
			continue
		}
		byState[k.State] = append(byState[k.State], k)
	}
	if mended > 0 {
		lines = append(lines, fmt.Sprintf("mended   %s failed: nothing was bought for them, and they are tried again as they stand here now", orders(mended)))
	}
	for _, s := range order.States {
		of := byState[s]
		if len(of) == 0 {
			continue
		}
		lines = append(lines, fmt.Sprintf("known    %s %s: nothing is bought for them", orders(len(of)), s))
		if s != order.Failed && s != order.Held {
			continue
		}
		lines = append(lines, fmt.Sprintf("         for example %s (%s:%d): %s", of[0].ID, of[0].File, of[0].Line, of[0].Why))
		for _, c := range of[0].Commands {
			lines = append(lines, "         "+c)
		}
	}
	return lines
}

// planTable is what will be spent, and how.
func planTable(steps []app.Step) string {
	t := newTable(table.Row{"account", "operation", "product", "orders", "quota"})
	for _, s := range steps {
		quota := fmt.Sprint(s.Orders)
		if !s.Spends {
			quota += " already bought" // which budgets count, too
		}
		t.AppendRow(table.Row{s.Account, s.Operation, s.Product, s.Orders, quota})
	}
	return t.Render()
}

func newTable(header table.Row) table.Writer {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	t.AppendHeader(header)
	return t
}

func (v *view) HandedIn(known, fresh int) {
	v.say("%d known, %d new", known, fresh)
	if v.bars != nil && known+fresh > 0 {
		v.bar = v.bars.AddBar(int64(known+fresh), mpb.PrependDecorators(decor.Name("orders "), decor.CountersNoUnit("%d/%d")),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return v.states() })))
	}
}

// plainEvery is how often a line is written where there is no terminal.
const plainEvery = 2 * time.Second

func (v *view) Moved(p app.Progress) {
	v.mu.Lock()
	v.last = p
	due := p.Done() == p.Total || time.Since(v.shown) >= plainEvery
	if due {
		v.shown = time.Now()
	}
	v.mu.Unlock()
	switch {
	case v.bar != nil:
		v.bar.SetCurrent(int64(p.Done()))
	case due:
		v.say("%4.0f s  %d of %d done  %s", time.Since(v.began).Seconds(), p.Done(), p.Total, v.states())
	}
}

// states is one line of how many orders are where.
func (v *view) states() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var parts []string
	for _, s := range order.States {
		if n := v.last.States[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", s, n))
		}
	}
	return strings.Join(parts, "  ")
}

func (v *view) Ended(s app.Summary) {
	if v.json {
		_ = printJSON(s)
		return
	}
	if v.bars != nil {
		v.close()
		v.bars, v.bar = nil, nil
	}
	v.say("%s", summaryTable(s))
	for i, p := range s.Problems {
		if i == 20 {
			v.say("… and %d more: certmill failed", len(s.Problems)-i)
			break
		}
		v.say("%s %s: %s", p.State, p.ID, p.Reason)
		if p.Advice != "" {
			v.say("    %s", p.Advice)
		}
		for _, command := range p.Commands {
			v.say("    %s", command)
		}
	}
}

func summaryTable(s app.Summary) string {
	t := newTable(table.Row{"orders", s.Orders})
	if s.Known > 0 {
		t.AppendRow(table.Row{"known before", s.Known})
	}
	t.AppendRow(table.Row{"issued", s.Issued})
	failed := 0
	for class, n := range s.Failed {
		t.AppendRow(table.Row{"failed: " + class, n})
		failed += n
	}
	if failed == 0 {
		t.AppendRow(table.Row{"failed", 0})
	}
	t.AppendRow(table.Row{"held", s.Held})
	if s.Archived > 0 {
		t.AppendRow(table.Row{"archived", s.Archived})
	}
	if s.Unfinished > 0 {
		t.AppendRow(table.Row{"unfinished", s.Unfinished})
	}
	if len(s.Bad) > 0 {
		t.AppendRow(table.Row{"bad lines", len(s.Bad)})
	}
	if s.Calls > 0 { // who only watches counts none
		t.AppendRow(table.Row{"calls per certificate", fmt.Sprintf("%.2f", s.PerCert)})
		t.AppendRow(table.Row{"peak calls per second", s.PeakPerSec})
	}
	t.AppendRow(table.Row{"time", fmt.Sprintf("%.1f s", s.Seconds)})
	t.AppendRow(table.Row{"certificates", s.Certificates})
	return t.Render()
}
