package cloudsim_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	sdkerrors "github.com/aliyun/alibaba-cloud-sdk-go/sdk/errors"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/alidns"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/cas"

	"github.com/certmill/certmill/pkg/cloudsim"
)

const (
	aliKey    = "LTAI5tCloudsimAliyun0001"
	aliSecret = "cloudsim-secret-aliyun-1"
	aliUID    = "1000000000000001"
	// paid is a product of single names with quota, wild one of wildcards.
	paid, wild = "geotrust-dv-1-starter", "geotrust-dv-w-starter"
)

// quick is a cloud without delays, unless a test wants them.
func quick() cloudsim.Config {
	return cloudsim.Config{
		ChallengeDelay: cloudsim.None, IssueDelay: cloudsim.None, ListLag: cloudsim.None, DNSLag: cloudsim.None,
		Latency: cloudsim.None, CheckInterval: cloudsim.Duration(20 * time.Millisecond), CloudKey: "p256",
		Limits: map[string]int{"default": 1000}, Seed: 7, Logger: slog.New(slog.DiscardHandler),
	}
}

// aliCloud is a simulator as the vendor's SDK sees it.
type aliCloud struct {
	*cloudsim.Sim
	t   testing.TB
	cas *cas.Client
	dns *alidns.Client
}

func startAli(t testing.TB, cfg cloudsim.Config) *aliCloud {
	t.Helper()
	sim, err := cloudsim.Start(context.WithoutCancel(t.Context()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return aliClient(t, sim, aliKey, aliSecret)
}

// making lets clients be made one by one: the SDK's constructors fill a map of the package
// without a lock.
var making sync.Mutex

func aliClient(t testing.TB, sim *cloudsim.Sim, key, secret string) *aliCloud {
	t.Helper()
	making.Lock()
	defer making.Unlock()
	config := sdk.NewConfig().WithScheme("HTTP").WithTimeout(10 * time.Second)
	credential := credentials.NewAccessKeyCredential(key, secret)
	c, err := cas.NewClientWithOptions("cn-hangzhou", config, credential)
	if err != nil {
		t.Fatal(err)
	}
	d, err := alidns.NewClientWithOptions("cn-hangzhou", config, credential)
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(sim.AliyunURL(), "http://")
	c.Domain, d.Domain = host, host
	return &aliCloud{Sim: sim, t: t, cas: c, dns: d}
}

// code is the cloud's error code, or what else came back.
func code(err error) string {
	if e, ok := errors.AsType[*sdkerrors.ServerError](err); ok {
		return fmt.Sprint(e.HttpStatus(), " ", e.ErrorCode())
	}
	return fmt.Sprint(err)
}

func wantCode(t testing.TB, err error, want string) {
	t.Helper()
	if got := code(err); got != want {
		t.Errorf("got %q, want %q (%v)", got, want, err)
	}
}

// order makes a package order by the SDK.
func (a *aliCloud) order(change func(*cas.CreateCertificateForPackageRequestRequest)) (int64, error) {
	r := cas.CreateCreateCertificateForPackageRequestRequest()
	r.Domain, r.ProductCode, r.ValidateType = "www.example.com", paid, "DNS"
	if change != nil {
		change(r)
	}
	out, err := a.cas.CreateCertificateForPackageRequest(r)
	if err != nil {
		return 0, err
	}
	return out.OrderId, nil
}

func (a *aliCloud) mustOrder(change func(*cas.CreateCertificateForPackageRequestRequest)) int64 {
	a.t.Helper()
	id, err := a.order(change)
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

func (a *aliCloud) state(id int64) *cas.DescribeCertificateStateResponse {
	a.t.Helper()
	r := cas.CreateDescribeCertificateStateRequest()
	r.OrderId = requests.NewInteger64(id)
	out, err := a.cas.DescribeCertificateState(r)
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}

// until waits for a state of an order.
func (a *aliCloud) until(id int64, want string) *cas.DescribeCertificateStateResponse {
	a.t.Helper()
	var s *cas.DescribeCertificateStateResponse
	eventually(a.t, want, func() bool {
		s = a.state(id)
		return s.Type == want
	})
	return s
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}

// put writes a record by alidns, its zone split by the cloud.
func (a *aliCloud) put(name, kind, value string) string {
	a.t.Helper()
	split := alidns.CreateGetMainDomainNameRequest()
	split.InputString = name
	zone, err := a.dns.GetMainDomainName(split)
	if err != nil {
		a.t.Fatal(err)
	}
	id, err := a.add(zone.DomainName, zone.RR, kind, value)
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

func (a *aliCloud) add(zone, rr, kind, value string) (string, error) {
	r := alidns.CreateAddDomainRecordRequest()
	r.DomainName, r.RR, r.Type, r.Value = zone, rr, kind, value
	out, err := a.dns.AddDomainRecord(r)
	if err != nil {
		return "", err
	}
	return out.RecordId, nil
}

// answer places the challenge of an order and waits for the certificate.
func (a *aliCloud) answer(id int64) *cas.DescribeCertificateStateResponse {
	a.t.Helper()
	s := a.until(id, "domain_verify")
	a.put(s.RecordDomain, s.RecordType, s.RecordValue)
	return a.until(id, "certificate")
}

// verify builds the chain up to the simulator's root.
func (a *aliCloud) verify(chain string, names ...string) *x509.Certificate {
	a.t.Helper()
	var certs []*x509.Certificate
	for block, rest := pem.Decode([]byte(chain)); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			a.t.Fatal(err)
		}
		certs = append(certs, cert)
	}
	if len(certs) != 2 {
		a.t.Fatalf("the chain has %d certificates", len(certs))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(a.RootPEM())
	between.AddCert(certs[1])
	for _, name := range names {
		host := strings.Replace(name, "*.", "any.", 1)
		if _, err := certs[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between}); err != nil {
			a.t.Errorf("%s: %v", name, err)
		}
	}
	if got := strings.Join(certs[0].DNSNames, ","); got != strings.Join(names, ",") {
		a.t.Errorf("certificate for %s, want %v", got, names)
	}
	return certs[0]
}

// list asks ListUserCertificateOrder.
func (a *aliCloud) list(kind, status, keyword string) *cas.ListUserCertificateOrderResponse {
	a.t.Helper()
	r := cas.CreateListUserCertificateOrderRequest()
	r.OrderType, r.Status, r.Keyword = kind, status, keyword
	out, err := a.cas.ListUserCertificateOrder(r)
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}

func (a *aliCloud) used(product string) (used, issued int64) {
	a.t.Helper()
	r := cas.CreateDescribePackageStateRequest()
	r.ProductCode = product
	out, err := a.cas.DescribePackageState(r)
	if err != nil {
		a.t.Fatal(err)
	}
	return out.UsedCount, out.IssuedCount
}

// request is a CSR for the names with a key of its own.
func request(t *testing.T, key any, cn string, sans ...string) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader,
		&x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}, DNSNames: sans}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestPackageOrderIsIssued(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.ChallengeDelay = cloudsim.Exactly(100 * time.Millisecond)
	a := startAli(t, cfg)
	id := a.mustOrder(nil)
	if id <= 1<<53 || int64(float64(id)) == id {
		t.Errorf("OrderId %d survives a float64", id)
	}
	if got := a.state(id).Type; got != "payed" {
		t.Errorf("just ordered: %s", got)
	}
	s := a.until(id, "domain_verify")
	if s.ValidateType != "DNS" || s.RecordDomain != "_dnsauth.www.example.com" || s.RecordType != "TXT" || s.RecordValue == "" {
		t.Errorf("challenge %+v", s)
	}
	rows := a.list("CPACK", "CHECKING", "example").CertificateOrderList
	if len(rows) != 1 || rows[0].OrderId != id || rows[0].Domain != "www.example.com" || rows[0].DomainType != "ONE" {
		t.Errorf("waiting %+v", rows)
	}
	s = a.answer(id)
	a.verify(s.Certificate, "www.example.com")
	if _, err := tls.X509KeyPair([]byte(s.Certificate), []byte(s.PrivateKey)); err != nil {
		t.Error(err)
	}
	a.checkCertificateLists(id, s.Certificate)
	if used, issued := a.used(paid); used != 1 || issued != 1 {
		t.Errorf("used %d, issued %d", used, issued)
	}
}

