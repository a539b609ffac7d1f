package issuer

import (
	"cmp"
	"maps"
	"slices"
	"sync"
)

// maxUnlisted bounds what is remembered: the codes are foreign words, and a
// broken gateway can invent them.
const maxUnlisted = 200

// OtherCodes is the code under which UnlistedCodes counts what is beyond its bound.
const OtherCodes = "(others)"

// UnlistedCodes counts the codes that clouds answered and no table lists, since the
// process began. Metrics and the command show it: each is a row to be added.
var UnlistedCodes CodeCounter

// CodeCounter counts codes. Its zero value is ready, and it is safe
// for concurrent use.
type CodeCounter struct {
	mu     sync.Mutex
	counts map[cloudCode]uint64
}

type cloudCode struct{ cloud, code string }

// CodeCount is how often a cloud answered with a code.
type CodeCount struct {
	Cloud, Code string
	Count       uint64
}

func (u *CodeCounter) add(cloud, code string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.counts == nil {
		u.counts = map[cloudCode]uint64{}
	}
	k := cloudCode{cloud, code}
	if _, known := u.counts[k]; !known && len(u.counts) >= maxUnlisted {
		k.code = OtherCodes
	}
	u.counts[k]++
}

// All returns the counts, ordered by cloud and code.
func (u *CodeCounter) All() []CodeCount {
	u.mu.Lock()
	defer u.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(u.counts), func(a, b cloudCode) int {
		return cmp.Or(cmp.Compare(a.cloud, b.cloud), cmp.Compare(a.code, b.code))
	})
	all := make([]CodeCount, len(keys))
	for i, k := range keys {
		all[i] = CodeCount{k.cloud, k.code, u.counts[k]}
	}
	return all
}
