package issuer_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/permit"
)

// rig is a Caller over a Transport that reads action and stamp from headers.
type rig struct {
	caller    issuer.Caller
	transport *issuer.Transport
	url       string
}

func newRig(url string, deadline time.Duration, roots *tls.Config) *rig {
	set := permit.NewSet(func(permit.Key) permit.Limit {
		return permit.Limit{Calls: 100, Period: time.Millisecond, Deadline: deadline}
	})
	return &rig{url: url, caller: issuer.Caller{Main: "main", Permits: set},
		transport: issuer.NewTransport(issuer.TransportOptions{
			Identify: func(r *http.Request) (permit.Key, error) {
				return permit.Key{Account: "main", Action: r.Header.Get("Action")}, nil
			},
			Stamp: func(r *http.Request) (time.Time, error) {
				s, err := strconv.ParseInt(r.Header.Get("Stamp"), 10, 64)
				return time.Unix(s, 0), err
			},
			Free: []string{"WhoAmI"},
			TLS:  roots,
		})}
}

func (r *rig) request(ctx context.Context, method, action, body string) *http.Request {
	req, _ := http.NewRequestWithContext(ctx, method, r.url, strings.NewReader(body))
	req.Header.Set("Action", action)
	req.Header.Set("Stamp", strconv.FormatInt(time.Now().Unix(), 10))
	return req
}

// call makes one call through an http.Client, as the SDKs do.
func (r *rig) call(ctx context.Context, method, body string) (answer string, err error) {
	err = r.caller.Do(ctx, "Act", func(ctx context.Context) error {
		resp, err := (&http.Client{Transport: r.transport}).Do(r.request(ctx, method, "Act", body))
		if err != nil {
			return err
		}
		b, err := io.ReadAll(resp.Body)
		answer = string(b)
		return err
	})
	return answer, err
}

// spend does the same with a permit reserved and a fence around now.
func (r *rig) spend(t *testing.T, body string) (string, error) {
	t.Helper()
	ctx, release, err := r.caller.Reserve(t.Context(), "Act")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	now := time.Now()
	return r.call(issuer.Spending(ctx, issuer.Fence{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute)}), "POST", body)
}

func wantKind(t *testing.T, err error, want issuer.Kind) {
	t.Helper()
	if got := issuer.KindOf(err); got != want {
		t.Errorf("kind %q, want %q (%v)", got, want, err)
	}
}

