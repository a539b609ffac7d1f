// Package ledger is what was spent: for every set of names of a main account
// all cloud ids ever bought and how each order's last attempt ended, and for
// everything already bought which order uses it.
//
// The clouds have no idempotency key, so an entry is stored before every
// spending call. Every write is conditional on what was read, and nothing is
// ever forgotten here: the stream has no limits.
package ledger

import (
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/record"
)

// Ending is how an attempt ended.
type Ending string

const (
	Open      Ending = "open"       // may have landed, or may still
	Bought    Ending = "bought"     // the cloud has the order: see the claim
	Refused   Ending = "refused"    // a clear no
	NeverSent Ending = "never sent" // nothing reached the cloud's business
	NotBought Ending = "not bought" // reconciled: it never landed
	Cancelled Ending = "cancelled"  // given up before it was sent
)

// Attempt is the last attempt of one order for these names.
type Attempt struct {
	Order       string    `json:"order" record:"key"`
	Purchase    int       `json:"purchase"`
	Attempt     int       `json:"attempt" record:"key"`
	Ending      Ending    `json:"ending"`
	Action      string    `json:"action,omitempty"`
	Product     string    `json:"product,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"` // of the key the CSR carries
	Caller      string    `json:"caller,omitempty"`      // whose credentials, as the cloud says; empty: it does not tell
	Token       string    `json:"token,omitempty"`       // of this opening; only who reads it back may send
	Opened      time.Time `json:"opened,omitzero"`       // the server's clock; zero in the message that opens
	Sought      time.Time `json:"sought,omitzero"`       // rows since then are looked at; zero: since Opened
	Used        *Used     `json:"used,omitempty"`        // quota before
	Provisional string    `json:"provisional,omitempty"` // cloud id adopted without proof
	Adopted     time.Time `json:"adopted,omitzero"`      // when, on the server's clock; zero in the message that adopts
	Foreign     []string  `json:"foreign,omitempty"`     // cloud ids that have another key than this order
	Note        string    `json:"note,omitempty"`        // why it was refused, cancelled or not bought
}

// Used is a reading of a product's quota: how much of it was used up.
type Used struct {
	Count int64     `json:"count"`
	Read  time.Time `json:"read"`
}

// Since is from when on rows of the cloud's list may be this attempt's.
func (a Attempt) Since() time.Time {
	if !a.Sought.IsZero() && a.Sought.Before(a.Opened) {
		return a.Sought
	}
	return a.Opened
}

// Claim is a cloud order and the purchase that it is the outcome of.
type Claim struct {
	CloudID  string    `json:"cloud_id" record:"key"`
	Order    string    `json:"order"`
	Purchase int       `json:"purchase"`
	Attempt  int       `json:"attempt"`
	At       time.Time `json:"at,omitzero"`       // the server's clock; zero in the message that claims
	How      string    `json:"how,omitempty"`     // answered, adopted, by hand
	Product  string    `json:"product,omitempty"` // one of its quota was used
	Intent   time.Time `json:"intent,omitzero"`   // since when it may have been bought; zero: by hand, without an attempt
}

// Unclaimed is a cloud order for these names that no claim explains.
type Unclaimed struct {
	CloudID string    `json:"cloud_id" record:"key"`
	Shown   []string  `json:"shown,omitempty"` // the names that the cloud shows, if they are more
	Status  string    `json:"status"`
	Product string    `json:"product,omitempty"` // one of its quota is what it costs
	Created time.Time `json:"created,omitzero"`
	Seen    time.Time `json:"seen"`
}

