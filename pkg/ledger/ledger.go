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

	"github.com/certmill/certmill/pkg/gap"
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

// Now is the time on the clock that the times of entries are of: that of the server
// which leads the ledger's stream.
func (l *Ledger) Now(ctx context.Context) (time.Time, error) {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("the ledger's time: %w", err)
	}
	if info.TimeStamp.IsZero() { // a server before 2.10 does not tell
		return time.Time{}, errors.New("the ledger's time: the server does not tell it")
	}
	return info.TimeStamp, nil
}

func spendSubject(main string, names []string) string {
	return "spend." + main + "." + order.NamesHash(names)
}

// names is the group of the entries of a set of names at all main accounts: every
// write of one is conditional on all (DESIGN 12.3). The text of the filter belongs
// to the format: all builds of one format build the same.
func (l *Ledger) names(names []string) stream.Group {
	return stream.Within(l.js, l.stream, spendSubject("*", names))
}

// Read returns what is known of a set of names: the entry at a main account,
// empty if there is none, and those at the others (Elsewhere), whether the config
// has these or not. The error wraps record.ErrNewer if a newer program wrote one.
func (l *Ledger) Read(ctx context.Context, main string, names []string) (Entry, error) {
	all, last, err := l.names(names).Read(ctx)
	if err == nil {
		var e Entry
		if e, err = stored(main, names, all, last); err == nil {
			return e, nil
		}
	}
	return Entry{}, fmt.Errorf("read ledger of %s: %w", strings.Join(names, " "), err)
}

// Mains are the main accounts that have an entry for a set of names, in the order
// of their last writing; also those whose entry this program cannot read.
func (l *Ledger) Mains(ctx context.Context, names []string) ([]string, error) {
	all, _, err := l.names(names).Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read ledger of %s: %w", strings.Join(names, " "), err)
	}
	var mains []string
	for _, v := range all {
		mains = append(mains, strings.Split(v.Subject, ".")[1])
	}
	return mains, nil
}

// stored is the entry among those that lie there.
func stored(main string, names []string, all []stream.Value, last uint64) (Entry, error) {
	own := Entry{Main: main, Names: canonical(names)}
	var others []Entry
	for _, v := range all {
		e, err := decodeEntry(v.Data, v.Seq, v.Stored)
		if err != nil {
			return Entry{}, err
		}
		if v.Subject == spendSubject(main, names) {
			own = e
		} else {
			others = append(others, e)
		}
	}
	own.others, own.seq = others, last
	return own, nil
}

// decodeEntry reads an entry. What this very message opened, adopted or claimed has
// no time of its own yet: the message's time is its time. So these are times of one
// clock, the server's, and can be compared with its Now.
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
		if e.Attempts[i].Provisional != "" && e.Attempts[i].Adopted.IsZero() {
			e.Attempts[i].Adopted = stored
		}
	}
	for i := range e.Claims {
		if e.Claims[i].At.IsZero() {
			e.Claims[i].At = stored
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
	if _, err = l.names(e.Names).Write(ctx, spendSubject(e.Main, e.Names), data, e.seq); err != nil {
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
// are ErrConflict, because the caller decided on something else than e. Names
// that another order has, at whatever main account, are ErrNotOpener.
//
// With the attempt the order takes the names: until Issued or Over.
func (l *Ledger) Begin(ctx context.Context, e Entry, a Attempt) (Entry, Attempt, error) {
	if open, is := e.OpenAttempt(); is {
		return e, open, ErrNotOpener
	}
	if by, is := e.blockedBy(a.Order); is {
		return e, a, fmt.Errorf("%w: %w", ErrNotOpener, &NotFree{by})
	}
	if !mayOpen(e, a) {
		return e, a, ErrConflict
	}
	a = carry(e, a)
	a.Token = crand.Text()
	werr := l.write(ctx, e.with(a).taken(a.Order, time.Now()))
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
// but not in the ledger: its outcome is unknown and nobody may send. It takes the
// names even beside an order that has them: what may have been bought is known
// before anything else is decided.
func (l *Ledger) BeginOwnerless(ctx context.Context, e Entry, a Attempt) error {
	if _, is := e.OpenAttempt(); is {
		return ErrNotOpener
	}
	if last, _ := e.Last(a.Order); a.Attempt <= last.Attempt {
		return ErrConflict
	}
	return l.write(ctx, e.with(carry(e, a)).taken(a.Order, time.Now()))
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
	return l.names(names).Change(ctx, spendSubject(main, names), func(all []stream.Value, last uint64) ([]byte, error) {
		e, err := stored(main, names, all, last)
		if err != nil {
			return nil, err
		}
		next, changed, err := f(e)
		if err != nil || !changed {
			return nil, err
		}
		return next.encode() // an open attempt carries its time by now (decodeEntry)
	})
}

// Bought closes the attempt with the cloud's id. It closes only if the attempt
// is still the open one, or is the claim already; else it returns ErrConflict.
// The error wraps ErrTaken if another order has that cloud order. Safe to repeat.
//
// The owner is written first (DESIGN 12.5). A crash between the two leaves a
// cloud order that is this order's and that its entry does not know: the
// reconciler finds it by the list, and nobody else may have it.
func (l *Ledger) Bought(ctx context.Context, main string, names []string, a Attempt, cloudID, how string) error {
	if cloudID == "" {
		return errors.New("close ledger entry: a purchase without a cloud id is none")
	}
	if err := l.own(ctx, main, cloudID, Owner{Order: a.Order, Purchase: a.Purchase, Names: canonical(names)}); err != nil {
		return err
	}
	gap.At(ctx, "ledger: owner written")
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
			Attempt: last.Attempt, How: how, Product: last.Product, Intent: last.Since()}), true, nil
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

// Take takes the names for an order that spends nothing, before it claims its
// resource (DESIGN 12.2), by a decision of its record (Decision). e is what it was
// decided on: ErrConflict if that has changed. The error is *NotFree if another
// order has them, and wraps ErrStale if the order has ended or decided otherwise
// since. An unclaimed row of the resource is explained by it, until the order gives
// it back (Loose). Safe to repeat.
func (l *Ledger) Take(ctx context.Context, e Entry, id, resource string, decided time.Time) error {
	if by, is := e.blockedBy(id); is {
		return &NotFree{by}
	}
	if !e.Decided(id, decided) {
		return fmt.Errorf("take %s: %w", strings.Join(e.Names, " "), ErrStale)
	}
	t, ok := e.Take(id)
	if ok && t.End == "" && t.Resource == resource && t.Decided.Equal(decided) {
		return nil
	}
	e = e.taken(id, time.Now())
	t, _ = e.Take(id)
	t.Resource, t.Decided = resource, decided
	return l.write(ctx, e.withTake(t))
}

// Ending notes that an order's end is decided, before its resource is looked at
// and given back: from then on no worker claims or calls anything for it by what
// it read before, whether it had come to take the names by its last decision or
// not. The names stay taken. Safe to repeat.
func (l *Ledger) Ending(ctx context.Context, main string, names []string, id string, decided time.Time) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		t, ok := e.Take(id)
		if ok && (t.End != "" || t.Ending) && !decided.After(t.Decided) {
			return e, false, nil
		}
		if !ok || t.End != "" { // it never came to take them, and never will
			t.Order, t.End, t.At = id, TakeOver, time.Now().UTC()
		}
		t.Ending, t.Decided = t.End == "", later(t.Decided, decided)
		return e.withTake(t), true, nil
	})
}