func TestGateRefuses(t *testing.T) {
	var arrived atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	defer server.Close()
	r := newRig(server.URL, time.Second, nil)
	now := time.Now()
	outside := map[string]issuer.Fence{
		"no fence":  {},
		"too early": {NotBefore: now.Add(10 * time.Second), NotAfter: now.Add(time.Minute)},
		"too late":  {NotBefore: now.Add(-time.Minute), NotAfter: now.Add(-10 * time.Second)},
	}
	for name, fence := range outside {
		ctx, release, _ := r.caller.Reserve(t.Context(), "Act")
		_, err := r.call(issuer.Spending(ctx, fence), "POST", "x")
		wantKind(t, err, issuer.NeverSent)
		if !errors.Is(err, issuer.ErrOutsideFence) {
			t.Errorf("%s: %v", name, err)
		}
		release()
	}
	_, err := r.call(t.Context(), "GET", "")
	wantKind(t, err, issuer.NeverSent)
	_, err = (&http.Client{Transport: r.transport}).Do(r.request(t.Context(), "POST", "Act", "x"))
	wantKind(t, err, issuer.NeverSent)
	if !errors.Is(err, permit.ErrNoPermit) {
		t.Errorf("without a permit: %v", err)
	}
	_, err = r.call(issuer.Spending(t.Context(), issuer.Fence{}), "POST", "x")
	if wantKind(t, err, issuer.NeverSent); !errors.Is(err, permit.ErrNoPermit) {
		t.Errorf("spending without a reserved permit: %v", err)
	}
	err = r.caller.Do(t.Context(), "Act", func(ctx context.Context) error {
		_, err := (&http.Client{Transport: r.transport}).Do(r.request(ctx, "POST", "Other", "x"))
		return err
	})
	wantKind(t, err, issuer.NeverSent)
	if n := arrived.Load(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

func TestOnePermitOneRequest(t *testing.T) {
	var arrived atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	defer server.Close()
	r := newRig(server.URL, time.Second, nil)
	err := r.caller.Do(t.Context(), "Act", func(ctx context.Context) error {
		for range 2 { // as an SDK would that retries
			if _, err := (&http.Client{Transport: r.transport}).Do(r.request(ctx, "POST", "Act", "x")); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || arrived.Load() != 1 {
		t.Errorf("error %v, %d arrived", err, arrived.Load())
	}
}

func TestRedirectsAreRefused(t *testing.T) {
	var arrived atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	r := newRig(server.URL, time.Second, nil)
	_, err := r.call(t.Context(), "POST", "x")
	wantKind(t, err, issuer.Unavailable)
	_, err = r.spend(t, "x")
	wantKind(t, err, issuer.UnknownOutcome)
	if !strings.Contains(err.Error(), "307") || arrived.Load() != 2 {
		t.Errorf("%d arrived, error %v", arrived.Load(), err)
	}
}

func TestAnswerIsBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 5 << 10 {
			w.Write(make([]byte, 1<<10))
		}
	}))
	defer server.Close()
	r := newRig(server.URL, 5*time.Second, nil)
	_, err := r.call(t.Context(), "POST", "x")
	wantKind(t, err, issuer.Unavailable)
}

func TestConnections(t *testing.T) {
	var opened atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto)
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	r := newRig(server.URL, 5*time.Second, &tls.Config{RootCAs: roots})
	for range 5 {
		if proto, err := r.call(t.Context(), "POST", "x"); err != nil || proto != "HTTP/1.1" {
			t.Fatal(proto, err)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("reads opened %d connections, want 1", n)
	}
	for range 3 {
		if _, err := r.spend(t, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if n := opened.Load(); n != 4 {
		t.Errorf("%d connections after 3 spending calls, want 4", n)
	}
	_, err := newRig(server.URL, time.Second, nil).spend(t, "x")
	wantKind(t, err, issuer.NeverSent) // its certificate is not trusted: nothing of the request left
}

// TestIdleConnectionDies: the server closes a kept-alive connection. A read may
// fail or go out on a new one, but never twice.
func TestIdleConnectionDies(t *testing.T) {
	var arrived atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n := arrived.Add(1); n%2 == 0 { // takes the request, then drops the connection
			c, _, _ := w.(http.Hijacker).Hijack()
			c.Close()
		}
	}))
	defer server.Close()
	r := newRig(server.URL, time.Second, nil)
	if _, err := r.call(t.Context(), "POST", "x"); err != nil {
		t.Fatal(err)
	}
	_, err := r.call(t.Context(), "POST", "x")
	wantKind(t, err, issuer.Unavailable)
	if n := arrived.Load(); n != 2 {
		t.Errorf("%d arrived, want 2", n)
	}
}

func TestNeverSent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	_, err = newRig(url, time.Second, nil).spend(t, "x")
	wantKind(t, err, issuer.NeverSent)

	// A server that never finishes the TLS handshake: bytes left, but none of
	// the request.
	l, _ = net.Listen("tcp", "127.0.0.1:0")
	defer l.Close()
	_, err = newRig("https://"+l.Addr().String(), 200*time.Millisecond, nil).spend(t, "x")
	wantKind(t, err, issuer.NeverSent)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = newRig(url, time.Second, nil).call(ctx, "POST", "x")
	if wantKind(t, err, issuer.NeverSent); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while waiting for a permit: %v", err)
	}
}

// TestDeadlineResets: a server that reads the request and never answers. At the
// deadline the call returns and the server sees a reset, not an end of file.
func TestDeadlineResets(t *testing.T) {
	for _, secure := range []bool{false, true} {
		ended := make(chan error, 1)
		var roots *tls.Config
		url := stall(t, secure, &roots, ended)
		start := time.Now()
		// More than both ends' buffers hold, so that there is something to drain.
		_, err := newRig(url, 300*time.Millisecond, roots).spend(t, strings.Repeat("x", 8<<20))
		if wantKind(t, err, issuer.UnknownOutcome); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("secure %v: %v", secure, err)
		}
		if d := time.Since(start); d < 250*time.Millisecond || d > 2*time.Second {
			t.Errorf("secure %v: returned after %v", secure, d)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("secure %v: the server saw %v, want a reset", secure, err)
			}
		case <-time.After(3 * time.Second):
			t.Errorf("secure %v: the connection is still open", secure)
		}
	}
}

