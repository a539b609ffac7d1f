package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/stage"
	"github.com/certmill/certmill/pkg/stream"
)

// Of which main account an account is, its cloud says (DESIGN 12.7): once a
// session, without a permit. Until then nothing is called with it, and after an
// answer that is not what the config says nothing is either; the others go on.

// settle fills in the main accounts that the config leaves out, before anything
// is opened that goes by main account: rings, ledger, states. Those that are not
// known stay empty, with the reason, a sentence, by label.
func (p *Process) settle(ctx context.Context, states *account.Accounts) (Config, map[string]error, error) {
	c, why := p.cfg, map[string]error{}
	c.Accounts = maps.Clone(c.Accounts)
	if !lacksMain(c) {
		return c, why, nil
	}
	none := permit.NewSet(c.limits(nil)) // the question takes no permit
	asked, err := openClouds(c, none, p.simulated, nil)
	if err != nil {
		return c, nil, err
	}
	failed := p.findAll(ctx, states, asked.accounts)
	for _, label := range sorted(c.Accounts) {
		if a := c.Accounts[label]; a.Main == "" {
			a.Main, why[label] = c.fits(label, asked.accounts[label].Known(), failed[label])
			a.found = true
			c.Accounts[label] = a
		}
	}
	return c, why, nil
}

func lacksMain(c Config) bool {
	for _, a := range c.Accounts {
		if a.Main == "" {
			return true
		}
	}
	return false
}

// findAll finds out whose the accounts are that the config gives no main account. It
// returns why that was not to be had, by label.
func (p *Process) findAll(ctx context.Context, states *account.Accounts, all stage.Accounts) map[string]error {
	failed := map[string]error{}
	var mu sync.Mutex // guards failed
	var wg sync.WaitGroup
	for label, a := range all {
		if a.Main != "" {
			continue
		}
		wg.Go(func() {
			err := p.found(ctx, states, a)
			mu.Lock()
			defer mu.Unlock()
			failed[label] = err
		})
	}
	wg.Wait()
	return failed
}

// found finds out whose an account is that the config gives no main account: an
// access key never changes hands, so what was once said of it holds.
func (p *Process) found(ctx context.Context, states *account.Accounts, a *stage.Account) (err error) {
	p.mu.Lock()
	was, known := p.whose[a.Credentials.Key]
	p.mu.Unlock()
	if known {
		a.Know(was)
		return nil
	}
	if id, known := remembered(states, a); known && !id.Silent {
		a.Know(stage.WhoseOf(id))
	} else {
		_, err = a.Ask(ctx) // fits says what it means that nothing is known
	}
	if w := a.Known(); w.Told {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.whose[a.Credentials.Key] = w
	}
	return err
}

// fits is the main account of a label that the config gives none, or why there is
// none yet; failed is why the cloud did not answer.
func (c Config) fits(label string, w stage.Whose, failed error) (string, error) {
	if !w.Told {
		return "", &unsettled{label: label, why: w.Silent, failed: failed}
	}
	a := c.Accounts[label]
	a.Main = w.Main
	for _, other := range sorted(c.Accounts) {
		if b := c.Accounts[other]; other != label && b.Main == a.Main {
			if err := a.agrees(label, b, other); err != nil {
				return "", fmt.Errorf("account %s is stopped: %w", label, err)
			}
		}
	}
	return w.Main, nil
}

// unsettled is an account of which nobody knows the main account.
type unsettled struct {
	label  string
	why    error // the cloud's word; nil: it did not answer
	failed error // why it did not, or what it said against the credentials; nil: not known
}

func (u *unsettled) Error() string { return sentence(u.trouble()) }

// trouble is what is wrong, and what to write.
func (u *unsettled) trouble() account.Trouble {
	const no = "the config names no main account for it, and its cloud "
	write := fmt.Sprintf("write accounts.%s.main and start again", u.label)
	switch {
	case u.why != nil:
		return account.Trouble{Stops: true, What: fmt.Sprintf("account %s is stopped: %sdoes not say whose its key is (%s)", u.label, no, wordOf(u.why)), Helps: write}
	case issuer.KindOf(u.failed) == issuer.Credentials:
		t := refusedBy(u.label, u.failed)
		t.Stops, t.What = true, fmt.Sprintf("account %s is stopped: %srefuses its credentials: %s", u.label, no, t.Code)
		return t
	}
	t := account.Trouble{Stops: true, What: fmt.Sprintf("account %s waits: %shas not answered yet whose its key is", u.label, no)}
	if u.failed != nil {
		t.What += " (" + short(wordOf(u.failed)) + ")"
	}
	t.Helps = "it is asked again and again; or " + write
	return t
}

