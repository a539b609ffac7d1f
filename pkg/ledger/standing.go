package ledger

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/order"
)

// Standing is how a set of names stands before an order for it begins, over all
// main accounts.
type Standing struct {
	Is    Stands
	Main  string    // of the entry that says so
	Order string    // that has the names, or had them
	Since time.Time // Taken: since when; of an open attempt, when it was opened
	// Open: an attempt of Order, this one, is open: nobody knows whether it was
	// bought.
	Open    bool
	Attempt int
	Till    time.Time // InService: the certificate's end
}

// Stands is one of four answers.
type Stands string

const (
	Free          Stands = "free"
	Taken         Stands = "taken"           // another order for them is under way
	InService     Stands = "in service"      // a certificate for them is, and is not due
	PaidAndFailed Stands = "paid and failed" // the last order for them was paid and ended without a certificate
)

// Standing tells how the names stand for an order (DESIGN 12.2): the first of
// what is in its way, or Free.
func (e Entry) Standing(id, predecessor string, now time.Time) Standing {
	for _, s := range e.InTheWay(id, predecessor, now) {
		return s
	}
	return Standing{Is: Free}
}

// InTheWay is all that is in an order's way. What the order itself has of the
// names is not; nor is its predecessor's end, and what that one had passed: a
// successor exists to follow it. While the predecessor is under way, it is.
//
// Each is another fact, for a person to let pass by itself: that the last order
// was paid and failed says nothing of a certificate that is still in service.
func (e Entry) InTheWay(id, predecessor string, now time.Time) []Standing {
	if by, is := e.blockedBy(id); is {
		return []Standing{by}
	}
	var ways []Standing
	last, issued := e.ended(id, predecessor)
	if last.Order != "" && last.End != TakeIssued {
		ways = append(ways, Standing{Is: PaidAndFailed, Main: last.main, Order: last.Order, Since: last.Since})
	}
	if issued.Order != "" && !order.Due(issued.NotBefore, issued.NotAfter, now) {
		ways = append(ways, Standing{Is: InService, Main: issued.main, Order: issued.Order, Since: issued.Since, Till: issued.NotAfter})
	}
	return ways
}

// takeAt is a take with its main account.
type takeAt struct {
	Take
	main string
}

// ended are the last take that ended with something paid, and the last that was
// issued: after an order's predecessor, if it has one.
func (e Entry) ended(id, predecessor string) (last, issued takeAt) {
	var all []takeAt
	var after time.Time
	for _, at := range e.all() {
		for _, t := range at.Takes {
			switch {
			case t.Order == predecessor && predecessor != "":
				after = later(after, t.Since)
			case t.Order != id && (t.End == TakeIssued || t.Paid):
				all = append(all, takeAt{t, at.Main})
			}
		}
	}
	for _, t := range all {
		if !t.At.After(after) {
			continue
		}
		if t.At.After(last.At) {
			last = t
		}
		if t.End == TakeIssued && t.At.After(issued.At) {
			issued = t
		}
	}
	return last, issued
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// all are the entries of the names at all main accounts, this one first.
func (e Entry) all() []Entry { return append([]Entry{e}, e.others...) }

// Without returns the entry without what an order has at another main account:
// a person let that pass. Writes stay conditional on it.
func (e Entry) Without(main, order string) Entry {
	e.others = slices.Clone(e.others)
	for i, at := range e.others {
		if at.Main == main {
			at.Attempts = slices.DeleteFunc(slices.Clone(at.Attempts), func(a Attempt) bool { return a.Order == order })
			at.Takes = slices.DeleteFunc(slices.Clone(at.Takes), func(t Take) bool { return t.Order == order })
			e.others[i] = at
		}
	}
	return e
}

// blockedBy tells which other order has the names at this moment: one attempt of
// it is open, or it is under way. Of several the first one counts.
func (e Entry) blockedBy(id string) (by Standing, is bool) {
	for _, at := range e.all() {
		for _, a := range at.Attempts {
			if a.Ending == Open && a.Order != id {
				return Standing{Is: Taken, Main: at.Main, Order: a.Order, Since: a.Opened, Open: true, Attempt: a.Attempt}, true
			}
		}
	}
	own := e.underWay(id)
	for _, at := range e.all() {
		for _, t := range at.Takes {
			if t.End == "" && t.Order != id && !at.yields(t, own) && (!is || t.Since.Before(by.Since)) {
				by, is = Standing{Is: Taken, Main: at.Main, Order: t.Order, Since: t.Since}, true
			}
		}
	}
	return by, is
}

// underWay is an order's own take, if it has not ended.
func (e Entry) underWay(id string) Take {
	for _, at := range e.all() {
		if t, ok := at.Take(id); ok && t.End == "" {
			return t
		}
	}
	return Take{}
}

// yields tells whether a take waits for another order's. There are two at a time
// only where one was opened without asking, because what may have been bought
// comes first (BeginOwnerless, Assign). Once it is known that nothing was, the
// older goes on: else the two would wait for each other.
func (e Entry) yields(t, to Take) bool {
	paid := t.Resource != "" || slices.ContainsFunc(e.Claims, func(c Claim) bool { return c.Order == t.Order })
	if to.Order == "" || paid {
		return false
	}
	return to.Since.Before(t.Since) || to.Since.Equal(t.Since) && to.Order < t.Order
}

// NotFree is the error of an order that would take names which another has.
type NotFree struct{ Standing }

func (e *NotFree) Error() string {
	return fmt.Sprintf("order %q (main account %s) has the same names", e.Order, e.Main)
}

// Unwrap: to a caller that only wants to know whether it may go on, it is
// somebody else's.
func (e *NotFree) Unwrap() error { return ErrTaken }

// ErrOpen is for an end that is said while nobody knows it.
var ErrOpen = errors.New("an attempt of it is open")
