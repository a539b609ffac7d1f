package chaos

import (
	"context"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// faultKinds are what goes wrong, in equal shares.
var faultKinds = []cloudsim.Fault{
	{Kind: "http_500"}, {Kind: "http_502_html"}, {Kind: "throttle"}, {Kind: "reset_before_commit"}, {Kind: "reset_after_commit"},
	{Kind: "empty_200"}, {Kind: "wrong_type"}, {Kind: "stall", Seconds: 2.5 * deadline.Seconds()}, {Kind: "nonce_used"},
}

// oddLists leaves of the lists only what the documents promise: pages that shift,
// now and then states that no document knows, and DNSPod's records late.
func oddLists(c *cloudsim.Config) {
	c.ListOrder, c.ListShift, c.OddStates = "oldest", 0.2, 0.05
	c.RecordListLag = cloudsim.Between(0, 3*time.Second)
}

// faultyClouds makes 5 % of all calls go wrong, then 20 %.
func faultyClouds(ctx context.Context, s *site, _ int) error {
	if err := s.sim.SetConfig(oddLists); err != nil {
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
				_ = sleep(ctx, s.size.For/2)
			}
		}
		<-ctx.Done()
		s.endFaults()
		return nil
	})
}

// endFaults removes the rules and keeps count of what they hit.
func (s *site) endFaults() {
	for _, f := range s.sim.Faults() {
		s.count(func(r *Report) { r.Faults += f.Hits })
	}
	s.sim.ClearFaults()
}

// setFaults replaces the rules.
func (s *site) setFaults(share float64) error {
	s.endFaults()
	each := share / float64(len(faultKinds))
	left := 1.0
	for _, f := range faultKinds {
		f.Probability = each / left // the rules are drawn one after another
		left -= each
		if err := s.sim.AddFault(f); err != nil {
			return err
		}
	}
	return nil
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
		if err := sleep(ctx, between(dice, 0, 2*pace)); err != nil {
			return err
		}
	}
	return nil
}