// checkCertificateLists links the order's row to its certificate.
func (a *aliCloud) checkCertificateLists(id int64, chain string) {
	a.t.Helper()
	orders, certs := a.list("", "ISSUED", "").CertificateOrderList, a.list("CERT", "", "").CertificateOrderList
	if len(orders) != 1 || len(certs) != 1 || orders[0].InstanceId != certs[0].InstanceId || orders[0].OrderId != id {
		a.t.Fatalf("orders %+v, certificates %+v", orders, certs)
	}
	if certs[0].OrderId != 0 || orders[0].CertificateId != 0 {
		a.t.Error("a row has both ids")
	}
	r := cas.CreateGetUserCertificateDetailRequest()
	r.CertId = requests.NewInteger64(certs[0].CertificateId)
	detail, err := a.cas.GetUserCertificateDetail(r)
	if err != nil {
		a.t.Fatal(err)
	}
	if detail.Cert != chain || detail.Key == "" || detail.OrderId != id || detail.Fingerprint != certs[0].Fingerprint {
		a.t.Errorf("detail %+v", detail)
	}
	r = cas.CreateGetUserCertificateDetailRequest()
	r.CertId, r.CertFilter = requests.NewInteger64(certs[0].CertificateId), "true"
	if detail, err = a.cas.GetUserCertificateDetail(r); err != nil || detail.Cert != "" || detail.Key != "" {
		a.t.Errorf("filtered: %v, key %d bytes", err, len(detail.Key))
	}
}

