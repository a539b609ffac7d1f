package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/dcv/file"
	"github.com/certmill/certmill/pkg/lab/smalldisk"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// The scaled times: see the package comment.
const (
	signatureLife = 4 * time.Second
	entryLife     = time.Second
	clocks        = time.Second
	listLag       = time.Second
	deadline      = 500 * time.Millisecond
	ackWait       = 2 * time.Second
	waiting       = entryLife + signatureLife + clocks + listLag
)

// siteOptions say how a battery's site differs from the usual one: one server,
// two workers of each kind.
type siteOptions struct {
	cluster    bool
	submitters int  // 0: 2
	rounds     int  // in which that many orders are handed in; 0: one
	budget     bool // purchases are counted towards one, so that account state is written all the time
	disk       bool // what must not be lost lies on a small disk
}

// site is one installation: servers and workers as processes, the clouds in this
// one, and what was handed in and done.
type site struct {
	dir    string
	seed   uint64
	size   Size
	rounds int // in which its orders are handed in: the accounts have enough for that many
	tell   func(string)
	open   func(Setting) (Clouds, error)
	clouds Clouds
	web    net.Listener // of the web server of all names
	cfg    app.Config
	labels []string // of the accounts

	servers    []*process
	workers    []*process
	submitters []*process // of the workers

	nc *nats.Conn // the publisher's: it reconnects
	js jetstream.JetStream

	books *books
	// sets of names are paid once at most; true: once. nil: what was authorised counts.
	sets   map[string]bool
	stores []string        // key stores in which a pair may lie; nil: it is not judged
	rate   bool            // no call may be above the limit
	disk   *smalldisk.Disk // nil: as large as the others
	keep   bool            // the judge found something

	mu    sync.Mutex
	did   Report   // what was done so far
	wrong []string // what the battery itself has found
}

