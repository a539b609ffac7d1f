package issuer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/redact"
)

// maxAnswer is the largest answer that is read, in bytes after decompression.
// The longest pages of a list that are asked for, 1,000 rows, are about 2 MiB;
// the vendors' SDKs would read without a limit.
const maxAnswer = 4 << 20

// TransportOptions are what differs between the clouds.
type TransportOptions struct {
	// Identify finds main account and API action of a request.
	Identify func(*http.Request) (permit.Key, error)
	// Stamp finds the time stamp that a request was signed with.
	Stamp func(*http.Request) (time.Time, error)
	// Free are the actions that take no permit (Call.Free). These, and only
	// these, pass without one.
	Free []string
	// TLS is the client's TLS configuration; nil means the system's roots.
	TLS *tls.Config
	// Proxy is asked by no environment variable: nil means none.
	Proxy *url.URL
}

// Transport is the http.RoundTripper under the clouds' SDKs. It sends a request
// once or not at all, and knows which of the two it was:
//
//   - it refuses what carries no live permit for its account and action, but for
//     the few actions that are free (TransportOptions.Free), to each of which it
//     gives a deadline of its own, and none of which passes below Spending;
//   - a request below Spending is refused when the stamp that was really signed
//     lies outside the Fence, and goes out on a connection of its own, because
//     net/http sends a second time when a kept-alive one dies;
//   - only POST passes, for the same reason: a GET would be replayed, and one
//     permit would cover two calls;
//   - no redirect is followed (both SDKs would POST again) and at most 4 MiB of
//     an answer are read;
//   - secrets of this process are taken out of the answer (package redact);
//   - when the request's context ends, the connection is reset and not drained,
//     so that nothing leaves late;
//   - bytes are counted at the connection: an error before the first byte of
//     the request is NeverSent.
//
// Its errors are *Error. It is safe for concurrent use.
type Transport struct {
	gate     permit.Transport
	free     map[string]bool // actions that pass beside the gate
	patience time.Duration   // with a call of those
	stamp    func(*http.Request) (time.Time, error)
	pooled   *http.Transport // reads: kept-alive HTTP/1.1
	fresh    *http.Transport // spending calls: one connection each
}

// freeDeadline is how long a call may take that has no permit to tell.
const freeDeadline = 5 * time.Second

// NewTransport returns the transport. Identify and Stamp must be set.
func NewTransport(opt TransportOptions) *Transport {
	t := &Transport{free: map[string]bool{}, patience: freeDeadline, stamp: opt.Stamp,
		pooled: newHTTP(opt), fresh: newHTTP(opt)}
	for _, action := range opt.Free {
		t.free[action] = true
	}
	t.fresh.DisableKeepAlives = true
	t.gate = permit.Transport{Next: roundTrip(t.fenced), Identify: opt.Identify}
	return t
}

func newHTTP(opt TransportOptions) *http.Transport {
	only1 := new(http.Protocols)
	only1.SetHTTP1(true)
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	h := &http.Transport{
		Protocols:             only1,
		TLSClientConfig:       opt.TLS.Clone(),
		TLSHandshakeTimeout:   5 * time.Second,
		MaxIdleConns:          32,
		MaxIdleConnsPerHost:   16, // more than the permits of one action
		IdleConnTimeout:       30 * time.Second,
		ResponseHeaderTimeout: 0, // the permit's deadline holds for the whole call
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &wire{Conn: c}, nil
		},
	}
	if opt.Proxy != nil {
		h.Proxy = http.ProxyURL(opt.Proxy)
	}
	return h
}

// CloseIdleConnections closes what is kept alive for reads.
func (t *Transport) CloseIdleConnections() { t.pooled.CloseIdleConnections() }

// RoundTrip sends the request, reads the whole answer and returns it.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.admit(r)
	if err == nil {
		return resp, nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return nil, e
	}
	return nil, &Error{Kind: NeverSent, Err: err} // the gate refused it
}

// admit sends what is free at once, and all else through the gate.
func (t *Transport) admit(r *http.Request) (*http.Response, error) {
	if k, err := t.gate.Identify(r); err == nil && t.free[k.Action] {
		return t.unlimited(r)
	}
	return t.gate.RoundTrip(r)
}

// unlimited sends a call without a permit. Whoever marked it as spending took a
// free action for another one.
func (t *Transport) unlimited(r *http.Request) (*http.Response, error) {
	if _, spending := fenceOf(r.Context()); spending {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, &Error{Kind: NeverSent, Err: errors.New("a call without a permit never spends")}
	}
	ctx, cancel := context.WithTimeout(r.Context(), t.patience)
	defer cancel() // the answer was read whole
	return t.fenced(r.WithContext(ctx))
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// fenced refuses what must not leave and picks the connection for the rest.
func (t *Transport) fenced(r *http.Request) (*http.Response, error) {
	fence, fenced := bounds(r.Context())
	err := onlyPOST(r)
	if err == nil && fenced {
		err = t.within(r, fence)
	}
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, &Error{Kind: NeverSent, Err: err}
	}
	_, spending := fenceOf(r.Context())
	if spending {
		return watched(r, t.fresh)
	}
	return watched(r, t.pooled)
}

func onlyPOST(r *http.Request) error {
	if r.Method != http.MethodPost {
		return fmt.Errorf("method %s refused: net/http may send it twice", r.Method)
	}
	return nil
}