// TestSeveralNames answers one challenge after the other: the API shows one.
func TestSeveralNames(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	id := a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) {
		r.Domain = "a.example.com,b.example.org,x.a.example.com"
	})
	seen := map[string]bool{}
	eventually(t, "issued", func() bool {
		s := a.state(id)
		if s.Type == "domain_verify" && !seen[s.RecordDomain] {
			seen[s.RecordDomain] = true
			a.put(s.RecordDomain, s.RecordType, s.RecordValue)
		}
		return s.Type == "certificate"
	})
	if len(seen) != 2 {
		t.Errorf("challenges at %v", seen)
	}
	a.verify(a.state(id).Certificate, "a.example.com", "b.example.org", "x.a.example.com")
}

func TestWildcardByCNAME(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.CASRecordType = "CNAME"
	a := startAli(t, cfg)
	id := a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) {
		r.Domain, r.ProductCode = "*.shop.example.co.uk", wild
	})
	if s := a.until(id, "domain_verify"); s.RecordDomain != "_dnsauth.shop.example.co.uk" || s.RecordType != "CNAME" {
		t.Errorf("challenge %+v", s)
	}
	a.verify(a.answer(id).Certificate, "*.shop.example.co.uk")
}

func TestCSRBindsItsCN(t *testing.T) {
	t.Parallel()
	for _, sans := range []bool{false, true} {
		cfg := quick()
		cfg.CSRSANs = sans
		a := startAli(t, cfg)
		key := newKey(t)
		r := cas.CreateCreateCertificateWithCsrRequestRequest()
		r.Csr = request(t, key, "cn.example.net", "cn.example.net", "san.cn.example.net")
		r.ProductCode, r.Username, r.Phone, r.Email, r.ValidateType = paid, "Tom", "13000000000", "tom@example.com", "DNS"
		out, err := a.cas.CreateCertificateWithCsrRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		s := a.answer(out.OrderId)
		want := []string{"cn.example.net"}
		if sans {
			want = append(want, "san.cn.example.net")
		}
		if leaf := a.verify(s.Certificate, want...); !key.PublicKey.Equal(leaf.PublicKey) || s.PrivateKey != "" {
			t.Error("not for the CSR's key, or with a key of the cloud's")
		}
	}
}

