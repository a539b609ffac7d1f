package main

import (
	"context"
	"fmt"
	"os"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/certstore"
)

type acceptStoreCmd struct {
	New bool `help:"Begin an empty key store where keys.store leads, because the old one is lost for good."`
	Yes bool `help:"Do not ask."`
}

// Run is certmill accept-store.
func (a *acceptStoreCmd) Run(ctx context.Context, c *cli) error {
	return c.onServer(ctx, func(k *app.Console, cfg app.Config) error {
		if err := k.MayAcceptStore(ctx, a.New); err != nil {
			return err
		}
		if !a.Yes && !confirmed("From now on the streams belong to the key store at "+cfg.Keys.Store+
			": keys and attempts that only another one has are forgotten. Write yes to go on: ", "yes") {
			return fmt.Errorf("nothing was done")
		}
		is, err := k.AcceptStore(ctx, a.New)
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printJSON(is)
		}
		fmt.Printf("the streams belong to the key store at %s (%s; they named %s); %d pairs and %d numbers were stored there again from the records; start the workers\n",
			is.Path, is.Is, orNone(is.Was), is.Filled.Pairs, is.Filled.Numbers)
		return told(is.Filled.Left)
	})
}

func orNone(id string) string {
	if id == "" {
		return "none"
	}
	return id
}

// told lists what could not be done.
func told(left []string) error {
	for _, l := range left {
		fmt.Println("LEFT:", l)
	}
	if len(left) > 0 {
		return fmt.Errorf("%d keys were left as they are", len(left))
	}
	return nil
}

type resealCmd struct {
	Identity []string `type:"existingfile" help:"File with identities that open the keys as they are sealed now, and the new one; keys.identity of the config is taken too."`
	Unproved bool     `help:"The identity of none of the new recipients is at hand: nothing shows that somebody can open the keys afterwards."`
}

// Run is certmill reseal.
func (r *resealCmd) Run(ctx context.Context, c *cli) error {
	return c.onServer(ctx, func(k *app.Console, _ app.Config) error {
		is, err := k.Reseal(ctx, app.ResealOptions{Identities: r.Identity, Unproved: r.Unproved, Who: who()})
		if c.Output == "json" && err == nil {
			return printJSON(is)
		}
		if is.Passes > 0 {
			fmt.Printf("sealed anew: %d pairs of the key store, %d records; what was delivered sealed before (privkey.pem.age) stays as it is\n", is.Pairs, is.Records)
		}
		if err != nil {
			return err
		}
		return told(is.Left)
	})
}

type identityCmd struct {
	File string `arg:"" type:"path" help:"The identity file. It is made if it is not there: keep it safe, it opens the private keys."`
}

// Run is certmill identity.
func (i *identityCmd) Run() error {
	id, err := certstore.OpenIdentity(i.File)
	if err != nil {
		return err
	}
	to, err := id.Recipients()
	if err != nil {
		return err
	}
	fmt.Println(to) // public: for keys.recipients
	return nil
}

// decides is the config of what is decided while no run works: that of a run here
// (certmill.yaml), else what a run left in its state folder.
func (c *cli) decides() (app.Config, error) {
	cfg, err := c.load()
	if err != nil {
		return cfg, err
	}
	if c.State != "" {
		cfg.Rest(c.State)
	}
	if cfg.NATS.URL != "" {
		cfg = cfg.Beside() // a server that --nats names may be a run's
	}
	if c.Log == "" {
		cfg.Log = "warn"
	}
	return cfg, nil
}

// onServer opens a console on the config's server, or on that of the state folder
// while no run works there.
func (c *cli) onServer(ctx context.Context, f func(*app.Console, app.Config) error) error {
	return c.atServer(ctx, func(cfg app.Config) error {
		console, err := app.OpenConsole(ctx, cfg, app.NewLogger(os.Stderr, cfg.Log))
		if err != nil {
			return err
		}
		defer console.Close()
		return f(console, cfg)
	})
}

// atServer calls f with a config that names a server: its own, or that of the state
// folder while no run works there.
func (c *cli) atServer(ctx context.Context, f func(app.Config) error) error {
	cfg, err := c.decides()
	if err != nil {
		return err
	}
	return app.OnServer(ctx, cfg, f)
}
