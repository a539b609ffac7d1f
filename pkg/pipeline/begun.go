package pipeline

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/stream"
)

// An order that kills its worker is known by its deliveries without a result. The
// server's count of deliveries alone does not tell: it also has those that a
// worker gave back unread, because a newer build wrote the record, or because
// NATS did not answer. So past some deliveries each beginning is noted before the
// handler runs, and the note goes with the result, whatever that is. Notes lie
// beside the tickets, in memory: where they are lost, the consumers' counts are
// lost with them.

// trusted is how many deliveries are taken for beginnings without a note: most
// messages are delivered once, or a few times because their orders snooze.
const trusted = maxDeliveries / 2

// begin notes that the work on a message begins, and returns how often it has,
// this time included.
func (l *Line) begin(ctx context.Context, seq uint64, deliveries int) (begun int, err error) {
	if deliveries <= trusted {
		return deliveries, nil
	}
	cell, _, err := l.beginnings(ctx, seq)
	if err != nil {
		return 0, err
	}
	var noted int
	_, err = cell.ChangeOnce(ctx, func(v stream.Value) ([]byte, error) {
		noted, _ = strconv.Atoi(string(v.Data))
		noted++
		return strconv.AppendInt(nil, int64(noted), 10), nil
	})
	return trusted + noted, err
}

// ended takes the note back. One that stays is small, and goes with the server's
// memory; the number of the message never comes again.
func (l *Line) ended(ctx context.Context, seq uint64, deliveries int) {
	if deliveries <= trusted {
		return
	}
	cell, tickets, err := l.beginnings(ctx, seq)
	if err != nil {
		return
	}
	if v, err := cell.Read(ctx); err == nil && v.Seq > 0 {
		_ = tickets.DeleteMsg(ctx, v.Seq)
	}
}

func (l *Line) beginnings(ctx context.Context, seq uint64) (stream.Cell, jetstream.Stream, error) {
	if err := l.Tickets(ctx, l.replicas); err != nil {
		return stream.Cell{}, nil, err
	}
	tickets, err := l.js.Stream(ctx, TicketStream)
	if err != nil {
		return stream.Cell{}, nil, err
	}
	return stream.At(l.js, tickets, fmt.Sprintf("ticket.begun-%d", seq)), tickets, nil
}
