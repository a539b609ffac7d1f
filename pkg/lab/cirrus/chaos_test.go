package cirrus_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/lab/chaos"
	"github.com/certmill/certmill/pkg/lab/cirrus/sky"
)

// site is the cloud as a battery needs it.
type site struct {
	*sky.Sky
	accounts []chaos.Account
	stall    time.Duration
}

// open opens the cloud for a battery. lost is the share of purchases whose answer
// is lost after they took effect, from the beginning on.
func open(lost float64) func(chaos.Setting) (chaos.Clouds, error) {
	return func(in chaos.Setting) (chaos.Clouds, error) {
		cfg := sky.Config{Seed: in.Seed, Web: in.Web, SignatureLife: in.SignatureLife, ClockSkew: in.Clocks,
			ListLag: in.ListLag,
			Latency: 40 * time.Millisecond, ProofDelay: 500 * time.Millisecond, IssueDelay: time.Second}
		for n := range in.Accounts {
			cfg.Accounts = append(cfg.Accounts, sky.Account{Key: fmt.Sprintf("ck-chaos-%d", n),
				Secret: fmt.Sprintf("chaos-secret-%d", n),
				Main:   fmt.Sprintf("c%04d", n), Plans: map[string]int{flock: 10 * in.Orders}})
		}
		cloud, err := sky.Start(cfg)
		if err != nil {
			return nil, err
		}
		s := &site{Sky: cloud, stall: 5 * in.Deadline / 2}
		for n, a := range cfg.Accounts {
			s.accounts = append(s.accounts, chaos.Account{Label: fmt.Sprintf("cirrus-%d", n), Key: a.Key,
				Secret: a.Secret,
				Config: app.Account{Cloud: "cirrus", Main: a.Main, Endpoint: cloud.URL()}})
		}
		if lost == 0 {
			return s, nil
		}
		return s, cloud.Fail(sky.Fault{Action: "PlaceOrder", Kind: "reset after commit", Share: lost})
	}
}

func (s *site) Accounts() []chaos.Account { return s.accounts }

func (s *site) Close() error {
	s.Sky.Close()
	return nil
}

// Odd: the documents leave nothing open.
func (s *site) Odd() error { return nil }

func (s *site) Fail(share float64) (hits int, err error) {
	hits = s.Mend()
	if share == 0 {
		return hits, nil
	}
	// Purchases go wrong twice as often as all else: they are what it is about.
	for _, action := range []string{"PlaceOrder", ""} {
		each, left := share/float64(len(sky.Kinds)), 1.0
		for _, kind := range kinds() {
			if err := s.Sky.Fail(sky.Fault{Action: action, Kind: kind, Share: each / left,
				Stall: s.stall}); err != nil {
				return hits, err
			}
			left -= each // the rules are drawn one after another
		}
	}
	return hits, nil
}

func kinds() (all []string) {
	for kind := range sky.Kinds {
		all = append(all, kind)
	}
	slices.Sort(all)
	return all
}

func (s *site) Buys(r *http.Request, _ []byte) bool { return r.URL.Path == "/v1/PlaceOrder" }

func (s *site) Books() (b chaos.Books) {
	r := s.Report()
	for _, o := range r.Orders {
		b.Orders = append(b.Orders, chaos.Bought{Main: o.Main, ID: o.ID, Names: o.Names, KeyFP: o.KeyFP, Paid: true,
			Told: o})
	}
	for _, c := range r.Calls {
		b.OverLimit += c.OverLimit
	}
	return b
}

// TestSpend is the scene of chaos in which money is spent: workers are killed
// while half of the purchases' answers are lost, and all kinds of answers of
// all calls. Nothing is paid twice, nothing is lost, no limit is passed, and no
// file is left behind.
func TestSpend(t *testing.T) {
	t.Parallel()
	const n = 16
	for battery, lost := range map[string]float64{"kill": 0.5, "faults": 0} {
		t.Run(battery, func(t *testing.T) {
			t.Parallel()
			r, err := chaos.Run(t.Context(), chaos.Options{Batteries: []string{battery}, Clouds: open(lost), Seed: 11,
				Dir:  t.TempDir(),
				Size: chaos.Size{Orders: n, For: 8 * time.Second, Accounts: 2}})
			if err != nil {
				t.Fatal(err)
			}
			// One whose answer was lost before it took effect may be held, where the
			// plan's count fell by the others' purchases.
			issued := r.States["issued"]
			if !r.OK() || r.Orders != n || issued+r.States["held"] != n || issued < n*3/4 ||
				r.QuotaCloud != r.QuotaOurs || r.QuotaCloud < issued {
				t.Errorf("%s", r.Text())
			}
			if r.OverLimit > 0 || r.Faults == 0 || battery == "kill" && r.Kills < 4 {
				t.Errorf("%d calls over the limit, %d faults, %d kills: %s", r.OverLimit, r.Faults, r.Kills, r.Text())
			}
		})
	}
}
