package pipeline

import (
	"context"
	"sync"
)

// queue is where an order message waits: that of its publisher, and there that
// of the account it is for.
type queue struct{ publisher, account string }

// rota holds things by queue and gives them out in turn: round and round over
// publishers, and within each over its accounts, however much one of them has.
// Those of one queue come in the order in which they were added.
type rota[T any] struct {
	publishers []string            // whose turn is next comes first
	accounts   map[string][]string // of each publisher, likewise
	of         map[queue][]T
}

func (r *rota[T]) add(q queue, x T) {
	if r.of == nil {
		r.accounts, r.of = map[string][]string{}, map[queue][]T{}
	}
	if _, there := r.of[q]; !there {
		if _, there := r.accounts[q.publisher]; !there {
			r.publishers = append(r.publishers, q.publisher)
		}
		r.accounts[q.publisher] = append(r.accounts[q.publisher], q.account)
	}
	r.of[q] = append(r.of[q], x)
}

// next takes out what is next, and passes over the queues of which pass says so.
func (r *rota[T]) next(pass func(queue) bool) (q queue, x T, ok bool) {
	for range len(r.publishers) {
		q.publisher, r.publishers = r.publishers[0], r.publishers[1:]
		if q.account, x, ok = r.nextOf(q.publisher, pass); len(r.accounts[q.publisher]) == 0 {
			delete(r.accounts, q.publisher)
		} else {
			r.publishers = append(r.publishers, q.publisher)
		}
		if ok {
			return q, x, true
		}
	}
	return q, x, false
}

func (r *rota[T]) nextOf(publisher string, pass func(queue) bool) (account string, x T, ok bool) {
	accounts := r.accounts[publisher]
	defer func() { r.accounts[publisher] = accounts }()
	for range len(accounts) {
		account, accounts = accounts[0], accounts[1:]
		q := queue{publisher, account}
		has := r.of[q]
		if len(has) == 0 {
			delete(r.of, q)
			continue
		}
		accounts = append(accounts, account)
		if !pass(q) {
			r.of[q] = has[1:]
			return account, has[0], true
		}
	}
	return "", x, false
}

// drop takes out what comes first in a queue as long as is says so, and returns
// how much that was.
func (r *rota[T]) drop(q queue, is func(T) bool) (n int) {
	has := r.of[q]
	for len(has) > 0 && is(has[0]) {
		has, n = has[1:], n+1
	}
	if n > 0 {
		r.of[q] = has
	}
	return n
}

// turns lets a bounded number of messages be accepted at a time, in turn as rota
// has it. None before open.
type turns struct {
	mu      sync.Mutex
	free    int
	waiting rota[*turn]
}

type turn struct {
	granted chan struct{}
	gone    bool // whoever waited has given up
}

func never(queue) bool { return false }

// open adds n turns.
func (t *turns) open(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.free += n; t.free > 0; t.free-- {
		if !t.grant() {
			return
		}
	}
}

// grant hands one turn to who is next, and tells whether somebody is.
func (t *turns) grant() bool {
	for {
		_, w, ok := t.waiting.next(never)
		if !ok {
			return false
		}
		if !w.gone {
			close(w.granted)
			return true
		}
	}
}

// take waits for a turn; with an error, that of ctx, there is none. Whoever has
// one gives it back.
func (t *turns) take(ctx context.Context, q queue) error {
	w := &turn{granted: make(chan struct{})}
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	t.waiting.add(q, w)
	t.mu.Unlock()
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	w.gone = true
	t.mu.Unlock()
	select {
	case <-w.granted: // at the same moment
		t.give()
	default:
	}
	return ctx.Err()
}

func (t *turns) give() { t.open(1) }
