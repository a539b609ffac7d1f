package issuer_test

import (
	"testing"

	"github.com/certmill/certmill/pkg/issuer"
)

func TestWord(t *testing.T) {
	for raw, want := range map[string]string{"": "state not told", "1": "state 1", "-7": "state -7", "CHECKING": "CHECKING", "approved": "approved", "v2": "v2"} {
		if got := issuer.Word(raw); got != want {
			t.Errorf("%q is said as %q, want %q", raw, got, want)
		}
	}
}
