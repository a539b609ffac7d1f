package ledger

import (
	"context"
	crand "crypto/rand"
	"encoding/json"
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

// StreamName is the stream of the ledger.
const StreamName = "LEDGER"

var (
	// ErrConflict: the entry was written by somebody else since it was read.
	ErrConflict = stream.ErrConflict
	// ErrNotOpener: the entry is open, but another opened it (or nobody knows
	// who): reconcile, do not send.
	ErrNotOpener = errors.New("the ledger entry is open and not ours")
	// ErrTaken: the instance or certificate is another order's.
	ErrTaken = errors.New("already claimed by another order")
)

// Ledger reads and writes entries and claims.
type Ledger struct {
	js     jetstream.JetStream
	stream jetstream.Stream
}

// Config is the stream that the ledger needs: no limit may ever remove an
// entry, and what is read must be the leader's. replicas is 1 for a single
// server and 3 in a cluster; 0 means any, for those who look.
func Config(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              StreamName,
		Description:       "what was spent; nothing is ever forgotten here",
		Subjects:          []string{"spend.*.*", "claim.*.*"},
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		MaxMsgsPerSubject: 1,
		DenyDelete:        true,
		DenyPurge:         true,
	}
}

// New binds to the ledger's stream, if it is as Config has it, and makes
// nothing. See stream.Open for the errors.
func New(ctx context.Context, js jetstream.JetStream, replicas int) (*Ledger, error) {
	s, err := stream.Open(ctx, js, Config(replicas))
	if err != nil {
		return nil, err
	}
	return &Ledger{js: js, stream: s}, nil
}

// Began is when this ledger was created, on the server's clock.
func (l *Ledger) Began() time.Time { return l.stream.CachedInfo().Created }

func spendSubject(main string, names []string) string {
	return "spend." + main + "." + order.NamesHash(names)
}

func (l *Ledger) entry(main string, names []string) stream.Cell {
	return stream.At(l.js, l.stream, spendSubject(main, names))
}

// Read returns what is known of a set of names; an empty entry if nothing is.
// The error wraps record.ErrNewer if a newer program wrote it.
func (l *Ledger) Read(ctx context.Context, main string, names []string) (Entry, error) {
	v, err := l.entry(main, names).Read(ctx)
	if err != nil {
		return Entry{}, fmt.Errorf("read ledger of %s: %w", strings.Join(names, " "), err)
	}
	return stored(main, names, v)
}

// stored is the entry that lies in its cell.
func stored(main string, names []string, v stream.Value) (Entry, error) {
	if v.Seq == 0 {
		return Entry{Main: main, Names: canonical(names)}, nil
	}
	return decodeEntry(v.Data, v.Seq, v.Stored)
}

// decodeEntry reads an entry. An attempt that this very message opened has no
// time of its own yet: the message's time is the intent's time.
func decodeEntry(data []byte, seq uint64, stored time.Time) (Entry, error) {
	var e Entry
	rest, err := record.Decode(data, version, &e)
	if err != nil {
		return Entry{}, fmt.Errorf("ledger entry %d: %w", seq, err)
	}
	e.seq, e.rest = seq, rest
	for i := range e.Attempts {
		if e.Attempts[i].Ending == Open && e.Attempts[i].Opened.IsZero() {
			e.Attempts[i].Opened = stored
		}
	}
	return e, nil
}

// encode writes an entry, with what another build wrote into it.
func (e Entry) encode() ([]byte, error) {
	e.V = version
	data, err := record.Encode(e, e.rest)
	if err != nil {
		return nil, fmt.Errorf("encode ledger entry: %w", err)
	}
	return data, nil
}

func canonical(names []string) []string {
	c := slices.Clone(names)
	for i := range c {
		c[i] = strings.ToLower(c[i])
	}
	slices.Sort(c)
	return slices.Compact(c)
}

