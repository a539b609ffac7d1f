package stage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Reseal seals every private key of an installation to other recipients: those of
// the key store first, then its pairs, then the orders' records. A submitter whose
// recipients are others does not start, and what one that was not stopped has sealed
// meanwhile is found by the next pass.
type Reseal struct {
	Line *pipeline.Line
	Keys *certstore.KeyStore
	By   certstore.Identities // open what is there
	To   certstore.Recipients
	Who  string // stands in the records
}

// Resealed says what was done.
type Resealed struct {
	Pairs   int      `json:"pairs"`   // of the key store
	Records int      `json:"records"` // of orders
	Passes  int      `json:"passes"`
	Left    []string `json:"left"` // keys that these identities do not open
}

// mostPasses bounds how long it runs after those who go on sealing as before.
const mostPasses = 20

// Run goes on until a pass finds nothing to do. Safe to repeat: whatever it had done
// stays done.
func (r Reseal) Run(ctx context.Context) (Resealed, error) {
	all := Resealed{Left: []string{}}
	if err := r.Keys.ChangeRecipients(r.To); err != nil {
		return all, err
	}
	// A crash here leaves recipients that most of the store's keys are not sealed
	// to. No number is raised for those (Raise); the next run seals them.
	gap.At(ctx, "reseal: recipients changed")
	for all.Passes = 1; all.Passes <= mostPasses; all.Passes++ {
		done, err := r.pass(ctx, &all)
		if err != nil || done == 0 {
			return all, err
		}
	}
	return all, fmt.Errorf("after %d passes there are still keys that are sealed to others: stop all submitters, and again: certmill reseal", mostPasses)
}

func (r Reseal) pass(ctx context.Context, all *Resealed) (done int, err error) {
	all.Left = all.Left[:0]
	pairs, err := r.Keys.Reseal(ctx, r.By, r.To, func(of certstore.Ref, err error) {
		all.Left = append(all.Left, fmt.Sprintf("the key store's key of order %s: %v", of.ID, err))
	})
	all.Pairs += pairs
	if err != nil {
		return pairs, err
	}
	// A crash here leaves records with the old seals. Their orders go on: of two
	// seals of one key the store's is taken (Put).
	gap.At(ctx, "reseal: pairs sealed")
	records, err := r.records(ctx, all)
	all.Records += records
	return pairs + records, err
}

// records rewrites the orders where they are.
func (r Reseal) records(ctx context.Context, all *Resealed) (done int, err error) {
	err = r.Line.EachOrder(ctx, func(it pipeline.Item) error {
		if it.Key == nil || len(it.Key.Sealed) == 0 || it.Key.SealedTo == r.To.ID() {
			return nil
		}
		k, err := r.sealed(it.Order)
		if err != nil {
			all.Left = append(all.Left, fmt.Sprintf("the key in the record of order %s (%s): %v", it.ID(), it.State, err))
			return nil
		}
		o := it.Order
		o.Key = &k
		o.Tell(order.Event{At: time.Now().UTC().Truncate(time.Millisecond), State: o.State, Worker: r.Who, Note: "its key was sealed anew"})
		done++
		err = r.Line.Rewrite(ctx, it, o)
		if errors.Is(err, pipeline.ErrMoved) {
			return nil // the next pass finds it where it went
		}
		return err
	})
	return done, err
}

// sealed is the record's key with the seal of the key store, if that is the same key,
// or a new one.
func (r Reseal) sealed(o order.Order) (order.Key, error) {
	is, err := r.Keys.Get(ref(o))
	if err == nil && is.Fingerprint == o.Key.Fingerprint && is.SealedTo == r.To.ID() {
		is.Stored = o.Key.Stored
		return is, nil
	}
	return certstore.Reopen(*o.Key, r.By, r.To)
}
