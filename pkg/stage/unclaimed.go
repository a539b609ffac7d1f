package stage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// unclaimed decides about the cloud orders for an order's names that no ledger
// entry claims (DESIGN 12.5, 12.6): left over from a JetStream that was lost, or
// bought by somebody else: a person in the console, another program, another
// certmill. The first that may be this order's purchase is waited for, and taken if
// its key is the one that the key store has for this order. One that is surely not
// holds the order, because the names are bought already, until a person lets that
// very cloud order pass.
func (s *Submitter) unclaimed(ctx context.Context, a *Account, flow issuer.Flow, o order.Order, e ledger.Entry) (next order.Order, verb error, done bool) {
	rows, err := unclaimed(ctx, s.Ledger, []issuer.Flow{flow}, o, e, time.Now())
	if err != nil {
		return o, s.Trouble.Verb(ctx, a, err), true
	}
	if len(rows) == 0 {
		verb = s.boughtElsewhere(ctx, flow, o, e)
		return o, verb, verb != nil
	}
	sent, err := s.sent(o, e)
	if err != nil {
		return o, err, true
	}
	if fingerprint(o) != "" {
		if open := unissued(rows); sent && len(open) > 0 && time.Since(open[0].Created) < waitedFor {
			return o, pipeline.Wait(order.Wait{For: order.WaitForTime, Till: time.Now().UTC().Add(time.Minute),
				What: open[0].facts() + ": once it is issued its key tells whose it is"}), true
		}
		mine, _, err := byKey(ctx, flow, fingerprint(o), bare(rows))
		if err != nil {
			return o, s.Trouble.Verb(ctx, a, err), true
		}
		if mine != "" {
			next, verb = s.takeLeftOver(ctx, o, mine)
			return next, verb, true
		}
	}
	return o, bySomebodyElse(flow, o, rows, sent), true
}

// waitedFor is how old a cloud order may be that is not issued and may be this
// order's: what hangs longer is a person's to decide.
const waitedFor = 24 * time.Hour

// sent tells whether a paid call may ever have been made for an order: an attempt
// stands in the ledger or its number in the key store. Before that, nothing that
// the cloud has can be this order's.
func (s *Submitter) sent(o order.Order, e ledger.Entry) (bool, error) {
	if _, tried := e.Last(o.ID()); tried {
		return true, nil
	}
	raised, err := s.Keys.Number(ref(o))
	if err != nil {
		return false, fmt.Errorf("read attempt number: %w", err)
	}
	return raised.Attempt > 0, nil
}

// takeLeftOver claims a cloud order whose key is this order's.
func (s *Submitter) takeLeftOver(ctx context.Context, o order.Order, mine string) (order.Order, error) {
	c := ledger.Claim{CloudID: mine, Order: o.ID(), Purchase: o.Purchase, Attempt: o.Attempt, How: "adopted, key compared"}
	if err := s.Ledger.Assign(ctx, o.Main, o.Request.Names, c); err != nil {
		return o, again(err)
	}
	// A crash here leaves the claim: follow finds it.
	gap.At(ctx, "submit: left-over adopted")
	return bought(o, mine), nil
}

// bySomebodyElse holds an order whose names were bought past it. To adopt one is
// offered only where nothing speaks against it.
func bySomebodyElse(flow issuer.Flow, o order.Order, rows []loose, sent bool) error {
	var said, facts []string
	for _, row := range rows {
		said, facts = append(said, row.facts()), append(facts, order.FactUnclaimed(row.CloudID))
	}
	why := "for this order nothing was ever sent, so it was bought under another id (one that somebody changed in the list), or by somebody else"
	commands := []string{"certmill approve " + o.ID()}
	switch {
	case sent && len(unissued(rows)) > 0:
		why = "it is not issued, so nothing tells whose it is"
		commands = append(commands, "certmill adopt "+o.ID()+" "+unissued(rows)[0].CloudID)
	case sent && fingerprint(o) != "":
		why = "its key is another than this order's, so it was bought under another id (that of a successor), " +
			"under this one when the order was another (its key, account or resource was changed in the list), or by somebody else"
	case fingerprint(o) == "":
		why = "the cloud makes this order's key, so nothing tells whose it is"
		commands = append(commands, "certmill adopt "+o.ID()+" "+rows[0].CloudID)
	}
	return pipeline.HoldFor(order.Facts(facts...), strings.Join(said, "; ")+": "+why+
		". approve takes "+cost(flow, o)+", for one more certificate",
		append(commands, "certmill cancel "+o.ID())...)
}