// Take is what an order has of a set of names, whatever way it is ordered: they
// are taken from the opening of the entry until the order is issued, then in
// service until the certificate's end; or until it ended without one.
type Take struct {
	Order    string    `json:"order" record:"key"`
	Since    time.Time `json:"since"`
	Resource string    `json:"resource,omitempty"` // what it was taken for, of what is already bought
	// Decided is when the order's record decided on it, with the resource: what an
	// older record would do is a worker's that slept.
	Decided time.Time `json:"decided,omitzero"`
	// Ending: the order's end is decided, and is being cleaned up. Nothing is
	// claimed or called for it any more.
	Ending bool      `json:"ending,omitempty"`
	End    TakeEnd   `json:"end,omitempty"` // empty: it is under way
	At     time.Time `json:"at,omitzero"`   // when it ended
	// Paid: something was bought or started for it, although no certificate came.
	Paid      bool      `json:"paid,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"` // of the certificate in service
	NotAfter  time.Time `json:"not_after,omitzero"`
}

// TakeEnd is how an order ended that had taken names.
type TakeEnd string

const (
	TakeIssued TakeEnd = "issued" // its certificate is in service
	TakeOver   TakeEnd = "over"   // without a certificate
)

// version of the entries, claims and placements that this program writes. It
// leaves higher ones alone.
const version = 1

// Entry is what the ledger knows of one set of names. Values are never changed
// in place: the methods return a new one.
type Entry struct {
	V         int         `json:"v,omitempty"`
	Main      string      `json:"main"`
	Names     []string    `json:"names"`
	Attempts  []Attempt   `json:"attempts,omitempty"` // one per order
	Claims    []Claim     `json:"claims,omitempty"`
	Unclaimed []Unclaimed `json:"unclaimed,omitempty"`
	Takes     []Take      `json:"takes,omitempty"` // one per order

	others []Entry     // of the same names at other main accounts
	seq    uint64      // the greatest of all entries of these names that were read; 0: none is stored
	rest   record.Rest // what another build wrote and this one does not know
}

// Elsewhere are the entries of the same names at other main accounts, as they were
// read with this one.
func (e Entry) Elsewhere() []Entry { return e.others }

// Known tells whether anything is known of the names at this main account.
func (e Entry) Known() bool {
	return len(e.Attempts)+len(e.Claims)+len(e.Unclaimed)+len(e.Takes) > 0
}

// Last returns the last attempt of an order, and whether there was one.
func (e Entry) Last(order string) (Attempt, bool) {
	for _, a := range e.Attempts {
		if a.Order == order {
			return a, true
		}
	}
	return Attempt{}, false
}

// OpenAttempt returns the open attempt, of whatever order.
func (e Entry) OpenAttempt() (Attempt, bool) {
	for _, a := range e.Attempts {
		if a.Ending == Open {
			return a, true
		}
	}
	return Attempt{}, false
}

// Claim returns the outcome of an order's purchase, whatever the attempt. Of
// several, which only an operator's word makes, the last one is in force.
func (e Entry) Claim(order string, purchase int) (Claim, bool) {
	for _, c := range slices.Backward(e.Claims) {
		if c.Order == order && c.Purchase == purchase {
			return c, true
		}
	}
	return Claim{}, false
}

// Claimed returns who claimed a cloud id.
func (e Entry) Claimed(cloudID string) (Claim, bool) {
	for _, c := range e.Claims {
		if c.CloudID == cloudID {
			return c, true
		}
	}
	return Claim{}, false
}

// Take returns what an order has of the names, at this main account.
func (e Entry) Take(order string) (Take, bool) {
	for _, t := range e.Takes {
		if t.Order == order {
			return t, true
		}
	}
	return Take{}, false
}

// withTake returns the entry with this take in place of the order's last one.
func (e Entry) withTake(t Take) Entry {
	e.Takes = slices.Clone(e.Takes)
	for i := range e.Takes {
		if e.Takes[i].Order == t.Order {
			e.Takes[i] = t
			return e
		}
	}
	e.Takes = append(e.Takes, t)
	return e
}

