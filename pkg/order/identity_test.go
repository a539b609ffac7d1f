package order_test

import (
	"crypto/elliptic"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/certmill/certmill/pkg/order"
)

func ExampleRequest_DerivedID() {
	for _, text := range []string{
		`{"names": ["www.example.com", "example.com"], "account": "aliyun-1"}`,
		`{"names": ["Example.COM.", "WWW.example.com"], "account": "aliyun-1", "batch": "spring", "contact": {"name": "Li Wei"}}`,
		`{"names": ["example.com", "www.example.com"], "account": "aliyun-2"}`,
		`{"names": ["*.example.com"]}`,
		`{"names": ["bad-weather.example.com"]}`,
	} {
		r, err := order.ParseRequest([]byte(text))
		fmt.Println(r.ID, err)
	}
	// Output:
	// example-com-1d24d638c576 <nil>
	// example-com-1d24d638c576 <nil>
	// example-com-e971d5d31786 <nil>
	// example-com-05aa873da2ba <nil>
	// o-bad-weather-example-com-ab281101818c <nil>
}

// TestWhatIsBought: DESIGN 12.1: an order is what it buys. Who asked, when, how
// control is proved and in which file it stood is not bought.
func TestWhatIsBought(t *testing.T) {
	at := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	key := ecKey(t, elliptic.P256())
	mine := csr(t, key, "a.example", []string{"a.example", "b.example"}, nil)
	base := order.Request{Names: []string{"a.example", "b.example"}, Account: "ali", Product: "p", Resource: "any", Key: "rsa-2048"}
	for what, c := range map[string]struct {
		change func(*order.Request)
		same   bool
	}{
		"id":            {func(r *order.Request) { r.ID = "shop-1" }, true},
		"again":         {func(r *order.Request) { r.Again = "shop-1" }, true},
		"batch":         {func(r *order.Request) { r.Batch = "list-1" }, true},
		"labels":        {func(r *order.Request) { r.Labels = map[string]string{"a": "b"} }, true},
		"contact":       {func(r *order.Request) { r.Contact.Email = "a@example.com" }, true},
		"company":       {func(r *order.Request) { r.Company = "Example" }, true},
		"deadline":      {func(r *order.Request) { r.Deadline = &at }, true},
		"validation":    {func(r *order.Request) { r.Validation = order.FILE }, true},
		"names sorted":  {func(r *order.Request) { slices.Reverse(r.Names) }, true},
		"names spelled": {func(r *order.Request) { r.Names = []string{" B.Example. ", "A.EXAMPLE"} }, true},
		"names":         {func(r *order.Request) { r.Names = r.Names[:1] }, false},
		"account":       {func(r *order.Request) { r.Account = "" }, false},
		"product":       {func(r *order.Request) { r.Product = "" }, false},
		"resource":      {func(r *order.Request) { r.Resource = "" }, false},
		"key":           {func(r *order.Request) { r.Key = "" }, false},
		"csr":           {func(r *order.Request) { r.Key, r.CSR = "", mine }, false},
	} {
		r := base
		r.Names = slices.Clone(base.Names)
		c.change(&r)
		if same := r.Hash() == base.Hash(); same != c.same {
			t.Errorf("%s: the same hash: %v", what, same)
		}
		if same := r.DerivedID() == base.DerivedID(); same != c.same {
			t.Errorf("%s: the same id: %v", what, same)
		}
	}
	one, windows, other := base, base, base
	one.Key, one.CSR = "", mine
	windows.Key, windows.CSR = "", strings.ReplaceAll(strings.ReplaceAll(mine, "\n", "\r\n"), "BEGIN CERT", "BEGIN NEW CERT")
	windows.CSR = strings.ReplaceAll(windows.CSR, "END CERT", "END NEW CERT")
	other.Key, other.CSR = "", csr(t, key, "b.example", []string{"a.example", "b.example"}, nil)
	if one.Hash() != windows.Hash() || one.Hash() == other.Hash() {
		t.Error("a CSR is its content, not its text")
	}
}

// sensible draws requests that are right but for their id.
func sensible() *rapid.Generator[order.Request] {
	return rapid.Custom(func(t *rapid.T) order.Request {
		label := rapid.StringMatching(`[a-z0-9]([a-z0-9]{0,30}[a-z0-9])?`)
		wild := rapid.SampledFrom([]string{"", "*.", "bad-"}).Draw(t, "wild")
		var names []string
		for range rapid.IntRange(1, order.MaxNames).Draw(t, "count") {
			names = append(names, wild+label.Draw(t, "label")+rapid.SampledFrom([]string{".example.com", ".bad-example.org", ".a.b.example"}).Draw(t, "domain"))
		}
		slices.Sort(names)
		return order.Request{
			Names:    rapid.Permutation(slices.Compact(names)).Draw(t, "names"),
			Account:  rapid.SampledFrom([]string{"", "ali", "ten"}).Draw(t, "account"),
			Product:  rapid.SampledFrom([]string{"", "p-1", "p-2"}).Draw(t, "product"),
			Resource: rapid.SampledFrom([]string{"", "any", "r-1"}).Draw(t, "resource"),
			Key:      rapid.SampledFrom(order.KeyAlgorithms).Draw(t, "key"),
		}.Normal()
	})
}

