package ledger

import (
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
)

// StreamName is the stream of the ledger.
const StreamName = "LEDGER"

var (
	// ErrConflict: the entry was written by somebody else since it was read.
	ErrConflict = errors.New("the ledger entry has changed")
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
// entry, and what is read must be the leader's.
func Config(replicas int, firstSeq uint64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              StreamName,
		Description:       "what was spent; nothing is ever forgotten here",
		Subjects:          []string{"spend.*.*", "claim.*.*"},
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		MaxMsgsPerSubject: 1,
		DenyDelete:        true,
		DenyPurge:         true,
		FirstSeq:          firstSeq,
	}
}

// New binds to the ledger's stream.
func New(ctx context.Context, js jetstream.JetStream) (*Ledger, error) {
	s, err := js.Stream(ctx, StreamName)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", StreamName, err)
	}
	return &Ledger{js: js, stream: s}, nil
}

// Began is when this ledger was created, on the server's clock.
func (l *Ledger) Began() time.Time { return l.stream.CachedInfo().Created }

func spendSubject(main string, names []string) string {
	return "spend." + main + "." + order.NamesHash(names)
}

// Read returns what is known of a set of names; an empty entry if nothing is.
func (l *Ledger) Read(ctx context.Context, main string, names []string) (Entry, error) {
	raw, err := l.stream.GetLastMsgForSubject(ctx, spendSubject(main, names))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Entry{Main: main, Names: canonical(names)}, nil
	}
	if err != nil {
		return Entry{}, fmt.Errorf("read ledger of %s: %w", strings.Join(names, " "), err)
	}
	return decodeEntry(raw.Data, raw.Sequence, raw.Time)
}

// decodeEntry reads an entry. An attempt that this very message opened has no
// time of its own yet: the message's time is the intent's time.
func decodeEntry(data []byte, seq uint64, stored time.Time) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(data, &e); err != nil {
		return Entry{}, fmt.Errorf("decode ledger entry %d: %w", seq, err)
	}
	if e.V > version {
		// Writing it back would forget what the newer program keeps here.
		return Entry{}, fmt.Errorf("ledger entry %d has version %d, this program knows %d: it is left to newer workers", seq, e.V, version)
	}
	e.seq = seq
	for i := range e.Attempts {
		if e.Attempts[i].Ending == Open && e.Attempts[i].Opened.IsZero() {
			e.Attempts[i].Opened = stored
		}
	}
	return e, nil
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
func (l *Ledger) write(ctx context.Context, e Entry) (Entry, error) {
	e.V = version
	data, err := json.Marshal(e)
	if err != nil {
		return Entry{}, fmt.Errorf("encode ledger entry: %w", err)
	}
	ack, err := l.js.Publish(ctx, spendSubject(e.Main, e.Names), data, jetstream.WithExpectLastSequencePerSubject(e.seq))
	if conflict(err) {
		return Entry{}, ErrConflict
	}
	if err != nil {
		return Entry{}, fmt.Errorf("write ledger of %s: %w", strings.Join(e.Names, " "), err)
	}
	e.seq = ack.Sequence
	return e, nil
}

// conflict: 10071 is a condition that does not hold, 10164 one that cannot be
// judged yet; both mean to read again.
func conflict(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == 10071 || api.ErrorCode == 10164)
}

// noAnswer: the write may have happened, or not.
func noAnswer(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrNoStreamResponse)
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
	_, werr := l.write(ctx, e.with(a))
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
	_, err := l.write(ctx, e.with(carry(e, a)))
	return err
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

// writes bounds how often a close that conflicts, or gets no answer, reads
// again.
const writes = 20

