package app

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
	"github.com/certmill/certmill/pkg/stage"
)

// Values of the setting preflight. The one that protects money is the default: what
// surely fails is held before it is bought, and the rest is told.
const (
	flightOff  = "off"
	flightWarn = "warn"
	flightHold = "hold"
)

// Plan is what a batch would take, and what stands in its way.
type Plan struct {
	Steps    []Step              `json:"steps"`
	Findings []preflight.Finding `json:"findings"`
	// NotLookedAt says what could not be looked at at all.
	NotLookedAt []string  `json:"not_looked_at,omitempty"`
	BadLines    []BadLine `json:"bad_lines"`
	// Known are the lines whose orders are there: nothing is made for them.
	Known []KnownLine `json:"known,omitempty"`

	orders []stage.Planned
	asked  bool // a server, which of them were handed in before
}

// PlanOptions say how far a plan looks.
type PlanOptions struct {
	NoDNS  bool          // ask no name server
	Within time.Duration // how long the look at the DNS and at the clouds may take each
}

// Failing counts the orders that would not be issued as things stand.
func (p Plan) Failing() int {
	failing := map[string]bool{}
	for _, f := range p.Findings {
		if f.Level != preflight.Error {
			continue
		}
		for _, id := range f.Orders {
			failing[id] = true
		}
	}
	return len(failing)
}

// ErrBlind: what was handed in before is not known.
var ErrBlind = errors.New("there is no server to ask which orders were handed in already, and packing those again could buy them twice: start it, or give --nats")

// Packed returns the batch with single names packed into orders of several. It
// refuses where nobody can tell what was handed in before.
func (p Plan) Packed() ([]order.Request, error) {
	if !p.asked {
		return nil, ErrBlind
	}
	return stage.Pack(p.orders), nil
}

// MakePlan plans a batch. Without a server it goes by the config alone and says
// what it could not look at.
func MakePlan(ctx context.Context, c Config, log *slog.Logger, b Batch, opt PlanOptions) (Plan, error) {
	console, err := OpenConsole(ctx, c, log)
	if decided(err) {
		return Plan{}, err // another program's streams are no reason to look away
	}
	if err != nil {
		p, offline := offlinePlan(ctx, c, b, opt)
		p.NotLookedAt = append(p.NotLookedAt, "quota, valid certificates, orders handed in before and the accounts' zones: "+
			redact.Text(err.Error()))
		return p, offline
	}
	defer console.Close()
	p, err := console.Review(ctx, b, opt)
	return p, console.Because(err)
}

// Review plans a batch and looks at what stands in its way.
func (c *Console) Review(ctx context.Context, b Batch, opt PlanOptions) (Plan, error) {
	reached, unreached, err := c.reachable()
	if err != nil {
		return Plan{}, err
	}
	l, err := c.lookUp(ctx, b)
	if err != nil {
		return Plan{}, err
	}
	if len(c.cfg.Accounts) == 0 {
		unreached = append(unreached, noAccounts)
	}
	look, orders := c.preflight(ctx), l.ways
	for i := range orders { // to be called, where that can be
		if a := orders[i].Account; a != nil && reached.accounts[a.Label] != nil {
			orders[i].Account = reached.accounts[a.Label]
		}
	}
	p := Plan{Steps: count(l.steps), BadLines: l.Bad, Known: l.Known, NotLookedAt: unreached, orders: orders, asked: true}
	l.Findings = slices.DeleteFunc(l.Findings, func(f preflight.Finding) bool { return f.Kind == preflight.Stopped }) // troubling tells
	p.Findings = slices.Concat(l.Findings, stage.Words(orders), c.troubling(orders, reached.refused))
	askable, without := withMain(orders)
	p.NotLookedAt = append(p.NotLookedAt, without...)
	if !opt.NoDNS { // the look at the DNS knows which zones they need
		p.Findings = slices.DeleteFunc(p.Findings, func(f preflight.Finding) bool { return f.Kind == preflight.Rights })
	}
	var seen, held []preflight.Finding
	var wg sync.WaitGroup
	if len(unreached) == 0 {
		wg.Go(func() {
			clouds, cancel := context.WithTimeout(ctx, opt.Within)
			defer cancel()
			held = look.Look(clouds, askable)
		})
	}
	if !opt.NoDNS {
		looker, lerr := newLooker(c.cfg.DCV)
		if err = lerr; err == nil {
			seen = checkDNS(ctx, looker, orders, reached.solvers, c.states, opt)
		}
	}
	wg.Wait()
	if err != nil {
		return Plan{}, err
	}
	p.Findings = preflight.Group(slices.Concat(p.Findings, seen, held))
	return p, ctx.Err()
}

