package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/order"
)

// workshop is an installation in this process whose config a test may change.
type workshop struct {
	*house
	t       *testing.T
	console *Console
}

// openWorkshop starts server, simulated clouds and all workers, with the config
// as change leaves it.
func openWorkshop(t *testing.T, change func(*house)) *workshop {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c, log := inDir(t.TempDir()), NewLogger(io.Discard, "error")
	must(os.MkdirAll(c.State, 0o700))
	c.Keys.Identity = filepath.Join(c.State, "identity.age")
	h, err := openHouse(t.Context(), c, log)
	must(err)
	t.Cleanup(func() { _ = h.close() })
	change(h)
	p, err := NewProcess(h.workers(), "test", true, log, order.Roles...)
	must(err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	worked := make(chan error, 1)
	go func() { worked <- p.Run(ctx, order.Roles...) }()
	t.Cleanup(func() {
		stop()
		if err := <-worked; err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(time.Minute); !p.ready.ready.Load(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the workers do not begin")
		}
	}
	console, err := OpenConsole(t.Context(), h.cfg, log)
	must(err)
	t.Cleanup(console.Close)
	return &workshop{h, t, console}
}

// handIn hands orders in and returns their ids.
func (w *workshop) handIn(requests []order.Request) []awaited {
	w.t.Helper()
	in, err := w.console.handIn(w.t.Context(), requests, false)
	if err != nil {
		w.t.Fatal(err)
	}
	return in.wanted
}

// issued waits until all orders are.
func (w *workshop) issued(ids []awaited, within time.Duration) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), within)
	defer cancel()
	all, err := w.console.follow(ctx, ids, func(Progress) {})
	n := 0
	for _, it := range all {
		if it.State == order.Issued {
			n++
		}
	}
	if err != nil || n != len(ids) {
		w.t.Errorf("%d of %d orders are issued: %v", n, len(ids), err)
	}
}

// hanging stands before a cloud. Once it hangs, it takes every call and answers
// none. It counts those that read a quota, which come before a purchase.
type hanging struct {
	next     http.Handler
	hangs    atomic.Bool
	timeouts atomic.Int64 // of such calls, when the caller gave up
}

func (h *hanging) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.hangs.Load() {
		h.next.ServeHTTP(w, r)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	if r.URL.Query().Get("Action") == "DescribePackageState" {
		h.timeouts.Add(1)
	}
}

func hangingBefore(t *testing.T, target string) (*hanging, string) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	h := &hanging{next: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(u)
		r.Out.Host = r.In.Host // it is signed
	}}}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return h, server.URL
}

// TestACloudThatHangs holds up its own account only: while few of its calls run
// into their time-out, all orders of another account are issued. Each of those
// used to wait for one.
func TestACloudThatHangs(t *testing.T) {
	t.Parallel()
	const others, few = 30, 10
	var cloud *hanging
	w := openWorkshop(t, func(h *house) {
		h.only("aliyun-1", "aliyun-2")
		a := h.cfg.Accounts["aliyun-2"]
		cloud, a.Endpoint = hangingBefore(t, a.Endpoint)
		h.cfg.Accounts["aliyun-2"] = a
	})
	w.issued(w.handIn(requestsFor("aliyun-2", "early", 1)), time.Minute) // it works, and was swept
	cloud.hangs.Store(true)
	late := requestsFor("aliyun-2", "late", 40)
	for i := range late {
		late[i].Product = "geotrust-dv-1-starter" // whose quota was not read yet
	}
	w.handIn(late)
	for end := time.Now().Add(time.Minute); cloud.timeouts.Load() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the cloud that hangs is not asked")
		}
	}
	before := cloud.timeouts.Load()
	w.issued(w.handIn(requestsFor("aliyun-1", "other", others)), 2*time.Minute)
	if n := cloud.timeouts.Load() - before; n > few {
		t.Errorf("%d calls of another account timed out until %d orders were issued, want at most %d", n, others, few)
	}
}

func requestsFor(account, id string, n int) (all []order.Request) {
	for i := range n {
		all = append(all, order.Request{ID: fmt.Sprintf("%s-%s-%d", account, id, i), Account: account,
			Names: []string{fmt.Sprintf("%s%d.shop.com", id, i)}})
	}
	return all
}

// TestAKeyThatIsRefused holds up its own label only: another label of the same
// main account sweeps the list, and buys.
func TestAKeyThatIsRefused(t *testing.T) {
	t.Parallel()
	w := openWorkshop(t, func(h *house) {
		h.only("aliyun-1")
		a := h.cfg.Accounts["aliyun-1"]
		nobody := filepath.Join(t.TempDir(), "nobody.id")
		if err := os.WriteFile(nobody, []byte("LTAInobody\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		a.KeyID = Ref("file:" + nobody)
		h.cfg.Accounts["aliyun-0"] = a // the first label of its main account
	})
	w.issued(w.handIn(requestsFor("aliyun-1", "good", 2)), time.Minute)
}
