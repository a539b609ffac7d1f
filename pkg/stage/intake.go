package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Intake takes order messages: it validates, fixes the account, and makes the
// order's first transition.
type Intake struct {
	Accounts Accounts
	Ledger   *ledger.Ledger
	Line     *pipeline.Line
	Log      *slog.Logger
	// Sealer makes the intake put the sealed pair into the first record: one
	// transition less, and of thousands of orders that come at once the first is
	// bought the sooner. nil: the submitter's first visit makes it.
	Sealer Sealer
	// Keys know which ids orders had in an earlier life of the streams: see Succession.
	Keys KeyStore
	// Publishers may be bound to accounts.
	Publishers Publishers

	who string // whose orders it is for, where the accounts are only some: see For
}

// Accept turns one message into an order, or into a failed one that says what
// is wrong with the message. It may be called again for the same message. An id
// never runs twice, and an order has one successor, however often it is asked for.
func (in Intake) Accept(ctx context.Context, m pipeline.Message) error {
	r, err := order.ParseRequest(m.Data)
	if err != nil {
		return in.refuse(ctx, m, r.ID, err)
	}
	var of, known *order.Order // an order of a new line is looked for when it is made
	if r.Again != "" {
		of, known, err = standing(ctx, in.Line, r, m.Publisher)
	}
	var a *Account
	var way issuer.Route
	if err == nil && known == nil {
		a, way, err = in.For(m.Publisher).Place(ctx, r)
	}
	if err != nil || known != nil {
		return in.settled(ctx, m, r, known, err)
	}
	o := in.first(m, r, a, way)
	if in.Sealer != nil && needsKey(way.Flow, o) && !slow(r.Key) {
		if with, err := makeKey(way.Flow, in.Sealer, o); err == nil { // else the submitter says what is wrong
			o = with
		}
	}
	// A crash here leaves the message and no order: the pair was seen by nobody.
	return in.create(ctx, m, o, of)
}

// create makes the order's first transition, or finds that it was made.
func (in Intake) create(ctx context.Context, m pipeline.Message, o order.Order, of *order.Order) error {
	made, err := false, error(nil)
	if of != nil {
		o.Publisher = of.Publisher // a line stays its publisher's, also where an operator goes on with it
		_, made, err = Succession{in.Line, in.Keys}.Make(ctx, *of, func() order.Order { return o })
	} else if _, err = in.Line.Create(ctx, o); errors.Is(err, pipeline.ErrMoved) {
		err = nil
	} else {
		made = true
	}
	if made {
		return nil
	}
	if err != nil {
		return in.settled(ctx, m, o.Request, nil, err)
	}
	_, known, err := standing(ctx, in.Line, o.Request, m.Publisher)
	return in.settled(ctx, m, o.Request, known, err)
}

// settled: nothing is made. The message is that of an order that exists, whatever
// became of it, or it is refused on an id of its own; any other error means later:
// also a record that cannot be read, and an order that is gone meanwhile.
func (in Intake) settled(ctx context.Context, m pipeline.Message, r order.Request, known *order.Order, err error) error {
	if bad, ok := errors.AsType[*order.Invalid](err); ok {
		return in.refuse(ctx, m, r.ID, bad)
	}
	if err != nil {
		return err
	}
	if known == nil {
		return fmt.Errorf("order %q: %w", r.ID, pipeline.ErrNoOrder)
	}
	if r.ID = known.ID(); mends(r, *known, m.Publisher) {
		return in.mend(ctx, m, r)
	}
	in.Log.InfoContext(ctx, "order is known: nothing is bought for it", "order", known.ID(), "state", known.State)
	return nil
}

