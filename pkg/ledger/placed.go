package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/record"
	"github.com/certmill/certmill/pkg/stream"
)

// PlacedStream is the stream of what was put into the DNS and onto web servers.
// It is apart from the ledger's, where nothing is ever forgotten: an entry here
// goes with its record.
const PlacedStream = "PLACED"

// PlacedConfig is the stream that Placed needs: no limit may ever remove an
// entry, or its record would stay for ever. replicas is as for Config.
func PlacedConfig(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              PlacedStream,
		Description:       "challenges that lie in the DNS and on web servers, and the orders that need them",
		Subjects:          []string{"placed.*.*"},
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		MaxMsgsPerSubject: 1,
	}
}

// Placement is one challenge that lies somewhere, or may: the entry is written
// before the record. Orders that share a challenge share the entry.
type Placement struct {
	V         int             `json:"v"`
	Challenge order.Challenge `json:"challenge"`      // at its place: where CNAMEs led
	Labels    []string        `json:"labels"`         // of the accounts whose solvers put it there
	Orders    []string        `json:"orders"`         // that need it
	At        time.Time       `json:"at"`             // when an order said so, or placed it, for the last time
	Found     bool            `json:"found,omitzero"` // it was there before us: others put it there, and it stays

	// Of one that nobody needs any more and that could not be removed.
	Why   string    `json:"why,omitempty"`
	Since time.Time `json:"since,omitzero"`
	Tries int       `json:"tries,omitempty"`
	Next  time.Time `json:"next,omitzero"`

	seq  uint64      // of its message; 0: not stored
	rest record.Rest // what another build wrote and this one does not know
}

// Stored tells whether there is such an entry.
func (p Placement) Stored() bool { return p.seq > 0 }

// Needs tells whether an order needs it.
func (p Placement) Needs(id string) bool { return slices.Contains(p.Orders, id) }

// Placed reads and writes placements. Every write is conditional on the last,
// and an entry is removed by its sequence: one that was changed meanwhile stays.
type Placed struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	copy   *Copy
}

// OpenPlaced binds to the stream, if it is as PlacedConfig has it, and makes
// nothing. See stream.Open for the errors.
func OpenPlaced(ctx context.Context, js jetstream.JetStream, replicas int) (*Placed, error) {
	s, err := stream.Open(ctx, js, PlacedConfig(replicas))
	if err != nil {
		return nil, err
	}
	return &Placed{js: js, stream: s}, nil
}

// Copied is the same book with a copy, for those who place and take back.
func (p *Placed) Copied(c *Copy) *Placed { return &Placed{p.js, p.stream, c} }

// The subject of an entry: the place, and what lies there. Several values of one
// name are several records.
func placedSubject(c order.Challenge) string { return placeSubject(c) + token(c.Value) }

func placeSubject(c order.Challenge) string {
	return "placed." + token(c.Type+"\x00"+strings.ToLower(c.Host)+"\x00"+c.Path) + "."
}

func token(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:16])
}

func (p *Placed) cell(subject string) stream.Cell { return stream.At(p.js, p.stream, subject) }

// Read returns the entry of a challenge at its place. One that is not Stored is
// not there. The error wraps record.ErrNewer if a newer program wrote it.
func (p *Placed) Read(ctx context.Context, c order.Challenge) (Placement, error) {
	return p.last(ctx, placedSubject(c))
}

func (p *Placed) last(ctx context.Context, subject string) (Placement, error) {
	v, err := p.cell(subject).Read(ctx)
	if err != nil {
		return Placement{}, err
	}
	return placement(v)
}

// placement is the entry that lies in its cell.
func placement(v stream.Value) (Placement, error) {
	if v.Seq == 0 {
		return Placement{}, nil
	}
	return decodePlacement(v.Data, v.Seq)
}

func decodePlacement(data []byte, seq uint64) (Placement, error) {
	var pl Placement
	rest, err := record.Decode(data, version, &pl)
	if err != nil {
		return Placement{}, fmt.Errorf("placement %d: %w", seq, err)
	}
	pl.seq, pl.rest = seq, rest
	return pl, nil
}

// encode writes an entry, with what another build wrote into it.
func (p Placement) encode() ([]byte, error) {
	p.V = version
	data, err := record.Encode(p, p.rest)
	if err != nil {
		return nil, fmt.Errorf("encode placement: %w", err)
	}
	return data, nil
}

