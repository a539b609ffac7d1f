package order_test

import (
	"testing"

	"github.com/certmill/certmill/pkg/order"
)

// What a cloud shows is of an order for a set if it has all of the set, however it is
// spelled, and nothing besides but what CAs add. Of the sets that it may be for,
// each is shown by it.
func TestShows(t *testing.T) {
	names := func(n ...string) []string { return n }
	for _, c := range []struct {
		shown, ordered []string
		want           bool
	}{
		{names("a.example"), names("a.example"), true},
		{names("B.example.", "a.example"), names("a.example", "b.example"), true},
		{names("中文.com"), names("xn--fiq228c.com"), true},
		{names("a.example", "www.a.example"), names("a.example"), true},
		{names("www.a.example", "a.example"), names("www.a.example"), true},
		{names("*.a.example", "a.example"), names("*.a.example"), true},
		{names("*.a.example", "www.a.example"), names("*.a.example"), false},
		{names("a.example", "b.example"), names("a.example"), false},
		{names("a.example"), names("a.example", "www.a.example"), false},
		{nil, names("a.example"), false},
		{names("a.example"), nil, false},
	} {
		if got := order.Shows(c.shown, c.ordered); got != c.want {
			t.Errorf("%q shows %q: %v", c.shown, c.ordered, got)
		}
		of := false
		for _, set := range order.MayBeFor(c.shown) {
			of = of || order.NamesHash(set) == order.NamesHash(c.ordered)
			if len(c.shown) > 0 && !order.Shows(c.shown, set) {
				t.Errorf("%q does not show %q", c.shown, set)
			}
		}
		if of != c.want && len(c.shown) > 0 {
			t.Errorf("%q may be for %q: %v", c.shown, c.ordered, of)
		}
	}
}
