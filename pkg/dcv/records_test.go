package dcv_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

func txt(host, value string) order.Challenge {
	return order.Challenge{Name: "www.example.com", Type: dcv.TXT, Host: host, Value: value}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantKind wants an error of one of the kinds for which only a person can help,
// or, without a kind, one that says "try again".
func wantKind(t *testing.T, err error, kind dcv.Kind, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("got no error")
	}
	for _, k := range []dcv.Kind{dcv.NoZone, dcv.Conflict, dcv.Denied} {
		if errors.Is(err, k) != (k == kind) {
			t.Errorf("got %v, want the kind %q", err, kind)
		}
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("got %v, want it to say %s", err, s)
		}
	}
}

func TestPresentAndCleanUp(t *testing.T) {
	each(t, []string{"example.com", "example.co.uk"}, func(t *testing.T, a *account) {
		ctx, s := t.Context(), a.solver
		one, two := txt("_dnsauth.www.example.com", "one"), txt("_dnsauth.www.example.com", "two")
		apex := txt("example.co.uk", "three")
		for _, c := range []order.Challenge{one, two, one, apex, two, apex} { // each again: a success, and no second record
			must(t, s.Present(ctx, c))
		}
		if n := a.calls(a.find); n != 3 {
			t.Errorf("%d searches, want one for each challenge that was there", n)
		}
		a.want("_dnsauth.www.example.com", `TXT "one"`, `TXT "two"`)
		a.want("example.co.uk", `TXT "three"`)
		for range 2 { // again: nothing there is a success
			must(t, s.CleanUp(ctx, one))
		}
		a.want("_dnsauth.www.example.com", `TXT "two"`)
		must(t, s.CleanUp(ctx, two))
		must(t, s.CleanUp(ctx, apex))
		a.want("_dnsauth.www.example.com")
		a.want("example.co.uk")
	})
}

func TestCleanUpLeavesOthers(t *testing.T) {
	each(t, []string{"example.com"}, func(t *testing.T, a *account) {
		must(t, a.put("example.com", "_dnsauth", "TXT", "mine"))
		for i := range 120 { // more than a page of alidns
			must(t, a.put("example.com", "_dnsauth", "TXT", fmt.Sprint("other ", i)))
		}
		must(t, a.put("example.com", "_dnsauth", "TXT", "Mine"))
		must(t, a.put("example.com", "_dnsauth.www", "TXT", "mine"))
		must(t, a.put("example.com", "x_dnsauth", "TXT", "mine"))
		must(t, a.solver.CleanUp(t.Context(), txt("_dnsauth.example.com", "mine")))
		a.want("_dnsauth.www.example.com", `TXT "mine"`)
		a.want("x_dnsauth.example.com", `TXT "mine"`)
		for i := range 120 {
			must(t, a.solver.CleanUp(t.Context(), txt("_dnsauth.example.com", fmt.Sprint("other ", i))))
		}
		a.want("_dnsauth.example.com", `TXT "Mine"`)
	})
}

func TestLostAnswer(t *testing.T) {
	each(t, []string{"example.com"}, func(t *testing.T, a *account) {
		c := txt("_dnsauth.example.com", "value")
		for _, action := range []string{a.add, a.delete} {
			must(t, a.AddFault(cloudsim.Fault{Action: action, Kind: "reset_after_commit", Times: 1}))
		}
		wantKind(t, a.solver.Present(t.Context(), c), "")
		must(t, a.solver.Present(t.Context(), c))
		a.want("_dnsauth.example.com", `TXT "value"`)
		wantKind(t, a.solver.CleanUp(t.Context(), c), "")
		must(t, a.solver.CleanUp(t.Context(), c))
		a.want("_dnsauth.example.com")
	})
}

func TestConflict(t *testing.T) {
	each(t, []string{"example.com"}, func(t *testing.T, a *account) {
		must(t, a.put("example.com", "_dnsauth", "CNAME", "elsewhere.example.net"))
		wantKind(t, a.solver.Present(t.Context(), txt("_dnsauth.example.com", "value")), dcv.Conflict, "CNAME", "elsewhere.example.net")
		a.want("_dnsauth.example.com", "CNAME elsewhere.example.net.")

		must(t, a.solver.Present(t.Context(), txt("_x.example.com", "value")))
		cname := order.Challenge{Type: dcv.CNAME, Host: "_x.example.com", Value: "token.ca.example"}
		wantKind(t, a.solver.Present(t.Context(), cname), dcv.Conflict, `TXT "value"`)
		a.want("_x.example.com", `TXT "value"`)
	})
}

