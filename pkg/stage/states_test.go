package stage_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

var states = flag.String("states", "few", "of the situations that orders can come to: few, or all, which takes minutes")

// beginning is what orders are there, and how much may go wrong.
type beginning struct {
	name     string
	labels   []string
	requests []order.Request
	before   func(context.Context, *yard) error // what went wrong before; nil: nothing
	few, all int                                // how many things go wrong, at most
	one      int                                // unless all are asked for, one in so many of the last situations is gone on with
}

func asks(id, label, resource string) order.Request {
	return order.Request{ID: id, Account: label, Names: []string{yardName}, Resource: resource}
}

var beginnings = []beginning{
	{name: "one order", labels: []string{"ali"}, requests: []order.Request{asks("a", "ali", "")}, few: 1, all: 2, one: 1},
	{name: "one account, two orders", labels: []string{"ali"}, requests: []order.Request{asks("a", "ali", ""), asks("b", "ali", "")}, few: 1, all: 1, one: 10},
	{name: "two accounts", labels: []string{"ali", "bee"}, requests: []order.Request{asks("a", "ali", ""), asks("b", "bee", "")}, few: 1, all: 1, one: 10},
	{name: "quota that nobody explains", labels: []string{"ali"}, requests: []order.Request{asks("a", "ali", "")}, before: lostAndUnexplained, few: 0, all: 1, one: 1},
	{name: "a thing by name", labels: []string{"ali"}, requests: []order.Request{asks("a", "ali", "ali-thing")}, few: 1, all: 2, one: 1},
	{name: "any thing", labels: []string{"ali"}, requests: []order.Request{asks("a", "ali", order.AnyResource)}, few: 1, all: 2, one: 1},
	{name: "a thing and a purchase", labels: []string{"ali", "bee"}, requests: []order.Request{asks("a", "ali", order.AnyResource), asks("b", "bee", "")}, few: 1, all: 1, one: 10},
}

// lostAndUnexplained: a call was lost, and the quota was used by something that no
// list shows.
func lostAndUnexplained(ctx context.Context, y *yard) error {
	lost := context.WithValue(ctx, fateKey{}, fate("request lost"))
	err := errors.Join(y.visit(lost, "a", false), y.visit(lost, "a", false), y.visit(lost, "a", false))
	y.change("ali", func(s *shop) { s.n++ })
	return err
}

// move is one thing that happens.
type move struct {
	name  string
	fault bool // of the world; all else is what workers, clouds that behave and operators do
	verb  string
	do    func(context.Context) error
}

// node is a situation, how it is reached, and where it leads.
type node struct {
	situation
	from   *node
	by     string
	faults int
	to     []edge
	taken  []string // verbs that are not refused
	said   []string // with what others are
	end    bool
	out    bool // leads to an end without a further fault
	unseen bool // it was not gone on with
}

type edge struct {
	*node
	move
}

func (n *node) path() string {
	var steps []string
	for ; n.from != nil; n = n.from {
		steps = append(steps, n.by)
	}
	slices.Reverse(steps)
	return strings.Join(steps, ", ")
}

// TestFromEveryStateAnEnd: issue 18 point 7.
func TestFromEveryStateAnEnd(t *testing.T) {
	t.Parallel()
	for _, b := range beginnings {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			most := b.few
			if *states == "all" {
				most = b.all
			}
			e := explore(t, b, most)
			e.waysOut()
			t.Logf("%d situations, %d moves", len(e.nodes), e.tried)
			e.stuck()
			e.commands()
		})
	}
}

type exploration struct {
	t     *testing.T
	y     *yard
	b     beginning
	nodes map[string]*node
	tried int
}

func explore(t *testing.T, b beginning, most int) *exploration {
	t.Helper()
	e := &exploration{t: t, y: newYard(t, b.labels...), b: b, nodes: map[string]*node{}}
	for _, r := range b.requests {
		if err := e.y.handIn(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if b.before != nil {
		if err := b.before(t.Context(), e.y); err != nil {
			t.Fatal(err)
		}
	}
	first := &node{situation: e.y.now()}
	e.nodes[first.fingerprint()] = first
	queues := make([][]*node, most+2)
	queues[0] = []*node{first}
	for faults := range most + 1 {
		for i := 0; i < len(queues[faults]); i++ {
			n := queues[faults][i]
			if faults == most && !e.drawn(n) {
				n.unseen = true
				continue
			}
			for _, next := range e.expand(n, faults < most) {
				queues[next.faults] = append(queues[next.faults], next)
			}
		}
	}
	return e
}

// drawn tells whether the last situations are gone on with from this one.
func (e *exploration) drawn(n *node) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte(n.path()))
	return *states == "all" || n.faults == 0 || h.Sum32()%uint32(e.b.one) == 0
}