// withMain are the orders whose account can be called, and what is not looked at for
// the others: what an account has goes by its main account.
func withMain(orders []stage.Planned) (askable []stage.Planned, unasked []string) {
	for _, p := range orders {
		if p.Account == nil || p.Account.Main != "" {
			askable = append(askable, p)
			continue
		}
		unasked = append(unasked, "quota and valid certificates of account "+p.Account.Label+": nobody knows yet of which main account it is")
	}
	slices.Sort(unasked)
	return askable, slices.Compact(unasked)
}

// troubling are the troubles of the accounts that orders are planned for; refused are
// those whose clouds refuse the console's own credentials.
func (c *Console) troubling(orders []stage.Planned, refused map[string]account.Trouble) (all []preflight.Finding) {
	for _, p := range orders {
		if p.Account == nil {
			continue
		}
		for _, t := range c.states.State(p.Account.Main).Troubled(time.Now()) {
			if t.Zone != "" {
				continue // it concerns the orders of its zone, and is told of those
			}
			all = append(all, preflight.Finding{Level: preflight.Warning, Kind: preflight.Neighbours, What: t.What, Do: t.Helps, Orders: []string{p.Request.ID}})
		}
		found := c.wrongFor(p.Account.Label, p.Account.Main)
		if t, is := refused[p.Account.Label]; is && len(found) == 0 {
			found = append(found, preflight.Finding{Level: preflight.Error, Kind: preflight.Stopped, What: t.What, Do: t.Helps})
		}
		for _, f := range found {
			f.Orders = []string{p.Request.ID}
			all = append(all, f)
		}
	}
	return all
}

// wrongFor are the findings of what is wrong with an account: an order for it is not
// issued before somebody mends it, or goes on when its cloud answers. The same stop the
// workers (active, Waiter).
func (c *Console) wrongFor(label, main string) (all []preflight.Finding) {
	wrong := c.wrong(label, main)
	state := c.states.State(main)
	if p, rests := state.Rest(label, time.Now()); rests && main != "" {
		all = append(all, preflight.Finding{Level: preflight.Warning, Kind: preflight.Stopped,
			What: "account " + label + " rests, and buys nothing meanwhile: " + p.Why,
			Do:   cmp.Or(restsUntil(p), "certmill resume "+label+" ends that")})
	}
	swept := main == "" || state.Unswept.Why == "" || state.Marked(c.line.Incarnation())
	if _, told := needsMending(wrong); !told && !swept {
		all = append(all, preflight.Finding{Level: preflight.Warning, Kind: preflight.Stopped,
			What: "account " + label + " " + unmarked(state, wrong, label, c.firstUseSaid(state)),
			Do:   "it is swept again and again; certmill status says how it stands"})
	}
	for _, t := range wrong {
		f := preflight.Finding{Level: preflight.Error, Kind: preflight.Stopped, What: t.What, Do: cmp.Or(t.Helps, mendConfig)}
		if rank(t) > 1 {
			f.Level = preflight.Warning
		}
		all = append(all, f)
	}
	return all
}

// restsUntil says when a pause ends by itself; "" where a person must end it.
func restsUntil(p account.Pause) string {
	if p.Until.IsZero() {
		return ""
	}
	return "it goes on at " + clock(p.Until)
}

// reachable are the config's accounts, to be called if that can be; else as far
// as they say how orders go there, and what is not looked at for that.
func (c *Console) reachable() (hands, []string, error) {
	h, err := c.reach()
	if err == nil {
		return hands{ready: h.ready, refused: h.refused}, nil, nil
	}
	accounts, broken := c.routes()
	unseen := "quota, valid certificates and the accounts' zones: " + redact.Text(err.Error())
	return hands{ready: ready{accounts: accounts}}, []string{unseen}, broken
}

// noAccounts: nobody here knows where orders go.
const noAccounts = "where the orders go: the config has no accounts (the workers' has them)"

