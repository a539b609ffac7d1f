package issue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// site is certmill at work: server, workers and clouds in this process.
type site struct {
	setup
	sim    *cloudsim.Sim
	server *app.Embedded
	cfg    app.Config
	nc     *nats.Conn // the publisher's
	js     jetstream.JetStream
	line   *pipeline.Line
	stop   context.CancelFunc // of the workers
	alive  context.Context    // ends when they have ended; its cause is why
}

func openSite(ctx context.Context, with setup) (s *site, err error) {
	s = &site{setup: with, stop: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("installation: %w", err), s.close())
		}
	}()
	if s.sim, err = openCloud(ctx, with); err != nil {
		return s, err
	}
	if s.server, err = app.StartEmbedded(with.dir, app.NATS{Listen: "127.0.0.1:0", Replicas: 1}); err != nil {
		return s, err
	}
	if err := s.configure(); err != nil {
		return s, err
	}
	if _, err := app.Init(ctx, s.cfg, with.log); err != nil {
		return s, err
	}
	p, err := app.NewProcess(s.cfg, "bench", true, with.log, order.Roles...)
	if err != nil {
		return s, err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	alive, ended := context.WithCancelCause(context.WithoutCancel(ctx))
	s.stop, s.alive = stop, alive
	go func() { // joined by close
		err := p.Run(work, order.Roles...)
		ended(fmt.Errorf("%w: %w", errWorkersEnded, cmp.Or(err, work.Err())))
	}()
	return s, s.connect(ctx)
}

// errWorkersEnded is the end of alive: with context.Canceled when they were told.
var errWorkersEnded = errors.New("the workers ended")

// configure makes the workers' config: what a user would write, and the limits
// if they are scaled.
func (s *site) configure() error {
	a := s.sim.Accounts()[0]
	at := func(name string) string { return filepath.Join(s.dir, name) }
	if err := errors.Join(os.WriteFile(at("key"), []byte(a.AccessKeyID), 0o600), os.WriteFile(at("secret"), []byte(a.AccessKeySecret), 0o600)); err != nil {
		return err
	}
	c := app.Defaults()
	c.NATS, c.State = s.server.As(app.Admin), at("state") // the whole bench is one user
	c.Keys = app.Keys{Store: at("keys"), Identity: at("identity.age")}
	c.Deliver.Directory, c.DCV.Files = at("certs"), at("files")
	c.DCV.Servers, c.DCV.Resolvers = []string{s.sim.DNSAddr()}, []string{s.sim.DNSAddr()}
	c.Accounts = map[string]app.Account{a.Label: {Cloud: a.Cloud, Main: a.UID, Endpoint: s.sim.AliyunURL(), DNSEndpoint: s.sim.AliyunURL(),
		KeyID: app.Ref("file:" + at("key")), Secret: app.Ref("file:" + at("secret")), Product: product, Limits: s.limits(),
		Contact: order.Contact{Name: "Ops", Email: "pki@example.com", Phone: "13800000000", Province: "zhejiang", City: "hangzhou"}}}
	data, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	s.cfg, err = app.Parse(data)
	return err
}

// mostPermits is the largest ring of a scaled limit. The DNS allows more than
// the orders need, and rings of thousands of permits only cost time.
const mostPermits = 300

// limits are none if nothing is scaled: certmill knows the documented ones.
func (s *site) limits() map[string]int {
	if s.scale == 1 {
		return nil
	}
	all := map[string]int{}
	for action, n := range s.sim.Settings().Limits {
		if action != "default" {
			all[action] = min(n, mostPermits)
		}
	}
	for _, action := range []string{"CreateCertificateForPackageRequest", "CreateCertificateWithCsrRequest", "DescribeCertificateState",
		"ListUserCertificateOrder", "GetUserCertificateDetail", "DescribePackageState"} {
		all[action] = usualLimit * s.scale
	}
	return all
}

func (s *site) connect(ctx context.Context) (err error) {
	if s.nc, err = s.cfg.NATS.Connect(nats.Name("bench publisher")); err != nil {
		return err
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s.line, err = pipeline.Open(ctx, s.js, "bench", slog.New(slog.DiscardHandler))
	return err
}

func (s *site) close() (err error) {
	s.stop()
	if s.alive != nil {
		<-s.alive.Done()
		if cause := context.Cause(s.alive); !errors.Is(cause, context.Canceled) {
			err = cause
		}
	}
	if s.nc != nil {
		s.nc.Close()
	}
	if s.server != nil {
		s.server.Stop()
	}
	if s.sim != nil {
		err = errors.Join(err, s.sim.Close())
	}
	return err
}

// zones is how many zones the names of a batch are spread over.
const zones = 20

// request is one order for one name.
func request(batch string, n int) order.Request {
	id := fmt.Sprintf("%s-%05d", batch, n)
	return order.Request{ID: id, Names: []string{fmt.Sprintf("%s.zone-%02d.example", id, n%zones)}, Batch: batch}
}

// batchOf are the orders of a batch.
func batchOf(batch string, orders int) []order.Request {
	all := make([]order.Request, orders)
	for i := range all {
		all[i] = request(batch, i)
	}
	return all
}

// run is what became of a batch.
type run struct {
	began time.Time // the first order was published
	ended map[string]pipeline.Item
}

// issue publishes orders, as fast as the inbox takes them, and returns when
// each is issued, failed or held.
func (s *site) issue(ctx context.Context, all []order.Request, progress func(ended int)) (run, error) {
	r := run{began: time.Now(), ended: map[string]pipeline.Item{}}
	wanted := map[string]bool{}
	for _, q := range all {
		wanted[q.ID] = true
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.alive, func() { cancel(context.Cause(s.alive)) })()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.publish(ctx, all) })
	g.Go(func() error {
		err := s.line.Watch(ctx, func(it pipeline.Item) error {
			if !wanted[it.ID()] || it.State != order.Issued && it.State != order.Failed && it.State != order.Held {
				return nil
			}
			r.ended[it.ID()] = it
			progress(len(r.ended))
			if len(r.ended) == len(wanted) {
				return errAll
			}
			return nil
		})
		if errors.Is(err, errAll) {
			return nil
		}
		return cmp.Or(err, context.Cause(ctx))
	})
	return r, g.Wait()
}

// errAll ends the watch: every order has ended.
var errAll = errors.New("all orders have ended")

func (s *site) publish(ctx context.Context, all []order.Request) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for _, q := range all {
		g.Go(func() error {
			body, err := json.Marshal(q)
			if err != nil {
				return err
			}
			_, err = pipeline.Publish(ctx, s.js, pipeline.NewSubject, body)
			return err
		})
	}
	return g.Wait()
}

// certificates is where they are delivered.
func (s *site) certificates() string { return s.cfg.Deliver.Directory }
