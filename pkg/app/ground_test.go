package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// withClouds is a config for workers on a server of their own, with simulated
// clouds that last as long as the test.
func withClouds(t *testing.T, url string, replicas int) Config {
	t.Helper()
	_, c := openClouded(t, url, replicas)
	return c
}

// fewer are one account of each cloud: workers have a ring for each account and call
// of it, and queues for each account.
func fewer(all map[string]Account) map[string]Account {
	return map[string]Account{"aliyun-1": all["aliyun-1"], "tencent-1": all["tencent-1"]}
}

// openClouded also returns the clouds, of which it has one account each.
func openClouded(t *testing.T, url string, replicas int) (*world, Config) {
	t.Helper()
	c := inDir(t.TempDir())
	c.NATS.URL, c.NATS.Replicas, c.Log = url, replicas, "error"
	c.Keys.Identity = filepath.Join(c.State, "identity.age")
	w, c, err := openWorld(context.Background(), c, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.close() })
	c.Accounts = fewer(c.Accounts)
	return w, c
}

// workers run all roles until the test ends, or by themselves.
type workers struct {
	*Process
	stop  func()
	ended chan struct{}
	err   error // after ended is closed
}

func startWorkers(t *testing.T, c Config) *workers {
	t.Helper()
	return startLogged(t, c, io.Discard, func(*Process) {})
}

// startLogged is startWorkers with a log, of warnings and errors, of a process
// that is edited.
func startLogged(t *testing.T, c Config, log io.Writer, edit func(*Process)) *workers {
	t.Helper()
	p, err := NewProcess(c, "test", true, NewLogger(log, "warn"), order.Roles...)
	if err != nil {
		t.Fatal(err)
	}
	edit(p)
	ctx, stop := context.WithCancel(context.Background())
	w := &workers{Process: p, stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		w.err = p.Run(ctx, order.Roles...)
	}()
	t.Cleanup(func() {
		stop()
		<-w.ended
	})
	return w
}

// work waits until they do.
func (w *workers) work(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(natstest.Patience); !w.ready.ready.Load(); time.Sleep(10 * time.Millisecond) {
		select {
		case <-w.ended:
			t.Fatalf("the workers ended: %v", w.err)
		default:
		}
		if time.Now().After(end) {
			t.Fatal("the workers do not begin")
		}
	}
}

// end waits until they have ended by themselves.
func (w *workers) end(t *testing.T) error {
	t.Helper()
	select {
	case <-w.ended:
		return w.err
	case <-time.After(natstest.Patience):
		t.Fatal("the workers go on")
		return nil
	}
}

// makeStore makes the key store alone.
func makeStore(t *testing.T, c Config) *certstore.KeyStore {
	t.Helper()
	keys, _, err := certstore.MakeKeyStore(c.Keys.Store)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestWorkersNotice: streams that are removed under running workers, or made
// anew, end them, whoever did it.
func TestWorkersNotice(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		lose string
		anew bool
		want error
	}{
		{"the ledger is removed", ledger.StreamName, false, stream.ErrMissing},
		{"the account states are removed", "KV_" + account.Bucket, false, stream.ErrMissing},
		{"the ledger is made anew", ledger.StreamName, true, errOtherStreams},
		{"the inbox is made anew", pipeline.IntakeStream, true, errOtherStreams},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := natstest.Connect(t, natstest.Server(t))
			c := withClouds(t, js.Conn().ConnectedUrl(), 1)
			if _, err := Init(t.Context(), c, quiet); err != nil {
				t.Fatal(err)
			}
			w := startWorkers(t, c)
			w.work(t)
			if err := js.DeleteStream(t.Context(), tt.lose); err != nil {
				t.Fatal(err)
			}
			if tt.anew {
				if _, err := Init(t.Context(), c, quiet); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.end(t); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.lose) {
				t.Errorf("they ended with %v, want %v", err, tt.want)
			}
			_, err := js.Stream(t.Context(), tt.lose)
			if again := err == nil; again != tt.anew {
				t.Errorf("the stream is there: %v (%v)", again, err)
			}
		})
	}
}

// TestWorkersNoticeAnEdit: a stream that would forget, or answer from behind,
// ends them with the difference.
func TestWorkersNoticeAnEdit(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*jetstream.StreamConfig){
		"orders that are too old go": func(c *jetstream.StreamConfig) { c.MaxAge = 24 * time.Hour },
		"any replica answers":        func(c *jetstream.StreamConfig) { c.AllowDirect = true },
		"another format":             func(c *jetstream.StreamConfig) { c.Metadata[stream.FormatKey] = "3" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := natstest.Connect(t, natstest.Server(t))
			c := withClouds(t, js.Conn().ConnectedUrl(), 1)
			if _, err := Init(t.Context(), c, quiet); err != nil {
				t.Fatal(err)
			}
			w := startWorkers(t, c)
			w.work(t)
			s, err := js.Stream(t.Context(), pipeline.OrdersStream)
			if err != nil {
				t.Fatal(err)
			}
			cfg := s.CachedInfo().Config
			edit(&cfg)
			if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			if err := w.end(t); !decided(err) || !strings.Contains(err.Error(), pipeline.OrdersStream) {
				t.Errorf("they ended with %v", err)
			}
		})
	}
}

