package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/ledger"
)

// Gone finds main accounts that no account of the config is of any more, although
// attempts are open there: nobody looks whether they were bought (DESIGN 12.6). What
// is wrong is told; orders for other names go on without them.
type Gone struct {
	Accounts Accounts
	Ledger   *ledger.Ledger
	States   *account.Accounts
	Log      *slog.Logger
	Now      func() time.Time
}

// leftOpen is what is open at a main account.
type leftOpen struct {
	attempts int
	first    ledger.Attempt // the oldest
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
		at, is := e.OpenAttempt()
		if !is || ours[e.Main] {
			return nil
		}
		o := all[e.Main]
		if o.attempts++; o.attempts == 1 || at.Opened.Before(o.first.Opened) {
			o.first = at
		}
		all[e.Main] = o
		return nil
	})
	return all, err
}

func (g *Gone) tell(ctx context.Context, main string, is leftOpen) error {
	t := account.Trouble{Kind: account.Gone, Last: g.Now().UTC().Truncate(time.Second),
		What: fmt.Sprintf("no account of the workers' config is of main account %s any more, and nobody finds out there "+
			"what became of calls whose outcome is not known (open attempts: %d): the oldest is that of order %s, of %s",
			main, is.attempts, is.first.Order, is.first.Opened.UTC().Format(time.RFC3339)),
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
