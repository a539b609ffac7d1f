package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/stream"
)

// landLate puts a proxy between each submitter but one and the clouds. It holds
// a submitter's create calls back, has the submitter frozen or killed, and
// delivers them when another has taken over: inside the signature's life, and
// after it.
func landLate(ctx context.Context, s *site, _ int) error {
	all, err := s.requests(s.size.Orders, "late")
	if err != nil {
		return err
	}
	var behind []*gate
	for _, p := range s.submitters[1:] {
		g, err := s.newGate(p)
		if err != nil {
			return err
		}
		defer g.close()
		behind = append(behind, g)
	}
	err = s.while(ctx, all, func(ctx context.Context) error {
		var all errgroup.Group
		for i, b := range behind {
			all.Go(func() error { return s.episodes(ctx, i, b) })
		}
		return all.Wait()
	})
	for _, g := range behind { // the gates go, so the submitters call the clouds themselves
		g.worker.end(syscall.SIGTERM, 10*time.Second)
		g.worker.what.Config = s.configPath("certmill")
		err = errors.Join(err, g.worker.start())
	}
	return err
}

// episodes has one submitter's calls land late, again and again.
func (s *site) episodes(ctx context.Context, i int, g *gate) error {
	dice := s.dice(fmt.Sprint("late", i))
	for n := i; stream.Sleep(ctx, between(dice, 100*time.Millisecond, 500*time.Millisecond)) == nil; {
		caught, err := s.episode(ctx, dice, g, n)
		if err != nil {
			return err
		}
		if caught {
			n++
		}
	}
	return nil
}

// episode is one time that a submitter's calls land late. It tells whether there
// were any.
func (s *site) episode(ctx context.Context, dice *rand.Rand, g *gate, n int) (bool, error) {
	inside, killed := n%2 == 0, n/2%2 == 1
	d := between(dice, waiting-500*time.Millisecond, waiting+3*time.Second)
	if inside {
		// Stamps are whole seconds, so up to 1 s older than the call.
		d = between(dice, ackWait+100*time.Millisecond, signatureLife-1100*time.Millisecond)
	}
	thawBefore := dice.IntN(2) == 0
	g.shut()
	defer g.open()
	if !g.caught(ctx, 3*time.Second) {
		return false, nil // nothing was bought through it
	}
	held := time.Now()
	if killed {
		g.worker.kill()
		s.count(func(r *Report) { r.Kills++ })
	} else if err := g.worker.freeze(); err != nil {
		return true, err
	} else {
		s.count(func(r *Report) { r.Freezes++ })
	}
	calls := g.take()
	if killed {
		if err := g.worker.start(); err != nil {
			return true, err
		}
	}
	_ = stream.Sleep(context.WithoutCancel(ctx), time.Until(held.Add(d)))
	if !killed && thawBefore {
		g.worker.thaw()
	}
	for _, c := range calls {
		landed := c.land()
		s.count(func(r *Report) {
			if landed {
				r.LateLanded++
			} else {
				r.LateRefused++
			}
		})
	}
	if !killed && !thawBefore {
		_ = stream.Sleep(context.WithoutCancel(ctx), between(dice, 0, 2*time.Second))
		g.worker.thaw()
	}
	return true, nil
}

// gate is the proxies of one submitter, one for each endpoint of the clouds.
type gate struct {
	worker *process
	web    []*http.Server

	mu      sync.Mutex
	holding bool
	held    []*call
}

// call is a create call that was accepted and not passed on.
type call struct {
	to     string // base URL of the cloud
	req    *http.Request
	body   []byte
	answer chan *http.Response // what the cloud said, for a worker that still listens
}

// newGate puts itself into the submitter's config and starts it anew.
func (s *site) newGate(p *process) (*gate, error) {
	g := &gate{worker: p}
	ways := map[string]string{}
	for _, a := range s.clouds.Accounts() {
		to := a.Config.Endpoint
		if ways[to] != "" {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			g.close()
			return nil, err
		}
		web := &http.Server{Handler: g.handler(to, s.clouds.Buys), ReadHeaderTimeout: 5 * time.Second}
		g.web = append(g.web, web)
		go func() { _ = web.Serve(l) }() // ends with close
		ways[to] = "http://" + l.Addr().String()
	}
	err := s.reconfigure(p, func(c *app.Config) {
		for label, a := range c.Accounts {
			a.Endpoint = ways[a.Endpoint]
			c.Accounts[label] = a
		}
	})
	if err != nil {
		g.close()
		return nil, err
	}
	p.kill()
	return g, p.start()
}

func (g *gate) close() {
	for _, w := range g.web {
		_ = w.Close()
	}
}

func (g *gate) handler(to string, buys func(*http.Request, []byte) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		c := &call{to: to, req: r, body: body, answer: make(chan *http.Response, 1)}
		if !buys(r, body) || !g.keep(c) {
			c.land()
		}
		if resp := <-c.answer; resp != nil {
			reply(w, resp)
			return
		}
		panic(http.ErrAbortHandler) // the connection drops
	})
}

func reply(w http.ResponseWriter, resp *http.Response) {
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // the worker may be gone
}

// shut makes create calls wait from now on.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holding = true
}

// open lets them pass again, and what is still held as well.
func (g *gate) open() {
	g.mu.Lock()
	g.holding = false
	g.mu.Unlock()
	for _, c := range g.take() {
		c.land()
	}
}

func (g *gate) keep(c *call) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holding {
		g.held = append(g.held, c)
	}
	return g.holding
}

// take returns what is held and lets later calls pass.
func (g *gate) take() []*call {
	g.mu.Lock()
	defer g.mu.Unlock()
	calls := g.held
	g.held, g.holding = nil, false
	return calls
}

// caught waits for a call to hold, and a moment longer for more of them.
func (g *gate) caught(ctx context.Context, limit time.Duration) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		g.mu.Lock()
		n := len(g.held)
		g.mu.Unlock()
		if n > 0 {
			_ = stream.Sleep(ctx, 150*time.Millisecond)
			return true
		}
		if stream.Sleep(ctx, 10*time.Millisecond) != nil {
			return false
		}
	}
	return false
}

// land passes the call on as it came, whatever became of who made it, and tells
// whether it took effect.
func (c *call) land() bool {
	req, err := http.NewRequest(c.req.Method, c.to+c.req.URL.RequestURI(), bytes.NewReader(c.body))
	if err != nil {
		panic(fmt.Sprint("a request that was received cannot be sent: ", err))
	}
	req.Header, req.Host = c.req.Header.Clone(), c.req.Host // the host is signed
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		c.answer <- nil
		return false
	}
	data, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		c.answer <- nil
		return false
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	c.answer <- resp
	return resp.StatusCode == http.StatusOK && !strings.Contains(string(data), `"Error"`)
}
