// Package order is what moves through certmill: the order as somebody asked
// for it, the record that travels with it, the states it can be in and the
// rules a request must satisfy.
//
// Everything here is a value. The package reads no clock, opens no connection
// and imports nothing of certmill but the leaf record; all other packages point
// at it.
package order

import (
	"fmt"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/record"
)

// SchemaVersion is the version of the record that this program writes. A
// worker leaves records with a higher version to newer workers, so that a
// rolling upgrade with orders in flight is safe.
const SchemaVersion = 1

// Validation is how control of the names is proved to the CA. The values are
// the words that the clouds use.
type Validation string

const (
	DNS  Validation = "DNS"  // a TXT or CNAME record under the name
	FILE Validation = "FILE" // a file under /.well-known/pki-validation/
)

// Request is the order message: what a publisher asks for. Its JSON form is
// the published schema (see Schema).
type Request struct {
	ID         string            `json:"id,omitempty" jsonschema_description:"Unique name of the order, chosen by the publisher: lower-case letters, digits, '-' and '_', at most 63, not beginning with 'bad-'. Left out: derived from what is ordered, so that the same order has the same id. The same id never runs twice."`
	Again      string            `json:"again,omitempty" jsonschema_description:"Id of an order for the same names that has ended: what this message orders is bought once more, as its one successor, which gets the id of its line with a number. In files also true, for the last of the line."`
	Names      []string          `json:"names" jsonschema:"required,minItems=1,maxItems=5,uniqueItems=true" jsonschema_description:"One to five domain names as A-labels: all single names or all wildcards. The first one becomes the common name."`
	Account    string            `json:"account,omitempty" jsonschema_description:"Account label of the config. Left out or 'any': certmill chooses one."`
	Product    string            `json:"product,omitempty" jsonschema_description:"Product code, as the cloud spells it. Left out: that of the account, or the cloud's usual one."`
	Validation Validation        `json:"validation,omitempty" jsonschema:"enum=DNS,enum=FILE,default=DNS" jsonschema_description:"How control of the names is proved."`
	Contact    Contact           `json:"contact,omitzero" jsonschema_description:"Contact of the application; empty fields come from the account's config."`
	Company    string            `json:"company,omitempty" jsonschema_description:"Company name; OV products only."`
	Key        string            `json:"key,omitempty" jsonschema:"enum=ecdsa-p256,enum=ecdsa-p384,enum=rsa-2048,enum=rsa-3072,enum=rsa-4096,default=ecdsa-p256" jsonschema_description:"Algorithm of the key that certmill makes."`
	CSR        string            `json:"csr,omitempty" jsonschema_description:"A PKCS#10 request in PEM of your own; then the key stays with you."`
	Resource   string            `json:"resource,omitempty" jsonschema_description:"Id of something already bought at the account's cloud (an instance, a certificate), as its console shows it; 'any' takes an unused one of the account. Left out: bought anew, or an unused one where the cloud sells no other way."`
	Batch      string            `json:"batch,omitempty" jsonschema_description:"Name of the batch this order belongs to."`
	Labels     map[string]string `json:"labels,omitempty" jsonschema_description:"Free labels, kept in the record."`
	Deadline   *time.Time        `json:"deadline,omitempty" jsonschema_description:"RFC 3339. Past it an order that was not bought is held; a bought one goes on and is flagged."`
}

// Contact is the applicant's contact. What an application must have of it, the
// cloud tells.
type Contact struct {
	Name     string `json:"name,omitempty" jsonschema_description:"Name of the applicant."`
	Email    string `json:"email,omitempty" jsonschema_description:"E-mail address of the applicant; the CA writes to it."`
	Phone    string `json:"phone,omitempty" jsonschema_description:"Phone number, 5 to 15 digits."`
	Province string `json:"province,omitempty" jsonschema_description:"Province, in pinyin where the cloud asks for it."`
	City     string `json:"city,omitempty" jsonschema_description:"City, in pinyin where the cloud asks for it."`
}

// Or returns c with its empty fields taken from d.
func (c Contact) Or(d Contact) Contact {
	or := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	return Contact{or(c.Name, d.Name), or(c.Email, d.Email), or(c.Phone, d.Phone), or(c.Province, d.Province), or(c.City, d.City)}
}

