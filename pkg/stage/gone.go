package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/ledger"
)

// Gone finds main accounts that no account of the config is of any more, although
// something is under way there: nobody looks whether open attempts bought anything,
// nor fetches what was bought (DESIGN 12.6). What is wrong is told; orders for other
// names go on without them.
type Gone struct {
	Accounts Accounts
	Ledger   *ledger.Ledger
	States   *account.Accounts
	Log      *slog.Logger
	Now      func() time.Time
}

// leftOpen is what is under way at a main account.
type leftOpen struct {
	attempts int       // of which nobody knows whether they bought anything
	bought   int       // purchases, and uses of something already bought, that are not issued
	order    string    // of the oldest
	since    time.Time // that one was begun
}

// began counts one more.
func (l *leftOpen) began(n *int, id string, at time.Time) {
	if *n++; l.order == "" || at.Before(l.since) {
		l.order, l.since = id, at
	}
}

// add counts what is under way for a set of names. What an order has taken for a
// resource counts as bought: whether it was started, nobody looks either.
func (l *leftOpen) add(e ledger.Entry) {
	open, is := e.OpenAttempt()
	if is {
		l.began(&l.attempts, open.Order, open.Opened)
	}
	for _, t := range e.Takes {
		has := t.Resource != "" || slices.ContainsFunc(e.Claims, func(c ledger.Claim) bool { return c.Order == t.Order })
		if t.End == "" && has && t.Order != open.Order {
			l.began(&l.bought, t.Order, t.Since)
		}
	}
}

// Sweep notes them in the states of those main accounts, where every command sees
// them, and logs each once an hour. What is there again, or was closed, is told no
// more.
func (g *Gone) Sweep(ctx context.Context) error {
	ours := map[string]bool{}
	for _, a := range g.Accounts {
		if a.Main == "" {
			return nil // it may be one of those: its cloud has not said yet
		}
		ours[a.Main] = true
	}
	all, err := g.find(ctx, ours)
	if err != nil {
		return err
	}
	for main, is := range all {
		err = errors.Join(err, g.tell(ctx, main, is))
	}
	for _, main := range g.States.Mains() {
		if _, gone := all[main]; !gone {
			err = errors.Join(err, g.States.Calm(ctx, main, account.Gone))
		}
	}
	return err
}

// find reads the whole ledger: which main accounts it has, nothing else says.
func (g *Gone) find(ctx context.Context, ours map[string]bool) (map[string]leftOpen, error) {
	all := map[string]leftOpen{}
	_, err := g.Ledger.Each(ctx, ledger.AnyMain, func(e ledger.Entry) error {
		if ours[e.Main] {
			return nil
		}
		is := all[e.Main]
		if is.add(e); is.order != "" {
			all[e.Main] = is
		}
		return nil
	})
	return all, err
}

func (g *Gone) tell(ctx context.Context, main string, is leftOpen) error {
	t := account.Trouble{Kind: account.Gone, Last: g.Now().UTC().Truncate(time.Second),
		What: fmt.Sprintf("no account of the workers' config is of main account %s any more, and nobody finds out there "+
			"what became of calls whose outcome is not known (open attempts: %d), nor fetches what was bought and is not issued (%d): "+
			"the oldest is that of order %s, of %s",
			main, is.attempts, is.bought, is.order, is.since.UTC().Format(time.RFC3339)),
		Helps: WriteAccount("<label>", main) + "; until then orders for the same names wait, and are held"}
	if was, told := g.States.State(main).Troubles[account.Gone]; told && was.What != t.What {
		if err := g.States.Calm(ctx, main, account.Gone); err != nil { // it has changed
			return err
		}
	}
	news, err := g.States.Tell(ctx, main, t)
	if news {
		g.Log.ErrorContext(ctx, t.What, "main", main, "helps", t.Helps)
	}
	return err
}

// WriteAccount is what helps where an account is in no worker's config.
func WriteAccount(label, main string) string {
	if main == "" {
		return fmt.Sprintf("write accounts.%s, with its cloud and its key, into the workers' config, "+
			"and start them again", label)
	}
	return fmt.Sprintf("write accounts.%s, with its cloud, its key and main: %q, into the workers' config, "+
		"and start them again", label, main)
}
