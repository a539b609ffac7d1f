package app

import (
	"context"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/pipeline"
)

// books are what an installation has written down, over one connection: all that
// it takes to look.
type books struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	line   *pipeline.Line
	ledger *ledger.Ledger
	placed *ledger.Placed
	states *account.Accounts
}

// open verifies the streams and binds to them, but for the accounts' states. It
// makes nothing. replicas 0: any.
func (b *books) open(ctx context.Context, name string, log *slog.Logger, replicas int,
	options ...pipeline.Option) (err error) {
	options = append(options, pipeline.Replicas(replicas))
	if b.line, err = pipeline.Open(ctx, b.js, name, log, options...); err != nil {
		return err
	}
	if b.ledger, err = ledger.New(ctx, b.js, replicas); err != nil {
		return err
	}
	b.placed, err = ledger.OpenPlaced(ctx, b.js, replicas)
	return err
}

func (b *books) close() {
	if b.states != nil {
		b.states.Close()
	}
	b.nc.Close()
}