// offlinePlan goes by the config alone.
func offlinePlan(ctx context.Context, c Config, b Batch, opt PlanOptions) (Plan, error) {
	accounts, err := c.routes()
	if err != nil {
		return Plan{}, err
	}
	b, ways, steps := b.placed(ctx, accounts)
	p := Plan{BadLines: b.Bad, orders: ways, Steps: count(steps)}
	if len(accounts) == 0 {
		p.Steps, p.NotLookedAt = nil, []string{noAccounts}
	}
	p.Findings = append(stage.Overlaps(b.Requests), stage.Words(p.orders)...)
	if !opt.NoDNS {
		looker, err := newLooker(c.DCV)
		if err != nil {
			return Plan{}, err
		}
		p.Findings = append(p.Findings, checkDNS(ctx, looker, p.orders, nil, nil, opt)...)
	}
	p.Findings = preflight.Group(p.Findings)
	return p, ctx.Err()
}

// placed says where each order of a batch would go, by the config alone; lines that
// no account takes are bad ones, if there are accounts.
func (b Batch) placed(ctx context.Context, accounts stage.Accounts) (left Batch, ways []stage.Planned, steps []Step) {
	left = b
	left.Bad, left.Requests, left.places = slices.Clone(b.Bad), nil, nil
	for i, r := range b.Requests {
		way, step := stage.Planned{Request: r}, Step{}
		if len(accounts) > 0 {
			way, step, _ = ready{accounts: accounts}.place(ctx, r)
		}
		if step.problem != "" {
			left.Bad = append(left.Bad, b.at(i).bad(r, step.problem))
			continue
		}
		left.Requests, left.places = append(left.Requests, r), append(left.places, b.at(i))
		ways, steps = append(ways, way), append(steps, step)
	}
	return left, ways, steps
}

// place goes by the config alone: which account an order without one takes, the
// ledger would say.
func (c ready) place(_ context.Context, r order.Request) (stage.Planned, Step, error) {
	problem := func(err error) (stage.Planned, Step, error) {
		return stage.Planned{Request: r, Product: r.Product}, Step{Account: r.Account, problem: err.Error()}, nil
	}
	fit := []*stage.Account{c.accounts[r.Account]}
	var err error
	if r.Account == order.AnyAccount {
		fit, err = c.accounts.Fit(r)
	} else {
		_, err = c.accounts.Find(r.Account)
	}
	if err != nil {
		return problem(err)
	}
	way, err := fit[0].Route(r)
	if err != nil {
		return problem(err)
	}
	p, step := placed(r, fit[0], way)
	step.Account = r.Account
	return p, step, nil
}

// checkDNS looks at the names of the orders that are not known yet, and at what is
// known of the accounts' rights in their zones; states may be nil.
func checkDNS(ctx context.Context, looker stage.Looker, orders []stage.Planned, solvers map[string]dcv.Solver, states *account.Accounts, opt PlanOptions) []preflight.Finding {
	d, ok := looker.(preflight.DNS)
	if !ok {
		return nil // a looker that does not look at the DNS
	}
	rights := stage.Rights{States: states, Checker: preflight.New(d), Solvers: solvers}
	var all []preflight.Subject
	for _, p := range orders {
		if p.Known {
			continue
		}
		var solver dcv.Solver
		if p.Account != nil {
			solver = solvers[p.Account.Label]
		}
		all = append(all, p.Subject(solver))
	}
	ctx, cancel := context.WithTimeout(ctx, opt.Within)
	defer cancel()
	found := rights.Checker.Check(ctx, all)
	for _, p := range orders {
		if states != nil && !p.Known && ctx.Err() == nil {
			found = append(found, rights.Known(ctx, p)...)
		}
	}
	return found
}

// flight is what submitters look at before they buy, nil if nothing.
func (s *session) flight() *stage.Flight {
	rights := s.rights()
	if rights == nil || s.cfg.Preflight == flightOff {
		return nil
	}
	return &stage.Flight{Checker: rights.Checker, Solvers: s.solvers, Hold: s.cfg.Preflight == flightHold, Rights: rights}
}

// rights are what is known of the accounts' rights in zones; nil where the looker
// does not look at the DNS.
func (s *session) rights() *stage.Rights {
	d, ok := s.looker.(preflight.DNS)
	if !ok {
		return nil
	}
	return &stage.Rights{States: s.states, Checker: preflight.New(d), Solvers: s.solvers}
}
