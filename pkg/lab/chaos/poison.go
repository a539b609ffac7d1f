package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/order"
)

// poisonInbox hands half of the orders in alone, and the other half with half as
// many bad messages among them, and compares the speeds.
func poisonInbox(ctx context.Context, s *site, _ int) error {
	all, err := s.requests(s.size.Orders, "poison")
	if err != nil {
		return err
	}
	half := len(all) / 2
	alone, err := s.speed(ctx, all[:half], nil)
	if err != nil {
		return err
	}
	among, err := s.speed(ctx, all[half:], s.badMessages(half/2, all[0]))
	if err != nil {
		return err
	}
	s.count(func(r *Report) { r.Ratio = among / alone })
	return nil
}

// speed is how many good orders come to rest in a second.
func (s *site) speed(ctx context.Context, good []order.Request, bad [][]byte) (float64, error) {
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.publish(gctx, good, s.size.For/2) })
	g.Go(func() error {
		for _, b := range bad {
			if err := s.put(gctx, b); err != nil {
				return err
			}
			s.books.refuse()
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return 0, err
	}
	err := s.settle(ctx)
	return float64(len(good)) / time.Since(began).Seconds(), err
}

// badMessages are what a publisher can get wrong. known is an order that was
// handed in before.
func (s *site) badMessages(n int, known order.Request) [][]byte {
	dice := s.dice("bad")
	kinds := []func(int) string{
		func(int) string { return "" },
		func(int) string { return "{\"id\": \"cut-off\", \"names\": [" },
		func(int) string { return "\xff\xfe\x00\x01" },
		func(int) string { return "[]" },
		func(i int) string { return fmt.Sprintf(`{"id":"BAD %d","names":["a.example.com"]}`, i) },
		func(i int) string {
			return fmt.Sprintf(`{"id":"nowhere-%d","names":["a.example.com"],"account":"nobody"}`, i)
		},
		func(i int) string { return fmt.Sprintf(`{"id":"noname-%d"}`, i) },
		func(i int) string { return fmt.Sprintf(`{"id":"ip-%d","names":["10.0.0.1"]}`, i) },
		func(i int) string { return fmt.Sprintf(`{"id":"field-%d","names":["a.example.com"],"nmaes":[]}`, i) },
		func(i int) string {
			return fmt.Sprintf(`{"id":"long-%d","names":["a.example.com"],"labels":{"x":"%s"}}`, i, strings.Repeat("y", 60_000))
		},
		func(int) string { // a known id with other names
			r := known
			r.Names, r.CSR = []string{"other.example.com"}, ""
			data, _ := json.Marshal(r)
			return string(data)
		},
	}
	var all [][]byte
	for i := range n {
		all = append(all, []byte(pick(dice, kinds)(i)))
	}
	return all
}
