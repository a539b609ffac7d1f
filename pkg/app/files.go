package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/net/netutil"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/file"
	"github.com/certmill/certmill/pkg/dcv/file/bucket"
	"github.com/certmill/certmill/pkg/dcv/file/shared"
)

// files is where FILE challenges go: a folder, an object store, or NATS, from
// where the verifiers serve them.
type files struct {
	dcv.Solver
	handler http.Handler // nil: others serve them
	close   func()
}

// prepareFiles makes the folder, and tells of a wrong URL before anything
// connects.
func (c DCV) prepareFiles() error {
	switch {
	case c.Serve != "":
		return nil
	case c.Bucket != "":
		b, err := bucket.Open(context.Background(), c.Bucket)
		if err != nil {
			return fmt.Errorf("dcv.bucket: %w", err)
		}
		return b.Close()
	}
	if err := os.MkdirAll(c.Files, 0o755); err != nil {
		return fmt.Errorf("dcv.files: %w", err)
	}
	return nil
}

// openFiles opens the one place that the config names.
func openFiles(ctx context.Context, c DCV, js jetstream.JetStream, replicas int) (files, error) {
	switch {
	case c.Serve != "":
		s, err := shared.Open(ctx, js, replicas)
		if err != nil {
			return files{}, fmt.Errorf("dcv.serve: %w", err)
		}
		return files{s, s.Handler(), func() {}}, nil
	case c.Bucket != "":
		learnEnv("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
		b, err := bucket.Open(ctx, c.Bucket)
		if err != nil {
			return files{}, fmt.Errorf("dcv.bucket: %w", err)
		}
		return files{b, nil, func() { _ = b.Close() }}, nil
	}
	return files{file.Open(c.Files), nil, func() {}}, nil
}

// errServe: another connection to NATS does not mend it.
var errServe = errors.New("dcv.serve")

// Limits of the listener that is open to the Internet.
const (
	serveConns  = 512
	serveHeader = 8 << 10 // bytes
	serveTime   = 10 * time.Second
)

// serveFiles serves the challenges until ctx ends.
func serveFiles(ctx context.Context, addr string, h http.Handler, log *slog.Logger) error {
	var cfg net.ListenConfig
	l, err := cfg.Listen(ctx, "tcp", addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("%w: %w", errServe, err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: serveTime / 2, ReadTimeout: serveTime, WriteTimeout: serveTime, IdleTimeout: serveTime,
		MaxHeaderBytes: serveHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), serveTime)
		defer cancel()
		if server.Shutdown(drain) != nil {
			_ = server.Close()
		}
	})
	err = server.Serve(netutil.LimitListener(l, serveConns))
	if !stop() {
		<-ended
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%w: %w", errServe, err)
	}
	return nil
}

// servePort is the port of the listener, 0 if there is none.
func (c DCV) servePort() uint16 {
	_, port, _ := net.SplitHostPort(c.Serve) // checked when the config was read
	n, _ := net.LookupPort("tcp", port)
	return uint16(n)
}

// checkFiles refuses more than one place, and what is no address.
func (c DCV) checkFiles() (all []error) {
	var places []string
	for _, p := range []struct{ name, value string }{{"dcv.files", c.Files}, {"dcv.bucket", c.Bucket}, {"dcv.serve", c.Serve}} {
		if p.value != "" {
			places = append(places, p.name)
		}
	}
	if len(places) > 1 {
		all = append(all, fmt.Errorf("%s exclude each other: write the one place that FILE challenges go to", strings.Join(places, " and ")))
	}
	if c.Serve != "" && c.servePort() == 0 {
		all = append(all, fmt.Errorf("dcv.serve is %q: write host:port, such as 0.0.0.0:8081", c.Serve))
	}
	if err := bucket.Check(c.Bucket); c.Bucket != "" && err != nil {
		all = append(all, fmt.Errorf("dcv.bucket: %w", err))
	}
	if _, err := c.allowed(); err != nil {
		all = append(all, err)
	}
	return all
}

// allowed are the addresses of names that are not public.
func (c DCV) allowed() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, s := range c.Allow {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("dcv.allow has %q: write networks, such as 10.20.0.0/16, or 10.20.0.7/32 for one address", s)
		}
		all = append(all, p)
	}
	return all, nil
}
