package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// limited is an errgroup that runs at most n at a time.
func limited(ctx context.Context, n int) (*errgroup.Group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(n)
	return g, ctx
}

// RunOptions is what certmill run is asked for.
type RunOptions struct {
	Config Config
	Files  []string // order files; none: work until told to stop
	Batch  string   // of orders that name none; "" for the file's name
	Log    *slog.Logger
	View   View
}

// View shows a run. The methods are called one at a time.
type View interface {
	Started(where Where)
	Planned(steps []Step, b Batch)
	HandedIn(known, fresh int)
	Moved(p Progress)
	Ended(s Summary)
}

// Where tells how to reach what a run started.
type Where struct {
	NATS      string `json:"nats"`
	Simulated bool   `json:"simulated"` // the clouds are simulated here
	Control   string `json:"control,omitempty"`
	State     string `json:"state"`
	Looking   string `json:"looking,omitempty"` // context of the stock nats command that has a monitor's rights
}

// Run is everything in one process: a nats-server unless the config names one,
// the simulated clouds unless it has accounts, and all three workers. It hands
// the files in, follows the orders to their end and returns the summary. Run
// again after a stop, however hard, it goes on where it was.
func Run(ctx context.Context, opt RunOptions) (sum Summary, err error) {
	began := time.Now()
	batch, err := ReadFiles(opt.Batch, opt.Files...)
	if err != nil {
		return Summary{}, err
	}
	c := opt.Config
	c.sealToItself()
	if err := c.ready(); err != nil {
		return Summary{}, err
	}
	listener, err := listenProbes(c.Listen)
	if err != nil {
		return Summary{}, err
	}
	if listener != nil {
		defer func() { _ = listener.Close() }()
	}
	house, err := openHouse(ctx, c, opt.Log)
	if err != nil {
		return Summary{}, err
	}
	defer func() { err = errors.Join(err, house.close()) }()
	opt.View.Started(house.where())

	p, err := NewProcess(house.workers(), hostName("run"), house.world != nil, opt.Log, order.Roles...)
	if err != nil {
		return Summary{}, errors.Join(err, house.refuse())
	}
	work, stop := context.WithCancel(ctx)
	g, work := errgroup.WithContext(work)
	g.Go(func() error { return p.Run(work, order.Roles...) })
	if house.nats != nil {
		k := keeper{server: house.nats, folder: house.cfg.State, troubles: &p.ready.troubles, log: opt.Log}
		g.Go(func() error { return k.keep(work) })
	}
	if listener != nil {
		g.Go(func() error { return p.probes(work, listener) })
	}
	g.Go(func() error {
		if len(opt.Files) == 0 {
			<-work.Done()
			return nil
		}
		defer stop()
		sum, err = house.issue(work, p, batch, opt.View, began)
		return err
	})
	err = g.Wait()
	stop()
	return sum, house.limitsOff(ctx, err, opt.Log)
}

// sealToItself gives a config that says nothing of keys an identity of its own, so
// that a run can open them.
func (c *Config) sealToItself() {
	if len(c.Keys.Recipients) == 0 && c.Keys.Identity == "" {
		c.Keys.Identity = filepath.Join(c.State, "identity.age")
	}
}

// house is what one process of certmill run stands on.
type house struct {
	cfg   Config
	trace trace     // of the state folder, as it was
	lock  *os.File  // of the state folder; nil: closed
	nats  *Embedded // nil: the config names a server
	world *world    // nil: the config has accounts
}

