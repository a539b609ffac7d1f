package order

import (
	"errors"
	"fmt"

	"github.com/certmill/certmill/pkg/record"
)

// ErrNewer is returned by Decode for a record that a newer program wrote.
var ErrNewer = record.ErrNewer

// Decode reads a record. What this program does not know of it, at every depth
// and in the elements of its lists, is kept and written back by Encode. The
// error wraps ErrNewer when the record's version is higher than SchemaVersion;
// any other error means that the bytes are no record.
func Decode(data []byte) (Order, error) {
	var o Order
	rest, err := record.Decode(data, SchemaVersion, (*plain)(&o))
	if err != nil {
		return Order{}, fmt.Errorf("decode order record: %w", err)
	}
	if o.V < 1 || o.State == "" {
		return Order{}, errors.New("decode order record: no version or no state")
	}
	o.rest = rest
	return o, nil
}

// Encode writes the record, with what Decode kept.
func (o Order) Encode() ([]byte, error) {
	body, err := record.Encode(plain(o), o.rest)
	if err != nil {
		return nil, fmt.Errorf("encode order %q: %w", o.ID(), err)
	}
	return body, nil
}

// MarshalJSON and UnmarshalJSON make the record keep what it does not know
// wherever it is embedded.
func (o Order) MarshalJSON() ([]byte, error) { return o.Encode() }

func (o *Order) UnmarshalJSON(data []byte) error {
	decoded, err := Decode(data)
	if err == nil {
		*o = decoded
	}
	return err
}

type plain Order