func TestInstanceIsIssued(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	instance := a.instances(0)[0]["InstanceId"].(string)
	params := map[string]string{"InstanceId": instance, "Domain": "inst.example.com,*.inst.example.com", "DomainVerifyType": "DNS",
		"Username": "Tom", "Email": "tom@example.com", "Mobile": "13000000000", "Province": "zhejiang", "City": "hangzhou"}
	if out := a.must(cas2018, "DescribeDVOrderResult", map[string]string{"InstanceId": instance}); out["OrderStatus"] != nil {
		t.Errorf("before the application: %v", out)
	}
	a.must(cas2018, "CreateDVOrderAudit", params)
	_, err := a.call(cas2018, "CreateDVOrderAudit", params)
	wantCode(t, err, "403 OrderStateError")
	var out map[string]any
	result := func(want string) bool {
		out = a.must(cas2018, "DescribeDVOrderResult", map[string]string{"InstanceId": instance})
		return out["OrderStatus"] == want
	}
	eventually(t, "challenge", func() bool { return result("checking") && out["CheckName"] != nil })
	if out["CheckType"] != "DNS" || out["CheckName"] != "_dnsauth.inst.example.com" {
		t.Errorf("challenge %v", out)
	}
	if rows := a.list("BUY", "CHECKING", instance).CertificateOrderList; len(rows) != 1 || rows[0].Domain != params["Domain"] || rows[0].DomainType != "MIX" {
		t.Errorf("bought orders %+v", rows)
	}
	a.put(out["CheckName"].(string), "TXT", out["CheckValue"].(string))
	eventually(t, "issued", func() bool { return result("issued") })
	a.verify(out["Certificate"].(string), "inst.example.com", "*.inst.example.com")
	if _, err := tls.X509KeyPair([]byte(out["Certificate"].(string)), []byte(out["PrivateKey"].(string))); err != nil {
		t.Error(err)
	}
}

// instances lists from a row on.
func (a *aliCloud) instances(start int) []map[string]any {
	a.t.Helper()
	out := a.must(cas2018, "DescribeOrderInstanceList", map[string]string{"StartIndex": fmt.Sprint(start)})
	var rows []map[string]any
	for _, row := range out["OrderList"].([]any) {
		rows = append(rows, row.(map[string]any))
	}
	return rows
}

func TestInstanceListGoesOnFromStartIndex(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.MaxShowSize = 7
	a := startAli(t, cfg)
	seen := map[string]bool{}
	for rows := a.instances(0); len(rows) > 0; rows = a.instances(len(seen)) {
		for _, row := range rows {
			seen[row["InstanceId"].(string)] = true
			if row["Status"] != "PAYED" || row["CertType"] != "DV" || row["Source"] != "BUY" {
				t.Fatalf("row %v", row)
			}
		}
		if len(rows) > 7 {
			t.Fatalf("%d rows", len(rows))
		}
	}
	if len(seen) != 200 {
		t.Errorf("%d instances", len(seen))
	}
}