// TestWorkersNoticeARestore: certmill restored is for workers that were stopped;
// those that were not stop themselves.
func TestWorkersNoticeARestore(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	c := withClouds(t, js.Conn().ConnectedUrl(), 1)
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	w := startWorkers(t, c)
	w.work(t)
	if err := Restored(t.Context(), at(c.NATS.URL, 1), quiet); err != nil {
		t.Fatal(err)
	}
	if err := w.end(t); !errors.Is(err, errOtherStreams) || !strings.Contains(err.Error(), pipeline.OrdersStream) {
		t.Errorf("they ended with %v", err)
	}
}

// TestWorkersOutliveTheirServers: neither new leaders nor servers that restart
// are other streams.
func TestWorkersOutliveTheirServers(t *testing.T) {
	t.Parallel()
	servers := natstest.Cluster(t)
	c := withClouds(t, urls(servers), 3)
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	w := startWorkers(t, c)
	w.work(t)
	for i, s := range servers[:2] {
		stepDown(t, servers[2])
		servers[i] = natstest.Restart(t, s)
		await(t, "every stream has a leader", func() bool {
			_, _, err := stand(t.Context(), natstest.Connect(t, servers[i]), 3)
			return err == nil
		})
	}
	time.Sleep(2 * groundEvery) // they look
	console, err := OpenConsole(t.Context(), c, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	after := order.Request{ID: "after", Names: []string{"www.after.example"}, Account: "aliyun-1"}
	in, err := console.handIn(t.Context(), []order.Request{after}, false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*natstest.Patience)
	defer cancel()
	all, err := console.follow(ctx, in.wanted, func(Progress) {})
	if err != nil || all["after"].State != order.Issued {
		t.Errorf("%s, %v", all["after"].State, err)
	}
	select {
	case <-w.ended:
		t.Errorf("they ended with %v", w.err)
	default:
	}
}

func urls(servers []*server.Server) string {
	var all []string
	for _, s := range servers {
		all = append(all, s.ClientURL())
	}
	return strings.Join(all, ",")
}

// stepDown gives the lasting streams other leaders.
func stepDown(t *testing.T, s *server.Server) {
	t.Helper()
	nc := natstest.Connect(t, s).Conn()
	for _, want := range lasting(3) {
		_, _ = nc.Request(fmt.Sprintf("$JS.API.STREAM.LEADER.STEPDOWN.%s", want.Name), nil, time.Second)
	}
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(natstest.Patience); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come: %s", what)
		}
	}
}

// TestWorkersRefuse: on streams that are missing, or not as they must be, nobody
// works, and nobody makes or mends them.
func TestWorkersRefuse(t *testing.T) {
	t.Parallel()
	servers := natstest.Cluster(t)
	js := natstest.Connect(t, servers[0])
	c := withClouds(t, urls(servers), 3)
	makeStore(t, c)
	refused := func(words string) {
		t.Helper()
		before := natstest.Take(t, js)
		var all sync.WaitGroup
		for _, role := range order.Roles {
			all.Go(func() {
				if err := Work(t.Context(), c, role); err == nil || !strings.Contains(err.Error(), words) {
					t.Errorf("%s: %v, want %q", role, err, words)
				}
			})
		}
		all.Wait()
		before.Same(t, js)
	}
	refused("stream LEDGER: it is not there; certmill init makes what is missing")
	for _, want := range lasting(3) {
		if want.Name == ledger.StreamName {
			want.Replicas = 1
		}
		if _, err := stream.Ensure(t.Context(), js, want); err != nil {
			t.Fatal(err)
		}
	}
	refused("stream LEDGER is not as it must be: replicas is 1 and must be 3")
	ledgers := natstest.Take(t, js)["stream "+ledger.StreamName]
	if _, err := Init(t.Context(), c, quiet); !decided(err) || !strings.Contains(err.Error(), "replicas is 1 and must be 3") {
		t.Errorf("init: %v", err)
	}
	if is := natstest.Take(t, js)["stream "+ledger.StreamName]; is != ledgers {
		t.Errorf("init changed it: %s", is)
	}
	orders, err := js.Stream(t.Context(), pipeline.OrdersStream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := orders.CachedInfo().Config
	if err := js.DeleteStream(t.Context(), ledger.StreamName); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Ensure(t.Context(), js, ledger.Config(3)); err != nil {
		t.Fatal(err)
	}
	cfg.MaxAge = time.Hour
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	refused("stream ORDERS is not as it must be: maximum age is 1h0m0s and must be unlimited")
}