// expand makes all moves from a situation, and returns the situations that are new.
func (e *exploration) expand(n *node, faults bool) (fresh []*node) {
	y := e.y
	y.back(n.situation)
	n.end = y.ended(e.t)
	if n.end && !faults && n.faults > 0 {
		return nil // what can be done from an end is seen where less has gone wrong
	}
	for _, m := range y.moves(e.b, faults) {
		y.back(n.situation)
		e.tried++
		err := m.do(e.t.Context())
		if err != nil && !errors.Is(err, stage.ErrNotNow) && m.verb == "" {
			continue
		}
		if m.verb != "" && err == nil {
			n.taken = append(n.taken, m.name)
		}
		if m.verb != "" && errors.Is(err, stage.ErrNotNow) {
			n.said = append(n.said, m.name+": "+err.Error())
		}
		after := y.now()
		print := after.fingerprint()
		next := e.nodes[print]
		if next == nil {
			next = &node{situation: after, from: n, by: m.name, faults: n.faults}
			if m.fault {
				next.faults++
			}
			e.nodes[print] = next
			fresh = append(fresh, next)
		}
		if next != n {
			n.to = append(n.to, edge{next, m})
		}
	}
	return fresh
}

// moves are all that can happen.
func (y *yard) moves(b beginning, faults bool) []move {
	var all []move
	then := func(do func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error { return errors.Join(do(ctx), y.settle(ctx)) }
	}
	good := func(name string, do func(context.Context) error) { all = append(all, move{name: name, do: then(do)}) }
	bad := func(name string, do func(context.Context) error) {
		if faults {
			all = append(all, move{name: name, fault: true, do: do})
		}
	}
	ids, now := y.orders(), y.now()
	for _, id := range ids {
		if faults {
			y.worked(id, good, bad)
			y.back(now)
		} else {
			good("all work", func(context.Context) error { return nil })
		}
		for name, verb := range y.verbs(id, y.first(id) && (len(b.requests) == 1 || *states == "all")) {
			all = append(all, move{name: name, verb: id, do: then(verb)})
			bad("somebody dies over "+name, func(ctx context.Context) error { return y.dying(ctx, verb) })
		}
	}
	for _, r := range b.requests {
		if !slices.Contains(ids, r.ID) {
			good(r.ID+" is handed in again", func(ctx context.Context) error { return y.handIn(ctx, r) })
		}
	}
	good("time passes", func(context.Context) error { y.pass(); return nil })
	if y.swept {
		good("the lists are swept", y.sweepFirst)
	} else {
		good("the first sweep", func(ctx context.Context) error { y.pass(); return y.sweepFirst(ctx) })
	}
	y.cloudMoves(good, bad)
	return all
}

// settle lets the workers work until nothing moves.
func (y *yard) settle(ctx context.Context) error {
	for range 10 {
		before := y.table.seq
		for _, id := range y.orders() {
			if err := y.visit(ctx, id, false); err != nil {
				return err
			}
		}
		if y.table.seq == before {
			break
		}
	}
	return nil
}

// mostVisits is how many visits an order takes from one end of the line to the other.
const mostVisits = 8

// worked are the visits of an order, each of which may go wrong.
func (y *yard) worked(id string, good, bad func(string, func(context.Context) error)) {
	it, err := y.line.Last(y.t.Context(), id)
	if err != nil || it.State.Final() || it.State == order.Held && !it.Hold.Open {
		return
	}
	good("all work", func(context.Context) error { return nil })
	for n := range mostVisits {
		before := y.table.seq
		y.wrong(id, fmt.Sprintf("after %d visits ", n), it.State, func(name string, do func(context.Context) error) {
			bad(name, func(ctx context.Context) error {
				for range n {
					if err := y.visit(ctx, id, false); err != nil {
						return err
					}
				}
				return do(ctx)
			})
		})
		if err := y.visit(y.t.Context(), id, false); err != nil || y.table.seq == before {
			return
		}
		if it, err = y.line.Last(y.t.Context(), id); err != nil || it.State.Final() || it.State == order.Held && !it.Hold.Open {
			return
		}
	}
}

// wrong is what may go wrong in a visit.
func (y *yard) wrong(id, after string, in order.State, bad func(string, func(context.Context) error)) {
	if in == order.Submit {
		for _, f := range []fate{"answer lost", "request lost", "on its way", "throttled", "refused"} {
			bad(after+id+": "+string(f), func(ctx context.Context) error {
				return y.visit(context.WithValue(ctx, fateKey{}, f), id, false)
			})
		}
	}
	for n := 1; n <= 8; n++ {
		bad(fmt.Sprintf("%sa worker dies over %s at gap %d", after, id, n), func(ctx context.Context) error {
			passed, err := y.dies(ctx, n, func(ctx context.Context) error { return y.visit(ctx, id, false) })
			if passed < n {
				return errNothing
			}
			return err
		})
	}
	bad(after+"the last try of "+id, func(ctx context.Context) error { return y.visit(ctx, id, true) })
	bad(after+"the message of "+id+" is removed", func(context.Context) error {
		rows := y.table.take()
		for subject := range rows {
			if covers(order.AllOf(id), subject) {
				delete(rows, subject)
			}
		}
		y.table.put(rows)
		return nil
	})
}

