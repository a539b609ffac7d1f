package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // the image has no files beside the program

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"
	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
)

// Main is the main function of a worker's binary: it works as role until it is
// told to stop, and returns the exit status.
func Main(role order.Role, args []string) int {
	flags := flag.NewFlagSet(string(role), flag.ContinueOnError)
	path := flags.String("config", os.Getenv("CERTMILL_CONFIG"), "config file; see certmill config for an example")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, stop := Signals()
	defer stop()
	c, err := Load(*path)
	if err == nil {
		err = Work(ctx, c, role)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, redact.Error(err))
		return 1
	}
	return 0
}

// Work is one worker: it works as role until ctx ends, and then drains.
func Work(ctx context.Context, c Config, role order.Role) error {
	if c.NATS.URL == "" {
		return errors.New("nats.url is empty: a worker needs a server; certmill run has one of its own")
	}
	if len(c.Accounts) == 0 {
		return errors.New("accounts is empty: there is nothing to work for")
	}
	listener, err := listenProbes(c.Listen)
	if err != nil {
		return err
	}
	if listener != nil {
		defer func() { _ = listener.Close() }()
	}
	log := NewLogger(os.Stderr, c.Log)
	p, err := NewProcess(c, hostName(string(role)), false, log, role)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if listener != nil {
		g.Go(func() error { return p.probes(ctx, listener) })
	}
	g.Go(func() error {
		defer log.Info("drained")
		if err := p.Run(ctx, role); err != nil {
			return err
		}
		return context.Canceled // ends the probes
	})
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Signals returns a context that ends at SIGINT or SIGTERM. A second signal
// kills the process: stop restores the default.
func Signals() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// NewLogger logs to w: in colour on a terminal, as JSON elsewhere, and without
// what this process knows as secret.
func NewLogger(w io.Writer, level string) *slog.Logger {
	l, err := logLevel(level)
	if err != nil {
		l = slog.LevelInfo
	}
	if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		return slog.New(redact.Handler(tint.NewTextHandler(w, &tint.Options{Level: l, TimeFormat: "15:04:05.000"})))
	}
	return slog.New(redact.Handler(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})))
}
