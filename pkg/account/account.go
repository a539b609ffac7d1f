// Package account is what holds for a main account while certmill runs: whether
// it is paused and why, and whether its list was swept completely once. It is
// kept in a key-value bucket that all workers watch, so that a command takes
// effect without a restart. Every write is conditional.
package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/record"
	"github.com/certmill/certmill/pkg/stream"
)

// Bucket is the key-value bucket of account states, and StreamName its stream,
// as every client names it (NATS ADR-8).
const (
	Bucket     = "ACCOUNTS"
	StreamName = "KV_" + Bucket
	subjects   = "$KV." + Bucket + "."
)

// Config is the bucket's stream: nothing but a newer state may ever take one
// away, and what is read must be the leader's, so that nobody goes on with an
// account that was paused. replicas is 1 for a single server and 3 in a
// cluster; 0 means any, for those who look.
func Config(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              StreamName,
		Description:       "pauses, exhausted products, budgets and sweep marks of main accounts",
		Subjects:          []string{subjects + ">"},
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		MaxMsgsPerSubject: 1,
		DenyDelete:        true,
		DenyPurge:         true,
	}
}

// version of the states that this program writes. It leaves higher ones alone.
const version = 1

// State is what is known of one main account. The zero value is that of an
// account nothing was written about.
type State struct {
	V int `json:"v,omitempty"`
	// Labels paused for all their orders, by bad credentials or by command.
	Paused map[string]Pause `json:"paused,omitempty"`
	// Products of which no quota is left.
	Exhausted map[string]Pause `json:"exhausted,omitempty"`
	// Purchases counted towards a budget, by period: a day (2026-11-25), or
	// "all" for a batch.
	Bought map[string]int `json:"bought,omitempty"`
	// Limits in force, calls a second by API action, where a command changed them.
	Limits map[string]int `json:"limits,omitempty"`
	// Mark of the first complete list sweep of this incarnation of the streams.
	// Before it nothing is bought, and nothing is declared not bought.
	Mark Mark `json:"mark,omitzero"`
	// Unswept is since when that sweep has failed, and why. It goes with the mark.
	Unswept Unswept `json:"unswept,omitzero"`
	// FirstUse is the incarnation for which an operator said that this account
	// was never used by an earlier installation: the sweep need not wait.
	FirstUse string `json:"first_use,omitempty"`
	// Vouched are the callers for whose lists that word was given, each with the
	// incarnation: they may say "not there" although nothing shows that they see
	// everything (DESIGN 12.7).
	Vouched map[string]string `json:"vouched,omitempty"`
	// Troubles are what a person should know of the account, by kind.
	Troubles map[string]Trouble `json:"troubles,omitempty"`
	// Identities tell whose the credentials of each label are.
	Identities map[string]Identity `json:"identities,omitempty"`
	// Removed are orders whose message somebody has removed, not certmill.
	Removed []RemovedOrder `json:"removed,omitempty"`

	rest   record.Rest // what another build wrote and this one does not know
	hidden string      // why nothing is known: there is a state, which cannot be read
}

// Pause says why something rests. A zero Until lasts until it is resumed.
type Pause struct {
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"`
}

// Over tells whether the pause has run out.
func (p Pause) Over(now time.Time) bool { return !p.Until.IsZero() && now.After(p.Until) }

// Rest is the pause in force of a label, and whether there is one. An account
// whose state cannot be read, and never could, rests: it may be paused.
func (s State) Rest(label string, now time.Time) (Pause, bool) {
	if s.hidden != "" {
		return Pause{Why: "its state cannot be read by this certmill, it is left to others: " + s.hidden}, true
	}
	p, paused := s.Paused[label]
	return p, paused && !p.Over(now)
}

// Mark is a complete sweep.
type Mark struct {
	Incarnation string    `json:"incarnation"`
	At          time.Time `json:"at"`
}

// Unswept is a first sweep that fails.
type Unswept struct {
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
}

// Marked tells whether the list was swept completely in this incarnation.
func (s State) Marked(incarnation string) bool { return s.Mark.Incarnation == incarnation }

// Accounts holds the states.
type Accounts struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	log    *slog.Logger
	stop   func() // ends the following and waits for its end

	mu     sync.RWMutex
	states map[string]known // by main account
	unread map[string]stream.Unreadable
}

// known is a state and its revision in the bucket: the sequence of its message.
type known struct {
	State
	rev uint64
}

// Open binds to the bucket, if it is as Config has it, and follows it until ctx
// ends or Close. It makes nothing; see stream.Open for the errors. It returns
// when the present states were read.
func Open(ctx context.Context, js jetstream.JetStream, replicas int, log *slog.Logger) (*Accounts, error) {
	a, last, err := look(ctx, js, replicas, log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var wg sync.WaitGroup
		for i, filter := range stateFilters {
			wg.Go(func() { a.follow(ctx, filter, last[i]) })
		}
		wg.Wait()
	}()
	a.stop = func() { cancel(); <-ended }
	return a, nil
}

// stateFilters are the keys of states: main accounts, and the budgets of batches and
// publishers. What is known of zones has longer keys, and is read when it is needed.
var stateFilters = []string{subjects + "*", subjects + "*.*"}

func (a *Accounts) follow(ctx context.Context, filter string, after uint64) {
	err := stream.Follow(ctx, a.stream, filter, after, func(m stream.Message) error {
		if deleted(m.Header) {
			a.putBack(ctx, m)
			return nil
		}
		a.took(ctx, m)
		return nil
	})
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) { // that ends the session anyway
		a.log.ErrorContext(ctx, "the states of accounts are not followed any more", "err", err)
	}
}

