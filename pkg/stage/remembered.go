package stage

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
)

// remembered keeps what a cloud said for a short time, so that many orders do
// not ask the same question. The zero value is ready.
type remembered[T any] struct {
	mu  sync.Mutex
	was map[string]answer[T]
}

type answer[T any] struct {
	value T
	read  time.Time
}

// get returns what was read no longer ago than life, or asks. Rivals wait for
// one answer instead of each asking.
func (r *remembered[T]) get(key string, life time.Duration, ask func() (T, error)) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a, ok := r.was[key]; ok && time.Since(a.read) < life {
		return a.value, nil
	}
	v, err := ask()
	if err != nil {
		return v, err
	}
	if r.was == nil {
		r.was = map[string]answer[T]{}
	}
	r.was[key] = answer[T]{v, time.Now()}
	return v, nil
}

// Usages remembers readings of products' quota. The reading that an entry keeps
// may be older than the entry: purchases between the two only make the growth
// that must be explained larger, never smaller.
type Usages struct{ seen remembered[ledger.Used] }

const usageLife = 10 * time.Second

// Before is a reading from before an entry is opened; nil where the cloud does
// not count.
func (u *Usages) Before(ctx context.Context, a *Account, flow issuer.Flow, product string) (*ledger.Used, error) {
	c, ok := flow.(issuer.Counter)
	if !ok {
		return nil, nil
	}
	used, err := u.seen.get(a.Main+" "+product, usageLife, func() (ledger.Used, error) {
		v, err := c.Usage(ctx, product)
		return ledger.Used{Count: v.Used, Read: v.Read}, err
	})
	if err != nil {
		return nil, err
	}
	return &used, nil
}

// Pools remembers what was bought and is unused.
type Pools struct{ seen remembered[[]issuer.Row] }

const poolLife = 5 * time.Second

func (p *Pools) unused(ctx context.Context, main string, flow issuer.Flow) ([]issuer.Row, error) {
	pool, ok := flow.(issuer.Pool)
	if !ok {
		return nil, fmt.Errorf("%s has no pool to choose from: name an id", flow.Action())
	}
	return p.seen.get(main+" "+flow.Action(), poolLife, func() ([]issuer.Row, error) { return pool.Unused(ctx) })
}
