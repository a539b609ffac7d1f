package chaos

import (
	"net/http"
	"time"

	"github.com/certmill/certmill/pkg/app"
)

// Clouds are what the accounts of a site are at. They are in the battery's own
// process and survive all that it does to the others: their books are the oracle.
// Both simulated vendors are one; a test may bring another.
type Clouds interface {
	// Accounts are those to order from, always in the same order.
	Accounts() []Account
	// DNS is host:port of a name server that answers for all names.
	DNS() string
	// Odd leaves of lists and states only what the documents promise.
	Odd() error
	// Fail makes so large a share of all calls go wrong, in every way that there
	// is, in place of the share before. It returns how many calls were hit since
	// then.
	Fail(share float64) (hits int, err error)
	// Buys tells whether a request is a call that starts an order.
	Buys(r *http.Request, body []byte) bool
	// Books are what they hold now.
	Books() Books
	Close() error
}

// Setting is what a site's clouds are told.
type Setting struct {
	Seed     uint64
	Orders   int    // that will be handed in
	Accounts int    // there shall be
	Web      string // host:port of the web server of all names

	// Elsewhere: these are other clouds, at which the same access keys are those of
	// other main accounts.
	Elsewhere bool

	// The scaled times of the package comment.
	SignatureLife, Clocks, ListLag, Deadline time.Duration
}

// Users are Clouds that can have more keys under a main account.
type Users interface {
	// User makes the access key of a user of the account's main account, whose lists
	// show no more than what was ordered with it.
	User(of Account) (key, secret string, err error)
}

// Account is one account in the config, and its key in the clear. Only what the
// clouds know of it need be there: cloud, main, endpoints, product, limits.
type Account struct {
	Label       string
	Config      app.Account
	Key, Secret string
}

// Books are what clouds hold of orders, and of the DNS and calls they see.
type Books struct {
	Orders    []Bought
	Records   []Record // in their zones, whoever wrote them
	Foreign   []string // changes that our keys made to what they had not written
	OverLimit int      // calls above an account's limit in a sliding second
	Over      []string // which, for people, but for those that take no permit (DESIGN 12.7)
}

// Bought is an application as the cloud's books have it.
type Bought struct {
	Main, ID string
	Names    []string
	KeyFP    string // SHA-256 of the public key in hex, once there is one
	Paid     bool   // it cost something that was not given back
	Resource bool   // it was started on something bought before, which has the id
	Told     any    `json:",omitempty"` // all that the books have, for people
}

// Record is one in a zone.
type Record struct {
	Name, Type, Value string
	By                string // access key that wrote it; empty: the cloud itself
	Created           time.Time
}

// console is By of what a person wrote at the vendor's web page.
const console = "console"
