package preflight

import (
	"context"
	"errors"
	"sync"
	"time"
)

// memo remembers answers for a while. Who asks what somebody asks already waits
// for that answer. The zero value is ready.
type memo[T any] struct {
	mu  sync.Mutex
	was map[string]*known[T]
}

type known[T any] struct {
	ready chan struct{}
	until time.Time
	value T
	err   error
}

// get returns what is remembered, or asks. Errors are remembered, too: a name
// server that is down would cost its time-out for every name. Those that only
// say that the asker's ctx ended are not.
func (m *memo[T]) get(ctx context.Context, key string, now time.Time, ask func() (T, error)) (T, error) {
	m.mu.Lock()
	k, ok := m.was[key]
	if ok && now.Before(k.until) {
		m.mu.Unlock()
		return m.wait(ctx, key, k, now, ask)
	}
	k = &known[T]{ready: make(chan struct{}), until: now.Add(life)}
	m.enter(key, k, now)
	m.mu.Unlock()
	defer close(k.ready)
	k.value, k.err = ask()
	if k.err != nil && ctx.Err() != nil {
		m.forget(key, k)
	}
	return k.value, k.err
}

// wait takes the answer that somebody asks for. If that one gave up, it asks.
func (m *memo[T]) wait(ctx context.Context, key string, k *known[T], now time.Time, ask func() (T, error)) (T, error) {
	select {
	case <-k.ready:
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
	if ctx.Err() == nil && (errors.Is(k.err, context.Canceled) || errors.Is(k.err, context.DeadlineExceeded)) {
		m.forget(key, k)
		return m.get(ctx, key, now, ask)
	}
	return k.value, k.err
}

// most bounds what is remembered: above it, what is too old is dropped, and if
// that is not enough, everything.
const most = 50_000

// enter remembers a question. Callers hold the lock.
func (m *memo[T]) enter(key string, k *known[T], now time.Time) {
	if len(m.was) >= most {
		for old, o := range m.was {
			if !now.Before(o.until) {
				delete(m.was, old)
			}
		}
	}
	if m.was == nil || len(m.was) >= most {
		m.was = map[string]*known[T]{}
	}
	m.was[key] = k
}

func (m *memo[T]) forget(key string, k *known[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.was[key] == k {
		delete(m.was, key)
	}
}
