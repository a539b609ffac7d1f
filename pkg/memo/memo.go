// Package memo remembers answers to questions that many ask at the same time:
// one of them asks, for all who want to know, and the answer holds for a while.
// Questions do not wait for each other, whatever becomes of one.
//
// Failures are remembered, too, but not for long: so that a hundred who want to
// know do not ask one after the other what does not answer, and so that it is
// noticed when it answers again.
package memo

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Keep is how long what was learnt holds, from the moment it was learnt on.
type Keep struct {
	Answer  time.Duration
	Failure time.Duration
	// Silence tells which failures are remembered: those that say that nobody
	// answers. A clear refusal costs nobody any time, and may be over as soon as a
	// person has seen it. Nil: all.
	Silence func(error) bool
}

// of is how long an outcome holds.
func (k Keep) of(err error) time.Duration {
	switch {
	case err == nil:
		return k.Answer
	case k.Silence == nil || k.Silence(err):
		return k.Failure
	}
	return 0
}

// Moment is how long a failure is usually remembered: about as long as nobody
// minds that something answers again.
const Moment = time.Second

// Memo remembers answers by key. The zero value is ready. It is safe for
// concurrent use.
type Memo[T any] struct {
	mu  sync.Mutex // owns the map, and what is marked so below; never held while somebody is asked
	was map[string]*asked[T]
}

// asked is a question that is on its way, or was answered.
type asked[T any] struct {
	ready   chan struct{}      // closed with the answer
	end     context.CancelFunc // of the asking
	wanting int                // callers that wait for it; owned by mu
	until   time.Time          // the answer holds; zero: it is on its way. Owned by mu

	value T // these are not changed any more once ready is closed
	err   error
	fault *fault
}

// fault is a panic of whoever was asked. It goes on in all who wanted to know.
type fault struct {
	value any
	stack []byte
}

func (f *fault) Error() string { return fmt.Sprintf("%v\n\nasked by:\n%s", f.value, f.stack) }

// errNoAnswer: the asking ended without coming back (runtime.Goexit).
var errNoAnswer = errors.New("the question was given up")

// Get returns what is remembered under a key, or asks. Who comes while it is
// asked waits for that answer. Whose ctx ends, leaves with ctx's error; the
// asking goes on for the others, in a context that has the values of the first
// caller's and ends when nobody waits any more. What is learnt after that is not
// remembered. A panic of ask panics in all who wait.
func (m *Memo[T]) Get(ctx context.Context, key string, keep Keep, ask func(context.Context) (T, error)) (T, error) {
	var none T
	if ctx.Err() != nil {
		return none, ctx.Err()
	}
	a := m.join(ctx, key, keep, ask)
	defer m.leave(key, a)
	select {
	case <-a.ready:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	if a.fault != nil {
		panic(a.fault)
	}
	return a.value, a.err
}

// join counts the caller among those who want to know, and asks if nobody did.
func (m *Memo[T]) join(ctx context.Context, key string, keep Keep, ask func(context.Context) (T, error)) *asked[T] {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.was[key]; a != nil && (a.until.IsZero() || time.Now().Before(a.until)) {
		a.wanting++
		return a
	}
	flight, end := context.WithCancel(context.WithoutCancel(ctx))
	a := &asked[T]{ready: make(chan struct{}), end: end, wanting: 1, err: errNoAnswer}
	m.enter(key, a)
	go m.ask(flight, a, keep, ask) // ends with the answer, or when the last caller leaves
	return a
}

// ask gets the answer. Nobody waits for a flight that was given up, and it is
// in the map no more.
func (m *Memo[T]) ask(ctx context.Context, a *asked[T], keep Keep, ask func(context.Context) (T, error)) {
	defer a.end()
	defer m.answered(a, keep)
	defer func() {
		if p := recover(); p != nil {
			a.fault = &fault{p, debug.Stack()}
		}
	}()
	a.value, a.err = ask(ctx)
}

func (m *Memo[T]) answered(a *asked[T], keep Keep) {
	holds := keep.of(a.err)
	m.mu.Lock()
	defer m.mu.Unlock()
	a.until = time.Now().Add(holds)
	close(a.ready)
}

// leave ends the asking when nobody waits for it any more.
func (m *Memo[T]) leave(key string, a *asked[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.wanting--; a.wanting > 0 || !a.until.IsZero() {
		return
	}
	a.end()
	if m.was[key] == a {
		delete(m.was, key)
	}
}

// Forget asks anew the next time, whatever is remembered.
func (m *Memo[T]) Forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.was, key)
}

// most bounds what is remembered: above it, what is too old is dropped, and if
// that is not enough, everything.
const most = 50_000

// enter remembers a question. Callers hold the lock.
func (m *Memo[T]) enter(key string, a *asked[T]) {
	if len(m.was) >= most {
		for old, o := range m.was {
			if !o.until.IsZero() && !time.Now().Before(o.until) {
				delete(m.was, old)
			}
		}
	}
	if m.was == nil || len(m.was) >= most {
		m.was = map[string]*asked[T]{}
	}
	m.was[key] = a
}
