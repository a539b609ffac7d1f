package tencent_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/issuer/tencent"
)

func TestCodes(t *testing.T) {
	var now string // the code of the answer; calls are made one by one
	c := client(t, serve(t, 200, func(*http.Request) string { return code(now) }), permits(3*time.Second))
	issuertest.Codes(t, tencent.Codes(),
		func(t *testing.T, code string) error {
			now = code
			_, err := c.Certificate().Look(t.Context(), "Dsqef134")
			return err
		},
		func(t *testing.T, code string) error {
			now = code
			_, err := submit(t, c.Certificate(), application(), wideFence)
			return err
		})
}

// TestCodesThatProveNothing names what must never close a ledger entry.
func TestCodesThatProveNothing(t *testing.T) {
	for _, code := range []string{"FailedOperation", "FailedOperation.NetworkError", "FailedOperation.SystemError", "FailedOperation.TradeError",
		"InternalError", "InternalError.BackendResponseEmpty", "InternalError.BackendResponseError", "ServiceUnavailable",
		"FailedOperation.CertificateOrderSubmitProcessing", "FailedOperation.InvalidCertificateStatusCode",
		"FailedOperation.CertificateInfoSubmitStatusInvalid", "FailedOperation.CertificateNotFound", "FailedOperation.GenCSRFail",
		"FailedOperation.CertificateExists", "FailedOperation.FrequencyLimit", "InvalidParameter.OperateFailed"} {
		c, ok := tencent.Codes().Lookup(code)
		if !ok || c.Code != code || c.NoEffect {
			t.Errorf("%s: %+v", code, c)
		}
	}
}

// TestDocumentedCodes compares with the vendor's lists: all of the SSL service,
// and those of DNSPod for the calls that certmill makes.
func TestDocumentedCodes(t *testing.T) {
	for file, want := range map[string]int{"ssl-codes.txt": 115, "dnspod-codes.txt": 71} {
		b, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		documented := strings.Fields(string(b))
		if len(documented) != want {
			t.Errorf("%s has %d codes, want %d", file, len(documented), want)
		}
		for _, code := range documented {
			if c, ok := tencent.Codes().Lookup(code); !ok || c.Code != code {
				t.Errorf("%s of %s has no row of its own", code, file)
			}
		}
	}
}

func TestUnlistedCode(t *testing.T) {
	name := fmt.Sprint("Unheard.", t.Name())
	c := client(t, serve(t, 200, text(code(name))), permits(3*time.Second))
	_, read := c.Certificate().Look(t.Context(), "1")
	_, spent := submit(t, c.Certificate(), application(), wideFence)
	if issuer.KindOf(read) != issuer.Unavailable || issuer.KindOf(spent) != issuer.UnknownOutcome {
		t.Errorf("reading %v, spending %v", read, spent)
	}
	for _, n := range issuer.UnlistedCodes.All() {
		if n.Cloud == "Tencent Cloud" && n.Code == name && n.Count >= 2 {
			return
		}
	}
	t.Errorf("not counted: %v", issuer.UnlistedCodes.All())
}
