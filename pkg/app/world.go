package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/dcv/file"
	"github.com/certmill/certmill/pkg/durable"
	"github.com/certmill/certmill/pkg/order"
)

// world is the simulated clouds, their DNS and the web servers of the names, in
// this process. It keeps its books in the state folder.
type world struct {
	sim   *cloudsim.Sim
	files *http.Server
}

// simPace is how long the simulated clouds take. The tests set it once, before the
// first of them: what takes the clouds seconds is not what they are about.
var simPace cloudsim.Config

// openWorld starts the world and returns the config with its accounts in it.
func openWorld(ctx context.Context, c Config, log *slog.Logger) (*world, Config, error) {
	l, err := webPort(&c.DCV)
	if err != nil {
		return nil, c, fmt.Errorf("simulated web server: %w", err)
	}
	cfg := simPace
	cfg.Dir, cfg.FilePort, cfg.Logger = filepath.Join(c.State, "cloudsim"), c.DCV.FilePort, log
	sim, err := cloudsim.Start(ctx, cfg)
	if err != nil {
		if l != nil {
			_ = l.Close()
		}
		return nil, c, err
	}
	w := &world{sim: sim, files: &http.Server{Handler: file.Handler(c.DCV.Files), ReadHeaderTimeout: 5 * time.Second}}
	if l != nil {
		go func() { _ = w.files.Serve(l) }() // ends with close
	}
	c.DCV.Allow = []string{"127.0.0.0/8"} // where all names lie here
	c.DCV.Servers, c.DCV.Resolvers = []string{sim.DNSAddr()}, []string{sim.DNSAddr()}
	if c.Accounts, err = w.accounts(c.State); err != nil {
		return nil, c, errors.Join(err, w.close())
	}
	c.fill()
	return w, c, errors.Join(c.check(), w.describe(c))
}

// webPort sets the port of the names' web servers. Where the verifier itself
// serves the files, it is that one's; else a listener is opened for them.
func webPort(c *DCV) (net.Listener, error) {
	if c.Serve != "" {
		c.FilePort = int(c.servePort())
		return nil, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		c.FilePort = l.Addr().(*net.TCPAddr).Port
	}
	return l, err
}

// accounts are the simulator's, with their secrets in files as for real ones.
func (w *world) accounts(state string) (map[string]Account, error) {
	dir := filepath.Join(state, "cloudsim", "secrets")
	if err := durable.MakeFolder(dir, 0o700); err != nil {
		return nil, fmt.Errorf("secrets of the simulated accounts: %w", err)
	}
	all := map[string]Account{}
	for _, a := range w.sim.Accounts() {
		secret := filepath.Join(absolute(dir), a.Label)
		id := secret + ".id"
		if err := errors.Join(durable.Replace(secret, []byte(a.AccessKeySecret+"\n"), 0o600),
			durable.Replace(id, []byte(a.AccessKeyID+"\n"), 0o600)); err != nil {
			return nil, fmt.Errorf("secrets of the simulated accounts: %w", err)
		}
		at := w.sim.URLOf(a)
		all[a.Label] = Account{Cloud: a.Cloud, Main: a.UID, Endpoint: at, DNSEndpoint: at, Product: a.Product(), Contact: simContact,
			KeyID: Ref("file:" + id), Secret: Ref("file:" + secret)}
	}
	return all, nil
}

// simContact is what orders that name no contact take there.
var simContact = order.Contact{Name: "certmill", Email: "pki@example.com", Phone: "13800000000", Province: "zhejiang", City: "hangzhou"}

// ConfigName is the file in the state folder that certmill run leaves for the
// other commands, so that they find its server and accounts.
const ConfigName = "certmill.yaml"

// describe leaves the config in force in the state folder. It holds references
// to secrets, no secret.
func (w *world) describe(c Config) error { return writeConfig(c) }

func writeConfig(c Config) error {
	c.State, c.Keys.Store, c.DCV.Files, c.Deliver.Directory = absolute(c.State), absolute(c.Keys.Store), absolute(c.DCV.Files), absolute(c.Deliver.Directory)
	for _, path := range []*string{&c.Keys.Identity, &c.DCV.Copy} {
		if *path != "" {
			*path = absolute(*path)
		}
	}
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	if err := durable.Replace(filepath.Join(c.State, ConfigName), data, 0o600); err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	return nil
}

// begin puts the root of the simulated CA beside the certificates.
func (w *world) begin(c Config) error {
	return certstore.Dir{Path: c.Deliver.Directory}.PutRoot(string(w.sim.RootPEM()))
}

func (w *world) close() error {
	_ = w.files.Close()
	return w.sim.Close()
}
