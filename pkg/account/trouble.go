package account

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// Trouble is something about a main account, or one of its labels, that a person
// should know. It stops nothing by itself.
type Trouble struct {
	Kind  string    `json:"kind"`
	Label string    `json:"label,omitempty"` // whose it is, where it concerns one label
	Zone  string    `json:"zone,omitempty"`  // of the DNS, where it concerns the orders of one only
	What  string    `json:"what"`            // what was seen, a sentence with its facts
	Helps string    `json:"helps,omitempty"` // what to do about it, a sentence
	Code  string    `json:"code,omitempty"`  // the cloud's, where it refused the label's credentials
	Stops bool      `json:"stops,omitempty"` // nothing is called with the label until it is over
	Since time.Time `json:"since"`           // seen for the first time, of those in a row
	Last  time.Time `json:"last"`            // seen, or told, last
}

// Kinds of troubles: signs that somebody else uses the account.
const (
	Elsewhere = "orders of somebody else"
	Throttled = "throttled below its own rate"
	Growth    = "quota used by somebody else"
)

// Gone is the kind of trouble of a main account that no config has any more.
const Gone = "gone from the config"

// DNSRights is the kind of trouble of a label's rights in a zone, and moreZones
// stands for all zones for which there is no more room.
func DNSRights(label, zone string) string { return "DNS rights of " + label + " in " + zone }

const (
	mostZones = 20
	moreZones = "more zones"
)

// TellZone keeps a trouble of a label's rights in a zone, as Tell does, and in place
// of another one there at once: of so many zones, and of all others as one.
func (a *Accounts) TellZone(ctx context.Context, k ZoneKey, t Trouble) (news bool, err error) {
	told := a.State(k.Main).Troubles
	t.Label, t.Zone = k.Label, k.Zone
	if t.Kind = DNSRights(k.Label, k.Zone); told[t.Kind].Kind == "" && countZones(told) >= mostZones {
		t.Kind = DNSRights(k.Label, moreZones)
		t.What = "in more zones, of which the last is " + k.Zone + ": " + t.What
	}
	if was := told[t.Kind]; t.Zone == was.Zone && t.What != was.What {
		if err := a.Calm(ctx, k.Main, t.Kind); err != nil {
			return false, err
		}
	}
	return a.Tell(ctx, k.Main, t)
}

func countZones(troubles map[string]Trouble) (n int) {
	for _, t := range troubles {
		if t.Zone != "" {
			n++
		}
	}
	return n
}

// ZoneTroubled tells whether a trouble of a label's rights is told of that may be
// about any zone: it is cheap to ask, and mostly there is none.
func (s State) ZoneTroubled(label string) bool {
	for _, t := range s.Troubles {
		if t.Zone != "" && t.Label == label {
			return true
		}
	}
	return false
}

// Calm ends a trouble. Safe to repeat.
func (a *Accounts) Calm(ctx context.Context, main, kind string) error {
	if _, told := a.State(main).Troubles[kind]; !told {
		return nil
	}
	return a.Change(ctx, main, func(s *State) {
		s.Troubles = maps.Clone(s.Troubles)
		delete(s.Troubles, kind)
	})
}

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
