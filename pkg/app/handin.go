package app

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/redact"
	"github.com/certmill/certmill/pkg/stage"
)

// looked is a batch that was looked at before it is handed in.
type looked struct {
	Batch                 // what is left of it, as it is handed in
	ins   []stage.HandIn  // by line
	ways  []stage.Planned // where each goes; no account: it is known, or nobody here knows the accounts
	steps []Step          // of those that make orders, where somebody does
}

// lookUp finds, before anything is handed in, what of a batch is there already,
// what would be refused, also for want of an account, and which names others have.
// No line that would be refused is left.
func (c *Console) lookUp(ctx context.Context, b Batch) (looked, error) {
	all, err := c.preflight(ctx).HandIns(ctx, b.Requests)
	if err != nil {
		return looked{}, fmt.Errorf("which orders are known: %w", err)
	}
	place, err := c.placing()
	if err != nil {
		return looked{}, err
	}
	out := looked{Batch: Batch{Bad: slices.Clone(b.Bad)}}
	for i, in := range all {
		at, way, step, err := b.at(i), stage.Planned{Request: in.Request}, Step{}, error(nil)
		if in.New() && place != nil {
			way, step, err = place(ctx, in.Request)
		}
		if err != nil {
			return looked{}, err
		}
		switch {
		case in.Refused != nil:
			out.Bad = append(out.Bad, at.bad(in.Request, in.Refused.Error()))
			continue
		case step.problem != "":
			out.Bad = append(out.Bad, at.bad(in.Request, step.problem))
			continue
		case in.Known != nil:
			known := c.knownLine(ctx, at, *in.Known)
			known.Mended = in.Mends
			out.Known = append(out.Known, known)
		case place != nil:
			out.steps = append(out.steps, step)
		}
		if b.Requests[i].Again == order.AgainLast && in.New() && in.Request.Again != "" {
			again, err := c.onceMore(ctx, in, way, step)
			if err != nil {
				return looked{}, err
			}
			out.OnceMore = append(out.OnceMore, again)
		}
		way.Known, way.Taken, way.Loose = !in.New(), in.Taken, len(in.Loose) > 0
		out.Requests, out.places = append(out.Requests, in.Request), append(out.places, at)
		out.ins, out.ways = append(out.ins, in), append(out.ways, way)
	}
	out.Findings = preflight.Group(slices.Concat(stage.Overlaps(out.Requests), stage.Findings(out.ins), c.rightsKnown(fresh(out.ins)),
		c.wrongAccounts(out.ins, out.ways)))
	return out, nil
}

// onceMore is what a line that says "again: true" buys; where nobody here knows the
// accounts, what its last order took.
func (c *Console) onceMore(ctx context.Context, in stage.HandIn, way stage.Planned, step Step) (Again, error) {
	a := Again{ID: in.ID, Of: in.Request.Again}
	if way.Account != nil {
		a.Cost = Cost{Account: step.Account, Operation: step.Operation, Product: step.Product, Orders: 1}
		return a, nil
	}
	it, err := c.line.Last(ctx, a.Of)
	a.Cost = costOf(it.Order)
	return a, err
}

// wrongAccounts are the findings of orders whose account is stopped or refused, rests,
// or cannot be swept, or whose cloud is silent: new ones are taken, and wait; known
// ones that have not ended wait already.
func (c *Console) wrongAccounts(ins []stage.HandIn, ways []stage.Planned) (all []preflight.Finding) {
	known := map[string][]preflight.Finding{}
	for i, in := range ins {
		label, main := in.Request.Account, ""
		switch o := in.Known; {
		case o != nil && (o.Ended() || o.State == order.Held):
			continue
		case o != nil:
			label, main = o.Account, o.Main
		case ways[i].Account != nil: // that any chooses
			label = ways[i].Account.Label
		}
		found, asked := known[label]
		if !asked {
			found = c.wrongFor(label, cmp.Or(main, c.mainOf(label)))
			known[label] = found
		}
		for _, f := range found {
			f.Level, f.Orders = preflight.Warning, []string{in.ID}
			all = append(all, f)
		}
	}
	return all
}

// rightsKnown are the accounts' troubles in zones in which names of orders lie, by
// the names alone: nobody is asked where their challenges lie.
func (c *Console) rightsKnown(requests []order.Request) (all []preflight.Finding) {
	for _, main := range c.states.Mains() {
		for _, t := range c.states.State(main).Troubled(time.Now()) {
			for _, r := range requests {
				if t.Zone == "" || r.Validation == order.FILE || r.Account != t.Label && r.Account != order.AnyAccount {
					continue
				}
				for _, name := range r.Names {
					if _, _, lies := dcv.Split(name, map[string]bool{t.Zone: true}); lies {
						all = append(all, preflight.Finding{Level: preflight.Warning, Kind: preflight.Rights, What: t.What, Do: t.Helps, Example: name, Orders: []string{r.ID}})
						break
					}
				}
			}
		}
	}
	return all
}

