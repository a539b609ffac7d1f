package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// Edited is a lasting stream that somebody has edited: nobody works on it until it is
// put back.
type Edited struct {
	Stream string              `json:"stream"`
	Fields []stream.Difference `json:"fields"`
	// Forgot says which limits may have removed what should stay, and what that means;
	// empty if none of them does that.
	Forgot string `json:"forgot,omitempty"`
}

// String is one of them, for people.
func (e Edited) String() string {
	s := "stream " + e.Stream + ": " + stream.Sentence(e.Fields)
	if e.Forgot != "" {
		s += "\n  " + e.Forgot
	}
	return s
}

// Mender puts back what somebody edited in the lasting streams, on a connection of its
// own, with the rights of an administrator.
type Mender struct {
	cfg Config
	nc  *nats.Conn
	js  jetstream.JetStream
	barrier
}

// OpenMender connects. Nothing is looked at yet.
func OpenMender(c Config, log *slog.Logger) (*Mender, error) {
	if c.NATS.URL == "" {
		return nil, errNoServer
	}
	m := &Mender{cfg: c}
	nc, err := dial(c.NATS.by(Admin), hostName("mend"), m.refused, log, again()...)
	if err != nil {
		return nil, err
	}
	m.guards(nc)
	m.nc = nc
	if m.js, err = jetstream.New(nc); err != nil {
		nc.Close()
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	return m, nil
}

// Close ends the connection.
func (m *Mender) Close() { m.nc.Close() }

// Look returns what is not as it must be, and changes nothing. A stream that is
// missing is for Init. The error is a *stream.OtherFormat for one that another program
// made: its settings are that program's.
func (m *Mender) Look(ctx context.Context) (all []Edited, err error) {
	ctx, cancel := context.WithTimeout(ctx, mendTime)
	defer cancel()
	for _, want := range m.wanted() {
		_, err := stream.Open(ctx, m.js, want)
		d, differs := errors.AsType[*stream.Differs](err)
		switch {
		case errors.Is(err, stream.ErrMissing), err == nil:
		case differs:
			all = append(all, Edited{want.Name, d.Fields, forgot(d)})
		default:
			return nil, m.because(err)
		}
	}
	return all, nil
}

// mendTime is for one look, or for one stream.
const mendTime = 30 * time.Second

// wanted are the streams in the order in which they are put back: the orders first,
// because a new incarnation is written there.
func (m *Mender) wanted() []jetstream.StreamConfig {
	all := lasting(m.cfg.NATS.Replicas)
	slices.Reverse(all)
	return all
}

// forgot says what may be gone already. It cannot be known: what a limit removes
// leaves no trace.
func forgot(d *stream.Differs) string {
	limits := stream.Forgets(d.Fields)
	if limits == "" {
		return ""
	}
	return fmt.Sprintf("it forgets by that (%s); what it has forgotten meanwhile is gone, which means, of that: %s",
		limits, forgotten[d.Stream])
}

// Mend puts those settings back that are not as they must be. Everything else of the
// streams stays, with every message that is there. Where the ledger may have forgotten
// a purchase, a new incarnation begins, as after a restore: nothing is bought before
// each account's list was swept again. Safe to repeat: what one left the next one finds.
// done are those that were put back.
func (m *Mender) Mend(ctx context.Context) (done []Edited, err error) {
	edited, err := m.Look(ctx)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, e := range edited {
		if err := m.mend(ctx, e, stream.Mend); err != nil {
			failed = append(failed, err)
			continue
		}
		done = append(done, e)
	}
	return done, errors.Join(failed...)
}

// putting is how a stream's settings are put back: all of them, or some.
type putting func(context.Context, jetstream.JetStream, jetstream.StreamConfig) error

func (m *Mender) mend(ctx context.Context, e Edited, how putting) error {
	ctx, cancel := context.WithTimeout(ctx, mendTime)
	defer cancel()
	if e.Stream == ledger.StreamName && e.Forgot != "" {
		// The new incarnation comes first. A crash here leaves the limits, and the next
		// one begins another incarnation; the other way round it would leave a ledger
		// that looks whole under marks that say that everything was swept.
		if err := pipeline.Renew(ctx, m.js); err != nil {
			return fmt.Errorf("the ledger is left as it is, until nothing can be bought by it: %w", m.because(err))
		}
	}
	for _, want := range m.wanted() {
		if want.Name == e.Stream {
			return m.because(explained(how(ctx, m.js, sized(ctx, m.js, want, 0))))
		}
	}
	return nil
}

// limitsOff takes limits by which its streams forget off at once, where a run stops on
// its own server because of them, and returns the error that says so. Nobody else may
// have a reason for them there, and a limit by age does not wait: what is older is gone
// at the server's next start, before anybody can say a word. What else was edited
// harms nothing while nobody works, and is for a person (certmill init --mend); and the
// run stops all the same, so that somebody learns what may be lost.
func (h *house) limitsOff(ctx context.Context, why error, log *slog.Logger) error {
	if _, differs := errors.AsType[*stream.Differs](why); !differs || h.nats == nil {
		return why
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*mendTime)
	defer cancel()
	m, err := OpenMender(h.cfg, log)
	if err != nil {
		return errors.Join(why, err)
	}
	defer m.Close()
	edited, err := m.Look(ctx)
	if err != nil {
		return errors.Join(why, err)
	}
	var off []string
	for _, e := range edited {
		if e.Forgot == "" {
			continue
		}
		if err := m.mend(ctx, e, stream.MendLimits); err != nil {
			return errors.Join(why, err)
		}
		off = append(off, e.String())
	}
	if len(off) == 0 {
		return why
	}
	// A crash here leaves streams as they must be, and nobody who was told what may be
	// lost; orders that are gone are told of by the sweep for removed ones.
	left, err := m.Look(ctx)
	if err != nil {
		return errors.Join(why, err)
	}
	then := "Start it again."
	if len(left) > 0 {
		then = "That is for certmill init --mend, which says it, asks, and puts it back."
	}
	for _, e := range slices.Backward(left) {
		then = fmt.Sprintf("Left is %s\n%s", e, then)
	}
	return fmt.Errorf("the streams of this run were edited, and not by certmill; the limits were taken off at once: %s\n%s",
		strings.Join(off, "\n"), then)
}

// Mended says what was put back, and what to do then.
func Mended(done []Edited) string {
	if len(done) == 0 {
		return "every stream is as it must be; nothing was changed"
	}
	var names []string
	renewed := false
	for _, e := range done {
		names = append(names, e.Stream)
		renewed = renewed || e.Stream == ledger.StreamName && e.Forgot != ""
	}
	s := "put back: " + strings.Join(names, ", ")
	if renewed {
		s += "; a new incarnation began, in which nothing is bought before each account's list was swept again"
	}
	return s + "; start the workers (or certmill run) again"
}
