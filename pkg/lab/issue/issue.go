// Package issue is the bench behind "certmill bench batch" and "certmill bench
// sweep": how long certmill takes for a batch, how many calls a certificate
// costs and how soon it is noticed, beside programs that a user would write
// with Alibaba's SDK.
//
// Both benches use one simulated Alibaba account and the flow of package plans
// with DNS validation. Everything is real but the clouds: an embedded
// nats-server that syncs every write, the three workers, the vendor's SDK over
// HTTP, the DNS, and certificates on disk, each of which is checked. All of it
// runs in one process, so its CPU time is shown, too. The calls are those that
// the simulated cloud counted.
package issue

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// product is what the orders buy.
const product = "symantec-dv-1-starter"

// usualLimit is how often a CAS action may be called in a second.
const usualLimit = 10

// certmill is what the rows of the product itself are called.
const certmill = "certmill"

// setup is what a measured program is put in front of.
type setup struct {
	dir    string         // new, for state and certificates
	orders int            // how many there will be at most
	issue  cloudsim.Range // what the CA takes, unscaled
	scale  int            // the limits are multiplied by it, the clouds' delays divided; 1: as they are
	log    *slog.Logger
}

// scaled is a time of the real clouds as it is here.
func (s setup) scaled(d time.Duration) time.Duration { return d / time.Duration(s.scale) }

// unscaled is a time as it would be at the real clouds.
func (s setup) unscaled(d time.Duration) time.Duration { return d * time.Duration(s.scale) }

func (s setup) scaledRange(r cloudsim.Range) cloudsim.Range {
	if r == cloudsim.None {
		return r
	}
	return cloudsim.Between(s.scaled(r.Min), s.scaled(r.Max))
}

// discard is where logs go that nobody asked for.
func discard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// tell passes on how many orders have ended, ten times in all.
func tell(progress func(string), who string, orders int) func(ended int) {
	return func(ended int) {
		if ended%max(orders/10, 1) == 0 {
			progress(fmt.Sprintf("%s: %d of %d ended", who, ended, orders))
		}
	}
}
