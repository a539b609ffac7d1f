package stage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Whose is whose credentials an account's are, in this session (DESIGN 12.7).
type Whose struct {
	Main   string // the main account, as the cloud says; as configured where it does not
	Caller string // who calls, as it stands beside ledger entries and attempt numbers; never empty
	Kind   string // of the caller, in the cloud's own word; empty: not told
	Told   bool   // the cloud said so
	All    bool   // the main account itself calls: its lists show everything that there is
	Silent error  // why the cloud does not tell; nil if it told
}

// Credentials are the question whose an account's are. It is asked once: an
// answer holds for as long as the client, a failure until it is asked again.
type Credentials struct {
	Key string // of the caller, where the cloud names none: see account.Identity

	asking sync.Mutex // held while the cloud is asked whose they are
	mu     sync.Mutex // guards what follows
	known  *Whose
	halted error // why nothing may be called with them, whatever the cloud says

	reading sync.Mutex // held while lists are read; guards what follows
	shown   time.Time  // when they were last seen to show what others have bought
	fails   time.Time  // when they last did not
	missing string     // what was missing then
}

func (c *Credentials) set(w *Whose) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = w
}

func (c *Credentials) get() (*Whose, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known, c.halted
}

// Whose asks the cloud whose the account's credentials are, unless it is known.
// The error is *issuer.Error: it is not known yet.
func (a *Account) Whose(ctx context.Context) (Whose, error) {
	if a.Credentials == nil {
		return a.ask(ctx)
	}
	c := a.Credentials
	c.asking.Lock()
	defer c.asking.Unlock()
	if known, _ := c.get(); known != nil {
		return *known, nil
	}
	return a.Ask(ctx)
}

// Ask asks the cloud anew, and remembers the answer. Without one, what was known
// stays. For the error see Whose.
func (a *Account) Ask(ctx context.Context) (Whose, error) {
	w, err := a.ask(ctx)
	if err == nil {
		a.Credentials.set(&w)
	}
	return w, err
}

// Assume takes the main account that is configured for the one that calls, until
// the cloud says otherwise: it did not answer.
func (a *Account) Assume(why error) Whose {
	w := a.silent(why)
	a.Credentials.set(&w)
	return w
}

// Know takes an answer that was given elsewhere to the same key.
func (a *Account) Know(w Whose) { a.Credentials.set(&w) }

// WhoseOf is an answer that was kept.
func WhoseOf(id account.Identity) Whose {
	return Whose{Main: id.Main, Caller: id.Caller, Kind: id.Kind, Told: !id.Silent, All: !id.Silent && id.Caller == id.Main}
}

// Identity is the answer as it is kept.
func (w Whose) Identity(key string, at time.Time) account.Identity {
	return account.Identity{Main: w.Main, Caller: w.Caller, Kind: w.Kind, Key: key, Silent: !w.Told, At: at}
}

// Known is what Whose last said; the zero value while nothing is known.
func (a *Account) Known() Whose {
	if a.Credentials != nil {
		if known, _ := a.Credentials.get(); known != nil {
			return *known
		}
	}
	return Whose{}
}

// ask asks once. A cloud that refuses the question, without a word against the
// credentials, does not tell: the account is whose the config says.
func (a *Account) ask(ctx context.Context) (Whose, error) {
	id, err := a.Cloud.Identify(ctx)
	switch {
	case err == nil:
		return Whose{Main: id.Main, Caller: cmp.Or(id.Caller, account.Unnamed(a.key())), Kind: id.Kind, Told: true, All: id.IsMain()}, nil
	case issuer.KindOf(err) == issuer.Rejected:
		return a.silent(err), nil
	}
	return Whose{}, err
}

func (a *Account) silent(why error) Whose {
	return Whose{Main: a.Main, Caller: account.Unnamed(a.key()), Silent: why}
}

func (a *Account) key() string {
	if a.Credentials == nil {
		return ""
	}
	return a.Credentials.Key
}