// Resume takes the names again for an order that had ended without a certificate
// and goes on by a person's word. The error is *NotFree if another order has
// them by now. Safe to repeat.
func (l *Ledger) Resume(ctx context.Context, main string, names []string, id string) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		t, ok := e.Take(id)
		if err := e.MayResume(id); !ok || t.End != TakeOver || err != nil {
			return e, false, err
		}
		// What the order had decided before is over, whatever a worker that slept
		// has read.
		t.End, t.At, t.Paid, t.Ending, t.Decided = "", time.Time{}, false, false, e.Decision(id, time.Now())
		return e.withTake(t), true, nil
	})
}

// MayResume is why Resume would refuse an order its names; nil if it would not.
func (e Entry) MayResume(id string) error {
	if t, _ := e.Take(id); t.End == TakeOver {
		if by, is := e.blockedBy(id); is {
			return &NotFree{by}
		}
	}
	return nil
}

// Leave gives the names back that an order has for nothing: no attempt of it is
// open, none bought anything, and its record, with this last decision, uses no
// resource. They are as if it had never taken them, and what an older record would
// do is stale. An order that has something keeps them. Safe to repeat.
func (l *Ledger) Leave(ctx context.Context, main string, names []string, id string, decided time.Time) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		t, ok := e.Take(id)
		last, _ := e.Last(id)
		bought := slices.ContainsFunc(e.Claims, func(c Claim) bool { return c.Order == id })
		if !ok || t.End != "" || last.Ending == Open || bought {
			return e, false, nil
		}
		t.End, t.At, t.Ending, t.Decided = TakeOver, time.Now().UTC(), false, later(t.Decided, decided)
		return e.withTake(t), true, nil
	})
}

// Issued records that an order's certificate is in service, before the order is
// told to be issued. Safe to repeat.
func (l *Ledger) Issued(ctx context.Context, main string, names []string, id string, notBefore, notAfter time.Time) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		t, ok := e.Take(id)
		if ok && t.End == TakeIssued && t.NotAfter.Equal(notAfter) {
			return e, false, nil
		}
		if !ok { // from before a lost ledger
			t = Take{Order: id, Since: time.Now().UTC()}
		}
		t.End, t.At, t.NotBefore, t.NotAfter, t.Ending, t.Paid = TakeIssued, time.Now().UTC(), notBefore, notAfter, false, false
		return e.withTake(t), true, nil
	})
}

