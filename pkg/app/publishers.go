package app

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/stage"
)

// publishers are those of the config, as the stages want them.
func (c Config) publishers() stage.Publishers {
	all := stage.Publishers{}
	for name, p := range c.Publishers {
		all[name] = stage.Publisher{Accounts: p.Accounts, Daily: p.Daily}
	}
	return all
}

// publisherForm is what the last token of a subject may be here. NATS takes more,
// but what cannot be written into a user's rights without quotes helps nobody.
var publisherForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)

// labels are those that there are accounts of; nil where the config does not tell:
// that of a console need not have the accounts.
func (c Config) labels() []string {
	if len(c.Accounts) == 0 && c.NATS.URL == "" {
		return simulatedLabels()
	}
	return sorted(c.Accounts)
}

// simulatedLabels are those of the accounts that a run without any simulates.
func simulatedLabels() (all []string) {
	for _, a := range cloudsim.DefaultAccounts() {
		all = append(all, a.Label)
	}
	return all
}

func (c Config) checkPublishers(labels []string) (all []error) {
	bad := func(format string, args ...any) { all = append(all, fmt.Errorf("publishers."+format, args...)) }
	for name, p := range c.Publishers {
		if name != stage.EverybodyElse && !publisherForm.MatchString(name) {
			bad("%s: write the last token of orders.new.<name>, 1 to 63 of A-Z, a-z, 0-9, '-' and '_', "+
				"or %q for all that are not named", name, stage.EverybodyElse)
		}
		if p.Daily < 0 {
			bad("%s.daily is %d: write how many purchases a day are allowed, or 0 for any", name, p.Daily)
		}
		for _, label := range p.Accounts {
			if len(labels) == 0 || slices.Contains(labels, label) || label == stage.NoAccount && len(p.Accounts) == 1 {
				continue
			}
			bad("%s.accounts has %q: write labels of accounts (%s), or %q alone",
				name, label, strings.Join(labels, ", "), stage.NoAccount)
		}
	}
	return all
}