// boughtElsewhere holds an order for whose names somebody has bought at another main
// account: a set is one, wherever it lies. Nothing there can be this order's; what
// may be is found by its number in the key store (lost).
func (s *Submitter) boughtElsewhere(ctx context.Context, flow issuer.Flow, o order.Order, e ledger.Entry) error {
	var said, facts []string
	for _, at := range e.Elsewhere() {
		for _, row := range s.unclaimedAt(ctx, o, at) {
			said = append(said, fmt.Sprintf("cloud order %s (%s) exists for these names at main account %s and no ledger entry claims it", row.CloudID, issuer.Word(row.Raw), at.Main))
			facts = append(facts, order.FactUnclaimed(row.CloudID))
		}
	}
	if len(said) == 0 {
		return nil
	}
	return pipeline.HoldFor(order.Facts(facts...), strings.Join(said, "; ")+". approve takes "+cost(flow, o)+", for one more certificate",
		"certmill approve "+o.ID(), "certmill cancel "+o.ID())
}

// unclaimedAt are those of another main account. Its cloud is asked what became of
// them; where it does not answer, or is in the config no more, they stop as the
// ledger has them: nobody waits for another account's cloud.
func (s *Submitter) unclaimedAt(ctx context.Context, o order.Order, at ledger.Entry) []loose {
	var flows []issuer.Flow
	for _, a := range s.Accounts.Mains() {
		if a.Main == at.Main {
			flows = a.Cloud.Flows()
		}
	}
	rows, err := unclaimed(ctx, s.Ledger, flows, o, at, time.Now())
	if err != nil {
		rows, _ = unclaimed(ctx, s.Ledger, nil, o, at, time.Now()) // asks nobody
	}
	return rows
}

// loose is a cloud order that nobody claims.
type loose struct {
	issuer.Row
	listed bool // the list shows it now
}

func (l loose) facts() string {
	return fmt.Sprintf("cloud order %s (%s) exists for these names and no ledger entry claims it", l.CloudID, issuer.Word(l.Raw))
}

func bare(rows []loose) []issuer.Row {
	out := make([]issuer.Row, len(rows))
	for i, r := range rows {
		out[i] = r.Row
	}
	return out
}

// unissued are the rows that may yet be issued, as far as the list shows them.
func unissued(rows []loose) []loose {
	var open []loose
	for _, r := range rows {
		if r.listed && r.Phase != issuer.IssuedPhase {
			open = append(open, r)
		}
	}
	return open
}

// unclaimed returns the cloud orders for the entry's names that nobody claims and
// that stop a purchase, without those that a person let pass. The ledger forgets
// none that was ever seen, so the lists of these flows are asked what became of
// them; what they do not show stops. One that has an owner by now is explained: a
// cloud may show it for other names than those it was ordered for.
func unclaimed(ctx context.Context, l *ledger.Ledger, flows []issuer.Flow, o order.Order, e ledger.Entry, now time.Time) (rows []loose, err error) {
	listed, err := listedOf(ctx, flows, e)
	if err != nil {
		return nil, err
	}
	for _, u := range e.Loose() {
		row, is := listed[u.CloudID]
		if !is {
			row = issuer.Row{CloudID: u.CloudID, Raw: u.Status}
		}
		if is && !inTheWay(row, now) || o.Approves(order.FactUnclaimed(u.CloudID)) {
			continue
		}
		has, err := l.Owner(ctx, e.Main, u.CloudID)
		if err != nil && !errors.Is(err, order.ErrNewer) {
			return nil, err
		}
		if owned := err == nil && has.Order != "" && !has.Provisional; !owned || order.NamesHash(has.Names) == order.NamesHash(e.Names) {
			rows = append(rows, loose{row, is})
		}
	}
	return rows, nil
}

// listedOf is how the lists of some flows show an entry's unclaimed cloud orders now.
func listedOf(ctx context.Context, flows []issuer.Flow, e ledger.Entry) (map[string]issuer.Row, error) {
	listed := map[string]issuer.Row{}
	sets := map[string][]string{}
	for _, u := range e.Loose() {
		names := e.Names
		if len(u.Shown) > 0 {
			names = u.Shown
		}
		sets[order.NamesHash(names)] = names
	}
	for _, flow := range flows {
		finder, ok := flow.(issuer.Finder)
		if !ok {
			continue
		}
		for _, names := range sets {
			found, err := finder.Find(ctx, names)
			if err != nil {
				return nil, err
			}
			for _, row := range found {
				listed[row.CloudID] = row
			}
		}
	}
	return listed, nil
}
