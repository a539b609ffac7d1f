package cloudsim_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common"
	tcerr "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/errors"
	tchttp "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/http"
	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/profile"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// tencentCloud is a simulator with one account of Tencent, called by the vendor's
// SDK.
type tencentCloud struct {
	t   *testing.T
	sim *cloudsim.Sim
	key cloudsim.Account
}

// tencentConfig is a config without delays of note.
func tencentConfig() cloudsim.Config {
	return cloudsim.Config{
		ChallengeDelay: cloudsim.Exactly(20 * time.Millisecond), IssueDelay: cloudsim.Exactly(20 * time.Millisecond),
		CheckInterval: cloudsim.Duration(20 * time.Millisecond), ListLag: cloudsim.None, DNSLag: cloudsim.None,
		Latency: cloudsim.None, CloudKey: "p256", Limits: map[string]int{"default": 10_000},
		Logger: slog.New(slog.DiscardHandler), Accounts: []cloudsim.Account{tencentAccount()},
	}
}

func tencentAccount() cloudsim.Account {
	return cloudsim.Account{Cloud: "tencent", Label: "one", UID: "100000000001", AccessKeyID: "AKIDone", AccessKeySecret: "secret-one",
		Products: map[string]int{"83": 2}, Certificates: []cloudsim.Certificate{{ID: "paid0001"}, {ID: "paid0002"}, {ID: "single01", DomainType: 1}}}
}

func startTencent(t *testing.T, cfg cloudsim.Config) *tencentCloud {
	t.Helper()
	sim, err := cloudsim.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return &tencentCloud{t, sim, cfg.Accounts[0]}
}

type sdkRequest struct {
	*tchttp.BaseRequest
	in any
}

func (r *sdkRequest) MarshalJSON() ([]byte, error) { return json.Marshal(r.in) }

type sdkReply struct {
	*tchttp.BaseResponse
	Response json.RawMessage `json:"Response"`
}

type params map[string]any

var versions = map[string]string{"ssl": "2019-12-05", "dnspod": "2021-03-23", "sts": "2018-08-13", "cam": "2019-01-16"}

func (c *tencentCloud) send(key cloudsim.Account, through http.RoundTripper, service, action string, in any) (json.RawMessage, error) {
	p := profile.NewClientProfile()
	p.HttpProfile.Endpoint, p.HttpProfile.Scheme = strings.TrimPrefix(c.sim.TencentURL(), "http://"), "HTTP"
	p.HttpProfile.ReqTimeout, p.DisableRegionBreaker = 10, true
	client := common.NewCommonClient(common.NewCredential(key.AccessKeyID, key.AccessKeySecret), "", p).WithHttpTransport(through)
	req := &sdkRequest{new(tchttp.BaseRequest).Init().WithApiInfo(service, versions[service], action), in}
	resp := &sdkReply{BaseResponse: &tchttp.BaseResponse{}}
	err := client.Send(req, resp)
	return resp.Response, err
}

// call wants success and decodes the answer.
func (c *tencentCloud) call(service, action string, in params, out any) {
	c.t.Helper()
	raw, err := c.send(c.key, http.DefaultTransport, service, action, in)
	if err != nil {
		c.t.Fatalf("%s: %v", action, err)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(raw, out); err != nil {
		c.t.Fatalf("%s: %v in %s", action, err, raw)
	}
}

// code wants a refusal and returns its code, or says that it succeeded.
func (c *tencentCloud) code(service, action string, in params) string {
	c.t.Helper()
	_, err := c.send(c.key, http.DefaultTransport, service, action, in)
	return codeOf(err)
}

func codeOf(err error) string {
	var e *tcerr.TencentCloudSDKError
	switch {
	case err == nil:
		return "success"
	case errors.As(err, &e):
		return e.Code
	default:
		return err.Error()
	}
}

// mutate changes a request after the SDK signed it.
type mutate func(*http.Request)

func (m mutate) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	m(r)
	return http.DefaultTransport.RoundTrip(r)
}

func shiftStamp(by time.Duration) mutate {
	return func(r *http.Request) {
		stamp := time.Now().Add(by).Unix()
		r.Header.Set("X-TC-Timestamp", strconv.FormatInt(stamp, 10))
	}
}

