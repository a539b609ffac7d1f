package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
	"github.com/certmill/certmill/pkg/stream"
)

// Process is one certmill process: what outlasts a lost connection.
type Process struct {
	cfg       Config
	name      string // stands in timelines and connection lists
	roles     []order.Role
	simulated bool // the clouds are simulated by this very process
	log       *slog.Logger

	keys       *certstore.KeyStore
	recipients certstore.Recipients
	identities *certstore.Identities // nil: this process cannot open keys
	looker     stage.Looker

	removedEvery, neighboursEvery, askEvery time.Duration // as the constants, but for tests

	mu     sync.Mutex
	ground ground                 // what this process began with; guarded by mu until then
	whose  map[string]stage.Whose // what was asked before anything was opened, by key; guarded by mu

	places   []*volume   // that it writes to
	refilled atomic.Bool // the key store was compared with the records

	ready   health
	writes  writes
	working atomic.Pointer[permit.Set] // of the session that works now
	serving atomic.Pointer[session]    // that session
}

// session is one connection of a worker to NATS and what stands on it.
type session struct {
	*Process
	books
	settled   Config           // the process's, with the main accounts that were found out
	unsettled map[string]error // why that of a label was not
	answers   answers
	fails     onceEach    // sweeps
	end       func(error) // drops the connection, for this reason
	permits   *permit.Set
	sinks     []stage.Sink
	accounts  stage.Accounts
	solvers   map[string]dcv.Solver
	files     files

	looked atomic.Int64 // when the storage was looked at, Unix seconds
	full   atomic.Bool  // it was nearly used up then
}

// NewProcess opens what needs no connection: keys, clients, permits. Whoever
// buys or delivers needs the key store or the identity; roles tell which.
func NewProcess(c Config, name string, simulated bool, log *slog.Logger, roles ...order.Role) (*Process, error) {
	p := &Process{cfg: c, name: name, roles: roles, simulated: simulated, log: log, whose: map[string]stage.Whose{},
		removedEvery: removedEvery, neighboursEvery: neighboursEvery, askEvery: askEvery}
	p.ready.troubles.log = log
	// Once without permits, so that bad credentials are told before anything
	// connects.
	_, err := openClouds(c, permit.NewSet(c.limits(nil)), simulated, nil)
	if err != nil {
		return nil, err
	}
	if p.looker, err = newLooker(c.DCV); err != nil {
		return nil, err
	}
	for _, r := range roles {
		if err := p.openKeys(r); err != nil {
			return nil, err
		}
		if r != order.Submitter { // they place FILE challenges and take them back
			if err := c.DCV.prepareFiles(); err != nil {
				return nil, err
			}
		}
	}
	p.openPlaces()
	return p, nil
}

// Run serves the roles until ctx ends, over as many connections as it takes. It
// returns an error only for what another connection cannot mend: streams that
// are missing, or are not as they must be, or are others than it began with.
func (p *Process) Run(ctx context.Context, roles ...order.Role) error {
	missing := 0
	for ctx.Err() == nil {
		err := p.serve(ctx, roles)
		if !errors.Is(err, stream.ErrMissing) {
			missing = 0
		} else if missing++; missing == mostMissing {
			return err
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case decided(err), errors.Is(err, errOtherStreams), errors.Is(err, permit.ErrSettings), errors.Is(err, errServe),
			errors.Is(err, errOlderCopy):
			return err
		case errors.Is(err, errAnew):
			continue
		}
		p.log.WarnContext(ctx, "connection to NATS ended; connecting again", "err", err)
		_ = stream.Sleep(ctx, 2*time.Second)
	}
	return nil
}

// mostMissing is how often in a row, on connections of their own, a stream must
// be missing before it is. Servers that were coming up, in a cluster or alone,
// never said so of one that is there, in some 25,000 questions; but ending is
// final, and asking again takes seconds, in which nothing is done.
const mostMissing = 3

// serve runs one session.
func (p *Process) serve(ctx context.Context, roles []order.Role) error {
	s, ctx, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.thisLife(ctx); err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	p.writes.clear() // another server answers, or the same one anew
	p.ready.troubles.overAll(ctx, refusesPrefix)
	p.working.Store(s.permits)
	p.serving.Store(s)
	p.ready.set(true)
	defer p.ready.set(false)
	p.log.InfoContext(ctx, "working", "roles", roles, "accounts", s.accounts.Labels())
	g, work := errgroup.WithContext(ctx)
	g.Go(func() error { return s.identify(work) })
	g.Go(func() error { return s.watchGround(work) })
	g.Go(func() error { return s.line.Tend(work) })
	g.Go(func() error { return s.permits.Tend(work) })
	g.Go(func() error { return s.refill(work) })
	for _, at := range p.places {
		g.Go(func() error { return s.watchPlace(work, at) })
	}
	for _, r := range roles {
		g.Go(func() error { return s.work(work, r) })
	}
	err = g.Wait()
	// What ended the session is why, not what a handler met when it ended.
	return cmp.Or(context.Cause(ctx), err)
}

