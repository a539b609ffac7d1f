package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// known is an account as a console lists it. The label is empty where only the
// main account is known, the main account where nothing was ordered yet.
type known struct{ label, main string }

// accounts are those of the config. A console that has none lists what the
// installation itself knows: the lanes that workers serve, and the main accounts
// of which there is a state.
func (c *Console) accounts(ctx context.Context) ([]known, error) {
	var all []known
	for _, label := range sorted(c.cfg.Accounts) {
		all = append(all, known{label, c.cfg.Accounts[label].Main})
	}
	if len(all) > 0 {
		return all, nil
	}
	lanes, err := c.line.Lanes(ctx)
	if err != nil {
		return nil, err
	}
	for _, lane := range lanes {
		label := strings.TrimSuffix(lane, order.UrgentSuffix)
		it, err := c.line.OfLane(ctx, lane)
		if err != nil && !errors.Is(err, pipeline.ErrNoOrder) {
			return nil, err
		}
		all = append(all, known{label, it.Main})
	}
	for _, label := range c.states.Labels(time.Now()) {
		all = append(all, known{label, ""})
	}
	for _, main := range c.states.Mains() {
		state := c.states.State(main)
		for _, label := range slices.Concat(sorted(state.Identities), sorted(state.Paused)) {
			all = append(all, known{label, main})
		}
		if !slices.ContainsFunc(all, func(k known) bool { return k.main == main }) {
			all = append(all, known{"", main})
		}
	}
	return unique(all), nil
}

// unique sorts, and leaves out what is there twice or says less than another
// line.
func unique(all []known) []known {
	slices.SortFunc(all, func(a, b known) int {
		return cmp.Or(strings.Compare(a.label, b.label), strings.Compare(b.main, a.main)) // no main account last
	})
	var out []known
	for i, k := range all {
		if i == 0 || k != all[i-1] && (k.main != "" || k.label != all[i-1].label) {
			out = append(out, k)
		}
	}
	return out
}

// main is the main account of a label.
func (c *Console) main(ctx context.Context, label string) (string, error) {
	all, err := c.accounts(ctx)
	if err != nil {
		return "", err
	}
	labels := map[string]string{}
	for _, k := range all {
		if k.label != "" && k.main != "" {
			labels[k.label] = k.main
		}
	}
	if main := labels[label]; main != "" {
		return main, nil
	}
	if why := c.hopeless(label, ""); why != nil {
		return "", why
	}
	if _, listed := c.cfg.Accounts[label]; listed {
		return "", errors.New(awaitsMain(label))
	}
	return "", fmt.Errorf("no account %q is known; there are: %s. Where its main account is not known yet, give the workers' --config",
		label, cmp.Or(strings.Join(slices.Sorted(maps.Keys(labels)), ", "), "none"))
}