func openHouse(ctx context.Context, c Config, log *slog.Logger) (*house, error) {
	before := traceOf(c)
	if err := claimState(c); err != nil {
		return nil, err
	}
	lock, err := lockState(c.State)
	if err != nil {
		return nil, err
	}
	h := &house{cfg: c, lock: lock, trace: before.locked()}
	if c.NATS.URL == "" {
		if h.nats, err = StartEmbedded(c.State, c.NATS); err != nil {
			return nil, errors.Join(err, h.refuse())
		}
		if h.cfg.NATS = h.nats.As(Operator); !h.nats.open {
			log.WarnContext(ctx, "the embedded server listens where others reach it, and what they send it, their password too, is not encrypted; "+
				"where that matters, use a nats-server of its own with TLS (deploy/nats)", "listen", c.NATS.Listen)
		}
		// Its own server is nobody else's: what is missing there was never made, or
		// is lost. A server that the config names is set up by certmill init.
		made, err := initIn(ctx, h.cfg, h.nats.free(), log)
		if err != nil {
			return nil, errors.Join(h.limitsOff(ctx, err, log), h.refuse())
		}
		for _, m := range made {
			if m.Lost != "" {
				log.ErrorContext(ctx, "stream "+m.Name+" was missing beside the others and was made anew", "meaning", m.Lost)
			}
		}
	}
	if len(c.Accounts) == 0 {
		// The world outlives ctx: what drains may still call it.
		if h.world, h.cfg, err = openWorld(context.WithoutCancel(ctx), h.cfg, log); err == nil {
			err = h.world.begin(h.cfg)
		}
	} else {
		err = writeConfig(h.cfg)
	}
	if err != nil {
		return nil, errors.Join(err, h.refuse())
	}
	return h, nil
}

// workers is the config with the workers' own rights at the embedded server.
func (h *house) workers() Config {
	c := h.cfg
	if h.nats != nil {
		c.NATS = h.nats.As(Worker)
	}
	return c
}

func (h *house) where() Where {
	w := Where{NATS: h.cfg.NATS.URL, State: h.cfg.State, Simulated: h.world != nil}
	if h.nats != nil {
		w.Looking = h.nats.access.contextOf(Monitor)
	}
	if h.world != nil {
		w.Control = h.world.sim.ControlURL()
	}
	return w
}

// refuse closes the house before anything was done in it, and leaves nothing of it in
// a state folder that was new: it would be for clouds of one kind already. A key store
// that lies elsewhere is sealed to what lies here, and keeps all of it.
func (h *house) refuse() error {
	within, err := filepath.Rel(absolute(h.cfg.State), absolute(h.cfg.Keys.Store))
	if err == nil && filepath.IsLocal(within) {
		return h.end(h.trace.undo)
	}
	return h.close()
}

func (h *house) close() error { return h.end(func() {}) }

// end is done once: last is what comes when everything is at rest.
func (h *house) end(last func()) (err error) {
	if h.lock == nil {
		return nil
	}
	if h.world != nil {
		err = h.world.close()
	}
	if h.nats != nil {
		h.nats.Stop()
	}
	last()
	_ = h.lock.Close() // last: who comes next finds everything at rest
	h.lock = nil
	return err
}

// issue hands the batch in and follows it.
func (h *house) issue(ctx context.Context, p *Process, b Batch, view View, began time.Time) (Summary, error) {
	console, err := OpenConsole(ctx, h.cfg, p.log)
	if err != nil {
		return Summary{}, err
	}
	defer console.Close()
	b, in, err := console.bring(ctx, b, view, false)
	if err != nil {
		return Summary{}, err
	}
	ended, err := console.follow(ctx, in.wanted, view.Moved)
	sum := summarise(b, in, ended, time.Since(began))
	sum.Certificates = h.cfg.Deliver.Directory
	sum.Calls, sum.PeakPerSec = h.calls(p)
	if sum.Issued > 0 {
		sum.PerCert = float64(sum.Calls) / float64(sum.Issued)
	}
	if err == nil || errors.Is(err, context.Canceled) {
		view.Ended(sum)
	}
	return sum, err
}

// calls are those of this run: as the clouds counted them where they are
// simulated here, else as permits that were used.
func (h *house) calls(p *Process) (total, peak int) {
	if h.world != nil {
		for _, c := range h.world.sim.Report().Calls {
			total += c.Calls
			if c.Limit <= issuer.UsualLimit { // of what binds; the DNS allows more
				peak = max(peak, c.PeakSliding)
			}
		}
		return total, peak
	}
	if set := p.working.Load(); set != nil {
		for _, r := range set.Stats() {
			total += r.Granted - r.Unused
			if r.Calls <= issuer.UsualLimit {
				peak = max(peak, r.Peak)
			}
		}
	}
	return total, peak
}
