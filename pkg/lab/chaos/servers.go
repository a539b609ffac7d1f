package chaos

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// shakeServers disturbs a cluster of three: what and in which order is drawn,
// each kind once before any comes again.
func shakeServers(ctx context.Context, s *site, _ int) error {
	all, err := s.requests(s.size.Orders, "nats")
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go s.watchLeader(watching)
	kinds := []func(context.Context) error{
		s.killLeader,
		func(ctx context.Context) error { return s.freezeLeader(ctx, 3*time.Second) },
		func(ctx context.Context) error { return s.freezeLeader(ctx, 12*time.Second) },
		s.killServers,
		s.stepDown,
	}
	return s.while(ctx, all, func(ctx context.Context) error {
		dice := s.dice("servers")
		for {
			for _, i := range dice.Perm(len(kinds)) {
				if stream.Sleep(ctx, between(dice, 2*time.Second, 8*time.Second)) != nil {
					return nil
				}
				if err := kinds[i](ctx); err != nil && ctx.Err() == nil {
					return err
				}
			}
		}
	})
}

// leader is the server that leads the orders' stream.
func (s *site) leader(ctx context.Context) (*process, error) {
	stream, err := s.js.Stream(ctx, pipeline.OrdersStream)
	if err != nil {
		return nil, err
	}
	if c := stream.CachedInfo().Cluster; c != nil {
		for _, p := range s.servers {
			if p.name == c.Leader {
				return p, nil
			}
		}
	}
	return nil, fmt.Errorf("stream %s has no leader", pipeline.OrdersStream)
}

// found waits for the leader.
func (s *site) found(ctx context.Context) (p *process, err error) {
	err = s.await(ctx, time.Minute, "the orders have a leader", func(ctx context.Context) (err error) {
		p, err = s.leader(ctx)
		return err
	})
	return p, err
}

// watchLeader counts the changes.
func (s *site) watchLeader(ctx context.Context) {
	var last *process
	for stream.Sleep(ctx, 200*time.Millisecond) == nil {
		ask, cancel := context.WithTimeout(ctx, 2*time.Second)
		now, err := s.leader(ask)
		cancel()
		if err != nil {
			continue
		}
		if last != nil && now != last {
			s.count(func(r *Report) { r.LeaderChanges++ })
		}
		last = now
	}
}

func (s *site) killLeader(ctx context.Context) error {
	p, err := s.found(ctx)
	if err != nil {
		return err
	}
	s.tell("kill -9 of the leader")
	p.kill()
	s.count(func(r *Report) { r.Kills++ })
	_ = stream.Sleep(ctx, 2*time.Second)
	return p.start()
}

func (s *site) freezeLeader(ctx context.Context, d time.Duration) error {
	p, err := s.found(ctx)
	if err != nil {
		return err
	}
	s.tell(fmt.Sprintf("the leader is frozen for %v", d))
	if err := p.freeze(); err != nil {
		return err
	}
	s.count(func(r *Report) { r.Freezes++ })
	_ = stream.Sleep(ctx, d)
	p.thaw()
	return nil
}

func (s *site) killServers(ctx context.Context) error {
	s.tell("kill -9 of all servers")
	for _, p := range s.servers {
		p.kill()
		s.count(func(r *Report) { r.Kills++ })
	}
	_ = stream.Sleep(ctx, time.Second)
	for _, p := range s.servers {
		if err := p.start(); err != nil {
			return err
		}
	}
	_, err := s.found(ctx)
	return err
}

// stepDown gives orders and ledger other leaders.
func (s *site) stepDown(ctx context.Context) error {
	if _, err := s.found(ctx); err != nil {
		return err
	}
	s.tell("the leaders step down")
	for _, stream := range []string{pipeline.OrdersStream, ledger.StreamName} {
		_, _ = s.nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, 2*time.Second) // counted by watchLeader
	}
	return nil
}

// loseStreams takes JetStream away in mid run, in even runs altogether, in odd
// ones back to a copy of some seconds before. Workers are stopped first, hard
// in every second pair of runs. Then the order file is published again.
func loseStreams(ctx context.Context, s *site, run int) error {
	restored, hard := run%2 == 1, run%4 >= 2
	all, err := s.requests(s.size.Orders, "wipe")
	if err != nil {
		return err
	}
	copied := s.dir + "/copy"
	store := s.servers[0].what.Dir
	third := len(all) / 3
	if err := s.publish(ctx, all[:third], s.size.For/3); err != nil {
		return err
	}
	if restored {
		if err := s.snapshot(store, copied); err != nil {
			return err
		}
	}
	if err := s.publish(ctx, all[third:2*third], s.size.For/3); err != nil {
		return err
	}
	if !restored {
		copied = ""
	}
	if err := s.lose(ctx, copied, hard); err != nil {
		return err
	}
	return s.publish(ctx, all, s.size.For/3) // the whole file
}

// lose takes JetStream away, or puts it back to a copy, and begins anew. Workers are
// stopped first. Orders are forgotten until they are handed in again.
func (s *site) lose(ctx context.Context, copied string, hard bool) error {
	s.stopWorkers(hard)
	s.servers[0].kill()
	store := s.servers[0].what.Dir
	if err := os.RemoveAll(store); err != nil {
		return err
	}
	if copied != "" {
		s.tell("JetStream is put back to a copy")
		if err := os.CopyFS(store, os.DirFS(copied)); err != nil {
			return err
		}
	} else {
		s.tell("JetStream is lost")
	}
	s.books.forget()
	return s.begin(ctx, copied != "")
}

// begin starts server and workers after a loss.
func (s *site) begin(ctx context.Context, restored bool) error {
	if err := s.servers[0].start(); err != nil {
		return err
	}
	if err := s.untilUp(ctx); err != nil {
		return err
	}
	if !restored {
		s.count(func(r *Report) { r.Wipes++ })
		if err := s.setUp(ctx); err != nil {
			return err
		}
		return s.startWorkers()
	}
	s.count(func(r *Report) { r.Restores++ })
	err := s.await(ctx, time.Minute, "a new incarnation began", func(ctx context.Context) error {
		return app.Restored(ctx, s.cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	})
	if err != nil {
		return err
	}
	return s.startWorkers()
}

// snapshot copies a server's store as it is at one moment.
func (s *site) snapshot(store, to string) error {
	p := s.servers[0]
	if err := p.freeze(); err != nil {
		return err
	}
	defer p.thaw()
	s.count(func(r *Report) { r.Freezes++ })
	return os.CopyFS(to, os.DirFS(store))
}
