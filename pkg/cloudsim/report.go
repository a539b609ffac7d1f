package cloudsim

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is what the clouds saw and what it cost.
type Report struct {
	Calls  []CallReport  `json:"calls"`
	Money  []MoneyReport `json:"money"`
	States []StateReport `json:"states"`
	// Orders are the applications, newest last. What was bought and not yet
	// applied for is only counted, in States.
	Orders     []OrderReport `json:"orders"`
	Duplicates []Duplicate   `json:"duplicates"`
	DNS        DNSReport     `json:"dns"`
	Faults     []Fault       `json:"faults"`
}

// CallReport counts the calls of one main account to one action since the start,
// or the last reset.
type CallReport struct {
	Cloud     string `json:"cloud"`
	UID       string `json:"uid"`
	Action    string `json:"action"`
	Limit     int    `json:"limit"` // per second, as it is now
	Calls     int    `json:"calls"`
	Accepted  int    `json:"accepted"`
	Throttled int    `json:"throttled"` // by the limit or a fault
	// Violations are calls at whose arrival more than Limit calls lay within the
	// last second, whatever LimitMode admits.
	Violations  int `json:"violations"`
	PeakSliding int `json:"peak_sliding"` // most calls in any one second
	PeakFixed   int `json:"peak_fixed"`   // most calls in a wall-clock second
}

// MoneyReport is one product of a main account. For certificates bought one by
// one, bought is their number.
type MoneyReport struct {
	Cloud     string `json:"cloud"`
	UID       string `json:"uid"`
	Product   string `json:"product"`
	Bought    int    `json:"bought"`
	Used      int    `json:"used"`     // spent and not given back
	Spent     int    `json:"spent"`    // applications that cost something
	Returned  int    `json:"returned"` // given back
	Issued    int    `json:"issued"`
	Pending   int    `json:"pending"`
	Failed    int    `json:"failed"`
	Cancelled int    `json:"cancelled"`
}

// StateReport counts the orders of a main account by state.
type StateReport struct {
	Cloud  string         `json:"cloud"`
	UID    string         `json:"uid"`
	Orders map[string]int `json:"orders"`
}

// OrderReport is one application.
type OrderReport struct {
	Cloud   string            `json:"cloud"`
	UID     string            `json:"uid"`
	By      string            `json:"by,omitempty"` // id of the caller that ordered it
	ID      string            `json:"id"`
	Kind    string            `json:"kind"` // package, instance, ssl or free
	Product string            `json:"product,omitempty"`
	Names   []string          `json:"names"`
	State   string            `json:"state"`
	Spent   bool              `json:"spent"` // it cost something, not given back
	Alias   string            `json:"alias,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"` // set by the client
	KeyFP   string            `json:"key_fp,omitempty"`
	Reason  string            `json:"reason,omitempty"`
	Created time.Time         `json:"created,omitzero"`
	// ChallengeAt is when the cloud showed the challenge, ValidatedAt when the last
	// proof was seen, IssuedAt when there was a certificate. ChangedAt is when State
	// was entered, whichever it is, and ListedAt when the lists began to show it.
	ChallengeAt time.Time `json:"challenge_at,omitzero"`
	ValidatedAt time.Time `json:"validated_at,omitzero"`
	IssuedAt    time.Time `json:"issued_at,omitzero"`
	ChangedAt   time.Time `json:"changed_at,omitzero"`
	ListedAt    time.Time `json:"listed_at,omitzero"`
}

// Duplicate is one set of names for which several orders, at any account, were
// paid and are issued or on their way. A failed order that was bought again is
// none.
type Duplicate struct {
	Names  []string `json:"names"`
	Orders []string `json:"orders"` // cloud/uid/id
}

// Report takes stock.
func (s *Sim) Report() Report {
	r := Report{Calls: s.meter.report(s.cfg()), Faults: s.faults.snapshot()}
	s.books.mu.Lock()
	orders := make([]*order, 0, len(s.books.orders))
	for o := range maps.Values(s.books.orders) {
		orders = append(orders, o)
	}
	r.Money, r.DNS = s.books.moneyReport(), s.books.dnsReport()
	s.books.mu.Unlock()
	slices.SortFunc(orders, func(x, y *order) int {
		return cmp.Or(x.Created.Compare(y.Created), strings.Compare(x.key(), y.key()))
	})
	r.States, r.Duplicates = countStates(orders), findDuplicates(orders)
	for _, o := range orders {
		if o.State != stateBought {
			r.Orders = append(r.Orders, orderReport(o))
		}
	}
	return r
}

