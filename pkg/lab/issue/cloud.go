package issue

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// openCloud starts the clouds with one Alibaba account. Its delays are the
// simulator's own, but for what the setup says.
func openCloud(ctx context.Context, s setup) (*cloudsim.Sim, error) {
	cfg := cloudsim.Config{
		IssueDelay: s.scaledRange(s.issue), CloudKey: "p256", Logger: slog.New(slog.DiscardHandler), Limits: map[string]int{},
		Accounts: []cloudsim.Account{{Cloud: "aliyun", Label: "bench", UID: "1000000000000001", AccessKeyID: "LTAI5tCertmillBench01",
			AccessKeySecret: "bench-secret", Products: map[string]int{product: 10 * s.orders}}},
	}
	for action, n := range cloudsim.DefaultLimits() {
		cfg.Limits[action] = n * s.scale
	}
	sim, err := cloudsim.Start(context.WithoutCancel(ctx), cfg)
	if err != nil || s.scale == 1 {
		return sim, err
	}
	err = sim.SetConfig(func(c *cloudsim.Config) {
		for _, r := range []*cloudsim.Range{&c.ChallengeDelay, &c.ListLag, &c.DNSLag, &c.Latency} {
			*r = s.scaledRange(*r)
		}
		c.CheckInterval /= cloudsim.Duration(s.scale)
	})
	if err != nil {
		_ = sim.Close()
		return nil, err
	}
	return sim, nil
}

// Calls are one action's, as the cloud counted them.
type Calls struct {
	Action    string `json:"action"`
	Calls     int    `json:"calls"`
	Throttled int    `json:"throttled"`
	OverLimit int    `json:"over_limit"` // calls at whose arrival more than the limit lay within a second
	Peak      int    `json:"peak"`       // most calls in a sliding second
	Limit     int    `json:"limit"`      // per second
}

// dns tells whether an action is one of alidns, not of CAS.
func (c Calls) dns() bool {
	return strings.Contains(c.Action, "Domain") || strings.Contains(c.Action, "BatchResult")
}

// callsSince are those after an earlier report; the peaks are of the whole time.
func callsSince(before, now cloudsim.Report) []Calls {
	was := map[string]cloudsim.CallReport{}
	for _, c := range before.Calls {
		was[c.Action] = c
	}
	var all []Calls
	for _, c := range now.Calls {
		b := was[c.Action]
		all = append(all, Calls{Action: c.Action, Calls: c.Calls - b.Calls, Throttled: c.Throttled - b.Throttled,
			OverLimit: c.Violations - b.Violations, Peak: c.PeakSliding, Limit: c.Limit})
	}
	return all
}

// Bill is what a number of certificates cost in calls.
type Bill struct {
	certificates int
	Calls        []Calls `json:"calls"`
	CAS          float64 `json:"cas_per_certificate"`
	DNS          float64 `json:"dns_per_certificate"`
	Throttled    int     `json:"throttled"`
	OverLimit    int     `json:"over_limit"`
	Peak         string  `json:"peak"` // of the CAS action that came nearest to its limit: calls of calls allowed
}

func newBill(calls []Calls, certificates int) Bill {
	b := Bill{Calls: calls, certificates: certificates}
	nearest := -1.0
	for _, c := range calls {
		b.Throttled += c.Throttled
		b.OverLimit += c.OverLimit
		if c.dns() {
			b.DNS += float64(c.Calls) / float64(max(certificates, 1))
			continue
		}
		b.CAS += float64(c.Calls) / float64(max(certificates, 1))
		if share := float64(c.Peak) / float64(max(c.Limit, 1)); share > nearest {
			nearest, b.Peak = share, fmt.Sprintf("%d of %d", c.Peak, c.Limit)
		}
	}
	return b
}

// perCertificate is how often an action was called, or empty.
func (b Bill) perCertificate(action string) string {
	for _, c := range b.Calls {
		if c.Action == action {
			return fmt.Sprintf("%.3f", float64(c.Calls)/float64(max(b.certificates, 1)))
		}
	}
	return ""
}

// mostCASCalls per certificate are far more than certmill needs; a row above
// it tells that something asks in vain.
const mostCASCalls = 6

// wrong says what must not be in a row of who's. The rivals may be throttled and
// ask as often as they like, but they must get there.
func (b Bill) wrong(who string, orders, certificates int) error {
	switch {
	case certificates != orders:
		return fmt.Errorf("%s: only %d of %d certificates are there and what was ordered", who, certificates, orders)
	case who != certmill:
		return nil
	case b.Throttled > 0 || b.OverLimit > 0:
		return fmt.Errorf("%s: %d calls were throttled and %d over the limit", who, b.Throttled, b.OverLimit)
	case b.CAS > mostCASCalls:
		return fmt.Errorf("%s: %.1f CAS calls per certificate, more than %d", who, b.CAS, mostCASCalls)
	}
	return nil
}
