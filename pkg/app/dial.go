package app

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certmill/certmill/pkg/redact"
)

// dial connects: by the config, and by what a worker or a console needs. refused
// is told what the server does not let this user do.
func dial(n NATS, name string, refused func(error), log *slog.Logger, with ...nats.Option) (*nats.Conn, error) {
	return n.Connect(append([]nats.Option{
		nats.Name(name), nats.Timeout(5 * time.Second), nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if err := noRight(n, err); errors.Is(err, errNoRight) { // or what asked would only see no answer
				refused(err)
				return
			}
			log.Debug("NATS reports an error", "err", redact.Error(err))
		}),
	}, with...)...)
}

// tell is how workers hear of a right that is missing: what asked sees no answer
// and goes on asking, until somebody gives them the right.
func tell(log *slog.Logger) func(error) {
	return func(err error) { log.Error("NATS refuses what this worker needs", "err", err) }
}

// once is how workers connect: a connection that would reconnect by itself would
// go on publishing on streams that may have been restored meanwhile. lost hears
// of its end.
func once(lost func(error)) []nats.Option {
	return []nats.Option{nats.NoReconnect(), nats.ReconnectBufSize(-1),
		nats.ClosedHandler(func(c *nats.Conn) { lost(redact.Error(c.LastError())) })}
}

// again is how consoles connect: what they write is conditional on what they
// read, or known where it comes twice.
func again() []nats.Option {
	return []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(500 * time.Millisecond)}
}

// NoRight is returned where the server does not let a user do what a command
// needs.
type NoRight struct {
	User string // "" where the connection names none
	What string // "publish to orders.new"
}

// errNoRight is what every NoRight is.
var errNoRight = errors.New("a right is missing at the NATS server")

// Is makes every NoRight errNoRight.
func (e *NoRight) Is(target error) bool { return target == errNoRight }

func (e *NoRight) Error() string {
	if e.User == "" {
		return fmt.Sprintf("whoever connects to this NATS server without a user may not %s. "+
			"Name one (nats.user, nats.password), or the config that certmill run left beside its server (--config state/%s)", e.What, ConfigName)
	}
	return fmt.Sprintf("the NATS user %s may not %s. Name another one (nats.user): monitor looks, "+
		"operator decides and hands in, admin makes streams; the server's config says what each may do", e.User, e.What)
}

// violation is what a server says, for example: Permissions Violation for Publish
// to "orders.new".
var violation = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]*)"`)

// noRight is the error that the client library reports, as a *NoRight if it is
// one. Its text is the server's.
func noRight(n NATS, err error) error {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return err
	}
	said := redact.Text(err.Error())
	found := violation.FindStringSubmatch(said)
	switch {
	case found == nil:
		return &NoRight{n.User, "do this: " + said}
	case found[2] == askRights:
		return err // then nothing is known of the others
	case found[1] == "publish" || found[1] == "Publish":
		return &NoRight{n.User, "publish to " + found[2]}
	}
	return &NoRight{n.User, "receive at " + found[2] + " (nats.inbox says where answers come)"}
}

// refusal is the first right that a connection lacked. Whoever looks or decides
// has no use for half of what it asked for, so the connection ends there, in place
// of a wait for an answer that never comes.
type barrier struct {
	mu   sync.Mutex
	err  error
	conn *nats.Conn
}

func (b *barrier) refused(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	if b.conn != nil {
		b.conn.Close()
	}
}

// guards the connection from now on.
func (b *barrier) guards(nc *nats.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn = nc; b.err != nil {
		nc.Close()
	}
}

// because is why an error came, if it was a missing right.
func (b *barrier) because(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil && b.err != nil {
		return b.err
	}
	return err
}