// TestDerivedIDs: DESIGN 12.1: without an id one is derived: whatever the request, it
// is an id that may be published as the request's own; it stays when the line is
// written in another way, and is another when something else is bought.
func TestDerivedIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := sensible().Draw(t, "request")
		id := r.DerivedID()
		own := r
		if own.ID = id; own.Validate() != nil {
			t.Fatalf("%q is refused for its own request: %v", id, own.Validate())
		}
		spelled := r
		spelled.Names = nil
		for _, n := range rapid.Permutation(r.Names).Draw(t, "other order") {
			spelled.Names = append(spelled.Names, " "+strings.ToUpper(n)+". ")
		}
		spelled.Account, spelled.Product = " "+r.Account+"\t", r.Product+" "
		if got := spelled.DerivedID(); got != id {
			t.Fatalf("%q, and written in another way %q", id, got)
		}
		if got := own.DerivedID(); got != id {
			t.Fatalf("%q, and with it %q", id, got)
		}
		if other := sensible().Draw(t, "other"); other.Hash() == r.Hash() != (other.DerivedID() == id) {
			t.Fatalf("hashes %s %s, ids %s %s", r.Hash(), other.Hash(), id, other.DerivedID())
		}
	})
}

// FuzzDerivedID: of any text a derived id is a valid id, no successor's number
// makes it too long, and it stays its request's own.
func FuzzDerivedID(f *testing.F) {
	f.Add("www.example.com", "any", "")
	f.Add("*.bad-", "", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")
	f.Add("BAD", "\x00", "\xff")
	f.Add("例え。テスト", "-", "")
	f.Add("bad-\u212a", "", "")
	f.Fuzz(func(t *testing.T, names, account, csr string) {
		r := order.Request{Names: strings.Split(names, " "), Account: account, CSR: csr}
		id := r.DerivedID()
		if !order.ValidID(id) || strings.HasPrefix(id, order.BadPrefix) {
			t.Fatalf("%q", id)
		}
		if next := order.Numbered(order.Base(id, 1), 9_999_999); !order.ValidID(next) {
			t.Fatalf("%q", next)
		}
		if n := r.Normal(); n.DerivedID() != id || n.Hash() != r.Hash() {
			t.Fatalf("%q, and in its normal form %q", id, n.DerivedID())
		}
	})
}

// TestForeignDerivedIDs: DESIGN 12.1: an explicit id of the derived form must be
// the order's own; numbers behind one are its successors'.
func TestForeignDerivedIDs(t *testing.T) {
	own := order.Request{Names: []string{"www.example.com"}}.DerivedID()
	long := strings.Repeat("a", 60) + ".example.com"
	longOwn := order.Request{Names: []string{long}}.DerivedID()
	if !strings.HasPrefix(longOwn, strings.Repeat("a", 40)+"-") {
		t.Errorf("%q is cut elsewhere", longOwn)
	}
	for _, c := range []struct{ id, name, says string }{
		{own, "www.example.com", ""},
		{longOwn, long, ""},
		{"release-202701311200", "www.example.com", ""}, // no domain name is behind it
		{"shop-eu-1", "www.example.com", ""},
		{own, "other.example.com", "leave the id out"},
		{longOwn, "other.example.com", "leave the id out"},
		{"www-example-com-0123456789ab", "www.example.com", "this order's is \"" + own},
		{"o-bad-example-com-0123456789ab", "www.example.com", "leave the id out"},
		{own + "-2", "www.example.com", "again: " + own},
		{own + "-2", "other.example.com", "leave the id out"},
	} {
		err := order.Request{ID: c.id, Names: []string{c.name}}.Normal().Validate()
		checkSays(t, c.id+" for "+c.name, err, "id", c.says)
	}
}

// TestLinesOfOrders: ids of successors, also of ids at the limit of 63.
func TestLinesOfOrders(t *testing.T) {
	full := strings.Repeat("a", 63)
	short := order.Base(full, 1)
	if len(short) != 55 || !strings.HasPrefix(full, short[:46]) || short == order.Base(full[:62], 1) {
		t.Errorf("base %q", short)
	}
	for _, c := range []struct {
		id         string
		generation int
		base       string
		nth        int
	}{
		{"shop", 0, "shop", 1},
		{"shop-1", 0, "shop-1", 1}, // the publisher's own number
		{"shop-1-2", 2, "shop-1", 2},
		{"shop-1-12", 9, "shop-1", 12}, // three places were somebody else's
		{full, 0, short, 1},
		{order.Numbered(short, 2), 2, short, 2},
		{order.Numbered(short, 9_999_999), 3, short, 9_999_999},
	} {
		o := order.Order{Request: order.Request{ID: c.id}, Generation: c.generation}
		if o.Base() != c.base || o.Nth() != c.nth || !order.ValidID(c.id) {
			t.Errorf("%s, generation %d: base %q, number %d", c.id, c.generation, o.Base(), o.Nth())
		}
	}
}

// TestEnded: DESIGN 12.1: an order has ended when its end is decided, not when it
// is cleaned up.
func TestEnded(t *testing.T) {
	for _, s := range order.States {
		o := order.Order{State: s}
		if got := o.Ended(); got != (s == order.Issued || s == order.Failed || s == order.Archived) {
			t.Errorf("%s: %v", s, got)
		}
		o.Failure = &order.Failure{}
		if got := o.Ended(); got != (s.Final() || s == order.Collect) {
			t.Errorf("%s with a failure: %v", s, got)
		}
	}
	waits := order.Order{State: order.Waiting, Wait: order.Wait{Then: order.Collect}, Failure: &order.Failure{}}
	if !waits.Ended() {
		t.Error("an order whose resource is not given back yet has not ended")
	}
}

// TestOwes: whatever an order may have taken, its end is owed for it.
func TestOwes(t *testing.T) {
	if (order.Order{Account: "ali", Key: &order.Key{}}).Owes() {
		t.Error("an order that only has a key owes its end")
	}
	for what, o := range map[string]order.Order{"challenges": {Placed: true}, "an attempt": {Attempt: 1}, "a resource": {Resource: "r"},
		"a cloud order": {CloudID: "1"}, "names": {Taken: time.Now()}} {
		if !o.Owes() {
			t.Errorf("an order that has %s owes nothing", what)
		}
	}
}

// TestAnApprovalPassesItsFactOnly: DESIGN 12.2: an approval carries the fact it
// answers.
func TestAnApprovalPassesItsFactOnly(t *testing.T) {
	at := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	facts := []string{order.FactDeadline, order.FactBudget("account ali on 2027-01-01"), order.FactBudget("account ali on 2027-01-02"),
		order.FactInService("a", at), order.FactInService("a", at.Add(time.Hour)), order.FactInService("b", at), order.FactPaidAndFailed("a"),
		order.FactUnclaimed("a"), order.FactElsewhere("a", "a", 1), order.FactElsewhere("a", "a", 2), order.FactElsewhere("a", "b", 1), order.FactPreflight("a"), order.FactPreflight("a\nb")}
	for i, fact := range facts {
		o := order.Order{}
		o.Approve(order.Hold{Fact: order.Facts(fact)})
		for j, other := range facts {
			if o.Approves(other) != (i == j) {
				t.Errorf("an approval of %q passes %q: %v", fact, other, o.Approves(other))
			}
		}
	}
	o := order.Order{}
	o.Approve(order.Hold{})
	o.Approve(order.Hold{Fact: order.Facts(facts[:2]...)})
	o.Approve(order.Hold{Fact: order.Facts(facts[1:3]...)})
	if !slices.Equal(o.Approvals, facts[:3]) || o.Approves("") {
		t.Errorf("approvals %q", o.Approvals)
	}
}

// TestFactsInGroups: what is approved in bulk is one kind of fact.
func TestFactsInGroups(t *testing.T) {
	at := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	for want, fact := range map[string]string{
		"deadline":                             order.FactDeadline,
		"budget of account ali on 2027-01-01":  order.FactBudget("account ali on 2027-01-01"),
		"names in service":                     order.FactInService("a", at),
		"names paid and failed":                order.FactPaidAndFailed("a"),
		"cloud order unclaimed":                order.FactUnclaimed("123"),
		"finding: CAA of a.example forbids it": order.FactPreflight("CAA of a.example forbids it"),
	} {
		if got := order.FactKind(fact); got != want {
			t.Errorf("%q is of kind %q, want %q", fact, got, want)
		}
	}
	h := order.Hold{Fact: order.Facts(order.FactUnclaimed("2"), order.FactDeadline, order.FactUnclaimed("1"))}
	if got := h.Kinds(); !slices.Equal(got, []string{"cloud order unclaimed", "deadline"}) || (order.Hold{}).Kinds() != nil {
		t.Errorf("%q", got)
	}
}
