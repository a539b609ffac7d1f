package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// books is what the publisher knows: which orders the system acknowledged.
type books struct {
	mu     sync.Mutex
	acked  map[string]order.Request
	before int // orders that were acknowledged before JetStream was lost
	bad    int // messages that are no orders and were acknowledged
}

func newBooks() *books { return &books{acked: map[string]order.Request{}} }

func (b *books) ack(r order.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked[r.ID] = r
}

func (b *books) refuse() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bad++
}

// forget: JetStream was lost, and the orders with it until they are handed in again.
func (b *books) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.before += len(b.acked)
	b.acked = map[string]order.Request{}
}

func (b *books) acknowledged() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.acked) + b.before + b.bad
}

// requests makes n orders for different names: at all accounts in turn or
// wherever certmill chooses, most for one name, some for several, some with a
// CSR of their own, some proved by a file.
func (s *site) requests(n int, prefix string) ([]order.Request, error) {
	dice := s.dice("orders " + prefix)
	all := make([]order.Request, n)
	for i := range all {
		id := fmt.Sprintf("%s-%d", prefix, i)
		r := order.Request{ID: id, Names: []string{id + ".example.com"}, Account: s.labels[i%len(s.labels)], Batch: "chaos"}
		switch dice.IntN(10) {
		case 0:
			r.Account = order.AnyAccount
		case 1:
			r.Names = append(r.Names, id+"-b.example.com", id+"-c.example.com")
		case 2:
			_, csr, _, err := certstore.NewKey("ecdsa-p256", r.Names, true)
			if err != nil {
				return nil, err
			}
			r.CSR = csr
		case 3:
			r.Validation = order.FILE
		}
		all[i] = r
	}
	return all, nil
}

// publish hands orders in one by one, evenly over the time, and returns when
// all of them are acknowledged. What is not acknowledged is published again:
// the same id never runs twice.
func (s *site) publish(ctx context.Context, all []order.Request, over time.Duration) error {
	dice := s.dice("publisher")
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	pace := over / time.Duration(max(len(all), 1))
	next := time.Now()
	for _, r := range all {
		if err := stream.Sleep(ctx, time.Until(next)); err != nil {
			break
		}
		next = next.Add(time.Duration(2 * dice.Float64() * float64(pace)))
		g.Go(func() error {
			if err := s.handIn(ctx, r); err != nil {
				return err
			}
			s.books.ack(r)
			return nil
		})
	}
	return g.Wait()
}

func (s *site) handIn(ctx context.Context, r order.Request) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.put(ctx, body)
}

// put publishes one message until it is acknowledged.
func (s *site) put(ctx context.Context, body []byte) error {
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := s.js.Publish(try, pipeline.NewSubject+".chaos", body)
		cancel()
		if err == nil {
			return nil
		}
		if stream.Sleep(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("hand an order in: %w", err)
		}
	}
}

// while hands the orders in over the battery's time and disturbs meanwhile: for
// that long, and until all are handed in.
func (s *site) while(ctx context.Context, all []order.Request, disturb func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	disturbed := make(chan error, 1)
	go func() { disturbed <- disturb(ctx) }() // joined below
	enough := time.After(s.size.For)
	err := s.publish(ctx, all, s.size.For*9/10)
	if err == nil {
		select {
		case <-enough:
		case <-ctx.Done():
		}
	}
	stop()
	if derr := <-disturbed; derr != nil && err == nil {
		err = derr
	}
	return err
}

// pick draws one of several.
func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }
