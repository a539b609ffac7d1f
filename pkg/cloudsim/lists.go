package cloudsim

import (
	"hash/fnv"
	"slices"
	"strconv"
	"time"
)

// What the documents leave open about lists, and what a client must therefore not
// rely on: their order, that rows stay where they are while one pages, and that
// every status is one of those that are written down.

const (
	newestFirst = "newest"
	oldestFirst = "oldest"
	noOrder     = "shuffled"

	oddWord   = "SYNCING" // a Status that no document knows
	oddNumber = 16        // one past the last Status of Tencent's list
	// oddSpell is how long an order shows it, and its neighbours do not.
	oddSpell = 3 * time.Second
)

// arrange puts a list that is newest first into the order of Config.ListOrder.
func (s *Sim) arrange(found []*order) []*order {
	switch s.cfg().ListOrder {
	case oldestFirst:
		slices.Reverse(found)
	case noOrder:
		s.dice.shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
	}
	return found
}

// start is where a page begins: at from, or now and then up to three rows beside
// it, as if rows had come or gone since the page before.
func (s *Sim) start(from int) int {
	if from == 0 || !s.dice.hit(s.cfg().ListShift) {
		return from
	}
	by := int(s.dice.number(1, 4))
	if s.dice.hit(0.5) {
		by = -by
	}
	return max(from+by, 0)
}

// odd says whether an order is shown in a state that no document knows. It is so
// for a while, in lists and single answers alike.
func (s *Sim) odd(o *order, now time.Time) bool {
	share := s.cfg().OddStates
	if share == 0 || o.State == stateBought {
		return false
	}
	h := fnv.New64a()
	h.Write([]byte(o.key()))
	spell := (now.UnixMilli() + int64(h.Sum64()%1000)) / oddSpell.Milliseconds()
	h.Write([]byte("/" + strconv.FormatInt(spell, 10)))
	const fine = 10_000
	return h.Sum64()%fine < uint64(share*fine)
}