// At returns the entries at a challenge's place, whatever lies there.
func (p *Placed) At(ctx context.Context, c order.Challenge) ([]Placement, error) {
	info, err := p.stream.Info(ctx, jetstream.WithSubjectFilter(placeSubject(c)+"*"))
	if err != nil {
		return nil, fmt.Errorf("look what lies at %s: %w", c.Host, err)
	}
	var all []Placement
	for subject := range info.State.Subjects {
		pl, err := p.last(ctx, subject)
		if err != nil {
			return nil, err
		}
		if pl.Stored() {
			all = append(all, pl)
		}
	}
	return all, nil
}

// write stores an entry on condition that it is still the one that was read.
func (p *Placed) write(ctx context.Context, pl Placement) (Placement, error) {
	data, err := pl.encode()
	if err != nil {
		return Placement{}, err
	}
	v, err := p.cell(placedSubject(pl.Challenge)).Write(ctx, data, pl.seq)
	if err != nil {
		return Placement{}, fmt.Errorf("note what lies at %s: %w", pl.Challenge.Host, err)
	}
	pl.seq = v.Seq
	return pl, nil
}

// change lets f decide about what is there, until the write is not in conflict.
// f returns false if there is nothing to change; it finds its own change done.
func (p *Placed) change(ctx context.Context, c order.Challenge, f func(Placement) (Placement, bool)) (now Placement, err error) {
	v, err := p.cell(placedSubject(c)).Change(ctx, func(v stream.Value) ([]byte, error) {
		pl, err := placement(v)
		if err != nil {
			return nil, err
		}
		next, changed := f(pl)
		if now = next; !changed {
			now = pl
			return nil, nil
		}
		return next.encode()
	})
	if err != nil {
		return Placement{}, err
	}
	now.seq = v.Seq
	return now, nil
}

// renewed is how often an order that goes on needing an entry says so.
const renewed = 5 * time.Minute

// Need notes that an order needs a challenge at its place, put there by the
// solver of an account. It MUST be called before the record is placed. found is
// what a look showed that was made while there was no entry: the record is there
// already, so it is somebody else's. An entry that came meanwhile knows better.
// Safe to repeat.
func (p *Placed) Need(ctx context.Context, c order.Challenge, label, id string, found bool) (Placement, error) {
	now := time.Now().UTC()
	return p.change(ctx, c, func(pl Placement) (Placement, bool) {
		if !pl.Stored() {
			return Placement{Challenge: c, Labels: []string{label}, Orders: []string{id}, At: now, Found: found}, true
		}
		if pl.Needs(id) && slices.Contains(pl.Labels, label) && now.Sub(pl.At) < renewed && pl.Why == "" {
			return pl, false
		}
		pl.Orders, pl.Labels, pl.At = with(pl.Orders, id), with(pl.Labels, label), now
		pl.Why, pl.Since, pl.Tries, pl.Next = "", time.Time{}, 0, time.Time{}
		return pl, true
	})
}

func with(all []string, one string) []string {
	if slices.Contains(all, one) {
		return all
	}
	return append(slices.Clone(all), one)
}

// Keep copies an entry. It MUST be called after Need and before the record is
// placed. Safe to repeat.
func (p *Placed) Keep(pl Placement) error { return p.copy.keep(pl) }

// Kept tells whether a record is ours that the book does not know: the copy says
// so, also in a file of a newer program, whose name is enough.
func (p *Placed) Kept(c order.Challenge) bool {
	_, kept, err := p.copy.read(placedSubject(c))
	return kept || errors.Is(err, record.ErrNewer)
}

// Recall enters what the copy has and the book has not, as after the loss of
// JetStream. known are the entries that the book had a moment ago. One that is
// removed in this very moment comes back as an entry without a record. Files
// that cannot be read are returned, and left for those who can. Safe to repeat.
func (p *Placed) Recall(ctx context.Context, known []Placement) (entered int, unread []stream.Unreadable, err error) {
	subjects, err := p.copy.subjects()
	if err != nil {
		return 0, nil, err
	}
	booked := make(map[string]bool, len(known))
	for _, pl := range known {
		booked[placedSubject(pl.Challenge)] = true
	}
	for _, subject := range subjects {
		if booked[subject] {
			continue
		}
		pl, there, err := p.copy.read(subject)
		if err != nil {
			unread = append(unread, stream.Unreadable{Subject: p.copy.path(subject), Err: err})
		}
		if err != nil || !there {
			continue
		}
		pl.At = time.Now().UTC()
		switch _, err := p.write(ctx, pl); {
		case errors.Is(err, ErrConflict): // it came meanwhile
		case err != nil:
			return entered, unread, err
		default:
			entered++
		}
	}
	return entered, unread, nil
}

