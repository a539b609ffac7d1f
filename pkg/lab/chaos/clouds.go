package chaos

import (
	"context"
	"time"

	"github.com/certmill/certmill/pkg/stream"
)

// faultyClouds makes 5 % of all calls go wrong, then 20 %.
func faultyClouds(ctx context.Context, s *site, _ int) error {
	if err := s.clouds.Odd(); err != nil {
		return err
	}
	all, err := s.requests(s.size.Orders, "faults")
	if err != nil {
		return err
	}
	return s.while(ctx, all, func(ctx context.Context) error {
		for _, share := range []float64{0.05, 0.20} {
			if err := s.setFaults(share); err != nil {
				return err
			}
			if share < 0.2 {
				_ = stream.Sleep(ctx, s.size.For/2)
			}
		}
		<-ctx.Done()
		s.endFaults()
		return nil
	})
}

// endFaults lets all calls go well again.
func (s *site) endFaults() { _ = s.setFaults(0) } // which cannot fail

// setFaults makes another share of the calls go wrong, and keeps count of what
// went wrong before.
func (s *site) setFaults(share float64) error {
	hits, err := s.clouds.Fail(share)
	s.count(func(r *Report) { r.Faults += hits })
	return err
}

// sameNames hands in pairs and triples of orders for the same names, at once.
func sameNames(ctx context.Context, s *site, _ int) error {
	all, err := s.requests(s.size.Orders, "same")
	if err != nil {
		return err
	}
	dice := s.dice("same")
	pace := s.size.For / time.Duration(max(len(all)*2/5, 1))
	for len(all) > 0 {
		n := min(2+dice.IntN(2), len(all))
		group := all[:n]
		all = all[n:]
		for i := range group[1:] {
			group[1+i].Names, group[1+i].Account, group[1+i].CSR = group[0].Names, group[0].Account, ""
		}
		if err := s.publish(ctx, group, 0); err != nil {
			return err
		}
		if err := stream.Sleep(ctx, between(dice, 0, 2*pace)); err != nil {
			return err
		}
	}
	return nil
}
