package app

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/certmill/certmill/pkg/permit"
)

// health is what the probes answer.
type health struct{ ready atomic.Bool }

func (h *health) set(ready bool) { h.ready.Store(ready) }

// probes answers /healthz (the process runs), /readyz (it is connected and
// works) and /permits (the counters of its permit rings) until ctx ends. A
// process that waits for NATS is healthy and not ready: restarting it would not
// help.
func (p *Process) probes(ctx context.Context, addr string) error {
	h, log, mux := &p.ready, p.log, http.NewServeMux()
	mux.HandleFunc("GET /permits", func(w http.ResponseWriter, _ *http.Request) {
		rings := []permit.Stats{}
		if set := p.working.Load(); set != nil {
			rings = append(rings, set.Stats()...)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(rings)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !h.ready.Load() {
			http.Error(w, "not connected to NATS", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	server := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
