package app

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/certmill/certmill/pkg/durable"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
)

// full lets a folder take nothing until it is mended.
func full(dir string, why error) (mend func()) {
	return durable.Break(dir, func(durable.Step, string) error { return why })
}

// Finding 6 of the second attack: a key store or a folder of certificates that takes
// nothing is told at once and everywhere, nothing more is bought meanwhile, and
// everything goes on by itself.
func TestAPlaceTakesNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what   string
		folder func(Config) string
		why    error
		words  string
		bought int // before it was noticed
	}{
		{"key store", func(c Config) string { return c.Keys.Store }, syscall.EROFS, "the key store takes nothing", 1},
		{"certificates", func(c Config) string { return c.Deliver.Directory }, syscall.ENOSPC, "the folder of certificates takes nothing", 2},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			w := newMill(t)
			w.order("a")
			w.issued("a")
			mend := full(absolute(tt.folder(w.cfg)), tt.why)
			defer mend()
			w.order("b")
			await(t, "it is told at /readyz", func() bool { return strings.Contains(w.readyz(), tt.words) })
			await(t, "a console is told", func() bool { // with the cause, where it looks anew
				return slices.ContainsFunc(w.status(t).Troubles, func(t Trouble) bool {
					return t.What == tt.words && strings.Contains(t.Why, tt.why.Error())
				})
			})
			w.order("c")
			await(t, "the order waits for it", func() bool {
				s, err := openConsole(t, w.cfg).Stuck(t.Context(), 0)
				return err == nil && slices.ContainsFunc(s.Groups, func(g StuckGroup) bool {
					return slices.Contains(g.IDs, "c") && strings.Contains(g.Example.Blocker, tt.why.Error()) &&
						g.Example.Advice == placeHelps
				})
			})
			if n := len(w.world.sim.Report().Orders); n != tt.bought {
				t.Errorf("%d were bought, and not %d", n, tt.bought)
			}
			mend()
			w.issued("b", "c")
			await(t, "that is over", func() bool { return w.readyz() == "ready\n" && len(w.status(t).Troubles) == 0 })
			if n := strings.Count(w.log.String(), `"msg":"`+tt.words); n != 1 {
				t.Errorf("it is logged %d times:\n%s", n, w.log)
			}
			if n := strings.Count(w.log.String(), "over: "+tt.words); n != 1 {
				t.Errorf("its end is logged %d times:\n%s", n, w.log)
			}
		})
	}
}

// mill is all workers in one process, with clouds and a server of their own.
type mill struct {
	t     *testing.T
	cfg   Config
	world *world
	p     *Process
	log   *logged
	at    *Console
}

func newMill(t *testing.T) *mill {
	t.Helper()
	c := inDir(t.TempDir())
	c.NATS.URL, c.NATS.Replicas = natstest.Server(t).ClientURL(), 1
	c.Keys.Identity = filepath.Join(c.State, "identity.age")
	world, c, err := openWorld(context.Background(), c, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = world.close() })
	c.Accounts = fewer(c.Accounts)
	w := &mill{t: t, cfg: c, world: world, log: &logged{}}
	err = errors.Join(shortWaits(world, c), world.begin(c))
	if err == nil {
		_, err = Init(t.Context(), c, quiet)
	}
	if err == nil {
		w.p, err = NewProcess(c, hostName("test"), true, slog.New(slog.NewJSONHandler(w.log, nil)), order.Roles...)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.p.Run(ctx, order.Roles...) }()
	t.Cleanup(func() { stop(); <-ended })
	w.at = openConsole(t, c)
	return w
}

func (w *mill) order(id string) {
	w.t.Helper()
	o := order.Request{ID: id, Names: []string{"www." + id + ".example"}, Account: "aliyun-1"}
	_, err := w.at.handIn(w.t.Context(), []order.Request{o}, false)
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *mill) issued(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		await(w.t, id+" is issued", func() bool {
			it, err := w.at.Find(w.t.Context(), id)
			return err == nil && it.State == order.Issued
		})
	}
}

func (w *mill) readyz() string {
	r := httptest.NewRecorder()
	w.p.readyz(r, nil)
	return r.Body.String()
}

// status is what somebody sees who looks now.
func (w *mill) status(t *testing.T) Status {
	t.Helper()
	s, err := openConsole(t, w.cfg).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// logged are a log.
type logged struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}
