package permit_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/permit"
)

var key = permit.Key{Account: "100200", Action: "CreateOrder"}

// quick is a ring whose Q is 500 ms.
var quick = permit.Limit{Calls: 5, Period: 200 * time.Millisecond, Deadline: 150 * time.Millisecond, Pull: 150 * time.Millisecond}

// startServer runs a NATS server with JetStream; port -1 takes any.
func startServer(t *testing.T, port int) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

func connect(t *testing.T, url string, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{nats.ReconnectWait(20 * time.Millisecond), nats.MaxReconnects(-1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// join is one process's Set on js.
func join(t *testing.T, js jetstream.JetStream, l permit.Limit, opt permit.Options) *permit.Set {
	t.Helper()
	if opt.AckWait == 0 {
		opt.AckWait = 300 * time.Millisecond
	}
	s := permit.New(js, func(permit.Key) permit.Limit { return l }, opt)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // nothing in these tests needs what is out
		_ = s.Close(ctx)
	})
	return s
}

func take(t *testing.T, s *permit.Set) *permit.Permit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, p, err := s.Wait(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// cloud counts arrivals over any sliding period.
type cloud struct {
	mu       sync.Mutex
	limit    permit.Limit
	arrivals []time.Time
	worst    int
	came     chan struct{} // tells of each call, if anybody listens
}

func newCloud(l permit.Limit) *cloud { return &cloud{limit: l, came: make(chan struct{}, 1000)} }

func (c *cloud) count() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.arrivals = append(c.arrivals, now)
	n := 0
	for i := len(c.arrivals) - 1; i >= 0 && now.Sub(c.arrivals[i]) < c.limit.Period; i-- {
		n++
	}
	c.worst = max(c.worst, n)
	select {
	case c.came <- struct{}{}:
	default:
	}
}

// wait waits until n more calls have come.
func (c *cloud) wait(t *testing.T, n int) {
	t.Helper()
	late := time.After(30 * time.Second)
	for range n {
		select {
		case <-c.came:
		case <-late:
			t.Fatal("no calls come")
		}
	}
}

func (c *cloud) check(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Logf("%d calls, at most %d in any %v", len(c.arrivals), c.worst, c.limit.Period)
	if c.worst > c.limit.Calls {
		t.Errorf("%d calls in one period, %d are allowed", c.worst, c.limit.Calls)
	}
}

// load calls as fast as permits come until the test ends.
func load(t *testing.T, s *permit.Set, c *cloud) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = s.Do(ctx, key, func(context.Context, *permit.Permit) error { c.count(); return nil })
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// TestProcesses shares one ring among connections.
func TestProcesses(t *testing.T) {
	t.Parallel()
	srv := startServer(t, -1)
	c := newCloud(quick)
	var sets []*permit.Set
	for range 4 {
		s := join(t, connect(t, srv.ClientURL()), quick, permit.Options{})
		sets = append(sets, s)
		load(t, s, c)
	}
	c.wait(t, 50)
	c.check(t)
	granted := 0
	for _, s := range sets {
		granted += s.Stats()[0].Granted
	}
	if granted < 50 {
		t.Errorf("%d permits granted", granted)
	}
}

// TestProvision looks at what the ring has made of stream and consumer.
func TestProvision(t *testing.T) {
	t.Parallel()
	js := connect(t, startServer(t, -1).ClientURL())
	s := join(t, js, quick, permit.Options{})
	take(t, s)
	info, err := js.Consumer(t.Context(), "PERMITS", "100200_CreateOrder")
	if err != nil {
		t.Fatal(err)
	}
	cfg := info.CachedInfo().Config
	if cfg.DeliverPolicy != jetstream.DeliverNewPolicy || cfg.InactiveThreshold != 0 || cfg.AckPolicy != jetstream.AckExplicitPolicy ||
		cfg.MaxAckPending < 4*quick.Calls || cfg.MaxAckPending > 10*quick.Calls || cfg.MaxDeliver != -1 {
		t.Errorf("consumer %+v", cfg)
	}
	for k, want := range map[string]string{"permit-calls": "5", "permit-period": "200ms", "permit-deadline": "150ms", "permit-pull": "150ms"} {
		if got := cfg.Metadata[k]; got != want {
			t.Errorf("metadata %s: %q, want %q", k, got, want)
		}
	}
	stream, err := js.Stream(t.Context(), "PERMITS")
	if err != nil {
		t.Fatal(err)
	}
	sc := stream.CachedInfo().Config
	if sc.MaxMsgsPerSubject != 1 || sc.Storage != jetstream.MemoryStorage || sc.MaxConsumers <= 1000 ||
		sc.FirstSeq < uint64(time.Now().Add(-time.Hour).UnixMicro()) {
		t.Errorf("stream %+v", sc)
	}
	for _, l := range []permit.Limit{{Calls: 6}, {Deadline: time.Second}} {
		other := quick
		other.Calls, other.Deadline = max(l.Calls, other.Calls), max(l.Deadline, other.Deadline)
		err := join(t, js, other, permit.Options{}).Open(t.Context(), key)
		if !errors.Is(err, permit.ErrSettings) || !strings.Contains(err.Error(), "100200_CreateOrder") {
			t.Errorf("joined with other settings: %v", err)
		}
	}
}

// TestForeignStream refuses a stream on which the proof would not hold.
func TestForeignStream(t *testing.T) {
	t.Parallel()
	js := connect(t, startServer(t, -1).ClientURL())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "PERMITS", Subjects: []string{"permit.>"}}); err != nil {
		t.Fatal(err)
	}
	if err := join(t, js, quick, permit.Options{}).Open(t.Context(), key); !errors.Is(err, permit.ErrSettings) {
		t.Errorf("joined on a stream that keeps everything: %v", err)
	}
}

