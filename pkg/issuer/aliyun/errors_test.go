package aliyun_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/services/alidns"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/permit"
)

// serve answers everything with one status and body. Body functions see the
// request, so that they can repeat it.
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
	return fmt.Sprintf(`{"RequestId":"R1","HostId":"cas.aliyuncs.com","Code":%q,"Message":"the message"}`, c)
}

func TestAnswers(t *testing.T) {
	tests := []struct {
		status      int
		body        string
		spend, read issuer.Kind
	}{
		{400, code("Throttling"), issuer.Throttled, issuer.Throttled},
		{400, code("Throttling.User"), issuer.Throttled, issuer.Throttled},
		{503, code("Throttling.Api"), issuer.Throttled, issuer.Throttled},
		{400, code("SystemFlowControl"), issuer.Throttled, issuer.Throttled},
		{404, code("NotFoundPackage"), issuer.QuotaExhausted, issuer.QuotaExhausted},
		{404, code("NotRemainCount"), issuer.QuotaExhausted, issuer.QuotaExhausted},
		{404, code("NotFoundOrder"), issuer.NotFound, issuer.NotFound},
		{403, code("OrderStateError"), issuer.WrongState, issuer.WrongState},
		{403, code("CreateCertificateRequestFailed"), issuer.UnknownOutcome, issuer.Unavailable},
		{400, code("SignatureNonceUsed"), issuer.UnknownOutcome, issuer.Unavailable},
		{500, code("Error"), issuer.UnknownOutcome, issuer.Unavailable},
		{500, code("InternalError"), issuer.UnknownOutcome, issuer.Unavailable},
		{503, code("ServiceUnavailable"), issuer.UnknownOutcome, issuer.Unavailable},
		{418, code("NeverHeardOf"), issuer.UnknownOutcome, issuer.Unavailable},
		{400, code("InvalidParameter"), issuer.Rejected, issuer.Rejected},
		{400, code("MissingCsr"), issuer.Rejected, issuer.Rejected},
		{404, code("InvalidAccessKeyId.NotFound"), issuer.Credentials, issuer.Credentials},
		{400, code("SignatureDoesNotMatch"), issuer.Credentials, issuer.Credentials},
		{403, code("Forbidden.RAM"), issuer.Credentials, issuer.Credentials},
		{400, code("InvalidTimeStamp.Expired"), issuer.NeverSent, issuer.NeverSent},
		{400, `{"RequestId":"R1","Code":404,"Message":"numbers make the SDK panic"}`, issuer.UnknownOutcome, issuer.Unavailable},
		{502, "<html>bad gateway</html>", issuer.UnknownOutcome, issuer.Unavailable},
		{502, "", issuer.UnknownOutcome, issuer.Unavailable},
		{200, "", issuer.UnknownOutcome, issuer.Unavailable},
		{200, "<html>a portal</html>", issuer.UnknownOutcome, issuer.Unavailable},
		{200, "{}", issuer.UnknownOutcome, issuer.Unavailable},
		{200, "null", issuer.UnknownOutcome, issuer.Unavailable},
		{200, "[]", issuer.UnknownOutcome, issuer.Unavailable},
		{200, code("NotRemainCount"), issuer.UnknownOutcome, issuer.QuotaExhausted},
		{200, `{"RequestId":"R1","OrderId":{}}`, issuer.UnknownOutcome, ""},
	}
	for _, tt := range tests {
		c := client(t, serve(t, tt.status, text(tt.body)), permits(3*time.Second))
		_, err := submit(t, c.Package(), application(), wideFence)
		if got := issuer.KindOf(err); got != tt.spend {
			t.Errorf("%d %s: spending %q, want %q (%v)", tt.status, tt.body, got, tt.spend, err)
		}
		_, err = c.Package().Look(t.Context(), "98987582437920968")
		if got := issuer.KindOf(err); got != tt.read {
			t.Errorf("%d %s: reading %q, want %q (%v)", tt.status, tt.body, got, tt.read, err)
		}
	}
}

