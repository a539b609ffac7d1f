package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
)

// Order hands a batch in; with follow it waits for the orders to end. It needs the
// streams and nothing else: what the config's accounts would do with the orders is
// shown where it has some.
func (c *Console) Order(ctx context.Context, b Batch, view View, follow, urgent bool) (Summary, error) {
	began := time.Now()
	b, in, err := c.bring(ctx, b, view, urgent)
	if err != nil {
		return Summary{}, err
	}
	if !follow {
		return Summary{Orders: len(b.Requests), Known: in.known, KnownAs: b.knownAs(), New: in.fresh, Bad: b.Bad}, nil
	}
	ended, err := c.follow(ctx, in.wanted, view.Moved)
	sum := summarise(b, in, ended, time.Since(began))
	sum.Certificates = c.cfg.Deliver.Directory
	view.Ended(sum)
	return sum, err
}

// bring says what there is of a batch and what will be spent, and hands it in then.
func (c *Console) bring(ctx context.Context, b Batch, view View, urgent bool) (Batch, handed, error) {
	l, err := c.lookUp(ctx, b)
	if err != nil {
		return b, handed{}, err
	}
	view.Planned(count(l.steps), l.Batch)
	if len(l.OnceMore) > 0 && b.Agree != nil {
		if err := b.Agree(l.OnceMore); err != nil {
			return b, handed{}, err
		}
	}
	in, err := c.hand(ctx, l.ins, urgent)
	if err == nil {
		view.HandedIn(in.known, in.fresh)
	}
	return l.Batch, in, err
}

// operator carries out a person's verbs that need the books alone.
func (c *Console) operator(who string) *stage.Operator {
	return &stage.Operator{Ledger: c.ledger, States: c.states, Line: c.line, Who: who}
}

// Retry sends a held or failed order where its record says. See
// stage.Operator.Retry.
func (c *Console) Retry(ctx context.Context, who, id string) error {
	p := c.operator(who)
	if ways, err := c.routes(); err == nil {
		p.Accounts = ways
	}
	return p.Retry(ctx, id)
}

// Approve lets an order that was held before it was bought go on, past the fact
// that its question named. See stage.Operator.Approve.
func (c *Console) Approve(ctx context.Context, who, id, fact string) error {
	return c.operator(who).Approve(ctx, id, fact)
}

// Adopt says that a cloud order is this order's purchase. It asks the cloud, and
// needs the key store.
func (c *Console) Adopt(ctx context.Context, who, id, cloudID string) error {
	return c.decide(ctx, who, func(p *stage.Operator) error { return p.Adopt(ctx, id, cloudID) })
}

// BuyAgain buys once more what an order bought. See stage.Operator.BuyAgain.
func (c *Console) BuyAgain(ctx context.Context, who, id string) (next pipeline.Item, made bool, err error) {
	return c.buyer(ctx, who).BuyAgain(ctx, id)
}

// BuysAgain tells whether BuyAgain would buy, and why it would be refused.
func (c *Console) BuysAgain(ctx context.Context, id string) (bool, error) {
	return c.buyer(ctx, "").BuysAgain(ctx, id)
}

// buyer is an operator who buys again: where the key store is at hand, it knows more
// ids than the streams.
func (c *Console) buyer(ctx context.Context, who string) *stage.Operator {
	p := c.operator(who)
	if keys, err := c.keyStore(ctx); err == nil {
		p.Keys = keys
	}
	return p
}

// Cancel gives an order up. It may ask the cloud, and needs the key store.
func (c *Console) Cancel(ctx context.Context, who, id string) error {
	return c.decide(ctx, who, func(p *stage.Operator) error { return p.Cancel(ctx, id) })
}

// NotBought says that an open attempt bought nothing. It may ask the cloud, and
// needs the key store.
func (c *Console) NotBought(ctx context.Context, who, id string) error {
	return c.decide(ctx, who, func(p *stage.Operator) error { return p.NotBought(ctx, id) })
}