func TestApplicationsThatAreRefused(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	type req = cas.CreateCertificateForPackageRequestRequest
	for name, tt := range map[string]struct {
		change func(*req)
		want   string
	}{
		"no names":           {func(r *req) { r.Domain = "" }, "400 MissingDomain"},
		"six names":          {func(r *req) { r.Domain = "a.b.com,b.b.com,c.b.com,d.b.com,e.b.com,f.b.com" }, "400 InvalidParameter"},
		"mixed":              {func(r *req) { r.Domain = "a.b.com,*.b.com" }, "400 InvalidParameter"},
		"not a name":         {func(r *req) { r.Domain = "a_b.com" }, "400 InvalidParameter"},
		"public suffix":      {func(r *req) { r.Domain = "co.uk" }, "400 InvalidParameter"},
		"wildcard, single":   {func(r *req) { r.Domain = "*.b.com" }, "400 InvalidParameter"},
		"single, wildcard":   {func(r *req) { r.ProductCode = wild }, "400 InvalidParameter"},
		"wildcard by file":   {func(r *req) { r.Domain, r.ProductCode, r.ValidateType = "*.b.com", wild, "FILE" }, "400 InvalidParameter"},
		"unknown validation": {func(r *req) { r.ValidateType = "EMAIL" }, "400 InvalidParameter"},
		"two free names":     {func(r *req) { r.Domain, r.ProductCode = "a.b.com,b.b.com", "" }, "400 InvalidParameter"},
		"not bought":         {func(r *req) { r.ProductCode = "nobody-dv-1-bought" }, "404 NotFoundPackage"},
		"weak CSR":           {func(r *req) { r.Csr = request(t, weak, "a.b.com") }, "400 InvalidParameter"},
		"no CSR":             {func(r *req) { r.Csr = "-----BEGIN" }, "400 InvalidParameter"},
		"CSR without CN":     {func(r *req) { r.Csr = request(t, newKey(t), "", "a.b.com") }, "400 InvalidParameter"},
		"wildcard in the CN": {func(r *req) { r.Csr = request(t, newKey(t), "*.b.com") }, "400 InvalidParameter"},
		"no address":         {func(r *req) { r.Email = "tom" }, "400 InvalidParameter"},
		"21 tags":            {func(r *req) { r.QueryParams["Tags.21.Key"] = "k" }, "400 InvalidParameter"},
		"tag without key":    {func(r *req) { r.QueryParams["Tags.1.Value"] = "v" }, "400 InvalidParameter"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.order(tt.change)
			wantCode(t, err, tt.want)
		})
	}
	if used, _ := a.used(paid); used != 0 {
		t.Errorf("%d used up by orders that were refused", used)
	}
	r := cas.CreateCreateCertificateWithCsrRequestRequest()
	r.Csr, r.ProductCode, r.Username, r.Phone, r.ValidateType = request(t, newKey(t), "a.b.com"), paid, "Tom", "13000000000", "DNS"
	_, err = a.cas.CreateCertificateWithCsrRequest(r)
	wantCode(t, err, "400 MissingEmail")
}

func TestCreateCertificateRequest(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	r := cas.CreateCreateCertificateRequestRequest()
	r.Domain, r.ProductCode, r.Username, r.Phone, r.Email, r.ValidateType = "dv.example.com", paid, "Tom", "13000000000", "tom@example.com", "DNS"
	out, err := a.cas.CreateCertificateRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	a.verify(a.answer(out.OrderId).Certificate, "dv.example.com")
	r = cas.CreateCreateCertificateRequestRequest()
	r.Domain, r.ProductCode, r.Username, r.Phone, r.Email, r.ValidateType = "ov.example.com", "geotrust-ov-1-personal", "Tom", "13000000000", "tom@example.com", "DNS"
	_, err = a.cas.CreateCertificateRequest(r)
	wantCode(t, err, "400 InvalidParameter")
}

// TestZonesOfTheAccountMayBeValidatedByTheCloud orders and does nothing more.
func TestZonesOfTheAccountMayBeValidatedByTheCloud(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.SelfValidate = true
	cfg.Accounts = cloudsim.DefaultAccounts()
	cfg.Accounts[0].Zones = []string{"example.com"}
	a := startAli(t, cfg)
	a.verify(a.until(a.mustOrder(nil), "certificate").Certificate, "www.example.com")
}

func TestTagsAndDomainBesideCSR(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	id := a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) {
		r.Domain, r.Csr = "other.example.com", request(t, newKey(t), "cn.example.com")
		for n := 1; n <= 20; n++ {
			r.QueryParams[fmt.Sprintf("Tags.%d.Key", n)], r.QueryParams[fmt.Sprintf("Tags.%d.Value", n)] = fmt.Sprint("k", n), "ü & ~*+"
		}
	})
	if got := a.until(id, "domain_verify").RecordDomain; got != "_dnsauth.cn.example.com" {
		t.Errorf("record at %s: the CSR's CN wins", got)
	}
}

