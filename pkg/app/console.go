package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
	"github.com/certmill/certmill/pkg/stream"
)

// Console is what an operator sees of an installation, over one connection that
// reconnects. It looks into the books and makes nothing: neither streams nor
// rings nor a key store. Its verbs write what they say. What some of them need
// besides the books (package clients, the workers' rings, the key store) is opened
// when they need it.
type Console struct {
	books
	cfg    Config
	log    *slog.Logger
	rights rights
	barrier

	mu        sync.Mutex     // guards what follows
	ways      stage.Accounts // as routes returns them; nil until somebody asks
	hands     *hands         // nil until a verb calls a cloud
	attention attention      // of the workers, when somebody asked last
}

// errNoServer: nobody said where the installation is.
var errNoServer = errors.New("no server is known: give --nats or --config, " +
	"or start it in the folder where certmill run keeps its state")

// OpenConsole connects. The streams are verified, whatever their replicas, which
// a console need not know.
func OpenConsole(ctx context.Context, c Config, log *slog.Logger) (*Console, error) {
	if c.NATS.URL == "" {
		return nil, errNoServer
	}
	name := hostName("console")
	console := &Console{cfg: c, log: log}
	nc, err := dial(c.NATS, name, console.refused, log, again()...)
	if err != nil {
		return nil, err
	}
	console.nc = nc
	if err := console.look(ctx, name); err != nil {
		console.Close()
		return nil, console.Because(err)
	}
	return console, nil
}

// Because is why something that was asked of the console failed: a right that its
// NATS user does not have, where that is the cause, and else what failed.
func (c *Console) Because(err error) error { return c.because(err) }

// MayDecide tells whether the console's NATS user may do more than look. The error
// is a *NoRight.
func (c *Console) MayDecide() error {
	if !c.rights.decide() {
		return &NoRight{c.cfg.NATS.User, "change anything"}
	}
	return nil
}