func newSite(ctx context.Context, b battery, size Size, clouds func(Setting) (Clouds, error), dir string, seed uint64, tell func(string)) (s *site, err error) {
	if _, err := os.Stat(dir); err == nil {
		return nil, fmt.Errorf("%s is there already, with an earlier run's streams: name another folder", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("site: %w", err)
	}
	s = &site{dir: dir, seed: seed, size: size, rounds: max(b.site.rounds, 1), tell: tell, open: clouds, books: newBooks(), did: Report{Battery: b.name}}
	begun := s
	defer func() {
		if err != nil {
			begun.close()
		}
	}()
	if b.site.disk {
		if err := s.openDisk(); err != nil {
			return nil, err
		}
	}
	if err := s.openClouds(); err != nil {
		return nil, err
	}
	if err := s.startServers(b.site.cluster); err != nil {
		return nil, err
	}
	if err := s.configure(b.site); err != nil {
		return nil, err
	}
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	if err := s.setUp(ctx); err != nil {
		return nil, err
	}
	if err := s.firstUse(ctx); err != nil {
		return nil, err
	}
	for _, role := range order.Roles {
		n := 2
		if role == order.Submitter && b.site.submitters > 0 {
			n = b.site.submitters
		}
		for i := range n {
			if err := s.addWorker(role, i); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// dice returns a source of chance of its own for each purpose, so that what one
// goroutine draws does not depend on when another does.
func (s *site) dice(purpose string) *rand.Rand {
	return rand.New(rand.NewPCG(s.seed, seedOf(s.seed, purpose, 0)))
}

// openClouds starts the clouds. They are in this process: their books are the
// oracle.
func (s *site) openClouds() (err error) {
	if s.web, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	go func() { _ = http.Serve(s.web, file.Handler(s.webRoot())) }() // until close
	if s.clouds, err = s.open(s.setting()); err != nil {
		return err
	}
	for _, a := range s.clouds.Accounts() {
		s.labels = append(s.labels, a.Label)
	}
	return nil
}

func (s *site) setting() Setting {
	return Setting{Seed: s.seed, Orders: s.rounds * s.size.Orders, Accounts: s.size.Accounts, Web: s.web.Addr().String(),
		SignatureLife: signatureLife, Clocks: clocks, ListLag: listLag, Deadline: deadline}
}

func (s *site) webRoot() string { return filepath.Join(s.dir, "files") }
func (s *site) webPort() int    { return s.web.Addr().(*net.TCPAddr).Port }

func (s *site) startServers(cluster bool) error {
	n := 1
	if cluster {
		n = 3
	}
	host := ownHost()
	ports, err := freePorts(host, 2*n)
	if err != nil {
		return err
	}
	var routes []string
	for _, p := range ports[n:] {
		if cluster {
			routes = append(routes, fmt.Sprintf("nats://%s:%d", host, p))
		}
	}
	for i := range n {
		name := fmt.Sprintf("n%d", i)
		p := &process{name: name, log: logFile(s.dir, name+"-process"), what: child{Name: name, Host: host, Port: ports[i], Route: ports[n+i], Routes: routes, Dir: s.store(name)}}
		if err := p.start(); err != nil {
			return err
		}
		s.servers = append(s.servers, p)
	}
	return nil
}

// sites counts those of this process.
var sites atomic.Uint32

// ownHost is a loopback address that no other site has. While a site's server is down,
// another one's could get its port else, and its workers would go there.
func ownHost() string {
	n := sites.Add(1)
	return fmt.Sprintf("127.77.%d.%d", n/200%256, n%200+1)
}

func freePorts(host string, n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func (s *site) url() string {
	var all []string
	for _, p := range s.servers {
		all = append(all, fmt.Sprintf("nats://%s:%d", p.what.Host, p.what.Port))
	}
	return strings.Join(all, ",")
}

// configure makes the workers' config.
func (s *site) configure(o siteOptions) error {
	c := app.Defaults()
	c.NATS.URL, c.Log, c.AckWait = s.url(), "info", ackWait
	if o.cluster {
		c.NATS.Replicas = 3
	}
	if o.budget {
		c.Batches = map[string]int{"chaos": 1_000_000}
	}
	c.State = filepath.Join(s.dir, "state")
	c.Keys = app.Keys{Store: s.store("keys"), Identity: filepath.Join(s.dir, "identity.age")}
	c.Deliver.Directory, c.DCV.Files = s.store("certs"), s.webRoot()
	c.DCV.FilePort = s.webPort()
	c.DCV.CleanUp, c.DCV.Copy = cleanUp, s.store("placed")
	c.DCV.Servers, c.DCV.Resolvers = []string{s.clouds.DNS()}, []string{s.clouds.DNS()}
	c.DCV.Allow = []string{"127.0.0.0/8"}
	if _, err := certstore.OpenIdentity(c.Keys.Identity); err != nil {
		return err
	}
	c.Accounts = map[string]app.Account{}
	for _, a := range s.clouds.Accounts() {
		account := a.Config
		var err error
		if account.KeyID, account.Secret, err = s.keyFiles(a.Label, a.Key, a.Secret); err != nil {
			return err
		}
		account.Contact = order.Contact{Name: "Ops", Email: "pki@example.com", Phone: "13800000000", Province: "zhejiang", City: "hangzhou"}
		account.Deadline, account.SpendDeadline, account.SignatureLife = deadline, deadline, signatureLife
		account.EntryLife, account.Clocks, account.ListLag = entryLife, clocks, listLag
		c.Accounts[a.Label] = account
	}
	var err error
	s.cfg, err = s.writeConfig("certmill", c)
	return err
}

// keyFiles writes the files with a label's access key.
func (s *site) keyFiles(label, key, secret string) (k, v app.Ref, err error) {
	of, with := filepath.Join(s.dir, label+".key"), filepath.Join(s.dir, label+".secret")
	err = errors.Join(os.WriteFile(of, []byte(key), 0o600), os.WriteFile(with, []byte(secret), 0o600))
	return app.Ref("file:" + of), app.Ref("file:" + with), err
}

// writeConfig writes a config file and reads it back, as the workers will.
func (s *site) writeConfig(name string, c app.Config) (app.Config, error) {
	data, err := yaml.Marshal(c)
	if err != nil {
		return c, fmt.Errorf("write config: %w", err)
	}
	path := s.configPath(name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return c, fmt.Errorf("write config: %w", err)
	}
	return app.Load(path)
}

func (s *site) configPath(name string) string { return filepath.Join(s.dir, name+".yaml") }

func (s *site) connect(ctx context.Context) (err error) {
	s.nc, err = nats.Connect(s.url(), nats.Name("chaos"), nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond),
		nats.RetryOnFailedConnect(true), nats.PingInterval(time.Second), nats.Timeout(2*time.Second))
	if err != nil {
		return err
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		return err
	}
	return s.untilUp(ctx)
}

// untilUp waits for a JetStream that answers.
func (s *site) untilUp(ctx context.Context) error {
	return s.await(ctx, time.Minute, "JetStream answers", func(ctx context.Context) error {
		_, err := s.js.AccountInfo(ctx)
		return err
	})
}

// await asks until f has no error.
func (s *site) await(ctx context.Context, limit time.Duration, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, 5*time.Second)
		err := f(try)
		done()
		if err == nil {
			return nil
		}
		if stream.Sleep(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("waited %v until %s: %w", limit, what, err)
		}
	}
}

// setUp makes the streams, as an operator does once before the workers start.
func (s *site) setUp(ctx context.Context) error {
	return s.await(ctx, time.Minute, "the streams are made", func(ctx context.Context) error {
		_, err := app.Init(ctx, s.cfg, slog.New(slog.DiscardHandler))
		return err
	})
}

// firstUse says for every account that nothing was bought there: it was not.
func (s *site) firstUse(ctx context.Context) error {
	return s.await(ctx, time.Minute, "the accounts are set up", func(ctx context.Context) error {
		console, err := app.OpenConsole(ctx, s.cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer console.Close()
		for _, label := range s.labels {
			if err := console.FirstUse(ctx, label); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *site) addWorker(role order.Role, n int) error {
	name := fmt.Sprintf("%s-%d", role, n)
	p := &process{name: name, log: logFile(s.dir, name), what: child{Role: role, Config: s.configPath("certmill")}}
	s.workers = append(s.workers, p)
	if role == order.Submitter {
		s.submitters = append(s.submitters, p)
	}
	return p.start()
}

// configureAll gives all workers another config, which they read when they start
// next.
func (s *site) configureAll(edit func(*app.Config)) (err error) {
	c := s.cfg
	c.Accounts = maps.Clone(s.cfg.Accounts)
	edit(&c)
	s.cfg, err = s.writeConfig("certmill", c)
	return err
}

// reconfigure gives one worker a config of its own.
func (s *site) reconfigure(p *process, edit func(*app.Config)) error {
	c := s.cfg
	c.Accounts = maps.Clone(s.cfg.Accounts)
	edit(&c)
	if _, err := s.writeConfig(p.name, c); err != nil {
		return err
	}
	p.what.Config = s.configPath(p.name)
	return nil
}

// killWorker is kill -9, and another one at once.
func (s *site) killWorker(p *process) error {
	p.kill()
	s.count(func(r *Report) { r.Kills++ })
	return p.start()
}

// stopWorkers stops all of them: with a signal, or hard.
func (s *site) stopWorkers(hard bool) {
	var all sync.WaitGroup
	for _, p := range s.workers {
		all.Go(func() {
			if hard {
				p.kill()
				s.count(func(r *Report) { r.Kills++ })
			} else {
				p.end(syscall.SIGTERM, 40*time.Second)
			}
		})
	}
	all.Wait()
}

func (s *site) startWorkers() error {
	for _, p := range s.workers {
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) count(f func(*Report)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.did)
}

// complain notes something that must not be.
func (s *site) complain(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// tally is what was done.
func (s *site) tally() Report {
	s.endFaults()
	over := s.clouds.Books().OverLimit
	s.count(func(r *Report) { r.OverLimit += over })
	for _, p := range s.workers {
		s.count(func(r *Report) { r.Exits += p.ends() })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.did
	r.Orders = s.books.acknowledged()
	return r
}

// line reads orders as the workers store them.
func (s *site) line(ctx context.Context) (*pipeline.Line, error) {
	return pipeline.Open(ctx, s.js, "chaos", slog.New(slog.NewTextHandler(io.Discard, nil)))
}

func (s *site) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	var all sync.WaitGroup
	for _, p := range slices.Concat(s.workers, s.servers) {
		all.Go(p.kill)
	}
	all.Wait()
	if s.clouds != nil {
		_ = s.clouds.Close()
	}
	if s.web != nil {
		_ = s.web.Close()
	}
	if s.disk != nil {
		if s.keep { // it is gone with its content
			_ = os.CopyFS(filepath.Join(s.dir, "disk-kept"), os.DirFS(s.disk.Dir))
		}
		_ = s.disk.Close()
	}
}

// between draws a time.
func between(r *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.Int64N(int64(hi-lo)+1))
}
