package limit

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// jitter is one profile of delays.
type jitter struct {
	name       string
	way        func() time.Duration // there and, drawn again, back
	processing func() time.Duration // after the call was counted
}

func between(from, to time.Duration) time.Duration { return from + rand.N(to-from+1) }

func none() time.Duration { return 0 }

func uniform() time.Duration { return between(5*time.Millisecond, 50*time.Millisecond) }

var jitters = []jitter{
	{"none", none, none},
	{"uniform", uniform, none}, // 5-50 ms each way
	{"tail", func() time.Duration { // 5 % of 50-500 ms each way
		if rand.N(20) == 0 {
			return between(50*time.Millisecond, 500*time.Millisecond)
		}
		return uniform()
	}, none},
	{"processing", uniform, func() time.Duration { return between(80*time.Millisecond, 200*time.Millisecond) }},
}

// Jitters are the names of the profiles.
func Jitters() []string {
	var names []string
	for _, j := range jitters {
		names = append(names, j.name)
	}
	return names
}

func jitterOf(name string) (jitter, error) {
	for _, j := range jitters {
		if j.name == name {
			return j, nil
		}
	}
	return jitter{}, known("jitter profile", []string{name}, Jitters())
}

// provider is the strict server. Path /<n> is the counter of cell n.
type provider struct {
	url    string
	server *http.Server

	mu       sync.Mutex
	counters map[string]*counter
}

func newProvider() (*provider, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("provider: %w", err)
	}
	p := &provider{url: "http://" + ln.Addr().String(), counters: map[string]*counter{}}
	p.server = &http.Server{Handler: http.HandlerFunc(p.serve)}
	go p.server.Serve(ln) // ends with close
	return p, nil
}

func (p *provider) close() { _ = p.server.Close() }

// counter opens a counter and returns it with its URL.
func (p *provider) counter(j jitter) (*counter, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := fmt.Sprintf("/%d", len(p.counters))
	c := &counter{jitter: j}
	p.counters[name] = c
	return c, p.url + name
}

func (p *provider) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	c := p.counters["/"+strings.Trim(r.URL.Path, "/")]
	p.mu.Unlock()
	if c == nil {
		http.NotFound(w, r)
		return
	}
	select {
	case <-time.After(c.jitter.way()):
	case <-r.Context().Done(): // given up on its way: it never arrives
		return
	}
	throttled := c.count()
	time.Sleep(c.jitter.processing() + c.jitter.way())
	if throttled {
		w.WriteHeader(http.StatusTooManyRequests)
	}
}

// counter counts the calls of one cell.
type counter struct {
	jitter jitter

	mu        sync.Mutex
	arrivals  []time.Time
	accepted  []time.Time
	throttled int
	sliding   int // violations
	fixed     int
}

// count takes one call and tells whether it was throttled.
func (c *counter) count() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now() // under the lock, so that arrivals are in order
	if n := len(c.arrivals); n >= allowed {
		if now.Sub(c.arrivals[n-allowed]) < period {
			c.sliding++
		}
		if c.arrivals[n-allowed].Unix() == now.Unix() {
			c.fixed++
		}
	}
	c.arrivals = append(c.arrivals, now)
	if n := len(c.accepted); n >= allowed && now.Sub(c.accepted[n-allowed]) < period {
		c.throttled++
		return true
	}
	c.accepted = append(c.accepted, now)
	return false
}

// read returns the figures so far and, of the accepted calls, those since a
// time.
func (c *counter) read(r *Row, since time.Time) (accepted []time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.Calls, r.Throttled, r.Violations, r.FixedViolations = len(c.arrivals), c.throttled, c.sliding, c.fixed
	for _, t := range c.accepted {
		if t.After(since) {
			accepted = append(accepted, t)
		}
	}
	return accepted
}
