package order_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/certmill/certmill/pkg/order"
)

// A look replaces what the one before saw, but for when it first showed
// everywhere; what servers say cannot make a record large.
func TestProofNotesLooks(t *testing.T) {
	at := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	var p order.Proof
	long := []string{strings.Repeat("ü", 1000)}
	for i := range 20 {
		long = append(long, fmt.Sprint("server ", i))
	}
	p.Saw(at, false, long)
	if !p.Seen.IsZero() || !p.Looked.Equal(at) || len(p.Missing) != 7 || p.Missing[6] != "and 15 more" || len(p.Missing[0]) > 310 || !utf8.ValidString(p.Missing[0]) {
		t.Errorf("%+v", p)
	}
	p.Saw(at.Add(time.Minute), true, nil)
	p.Saw(at.Add(time.Hour), false, []string{"gone"})
	p.Saw(at.Add(2*time.Hour), true, nil)
	if !p.Seen.Equal(at.Add(time.Minute)) || !p.Looked.Equal(at.Add(2*time.Hour)) || len(p.Missing) != 0 {
		t.Errorf("%+v", p)
	}
}

// There is a proof for each challenge, whatever was known before; changing them
// changes no record.
func TestProve(t *testing.T) {
	a, b := order.Challenge{Type: "TXT", Host: "a", Value: "1"}, order.Challenge{Type: "TXT", Host: "b", Value: "2"}
	o := order.Order{Challenges: []order.Challenge{a, b}, Proofs: []order.Proof{{Challenge: b, At: "elsewhere"}, {Challenge: order.Challenge{Host: "c"}}}}
	got := o.Prove()
	if len(got) != 2 || got[0].Challenge != a || got[0].Place() != a || got[1].At != "elsewhere" || got[1].Place().Host != "elsewhere" || got[1].Challenge.Host != "b" {
		t.Errorf("%+v", got)
	}
	got[1].At = "changed"
	if o.Proofs[0].At != "elsewhere" {
		t.Error("the record was changed")
	}
}
