package stage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// passes tells what is in the way of an order's names and no person let pass
// (DESIGN 12.2); Free if nothing is. duplicates lets sets pass that are in
// service. The entry that it returns is the one to go on with.
func passes(o order.Order, e ledger.Entry, duplicates bool, now time.Time) (ledger.Entry, ledger.Standing) {
	for _, st := range e.InTheWay(o.ID(), o.Predecessor, now) {
		switch {
		case st.Is == ledger.InService && duplicates, o.Approves(fact(st)):
			continue
		case st.Open && st.Main != o.Main && o.Approves(order.FactElsewhere(st.Main, st.Order, st.Attempt)):
			return passes(o, e.Without(st.Main, st.Order), duplicates, now)
		}
		return e, st
	}
	return e, ledger.Standing{Is: ledger.Free}
}

// fact is what an approval of a standing answers; nobody can approve of names that
// are taken.
func fact(st ledger.Standing) string {
	switch st.Is {
	case ledger.InService:
		return order.FactInService(st.Order, st.Till)
	case ledger.PaidAndFailed:
		return order.FactPaidAndFailed(st.Order)
	}
	return ""
}

// names lets an order go on that may have its names, whatever its way of ordering:
// before it takes a number, a resource or a budget. Else the error parks it.
func (s *Submitter) names(flow issuer.Flow, o order.Order, e ledger.Entry) (ledger.Entry, error) {
	e, st := passes(o, e, s.Duplicates, time.Now())
	switch st.Is {
	case ledger.Taken:
		return e, waitForNames(st)
	case ledger.InService:
		return e, holdFor(o, st, fmt.Sprintf("order %s%s has a certificate for these names in service until %s",
			st.Order, at(o, st), st.Till.UTC().Format(time.DateTime+" UTC")), cost(flow, o))
	case ledger.PaidAndFailed:
		return e, holdFor(o, st, fmt.Sprintf("order %s%s for these names was paid and ended without a certificate (certmill show %s): what failed once may fail again",
			st.Order, at(o, st), st.Order), cost(flow, o))
	}
	return e, nil
}

// heldWithNothing gives back what an order has for nothing, before it is held: names
// that it took for an attempt which came to nothing, or in an earlier life, and a
// resource for which it called nothing. While a person thinks, nobody waits for it
// (DESIGN 12.2). What was bought for it, or may have been, it keeps, and the names
// with it.
func heldWithNothing(ctx context.Context, l *ledger.Ledger, states *account.Accounts, o order.Order, verb error) (order.Order, error) {
	if !pipeline.Holds(verb) || o.Resource != "" && o.Attempt > 0 || o.Main == "" {
		return o, verb
	}
	if o.Resource != "" {
		// First of all, so that a worker that slept claims nothing behind this.
		if err := l.Ending(ctx, o.Main, o.Request.Names, o.ID(), o.Taken); err != nil {
			return o, err
		}
		// A crash here leaves names that nobody else may take: the next visit goes on
		// here, or decides on them anew.
		released, err := l.Release(ctx, o.Main, o.Resource, o.ID(), time.Time{}, 0)
		if errors.Is(err, ledger.ErrTooEarly) {
			return o, verb // a call may still start it: only a look gives it back
		}
		if err != nil {
			return o, err
		}
		if released {
			// A crash here leaves a use counted that was none.
			uncount(ctx, states, &o)
		}
		// A crash here leaves a record that says it is counted still: it decides anew, and
		// is counted anew.
		gap.At(ctx, "held: given back")
		o.Counted = nil
		o.Resource = "" // by the time it goes on it may be somebody else's
	}
	// A crash here leaves names that nobody uses, as above.
	if err := l.Leave(ctx, o.Main, o.Request.Names, o.ID(), o.Taken); err != nil {
		return o, err
	}
	// A crash here leaves an order without names, which the next visit holds.
	return o, verb
}

// waitForNames parks an order until another one has ended, or is issued; or, where
// nobody knows whether that one was bought, until somebody does.
func waitForNames(st ledger.Standing) error {
	return pipeline.Wait(order.Wait{For: order.WaitForNames, What: st.Order, Open: st.Open, Till: time.Now().UTC().Add(time.Second)})
}

func holdFor(o order.Order, st ledger.Standing, why, cost string) error {
	return pipeline.HoldFor(fact(st), why+"; nothing was bought for this one. approve takes "+cost,
		"certmill approve "+o.ID(), "certmill cancel "+o.ID())
}

// at names another main account than the order's own.
func at(o order.Order, st ledger.Standing) string {
	if st.Main == o.Main {
		return ""
	}
	return " (main account " + st.Main + ")"
}

// cost is what an order takes when it goes on.
func cost(flow issuer.Flow, o order.Order) string {
	switch {
	case flow.Spends() && o.Product != "":
		return "one more of the quota of " + o.Product
	case flow.Spends():
		return "one more of the quota"
	case named(o.Request):
		return "the resource " + o.Request.Resource
	}
	return "one more unused resource of the account"
}

// differs compares what the cloud shows of a resource with what is this order's:
// the names, and the CSR where both are there. What is not shown cannot be
// compared. The sentence names both.
func differs(o order.Order, names []string, csr string) (why string, differ bool) {
	if len(names) > 0 && !order.Shows(names, o.Request.Names) {
		return fmt.Sprintf("it is for %s, and this order for %s", strings.Join(names, " "), strings.Join(o.Request.Names, " ")), true
	}
	if csr == "" || o.Key == nil || o.Key.CSR == "" {
		return "", false
	}
	if key, err := certstore.FingerprintOfCSR(csr); err == nil && key != o.Key.Fingerprint {
		return fmt.Sprintf("its CSR is for key %.16s…, and this order's for %.16s…", key, o.Key.Fingerprint), true
	}
	return "", false
}
