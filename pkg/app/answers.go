package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/stage"
)

// answers are what this session's clouds answered last where something is wrong, by
// label and by what was asked. They stand in the label's state too, where all who
// look see them; each is logged once.
type answers struct {
	mu  sync.Mutex // guards all
	all map[string]map[string]account.Trouble
}

// of are a label's.
func (a *answers) of(label string) (all []account.Trouble) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, asked := range sorted(a.all[label]) {
		all = append(all, a.all[label][asked])
	}
	return all
}

// set keeps one, and tells whether it is another than before.
func (a *answers) set(label, asked string, t account.Trouble) (news bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all == nil {
		a.all = map[string]map[string]account.Trouble{}
	}
	if a.all[label] == nil {
		a.all[label] = map[string]account.Trouble{}
	}
	news = true
	for _, was := range a.all[label] { // to whatever was asked
		news = news && was.What != t.What
	}
	a.all[label][asked] = t
	return news
}

func (a *answers) drop(label, asked string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.all[label], asked)
}

// answered keeps what is wrong with a label by its cloud's last answer: err, where
// it is not the config that is wrong.
func (s *session) answered(ctx context.Context, a *stage.Account, asked string, t account.Trouble, err error) {
	if ctx.Err() != nil {
		return
	}
	if s.answers.set(a.Label, asked, t) {
		log := s.log.WarnContext
		if t.Stops || t.Code != "" {
			log = s.log.ErrorContext
		}
		log(ctx, t.What, "account", a.Label, "main", a.Main, "code", t.Code, "helps", t.Helps, "err", err)
	}
	// A crash before this leaves what the state had; the next session asks again.
	for _, r := range s.roles {
		t.Kind, t.Last = account.AnswerTo(string(r), asked), time.Now().UTC().Truncate(time.Second)
		if _, err := s.states.TellLabel(ctx, a.Label, t); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "what an account's cloud answered could not be stored", "account", a.Label, "err", err)
		}
	}
}

// well: the cloud answers as it should.
func (s *session) well(ctx context.Context, a *stage.Account, asked string) {
	s.answers.drop(a.Label, asked)
	for _, r := range s.roles {
		if err := s.states.CalmLabel(ctx, a.Label, account.AnswerTo(string(r), asked)); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "that an account's cloud answers again could not be stored", "account", a.Label, "err", err)
		}
	}
}

// lists is a sweep that reads the account's lists, whose answer is kept.
func (s *session) lists(f func(context.Context, *stage.Account) error) func(context.Context, *stage.Account) error {
	return func(ctx context.Context, a *stage.Account) error {
		err := f(ctx, a)
		s.listed(ctx, a, err)
		return err
	}
}

// listed keeps how the account's cloud answered for its list.
func (s *session) listed(ctx context.Context, a *stage.Account, err error) {
	switch {
	case err == nil:
		s.well(ctx, a, account.AskedList)
	case issuer.KindOf(err) == issuer.Credentials:
		t := refusedBy(a.Label, err)
		if s.states.State(a.Main).Marked(s.line.Incarnation()) { // it buys all the same: a right may be missing
			t.What = fmt.Sprintf("account %s: its cloud does not show its list: %s", a.Label, t.Code)
			t.Code = ""
		}
		s.answered(ctx, a, account.AskedList, t, err)
	}
}

// refusedBy is what it means that a cloud refuses a label's credentials. It has
// neither the cloud's message nor its request id, which differ from call to call.
func refusedBy(label string, err error) account.Trouble {
	e, _ := errors.AsType[*issuer.Error](err)
	code := cmp.Or(e.Code, string(e.Kind))
	return account.Trouble{Code: code,
		What: fmt.Sprintf("account %s: its cloud refuses its credentials: %s", label, code),
		Helps: fmt.Sprintf("%s (it was asked %s); they are accounts.%s.secret and accounts.%s.key_id of the workers' config: "+
			"once those are changed, start the workers again", e.Advice("en"), e.Action, label, label)}
}

// silentTo is what it means that a cloud does not answer whose a label's key is.
func silentTo(label string, err error) account.Trouble {
	if issuer.KindOf(err) == issuer.Credentials {
		return refusedBy(label, err)
	}
	what := fmt.Sprintf("account %s: its cloud does not answer whose its key is: %s", label, short(wordOf(err)))
	return account.Trouble{What: what, Helps: "it is asked again and again; see whether the workers reach it"}
}

