package account

import (
	"slices"
	"strings"
)

// Mains are the main accounts of which something is known, sorted.
func (a *Accounts) Mains() []string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var all []string
	for key := range a.states {
		if !strings.Contains(key, ".") { // else the budget of a batch or a publisher
			all = append(all, key)
		}
	}
	slices.Sort(all)
	return all
}
