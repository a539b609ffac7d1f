package account

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// Trouble is something about a main account that a person should know, and that
// stops nothing.
type Trouble struct {
	Kind  string    `json:"kind"`
	What  string    `json:"what"`            // what was seen, a sentence with its facts
	Helps string    `json:"helps,omitempty"` // what to do about it, a sentence
	Since time.Time `json:"since"`           // seen for the first time, of those in a row
	Last  time.Time `json:"last"`            // seen, or told, last
}

// Kinds of troubles: signs that somebody else uses the account.
const (
	Elsewhere = "orders of somebody else"
	Throttled = "throttled below its own rate"
	Growth    = "quota used by somebody else"
)

// How long a trouble is told of that is not seen any more, and how seldom one is
// told again that goes on.
const (
	TroubleLasts = 24 * time.Hour
	TroubleAgain = time.Hour
)

// Tell keeps a trouble of a main account, which is seen at t.Last. It tells whether
// that was news: not where one of the kind was told within the hour, by whatever
// worker. So nothing is written more often, and who logs what is news logs it once
// an hour.
func (a *Accounts) Tell(ctx context.Context, main string, t Trouble) (news bool, err error) {
	if !fresh(a.State(main).Troubles[t.Kind], t.Last) {
		return false, nil
	}
	err = a.Change(ctx, main, func(s *State) {
		was := s.Troubles[t.Kind]
		if news = fresh(was, t.Last); !news {
			return // another worker was quicker
		}
		t.Since = t.Last
		if t.Last.Sub(was.Last) < TroubleLasts {
			t.Since = was.Since
		}
		s.Troubles = maps.Clone(s.Troubles)
		if s.Troubles == nil {
			s.Troubles = map[string]Trouble{}
		}
		s.Troubles[t.Kind] = t
	})
	return news && err == nil, err
}

func fresh(was Trouble, at time.Time) bool { return at.Sub(was.Last) >= TroubleAgain }

// Troubled are the troubles that are told of now, by kind.
func (s State) Troubled(now time.Time) []Trouble {
	var all []Trouble
	for _, t := range s.Troubles {
		if now.Sub(t.Last) < TroubleLasts {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b Trouble) int { return strings.Compare(a.Kind, b.Kind) })
	return all
}
