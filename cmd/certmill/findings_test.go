package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/dcv/preflight"
)

func TestWriteFindings(t *testing.T) {
	var caa []string
	for i := range 312 {
		caa = append(caa, fmt.Sprint("shop-", i+1))
	}
	plan := app.Plan{Findings: []preflight.Finding{
		{Level: preflight.Error, Kind: preflight.CAA, What: "CAA of example.cn forbids digicert.com", Do: `add 0 issue "digicert.com" to it, or order another brand; it allows letsencrypt.org`,
			Example: "www.example.cn", Orders: caa},
		{Level: preflight.Error, Kind: preflight.Quota, What: "product symantec-dv-1-starter has 0 left on account a", Do: "buy more of it", Orders: []string{"x-1"}},
	}, NotLookedAt: []string{"quota: no server is known"}}
	var b strings.Builder
	if err := writeFindings(&b, plan); err != nil {
		t.Fatal(err)
	}
	want := `error    312 orders: CAA of example.cn forbids digicert.com
         add 0 issue "digicert.com" to it, or order another brand; it allows letsencrypt.org
         for example www.example.cn (for order shop-1)
error    1 order: product symantec-dv-1-starter has 0 left on account a
         buy more of it
         for example order x-1
not looked at: quota: no server is known
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}

	many := app.Plan{}
	for i := range mostShown + 3 {
		f := plan.Findings[1]
		f.What = fmt.Sprint("finding ", i)
		many.Findings = append(many.Findings, f)
	}
	b.Reset()
	if err := writeFindings(&b, many); err != nil || !strings.HasSuffix(b.String(), "… and 3 more: certmill plan -o json\n") {
		t.Errorf("%v, ends with %q", err, b.String()[max(0, b.Len()-60):])
	}
	b.Reset()
	if err := writeFindings(&b, app.Plan{Steps: []app.Step{{}}}); err != nil || b.String() != "nothing was found that stands in the way\n" {
		t.Errorf("%v, %q", err, b.String())
	}
}