// haltedBy is a trouble that the config makes.
func haltedBy(why error) account.Trouble {
	if u, ok := errors.AsType[*unsettled](why); ok {
		return u.trouble()
	}
	return account.Trouble{Stops: true, What: why.Error(), Helps: mendConfig}
}

const mendConfig = "mend the config of the account, and start the workers again"

// remembered is what the cloud said of the account's key in an earlier session.
// known is false where nothing was said of this very key; id is then what was said
// of the label, with another key.
func remembered(states *account.Accounts, a *stage.Account) (id account.Identity, known bool) {
	mains := states.Mains()
	if a.Main != "" {
		mains = []string{a.Main}
	}
	for _, main := range mains {
		was, is := states.State(main).Identities[a.Label]
		if is && was.Key == a.Credentials.Key {
			return was, true
		}
		if is {
			id = was
		}
	}
	return id, false
}

// errSettled ends a session whose accounts are not all of those that there are
// now.
var errSettled = errors.New("it is known now of which main account an account is; beginning anew with it")

// How often a cloud is asked that has not answered.
const (
	askedAtOnce = 2 // times
	askSoon     = time.Second
	askEvery    = time.Minute
)

// identify finds out of each account whose it is, and looks after those of which
// it is not known yet. It returns when ctx ends or nothing is left to be asked.
func (s *session) identify(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, a := range s.accounts {
		if why := s.unsettled[a.Label]; why != nil {
			wg.Go(func() { s.settleLater(ctx, a, why) })
			continue
		}
		wg.Go(func() { s.identifyOne(ctx, a) })
	}
	wg.Wait()
	return nil
}

// settleLater ends the session once the cloud has said whose the account's key
// is: the next one begins with it. Until then it keeps telling what is wrong.
func (s *session) settleLater(ctx context.Context, a *stage.Account, why error) {
	for {
		u, ok := errors.AsType[*unsettled](why)
		failed := why
		if ok {
			failed = cmp.Or(u.failed, u.why)
		}
		s.answered(ctx, a, account.AskedWhose, haltedBy(why), failed)
		if !ok || u.why != nil { // only the config can mend it
			if stream.Sleep(ctx, account.TroubleAgain) != nil {
				return
			}
			continue
		}
		if stream.Sleep(ctx, s.askEvery) != nil {
			return
		}
		w, err := a.Ask(ctx)
		if err == nil && w.Told {
			s.end(errSettled)
			return
		}
		why = &unsettled{label: a.Label, why: w.Silent, failed: err}
		a.Halt(why)
	}
}

// identifyOne asks until there is an answer. An account whose cloud does not
// answer works on with what was said of its key before; if nothing ever was, with
// what the config says, and any answer later holds. Only with another key than the
// one of which the cloud has spoken it waits: that one might be anybody's.
func (s *session) identifyOne(ctx context.Context, a *stage.Account) {
	s.recall(a)
	for asked := 1; ; asked++ {
		w, err := a.Ask(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			s.told(ctx, a, w)
			return
		}
		if s.unanswered(ctx, a, err, asked) {
			return
		}
	}
}

// recall takes what the process has asked already.
func (s *session) recall(a *stage.Account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, known := s.whose[a.Credentials.Key]; known {
		a.Know(w)
	}
}

// unanswered decides how an account goes on whose cloud did not answer, and waits
// until it is asked again. It tells whether ctx ended.
func (s *session) unanswered(ctx context.Context, a *stage.Account, err error, asked int) bool {
	id, same := remembered(s.states, a)
	every, t := s.askEvery, silentTo(a.Label, err)
	switch {
	case a.Known().Caller != "":
	case same:
		a.Know(stage.WhoseOf(id))
	case asked < askedAtOnce:
		return stream.Sleep(ctx, askSoon) != nil // once may be an accident
	case id.Caller != "" && !id.Silent:
		every, t.Stops = 10*askSoon, true
		t.What += "; it has another key than before, which may be anybody's, and waits"
	default:
		a.Assume(err)
	}
	s.answered(ctx, a, account.AskedWhose, t, err)
	return stream.Sleep(ctx, every) != nil
}

