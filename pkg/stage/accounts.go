// Package stage is what each worker does with an order: the submitter buys, the
// verifier proves control of the names, the collector fetches and delivers; the
// sweeps look after those that wait. Each is a function of the stored order.
package stage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Account is one label of the config: where its orders go and what they lack is
// filled in from. Several labels may share one main account.
type Account struct {
	Label   string
	Main    string // what money and limits are keyed by
	Cloud   issuer.Cloud
	Contact order.Contact
	Company string
	Daily   int // most purchases a calendar day of the main account; 0: no bound
	Waits   Waits
	// Simulated clouds are simulated by this very process: nothing can have
	// been bought there before the ledger began.
	Simulated bool
	// Credentials remember whose they are; nil: it is asked each time.
	Credentials *Credentials
}

// Waits are the summands of the waiting time: how long after an entry was
// opened a list must be read to say that nothing was bought.
type Waits struct {
	Entry     time.Duration // a stamp is at most this much later than the entry
	Signature time.Duration // life of a signature at the cloud
	Clocks    time.Duration // how far clocks of cloud, server and worker are apart
	ListLag   time.Duration // how late a list shows an order
}

// Total is the waiting time.
func (w Waits) Total() time.Duration { return w.Entry + w.Signature + w.Clocks + w.ListLag }

// String is how sentences name the account: with its cloud, because what an
// order can have there depends on that.
func (a *Account) String() string {
	return fmt.Sprintf("account %q (%s)", a.Label, a.Cloud.About().Name)
}

// records tells whether the challenges of an order are records of the DNS, as far as
// one knows before the cloud has named them. With a nil account nobody knows which
// cloud it is.
func (a *Account) records(r order.Request) bool {
	return r.Validation != order.FILE && (a == nil || a.Cloud == nil || !a.Cloud.About().FilesOnly)
}

// Flow is the way of ordering that an API action begins, nil if the account has
// none such.
func (a *Account) Flow(action string) issuer.Flow {
	all := a.Cloud.Flows()
	i := slices.IndexFunc(all, func(f issuer.Flow) bool { return f.Action() == action })
	if i < 0 {
		return nil
	}
	return all[i]
}

// Route is the way of ordering that a request takes here: one exists, and what
// it needs of the applicant is there. The error is a sentence.
func (a *Account) Route(r order.Request) (issuer.Route, error) {
	way, err := a.Cloud.Route(r)
	if err == nil {
		err = a.needs(way, r)
	}
	if err == nil {
		err = a.certifies(way.Flow, way.Product, r.Names)
	}
	if err != nil {
		return issuer.Route{}, fmt.Errorf("%v: %w", a, err)
	}
	return way, nil
}