// TestConsumerRemoved removes the consumer by hand under load, again and again:
// a new one must not hand out what the old one's users still have.
func TestConsumerRemoved(t *testing.T) {
	t.Parallel()
	srv := startServer(t, -1)
	c := newCloud(quick)
	for range 3 {
		load(t, join(t, connect(t, srv.ClientURL()), quick, permit.Options{}), c)
	}
	js := connect(t, srv.ClientURL())
	for range 3 {
		c.wait(t, 12)
		if err := js.DeleteConsumer(t.Context(), "PERMITS", "100200_CreateOrder"); err != nil {
			t.Fatal(err)
		}
		for len(c.came) > 0 {
			<-c.came
		}
	}
	c.wait(t, 12)
	c.check(t)
}

// TestIdleConsumerRemoved removes the consumer while all slots are at hand: a
// new one must get all of them, and none before Q.
func TestIdleConsumerRemoved(t *testing.T) {
	t.Parallel()
	js := connect(t, startServer(t, -1).ClientURL())
	s := join(t, js, quick, permit.Options{AckWait: time.Minute})
	var all []*permit.Permit
	for range quick.Calls {
		all = append(all, take(t, s))
	}
	for _, p := range all {
		p.Give(permit.Unused, 0)
	}
	for s.Stats()[0].Out > 0 {
		time.Sleep(time.Millisecond)
	}
	removed := time.Now()
	if err := js.DeleteConsumer(t.Context(), "PERMITS", "100200_CreateOrder"); err != nil {
		t.Fatal(err)
	}
	for i := range quick.Calls {
		take(t, s)
		if d, q := time.Since(removed), 500*time.Millisecond; d < q {
			t.Errorf("permit %d came %v after the consumer was removed, before Q = %v", i, d, q)
		}
	}
}

// TestRestart stops the server under load and starts it with an empty memory.
func TestRestart(t *testing.T) {
	t.Parallel()
	srv := startServer(t, -1)
	port := srv.Addr().(*net.TCPAddr).Port
	c := newCloud(quick)
	for range 3 {
		load(t, join(t, connect(t, srv.ClientURL()), quick, permit.Options{}), c)
	}
	for range 3 {
		c.wait(t, 12)
		srv.Shutdown()
		srv.WaitForShutdown()
		for len(c.came) > 0 {
			<-c.came
		}
		srv = startServer(t, port)
	}
	c.wait(t, 12)
	c.check(t)
}

// TestConnectionDropped cuts a process off while it waits: the pull is given
// up, there is no permit while NATS is away, and there are permits again after.
func TestConnectionDropped(t *testing.T) {
	t.Parallel()
	srv := startServer(t, -1)
	l := quick
	l.Calls, l.Pull = 1, time.Hour // only a pull that is given up ends in this test
	away := make(chan struct{}, 10)
	js := connect(t, srv.ClientURL(), nats.DisconnectErrHandler(func(*nats.Conn, error) { away <- struct{}{} }))
	other := join(t, connect(t, srv.ClientURL()), l, permit.Options{AckWait: time.Hour, SkipWait: true})
	s := join(t, js, l, permit.Options{AckWait: time.Hour, SkipWait: true})
	held := take(t, other)
	got := make(chan *permit.Permit)
	go func() {
		_, p, _ := s.Wait(t.Context(), key)
		got <- p
	}()
	for s.Stats() == nil || s.Stats()[0].Waiting == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // the pull is at the server; if it is not, this test shows less
	if err := js.Conn().ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	<-away
	// What is put before the server has noticed goes to the connection that is gone, and
	// comes back after AckWait.
	await(t, func() bool {
		gone, err := srv.Connz(&server.ConnzOptions{State: server.ConnClosed})
		return err == nil && gone.NumConns > 0
	})
	held.Give(permit.Unused, 0)
	select {
	case p := <-got:
		if p == nil {
			t.Fatal("no permit")
		}
		p.Give(permit.Unused, 0)
	case <-time.After(time.Minute):
		t.Fatal("the pull was not given up when the connection dropped")
	}
}

