package app

import (
	"context"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// labelled begin the names of the consumers that a worker pulls from for an account of
// its config: sweeps, also while the account rests, and lanes.
var labelled = []string{"unsure-", "waiting-", "issuing-", "recheck-",
	string(order.Submit) + "-", string(order.Verify) + "-", string(order.Collect) + "-"}

// attendedFor is how long ago a worker asked that still counts as connected: sweeps
// come every second, and one may take a while.
const attendedFor = 15 * time.Second

// attended are the accounts that connected workers have in their config.
func (o observed) attended() map[string]bool {
	all := map[string]bool{}
	for _, c := range o.consumers {
		if c.Stream != pipeline.TicketStream && c.Stream != pipeline.OrdersStream {
			continue
		}
		asked := c.NumWaiting > 0 || c.Delivered.Last != nil && o.now.Sub(*c.Delivered.Last) < attendedFor
		for _, kind := range labelled {
			if label, is := strings.CutPrefix(c.Name, kind); is && asked {
				all[strings.TrimSuffix(label, order.UrgentSuffix)] = true
			}
		}
	}
	return all
}

// unattended is said of an account that none of them has.
const unattended = "is in the config of no connected worker"

// attention is what was seen of the workers, and when.
type attention struct {
	at     time.Time
	labels map[string]bool
}

// attentionHolds is how long that is good for: commands ask for each of their orders.
const attentionHolds = 2 * time.Second

// gone tells that workers are connected and that none of them has an account in its
// config. Where nobody can tell, none is.
func (c *Console) gone(ctx context.Context, label string) bool {
	if label == "" {
		return false
	}
	labels := c.attended(ctx)
	return len(labels) > 0 && !labels[label]
}

// attended are the accounts in the config of connected workers; none where nobody can
// tell.
func (c *Console) attended(ctx context.Context) map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.attention.at) > attentionHolds {
		seen, err := observe(ctx, c.js)
		if err != nil {
			return nil
		}
		c.attention = attention{time.Now(), seen.attended()}
	}
	return c.attention.labels
}