// Order is the record: the whole state of one order, stored as one message.
// Times are UTC. Ids of the clouds are strings, because an int64 such as
// 98987582437920968 does not survive a float64.
type Order struct {
	V         int       `json:"v"`
	Request   Request   `json:"request"`
	Hash      string    `json:"hash"`                // of what is bought, tells a repeated message from another order
	Publisher string    `json:"publisher,omitempty"` // token of the intake subject it came by
	Urgent    bool      `json:"urgent,omitempty"`
	Received  time.Time `json:"received"`

	Predecessor string `json:"predecessor,omitempty"` // id of the order that this one buys again
	Generation  int    `json:"generation,omitempty"`  // 2 for the first successor; absent: the first of its line

	State     State  `json:"state"`
	Account   string `json:"account,omitempty"`   // label, fixed by the submitter
	Main      string `json:"main,omitempty"`      // main account: what money and limits are keyed by
	Operation string `json:"operation,omitempty"` // API action that starts it, fixed with the account
	Product   string `json:"product,omitempty"`   // product code in force
	Resource  string `json:"resource,omitempty"`  // id of something already bought that was claimed

	Purchase  int       `json:"purchase"`            // how often somebody authorised spending
	Attempt   int       `json:"attempt"`             // rises for ever, never used twice
	Key       *Key      `json:"key,omitempty"`       // the pair of this order, sealed
	Retries   int       `json:"retries"`             // attempts of the present step that ended in an error
	NotBefore time.Time `json:"not_before,omitzero"` // of the next attempt of the present step
	Wait      Wait      `json:"wait,omitzero"`       // in state waiting: what for, and where it goes then
	Approvals []string  `json:"approvals,omitempty"` // facts that a person let pass: see Approves
	Late      bool      `json:"late,omitempty"`      // its deadline passed after it was bought

	CloudID     string      `json:"cloud_id,omitempty"`    // what the cloud calls it: an order, or the resource
	CertID      string      `json:"cert_id,omitempty"`     // id to fetch the certificate by, once known, where it is another
	Provisional bool        `json:"provisional,omitempty"` // adopted without proof: the key is compared at collection
	Challenges  []Challenge `json:"challenges,omitempty"`
	Proofs      []Proof     `json:"proofs,omitempty"` // what is known of the challenges, in their order
	Placed      bool        `json:"placed,omitempty"` // challenges were (or may have been) put out: clean-up is owed
	// Taken is when it was last decided to take the names for a resource: what an
	// older record would do with either is a worker's that slept.
	Taken time.Time `json:"taken,omitzero"`
	// Counted are the budgets towards which the use of its resource was counted. Other
	// purchases are counted by their number.
	Counted []Count `json:"counted,omitempty"`

	Failure     *Failure     `json:"failure,omitempty"`
	Hold        *Hold        `json:"hold,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Original    []byte       `json:"original,omitempty"` // the message that could not be read
	Timeline    []Event      `json:"timeline,omitempty"`

	rest record.Rest // what another build wrote and this one does not know
}

// Key is the key pair of an order. The private half is only ever here as age
// ciphertext.
type Key struct {
	Algorithm   string `json:"algorithm,omitempty"`
	Fingerprint string `json:"fingerprint"`         // SHA-256 of the SubjectPublicKeyInfo, hex
	CSR         string `json:"csr,omitempty"`       // PEM
	Sealed      []byte `json:"sealed,omitempty"`    // age ciphertext of the PKCS#8 PEM; empty when the key is the user's
	SealedTo    string `json:"sealed_to,omitempty"` // the recipients of Sealed (certstore.Recipients.ID)
	Stored      bool   `json:"stored,omitempty"`    // the key store has it
}

// Count is the use of a resource, counted towards a budget.
type Count struct {
	Key    string `json:"key" record:"key"`    // of the budget
	Period string `json:"period" record:"key"` // a day (2026-11-25), or "all"
}

// Challenge is what the CA wants to see for one name.
type Challenge struct {
	Name  string `json:"name"`           // the ordered name it is for
	Type  string `json:"type"`           // TXT, CNAME or FILE
	Host  string `json:"host"`           // absolute record name, or the host that serves the file; no trailing dot
	Path  string `json:"path,omitempty"` // FILE: path from the root of the host
	Value string `json:"value"`          // record value, or the file's content
}

// Proof is what is known of a challenge that was placed: where, when, and what
// was seen from outside.
type Proof struct {
	Challenge Challenge `json:"challenge" record:"key"` // as the cloud asked for it
	At        string    `json:"at,omitempty"`           // the host where it lies, if CNAMEs led elsewhere
	Placed    time.Time `json:"placed,omitzero"`        // for the last time
	Found     bool      `json:"found,omitempty"`        // it was there already: it is left there
	Inherited bool      `json:"inherited,omitempty"`    // found, and an earlier life of the order may have placed it: it goes if the key proves that
	Looked    time.Time `json:"looked,omitzero"`        // when it was looked for, the last time that was noted
	Seen      time.Time `json:"seen,omitzero"`          // when it first showed everywhere
	Missing   []string  `json:"missing,omitempty"`      // where it did not show then, and what was there
}

// Place is the challenge where it lies: what a solver takes back.
func (p Proof) Place() Challenge {
	c := p.Challenge
	if p.At != "" {
		c.Host = p.At
	}
	return c
}

// Bounds of what a record keeps of one look.
const (
	maxMissing  = 6
	maxSentence = 300
)

// Saw notes a look.
func (p *Proof) Saw(at time.Time, seen bool, missing []string) {
	p.Looked, p.Missing = at, nil
	if seen && p.Seen.IsZero() {
		p.Seen = at
	}
	for i, m := range missing {
		if i == maxMissing {
			p.Missing = append(p.Missing, fmt.Sprintf("and %d more", len(missing)-i))
			break
		}
		if len(m) > maxSentence {
			m = strings.ToValidUTF8(m[:maxSentence], "") + "…"
		}
		p.Missing = append(p.Missing, m)
	}
}

// Prove returns a proof for each challenge, in their order: those that are known,
// and new ones. What it returns is the caller's own.
func (o Order) Prove() []Proof {
	proofs := make([]Proof, len(o.Challenges))
	for i, c := range o.Challenges {
		proofs[i] = Proof{Challenge: c}
		for _, known := range o.Proofs {
			if known.Challenge == c {
				proofs[i] = known
			}
		}
	}
	return proofs
}

// Wait says what an order in state waiting waits for. The sweep sends it to
// Then when that has come.
type Wait struct {
	For  string    `json:"for,omitempty"`  // one of the WaitFor constants
	What string    `json:"what,omitempty"` // product, names or order: what exactly
	Open bool      `json:"open,omitempty"` // for names: until it is known whether that order's attempt was bought
	Till time.Time `json:"till,omitzero"`  // looked at again no earlier
	Then State     `json:"then,omitempty"`
}

// What an order can wait for.
const (
	WaitForTime      = "time"        // a moment
	WaitForQuota     = "quota"       // quota of a product
	WaitForNames     = "names"       // another order that has them
	WaitForSweep     = "first sweep" // the mark of the first complete sweep
	WaitForChallenge = "challenge"   // a challenge that does not come or does not show
	WaitForResource  = "resource"    // another order that has the one that this names
	WaitForRights    = "DNS rights"  // a zone's check, or the order that goes first there
)

// Failure says why an order ended without a certificate.
type Failure struct {
	Class     string `json:"class"` // short, for grouping: rejected, quota, credentials, invalid, ...
	Code      string `json:"code,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	Reason    string `json:"reason"`
	Advice    string `json:"advice,omitempty"` // what to do next
	Mend      bool   `json:"mend,omitempty"`   // the cause stands in the order itself: a mended one helps, and no retry
}