// write stores the entry on condition that it is still the one that was read.
func (l *Ledger) write(ctx context.Context, e Entry) error {
	data, err := e.encode()
	if err != nil {
		return err
	}
	if _, err = l.entry(e.Main, e.Names).Write(ctx, data, e.seq); err != nil {
		return fmt.Errorf("ledger of %s: %w", strings.Join(e.Names, " "), err)
	}
	return nil
}

// Begin opens an entry for an attempt. It is the only function that does. On
// success the caller is the opener, and the only one who may send: the token of
// this opening was read back. ErrConflict means that nothing was opened (read
// again and decide); ErrNotOpener that an attempt is open which the caller must
// not send. Any other error leaves it unknown whether the entry is open: read.
// A number is never used twice, and a purchase that has a claim is over: both
// are ErrConflict, because the caller decided on something else than e.
func (l *Ledger) Begin(ctx context.Context, e Entry, a Attempt) (Entry, Attempt, error) {
	if open, is := e.OpenAttempt(); is {
		return e, open, ErrNotOpener
	}
	if !mayOpen(e, a) {
		return e, a, ErrConflict
	}
	a = carry(e, a)
	a.Token = crand.Text()
	werr := l.write(ctx, e.with(a))
	if errors.Is(werr, ErrConflict) {
		return e, a, werr
	}
	// A crash here, or no answer, leaves an open entry whose token nobody
	// reads back: whoever is handed the order finds it open and reconciles.
	stored, err := l.Read(ctx, e.Main, e.Names)
	if err != nil {
		return e, a, errors.Join(werr, err)
	}
	last, ok := stored.Last(a.Order)
	// Ours and closed already: the caller slept between write and read for so
	// long that somebody else decided.
	if !ok || last.Token != a.Token || last.Ending != Open || last.Provisional != "" {
		if werr != nil {
			return stored, last, werr // nothing shows that it was stored
		}
		return stored, last, ErrNotOpener
	}
	return stored, last, nil
}

// BeginOwnerless opens an entry for an attempt whose number is in the key store
// but not in the ledger: its outcome is unknown and nobody may send.
func (l *Ledger) BeginOwnerless(ctx context.Context, e Entry, a Attempt) error {
	if _, is := e.OpenAttempt(); is {
		return ErrNotOpener
	}
	if last, _ := e.Last(a.Order); a.Attempt <= last.Attempt {
		return ErrConflict
	}
	return l.write(ctx, e.with(carry(e, a)))
}

// mayOpen: an attempt may be sent only under a number that was never used and
// for a purchase that has no outcome yet.
func mayOpen(e Entry, a Attempt) bool {
	last, _ := e.Last(a.Order)
	_, claimed := e.Claim(a.Order, a.Purchase)
	return a.Attempt > last.Attempt && !claimed
}

// carry makes a new open attempt, with what must outlast the order's earlier
// ones: the rows that are known to have another key.
func carry(e Entry, a Attempt) Attempt {
	last, _ := e.Last(a.Order)
	a.Ending, a.Token, a.Opened, a.Provisional, a.Foreign = Open, "", time.Time{}, "", last.Foreign
	return a
}

// change lets f decide about what is stored, until the write is not in conflict.
// f returns false if there is nothing to change; every f finds its own change
// done.
func (l *Ledger) change(ctx context.Context, main string, names []string, f func(Entry) (Entry, bool, error)) error {
	_, err := l.entry(main, names).Change(ctx, func(v stream.Value) ([]byte, error) {
		e, err := stored(main, names, v)
		if err != nil {
			return nil, err
		}
		next, changed, err := f(e)
		if err != nil || !changed {
			return nil, err
		}
		return next.encode() // an open attempt carries its time by now (decodeEntry)
	})
	return err
}