func TestQuotaRunsOutAndComesBack(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Accounts = []cloudsim.Account{{Cloud: "aliyun", UID: aliUID, AccessKeyID: aliKey, AccessKeySecret: aliSecret,
		Products: map[string]int{paid: 2}}}
	a := startAli(t, cfg)
	first, second := a.mustOrder(nil), a.mustOrder(nil)
	_, err := a.order(nil)
	wantCode(t, err, "404 NotRemainCount")
	wantCode(t, a.cancel("DeleteCertificateRequest", first), "403 OrderStateError") // not while it is checked
	wantCode(t, a.cancel("CancelOrderRequest", first), "<nil>")
	if s := a.state(first); s.Type != "payed" {
		t.Errorf("cancelled: %s", s.Type)
	}
	if used, _ := a.used(paid); used != 2 {
		t.Errorf("used %d: a cancelled order keeps its quota until it is deleted", used)
	}
	wantCode(t, a.cancel("CancelOrderRequest", first), "403 OrderStateError")
	wantCode(t, a.cancel("DeleteCertificateRequest", first), "<nil>")
	wantCode(t, a.cancel("DeleteCertificateRequest", first), "404 NotFoundOrder")
	wantCode(t, a.cancel("CancelCertificateForPackageRequest", second), "<nil>")
	if used, _ := a.used(paid); used != 0 {
		t.Errorf("used %d", used)
	}
	third := a.mustOrder(nil)
	a.answer(third)
	wantCode(t, a.cancel("CancelCertificateForPackageRequest", third), "<nil>")
	if used, issued := a.used(paid); used != 0 || issued != 0 {
		t.Errorf("revoked within 30 days: used %d, issued %d", used, issued)
	}
	if rows := a.list("CPACK", "REVOKED", "").CertificateOrderList; len(rows) != 1 || rows[0].OrderId != third {
		t.Errorf("revoked %+v", rows)
	}
}

// cancel calls one of the operations that take an OrderId and answer nothing.
func (a *aliCloud) cancel(action string, id int64) error {
	_, err := a.call(cas2020, action, map[string]string{"OrderId": fmt.Sprint(id)})
	return err
}

func TestReviewRefuses(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	id := a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.Domain = "www.refused.example" })
	s := a.until(id, "domain_verify")
	a.put(s.RecordDomain, s.RecordType, s.RecordValue)
	if s := a.until(id, "verify_fail"); s.Certificate != "" || s.RecordValue != "" {
		t.Errorf("failed %+v", s)
	}
	if rows := a.list("CPACK", "CHECKED_FAIL", "").CertificateOrderList; len(rows) != 1 || rows[0].OrderId != id {
		t.Errorf("failed orders %+v", rows)
	}
	if used, _ := a.used(paid); used != 1 {
		t.Errorf("used %d: an order that failed keeps its quota until it is deleted", used)
	}
	wantCode(t, a.cancel("DeleteCertificateRequest", id), "<nil>")
	if used, _ := a.used(paid); used != 0 {
		t.Errorf("used %d", used)
	}
}

func TestFileValidation(t *testing.T) {
	t.Parallel()
	var content atomic.Value
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text, ok := content.Load().(string); ok && r.Host == "www.example.com" && r.URL.Path == "/.well-known/pki-validation/fileauth.txt" {
			io.WriteString(w, text)
			return
		}
		http.NotFound(w, r)
	}))
	defer site.Close()
	cfg := quick()
	cfg.FilePort = site.Listener.Addr().(*net.TCPAddr).Port
	a := startAli(t, cfg)
	id := a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.ValidateType = "FILE" })
	s := a.until(id, "domain_verify")
	if s.ValidateType != "FILE" || s.Domain != "www.example.com" || s.Uri != "/.well-known/pki-validation/fileauth.txt" || s.RecordDomain != "" {
		t.Errorf("challenge %+v", s)
	}
	content.Store(s.Content)
	a.verify(a.until(id, "certificate").Certificate, "www.example.com")
}

