package dcv_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/dcvtest"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/order"
)

// target is the account for the contract suite.
func (a *account) target() dcvtest.Target {
	return dcvtest.Target{
		Solver: a.solver, Zone: "example.com", Longest: 255, Many: 120,
		Writes: func(*testing.T) int { return a.calls(a.add) + a.calls(a.addMany) },
		Calls:  a.documented, Made: func(*testing.T) map[string]int { return a.made() },
		Content: func(*testing.T) []string {
			var all []string
			for _, r := range a.Records() {
				all = append(all, fmt.Sprintf("%s %s %q #%s", r.Name, r.Type, r.Value, r.ID))
			}
			slices.Sort(all)
			return all
		},
		Put: func(t *testing.T, name, kind, value string) {
			rr := strings.TrimSuffix(strings.TrimSuffix(name, "example.com"), ".")
			if rr == "" {
				rr = dcv.Apex
			}
			_, err := a.AddRecord(cloudsim.ConsoleRecord{Cloud: a.cloud.account.Cloud, UID: a.cloud.account.UID, Zone: "example.com", RR: rr, Type: kind, Value: value})
			must(t, err)
		},
		Look: func(t *testing.T, c order.Challenge) dcv.Sighting {
			l := newLooker(t, dcv.LookerConfig{Resolvers: []string{a.DNSAddr()}, Servers: []string{a.DNSAddr()}})
			s, err := l.Look(t.Context(), c)
			must(t, err)
			return s
		},
	}
}

func TestContract(t *testing.T) {
	for _, c := range clouds {
		t.Run(c.name, func(t *testing.T) {
			dcvtest.Run(t, func(t *testing.T) dcvtest.Target {
				// Records are written together while a call is under way. Calls
				// that take no time at all leave none.
				return startWith(t, c, []string{"example.com"}, func(cfg *cloudsim.Config) { cfg.Latency = cloudsim.Between(5*time.Millisecond, 10*time.Millisecond) }).target()
			})
		})
	}
}

// Without the actions for batches, and with a key that may not use them, the
// contract holds too, and they are tried once only.
func TestContractWithoutBatches(t *testing.T) {
	for _, c := range clouds {
		for _, why := range []string{"unknown", "denied"} {
			t.Run(c.name+" "+why, func(t *testing.T) {
				var a *account
				dcvtest.Run(t, func(t *testing.T) dcvtest.Target {
					c := c
					if why == "denied" {
						c.account.Deny = []string{c.addMany, "DeleteRecordBatch"}
					}
					a = startWith(t, c, []string{"example.com"}, func(cfg *cloudsim.Config) { cfg.NoBatch = why == "unknown" })
					target := a.target()
					target.Many, target.Writes = 100, nil
					return target
				})
				if n := a.calls(a.addMany) + a.calls("DeleteRecordBatch"); n > 2 {
					t.Errorf("batches were tried %d times", n)
				}
			})
		}
	}
}

