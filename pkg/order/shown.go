package order

import (
	"slices"
	"strings"
)

// byCAs are the names that CAs add to one that was ordered: www, and what www or a
// wildcard stand on.
var byCAs = []func(string) string{
	func(n string) string { return "www." + n },
	func(n string) string { return strings.TrimPrefix(n, "www.") },
	func(n string) string { return strings.TrimPrefix(n, "*.") },
}

// Shows tells whether the names that a cloud shows can be those of an order for this
// set: all of them, however they are spelled (NamesHash), and no others but what a CA
// adds to one. Lists show a cloud order by its certificate's names as soon as it has
// one, and who looked for the ordered names alone would not find it.
func Shows(shown, ordered []string) bool {
	shown, ordered = canonicalNames(shown), canonicalNames(ordered)
	may := map[string]bool{}
	for _, n := range ordered {
		if !slices.Contains(shown, n) {
			return false
		}
		may[n] = true
		for _, adds := range byCAs {
			may[adds(n)] = true
		}
	}
	return !slices.ContainsFunc(shown, func(n string) bool { return !may[n] })
}

// MayBeFor are the sets of which a cloud order may be that shows these names: that
// very set, and it without what a CA may have added.
func MayBeFor(shown []string) [][]string {
	shown = canonicalNames(shown)
	sets := [][]string{shown}
	for _, adds := range byCAs {
		var added []string
		for _, n := range shown {
			if m := adds(n); m != n {
				added = append(added, m)
			}
		}
		ordered := slices.DeleteFunc(slices.Clone(shown), func(n string) bool { return slices.Contains(added, n) })
		if len(ordered) < len(shown) {
			sets = append(sets, ordered)
		}
	}
	return sets
}
