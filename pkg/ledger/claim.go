package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/record"
	"github.com/certmill/certmill/pkg/stream"
)

// Owner is the one order that has something at the cloud: a cloud order that was
// bought, or a resource, which is something already bought that an order uses.
type Owner struct {
	V        int       `json:"v,omitempty"`
	ID       string    `json:"id,omitempty"` // what the cloud calls it
	Order    string    `json:"order"`        // empty: nobody has it
	Purchase int       `json:"purchase,omitempty"`
	At       time.Time `json:"at"`
	Names    []string  `json:"names,omitempty"` // of the order, sorted
	// Provisional: of a cloud order that was adopted without proof. It holds only
	// as long as the names' entry says the same.
	Provisional bool `json:"provisional,omitempty"`
	// Called is when a call on the resource was made that got no clear answer: it
	// may still start it. Zero: there is none such.
	Called time.Time `json:"called,omitzero"`
	// Caller is who made that call: what another's look does not show may be there.
	Caller string `json:"caller,omitempty"`
	// Till is the end of a resource's term, once it is known to be started: until
	// then it is of these names, whoever has it.
	Till time.Time `json:"till,omitzero"`

	rest record.Rest // what another build wrote and this one does not know
}

// Errors of resources.
var (
	// ErrOtherNames: the resource is started, and stays with other names until its
	// term ends.
	ErrOtherNames = errors.New("it stays with other names")
	// ErrTooEarly: a call may still start the resource; look again later.
	ErrTooEarly = errors.New("a call may still start it")
	// ErrStale: the order has ended, or has decided otherwise since its record was
	// read: nothing is claimed or called by that record.
	ErrStale = errors.New("the order has moved on")
)

func claimSubject(main, id string) string { return "claim." + main + "." + stream.Token(id) }

func (l *Ledger) claim(main, id string) stream.Cell {
	return stream.At(l.js, l.stream, claimSubject(main, id))
}

// Owner returns who has a cloud order or a resource; an empty one if nobody
// does. The error wraps record.ErrNewer if a newer program wrote it.
func (l *Ledger) Owner(ctx context.Context, main, id string) (Owner, error) {
	v, err := l.claim(main, id).Read(ctx)
	if err != nil {
		return Owner{}, fmt.Errorf("claim of %s: %w", id, err)
	}
	return owner(id, v)
}

// owner is what lies in its cell.
func owner(id string, v stream.Value) (o Owner, err error) {
	if v.Seq == 0 {
		return Owner{ID: id}, nil
	}
	if o.rest, err = record.Decode(v.Data, version, &o); err != nil {
		return Owner{}, fmt.Errorf("claim of %s: %w", id, err)
	}
	o.ID = id
	return o, nil
}

