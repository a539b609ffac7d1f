package chaos

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/certmill/certmill/pkg/stream"
)

// killWorkers kills a random worker every 0.5 to 2 s.
func killWorkers(ctx context.Context, s *site, _ int) error {
	all, err := s.requests(s.size.Orders, "kill")
	if err != nil {
		return err
	}
	return s.while(ctx, all, func(ctx context.Context) error {
		dice := s.dice("kills")
		for stream.Sleep(ctx, between(dice, 500*time.Millisecond, 2*time.Second)) == nil {
			if err := s.killWorker(pick(dice, s.workers)); err != nil {
				return err
			}
		}
		return nil
	})
}

// freezeAtGaps has submitters stop themselves between two effects of a
// purchase, for longer than AckWait, so that another takes the order over. One
// submitter is never frozen.
func freezeAtGaps(ctx context.Context, s *site, _ int) error {
	all, err := s.requests(s.size.Orders, "zombie")
	if err != nil {
		return err
	}
	var thawing sync.WaitGroup
	defer thawing.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.did.Gaps = map[string]int{}
	for i, p := range s.submitters[1:] {
		dice := s.dice(fmt.Sprint("thaws", i))
		p.kill()
		p.what.Freeze, p.what.Share = dice.Uint64()|1, share{uint64(i), uint64(len(s.submitters) - 1)}
		p.line = func(line string) {
			gap, frozen := strings.CutPrefix(line, gapMark)
			if !frozen {
				return
			}
			s.count(func(r *Report) { r.Freezes++; r.Gaps[gap]++ })
			d := between(dice, ackWait+200*time.Millisecond, waiting+3*time.Second)
			thawing.Go(func() {
				_ = stream.Sleep(ctx, d)
				p.thaw()
			})
		}
		if err := p.start(); err != nil {
			return err
		}
	}
	return s.while(ctx, all, func(ctx context.Context) error { <-ctx.Done(); return s.unfreezable() })
}

// unfreezable replaces the submitters that freeze by usual ones, so that the
// orders come to rest. A frozen one is thawed first: its last deeds count.
func (s *site) unfreezable() error {
	for _, p := range s.submitters[1:] {
		p.thaw()
		time.Sleep(200 * time.Millisecond)
		p.end(syscall.SIGTERM, 10*time.Second)
		p.what.Freeze = 0
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}
