// Package sky is the cloud that package cirrus orders from: an HTTP server with
// its own books, limits, validation and CA, and faults that a test may set. It is
// written from the invented documents in package cirrus and imports nothing of
// ours.
package sky

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Config says what the cloud is like. Delays are drawn between 0 and what is
// written.
type Config struct {
	Seed     uint64
	Accounts []Account
	Web      string // host:port at which the files of all names are served

	SignatureLife time.Duration // a minute
	ClockSkew     time.Duration // how far a stamp may be ahead; as long as it may be old
	Limit         int           // calls a second of one account and action: 7
	Latency       time.Duration // of each call
	ProofDelay    time.Duration // until an order asks for its proofs
	IssueDelay    time.Duration // from the last proof on
	ListLag       time.Duration // until the list shows a new order
	ProofTime     time.Duration // after this an order without its proofs is refused: 10 minutes
}

// Account is one access key.
type Account struct {
	Key, Secret  string
	Main         string         // whose orders, plans and limits these are
	Caller, Kind string         // whom the key belongs to; empty: the account itself
	Plans        map[string]int // bought, by product
}

// Sky is a running cloud.
type Sky struct {
	cfg  Config
	keys map[string]Account
	ca   *authority

	web  *http.Server
	url  string
	dns  []*dns.Server
	at   string
	stop context.CancelFunc
	done sync.WaitGroup

	mu     sync.Mutex // owns what follows
	dice   *rand.Rand
	orders []*placed // the oldest first
	byID   map[string]*placed
	used   map[plan]int
	meters map[meterKey]*meter
	faults []*Fault
}

// plan is one product of one account.
type plan struct{ main, product string }

// Start starts the cloud and its DNS, which has an address for every name.
func Start(cfg Config) (*Sky, error) {
	cfg.SignatureLife, cfg.Limit = cmp.Or(cfg.SignatureLife, time.Minute), cmp.Or(cfg.Limit, 7)
	cfg.ClockSkew, cfg.ProofTime = cmp.Or(cfg.ClockSkew, cfg.SignatureLife), cmp.Or(cfg.ProofTime, 10*time.Minute)
	ca, err := newAuthority()
	if err != nil {
		return nil, fmt.Errorf("start the cloud: %w", err)
	}
	s := &Sky{cfg: cfg, keys: map[string]Account{}, ca: ca, dice: rand.New(rand.NewPCG(cfg.Seed, 7)),
		byID: map[string]*placed{},
		used: map[plan]int{}, meters: map[meterKey]*meter{}}
	for _, a := range cfg.Accounts {
		s.keys[a.Key] = a
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	if err := errors.Join(s.listenWeb(), s.listenDNS()); err != nil {
		s.Close()
		return nil, fmt.Errorf("start the cloud: %w", err)
	}
	s.done.Go(func() { s.prove(ctx) })
	return s, nil
}

func (s *Sky) listenWeb() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.url, s.web = "http://"+l.Addr().String(), &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	s.done.Go(func() { _ = s.web.Serve(l) }) // ends with Close
	return nil
}

// listenDNS answers every question for an address with that of this machine.
func (s *Sky) listenDNS() error {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.at = tcp.Addr().String()
	udp, err := net.ListenPacket("udp", s.at)
	if err != nil {
		_ = tcp.Close()
		return err
	}
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA,
				Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(m)
	})
	for _, server := range []*dns.Server{{Listener: tcp, Handler: answer}, {PacketConn: udp, Handler: answer}} {
		up := make(chan struct{})
		server.NotifyStartedFunc = func() { close(up) }
		s.dns = append(s.dns, server)
		s.done.Go(func() { _ = server.ActivateAndServe() }) // ends with Close
		<-up
	}
	return nil
}

// URL is where it is called.
func (s *Sky) URL() string { return s.url }

// DNS is the host:port of its DNS.
func (s *Sky) DNS() string { return s.at }

// Close stops it.
func (s *Sky) Close() {
	s.stop()
	if s.web != nil {
		_ = s.web.Close()
	}
	for _, server := range s.dns {
		_ = server.Shutdown()
	}
	s.done.Wait()
}

// draw draws a delay. Callers do not hold mu.
func (s *Sky) draw(most time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drawn(most)
}

// drawn is draw for who holds mu.
func (s *Sky) drawn(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return time.Duration(s.dice.Int64N(int64(most)))
}