// wordOf is an error without what differs from call to call.
func wordOf(err error) string {
	e, ok := errors.AsType[*issuer.Error](err)
	switch {
	case !ok:
		return err.Error()
	case e.Code != "":
		return e.Code
	case e.Err != nil:
		return e.Err.Error()
	}
	return string(e.Kind)
}

// sentence is a trouble of an account in one sentence.
func sentence(t account.Trouble) string {
	if t.Helps == "" {
		return t.What
	}
	return t.What + ": " + t.Helps
}

// wrongAccounts are the sentences of the accounts that are stopped, or with which
// something is wrong by their clouds' last answers, by label; works counts those
// that are neither stopped nor refused.
func (s *session) wrongAccounts() (by map[string]string, works int) {
	by = map[string]string{}
	for label, a := range s.accounts {
		halts := false
		for _, t := range s.answers.of(label) {
			by[label] = sentence(t)
			halts = halts || t.Stops || t.Code != ""
		}
		if why := a.Stopped(); why != nil {
			by[label], halts = why.Error(), true
		}
		if !halts {
			works++
		}
	}
	return by, works
}

// failureOf tells one failure from another, whatever differs from call to call.
func failureOf(err error) string {
	if e, ok := errors.AsType[*issuer.Error](err); ok {
		return fmt.Sprint(e.Kind, e.Action, e.Code)
	}
	return err.Error()
}

// onceEach tells in the log of what fails again and again: once of each cause in a row.
type onceEach struct {
	mu   sync.Mutex // guards last
	last map[string]string
}

// news tells whether the cause is another than the last one; nil ends it.
func (o *onceEach) news(what string, err error) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		delete(o.last, what)
		return false
	}
	if o.last == nil {
		o.last = map[string]string{}
	}
	was := o.last[what]
	o.last[what] = failureOf(err)
	return was != o.last[what]
}

// wrong is what is wrong with an account by what its workers were told last: what
// stops it first. label may be empty. main is that of an order, perhaps, which was
// taken when the label was of another one: how the account stands goes by the label.
func (c *Console) wrong(label, main string) (all []account.Trouble) {
	now := time.Now()
	main = cmp.Or(c.mainOf(label), main)
	if state := c.states.State(main); main != "" {
		if why := stranger(state, label, main); why != "" {
			all = append(all, account.Trouble{Label: label, What: why, Stops: true, Since: state.Identities[label].At})
		}
	}
	told := c.states.OfLabel(label, now)
	slices.SortStableFunc(told, func(x, y account.Trouble) int { return cmp.Compare(rank(x), rank(y)) })
	return append(all, told...)
}

// mainOf is the main account of a label, by the config or by what workers were told;
// empty where nobody knows it.
func (c *Console) mainOf(label string) string {
	if main := c.cfg.Accounts[label].Main; main != "" {
		return main
	}
	for _, main := range c.states.Mains() {
		if _, is := c.states.State(main).Identities[label]; is {
			return main
		}
	}
	return ""
}

// rank orders troubles: what stops an account, what is refused, and the rest.
func rank(t account.Trouble) int {
	switch {
	case t.Stops:
		return 0
	case t.Code != "":
		return 1
	}
	return 2
}

// needsMending is the trouble for which nothing can come of an account until somebody
// mends it.
func needsMending(all []account.Trouble) (t account.Trouble, is bool) {
	if len(all) == 0 || rank(all[0]) > 1 {
		return t, false
	}
	return all[0], true
}

// hopeless is what is wrong with an account with which nothing goes on until
// somebody mends it, for verbs that would not help. main may be empty.
func (c *Console) hopeless(label, main string) error {
	if t, is := needsMending(c.wrong(label, main)); is {
		return errors.New(sentence(t))
	}
	return nil
}

// awaitsMain is the sentence for an account of the config of which nobody knows the
// main account, and no worker has said why.
func awaitsMain(label string) string {
	return fmt.Sprintf("nobody knows yet of which main account %s is: start the workers, which ask its cloud, "+
		"or write accounts.%s.main", label, label)
}