// Owners reads all cells of a main account, by what the cloud calls the things.
// Those that cannot be read have an owner that this program cannot tell, and are
// returned.
func (l *Ledger) Owners(ctx context.Context, main string) (all map[string]Owner, unread []stream.Unreadable, err error) {
	all = map[string]Owner{}
	_, err = stream.ReadAll(ctx, l.stream, "claim."+main+".*", 0, func(m stream.Message) error {
		var o Owner
		if _, err := record.Decode(m.Data, version, &o); err != nil || o.ID == "" {
			unread = append(unread, stream.Unreadable{Subject: m.Subject, Seq: m.Seq, Err: errors.Join(err, errNoID(o.ID))})
			return nil
		}
		all[o.ID] = o
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read claims of %s: %w", main, err)
	}
	return all, unread, nil
}

func errNoID(id string) error {
	if id == "" {
		return errors.New("it names nothing at the cloud")
	}
	return nil
}

// sameNames tells whether the thing was for this set of names.
func (o Owner) sameNames(names []string) bool {
	return order.NamesHash(o.Names) == order.NamesHash(names)
}

// own makes an order the owner of a cloud order. The error wraps ErrTaken if
// another order is, unless that one has it without proof and its entry says
// otherwise by now, or to has the proof; and ErrOtherNames if it serves other names
// for a term that is not over. Safe to repeat.
func (l *Ledger) own(ctx context.Context, main, id string, to Owner) error {
	return l.setOwner(ctx, main, id, func(is Owner) (Owner, bool, error) {
		switch {
		case is.Order == to.Order && is.Purchase == to.Purchase:
			if is.Provisional == to.Provisional || !is.Provisional {
				return is, false, nil // a proof is not taken back
			}
		case is.Order == "" && !is.sameNames(to.Names) && time.Now().Before(is.Till):
			return is, false, fmt.Errorf("cloud order %s: %w, %s", id, ErrOtherNames, strings.Join(is.Names, " "))
		case is.Order != "" && !is.Provisional:
			return is, false, fmt.Errorf("cloud order %s: %w %q", id, ErrTaken, is.Order)
		case is.Order != "" && to.Provisional:
			holds, err := l.provisional(ctx, main, is)
			if err != nil {
				return is, false, err
			}
			if holds {
				return is, false, fmt.Errorf("cloud order %s: %w %q, without proof as yet", id, ErrTaken, is.Order)
			}
		}
		to.At = time.Now().UTC()
		return to, true, nil
	})
}

// provisional tells whether the entry of an owner without proof still says the
// same.
func (l *Ledger) provisional(ctx context.Context, main string, o Owner) (bool, error) {
	e, err := l.Read(ctx, main, o.Names)
	if err != nil {
		return false, err
	}
	last, ok := e.Last(o.Order)
	return ok && last.Ending == Open && last.Provisional == o.ID, nil
}

// Claim takes a resource for an order by a decision of its record, for names that
// it must have taken (Take): e is their entry. The error wraps ErrTaken if another
// order has it that has not ended, ErrOtherNames if it was started for other names
// and its term is not over, also while nobody has it (DESIGN 12.4), and ErrStale if
// the order has ended or decided otherwise meanwhile. Safe to repeat.
func (l *Ledger) Claim(ctx context.Context, e Entry, id, by string, purchase int, decided time.Time) error {
	err := l.setOwner(ctx, e.Main, id, func(is Owner) (Owner, bool, error) {
		if is.Order == by && is.Purchase == purchase && is.sameNames(e.Names) {
			return is, false, nil
		}
		if err := l.refuses(ctx, e, is, by); err != nil {
			return is, false, fmt.Errorf("%s: %w", id, err)
		}
		to := Owner{Order: by, Purchase: purchase, Names: canonical(e.Names), At: time.Now().UTC()}
		if is.sameNames(e.Names) {
			to.Called, to.Caller, to.Till = is.Called, is.Caller, is.Till // the call may still be on its way, whoever made it
		}
		return to, true, nil
	})
	if err != nil {
		return err
	}
	// A crash here may leave a claim of an order that has ended: it is nobody's
	// (idle).
	gap.At(ctx, "ledger: resource claimed")
	return l.stands(ctx, e, id, by, decided)
}

// stands takes a claim back that was written for an order which had ended, or had
// decided on something else, between the reading of its names and the claim. Who
// ends an order says so in its names' entry before it looks for its claims
// (Ending): one of the two sees the other.
func (l *Ledger) stands(ctx context.Context, e Entry, id, by string, decided time.Time) error {
	now, err := l.Read(ctx, e.Main, e.Names)
	if err != nil {
		return err
	}
	t, ok := now.Take(by)
	switch holds := ok && t.End == "" && !t.Ending && t.Resource == id; {
	case holds && t.Decided.Equal(decided):
		return nil
	case holds:
		return fmt.Errorf("claim %s: %w", id, ErrStale) // a later decision is for it, too
	}
	// Nothing was called by this claim: Calling would have found it stale.
	err = l.setOwner(ctx, e.Main, id, func(is Owner) (Owner, bool, error) {
		mine := is.Order == by && is.Called.IsZero() && is.Till.IsZero()
		return Owner{At: time.Now().UTC()}, mine, nil
	})
	return errors.Join(fmt.Errorf("claim %s: %w", id, ErrStale), err)
}

// MayClaim is why Claim would refuse a resource; nil if it would not.
func (l *Ledger) MayClaim(ctx context.Context, e Entry, id, by string) error {
	is, err := l.Owner(ctx, e.Main, id)
	if err != nil {
		return err
	}
	return l.refuses(ctx, e, is, by)
}

// refusesFor is why an order for the names of e may not have a resource.
func (o Owner) refusesFor(e Entry, by string, now time.Time) error {
	switch {
	case len(o.Names) == 0 && (o.Order == by || o.Order == ""):
		return nil
	case o.Order == by && o.sameNames(e.Names): // an id that had other names in an earlier life is another order
		return nil
	case o.sameNames(e.Names):
		// Its own names' next order takes it over when the last one has ended.
		if t, _ := e.Take(o.Order); o.Order == "" || t.End != "" {
			return nil
		}
	case now.Before(o.Till), o.Order == "" && o.Till.IsZero():
		return fmt.Errorf("%w, %s", ErrOtherNames, strings.Join(o.Names, " "))
	case !o.Till.IsZero():
		return nil // its term is over
	}
	return fmt.Errorf("%w %q", ErrTaken, o.Order)
}

// refuses is why it may not, by the entry of the names that it serves, too. A claim
// of an order that has ended, for which nothing was called, was written by a worker
// that slept: whoever wants the resource takes it.
func (l *Ledger) refuses(ctx context.Context, e Entry, o Owner, by string) error {
	err := o.refusesFor(e, by, time.Now())
	if !errors.Is(err, ErrTaken) || !o.Called.IsZero() || !o.Till.IsZero() || o.sameNames(e.Names) {
		return err
	}
	other, rerr := l.Read(ctx, e.Main, o.Names)
	if rerr != nil {
		return rerr
	}
	if t, ok := other.Take(o.Order); ok && t.End == TakeOver && !t.Paid {
		return nil
	}
	return err
}

// Call is a note of a call, and of the earlier one whose answer is not known.
type Call struct {
	at, before time.Time
	by         string // whose the earlier one was
}

// Calling notes that caller is about to make a call on the resource, by a request that
// is signed soon after at: until a clear answer (Answered) it may start it at any
// time. The error wraps ErrTaken if the order does not have it.
func (l *Ledger) Calling(ctx context.Context, main, id, by, caller string, at time.Time) (c Call, err error) {
	c.at = at.UTC()
	err = l.setOwner(ctx, main, id, func(is Owner) (Owner, bool, error) {
		switch {
		case is.Order != by:
			return is, false, fmt.Errorf("%s: %w %q", id, ErrTaken, is.Order)
		case is.Called.Equal(c.at): // stored by a try without an answer
			return is, false, nil
		}
		c.before, c.by = is.Called, is.Caller
		is.Called, is.Caller = c.at, caller
		return is, true, nil
	})
	return c, err
}

// Answered notes a clear answer to a call, that nothing was started. What an
// earlier or a later one may still do stays noted.
func (l *Ledger) Answered(ctx context.Context, main, id, by string, c Call) error {
	return l.setOwner(ctx, main, id, func(is Owner) (Owner, bool, error) {
		if is.Order != by || !is.Called.Equal(c.at) {
			return is, false, nil
		}
		is.Called, is.Caller = c.before, c.by
		return is, true, nil
	})
}

// Started notes that the resource serves the owner's names until its term ends.
// Safe to repeat; a claim of another order is left alone.
func (l *Ledger) Started(ctx context.Context, main, id, by string, till time.Time) error {
	return l.setOwner(ctx, main, id, func(is Owner) (Owner, bool, error) {
		if is.Order != by || is.Till.Equal(till) {
			return is, false, nil
		}
		is.Till, is.Called = till, time.Time{}
		return is, true, nil
	})
}

// Release gives a resource back, when a look showed that it was not started by the
// order. looked is when the look began: after a call without a clear answer it must
// be wait later, or the error wraps ErrTooEarly. One that serves the names for a
// term that is not over stays with them. Safe to repeat; a claim of another order
// is left alone. released: this call gave it back, and surely no other one.
func (l *Ledger) Release(ctx context.Context, main, id, by string, looked time.Time, wait time.Duration) (released bool, err error) {
	err = l.setOwner(ctx, main, id, func(is Owner) (Owner, bool, error) {
		if released = false; is.Order != by {
			return is, false, nil
		}
		if over := is.Called.Add(wait); !is.Called.IsZero() && looked.Before(over) {
			return is, false, fmt.Errorf("%s: %w, until %s", id, ErrTooEarly, over.Format(time.RFC3339))
		}
		free := Owner{At: time.Now().UTC()}
		if free.At.Before(is.Till) {
			free.Names, free.Till = is.Names, is.Till
		}
		released = true
		return free, true, nil
	})
	return released && err == nil, err
}

func (l *Ledger) setOwner(ctx context.Context, main, id string, to func(Owner) (Owner, bool, error)) error {
	_, err := l.claim(main, id).Change(ctx, func(v stream.Value) ([]byte, error) {
		is, err := owner(id, v)
		if err != nil {
			return nil, err
		}
		next, change, err := to(is)
		if err != nil || !change {
			return nil, err
		}
		next.V, next.ID = version, id
		return record.Encode(next, is.rest)
	})
	return err
}
