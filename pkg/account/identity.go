package account

import (
	"context"
	"maps"
	"time"
)

// Identity is whose credentials a label's are, as the cloud itself said.
type Identity struct {
	Main   string    `json:"main"`           // id of the main account
	Caller string    `json:"caller"`         // id of who calls: the main account itself, a user or a role of it
	Kind   string    `json:"kind,omitempty"` // of caller, in the cloud's own word
	At     time.Time `json:"at"`             // when it said so for the first time
}

// same tells whether the cloud said the same thing again.
func (i Identity) same(other Identity) bool {
	i.At = other.At
	return i == other
}

// Identified notes whose the credentials of a label are. Nothing is written while
// the answer stays the same, so that workers may tell it at each start.
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
