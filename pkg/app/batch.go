package app

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/orderfile"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
)

// Batch is the orders of some files, as they are handed in and followed.
type Batch struct {
	Requests []order.Request
	Bad      []BadLine

	// What was found before anything is handed in.
	Known    []KnownLine         // lines whose orders are there: nothing is made for them
	Findings []preflight.Finding // names that several orders have, here or there
	Blind    string              // why it was not looked which orders are there; "": it was
	OnceMore []Again             // lines that say "again: true" and whose last order has ended: bought once more

	// Agree is asked before what buys once more is handed in, with OnceMore; an error hands
	// nothing in. nil: nobody is asked.
	Agree func([]Again) error

	places []place // of the requests; none: they come from no file
}

type place struct {
	file string
	line int
}

func (p place) bad(r order.Request, why string) BadLine {
	return BadLine{File: p.file, Line: p.line, ID: r.ID, Why: why}
}

// BadLine is a line of a file that is no order, or that would be refused.
type BadLine struct {
	File string `json:"file"`
	Line int    `json:"line"`
	ID   string `json:"id,omitempty"`
	Why  string `json:"why"`
}

// KnownLine is a line of a file whose order is there already: in this state, for
// this reason, and what helps.
type KnownLine struct {
	File     string      `json:"file"`
	Line     int         `json:"line"`
	ID       string      `json:"id"`
	State    order.State `json:"state"`
	Why      string      `json:"why"`
	Commands []string    `json:"commands,omitempty"`
	Mended   bool        `json:"mended,omitempty"` // it failed for what stands in it, and is tried again as it is handed in
}

// Again is a line that buys the last order of its line once more. Handed in again after
// that one has ended, it buys yet another: unlike "again: <id>", which is known then.
type Again struct {
	ID   string `json:"id"` // that the order will get, unless somebody takes it first
	Of   string `json:"of"` // whom it follows
	Cost Cost   `json:"cost"`
}

// ReadFiles reads order files. A file that cannot be read at all is an error;
// bad lines are not.
func ReadFiles(batch string, paths ...string) (Batch, error) {
	var b Batch
	files := orderfile.Files{Batch: batch}
	for _, path := range paths {
		lines, err := files.Read(path)
		if err != nil {
			return Batch{}, err
		}
		for _, l := range lines {
			if l.Err != nil {
				b.Bad = append(b.Bad, BadLine{File: path, Line: l.Number, ID: l.Request.ID, Why: l.Err.Error()})
				continue
			}
			b.Requests, b.places = append(b.Requests, l.Request), append(b.places, place{path, l.Number})
		}
	}
	return b, nil
}

// Again makes all orders of the batch that say nothing else ones that buy the last
// order of their line once more.
func (b *Batch) Again() {
	for i := range b.Requests {
		if b.Requests[i].Again == "" {
			b.Requests[i].Again = order.AgainLast
		}
	}
}

// at is where a request stands.
func (b Batch) at(i int) place {
	if i < len(b.places) {
		return b.places[i]
	}
	return place{}
}

// Step is one line of a plan: what orders of one kind will take.
type Step struct {
	Account   string `json:"account"`
	Operation string `json:"operation"`
	Product   string `json:"product,omitempty"`
	Orders    int    `json:"orders"`
	Spends    bool   `json:"spends"` // each uses up one of the product's quota
	problem   string // no account takes it: the line is a bad one
}

// count makes one step of those of one kind.
func count(all []Step) (steps []Step) {
	counts := map[Step]int{}
	for _, step := range all {
		counts[step]++
	}
	for step, n := range counts {
		step.Orders = n
		steps = append(steps, step)
	}
	slices.SortFunc(steps, func(a, b Step) int {
		return strings.Compare(a.Account+a.Operation+a.Product, b.Account+b.Operation+b.Product)
	})
	return steps
}

// placing says where an order goes. What no account takes has a problem in its
// step; an error means that it could not be found out.
type placing func(ctx context.Context, r order.Request) (stage.Planned, Step, error)

// placing decides as the intake will. It is nil without accounts in the config: the
// workers know theirs.
func (c *Console) placing() (placing, error) {
	if len(c.cfg.Accounts) == 0 {
		return nil, nil
	}
	accounts, err := c.routes()
	if err != nil {
		return nil, err
	}
	in := stage.Intake{Accounts: accounts, Ledger: c.ledger, Line: c.line, Log: c.log, Publishers: c.cfg.publishers()}
	if subject, err := c.inbox(false); err == nil {
		in = in.For(pipeline.PublisherOf(subject))
	}
	return func(ctx context.Context, r order.Request) (stage.Planned, Step, error) {
		a, way, err := in.Place(ctx, r)
		if bad, ok := errors.AsType[*order.Invalid](err); ok {
			return stage.Planned{Request: r, Product: r.Product}, Step{Account: r.Account, problem: bad.Error()}, nil
		}
		if err != nil {
			return stage.Planned{}, Step{}, err
		}
		p, step := placed(r, a, way)
		return p, step, nil
	}, nil
}

func placed(r order.Request, a *stage.Account, way issuer.Route) (stage.Planned, Step) {
	op := way.Flow.Action()
	step := Step{Account: a.Label, Operation: op, Spends: way.Flow.Spends()}
	if step.Spends {
		step.Product = way.Product
	}
	return stage.Planned{Request: r, Account: a, Operation: op, Product: way.Product}, step
}

// Progress is how far a batch has come: orders by state.
type Progress struct {
	Total  int                 `json:"total"`
	States map[order.State]int `json:"states"` // those not taken yet are missing
}

// Done is how many need no worker any more.
func (p Progress) Done() int {
	return p.States[order.Issued] + p.States[order.Failed] + p.States[order.Held] + p.States[order.Archived]
}

