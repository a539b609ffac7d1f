package stage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Older finds out whether the streams are an older copy of themselves: what was
// bought since it was taken, they do not know, but the key store does (DESIGN 12.8).
type Older struct {
	Line   *pipeline.Line
	Ledger *ledger.Ledger
	Keys   NumberStore
	Now    func() time.Time
}

// NumberStore is a key store that can be read without its orders.
type NumberStore interface {
	// IDs lists the orders that have something here.
	IDs() ([]string, error)
	// RaisedSince are the numbers that were raised under an id from then on, the
	// highest at each main account.
	RaisedSince(id string, since time.Time) ([]certstore.Raised, error)
}

// Forgotten is a number that was raised in this life of the streams, which they do
// not know.
type Forgotten struct {
	ID string
	certstore.Raised
}

func (f Forgotten) String() string {
	return fmt.Sprintf("attempt %d of order %s (%s) at main account %s, of %s",
		f.Attempt, f.ID, strings.Join(f.Names, " "), f.Main, f.At.UTC().Format(time.DateTime+" UTC"))
}

// Find returns the numbers of this life which neither the ledger knows nor the order's
// record. Who raises one has stored it in the record before, and his entry, or his
// claim, comes behind it or before: so a crash, or a call that is being made, leaves
// none, whatever it interrupts and however many work. The key store is read first. An
// older copy of the key store only has fewer. What another build wrote counts as known,
// and so does what was raised by a clock that is ahead of this one: it would be of this
// life in every further one, too, until the clocks meet.
func (f Older) Find(ctx context.Context) ([]Forgotten, error) {
	ids, err := f.Keys.IDs()
	if err != nil {
		return nil, err
	}
	open := map[string]map[string]certstore.Raised{} // by main account and id
	for _, id := range ids {
		numbers, err := f.Keys.RaisedSince(id, f.Line.Since())
		if err != nil {
			return nil, err
		}
		for _, n := range numbers {
			if open[n.Main] == nil {
				open[n.Main] = map[string]certstore.Raised{}
			}
			ahead := n.At.After(f.Now())
			if !n.GaveBack && !ahead { // nothing is bought or used under what gave back
				open[n.Main][id] = n
			}
		}
	}
	var all []Forgotten
	for main, numbers := range open {
		if err := f.known(ctx, main, numbers); err != nil {
			return nil, err
		}
		for id, n := range numbers {
			recorded, err := f.recorded(ctx, id, n)
			if err != nil {
				return nil, err
			}
			if !recorded {
				all = append(all, Forgotten{id, n})
			}
		}
	}
	return all, nil
}

// known takes out the numbers that the ledger of a main account knows.
func (f Older) known(ctx context.Context, main string, numbers map[string]certstore.Raised) error {
	unread, err := f.Ledger.Each(ctx, main, func(e ledger.Entry) error {
		for _, a := range e.Attempts {
			if n, is := numbers[a.Order]; is && n.Resource == "" && a.Attempt >= n.Attempt {
				delete(numbers, a.Order)
			}
		}
		for _, t := range e.Takes {
			if n, is := numbers[t.Order]; is && n.Resource != "" && t.Resource == n.Resource {
				delete(numbers, t.Order)
			}
		}
		return nil
	})
	for _, u := range unread {
		for id, n := range numbers {
			if u.Of(main, n.Names) {
				delete(numbers, id)
			}
		}
	}
	return err
}

// recorded tells whether the order's record knows the number: its next visit finds
// out what came of it (lost).
func (f Older) recorded(ctx context.Context, id string, n certstore.Raised) (bool, error) {
	it, err := f.Line.Last(ctx, id)
	switch {
	case errors.Is(err, pipeline.ErrNoOrder):
		return false, nil
	case errors.Is(err, pipeline.ErrUnreadable):
		return true, nil
	case err != nil:
		return false, err
	}
	return it.Attempt >= n.Attempt && it.State != order.Archived, nil
}
