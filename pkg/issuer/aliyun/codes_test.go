package aliyun_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
)

func TestCodes(t *testing.T) {
	var now string // the code of the answer; calls are made one by one
	c := client(t, serve(t, 400, func(*http.Request) string { return code(now) }), permits(3*time.Second))
	issuertest.Codes(t, aliyun.Codes(),
		func(t *testing.T, code string) error {
			now = code
			_, err := c.Package().Look(t.Context(), "98987582437920968")
			return err
		},
		func(t *testing.T, code string) error {
			now = code
			_, err := submit(t, c.Package(), application(), wideFence)
			return err
		})
}

// TestCodesThatProveNothing names what must never close a ledger entry.
func TestCodesThatProveNothing(t *testing.T) {
	for _, code := range []string{"CreateCertificateRequestFailed", "Error", "InternalError", "ServiceUnavailable", "SignatureNonceUsed",
		"OrderStateError", "NotFoundOrder", "DeleteFail", "UnKnownError", "Forbidden.DomainLocked", "DomainRecordDuplicate"} {
		c, ok := aliyun.Codes().Lookup(code)
		if !ok || c.Code != code || c.NoEffect {
			t.Errorf("%s: %+v", code, c)
		}
	}
}

func TestDocumentedCodesOfCAS(t *testing.T) {
	// the error table of CreateCertificateWithCsrRequest, whole
	for _, code := range []string{"NotFoundPackage", "NotRemainCount", "CreateCertificateRequestFailed", "NotFoundOrder", "OrderStateError", "DeleteFail", "Error"} {
		if c, ok := aliyun.Codes().Lookup(code); !ok || c.Code != code {
			t.Errorf("%s is not in the table", code)
		}
	}
}

func TestUnlistedCode(t *testing.T) {
	name := fmt.Sprint("Unheard.", t.Name())
	c := client(t, serve(t, 403, text(code(name))), permits(3*time.Second))
	_, read := c.Package().Look(t.Context(), "1")
	_, spent := submit(t, c.Package(), application(), wideFence)
	if issuer.KindOf(read) != issuer.Unavailable || issuer.KindOf(spent) != issuer.UnknownOutcome {
		t.Errorf("reading %v, spending %v", read, spent)
	}
	for _, n := range issuer.UnlistedCodes.All() {
		if n.Cloud == "Alibaba Cloud" && n.Code == name && n.Count >= 2 {
			return
		}
	}
	t.Errorf("not counted: %v", issuer.UnlistedCodes.All())
}
