package stage_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// Every row of "which operation an order takes" (DESIGN section 3), with who
// makes the key.
func TestOperation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	one, two := []string{"a.example.com"}, []string{"a.example.com", "b.example.com"}
	long := []string{strings.Repeat("a", 60) + ".example.com"} // no CN has so many characters
	for _, c := range []struct {
		label   string
		sans    bool
		r       order.Request
		op      string
		csr     issuer.CSR
		product string
		says    string // the refusal
	}{
		{label: "ali", r: order.Request{Names: one}, op: forPackage, csr: issuer.FirstNameCSR, product: plenty},
		{label: "ali", r: order.Request{Names: one, Product: scarce}, op: forPackage, csr: issuer.FirstNameCSR, product: scarce},
		{label: "ali", r: order.Request{Names: two}, op: forPackage, csr: issuer.NoCSR, product: plenty},
		{label: "ali", r: order.Request{Names: long}, op: forPackage, csr: issuer.NoCSR, product: plenty},
		{label: "ali", sans: true, r: order.Request{Names: two}, op: forPackage, csr: issuer.AllNamesCSR, product: plenty},
		{label: "ali", r: order.Request{Names: one, CSR: "csr"}, op: csrRequest, csr: issuer.GivenCSR, product: plenty},
		{label: "ali", r: order.Request{Names: two, CSR: "csr"}, says: `account "ali" (Alibaba Cloud): the documents of CAS bind only the CN of a CSR, so a CSR for several names needs csr_sans: true`},
		{label: "ali", sans: true, r: order.Request{Names: two, CSR: "csr"}, op: csrRequest, csr: issuer.GivenCSR, product: plenty},
		{label: "ali", r: order.Request{Names: two, Resource: "any"}, op: dvAudit, csr: issuer.NoCSR, product: plenty},
		{label: "ali", r: order.Request{Names: one, Resource: "any", CSR: "csr"}, says: `account "ali" (Alibaba Cloud): an order on an instance takes no csr`},
		{label: "ten", r: order.Request{Names: two}, op: orderSubmit, csr: issuer.AllNamesCSR},
		{label: "ten", r: order.Request{Names: two, Resource: "c1"}, op: orderSubmit, csr: issuer.AllNamesCSR},
		{label: "ten", r: order.Request{Names: one, CSR: "csr"}, op: orderSubmit, csr: issuer.GivenCSR},
		{label: "ten", r: order.Request{Names: one, Resource: "any", CSR: "csr"}, op: orderSubmit, csr: issuer.GivenCSR},
	} {
		a := w.accounts[c.label]
		if c.sans {
			a = &stage.Account{Label: "ali", Cloud: w.aliCloud(func(to *issuer.Access) { to.CSRSANs = true }), Contact: a.Contact}
		}
		way, err := a.Route(c.r)
		if err != nil || c.says != "" {
			if err == nil || c.says == "" || !strings.HasPrefix(err.Error(), c.says) {
				t.Errorf("%s %+v: %v, want %q", c.label, c.r, err, c.says)
			}
			continue
		}
		if op, csr := way.Flow.Action(), way.Flow.CSR(c.r); op != c.op || csr != c.csr || way.Product != c.product {
			t.Errorf("%s %+v: %s, CSR %q, product %q; want %s, %q, %q", c.label, c.r, op, csr, way.Product, c.op, c.csr, c.product)
		}
		if f := a.Flow(c.op); f == nil || f.Action() != c.op {
			t.Errorf("%s has no flow %s", c.label, c.op)
		}
	}
}

// An order that names no product is stored with the one in force, and bought as
// that: what the account or the cloud would choose later does not matter.
func TestProductInForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.Accounts[0].Products["digicert-free-1-free"] = 1 }})
	w.accounts["ali"].Cloud = w.aliCloud(func(to *issuer.Access) { to.Product = "" })
	w.order("a", "a.example.com")
	if o := w.last("a"); o.Product != "digicert-free-1-free" || o.Request.Product != "" {
		t.Errorf("stored with product %q, asked for %q", o.Product, o.Request.Product)
	}
	w.worker().drive("a", order.Issued)
	if all := w.paid("a.example.com"); len(all) != 1 || all[0].Product != "digicert-free-1-free" {
		t.Errorf("bought %+v", all)
	}
}

