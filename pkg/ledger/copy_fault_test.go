package ledger

import (
	"testing"

	"github.com/certmill/certmill/pkg/durable/durabletest"
	"github.com/certmill/certmill/pkg/order"
)

// TestCopyOnAFailingDisk: an entry's copy is whole, or the one before it, and the
// same again mends it. What is written before the record may be one too many,
// never half a one.
func TestCopyOnAFailingDisk(t *testing.T) {
	t.Parallel()
	of := func(orders ...string) Placement {
		return Placement{Challenge: order.Challenge{Type: "TXT", Host: "_dnsauth.a.example.com", Value: "v"}, Orders: orders}
	}
	durabletest.Each(t, func(dir string) error {
		c, err := OpenCopy(dir + "/copy")
		if err != nil {
			return err
		}
		if err := c.keep(of("a")); err != nil {
			return err
		}
		return c.keep(of("a", "b"))
	}, func(t *testing.T, dir string, err error) {
		if !durabletest.Failed(err) {
			t.Errorf("it says %v", err)
		}
		c, err := OpenCopy(dir + "/copy")
		if err != nil {
			t.Fatal(err)
		}
		all, err := c.subjects()
		if err != nil || len(all) > 1 {
			t.Fatalf("%v, %v", all, err)
		}
		for _, s := range all {
			if _, kept, err := c.read(s); !kept || err != nil {
				t.Errorf("%s: %v, %v", s, kept, err)
			}
		}
		if err := c.keep(of("a", "b")); err != nil {
			t.Fatal(err)
		}
		pl, kept, err := c.read(placedSubject(of().Challenge))
		if err != nil || !kept || len(pl.Orders) != 2 {
			t.Errorf("%+v, %v, %v", pl, kept, err)
		}
	})
}
