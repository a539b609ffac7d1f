package app

import (
	"context"
	"time"

	"github.com/certmill/certmill/pkg/stage"
)

// Surplus is what was bought and serves no order, as far as it was looked for.
type Surplus struct {
	Left []stage.Left `json:"left"`
	// NotLookedAt says what could not be looked at at all.
	NotLookedAt []string `json:"not_looked_at,omitempty"`
}

// Surplus lists what nobody claims, of all main accounts. The attempt numbers of
// ended orders are looked at where the submitters' key store is at hand.
func (c *Console) Surplus(ctx context.Context) (Surplus, error) {
	accounts, err := c.mains(ctx)
	if err != nil {
		return Surplus{}, err
	}
	s, p := Surplus{Left: []stage.Left{}}, c.operator("")
	switch keys, err := c.keyStore(ctx); {
	case err != nil:
		s.NotLookedAt = append(s.NotLookedAt, "the attempt numbers of ended orders: "+err.Error())
	case len(c.cfg.Accounts) == 0:
		s.NotLookedAt = append(s.NotLookedAt,
			"the attempt numbers of ended orders: the config has no accounts, so nobody knows which of them spent anything")
	default:
		p.Keys = keys
	}
	for i, a := range accounts {
		left, err := p.Lefts(ctx, a)
		if err != nil {
			return Surplus{}, err
		}
		s.Left = append(s.Left, left...)
		of := *p
		if i > 0 { // a key's main account stands elsewhere
			of.Keys = nil
		}
		gone, err := of.Gone(ctx, a, time.Now())
		if err != nil {
			return Surplus{}, err
		}
		s.Left = append(s.Left, gone...)
	}
	return s, nil
}

// mains are one account for each main account, with no way to call any.
func (c *Console) mains(ctx context.Context) ([]*stage.Account, error) {
	if len(c.cfg.Accounts) > 0 {
		all, err := c.routes()
		return all.Mains(), err
	}
	all, err := c.accounts(ctx)
	if err != nil {
		return nil, err
	}
	listed := stage.Accounts{}
	for _, k := range all {
		if k.main != "" {
			listed[k.label+" "+k.main] = &stage.Account{Label: k.label, Main: k.main}
		}
	}
	return listed.Mains(), nil
}