func TestCNAMEChallenge(t *testing.T) {
	each(t, []string{"example.com"}, func(t *testing.T, a *account) {
		c := order.Challenge{Type: dcv.CNAME, Host: "_x.example.com", Value: "token.ca.example"}
		must(t, a.solver.Present(t.Context(), c))
		must(t, a.solver.Present(t.Context(), c)) // the provider may show the target with a dot
		a.want("_x.example.com", "CNAME token.ca.example.")
		c.Value = "another.ca.example"
		wantKind(t, a.solver.Present(t.Context(), c), dcv.Conflict, "token.ca.example")
		must(t, a.solver.CleanUp(t.Context(), c))
		a.want("_x.example.com", "CNAME token.ca.example.")
		c.Value = "Token.CA.example."
		must(t, a.solver.CleanUp(t.Context(), c))
		a.want("_x.example.com")
	})
}

func TestDenied(t *testing.T) {
	for _, c := range clouds {
		t.Run(c.name, func(t *testing.T) {
			a := start(t, c, []string{"example.com"})
			challenge := txt("_dnsauth.example.com", "value")
			a.cloud.account.Deny = []string{c.add, c.find}
			a.rezone("example.com")
			wantKind(t, a.solver.Present(t.Context(), challenge), dcv.Denied, c.add)
			wantKind(t, a.solver.CleanUp(t.Context(), challenge), dcv.Denied, c.find)
			a.cloud.account.Deny = []string{c.list}
			a.rezone("example.com")
			fresh, _ := c.connect(t, c.url(a.Sim), newPermits())
			wantKind(t, fresh.Present(t.Context(), challenge), dcv.Denied, c.list)
			for _, bad := range []order.Challenge{{Type: dcv.FILE, Host: "example.com", Value: "v"}, {Type: dcv.TXT, Host: "example.com"}} {
				wantKind(t, a.solver.Present(t.Context(), bad), dcv.Denied)
			}
		})
	}
}

// What the name shows decides about a refusal of the provider.
func TestRefusalsThatTheNameExplains(t *testing.T) {
	for _, c := range clouds {
		t.Run(c.name, func(t *testing.T) {
			challenge := txt("_dnsauth.example.com", "value")
			with := func(there map[string]any) dcv.Solver {
				return scripted(t, c, map[string]func(http.ResponseWriter) map[string]any{
					c.list:   func(http.ResponseWriter) map[string]any { return c.zone("example.com") },
					c.add:    func(w http.ResponseWriter) map[string]any { return c.code(w, c.locked) },
					c.find:   func(http.ResponseWriter) map[string]any { return there },
					c.delete: func(w http.ResponseWriter) map[string]any { return c.code(w, c.gone) },
				})
			}
			must(t, with(c.record("_DNSAUTH", "TXT", "value", false)).Present(t.Context(), challenge))
			wantKind(t, with(c.record("_dnsauth", "TXT", "value", true)).Present(t.Context(), challenge), dcv.Conflict, "disabled")
			wantKind(t, with(c.record("_dnsauth", "TXT", "Value", false)).Present(t.Context(), challenge), dcv.Denied, c.locked)
			wantKind(t, with(c.record("other", "CNAME", "value", false)).Present(t.Context(), challenge), dcv.Denied, c.locked)
			// Somebody else deletes it between search and deletion.
			must(t, with(c.record("_dnsauth", "TXT", "value", false)).CleanUp(t.Context(), challenge))
		})
	}
}

func TestThrottledIsTriedAgain(t *testing.T) {
	each(t, []string{"example.com"}, func(t *testing.T, a *account) {
		must(t, a.AddFault(cloudsim.Fault{Action: a.add, Kind: "throttle", Times: 1}))
		err := a.solver.Present(t.Context(), txt("_dnsauth.example.com", "value"))
		wantKind(t, err, "")
		if issuer.KindOf(err) != issuer.Throttled {
			t.Errorf("got %v, want throttled", err)
		}
	})
}

func TestNoZone(t *testing.T) {
	each(t, []string{"example.com"}, func(t *testing.T, a *account) {
		c := txt("_dnsauth.notexample.com", "value")
		wantKind(t, a.solver.Present(t.Context(), c), dcv.NoZone, "notexample.com")
		wantKind(t, a.solver.CleanUp(t.Context(), c), dcv.NoZone, "notexample.com")
		wantKind(t, a.solver.Present(t.Context(), txt("co.uk", "value")), dcv.NoZone)
		a.rezone("example.com", "notexample.com")
		must(t, a.solver.Present(t.Context(), c)) // a zone added since is found at once
		a.want("_dnsauth.notexample.com", `TXT "value"`)
	})
}

