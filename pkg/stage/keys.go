package stage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// KeyStore is where sealed pairs and attempt numbers outlast a lost JetStream.
// All submitters share one.
type KeyStore interface {
	// Put stores a pair create-exclusive, fsynced, and reads it back. If this very
	// order has one already that asks for the same names it MUST be returned, with
	// won false.
	Put(ctx context.Context, r certstore.Ref, k order.Key) (stored order.Key, won bool, err error)
	// Number is the highest attempt that was raised under the order's id, for
	// whatever order; zero if none was.
	Number(r certstore.Ref) (certstore.Raised, error)
	// Numbers are the highest ones for the order's names, one for each main
	// account.
	Numbers(r certstore.Ref) ([]certstore.Raised, error)
	// Raise stores an attempt's number with what it is for, create-exclusive,
	// fsynced. It MUST return an error that wraps certstore.ErrExists if this or a
	// higher number is there, and one that wraps certstore.ErrNoPair if the pair of
	// its fingerprint is not.
	Raise(r certstore.Ref, to certstore.Raised) error
}

// ref is the order as the key store knows it.
func ref(o order.Order) certstore.Ref {
	return certstore.Ref{ID: o.ID(), Hash: o.Hash, Main: o.Main, Names: o.Request.Names}
}

// storeKey writes the pair into the key store. A pair of this very order that is
// there wins (from an earlier life of the streams, or a rival visit): a
// certificate may have been bought for it. ours tells that it is the record's.
func (s *Submitter) storeKey(ctx context.Context, o order.Order) (kept order.Order, ours bool, err error) {
	stored, won, err := s.Keys.Put(ctx, ref(o), *o.Key)
	if errors.Is(err, certstore.ErrOtherRecipients) && o.Attempt == 0 && o.Key.SealedTo != s.Sealer.ID() {
		o.Key = nil // nobody has seen it but who made it: another one is made
		return o, false, nil
	}
	if err != nil {
		return o, false, fmt.Errorf("store key: %w", err)
	}
	stored.Stored = true
	o.Key = &stored
	return o, won, nil
}

// number is what the order's attempt is raised with.
func (s *Submitter) number(o order.Order) certstore.Raised {
	return certstore.Raised{Attempt: o.Attempt, Purchase: o.Purchase, Resource: o.Resource, Main: o.Main,
		Caller: s.States.State(o.Main).Identities[o.Account].Caller, Fingerprint: fingerprint(o)}
}

// notRaised: nothing may be sent under the order's number.
func notRaised(o order.Order, err error) (order.Order, error) {
	switch {
	case errors.Is(err, certstore.ErrExists):
		return o, pipeline.Snooze(100 * time.Millisecond) // a rival visit: look again
	case errors.Is(err, certstore.ErrNoPair):
		// The store has lost it. The record has it: it is stored again.
		k := *o.Key
		k.Stored = false
		o.Key = &k
		o.Tell(order.Event{At: time.Now().UTC(), State: o.State, Note: "its key is not in the key store any more; it is stored again"})
		return o, nil
	}
	return o, fmt.Errorf("store attempt number: %w", err)
}

// lost looks for a number in the key store that the ledger does not know: a
// crash before the entry was opened, a worker that is about to open it, or a
// life before a restore. Its outcome is unknown, so an entry that nobody owns
// is opened for it, at the main account that it was raised at, and the order is
// reconciled there. The waiting time runs from that opening; the look back goes to
// the number's own time. highest is the highest number under the id.
func (s *Submitter) lost(ctx context.Context, o order.Order, e ledger.Entry, spends bool) (highest int, next order.Order, verb error, done bool) {
	top, err := s.Keys.Number(ref(o))
	if err != nil {
		return 0, o, fmt.Errorf("read attempt number: %w", err), true
	}
	numbers, err := s.Keys.Numbers(ref(o))
	if err != nil {
		return 0, o, fmt.Errorf("read attempt number: %w", err), true
	}
	for _, raised := range numbers {
		switch {
		case raised.GaveBack:
		case raised.Main != o.Main:
			next, verb, done = s.lostElsewhere(ctx, o, raised)
		default:
			next, verb, done = s.lostHere(ctx, o, e, raised, spends)
		}
		if done {
			return top.Attempt, next, verb, true
		}
	}
	return top.Attempt, o, nil, false
}

// lostHere decides about a number at the order's own account, whose entry was
// read. What a number says of a resource is for those who use one (start).
func (s *Submitter) lostHere(ctx context.Context, o order.Order, e ledger.Entry, raised certstore.Raised, spends bool) (order.Order, error, bool) {
	last, _ := e.Last(o.ID())
	uses := raised.Resource != ""
	switch {
	case raised.Attempt <= last.Attempt, uses && !spends:
		return o, nil, false
	case uses, !spends:
		return o, otherWay(o, raised), true
	}
	if err := s.ownerless(ctx, o, e, raised); err != nil {
		return o, err, true
	}
	o.Attempt, o.State = max(o.Attempt, raised.Attempt), order.Unsure
	return o, nil, true
}

// otherWay holds an order that an earlier life began in another way than the one
// that the config has for it now.
func otherWay(o order.Order, raised certstore.Raised) error {
	did := "bought, or tried to,"
	if raised.Resource != "" {
		did = "used " + raised.Resource
	}
	return pipeline.Hold(fmt.Sprintf("the key store says that attempt %d under this id %s for these names (%s), and the order would now go another way (%s): "+
		"adopt what came of it, or put the account's settings back as they were and retry",
		raised.Attempt, did, raised.At.Format(time.RFC3339), o.Operation), "certmill adopt "+o.ID()+" <cloud id>", "certmill retry "+o.ID())
}