// preflight looks at what the books have.
func (c *Console) preflight(ctx context.Context) stage.Preflight {
	p := stage.Preflight{Ledger: c.ledger, Line: c.line, Now: time.Now}
	if keys, err := c.keyStore(ctx); err == nil { // else the intake alone knows the ids of an earlier life
		p.Keys = keys
	}
	if subject, err := c.inbox(false); err == nil {
		p.Publisher = pipeline.PublisherOf(subject)
	}
	return p
}

// knownLine says how a line's order is, by its record and by how its account stands.
func (c *Console) knownLine(ctx context.Context, at place, o order.Order) KnownLine {
	e := explain(o, c.facts(ctx, o))
	return KnownLine{File: at.file, Line: at.line, ID: o.ID(), State: o.State, Why: e.Blocker, Commands: e.Commands}
}

// LookUp says what of a batch is there already, with the server that the config
// names; without one that answers, the batch says that it was not looked.
func LookUp(ctx context.Context, c Config, log *slog.Logger, b Batch) (Batch, error) {
	console, err := OpenConsole(ctx, c, log)
	if err != nil {
		b.Blind = redact.Text(err.Error())
		if accounts, err := c.routes(); err == nil { // of one that is wrong, config --check tells
			b, _, _ = b.placed(ctx, accounts)
		}
		b.Findings = preflight.Group(stage.Overlaps(b.Requests))
		return b, ctx.Err()
	}
	defer console.Close()
	l, err := console.lookUp(ctx, b)
	return l.Batch, console.Because(err)
}

// fresh are the requests that make orders when they are handed in.
func fresh(ins []stage.HandIn) (requests []order.Request) {
	for _, in := range ins {
		if in.New() {
			requests = append(requests, in.Request)
		}
	}
	return requests
}

// handed is the outcome of handing a batch in.
type handed struct {
	known, fresh int
	wanted       []awaited
}

// awaited is an order that was handed in, and where its outcome will lie: under
// its id, or, where the intake refuses the message, under an id of the message's
// own.
type awaited struct {
	id    string
	hash  string // of what was ordered: another order's outcome under the id is not this one's; empty: any
	after string // of a successor: whom it follows, which tells it whatever id it gets
	above uint64 // of an order that is mended: how it failed before is no outcome
	bad   string // where a refused message lies; empty: the order was known before
}

// outcome tells whether an item is what became of the order.
func (a awaited) outcome(it pipeline.Item) bool {
	switch {
	case it.ID() == a.bad:
		return true
	case it.Seq <= a.above:
		return false
	case a.after != "":
		return it.Predecessor == a.after
	}
	return it.ID() == a.id && (a.hash == "" || it.Hash == a.hash)
}

// inFlight bounds how many order messages wait for their acknowledgement.
const inFlight = 256

// hand publishes what is not known yet, as any NATS client can. Interrupted and
// begun again it publishes the rest: what was acknowledged is known, or a message
// with a known id, which is dropped.
func (c *Console) hand(ctx context.Context, all []stage.HandIn, urgent bool) (handed, error) {
	var h handed
	var mu sync.Mutex
	g, ctx := limited(ctx, inFlight)
	for _, in := range all {
		g.Go(func() error {
			a, err := c.handOne(ctx, in, urgent)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			h.wanted = append(h.wanted, a)
			if a.bad == "" {
				h.known++
			} else {
				h.fresh++
			}
			return nil
		})
	}
	err := g.Wait()
	slices.SortFunc(h.wanted, func(a, b awaited) int { return strings.Compare(a.id, b.id) })
	return h, err
}

// handOne publishes one order, unless it is known.
func (c *Console) handOne(ctx context.Context, in stage.HandIn, urgent bool) (awaited, error) {
	if in.Known != nil && !in.Mends {
		return awaited{id: in.ID, hash: in.Known.Hash}, nil
	}
	a := awaited{id: in.ID, hash: in.Request.Hash(), after: in.Request.Again}
	if in.Mends {
		it, err := c.line.Last(ctx, in.ID)
		if err != nil {
			return a, err
		}
		a.above = it.Seq
	}
	body, err := json.Marshal(in.Request)
	if err != nil {
		return a, fmt.Errorf("encode order %s: %w", in.ID, err)
	}
	subject, err := c.inbox(urgent)
	if err != nil {
		return a, err
	}
	seq, err := pipeline.Publish(ctx, c.js, subject, body)
	if err != nil {
		return a, fmt.Errorf("hand in order %s: %w", in.ID, err)
	}
	a.bad = c.line.BadID(seq)
	return a, nil
}
