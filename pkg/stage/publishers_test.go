package stage_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// by hands a message of a publisher to an intake with these rules.
func (w *world) by(rules stage.Publishers, publisher string, r order.Request) uint64 {
	w.t.Helper()
	data, err := json.Marshal(r)
	w.must(err)
	m := w.message(data)
	m.Publisher = publisher
	in := w.worker().intake
	in.Publishers = rules
	w.must(in.Accept(w.t.Context(), m))
	return m.Seq
}

// An order for an account that its publisher may not order from is refused with a
// sentence, whatever the publisher is called; "any" chooses from those it may.
func TestPublishersOrderFromTheirAccounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, label := range []string{"ali2", "ali3"} {
		other := *w.accounts["ali"]
		other.Label, other.Main = label, "main-of-"+label
		w.accounts[label] = &other
	}
	rules := stage.Publishers{
		"shop":              {Accounts: []string{"ali2", "ali3"}},
		"free":              {},
		"shut":              {Accounts: []string{stage.NoAccount}},
		stage.Anonymous:     {Accounts: []string{"ali"}},
		stage.EverybodyElse: {Accounts: []string{"ali3"}},
	}
	for i, tt := range []struct {
		publisher, account string
		at                 string // "": refused
		says               string
	}{
		{"shop", "ali2", "ali2", ""},
		{"shop", "ali", "", `publisher shop may not order from account "ali": name one of ali2, ali3`},
		{"shop", "no-such", "", `publisher shop may not order from account "no-such"`},
		{"free", "ali", "ali", ""},
		{"free", "no-such", "", `no account "no-such" in the config`},
		{"shut", "ali", "", "publisher shut may not order from any account"},
		{"shut", "any", "", "publisher shut may not order from any account"},
		{"", "ali", "ali", ""},
		{"", "ali2", "", `publisher anonymous may not order from account "ali2"`},
		{"anonymous", "ali2", "", `publisher anonymous may not order from account "ali2"`},
		{"", "any", "ali", ""},
		{"new", "ali3", "ali3", ""},
		{"new", "any", "ali3", ""},
		{"*", "ali", "", "publishers that the config does not name may not order"},
		{stage.CommandLine, "ali", "ali", ""},
	} {
		id := "o" + string(rune('a'+i))
		seq := w.by(rules, tt.publisher, order.Request{ID: id, Account: tt.account, Names: []string{id + ".example.com"}})
		if tt.at != "" {
			if o := w.last(id); o.State != order.Submit || o.Account != tt.at || o.Publisher != tt.publisher {
				t.Errorf("%+v: %s at %s of %s", tt, o.State, o.Account, o.Publisher)
			}
			continue
		}
		o := w.wantFailed(w.line.BadID(seq), stage.ClassInvalid)
		if !strings.Contains(o.Failure.Reason, tt.says) || len(o.Original) == 0 || o.Publisher != tt.publisher {
			t.Errorf("%+v: %q", tt, o.Failure.Reason)
		}
	}
	for i := range 12 { // the choice goes by the names
		id := "any" + string(rune('a'+i))
		w.by(rules, "shop", order.Request{ID: id, Account: "any", Names: []string{id + ".example.com"}})
		if at := w.last(id).Account; at != "ali2" && at != "ali3" {
			t.Errorf("%s went to %s", id, at)
		}
	}
}