// ownerless opens an entry that nobody owns for a number.
func (s *Submitter) ownerless(ctx context.Context, o order.Order, e ledger.Entry, raised certstore.Raised) error {
	fp := raised.Fingerprint
	if fp == "" {
		fp = fingerprint(o)
	}
	err := s.Ledger.BeginOwnerless(ctx, e, ledger.Attempt{Order: o.ID(), Purchase: raised.Purchase, Attempt: raised.Attempt,
		Action: o.Operation, Product: o.Product, Fingerprint: fp, Sought: raised.At})
	if errors.Is(err, ledger.ErrConflict) || errors.Is(err, ledger.ErrNotOpener) {
		return pipeline.Snooze(100 * time.Millisecond)
	}
	if err == nil {
		// A crash here leaves the entry open: follow finds it, and before an order
		// that stands elsewhere has moved, lostElsewhere does.
		gap.At(ctx, "submit: ownerless entry opened")
	}
	return err
}

// lostElsewhere decides about a number at another main account than the order's:
// of a life in which it stood there. Unless the ledger knows that nothing was
// bought under it, the order goes back there.
func (s *Submitter) lostElsewhere(ctx context.Context, o order.Order, raised certstore.Raised) (order.Order, error, bool) {
	e, err := s.Ledger.Read(ctx, raised.Main, o.Request.Names)
	if err != nil {
		return o, err, true
	}
	there, moveErr := s.moved(o, raised)
	last, _ := e.Last(o.ID())
	_, bought := e.Claim(o.ID(), o.Purchase)
	open, is := e.OpenAttempt()
	switch {
	case bought, raised.Resource != "", is && open.Order == o.ID():
	case raised.Attempt <= last.Attempt:
		return o, nil, false // it is known how it ended
	case moveErr != nil && is && o.Approves(order.FactElsewhere(raised.Main, open.Order, open.Attempt)):
		// That one was let pass; this one's own number was not.
	case is:
		return o, pipeline.Wait(order.Wait{For: order.WaitForNames, What: open.Order, Till: time.Now().UTC().Add(time.Second)}), true
	default:
		if err := s.ownerless(ctx, there, e, raised); err != nil {
			return o, err, true
		}
	}
	if moveErr != nil && o.Approves(order.FactElsewhere(raised.Main, o.ID(), raised.Attempt)) {
		return o, nil, false
	}
	if moveErr != nil {
		return o, moveErr, true
	}
	there.Tell(order.Event{At: time.Now().UTC(), State: order.Submit,
		Note: fmt.Sprintf("attempt %d of an earlier life was made at main account %s: it goes back there", raised.Attempt, raised.Main)})
	return there, nil, true
}

// moved is the order at the main account of a number, in submit: what the ledger
// knows there decides. Without such an account in the config a person must.
func (s *Submitter) moved(o order.Order, raised certstore.Raised) (order.Order, error) {
	for _, label := range s.Accounts.Labels() {
		a := s.Accounts[label]
		way, err := a.Route(o.Request)
		if a.Main != raised.Main || err != nil {
			continue
		}
		o.Account, o.Main, o.Operation, o.Product = a.Label, a.Main, way.Flow.Action(), way.Product
		// The key is made as it is wanted there; where that life has stored one, that
		// one wins.
		o.Attempt, o.Resource, o.Key = max(o.Attempt, raised.Attempt), "", nil
		if raised.Resource != "" {
			o.Attempt = 0 // the number says which it is: the order takes it up (chooseResource)
		}
		return o, nil
	}
	at := o
	at.Main = raised.Main
	return at, pipeline.HoldFor(order.FactElsewhere(raised.Main, o.ID(), raised.Attempt),
		fmt.Sprintf("the key store says that attempt %d of this order was made at main account %s (%s), and no account of the config "+
			"can say what came of it: put that account back into the config, then retry; or approve buys it at account %s all the same: "+
			"then it may be bought twice", raised.Attempt, raised.Main, raised.At.Format(time.RFC3339), o.Account),
		"certmill retry "+o.ID(), "certmill approve "+o.ID(), "certmill cancel "+o.ID())
}

// used is the number by which the order uses a resource for this purchase, the
// zero one if by none.
func (s *Submitter) used(o order.Order) (certstore.Raised, error) {
	raised, err := usedAt(s.Keys, o)
	if raised.Purchase != o.Purchase {
		return certstore.Raised{}, err
	}
	return raised, err
}

// usedAt is the number by which the order uses a resource at its account, the zero
// one if by none.
func usedAt(keys KeyStore, o order.Order) (certstore.Raised, error) {
	numbers, err := keys.Numbers(ref(o))
	for _, raised := range numbers {
		if raised.Main == o.Main && raised.Resource != "" {
			return raised, nil
		}
	}
	return certstore.Raised{}, err
}

// unknownNumber is a number of the order of which nobody knows what came, if there
// is one that no person let pass: the ledger of its main account does not know it,
// or it is open at another one than the order's.
func unknownNumber(ctx context.Context, keys KeyStore, l *ledger.Ledger, o order.Order) (raised certstore.Raised, is bool, err error) {
	numbers, err := keys.Numbers(ref(o))
	if err != nil {
		return certstore.Raised{}, false, err
	}
	for _, raised := range numbers {
		if o.Approves(order.FactElsewhere(raised.Main, o.ID(), raised.Attempt)) {
			continue
		}
		e, err := l.Read(ctx, raised.Main, o.Request.Names)
		if err != nil {
			return certstore.Raised{}, false, err
		}
		last, _ := e.Last(o.ID())
		open := raised.Main != o.Main && last.Ending == ledger.Open
		if (open || raised.Attempt > last.Attempt) && raised.Resource == "" && !raised.GaveBack {
			return raised, true, nil
		}
	}
	return certstore.Raised{}, false, nil
}