func TestRelativeRecordDomain(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.RelativeRecordDomain = true
	a := startAli(t, cfg)
	id := a.mustOrder(nil)
	s := a.until(id, "domain_verify")
	if s.RecordDomain != "_dnsauth" {
		t.Errorf("record at %s", s.RecordDomain)
	}
	a.put(s.RecordDomain+".www.example.com", s.RecordType, s.RecordValue)
	a.until(id, "certificate")
}

// TestWrongSecret lets the SDK compare the two strings to sign: it blames the
// secret only where the server's string is its own.
func TestWrongSecret(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	b := aliClient(t, a.Sim, aliKey, "another secret")
	_, err := b.order(func(r *cas.CreateCertificateForPackageRequestRequest) { r.Username = "a+b ~*'()!/ü\n" })
	wantCode(t, err, "400 SignatureDoesNotMatch")
	if e, ok := errors.AsType[*sdkerrors.ServerError](err); !ok || !strings.Contains(e.Recommend(), "InvalidAccessKeySecret") {
		t.Errorf("the SDK signs another string: %v", err)
	}
}

func TestListsLagAndPage(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.MaxShowSize = 4
	cfg.ListLag = cloudsim.Exactly(400 * time.Millisecond)
	a := startAli(t, cfg)
	start := time.Now()
	want := map[int64]bool{}
	for n := range 10 {
		id := a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.Domain = fmt.Sprintf("n%d.example.com", n) })
		want[id] = true
	}
	early := a.list("CPACK", "", "").TotalCount
	if time.Since(start) < 400*time.Millisecond && early != 0 {
		t.Errorf("%d orders listed at once", early)
	}
	eventually(t, "all listed as waiting", func() bool { return a.list("CPACK", "CHECKING", "").TotalCount == 10 })
	for page := 1; page <= 3; page++ {
		r := cas.CreateListUserCertificateOrderRequest()
		r.CurrentPage, r.ShowSize = requests.NewInteger(page), "50"
		out, err := a.cas.ListUserCertificateOrder(r)
		if err != nil {
			t.Fatal(err)
		}
		if out.ShowSize != 4 || out.TotalCount != 10 || len(out.CertificateOrderList) > 4 {
			t.Errorf("page %d: %d of %d, ShowSize %d", page, len(out.CertificateOrderList), out.TotalCount, out.ShowSize)
		}
		for _, row := range out.CertificateOrderList {
			delete(want, row.OrderId)
		}
	}
	if len(want) != 0 {
		t.Errorf("never listed: %v", want)
	}
	r := cas.CreateListUserCertificateOrderRequest()
	r.Status = "LOST"
	_, err := a.cas.ListUserCertificateOrder(r)
	wantCode(t, err, "400 InvalidParameter")
}

func TestAccountsAreApart(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	id := a.mustOrder(nil)
	b := aliClient(t, a.Sim, "LTAI5tCloudsimAliyun0002", "cloudsim-secret-aliyun-2")
	wantCode(t, b.cancel("DescribeCertificateState", id), "404 NotFoundOrder")
	if n := b.list("", "", "").TotalCount; n != 0 {
		t.Errorf("%d orders of another account", n)
	}
}

func TestStateFolderKeepsOrdersAndNonces(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Dir = t.TempDir()
	first, err := cloudsim.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := aliClient(t, first, aliKey, aliSecret)
	id := a.mustOrder(nil)
	a.until(id, "domain_verify")
	params := signedOrder(time.Now())
	if out := send(t, first.AliyunURL(), "POST", params, ""); out.Code != "" {
		t.Fatal(out)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	b := startAli(t, cfg)
	b.answer(id)
	if out := send(t, b.AliyunURL(), "POST", params, ""); out.Code != "SignatureNonceUsed" {
		t.Errorf("a replay after the restart: %+v", out)
	}
}
