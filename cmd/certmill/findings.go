package main

import (
	"fmt"
	"io"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/dcv/preflight"
)

// mostShown is how many findings are written for people; machines get all.
const mostShown = 40

// writeFindings writes what stands in the way of a batch, for people.
func writeFindings(w io.Writer, p app.Plan) error {
	var err error
	say := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format+"\n", args...)
		}
	}
	for i, f := range p.Findings {
		if i == mostShown {
			say("… and %d more: certmill plan -o json", len(p.Findings)-i)
			break
		}
		say("%-8s %s: %s", f.Level, orders(len(f.Orders)), f.What)
		say("         %s", f.Do)
		say("         for example %s", example(f))
	}
	for _, what := range p.NotLookedAt {
		say("not looked at: %s", what)
	}
	if len(p.Findings) == 0 && len(p.Steps) > 0 {
		say("nothing was found that stands in the way")
	}
	return err
}

func orders(n int) string {
	if n == 1 {
		return "1 order"
	}
	return fmt.Sprintf("%d orders", n)
}

// example is one order of a finding, with its name where the finding is about
// names.
func example(f preflight.Finding) string {
	if f.Example == "" {
		return "order " + f.Orders[0]
	}
	return f.Example + " (for order " + f.Orders[0] + ")"
}
