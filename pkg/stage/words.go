package stage

import (
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/certmill/certmill/pkg/dcv/preflight"
)

// word is one at which CAs are known to stop DV orders: refused ("the domain did
// not pass the CA's security review"), or looked at by hand for days.
type word struct {
	text string
	// inside: it counts at the beginning or end of a part of a label ("paynow",
	// "my-bank"), too; else only as a whole part. How CAs match is not
	// published; short words anywhere would warn of every second name.
	inside bool
	// suffix: it counts as part of the public suffix, too (shop.pw, x.gov.cn).
	suffix bool
}

// words are those that clouds publish. The CAs' own lists are secret; these are
// what two clouds that sell the same CA's certificates learnt from refusals, as
// their knowledge bases have it:
//
//   - article 47996 of the one, "reasons of failed reviews", as of 2025-01: live
//     bank banc fund wallet pay lv nuclear pw asia ban.c alpha test example
//     credit apple ebay trust root amazon android visa google discover financial
//     wordpress pal hp free SCP.
//   - article 01_0193 of the other, as of 2024-09: the same without fund, wallet,
//     pay, nuclear, asia, test; live not as the top-level domain, pw as well;
//     besides edu iran gov onion.
//
// Others show the same refusal and publish no list.
var words = []word{
	{text: "alpha"}, {text: "amazon", inside: true}, {text: "android", inside: true}, {text: "apple", inside: true},
	{text: "asia", suffix: true}, {text: "ban.c"}, {text: "banc"}, {text: "bank", inside: true}, {text: "credit", inside: true},
	{text: "discover"}, {text: "ebay", inside: true}, {text: "edu", suffix: true}, {text: "example", inside: true},
	{text: "financial", inside: true}, {text: "free"}, {text: "fund", inside: true}, {text: "google", inside: true},
	{text: "gov", suffix: true}, {text: "hp"}, {text: "iran", inside: true}, {text: "live", inside: true}, {text: "lv", suffix: true},
	{text: "nuclear", inside: true}, {text: "onion"}, {text: "pal"}, {text: "pay", inside: true}, {text: "pw", suffix: true},
	{text: "root"}, {text: "scp"}, {text: "test"}, {text: "trust", inside: true}, {text: "visa", inside: true},
	{text: "wallet", inside: true}, {text: "wordpress", inside: true},
}

// in tells whether the word is in a name.
func (w word) in(name string) bool {
	own, suffix := name, ""
	if s, _ := publicsuffix.PublicSuffix(name); strings.HasSuffix(name, "."+s) {
		own, suffix = strings.TrimSuffix(name, "."+s), s
	}
	if before, after, dotted := strings.Cut(w.text, "."); dotted { // "ban.c": over the dot
		return strings.HasSuffix(own, before) && strings.HasPrefix(suffix, after)
	}
	parts := strings.FieldsFunc(own, func(c rune) bool { return c == '.' || c == '-' })
	return slices.ContainsFunc(parts, func(p string) bool {
		return p == w.text || w.inside && (strings.HasPrefix(p, w.text) || strings.HasSuffix(p, w.text))
	}) || w.suffix && slices.Contains(strings.Split(suffix, "."), w.text)
}

// reviewed finds the words in an order's names. Products whose organisation is
// validated are reviewed by hand anyway.
func (p Planned) reviewed() []preflight.Finding {
	if p.product().Organisation {
		return nil
	}
	r := p.Request
	var all []preflight.Finding
	for _, w := range words {
		i := slices.IndexFunc(r.Names, w.in)
		if i < 0 {
			continue
		}
		all = append(all, preflight.Finding{Level: preflight.Warning, Kind: preflight.Words, Example: r.Names[i], Orders: []string{r.ID},
			What: "the word \"" + w.text + "\" is in the names, at which CAs are known to refuse DV certificates or to review them by hand",
			Do:   "expect days or a refusal; try one of them first, or order an OV product"})
	}
	return all
}
