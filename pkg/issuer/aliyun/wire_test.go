package aliyun_test

import (
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

const secret = "canary-secret-key-9f2b"

// permits are rings that do not slow a test down.
func permits(deadline time.Duration) *permit.Set {
	return permit.NewSet(func(permit.Key) permit.Limit {
		return permit.Limit{Calls: 1000, Period: 10 * time.Millisecond, Deadline: deadline}
	})
}

func client(t *testing.T, url string, set *permit.Set) *aliyun.Client {
	t.Helper()
	c, err := aliyun.New(issuer.Access{Endpoint: url, DNSEndpoint: url, KeyID: "LTAItest", Secret: secret,
		Main: "100200", Permits: set})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func application() issuer.Application {
	return issuer.Application{OrderID: "web-0001", Names: []string{"www.example.com", "api.example.com"},
		Product: "digicert-dv-1-starter", Validation: order.DNS, Company: "Example & Co ~ Ltd",
		Contact: order.Contact{Name: "Tom Zhang", Email: "tom+ssl@example.com", Phone: "13000000000", Province: "zhejiang", City: "hangzhou"}}
}

var wideFence = issuer.Fence{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}

// submit reserves and submits.
func submit(t *testing.T, f issuer.Flow, a issuer.Application, fence issuer.Fence) (issuer.Receipt, error) {
	t.Helper()
	ctx, release, err := f.Reserve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	return f.Submit(ctx, a, fence)
}

const csrPEM = "-----BEGIN CERTIFICATE REQUEST-----\nMIIB+a/b=\n-----END CERTIFICATE REQUEST-----\n"

// steady leaves out what the SDK says of itself.
func steady(name, value string) (string, bool) {
	switch name {
	case "Timestamp", "SignatureNonce", "Signature":
		return issuertest.Changing(name, value), true
	}
	return value, name != "X-Sdk-Core-Version"
}

func TestWire(t *testing.T) {
	withCSR := application()
	withCSR.CSR = csrPEM
	oneName := withCSR
	oneName.Names = oneName.Names[:1]
	onInstance := application()
	onInstance.Resource, onInstance.Names = "cas-cn-68n1mm16abcd", []string{"*.example.com"}
	tests := []struct {
		name string
		call func(*testing.T, *aliyun.Client) error
	}{
		{"CreateCertificateForPackageRequest", func(t *testing.T, c *aliyun.Client) error {
			_, err := submit(t, c.Package(), application(), wideFence)
			return err
		}},
		{"CreateCertificateForPackageRequest-csr", func(t *testing.T, c *aliyun.Client) error {
			_, err := submit(t, c.Package(), oneName, wideFence)
			return err
		}},
		{"CreateCertificateWithCsrRequest", func(t *testing.T, c *aliyun.Client) error {
			_, err := submit(t, c.CSR(), oneName, wideFence)
			return err
		}},
		{"CreateDVOrderAudit", func(t *testing.T, c *aliyun.Client) error {
			_, err := submit(t, c.Instance(), onInstance, wideFence)
			return err
		}},
		{"DescribeDVOrderResult", func(t *testing.T, c *aliyun.Client) error {
			_, err := c.Instance().Look(t.Context(), "cas-cn-68n1mm16abcd")
			return err
		}},
		{"DescribeCertificateState", func(t *testing.T, c *aliyun.Client) error {
			_, err := c.Package().Look(t.Context(), "98987582437920968")
			return err
		}},
		{"ListUserCertificateOrder", func(t *testing.T, c *aliyun.Client) error {
			_, err := c.Package().Waiting(t.Context(), 2)
			return err
		}},
		{"GetCallerIdentity", func(t *testing.T, c *aliyun.Client) error {
			_, err := c.Identify(t.Context())
			return err
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := issuertest.Record(t, `{"RequestId":"5D97F21E","OrderId":98987582437920968,"Type":"payed","OrderStatus":"PAYED","AccountId":"100200"}`, steady)
			if err := tt.call(t, client(t, rec.URL, permits(3*time.Second))); err != nil {
				t.Fatal(err)
			}
			if got := rec.Requests(); len(got) != 1 {
				t.Fatalf("%d requests", len(got))
			}
			issuertest.Golden(t, tt.name, rec.Requests()[0])
		})
	}
}

func TestOrderIDStaysExact(t *testing.T) {
	for body, want := range map[string]string{
		`{"RequestId":"r","OrderId":98987582437920968}`:     "98987582437920968",
		`{"RequestId":"r","OrderId":"98987582437920969"}`:   "98987582437920969",
		`{"RequestId":"r","OrderId":9.8987582437920968e16}`: "", // not exact: unknown outcome
		`{"RequestId":"r","OrderId":0}`:                     "",
		`{"RequestId":"r","OrderId":null}`:                  "",
	} {
		rec := issuertest.Record(t, body, steady)
		r, err := submit(t, client(t, rec.URL, permits(3*time.Second)).Package(), application(), wideFence)
		if r.CloudID != want {
			t.Errorf("%s: order id %q, want %q", body, r.CloudID, want)
		}
		if want == "" && issuer.KindOf(err) != issuer.UnknownOutcome {
			t.Errorf("%s: %v", body, err)
		}
	}
}
