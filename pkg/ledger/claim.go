package ledger

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Resource is a claim on something already bought: an instance or certificate
// id, and the order that uses it.
type Resource struct {
	Order    string    `json:"order"` // empty: given back
	Purchase int       `json:"purchase,omitempty"`
	At       time.Time `json:"at"`
}

var plainToken = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// claimSubject: ids of the clouds are plain tokens; anything else is written in
// hex, because a dot or a wildcard would name another subject.
func claimSubject(main, id string) string {
	if !plainToken.MatchString(id) {
		id = "x" + hex.EncodeToString([]byte(id))
	}
	return "claim." + main + "." + id
}

// Holder returns which order holds a resource; an empty one if none does.
func (l *Ledger) Holder(ctx context.Context, main, id string) (Resource, error) {
	r, _, err := l.readClaim(ctx, main, id)
	return r, err
}

func (l *Ledger) readClaim(ctx context.Context, main, id string) (Resource, uint64, error) {
	raw, err := l.stream.GetLastMsgForSubject(ctx, claimSubject(main, id))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Resource{}, 0, nil
	}
	if err != nil {
		return Resource{}, 0, fmt.Errorf("read claim of %s: %w", id, err)
	}
	var r Resource
	if err := json.Unmarshal(raw.Data, &r); err != nil {
		return Resource{}, 0, fmt.Errorf("decode claim of %s: %w", id, err)
	}
	return r, raw.Sequence, nil
}

// Claim takes a resource for an order. The error wraps ErrTaken if another
// order has it. Safe to repeat.
func (l *Ledger) Claim(ctx context.Context, main, id, order string, purchase int) error {
	return l.setClaim(ctx, main, id, func(r Resource) (bool, error) {
		switch r.Order {
		case order:
			return r.Purchase != purchase, nil
		case "":
			return true, nil
		}
		return false, fmt.Errorf("%s: %w %q", id, ErrTaken, r.Order)
	}, Resource{Order: order, Purchase: purchase, At: time.Now().UTC()})
}

// Release gives a resource back, when a look showed that it was not started.
// Safe to repeat; a claim of another order is left alone.
func (l *Ledger) Release(ctx context.Context, main, id, order string) error {
	return l.setClaim(ctx, main, id, func(r Resource) (bool, error) {
		return r.Order == order, nil
	}, Resource{At: time.Now().UTC()})
}

func (l *Ledger) setClaim(ctx context.Context, main, id string, may func(Resource) (bool, error), to Resource) error {
	data, err := json.Marshal(to)
	if err != nil {
		return fmt.Errorf("encode claim: %w", err)
	}
	for n := range writes {
		r, seq, err := l.readClaim(ctx, main, id)
		if err != nil {
			return err
		}
		if change, err := may(r); err != nil || !change {
			return err
		}
		_, err = l.js.Publish(ctx, claimSubject(main, id), data, jetstream.WithExpectLastSequencePerSubject(seq))
		if err == nil {
			return nil
		}
		if !conflict(err) {
			return fmt.Errorf("write claim of %s: %w", id, err)
		}
		if err := pause(ctx, n); err != nil {
			return err
		}
	}
	return ErrConflict
}