// Bought closes the attempt with the cloud's id. It closes only if the attempt
// is still the open one, or is the claim already; else it returns ErrConflict.
// Safe to repeat.
func (l *Ledger) Bought(ctx context.Context, main string, names []string, a Attempt, cloudID, how string) error {
	if cloudID == "" {
		return errors.New("close ledger entry: a purchase without a cloud id is none")
	}
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		if c, ok := e.Claimed(cloudID); ok {
			if c.Order == a.Order && c.Purchase == a.Purchase {
				return e, false, nil
			}
			return e, false, fmt.Errorf("cloud order %s: %w %q", cloudID, ErrTaken, c.Order)
		}
		last, ok := e.Last(a.Order)
		if !ok || last.Attempt != a.Attempt || last.Ending != Open {
			return e, false, ErrConflict
		}
		last.Ending, last.Provisional = Bought, ""
		return e.with(last).withClaim(Claim{CloudID: cloudID, Order: a.Order, Purchase: last.Purchase,
			Attempt: last.Attempt, At: time.Now().UTC(), How: how}), true, nil
	})
}

// End closes the open attempt without an id. Only the attempt with this token
// is closed: a close that conflicts reads again, and closes if its token is
// still there. Safe to repeat.
func (l *Ledger) End(ctx context.Context, main string, names []string, a Attempt, how Ending, note string) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		last, ok := e.Last(a.Order)
		switch {
		case !ok || last.Attempt != a.Attempt || last.Token != a.Token:
			return e, false, ErrConflict
		case last.Ending == how:
			return e, false, nil
		case last.Ending != Open || last.Provisional != "":
			return e, false, ErrConflict
		}
		last.Ending, last.Note = how, note
		return e.with(last), true, nil
	})
}

// Forgo records that an order gives up its purchase: no attempt of it may be
// sent any more, because a number is never used twice. It is refused with
// ErrNotOpener while the order's attempt is open, and with ErrConflict when the
// purchase was bought.
func (l *Ledger) Forgo(ctx context.Context, main string, names []string, a Attempt, how Ending, note string) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		if _, bought := e.Claim(a.Order, a.Purchase); bought {
			return e, false, ErrConflict
		}
		if last, ok := e.Last(a.Order); ok {
			switch {
			case last.Ending == Open:
				return e, false, ErrNotOpener
			case last.Attempt >= a.Attempt && (how != Cancelled || last.Purchase == a.Purchase && last.Ending == how):
				// The number is dead already; that it was not sent takes no
				// cancellation back.
				return e, false, nil
			}
			a.Attempt = max(a.Attempt, last.Attempt+1)
			a.Foreign = last.Foreign
		}
		a.Ending, a.Note = how, note
		return e.with(a), true, nil
	})
}

// Adopt takes a cloud order for the open attempt without proof: it stays open
// until the key is compared at collection (Bought, or Disown).
func (l *Ledger) Adopt(ctx context.Context, main string, names []string, a Attempt, cloudID string) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		last, ok := e.Last(a.Order)
		switch {
		case !ok || last.Attempt != a.Attempt || last.Ending != Open:
			return e, false, ErrConflict
		case last.Provisional == cloudID:
			return e, false, nil
		case last.Provisional != "" || !e.Free(cloudID, a.Order):
			return e, false, ErrConflict
		}
		last.Provisional = cloudID
		return e.with(last), true, nil
	})
}

// Disown records that a provisionally adopted cloud order has another key: it
// is foreign for this order, and the attempt is open again with its old intent.
func (l *Ledger) Disown(ctx context.Context, main string, names []string, a Attempt, cloudID string) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		last, ok := e.Last(a.Order)
		if !ok || last.Attempt != a.Attempt || last.Ending != Open {
			return e, false, ErrConflict
		}
		if last.Provisional != cloudID {
			// Disowned before, perhaps by another visit; meanwhile another row may
			// be adopted, which this visit knows nothing about.
			if slices.Contains(last.Foreign, cloudID) {
				return e, false, nil
			}
			return e, false, ErrConflict
		}
		last.Provisional = ""
		last.Foreign = append(slices.Clone(last.Foreign), cloudID)
		return e.with(last), true, nil
	})
}

