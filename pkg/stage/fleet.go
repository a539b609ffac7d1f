package stage

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Bounds of the sweep's rhythm.
const (
	shortestSweep = time.Second
	longestNewest = 8 * time.Second // of a sweep that reads only the newest pages
	longestSweep  = 5 * time.Minute // of one that reads all that waits
	longestPass   = 30 * time.Minute
	firstDistance = 2 * time.Second
	farDistance   = 10 * time.Minute
	leastGrace    = 3 * time.Second
	mostGrace     = time.Minute
	readAllEvery  = 2 * time.Minute
	leastProbe    = 10 * time.Second
)

// flying is one order that waits for the CA, as far as the sweep remembers it.
type flying struct {
	id, cloudID, action string
	names               []string
	seq                 uint64 // of its message
	stored              time.Time
	partly              bool // it has names for which no challenge was shown yet

	instance string    // by which the certificate list names it; empty: not listed yet
	missed   int       // passes in a row that did not show it
	gone     time.Time // when it was first missed
	asked    time.Time
	distance time.Duration // until it is asked about again
	probed   time.Time     // when it was asked about to try the lists
}

// item is what Settle needs to remove a message.
func (o *flying) item() pipeline.Item {
	return pipeline.Item{Order: order.Order{Request: order.Request{ID: o.id}, State: order.Issuing}, Seq: o.seq, Stored: o.stored}
}

// fleet is what the sweep knows of one label: its orders, the cloud's lists and
// how long orders now take.
type fleet struct {
	turn   sync.Mutex        // held by whoever sweeps; owns upTo, byFlow and what lies in lists
	upTo   map[string]uint64 // by lane: the last message that was read
	byFlow map[string]*lists // by action

	mu      sync.Mutex // owns what follows
	orders  map[string]*flying
	average time.Duration // that orders took, a moving average; 0: none ended yet
	waited  time.Duration // that those in flight have waited, on average
	readAll time.Time
	rhythm  time.Duration // of the flows in flight, the quickest
}

func newFleet() *fleet {
	return &fleet{upTo: map[string]uint64{}, byFlow: map[string]*lists{}, orders: map[string]*flying{}}
}

// takes is how long orders now take. While none has ended, they take at least
// as long as those in flight have waited.
func (f *fleet) takes() time.Duration { return max(f.average, f.waited) }

// interval is the sweep's: the shortest that one of the flows in flight needs.
func (f *fleet) interval() time.Duration { return max(f.rhythm, shortestSweep) }

// begin forgets which flows are in flight.
func (f *fleet) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rhythm = 0
}

// lists are the flow's, which is in flight.
func (f *fleet) lists(flow issuer.Flow) *lists {
	if f.byFlow[flow.Action()] == nil {
		f.byFlow[flow.Action()] = &lists{}
	}
	l := f.byFlow[flow.Action()]
	l.flow = flow
	f.mu.Lock()
	defer f.mu.Unlock()
	every := min(f.takes()/10, longestSweep)
	if l.newest() {
		every = min(f.takes()/20, longestNewest)
	}
	if every = max(every, shortestSweep); f.rhythm == 0 || every < f.rhythm {
		f.rhythm = every
	}
	return l
}

// passEvery is the distance of two passes through all that waits. Where the
// list of certificates tells what was issued, a pass only finds what ended in
// another way, and ids that the newest pages did not show. While nothing has
// ended at all there is nothing to find but those: each pass comes when orders
// have waited half as long again as at the one before, at a steady intake.
func (f *fleet) passEvery(l *lists) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !l.newest():
		return min(f.takes()/11, longestSweep*9/10) // every sweep, unless another flow sweeps more often
	case f.average == 0:
		return max(f.takes(), shortestSweep)
	default:
		return min(max(f.takes()/2, shortestSweep), longestPass)
	}
}

// probeEvery is the distance of two probes: a tenth of the time that orders take.
func (f *fleet) probeEvery() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return min(max(f.takes()/10, leastProbe), longestSweep)
}

// grace is how long an order that left the list of what waits is looked for in
// the list of certificates, which lags by itself, before it is asked about.
func (f *fleet) grace(l *lists) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !l.newest() {
		return 0
	}
	return min(max(f.takes()/10, leastGrace), mostGrace)
}

// add remembers an order, or its newer message.
func (f *fleet) add(it pipeline.Item) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if was := f.orders[it.ID()]; was != nil && was.seq >= it.Seq {
		return
	} else if was != nil && was.cloudID == it.CloudID && was.partly == partly(it.Order) {
		was.seq, was.stored = it.Seq, it.Stored
		return
	}
	f.orders[it.ID()] = &flying{id: it.ID(), cloudID: it.CloudID, action: it.Operation, names: it.Request.Names, seq: it.Seq, stored: it.Stored,
		partly: partly(it.Order), asked: it.Stored, distance: firstDistance}
}

// partly: a cloud may have room for one challenge at a time.
func partly(o order.Order) bool { return len(o.Challenges) < len(o.Request.Names) }

func (f *fleet) readAllDue(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return now.Sub(f.readAll) >= readAllEvery
}

// keep forgets all orders but these.
func (f *fleet) keep(present map[string]bool, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readAll = now
	maps.DeleteFunc(f.orders, func(id string, _ *flying) bool { return !present[id] })
}

// age learns how long the orders in flight have waited.
func (f *fleet) age(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waited = 0
	for _, o := range f.orders {
		f.waited += now.Sub(o.stored) / time.Duration(len(f.orders))
	}
}

// of are the orders of one flow, the oldest first.
func (f *fleet) of(action string) []*flying {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*flying
	for _, o := range f.orders {
		if o.action == action {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b *flying) int { return a.stored.Compare(b.stored) })
	return all
}

func (f *fleet) forget(o *flying) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.orders[o.id] == o {
		delete(f.orders, o.id)
	}
}

// finished learns how long orders now take.
func (f *fleet) finished(o order.Order, now time.Time) {
	if len(o.Timeline) == 0 {
		return
	}
	took := now.Sub(o.Timeline[len(o.Timeline)-1].At)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.average > 0 {
		took = (9*f.average + took) / 10
	}
	f.average = took
}
