package ledger

import (
	"context"
	"fmt"

	"github.com/certmill/certmill/pkg/stream"
)

// Since reads the entries of a main account that were written after a sequence of
// the ledger, 0 for all, and returns the sequence up to which it read. Of an entry
// that was written more than once there is the last one. Else it is as Each.
func (l *Ledger) Since(ctx context.Context, main string, after uint64, f func(Entry) error) (last uint64, err error) {
	last, err = stream.ReadAll(ctx, l.stream, "spend."+main+".*", after, func(m stream.Message) error {
		e, err := decodeEntry(m.Data, m.Seq, m.Stored)
		if err != nil {
			return nil // another program's: Each tells of it
		}
		return f(e)
	})
	if err != nil {
		return after, fmt.Errorf("read ledger of %s: %w", main, err)
	}
	return max(last, after), nil
}
