package stage_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// Every row of "which operation an order takes" (DESIGN section 3), with who
// makes the key.
func TestOperation(t *testing.T) {
	one, two := []string{"a.example.com"}, []string{"a.example.com", "b.example.com"}
	long := []string{strings.Repeat("a", 60) + ".example.com"} // no CN has so many characters
	for _, c := range []struct {
		cloud string
		sans  bool
		r     order.Request
		op    string
		ours  bool   // certmill makes the key
		says  string // in the refusal
	}{
		{cloud: stage.Aliyun, r: order.Request{Names: one}, op: stage.ForPackage, ours: true},
		{cloud: stage.Aliyun, r: order.Request{Names: two}, op: stage.ForPackage},
		{cloud: stage.Aliyun, r: order.Request{Names: long}, op: stage.ForPackage},
		{cloud: stage.Aliyun, sans: true, r: order.Request{Names: two}, op: stage.ForPackage, ours: true},
		{cloud: stage.Aliyun, r: order.Request{Names: one, CSR: "csr"}, op: stage.WithCSR},
		{cloud: stage.Aliyun, r: order.Request{Names: two, CSR: "csr"}, says: "csr_sans: true"},
		{cloud: stage.Aliyun, sans: true, r: order.Request{Names: two, CSR: "csr"}, op: stage.WithCSR},
		{cloud: stage.Aliyun, r: order.Request{Names: two, Resource: "any"}, op: stage.DVAudit},
		{cloud: stage.Aliyun, r: order.Request{Names: one, Resource: "any", CSR: "csr"}, says: "takes no csr"},
		{cloud: stage.Tencent, r: order.Request{Names: two}, op: stage.OrderSubmit, ours: true},
		{cloud: stage.Tencent, r: order.Request{Names: two, Resource: "c1"}, op: stage.OrderSubmit, ours: true},
		{cloud: stage.Tencent, r: order.Request{Names: one, CSR: "csr"}, op: stage.OrderSubmit},
		{cloud: stage.Tencent, r: order.Request{Names: one, Resource: "any", CSR: "csr"}, op: stage.OrderSubmit},
	} {
		a := &stage.Account{Label: "x", Cloud: c.cloud, CSRSANs: c.sans}
		op, err := a.Operation(c.r)
		if op != c.op || (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %+v: %q, %v; want %q %s", c.cloud, c.r, op, err, c.op, c.says)
		}
		if err == nil && a.MakesKey(op, c.r) != c.ours {
			t.Errorf("%s %+v: certmill makes the key: %v", c.cloud, c.r, !c.ours)
		}
	}
}

// What an operation needs of the contact is asked for before anything is bought.
func TestTakes(t *testing.T) {
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
		{instance, without(func(c *order.Contact) { c.City = "" }), "contact.city"},
		{instance, without(func(c *order.Contact) { c.Province, c.Phone = "", "" }), "contact.phone, contact.province"},
		{csr, without(func(c *order.Contact) { c.City, c.Province = "", "" }), ""},
		{csr, without(func(c *order.Contact) { c.Name = "" }), "contact.name"},
		{csr, order.Contact{}, "contact.email, contact.name, contact.phone"},
		{order.Request{Names: csr.Names, CSR: "csr", Contact: order.Contact{Name: "Tom", Email: "tom@example.com", Phone: "13000000000"}}, order.Contact{}, ""},
		{order.Request{Names: csr.Names}, order.Contact{}, ""}, // takes the account's own contact
	} {
		a := *w.accounts["ali"]
		a.Contact = c.contact
		if _, err := a.Takes(c.r); (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v with %+v: %v, want %q", c.r, c.contact, err, c.says)
		}
	}
	a := *w.accounts["ali"]
	a.Flows = map[string]issuer.Flow{}
	if _, err := a.Takes(csr); err == nil || !strings.Contains(err.Error(), "cannot CreateCertificateWithCsrRequest") {
		t.Errorf("without the flow: %v", err)
	}
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