// crowd presents or cleans up many challenges of one zone at the same time.
func crowd(t *testing.T, n int, do func(order.Challenge) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := do(txt(fmt.Sprintf("_dnsauth.host%d.example.com", i), fmt.Sprint("value ", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// wantRecords wants exactly this many records, each once, and that nobody's
// were touched but those of the key.
func (a *account) wantRecords(n int) {
	a.t.Helper()
	seen := map[string]bool{}
	for _, r := range a.Records() {
		what := r.Name + " " + r.Type + " " + r.Value
		if seen[what] {
			a.t.Errorf("%s is there twice", what)
		}
		seen[what] = true
	}
	if len(seen) != n {
		a.t.Errorf("%d records, want %d", len(seen), n)
	}
	if foreign := a.Report().DNS.Foreign; len(foreign) > 0 {
		a.t.Errorf("records of others were touched: %+v", foreign)
	}
}

const many = 60

func TestBatch(t *testing.T) {
	for _, c := range clouds {
		t.Run(c.name, func(t *testing.T) {
			a := startWith(t, c, []string{"example.com"}, func(cfg *cloudsim.Config) { cfg.Latency = cloudsim.Between(20*time.Millisecond, 40*time.Millisecond) })
			// Some are there already: what the batch says of them is asked again singly.
			for i := range 5 {
				must(t, a.put("example.com", fmt.Sprintf("_dnsauth.host%d", 20+i), "TXT", fmt.Sprint("value ", 20+i)))
			}
			crowd(t, many, func(o order.Challenge) error { return a.solver.Present(t.Context(), o) })
			a.wantRecords(many)
			if n := a.calls(a.addMany); n == 0 || a.calls(a.add)-5 > many/3 {
				t.Errorf("%d batches and %d single additions for %d records", n, a.calls(a.add)-5, many)
			}
			crowd(t, many, func(o order.Challenge) error { return a.solver.CleanUp(t.Context(), o) })
			a.wantRecords(0)
			if a.name == "dnspod" && a.calls(a.delete) > many/3 {
				t.Errorf("%d single deletions of %d records, %d batches", a.calls(a.delete), many, a.calls("DeleteRecordBatch"))
			}
			// Few at a time are written singly.
			must(t, a.solver.Present(t.Context(), txt("_dnsauth.www.example.com", "value")))
			must(t, a.solver.CleanUp(t.Context(), txt("_dnsauth.www.example.com", "value")))
			issuertest.Documented(t, a.documented, a.made())
			for _, call := range a.documented {
				if a.calls(call.Action) == 0 {
					t.Errorf("%s is documented and was not called: a right that nobody needs", call.Action)
				}
			}
		})
	}
}

// Whatever becomes of a batch, each record is there once in the end.
func TestBatchGoesWrong(t *testing.T) {
	for _, c := range clouds {
		results := map[string]string{"alidns": "DescribeBatchResultDetail", "dnspod": "DescribeBatchTask"}[c.name]
		for what, fault := range map[string]cloudsim.Fault{
			"its answer is lost":     {Action: c.addMany, Kind: "reset_after_commit", Times: 1},
			"it never arrives":       {Action: c.addMany, Kind: "reset_before_commit", Times: 1},
			"it is throttled":        {Action: c.addMany, Kind: "throttle", Times: 1},
			"its result is not told": {Action: results, Kind: "throttle", Times: 1},
		} {
			t.Run(c.name+" "+what, func(t *testing.T) {
				a := startWith(t, c, []string{"example.com"}, func(cfg *cloudsim.Config) { cfg.Latency = cloudsim.Between(20*time.Millisecond, 40*time.Millisecond) })
				must(t, a.AddFault(fault))
				crowd(t, many, func(o order.Challenge) error { return a.solver.Present(t.Context(), o) })
				a.wantRecords(many)
				if n := a.calls(c.addMany); n != 1 {
					t.Errorf("%d batches, want one, and none for a while", n)
				}
				crowd(t, many, func(o order.Challenge) error { return a.solver.CleanUp(t.Context(), o) })
				a.wantRecords(0)
			})
		}
	}
}

// DNSPod takes few batches an hour. Then it is asked singly.
func TestBatchesAreUsedUp(t *testing.T) {
	a := startWith(t, clouds[1], []string{"example.com"}, func(cfg *cloudsim.Config) {
		cfg.Latency, cfg.BatchTasksPerHour = cloudsim.Between(20*time.Millisecond, 40*time.Millisecond), 1
	})
	crowd(t, many, func(o order.Challenge) error { return a.solver.Present(t.Context(), o) })
	crowd(t, many, func(o order.Challenge) error { return a.solver.CleanUp(t.Context(), o) })
	crowd(t, many, func(o order.Challenge) error { return a.solver.Present(t.Context(), o) })
	a.wantRecords(many)
}

// DNSPod lists a new record late, and says so. The process that placed it finds
// it all the same; another knows how long it may miss it.
func TestListThatLags(t *testing.T) {
	a := startWith(t, clouds[1], []string{"example.com"}, func(cfg *cloudsim.Config) {
		cfg.RecordListLag, cfg.Latency = cloudsim.Exactly(time.Hour), cloudsim.Between(20*time.Millisecond, 40*time.Millisecond)
	})
	other, _ := a.connect(t, a.url(a.Sim), newPermits())
	c := txt("_dnsauth.www.example.com", "value")
	must(t, a.solver.Present(t.Context(), c))
	must(t, a.solver.Present(t.Context(), c))
	must(t, other.Present(t.Context(), c)) // the cloud says that it exists
	a.wantRecords(1)
	if lag := other.(dcv.Lagger).Lag(c); lag < 30*time.Second || lag > time.Minute {
		t.Errorf("the list may lag by %v", lag)
	}
	if has, err := a.solver.(dcv.Haser).Has(t.Context(), c); err != nil || !has {
		t.Errorf("has it: %v, %v", has, err)
	}
	must(t, a.solver.CleanUp(t.Context(), txt("_dnsauth.www.example.com", "another")))
	a.wantRecords(1)
	must(t, a.solver.CleanUp(t.Context(), c))
	a.wantRecords(0)
	if has, err := a.solver.(dcv.Haser).Has(t.Context(), c); err != nil || has {
		t.Errorf("still has it: %v, %v", has, err)
	}
	crowd(t, many, func(o order.Challenge) error { return a.solver.Present(t.Context(), o) })
	a.wantRecords(many)
	crowd(t, many, func(o order.Challenge) error { return a.solver.CleanUp(t.Context(), o) })
	a.wantRecords(0)
	route := dcv.NewRoute(map[string]dcv.Solver{"*": a.solver}, nil)
	if route.Lag(c) == 0 || (dcv.ByType{DNS: route}).Lag(c) == 0 {
		t.Error("the lag is lost on the way")
	}
}
