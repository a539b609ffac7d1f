package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Succession makes successors: an id never runs twice, so what is bought once
// more is another order, which names the one that it follows (DESIGN 12.1).
//
// An order has one successor. It lies at the first number of its line, counted
// from the order's own, that is free or holds it; numbers that hold something else
// are passed over. Places are only ever taken, never freed: all who look for the
// successor of one order stop at the same place, and the condition that nothing
// lies there lets one of them make it, whoever they are and however often.
type Succession struct {
	Line *pipeline.Line
	// Keys know which orders had an id in an earlier life of the streams. Whoever
	// makes a successor, or says which id it will get, SHOULD have them; nil: they
	// are not at hand.
	Keys KeyStore
}

// Find returns the successor of an order, or, with made false, the id that it
// would get. The error wraps pipeline.ErrUnreadable where another build's record
// lies in the way: it may be the successor, so nobody may pass it.
func (s Succession) Find(ctx context.Context, of order.Order) (id string, next pipeline.Item, made bool, err error) {
	base := of.Base()
	for n := of.Nth() + 1; ; n++ {
		id = order.Numbered(base, n)
		next, err = s.Line.Last(ctx, id)
		switch {
		case errors.Is(err, pipeline.ErrNoOrder):
			return id, pipeline.Item{}, false, nil
		case err != nil:
			return "", pipeline.Item{}, false, fmt.Errorf("successor of %q: %w", of.ID(), err)
		case next.Predecessor == of.ID():
			return id, next, true, nil
		}
	}
}

// Free is Find for those who make the successor, or say what making it will do:
// where there is none, its id is free in the key store, too. Else the error is an
// *order.Invalid. An order of an earlier life of the streams had that id for other
// names: its pair and its numbers lie there, and nobody would reach them any more.
// Handed in first, it is passed over. Where a successor lies is a matter of the line
// alone, for whoever looks for it: the key store moves none.
func (s Succession) Free(ctx context.Context, of order.Order) (id string, next pipeline.Item, made bool, err error) {
	if id, next, made, err = s.Find(ctx, of); err != nil || made || s.Keys == nil {
		return id, next, made, err
	}
	was, err := s.Keys.Number(certstore.Ref{ID: id, Hash: of.Hash, Main: of.Main, Names: of.Request.Names})
	if err != nil {
		return "", next, false, fmt.Errorf("successor of %q: %w", of.ID(), err)
	}
	if was.Attempt == 0 || len(was.Names) == 0 || order.NamesHash(was.Names) == order.NamesHash(of.Request.Names) {
		return id, next, false, nil
	}
	return "", next, false, &order.Invalid{Field: "again", Reason: fmt.Sprintf(
		"by the key store the id %s was another order's, for %s, before the streams were lost: hand that one in again first, "+
			"so that it keeps what it has, and then this; if nobody wants that one any more, cancel it once it is handed in",
		id, strings.Join(was.Names, " "))}
}

// makeTries bounds how often somebody else takes the place that was free a moment
// ago.
const makeTries = 100

// Make makes the successor of an order, if there is none: as first returns it, but
// for its id, its predecessor and its generation. made tells whether this call did.
// For the errors see Free. Safe to repeat.
func (s Succession) Make(ctx context.Context, of order.Order,
	first func() order.Order) (next pipeline.Item, made bool, err error) {
	for range makeTries {
		id, next, exists, err := s.Free(ctx, of)
		if err != nil || exists {
			return next, false, err
		}
		o := first()
		o.Request.ID, o.Request.Again, o.Predecessor, o.Generation = id, of.ID(), of.ID(), max(of.Generation, 1)+1
		next, err = s.Line.Create(ctx, o)
		if errors.Is(err, pipeline.ErrMoved) {
			continue // somebody was here first: whoever it was is found now
		}
		return next, err == nil, err
	}
	return pipeline.Item{}, false, fmt.Errorf("successor of %q: its place is always taken by others: try again", of.ID())
}

// Last returns the last order of the line that begins with this id.
func (s Succession) Last(ctx context.Context, id string) (pipeline.Item, error) {
	it, err := s.Line.Last(ctx, id)
	if err != nil {
		return it, err
	}
	return s.after(ctx, it)
}

// after follows the successors of an order to the last one.
func (s Succession) after(ctx context.Context, it pipeline.Item) (pipeline.Item, error) {
	for {
		_, next, made, err := s.Find(ctx, it.Order)
		if err != nil || !made {
			return it, err
		}
		it = next
	}
}

// succeeds tells whether a request may follow an order: a line is of one set of
// names.
func succeeds(r order.Request, of order.Order) bool {
	return order.NamesHash(r.Names) == order.NamesHash(of.Request.Names)
}