// OnlyMended tells whether nothing was bought for an order that failed for what
// stands in it: to try again as it is does not help. Handed in again with another
// contact, validation or company it goes on; with anything else it is another order.
func (o Order) OnlyMended() bool { return o.Failure != nil && o.Failure.Mend && o.CloudID == "" }

func (f *Failure) Error() string { return f.Reason }

// Hold says what a person must decide, and the commands that end it.
type Hold struct {
	Reason   string   `json:"reason"`
	Commands []string `json:"commands"`
	Fact     string   `json:"fact,omitempty"` // what approve would let pass (see Facts); empty: it does not apply
	From     State    `json:"from"`           // the state it was held in
	Open     bool     `json:"open,omitempty"` // a ledger entry is open: only adopt and not-bought
}

// Certificate is what was issued. The chain is public.
type Certificate struct {
	Chain       string    `json:"chain"`       // PEM, leaf first
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the leaf, hex
	Serial      string    `json:"serial"`
	Issuer      string    `json:"issuer"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Names       []string  `json:"names"`           // as in the certificate
	Added       []string  `json:"added,omitempty"` // names that the cloud added
	Delivered   []string  `json:"delivered"`       // where it was delivered
}

// Event is one line of an order's story.
type Event struct {
	At        time.Time `json:"at"`
	State     State     `json:"state"`
	Worker    string    `json:"worker,omitempty"`
	Note      string    `json:"note,omitempty"`
	RequestID string    `json:"request_id,omitempty"`
}

// maxTimeline bounds the story, so that an order that is tried for weeks stays
// far below the server's max_payload. The first events are the ones that tell
// where it came from; they are kept.
const maxTimeline = 60

// Tell adds an event to the story.
func (o *Order) Tell(e Event) {
	if len(o.Timeline) >= maxTimeline {
		keep := maxTimeline / 3
		o.Timeline = append(o.Timeline[:keep:keep], o.Timeline[len(o.Timeline)-keep:]...)
	}
	o.Timeline = append(o.Timeline[:len(o.Timeline):len(o.Timeline)], e)
}

// Owes tells whether an end is owed: challenges to be taken back, a resource to be
// given back, names that are (or may be) taken in the ledger. An order that owes
// any ends by way of collect, whatever it ends of.
func (o Order) Owes() bool {
	return o.Placed || o.Attempt > 0 || o.Resource != "" || o.CloudID != "" || !o.Taken.IsZero()
}

// ID is the order's id.
func (o Order) ID() string { return o.Request.ID }

// Lane is the queue the order stands in: its account's label, or that with
// "-urgent"; "none" while no account is known.
func (o Order) Lane() string {
	switch {
	case o.Account == "":
		return NoLane
	case o.Urgent:
		return o.Account + UrgentSuffix
	}
	return o.Account
}

const (
	NoLane       = "none"    // lane of orders without an account
	UrgentSuffix = "-urgent" // account labels may not end so
	AnyAccount   = "any"     // "choose for me"
	AnyResource  = "any"     // "an unused one of those that the account has bought"
)
