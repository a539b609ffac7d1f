package account

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/record"
	"github.com/certmill/certmill/pkg/stream"
)

// ZoneKey names what is known of the rights of one label, which has one key, in
// one zone of the DNS. It has a cell of its own in the bucket: a main account may
// have orders in a hundred thousand zones, and its state is one message.
type ZoneKey struct{ Main, Label, Zone string }

// zones is the first token of their keys. Who follows the states reads none of
// them: these keys have more tokens (stateFilters).
const zones = "zone."

// zoneForm is what a zone must be to be a key; anybody's name server may say
// anything.
var zoneForm = regexp.MustCompile(`^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$`)

// ErrZone: that is no name of a zone.
var ErrZone = errors.New("no name of a zone")

func (k ZoneKey) subject() (string, error) {
	if len(k.Zone) > 253 || !zoneForm.MatchString(k.Zone) {
		return "", fmt.Errorf("zone %.100q: %w", k.Zone, ErrZone)
	}
	return subjects + zones + k.Main + "." + k.Label + "." + k.Zone, nil
}

// zoneKey reads a subject.
func zoneKey(subject string) (k ZoneKey, ok bool) {
	rest, ok := strings.CutPrefix(subject, subjects+zones)
	if !ok {
		return k, false
	}
	k.Main, rest, _ = strings.Cut(rest, ".")
	k.Label, k.Zone, ok = strings.Cut(rest, ".")
	return k, ok
}

// Zone is what is known of a label's rights in a zone. The zero value is that of
// one of which nothing is known.
type Zone struct {
	V int `json:"v,omitempty"`
	// Asked is when an order came to need the check that was asked for last, and
	// Taken the Asked of the check that a worker began last: one worker a check.
	Asked time.Time `json:"asked,omitzero"`
	Taken time.Time `json:"taken,omitzero"`
	// Check is how the last check ended.
	Check Outcome `json:"check,omitzero"`
	// First is the order that goes first where the check was refused.
	First Turn `json:"first,omitzero"`
	// Refused are challenges' own records that were refused after a purchase, by
	// their types, and Placed is when one was placed, or was not needed, although
	// there was a refusal of the check or of its own.
	Refused map[string]Refusal   `json:"refused,omitempty"`
	Placed  map[string]time.Time `json:"placed,omitempty"`

	rest record.Rest // what another build wrote and this one does not know
}

// Outcome is how a check ended.
type Outcome struct {
	Is  string    `json:"is"` // see the constants
	Why string    `json:"why,omitempty"`
	At  time.Time `json:"at"`
}

// Outcomes of a check.
const (
	CheckPassed     = "passed"
	CheckRefused    = "refused"    // the key may not write this record
	CheckAbsent     = "absent"     // the DNS account does not have the zone
	CheckUnanswered = "unanswered" // it could not be tried
)

// Turn is an order that goes on while others wait.
type Turn struct {
	Order string    `json:"order"`
	At    time.Time `json:"at"`
}

// Refusal is a challenge's own record that was refused.
type Refusal struct {
	Order string    `json:"order"` // whose challenge it was
	Host  string    `json:"host"`
	Why   string    `json:"why"`
	Zone  bool      `json:"zone,omitempty"`  // there was no such zone
	Rests bool      `json:"rests,omitempty"` // the order tries again by itself
	At    time.Time `json:"at"`
}

// How long it holds what is known of a zone, how soon a check that brought
// nothing may be asked for again, and how long an order waits for one.
const (
	ZoneHolds  = 24 * time.Hour
	CheckAgain = 10 * time.Minute
	CheckWait  = 30 * time.Second
)

// within tells whether something was less than d ago; a clock that runs ahead by
// more than a minute does not count.
func within(at, now time.Time, d time.Duration) bool {
	return !at.IsZero() && now.Sub(at) < d && at.Sub(now) < time.Minute
}

// Checked is the outcome of the day's check, and whether there is one.
func (z Zone) Checked(now time.Time) (Outcome, bool) {
	holds := ZoneHolds
	if z.Check.Is == CheckUnanswered {
		holds = CheckAgain
	}
	return z.Check, within(z.Check.At, now, holds)
}

// Due tells whether a check is to be asked for: none of the day has an outcome,
// and none was asked for lately.
func (z Zone) Due(now time.Time) bool {
	_, known := z.Checked(now)
	return !known && !within(z.Asked, now, CheckAgain)
}

// UnderWay tells whether a check was asked for that may yet have an outcome soon.
func (z Zone) UnderWay(now time.Time) bool {
	_, known := z.Checked(now)
	return !known && within(z.Asked, now, CheckWait)
}

// Refusals are challenges' own records that were refused within the day, and not
// placed since.
func (z Zone) Refusals(now time.Time) map[string]Refusal {
	all := map[string]Refusal{}
	for kind, r := range z.Refused {
		if within(r.At, now, ZoneHolds) {
			all[kind] = r
		}
	}
	return all
}

// Proved tells whether a challenge was placed since the day's check.
func (z Zone) Proved() bool {
	for _, at := range z.Placed {
		if at.After(z.Check.At) {
			return true
		}
	}
	return false
}

func decodeZone(v stream.Value) (z Zone, err error) {
	if v.Seq == 0 || deleted(v.Header) {
		return Zone{}, nil // forgotten: it is found out again
	}
	z.rest, err = record.Decode(v.Data, version, &z)
	return z, err
}

// Zone reads what is known of a zone. The error wraps ErrZone where it is no name,
// and record.ErrNewer if a newer program wrote it.
func (a *Accounts) Zone(ctx context.Context, k ZoneKey) (Zone, error) {
	subject, err := k.subject()
	if err != nil {
		return Zone{}, err
	}
	v, err := stream.At(a.js, a.stream, subject).Read(ctx)
	if err != nil {
		return Zone{}, err
	}
	return decodeZone(v)
}

// ChangeZone lets f decide about what is known of a zone, and stores it on
// condition that nobody wrote in between; else it asks f again. f returns false if
// there is nothing to change, and finds its own change done.
func (a *Accounts) ChangeZone(ctx context.Context, k ZoneKey, f func(*Zone) bool) (now Zone, changed bool, err error) {
	subject, err := k.subject()
	if err != nil {
		return Zone{}, false, err
	}
	_, err = stream.At(a.js, a.stream, subject).Change(ctx, func(v stream.Value) (_ []byte, err error) {
		if now, err = decodeZone(v); err != nil {
			return nil, err
		}
		now.Refused, now.Placed = maps.Clone(now.Refused), maps.Clone(now.Placed)
		if changed = f(&now); !changed {
			return nil, nil
		}
		now.V = version
		return record.Encode(now, now.rest)
	})
	return now, changed && err == nil, err
}

// recentZones is how many of the last changes are read by who begins to follow:
// among them is whatever somebody waits for now.
const recentZones = 10_000

// FollowZones calls f for what becomes known of zones, until ctx ends; at first for
// what was written lately. What cannot be read is left to others.
func (a *Accounts) FollowZones(ctx context.Context, f func(ZoneKey, Zone)) error {
	info, err := a.stream.Info(ctx, jetstream.WithSubjectFilter("none"))
	if err != nil {
		return err
	}
	var after uint64
	if last := info.State.LastSeq; last > recentZones {
		after = last - recentZones
	}
	return stream.Follow(ctx, a.stream, subjects+zones+">", after, func(m stream.Message) error {
		k, ok := zoneKey(m.Subject)
		z, err := decodeZone(stream.Value{Data: m.Data, Header: m.Header, Seq: m.Seq})
		if ok && err == nil {
			f(k, z)
		}
		return nil
	})
}