func (c *Console) look(ctx context.Context, name string) (err error) {
	if c.rights, err = rightsOf(ctx, c.nc); err != nil {
		c.log.DebugContext(ctx, "the server does not say what this NATS user may do; it is tried", "err", err)
	}
	c.guards(c.nc)
	if !c.rights.look() {
		return &NoRight{c.cfg.NATS.User, "look at the orders"}
	}
	if c.js, err = jetstream.New(c.nc); err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	if !c.rights.consume() {
		c.js = stream.WithoutConsumers(c.js)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := c.books.open(ctx, name, c.log, 0); err != nil {
		return err
	}
	if c.states, err = account.Look(ctx, c.js, 0, c.log); err == nil {
		c.cfg = c.cfg.withMains(c.states)
	}
	return err
}

// Close ends the connection.
func (c *Console) Close() {
	if c.hands != nil {
		c.hands.close()
	}
	c.books.close()
}

// Find returns one order.
func (c *Console) Find(ctx context.Context, id string) (pipeline.Item, error) {
	return c.line.Last(ctx, id)
}

// Each calls f for the orders of a state, or of all with "", and unread for those
// whose record this program cannot read.
func (c *Console) Each(ctx context.Context, s order.State,
	f func(pipeline.Item) error, unread func(pipeline.Unread) error) error {
	switch {
	case s == "":
		s = "*"
	case !slices.Contains(order.States, s):
		return fmt.Errorf("%q is no state: write one of %v", s, order.States)
	}
	return c.line.List(ctx, s, c.present(ctx, f), unread)
}

// Status is what an installation looks like now.
type Status struct {
	Inbox    uint64              `json:"inbox"`
	States   map[order.State]int `json:"states"`
	Accounts []AccountStatus     `json:"accounts"`
	Left     int                 `json:"left_behind"` // records and files that could not be removed: certmill stuck
	// Unreadable are records of orders that have not ended, and of accounts, that
	// this program cannot read: a newer one wrote them. The orders are counted in
	// States, too.
	Unreadable int `json:"unreadable"`
	// Troubles keep orders from moving, or have harmed them.
	Troubles []Trouble `json:"troubles"`
}

// AccountStatus is one label; empty where only its main account is known.
type AccountStatus struct {
	Label string `json:"label"`
	Main  string `json:"main"`
	State string `json:"state"`
	// Identity is whose the credentials are; nil: no worker has been told yet.
	Identity *account.Identity `json:"identity,omitempty"`
	// Troubles of the main account stop nothing: somebody should look at them.
	Troubles []account.Trouble `json:"troubles,omitempty"`
}

// Status reads it.
func (c *Console) Status(ctx context.Context) (Status, error) {
	inbox, err := c.line.Pending(ctx)
	if err != nil {
		return Status{}, err
	}
	states, err := c.counts(ctx)
	if err != nil {
		return Status{}, err
	}
	left, err := c.Left(ctx)
	if err != nil {
		return Status{}, err
	}
	accounts, err := c.accounts(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{Inbox: inbox, States: states, Left: len(left), Unreadable: len(c.states.Unreadable())}
	for _, state := range stuckStates {
		if states[state] == 0 {
			continue
		}
		unread, err := c.line.Unreadable(ctx, state)
		if err != nil {
			return Status{}, err
		}
		s.Unreadable += len(unread)
	}
	for _, a := range accounts {
		s.Accounts = append(s.Accounts, c.accountStatus(ctx, a))
	}
	s.Troubles, err = c.troubles(ctx)
	return s, err
}

// accountStatus is how one account stands.
func (c *Console) accountStatus(ctx context.Context, a known) AccountStatus {
	wrong := c.wrong(a.label, a.main)
	line := AccountStatus{Label: a.label, Main: a.main, State: describe(account.State{}, wrong, a.label, true, false)}
	for _, t := range wrong {
		if t.Kind != "" { // else it stands in its state alone
			line.Troubles = append(line.Troubles, t)
		}
	}
	_, listed := c.cfg.Accounts[a.label]
	switch {
	case a.main != "":
		state := c.states.State(a.main)
		line.Troubles = append(line.Troubles, state.Troubled(time.Now())...)
		line.State = describe(state, wrong, a.label, state.Marked(c.line.Incarnation()), c.firstUseSaid(state))
		if id, known := state.Identities[a.label]; known {
			line.Identity = &id
		}
	case len(wrong) == 0 && listed:
		line.State = awaitsMain(a.label)
	case len(wrong) == 0:
		line.State = "nothing was ordered there yet"
	}
	if c.gone(ctx, a.label) {
		line.State = unattended + ", so nothing moves its orders; " + line.State
	}
	return line
}

// describe puts an account's state into words.
func describe(s account.State, wrong []account.Trouble, label string, marked, said bool) string {
	var parts []string
	for _, t := range wrong {
		parts = append(parts, t.What)
	}
	if !marked {
		parts = append(parts, unmarked(s, wrong, label, said))
	}
	if p, rests := s.Rest(label, time.Now()); rests {
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

// unmarked says of an account whose list was not swept yet what it waits for.
// said: somebody has said already that it need not wait for earlier calls.
func unmarked(s account.State, wrong []account.Trouble, label string, said bool) string {
	const nothing = "buys nothing until its list was swept"
	if _, is := needsMending(wrong); is {
		return nothing
	}
	if s.Unswept.Why != "" {
		return nothing + ", which fails: " + s.Unswept.Why
	}
	if said {
		return nothing + " (certmill first-use was said: the sweep waits for no earlier calls)"
	}
	return nothing + " (certmill first-use " + cmp.Or(label, "<label>") + " skips the wait: only if nothing was ever bought there, not after a loss)"
}

// Group is failed or held orders with one cause.
type Group struct {
	State  order.State `json:"state"`
	Cause  string      `json:"cause"`
	IDs    []string    `json:"ids"`
	Reason string      `json:"reason"` // of the first one, as the advice
	Advice string      `json:"advice,omitempty"`
	first  string      // the least id so far: whose reason and advice those are
}

// heldFor begins the cause of those that an approval lets go on.
const heldFor = "held for "

// cause is what failed and held orders are grouped by: class and code.
func cause(o order.Order) string {
	switch {
	case o.State == order.Failed && o.Failure != nil && o.Failure.Code != "":
		return o.Failure.Class + "/" + o.Failure.Code
	case o.State == order.Failed && o.Failure != nil:
		return o.Failure.Class
	case o.State == order.Held && o.Hold != nil && o.Hold.Open:
		return "outcome unknown"
	case o.State == order.Held && o.Hold != nil && o.Hold.Fact != "":
		return heldFor + strings.Join(o.Hold.Kinds(), ", ")
	case o.State == order.Held && o.Hold != nil:
		return "held in " + string(o.Hold.From)
	}
	return ""
}

// example makes an order the one whose reason and advice are shown.
func (g *Group) example(o order.Order) {
	g.first, g.Reason, g.Advice = o.ID(), Why(o), ""
	switch {
	case o.State == order.Held && o.Hold != nil:
		g.Advice = strings.Join(o.Hold.Commands, " | ")
	case o.Failure != nil:
		g.Advice = o.Failure.Advice
	}
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
			g = &Group{State: o.State, Cause: cause(o)}
			groups[key] = g
		}
		if len(g.IDs) == 0 || o.ID() < g.first {
			g.example(o)
		}
		g.IDs = append(g.IDs, o.ID())
	})
	var out []Group
	for _, g := range groups {
		slices.Sort(g.IDs)
		if len(g.IDs) > 1 && strings.HasPrefix(g.Cause, heldFor) {
			g.Advice = fmt.Sprintf("certmill approve --cause %q | ", g.Cause) + g.Advice
		}
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
// became orders are left out: nothing can be retried there. It is an error if
// there is none.
func (c *Console) Select(ctx context.Context, ids []string, why, batch string) ([]string, error) {
	if why == "" && batch == "" {
		return ids, nil
	}
	err := c.resting(ctx, func(o order.Order) {
		if o.Account != "" && (why == "" || cause(o) == why) && (batch == "" || o.Request.Batch == batch) {
			ids = append(ids, o.ID())
		}
	})
	if err == nil && len(ids) == 0 {
		return nil, nobody(why, batch)
	}
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// nobody says that no order is of a cause or a batch.
func nobody(why, batch string) error {
	var of []string
	if why != "" {
		of = append(of, fmt.Sprintf("cause %q", why))
	}
	if batch != "" {
		of = append(of, fmt.Sprintf("batch %q", batch))
	}
	return fmt.Errorf("no failed or held order is of %s: certmill failed shows the causes, certmill list the orders",
		strings.Join(of, " and "))
}

// Cost is what orders spend if they go on.
type Cost struct {
	Account   string `json:"account"`
	Operation string `json:"operation"`
	Product   string `json:"product,omitempty"`
	Orders    int    `json:"orders"`
}

// Costs says what a verb for these orders would spend, before it is given: as
// many purchases as there are orders, each of its product, or on something
// already bought.
func (c *Console) Costs(ctx context.Context, ids []string) ([]Cost, error) {
	counts := map[Cost]int{}
	for _, id := range ids {
		it, err := c.line.Last(ctx, id)
		if err != nil {
			return nil, err
		}
		counts[costOf(it.Order)]++
	}
	return tally(counts), nil
}

// CostsOf are those of orders that are bought once more.
func CostsOf(all []Again) []Cost {
	counts := map[Cost]int{}
	for _, a := range all {
		counts[a.Cost]++
	}
	return tally(counts)
}

func tally(counts map[Cost]int) (costs []Cost) {
	for cost, n := range counts {
		cost.Orders = n
		costs = append(costs, cost)
	}
	slices.SortFunc(costs, func(a, b Cost) int {
		return strings.Compare(a.Account+a.Operation+a.Product, b.Account+b.Operation+b.Product)
	})
	return costs
}

// Question is what an approval of an order answers.
type Question struct {
	ID     string
	Fact   string // that is let pass: Approve is given it; "": there is nothing to approve
	Why    error  // then: why an approval is refused
	Cause  string // as certmill failed groups it
	Reason string // why it is held, and what an approval costs
	Cost   Cost
}

// Question reads what an order is held for.
func (c *Console) Question(ctx context.Context, id string) (Question, error) {
	it, err := c.line.Last(ctx, id)
	if err != nil {
		return Question{}, err
	}
	q := Question{ID: id, Cause: cause(it.Order), Cost: costOf(it.Order)}
	if q.Why = stage.Approvable(it.Order); q.Why == nil {
		q.Fact, q.Reason = it.Hold.Fact, it.Hold.Reason
	}
	return q, nil
}

func costOf(o order.Order) Cost {
	return Cost{Account: o.Account, Operation: o.Operation, Product: o.Product, Orders: 1}
}

// String is what is spent, for people.
func (k Cost) String() string {
	return fmt.Sprintf("%s (%s %s)", cmp.Or(k.Product, "something already bought"), k.Account, k.Operation)
}

// Names are an order's names in one line.
func Names(o order.Order) string { return strings.Join(o.Request.Names, " ") }