// stall starts a server that reads the head of a request, waits until the
// client must have given up, and tells how the connection then ends.
func stall(t *testing.T, secure bool, roots **tls.Config, ended chan<- error) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	scheme := "http://"
	if secure {
		server := httptest.NewTLSServer(nil) // for its certificate
		server.Close()
		pool := x509.NewCertPool()
		pool.AddCert(server.Certificate())
		*roots = &tls.Config{RootCAs: pool}
		l = tls.NewListener(l, &tls.Config{Certificates: server.TLS.Certificates})
		scheme = "https://"
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		r.ReadString('\n')
		time.Sleep(600 * time.Millisecond)
		_, err = io.Copy(io.Discard, r)
		ended <- err
	}()
	return scheme + l.Addr().String()
}

func TestTruncatedAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "half")
	}))
	defer server.Close()
	r := newRig(server.URL, time.Second, nil)
	_, err := r.spend(t, "x")
	if wantKind(t, err, issuer.UnknownOutcome); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
}

func TestPanicBecomesError(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	r := newRig(server.URL, time.Second, nil)
	err := r.caller.Do(t.Context(), "Act", func(ctx context.Context) error {
		if _, err := (&http.Client{Transport: r.transport}).Do(r.request(ctx, "POST", "Act", "x")); err != nil {
			return err
		}
		var code any = 7.0
		_ = code.(string)
		return nil
	})
	wantKind(t, err, issuer.Unavailable)
	if !strings.Contains(err.Error(), "panicked") {
		t.Errorf("%v", err)
	}
}

// TestNeverSentNeverArrives makes many calls at once against a server that
// drops connections at every stage, with deadlines that end at every stage. No
// request may arrive twice, and none that is called never sent.
func TestNeverSentNeverArrives(t *testing.T) {
	for secure, deadline := range map[bool]time.Duration{false: 15 * time.Millisecond, true: 60 * time.Millisecond} {
		hostile, arrived := hostileServer(t, secure)
		r := newRig(hostile.URL, deadline, trusting(hostile))
		ended := map[string]issuer.Kind{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for worker := range 16 {
			wg.Go(func() {
				for i := range 60 {
					id := fmt.Sprintf("%d-%d", worker, i)
					kind := issuer.KindOf(oneCall(t, r, id, i%3 == 0))
					mu.Lock()
					ended[id] = kind
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		time.Sleep(100 * time.Millisecond) // for what might be late
		kinds := map[issuer.Kind]int{}
		for id, kind := range ended {
			kinds[kind]++
			if n := arrived(id); n > 1 || n > 0 && kind == issuer.NeverSent || n == 0 && kind == "" {
				t.Errorf("%s arrived %d times, error kind %q", id, n, kind)
			}
		}
		t.Logf("secure %v: %v", secure, kinds)
	}
}

func oneCall(t *testing.T, r *rig, id string, spending bool) error {
	if spending {
		_, err := r.spend(t, id)
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.N(20))*time.Millisecond)
	defer cancel()
	_, err := r.call(ctx, "POST", id)
	return err
}

// hostileServer counts the bodies that arrive and then does something else with
// each.
func hostileServer(t *testing.T, secure bool) (*httptest.Server, func(string) int) {
	var mu sync.Mutex
	seen := map[string]int{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		seen[string(body)]++
		mu.Unlock()
		switch rand.N(5) {
		case 0:
			time.Sleep(rand.N(30 * time.Millisecond))
		case 1:
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				c.Close()
			}
			return
		case 2:
			w.Header().Set("Connection", "close")
		}
		io.WriteString(w, "{}")
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return server, func(id string) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[id]
	}
}

func trusting(server *httptest.Server) *tls.Config {
	if server.Certificate() == nil {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return &tls.Config{RootCAs: pool}
}
