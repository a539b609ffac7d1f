package tencent_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/issuer/tencent"
	"github.com/certmill/certmill/pkg/order"
)

// TestContract runs the contract against the simulated cloud, which
// knows nothing of this package: what both take for granted is in the vendor's
// documents. Records are written through DNSPod, and really looked up.
func TestContract(t *testing.T) {
	ways := map[string]func(*testing.T) issuertest.Subject{}
	for name, ours := range map[string]bool{"our key": true, "the cloud's key": false} {
		for _, record := range []string{"TXT", "CNAME"} {
			ways[name+", "+record] = func(t *testing.T) issuertest.Subject { return atCloudsim(t, ours, record) }
		}
	}
	issuertest.Run(t, issuertest.Vendor{Ways: ways, Routes: routed, Products: products,
		Rare: []string{"DownloadCertificate"}}) // where the detail has no certificate: TestFetchDownloads
}

const simID, simUID = "AKIDcontract", "100300"

func startCloudsim(t *testing.T, record string) *cloudsim.Sim {
	t.Helper()
	key := cloudsim.Account{Cloud: "tencent", UID: simUID, AccessKeyID: simID, AccessKeySecret: secret}
	for n := range 5 {
		key.Certificates = append(key.Certificates, cloudsim.Certificate{ID: fmt.Sprint("Dsqef", n)})
	}
	return startAccount(t, key, func(c *cloudsim.Config) { c.TencentRecordType = record })
}

func startAccount(t *testing.T, key cloudsim.Account, change func(*cloudsim.Config)) *cloudsim.Sim {
	t.Helper()
	cfg := cloudsim.Config{
		Accounts: []cloudsim.Account{key}, CloudKey: "p256",
		Limits: map[string]int{"default": 10_000}, CheckInterval: cloudsim.Duration(50 * time.Millisecond),
		ChallengeDelay: cloudsim.Exactly(100 * time.Millisecond), IssueDelay: cloudsim.Exactly(100 * time.Millisecond),
		ListLag: cloudsim.Exactly(100 * time.Millisecond), Logger: slog.New(slog.DiscardHandler),
	}
	change(&cfg)
	sim, err := cloudsim.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return sim
}

// dialect is what a proxy has to know of the wire.
var dialect = issuertest.Dialect{
	Action:   func(r *http.Request) string { return r.Header.Get("X-TC-Action") },
	Throttle: func(w http.ResponseWriter) { fmt.Fprint(w, code("RequestLimitExceeded")) },
	Unknown:  func(w http.ResponseWriter) { fmt.Fprint(w, code("InvalidAction")) },
}

func atCloudsim(t *testing.T, ourKey bool, record string) issuertest.Subject {
	const deadline = time.Second
	sim := startCloudsim(t, record)
	proxy := issuertest.Between(t, sim.TencentURL(), dialect)
	access := issuer.Access{Endpoint: proxy.URL, DNSEndpoint: proxy.URL, KeyID: simID, Secret: secret, Main: simUID, Permits: permits(deadline)}
	var used atomic.Int32
	return issuertest.Subject{
		Open:   func(a issuer.Access) (issuer.Cloud, error) { return tencent.New(a) },
		Access: access, Deadline: deadline,
		Identity: issuer.Identity{Main: simUID, Caller: simUID, Kind: "CAMUser"},
		Action:   "CertificateOrderSubmit",
		Application: func(t *testing.T) issuer.Application {
			a := application()
			n := used.Add(1) - 1
			a.Resource = fmt.Sprint("Dsqef", n)
			a.Names = []string{fmt.Sprintf("www%d.example.com", n), fmt.Sprintf("api%d.example.com", n)}
			if ourKey {
				a.CSR = issuertest.CSR(t, a.Names...)
			}
			return a
		},
		Place: func(t *testing.T, c order.Challenge) {
			const zone = "example.com"
			past := access // the proxy, so that only the flow's calls are counted and fail
			past.DNSEndpoint = sim.TencentURL()
			client, err := tencent.New(past)
			if err == nil {
				err = client.Call(t.Context(), "dnspod", "2021-03-23", "CreateRecord", map[string]any{"Domain": zone,
					"SubDomain": strings.TrimSuffix(c.Host, "."+zone), "RecordType": c.Type, "RecordLine": "默认", "Value": c.Value}, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		Fault:     func(_ *testing.T, action string, fault issuertest.Fault) { proxy.Fail(action, fault) },
		Submitted: func(*testing.T) int { return len(sim.Report().Orders) },
		Following: func(t *testing.T) (resource, origin string) {
			resource, origin = "DsqefNext", "Dsqef0"
			stock := cloudsim.Stock{Cloud: "tencent", UID: simUID, Certificates: []cloudsim.Certificate{{ID: resource, Origin: origin}}}
			if err := sim.AddStock(stock); err != nil {
				t.Fatal(err)
			}
			return resource, origin
		},
		Calls: func(*testing.T) map[string]int { return proxy.Calls() },
	}
}

var routed = []issuertest.Routed{
	{Name: "one name", Request: order.Request{Names: []string{"www.example.com"}},
		Action: "CertificateOrderSubmit", CSR: issuer.AllNamesCSR, Needs: []string{"email"}},
	{Name: "several names", Request: order.Request{Names: []string{"www.example.com", "api.example.com"}},
		Action: "CertificateOrderSubmit", CSR: issuer.AllNamesCSR, Needs: []string{"email"}},
	{Name: "CSR for several names", Request: order.Request{Names: []string{"www.example.com", "api.example.com"}, CSR: csrPEM},
		Action: "CertificateOrderSubmit", CSR: issuer.GivenCSR, Needs: []string{"email"}},
	{Name: "certificate", Request: order.Request{Names: []string{"*.example.com"}, Resource: "Dsqef134"},
		Action: "CertificateOrderSubmit", CSR: issuer.AllNamesCSR, Needs: []string{"email"}},
	{Name: "certificate and CSR", Request: order.Request{Names: []string{"www.example.com"}, Resource: order.AnyResource, CSR: csrPEM},
		Action: "CertificateOrderSubmit", CSR: issuer.GivenCSR, Needs: []string{"email"}},
	{Name: "product", Request: order.Request{Names: []string{"www.example.com"}, Product: "83"},
		Account: func(a *issuer.Access) { a.Product = "trustasia-dv" },
		Action:  "CertificateOrderSubmit", CSR: issuer.AllNamesCSR, Product: "83", Needs: []string{"email"}},
	{Name: "product of the account", Request: order.Request{Names: []string{"www.example.com"}},
		Account: func(a *issuer.Access) { a.Product = "trustasia-dv" },
		Action:  "CertificateOrderSubmit", CSR: issuer.AllNamesCSR, Product: "trustasia-dv", Needs: []string{"email"}},
}

var trustasia = issuer.CA{Name: "TrustAsia", Identities: []string{"trust-provider.com", "sectigo.com", "globalsign.com", "trustasia.com"}, Unread: true}

var products = []issuer.Product{
	{Code: ""},
	{Code: "83", CA: trustasia},
	{Code: "TrustAsia-dv", CA: trustasia},
	{Code: "geotrust-ov-1", CA: issuer.DigiCert, Organisation: true},
	{Code: "globalsign-dv-1", CA: issuer.GlobalSign},
}
