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
	Token       string    `json:"token,omitempty"`       // of this opening; only who reads it back may send
	Opened      time.Time `json:"opened,omitzero"`       // the server's clock; zero in the message that opens
	Sought      time.Time `json:"sought,omitzero"`       // rows since then are looked at; zero: since Opened
	Used        *Used     `json:"used,omitempty"`        // quota before
	Provisional string    `json:"provisional,omitempty"` // cloud id adopted without proof
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
	At       time.Time `json:"at"`
	How      string    `json:"how,omitempty"` // answered, adopted, by hand
}

// Unclaimed is a cloud order for these names that no claim explains.
type Unclaimed struct {
	CloudID string    `json:"cloud_id" record:"key"`
	Status  string    `json:"status"`
	Product string    `json:"product,omitempty"` // one of its quota is what it costs
	Created time.Time `json:"created,omitzero"`
	Seen    time.Time `json:"seen"`
}

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

	seq  uint64      // what was read; 0: nothing stored yet
	rest record.Rest // what another build wrote and this one does not know
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
