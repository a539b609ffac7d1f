package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
)

// Console is an operator's view of an installation, over one connection. It
// does no worker's work.
type Console struct{ *session }

// OpenConsole connects.
func OpenConsole(ctx context.Context, c Config, log *slog.Logger) (*Console, error) {
	if c.NATS.URL == "" {
		return nil, errors.New("no server is known: give --nats or --config, or start it in the folder where certmill run keeps its state")
	}
	p, err := NewProcess(c, hostName("console"), false, log)
	if err != nil {
		return nil, err
	}
	s, _, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	return &Console{s}, nil
}

// Close ends the connection.
func (c *Console) Close() { c.close() }

// Operator carries out verbs under the name of who.
func (c *Console) Operator(who string) (*stage.Operator, error) {
	keys, err := certstore.OpenKeyStore(c.cfg.Keys.Store)
	if err != nil {
		return nil, err
	}
	return &stage.Operator{Accounts: c.accounts, Ledger: c.ledger, States: c.states, Keys: keys, Line: c.line, Who: who}, nil
}

// Plan tells which operation each order would take.
func (c *Console) Plan(ctx context.Context, b Batch) ([]Step, error) { return c.plan(ctx, b.Requests) }

// Order hands a batch in; with follow it waits for the orders to end.
func (c *Console) Order(ctx context.Context, b Batch, view View, follow, urgent bool) (Summary, error) {
	began := time.Now()
	steps, err := c.plan(ctx, b.Requests)
	if err != nil {
		return Summary{}, err
	}
	view.Planned(steps, b)
	in, err := c.handIn(ctx, b.Requests, urgent)
	if err != nil {
		return Summary{}, err
	}
	view.HandedIn(in.known, in.fresh)
	if !follow {
		return Summary{Orders: len(b.Requests), Known: in.known, New: in.fresh, Bad: b.Bad}, nil
	}
	ended, err := c.follow(ctx, in.wanted, view.Moved)
	sum := summarise(b, in, ended, time.Since(began))
	sum.Certificates = c.cfg.Deliver.Directory
	view.Ended(sum)
	return sum, err
}

// Find returns one order.
func (c *Console) Find(ctx context.Context, id string) (pipeline.Item, error) {
	return c.line.Last(ctx, id)
}

// Each calls f for the orders of a state, or of all with "".
func (c *Console) Each(ctx context.Context, s order.State, f func(pipeline.Item) error) error {
	if s == "" {
		return c.line.EachOrder(ctx, f)
	}
	if !slices.Contains(order.States, s) {
		return fmt.Errorf("%q is no state: write one of %v", s, order.States)
	}
	return c.line.Each(ctx, s, "*", f)
}

// Status is what an installation looks like now.
type Status struct {
	Inbox    uint64              `json:"inbox"`
	States   map[order.State]int `json:"states"`
	Accounts []AccountStatus     `json:"accounts"`
	Left     int                 `json:"left_behind"` // records and files that could not be removed: certmill stuck
}

// AccountStatus is one label.
type AccountStatus struct {
	Label string `json:"label"`
	Main  string `json:"main"`
	State string `json:"state"`
	// Identity is whose the credentials are; nil: no worker has been told yet.
	Identity *account.Identity `json:"identity,omitempty"`
}

// Status reads it.
func (c *Console) Status(ctx context.Context) (Status, error) {
	inbox, err := c.line.Pending(ctx)
	if err != nil {
		return Status{}, err
	}
	states, err := c.line.Counts(ctx)
	if err != nil {
		return Status{}, err
	}
	left, err := c.Left(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{Inbox: inbox, States: states, Left: len(left)}
	for _, label := range c.accounts.Labels() {
		a := c.accounts[label]
		state := c.states.State(a.Main)
		status := AccountStatus{Label: label, Main: a.Main, State: describe(state, label, c.line.Incarnation())}
		if id, known := state.Identities[label]; known {
			status.Identity = &id
		}
		s.Accounts = append(s.Accounts, status)
	}
	return s, nil
}

// describe puts an account's state into words.
func describe(s account.State, label, incarnation string) string {
	var parts []string
	if !s.Marked(incarnation) {
		parts = append(parts, "buys nothing until its list was swept (certmill first-use "+label+" skips the wait)")
	}
	if p, ok := s.Paused[label]; ok && !p.Over(time.Now()) {
		parts = append(parts, "rests: "+p.Why)
	}
	for _, product := range sorted(s.Exhausted) {
		parts = append(parts, "no quota of "+product)
	}
	if len(parts) == 0 {
		return "works"
	}
	return strings.Join(parts, "; ")
}

// Group is failed or held orders with one cause.
type Group struct {
	State  order.State `json:"state"`
	Cause  string      `json:"cause"`
	IDs    []string    `json:"ids"`
	Reason string      `json:"reason"` // of the first one
	Advice string      `json:"advice,omitempty"`
}

// cause is what failed and held orders are grouped by: class and code.
func cause(o order.Order) string {
	switch {
	case o.State == order.Failed && o.Failure != nil && o.Failure.Code != "":
		return o.Failure.Class + "/" + o.Failure.Code
	case o.State == order.Failed && o.Failure != nil:
		return o.Failure.Class
	case o.State == order.Held && o.Hold != nil && o.Hold.Open:
		return "outcome unknown"
	case o.State == order.Held && o.Hold != nil:
		return "held in " + string(o.Hold.From)
	}
	return ""
}

// Failed groups what needs a person, largest group first.
func (c *Console) Failed(ctx context.Context, batch string) ([]Group, error) {
	groups := map[string]*Group{}
	err := c.resting(ctx, func(o order.Order) {
		if batch != "" && o.Request.Batch != batch {
			return
		}
		key := string(o.State) + cause(o)
		g := groups[key]
		if g == nil {
			g = &Group{State: o.State, Cause: cause(o), Reason: Why(o)}
			switch {
			case o.State == order.Held && o.Hold != nil:
				g.Advice = strings.Join(o.Hold.Commands, " | ")
			case o.Failure != nil:
				g.Advice = o.Failure.Advice
			}
			groups[key] = g
		}
		g.IDs = append(g.IDs, o.ID())
	})
	var out []Group
	for _, g := range groups {
		slices.Sort(g.IDs)
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b Group) int {
		return cmp.Or(cmp.Compare(len(b.IDs), len(a.IDs)), strings.Compare(a.Cause, b.Cause))
	})
	return out, err
}

