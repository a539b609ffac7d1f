package pipeline

import (
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
)

// Whatever was let in: a record repeats no secret, and what it holds encoded can
// still be read.
func TestNoSecretIsInARecord(t *testing.T) {
	t.Parallel()
	redact.Learn("canary-of-the-records")
	l := openLine(t)
	o := anOrder("a")
	o.Original = []byte(`{"x":"canary-of-the-records"}`)
	o.Failure = &order.Failure{Reason: "it says canary-of-the-records"}
	if _, err := l.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	it, err := l.Last(t.Context(), "a")
	if err != nil || it.Failure.Reason != "it says [redacted]" || strings.Contains(string(it.Original), "canary-of-the-records") {
		t.Errorf("%+v, %s, %v", it.Failure, it.Original, err)
	}
}
