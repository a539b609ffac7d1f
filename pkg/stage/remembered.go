package stage

import (
	"context"
	"fmt"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/memo"
)

// What the clouds say is remembered for a moment, so that many orders do not ask
// the same question, and a cloud that does not answer is not asked by one order
// after the other. It is kept by label, although it is so for the whole main
// account: who waits gets what was answered to that label's credentials, and if
// they were refused, that says nothing of another's.

// Usages remembers readings of products' quota. The reading that an entry keeps
// may be older than the entry: purchases between the two only make the growth
// that must be explained larger, never smaller.
type Usages struct {
	// Now is the ledger's clock: what was bought before a reading is told from what was
	// bought after it by the times of entries.
	Now  func(context.Context) (time.Time, error)
	seen memo.Memo[ledger.Used]
}

var usageKeep = memo.Keep{Answer: 10 * time.Second, Failure: memo.Moment, Silence: issuer.Silent}

// Before is a reading from before an entry is opened; nil where the cloud does
// not count.
func (u *Usages) Before(ctx context.Context, a *Account, flow issuer.Flow, product string) (*ledger.Used, error) {
	c, ok := flow.(issuer.Counter)
	if !ok {
		return nil, nil
	}
	used, err := u.seen.Get(ctx, a.Label+" "+product, usageKeep, func(ctx context.Context) (ledger.Used, error) {
		v, err := c.Usage(ctx, product)
		if err != nil {
			return ledger.Used{}, err
		}
		read, err := u.Now(ctx)
		return ledger.Used{Count: v.Used, Read: read}, err
	})
	if err != nil {
		return nil, err
	}
	return &used, nil
}

// Pools remembers what was bought and is unused.
type Pools struct{ seen memo.Memo[[]issuer.Row] }

var poolKeep = memo.Keep{Answer: 5 * time.Second, Failure: memo.Moment, Silence: issuer.Silent}

// forget makes the next one ask anew: what was remembered is wrong.
func (p *Pools) forget(a *Account, flow issuer.Flow) { p.seen.Forget(a.Label + " " + flow.Action()) }

func (p *Pools) unused(ctx context.Context, a *Account, flow issuer.Flow) ([]issuer.Row, error) {
	pool, ok := flow.(issuer.Pool)
	if !ok {
		return nil, fmt.Errorf("%s has no pool to choose from: name an id", flow.Action())
	}
	return p.seen.Get(ctx, a.Label+" "+flow.Action(), poolKeep, pool.Unused)
}
