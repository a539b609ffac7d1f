package stage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Planned is an order that was not handed in yet, and where it would go.
type Planned struct {
	Request   order.Request
	Account   *Account // nil: none takes it
	Operation string
	Product   string // in force; empty: none is needed
	Known     bool   // it was handed in before: nothing more is bought for it
	Taken     Taken  // another order has its names, as the books say
	Loose     bool   // cloud orders have its names that nobody claims, as the books say
}

// flow is the way of ordering that it takes; nil: none.
func (p Planned) flow() issuer.Flow {
	if p.Account == nil {
		return nil
	}
	return p.Account.Flow(p.Operation)
}

// product is what the cloud tells of the product; without an account, nothing.
func (p Planned) product() issuer.Product {
	if p.Account == nil {
		return issuer.Product{Code: p.Product}
	}
	return p.Account.Cloud.Product(p.Product)
}

// Subject is the order as the look at the DNS needs it. solver is that of the
// account; nil: its zones are not looked at.
func (p Planned) Subject(solver dcv.Solver) preflight.Subject {
	s := preflight.Subject{Order: p.Request.ID, Names: p.Request.Names, Product: p.product(), Records: p.Account.records(p.Request)}
	if p.Account == nil {
		return s
	}
	s.Account = p.Account.Label
	if z, ok := solver.(dcv.Zoner); ok {
		s.Zones = z
	}
	return s
}

// Flight looks at an order's names before it is bought (the setting preflight).
type Flight struct {
	Checker *preflight.Checker
	Solvers map[string]dcv.Solver // by account label
	Hold    bool                  // hold what would fail; else only tell
	Rights  *Rights               // nil: the account's list of zones tells whether it has them
}

// flightTime bounds one look: what it does not reach in that time does not stop
// an order.
const flightTime = 15 * time.Second

// before looks at an order of which nothing was sent yet. What is sure to fail
// is held; the rest is told in its timeline, once. A nil Flight does nothing.
func (f *Flight) before(ctx context.Context, a *Account, o order.Order) (order.Order, error) {
	if f == nil || o.Attempt > 0 {
		return o, nil
	}
	look, cancel := context.WithTimeout(ctx, flightTime)
	defer cancel()
	p := Planned{Request: o.Request, Account: a, Operation: o.Operation, Product: o.Product}
	found := f.Checker.Check(look, []preflight.Subject{f.subject(p)})
	if ctx.Err() != nil {
		return o, ctx.Err()
	}
	if f.Rights != nil && a.records(p.Request) && !(f.Hold && slices.ContainsFunc(found, func(x preflight.Finding) bool { return sure(x, o) })) {
		rights, verb := f.Rights.before(ctx, a, o, f.Hold)
		if verb != nil {
			return o, verb
		}
		found = append(found, rights...)
	}
	var bad, facts []string
	for _, x := range preflight.Group(append(found, p.reviewed()...)) {
		said, fact := x.What+"; "+x.Do, order.FactPreflight(x.What)
		if f.Hold && sure(x, o) {
			bad, facts = append(bad, said), append(facts, fact)
			continue
		}
		if note := "pre-flight: " + said; !slices.ContainsFunc(o.Timeline, func(e order.Event) bool { return e.Note == note }) {
			o.Tell(order.Event{At: time.Now().UTC(), State: order.Submit, Note: note})
		}
	}
	if len(bad) > 0 {
		return o, pipeline.HoldFor(order.Facts(facts...), "pre-flight: "+strings.Join(bad, ". ")+
			". After a change, retry looks again (a minute or two later); approve buys it all the same",
			"certmill retry "+o.ID(), "certmill approve "+o.ID(), "certmill cancel "+o.ID())
	}
	return o, nil
}

// sure tells whether a finding is sure to make an order fail that nobody approved in
// spite of it.
func sure(x preflight.Finding, o order.Order) bool {
	return x.Level == preflight.Error && !o.Approves(order.FactPreflight(x.What))
}

// subject leaves the account's zones to those who write there, where they are asked:
// a submitter's own list may be narrower than what verifiers may write.
func (f *Flight) subject(p Planned) preflight.Subject {
	if f.Rights != nil {
		return p.Subject(nil)
	}
	return p.Subject(f.Solvers[p.Account.Label])
}

// Preflight looks at what the accounts have and what is in flight, before a
// batch is handed in. It changes nothing. Its calls to the clouds are lists and
// counts, with the usual permits.
type Preflight struct {
	Ledger *ledger.Ledger
	Line   *pipeline.Line
	Keys   KeyStore // nil: not at hand, see Succession
	Now    func() time.Time
	// Publisher is who hands in, as the intake will see it: see mayFollow.
	Publisher string
}

