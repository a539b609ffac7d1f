package app

import (
	"context"
	"os"
	"strings"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
	"github.com/certmill/certmill/pkg/stage"
)

// What certmill knows as secret it takes out of everything that comes from
// outside (package redact). Secrets become known where they are read: here, and in
// the clients and solvers that are given some.

// learnFile makes the secrets in a file known: age identities, NATS credentials.
func learnFile(path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return // whoever needs the file says so
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if len(line) >= 40 && !strings.ContainsAny(line, " #") {
			redact.Learn(line)
		}
	}
}

// learnEnv makes known what others read from the environment.
func learnEnv(names ...string) {
	for _, name := range names {
		redact.Learn(os.Getenv(name))
	}
}

// plainSink is a sink of which nothing repeats a secret.
type plainSink struct{ stage.Sink }

// Deliver implements stage.Sink.
func (s plainSink) Deliver(ctx context.Context, d certstore.Delivery) (string, error) {
	where, err := s.Sink.Deliver(ctx, d)
	return redact.Text(where), redact.Error(err)
}

// looker looks as the CA will, and tells no secret that it sees: anybody's name
// server may serve one.
type looker struct{ *dcv.Looker }

// Look implements stage.Looker.
func (l looker) Look(ctx context.Context, c order.Challenge) (dcv.Sighting, error) {
	s, err := l.Looker.Look(ctx, c)
	for i := range s.Missing {
		s.Missing[i] = redact.Text(s.Missing[i])
	}
	return s, redact.Error(err)
}
