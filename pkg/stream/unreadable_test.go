package stream

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/record"
)

// Each is told of once in a process, its later versions again, and of very many
// the first ones.
func TestUnreadableIsToldOnce(t *testing.T) {
	t.Parallel()
	told = journal{}
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	newer := Unreadable{"order.submit.a.ali", 1, fmt.Errorf("it has version 2: %w", record.ErrNewer)}
	broken := Unreadable{"order.submit.b.ali", 2, errors.New("no record")}
	if !newer.Newer() || broken.Newer() {
		t.Error("a newer record and a broken one are taken for one another")
	}
	for range 3 {
		newer.Tell(t.Context(), log)
		broken.Tell(t.Context(), log)
	}
	if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "order.submit.a.ali") || !strings.Contains(got, "order.submit.b.ali") {
		t.Errorf("told:\n%s", got)
	}
	for range 2 {
		for i := range 2 * mostTold {
			Unreadable{"x", uint64(i), broken.Err}.Tell(t.Context(), log)
		}
	}
	if n := strings.Count(out.String(), "\n"); n != mostTold+1 || len(told.notes) > mostTold+1 {
		t.Errorf("%d lines, %d remembered", n, len(told.notes))
	}
}
