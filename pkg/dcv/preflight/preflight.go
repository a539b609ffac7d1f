// Package preflight looks, before anything is bought, at what would make the CA
// refuse names or nobody able to prove control of them: CAA that forbids the CA,
// broken DNSSEC, domains that do not exist, zones that no solver serves, CNAMEs
// in the way.
//
// What it finds is said in sentences and grouped over all orders. Finding
// nothing promises nothing: the CA looks from elsewhere, and later.
package preflight

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/memo"
)

// Level is how sure it is that an order will not be issued.
type Level string

const (
	Error   Level = "error"   // it will not, as things stand
	Warning Level = "warning" // it may not, or it could not be looked at
	Advice  Level = "advice"  // it can be had for less
)

// levels in the order in which they are shown.
var levels = []Level{Error, Warning, Advice}

// Kind is what a finding is about. The values are words for machines.
type Kind string

const (
	CAA        Kind = "caa"
	DNSSEC     Kind = "dnssec"
	NoDomain   Kind = "no-domain"
	Suffix     Kind = "public-suffix"
	ZoneAbsent Kind = "zone"
	InTheWay   Kind = "cname"
	Words      Kind = "words"
	Duplicate  Kind = "duplicate"
	Quota      Kind = "quota"
	Packing    Kind = "packing"
	Unseen     Kind = "unseen" // it could not be looked at
	Neighbours Kind = "neighbours"
	Stopped    Kind = "stopped" // its account
	Rights     Kind = "rights"  // of the account's key in a zone
)

// Finding is one thing that was found, and all orders that it concerns.
type Finding struct {
	Level   Level    `json:"level"`
	Kind    Kind     `json:"kind"`
	What    string   `json:"what"`              // what is so, and where
	Do      string   `json:"do"`                // what to do about it
	Example string   `json:"example,omitempty"` // one of the names
	Orders  []string `json:"orders"`            // ids, in the order of the batch
}

// Group joins findings that say the same, errors first, within a level those of
// the most orders first.
func Group(all []Finding) []Finding {
	type key struct {
		level Level
		kind  Kind
		what  string
	}
	at := map[key]int{}
	var out []Finding
	for _, f := range all {
		k := key{f.Level, f.Kind, f.What}
		i, known := at[k]
		if !known {
			at[k] = len(out)
			out = append(out, f)
			continue
		}
		for _, id := range f.Orders {
			if !slices.Contains(out[i].Orders[max(0, len(out[i].Orders)-1):], id) { // several names of one order come together
				out[i].Orders = append(out[i].Orders, id)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(levels, a.Level), slices.Index(levels, b.Level)),
			cmp.Compare(len(b.Orders), len(a.Orders)), strings.Compare(string(a.Kind)+a.What, string(b.Kind)+b.What))
	})
	return out
}

// DNS is whom the checker asks. A dcv.Looker is one.
type DNS interface {
	Resolve(ctx context.Context, q dcv.Question) (*dns.Msg, error)
	Ask(ctx context.Context, s dcv.Server, q dcv.Question) (*dns.Msg, error)
	ZoneServers(ctx context.Context, name string) (dcv.Zone, error)
	Referred(ctx context.Context, m *dns.Msg, name string) (dcv.Zone, bool, error)
}

var _ DNS = (*dcv.Looker)(nil)

// Subject is one order as the checker needs it.
type Subject struct {
	Order   string
	Names   []string       // A-labels
	Product issuer.Product // tells the CA
	Records bool           // control is proved by DNS records
	Account string         // label, for sentences; its zones are the solver's
	// Zones tells the zones in which the account's solver can write; nil: not
	// looked at.
	Zones dcv.Zoner
}

// Checker looks. What it learns holds for a while, so that a zone is asked about
// once however many orders lie in it. It is safe for concurrent use.
type Checker struct {
	dns      DNS
	parallel int
	now      func() time.Time

	domains memo.Memo[domain]
	chains  memo.Memo[[]verdict]
	caa     memo.Memo[policy]
	places  memo.Memo[place]
	zones   memo.Memo[string]
}

const parallel = 16 // names that are looked at at the same time

// learnt is how long what was learnt holds. Errors hold as long: a name server
// that is down would cost its time-out for every name.
var learnt = memo.Keep{Answer: 2 * time.Minute, Failure: 2 * time.Minute}

// New returns a checker.
func New(d DNS) *Checker { return &Checker{dns: d, parallel: parallel, now: time.Now} }

// Check looks at all subjects and returns what was found, not grouped, in the
// order of the subjects. What could not be looked at before ctx ended is a
// finding, too.
func (c *Checker) Check(ctx context.Context, subjects []Subject) []Finding {
	found := make([][]Finding, len(subjects))
	turns := make(chan struct{}, c.parallel)
	var wg sync.WaitGroup
	for i, s := range subjects {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			found[i] = c.one(ctx, s)
		})
	}
	wg.Wait()
	return slices.Concat(found...)
}

// one looks at the names of one order.
func (c *Checker) one(ctx context.Context, s Subject) []Finding {
	var all []Finding
	for _, name := range s.Names {
		for _, f := range c.name(ctx, s, name) {
			f.Orders, f.Example = []string{s.Order}, name
			all = append(all, f)
		}
	}
	return all
}

// name looks at one name. What is wrong with its domain as a whole makes the
// rest meaningless.
func (c *Checker) name(ctx context.Context, s Subject, name string) []Finding {
	if ctx.Err() != nil {
		return []Finding{timeUp}
	}
	base, wild := strings.CutPrefix(name, "*.")
	apex, f, ok := registrable(base, wild)
	if !ok {
		return []Finding{f}
	}
	d, err := c.domain(ctx, apex)
	if err != nil {
		return []Finding{c.unseen(ctx, "DNS of "+apex, err)}
	}
	if d.absent {
		return []Finding{{Level: Error, Kind: NoDomain, What: "the domain " + apex + " does not exist",
			Do: "register it, or correct the name"}}
	}
	all := c.chain(ctx, d.zone)
	if s.Records {
		all = append(all, c.place(ctx, s, d, base)...)
	}
	return append(all, c.allowed(ctx, s, base, wild)...)
}

var timeUp = Finding{Level: Warning, Kind: Unseen, What: "there was no time to look at the DNS of the other names",
	Do: "look again later; certmill plan --timeout gives it longer"}

// unseen is the finding that something could not be looked at.
func (c *Checker) unseen(ctx context.Context, what string, err error) Finding {
	if ctx.Err() != nil {
		return timeUp
	}
	return Finding{Level: Warning, Kind: Unseen, What: what + " could not be looked at: " + err.Error(),
		Do: "look at the name servers of the domain and the resolvers in dcv.resolvers; the CA issues nothing that it cannot look up"}
}
