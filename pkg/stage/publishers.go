package stage

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Publishers say what those who publish orders may do, by the last token of
// orders.new.<publisher>, or by one of the names below.
type Publishers map[string]Publisher

// Publisher is what one of them may do.
type Publisher struct {
	Accounts []string // labels that its orders may be for; none given: all
	Daily    int      // most purchases a calendar day; 0: no bound
}

// Names of publishers that mean something.
const (
	Anonymous      = "anonymous" // whoever publishes to orders.new itself
	EverybodyElse  = "*"         // whoever is not named: together, for a name costs nothing
	CommandLine    = "operator"  // certmill's own commands; not among everybody else
	NoAccount      = order.NoLane
	everybodyElses = "publishers that the config does not name"
)

// Of is what a publisher may do, and the name that it stands under. Nothing
// bounds one that is not named where everybody else is not.
func (ps Publishers) Of(publisher string) (name string, p Publisher) {
	publisher = publisherName(publisher)
	p, named := ps[publisher]
	if named || publisher == CommandLine {
		return publisher, p
	}
	return EverybodyElse, ps[EverybodyElse]
}

// publisherName is what a publisher is called, also one that names itself nothing.
func publisherName(publisher string) string { return cmp.Or(publisher, Anonymous) }

// daily is the budget that an order's publisher has for the day of now.
func (ps Publishers) daily(publisher string, now time.Time) (c counter, bounded bool) {
	name, p := ps.Of(publisher)
	who, day := "publisher "+name, now.Format(time.DateOnly)
	if name == EverybodyElse {
		who = everybodyElses
	}
	return counter{who + " on " + day, account.PublisherKey(name), day, p.Daily}, p.Daily > 0
}

// For is the intake for one publisher's orders: with the accounts that it may
// order from, of which "any" chooses one.
func (in Intake) For(publisher string) Intake {
	name, p := in.Publishers.Of(publisher)
	if len(p.Accounts) == 0 {
		return in
	}
	in.who = name
	in.Accounts = maps.Clone(in.Accounts)
	maps.DeleteFunc(in.Accounts, func(label string, _ *Account) bool { return !slices.Contains(p.Accounts, label) })
	return in
}

// may refuses an order for an account that its publisher may not order from.
func (in Intake) may(label string) error {
	if in.who == "" || in.Accounts[label] != nil || label == order.AnyAccount && len(in.Accounts) > 0 {
		return nil
	}
	who := "publisher " + in.who
	if in.who == EverybodyElse {
		who = everybodyElses
	}
	if len(in.Accounts) == 0 {
		return &order.Invalid{Field: "account", Reason: who +
			" may not order from any account: give the publisher accounts in the config (publishers)"}
	}
	return &order.Invalid{Field: "account", Reason: fmt.Sprintf(
		"%s may not order from account %q: name one of %s, or give the publisher the account in the config (publishers)",
		who, label, strings.Join(in.Accounts.Labels(), ", "))}
}

// Account tells which account a message is for, so that those of one account do
// not wait behind those of another: its label, "any", or "" for what is no account
// of the config. Made-up labels are no queues of their own.
func (in Intake) Account(data []byte) string {
	var r struct {
		Account string `json:"account"`
	}
	if json.Unmarshal(data, &r) != nil {
		return ""
	}
	switch label := strings.TrimSpace(r.Account); {
	case label == "" || label == order.AnyAccount:
		return order.AnyAccount
	case in.Accounts[label] != nil:
		return label
	}
	return ""
}

var _ pipeline.Taker = Intake{}