// connect opens a session. The context it returns ends when the connection
// drops, with pipeline.ErrLost as its cause, or the reason for which it was
// dropped.
func (p *Process) connect(ctx context.Context) (*session, context.Context, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	lost := func(err error) { cancel(fmt.Errorf("%w: %v", pipeline.ErrLost, err)) }
	nc, err := dial(p.cfg.NATS, p.name, tell(p.log), p.log, once(lost)...)
	if err != nil {
		cancel(err)
		return nil, nil, err
	}
	s := &session{Process: p, books: books{nc: nc}}
	s.end = func(why error) {
		cancel(why)
		nc.Close()
	}
	if err := s.open(ctx); err != nil {
		cancel(err)
		s.close()
		return nil, nil, err
	}
	return s, ctx, nil
}

// open makes sure on what it stands, and only then builds what publishes.
func (s *session) open(ctx context.Context) (err error) {
	js, err := jetstream.New(s.nc)
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	s.js = watched{js, &s.writes}
	start, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	replicas := s.cfg.NATS.Replicas
	now, named, err := stand(start, s.js, replicas)
	if err == nil && s.keys != nil {
		err = named.belongTo(s.keys)
	}
	if err != nil {
		return err
	}
	if err := s.belongs(now); err != nil {
		return err
	}
	if err := s.books.open(start, s.name, s.log, replicas, pipeline.AckWait(s.cfg.AckWait)); err != nil {
		return err
	}
	// The states are followed for as long as the session lives.
	if s.states, err = account.Open(ctx, s.js, replicas, s.log); err != nil {
		return err
	}
	if s.settled, s.unsettled, err = s.settle(start, s.states); err != nil {
		return err
	}
	folder := plainSink{certstore.Dir{Path: absolute(s.cfg.Deliver.Directory)}}
	s.sinks = []stage.Sink{feltSink{folder, s.place(account.DeliveryPlace)}}
	if err := s.opens(start); err != nil {
		return err
	}
	return s.openAccounts(start)
}

// belongs tells whether the streams are those that this process began with.
func (p *Process) belongs(now ground) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ground == nil {
		p.ground = now
	}
	return p.ground.same(now)
}

// openAccounts makes the clients on this connection's permits.
func (s *session) openAccounts(ctx context.Context) error {
	s.permits = permit.New(s.js, s.settled.limits(s.states), permit.Options{Replicas: s.cfg.NATS.Replicas, SkipWait: s.simulated, Log: s.log})
	aliases, _ := s.looker.(dcv.Aliases) // none where a test looks instead
	c, err := openClouds(s.settled, s.permits, s.simulated, aliases)
	if err != nil {
		return err
	}
	if s.files, err = openFiles(ctx, s.cfg.DCV, s.js, s.cfg.NATS.Replicas); err != nil {
		return err
	}
	for label, records := range c.solvers {
		c.solvers[label] = dcv.ByType{DNS: records, FILE: s.files.Solver}
	}
	s.accounts, s.solvers = c.accounts, c.solvers
	for label, why := range s.unsettled {
		if why != nil {
			s.accounts[label].Halt(why)
		}
	}
	return s.settled.openRings(ctx, s.permits, s.accounts, s.roles)
}

// restTime is what a session that ends gives its resting permits to be put
// back; the others would wait longer for those that are not.
const restTime = 3 * time.Second

func (s *session) close() {
	if s.permits != nil {
		ctx, cancel := context.WithTimeout(context.Background(), restTime)
		defer cancel()
		if s.nc.IsClosed() {
			cancel() // nothing can be put back any more
		}
		_ = s.permits.Close(ctx) // what is not put back now comes back by itself
	}
	if s.files.close != nil {
		s.files.close()
	}
	s.books.close()
}

// hostName is a worker's name: host, role and process, so that two replicas on
// one machine differ.
func hostName(role string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%s-%d", host, role, os.Getpid())
}

// absolute makes paths of a config independent of the working directory.
func absolute(path string) string {
	if path == "" {
		return ""
	}
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}