// Halt lets nothing be called with the account any more, for a reason that is the
// sentence for everybody.
func (a *Account) Halt(why error) {
	a.Credentials.mu.Lock()
	defer a.Credentials.mu.Unlock()
	a.Credentials.halted = why
}

// Stopped is why nothing may be called with the account: its credentials are
// another main account's than the config says, or its main account is not known.
// nil: nothing is wrong with it, as far as is known.
func (a *Account) Stopped() error {
	if a.Credentials == nil {
		return nil
	}
	w, halted := a.Credentials.get()
	switch {
	case halted != nil:
		return halted
	case w != nil && w.Told && w.Main != a.Main:
		return &Stranger{Label: a.Label, Main: a.Main, Is: *w}
	}
	return nil
}

// Stranger is an account whose credentials are another main account's than its
// config says. Its error is the sentence for everybody.
type Stranger struct {
	Label string // of the config
	Main  string // what the config says
	Is    Whose  // what the cloud says
}

func (e *Stranger) Error() string {
	return fmt.Sprintf("account %s is stopped: the config says main account %s, and the cloud says that its access key is of %s; "+
		"write main: %q for accounts.%s, or the key of %s, and start again",
		e.Label, e.Main, e.Is.Main, e.Is.Main, e.Label, e.Main)
}

// Unwitnessed: the lists that a caller reads may not be taken for everything that
// there is. Its error is a sentence that says what helps.
type Unwitnessed struct {
	Label  string
	Caller string
	Why    string
}

func (e *Unwitnessed) Error() string {
	return fmt.Sprintf("account %s calls as %s, %s, so that its list cannot say what was not bought; "+
		"give the account the earlier credentials back, or those of the main account itself; or, once you have seen in the cloud's console "+
		"that %s is shown everything that was bought there: certmill first-use %s", e.Label, e.Caller, e.Why, e.Caller, e.Label)
}

// settled gives an order that was taken before anybody knew of which main account
// its account is that main account. Until then nothing was sent for it, and nobody
// can look what an earlier life has sent: what an order has spent is kept by main
// account.
func settled(o *order.Order, a *Account) error {
	switch {
	case o.Main != "":
		return nil
	case a.Main == "":
		return refuse("nobody knows yet of which main account %s is: %v", a, cmp.Or(a.Stopped(), errors.New("its cloud was not asked")))
	}
	o.Main = a.Main
	return nil
}

// untouched: the record knows nothing that was sent for the order.
func untouched(o order.Order) bool {
	return o.State == order.Submit && o.Attempt == 0 && o.CloudID == "" && o.Resource == ""
}

// mended: an order was taken for another main account than the label is of now,
// because the config was mended. One of which nothing was ever sent moves along;
// any other stays where its ledger is, for a person to decide.
func (s *Submitter) mended(o order.Order, a *Account) (order.Order, error) {
	raised, err := s.Keys.Number(ref(o))
	if err != nil {
		return o, err
	}
	if raised.Attempt > 0 || !untouched(o) {
		return o, ofAnother(o, a)
	}
	o.Main = a.Main
	return o, nil
}

func ofAnother(o order.Order, a *Account) error {
	return pipeline.Hold((&Elsewhere{Label: a.Label, Main: a.Main, Was: o.Main}).Error()+", then retry", "certmill retry "+o.ID())
}

// Strayed is what stops an order whose label is of main now, and was of another main
// account when the order was taken; nil if nothing does: it is the same one, nobody
// knows yet which it is, or nothing was sent and the order moves along. MUST be asked,
// here or by Accounts, before anything is asked or concluded for an order by the account
// of its label.
func Strayed(o order.Order, label, main string) error {
	if main == "" || o.Main == "" || o.Main == main || untouched(o) {
		return nil
	}
	return &Elsewhere{Label: label, Main: main, Was: o.Main}
}

// Elsewhere: an order was taken for another main account than its label is of now.
// What the label's clouds say says nothing of it.
type Elsewhere struct{ Label, Main, Was string }

