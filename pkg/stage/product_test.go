package stage_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/order"
)

// TestNamesThatNoProductCertifies: what the product in force does not certify is
// refused before anything is ordered, with the product to write instead; for what was
// bought already, the product says nothing.
func TestNamesThatNoProductCertifies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	in := w.worker().intake
	for name, c := range map[string]struct {
		product, resource, account string
		names                      []string
		says                       string // empty: it is taken
	}{
		"a wildcard":                        {names: []string{"*.example.com"}, says: "product " + plenty + " certifies single names only"},
		"what to write":                     {names: []string{"*.example.com"}, says: "(such as geotrust-dv-w-starter)"},
		"the account":                       {names: []string{"*.example.com"}, says: `account "ali" (Alibaba Cloud)`},
		"a single name":                     {names: []string{"a.example.com"}, product: "geotrust-dv-w-starter", says: "certifies wildcards only"},
		"two names":                         {names: []string{"a.example.com", "b.example.com"}, product: "digicert-free-1-free", says: "certifies one name only, and the order has 2"},
		"a wildcard of a product for it":    {names: []string{"*.example.com"}, product: "geotrust-dv-w-starter"},
		"a product that tells nothing":      {names: []string{"*.example.com"}, product: "ours"},
		"two names, paid":                   {names: []string{"a.example.com", "b.example.com"}},
		"a wildcard on a bought instance":   {names: []string{"*.example.com"}, resource: order.AnyResource},
		"a wildcard wherever it can be had": {names: []string{"*.example.com"}, account: order.AnyAccount},
	} {
		r := order.Request{ID: "a", Names: c.names, Account: "ali", Product: c.product, Resource: c.resource}.Normal()
		if c.account != "" {
			r.Account = c.account
		}
		a, _, err := in.Place(t.Context(), r)
		var bad *order.Invalid
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.says != "" && (!errors.As(err, &bad) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want %q", name, err, c.says)
		case c.account != "" && err == nil && a.Label != "ten":
			t.Errorf("%s: it goes to %s", name, a.Label)
		}
	}
}

// TestRetryOfWhatNoProductCertifies: an order that was taken before anybody looked
// fails at the cloud, which spends nothing; a retry would be refused in the same way,
// so it is not offered, and says what helps. Another product, in an order of its own,
// has the names.
func TestRetryOfWhatNoProductCertifies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	r := request("a", "*.example.com")
	r.Product = plenty
	r = r.Normal()
	_, err := w.line.Create(t.Context(), order.Order{V: order.SchemaVersion, Request: r, Hash: r.Hash(), Received: time.Now().UTC(), State: order.Submit,
		Account: "ali", Main: aliUID, Operation: forPackage, Product: plenty, Purchase: 1})
	w.must(err)
	p := w.worker()
	p.drive("a", order.Failed)
	o := w.wantFailed("a", "rejected")
	if !o.OnlyMended() {
		t.Errorf("failure %+v", o.Failure)
	}
	w.wantNotNow("a", p.by.Retry(t.Context(), "a"), "certifies single names only")
	w.wantNotNow("a", p.by.Retry(t.Context(), "a"), "certmill order <file>")
	w.wantPaid(0, "*.example.com")

	r.ID, r.Product = "", "geotrust-dv-w-starter"
	data, err := json.Marshal(r)
	w.must(err)
	w.accept(string(data))
	if o := w.last(r.DerivedID()); o.State != order.Submit {
		t.Errorf("the mended order is %s: %+v", o.State, o.Failure)
	}
}
