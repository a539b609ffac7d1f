package app

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/stage"
)

// identify asks the clouds, once a session and account, whose the credentials
// are, and keeps the answers in account state. Nothing waits for it, and nothing
// is done about an answer that differs from the config but to say so.
func (s *session) identify(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, a := range s.accounts {
		wg.Go(func() { s.identifyOne(ctx, a) })
	}
	wg.Wait()
	return nil // the session's work does not depend on it
}

func (s *session) identifyOne(ctx context.Context, a *stage.Account) {
	log := s.log.With("account", a.Label, "main", a.Main)
	id, err := a.Cloud.Identify(ctx)
	if err != nil {
		if ctx.Err() == nil {
			log.WarnContext(ctx, "the cloud does not say whose the account's credentials are; it stays as the config has it", "err", err)
		}
		return
	}
	if id.Main != a.Main {
		log.WarnContext(ctx, "the account's credentials are of another main account than the config says: limits and ledger go by the config's",
			"credentials_main", id.Main, "caller", id.Caller, "kind", id.Kind)
	}
	// A crash before this leaves the answer of an earlier session, or none.
	said := account.Identity{Main: id.Main, Caller: id.Caller, Kind: id.Kind, At: time.Now().UTC().Truncate(time.Second)}
	err = s.states.Identified(ctx, a.Main, a.Label, said)
	if err != nil && ctx.Err() == nil {
		log.WarnContext(ctx, "whose the account's credentials are could not be stored", "err", err)
	}
}

// Credentials says whose the account's credentials are, as the cloud said when a
// worker asked it last.
func (a AccountStatus) Credentials() string {
	if a.Identity == nil {
		return "not known"
	}
	id := *a.Identity
	who, but := "of the main account", ""
	if id.Main != a.Main {
		who, but = "of main account "+id.Main, ", not "+a.Main
	}
	switch id.Caller {
	case id.Main:
	case "": // not told
		who += " or a user of it"
	default:
		who = strings.TrimSpace(id.Kind+" "+id.Caller) + " " + who
	}
	return who + but
}