// Over records that an order ended without a certificate, before it is told to
// have failed: its names are free again, or, if something was paid for it, stop
// the next order once more. started says so for an order on something already
// bought. Of one that spends, a is the attempt that its record knows: nobody may
// send it any more, because its number is closed by the same write. It is refused,
// with an error that wraps ErrOpen, while the order's attempt is open: reconcile
// first. Safe to repeat.
func (l *Ledger) Over(ctx context.Context, main string, names []string, a Attempt, started bool) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		last, _ := e.Last(a.Order)
		if last.Ending == Open {
			return e, false, fmt.Errorf("order %q: %w", a.Order, ErrOpen)
		}
		changed := false
		if _, bought := e.Claim(a.Order, a.Purchase); !bought && a.Attempt > last.Attempt {
			a.Ending, a.Foreign = NeverSent, last.Foreign
			e, changed = e.with(a), true
		}
		paid := started || slices.ContainsFunc(e.Claims, func(c Claim) bool { return c.Order == a.Order })
		t, ok := e.Take(a.Order)
		switch {
		case !ok && !paid, t.End == TakeIssued, t.End == TakeOver && (t.Paid || !paid):
			return e, changed, nil
		case !ok: // from before a lost ledger
			t = Take{Order: a.Order, Since: moment(time.Now())}
		}
		t.End, t.At, t.Ending, t.Paid = TakeOver, time.Now().UTC(), false, paid
		return e.withTake(t), true, nil
	})
}

// Adopt takes a cloud order for the open attempt without proof: it stays open
// until the key is compared at collection (Bought, or Disown). The error wraps
// ErrTaken if another order has it. As with Bought, the owner is written first.
func (l *Ledger) Adopt(ctx context.Context, main string, names []string, a Attempt, cloudID string) error {
	if cloudID == "" {
		return errors.New("adopt a cloud order: a row without an id is none")
	}
	if err := l.own(ctx, main, cloudID, Owner{Order: a.Order, Purchase: a.Purchase, Names: canonical(names), Provisional: true}); err != nil {
		return err
	}
	gap.At(ctx, "ledger: owner written")
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
		last.Provisional, last.Adopted = cloudID, time.Time{}
		return e.with(last), true, nil
	})
}

// Disown records that a provisionally adopted cloud order has another key: it
// is foreign for this order, and the attempt is open again with its old intent.
// The owner's cell still names the order; the entry says otherwise, and who
// claims that cloud order next replaces it (own). It is unclaimed from now on, and
// stops the next purchase (DESIGN 12.5).
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
		last.Provisional, last.Adopted = "", time.Time{}
		last.Foreign = append(slices.Clone(last.Foreign), cloudID)
		return e.with(last).withUnclaimed(cloudID), true, nil
	})
}

// Foreign records that cloud orders, which were candidates for the open attempt,
// have another key: they are none for this order any more, and stop the next
// purchase as unclaimed ones.
func (l *Ledger) Foreign(ctx context.Context, main string, names []string, a Attempt, cloudIDs ...string) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		last, ok := e.Last(a.Order)
		if !ok || last.Attempt != a.Attempt || last.Ending != Open {
			return e, false, ErrConflict
		}
		fresh := slices.DeleteFunc(slices.Clone(cloudIDs), func(id string) bool { return slices.Contains(last.Foreign, id) || last.Provisional == id })
		last.Foreign = append(slices.Clone(last.Foreign), fresh...)
		return e.with(last).withUnclaimed(fresh...), len(fresh) > 0, nil
	})
}

// Assign claims a cloud order for a purchase by an operator's word, or because its
// key is the order's, which has the names from then on. It closes the order's open
// attempt, if there is one. The error wraps ErrTaken if another
// order has it, also provisionally, or if its key was seen not to be this
// order's.
func (l *Ledger) Assign(ctx context.Context, main string, names []string, c Claim) error {
	if c.CloudID == "" {
		return errors.New("claim a cloud order: it has no id")
	}
	e, err := l.Read(ctx, main, names)
	if err != nil {
		return err
	}
	if was, ok := e.Claimed(c.CloudID); (!ok || was.Order != c.Order) && !e.Free(c.CloudID, c.Order) {
		return fmt.Errorf("cloud order %s: %w, or has another key than %q", c.CloudID, ErrTaken, c.Order)
	}
	if err := l.own(ctx, main, c.CloudID, Owner{Order: c.Order, Purchase: c.Purchase, Names: canonical(names)}); err != nil {
		return err
	}
	gap.At(ctx, "ledger: owner written")
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
			e, c.Product, c.Intent = e.with(last), last.Product, last.Since()
		}
		// Until it is issued or has ended, whoever has the names besides: what was
		// bought is on its way.
		return e.withClaim(c).taken(c.Order, time.Now()), true, nil
	})
}

// Report writes an unclaimed cloud order under its names, also where an attempt
// is open: a row that is foreign for that order still stops the next (DESIGN
// 12.6). One that turns out to be the attempt's own is unclaimed no more.
func (l *Ledger) Report(ctx context.Context, main string, names []string, u Unclaimed) error {
	return l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		if _, claimed := e.Claimed(u.CloudID); claimed || u.CloudID == "" {
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

// AnyMain stands for all main accounts.
const AnyMain = "*"

// Each reads the entries of a main account, or of AnyMain, and calls f for each, until f
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
