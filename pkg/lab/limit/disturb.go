package limit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/stream"
)

// disturbance is what happens to a ring under full load.
type disturbance struct {
	name string
	run  func(context.Context, *scene, int) error
}

var disturbances = []disturbance{
	{"kill half", killHalf},
	{"restarts", restarts},
	{"step-downs", func(ctx context.Context, s *scene, events int) error {
		return stepDowns(ctx, s, 10*events, permit.Options{})
	}},
	{"leaders killed", func(ctx context.Context, s *scene, events int) error { return leadersKilled(ctx, s, (events+3)/4) }},
	{"stress", func(ctx context.Context, s *scene, events int) error { return stress(ctx, s, 10*events, false) }},
	{"stress, rule off", func(ctx context.Context, s *scene, events int) error { return stress(ctx, s, 10*events, true) }},
	{"foreign program", foreign},
}

// Disturbances are what the ring can be put through:
//
//   - kill half: of eight replicas, processes of their own, four get kill -9;
//   - restarts: the single server is shut down and started again, with an empty
//     memory, Events times;
//   - step-downs: in a cluster of three, stream and consumer get another leader
//     every 1.2 s, 10 times Events;
//   - leaders killed: in a cluster of three processes the consumer leader's
//     server gets kill -9, Events/4 times, and is started again;
//   - stress: step-downs, while 20 % of calls are up to 2.8 s late, 2 % of
//     holders crash in their call, AckWait is 1 s, and no sign of life of a
//     holder reaches the servers, so that most permits are handed out twice;
//   - stress, rule off: the same with permits used on any delivery, which must
//     show violations;
//   - foreign program: another program makes three calls a second, for Events/2
//     minutes.
func Disturbances() []string {
	var names []string
	for _, d := range disturbances {
		names = append(names, d.name)
	}
	return names
}

// replicasUnderStress in rows with a disturbance.
const replicasUnderStress = 8

// The ring's times by default, as far as the rows need them.
const (
	ackWait = 4 * time.Second
	quiet   = 6 * time.Second // Q
)

// scene is one ring, its replicas and its counter.
type scene struct {
	dir      string
	provider *provider
	count    *counter
	url      string
	key      string
	row      Row
	caller   *caller
	since    time.Time // figures count from here
	driven   *driven
	sent     uint64
	before   int // calls
}

