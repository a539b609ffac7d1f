package cloudsim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Sim is a running simulator.
type Sim struct {
	settings atomic.Pointer[Config] // replaced as a whole by the control port
	setting  sync.Mutex             // held while it is replaced
	books    *books
	ca       *ca
	dice     *dice
	meter    *meter
	faults   faultList
	agenda   *agenda
	log      *slog.Logger

	listeners map[string]net.Listener // aliyun, tencent, control
	web       []*http.Server
	dns       []*dns.Server
	dnsAddr   string

	stop context.CancelFunc
	done sync.WaitGroup
}

// Start starts all listeners. The simulator runs until ctx ends or Close.
func Start(ctx context.Context, cfg Config) (*Sim, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("cloudsim config: %w", err)
	}
	s, err := newSim(cfg)
	if err != nil {
		return nil, fmt.Errorf("start cloudsim: %w", err)
	}
	if err := s.listen(); err != nil {
		return nil, errors.Join(fmt.Errorf("start cloudsim: %w", err), s.Close())
	}
	ctx, s.stop = context.WithCancel(ctx)
	s.work(ctx)
	s.log.Warn("CLOUDSIM IS NO CLOUD AND NO CA: simulated Alibaba Cloud and Tencent Cloud, certificates that nobody trusts",
		"aliyun", s.AliyunURL(), "tencent", s.TencentURL(), "dns", s.DNSAddr(), "control", s.ControlURL(),
		"dir", cfg.Dir, "seed", s.cfg().Seed)
	return s, nil
}

// newSim brings the state to life, without any listener yet.
func newSim(cfg Config) (*Sim, error) {
	setIfZero(&cfg.Seed, rand.Uint64())
	setIfZero(&cfg.Logger, slog.Default())
	if cfg.Dir != "" {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("state folder: %w", err)
		}
	}
	authority, err := openCA(cfg.disk, cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Sim{
		books: newBooks(), ca: authority, meter: newMeter(), agenda: newAgenda(),
		log: cfg.Logger, listeners: map[string]net.Listener{}, stop: func() {},
	}
	s.settings.Store(&cfg)
	return s, s.openBooks(cfg)
}

func (s *Sim) openBooks(cfg Config) error {
	for _, a := range cfg.Accounts {
		s.books.admit(a)
	}
	torn, err := s.books.load(cfg.disk, cfg.Dir)
	if err != nil {
		return err
	}
	if torn > 0 {
		s.log.Warn("cloudsim: torn lines of the books were left out; their calls were never answered", "dir", cfg.Dir, "lines", torn)
	}
	// A second run on the same folder must not draw the first one's ids again.
	s.dice = newDice(cfg.Seed + uint64(len(s.books.orders)+len(s.books.records)))
	for _, a := range s.books.accounts {
		if err := s.books.stock(a, s.dice); err != nil {
			return err
		}
	}
	return s.resume(time.Now())
}

// resume takes up the orders that wait. Their deadline starts anew, because the
// time in which the simulator was down is not theirs.
func (s *Sim) resume(now time.Time) error {
	for _, t := range s.books.batches {
		if !t.done() {
			s.agenda.put(t.key(), t.DueAt)
		}
	}
	for key, o := range s.books.orders {
		if o.State == statePending {
			_, err := s.books.change(key, func(o *order) error {
				o.Deadline = now.Add(time.Duration(s.cfg().ValidationDeadline))
				return nil
			})
			if err != nil {
				return err
			}
		}
		if o.waiting() {
			s.agenda.put(key, now)
		}
	}
	return nil
}

func (s *Sim) cfg() *Config { return s.settings.Load() }

func (s *Sim) listen() error {
	cfg := s.cfg()
	for _, l := range []struct {
		name, addr string
		handler    http.Handler
	}{
		{cloudAliyun, cfg.AliyunAddr, http.HandlerFunc(s.serveAliyun)},
		{cloudTencent, cfg.TencentAddr, http.HandlerFunc(s.serveTencent)},
		{"control", cfg.ControlAddr, s.controlMux()},
	} {
		if err := s.serve(l.name, l.addr, l.handler); err != nil {
			return err
		}
	}
	return s.listenDNS(cfg.DNSAddr)
}

func (s *Sim) serve(name, addr string, handler http.Handler) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", name, err)
	}
	s.listeners[name] = l
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    1 << 20, // a CSR travels in the request line
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.web = append(s.web, server)
	s.done.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("cloudsim listener ended", "listener", name, "error", err)
		}
	})
	return nil
}

// work starts what happens without a call: validating and issuing.
func (s *Sim) work(ctx context.Context) {
	s.done.Go(func() { s.runAgenda(ctx) })
	s.done.Go(func() {
		<-ctx.Done()
		s.closeListeners()
	})
}

func (s *Sim) closeListeners() {
	for _, server := range s.web {
		_ = server.Close()
	}
	for _, server := range s.dns {
		_ = server.Shutdown()
	}
}

// Close stops everything and waits for it.
func (s *Sim) Close() error {
	s.stop()
	s.closeListeners()
	s.done.Wait()
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	err := s.books.journal.close()
	s.books.journal = &journal{} // a second Close has nothing to do
	if err != nil {
		return fmt.Errorf("close cloudsim: %w", err)
	}
	return nil
}

// AliyunURL is the base URL of CAS and alidns.
func (s *Sim) AliyunURL() string { return s.url(cloudAliyun) }

// TencentURL is the base URL of Tencent SSL and DNSPod.
func (s *Sim) TencentURL() string { return s.url(cloudTencent) }

// URLOf is where the cloud of an account answers: all of its services.
func (s *Sim) URLOf(a Account) string { return s.url(a.Cloud) }

// ControlURL is the base URL of the control port.
func (s *Sim) ControlURL() string { return s.url("control") }

func (s *Sim) url(name string) string { return "http://" + s.listeners[name].Addr().String() }

// DNSAddr is the host:port of the DNS, UDP and TCP.
func (s *Sim) DNSAddr() string { return s.dnsAddr }

// RootPEM is the certificate of the simulator's root.
func (s *Sim) RootPEM() []byte { return encodeCert(s.ca.root.Raw) }

// Accounts are the access keys that may call, with their secrets.
func (s *Sim) Accounts() []Account {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	return append([]Account(nil), s.books.accounts...)
}

// pause waits as long as the network would.
func (s *Sim) pause() { time.Sleep(s.dice.in(s.cfg().Latency) / 2) }