// needs checks what the cloud wants to know of the applicant, before anything is
// bought.
func (a *Account) needs(way issuer.Route, r order.Request) error {
	c := r.Contact.Or(a.Contact)
	known := map[string]string{"name": c.Name, "email": c.Email, "phone": c.Phone, "province": c.Province, "city": c.City}
	var missing []string
	for _, field := range way.Needs {
		switch {
		case field == "company" && cmp.Or(r.Company, a.Company) == "":
			missing = append(missing, field)
		case field != "company" && known[field] == "":
			missing = append(missing, "contact."+field)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%s needs %s: write it in the order or in the config of the account", way.Flow.Action(), strings.Join(missing, ", "))
}

// certifies asks the product that is to be bought whether it certifies the names.
// For what was bought already the product is a word of the config's or the order's,
// which tells who the CA is: what it certifies, the cloud knows.
func (a *Account) certifies(f issuer.Flow, product string, names []string) error {
	if !f.Spends() {
		return nil
	}
	return a.Cloud.Product(product).Certifies(names)
}

// Accounts are all labels of the config.
type Accounts map[string]*Account

// Labels are the labels in order.
func (as Accounts) Labels() []string { return slices.Sorted(maps.Keys(as)) }

// Find returns the account of a label, or an error that lists those there are.
func (as Accounts) Find(label string) (*Account, error) {
	if a := as[label]; a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("no account %q in the config; there are: %s", label, strings.Join(as.Labels(), ", "))
}

// Mains returns one account per main account and cloud, for what is swept and
// counted by main account.
func (as Accounts) Mains() []*Account {
	var all []*Account
	for _, label := range as.Labels() {
		all = append(all, as[label])
	}
	return onePerMain(all)
}

func onePerMain(all []*Account) []*Account {
	seen := map[string]bool{}
	var out []*Account
	for _, a := range all {
		if !seen[a.Main] && a.Main != "" {
			seen[a.Main] = true
			out = append(out, a)
		}
	}
	return out
}

// Fit are the accounts that can take a request which leaves the account open, in
// the order of their labels. The error is an *order.Invalid: none can, or it
// cannot be told which. A resource that is named by its id lies in one main
// account, and nothing here tells in which: where several could take it, the
// request must say.
func (as Accounts) Fit(r order.Request) ([]*Account, error) {
	invalid := func(reason string) error { return &order.Invalid{Field: "account", Reason: reason} }
	var fit []*Account
	why := errors.New("the config has no accounts")
	for _, label := range as.Labels() {
		if _, err := as[label].Route(r); err != nil {
			why = err
			continue
		}
		fit = append(fit, as[label])
	}
	if len(fit) == 0 {
		return nil, invalid("no account of the config can take it: " + why.Error())
	}
	if mains := onePerMain(fit); len(mains) > 1 && named(r) {
		return nil, invalid(fmt.Sprintf("the resource %q could be that of %s or %s: name the account that has it", r.Resource, mains[0].Label, mains[1].Label))
	}
	return fit, nil
}

// named tells whether the request is for one thing already bought, by its id.
func named(r order.Request) bool { return r.Resource != "" && r.Resource != order.AnyResource }

// Choose picks the account of a request that leaves it open: the one whose ledger
// knew the names last, whatever it says of them, so that what is in service or under
// way there meets what follows it; else by the names alone, so that two orders for
// the same names choose the same. The error is an *order.Invalid if no account can
// take it, or it must be named (Fit); any other means that the ledger could not be
// read.
func (as Accounts) Choose(ctx context.Context, l *ledger.Ledger, r order.Request) (*Account, error) {
	fit, err := as.Fit(r)
	if err != nil {
		return nil, err
	}
	// By the wildcard: also entries that this program cannot read. Those of accounts
	// that the config has no more, or that cannot take the request, choose nothing
	// here: they are in the order's way where it goes (Standing).
	mains, err := l.Mains(ctx, r.Names)
	if err != nil {
		return nil, err
	}
	for _, main := range slices.Backward(mains) {
		if i := slices.IndexFunc(fit, func(a *Account) bool { return a.Main == main }); i >= 0 {
			return fit[i], nil
		}
	}
	// One of which nobody knows whose it is may never work.
	if known := slices.DeleteFunc(slices.Clone(fit), func(a *Account) bool { return a.Main == "" }); len(known) > 0 {
		fit = known
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(order.NamesHash(r.Names)))
	return fit[int(h.Sum32()%uint32(len(fit)))], nil
}

// of returns the account whose clouds can say something of an order: its label's, if
// that is of the main account for which the order was taken. Else an *Elsewhere.
func (as Accounts) of(o order.Order) (*Account, error) {
	a, err := as.Find(o.Account)
	if err == nil && o.Main != a.Main {
		return nil, refuse("%s", &Elsewhere{Label: a.Label, Main: a.Main, Was: o.Main})
	}
	return a, err
}

// flow returns the account and flow of an order that has both fixed.
func (as Accounts) flow(o order.Order) (*Account, issuer.Flow, error) {
	a, err := as.Find(o.Account)
	if err != nil {
		return nil, nil, pipeline.Hold(err.Error()+"; put it back into the config, then retry", "certmill retry "+o.ID())
	}
	if Strayed(o, a.Label, a.Main) != nil {
		return nil, nil, ofAnother(o, a)
	}
	f := a.Flow(o.Operation)
	if f == nil {
		return nil, nil, pipeline.Hold(fmt.Sprintf("%v: it cannot %s any more; put the account back as it was, then retry", a, o.Operation), "certmill retry "+o.ID())
	}
	return a, f, nil
}

// credentialsRest is how long an account rests after its key was refused.
const credentialsRest = 5 * time.Minute

// Trouble turns errors of the clouds into verbs, the same way in all stages.
type Trouble struct {
	States *account.Accounts
	Log    *slog.Logger
}

// Verb says what becomes of an order whose call failed in a way that had no
// effect to reconcile.
func (t Trouble) Verb(ctx context.Context, a *Account, err error) error {
	e, ok := errorAs(err)
	if !ok {
		return pipeline.Retry(err, 0)
	}
	switch e.Kind {
	case issuer.Credentials:
		t.pause(ctx, a, e)
		return pipeline.Retry(err, credentialsRest)
	case issuer.Rejected:
		return pipeline.Fail(failureOf(e))
	case issuer.QuotaExhausted:
		return pipeline.Fail(failureOf(e))
	}
	return pipeline.Retry(err, e.RetryAfter)
}

// pause rests the label whose credentials do not work, with one clear message.
func (t Trouble) pause(ctx context.Context, a *Account, e *issuer.Error) {
	now := time.Now().UTC()
	if _, rests := t.States.State(a.Main).Rest(a.Label, now); rests {
		return
	}
	t.Log.ErrorContext(ctx, "account paused: its credentials were refused", "account", a.Label, "code", e.Code, "until", now.Add(credentialsRest))
	err := t.States.Pause(ctx, a.Main, a.Label, account.Pause{Why: "credentials refused: " + e.Code, Since: now, Until: now.Add(credentialsRest)})
	if err != nil {
		t.Log.WarnContext(ctx, "could not store the pause", "account", a.Label, "err", err)
	}
}

// paused parks the orders of a resting label.
func (t Trouble) paused(a *Account) error {
	now := time.Now().UTC()
	if why := a.Stopped(); why != nil {
		return pipeline.Wait(order.Wait{For: order.WaitForTime, What: why.Error(), Till: now.Add(30 * time.Second)})
	}
	p, rests := t.States.State(a.Main).Rest(a.Label, now)
	if !rests {
		return nil
	}
	till := now.Add(30 * time.Second)
	if !p.Until.IsZero() {
		till = p.Until
	}
	return pipeline.Wait(order.Wait{For: order.WaitForTime, What: "account " + a.Label + " is paused: " + p.Why, Till: till})
}