// Confirm notes that the record was placed, and is ours: whoever found it there
// meanwhile found this one. still tells whether the order needs it at all: if not,
// another visit has taken it back since Need, and the caller MUST remove what it
// placed. The write is what tells whoever is just removing the record, and will
// remove the entry that it has read, to look again.
func (p *Placed) Confirm(ctx context.Context, pl Placement, id string) (still bool, err error) {
	pl.At = time.Now().UTC()
	if _, err = p.write(ctx, pl); err == nil { // nearly always
		return true, nil
	}
	if !errors.Is(err, ErrConflict) && !errors.Is(err, stream.ErrNoAnswer) {
		return false, err
	}
	pl, err = p.change(ctx, pl.Challenge, func(pl Placement) (Placement, bool) {
		pl.At, pl.Found = time.Now().UTC(), false
		return pl, pl.Needs(id)
	})
	return pl.Needs(id), err
}

// Again enters the need of an order for what it has placed, or may have: also where
// the entry is gone that it made before, with all that was seen of the record, or where
// others found the record meanwhile. So nothing lies there that the book does not know.
// Safe to repeat.
func (p *Placed) Again(ctx context.Context, c order.Challenge, label, id string) error {
	pl, err := p.change(ctx, c, func(pl Placement) (Placement, bool) {
		if pl.Needs(id) && slices.Contains(pl.Labels, label) && !pl.Found {
			return pl, false
		}
		pl.Challenge, pl.At, pl.Found = c, time.Now().UTC(), false
		pl.Orders, pl.Labels = with(pl.Orders, id), with(pl.Labels, label)
		return pl, true
	})
	if err != nil {
		return err
	}
	return p.copy.keep(pl)
}

// Ours notes that a record which others had put there is gone, and that it will
// be placed. The error is ErrConflict if the entry was changed since it was read.
func (p *Placed) Ours(ctx context.Context, pl Placement) (Placement, error) {
	pl.Found = false
	return p.write(ctx, pl)
}

// Leave takes an order off an entry. last means that no other needs it: the
// entry still stands then, to be removed after the record. Safe to repeat.
func (p *Placed) Leave(ctx context.Context, c order.Challenge, id string) (pl Placement, last bool, err error) {
	pl, err = p.change(ctx, c, func(pl Placement) (Placement, bool) {
		if !pl.Needs(id) || len(pl.Orders) == 1 {
			return pl, false
		}
		pl.Orders = slices.DeleteFunc(slices.Clone(pl.Orders), func(s string) bool { return s == id })
		return pl, true
	})
	return pl, err == nil && pl.Needs(id), err
}

// Remove takes the entry away, if it is still the one that was read; else the
// error is ErrConflict. Safe to repeat.
func (p *Placed) Remove(ctx context.Context, pl Placement) error {
	// The copy goes first: whoever comes to need the entry after it is gone
	// writes a copy of its own. A crash in between leaves an entry without a
	// record.
	if !pl.Found {
		if err := p.copy.forget(placedSubject(pl.Challenge)); err != nil {
			return err
		}
	}
	err := p.stream.DeleteMsg(ctx, pl.seq)
	if err == nil {
		return nil
	}
	now, rerr := p.Read(ctx, pl.Challenge)
	switch {
	case rerr != nil:
		return errors.Join(err, rerr)
	case !now.Stored():
		return nil
	case now.seq != pl.seq: // by somebody whose copy this may have been
		return errors.Join(ErrConflict, p.copy.keep(now))
	}
	return fmt.Errorf("forget what lay at %s: %w", pl.Challenge.Host, err)
}

// Stuck notes why a record that nobody needs could not be removed, and when it
// is tried again.
func (p *Placed) Stuck(ctx context.Context, pl Placement, why string, next time.Time) error {
	if pl.Tries == 0 {
		pl.Since = time.Now().UTC()
	}
	pl.Why, pl.Next, pl.Tries = why, next, pl.Tries+1
	_, err := p.write(ctx, pl)
	return err
}

// Each calls f for every entry, until f returns an error. What is written
// meanwhile may come twice, or as it was. Entries that cannot be read are
// returned: they MUST be left alone, with what lies there.
func (p *Placed) Each(ctx context.Context, f func(Placement) error) (unread []stream.Unreadable, err error) {
	_, err = stream.ReadAll(ctx, p.stream, "placed.*.*", 0, func(m stream.Message) error {
		pl, err := decodePlacement(m.Data, m.Seq)
		if err != nil {
			unread = append(unread, stream.Unreadable{Subject: m.Subject, Seq: m.Seq, Err: err})
			return nil
		}
		return f(pl)
	})
	if err != nil {
		return nil, fmt.Errorf("read what was placed: %w", err)
	}
	return unread, nil
}