// errDone ends a watch.
var errDone = errors.New("done")

// follow watches the wanted orders until all of them are final or held, and
// returns them as they ended, by the id that they were handed in with. shown is
// told of each change.
func (c *Console) follow(ctx context.Context, wanted []awaited, shown func(Progress)) (map[string]pipeline.Item, error) {
	f := following{of: map[string]awaited{}, after: map[string]awaited{}, now: map[string]pipeline.Item{}, states: map[order.State]int{}}
	for _, a := range wanted {
		f.of[a.id], f.of[a.bad], f.after[a.after] = a, a, a
	}
	delete(f.of, "")
	delete(f.after, "")
	if len(wanted) == 0 {
		return f.now, nil
	}
	moved := func(it pipeline.Item) error {
		if !f.took(it) {
			return nil
		}
		p := Progress{Total: len(wanted), States: maps.Clone(f.states)}
		shown(p)
		if p.Done() == p.Total {
			return errDone
		}
		return nil
	}
	err := c.line.WatchAll(ctx, moved, func(u pipeline.Unread) error { return moved(f.stranger(u)) })
	if err == nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, errDone) {
		err = nil
	}
	return f.now, err
}

// following is how far the wanted orders have come.
type following struct {
	of     map[string]awaited       // by where their outcome may lie
	after  map[string]awaited       // successors by whom they follow
	now    map[string]pipeline.Item // by the id that they were handed in with
	states map[order.State]int
}

// took notes an item, and tells whether it is news of one of the orders.
func (f *following) took(it pipeline.Item) bool {
	a, ours := f.of[it.ID()]
	if next, follows := f.after[it.Predecessor]; follows {
		a, ours = next, true
	}
	was, seen := f.now[a.id]
	if !ours || !a.outcome(it) || seen && was.Seq > it.Seq { // the older message of an order that a crash left
		return false
	}
	if seen {
		f.states[was.State]--
	}
	f.states[it.State]++
	f.now[a.id] = it
	return true
}

// stranger is an order whose record only another build can read: where it lies
// says how far it is, and that is all.
func (f *following) stranger(u pipeline.Unread) pipeline.Item {
	o := order.Order{Request: order.Request{ID: u.ID}, State: u.State, Hash: f.of[u.ID].hash, Predecessor: f.of[u.ID].after}
	switch why := "its record cannot be read here: " + u.Why; u.State {
	case order.Failed:
		o.Failure = &order.Failure{Class: "unreadable", Reason: why, Advice: "look at it with the certmill that wrote it"}
	case order.Held:
		o.Hold = &order.Hold{Reason: why}
	}
	return pipeline.Item{Order: o, Seq: u.Seq, Stored: u.Stored}
}

// Summary is what a run ended with.
type Summary struct {
	Orders       int            `json:"orders"`
	Known        int            `json:"known"`              // were known before this run
	KnownAs      map[string]int `json:"known_as,omitempty"` // by the state that they were in then
	New          int            `json:"new"`
	Issued       int            `json:"issued"`
	Held         int            `json:"held"`
	Archived     int            `json:"archived,omitempty"` // ended long ago
	Failed       map[string]int `json:"failed"`             // by class
	Unfinished   int            `json:"unfinished"`
	Calls        int            `json:"calls"` // to the clouds in this run
	PerCert      float64        `json:"calls_per_certificate"`
	PeakPerSec   int            `json:"peak_calls_per_second"` // of one account and API action, in any sliding second
	Seconds      float64        `json:"seconds"`
	Certificates string         `json:"certificates"` // folder
	Problems     []Problem      `json:"problems,omitempty"`
	Bad          []BadLine      `json:"bad_lines,omitempty"`
}

// knownAs counts the known lines by state.
func (b Batch) knownAs() map[string]int {
	counts := map[string]int{}
	for _, k := range b.Known {
		counts[string(k.State)]++
	}
	return counts
}

// Problem is an order that was not issued, and what ends it.
type Problem struct {
	ID       string   `json:"id"`
	State    string   `json:"state"`
	Class    string   `json:"class,omitempty"`
	Reason   string   `json:"reason"`
	Advice   string   `json:"advice,omitempty"`
	Commands []string `json:"commands,omitempty"`
}

// OK tells whether every order was issued, now or before.
func (s Summary) OK() bool { return s.Issued+s.Archived == s.Orders && len(s.Bad) == 0 }

// summarise counts the outcomes.
func summarise(b Batch, h handed, ended map[string]pipeline.Item, took time.Duration) Summary {
	sum := Summary{Orders: len(b.Requests), Known: h.known, New: h.fresh, Failed: map[string]int{}, Seconds: took.Seconds(), Bad: b.Bad, KnownAs: b.knownAs()}
	for _, a := range h.wanted {
		it, seen := ended[a.id]
		if seen && it.ID() != a.bad { // a successor may have got another id than was thought
			a.id = it.ID()
		}
		switch {
		case !seen:
			sum.Unfinished++
		case it.State == order.Issued:
			sum.Issued++
		case it.State == order.Archived:
			sum.Archived++
		case it.State == order.Failed && it.Failure != nil:
			sum.Failed[it.Failure.Class]++
			sum.Problems = append(sum.Problems, Problem{ID: a.id, State: string(it.State), Class: it.Failure.Class, Reason: it.Failure.Reason, Advice: it.Failure.Advice})
		case it.State == order.Held && it.Hold != nil:
			sum.Held++
			sum.Problems = append(sum.Problems, Problem{ID: a.id, State: string(it.State), Reason: it.Hold.Reason, Commands: it.Hold.Commands})
		default:
			sum.Unfinished++
		}
	}
	return sum
}
