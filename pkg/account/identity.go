package account

import (
	"context"
	"maps"
	"strings"
	"time"
)

// Identity is whose credentials a label's are, as the cloud itself said.
type Identity struct {
	Main   string    `json:"main"`             // id of the main account; as configured where the cloud does not tell
	Caller string    `json:"caller"`           // id of who calls: the main account itself, a user or a role of it; see Unnamed
	Kind   string    `json:"kind,omitempty"`   // of caller, in the cloud's own word
	Key    string    `json:"key,omitempty"`    // tells the access key and where it was asked from others; it is no secret
	Silent bool      `json:"silent,omitempty"` // the cloud does not tell: Main is the config's
	At     time.Time `json:"at"`               // when it said so for the first time
}

// Unnamed is a caller that the cloud does not name: it is known by its key, so that
// with another key it is another caller. No cloud's id has a space.
func Unnamed(key string) string { return "key " + key }

// Named tells whether the cloud named the caller.
func (i Identity) Named() bool { return i.Caller != "" && !strings.Contains(i.Caller, " ") }

// same tells whether the cloud said the same thing again.
func (i Identity) same(other Identity) bool {
	i.At = other.At
	return i == other
}

// Identified notes whose the credentials of a label are, at the main account that
// the label works for. Nothing is written while the answer stays the same, so that
// workers may tell it at each start.
func (a *Accounts) Identified(ctx context.Context, main, label string, id Identity) error {
	if a.State(main).Identities[label].same(id) {
		return nil
	}
	return a.Change(ctx, main, func(s *State) {
		if s.Identities[label].same(id) {
			return // another worker was quicker
		}
		s.Identities = maps.Clone(s.Identities)
		if s.Identities == nil {
			s.Identities = map[string]Identity{}
		}
		s.Identities[label] = id
	})
}

// Left forgets what was said of a label at all other main accounts: it works for
// one, and does not call in the name of another any more.
func (a *Accounts) Left(ctx context.Context, main, label string) error {
	for _, other := range a.Mains() {
		if _, is := a.State(other).Identities[label]; !is || other == main {
			continue
		}
		err := a.Change(ctx, other, func(s *State) {
			s.Identities = maps.Clone(s.Identities)
			delete(s.Identities, label)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Vouch notes an operator's word for an incarnation of the streams: nothing was
// bought on the account before that the lists of these callers do not show.
func (s *State) Vouch(incarnation string, callers ...string) {
	s.FirstUse = incarnation
	s.Vouched = maps.Clone(s.Vouched)
	if s.Vouched == nil {
		s.Vouched = map[string]string{}
	}
	for _, who := range callers {
		s.Vouched[who] = incarnation
	}
}

// VouchedFor tells whether an operator's word holds for a caller.
func (s State) VouchedFor(incarnation, caller string) bool {
	return incarnation != "" && s.Vouched[caller] == incarnation
}
