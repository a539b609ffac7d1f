package limit

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// WriteJSON writes the rows as one array.
func WriteJSON(w io.Writer, rows []Row) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(rows)
}

// WriteTable writes the rows for people.
func WriteTable(w io.Writer, rows []Row) error {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"limiter", "replicas", "jitter", "calls", "violations", "fixed", "throttled", "of 10/s", "of the bound", "messages per permit", "remarks"})
	var right []table.ColumnConfig
	for _, n := range []int{2, 4, 5, 6, 7, 8, 9, 10} {
		right = append(right, table.ColumnConfig{Number: n, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.SetColumnConfigs(right)
	for _, r := range rows {
		t.AppendRow(r.cells())
	}
	_, err := fmt.Fprintln(w, t.Render())
	return err
}

func (r Row) cells() table.Row {
	if r.Skipped != "" {
		return table.Row{r.Limiter, r.Replicas, r.Jitter, "", "", "", "", "", "", "", "left out: " + r.Skipped}
	}
	remarks := r.Disturbance
	if len(r.Per3s) > 0 {
		remarks += fmt.Sprintf("; calls in each 3 s: %v", r.Per3s)
	}
	if r.Note != "" {
		remarks += "; " + r.Note
	}
	messages := ""
	if r.MessagesPerPermit >= 0 {
		messages = fmt.Sprintf("%.2f", r.MessagesPerPermit)
	}
	return table.Row{r.Limiter, r.Replicas, r.Jitter, r.Calls, r.Violations, r.FixedViolations, r.Throttled,
		percent(r.Utilisation), percent(r.OfBound), messages, remarks}
}

func percent(f float64) string { return fmt.Sprintf("%.1f %%", 100*f) }