func TestZoneTakenAway(t *testing.T) {
	each(t, []string{"example.com", "dev.example.com"}, func(t *testing.T, a *account) {
		must(t, a.solver.Present(t.Context(), txt("_dnsauth.dev.example.com", "value")))
		a.rezone("example.com")
		c := txt("_dnsauth.www.dev.example.com", "value")
		wantKind(t, a.solver.Present(t.Context(), c), dcv.NoZone)
		must(t, a.solver.Present(t.Context(), c)) // the zones were listed again
		a.want("_dnsauth.www.dev.example.com", `TXT "value"`)
	})
}

func TestZonesAreListedOnce(t *testing.T) {
	var zones []string
	for i := range 250 { // three pages of alidns
		zones = append(zones, fmt.Sprintf("zone%03d.example", i))
	}
	each(t, zones, func(t *testing.T, a *account) {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if err := a.solver.Present(t.Context(), txt("_dnsauth."+zones[230+i], "value")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		want := map[string]int{"alidns": 3, "dnspod": 1}[a.name]
		if n := a.calls(a.list); n != want || a.calls(a.find) != 0 || a.calls(a.add) != 20 {
			t.Errorf("%d calls for zones, want %d; %d for records, want 0; %d additions, want 20", n, want, a.calls(a.find), a.calls(a.add))
		}
	})
}

func TestNoCallWithoutPermit(t *testing.T) {
	each(t, []string{"example.com"}, func(t *testing.T, a *account) {
		once := permit.NewSet(func(permit.Key) permit.Limit {
			return permit.Limit{Calls: 1, Period: time.Hour, Deadline: 5 * time.Second}
		})
		s, _ := a.connect(t, a.url(a.Sim), once)
		must(t, s.Present(t.Context(), txt("_dnsauth.example.com", "one")))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := s.Present(ctx, txt("_dnsauth.example.com", "two")); issuer.KindOf(err) != issuer.NeverSent {
			t.Errorf("got %v, want never sent: the only permit is used", err)
		}
		a.want("_dnsauth.example.com", `TXT "one"`)
	})
}

// The way of an order, in a simulated world in which every domain exists.
func TestPlacedSeenCleanedUp(t *testing.T) {
	each(t, nil, func(t *testing.T, a *account) {
		l := newLooker(t, dcv.LookerConfig{Resolvers: []string{a.DNSAddr()}, Servers: []string{a.DNSAddr()}})
		for _, c := range []order.Challenge{txt("_dnsauth.www.example.com", "value"), txt("_dnsauth.example.co.uk", "value"),
			{Type: dcv.CNAME, Host: "_x.www.example.net", Value: "token.ca.example"}} {
			must(t, a.solver.Present(t.Context(), c))
			wantLook(t, l, c)
			must(t, a.solver.CleanUp(t.Context(), c))
			s, err := l.Look(t.Context(), c)
			must(t, err)
			if s.Seen || len(s.Missing) != 1 || !strings.HasPrefix(s.Missing[0], c.Host+": "+a.DNSAddr()+" says that there is no such name") {
				t.Errorf("got %+v after clean-up", s)
			}
		}
	})
}

// recorder is a solver that remembers.
type recorder struct{ got []string }

func (r *recorder) Present(_ context.Context, c order.Challenge) error {
	r.got = append(r.got, "present "+c.Type)
	return nil
}

func (r *recorder) CleanUp(_ context.Context, c order.Challenge) error {
	r.got = append(r.got, "clean up "+c.Type)
	return nil
}

func TestByType(t *testing.T) {
	var records, files recorder
	b := dcv.ByType{DNS: &records, FILE: &files}
	for _, kind := range []string{dcv.TXT, dcv.CNAME, dcv.FILE} {
		must(t, b.Present(t.Context(), order.Challenge{Type: kind}))
		must(t, b.CleanUp(t.Context(), order.Challenge{Type: kind}))
	}
	if diff := cmp.Diff([]string{"present TXT", "clean up TXT", "present CNAME", "clean up CNAME"}, records.got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"present FILE", "clean up FILE"}, files.got); diff != "" {
		t.Error(diff)
	}
	for _, c := range []order.Challenge{{Type: "EMAIL"}, {}} {
		wantKind(t, b.Present(t.Context(), c), dcv.Denied)
	}
	wantKind(t, dcv.ByType{DNS: &records}.CleanUp(t.Context(), order.Challenge{Type: dcv.FILE}), dcv.Denied, "FILE")
}
