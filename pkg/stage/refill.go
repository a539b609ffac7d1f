package stage

import (
	"context"
	"errors"
	"fmt"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Refill gives a key store back what the orders' records and the ledger know: after
// a restore from an older copy, or where an empty one took a lost one's place.
type Refill struct {
	Line   *pipeline.Line
	Ledger *ledger.Ledger
	Keys   RefillStore
}

// RefillStore is a key store that may lack something.
type RefillStore interface {
	KeyStore
	// IDs lists the orders that have something here.
	IDs() ([]string, error)
}

// restorer is a key store that replaces a damaged pair, and keeps what was there.
type restorer interface {
	Restore(ctx context.Context, r certstore.Ref, k order.Key) (done bool, err error)
}

// Refilled says what was missing.
type Refilled struct {
	Pairs   int      `json:"pairs"`   // that were stored again
	Numbers int      `json:"numbers"` // of attempts
	Left    []string `json:"left"`    // what could not be: order and why
}

// Sweep looks at every order that the store should know, and stores again what it
// lacks. An order that has a number there has all: the pair is stored first. Safe
// to repeat, and while others work.
func (f Refill) Sweep(ctx context.Context) (Refilled, error) {
	ids, err := f.Keys.IDs()
	if err != nil {
		return Refilled{}, err
	}
	there := make(map[string]bool, len(ids))
	for _, id := range ids {
		there[id] = true
	}
	all := Refilled{Left: []string{}}
	err = f.Line.EachOrder(ctx, func(it pipeline.Item) error {
		if it.State == order.Archived || it.Account == "" {
			return nil
		}
		if there[it.ID()] {
			if n, err := f.Keys.Number(ref(it.Order)); err != nil || n.Attempt > 0 {
				return err
			}
		}
		return f.one(ctx, it.Order, &all)
	})
	return all, err
}

// one stores what the store lacks of an order. What is wrong with this order alone
// is told.
func (f Refill) one(ctx context.Context, o order.Order, all *Refilled) error {
	if o.Key != nil && o.Key.Stored {
		_, won, err := f.Keys.Put(ctx, ref(o), *o.Key)
		if errors.Is(err, certstore.ErrGone) || ctx.Err() != nil {
			return err
		}
		if again, is := f.Keys.(restorer); is && errors.Is(err, certstore.ErrDamaged) {
			won, err = again.Restore(ctx, ref(o), *o.Key)
			if err == nil && !won {
				err = fmt.Errorf("restore key of %s: %w", o.ID(), certstore.ErrDamaged)
			}
		}
		if err != nil {
			all.Left = append(all.Left, err.Error())
			return nil
		}
		if won {
			all.Pairs++
		}
		// A crash here leaves a pair without its number: the next sweep finds it so.
		gap.At(ctx, "refill: pair stored")
	}
	raised, err := f.number(ctx, o)
	if err != nil || raised.Attempt == 0 {
		return err
	}
	err = f.Keys.Raise(ref(o), raised)
	switch {
	case err == nil && o.State == order.Submit && raised.Resource != "":
		// The record only plans it, maybe: it stands there before it is stored, so
		// that nobody can say it was lost.
	case err == nil:
		all.Numbers++
	case errors.Is(err, certstore.ErrExists): // a worker was quicker
	case errors.Is(err, certstore.ErrNoPair), errors.Is(err, certstore.ErrOtherRecipients):
		all.Left = append(all.Left, err.Error())
	default:
		return err
	}
	return nil
}

// number is the highest attempt of the order that is surely known: the ledger's, or
// that of a resource in use. One that only the record has is none yet.
func (f Refill) number(ctx context.Context, o order.Order) (certstore.Raised, error) {
	raised := certstore.Raised{Purchase: o.Purchase, Main: o.Main, Fingerprint: fingerprint(o)}
	if o.Resource != "" {
		raised.Attempt, raised.Resource = o.Attempt, o.Resource
		return raised, nil
	}
	e, err := f.Ledger.Read(ctx, o.Main, o.Request.Names)
	if errors.Is(err, order.ErrNewer) {
		return certstore.Raised{}, nil
	}
	if err != nil {
		return certstore.Raised{}, fmt.Errorf("refill key store: %w", err)
	}
	last, _ := e.Last(o.ID())
	raised.Attempt = last.Attempt
	if last.Purchase > 0 {
		raised.Purchase = last.Purchase
	}
	return raised, nil
}