// Look reads the present states once and follows nothing: for those who look
// and go. It makes nothing on the server; what the returned Accounts change they
// know of.
func Look(ctx context.Context, js jetstream.JetStream, replicas int, log *slog.Logger) (*Accounts, error) {
	a, _, err := look(ctx, js, replicas, log)
	return a, err
}

// look also returns up to where it has read, by the filters.
func look(ctx context.Context, js jetstream.JetStream, replicas int, log *slog.Logger) (a *Accounts, last []uint64, err error) {
	s, err := stream.Open(ctx, js, Config(replicas))
	if err != nil {
		return nil, nil, err
	}
	a = &Accounts{js: js, stream: s, log: log, stop: func() {},
		states: map[string]known{}, unread: map[string]stream.Unreadable{}}
	// Without all of them a paused account would look like a free one.
	for _, filter := range stateFilters {
		end, err := stream.ReadAll(ctx, s, filter, 0, func(m stream.Message) error {
			a.took(ctx, m)
			return nil
		})
		if err != nil {
			return nil, nil, fmt.Errorf("bucket %s: %w", Bucket, err)
		}
		last = append(last, end)
	}
	return a, last, nil
}

// Close ends the following. It must come before the connection is closed, so
// that nothing stays behind on the server. Safe to repeat.
func (a *Accounts) Close() { a.stop() }

// took notes what the bucket has. One that cannot be read is a newer program's:
// the last state that was understood stays in force.
func (a *Accounts) took(ctx context.Context, m stream.Message) {
	main := strings.TrimPrefix(m.Subject, subjects)
	s, err := decode(stream.Value{Data: m.Data, Header: m.Header, Seq: m.Seq})
	if err == nil {
		a.set(main, s, m.Seq)
		return
	}
	u := stream.Unreadable{Subject: m.Subject, Seq: m.Seq, Err: err}
	u.Tell(ctx, a.log)
	a.mu.Lock()
	defer a.mu.Unlock()
	if m.Seq < a.states[main].rev {
		return
	}
	a.unread[main] = u
	if a.states[main].rev == 0 {
		a.states[main] = known{State: State{hidden: err.Error()}}
	}
}

// decode reads what lies in a cell; nothing, and what a client deleted, is an
// account nothing was written about.
func decode(v stream.Value) (State, error) {
	var s State
	if v.Seq == 0 || deleted(v.Header) {
		return State{}, nil
	}
	rest, err := record.Decode(v.Data, version, &s)
	s.rest = rest
	return s, err
}

// set keeps the newest revision: the watch and our own writes come in any
// order.
func (a *Accounts) set(main string, s State, rev uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if rev > a.states[main].rev {
		a.states[main] = known{s, rev}
	}
	if rev > a.unread[main].Seq {
		delete(a.unread, main)
	}
}

// State returns what is known of a main account.
func (a *Accounts) State(main string) State {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.states[main].State
}

// Unreadable are the states that this program cannot read, by their subjects.
func (a *Accounts) Unreadable() []stream.Unreadable {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.SortedFunc(maps.Values(a.unread), func(x, y stream.Unreadable) int {
		return strings.Compare(x.Subject, y.Subject)
	})
}

// Change applies f to a main account's present state and stores it, on
// condition that nobody wrote in between; else, and without an answer, it tries
// again: f applied twice MUST be the same as once. The error wraps
// record.ErrNewer if a newer program wrote the state.
func (a *Accounts) Change(ctx context.Context, main string, f func(*State)) error {
	return a.change(ctx, main, f, stream.Cell.Change)
}

// change is Change with one of the ways in which a cell changes.
func (a *Accounts) change(ctx context.Context, main string, f func(*State),
	way func(stream.Cell, context.Context, func(stream.Value) ([]byte, error)) (stream.Value, error)) error {
	var s State
	v, err := way(stream.At(a.js, a.stream, subjects+main), ctx, func(v stream.Value) (_ []byte, err error) {
		if s, err = a.base(v, main); err != nil {
			return nil, err
		}
		f(&s)
		s.V = version
		return record.Encode(s, s.rest)
	})
	if err != nil {
		return fmt.Errorf("state of account %s: %w", main, err)
	}
	a.set(main, s, v.Seq) // at once for this process; the watch tells the others
	return nil
}

// Pause rests a label.
func (a *Accounts) Pause(ctx context.Context, main, label string, p Pause) error {
	return a.Change(ctx, main, func(s *State) {
		if s.Paused == nil {
			s.Paused = map[string]Pause{}
		}
		s.Paused[label] = p
	})
}

// Resume ends the pause of a label.
func (a *Accounts) Resume(ctx context.Context, main, label string) error {
	return a.Change(ctx, main, func(s *State) { delete(s.Paused, label) })
}

// Exhaust notes that a product has no quota left.
func (a *Accounts) Exhaust(ctx context.Context, main, product string, p Pause) error {
	return a.Change(ctx, main, func(s *State) {
		if s.Exhausted == nil {
			s.Exhausted = map[string]Pause{}
		}
		s.Exhausted[product] = p
	})
}

// Replenish notes that a product has quota again.
func (a *Accounts) Replenish(ctx context.Context, main, product string) error {
	return a.Change(ctx, main, func(s *State) { delete(s.Exhausted, product) })
}
