package issuertest

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// Proxy stands between a client and a simulated cloud. It counts calls and
// makes single ones fail, without knowing more of the cloud than its Dialect.
type Proxy struct {
	URL string

	next    *httputil.ReverseProxy
	dialect Dialect

	mu     sync.Mutex
	faults map[string][]Fault
	calls  map[string]int
}

// Dialect is what a Proxy knows of a cloud's wire.
type Dialect struct {
	Action   func(*http.Request) string // that a request names
	Throttle func(http.ResponseWriter)  // answers that the rate limit was met
	Unknown  func(http.ResponseWriter)  // answers that there is no such action
}

// Between starts a proxy before the cloud at target.
func Between(t *testing.T, target string, d Dialect) *Proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{dialect: d, faults: map[string][]Fault{}, calls: map[string]int{},
		next: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Host = r.In.Host // it is signed
		}}}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.URL = server.URL
	return p
}

// Fail makes the next call of the action fail.
func (p *Proxy) Fail(action string, f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults[action] = append(p.faults[action], f)
}

// Calls counts the calls that arrived, by action.
func (p *Proxy) Calls() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.calls)
}

func (p *Proxy) arrived(action string) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[action]++
	queue := p.faults[action]
	if len(queue) == 0 {
		return ""
	}
	p.faults[action] = queue[1:]
	return queue[0]
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch p.arrived(p.dialect.Action(r)) {
	case Throttle:
		p.dialect.Throttle(w)
	case Unknown:
		p.dialect.Unknown(w)
	case HTML502:
		w.WriteHeader(http.StatusBadGateway)
		io.WriteString(w, "<html><body>502 Bad Gateway</body></html>")
	case Empty200:
	case ResetAfterCommit:
		p.next.ServeHTTP(httptest.NewRecorder(), r)
		reset(w)
	case Stall:
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	default:
		p.next.ServeHTTP(w, r)
	}
}

// reset cuts the connection off.
func reset(w http.ResponseWriter) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(fmt.Sprint("hijack: ", err)) // net/http of the test server
	}
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}