// within compares the stamp that was signed, not a clock, with the fence.
func (t *Transport) within(r *http.Request, f Fence) error {
	at, err := t.stamp(r)
	if err != nil {
		return fmt.Errorf("time stamp of the request: %w", err)
	}
	if at.Before(f.NotBefore) || at.After(f.NotAfter) {
		return fmt.Errorf("signed at %s, allowed from %s to %s: %w", at.UTC().Format(time.RFC3339),
			f.NotBefore.UTC().Format(time.RFC3339), f.NotAfter.UTC().Format(time.RFC3339), ErrOutsideFence)
	}
	return nil
}

// ErrOutsideFence is wrapped by the error of a request whose signed time stamp lies
// outside its Fence (Spending, Within). It was never sent.
var ErrOutsideFence = errors.New("outside the fence of the ledger entry")

// watched sends the request on next and counts what leaves.
func watched(r *http.Request, next *http.Transport) (*http.Response, error) {
	w := &watch{ctx: r.Context()}
	stop := context.AfterFunc(w.ctx, w.abort)
	defer stop()
	ctx := httptrace.WithClientTrace(w.ctx, &httptrace.ClientTrace{GotConn: w.got})
	resp, err := next.RoundTrip(r.WithContext(ctx))
	if err == nil {
		resp, err = readAll(resp)
	}
	trip := tripOf(w.ctx)
	if err != nil {
		w.abort() // before counting, so that nothing can leave afterwards
		trip.sent = w.anySent()
		return nil, w.failure(err)
	}
	w.release()
	trip.sent, trip.answered, trip.status = true, true, resp.StatusCode
	trip.retryAfter = retryAfter(resp.Header)
	return resp, nil
}

// readAll reads the answer into memory, within the limit, and refuses
// redirects: http.Client follows them unless the transport fails.
func readAll(resp *http.Response) (*http.Response, error) {
	defer resp.Body.Close()
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return nil, badAnswer(fmt.Sprintf("HTTP %d: redirects are not followed", resp.StatusCode))
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, badAnswer("answer in an encoding that was not asked for")
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, badAnswer(fmt.Sprintf("answer longer than %d bytes", maxAnswer))
	}
	body = redact.JSON(body) // some clouds quote the request
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, nil
}

// retryAfter reads Retry-After in seconds. Neither cloud documents it.
func retryAfter(h http.Header) time.Duration {
	s, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || s < 0 || s > 3600 {
		return 0
	}
	return time.Duration(s) * time.Second
}

// wire is a connection that counts what was written on it and can be cut off.
type wire struct {
	net.Conn
	owner atomic.Pointer[watch] // the request that is on it now

	mu      sync.Mutex // held while writing: a count includes every byte the kernel took
	written int64
}

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.Conn.Write(b)
	w.written += int64(n)
	return n, err
}

// Close resets the connection instead of draining it when the request on it was
// given up.
func (w *wire) Close() error {
	if o := w.owner.Load(); o != nil && o.ctx.Err() != nil {
		return w.reset()
	}
	return w.Conn.Close()
}

// reset drops what the kernel has not sent yet and closes. It works below TLS,
// whose Close would first write an alert, for up to 5 s.
func (w *wire) reset() error {
	if c, ok := w.Conn.(interface{ SetLinger(int) error }); ok {
		c.SetLinger(0) // fails only on a closed connection
	}
	return w.Conn.Close()
}

func (w *wire) count() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}

// watch follows one request over the connections that net/http tries for it:
// more than one only while nothing was written.
type watch struct {
	ctx context.Context

	mu   sync.Mutex
	conn *wire
	base int64 // written on conn before this request: handshake, earlier requests
	sent bool  // on an earlier connection
	over bool
}

// got is told by net/http which connection the request will use.
func (w *watch) got(info httptrace.GotConnInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		w.conn.reset()
		w.sent = w.sent || w.conn.count() > w.base
	}
	if w.conn = wireOf(info.Conn); w.conn == nil {
		w.sent = true // cannot be counted: assume the worst
		return
	}
	w.base = w.conn.count()
	w.conn.owner.Store(w)
	if w.over {
		w.conn.reset()
	}
}

// wireOf finds the counted connection below TLS, of which there are two through
// a proxy that is reached by TLS itself.
func wireOf(c net.Conn) *wire {
	for {
		t, ok := c.(*tls.Conn)
		if !ok {
			w, _ := c.(*wire)
			return w
		}
		c = t.NetConn()
	}
}

// abort cuts the request's connection off, unless another request has it by
// now.
func (w *watch) abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.conn != nil && w.conn.owner.Load() == w {
		w.conn.reset()
	}
}

// release lets go of the connection, which may serve another request already.
func (w *watch) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		w.conn.owner.CompareAndSwap(w, nil)
	}
}

func (w *watch) anySent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent || w.conn != nil && w.conn.count() > w.base
}

// failure tells what an error of the connection means for the call.
func (w *watch) failure(err error) *Error {
	if cause := w.ctx.Err(); cause != nil {
		err = cause // the connection's own complaint is only its consequence
	}
	if !w.anySent() {
		return &Error{Kind: NeverSent, Err: plain(err)}
	}
	return &Error{Kind: Unclear(w.ctx), Err: plain(err)}
}

// plain keeps errors of known origin and drops the text of others: those of
// net/http can quote what the server sent.
func plain(err error) error {
	var network net.Error
	var certificate *tls.CertificateVerificationError
	var bad badAnswer
	switch {
	case errors.As(err, &bad):
		return bad
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.As(err, &network), errors.As(err, &certificate):
		return err
	}
	return errors.New("the connection or the answer was broken")
}

// badAnswer is an answer that readAll refuses. It quotes nothing of it.
type badAnswer string

func (b badAnswer) Error() string { return string(b) }