func (c *Console) resting(ctx context.Context, f func(order.Order)) error {
	for _, s := range []order.State{order.Failed, order.Held} {
		if err := c.line.Each(ctx, s, "*", func(it pipeline.Item) error { f(it.Order); return nil }); err != nil {
			return err
		}
	}
	return nil
}

// Select resolves what a verb for many orders was given. Messages that never
// became orders are left out: nothing can be retried there.
func (c *Console) Select(ctx context.Context, ids []string, why, batch string) ([]string, error) {
	if why == "" && batch == "" {
		return ids, nil
	}
	err := c.resting(ctx, func(o order.Order) {
		if o.Account != "" && (why == "" || cause(o) == why) && (batch == "" || o.Request.Batch == batch) {
			ids = append(ids, o.ID())
		}
	})
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// Lefts lists what nobody claims, of all main accounts.
func (c *Console) Lefts(ctx context.Context) ([]stage.Left, error) {
	operator, err := c.Operator("")
	if err != nil {
		return nil, err
	}
	var all []stage.Left
	for _, a := range c.accounts.Mains() {
		lefts, err := operator.Lefts(ctx, a)
		if err != nil {
			return nil, err
		}
		all = append(all, lefts...)
	}
	return all, nil
}

// Archive writes the orders that ended longer ago than age to w, one JSON
// document a line, and then replaces each by an empty message. What was written
// twice, because it stopped in between, is the same. flush MUST make what was
// written durable.
func (c *Console) Archive(ctx context.Context, age time.Duration, w io.Writer, flush func() error) (n int, err error) {
	var page []pipeline.Item
	end := func() error {
		if err := flush(); err != nil {
			return err
		}
		for _, it := range page {
			if err := c.line.Archive(ctx, it); err != nil && !errors.Is(err, pipeline.ErrMoved) {
				return err
			}
			n++
		}
		page = page[:0]
		return nil
	}
	for _, s := range []order.State{order.Issued, order.Failed} {
		err := c.line.Each(ctx, s, "*", func(it pipeline.Item) error {
			if time.Since(it.Stored) < age {
				return nil
			}
			body, err := it.Order.Encode()
			if err != nil {
				return err
			}
			if _, err := w.Write(append(body, '\n')); err != nil {
				return fmt.Errorf("write archive: %w", err)
			}
			if page = append(page, it); len(page) == 500 {
				return end()
			}
			return nil
		})
		if err != nil {
			return n, err
		}
	}
	return n, end()
}

// Pause rests a label until it is resumed.
func (c *Console) Pause(ctx context.Context, label, why string) error {
	a, err := c.accounts.Find(label)
	if err != nil {
		return err
	}
	return c.states.Pause(ctx, a.Main, label, account.Pause{Why: why, Since: time.Now().UTC()})
}

// Resume ends the rest of a label, or of one exhausted product.
func (c *Console) Resume(ctx context.Context, label, product string) error {
	a, err := c.accounts.Find(label)
	if err != nil {
		return err
	}
	if product != "" {
		return c.states.Replenish(ctx, a.Main, product)
	}
	return c.states.Resume(ctx, a.Main, label)
}

// Limit changes how many calls a second a main account may make to an API
// action; 0 means what the config says. A lower one holds at once, a higher one
// a few seconds later.
func (c *Console) Limit(ctx context.Context, label, action string, calls int) error {
	a, err := c.accounts.Find(label)
	if err != nil {
		return err
	}
	if calls < 0 {
		return fmt.Errorf("%d calls a second cannot be; certmill pause %s stops the account", calls, label)
	}
	return c.states.Change(ctx, a.Main, func(s *account.State) {
		if s.Limits == nil {
			s.Limits = map[string]int{}
		}
		s.Limits[action] = calls
	})
}

// FirstUse says, for this incarnation of the streams, that nothing can have
// been bought on the account by an earlier installation.
func (c *Console) FirstUse(ctx context.Context, label string) error {
	a, err := c.accounts.Find(label)
	if err != nil {
		return err
	}
	return c.states.Change(ctx, a.Main, func(s *account.State) { s.FirstUse = c.line.Incarnation() })
}

// Restored begins a new incarnation of the streams, after they were put back
// from a copy. See pipeline.Renew.
func Restored(ctx context.Context, c Config, log *slog.Logger) error {
	nc, err := dial(c.NATS, hostName("console"), log, func(error) {})
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	return pipeline.Renew(ctx, js)
}

// Names are an order's names in one line.
func Names(o order.Order) string { return strings.Join(o.Request.Names, " ") }