// Foreign records that cloud orders, which were candidates for the open attempt,
// have another key: they are none for this order any more.
func (l *Ledger) Foreign(ctx context.Context, main string, names []string, a Attempt, cloudIDs ...string) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		last, ok := e.Last(a.Order)
		if !ok || last.Attempt != a.Attempt || last.Ending != Open {
			return e, false, ErrConflict
		}
		fresh := slices.DeleteFunc(slices.Clone(cloudIDs), func(id string) bool { return slices.Contains(last.Foreign, id) || last.Provisional == id })
		last.Foreign = append(slices.Clone(last.Foreign), fresh...)
		return e.with(last), len(fresh) > 0, nil
	})
}

// Assign claims a cloud order for a purchase by an operator's word. It closes
// the order's open attempt, if there is one. The error wraps ErrTaken if another
// order has it, also provisionally, or if its key was seen not to be this
// order's.
func (l *Ledger) Assign(ctx context.Context, main string, names []string, c Claim) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		if was, ok := e.Claimed(c.CloudID); ok {
			if was.Order == c.Order && was.Purchase == c.Purchase {
				return e, false, nil
			}
			return e, false, fmt.Errorf("cloud order %s: %w %q", c.CloudID, ErrTaken, was.Order)
		}
		if !e.Free(c.CloudID, c.Order) {
			return e, false, fmt.Errorf("cloud order %s: %w (adopted without proof), or has another key than %q", c.CloudID, ErrTaken, c.Order)
		}
		if last, ok := e.Last(c.Order); ok && last.Ending == Open {
			last.Ending, last.Provisional = Bought, ""
			e = e.with(last)
		}
		return e.withClaim(c), true, nil
	})
}

// Report writes an unclaimed cloud order under its names, never where an
// attempt is open (that row may be the attempt's own).
func (l *Ledger) Report(ctx context.Context, main string, names []string, u Unclaimed) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		if _, open := e.OpenAttempt(); open {
			return e, false, nil
		}
		if _, claimed := e.Claimed(u.CloudID); claimed {
			return e, false, nil
		}
		for i, old := range e.Unclaimed {
			if old.CloudID != u.CloudID {
				continue
			}
			if old.Status == u.Status {
				return e, false, nil
			}
			e.Unclaimed = slices.Clone(e.Unclaimed)
			e.Unclaimed[i] = u
			return e, true, nil
		}
		e.Unclaimed = append(slices.Clone(e.Unclaimed), u)
		return e, true, nil
	})
}

// Unread is an entry that this program cannot read.
type Unread struct {
	stream.Unreadable
	Claims []string // cloud ids that it claims, as far as this program can tell
}

// Each reads the entries of a main account and calls f for each, until f
// returns an error. Entries that are written meanwhile may come twice, or as
// they were: act on one only through the methods that read again. Those that
// cannot be read are returned: MUST NOT be taken for entries that are not there.
func (l *Ledger) Each(ctx context.Context, main string, f func(Entry) error) (unread []Unread, err error) {
	_, err = stream.ReadAll(ctx, l.stream, "spend."+main+".*", 0, func(m stream.Message) error {
		e, err := decodeEntry(m.Data, m.Seq, m.Stored)
		if err != nil {
			unread = append(unread, Unread{stream.Unreadable{Subject: m.Subject, Seq: m.Seq, Err: err}, claimsOf(m.Data)})
			return nil
		}
		return f(e)
	})
	if err != nil {
		return nil, fmt.Errorf("read ledger of %s: %w", main, err)
	}
	return unread, nil
}

// claimsOf are the ids that an entry claims which cannot be read: those that lie
// where this program would have written them.
func claimsOf(data []byte) (ids []string) {
	var e struct {
		Claims []struct {
			CloudID string `json:"cloud_id"`
		} `json:"claims"`
	}
	if json.Unmarshal(data, &e) != nil {
		return nil
	}
	for _, c := range e.Claims {
		ids = append(ids, c.CloudID)
	}
	return ids
}

// Of tells whether this is the entry of a set of names.
func (u Unread) Of(main string, names []string) bool { return u.Subject == spendSubject(main, names) }
