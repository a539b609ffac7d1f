package issue

import (
	"fmt"
	"io"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// WriteBatch writes the rows as one Markdown table, a column for each program.
func WriteBatch(w io.Writer, rows []BatchRow) error {
	return sheet(w, rows, func(r BatchRow) Bill { return r.Bill }, []line[BatchRow]{
		{"", func(r BatchRow) string { return r.Who }},
		{"orders", func(r BatchRow) string { return fmt.Sprint(r.Orders) }},
		{"certificates on disk, as ordered", func(r BatchRow) string { return fmt.Sprint(r.Delivered) }},
		{"first order to last certificate", func(r BatchRow) string { return seconds(r.Seconds) }},
		{"against orders ÷ 10/s", func(r BatchRow) string { return fmt.Sprintf("%.2f", r.Ratio) }},
		{"one order alone", func(r BatchRow) string { return known(r.Alone > 0, seconds(r.Alone)) }},
		{"allowed: 1.05 × orders ÷ 10/s + one alone", func(r BatchRow) string { return known(r.Allowed > 0, seconds(r.Allowed)) }},
		{"met", func(r BatchRow) string { return known(r.Allowed > 0, yes(r.Met())) }},
		{"until the last record was removed", func(r BatchRow) string { return seconds(r.Ended) }},
		{"CPU of program, server and clouds", func(r BatchRow) string { return seconds(r.CPU) }},
	})
}

// WriteSweep writes the rows as one Markdown table, a column for each program
// in each scene, and says what was scaled.
func WriteSweep(w io.Writer, rows []SweepRow) error {
	err := sheet(w, rows, func(r SweepRow) Bill { return r.Bill }, []line[SweepRow]{
		{"", func(r SweepRow) string { return r.Who }},
		{"orders", func(r SweepRow) string { return fmt.Sprint(r.Orders) }},
		{"certificates on disk, as ordered", func(r SweepRow) string { return fmt.Sprint(r.Issued) }},
		{"scale", func(r SweepRow) string { return fmt.Sprint(r.Scale) }},
		{"the CA takes at least", func(r SweepRow) string { return seconds(r.Wait) }},
		{"most orders that waited for the CA at a time", func(r SweepRow) string { return fmt.Sprint(r.InFlight) }},
		{"issued to noticed, p50", func(r SweepRow) string { return seconds(r.P50) }},
		{"p95", func(r SweepRow) string { return seconds(r.P95) }},
		{"longest", func(r SweepRow) string { return seconds(r.Max) }},
		{"p95 against the wait", func(r SweepRow) string { return fmt.Sprintf("%.1f %%", 100*r.P95/r.Wait) }},
		{"allowed", func(r SweepRow) string { return fmt.Sprintf("%s: %s", r.Rule, seconds(r.Allowed)) }},
		{"met", func(r SweepRow) string { return yes(r.Met()) }},
		{"took, not scaled", func(r SweepRow) string { return seconds(r.Seconds) }},
		{"CPU of program, server and clouds", func(r SweepRow) string { return seconds(r.CPU) }},
	})
	if err == nil && slices.ContainsFunc(rows, func(r SweepRow) bool { return r.Scale > 1 }) {
		_, err = io.WriteString(w, scaleNote)
	}
	return err
}

const scaleNote = `
With a scale of n, the clouds' limits are n times as high and their delays (the CA's, the lists', the challenges', the
latency) an n-th; the times shown are n times what was measured. What certmill, its server and this machine need by
themselves is not scaled, so it counts n times.
`

// line is one line of a sheet: a name and each row's value.
type line[R any] struct {
	name string
	of   func(R) string
}

// sheet writes rows as columns, and below the given lines their bills.
func sheet[R any](w io.Writer, rows []R, bill func(R) Bill, lines []line[R]) error {
	lines = append(lines, line[R]{"CAS calls per certificate", func(r R) string { return fmt.Sprintf("**%.2f**", bill(r).CAS) }})
	lines = append(lines, perAction(rows, bill, false)...)
	lines = append(lines, line[R]{"DNS calls per certificate", func(r R) string { return fmt.Sprintf("%.2f", bill(r).DNS) }})
	lines = append(lines, perAction(rows, bill, true)...)
	lines = append(lines,
		line[R]{"throttled", func(r R) string { return fmt.Sprint(bill(r).Throttled) }},
		line[R]{"calls over the limit", func(r R) string { return fmt.Sprint(bill(r).OverLimit) }},
		line[R]{"most calls of a CAS action in a sliding second", func(r R) string { return bill(r).Peak }})
	t := table.NewWriter()
	for i, l := range lines {
		cells := table.Row{l.name}
		for _, r := range rows {
			cells = append(cells, l.of(r))
		}
		if i == 0 {
			t.AppendHeader(cells)
		} else {
			t.AppendRow(cells)
		}
	}
	var right []table.ColumnConfig
	for i := range rows {
		right = append(right, table.ColumnConfig{Number: i + 2, Align: text.AlignRight})
	}
	t.SetColumnConfigs(right)
	_, err := fmt.Fprintln(w, t.RenderMarkdown())
	return err
}

// perAction is one line for each action of CAS, or of the DNS, that somebody
// called.
func perAction[R any](rows []R, bill func(R) Bill, dns bool) (lines []line[R]) {
	var actions []string
	for _, r := range rows {
		for _, c := range bill(r).Calls {
			if c.dns() == dns && c.Calls > 0 {
				actions = append(actions, c.Action)
			}
		}
	}
	slices.Sort(actions)
	for _, a := range slices.Compact(actions) {
		lines = append(lines, line[R]{"– " + a, func(r R) string { return bill(r).perCertificate(a) }})
	}
	return lines
}

func known(is bool, s string) string {
	if !is {
		return ""
	}
	return s
}

func seconds(s float64) string { return fmt.Sprintf("%.1f s", s) }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "**no**"
}