// taken returns the entry with the names taken by an order, from now on or
// since it took them.
func (e Entry) taken(order string, now time.Time) Entry {
	t, ok := e.Take(order)
	if !ok || t.End != "" {
		t = Take{Order: order, Since: moment(now), Resource: t.Resource, Decided: t.Decided}
	}
	t.Ending = false
	return e.withTake(t)
}

// moment is a time as entries keep it.
func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// Decided tells whether a decision of an order's record is in force, or would be:
// no later one was, and the order did not end since.
func (e Entry) Decided(order string, at time.Time) bool {
	t, ok := e.Take(order)
	return !at.IsZero() && (!ok || at.After(t.Decided) || at.Equal(t.Decided) && t.End == "" && !t.Ending)
}

// Decision is the moment of a further decision: now, but after every earlier one.
func (e Entry) Decision(order string, now time.Time) time.Time {
	t, _ := e.Take(order)
	return later(moment(now), t.Decided.Add(time.Millisecond))
}

// Free tells whether a cloud id may be a candidate for this order: nobody
// claims it, no other order has it provisionally, and it is not known to have
// another key.
func (e Entry) Free(cloudID, order string) bool {
	if _, taken := e.Claimed(cloudID); taken {
		return false
	}
	for _, a := range e.Attempts {
		if a.Order != order && a.Provisional == cloudID {
			return false
		}
		if a.Order == order && slices.Contains(a.Foreign, cloudID) {
			return false
		}
	}
	return true
}

// Used tells whether an order for these names has had a resource.
func (e Entry) Used(resource string) bool {
	return slices.ContainsFunc(e.Takes, func(t Take) bool { return t.Resource == resource })
}

// uses tells whether an order for these names has a resource now, or was issued with
// it.
func (e Entry) uses(resource string) bool {
	return slices.ContainsFunc(e.Takes, func(t Take) bool { return t.Resource == resource && t.End != TakeOver })
}

// Loose are the rows of cloud orders that nobody claims and no order uses: those that
// stop a purchase. One that an order used and gave back is loose again.
func (e Entry) Loose() []Unclaimed {
	return slices.DeleteFunc(slices.Clone(e.Unclaimed), func(u Unclaimed) bool { return e.uses(u.CloudID) })
}

// Explained returns the entry without the unclaimed row of a resource whose order
// is known. Empty: none is.
func (e Entry) Explained(resource string) Entry {
	e.Unclaimed = slices.DeleteFunc(slices.Clone(e.Unclaimed), func(u Unclaimed) bool { return resource != "" && u.CloudID == resource })
	return e
}

// with returns the entry with this attempt in place of the order's last one.
func (e Entry) with(a Attempt) Entry {
	e.Attempts = slices.Clone(e.Attempts)
	for i := range e.Attempts {
		if e.Attempts[i].Order == a.Order {
			e.Attempts[i] = a
			return e
		}
	}
	e.Attempts = append(e.Attempts, a)
	return e
}

// withClaim returns the entry with the claim, and without the unclaimed row of
// the same id.
func (e Entry) withClaim(c Claim) Entry {
	if _, known := e.Claimed(c.CloudID); !known {
		e.Claims = append(slices.Clone(e.Claims), c)
	}
	e.Unclaimed = slices.DeleteFunc(slices.Clone(e.Unclaimed), func(u Unclaimed) bool { return u.CloudID == c.CloudID })
	return e
}

// withUnclaimed returns the entry with cloud orders that nobody claims, of which
// no more is known here than that they are there.
func (e Entry) withUnclaimed(ids ...string) Entry {
	e.Unclaimed = slices.Clone(e.Unclaimed)
	for _, id := range ids {
		is := func(u Unclaimed) bool { return u.CloudID == id }
		if _, claimed := e.Claimed(id); !claimed && !slices.ContainsFunc(e.Unclaimed, is) {
			e.Unclaimed = append(e.Unclaimed, Unclaimed{CloudID: id, Status: "another key", Seen: time.Now().UTC()})
		}
	}
	return e
}
