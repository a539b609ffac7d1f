package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/certmill/certmill/pkg/permit"
)

// health is what the probes answer.
type health struct {
	ready    atomic.Bool
	troubles troubles
}

func (h *health) set(ready bool) { h.ready.Store(ready) }

// wrong are the sentences of the accounts with which something is wrong, by label,
// and whether none is left that works.
func (p *Process) wrong() (by map[string]string, all bool) {
	s := p.serving.Load()
	if s == nil {
		return nil, false
	}
	by, works := s.wrongAccounts()
	return by, len(by) > 0 && works == 0
}

// readyz says whether the process is ready, and of what it cannot do why.
func (p *Process) readyz(w http.ResponseWriter, _ *http.Request) {
	why := p.ready.why()
	wrong, all := p.wrong()
	if why != "" || all {
		w.WriteHeader(http.StatusServiceUnavailable)
	} else {
		why = "ready"
	}
	if why != "" {
		_, _ = w.Write([]byte(why + "\n"))
	}
	for _, label := range sorted(wrong) {
		_, _ = w.Write([]byte(wrong[label] + "\n"))
	}
}

// why is why the process is not ready, "" if it is.
func (h *health) why() string {
	var all []string
	if !h.ready.Load() {
		all = append(all, "not connected to NATS")
	}
	for _, t := range h.troubles.list() {
		all = append(all, t.line())
	}
	return strings.Join(all, "\n")
}

// listenProbes takes the address of the probes before anything is begun: a process
// that nobody can ask does not start. nil: the config has none.
func listenProbes(addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w: write another host:port into the config, or end what listens there", err)
	}
	return listener, nil
}

// probes answers /healthz (the process runs), /readyz (it is connected and works,
// what it works is stored, and what is wrong with which accounts; it is not ready
// where all of them are stopped, or refused by their clouds) and /permits (the counters of its permit rings) until
// ctx ends. A process that waits for NATS, or for room on NATS's disk, is healthy
// and not ready, and says why: restarting it would not help. They are asked at
// listener, which it closes.
func (p *Process) probes(ctx context.Context, listener net.Listener) error {
	log, mux := p.log, http.NewServeMux()
	mux.HandleFunc("GET /permits", func(w http.ResponseWriter, _ *http.Request) {
		rings := []permit.Stats{}
		if set := p.working.Load(); set != nil {
			rings = append(rings, set.Stats()...)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(rings)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", p.readyz)
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
