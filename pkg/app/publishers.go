package app

import (
	"fmt"
	"regexp"
	"strings"

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

func (c Config) checkPublishers() (all []error) {
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
			_, there := c.Accounts[label]
			if there || len(c.Accounts) == 0 || label == stage.NoAccount && len(p.Accounts) == 1 {
				continue // without accounts in the config they are simulated
			}
			bad("%s.accounts has %q: write labels of accounts (%s), or %q alone",
				name, label, strings.Join(sorted(c.Accounts), ", "), stage.NoAccount)
		}
	}
	return all
}