func (e *Elsewhere) Error() string {
	return fmt.Sprintf("it was taken for main account %s, and account %s is of %s now: write main: %q for an account "+
		"of that label again, and the key that belongs to it", e.Was, e.Label, e.Main, e.Was)
}

// May tells whether anything may be called with the account: it is known whose
// its credentials are, and they are not another main account's than the config
// says.
func (a *Account) May(ctx context.Context) error {
	if why := a.Stopped(); why != nil {
		return why
	}
	if _, err := a.Whose(ctx); err != nil {
		return fmt.Errorf("nothing is called with account %s until its cloud has said whose its key is: %w", a.Label, err)
	}
	return a.Stopped()
}

// Numbers tells whose calls a key store remembers.
type Numbers interface {
	// Callers counts the attempt numbers that were raised for a main account, by
	// caller; "" stands for those that name none.
	Callers(ctx context.Context, main string) (map[string]int, error)
}

// Guard says what the lists that this session reads are worth: a cloud order that
// they do not show was never bought only where it is certain whose lists they are,
// and that they show everything (DESIGN 12.7).
type Guard struct {
	Ledger      *ledger.Ledger
	States      *account.Accounts
	Incarnation string  // of the streams
	Numbers     Numbers // nil: no key store is at hand
	Now         func() time.Time
}

// MayDeny tells whether a list that a reads now may say that the open attempt at
// main bought nothing. nil: it may. Else *Unwitnessed, *Stranger or *Elsewhere:
// it may not, until somebody does what the sentence says; any other error: it
// could not be found out. MUST be asked before an attempt is ended as not bought,
// by whomever, and before an order is given up because of what a list says.
func (g Guard) MayDeny(ctx context.Context, a *Account, main string, open ledger.Attempt) error {
	if a.Main != main {
		return &Elsewhere{Label: a.Label, Main: a.Main, Was: main}
	}
	w, err := g.own(ctx, a)
	if err != nil || w.All || w.Caller == open.Caller {
		return err // whoever sent it reads its own
	}
	return g.proved(ctx, a, w, fmt.Sprintf("and the attempt was made as %s", cmp.Or(open.Caller, "nobody knows whom")))
}

// MayMark tells whether a complete list that a reads may be the first sweep of
// the account. Else the errors are those of MayDeny. MUST be asked before the
// mark is set.
func (g Guard) MayMark(ctx context.Context, a *Account) error {
	w, err := g.own(ctx, a)
	if err != nil || w.All {
		return err
	}
	others, err := g.others(ctx, a, w)
	switch {
	case err != nil:
		return err
	case len(others) == 0:
		return nil // nobody else has ever called
	}
	return g.proved(ctx, a, w, "and calls were made there before as "+strings.Join(others, ", "))
}

// MaySkipWait tells whether the operator's word that nothing was ever bought on
// the account lets the first sweep begin at once: not where the key store knows
// better. The word is then for the caller's lists alone (MayMark).
func (g Guard) MaySkipWait(ctx context.Context, a *Account) (bool, error) {
	if g.States.State(a.Main).FirstUse != g.Incarnation {
		return false, nil
	}
	if g.Numbers == nil {
		return true, nil
	}
	known, err := g.Numbers.Callers(ctx, a.Main)
	return err == nil && len(known) == 0, err
}

// own makes sure that the account's lists are its main account's.
func (g Guard) own(ctx context.Context, a *Account) (Whose, error) {
	w, err := a.Whose(ctx)
	if err != nil {
		return w, err
	}
	if w.Main != a.Main {
		return w, &Stranger{Label: a.Label, Main: a.Main, Is: w}
	}
	return w, nil
}

