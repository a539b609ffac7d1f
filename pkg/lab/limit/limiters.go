package limit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/certmill/certmill/pkg/permit"
)

// replica is one process's way to make calls under a limiter.
type replica interface {
	// call waits until a call is allowed and makes it.
	call(ctx context.Context, send func(context.Context) reply) error
	// messages counts what this replica has sent to the limiter's server.
	messages() uint64
	close()
}

// reply is how a call ended.
type reply struct {
	throttled bool
	err       error // no answer
}

// caller makes calls to one counter and keeps the response times.
type caller struct {
	url    string
	client *http.Client

	mu    sync.Mutex
	calls int
	total time.Duration
}

func newCaller(url string) *caller {
	return &caller{url: url, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
}

func (c *caller) send(ctx context.Context) reply {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, nil)
	if err != nil {
		return reply{err: err}
	}
	began := time.Now()
	resp, err := c.client.Do(r)
	if err != nil {
		return reply{err: err}
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.total += time.Since(began)
	return reply{throttled: resp.StatusCode == http.StatusTooManyRequests}
}

// meanRTT in seconds.
func (c *caller) meanRTT() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == 0 {
		return 0
	}
	return c.total.Seconds() / float64(c.calls)
}

// connected counts what a connection sends. It says nothing of the errors that
// killed servers cause.
type connected struct{ nc *nats.Conn }

func dial(url string, opts ...nats.Option) (connected, jetstream.JetStream, error) {
	nc, err := nats.Connect(url, append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}, opts...)...)
	if err != nil {
		return connected{}, nil, fmt.Errorf("connect to NATS: %w", err)
	}
	js, err := jetstream.New(nc)
	return connected{nc}, js, err
}

func (c connected) messages() uint64 { return c.nc.Stats().OutMsgs }
func (c connected) close()           { c.nc.Close() }

// ringReplica is the permit ring.
type ringReplica struct {
	connected
	set *permit.Set
	key permit.Key
}

func newRing(url, key string, opt permit.Options, natsOpts ...nats.Option) (*ringReplica, error) {
	c, js, err := dial(url, natsOpts...)
	if err != nil {
		return nil, err
	}
	limit := func(permit.Key) permit.Limit { return permit.Limit{Calls: allowed, Period: period} }
	return &ringReplica{c, permit.New(js, limit, opt), permit.Key{Account: "bench", Action: key}}, nil
}

func (r *ringReplica) call(ctx context.Context, send func(context.Context) reply) error {
	return r.set.Do(ctx, r.key, func(ctx context.Context, p *permit.Permit) error {
		rep := send(ctx)
		if rep.throttled {
			p.Give(permit.Throttled, 0)
		}
		return rep.err
	})
}

func (r *ringReplica) close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // the cell is over: nobody needs what is out
	_ = r.set.Close(ctx)
	r.connected.close()
}

// local is x/time/rate: per replica, or split evenly.
type local struct{ l *rate.Limiter }

func (r local) call(ctx context.Context, send func(context.Context) reply) error {
	if err := r.l.Wait(ctx); err != nil {
		return err
	}
	return send(ctx).err
}

func (local) messages() uint64 { return 0 }
func (local) close()           {}

// bucket is a token bucket of 10/s and size 1 in one key-value entry: the time
// at which the next call may go, moved on by compare-and-set.
type bucket struct {
	connected
	kv  jetstream.KeyValue
	key string
}

func newBucket(ctx context.Context, url, key string) (*bucket, error) {
	c, js, err := dial(url)
	if err != nil {
		return nil, err
	}
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "BENCH", Storage: jetstream.MemoryStorage})
	if err != nil {
		return nil, fmt.Errorf("key-value bucket: %w", err)
	}
	return &bucket{c, kv, key}, nil
}

func (b *bucket) call(ctx context.Context, send func(context.Context) reply) error {
	for {
		at, err := b.reserve(ctx)
		if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue // another replica was quicker
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(time.Until(at)):
		case <-ctx.Done():
			return ctx.Err()
		}
		return send(ctx).err
	}
}

func (b *bucket) reserve(ctx context.Context) (time.Time, error) {
	var next, rev int64
	e, err := b.kv.Get(ctx, b.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
	case err != nil:
		return time.Time{}, err
	default:
		if next, err = strconv.ParseInt(string(e.Value()), 10, 64); err != nil {
			return time.Time{}, err
		}
		rev = int64(e.Revision())
	}
	mine := max(next, time.Now().UnixNano())
	_, err = b.kv.Update(ctx, b.key, strconv.AppendInt(nil, mine+int64(period)/allowed, 10), uint64(rev))
	return time.Unix(0, mine), err
}

// fresh is a key that no cell has used.
func fresh(kind string) string { return kind + "-" + rand.Text()[:8] }