// errNothing: what would have happened did not.
var errNothing = errors.New("nothing happened")

// dying carries a verb out and dies at its last gap.
func (y *yard) dying(ctx context.Context, verb func(context.Context) error) error {
	before := y.now()
	n, err := y.dies(ctx, -1, verb)
	y.back(before)
	if n < 2 || err != nil { // the transition itself is one
		return errNothing
	}
	_, err = y.dies(ctx, 1, verb)
	return err
}

// verbs are those of an operator, whether the state allows them or not.
func (y *yard) verbs(id string, another bool) map[string]func(context.Context) error {
	p := y.operator
	all := map[string]func(context.Context) error{
		"retry " + id:      func(ctx context.Context) error { return p().Retry(ctx, id) },
		"approve " + id:    func(ctx context.Context) error { return person{p()}.Approve(ctx, id) },
		"cancel " + id:     func(ctx context.Context) error { return p().Cancel(ctx, id) },
		"not-bought " + id: func(ctx context.Context) error { return p().NotBought(ctx, id) },
	}
	if another {
		all["buy-again "+id] = func(ctx context.Context) error { _, _, err := p().BuyAgain(ctx, id); return err }
	}
	for _, s := range y.clouds {
		for _, r := range s.rows {
			all["adopt "+id+" "+r.id] = func(ctx context.Context) error { return p().Adopt(ctx, id, r.id) }
		}
	}
	return all
}

// first tells whether an order is the first of its line: the second has no successor
// here, or there would be no end of situations.
func (y *yard) first(id string) bool {
	it, err := y.line.Last(y.t.Context(), id)
	return err == nil && it.Predecessor == "" && !strings.HasSuffix(id, "-2")
}

// cloudMoves are what the clouds and others do there.
func (y *yard) cloudMoves(good, bad func(string, func(context.Context) error)) {
	for label, s := range y.clouds {
		for i, r := range s.rows {
			set := func(phase issuer.Phase, wrong bool) func(context.Context) error {
				return func(context.Context) error {
					y.change(label, func(s *shop) { s.rows[i].phase, s.rows[i].wrong = phase, wrong })
					return nil
				}
			}
			if r.phase == issuer.Reviewing {
				good("cloud order "+r.id+" is issued", set(issuer.IssuedPhase, false))
				bad("cloud order "+r.id+" is issued for another key", set(issuer.IssuedPhase, true))
				bad("cloud order "+r.id+" is refused", set(issuer.Refused, false))
			}
			bad("cloud order "+r.id+" is gone", func(context.Context) error {
				y.change(label, func(s *shop) { s.rows = slices.Delete(s.rows, i, i+1) })
				return nil
			})
		}
		for i, t := range s.things {
			set := func(phase issuer.Phase) func(context.Context) error {
				return func(context.Context) error {
					y.change(label, func(s *shop) { s.things[i].phase = phase })
					return nil
				}
			}
			if t.phase == issuer.Reviewing {
				good(t.id+" is issued", set(issuer.IssuedPhase))
				bad(t.id+" is refused", set(issuer.Refused))
			}
			bad(t.id+" is gone", func(context.Context) error {
				y.change(label, func(s *shop) { s.things = slices.Delete(s.things, i, i+1) })
				return nil
			})
		}
		for i, call := range s.onWay {
			good("a call arrives at "+label, func(context.Context) error {
				y.change(label, func(s *shop) { s.onWay = slices.Delete(s.onWay, i, i+1) })
				y.arrive(label, call)
				return nil
			})
		}
		if len(s.rows) < 3 {
			bad("somebody else buys at "+label, func(context.Context) error {
				y.change(label, func(s *shop) {})
				y.buy(label, strangersCSR(y.t))
				return nil
			})
		}
		if y.gone == "" {
			bad("account "+label+" leaves the config", func(context.Context) error { y.gone = label; return nil })
		}
	}
	if y.gone != "" {
		good("account "+y.gone+" comes back", func(context.Context) error { y.gone = ""; return nil })
	}
	if y.swept {
		bad("JetStream is lost", func(context.Context) error { y.table.put(nil); y.swept = false; return nil })
	}
}

