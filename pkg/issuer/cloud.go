package issuer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/order"
)

// Cloud is one account at one cloud: the ways of ordering there, and everything
// that is the vendor's and not certmill's. A new cloud is one folder below this
// package, the contract suite (package issuertest) and one line in package app.
//
// All methods but Identify MUST answer at once, from what the vendor documents
// and the account's settings say. A Cloud MUST be safe for concurrent use.
type Cloud interface {
	// About is what holds for every account of the vendor.
	About() About
	// Flows are the ways of ordering, each under an Action of its own.
	Flows() []Flow
	// Route is the way that a request takes here. It is asked before anything is
	// spent: by plans, and by the intake, which stores the answer. The error is a
	// sentence that says why there is none and what to write instead.
	Route(r order.Request) (Route, error)
	// Product is what the vendor's code tells of a product; one that is not known
	// is not refused.
	Product(code string) Product
	// Identify asks the cloud whose credentials the account's are. It is none of
	// the limited actions and takes no permit. Workers ask once a session and
	// keep the answer. The error is *Error: Credentials if they do not work; any
	// other kind leaves open whose they are.
	Identify(ctx context.Context) (Identity, error)
}

// About is what a vendor documents for every account.
type About struct {
	Name          string        // in sentences
	Codes         *Table        // its error codes
	Calls         Calls         // the API actions that certmill uses
	SignatureLife time.Duration // how old a signature the cloud still takes
	FilesOnly     bool          // control of names is proved by files, whatever an order asks for
}

// UsualLimit is how many calls a second are made of an action for which nothing
// is documented.
const UsualLimit = 10

// Call is an API action that certmill uses, and what the vendor documents of
// it: the one place from which limits, deadlines and rights follow.
type Call struct {
	Service  string // as the vendor's policies spell it
	Action   string
	Roles    []order.Role // who makes it
	Limit    int          // calls a second of a main account; 0: UsualLimit
	Page     int          // rows of a page that is asked for, where it lists; 0: not to be chosen
	Starts   bool         // it starts an order, or leads to it: an unclear answer is dear, so it gets the longer deadline
	Free     bool         // no limited action: it takes no permit
	Optional bool         // certmill goes on without the right to it
}

// Most is how many calls a second a main account may make of it, as far as anything
// is documented.
func (c Call) Most() int { return cmp.Or(c.Limit, UsualLimit) }

// Calls are the actions of one vendor or of one of its services. An action that
// one role needs and another can do without stands there twice; all else of the
// two is the same.
type Calls []Call

// Find returns what is documented of an action.
func (c Calls) Find(action string) (Call, bool) {
	i := slices.IndexFunc(c, func(x Call) bool { return x.Action == action })
	if i < 0 {
		return Call{}, false
	}
	return c[i], true
}

// Actions are their names, each once.
func (c Calls) Actions() []string {
	var all []string
	for _, x := range c {
		all = append(all, x.Action)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Free are the actions that take no permit.
func (c Calls) Free() []string {
	var free []string
	for _, x := range c {
		if x.Free {
			free = append(free, x.Action)
		}
	}
	return free
}

// Of are the actions that a role makes: the rights that it needs, and those that
// are Optional.
func (c Calls) Of(role order.Role) Calls {
	return slices.DeleteFunc(slices.Clone(c), func(x Call) bool { return !slices.Contains(x.Roles, role) })
}

// Route is the way of ordering that a request takes at an account.
type Route struct {
	Flow    Flow
	Product string   // in force: the request's, the account's or the vendor's default; empty: none is asked for
	Needs   []string // what the application must have: fields of the contact ("email"), and "company"
}

// CSR says which CSR an order is sent with, and so who makes its key.
type CSR string

const (
	NoCSR        CSR = ""              // none: the cloud makes the key
	GivenCSR     CSR = "given"         // the request's own: the key stays with the user
	FirstNameCSR CSR = "of first name" // certmill's, for the first name alone: more is not documented
	AllNamesCSR  CSR = "of all names"  // certmill's
)

// Product is what a product code tells.
type Product struct {
	Code         string
	CA           CA   // who issues it; no name: not known
	Organisation bool // the CA validates an organisation, by hand
	Several      bool // it takes several names at the price of one
	Names        Names
	One          bool   // it certifies one name alone
	Instead      string // a product that certifies what this one does not, to be written in its place
}

// Names are which names a product certifies.
type Names string

const (
	AnyNames    Names = "" // or it is not known
	SingleNames Names = "single names"
	Wildcards   Names = "wildcards"
)

// Certifies returns nil if the product certifies these names, as far as is
// documented. Else the error is a sentence that says why not and what to write.
func (p Product) Certifies(names []string) error {
	wild := slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "*.") })
	only, has := "", ""
	switch {
	case p.Names == SingleNames && wild:
		only, has = string(SingleNames), "wildcards"
	case p.Names == Wildcards && !wild:
		only, has = string(Wildcards), "none"
	case p.One && len(names) > 1:
		only, has = "one name", fmt.Sprint(len(names))
	default:
		return nil
	}
	such := ""
	if p.Instead != "" {
		such = " (such as " + p.Instead + ")"
	}
	return fmt.Errorf("product %s certifies %s only, and the order has %s: write another product%s that the account has "+
		"into the order or into the account's config, or name another account", p.Code, only, has, such)
}

// CA is who issues a product, and the names in CAA records (RFC 8659) that mean
// it. The first one is what a new record should say.
type CA struct {
	Name       string
	Identities []string
	// Unread: the names were not read on a page of the CA's own, so that what
	// they leave out is a warning, not an error.
	Unread bool
}

// Identity is whose credentials an account's are, as the cloud itself says.
type Identity struct {
	Main   string // id of the main account
	Caller string // id of who calls: the main account itself, a user or a role of it; empty: not told
	Kind   string // of caller, in the cloud's own word; empty: not told
}

// IsMain tells whether the main account itself calls, whose lists show
// everything that there is.
func (i Identity) IsMain() bool { return i.Caller != "" && i.Caller == i.Main }
