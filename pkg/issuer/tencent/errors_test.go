package tencent_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/issuer/tencent"
)

func serve(t *testing.T, status int, body func(*http.Request) string) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body(r))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func text(s string) func(*http.Request) string { return func(*http.Request) string { return s } }

func code(c string) string {
	return fmt.Sprintf(`{"Response":{"Error":{"Code":%q,"Message":"the message"},"RequestId":"R1"}}`, c)
}

func TestAnswers(t *testing.T) {
	tests := []struct {
		status      int
		body        string
		spend, read issuer.Kind
	}{
		{200, code("RequestLimitExceeded"), issuer.Throttled, issuer.Throttled},
		{200, code("RequestLimitExceeded.UinLimitExceeded"), issuer.Throttled, issuer.Throttled},
		{200, code("LimitExceeded.RateLimitExceeded"), issuer.Throttled, issuer.Throttled},
		{200, code("LimitExceeded"), issuer.QuotaExhausted, issuer.QuotaExhausted},
		{200, code("AuthFailure.SignatureFailure"), issuer.Credentials, issuer.Credentials},
		{200, code("AuthFailure.SignatureExpire"), issuer.NeverSent, issuer.NeverSent},
		{200, code("UnauthorizedOperation"), issuer.Credentials, issuer.Credentials},
		{200, code("FailedOperation.AuthError"), issuer.Credentials, issuer.Credentials},
		{200, code("FailedOperation.CertificateNotFound"), issuer.NotFound, issuer.NotFound},
		{200, code("FailedOperation.CertificateNotFoundOrAudited"), issuer.WrongState, issuer.WrongState},
		{200, code("FailedOperation.CertificateInfoSubmitStatusInvalid"), issuer.WrongState, issuer.WrongState},
		{200, code("FailedOperation.CertificateOrderSubmitProcessing"), issuer.WrongState, issuer.WrongState},
		{200, code("FailedOperation.InvalidCertificateStatusCode"), issuer.WrongState, issuer.WrongState},
		{200, code("FailedOperation.CertificateInvalid"), issuer.Rejected, issuer.Rejected},
		{200, code("FailedOperation.CertificatePreVerifyEmailInvalid"), issuer.Rejected, issuer.Rejected},
		{200, code("FailedOperation.InvalidParam"), issuer.Rejected, issuer.Rejected},
		{200, code("FailedOperation.NoProjectPermission"), issuer.Credentials, issuer.Credentials},
		{200, code("FailedOperation.NoRealNameAuth"), issuer.Credentials, issuer.Credentials},
		{200, code("FailedOperation.NetworkError"), issuer.UnknownOutcome, issuer.Unavailable},
		{200, code("FailedOperation"), issuer.UnknownOutcome, issuer.Unavailable},
		{200, code("InternalError"), issuer.UnknownOutcome, issuer.Unavailable},
		{200, code("InternalError.BackendResponseError"), issuer.UnknownOutcome, issuer.Unavailable},
		{200, code("NeverHeardOf"), issuer.UnknownOutcome, issuer.Unavailable},
		{502, "<html>bad gateway</html>", issuer.UnknownOutcome, issuer.Unavailable},
		{200, "", issuer.UnknownOutcome, issuer.Unavailable},
		{200, "{}", issuer.UnknownOutcome, issuer.Unavailable},
		{200, "null", issuer.UnknownOutcome, issuer.Unavailable},
		{200, `{"Response":null}`, issuer.UnknownOutcome, issuer.Unavailable},
		{200, `{"Response":{}}`, issuer.UnknownOutcome, issuer.Unavailable},
		{500, `{"Response":{"RequestId":"R1"}}`, issuer.UnknownOutcome, issuer.Unavailable},
		{200, `{"Response":{"RequestId":"R1","Status":"x"}}`, "", issuer.Unavailable},
	}
	for _, tt := range tests {
		f := client(t, serve(t, tt.status, text(tt.body)), permits(3*time.Second)).Certificate()
		_, err := submit(t, f, application(), wideFence)
		if got := issuer.KindOf(err); got != tt.spend {
			t.Errorf("%d %s: submitting %q, want %q (%v)", tt.status, tt.body, got, tt.spend, err)
		}
		_, err = f.Look(t.Context(), "Dsqef134")
		if got := issuer.KindOf(err); got != tt.read {
			t.Errorf("%d %s: reading %q, want %q (%v)", tt.status, tt.body, got, tt.read, err)
		}
	}
}

