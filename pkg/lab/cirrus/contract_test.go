package cirrus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/dcv/file"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/lab/cirrus"
	"github.com/certmill/certmill/pkg/lab/cirrus/sky"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

const (
	key, secret, mainAccount = "ck-contract", "canary-cirrus-secret-19", "c100"
	flock, solo              = "flock", "solo"
)

// world is the cloud with one account, and the web servers of all names.
type world struct {
	*sky.Sky
	web file.Solver
	n   atomic.Int32
}

func newWorld(t *testing.T, change func(*sky.Config)) *world {
	t.Helper()
	w := &world{web: file.Solver{Dir: t.TempDir()}}
	web := httptest.NewServer(file.Handler(w.web.Dir))
	t.Cleanup(web.Close)
	cfg := sky.Config{Seed: 1, Web: strings.TrimPrefix(web.URL, "http://"), Limit: 1000, Latency: 5 * time.Millisecond,
		ProofDelay: 100 * time.Millisecond, IssueDelay: 100 * time.Millisecond, ListLag: 100 * time.Millisecond,
		Accounts: []sky.Account{{Key: key, Secret: secret, Main: mainAccount, Caller: "clerk-7", Kind: "member",
			Plans: map[string]int{flock: 100, "empty": 0}}}}
	change(&cfg)
	var err error
	if w.Sky, err = sky.Start(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func (w *world) application(t *testing.T) issuer.Application {
	t.Helper()
	n := w.n.Add(1)
	a := issuer.Application{OrderID: fmt.Sprint("web-", n), Product: flock, Validation: order.DNS,
		Contact: order.Contact{Email: "tom@example.com"},
		Names:   []string{fmt.Sprintf("n%d.example.com", n), fmt.Sprintf("www.n%d.example.com", n)}}
	a.CSR = issuertest.CSR(t, a.Names...)
	return a
}

func permits(deadline time.Duration) *permit.Set {
	return permit.NewSet(func(permit.Key) permit.Limit {
		return permit.Limit{Calls: 1000, Period: 10 * time.Millisecond, Deadline: deadline}
	})
}

// refused is an answer with a code, as the documents have it.
func refused(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"request":"req-test","error":{"code":%q,"message":"the test says so"}}`, code)
}

var dialect = issuertest.Dialect{
	Action:   func(r *http.Request) string { return strings.TrimPrefix(r.URL.Path, "/v1/") },
	Throttle: func(w http.ResponseWriter) { refused(w, http.StatusTooManyRequests, "TooFast") },
	Unknown:  func(w http.ResponseWriter) { refused(w, http.StatusNotFound, "NoSuchAction") },
}

func TestContract(t *testing.T) {
	one := order.Request{Names: []string{"www.example.com"}}
	with := func(change func(*order.Request)) order.Request {
		r := order.Request{Names: []string{"www.example.com", "api.example.com"}}
		change(&r)
		return r
	}
	csr := issuertest.CSR(t, "www.example.com", "api.example.com")
	email := []string{"email"}
	issuertest.Run(t, issuertest.Vendor{
		Ways: map[string]func(*testing.T) issuertest.Subject{"plan": subject},
		Routes: []issuertest.Routed{
			{Name: "one name", Request: one, Action: "PlaceOrder", CSR: issuer.AllNamesCSR, Product: flock,
				Needs: email},
			{Name: "several names", Request: with(func(*order.Request) {}), Action: "PlaceOrder",
				CSR: issuer.AllNamesCSR, Product: flock, Needs: email},
			{Name: "a CSR", Request: with(func(r *order.Request) { r.CSR = csr }), Action: "PlaceOrder",
				CSR: issuer.GivenCSR, Product: flock, Needs: email},
			{Name: "product of the account", Request: one, Account: func(a *issuer.Access) { a.Product = solo },
				Action: "PlaceOrder", CSR: issuer.AllNamesCSR, Product: solo, Needs: email},
			{Name: "product of the order", Request: with(func(r *order.Request) { r.Product = flock }),
				Account: func(a *issuer.Access) { a.Product = solo },
				Action:  "PlaceOrder", CSR: issuer.AllNamesCSR, Product: flock, Needs: email},
			{Name: "solo for several", Request: with(func(r *order.Request) { r.Product = solo }),
				Refused: []string{"one name", "product flock"}},
			{Name: "a wildcard", Request: order.Request{Names: []string{"*.example.com"}}, Refused: []string{"files",
				"one by one"}},
			{Name: "something bought", Request: with(func(r *order.Request) { r.Resource = order.AnyResource }),
				Refused: []string{"plans only", "leave resource out"}},
		},
		Products: []issuer.Product{
			{Code: ""},
			{Code: solo, CA: issuer.CA{Name: "Cirrus CA", Identities: []string{"ca.cirrus.example"}}},
			{Code: flock, CA: issuer.CA{Name: "Cirrus CA", Identities: []string{"ca.cirrus.example"}}, Several: true},
		},
	})
}

func subject(t *testing.T) issuertest.Subject {
	const deadline = 500 * time.Millisecond
	w := newWorld(t, func(*sky.Config) {})
	proxy := issuertest.Between(t, w.URL(), dialect)
	return issuertest.Subject{
		Open: func(a issuer.Access) (issuer.Cloud, error) { return cirrus.New(a) },
		Access: issuer.Access{Endpoint: proxy.URL, KeyID: key, Secret: secret, Main: mainAccount,
			Permits: permits(deadline)},
		Deadline:    deadline,
		Identity:    issuer.Identity{Main: mainAccount, Caller: "clerk-7", Kind: "member"},
		Action:      "PlaceOrder",
		Application: w.application,
		Place: func(t *testing.T, c order.Challenge) {
			if err := w.web.Present(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		},
		Fault:     func(_ *testing.T, action string, f issuertest.Fault) { proxy.Fail(action, f) },
		Submitted: func(*testing.T) int { return len(w.Report().Orders) },
		Calls:     func(*testing.T) map[string]int { return proxy.Calls() },
		Exhausted: func(t *testing.T) issuer.Application {
			a := w.application(t)
			a.Product = "empty"
			return a
		},
	}
}

// TestCodes: every code of the documents comes out as the table says.
func TestCodes(t *testing.T) {
	c, err := cirrus.New(issuer.Access{Endpoint: "http://127.0.0.1:1", KeyID: key, Secret: secret, Main: mainAccount,
		Permits: permits(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(t *testing.T, code string, call func(issuer.Flow) error) error {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			refused(w,
				http.StatusBadRequest, code)
		}))
		defer server.Close()
		c, err := cirrus.New(issuer.Access{Endpoint: server.URL, KeyID: key, Secret: secret, Main: mainAccount,
			Permits: permits(time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		return call(c.Flows()[0])
	}
	csr := issuertest.CSR(t, "a.example.com")
	issuertest.Codes(t, c.About().Codes,
		func(t *testing.T, code string) error {
			return ask(t, code, func(f issuer.Flow) error { _, err := f.Look(t.Context(), "co-1"); return err })
		},
		func(t *testing.T, code string) error {
			return ask(t, code, func(f issuer.Flow) error {
				ctx, release, err := f.Reserve(t.Context())
				if err != nil {
					return err
				}
				defer release()
				_, err = f.Submit(ctx, issuer.Application{Names: []string{"a.example.com"}, CSR: csr, Product: flock},
					issuertest.Fence())
				return err
			})
		})
}

func FuzzAnswers(f *testing.F) {
	issuertest.FuzzAnswers(f, secret, func(url string, set *permit.Set) (issuer.Flow, []issuertest.Call) {
		c, err := cirrus.New(issuer.Access{Endpoint: url, KeyID: key, Secret: secret, Main: mainAccount, Permits: set})
		if err != nil {
			f.Fatal(err)
		}
		flow := c.Flows()[0]
		return flow, append(issuertest.Reads(flow), func(ctx context.Context) error {
			_,
				err := c.Identify(ctx)
			return err
		})
	}, `{"request":"r","result":{"Order":"co-1"}}`,
		`{"request":"r","result":{"State":"issued","Proofs":[{}],"Chain":"x"}}`,
		`{"request":"r","error":{"code":"TooFast","message":"m"}}`,
		`{"request":"r","result":{"Orders":[{"Order":"co-1","Names":["a"]}],"More":true}}`)
}

// TestSky: the cloud keeps what its documents say.
func TestSky(t *testing.T) {
	w := newWorld(t, func(c *sky.Config) { c.Limit, c.Latency, c.SignatureLife = 7, 0, 2*time.Second })
	client := func(set *permit.Set) issuer.Flow {
		c, err := cirrus.New(issuer.Access{Endpoint: w.URL(), KeyID: key, Secret: secret, Main: mainAccount,
			Permits: set})
		if err != nil {
			t.Fatal(err)
		}
		return c.Flows()[0]
	}
	flow := client(permits(time.Second))
	place := func() error {
		_, err := issuertest.Submit(t, flow, w.application(t), issuertest.Fence())
		return err
	}
	for kind, took := range sky.Kinds {
		before := len(w.Report().Orders)
		if err := w.Fail(sky.Fault{Action: "PlaceOrder", Kind: kind, Times: 1, Stall: 2 * time.Second}); err != nil {
			t.Fatal(err)
		}
		err := place()
		if got := len(w.Report().Orders) - before; (got == 1) != took || err == nil {
			t.Errorf("%s: %d orders more, %v", kind, got, err)
		}
		if hits := w.Mend(); hits != 1 {
			t.Errorf("%s: hit %d calls", kind, hits)
		}
		time.Sleep(200 * time.Millisecond) // within the limit
	}
	time.Sleep(time.Second)
	began, throttled := time.Now(), 0
	for range 20 {
		if err := place(); errors.Is(err, issuer.Throttled) {
			throttled++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if lasted := time.Since(began); lasted < time.Second && throttled < 6 {
		t.Errorf("%d of 20 calls in %v were throttled", throttled, lasted)
	}
	for _, c := range w.Report().Calls {
		if c.Action == "PlaceOrder" && (c.Throttled != throttled || c.OverLimit == 0 || c.Peak < 8) {
			t.Errorf("%+v, throttled %d", c, throttled)
		}
	}
	for _, tt := range []struct {
		age  time.Duration
		want string
	}{{3 * time.Second, "StaleTime"}, {-3 * time.Second, "StaleTime"}, {0, "BadSignature"}} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL()+"/v1/WhoAmI",
			strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Cirrus-Key", key)
		r.Header.Set("Cirrus-Time", time.Now().Add(-tt.age).UTC().Format(time.RFC3339))
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), tt.want) {
			t.Errorf("%v: %s, %v, want %s", tt.age, body, err, tt.want)
		}
	}
}