// decide carries out a verb that goes by more than the books.
func (c *Console) decide(ctx context.Context, who string, verb func(*stage.Operator) error) error {
	keys, err := c.keyStore(ctx)
	if err != nil {
		return err
	}
	h, err := c.reach()
	if err != nil {
		return err
	}
	p := c.operator(who)
	p.Accounts, p.Keys = h.accounts, keys
	p.Guard = c.guard(keys)
	return noWorker(verb(p))
}

// Archive writes the orders that ended longer ago than age to w, one JSON
// document a line, and then replaces each by an empty message. What was written
// twice, because it stopped in between, is the same. flush MUST make what was
// written durable.
func (c *Console) Archive(ctx context.Context, age time.Duration, w io.Writer, flush func() error) (n int, err error) {
	var page []pipeline.Item
	end := func() error {
		if err := flush(); err != nil {
			return err
		}
		for _, it := range page {
			if err := c.line.Archive(ctx, it); err != nil && !errors.Is(err, pipeline.ErrMoved) {
				return err
			}
			n++
		}
		page = page[:0]
		return nil
	}
	for _, s := range []order.State{order.Issued, order.Failed} {
		err := c.line.Each(ctx, s, "*", func(it pipeline.Item) error {
			if time.Since(it.Stored) < age {
				return nil
			}
			body, err := it.Order.Encode()
			if err != nil {
				return err
			}
			if _, err := w.Write(append(body, '\n')); err != nil {
				return fmt.Errorf("write archive: %w", err)
			}
			if page = append(page, it); len(page) == 500 {
				return end()
			}
			return nil
		})
		if err != nil {
			return n, err
		}
	}
	return n, end()
}

// Pause rests a label until it is resumed.
func (c *Console) Pause(ctx context.Context, label, why string) error {
	main, err := c.main(ctx, label)
	if err != nil {
		return err
	}
	return c.states.Pause(ctx, main, label, account.Pause{Why: why, Since: time.Now().UTC()})
}

// Resume ends the rest of a label, or of one exhausted product.
func (c *Console) Resume(ctx context.Context, label, product string) error {
	main, err := c.main(ctx, label)
	if err != nil {
		return err
	}
	if product == "" {
		return c.states.Resume(ctx, main, label)
	}
	without := c.states.State(main).Exhausted
	if _, is := without[product]; !is {
		return fmt.Errorf("product %q does not rest at account %s; those without quota there: %s", product, label,
			cmp.Or(strings.Join(sorted(without), ", "), "none"))
	}
	return c.states.Replenish(ctx, main, product)
}

// calls are the actions that certmill makes at an account with permits; those of all
// clouds where nobody here knows which its cloud is.
func (c *Console) calls(label string) issuer.Calls {
	clouds := vendors()
	if p, known := clouds[c.cfg.Accounts[label].Cloud]; known {
		clouds = map[string]Provider{"": p}
	}
	var all issuer.Calls
	for _, p := range clouds {
		all = append(all, p.limited()...)
	}
	return all
}

// Limit changes how many calls a second a main account may make to an API
// action; 0 means what the config says. More than the cloud documents, or than the
// config says was granted, would only be throttled there. A lower one holds at once,
// a higher one a few seconds later.
func (c *Console) Limit(ctx context.Context, label, action string, calls int) error {
	main, err := c.main(ctx, label)
	if err == nil {
		err = c.limitable(label, action, calls)
	}
	if err != nil {
		return err
	}
	return c.states.Change(ctx, main, func(s *account.State) {
		if s.Limits == nil {
			s.Limits = map[string]int{}
		}
		s.Limits[action] = calls
	})
}

