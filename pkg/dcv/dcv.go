// Package dcv proves control of domain names to the CA: it places the record or
// the file that a challenge asks for, looks from outside whether it shows, and
// takes it back.
//
// Records solves DNS challenges at any Provider, a DNS API of which each has a
// folder of its own, and package hook hands them to whatever else the user has;
// Route chooses by zone and follows delegations by CNAME. Package file solves
// FILE challenges. ByType sends each challenge to its solver. Looker looks. What
// every DNS solver keeps is in package dcvtest.
package dcv

import (
	"context"
	"fmt"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
)

// Types of challenges, as in order.Challenge.
const (
	TXT   = "TXT"
	CNAME = "CNAME"
	FILE  = "FILE"
)

// Solver places challenges and takes them back.
//
// Present MUST be idempotent: a challenge that is there already, with this very
// value, is a success. It MUST NOT replace or remove what others have put at
// the name, other values of the same type included; where the two cannot stand
// together it returns Conflict. It need not wait until the challenge shows.
//
// CleanUp MUST remove only what has exactly the challenge's name, type and
// value; nothing there is a success.
//
// Both MUST be safe for concurrent use. Errors SHOULD be one of the kinds
// NoZone, Conflict and Denied (errors.Is) where only a person can help; any
// other means "try again".
type Solver interface {
	Present(ctx context.Context, c order.Challenge) error
	CleanUp(ctx context.Context, c order.Challenge) error
}

// Kind is what an error of a solver means. A Kind is an error, so
// errors.Is(err, dcv.NoZone) reads as English.
type Kind string

func (k Kind) Error() string { return string(k) }

const (
	// NoZone: the account hosts no zone in which the name lies.
	NoZone Kind = "no zone"
	// Conflict: something stands at the name that excludes the challenge.
	Conflict Kind = "conflict"
	// Denied: the access key may not do this, or the provider refuses the
	// challenge for good.
	Denied Kind = "denied"
)

// Sighting is what was seen from outside.
type Sighting struct {
	Seen    bool     // everywhere
	Missing []string // where it was not seen and what was there, a sentence for each
	Silent  bool     // of those where it was not seen, none answered: it may be there all the same
}

// ByType sends each challenge to the solver of its type. A nil solver refuses. Its
// errors have none of the secrets of this process (package redact), whatever the
// providers' answers repeat.
type ByType struct {
	DNS  Solver // TXT and CNAME
	FILE Solver
}

// Present implements Solver.
func (b ByType) Present(ctx context.Context, c order.Challenge) error {
	s, err := b.solver(c)
	if err != nil {
		return err
	}
	return redact.Error(s.Present(ctx, c))
}

// CleanUp implements Solver.
func (b ByType) CleanUp(ctx context.Context, c order.Challenge) error {
	s, err := b.solver(c)
	if err != nil {
		return err
	}
	return redact.Error(s.CleanUp(ctx, c))
}

func (b ByType) solver(c order.Challenge) (Solver, error) {
	var s Solver
	switch c.Type {
	case TXT, CNAME:
		s = b.DNS
	case FILE:
		s = b.FILE
	}
	if s == nil {
		return nil, fmt.Errorf("%w: this account has no solver for challenges of type %q", Denied, c.Type)
	}
	return s, nil
}