// What an operation needs of the contact is asked for before anything is bought.
func TestNeeds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	all := w.accounts["ali"].Contact
	without := func(edit func(*order.Contact)) order.Contact {
		edit(&all)
		c := all
		all = w.accounts["ali"].Contact
		return c
	}
	instance, csr := order.Request{Names: []string{"a.example.com"}, Resource: "any"}, order.Request{Names: []string{"a.example.com"}, CSR: "csr"}
	for _, c := range []struct {
		r       order.Request
		contact order.Contact
		says    string
	}{
		{instance, all, ""},
		{instance, without(func(c *order.Contact) { c.City = "" }), "CreateDVOrderAudit needs contact.city: write"},
		{instance, without(func(c *order.Contact) { c.Province, c.Phone = "", "" }), "contact.phone, contact.province: write"},
		{csr, without(func(c *order.Contact) { c.City, c.Province = "", "" }), ""},
		{csr, without(func(c *order.Contact) { c.Name = "" }), "needs contact.name: write"},
		{csr, order.Contact{}, "contact.email, contact.name, contact.phone: write it in the order or in the config of the account"},
		{order.Request{Names: csr.Names, CSR: "csr", Contact: order.Contact{Name: "Tom", Email: "tom@example.com", Phone: "13000000000"}}, order.Contact{}, ""},
		{order.Request{Names: csr.Names}, order.Contact{}, ""}, // takes the account's own contact
	} {
		a := *w.accounts["ali"]
		a.Contact = c.contact
		_, err := a.Route(c.r)
		if (err != nil) != (c.says != "") || err != nil && (!strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), `account "ali" (Alibaba Cloud): `)) {
			t.Errorf("%+v with %+v: %v, want %q", c.r, c.contact, err, c.says)
		}
	}
}

// A cloud may want the name of a company; the account's stands in for it.
func TestCompanyIsNeeded(t *testing.T) {
	t.Parallel()
	a := &stage.Account{Label: "x", Cloud: guild{}}
	if _, err := a.Route(order.Request{}); err == nil || err.Error() != `account "x" (a guild): Enrol needs contact.name, company: write it in the order or in the config of the account` {
		t.Errorf("%v", err)
	}
	a.Contact.Name, a.Company = "Tom", "Example Ltd."
	if _, err := a.Route(order.Request{}); err != nil {
		t.Errorf("%v", err)
	}
	a.Company = ""
	if _, err := a.Route(order.Request{Company: "Example Ltd."}); err != nil {
		t.Errorf("%v", err)
	}
}

// guild is a cloud that wants to know who one works for.
type guild struct {
	issuer.Cloud
	issuer.Flow
}

func (guild) About() issuer.About { return issuer.About{Name: "a guild"} }
func (guild) Action() string      { return "Enrol" }
func (guild) Spends() bool        { return false }

func (g guild) Route(order.Request) (issuer.Route, error) {
	return issuer.Route{Flow: g, Needs: []string{"name", "company"}}, nil
}

// An order whose way of ordering its account has no more, because the label is
// another cloud's now, is for a person.
func TestLabelThatBecameAnotherCloud(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(request("a", "a.example.com"))
	w.accounts["ali"].Cloud = w.accounts["ten"].Cloud
	w.worker().drive("a", order.Held)
	w.wantHeld("a", `account "ali" (Tencent Cloud): it cannot CreateCertificateForPackageRequest any more; put the account back`, "certmill retry a")
}

// An account whose ledger knows the names comes first, whatever the names' hash.
func TestChoosePrefersTheLedgerThatKnowsTheNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ctx := t.Context()
	chosen := map[string]int{}
	for i := range 20 {
		r := order.Request{Names: []string{fmt.Sprintf("n%d.example.com", i)}}
		a, err := w.accounts.Choose(ctx, w.ledger, r)
		w.must(err)
		chosen[a.Label]++
		other := map[string]*stage.Account{"ali": w.accounts["ten"], "ten": w.accounts["ali"]}[a.Label]
		w.must(w.ledger.Report(ctx, other.Main, r.Names, ledger.Unclaimed{CloudID: "1", Seen: time.Now()}))
		if a, err = w.accounts.Choose(ctx, w.ledger, r); err != nil || a != other {
			t.Errorf("%v: chose %+v, %v although %s knows the names", r.Names, a, err, other.Label)
		}
	}
	if chosen["ali"] == 0 || chosen["ten"] == 0 {
		t.Errorf("twenty sets of names went to %v", chosen)
	}
	refused := order.Request{Names: []string{"a.example.com", "b.example.com"}, CSR: issuertest.CSR(t, "a.example.com")}
	if _, err := (stage.Accounts{"ali": w.accounts["ali"]}).Choose(ctx, w.ledger, refused); err == nil || !strings.Contains(err.Error(), "no account of the config can take it") {
		t.Errorf("an order that nobody can take: %v", err)
	}
}

// Two labels of one main account are swept once.
func TestMains(t *testing.T) {
	as := stage.Accounts{"b": {Label: "b", Main: "1"}, "a": {Label: "a", Main: "1"}, "c": {Label: "c", Main: "2"}}
	got := as.Mains()
	if len(got) != 2 || got[0].Label != "a" || got[1].Label != "c" {
		t.Errorf("%v", got)
	}
	if _, err := as.Find("d"); err == nil || !strings.Contains(err.Error(), "a, b, c") {
		t.Errorf("%v", err)
	}
}
