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
	for name, ours := range map[string]bool{"our key": true, "the cloud's key": false} {
		for _, record := range []string{"TXT", "CNAME"} {
			t.Run(name+", "+record, func(t *testing.T) {
				t.Parallel()
				issuertest.Run(t, func(t *testing.T) issuertest.Subject { return atCloudsim(t, ours, record) })
			})
		}
	}
}

const simID, simUID = "AKIDcontract", "100300"

func startCloudsim(t *testing.T, record string) *cloudsim.Sim {
	t.Helper()
	key := cloudsim.Account{Cloud: "tencent", UID: simUID, AccessKeyID: simID, AccessKeySecret: secret}
	for n := range 5 {
		key.Certificates = append(key.Certificates, cloudsim.Certificate{ID: fmt.Sprint("Dsqef", n)})
	}
	sim, err := cloudsim.Start(context.Background(), cloudsim.Config{
		Accounts: []cloudsim.Account{key}, TencentRecordType: record, CloudKey: "p256",
		Limits: map[string]int{"default": 10_000}, CheckInterval: cloudsim.Duration(50 * time.Millisecond),
		ChallengeDelay: cloudsim.Exactly(100 * time.Millisecond), IssueDelay: cloudsim.Exactly(100 * time.Millisecond),
		ListLag: cloudsim.Exactly(100 * time.Millisecond), Logger: slog.New(slog.DiscardHandler),
	})
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

func atCloudsim(t *testing.T, ourKey bool, record string) issuertest.Subject {
	const deadline = time.Second
	sim := startCloudsim(t, record)
	proxy := issuertest.Between(t, sim.TencentURL(), func(r *http.Request) string { return r.Header.Get("X-TC-Action") },
		func(w http.ResponseWriter) { fmt.Fprint(w, code("RequestLimitExceeded")) })
	at := func(url string, secret order.Secret) *tencent.Client {
		c, err := tencent.New(issuer.Access{Endpoint: url, DNSEndpoint: url, KeyID: simID, Secret: secret, Main: simUID, Permits: permits(deadline)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	client := at(proxy.URL, secret)
	var used atomic.Int32
	return issuertest.Subject{
		Flow: client.Certificate(), Secret: secret, Deadline: deadline,
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
			err := client.Call(t.Context(), "dnspod", "2021-03-23", "CreateRecord", map[string]any{"Domain": zone,
				"SubDomain": strings.TrimSuffix(c.Host, "."+zone), "RecordType": c.Type, "RecordLine": "默认", "Value": c.Value}, nil)
			if err != nil {
				t.Fatal(err)
			}
		},
		Fault:       func(_ *testing.T, action string, fault issuertest.Fault) { proxy.Fail(action, fault) },
		Submitted:   func(*testing.T) int { return len(sim.Report().Orders) },
		Calls:       func(_ *testing.T, action string) int { return proxy.Calls(action) },
		WrongSecret: func(*testing.T) issuer.Flow { return at(proxy.URL, secret+"x").Certificate() },
		Unreachable: func(*testing.T) issuer.Flow { return at("http://127.0.0.1:1", secret).Certificate() },
	}
}
