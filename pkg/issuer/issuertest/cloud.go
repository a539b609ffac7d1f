package issuertest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// Routed is a request, and the way that it takes or why it takes none.
type Routed struct {
	Name    string
	Request order.Request        // what is left out is filled in as for any request
	Account func(*issuer.Access) // the account's settings; nil: as they are

	Action  string // of the flow; empty: refused
	CSR     issuer.CSR
	Product string
	Needs   []string // in any order
	Refused []string // words of the sentence that says why
}

// cloudParts are the parts of the contract that concern the account.
var cloudParts = []struct {
	name string
	run  func(*testing.T, trial, Vendor)
}{
	{"what is documented", documents},
	{"flows", flows},
	{"routes", routes},
	{"products", products},
	{"nothing but Identify makes a call", quiet},
	{"access that cannot work is refused", refusesAccess},
	{"whose credentials", identifies},
	{"whose credentials, at the same time", identifiesAtOnce},
	{"identity: wrong secret", identityOfNobody},
	{"identity: unknown call", identityFault(Unknown)},
	{"identity: throttled", identityFault(Throttle)},
	{"identity: 502 HTML", identityFault(HTML502)},
	{"identity: empty 200", identityFault(Empty200)},
	{"identity: nobody listens", identityNowhere},
	{"identity: no answer", identityStalls},
}

func documents(t *testing.T, s trial, _ Vendor) {
	a := s.cloud.About()
	if a.Name == "" || a.Codes == nil || a.Codes.Cloud != a.Name || a.SignatureLife <= 0 {
		t.Errorf("about %+v", a)
	}
	Documented(t, a.Calls, nil)
	for i := range a.Calls { // what callers do with the answer stays theirs
		a.Calls[i].Limit, a.Calls[i].Free = 100_000, true
	}
	if now := s.cloud.About().Calls; cmp.Diff(a.Calls, now) == "" {
		t.Error("callers can change the documented calls")
	}
	if len(s.cloud.About().Calls.Free()) == 0 {
		t.Error("no action is free: Identify takes no permit")
	}
}

// flows are told apart by their actions, which orders remember.
func flows(t *testing.T, s trial, v Vendor) {
	routed := map[string]bool{}
	for _, r := range v.Routes {
		routed[r.Action] = true
	}
	seen := map[string]bool{}
	for _, f := range s.cloud.Flows() {
		action := f.Action()
		c, ok := s.calls.Find(action)
		switch {
		case seen[action]:
			t.Errorf("two flows have the action %s", action)
		case !ok || !c.Starts || c.Free || !slices.Contains(c.Roles, order.Submitter):
			t.Errorf("%s starts orders, and is documented as %+v", action, c)
		case !routed[action]:
			t.Errorf("no route leads to %s", action)
		}
		seen[action] = true
	}
	for i, f := range s.cloud.Flows() {
		if f.Action() != s.cloud.Flows()[i].Action() {
			t.Error("the flows change")
		}
	}
}

func routes(t *testing.T, s trial, v Vendor) {
	for _, r := range v.Routes {
		c := s.open(t, r.Account)
		route, err := c.Route(usual(r.Request))
		if r.Action == "" {
			refused(t, r, route, err)
			continue
		}
		if err != nil || route.Flow == nil {
			t.Errorf("%s: %v", r.Name, err)
			continue
		}
		got := Routed{Action: route.Flow.Action(), CSR: route.Flow.CSR(usual(r.Request)),
			Product: route.Product, Needs: route.Needs}
		want := Routed{Action: r.Action, CSR: r.CSR, Product: r.Product, Needs: r.Needs}
		slices.Sort(got.Needs)
		slices.Sort(want.Needs)
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b []string) bool { return slices.Equal(a, b) })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", r.Name, diff)
		}
		wayIsSound(t, s, r, route)
	}
}

// usual is a request as it is once it was read.
func usual(r order.Request) order.Request {
	if r.ID == "" {
		r.ID = "shop-1"
	}
	return r.Normal()
}

// refused wants one line that says why, and nothing else.
func refused(t *testing.T, r Routed, route issuer.Route, err error) {
	t.Helper()
	if err == nil || route.Flow != nil {
		t.Errorf("%s takes a way, want: %v", r.Name, r.Refused)
		return
	}
	why := err.Error()
	if len(r.Refused) == 0 || strings.TrimSpace(why) == "" || strings.ContainsAny(why, "\n\r") ||
		strings.HasSuffix(why, ".") {
		t.Errorf("%s: %q is no sentence that goes on after the account's name, or nothing is wanted of it", r.Name, why)
	}
	for _, word := range r.Refused {
		if !strings.Contains(why, word) {
			t.Errorf("%s: %q does not say %q", r.Name, why, word)
		}
	}
}

// wayIsSound checks what holds for the routes of every cloud.
func wayIsSound(t *testing.T, s trial, r Routed, route issuer.Route) {
	t.Helper()
	flowOf(t, s.cloud, route.Flow.Action())
	for _, field := range route.Needs {
		if !slices.Contains([]string{"name", "email", "phone", "province", "city", "company"}, field) {
			t.Errorf("%s needs %q, which orders and accounts do not have", r.Name, field)
		}
	}
	if r.Request.Product != "" && route.Product != r.Request.Product {
		t.Errorf("%s: the product is %q", r.Name, route.Product)
	}
	if r.Request.Resource != "" && route.Flow.Spends() {
		t.Errorf("%s: what was bought already is bought again", r.Name)
	}
	csr := route.Flow.CSR(usual(r.Request))
	if (csr == issuer.GivenCSR) != (r.Request.CSR != "") || len(r.Request.Names) > 1 && csr == issuer.FirstNameCSR {
		t.Errorf("%s is sent with %q", r.Name, csr)
	}
}