func disturb(ctx context.Context, opt Options, dir, name string) (Row, error) {
	for _, d := range disturbances {
		if d.name != name {
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		p, err := newProvider()
		if err != nil {
			return Row{}, err
		}
		defer p.close()
		j, _ := jitterOf("uniform")
		if strings.HasPrefix(name, "stress") {
			j.way = late
		}
		s := &scene{dir: filepath.Join(dir, strings.Map(letters, name)), provider: p, key: fresh("cell"),
			row: Row{Limiter: "ring", Replicas: replicasUnderStress, Jitter: "uniform", Disturbance: name, MessagesPerPermit: -1}}
		s.count, s.url = p.counter(j)
		s.caller = newCaller(s.url)
		err = d.run(ctx, s, opt.Events)
		if s.driven != nil {
			defer s.driven.stop()
		}
		s.figures()
		return s.row, err
	}
	return Row{}, known("disturbance", []string{name}, Disturbances())
}

func letters(r rune) rune {
	if r >= 'a' && r <= 'z' {
		return r
	}
	return '-'
}

// late is 10 % of up to 2.8 s there, and as much back: a fifth of all calls.
func late() time.Duration {
	if rand.N(10) == 0 {
		return between(50*time.Millisecond, 2800*time.Millisecond)
	}
	return uniform()
}

// join connects the replicas, drives them and waits until the ring is at full
// speed.
func (s *scene) join(ctx context.Context, make func() (replica, error)) error {
	var all []replica
	for range replicasUnderStress {
		r, err := make()
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	s.driven = drive(ctx, all, s.caller.send)
	return s.settle(ctx)
}

// settle waits for the first calls and begins to measure.
func (s *scene) settle(ctx context.Context) error {
	for end := time.Now().Add(time.Minute); ; {
		var r Row
		if s.count.read(&r, time.Time{}); r.Calls >= 2*allowed {
			s.since, s.before = time.Now(), r.Calls
			break
		}
		if time.Now().After(end) {
			return errors.New("the ring does not start")
		}
		if err := stream.Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	if s.driven != nil {
		s.sent = s.driven.messages()
	}
	return nil
}

func (s *scene) figures() {
	accepted := s.count.read(&s.row, s.since)
	messages := -1.0
	if s.driven != nil && s.sent > 0 {
		messages = float64(s.driven.messages() - s.sent)
	}
	s.row.figures(accepted, s.caller.meanRTT(), messages, s.row.Calls-s.before)
	if span := time.Since(s.since).Seconds(); span > 0 && !s.since.IsZero() { // gaps count
		s.row.Utilisation = float64(len(accepted)) / span / allowed
		s.row.OfBound = s.row.Utilisation * (1 + s.row.MeanRTT)
	}
}

// per3s counts accepted calls in each 3 s since a time.
func (s *scene) per3s(since time.Time) []int {
	var r Row
	bins := make([]int, int(time.Since(since)/(3*time.Second)))
	for _, t := range s.count.read(&r, since) {
		if i := int(t.Sub(since) / (3 * time.Second)); i < len(bins) {
			bins[i]++
		}
	}
	return bins
}

func (s *scene) ring(url string, opt permit.Options, natsOpts ...nats.Option) func() (replica, error) {
	return func() (replica, error) { return newRing(url, s.key, opt, natsOpts...) }
}

func killHalf(ctx context.Context, s *scene, _ int) error {
	ns, err := startNATS(&server.Options{StoreDir: s.dir, Port: -1})
	if err != nil {
		return err
	}
	defer ns.Shutdown()
	var all []*exec.Cmd
	defer func() {
		for _, c := range all {
			kill(c)
		}
	}()
	for range replicasUnderStress {
		c, err := child{NATS: ns.ClientURL(), Provider: s.url, Key: s.key, Replicas: replicasUnderStress}.start(ctx)
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	if err := stream.Sleep(ctx, 3*time.Second); err != nil {
		return err
	}
	struck := time.Now()
	for range replicasUnderStress / 2 {
		kill(all[0])
		all = all[1:]
	}
	err = stream.Sleep(ctx, ackWait+quiet+9*time.Second)
	s.row.Per3s = s.per3s(struck)
	return err
}

func restarts(ctx context.Context, s *scene, events int) error {
	ns, err := startNATS(&server.Options{StoreDir: s.dir, Port: -1})
	if err != nil {
		return err
	}
	defer func() { ns.Shutdown() }()
	port := ns.Addr().(*net.TCPAddr).Port
	if err := s.join(ctx, s.ring(ns.ClientURL(), permit.Options{})); err != nil {
		return err
	}
	for range events {
		if err := stream.Sleep(ctx, 9*time.Second); err != nil {
			return err
		}
		ns.Shutdown()
		ns.WaitForShutdown()
		if ns, err = startNATS(&server.Options{StoreDir: s.dir, Port: port}); err != nil {
			return err
		}
	}
	s.row.Note = fmt.Sprintf("%d restarts, each costs Q", events)
	return stream.Sleep(ctx, quiet+3*time.Second)
}

// cluster is three servers in processes of their own.
type cluster struct {
	nodes []child
	cmds  []*exec.Cmd
	url   string
	js    jetstream.JetStream
	nc    connected
}

func startCluster(ctx context.Context, dir string, deaf bool) (*cluster, error) {
	c := &cluster{}
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	var urls, routes []string
	for i := range 3 {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[3+i]))
	}
	c.url = strings.Join(urls, ",")
	for i := range 3 {
		n := child{Name: fmt.Sprintf("n%d", i), Port: ports[i], Route: ports[3+i], Routes: routes, Dir: filepath.Join(dir, fmt.Sprint(i)), Deaf: deaf}
		cmd, err := n.start(ctx)
		if err != nil {
			c.close()
			return nil, err
		}
		c.nodes, c.cmds = append(c.nodes, n), append(c.cmds, cmd)
	}
	if c.nc, c.js, err = dial(c.url, nats.RetryOnFailedConnect(true)); err != nil {
		c.close()
		return nil, err
	}
	for end := time.Now().Add(30 * time.Second); ; { // until there is a leader
		if _, err = c.js.AccountInfo(ctx); err == nil {
			return c, nil
		}
		if time.Now().After(end) || stream.Sleep(ctx, 200*time.Millisecond) != nil {
			c.close()
			return nil, fmt.Errorf("the cluster does not start: %w", err)
		}
	}
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func (c *cluster) close() {
	if c.nc.nc != nil {
		c.nc.close()
	}
	for _, cmd := range c.cmds {
		kill(cmd)
	}
}

func (s *scene) consumer() string { return "bench_" + s.key }

func stepDowns(ctx context.Context, s *scene, events int, opt permit.Options) error {
	c, err := startCluster(ctx, s.dir, false)
	if err != nil {
		return err
	}
	defer c.close()
	opt.Replicas = 3
	if err := s.join(ctx, s.ring(c.url, opt)); err != nil {
		return err
	}
	done := c.stepDown(ctx, s, events)
	s.row.Note = fmt.Sprintf("%d of %d step-downs done", done, events)
	s.figures() // before the cluster goes
	s.driven.cancel()
	return ctx.Err()
}

// stepDown gives consumer and stream another leader, in turn, every 1.2 s.
func (c *cluster) stepDown(ctx context.Context, s *scene, events int) (done int) {
	for i := range events {
		subject := "$JS.API.CONSUMER.LEADER.STEPDOWN.PERMITS." + s.consumer()
		if i%2 == 1 {
			subject = "$JS.API.STREAM.LEADER.STEPDOWN.PERMITS"
		}
		if m, err := c.nc.nc.Request(subject, nil, time.Second); err == nil && strings.Contains(string(m.Data), `"success":true`) {
			done++
		}
		if stream.Sleep(ctx, 1200*time.Millisecond) != nil {
			break
		}
	}
	return done
}

func leadersKilled(ctx context.Context, s *scene, events int) error {
	c, err := startCluster(ctx, s.dir, false)
	if err != nil {
		return err
	}
	defer c.close()
	if err := s.join(ctx, s.ring(c.url, permit.Options{Replicas: 3})); err != nil {
		return err
	}
	struck := time.Now()
	for range events {
		if err := c.killLeader(ctx, s); err != nil {
			return err
		}
	}
	s.row.Per3s, s.row.Note = s.per3s(struck), fmt.Sprintf("%d servers killed, one every 20 s", events)
	s.figures()
	s.driven.cancel()
	return nil
}

// killLeader kills the server that leads the consumer and starts it again 5 s
// later.
func (c *cluster) killLeader(ctx context.Context, s *scene) error {
	cons, err := c.js.Consumer(ctx, "PERMITS", s.consumer())
	if err != nil {
		return fmt.Errorf("find the leader: %w", err)
	}
	for i, n := range c.nodes {
		if info := cons.CachedInfo(); info.Cluster == nil || info.Cluster.Leader != n.Name {
			continue
		}
		kill(c.cmds[i])
		if err := stream.Sleep(ctx, 5*time.Second); err != nil {
			return err
		}
		if c.cmds[i], err = n.start(ctx); err != nil {
			return err
		}
	}
	return stream.Sleep(ctx, 15*time.Second)
}

func stress(ctx context.Context, s *scene, events int, ruleOff bool) error {
	c, err := startCluster(ctx, s.dir, true)
	if err != nil {
		return err
	}
	defer c.close()
	s.row.Jitter = "20 % up to 2.8 s"
	opt := permit.Options{Replicas: 3, AckWait: time.Second, BreakFirstDelivery: ruleOff}
	err = s.join(ctx, func() (replica, error) {
		x := &crashing{make: s.ring(c.url, opt)}
		return x, x.restart()
	})
	if err != nil {
		return err
	}
	done := c.stepDown(ctx, s, events)
	s.row.Note = fmt.Sprintf("%d of %d step-downs done", done, events)
	s.sent = 0 // the dead have taken their counts with them
	s.figures()
	s.driven.cancel()
	return ctx.Err()
}

// crashing is a replica that dies in 2 % of its calls, which are on their way
// by then, and is started again.
type crashing struct {
	make func() (replica, error)

	mu  sync.Mutex
	now replica
}

func (c *crashing) restart() error {
	r, err := c.make()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = r
	return nil
}

func (c *crashing) current() replica {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *crashing) call(ctx context.Context, send func(context.Context) reply) error {
	r := c.current()
	err := r.call(ctx, func(ctx context.Context) reply {
		if rand.N(50) > 0 {
			return send(ctx)
		}
		deadline, _ := ctx.Deadline()
		orphan, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
		go func() {
			defer cancel()
			send(orphan)
		}()
		r.close()
		return reply{err: errors.Join(errors.New("crashed"), c.restart())}
	})
	if err != nil {
		_ = stream.Sleep(ctx, 50*time.Millisecond)
	}
	return err
}

func (c *crashing) messages() uint64 { return c.current().messages() }
func (c *crashing) close()           { c.current().close() }

// foreign has a program that knows nothing of the ring call beside it.
func foreign(ctx context.Context, s *scene, events int) error {
	ns, err := startNATS(&server.Options{StoreDir: s.dir, Port: -1})
	if err != nil {
		return err
	}
	defer ns.Shutdown()
	if err := s.join(ctx, s.ring(ns.ClientURL(), permit.Options{SkipWait: true})); err != nil {
		return err
	}
	const perSecond = 3.0
	other := newCaller(s.url)
	span := time.Duration(events) * 30 * time.Second
	var mu sync.Mutex
	var wg sync.WaitGroup
	theirs, began := 0, time.Now()
	for time.Since(began) < span && ctx.Err() == nil {
		_ = stream.Sleep(ctx, time.Duration(rand.ExpFloat64()/perSecond*float64(time.Second)))
		wg.Go(func() {
			if r := other.send(ctx); r.err == nil && !r.throttled {
				mu.Lock()
				theirs++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	var r Row
	took := time.Since(began).Seconds()
	ours := len(s.count.read(&r, began)) - theirs
	s.figures()
	share := float64(ours) / took / (allowed - perSecond)
	s.row.Note = fmt.Sprintf("%.0f %% of the fair share over %.0f s, %.2f throttles/s for both; the figures are of both programs", 100*share, took, float64(r.Throttled)/took)
	return ctx.Err()
}