func TestTencentSignature(t *testing.T) {
	disabled := cloudsim.Account{Cloud: "tencent", UID: "100000000001", AccessKeyID: "AKIDdisabled", AccessKeySecret: "s", Disabled: true}
	foreign := cloudsim.Account{Cloud: "aliyun", UID: "100000000001", AccessKeyID: "LTAIforeign", AccessKeySecret: "s"}
	denied := cloudsim.Account{Cloud: "tencent", UID: "100000000001", AccessKeyID: "AKIDdenied", AccessKeySecret: "s", Deny: []string{"DescribeCertificates"}}
	cfg := tencentConfig()
	cfg.Accounts = append(cfg.Accounts, disabled, foreign, denied)
	c := startTencent(t, cfg)
	wrong := c.key
	wrong.AccessKeySecret += "x"
	header := func(name, value string) mutate { return func(r *http.Request) { r.Header.Set(name, value) } }
	same := mutate(func(*http.Request) {})
	for _, tt := range []struct {
		name string
		key  cloudsim.Account
		how  mutate
		want string
	}{
		{"as the SDK signs it", c.key, same, "success"},
		{"wrong secret", wrong, same, "AuthFailure.SignatureFailure"},
		{"unknown id", cloudsim.Account{AccessKeyID: "AKIDnobody", AccessKeySecret: "s"}, same, "AuthFailure.SecretIdNotFound"},
		{"disabled", disabled, same, "AuthFailure.SecretIdNotFound"},
		{"the other cloud's key", foreign, same, "AuthFailure.SecretIdNotFound"},
		{"no permission", denied, same, "UnauthorizedOperation"},
		{"body changed", c.key, func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"Limit":2}`)) }, "AuthFailure.SignatureFailure"},
		{"host changed", c.key, func(r *http.Request) { r.Host = "ssl.tencentcloudapi.com" }, "AuthFailure.SignatureFailure"},
		{"content type changed", c.key, header("Content-Type", "application/json; charset=utf-8"), "AuthFailure.SignatureFailure"},
		{"form", c.key, header("Content-Type", "application/x-www-form-urlencoded"), "UnsupportedProtocol"},
		{"a second later", c.key, shiftStamp(2 * time.Second), "AuthFailure.SignatureFailure"},
		{"too old", c.key, shiftStamp(-301 * time.Second), "AuthFailure.SignatureExpire"},
		{"in the future", c.key, shiftStamp(310 * time.Second), "AuthFailure.SignatureExpire"},
		{"no time", c.key, func(r *http.Request) { r.Header.Del("X-TC-Timestamp") }, "MissingParameter"},
		{"time that is none", c.key, header("X-TC-Timestamp", "now"), "InvalidParameter"},
		{"no action", c.key, func(r *http.Request) { r.Header.Del("X-TC-Action") }, "MissingParameter"},
		{"unknown action", c.key, header("X-TC-Action", "SellCertificate"), "InvalidAction"},
		{"another service's action", c.key, header("X-TC-Action", "CreateRecord"), "InvalidAction"},
		{"unknown version", c.key, header("X-TC-Version", "2018-01-01"), "NoSuchVersion"},
		{"no authorization", c.key, func(r *http.Request) { r.Header.Del("Authorization") }, "AuthFailure.InvalidAuthorization"},
		{"other scheme", c.key, header("Authorization", "TC1-HMAC Credential=x"), "AuthFailure.InvalidAuthorization"},
		{"content type not signed", c.key, func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "content-type;host", "host", 1))
		}, "AuthFailure.SignatureFailure"},
		{"token", c.key, header("X-TC-Token", "t"), "AuthFailure.TokenFailure"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw, err := c.send(tt.key, tt.how, "ssl", "DescribeCertificates", params{"Limit": 1})
			if got := codeOf(err); got != tt.want {
				t.Errorf("got %s, want %s (%v)", got, tt.want, err)
			}
			if err == nil && !strings.Contains(string(raw), `"RequestId"`) {
				t.Errorf("no RequestId in %s", raw)
			}
		})
	}
}

func TestTencentParameters(t *testing.T) {
	c := startTencent(t, tencentConfig())
	for _, tt := range []struct {
		action string
		in     params
		want   string
	}{
		{"DescribeCertificates", params{}, "success"},
		{"DescribeCertificates", params{"Limit": nil}, "success"},
		{"DescribeCertificates", params{"limit": 1}, "UnknownParameter"},
		{"DescribeCertificates", params{"Limit": "1"}, "InvalidParameter"},
		{"DescribeCertificates", params{"Limit": 1.5}, "InvalidParameter"},
		{"DescribeCertificates", params{"Limit": -1}, "InvalidParameterValue"},
		{"DescribeCertificates", params{"Offset": int64(math.MaxInt64), "Limit": 5000}, "success"},
		{"DescribeCertificates", params{"Tags": []params{{"TagKey": "a", "TagValue": "b"}}}, "success"},
		{"DescribeCertificates", params{"Tags": []params{{"Key": "a"}}}, "UnknownParameter"},
		{"DescribeCertificates", params{"Tags": "a"}, "InvalidParameter"},
		{"DescribeCertificates", params{"CertIds": make([]string, 51)}, "InvalidParameter.CertificateIdNumberLimit"},
		{"DescribeCertificate", params{}, "MissingParameter"},
		{"DescribeCertificate", params{"CertificateId": nil}, "MissingParameter"},
		{"DescribeCertificate", params{"CertificateId": "nobody"}, "FailedOperation.CertificateNotFound"},
	} {
		if got := c.code("ssl", tt.action, tt.in); got != tt.want {
			t.Errorf("%s %v: got %s, want %s", tt.action, tt.in, got, tt.want)
		}
	}
	if err := c.sim.SetConfig(func(cfg *cloudsim.Config) { cfg.IgnoreUnknownKeys = true }); err != nil {
		t.Fatal(err)
	}
	if got := c.code("ssl", "DescribeCertificates", params{"limit": 1}); got != "success" {
		t.Errorf("with ignore_unknown_keys: %s", got)
	}
}

func TestTencentThrottles(t *testing.T) {
	cfg := tencentConfig()
	cfg.Limits = map[string]int{"DescribeCertificates": 3, "DescribeCertificate": 5}
	c := startTencent(t, cfg)
	codes := map[string]int{}
	for range 12 {
		codes[c.code("ssl", "DescribeCertificates", params{})]++
	}
	if got := c.code("ssl", "DescribeCertificate", params{"CertificateId": "paid0001"}); got != "success" {
		t.Errorf("the other action is throttled too: %s", got)
	}
	for _, call := range c.sim.Report().Calls {
		if call.Action != "DescribeCertificates" {
			continue
		}
		if call.Calls != 12 || call.Accepted != codes["success"] || call.Throttled != codes["RequestLimitExceeded"] ||
			call.Throttled == 0 || call.Violations == 0 || call.PeakSliding <= 3 || call.Limit != 3 {
			t.Errorf("codes %v, report %+v", codes, call)
		}
		return
	}
	t.Error("the action is not in the report")
}

// csrFor makes a key and a request.
func csrFor(t *testing.T, names ...string) (string, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: names[0]}, DNSNames: names}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), key
}

func materials(id, csr string, names ...string) params {
	in := params{"CertId": id, "GenCsrType": "online", "CertCommonName": names[0], "CompanyType": 1, "CompanyId": "0",
		"DnsNames": names[1:], "VerifyType": "DNS", "ContactEmail": "ops@example.com"}
	if csr != "" {
		in["GenCsrType"], in["Csr"] = "parse", csr
	}
	return in
}

type described struct {
	Status                                      int
	StatusMsg, StatusName, Domain, InsertTime   string
	CertificatePublicKey, CertificatePrivateKey string
	OrderId                                     *string
	SubjectAltName                              []string
	SubmittedData                               *struct{ CsrContent string }
	DvAuthDetail                                *struct {
		DvAuthKey, DvAuthKeySubDomain string
		DvAuths                       []dvAuth
	}
}

type dvAuth struct {
	DvAuthKey, DvAuthValue, DvAuthDomain, DvAuthPath, DvAuthSubDomain, DvAuthVerifyType string
}

func (c *tencentCloud) describe(id string) described {
	c.t.Helper()
	var d described
	c.call("ssl", "DescribeCertificate", params{"CertificateId": id}, &d)
	return d
}

// until looks until the certificate has the status.
func (c *tencentCloud) until(id string, status int) described {
	c.t.Helper()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		d := c.describe(id)
		if d.Status == status {
			return d
		}
		if time.Now().After(end) {
			c.t.Fatalf("certificate %s is in status %d (%s), not in %d", id, d.Status, d.StatusMsg, status)
		}
	}
}

func (c *tencentCloud) place(d described) {
	c.t.Helper()
	for _, a := range d.DvAuthDetail.DvAuths {
		c.call("dnspod", "CreateRecord", params{"Domain": a.DvAuthDomain, "SubDomain": a.DvAuthSubDomain,
			"RecordType": a.DvAuthVerifyType, "RecordLine": "默认", "Value": a.DvAuthValue}, nil)
	}
}

// verified checks a chain against the simulator's root.
func (c *tencentCloud) verified(chain string, names ...string) *x509.Certificate {
	c.t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(c.sim.RootPEM())
	block, rest := pem.Decode([]byte(chain))
	if block == nil {
		c.t.Fatalf("no PEM: %q", chain)
	}
	between.AppendCertsFromPEM(rest)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, name := range names {
		host := strings.Replace(name, "*", "any", 1)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host}); err != nil {
			c.t.Errorf("%s: %v", name, err)
		}
	}
	return leaf
}

func TestTencentIssues(t *testing.T) {
	for _, tt := range []struct {
		name, record string
		ours         bool
		names        []string
	}{
		{"TXT, our key", "TXT", true, []string{"a.example.com", "*.a.example.com", "b.example.net"}},
		{"CNAME, the cloud's key", "CNAME", false, []string{"shop.example.co.uk"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := tencentConfig()
			cfg.TencentRecordType = tt.record
			c := startTencent(t, cfg)
			csr, key := csrFor(t, tt.names...)
			if !tt.ours {
				csr, key = "", nil
			}
			if d := c.describe("paid0001"); d.Status != 5 || d.DvAuthDetail != nil || d.SubmittedData != nil || d.OrderId != nil {
				t.Errorf("bought: %+v", d)
			}
			if got := c.code("ssl", "CertificateOrderSubmit", params{"CertId": "paid0001"}); got != "FailedOperation.CertificateInfoSubmitStatusInvalid" {
				t.Errorf("without materials: %s", got)
			}
			c.call("ssl", "CertificateInfoSubmit", materials("paid0001", csr, tt.names...), nil)
			var receipt struct {
				OrderId string
				Status  int
			}
			c.call("ssl", "CertificateOrderSubmit", params{"CertId": "paid0001", "VerifyType": "DNS"}, &receipt)
			if receipt.OrderId == "" || receipt.Status != 0 {
				t.Errorf("receipt %+v", receipt)
			}
			if got := c.code("ssl", "CertificateOrderSubmit", params{"CertId": "paid0001"}); got != "FailedOperation.CertificateOrderSubmitProcessing" {
				t.Errorf("again: %s", got)
			}
			if got := c.code("ssl", "CertificateInfoSubmit", materials("paid0001", csr, tt.names...)); got != "FailedOperation.CertificateInfoSubmitStatusInvalid" {
				t.Errorf("materials again: %s", got)
			}
			d := c.until("paid0001", 4)
			if d.StatusMsg != "PENDING-DCV" || d.StatusName != "待验证" || d.DvAuthDetail == nil || !slices.Equal(d.SubjectAltName, tt.names) {
				t.Fatalf("challenged: %+v", d)
			}
			if got := c.code("ssl", "DownloadCertificate", params{"CertificateId": "paid0001"}); got != "FailedOperation.CertificateStatusNotAllowDownload" {
				t.Errorf("download too early: %s", got)
			}
			c.place(d)
			c.call("ssl", "CompleteCertificate", params{"CertificateId": "paid0001"}, nil)
			d = c.until("paid0001", 1)
			if d.DvAuthDetail == nil || d.DvAuthDetail.DvAuthKey != "" || d.DvAuthDetail.DvAuths != nil {
				t.Errorf("issued: %+v", d.DvAuthDetail)
			}
			if got := c.code("ssl", "CompleteCertificate", params{"CertificateId": "paid0001"}); got != "FailedOperation.CertificateNotFoundOrAudited" {
				t.Errorf("kick after issue: %s", got)
			}
			if got := c.code("ssl", "CertificateOrderSubmit", params{"CertId": "paid0001"}); got != "FailedOperation.InvalidCertificateStatusCode" {
				t.Errorf("submit after issue: %s", got)
			}
			c.collected("paid0001", tt.names, key)
		})
	}
}

// collected compares detail and archive with what was ordered.
func (c *tencentCloud) collected(id string, names []string, key *ecdsa.PrivateKey) {
	c.t.Helper()
	var d described
	c.call("ssl", "DescribeCertificateDetail", params{"CertificateId": id}, &d)
	if d.Domain != names[0] || !slices.Equal(d.SubjectAltName, names[1:]) {
		c.t.Errorf("detail is for %s and %v", d.Domain, d.SubjectAltName)
	}
	leaf := c.verified(d.CertificatePublicKey, names...)
	if key != nil && (!key.PublicKey.Equal(leaf.PublicKey) || d.CertificatePrivateKey != "") {
		c.t.Error("the certificate is not for our key, or a key is shown")
	}
	if key == nil {
		if _, err := tls.X509KeyPair([]byte(d.CertificatePublicKey), []byte(d.CertificatePrivateKey)); err != nil {
			c.t.Errorf("the cloud's key: %v", err)
		}
	}
	files := c.archive(id)
	host := strings.TrimPrefix(names[0], "*.")
	if files["Nginx/1_"+host+"_bundle.crt"] != d.CertificatePublicKey || files["Nginx/2_"+host+".key"] != d.CertificatePrivateKey {
		c.t.Errorf("the archive has other content than the detail: %v", len(files))
	}
}

func (c *tencentCloud) archive(id string) map[string]string {
	c.t.Helper()
	var out struct{ Content, ContentType string }
	c.call("ssl", "DownloadCertificate", params{"CertificateId": id}, &out)
	raw, err := base64.StdEncoding.DecodeString(out.Content)
	if err != nil || out.ContentType != "application/zip" {
		c.t.Fatalf("content type %q, %v", out.ContentType, err)
	}
	archive, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		c.t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range archive.File {
		r, err := f.Open()
		if err != nil {
			c.t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			c.t.Fatal(err)
		}
		files[f.Name] = string(text)
	}
	return files
}

func TestTencentValidatesByFile(t *testing.T) {
	var mu sync.Mutex
	served := map[string]string{}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		text, ok := served[r.Host+r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, text)
	}))
	defer web.Close()
	for _, whole := range []bool{false, true} {
		cfg := tencentConfig()
		cfg.FilePort, cfg.WholeFilePath = web.Listener.Addr().(*net.TCPAddr).Port, whole
		c := startTencent(t, cfg)
		in := materials("paid0001", "", "files.example.com")
		in["VerifyType"] = "FILE"
		c.call("ssl", "CertificateInfoSubmit", in, nil)
		c.call("ssl", "CertificateOrderSubmit", params{"CertId": "paid0001"}, nil)
		a := c.until("paid0001", 4).DvAuthDetail.DvAuths[0]
		if a.DvAuthVerifyType != "FILE" || strings.HasSuffix(a.DvAuthPath, ".txt") != whole {
			t.Errorf("whole %v: %+v", whole, a)
		}
		at := a.DvAuthDomain + a.DvAuthPath
		if !whole {
			at += a.DvAuthKey
		}
		mu.Lock()
		served[at] = a.DvAuthValue
		mu.Unlock()
		c.until("paid0001", 1)
	}
}

func TestTencentMaterials(t *testing.T) {
	c := startTencent(t, tencentConfig())
	good, _ := csrFor(t, "a.example.com", "b.example.com")
	with := func(key string, value any) params {
		in := materials("paid0001", good, "a.example.com", "b.example.com")
		in[key] = value
		return in
	}
	for _, tt := range []struct {
		what string
		in   params
		want string
	}{
		{"good", with("CertId", "paid0001"), "success"},
		{"overwritten", with("CertId", "paid0001"), "success"},
		{"no such certificate", with("CertId", "nobody"), "FailedOperation.CertificateNotFound"},
		{"unknown source of the CSR", with("GenCsrType", "guess"), "InvalidParameterValue"},
		{"no CSR", with("Csr", ""), "MissingParameter"},
		{"broken CSR", with("Csr", "-----BEGIN CERTIFICATE REQUEST-----\nMII=\n-----END CERTIFICATE REQUEST-----\n"), "FailedOperation.InvalidParam"},
		{"CSR for another name", with("CertCommonName", "b.example.com"), "FailedOperation.InvalidParam"},
		{"CSR for more names", with("DnsNames", []string{}), "FailedOperation.InvalidParam"},
		{"no name", with("CertCommonName", "nonsense"), "FailedOperation.InvalidParam"},
		{"company", with("CompanyType", 3), "InvalidParameterValue"},
		{"company without its name", with("CompanyType", 2), "MissingParameter"},
		{"no company id", with("CompanyId", nil), "MissingParameter"},
		{"no mail", with("ContactEmail", ""), "MissingParameter"},
		{"broken mail", with("ContactEmail", "nobody"), "FailedOperation.CertificatePreVerifyEmailInvalid"},
		{"unknown method", with("VerifyType", "PIGEON"), "InvalidParameterValue"},
		{"too many names", with("CertId", "single01"), "FailedOperation.InvalidParam"},
	} {
		if got := c.code("ssl", "CertificateInfoSubmit", tt.in); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.what, got, tt.want)
		}
	}
	wild := materials("paid0002", "", "*.example.com")
	wild["VerifyType"] = "FILE"
	if got := c.code("ssl", "CertificateInfoSubmit", wild); got != "FailedOperation.InvalidParam" {
		t.Errorf("wildcard by file: %s", got)
	}
	if d := c.describe("paid0002"); d.Status != 5 || d.SubmittedData != nil {
		t.Errorf("what was refused left traces: %+v", d)
	}
}

func TestTencentFreeCertificates(t *testing.T) {
	c := startTencent(t, tencentConfig())
	apply := params{"DvAuthMethod": "DNS_AUTO", "DomainName": "free-name.com", "Alias": "job-1", "DeleteDnsAutoRecord": true}
	var out struct{ CertificateId string }
	c.call("ssl", "ApplyCertificate", apply, &out)
	d := c.until(out.CertificateId, 1) // the cloud writes the record itself
	if !slices.Equal(d.SubjectAltName, []string{"free-name.com", "www.free-name.com"}) {
		t.Errorf("names %v", d.SubjectAltName)
	}
	if got := c.code("dnspod", "DescribeRecordList", params{"Domain": "free-name.com"}); got != "ResourceNotFound.NoDataOfRecord" {
		t.Errorf("the cloud's own record is still there: %s", got)
	}
	apply["DvAuthMethod"] = "DNS"
	c.call("ssl", "ApplyCertificate", apply, &out)
	if got := c.code("ssl", "ApplyCertificate", apply); got != "FailedOperation.ExceedsFreeLimit" {
		t.Errorf("third of two: %s", got)
	}
	if got := c.code("ssl", "DeleteCertificate", params{"CertificateId": out.CertificateId}); got != "FailedOperation.CannotBeDeletedWithinHour" {
		t.Errorf("deleted at once: %s", got)
	}
	report := c.sim.Report()
	if len(report.Duplicates) != 1 || len(report.Duplicates[0].Orders) != 2 {
		t.Errorf("duplicates %+v", report.Duplicates)
	}
	var cancelled struct{ Result bool }
	c.call("ssl", "CancelAuditCertificate", params{"CertificateId": out.CertificateId}, &cancelled)
	if d := c.describe(out.CertificateId); !cancelled.Result || d.Status != 7 {
		t.Errorf("cancelled: %+v", d)
	}
	if report := c.sim.Report(); len(report.Duplicates) != 0 {
		t.Errorf("a cancelled order is no duplicate: %+v", report.Duplicates)
	}
	c.call("ssl", "ApplyCertificate", apply, &out) // quota came back
	var list struct {
		TotalCount   int
		Certificates []struct {
			CertificateId, Alias, Domain string
			Status                       int
		}
	}
	c.call("ssl", "DescribeCertificates", params{"SearchKey": "JOB-1", "CertificateStatus": []int{0, 1, 4}, "Limit": 1}, &list)
	if list.TotalCount != 2 || len(list.Certificates) != 1 || list.Certificates[0].CertificateId != out.CertificateId || list.Certificates[0].Alias != "job-1" {
		t.Errorf("newest first, one of two: %+v", list)
	}
}

func TestTencentRefusesAndGivesUp(t *testing.T) {
	cfg := tencentConfig()
	cfg.ValidationDeadline, cfg.RefuseNames = cloudsim.Duration(200*time.Millisecond), []string{"bad.example.com"}
	c := startTencent(t, cfg)
	c.call("ssl", "CertificateInfoSubmit", materials("paid0001", "", "late.example.com"), nil)
	c.call("ssl", "CertificateOrderSubmit", params{"CertId": "paid0001"}, nil)
	if d := c.until("paid0001", 2); !strings.Contains(d.StatusMsg, "超时") {
		t.Errorf("reason %q", d.StatusMsg)
	}
	if err := c.sim.SetConfig(func(cfg *cloudsim.Config) { cfg.ValidationDeadline = cloudsim.Duration(time.Minute) }); err != nil {
		t.Fatal(err)
	}
	c.call("ssl", "CertificateInfoSubmit", materials("paid0002", "", "www.bad.example.com"), nil)
	c.call("ssl", "CertificateOrderSubmit", params{"CertId": "paid0002"}, nil)
	c.place(c.until("paid0002", 4))
	if d := c.until("paid0002", 2); !strings.Contains(d.StatusMsg, "CA") {
		t.Errorf("reason %q", d.StatusMsg)
	}
}

func TestTencentChecksVerification(t *testing.T) {
	cfg := tencentConfig()
	cfg.TencentRecordType, cfg.CheckInterval = "TXT", cloudsim.Duration(time.Hour)
	c := startTencent(t, cfg)
	check := func() int {
		var out struct{ VerificationResults []struct{ LocalCheck int } }
		c.call("ssl", "CheckCertificateDomainVerification", params{"CertificateId": "paid0001"}, &out)
		return out.VerificationResults[0].LocalCheck
	}
	c.call("ssl", "CertificateInfoSubmit", materials("paid0001", "", "www.example.com"), nil)
	if got := c.code("ssl", "CheckCertificateDomainVerification", params{"CertificateId": "paid0001"}); got != "FailedOperation.CertificateStatusNotAllowVerify" {
		t.Errorf("before the order: %s", got)
	}
	c.call("ssl", "CertificateOrderSubmit", params{"CertId": "paid0001"}, nil)
	d := c.until("paid0001", 4)
	if n := check(); n != -1 {
		t.Errorf("nothing there: %d", n)
	}
	a := d.DvAuthDetail.DvAuths[0]
	c.call("dnspod", "CreateRecord", params{"Domain": a.DvAuthDomain, "SubDomain": a.DvAuthSubDomain,
		"RecordType": "TXT", "RecordLine": "默认", "Value": "other"}, nil)
	if n := check(); n != -2 {
		t.Errorf("another value: %d", n)
	}
	c.place(d)
	if n := check(); n != 1 {
		t.Errorf("there: %d", n)
	}
}

func TestDNSPod(t *testing.T) {
	cfg := tencentConfig()
	cfg.Accounts[0].Zones = []string{"example.com", "sub.example.com"}
	c := startTencent(t, cfg)
	txt := func(domain, sub, value string) params {
		return params{"Domain": domain, "SubDomain": sub, "RecordType": "TXT", "RecordLine": "默认", "Value": value}
	}
	with := func(in params, key string, value any) params { in[key] = value; return in }
	var made struct{ RecordId uint64 }
	c.call("dnspod", "CreateRecord", txt("example.com", "_dnsauth", "v1"), &made)
	for _, tt := range []struct {
		action string
		in     params
		want   string
	}{
		{"CreateRecord", txt("example.com", "_dnsauth", "v1"), "InvalidParameter.DomainRecordExist"},
		{"CreateRecord", txt("example.com", "_dnsauth", "v2"), "success"},
		{"CreateRecord", with(txt("example.com", "_dnsauth", "x.example.org"), "RecordType", "CNAME"), "InvalidParameter.CustomMessage"},
		{"CreateRecord", txt("example.net", "a", "v"), "InvalidParameterValue.DomainNotExists"},
		{"CreateRecord", txt("www.example.com", "a", "v"), "InvalidParameterValue.DomainNotExists"},
		{"CreateRecord", txt("example.com", "a b", "v"), "InvalidParameter.SubdomainInvalid"},
		{"CreateRecord", with(txt("example.com", "a", "v"), "RecordType", "FAX"), "InvalidParameter.RecordTypeInvalid"},
		{"CreateRecord", with(txt("example.com", "a", "v"), "RecordType", "A"), "InvalidParameter.RecordValueInvalid"},
		{"CreateRecord", with(txt("example.com", "a", "v"), "RecordLine", "default"), "InvalidParameter.RecordLineInvalid"},
		{"CreateRecord", with(txt("example.com", "a", "v"), "TTL", 604801), "LimitExceeded.RecordTtlLimit"},
		{"CreateRecord", with(txt("example.com", "a", "v"), "RecordLine", nil), "MissingParameter"},
		{"DescribeRecordList", params{"Domain": "example.com", "SubDomain": "nothing"}, "ResourceNotFound.NoDataOfRecord"},
		{"DescribeRecordList", params{"Domain": "example.com", "SubDomain": "nothing", "ErrorOnEmpty": "no"}, "success"},
		{"DescribeRecordList", params{"Domain": "example.org"}, "InvalidParameterValue.DomainNotExists"},
		{"DescribeDomain", params{"Domain": "sub.example.com"}, "success"},
		{"DeleteRecord", params{"Domain": "sub.example.com", "RecordId": made.RecordId}, "InvalidParameter.RecordIdInvalid"},
		{"DeleteRecord", params{"Domain": "example.com", "RecordId": made.RecordId}, "success"},
		{"DeleteRecord", params{"Domain": "example.com", "RecordId": made.RecordId}, "InvalidParameter.RecordIdInvalid"},
	} {
		if got := c.code("dnspod", tt.action, tt.in); got != tt.want {
			t.Errorf("%s %v: got %s, want %s", tt.action, tt.in, got, tt.want)
		}
	}
	var records struct {
		RecordCountInfo struct{ TotalCount int }
		RecordList      []struct{ Name, Type, Value string }
	}
	c.call("dnspod", "DescribeRecordList", params{"Domain": "example.com", "SubDomain": "_dnsauth", "RecordType": "TXT"}, &records)
	if records.RecordCountInfo.TotalCount != 1 || len(records.RecordList) != 1 || records.RecordList[0].Value != "v2" {
		t.Errorf("records %+v", records)
	}
	var zones struct {
		DomainList []struct {
			Name     string
			DomainId uint64
		}
	}
	c.call("dnspod", "DescribeDomainList", params{}, &zones)
	if len(zones.DomainList) != 2 || zones.DomainList[0].Name != "example.com" {
		t.Fatalf("zones %+v", zones)
	}
	byID := params{"Domain": "ignored", "DomainId": zones.DomainList[0].DomainId}
	c.call("dnspod", "DescribeRecordList", byID, &records)
	if records.RecordCountInfo.TotalCount != 1 {
		t.Errorf("by id: %+v", records)
	}
	found, err := resolver(c.sim).LookupTXT(t.Context(), "_dnsauth.example.com")
	if err != nil || !slices.Equal(found, []string{"v2"}) {
		t.Errorf("the DNS serves %v, %v", found, err)
	}
}

func resolver(sim *cloudsim.Sim) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, sim.DNSAddr())
	}}
}

func TestTencentFaults(t *testing.T) {
	for _, tt := range []struct {
		fault     cloudsim.Fault
		want      string // of the SDK's code
		submitted bool
	}{
		{cloudsim.Fault{Kind: "reset_before_commit"}, "ClientError.NetworkError", false},
		{cloudsim.Fault{Kind: "reset_after_commit"}, "ClientError.NetworkError", true},
		{cloudsim.Fault{Kind: "http_500"}, "InternalError", true},
		{cloudsim.Fault{Kind: "http_500", Commit: "never"}, "InternalError", false},
		{cloudsim.Fault{Kind: "http_502_html"}, "ClientError.ParseJsonError", true},
		{cloudsim.Fault{Kind: "empty_200"}, "ClientError.ParseJsonError", true},
		{cloudsim.Fault{Kind: "truncated"}, "ClientError.ParseJsonError", true},
		{cloudsim.Fault{Kind: "wrong_type"}, "ClientError.ParseJsonError", true},
		{cloudsim.Fault{Kind: "code_in_200"}, "ClientError.ParseJsonError", false},
		{cloudsim.Fault{Kind: "numeric_code"}, "ClientError.ParseJsonError", false},
		{cloudsim.Fault{Kind: "stall", Seconds: 0.05}, "success", true},
		{cloudsim.Fault{Kind: "stale_close"}, "success", true},
		{cloudsim.Fault{Kind: "throttle"}, "RequestLimitExceeded", false},
		{cloudsim.Fault{Kind: "nonce_used"}, "success", true}, // TC3 has no nonce
	} {
		t.Run(tt.fault.Kind+tt.fault.Commit, func(t *testing.T) {
			t.Parallel()
			c := startTencent(t, tencentConfig())
			c.call("ssl", "CertificateInfoSubmit", materials("paid0001", "", "www.example.com"), nil)
			tt.fault.Action, tt.fault.Times = "CertificateOrderSubmit", 1
			if err := c.sim.AddFault(tt.fault); err != nil {
				t.Fatal(err)
			}
			fresh := &http.Transport{DisableKeepAlives: true}
			_, err := c.send(c.key, fresh, "ssl", "CertificateOrderSubmit", params{"CertId": "paid0001"})
			if got := codeOf(err); got != tt.want {
				t.Errorf("got %s (%v), want %s", got, err, tt.want)
			}
			if submitted := c.describe("paid0001").Status != 5; submitted != tt.submitted {
				t.Errorf("submitted %v, want %v", submitted, tt.submitted)
			}
			if hits := c.sim.Faults()[0].Hits; hits != 1 {
				t.Errorf("%d hits", hits)
			}
			spent := 0
			for _, o := range c.sim.Report().Orders {
				if o.ID == "paid0001" && o.Spent {
					spent++
				}
			}
			if (spent == 1) != tt.submitted {
				t.Errorf("%d orders in the books", spent)
			}
		})
	}
}

func TestTencentGoesOn(t *testing.T) {
	cfg := tencentConfig()
	cfg.Dir = t.TempDir()
	first := startTencent(t, cfg)
	first.call("ssl", "CertificateInfoSubmit", materials("paid0001", "", "www.example.com"), nil)
	first.call("ssl", "CertificateOrderSubmit", params{"CertId": "paid0001"}, nil)
	before := first.until("paid0001", 4)
	if err := first.sim.AddStock(cloudsim.Stock{Cloud: "tencent", UID: first.key.UID, Products: map[string]int{"83": 5},
		Certificates: []cloudsim.Certificate{{ID: "later001"}}}); err != nil {
		t.Fatal(err)
	}
	root := first.sim.RootPEM()
	if err := first.sim.Close(); err != nil {
		t.Fatal(err)
	}
	second := startTencent(t, cfg)
	if !bytes.Equal(root, second.sim.RootPEM()) {
		t.Error("the root is another one")
	}
	after := second.describe("paid0001")
	if after.Status != 4 || fmt.Sprint(after.DvAuthDetail) != fmt.Sprint(before.DvAuthDetail) {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if d := second.describe("later001"); d.Status != 5 {
		t.Errorf("what was bought later: %+v", d)
	}
	if n := second.bought("83"); n != 7 {
		t.Errorf("%d free certificates", n)
	}
	second.place(after)
	second.until("paid0001", 1)
	second.collected("paid0001", []string{"www.example.com"}, nil)
}

// bought is the quota of a product.
func (c *tencentCloud) bought(product string) int {
	for _, m := range c.sim.Report().Money {
		if m.UID == c.key.UID && m.Product == product {
			return m.Bought
		}
	}
	return 0
}