// others are the callers, besides this one, of whom the ledger or the key store
// knows a call on the main account.
func (g Guard) others(ctx context.Context, a *Account, w Whose) ([]string, error) {
	seen := map[string]bool{}
	_, err := g.Ledger.Each(ctx, a.Main, func(e ledger.Entry) error {
		for _, at := range e.Attempts {
			seen[at.Caller] = true
		}
		return nil
	})
	if err == nil && g.Numbers != nil {
		var known map[string]int
		known, err = g.Numbers.Callers(ctx, a.Main)
		for who := range known {
			seen[who] = true
		}
	}
	delete(seen, w.Caller)
	var all []string
	for who := range seen {
		all = append(all, cmp.Or(who, "somebody unknown"))
	}
	slices.Sort(all)
	return all, err
}

// How long it holds that a caller's lists show what others have bought, and that
// they do not: rights may be taken away, or given, at any time.
const (
	shownHolds = time.Hour
	failsHolds = time.Minute
)

// proved tells whether a caller's lists show everything: they show what earlier
// entries claim that others have bought, or an operator vouches for them.
func (g Guard) proved(ctx context.Context, a *Account, w Whose, who string) error {
	if g.States.State(a.Main).VouchedFor(g.Incarnation, w.Caller) {
		return nil
	}
	c := a.Credentials
	if c == nil {
		c = &Credentials{}
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	now := g.Now()
	if now.Sub(c.shown) < shownHolds {
		return nil
	}
	if now.Sub(c.fails) >= failsHolds {
		missing, err := g.compare(ctx, a, w)
		if err != nil {
			return err
		}
		if missing == "" {
			c.shown = now
			return nil
		}
		c.fails, c.missing = now, missing
	}
	return &Unwitnessed{Label: a.Label, Caller: w.Caller, Why: who + ", " + c.missing}
}

// mostWitnesses is how many of the newest purchases of others a list must show.
const mostWitnesses = 20

// witness is something that another caller bought.
type witness struct {
	cloudID, action, caller string
	at                      time.Time
}

// compare reads the account's lists and looks for the newest cloud orders that
// others have bought. It returns what is missing to trust the lists, in words.
func (g Guard) compare(ctx context.Context, a *Account, w Whose) (string, error) {
	wanted, err := g.witnesses(ctx, a, w)
	if err != nil || len(wanted) == 0 {
		return "of which nothing is known that its list should show", err
	}
	missing := map[string]witness{}
	for _, x := range wanted {
		missing[x.cloudID] = x
	}
	for _, flow := range a.Cloud.Flows() {
		all, ok := flow.(issuer.AllLister)
		if !ok || !slices.ContainsFunc(wanted, func(x witness) bool { return x.action == flow.Action() && missing[x.cloudID].action != "" }) {
			continue
		}
		err := eachRow(ctx, all.All, func(row issuer.Row) error {
			if delete(missing, row.CloudID); len(missing) == 0 {
				return errFound
			}
			return nil
		})
		if err != nil && !errors.Is(err, errFound) {
			return "", err
		}
	}
	for _, x := range wanted { // the newest
		if _, is := missing[x.cloudID]; is {
			return fmt.Sprintf("whose cloud order %s its list does not show (nor %d more of the last %d)",
				x.cloudID, len(missing)-1, len(wanted)), nil
		}
	}
	return "", nil
}

// errFound ends the reading of a list.
var errFound = errors.New("found")

// witnesses are the newest cloud orders that others have bought, the newest
// first: of those that a list of a's can show by now.
func (g Guard) witnesses(ctx context.Context, a *Account, w Whose) ([]witness, error) {
	var all []witness
	late := g.Now().Add(-a.Waits.ListLag)
	_, err := g.Ledger.Each(ctx, a.Main, func(e ledger.Entry) error {
		for _, c := range e.Claims {
			by, ok := e.Last(c.Order)
			if !ok || by.Attempt != c.Attempt || by.Caller == w.Caller || c.At.After(late) {
				continue
			}
			if _, lists := a.Flow(by.Action).(issuer.AllLister); lists {
				all = append(all, witness{c.CloudID, by.Action, by.Caller, c.At})
			}
		}
		return nil
	})
	slices.SortFunc(all, func(x, y witness) int { return y.at.Compare(x.at) })
	return all[:min(len(all), mostWitnesses)], err
}