// TestErrorsAreSilent lets the cloud repeat the request in each of its answers;
// the SDK puts whole bodies into its errors.
func TestErrorsAreSilent(t *testing.T) {
	repeat := func(format string) func(*http.Request) string {
		return func(r *http.Request) string {
			body, _ := io.ReadAll(r.Body)
			return fmt.Sprintf(format, r.Header.Get("Authorization")+string(body)+secret+"AKIDtest-----BEGIN EC PRIVATE KEY-----")
		}
	}
	words := []string{secret, "AKIDtest", "Signature=", "tom@", "PRIVATE KEY", "BEGIN"}
	for _, body := range []string{"<html>%s</html>", `{"Response": %s`, `{"Response":{"Error":{"Code":7}}} %s`} {
		for _, status := range []int{200, 400, 502} {
			c := client(t, serve(t, status, repeat(body)), permits(time.Second))
			_, err := submit(t, c.Certificate(), application(), wideFence)
			if err == nil {
				t.Errorf("%d %s: no error", status, body)
			}
			issuertest.Silent(t, err, words...)
			issuertest.Silent(t, fmt.Errorf("%#v %+v", c, c), secret)
		}
	}
	for _, url := range []string{"http://127.0.0.1:1", "https://127.0.0.1:1"} {
		_, err := submit(t, client(t, url, permits(time.Second)).Certificate(), application(), wideFence)
		issuertest.Silent(t, err, words...)
	}
	c := client(t, serve(t, 200, text(`{"Response":{"Error":{"Code":"AuthFailure","Message":"key AKIDtest with `+secret+`"},"RequestId":"R"}}`)), permits(time.Second))
	_, err := c.Certificate().Look(t.Context(), "x")
	issuertest.Silent(t, err, words...)
}

func TestNewRefuses(t *testing.T) {
	good := issuer.Access{KeyID: "a", Secret: "b", Main: "m", Permits: permits(time.Second)}
	if _, err := tencent.New(good); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*issuer.Access){
		func(c *issuer.Access) { c.KeyID = "" }, func(c *issuer.Access) { c.Secret = "" },
		func(c *issuer.Access) { c.Main = "" }, func(c *issuer.Access) { c.Permits = nil },
		func(c *issuer.Access) { c.Endpoint = "ssl.tencentcloudapi.com" }, func(c *issuer.Access) { c.DNSEndpoint = "https://h/p" },
	} {
		bad := good
		change(&bad)
		if _, err := tencent.New(bad); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
	common.DefaultHttpClient = http.DefaultClient
	defer func() { common.DefaultHttpClient = nil }()
	if _, err := tencent.New(good); err == nil {
		t.Error("accepted a shared HTTP client")
	}
}

// TestCallServesDNSPod: the DNS solver uses the same client.
func TestCallServesDNSPod(t *testing.T) {
	ssl := serve(t, 500, text("not here"))
	dns := issuertest.Record(t, `{"Response":{"RecordId":162,"RequestId":"R1"}}`, steady)
	c, err := tencent.New(issuer.Access{Endpoint: ssl, DNSEndpoint: dns.URL, KeyID: "a", Secret: secret, Main: "m", Permits: permits(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	var out struct{ RecordId uint64 }
	in := map[string]string{"Domain": "example.com", "RecordLine": "默认"}
	if err := c.Call(t.Context(), "dnspod", "2021-03-23", "CreateRecord", in, &out); err != nil || out.RecordId != 162 {
		t.Errorf("record %d, error %v", out.RecordId, err)
	}
	if err := c.Call(t.Context(), "cvm", "v", "RunInstances", nil, nil); !errors.Is(err, issuer.Rejected) {
		t.Errorf("other service: %v", err)
	}
}