// TestErrorsAreSilent lets the cloud repeat the request in each of its answers.
func TestErrorsAreSilent(t *testing.T) {
	repeat := func(format string) func(*http.Request) string {
		return func(r *http.Request) string {
			return fmt.Sprintf(format, r.URL.RawQuery+" tom+ssl@example.com "+secret+" LTAItest -----BEGIN EC PRIVATE KEY-----")
		}
	}
	bodies := map[string]string{
		"signature": `{"RequestId":"R","Code":"SignatureDoesNotMatch","Message":"Specified signature is not matched with our calculation. server string to sign is:%s"}`,
		"html":      `<html>%s</html>`,
		"bad json":  `{"Code": %s`,
		"number":    `{"Code": 7, "Message":"server string to sign is: %s"}`,
	}
	words := []string{secret, "LTAItest", "Signature=", "tom+ssl", "tom%2Bssl", "PRIVATE KEY", "BEGIN"}
	for name, body := range bodies {
		for _, status := range []int{200, 400, 502} {
			c := client(t, serve(t, status, repeat(body)), permits(time.Second))
			_, err := submit(t, c.Package(), application(), wideFence)
			issuertest.Silent(t, err, words...)
			if err == nil {
				t.Errorf("%s %d: no error", name, status)
			}
			issuertest.Silent(t, errors.Join(err, fmt.Errorf("%#v %+v", c, c)), secret)
		}
	}
	for _, url := range []string{"http://127.0.0.1:1", "https://127.0.0.1:1"} {
		_, err := submit(t, client(t, url, permits(time.Second)).Package(), application(), wideFence)
		issuertest.Silent(t, err, words...)
	}
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, _ := w.(http.Hijacker).Hijack()
		fmt.Fprint(c, "SSH-2.0 "+secret)
		c.Close()
	}))
	defer down.Close()
	_, err := submit(t, client(t, down.URL, permits(time.Second)).Package(), application(), wideFence)
	issuertest.Silent(t, err, words...)
	if !errors.Is(err, issuer.UnknownOutcome) {
		t.Errorf("no HTTP: %v", err)
	}
}

func TestSignatureErrorsKeepTheirReason(t *testing.T) {
	c := client(t, serve(t, 400, text(`{"RequestId":"R","Code":"SignatureDoesNotMatch","Message":"Specified signature is not matched. server string to sign is:POST&x"}`)), permits(time.Second))
	_, err := c.Package().Look(t.Context(), "1")
	if s := fmt.Sprint(err); !strings.Contains(s, "Specified signature is not matched") || strings.Contains(s, "POST&") {
		t.Error(s)
	}
}

func TestNewRefuses(t *testing.T) {
	good := issuer.Access{KeyID: "a", Secret: "b", Main: "m", Permits: permits(time.Second)}
	if _, err := aliyun.New(good); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*issuer.Access){
		func(c *issuer.Access) { c.KeyID = "" }, func(c *issuer.Access) { c.Secret = "" },
		func(c *issuer.Access) { c.Main = "" }, func(c *issuer.Access) { c.Permits = nil },
		func(c *issuer.Access) { c.Endpoint = "cas.aliyuncs.com" }, func(c *issuer.Access) { c.DNSEndpoint = "https://h/path" },
	} {
		bad := good
		change(&bad)
		if _, err := aliyun.New(bad); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
	t.Setenv("DEBUG", "app,sdk")
	if _, err := aliyun.New(good); err == nil {
		t.Error("accepted DEBUG=sdk")
	}
}

// TestCallServesOtherProducts: the DNS solver uses the same client.
func TestCallServesOtherProducts(t *testing.T) {
	cas := serve(t, 500, text("not here"))
	dns := issuertest.Record(t, `{"RequestId":"R1","RecordId":"893877010245666816"}`, steady)
	c, err := aliyun.New(issuer.Access{Endpoint: cas, DNSEndpoint: dns.URL, KeyID: "a", Secret: secret, Main: "m", Permits: permits(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	req, resp := alidns.CreateAddDomainRecordRequest(), alidns.CreateAddDomainRecordResponse()
	req.DomainName, req.RR, req.Type, req.Value = "example.com", "_dnsauth", "TXT", "v"
	if err := c.Call(t.Context(), req, resp); err != nil {
		t.Fatal(err)
	}
	if resp.RecordId != "893877010245666816" || len(dns.Requests()) != 1 {
		t.Errorf("record %q, %d requests", resp.RecordId, len(dns.Requests()))
	}
	get := alidns.CreateAddDomainRecordRequest()
	get.Method = "GET"
	if err := c.Call(t.Context(), get, resp); !errors.Is(err, issuer.NeverSent) {
		t.Errorf("GET: %v", err)
	}
}

// TestCallUsesThePermitInTheContext takes the only permit by hand.
func TestCallUsesThePermitInTheContext(t *testing.T) {
	set := permit.NewSet(func(permit.Key) permit.Limit {
		return permit.Limit{Calls: 1, Period: time.Minute, Deadline: time.Second}
	})
	rec := issuertest.Record(t, `{"RequestId":"R1","Type":"process"}`, steady)
	c := client(t, rec.URL, set)
	ctx, _, err := set.Wait(t.Context(), permit.Key{Account: "100200", Action: "DescribeCertificateState"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Package().Look(ctx, "1"); err != nil {
		t.Error(err)
	}
}