func (m *meter) report(cfg *Config) []CallReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []CallReport
	for a, g := range m.apis {
		all = append(all, CallReport{Cloud: a.Owner.Cloud, UID: a.Owner.UID, Action: a.Action, Limit: cfg.limit(a.Owner.Cloud, a.Action),
			Calls: g.calls, Accepted: g.calls - g.throttled, Throttled: g.throttled, Violations: g.violations,
			PeakSliding: g.peakSliding, PeakFixed: g.peakFixed})
	}
	slices.SortFunc(all, func(x, y CallReport) int {
		return cmp.Or(strings.Compare(x.Cloud, y.Cloud), strings.Compare(x.UID, y.UID), strings.Compare(x.Action, y.Action))
	})
	return all
}

// moneyReport lists every product that was bought or used. Callers hold the lock.
func (b *books) moneyReport() []MoneyReport {
	products := map[account]int{} // with what was bought one by one
	for _, a := range b.accounts {
		for p := range a.Products {
			products[account{owner{a.Cloud, a.UID}, p}] += 0
		}
	}
	for _, o := range b.orders {
		if o.Kind == kindSSL || o.Kind == kindInstance {
			products[account{o.Owner, o.Product}]++
		}
	}
	for a := range b.money {
		products[a] += 0
	}
	var all []MoneyReport
	for a, singly := range products {
		u := b.usage(a.owner, a.product)
		all = append(all, MoneyReport{Cloud: a.owner.Cloud, UID: a.owner.UID, Product: a.product, Bought: u.bought + singly,
			Used: u.used(), Spent: u.spent, Returned: u.returned, Issued: u.issued, Pending: u.pending,
			Failed: u.failed, Cancelled: u.cancelled})
	}
	slices.SortFunc(all, func(x, y MoneyReport) int {
		return cmp.Or(strings.Compare(x.Cloud, y.Cloud), strings.Compare(x.UID, y.UID), strings.Compare(x.Product, y.Product))
	})
	return all
}

func countStates(orders []*order) []StateReport {
	counts := map[owner]map[string]int{}
	for _, o := range orders {
		if counts[o.Owner] == nil {
			counts[o.Owner] = map[string]int{}
		}
		counts[o.Owner][string(o.State)]++
	}
	var all []StateReport
	for own, n := range counts {
		all = append(all, StateReport{Cloud: own.Cloud, UID: own.UID, Orders: n})
	}
	slices.SortFunc(all, func(x, y StateReport) int {
		return cmp.Or(strings.Compare(x.Cloud, y.Cloud), strings.Compare(x.UID, y.UID))
	})
	return all
}

func findDuplicates(orders []*order) []Duplicate {
	byNames := map[string][]string{}
	for _, o := range orders {
		paid := o.Counted && !o.Returned
		if !paid || (o.State != stateIssued && !o.waiting()) {
			continue
		}
		names := strings.Join(slices.Compact(slices.Sorted(slices.Values(o.Names))), ",")
		byNames[names] = append(byNames[names], o.Owner.Cloud+"/"+o.Owner.UID+"/"+o.ID)
	}
	var all []Duplicate
	for _, names := range sortedKeys(byNames) {
		if ids := byNames[names]; len(ids) > 1 {
			all = append(all, Duplicate{Names: strings.Split(names, ","), Orders: ids})
		}
	}
	return all
}

func orderReport(o *order) OrderReport {
	return OrderReport{Cloud: o.Owner.Cloud, UID: o.Owner.UID, By: o.By, ID: o.ID, Kind: string(o.Kind), Product: o.Product, Names: o.Names,
		State: string(o.State), Spent: o.Counted && !o.Returned, Alias: o.Alias, Tags: o.Tags, KeyFP: o.KeyFP,
		Reason: o.Reason, Created: o.Created, ChallengeAt: o.ChallengeAt, ValidatedAt: o.ValidatedAt, IssuedAt: o.IssuedAt,
		ChangedAt: o.ChangedAt, ListedAt: later(o.ShownAt, o.VisibleAt)}
}

func later(x, y time.Time) time.Time {
	if x.After(y) {
		return x
	}
	return y
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
