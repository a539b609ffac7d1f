// Redisgcra runs the replicas of one cell of "certmill bench limit" under
// go-redis/redis_rate: GCRA in a Lua script, 10 per second, burst 1. It is a
// module of its own so that Redis stays out of the product's go.mod.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
)

// did is what the bench reads.
type did struct {
	Calls    int
	Messages int // commands to Redis
	MeanRTT  float64

	mu    sync.Mutex
	total time.Duration
}

func main() {
	addr := flag.String("redis", "127.0.0.1:6379", "address of Redis")
	key := flag.String("key", "cell", "key of the limit")
	provider := flag.String("provider", "", "URL to call")
	replicas := flag.Int("replicas", 1, "number of connections and limiters")
	workers := flag.Int("workers", 4, "callers per replica")
	span := flag.Duration("for", 10*time.Second, "how long")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), *span)
	defer cancel()
	var all did
	var wg sync.WaitGroup
	for range *replicas {
		rdb := redis.NewClient(&redis.Options{Addr: *addr})
		defer rdb.Close()
		limiter := redis_rate.NewLimiter(rdb)
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
		for range *workers {
			wg.Go(func() { all.work(ctx, limiter, client, *key, *provider) })
		}
	}
	wg.Wait()
	if all.Calls > 0 {
		all.MeanRTT = all.total.Seconds() / float64(all.Calls)
	}
	if err := json.NewEncoder(os.Stdout).Encode(&all); err != nil {
		log.Fatal(err)
	}
}

// work calls as fast as the limiter allows. redis_rate has no queue: whoever is
// refused asks again after the time it was told.
func (d *did) work(ctx context.Context, limiter *redis_rate.Limiter, client *http.Client, key, url string) {
	for ctx.Err() == nil {
		res, err := limiter.Allow(ctx, key, redis_rate.Limit{Rate: 10, Burst: 1, Period: time.Second})
		d.mu.Lock()
		d.Messages++
		d.mu.Unlock()
		switch {
		case err != nil:
			time.Sleep(50 * time.Millisecond)
		case res.Allowed == 0:
			time.Sleep(res.RetryAfter)
		default:
			d.call(ctx, client, url)
		}
	}
}

func (d *did) call(ctx context.Context, client *http.Client, url string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	began := time.Now()
	resp, err := client.Do(r)
	if err != nil {
		return
	}
	resp.Body.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Calls++
	d.total += time.Since(began)
}
