package limit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/time/rate"

	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/stream"
)

// bench holds the servers that the cells share.
type bench struct {
	opt      Options
	nats     *server.Server
	provider *provider
	redis    *exec.Cmd // nil: none
	addr     string    // of Redis
	noRedis  string    // why there is none
}

func newBench(ctx context.Context, opt Options, dir string) (*bench, error) {
	if err := errors.Join(known("limiter", opt.Limiters, Limiters()), known("jitter profile", opt.Jitters, Jitters()),
		known("disturbance", opt.Disturbances, Disturbances())); err != nil {
		return nil, err
	}
	ns, err := startNATS(&server.Options{StoreDir: filepath.Join(dir, "nats"), Port: -1})
	if err != nil {
		return nil, err
	}
	b := &bench{opt: opt, nats: ns}
	if b.provider, err = newProvider(); err != nil {
		b.close()
		return nil, err
	}
	b.startRedis(ctx, dir)
	return b, nil
}

// startNATS runs an embedded server with JetStream on loopback.
func startNATS(o *server.Options) (*server.Server, error) {
	o.Host, o.JetStream, o.NoSigs, o.NoLog = "127.0.0.1", true, true, true
	s, err := server.NewServer(o)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("the embedded NATS server does not start")
	}
	return s, nil
}

// startRedis runs a redis-server, if there is one and the helper was built.
func (b *bench) startRedis(ctx context.Context, dir string) {
	path, err := exec.LookPath("redis-server")
	switch {
	case b.opt.RedisHelper == "":
		b.noRedis = "no helper: build pkg/lab/limit/redisgcra and name it"
		return
	case err != nil:
		b.noRedis = "redis-server is not installed"
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.noRedis = err.Error()
		return
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	b.addr = ln.Addr().String()
	b.redis = exec.CommandContext(ctx, path, "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--save", "", "--appendonly", "no", "--dir", dir)
	if err := b.redis.Start(); err != nil {
		b.noRedis, b.redis = err.Error(), nil
	}
}

func (b *bench) close() {
	if b.redis != nil {
		_ = b.redis.Process.Kill()
		_ = b.redis.Wait()
	}
	if b.provider != nil {
		b.provider.close()
	}
	b.nats.Shutdown()
	b.nats.WaitForShutdown()
}

// cell measures one cell of the table.
func (b *bench) cell(ctx context.Context, r Row) (Row, error) {
	j, err := jitterOf(r.Jitter)
	if err != nil {
		return r, err
	}
	count, url := b.provider.counter(j)
	if r.Limiter == "redis gcra" {
		return b.redisCell(ctx, r, count, url)
	}
	c := newCaller(url)
	replicas, err := b.replicas(ctx, r)
	if err != nil {
		return r, err
	}
	run := drive(ctx, replicas, c.send)
	defer run.stop()
	if err := stream.Sleep(ctx, warmup); err != nil {
		return r, err
	}
	before, since := r, time.Now()
	count.read(&before, since)
	sent := run.messages()
	if err := stream.Sleep(ctx, b.opt.Duration); err != nil {
		return r, err
	}
	accepted := count.read(&r, since)
	r.figures(accepted, c.meanRTT(), float64(run.messages()-sent), r.Calls-before.Calls)
	return r, nil
}

// figures computes what is not counted.
func (r *Row) figures(accepted []time.Time, rtt, messages float64, calls int) {
	r.MeanRTT = rtt
	r.Utilisation = slope(accepted) * period.Seconds() / allowed
	r.OfBound = r.Utilisation * (1 + rtt)
	if r.MessagesPerPermit = messages / float64(max(calls, 1)); messages < 0 {
		r.MessagesPerPermit = -1
	}
}

func (b *bench) replicas(ctx context.Context, r Row) ([]replica, error) {
	key := fresh("cell")
	var all []replica
	for range r.Replicas {
		var one replica
		var err error
		switch r.Limiter {
		case "ring":
			// The provider is in this process, so that no earlier call is under way.
			one, err = newRing(b.nats.ClientURL(), key, permit.Options{SkipWait: true})
		case "x/time/rate each":
			one = local{rate.NewLimiter(allowed, allowed)}
		case "x/time/rate split":
			one = local{rate.NewLimiter(rate.Limit(allowed)/rate.Limit(r.Replicas), 1)}
		case "kv token bucket":
			one, err = newBucket(ctx, b.nats.ClientURL(), key)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// redisCell has the helper run the cell's replicas.
func (b *bench) redisCell(ctx context.Context, r Row, count *counter, url string) (Row, error) {
	if b.noRedis != "" {
		r.Skipped = b.noRedis
		return r, nil
	}
	since := time.Now().Add(warmup)
	out, err := exec.CommandContext(ctx, b.opt.RedisHelper, "-redis", b.addr, "-key", fresh("cell"), "-provider", url,
		"-replicas", strconv.Itoa(r.Replicas), "-workers", strconv.Itoa(workers(r.Replicas)), "-for", (warmup + b.opt.Duration).String()).Output()
	if err != nil {
		return r, fmt.Errorf("%s: %w", b.opt.RedisHelper, err)
	}
	var did struct {
		Calls    int
		Messages int
		MeanRTT  float64
	}
	if err := json.Unmarshal(out, &did); err != nil {
		return r, fmt.Errorf("%s: %w", b.opt.RedisHelper, err)
	}
	r.figures(count.read(&r, since), did.MeanRTT, float64(did.Messages), did.Calls)
	return r, nil
}

// workers per replica: together more than can be under way at a time.
func workers(replicas int) int { return max(2, 24/replicas) }

// driven are replicas under full load.
type driven struct {
	replicas []replica
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

// drive has every replica call as fast as it may until stop.
func drive(ctx context.Context, replicas []replica, send func(context.Context) reply) *driven {
	d := &driven{replicas: replicas}
	ctx, d.cancel = context.WithCancel(ctx)
	for _, r := range replicas {
		for range workers(len(replicas)) {
			d.wg.Go(func() {
				for ctx.Err() == nil {
					_ = r.call(ctx, send) // what fails shows in the counters
				}
			})
		}
	}
	return d
}

func (d *driven) messages() (n uint64) {
	for _, r := range d.replicas {
		n += r.messages()
	}
	return n
}

func (d *driven) stop() {
	d.cancel()
	d.wg.Wait()
	for _, r := range d.replicas {
		r.close()
	}
}
