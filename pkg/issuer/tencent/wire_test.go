package tencent_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/issuer/tencent"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

const secret = "canary-secret-key-77aa"

func permits(deadline time.Duration) *permit.Set {
	return permit.NewSet(func(permit.Key) permit.Limit {
		return permit.Limit{Calls: 1000, Period: 10 * time.Millisecond, Deadline: deadline}
	})
}

func client(t *testing.T, url string, set *permit.Set) *tencent.Client {
	t.Helper()
	c, err := tencent.New(issuer.Access{Endpoint: url, DNSEndpoint: url, KeyID: "AKIDtest", Secret: secret,
		Main: "100300", Permits: set})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func application() issuer.Application {
	return issuer.Application{OrderID: "web-0002", Names: []string{"www.example.com", "api.example.com"}, Key: "ecdsa-p256",
		Validation: order.DNS, Contact: order.Contact{Name: "Tom", Email: "tom@example.com"}, Resource: "Dsqef134"}
}

var wideFence = issuer.Fence{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}

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

var signature = regexp.MustCompile(`/\d{4}-\d\d-\d\d/|Signature=[0-9a-f]+`)

// steady leaves out what the SDK says of itself.
func steady(name, value string) (string, bool) {
	switch name {
	case "X-Tc-Timestamp":
		return issuertest.Changing(name, value), true
	case "Authorization":
		value = signature.ReplaceAllStringFunc(value, func(s string) string {
			if strings.HasPrefix(s, "/") {
				return "/(date)/"
			}
			return "Signature=(signature)"
		})
	}
	return value, name != "X-Tc-Requestclient"
}

func TestWire(t *testing.T) {
	withCSR := application()
	withCSR.CSR = csrPEM
	flow := func(c *tencent.Client) issuer.Flow { return c.Certificate() }
	prepare := func(a issuer.Application) func(*testing.T, *tencent.Client) error {
		return func(t *testing.T, c *tencent.Client) error {
			return c.Certificate().(issuer.Preparer).Prepare(t.Context(), a)
		}
	}
	tests := []struct {
		name string
		call func(*testing.T, *tencent.Client) error
	}{
		{"CertificateOrderSubmit", func(t *testing.T, c *tencent.Client) error {
			_, err := submit(t, flow(c), application(), wideFence)
			return err
		}},
		{"CertificateInfoSubmit-parse", prepare(withCSR)},
		{"CertificateInfoSubmit-online", prepare(application())},
		{"DescribeCertificate", func(t *testing.T, c *tencent.Client) error {
			_, err := flow(c).Look(t.Context(), "Dsqef134")
			return err
		}},
		{"DescribeCertificates", func(t *testing.T, c *tencent.Client) error {
			_, err := flow(c).Waiting(t.Context(), 2)
			return err
		}},
		{"GetCallerIdentity", func(t *testing.T, c *tencent.Client) error {
			_, err := c.Identify(t.Context())
			return err
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := issuertest.Record(t, `{"Response":{"OrderId":"SO8zRv29","Status":0,"AccountId":"100300","RequestId":"9b397ac6"}}`, steady)
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
