package app

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// dial connects: by the config, and by what a worker or a console needs.
func dial(n NATS, name string, log *slog.Logger, with ...nats.Option) (*nats.Conn, error) {
	opts := append([]nats.Option{
		nats.Name(name), nats.Timeout(5 * time.Second), nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) { // or what asked would only see no answer
				log.Error("the user of this NATS connection may not do this; see the users of the server's config", "user", n.User, "err", err)
				return
			}
			log.Debug("NATS reports an error", "err", err)
		}),
	}, with...)
	password, err := n.Password.read()
	if err != nil {
		return nil, fmt.Errorf("nats.password: %w", err)
	}
	if n.User != "" {
		opts = append(opts, nats.UserInfo(n.User, password.Reveal()))
	}
	if n.Credentials != "" {
		opts = append(opts, nats.UserCredentials(n.Credentials))
	}
	if n.CA != "" {
		opts = append(opts, nats.RootCAs(n.CA))
	}
	nc, err := nats.Connect(n.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", n.URL, err)
	}
	return nc, nil
}

// once is how workers connect: a connection that would reconnect by itself would
// go on publishing on streams that may have been restored meanwhile. lost hears
// of its end.
func once(lost func(error)) []nats.Option {
	return []nats.Option{nats.NoReconnect(), nats.ReconnectBufSize(-1),
		nats.ClosedHandler(func(c *nats.Conn) { lost(c.LastError()) })}
}

// again is how consoles connect: what they write is conditional on what they
// read, or known where it comes twice.
func again() []nats.Option {
	return []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(500 * time.Millisecond)}
}