// BuyAgain buys once more what an order bought: by a successor, which is returned.
// It is for orders that were paid: issued, failed, or held, which then end. An
// order of which nothing was bought is refused with the verb that helps. Where the
// successor exists, nothing is made; an order that a crash left held is ended then.
func (p *Operator) BuyAgain(ctx context.Context, id string) (next pipeline.Item, made bool, err error) {
	it, next, known, err := p.again(ctx, id)
	if err != nil || known && it.State != order.Held {
		return next, false, err
	}
	line := Succession{p.Line, p.Keys}
	next, made, err = line.Make(ctx, it.Order, func() order.Order { return p.successor(it.Order) })
	err = refusal(err)
	if err != nil || it.State != order.Held {
		return next, made, err
	}
	// A crash here leaves the successor, and the order held beside it: the verb,
	// repeated, ends it.
	gap.At(ctx, "buy-again: successor made")
	o := it.Order
	o.Failure = &order.Failure{Class: ClassSucceeded, Reason: "order " + next.ID() + " buys it again, said " + p.Who}
	return next, made, p.move(ctx, it, o, order.Collect, o.Failure.Reason)
}

// BuysAgain tells whether BuyAgain would buy: the successor that it would make is not
// there yet. The error is why BuyAgain is refused. Whoever asks for the word looks
// first.
func (p *Operator) BuysAgain(ctx context.Context, id string) (bool, error) {
	_, _, known, err := p.again(ctx, id)
	return !known && err == nil, err
}

// again looks at an order that is to be bought again, and at its successor where it is
// known. The error says why it cannot be.
func (p *Operator) again(ctx context.Context, id string) (it, next pipeline.Item, known bool, err error) {
	if it, err = p.Line.Last(ctx, id); err != nil {
		return it, next, false, err
	}
	line := Succession{p.Line, p.Keys}
	_, next, known, err = line.Find(ctx, it.Order)
	if err == nil && (!known || it.State == order.Held) {
		err = p.mayBuyAgain(ctx, it.Order)
	}
	if err == nil && !known {
		_, _, _, err = line.Free(ctx, it.Order)
	}
	return it, next, known, refusal(err)
}

// refusal says what a message would be refused for in the words of a verb.
func refusal(err error) error {
	if bad, is := errors.AsType[*order.Invalid](err); is {
		return refuse("%s", bad.Reason)
	}
	return err
}

// mayBuyAgain: another purchase is for what was paid.
func (p *Operator) mayBuyAgain(ctx context.Context, o order.Order) error {
	if o.State == order.Archived {
		return refuse("order %s was archived, and its request with it: hand that in with again: %s", o.ID(), o.ID())
	}
	if !o.Ended() && o.State != order.Held {
		return refuse("order %s is in state %s; only orders that ended, and held ones, are bought again", o.ID(), o.State)
	}
	e, err := p.entry(ctx, o)
	if err != nil {
		return err
	}
	if last, ok := e.Last(o.ID()); ok && last.Ending == ledger.Open {
		return refuse("an attempt of order %s is open: %s", o.ID(), endsOpen(o, last))
	}
	paid, err := p.paid(ctx, o, e)
	switch {
	case err == nil && usesUp(o.Request, o):
		return refuse("order %s names the resource %s, which it has used up, so that no other certificate comes from it: %s", o.ID(), o.CloudID, BuysWith(o))
	case err != nil || paid || o.State == order.Issued:
		return err
	case o.Hold != nil && o.Hold.Fact != "":
		return refuse("nothing was bought for order %s: certmill approve %s lets it go on", o.ID(), o.ID())
	case !resting(o.State):
		return refuse("nothing was bought for order %s, which is cleaning up: once it has failed, certmill retry %s buys it",
			o.ID(), o.ID())
	}
	if o.OnlyMended() {
		return refuse("nothing was bought for order %s, and no other purchase would be: %s", o.ID(), HandInMended)
	}
	return refuse("nothing was bought for order %s: certmill retry %s buys it", o.ID(), o.ID())
}

// usesUp tells whether a request names the resource that an order has started: it
// brings one certificate.
func usesUp(r order.Request, of order.Order) bool {
	return named(r) && r.Resource == of.CloudID
}

// BuysWith is the command that buys an order again.
func BuysWith(o order.Order) string {
	if usesUp(o.Request, o) {
		return fmt.Sprintf("certmill order <file>   (with \"again\": %q, and another resource, or \"any\" for an unused one of the account)", o.ID())
	}
	return "certmill buy-again " + o.ID() + "   (spends once more)"
}

// paid asks the books whether something was bought, or something bought was
// started, for an order.
func (p *Operator) paid(ctx context.Context, o order.Order, e ledger.Entry) (bool, error) {
	if slices.ContainsFunc(e.Claims, func(c ledger.Claim) bool { return c.Order == o.ID() }) {
		return true, nil
	}
	if t, _ := e.Take(o.ID()); t.Paid {
		return true, nil
	}
	if o.Resource == "" || o.CloudID == "" {
		return false, nil
	}
	h, err := p.Ledger.Owner(ctx, o.Main, o.Resource)
	return h.Order == o.ID(), err
}

// successor is the first record of what buys an order again: on the same account
// and in the same way.
func (p *Operator) successor(of order.Order) order.Order {
	now := time.Now().UTC().Truncate(time.Millisecond)
	o := order.Order{
		V: order.SchemaVersion, Request: of.Request, Hash: of.Hash, Publisher: of.Publisher, Urgent: of.Urgent, Received: now,
		State: order.Submit, Account: of.Account, Main: of.Main, Operation: of.Operation, Product: of.Product, Purchase: 1,
	}
	o.Tell(order.Event{At: now, State: order.Submit, Worker: p.Who, Note: "buys again what order " + of.ID() + " bought"})
	return o
}
