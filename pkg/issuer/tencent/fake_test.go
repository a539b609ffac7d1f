package tencent_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/issuer/tencent"
	"github.com/certmill/certmill/pkg/order"
)

// fake is as much of the SSL service as the contract needs, in one mutex.
type fake struct {
	t   *testing.T
	url string

	mu     sync.Mutex
	certs  []*fakeCert
	placed map[string]string // host and path → value
}

type fakeCert struct {
	id, csr    string
	names      []string
	status     int
	looks      int
	chain, key string
}

func startFake(t *testing.T) *fake {
	f := &fake{t: t, placed: map[string]string{}}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	out, code := map[string]any{}, "AuthFailure.SignatureFailure"
	if strings.HasSuffix(r.Header.Get("Authorization"), "Signature="+sign(r, body)) {
		out, code = f.handle(r.Header.Get("X-TC-Action"), body)
	}
	if code != "" {
		out = map[string]any{"Error": map[string]string{"Code": code, "Message": "m"}}
	}
	out["RequestId"] = "R" + r.Header.Get("X-TC-Timestamp")
	json.NewEncoder(w).Encode(map[string]any{"Response": out})
}

// sign computes the TC3 signature anew, from the documents.
func sign(r *http.Request, body []byte) string {
	mac := func(key, s string) string {
		h := hmac.New(sha256.New, []byte(key))
		h.Write([]byte(s))
		return string(h.Sum(nil))
	}
	sum := func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }
	stamp := r.Header.Get("X-TC-Timestamp")
	seconds, _ := strconv.ParseInt(stamp, 10, 64)
	date := time.Unix(seconds, 0).UTC().Format(time.DateOnly)
	canonical := "POST\n/\n\ncontent-type:" + r.Header.Get("Content-Type") + "\nhost:" + r.Host + "\n\ncontent-type;host\n" + sum(string(body))
	text := "TC3-HMAC-SHA256\n" + stamp + "\n" + date + "/ssl/tc3_request\n" + sum(canonical)
	return hex.EncodeToString([]byte(mac(mac(mac(mac("TC3"+secret, date), "ssl"), "tc3_request"), text)))
}

func (f *fake) handle(action string, body []byte) (map[string]any, string) {
	var in struct {
		CertId, CertificateId, Csr, CertCommonName, SearchKey string
		DnsNames                                              []string
		CertificateStatus                                     []int
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, "InvalidParameter"
	}
	if action == "DescribeCertificates" {
		return f.list(in.CertificateStatus, in.SearchKey), ""
	}
	c := f.find(in.CertId + in.CertificateId)
	if c == nil {
		return nil, "FailedOperation.CertificateNotFound"
	}
	switch action {
	case "CertificateInfoSubmit":
		c.names, c.csr = append([]string{in.CertCommonName}, in.DnsNames...), in.Csr
	case "CertificateOrderSubmit":
		if c.status != 5 || c.names == nil {
			return nil, "FailedOperation.CertificateInfoSubmitStatusInvalid"
		}
		c.status = 0
	case "CompleteCertificate":
		if c.status != 0 {
			return nil, "FailedOperation.CertificateNotFoundOrAudited"
		}
	case "DescribeCertificate", "DescribeCertificateDetail":
		return f.describe(c), ""
	default:
		return nil, "InvalidAction"
	}
	return map[string]any{"CertificateId": c.id, "OrderId": "SO8zRv29", "Status": c.status}, ""
}

func (f *fake) find(id string) *fakeCert {
	for _, c := range f.certs {
		if c.id == id {
			return c
		}
	}
	return nil
}

func (f *fake) describe(c *fakeCert) map[string]any {
	out := map[string]any{"Status": c.status, "StatusMsg": "", "DvAuthDetail": nil, "SubjectAltName": c.names}
	if c.status != 0 && c.status != 1 {
		return out
	}
	c.looks++
	auths, open := []any{}, false
	for _, n := range c.names {
		host, value := "_dnsauth."+n, "2026"+c.id+n
		open = open || f.placed[host] != value
		auths = append(auths, map[string]any{"DvAuthKey": host, "DvAuthValue": value, "DvAuthDomain": n, "DvAuthVerifyType": "TXT"})
	}
	if c.status == 0 && !open {
		c.status = 1
		c.chain, c.key = issuertest.Issue(f.t, c.csr, c.names)
	}
	if c.status == 0 && c.looks > 1 {
		out["DvAuthDetail"] = map[string]any{"DvAuths": auths}
	}
	out["Status"], out["CertificatePublicKey"], out["CertificatePrivateKey"] = c.status, c.chain, c.key
	return out
}

func (f *fake) list(statuses []int, key string) map[string]any {
	rows := []any{}
	for _, c := range f.certs {
		if (len(statuses) == 0 || slices.Contains(statuses, c.status)) && strings.Contains(strings.Join(c.names, ","), key) {
			row := map[string]any{"CertificateId": c.id, "Status": c.status, "SubjectAltName": c.names, "InsertTime": "2026-11-24 10:00:00"}
			if len(c.names) > 0 {
				row["Domain"] = c.names[0]
			}
			rows = append(rows, row)
		}
	}
	return map[string]any{"TotalCount": len(rows), "Certificates": rows}
}

func TestContract(t *testing.T) {
	for name, ours := range map[string]bool{"our key": true, "the cloud's key": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuertest.Run(t, func(t *testing.T) issuertest.Subject { return subject(t, ours) })
		})
	}
}

func subject(t *testing.T, ourKey bool) issuertest.Subject {
	const deadline = 500 * time.Millisecond
	f := startFake(t)
	proxy := issuertest.Between(t, f.url, func(r *http.Request) string { return r.Header.Get("X-TC-Action") },
		func(w http.ResponseWriter) { fmt.Fprint(w, code("RequestLimitExceeded")) })
	at := func(url string, secret order.Secret) issuer.Flow {
		c, err := tencent.New(tencent.Config{Endpoint: url, DNSEndpoint: url, SecretID: "AKIDtest", SecretKey: secret, Main: "100300", Permits: permits(deadline)})
		if err != nil {
			t.Fatal(err)
		}
		return c.Certificate()
	}
	return issuertest.Subject{
		Flow: at(proxy.URL, secret), Secret: secret, Deadline: deadline,
		Application: func(t *testing.T) issuer.Application {
			f.mu.Lock()
			defer f.mu.Unlock()
			a := application()
			a.Resource = fmt.Sprint("Dsqef", len(f.certs))
			f.certs = append(f.certs, &fakeCert{id: a.Resource, status: 5})
			if ourKey {
				a.CSR = issuertest.CSR(t, a.Names...)
			}
			return a
		},
		Place: func(_ *testing.T, c order.Challenge) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.placed[c.Host+c.Path] = c.Value
		},
		Fault: func(_ *testing.T, action string, fault issuertest.Fault) { proxy.Fail(action, fault) },
		Submitted: func(*testing.T) int {
			f.mu.Lock()
			defer f.mu.Unlock()
			n := 0
			for _, c := range f.certs {
				if c.status != 5 {
					n++
				}
			}
			return n
		},
		Calls:       func(_ *testing.T, action string) int { return proxy.Calls(action) },
		WrongSecret: func(*testing.T) issuer.Flow { return at(proxy.URL, secret+"x") },
		Unreachable: func(*testing.T) issuer.Flow { return at("http://127.0.0.1:1", secret) },
	}
}
