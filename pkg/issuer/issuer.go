// Package issuer is the port to those who issue: what certmill needs of a cloud
// account, and the kinds of errors that come back.
//
// A Cloud is one account at one vendor, and a Flow one of its ways of ordering.
// Each vendor is a package below this one, which alone knows its words; all of
// them pass the contract suite in issuertest.
package issuer

import (
	"context"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/order"
)

// Application is what is sent when an order starts.
type Application struct {
	OrderID    string // ours; set as a tag where the call has tags
	Names      []string
	CSR        string // PEM; empty: the cloud makes the key
	Key        string // algorithm, for clouds that make the key and let choose
	Product    string
	Validation order.Validation
	Contact    order.Contact
	Company    string
	Resource   string // instance or certificate id already bought
}

// Receipt is the cloud's clear answer to Submit.
type Receipt struct {
	CloudID   string // never empty
	RequestID string
}

// Phase is what a cloud's status means to certmill.
type Phase string

const (
	Unstarted   Phase = "unstarted"  // the resource exists, no application was submitted
	Pending     Phase = "pending"    // submitted, no challenge yet
	Challenged  Phase = "challenged" // a challenge is open
	Reviewing   Phase = "reviewing"  // the CA is at work
	IssuedPhase Phase = "issued"     // the certificate is there
	Refused     Phase = "refused"    // review failed, cancelled, closed: it will never be issued
	Unlisted    Phase = "unlisted"   // a status that no document lists: keep looking
)

// Status is what the cloud says of one order.
type Status struct {
	Phase       Phase
	Raw         string // the vendor's own word, never a bare number: see Word
	Detail      string // its explanation, if any
	Challenges  []order.Challenge
	CertID      string       // id to fetch the certificate by, where it differs
	Certificate *Certificate // where the same call brings it
	Submitted   bool         // the materials are in: see Preparer
	RequestID   string

	// What the order, or the resource, is for, as far as the cloud shows it: of one
	// that is not started, by the materials that are in. Who starts a resource
	// compares them with its own (see Namer).
	Names   []string
	CSR     string    // PEM, where the cloud shows the one that was handed in
	Expires time.Time // of the certificate
}

// Certificate is an issued certificate as the cloud gives it out.
type Certificate struct {
	Chain     string       // PEM, leaf first
	Key       order.Secret // PEM; empty when the key is ours
	RequestID string
}

// Row is one line of a cloud's list.
type Row struct {
	CloudID    string // what the flow's other calls take
	InstanceID string // links an order to its certificate, where the lists do
	CertID     string // rows of the certificate list
	Names      []string
	Product    string
	Phase      Phase
	Raw        string // as Status.Raw
	Created    time.Time
	Expires    time.Time
	Tag        string // order id that we set, if the list shows it
	// Origin is the CloudID of what this one follows within the term that was paid
	// for: a resource that exists for the names of that one alone.
	Origin string
}

// Word is a state as sentences have it. A vendor that has numbers for its states gives
// them the words of its documents; where there is no word, an earlier build's records
// or an answer that tells nothing, it is said what the number is.
func Word(raw string) string {
	if raw == "" {
		return "state not told"
	}
	if strings.Trim(raw, "-0123456789") == "" {
		return "state " + raw
	}
	return raw
}

// Page is one page of a list. Rows shift while one pages: read with care.
type Page struct {
	Rows []Row
	More bool
	Last int // index of the last page as the cloud counts now; 0 where it does not tell
}

// Usage is how much of a product the account has.
type Usage struct {
	Bought, Used, Issued int64
	Read                 time.Time // no earlier than the counts were taken
}

// Fence bounds the time stamp that a spending request is signed with. A request
// whose stamp lies outside is refused by the transport as NeverSent: the
// signature is what stops a late packet, so it must not be younger than the
// ledger entry allows.
type Fence struct{ NotBefore, NotAfter time.Time }

// Flow is one way of ordering at one account. All methods take the permit of
// their API action themselves, wait for it, and return *Error. All but Submit
// are safe to repeat.
type Flow interface {
	// Action is the API action of Submit, as the vendor spells it.
	Action() string
	// Spends tells whether Submit uses up quota without naming something that
	// was already bought. Such a call is never repeated blindly.
	Spends() bool
	// CSR says which CSR an order of this flow is sent with. It MUST depend on
	// the request and the account's settings alone: an order's key is made once.
	CSR(r order.Request) CSR
	// Reserve waits for Submit's permit. The context carries it; release MUST
	// be called, and puts an unused permit back.
	Reserve(ctx context.Context) (reserved context.Context, release func(), err error)
	// Submit sends the call, once, with the permit in ctx. It MUST NOT retry,
	// MUST use a fresh connection, and MUST return a Receipt only for a clear
	// answer. A kind other than NeverSent, Throttled, QuotaExhausted, Rejected,
	// Credentials or WrongState means that it may have landed.
	Submit(ctx context.Context, a Application, f Fence) (Receipt, error)
	// Look asks about one order.
	Look(ctx context.Context, cloudID string) (Status, error)
	// Waiting lists what still waits (not issued, not failed). Pages count
	// from 0.
	Waiting(ctx context.Context, page int) (Page, error)
	// Fetch gets the issued certificate. certID may be empty.
	Fetch(ctx context.Context, cloudID, certID string) (Certificate, error)
}

// Further abilities, found by type assertion.
type (
	// Preparer is a flow whose resource needs its materials before Submit.
	Preparer interface {
		// ReservePrepare waits for Prepare's permit, as Reserve does for Submit's:
		// the call is noted when it can be made, and may come soon after that.
		ReservePrepare(ctx context.Context) (reserved context.Context, release func(), err error)
		// Prepare is safe to repeat: it overwrites, and so must not come late
		// (Within).
		Prepare(ctx context.Context, a Application) error
	}
	// Namer is a flow whose Look does not show what a started resource is for. No
	// names: nothing shows it.
	Namer interface {
		Names(ctx context.Context, cloudID string) ([]string, error)
	}
	// Kicker is a flow that can be asked to check the challenge now. Safe to
	// repeat; it has no result.
	Kicker interface {
		Kick(ctx context.Context, cloudID string) error
	}
	// Finder lists orders for names, newest first where the cloud sorts, in
	// every status: all that show them (order.Shows). Reconciliation reads it.
	Finder interface {
		Find(ctx context.Context, names []string) ([]Row, error)
	}
	// Counter tells the usage of a product.
	Counter interface {
		Usage(ctx context.Context, product string) (Usage, error)
	}
	// CertLister lists issued certificates, pages from 0, so that the sweep learns
	// certificate ids.
	CertLister interface {
		Certificates(ctx context.Context, page int) (Page, error)
	}
	// Pool lists what was bought and is unused: instances, certificates. What
	// follows another one MUST say so (Row.Origin).
	Pool interface {
		Unused(ctx context.Context) ([]Row, error)
	}
	// AllLister lists every order of the account, in every status, for the
	// plain sweep. Pages count from 0.
	AllLister interface {
		All(ctx context.Context, page int) (Page, error)
		// List names the list: flows that read the same one say the same, and it
		// is read once.
		List() string
	}
)