// A publisher's budget bounds the purchases of its orders a day, wherever they
// are: over it they are held for that fact, and an approval of it passes no other
// budget (DESIGN 12.2). Whoever is not named shares one, because a name costs
// nothing.
func TestPublishersHaveABudget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	rules := stage.Publishers{"shop": {Daily: 1}, stage.EverybodyElse: {Daily: 2}}
	p := w.worker()
	w.accounts["ali"].Daily = 5
	p.submit.Budgets = stage.Budgets{States: w.states, Publishers: rules, Zone: time.FixedZone("far", 14*3600)}
	day := time.Now().In(p.submit.Budgets.Zone).Format(time.DateOnly)
	order1 := func(publisher, id string) {
		w.by(rules, publisher, request(id, id+".example.com"))
	}
	for publisher, ids := range map[string][]string{"shop": {"a", "b", "c"}, "one": {"d"}, "two": {"e"}, "": {"f"}, stage.CommandLine: {"g"}} {
		for _, id := range ids {
			order1(publisher, id)
		}
	}
	for _, id := range []string{"a", "d", "e", "g"} {
		p.drive(id, order.Issued)
	}
	held := func(id, fact string) {
		t.Helper()
		p.drive(id, order.Held)
		if h := w.wantHeld(id, "is used up", "certmill approve "+id).Hold; h.Fact != order.FactBudget(fact) {
			t.Errorf("%s is held for %q", id, h.Fact)
		}
		w.wantPaid(0, id+".example.com")
	}
	held("b", "publisher shop on "+day)
	held("f", "publishers that the config does not name on "+day)
	if n := w.states.State(account.PublisherKey("shop")).Bought[day]; n != 1 {
		t.Errorf("%d purchases of the shop are counted", n)
	}
	w.must(p.by.Approve(t.Context(), "b"))
	p.drive("b", order.Issued) // the account's fifth
	held("c", "account ali on "+day)
	w.must(p.by.Approve(t.Context(), "c"))
	held("c", "publisher shop on "+day) // the account's budget passed, and nothing else
	w.must(p.by.Approve(t.Context(), "c"))
	p.drive("c", order.Issued)
	if n := w.states.State(account.PublisherKey("shop")).Bought[day]; n != 3 {
		t.Errorf("%d purchases of the shop are counted", n)
	}
	if mains := w.states.Mains(); len(mains) > 2 {
		t.Errorf("a publisher is taken for a main account: %q", mains)
	}
}

// What waits together: orders of one account, and of none that exists.
func TestAccountOfAMessage(t *testing.T) {
	t.Parallel()
	in := stage.Intake{Accounts: stage.Accounts{"ali": {}}}
	for message, want := range map[string]string{
		`{"account":"ali"}`: "ali", `{"account":" ali "}`: "ali", `{"account":"any"}`: "any", `{}`: "any",
		`{"account":"made-up"}`: "", `{"account":7}`: "", `{`: "", "": "",
	} {
		if got := in.Account([]byte(message)); got != want {
			t.Errorf("%s: %q", message, got)
		}
	}
}

// TestAgainIsOfItsPublisher: who may publish may buy again what it ordered itself,
// also after the archive, and nothing of somebody else's; an operator may all. Whoever
// looks before handing in is told the same.
// By DESIGN 12.1 a successor is made for that very predecessor.
func TestAgainIsOfItsPublisher(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	last := map[string]string{}
	for publisher, id := range map[string]string{"shop": "s", "": "n", stage.CommandLine: "o"} {
		w.by(nil, publisher, request(id, id+".example.com"))
		p.drive(id, order.Issued)
		last[id] = id
	}
	again := func(publisher, id string, may bool) {
		t.Helper()
		r := request("", id+".example.com")
		r.Again = last[id]
		ins, err := stage.Preflight{Ledger: w.ledger, Line: w.line, Now: time.Now, Publisher: publisher}.HandIns(t.Context(), []order.Request{r})
		w.must(err)
		if (ins[0].Refused == nil) != may {
			t.Errorf("%q is told of %s: %v", publisher, last[id], ins[0].Refused)
		}
		seq := w.by(nil, publisher, r)
		if !may {
			if o := w.wantFailed(w.line.BadID(seq), stage.ClassInvalid); !strings.Contains(o.Failure.Reason, "certmill buy-again "+last[id]) {
				t.Errorf("%q, %s: %s", publisher, last[id], o.Failure.Reason)
			}
			return
		}
		was := w.last(last[id])
		next := order.Numbered(was.Base(), was.Nth()+1)
		p.drive(next, order.Issued)
		last[id] = next
		if o := w.last(next); o.Publisher != was.Publisher {
			t.Errorf("%s is of %q, and %s of %q", was.ID(), was.Publisher, next, o.Publisher)
		}
	}
	again("crm", "s", false)
	again("", "s", false)
	again("shop", "n", false)
	again("shop", "o", false)
	again("", "o", false)
	again(stage.Anonymous, "n", true)
	again("shop", "s", true)
	again(stage.CommandLine, "s", true)
	again(stage.CommandLine, "n", true)
	for _, id := range []string{"s", "n"} {
		it, err := w.line.Last(t.Context(), last[id])
		w.must(err)
		w.must(w.line.Archive(t.Context(), it))
	}
	again("", "s", false)
	again("crm", "n", false)
	again("shop", "s", true)
	w.wantPaid(4, "s.example.com")
	w.wantPaid(3, "n.example.com")
	w.wantPaid(1, "o.example.com")
}
