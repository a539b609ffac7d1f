package account

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certmill/certmill/pkg/record"
	"github.com/certmill/certmill/pkg/stream"
)

// deleted tells what a stock client leaves in place of a key that it deletes or
// purges (NATS ADR-8). certmill never does.
func deleted(h nats.Header) bool { return h.Get("KV-Operation") != "" }

// putBack stores the state again that somebody has deleted: with it the account
// would be no longer paused, and have nothing counted towards its budgets. Who
// follows the bucket knows the last one.
func (a *Accounts) putBack(ctx context.Context, m stream.Message) {
	main := strings.TrimPrefix(m.Subject, subjects)
	log := a.log.With("account", main)
	data, known, err := a.last(main)
	if !known {
		log.ErrorContext(ctx, "an account's state was deleted, and not by certmill; nobody here knew it: "+
			"pauses, limits and counted budgets are forgotten, and its list is swept again before anything is bought")
		return
	}
	if err == nil {
		_, err = stream.At(a.js, a.stream, m.Subject).Write(ctx, data, m.Seq)
	}
	if errors.Is(err, stream.ErrConflict) {
		return // another worker was quicker
	}
	if err != nil {
		log.ErrorContext(ctx, "an account's state was deleted, and not by certmill; it could not be put back, "+
			"and is with the next change that this worker makes", "err", err)
		return
	}
	log.WarnContext(ctx, "an account's state was deleted, and not by certmill; it was put back as it was")
}

// last is the last state that is known here, as it is stored.
func (a *Accounts) last(main string) (data []byte, known bool, err error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	k, known := a.states[main]
	if !known || k.rev == 0 {
		return nil, false, nil
	}
	data, err = record.Encode(k.State, k.rest)
	return data, true, err
}

// base is what a change is made to: what lies there, or, where somebody has
// deleted it, what was there before as far as it is known.
func (a *Accounts) base(v stream.Value, main string) (State, error) {
	if deleted(v.Header) {
		data, known, err := a.last(main)
		if err != nil {
			return State{}, err
		}
		if known {
			return decode(stream.Value{Data: data, Seq: v.Seq})
		}
	}
	return decode(v)
}

// RemovedOrder is an order of which there is no message any more, and which
// something else still knows.
type RemovedOrder struct {
	Order string    `json:"order" record:"key"`
	Names []string  `json:"names,omitempty"`
	Since time.Time `json:"since"` // seen for the first time
	Known string    `json:"known"` // what knows it, a sentence
	// Of is the order that it bought again: no file has it.
	Of string `json:"of,omitempty"`
}