// pause waits before the n-th further try: rivals that met once should not meet
// again.
func pause(ctx context.Context, n int) error {
	t := time.NewTimer(rand.N(min(time.Millisecond<<n, 250*time.Millisecond)) + time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// change reads, lets f decide, and writes, until the write is not in conflict.
// f returns false if there is nothing to change.
func (l *Ledger) change(ctx context.Context, main string, names []string, f func(Entry) (Entry, bool, error)) (Entry, error) {
	for n := range writes {
		e, err := l.Read(ctx, main, names)
		if err != nil {
			return Entry{}, err
		}
		next, changed, err := f(e)
		if err != nil || !changed {
			return e, err
		}
		next, err = l.write(ctx, next) // an open attempt carries its time by now (decodeEntry)
		// No answer: what is read next tells whether it was stored, and every f
		// finds its own change done.
		if !errors.Is(err, ErrConflict) && (ctx.Err() != nil || !noAnswer(err)) {
			return next, err
		}
		if err := pause(ctx, n); err != nil {
			return Entry{}, err
		}
	}
	return Entry{}, ErrConflict
}

// Bought closes the attempt with the cloud's id. It closes only if the attempt
// is still the open one, or is the claim already; else it returns ErrConflict.
// Safe to repeat.
func (l *Ledger) Bought(ctx context.Context, main string, names []string, a Attempt, cloudID, how string) error {
	if cloudID == "" {
		return errors.New("close ledger entry: a purchase without a cloud id is none")
	}
	_, err := l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
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
	return err
}

// End closes the open attempt without an id. Only the attempt with this token
// is closed: a close that conflicts reads again, and closes if its token is
// still there. Safe to repeat.
func (l *Ledger) End(ctx context.Context, main string, names []string, a Attempt, how Ending, note string) error {
	_, err := l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
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
	return err
}

// Forgo records that an order gives up its purchase: no attempt of it may be
// sent any more, because a number is never used twice. It is refused with
// ErrNotOpener while the order's attempt is open, and with ErrConflict when the
// purchase was bought.
func (l *Ledger) Forgo(ctx context.Context, main string, names []string, a Attempt, how Ending, note string) error {
	_, err := l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
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
	return err
}

// Adopt takes a cloud order for the open attempt without proof: it stays open
// until the key is compared at collection (Bought, or Disown).
func (l *Ledger) Adopt(ctx context.Context, main string, names []string, a Attempt, cloudID string) error {
	_, err := l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
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
	return err
}

// Disown records that a provisionally adopted cloud order has another key: it
// is foreign for this order, and the attempt is open again with its old intent.
func (l *Ledger) Disown(ctx context.Context, main string, names []string, a Attempt, cloudID string) error {
	_, err := l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
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
	return err
}

// Foreign records that cloud orders, which were candidates for the open attempt,
// have another key: they are none for this order any more.
func (l *Ledger) Foreign(ctx context.Context, main string, names []string, a Attempt, cloudIDs ...string) error {
	_, err := l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
		last, ok := e.Last(a.Order)
		if !ok || last.Attempt != a.Attempt || last.Ending != Open {
			return e, false, ErrConflict
		}
		fresh := slices.DeleteFunc(slices.Clone(cloudIDs), func(id string) bool { return slices.Contains(last.Foreign, id) || last.Provisional == id })
		last.Foreign = append(slices.Clone(last.Foreign), fresh...)
		return e.with(last), len(fresh) > 0, nil
	})
	return err
}

// Assign claims a cloud order for a purchase by an operator's word. It closes
// the order's open attempt, if there is one. The error wraps ErrTaken if another
// order has it, also provisionally, or if its key was seen not to be this
// order's.
func (l *Ledger) Assign(ctx context.Context, main string, names []string, c Claim) error {
	_, err := l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
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
	return err
}

// Report writes an unclaimed cloud order under its names, never where an
// attempt is open (that row may be the attempt's own).
func (l *Ledger) Report(ctx context.Context, main string, names []string, u Unclaimed) error {
	_, err := l.change(ctx, main, names, func(e Entry) (Entry, bool, error) {
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
	return err
}

// Each reads the entries of a main account and calls f for each, until f
// returns an error. Entries that are written meanwhile may come twice, or as
// they were: act on one only through the methods that read again.
func (l *Ledger) Each(ctx context.Context, main string, f func(Entry) error) error {
	err := eachMessage(ctx, l.stream, "spend."+main+".*", func(m jetstream.Msg, md *jetstream.MsgMetadata) error {
		e, err := decodeEntry(m.Data(), md.Sequence.Stream, md.Timestamp)
		if err != nil {
			return err
		}
		return f(e)
	})
	if err != nil {
		return fmt.Errorf("read ledger of %s: %w", main, err)
	}
	return nil
}

// eachMessage reads a stream from its beginning and calls f for each message
// that matches.
func eachMessage(ctx context.Context, s jetstream.Stream, filter string, f func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	from, empty := uint64(1), 0
	for {
		next, left, err := eachFrom(ctx, s, filter, from, f)
		switch {
		case err != nil:
			return err
		case left == 0:
			return nil
		case next > from:
			from, empty = next, 0
			continue
		}
		// A server that lags, or whose leader changes, gives nothing although
		// there is something. Only a count of zero is an end.
		if empty++; empty > 5 {
			return fmt.Errorf("%d entries do not come", left)
		}
	}
}

// eachFrom reads on from a sequence with a consumer of its own. It returns where
// to go on, and how many were pending when it began.
func eachFrom(ctx context.Context, s jetstream.Stream, filter string, from uint64, f func(jetstream.Msg, *jetstream.MsgMetadata) error) (next, pending uint64, err error) {
	cons, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: filter, AckPolicy: jetstream.AckNonePolicy,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		MemoryStorage: true, InactiveThreshold: 30 * time.Second})
	if err != nil {
		return from, 0, err
	}
	info := cons.CachedInfo()
	defer func() { _ = s.DeleteConsumer(context.WithoutCancel(ctx), info.Name) }()
	for left := info.NumPending; left > 0; {
		batch, err := cons.Fetch(int(min(left, 500)), jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return from, info.NumPending, err
		}
		n := uint64(0)
		for m := range batch.Messages() {
			n++
			md, err := m.Metadata()
			if err == nil {
				err = f(m, md)
			}
			if err != nil {
				return from, info.NumPending, fmt.Errorf("%s: %w", m.Subject(), err)
			}
			from = md.Sequence.Stream + 1
		}
		if n == 0 {
			break
		}
		left -= min(n, left)
	}
	return from, info.NumPending, nil
}
