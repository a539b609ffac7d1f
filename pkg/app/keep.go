package app

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/certmill/certmill/pkg/durable"
	"github.com/certmill/certmill/pkg/stream"
)

// ill is the first reason for which the server does not store what it should, ""
// if there is none. A stream whose file could not be written once, because the
// disk was full, refuses everything from then on, without an answer, until it is
// opened anew.
func (e *Embedded) ill() string {
	s := e.running()
	if s == nil {
		return "it does not run"
	}
	h := s.Healthz(&server.HealthzOptions{Details: true})
	for _, err := range h.Errors {
		return err.Error
	}
	return h.Error
}

// keeper starts the server of a run anew when it refuses writes although there is
// room again.
type keeper struct {
	server   *Embedded
	folder   string // that its files are in
	troubles *troubles
	log      *slog.Logger

	next  time.Time // not restarted before
	pause time.Duration
}

// Times of the keeper: how often it looks, and how long it waits after a restart
// that did not help, at first and at most.
const (
	keepEvery    = 500 * time.Millisecond
	restartPause = 2 * time.Second
	mostPause    = time.Minute
)

// spare is how much room the server must find before it is started anew.
const spare = 1 << 20

const serverTrouble = "server"

// keep looks until ctx ends.
func (k *keeper) keep(ctx context.Context) error {
	for stream.Sleep(ctx, keepEvery) == nil {
		if err := k.look(ctx); err != nil {
			return err
		}
	}
	return nil
}

// look looks once, and restarts the server if that may help.
func (k *keeper) look(ctx context.Context) error {
	why := k.server.ill()
	if why == "" {
		k.troubles.over(ctx, serverTrouble)
		if time.Now().After(k.next.Add(mostPause)) {
			k.pause = 0 // it held
		}
		return nil
	}
	k.troubles.set(ctx, serverTrouble, Trouble{What: "the nats-server of this run stores nothing", Why: why, Since: time.Now(),
		Helps: []string{"make room on the disk of " + k.folder + ": the server is started anew by itself as soon as there is some"}})
	if time.Now().Before(k.next) || !k.roomy() {
		return nil
	}
	k.pause = min(max(2*k.pause, restartPause), mostPause)
	k.next = time.Now().Add(k.pause)
	k.log.WarnContext(ctx, "the nats-server of this run is started anew: there is room again", "folder", k.folder)
	// What is under way meets a dropped connection, as if the server had died, and
	// begins again from what is stored.
	if err := k.server.Restart(); err != nil {
		k.log.ErrorContext(ctx, "the nats-server of this run does not start; it is tried again", "err", err, "in", k.pause)
	}
	return nil
}

// roomy tries whether there is room, by using some: what a disk says of itself is
// not what it takes.
func (k *keeper) roomy() bool {
	path, err := durable.Temp(k.folder, make([]byte, spare), 0o600)
	if err == nil {
		err = os.Remove(path)
	}
	return err == nil
}
