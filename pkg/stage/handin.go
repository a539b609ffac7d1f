package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// HandIn is an order that is about to be handed in, and what there is of it.
type HandIn struct {
	Request order.Request  // as it is handed in: for "again: true" the order that is meant
	ID      string         // that it has, or will have unless somebody takes it first
	Known   *order.Order   // it is there already: nothing is made; the last of its line, which tells how it stands
	Mends   bool           // the known one, which failed for what stands in it: it is tried again as handed in
	Refused *order.Invalid // why the intake would refuse it
	Hidden  error          // there is an order that another build must read: its intake knows
	Taken   Taken          // another order has its names
	Loose   []Loose        // nobody claims these cloud orders for its names; where its names are free
}

// Loose is a cloud order that nobody claims, by the ledger: whoever orders its names
// meets it before anything is bought.
type Loose struct {
	CloudID string
	State   string // in words, as the list had it last
	Main    string // whose list
}

// New tells whether handing it in makes an order.
func (h HandIn) New() bool { return h.Known == nil && h.Refused == nil }

// HandIns looks at a batch as the intake will, before anything is handed in. It
// changes nothing.
func (p Preflight) HandIns(ctx context.Context, requests []order.Request) ([]HandIn, error) {
	all := make([]HandIn, len(requests))
	err := atOnce(len(requests), func(i int) (err error) {
		all[i], err = p.handIn(ctx, requests[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	first := map[string]bool{}
	for i, h := range all {
		if h.New() && first[h.ID] { // only what says "again" has passed the reading
			all[i].Refused = &order.Invalid{Field: "again", Reason: fmt.Sprintf(
				"another line of this batch orders %s: leave one of the two out, or give this one an id of its own", h.ID)}
		}
		first[h.ID] = first[h.ID] || h.New()
	}
	return all, nil
}

func (p Preflight) handIn(ctx context.Context, r order.Request) (h HandIn, err error) {
	if h.Request, h.Known, err = last(ctx, p.Line, r); err != nil || h.Known != nil {
		return p.there(ctx, h, err)
	}
	h.ID = h.Request.ID
	of, known, err := standing(ctx, p.Line, h.Request, p.Publisher)
	switch bad, refused := errors.AsType[*order.Invalid](err); {
	case refused:
		h.Refused = bad
		return h, nil
	case err != nil || known != nil:
		h.Known = known
		return p.there(ctx, h, err)
	case of != nil:
		h.ID, _, _, err = (Succession{p.Line, p.Keys}).Free(ctx, *of)
		if bad, taken := errors.AsType[*order.Invalid](err); taken {
			h.Refused = bad
			return h, nil
		}
		if err != nil {
			return p.there(ctx, h, err)
		}
	}
	var e ledger.Entry
	if h.Taken, e, err = namesTaken(ctx, p.Ledger, h.Request, p.Now()); err == nil && h.Taken.Order == "" {
		h.Loose, err = p.loose(ctx, h.Request, e)
	}
	return h, err
}

// there completes what is known of an order that is there, or cannot be read.
func (p Preflight) there(ctx context.Context, h HandIn, err error) (HandIn, error) {
	if err == nil {
		var it pipeline.Item
		own := h.Known.ID()
		it, err = Succession{Line: p.Line}.after(ctx, pipeline.Item{Order: *h.Known})
		h.Known, h.ID = &it.Order, it.ID()
		r := h.Request
		r.ID = h.ID
		h.Mends = err == nil && own == h.ID && mends(r, it.Order, p.Publisher)
	}
	if errors.Is(err, pipeline.ErrUnreadable) {
		h.Hidden, err = err, nil
	}
	return h, err
}

// last puts the last order of the line into "again: true". Of a line that has
// none, the order is the first; the last one of a line that has not ended is what
// the request asks for: known.
func last(ctx context.Context, line *pipeline.Line, r order.Request) (order.Request, *order.Order, error) {
	if r.Again != order.AgainLast {
		return r, nil, nil
	}
	it, err := Succession{Line: line}.Last(ctx, r.ID)
	switch {
	case errors.Is(err, pipeline.ErrNoOrder):
		r.Again = ""
	case err != nil:
		return r, nil, err
	case !it.Ended() && succeeds(r, it.Order):
		return r, &it.Order, nil
	default:
		r.Again = it.ID()
	}
	return r, nil, nil
}

// standing is how a request stands to what there is: the order that it follows,
// nil for the first of a line, and the order that it is already, nil if none is. by
// is who publishes it.
// An *order.Invalid says why it is refused. The intake decides by it, and whoever
// says before what the intake will do.
func standing(ctx context.Context, line *pipeline.Line, r order.Request, by string) (of, known *order.Order, err error) {
	if r.Again != "" {
		return predecessor(ctx, line, r, by)
	}
	was, err := line.Last(ctx, r.ID)
	if errors.Is(err, pipeline.ErrNoOrder) {
		return nil, nil, nil
	}
	if err == nil {
		err = same(r, was.Order)
	}
	if err != nil {
		return nil, nil, err
	}
	return nil, &was.Order, nil
}

// predecessor reads the order that a request wants to follow. known is its
// successor where there is one: whatever state the predecessor is in, the message
// was heard before. Otherwise the predecessor must be the publisher's own, have the
// same names and have ended: a living one is what the message asks for.
func predecessor(ctx context.Context, line *pipeline.Line, r order.Request, by string) (of, known *order.Order, err error) {
	it, err := line.Last(ctx, r.Again)
	if errors.Is(err, pipeline.ErrNoOrder) {
		return nil, nil, &order.Invalid{Field: "again", Reason: fmt.Sprintf(
			"there is no order %q: leave again out, and the order is bought for the first time", r.Again)}
	}
	if err != nil {
		return nil, nil, err
	}
	_, next, made, err := Succession{Line: line}.Find(ctx, it.Order)
	if err != nil {
		return nil, nil, err
	}
	if bad := mayFollow(r, it.Order, made, by); bad != nil {
		return nil, nil, bad
	}
	if !made {
		return &it.Order, nil, nil
	}
	if bad := same(r, next.Order); bad != nil {
		return nil, nil, bad
	}
	return nil, &next.Order, nil
}

// mayFollow says why a request cannot buy again what an order bought. Of somebody
// else's order nothing is told.
func mayFollow(r order.Request, of order.Order, made bool, by string) error {
	var reason string
	switch {
	case !made && by != CommandLine && publisherName(by) != publisherName(of.Publisher):
		reason = fmt.Sprintf("order %q was handed in by another publisher: only that one and an operator buy it again (certmill buy-again %s)",
			of.ID(), of.ID())
	case !succeeds(r, of):
		reason = fmt.Sprintf("order %q is for other names (%s): order these without again",
			of.ID(), strings.Join(of.Request.Names, " "))
	case !made && !of.Ended():
		reason = fmt.Sprintf("order %q has not ended (state %s): what it orders is on its way; certmill show %s says what helps",
			of.ID(), of.State, of.ID())
	case !made && usesUp(r, of):
		return &order.Invalid{Field: "resource", Reason: fmt.Sprintf(
			"%s was used up by order %q, which this one follows: write another id, or \"any\" for an unused one of the account", r.Resource, of.ID())}
	default:
		return nil
	}
	return &order.Invalid{Field: "again", Reason: reason}
}

// same says why a request is not the order that lies where it would.
func same(r order.Request, was order.Order) error {
	switch {
	case was.Hash == r.Hash():
		return nil
	case r.Again != "":
		return &order.Invalid{Field: "again", Reason: fmt.Sprintf(
			"order %q was bought again already, in another way, as %q (state %s): to buy once more, write again: %s",
			r.Again, was.ID(), was.State, was.ID())}
	}
	return &order.Invalid{Field: "id", Reason: fmt.Sprintf(
		"the id %q is taken by another order (state %s): leave the id out, or give this one an id of its own",
		was.ID(), was.State)}
}

// Taken is another order that has the names of one.
type Taken struct {
	Order string    // "": the names are free
	How   string    // in a sentence
	Until time.Time // in service until then; zero: on its way
}

// unknownOrder stands for one that only a newer certmill can read.
const unknownOrder = "of a newer certmill"

// NamesTaken tells which other order has a set of names, in service or on its
// way, on whatever main account, or was paid for them and failed. What the order's
// predecessor has does not count. Everybody who says before the intake how names
// stand asks here; the submitter asks the same entry (ledger.Entry.Standing).
func NamesTaken(ctx context.Context, l *ledger.Ledger, r order.Request, now time.Time) (Taken, error) {
	t, _, err := namesTaken(ctx, l, r, now)
	return t, err
}

// namesTaken also returns what the ledger has of the names at all main accounts: each
// is elsewhere (ledger.Entry.Elsewhere).
func namesTaken(ctx context.Context, l *ledger.Ledger, r order.Request, now time.Time) (Taken, ledger.Entry, error) {
	e, err := l.Read(ctx, "", r.Names)
	if errors.Is(err, order.ErrNewer) {
		return Taken{Order: unknownOrder, How: newerEntry}, e, nil
	}
	if err != nil {
		return Taken{}, e, err
	}
	switch s := e.Standing(r.ID, r.Again, now); s.Is {
	case ledger.Taken:
		return Taken{Order: s.Order, How: underWay}, e, nil
	case ledger.InService:
		return Taken{Order: s.Order, How: valid, Until: s.Till}, e, nil
	case ledger.PaidAndFailed:
		return Taken{Order: s.Order, How: paidForNothing}, e, nil
	}
	return Taken{}, e, nil
}

// loose are the cloud orders that stop an order whose names are free, at whatever main
// account: those by which the submitter decides (unclaimed), as far as the ledger
// tells. No cloud is asked what became of them since.
func (p Preflight) loose(ctx context.Context, r order.Request, e ledger.Entry) (all []Loose, err error) {
	for _, at := range e.Elsewhere() {
		rows, err := unclaimed(ctx, p.Ledger, nil, order.Order{Request: r}, at, p.Now())
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			all = append(all, Loose{CloudID: row.CloudID, State: issuer.Word(row.Raw), Main: at.Main})
		}
	}
	return all, nil
}

// Findings are what a batch's lines meet where others are before them: names that
// another order has, and orders that this program cannot read.
func Findings(all []HandIn) (found []preflight.Finding) {
	for _, h := range all {
		switch {
		case h.Hidden != nil:
			found = append(found, preflight.Finding{Level: preflight.Error, Kind: preflight.Duplicate,
				Orders: []string{h.Request.ID}, Example: h.Hidden.Error(),
				What: "the ids are of orders that this certmill cannot read",
				Do:   "look at them with the certmill that wrote them, or give these ids of their own"})
		case h.New() && h.Taken.Order != "":
			found = append(found, duplicate(h.ID, h.Request.Names, h.Taken.How, "order "+h.Taken.Order))
		case h.New() && len(h.Loose) > 0:
			l := h.Loose[0]
			found = append(found, preflight.Finding{Level: preflight.Warning, Kind: preflight.Duplicate,
				Orders: []string{h.ID}, What: nobodys,
				Example: fmt.Sprintf("%s: cloud order %s (%s) at main account %s",
					strings.Join(h.Request.Names, " "), l.CloudID, l.State, l.Main),
				Do: "certmill surplus lists them; handed in, these orders take one at their own account whose key is theirs, " +
					"and else are held before anything is bought, until certmill approve"})
		}
	}
	return found
}

// Overlaps finds orders of one batch that share names: the same set of names,
// which only what says "again" may have, or a part of it. Neither is refused.
func Overlaps(requests []order.Request) []preflight.Finding {
	hashes, orders := make([]string, len(requests)), map[string]int{}
	sets := map[string]map[string]bool{} // that a name is in
	for i, r := range requests {
		hashes[i] = order.NamesHash(r.Names)
		orders[hashes[i]]++
		for _, n := range r.Names {
			if sets[n] == nil {
				sets[n] = map[string]bool{}
			}
			sets[n][hashes[i]] = true
		}
	}
	var found []preflight.Finding
	for i, r := range requests {
		if orders[hashes[i]] > 1 {
			found = append(found, overlapping(r, strings.Join(r.Names, " "), "another order of this batch has the same names",
				"leave one of the two out, unless two certificates are wanted"))
		}
		if at := slices.IndexFunc(r.Names, func(n string) bool { return len(sets[n]) > 1 }); at >= 0 {
			found = append(found, overlapping(r, r.Names[at], "some of their names are in other orders of this batch, too",
				"order each name in one certificate, unless several are wanted for it: each is bought, and renewed, by itself"))
		}
	}
	return found
}

func overlapping(r order.Request, example, what, do string) preflight.Finding {
	return preflight.Finding{Level: preflight.Warning, Kind: preflight.Duplicate, Orders: []string{r.ID},
		Example: example, What: what, Do: do}
}
