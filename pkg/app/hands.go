package app

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/stage"
)

// hands are what a console calls the clouds with: clients by its config, on the
// rings of the workers.
type hands struct {
	ready
	permits *permit.Set
	refused map[string]account.Trouble // accounts whose clouds refuse this console's credentials, by label
}

func (h *hands) close() {
	ctx, cancel := context.WithTimeout(context.Background(), restTime)
	defer cancel()
	_ = h.permits.Close(ctx) // what is not put back now comes back by itself
}

// reach makes the clients, once. It takes the accounts' secrets, which most of
// what a console does needs not. Nothing is sent, and no ring is made.
func (c *Console) reach() (*hands, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hands != nil {
		return c.hands, nil
	}
	if !c.rights.call() {
		return nil, &NoRight{c.cfg.NATS.User, "take permits, which every call to a cloud needs"}
	}
	looker, err := newLooker(c.cfg.DCV)
	if err != nil {
		return nil, err
	}
	permits := permit.New(c.js, c.cfg.limits(c.states), permit.Options{Join: true, Log: c.log})
	all, err := openClouds(c.cfg, permits, false, looker)
	if err != nil {
		return nil, err
	}
	c.hands = &hands{ready: all, permits: permits, refused: c.meet(all.accounts)}
	return c.hands, nil
}

// noWorker says what a ring that nobody made means.
func noWorker(err error) error {
	if errors.Is(err, permit.ErrNoRing) {
		return fmt.Errorf("no worker of that account is running, and a console calls a cloud with the workers' permits only; "+
			"start them, and try again: %w", err)
	}
	return err
}

// keyStore opens the submitters' store, which is never made here.
func (c *Console) keyStore(ctx context.Context) (*certstore.KeyStore, error) {
	keys, err := certstore.FindKeyStore(absolute(c.cfg.Keys.Store))
	if err == nil {
		var named namedStores
		if _, named, err = stand(ctx, c.js, 0); err == nil {
			err = named.belongTo(keys)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w; it is looked for where keys.store of the config says: "+
			"name the submitters' own there, or run this where it is", err)
	}
	return keys, nil
}

// routes are Config.routes of the console's config, made once.
func (c *Console) routes() (stage.Accounts, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ways != nil {
		return c.ways, nil
	}
	all, err := c.cfg.routes()
	c.ways = all
	return all, err
}

// routes are the config's accounts as far as they say how orders go there.
// Nothing can be called with them: no secret was read, and there are no permits.
func (c Config) routes() (stage.Accounts, error) {
	c.Accounts = maps.Clone(c.Accounts)
	for label, a := range c.Accounts {
		a.KeyID, a.Secret, a.Token = unread, unread, ""
		c.Accounts[label] = a
	}
	c.DCV.Solvers = nil
	none := permit.NewSet(c.limits(nil))
	_ = none.Close(context.Background()) // nothing is out
	all, err := openClouds(c, none, false, dcv.Aliases(nil))
	return all.accounts, err
}