func products(t *testing.T, s trial, v Vendor) {
	for _, want := range v.Products {
		if diff := cmp.Diff(want, s.cloud.Product(want.Code)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want.Code, diff)
		}
	}
	const strange = "never-heard-of-1"
	if p := s.cloud.Product(strange); p.Code != strange || p.CA.Name != "" || p.Organisation {
		t.Errorf("a product that nobody knows: %+v", p)
	}
}

// quiet asks all that must answer at once, from several goroutines.
func quiet(t *testing.T, s trial, v Vendor) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s.cloud.About()
			for _, r := range v.Routes {
				_, _ = s.cloud.Route(usual(r.Request))
				for _, f := range s.cloud.Flows() {
					_, _, _ = f.Action(), f.Spends(), f.CSR(usual(r.Request))
				}
			}
			for _, p := range v.Products {
				s.cloud.Product(p.Code)
			}
		})
	}
	wg.Wait()
	if made := s.Calls(t); len(made) > 0 {
		t.Errorf("calls were made: %v", made)
	}
}

func refusesAccess(t *testing.T, s trial, _ Vendor) {
	for name, change := range map[string]func(*issuer.Access){
		"no key id":         func(a *issuer.Access) { a.KeyID = "" },
		"no secret":         func(a *issuer.Access) { a.Secret = "" },
		"no main account":   func(a *issuer.Access) { a.Main = "" },
		"no permits":        func(a *issuer.Access) { a.Permits = nil },
		"endpoint":          func(a *issuer.Access) { a.Endpoint = "api.example.com" },
		"DNS endpoint":      func(a *issuer.Access) { a.DNSEndpoint = "https://api.example.com/path" },
		"identity endpoint": func(a *issuer.Access) { a.IdentityEndpoint = "ftp://api.example.com" },
	} {
		a := s.Access
		change(&a)
		if _, err := s.Open(a); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// identify asks, as every worker may, and checks that no permit was taken and
// no order made.
func (s trial) identify(t *testing.T, c issuer.Cloud) (id issuer.Identity, err error) {
	t.Helper()
	before := len(s.Access.Permits.Stats())
	made := s.by(t, order.Roles, func() { id, err = c.Identify(t.Context()) })
	for _, action := range made {
		if x, _ := s.calls.Find(action); !x.Free {
			t.Errorf("%s is not free, and was called to identify", action)
		}
	}
	if after := len(s.Access.Permits.Stats()); after != before {
		t.Errorf("%d rings were joined", after-before)
	}
	return id, err
}

func identifies(t *testing.T, s trial, _ Vendor) {
	id, err := s.identify(t, s.cloud)
	if err != nil || id != s.Identity {
		t.Errorf("%+v, %v; want %+v", id, err, s.Identity)
	}
	// What the config says of the main account is not what the cloud says.
	id, err = s.identify(t, s.open(t, func(a *issuer.Access) { a.Main = "another" }))
	if err != nil || id != s.Identity {
		t.Errorf("with another main account in the config: %+v, %v; want %+v", id, err, s.Identity)
	}
}

func identifiesAtOnce(t *testing.T, s trial, _ Vendor) {
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if id, err := s.cloud.Identify(t.Context()); err != nil || id != s.Identity {
				t.Errorf("%+v, %v", id, err)
			}
		})
	}
	wg.Wait()
}

func identityOfNobody(t *testing.T, s trial, _ Vendor) {
	id, err := s.identify(t, s.open(t, secretIsWrong))
	if s.want(t, err, issuer.Credentials); id != (issuer.Identity{}) {
		t.Errorf("identity %+v", id)
	}
}

// identityFault lets every free action fail once. That says nothing of the
// credentials.
func identityFault(f Fault) func(*testing.T, trial, Vendor) {
	return func(t *testing.T, s trial, _ Vendor) {
		for _, action := range s.calls.Free() {
			s.Fault(t, action, f)
		}
		id, err := s.identify(t, s.cloud)
		s.leavesOpen(t, id, err)
	}
}

// leavesOpen wants an error that does not speak against the credentials.
func (s trial) leavesOpen(t *testing.T, id issuer.Identity, err error) {
	t.Helper()
	e, ok := errors.AsType[*issuer.Error](err)
	if !ok || e.Kind == issuer.Credentials || e.Kind == issuer.UnknownOutcome || id != (issuer.Identity{}) {
		t.Errorf("%+v, %v: want an error that leaves open whose they are", id, err)
		return
	}
	s.silent(t, e)
}

func identityNowhere(t *testing.T, s trial, _ Vendor) {
	_, err := s.identify(t, s.open(t, nobodyListens))
	s.want(t, err, issuer.NeverSent)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.cloud.Identify(ctx)
	s.want(t, err, issuer.NeverSent)
}

// identityStalls: who asks need not wait longer than it wants to.
func identityStalls(t *testing.T, s trial, _ Vendor) {
	for _, action := range s.calls.Free() {
		s.Fault(t, action, Stall)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	id, err := s.cloud.Identify(ctx)
	if s.leavesOpen(t, id, err); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