// ended tells whether all orders have come to an end: cleaned up, and the names
// free, in service, or free for who knows that they were paid for in vain.
func (y *yard) ended(t *testing.T) bool {
	for _, id := range y.orders() {
		if it, err := y.line.Last(t.Context(), id); err != nil || !it.State.Final() {
			return false
		}
	}
	e, err := y.ledger.Read(t.Context(), yardMain, []string{yardName})
	if err != nil {
		t.Fatal(err)
	}
	return e.Standing("another", "", time.Now()).Is != ledger.Taken
}

// waysOut marks the situations from which an end is reached without a fault.
func (e *exploration) waysOut() {
	into := map[*node][]*node{}
	var out []*node
	for _, n := range e.nodes {
		for _, to := range n.to {
			if !to.fault {
				into[to.node] = append(into[to.node], n)
			}
		}
		if n.end || n.unseen {
			n.out = true
			out = append(out, n)
		}
	}
	for len(out) > 0 {
		n := out[len(out)-1]
		out = out[:len(out)-1]
		for _, from := range into[n] {
			if !from.out {
				from.out = true
				out = append(out, from)
			}
		}
	}
}

// stuck tells of the situations without a way out, one of each kind.
func (e *exploration) stuck() {
	kinds := map[string]*node{}
	count := map[string]int{}
	for _, n := range e.nodes {
		if n.out {
			continue
		}
		k := n.kind()
		count[k]++
		if was := kinds[k]; was == nil || len(n.path()) < len(was.path()) {
			kinds[k] = n
		}
	}
	for k, n := range kinds {
		e.t.Errorf("%d situations have no way out: %s\n\t%s\n%s", count[k], k, n.path(), n.fingerprint())
	}
}

// anyCommand is a verb in a sentence.
var anyCommand = regexp.MustCompile(`certmill (retry|approve|cancel|not-bought|buy-again) [a-z0-9-]+|` +
	`certmill adopt [a-z0-9-]+ (<cloud id>|[a-z0-9-]*[a-z0-9])`)

// commands tells of commands that a hold or a refusal names and that do nothing: neither now,
// nor when time has passed, nor when the lists were read again.
func (e *exploration) commands() {
	useless := map[string]*node{}
	for _, n := range e.nodes {
		if n.unseen {
			continue
		}
		for subject, r := range n.rows {
			if !strings.HasPrefix(subject, "order.held.") {
				continue
			}
			o := r.order()
			for _, c := range o.Hold.Commands {
				if !n.does(c) {
					k := c + " for: " + printer{names: map[string]string{}}.text(o.Hold.Reason)
					if was := useless[k]; was == nil || len(n.path()) < len(was.path()) {
						useless[k] = n
					}
				}
			}
		}
	}
	for _, n := range e.nodes {
		for _, said := range n.said {
			for _, c := range anyCommand.FindAllString(said, -1) {
				if k := c + " in " + said; !n.unseen && !n.does(c) && useless[k] == nil {
					useless[k] = n
				}
			}
		}
	}
	for k, n := range useless {
		e.t.Errorf("a command does nothing: %s\n\t%s\n%s", anyKey.ReplaceAllString(k, "K"), n.path(), n.fingerprint())
	}
}

// does tells whether a command changes anything, at least after what comes by itself.
func (n *node) does(command string) bool {
	verb, open := strings.CutSuffix(strings.TrimPrefix(command, "certmill "), " <cloud id>")
	if open && !n.anyRow() {
		return true // there is none that it could be tried with
	}
	at := []*node{n}
	for _, to := range n.to {
		if to.verb == "" && !to.fault {
			at = append(at, to.node)
		}
	}
	return slices.ContainsFunc(at, func(n *node) bool {
		if n.end && len(n.taken) == 0 {
			return true // what can be done from there was not tried (expand)
		}
		return slices.ContainsFunc(n.taken, func(name string) bool { return name == verb || open && strings.HasPrefix(name, verb+" ") })
	})
}

func (n *node) anyRow() bool {
	for _, s := range n.clouds {
		if len(s.rows) > 0 {
			return true
		}
	}
	return false
}

// kind is where the orders are.
func (n *node) kind() string {
	var all []string
	for subject, r := range n.rows {
		if !strings.HasPrefix(subject, "order.") {
			continue
		}
		var o order.Order
		_ = json.Unmarshal(r.data, &o)
		s := fmt.Sprintf("%s %s", o.ID(), o.State)
		if o.State == order.Held {
			s += " (" + o.Hold.Reason + ")"
		}
		all = append(all, printer{names: map[string]string{}}.text(s))
	}
	slices.Sort(all)
	return anyKey.ReplaceAllString(strings.Join(all, ", "), "K")
}

var anyKey = regexp.MustCompile(`[0-9a-f]{16}…`)