func TestConnectionClosed(t *testing.T) {
	t.Parallel()
	js := connect(t, startServer(t, -1).ClientURL())
	s := join(t, js, quick, permit.Options{})
	take(t, s)
	js.Conn().Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, _, err := s.Wait(ctx, key); !errors.Is(err, permit.ErrClosed) {
		t.Errorf("waited on a closed connection: %v", err)
	}
}

// TestDeadProcess: its permits come back, unused in between.
func TestDeadProcess(t *testing.T) {
	t.Parallel()
	srv := startServer(t, -1)
	c := newCloud(quick)
	js := connect(t, srv.ClientURL())
	dying := join(t, js, quick, permit.Options{})
	for range quick.Calls {
		take(t, dying)
		c.count()
	}
	js.Conn().Close()
	other := join(t, connect(t, srv.ClientURL()), quick, permit.Options{})
	for len(c.came) > 0 {
		<-c.came
	}
	load(t, other, c)
	c.wait(t, 3*quick.Calls)
	c.check(t)
	// The last one was taken later than the first, so that it may come back after these calls.
	await(t, func() bool { return other.Stats()[0].Redelivered >= quick.Calls })
}

// TestLimits lowers and raises a limit, as the stream shows it.
func TestLimits(t *testing.T) {
	t.Parallel()
	srv := startServer(t, -1)
	c := newCloud(quick)
	js := connect(t, srv.ClientURL())
	one, other := join(t, js, quick, permit.Options{}), join(t, connect(t, srv.ClientURL()), quick, permit.Options{})
	load(t, one, c)
	load(t, other, c)
	slots := func(want uint64) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			s, err := js.Stream(t.Context(), "PERMITS")
			if err != nil {
				t.Fatal(err)
			}
			if got := s.CachedInfo().State.Msgs; got == want {
				return
			} else if time.Now().After(end) {
				t.Fatalf("%d slots, want %d", got, want)
			}
		}
	}
	c.wait(t, 10)
	for _, calls := range []int{2, 5, 3} {
		for _, s := range []*permit.Set{one, other} {
			if err := s.SetLimit(t.Context(), key, calls); err != nil {
				t.Fatal(err)
			}
		}
		slots(uint64(calls))
	}
	late := quick
	late.Calls = 3 // what the others were told stands in the consumer's metadata
	if err := join(t, js, late, permit.Options{}).Open(t.Context(), key); err != nil {
		t.Error(err)
	}
	c.check(t)
}

// TestHighRate splits a ring of 300 calls per second over consumers.
func TestHighRate(t *testing.T) {
	t.Parallel()
	l := permit.Limit{Calls: 60, Period: 200 * time.Millisecond, Deadline: 100 * time.Millisecond, Pull: 100 * time.Millisecond}
	srv := startServer(t, -1)
	js := connect(t, srv.ClientURL())
	c := newCloud(l)
	for range 2 {
		s := join(t, connect(t, srv.ClientURL()), l, permit.Options{})
		for range 10 {
			load(t, s, c)
		}
	}
	c.wait(t, 240)
	c.check(t)
	stream, err := js.Stream(t.Context(), "PERMITS")
	if err != nil {
		t.Fatal(err)
	}
	if st := stream.CachedInfo().State; st.Consumers != 6 || st.Msgs != 60 {
		t.Errorf("%d consumers, %d slots", st.Consumers, st.Msgs)
	}
}

// TestAnyText: accounts and actions may be any text.
func TestAnyText(t *testing.T) {
	t.Parallel()
	js := connect(t, startServer(t, -1).ClientURL())
	s := join(t, js, quick, permit.Options{SkipWait: true})
	for _, k := range []permit.Key{{}, {Account: "a.b *>", Action: "alidns:Add\tRecord/\\"}, {Account: "主账号", Action: strings.Repeat("long", 500)}} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if _, p, err := s.Wait(ctx, k); err != nil {
			t.Errorf("%q: %v", k, err)
		} else {
			p.Give(permit.Answered, 0)
		}
		cancel()
	}
}
