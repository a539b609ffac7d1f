package issue

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/order"
)

// naiveName is what the naive poller is called in the tables.
const naiveName = "naive poller"

// naive buys as fast as it may and asks about each order in turn, round after
// round, as fast as it may. It does what an answer calls for at once.
type naive struct {
	limit    pace
	sim      *cloudsim.Sim
	folder   string
	progress func(int)
	rounds   chan *asked // orders that are to be asked about, in turn

	mu      sync.Mutex // guards all below
	noticed map[string]time.Time
	left    int
}

// asked is one order of the naive poller's.
type asked struct {
	request order.Request
	id      string
	record  string // that was added; empty: not yet
}

// naiveHands are enough to use the limits up, whatever the response time.
const naiveHands = 40

func sweepNaive(ctx context.Context, with setup, r *SweepRow, progress func(int)) (noticed map[string]time.Time, book cloudsim.Report, err error) {
	sim, err := openCloud(ctx, with)
	if err != nil {
		return nil, book, err
	}
	defer func() { err = errors.Join(err, sim.Close()) }()
	all := batchOf("sweep", with.orders)
	n := &naive{limit: newPace(sim.Settings().Limits), sim: sim, folder: with.dir, progress: progress,
		rounds: make(chan *asked, len(all)), noticed: map[string]time.Time{}, left: len(all)}
	began, cpu := time.Now(), cpuTime()
	if err := n.issue(ctx, all); err != nil {
		return nil, book, err
	}
	r.Seconds, r.CPU = time.Since(began).Seconds(), (cpuTime() - cpu).Seconds()
	r.Issued = inspect(with.dir, sim.RootPEM(), all).right
	return n.noticed, sim.Report(), nil
}

func (n *naive) issue(ctx context.Context, all []order.Request) error {
	wanted := make(chan order.Request, len(all))
	for _, q := range all {
		wanted <- q
	}
	close(wanted)
	g, ctx := errgroup.WithContext(ctx)
	for range min(naiveHands, len(all)) {
		g.Go(func() error { return n.buyer(ctx, wanted) })
		g.Go(func() error { return n.asker(ctx) })
	}
	return g.Wait()
}

func (n *naive) buyer(ctx context.Context, wanted <-chan order.Request) error {
	c, err := newCustomer(n.sim, n.folder, n.limit)
	if err != nil {
		return err
	}
	for q := range wanted {
		id, err := c.buy(ctx, q)
		if err != nil {
			return err
		}
		n.rounds <- &asked{request: q, id: id} // it has room for all
	}
	return nil
}

func (n *naive) asker(ctx context.Context) error {
	c, err := newCustomer(n.sim, n.folder, n.limit)
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a, open := <-n.rounds:
			if !open {
				return nil
			}
			if err := n.ask(ctx, c, a); err != nil {
				return err
			}
		}
	}
}

// ask asks once and puts the order at the end of the round, until it is issued.
func (n *naive) ask(ctx context.Context, c *customer, a *asked) error {
	st, err := c.describe(ctx, a.id)
	if err != nil {
		return err
	}
	switch {
	case st.Type == "certificate":
		n.notice(a)
		if err := errors.Join(c.write(a.request, st), c.drop(ctx, a.record)); err != nil {
			return err
		}
		n.finish()
		return nil
	case st.Type == "domain_verify" && a.record == "":
		if a.record, err = c.prove(ctx, st); err != nil {
			return err
		}
	}
	n.rounds <- a
	return nil
}

func (n *naive) notice(a *asked) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noticed[a.id] = time.Now()
}

// finish counts an order, and ends the rounds with the last.
func (n *naive) finish() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.left--
	n.progress(cap(n.rounds) - n.left)
	if n.left == 0 {
		close(n.rounds)
	}
}