// limitable says why an account's calls of an action cannot have a limit.
func (c *Console) limitable(label, action string, calls int) error {
	all := c.calls(label)
	call, makes := all.Find(action)
	most, whose := call.Most(), "is what its cloud documents"
	if n := c.cfg.Accounts[label].Limits[action]; n > most {
		most, whose = n, fmt.Sprintf("is what accounts.%s.limits of the config says was granted", label)
	}
	switch {
	case !makes:
		return fmt.Errorf("certmill makes no call %q that has a limit; write one as the cloud spells it: %s",
			action, strings.Join(all.Actions(), ", "))
	case calls < 0:
		return fmt.Errorf("%d calls a second cannot be; certmill pause %s stops the account", calls, label)
	case calls > most:
		return fmt.Errorf("%d calls a second are more than account %s may make of %s: %d %s, and the cloud refuses what is above; "+
			"write 1 to %d, or 0 for what the config says. "+
			"What the cloud grants an account beyond that stands in accounts.%s.limits of the workers' config",
			calls, label, action, most, whose, most, label)
	}
	return nil
}

// Limited says how many calls a second are made of an action once Limit was given
// that number.
func (c *Console) Limited(label, action string, calls int) string {
	if calls > 0 {
		return fmt.Sprintf("%d a second", calls)
	}
	a, here := c.cfg.Accounts[label]
	call, _ := c.calls(label).Find(action)
	switch n := a.Limits[action]; {
	case n > 0:
		return fmt.Sprintf("%d a second again, as accounts.%s.limits of the config says", n, label)
	case here:
		return fmt.Sprintf("%d a second again: the config says nothing of it, so what the cloud documents holds", call.Most())
	}
	return fmt.Sprintf("what accounts.%s.limits of the workers' config says again, or, where it says nothing of it, "+
		"what the cloud documents: %d a second", label, call.Most())
}

// FirstUse says, for this incarnation of the streams, that nothing can have been
// bought on the account by an earlier installation, or that the lists of who calls
// with the label show it: where the submitters' key store knows better, it holds
// for the second alone (stage.Guard). It is refused where nothing would come of it: a
// person who wants an account to begin must not be led to this word by a wrong key.
func (c *Console) FirstUse(ctx context.Context, label string) error {
	main, err := c.main(ctx, label)
	if err == nil {
		err = c.hopeless(label, main)
	}
	if err != nil {
		return fmt.Errorf("nothing was noted, and it would not help: %w", err)
	}
	return c.states.Change(ctx, main, func(s *account.State) {
		if id, known := s.Identities[label]; known && id.Main == main {
			s.Vouch(c.line.Incarnation(), id.Caller)
		} else { // no worker knows yet who calls
			s.Vouch(c.line.Incarnation())
		}
	})
}

// FirstUsed says what came of that word.
func (c *Console) FirstUsed(ctx context.Context, label string) string {
	if main, err := c.main(ctx, label); err == nil && c.states.State(main).Marked(c.line.Incarnation()) {
		return label + " was swept already, and waits for nothing; noted is that its lists show all that was bought there"
	}
	return "the first sweep of " + label + " waits for no earlier calls"
}

// firstUseSaid tells whether somebody has given that word for this incarnation.
func (c *Console) firstUseSaid(s account.State) bool { return s.FirstUse == c.line.Incarnation() }

// Restored begins a new incarnation of the streams, after they were put back
// from a copy. See pipeline.Renew.
//
// Where no server is named it is that of the state folder, whether a run works there
// or none does. One that works ends itself, as all workers do.
func Restored(ctx context.Context, c Config, log *slog.Logger) error {
	err := OnServer(ctx, c, func(c Config) error { return renew(ctx, c, log) })
	if errors.Is(err, errWorksThere) {
		return renew(ctx, c.Beside(), log)
	}
	return err
}

func renew(ctx context.Context, c Config, log *slog.Logger) error {
	c.NATS = c.NATS.by(Admin)
	console, err := OpenConsole(ctx, c, log)
	if err != nil {
		return err
	}
	defer console.Close()
	return console.Because(pipeline.Renew(ctx, console.js))
}
