package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/certmill/certmill/pkg/record"
	"github.com/certmill/certmill/pkg/stream"
)

// Resource is a claim on something already bought: an instance or certificate
// id, and the order that uses it.
type Resource struct {
	V        int       `json:"v,omitempty"`
	Order    string    `json:"order"` // empty: given back
	Purchase int       `json:"purchase,omitempty"`
	At       time.Time `json:"at"`

	rest record.Rest // what another build wrote and this one does not know
}

func claimSubject(main, id string) string { return "claim." + main + "." + stream.Token(id) }

func (l *Ledger) claim(main, id string) stream.Cell {
	return stream.At(l.js, l.stream, claimSubject(main, id))
}

// Holder returns which order holds a resource; an empty one if none does. The
// error wraps record.ErrNewer if a newer program wrote the claim.
func (l *Ledger) Holder(ctx context.Context, main, id string) (Resource, error) {
	v, err := l.claim(main, id).Read(ctx)
	if err != nil {
		return Resource{}, fmt.Errorf("claim of %s: %w", id, err)
	}
	return held(id, v)
}

// held is the claim that lies in its cell.
func held(id string, v stream.Value) (r Resource, err error) {
	if v.Seq == 0 {
		return Resource{}, nil
	}
	if r.rest, err = record.Decode(v.Data, version, &r); err != nil {
		return Resource{}, fmt.Errorf("claim of %s: %w", id, err)
	}
	return r, nil
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
	_, err := l.claim(main, id).Change(ctx, func(v stream.Value) ([]byte, error) {
		r, err := held(id, v)
		if err != nil {
			return nil, err
		}
		if change, err := may(r); err != nil || !change {
			return nil, err
		}
		to.V = version
		return record.Encode(to, r.rest)
	})
	return err
}