// mend lets an order go on that failed for what stands in it, before anything was
// bought, with what the message has in its place: no order is made, and no second
// purchase. A message that comes again finds it so.
func (in Intake) mend(ctx context.Context, m pipeline.Message, r order.Request) error {
	p := Operator{Ledger: in.Ledger, Line: in.Line, Accounts: in.Accounts, Who: "intake"}
	err := p.Mend(ctx, r, m.Publisher)
	if !errors.Is(err, ErrNotNow) && !errors.Is(err, pipeline.ErrMoved) {
		return err
	}
	now, lerr := in.Line.Last(ctx, r.ID)
	switch {
	case lerr != nil:
		return lerr
	case errors.Is(err, ErrNotNow) && mends(r, now.Order, m.Publisher): // what was mended is not what was wrong
		return in.refuse(ctx, m, r.ID, &order.Invalid{Reason: err.Error()})
	}
	return nil // somebody was quicker, maybe this message
}

// slow: to make such a key takes tenths of seconds, in which a hundred other
// orders could be taken in.
func slow(algorithm string) bool { return strings.HasPrefix(algorithm, "rsa") }

// Place fixes the account and the way of ordering there, or returns
// *order.Invalid. It changes nothing: a plan asks the same question before
// anything is handed in.
func (in Intake) Place(ctx context.Context, r order.Request) (*Account, issuer.Route, error) {
	invalid := func(err error) error { return &order.Invalid{Field: "account", Reason: err.Error()} }
	var a *Account
	err := in.may(r.Account)
	if err != nil {
		return nil, issuer.Route{}, err
	}
	if r.Account == order.AnyAccount {
		if a, err = in.Accounts.Choose(ctx, in.Ledger, r); err != nil {
			return nil, issuer.Route{}, err
		}
	} else if a, err = in.Accounts.Find(r.Account); err != nil {
		return nil, issuer.Route{}, invalid(err)
	}
	way, err := a.Route(r)
	if err != nil {
		return nil, issuer.Route{}, invalid(err)
	}
	return a, way, nil
}

// first is the order's first record. Where nobody knows yet of which main account
// the account is, it names none: no worker takes it until then (mended), and
// nobody waits behind it in the inbox.
func (in Intake) first(m pipeline.Message, r order.Request, a *Account, way issuer.Route) order.Order {
	op := way.Flow.Action()
	o := order.Order{
		V: order.SchemaVersion, Request: r, Hash: r.Hash(), Publisher: m.Publisher, Urgent: m.Urgent,
		Received: m.Stored.UTC(), State: order.Submit, Account: a.Label, Main: a.Main, Operation: op,
		Product: way.Product, Purchase: 1,
	}
	o.Tell(order.Event{At: time.Now().UTC().Truncate(time.Millisecond), State: order.Submit,
		Note: "taken for account " + a.Label + ", " + op})
	return o
}

// refuse stores the message as a failed order of its own, so that the id that
// it named stays free for the mended message.
func (in Intake) refuse(ctx context.Context, m pipeline.Message, id string, why error) error {
	reason := why.Error()
	if id != "" {
		reason = fmt.Sprintf("order %q: %s", id, reason)
	}
	o := order.Order{
		V: order.SchemaVersion, Request: order.Request{ID: in.Line.BadID(m.Seq)}, Publisher: m.Publisher,
		Received: m.Stored.UTC(), State: order.Failed, Original: original(m.Data),
		Failure: &order.Failure{Class: ClassInvalid, Reason: reason, Advice: "mend the message and publish it again"},
	}
	o.Tell(order.Event{At: time.Now().UTC().Truncate(time.Millisecond), State: order.Failed, Note: reason})
	in.Log.WarnContext(ctx, "order message refused", "order", o.ID(), "why", reason)
	_, err := in.Line.Create(ctx, o)
	if errors.Is(err, pipeline.ErrMoved) {
		return nil // stored by the delivery before a crash
	}
	return err
}

// original is what is kept of a refused message: all of it, unless somebody put
// a private key into it.
func original(data []byte) []byte {
	if order.HoldsSecret(string(data)) {
		return []byte("[not kept: it holds a private key]")
	}
	return data
}
