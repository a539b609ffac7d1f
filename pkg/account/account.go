// Package account is what holds for a main account while certmill runs: whether
// it is paused and why, and whether its list was swept completely once. It is
// kept in a key-value bucket that all workers watch, so that a command takes
// effect without a restart. Every write is conditional.
package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Bucket is the key-value bucket of account states.
const Bucket = "ACCOUNTS"

// State is what is known of one main account. The zero value is that of an
// account nothing was written about.
type State struct {
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
	// FirstUse is the incarnation for which an operator said that this account
	// was never used by an earlier installation: the sweep need not wait.
	FirstUse string `json:"first_use,omitempty"`
	// Identities tell whose the credentials of each label are.
	Identities map[string]Identity `json:"identities,omitempty"`
}

// Pause says why something rests. A zero Until lasts until it is resumed.
type Pause struct {
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"`
}

// Over tells whether the pause has run out.
func (p Pause) Over(now time.Time) bool { return !p.Until.IsZero() && now.After(p.Until) }

// Mark is a complete sweep.
type Mark struct {
	Incarnation string    `json:"incarnation"`
	At          time.Time `json:"at"`
}

// Marked tells whether the list was swept completely in this incarnation.
func (s State) Marked(incarnation string) bool { return s.Mark.Incarnation == incarnation }

// Accounts holds the states, watched.
type Accounts struct {
	kv jetstream.KeyValue

	mu     sync.RWMutex
	states map[string]known // by main account
}

// known is a state and its revision in the bucket.
type known struct {
	State
	rev uint64
}

// Open binds to the bucket, making it if it is missing, and follows it until
// ctx ends. It returns when the present states were read.
func Open(ctx context.Context, js jetstream.JetStream, replicas int) (*Accounts, error) {
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: Bucket, Description: "pauses, exhausted products and sweep marks of main accounts", Replicas: replicas, History: 1})
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", Bucket, err)
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("watch bucket %s: %w", Bucket, err)
	}
	a := &Accounts{kv: kv, states: map[string]known{}}
	if err := a.present(ctx, js.Conn(), w); err != nil {
		_ = w.Stop()
		return nil, fmt.Errorf("read bucket %s: %w", Bucket, err)
	}
	go func() { // ends with the watch, which ends with ctx
		for e := range w.Updates() {
			if e != nil {
				a.took(e)
			}
		}
	}()
	context.AfterFunc(ctx, func() { _ = w.Stop() })
	return a, nil
}

// present reads the states that are there. Without all of them a paused account
// would look like a free one, so an end before that is an error.
func (a *Accounts) present(ctx context.Context, nc *nats.Conn, w jetstream.KeyWatcher) error {
	closed := nc.StatusChanged(nats.CLOSED)
	defer nc.RemoveStatusListener(closed)
	if nc.IsClosed() { // before the listener was there
		return nats.ErrConnectionClosed
	}
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return errors.New("the watch ended")
			}
			if e == nil { // all that was there has come
				return nil
			}
			a.took(e)
		case <-closed:
			return nats.ErrConnectionClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *Accounts) took(e jetstream.KeyValueEntry) {
	var s State
	if e.Operation() == jetstream.KeyValuePut {
		if json.Unmarshal(e.Value(), &s) != nil {
			return // a newer program's: the last state that we understood stays in force
		}
	}
	a.set(e.Key(), s, e.Revision())
}

// set keeps the newest revision: the watch and our own writes come in any
// order.
func (a *Accounts) set(main string, s State, rev uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if rev > a.states[main].rev {
		a.states[main] = known{s, rev}
	}
}

// State returns what is known of a main account.
func (a *Accounts) State(main string) State {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.states[main].State
}

// changeTries bounds how often a change that conflicts is made again.
const changeTries = 30

// Change applies f to a main account's present state and stores it, on
// condition that nobody wrote in between; else it tries again.
func (a *Accounts) Change(ctx context.Context, main string, f func(*State)) error {
	for n := range changeTries {
		s, rev, err := a.read(ctx, main)
		if err != nil {
			return err
		}
		s.Paused, s.Exhausted, s.Limits = maps.Clone(s.Paused), maps.Clone(s.Exhausted), maps.Clone(s.Limits)
		f(&s)
		data, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("encode state of account %s: %w", main, err)
		}
		if rev, err = a.write(ctx, main, data, rev); err == nil {
			a.set(main, s, rev) // at once for this process; the watch tells the others
			return nil
		}
		if !errors.Is(err, jetstream.ErrKeyExists) && !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			return fmt.Errorf("write state of account %s: %w", main, err)
		}
		// Also a read that came from a server which lags: give it time.
		if err := pause(ctx, n); err != nil {
			return err
		}
	}
	return fmt.Errorf("write state of account %s: too many writers", main)
}

// write stores a state on condition that rev is the last; 0: none, or one that
// somebody deleted.
func (a *Accounts) write(ctx context.Context, main string, data []byte, rev uint64) (uint64, error) {
	if rev == 0 {
		return a.kv.Create(ctx, main, data)
	}
	return a.kv.Update(ctx, main, data, rev)
}

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

func (a *Accounts) read(ctx context.Context, main string) (State, uint64, error) {
	e, err := a.kv.Get(ctx, main)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return State{}, 0, nil
	}
	if err != nil {
		return State{}, 0, fmt.Errorf("read state of account %s: %w", main, err)
	}
	var s State
	if err := json.Unmarshal(e.Value(), &s); err != nil {
		return State{}, 0, fmt.Errorf("decode state of account %s: %w", main, err)
	}
	return s, e.Revision(), nil
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