// Words finds what the names alone tell, without asking anybody: words that CAs
// review, and what could be packed.
func Words(all []Planned) []preflight.Finding {
	var found []preflight.Finding
	for _, p := range all {
		found = append(found, p.reviewed()...)
	}
	return slices.Concat(found, packing(all))
}

// Look returns what was found, not grouped. What could not be asked is a
// finding, too. All is asked at the same time, main account by main account:
// each has permits of its own, and one that does not answer says nothing of the
// others.
func (p Preflight) Look(ctx context.Context, all []Planned) []preflight.Finding {
	all = slices.DeleteFunc(slices.Clone(all), func(x Planned) bool { return x.Account == nil || x.Known })
	looks := []func(context.Context, []Planned) []preflight.Finding{p.duplicates, p.quota, p.pools}
	own := byMain(all)
	found := make([][]preflight.Finding, len(looks)*len(own))
	var wg sync.WaitGroup
	for m, main := range slices.Sorted(maps.Keys(own)) {
		for i, look := range looks {
			wg.Go(func() { found[i*len(own)+m] = look(ctx, own[main]) })
		}
	}
	wg.Wait()
	return slices.Concat(found...)
}

// atOnce calls f for 0 to n-1, a few at the same time, and joins the errors.
func atOnce(n int, f func(i int) error) error {
	turns := make(chan struct{}, 16)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			errs[i] = f(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// duplicates are orders whose names have a certificate already that is valid and
// not due for renewal, or soon will have, as the cloud's own list says. What the
// books say of the names was looked at before (HandIns).
func (p Preflight) duplicates(ctx context.Context, all []Planned) []preflight.Finding {
	all = slices.DeleteFunc(slices.Clone(all), func(x Planned) bool { return x.Taken.Order != "" || x.Loose })
	if len(all) == 0 {
		return nil
	}
	found := make([]preflight.Finding, len(all))
	out := p.listed(ctx, all, found)
	for _, f := range found {
		if f.What != "" {
			out = append(out, f)
		}
	}
	return out
}

// duplicate is the finding of an order whose names something else has. by names that:
// the order of the finding is the new one.
func duplicate(id string, names []string, what, by string) preflight.Finding {
	return preflight.Finding{Level: preflight.Warning, Kind: preflight.Duplicate, Orders: []string{id}, What: what,
		Example: strings.Join(names, " ") + ", which " + by + " has",
		Do:      "leave these orders out, unless another certificate is wanted: handed in, they wait for the first, or are held before anything is bought, until certmill approve"}
}

const (
	valid    = "a valid certificate for exactly these names exists, and is not due for renewal"
	underWay = "an order for exactly these names is under way"

	paidForNothing = "an order for exactly these names was paid, and ended without a certificate"

	nobodys = "a cloud order for exactly these names is there that nobody here claims: " +
		"somebody else's, or left over from an earlier life of the streams"

	newerEntry = "a newer certmill bought, or tried to buy, for exactly these names; what came of it this one cannot read"
)

// listed reads the main account's list once, and fills in what the ledger did
// not know. It returns what could not be read.
func (p Preflight) listed(ctx context.Context, all []Planned, found []preflight.Finding) (unseen []preflight.Finding) {
	wanted := map[string][]int{}
	for i, x := range all {
		h := order.NamesHash(x.Request.Names)
		wanted[h] = append(wanted[h], i)
	}
	see := func(row issuer.Row) error {
		if len(row.Names) == 0 || !inTheWay(row, p.Now()) {
			return nil
		}
		what := underWay
		if row.Phase == issuer.IssuedPhase {
			what = valid
		}
		for _, i := range wanted[order.NamesHash(row.Names)] {
			if found[i].What == "" {
				found[i] = duplicate(all[i].Request.ID, row.Names, what, "cloud order "+row.CloudID)
			}
		}
		return nil
	}
	if err := rowsOf(ctx, all, see); err != nil {
		return []preflight.Finding{unread("the list of account "+all[0].Account.Main, orderIDs(all), err)}
	}
	return nil
}

// few is up to how many orders the list is asked for each one's names; for more,
// it is read as a whole.
const few = 20

// rowsOf calls see for the rows of a main account's list: all, or those for the
// orders' names. The flows of one main account share one list.
func rowsOf(ctx context.Context, all []Planned, see func(issuer.Row) error) error {
	for _, flow := range all[0].Account.Cloud.Flows() {
		f, ok := flow.(issuer.Finder)
		if !ok {
			continue // what is not found by names is listed without them
		}
		if l, ok := flow.(issuer.AllLister); ok && len(all) > few {
			return eachRow(ctx, l.All, see)
		}
		return eachFound(ctx, f, all, see)
	}
	return nil
}

func eachFound(ctx context.Context, f issuer.Finder, all []Planned, see func(issuer.Row) error) error {
	for _, x := range all {
		rows, err := f.Find(ctx, x.Request.Names)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if err := see(row); err != nil {
				return err
			}
		}
	}
	return nil
}

func byMain(all []Planned) map[string][]Planned {
	own := map[string][]Planned{}
	for _, p := range all {
		own[p.Account.Main] = append(own[p.Account.Main], p)
	}
	return own
}

// quota compares what is ordered of each product with what is left of it.
func (p Preflight) quota(ctx context.Context, all []Planned) []preflight.Finding {
	wanted, found := map[stock][]int{}, []preflight.Finding(nil)
	for i, x := range all {
		if flow := x.flow(); flow != nil && flow.Spends() && x.Product != "" {
			s := stock{x.Account.Main, x.Product}
			wanted[s] = append(wanted[s], i)
		}
	}
	for s, mine := range wanted {
		first := all[mine[0]]
		c, ok := first.flow().(issuer.Counter)
		if !ok {
			continue
		}
		u, err := c.Usage(ctx, s.what)
		if err != nil && issuer.KindOf(err) != issuer.QuotaExhausted { // that: there never was a plan of it
			found = append(found, unread("the quota of "+s.what, idsAt(all, mine), err))
			continue
		}
		left := int(max(u.Bought-u.Used, 0))
		found = append(found, short(all, mine, left, fmt.Sprintf("product %s has %d left on account %s", s.what, left, first.Account.Label))...)
	}
	return found
}

// pools compares the orders that take something unused, of what was already
// bought, with how much there is.
func (p Preflight) pools(ctx context.Context, all []Planned) []preflight.Finding {
	wanted, found := map[stock][]int{}, []preflight.Finding(nil)
	for i, x := range all {
		if _, ok := x.flow().(issuer.Pool); ok && !named(x.Request) {
			s := stock{x.Account.Main, x.Operation}
			wanted[s] = append(wanted[s], i)
		}
	}
	for s, mine := range wanted {
		a := all[mine[0]].Account
		left, err := p.unused(ctx, s, a.Flow(s.what).(issuer.Pool), len(mine))
		if err != nil {
			found = append(found, unread("what account "+a.Label+" has bought and not used", idsAt(all, mine), err))
			continue
		}
		found = append(found, short(all, mine, left, fmt.Sprintf("account %s has %d unused for %s", a.Label, left, s.what))...)
	}
	return found
}

// unused counts what was bought and any order may have, up to enough: what no order
// has, serves no names and follows nothing.
func (p Preflight) unused(ctx context.Context, s stock, pool issuer.Pool, enough int) (n int, err error) {
	rows, err := pool.Unused(ctx)
	for _, row := range rows {
		if n == enough {
			break
		}
		h, err := p.Ledger.Owner(ctx, s.main, row.CloudID)
		if err != nil {
			return n, err
		}
		if h.Order == "" && len(h.Names) == 0 && row.Origin == "" {
			n++
		}
	}
	return n, err
}

// stock is one product, or one kind of thing already bought, of a main account.
type stock struct{ main, what string }

// short is the finding that the last orders of the batch get nothing of what is
// left.
func short(all []Planned, mine []int, left int, what string) []preflight.Finding {
	if left >= len(mine) {
		return nil
	}
	return []preflight.Finding{{Level: preflight.Error, Kind: preflight.Quota, Orders: idsAt(all, mine[left:]),
		What: fmt.Sprintf("%s, and %d are ordered", what, len(mine)),
		Do:   "buy more in the cloud's console, or pack several names into one order; what exceeds it waits, and is bought when there is more"}}
}

func unread(what string, orders []string, err error) preflight.Finding {
	return preflight.Finding{Level: preflight.Warning, Kind: preflight.Unseen, Orders: orders, What: what + " could not be read: " + err.Error(),
		Do: "run it again when it answers"}
}

func orderIDs(all []Planned) []string {
	var out []string
	for _, p := range all {
		out = append(out, p.Request.ID)
	}
	return out
}

func idsAt(all []Planned, at []int) []string {
	var out []string
	for _, i := range at {
		out = append(out, all[i].Request.ID)
	}
	return out
}
