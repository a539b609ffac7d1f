package dcv

import (
	"context"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// mostAtOnce bounds what is handed to a Batcher together.
const mostAtOnce = 500

// queue writes records zone by zone. The first write of a zone goes out at
// once; what comes while it is handed in waits, and goes out together. So a
// single order never waits for company, and a crowd costs few calls.
//
// There is no goroutine of its own: each batch is run by the caller whose write
// is the first in it.
type queue struct {
	write func(ctx context.Context, zone string, rs []Record) func() []error

	mu    sync.Mutex
	lines map[string][]*waiter // of zones to which somebody hands records in
}

// waiter is one write that waits for its batch.
type waiter struct {
	ctx     context.Context
	record  Record
	lead    chan struct{} // holds a token: run the next batch, of which you are the first
	outcome chan error    // of a batch that somebody else ran
}

func newQueue(write func(context.Context, string, []Record) func() []error) *queue {
	return &queue{write: write, lines: map[string][]*waiter{}}
}

// do writes one record and returns its outcome. When ctx ends before that of
// the batch it is in, the outcome is unknown, as for any call.
func (q *queue) do(ctx context.Context, zone string, r Record) error {
	w := &waiter{ctx: ctx, record: r, lead: make(chan struct{}, 1), outcome: make(chan error, 1)}
	q.enter(zone, w)
	select {
	case <-w.lead:
		return q.run(zone)
	case err := <-w.outcome:
		return err
	case <-ctx.Done():
		q.leave(zone, w)
		return ctx.Err()
	}
}

// enter joins the line of a zone. If nobody is at work there, w is to lead.
func (q *queue) enter(zone string, w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	line, busy := q.lines[zone]
	q.lines[zone] = append(line, w)
	if !busy {
		w.lead <- struct{}{}
	}
}

// leave takes a waiter out of its line. One that was to lead has the next one
// lead.
func (q *queue) leave(zone string, w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	line := q.lines[zone]
	for i, other := range line {
		if other == w {
			q.lines[zone] = append(line[:i:i], line[i+1:]...)
			if len(w.lead) == 1 {
				q.handOver(zone)
			}
			return
		}
	}
}

// next lets the next batch of a zone be handed in.
func (q *queue) next(zone string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.handOver(zone)
}

// handOver has the next in line lead, or closes the line. Callers hold the lock.
func (q *queue) handOver(zone string) {
	if line := q.lines[zone]; len(line) > 0 {
		line[0].lead <- struct{}{}
		return
	}
	delete(q.lines, zone)
}

// run writes what waits, the caller's own first, and returns the outcome of
// that.
func (q *queue) run(zone string) error {
	batch := q.take(zone)
	ctx, cancel := shared(batch)
	defer cancel()
	records, index := distinct(batch)
	wait := q.write(ctx, zone, records)
	q.next(zone)
	outcomes := wait()
	for i, w := range batch[1:] {
		w.outcome <- outcomes[index[i+1]]
	}
	return outcomes[0]
}

func (q *queue) take(zone string) []*waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	line := q.lines[zone]
	n := min(len(line), mostAtOnce)
	q.lines[zone] = line[n:len(line):len(line)]
	return line[:n:n]
}

// shared is a context for all of a batch: it ends when the last of theirs does,
// so that nobody's leaving spoils it for the others.
func shared(batch []*waiter) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(batch[0].ctx))
	var left atomic.Int64
	left.Store(int64(len(batch)))
	stops := make([]func() bool, len(batch))
	for i, w := range batch {
		stops[i] = context.AfterFunc(w.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		})
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

// distinct leaves out what is there twice: a record is written once, for all
// who want it. index tells where the record of each waiter went.
func distinct(batch []*waiter) (records []Record, index []int) {
	at := map[Record]int{}
	for _, w := range batch {
		r := w.record
		r.RR = strings.ToLower(r.RR)
		if _, known := at[r]; !known {
			at[r] = len(records)
			records = append(records, w.record)
		}
		index = append(index, at[r])
	}
	return records, index
}

// Known is what a Batcher returns that has the outcomes already.
func Known(outcomes []error) func() []error { return func() []error { return outcomes } }

// Each writes records one by one, some at the same time, for Batchers whose API
// cannot take these together.
func Each(rs []Record, write func(Record) error) []error {
	outcomes := make([]error, len(rs))
	places := make(chan struct{}, 16)
	var wg sync.WaitGroup
	for i, r := range rs {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			outcomes[i] = write(r)
		})
	}
	wg.Wait()
	return outcomes
}

// Gate remembers whether an API's batch calls are worth a try. The zero value is
// open.
type Gate struct{ until atomic.Int64 } // Unix nanoseconds

// Forever shuts a Gate as long as the process lives.
const Forever time.Duration = math.MaxInt64

// Open tells whether to try.
func (g *Gate) Open() bool { return time.Now().UnixNano() >= g.until.Load() }

// Shut keeps from trying for a while.
func (g *Gate) Shut(d time.Duration) {
	now := time.Now().UnixNano()
	g.until.Store(now + min(int64(d), math.MaxInt64-now))
}
