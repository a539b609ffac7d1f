package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
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

	mu          sync.Mutex
	incarnation string // of the streams that this process belongs to; guarded by mu

	ready   health
	working atomic.Pointer[permit.Set] // of the session that works now
}

// session is one connection to NATS and what stands on it.
type session struct {
	*Process
	nc       *nats.Conn
	js       jetstream.JetStream
	line     *pipeline.Line
	ledger   *ledger.Ledger
	placed   *ledger.Placed
	states   *account.Accounts
	permits  *permit.Set
	sinks    []stage.Sink
	accounts stage.Accounts
	solvers  map[string]dcv.Solver
	files    files

	looked atomic.Int64 // when the storage was looked at, Unix seconds
	full   atomic.Bool  // it was nearly used up then
}

// NewProcess opens what needs no connection: keys, clients, permits. Whoever
// buys or delivers needs the key store or the identity; roles tell which.
func NewProcess(c Config, name string, simulated bool, log *slog.Logger, roles ...order.Role) (*Process, error) {
	p := &Process{cfg: c, name: name, roles: roles, simulated: simulated, log: log}
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
	return p, nil
}

// openKeys gives a role no more than it needs: the submitter seals and stores,
// only the collector opens.
func (p *Process) openKeys(r order.Role) (err error) {
	k := p.cfg.Keys
	if r == order.Verifier {
		return nil
	}
	if r == order.Collector && k.Identity != "" {
		id, err := certstore.OpenIdentity(k.Identity)
		if err != nil {
			return err
		}
		p.identities = &id
	}
	if r == order.Submitter && p.keys == nil {
		if p.keys, err = certstore.OpenKeyStore(k.Store); err != nil {
			return err
		}
	}
	if len(k.Recipients) > 0 {
		p.recipients, err = certstore.ParseRecipients(k.Recipients...)
		return err
	}
	if k.Identity == "" {
		return errors.New("keys.recipients is empty: write at least one age recipient (age1…), or nobody could open the private keys; age-keygen makes one")
	}
	// A machine that makes its own identity seals to that.
	id, err := certstore.OpenIdentity(k.Identity)
	if err != nil {
		return err
	}
	p.recipients, err = id.Recipients()
	return err
}

// Run serves the roles until ctx ends, over as many connections as it takes. It
// returns an error only for what another connection cannot mend.
func (p *Process) Run(ctx context.Context, roles ...order.Role) error {
	for ctx.Err() == nil {
		err := p.serve(ctx, roles)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errOtherStreams), errors.Is(err, permit.ErrSettings), errors.Is(err, errServe):
			return err
		}
		p.log.WarnContext(ctx, "connection to NATS ended; connecting again", "err", err)
		_ = sleep(ctx, 2*time.Second)
	}
	return nil
}

// errOtherStreams: what this process knows belongs to another life of them.
var errOtherStreams = errors.New("the streams are of another incarnation than this process began with: they were restored or made anew; start the workers again")

// serve runs one session.
func (p *Process) serve(ctx context.Context, roles []order.Role) error {
	s, ctx, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	p.working.Store(s.permits)
	p.ready.set(true)
	defer p.ready.set(false)
	p.log.InfoContext(ctx, "working", "roles", roles, "accounts", s.accounts.Labels())
	g, work := errgroup.WithContext(ctx)
	g.Go(func() error { return s.identify(work) })
	for _, r := range roles {
		g.Go(func() error { return s.work(work, r) })
	}
	err = g.Wait()
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// connect opens a session. The context it returns ends when the connection
// drops, with pipeline.ErrLost as its cause.
func (p *Process) connect(ctx context.Context) (*session, context.Context, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	nc, err := dial(p.cfg.NATS, p.name, p.log, func(err error) {
		cancel(fmt.Errorf("%w: %v", pipeline.ErrLost, err))
	})
	if err != nil {
		cancel(err)
		return nil, nil, err
	}
	s := &session{Process: p, nc: nc}
	if err := s.open(ctx); err != nil {
		cancel(err)
		s.close()
		return nil, nil, err
	}
	return s, ctx, nil
}

// open provisions the streams, checks whose they are, and only then builds what
// publishes.
func (s *session) open(ctx context.Context) (err error) {
	if s.js, err = jetstream.New(s.nc); err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	start, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := provision(start, s.js, s.cfg.NATS.Replicas); err != nil {
		return err
	}
	if s.line, err = pipeline.Open(start, s.js, s.name, s.log, pipeline.AckWait(s.cfg.AckWait)); err != nil {
		return err
	}
	if !s.belongs(s.line.Incarnation()) {
		return errOtherStreams
	}
	if s.ledger, err = ledger.New(start, s.js); err != nil {
		return err
	}
	if s.placed, err = ledger.OpenPlaced(start, s.js); err != nil {
		return err
	}
	s.sinks = []stage.Sink{certstore.Dir{Path: absolute(s.cfg.Deliver.Directory)}}
	// The states are followed for as long as the session lives.
	if s.states, err = account.Open(ctx, s.js, s.cfg.NATS.Replicas); err != nil {
		return err
	}
	return s.openAccounts(start)
}

// belongs tells whether the streams are those that this process began with.
func (p *Process) belongs(token string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.incarnation == "" {
		p.incarnation = token
	}
	return p.incarnation == token
}

// provision makes the streams that are missing. The ledger comes first, so that
// orders without a ledger mean that it was lost: then a new incarnation begins,
// in which nothing is bought before the accounts were swept again.
func provision(ctx context.Context, js jetstream.JetStream, replicas int) error {
	_, err := js.Stream(ctx, pipeline.OrdersStream)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("stream %s: %w", pipeline.OrdersStream, err)
	}
	orders := err == nil
	_, err = js.Stream(ctx, ledger.StreamName)
	lost := orders && errors.Is(err, jetstream.ErrStreamNotFound)
	for _, cfg := range []jetstream.StreamConfig{ledger.Config(replicas, pipeline.FirstSeq()), ledger.PlacedConfig(replicas, pipeline.FirstSeq())} {
		if err := pipeline.EnsureStream(ctx, js, cfg); err != nil {
			return err
		}
	}
	if err := pipeline.Provision(ctx, js, replicas); err != nil || !lost {
		return err
	}
	// A crash here leaves a ledger that is younger than its incarnation: Began
	// tells, and FirstSweep goes by the later of the two.
	return pipeline.Renew(ctx, js)
}

// openAccounts makes the clients on this connection's permits.
func (s *session) openAccounts(ctx context.Context) error {
	s.permits = permit.New(s.js, s.cfg.limits(s.states), permit.Options{Replicas: s.cfg.NATS.Replicas, SkipWait: s.simulated, Log: s.log})
	aliases, _ := s.looker.(dcv.Aliases) // none where a test looks instead
	c, err := openClouds(s.cfg, s.permits, s.simulated, aliases)
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
	return s.cfg.openRings(ctx, s.permits, s.accounts, s.roles)
}

// restTime is what a session that ends gives its resting permits to be put
// back; the others would wait longer for those that are not.
const restTime = 3 * time.Second

func (s *session) close() {
	if s.permits != nil {
		ctx, cancel := context.WithTimeout(context.Background(), restTime)
		defer cancel()
		_ = s.permits.Close(ctx) // what is not put back now comes back by itself
	}
	if s.files.close != nil {
		s.files.close()
	}
	s.nc.Close()
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
