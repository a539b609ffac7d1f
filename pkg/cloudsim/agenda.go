package cloudsim

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// agenda says which order is to be looked at next, and when. An order stands in it
// at most once; an earlier time replaces a later one. One goroutine takes from it.
type agenda struct {
	mu    sync.Mutex
	queue dueQueue
	at    map[string]*dueItem
	wake  chan struct{}
}

type dueItem struct {
	key   string
	due   time.Time
	index int
}

func newAgenda() *agenda {
	return &agenda{at: map[string]*dueItem{}, wake: make(chan struct{}, 1)}
}

// put asks for a look at an order, at the latest at due.
func (a *agenda) put(key string, due time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch item := a.at[key]; {
	case item == nil:
		item = &dueItem{key: key, due: due}
		a.at[key] = item
		heap.Push(&a.queue, item)
	case due.Before(item.due):
		item.due = due
		heap.Fix(&a.queue, item.index)
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// take returns an order that is due, or how long to wait for the next.
func (a *agenda) take(now time.Time) (string, time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return "", time.Hour
	}
	first := a.queue[0]
	if wait := first.due.Sub(now); wait > 0 {
		return "", wait
	}
	heap.Pop(&a.queue)
	delete(a.at, first.key)
	return first.key, 0
}

func (a *agenda) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue = nil
	clear(a.at)
}

// next waits until an order is due. It returns "" when ctx ends.
func (a *agenda) next(ctx context.Context) string {
	for ctx.Err() == nil {
		key, wait := a.take(time.Now())
		if key != "" {
			return key
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-a.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return ""
}

// dueQueue is a heap, the earliest first.
type dueQueue []*dueItem

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is for container/heap.
func (q *dueQueue) Push(x any) {
	item := x.(*dueItem)
	item.index = len(*q)
	*q = append(*q, item)
}

// Pop is for container/heap.
func (q *dueQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}