// told keeps an answer, and says what is wrong with it.
func (s *session) told(ctx context.Context, a *stage.Account, w stage.Whose) {
	log := s.log.With("account", a.Label, "main", a.Main)
	s.well(ctx, a, account.AskedWhose)
	switch why := a.Stopped(); {
	case why != nil:
		log.ErrorContext(ctx, why.Error(), "credentials_main", w.Main, "caller", w.Caller, "kind", w.Kind)
	case !w.Told:
		log.WarnContext(ctx, "the cloud does not say whose the account's credentials are; it stays as the config has it, "+
			"and another key or endpoint counts as another caller", "err", w.Silent)
	}
	// A crash before this leaves the answer of an earlier session, or none.
	err := s.states.Identified(ctx, a.Main, a.Label, w.Identity(a.Credentials.Key, time.Now().UTC().Truncate(time.Second)))
	if err == nil {
		err = s.states.Left(ctx, a.Main, a.Label)
	}
	if err != nil && ctx.Err() == nil {
		log.WarnContext(ctx, "whose the account's credentials are could not be stored", "err", err)
	}
}

// mayWork tells whether it is known whose the account is, and that it may work.
func mayWork(a *stage.Account) bool { return a.Known().Caller != "" && a.Stopped() == nil }

// guard says what the lists of this session's accounts are worth.
func (s *session) guard() stage.Guard {
	return newGuard(s.books, s.keys)
}

func (c *Console) guard(keys *certstore.KeyStore) stage.Guard {
	return newGuard(c.books, keys)
}

func newGuard(b books, keys *certstore.KeyStore) stage.Guard {
	g := stage.Guard{Ledger: b.ledger, States: b.states, Incarnation: b.line.Incarnation(), Now: time.Now}
	if keys != nil { // a nil pointer in the interface would not be nil
		g.Numbers = keys
	}
	return g
}

// meet asks whose the accounts are with which a console calls: with other keys
// than the workers', maybe. It returns what is wrong with those that are refused.
func (c *Console) meet(all stage.Accounts) map[string]account.Trouble {
	refused := map[string]account.Trouble{}
	var mu sync.Mutex // guards refused
	ctx, cancel := context.WithTimeout(context.Background(), meetTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, a := range all {
		wg.Go(func() {
			_, err := a.Ask(ctx)
			if issuer.KindOf(err) == issuer.Credentials {
				mu.Lock()
				refused[a.Label] = refusedBy(a.Label, err)
				mu.Unlock()
			}
			if err == nil {
				return
			} else if id, same := remembered(c.states, a); same {
				a.Know(stage.WhoseOf(id))
			} else if id.Caller == "" || id.Silent {
				a.Assume(err)
			}
		})
	}
	wg.Wait()
	return refused
}

const meetTime = 10 * time.Second

// Credentials says whose the account's credentials are, as the cloud said when a
// worker asked it last.
func (a AccountStatus) Credentials() string {
	if a.Identity == nil {
		return "not known"
	}
	id := *a.Identity
	if id.Silent {
		return "its cloud does not tell"
	}
	who, but := "of the main account", ""
	if id.Main != a.Main {
		who, but = "of main account "+id.Main, ", not "+a.Main
	}
	switch {
	case !id.Named():
		who += " or a user of it"
	case id.Caller != id.Main:
		who = strings.TrimSpace(id.Kind+" "+id.Caller) + " " + who
	}
	return who + but
}

// stranger is the sentence for an account whose key is another main account's than
// the one that it works for; "" if it is not.
func stranger(s account.State, label, main string) string {
	id, known := s.Identities[label]
	if !known || id.Silent || id.Main == main {
		return ""
	}
	return (&stage.Stranger{Label: label, Main: main, Is: stage.WhoseOf(id)}).Error()
}

// withMains fills in what workers have found out about accounts to which the
// config gives no main account. Nobody is asked.
func (c Config) withMains(states *account.Accounts) Config {
	c.Accounts = maps.Clone(c.Accounts)
	for label, a := range c.Accounts {
		if a.Main != "" {
			continue
		}
		for _, main := range states.Mains() {
			if id, is := states.State(main).Identities[label]; is && id.Main == main {
				a.Main, a.found = main, true
			}
		}
		c.Accounts[label] = a
	}
	return c
}
