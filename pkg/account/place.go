package account

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/stream"
)

// places is the first token of the keys of what is known of places that workers write
// to. It belongs to no main account, and lies beside their states because everybody
// who must know follows those.
const places = "place."

// Places that workers write to.
const (
	KeyStorePlace = "key store"
	DeliveryPlace = "certificates"
	CopyPlace     = "copy of placements"
)

func placeKey(name string) string { return places + stream.Token(name) }

// How often a trouble of a place is told again while it lasts, and how long one is
// told of that is not told again: whoever met it has died, or is gone.
const (
	placeAgain = time.Minute
	placeLasts = 10 * time.Minute
)

// TellPlace keeps that a place takes nothing of one who writes there. t.Last is when
// that was seen.
func (a *Accounts) TellPlace(ctx context.Context, name, by string, t Trouble) error {
	was, told := a.State(placeKey(name)).Troubles[by]
	if told && was.What == t.What && t.Last.Sub(was.Last) < placeAgain {
		return nil
	}
	return a.Change(ctx, placeKey(name), func(s *State) {
		t.Kind, t.Since = by, t.Last
		if was, told := s.Troubles[by]; told && t.Last.Sub(was.Last) < placeLasts {
			t.Since = was.Since
		}
		s.Troubles = maps.Clone(s.Troubles)
		if s.Troubles == nil {
			s.Troubles = map[string]Trouble{}
		}
		s.Troubles[by] = t
	})
}

// CalmPlace ends what one who writes to a place has told. Safe to repeat.
func (a *Accounts) CalmPlace(ctx context.Context, name, by string) error {
	return a.Calm(ctx, placeKey(name), by)
}

// Refusing are the places that take nothing, by name, each with what was told first.
func (a *Accounts) Refusing(now time.Time) map[string]Trouble {
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := map[string]Trouble{}
	for _, name := range []string{KeyStorePlace, DeliveryPlace, CopyPlace} {
		told := slices.Collect(maps.Values(a.states[placeKey(name)].Troubles))
		told = slices.DeleteFunc(told, func(t Trouble) bool { return now.Sub(t.Last) >= placeLasts })
		if len(told) > 0 {
			all[name] = slices.MinFunc(told, func(x, y Trouble) int {
				if c := x.Since.Compare(y.Since); c != 0 {
					return c
				}
				return strings.Compare(x.Kind, y.Kind)
			})
		}
	}
	return all
}
