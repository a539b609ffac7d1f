package aliyun_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/order"
)

// fake is as much of CAS as the contract needs, in one mutex.
type fake struct {
	t   *testing.T
	url string

	mu        sync.Mutex
	orders    []*fakeOrder
	instances map[string]string // id → status, of those not applied for
	placed    map[string]string // host or URL → value
	quota     int
}

type fakeOrder struct {
	id                   int64
	instance, names, csr string
	validate, product    string
	looks                int
	chain, key           string
	made                 time.Time
}

func startFake(t *testing.T) *fake {
	f := &fake{t: t, instances: map[string]string{}, placed: map[string]string{}, quota: 3}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.ParseForm()
	q := r.URL.Query()
	refuse := func(status int, code string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"RequestId":"R","HostId":"h","Code":%q,"Message":"m"}`, code)
	}
	if q.Get("Signature") != sign(r.Method, q) {
		refuse(400, "SignatureDoesNotMatch")
		return
	}
	out, status, code := f.handle(q)
	if code != "" {
		refuse(status, code)
		return
	}
	out["RequestId"] = "R-" + q.Get("SignatureNonce")[:8]
	json.NewEncoder(w).Encode(out)
}

// sign computes the RPC signature anew, from the documents.
func sign(method string, q url.Values) string {
	escape := strings.NewReplacer("+", "%20", "*", "%2A", "%7E", "~")
	var pairs []string
	for k := range q {
		if k != "Signature" {
			pairs = append(pairs, escape.Replace(url.QueryEscape(k)+"="+url.QueryEscape(q.Get(k))))
		}
	}
	slices.Sort(pairs)
	mac := hmac.New(sha1.New, []byte(secret+"&"))
	mac.Write([]byte(method + "&%2F&" + escape.Replace(url.QueryEscape(strings.Join(pairs, "&")))))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func (f *fake) handle(q url.Values) (out map[string]any, status int, code string) {
	out = map[string]any{}
	switch q.Get("Action") {
	case "CreateCertificateForPackageRequest", "CreateCertificateWithCsrRequest":
		if f.quota == 0 {
			return nil, 404, "NotRemainCount"
		}
		f.quota--
		o := f.add(q, fmt.Sprint("cas_dv-cn-", len(f.orders)))
		out["OrderId"] = o.id
	case "CreateDVOrderAudit":
		if f.instances[q.Get("InstanceId")] == "" {
			return nil, 404, "NotFoundOrder"
		}
		delete(f.instances, q.Get("InstanceId"))
		f.add(q, q.Get("InstanceId")).looks = 2
	case "DescribeCertificateState", "DescribeDVOrderResult":
		o := f.find(q)
		if o == nil {
			return nil, 404, "NotFoundOrder"
		}
		return f.state(o, q.Get("Action") == "DescribeDVOrderResult"), 0, ""
	case "ListUserCertificateOrder":
		return f.list(q), 0, ""
	case "DescribeOrderInstanceList":
		rows := []any{}
		for id, s := range f.instances {
			rows = append(rows, map[string]any{"InstanceId": id, "Status": s, "CertType": "DV"})
		}
		for _, o := range f.orders {
			rows = append(rows, map[string]any{"InstanceId": o.instance, "Status": o.status()})
		}
		out["OrderList"], out["TotalCount"] = rows, len(rows)
	case "GetUserCertificateDetail":
		for i, o := range f.orders {
			if q.Get("CertId") == fmt.Sprint(7000+i) {
				out["Cert"], out["Key"] = o.chain, o.key
			}
		}
	case "DescribePackageState":
		out["TotalCount"], out["UsedCount"], out["IssuedCount"] = f.quota+len(f.orders), len(f.orders), 0
	default:
		return nil, 404, "InvalidAction.NotFound"
	}
	return out, 0, ""
}

func (f *fake) add(q url.Values, instance string) *fakeOrder {
	o := &fakeOrder{id: 98987582437920961 + int64(len(f.orders)), instance: instance, names: q.Get("Domain"), csr: q.Get("Csr"),
		validate: q.Get("ValidateType") + q.Get("DomainVerifyType"), product: q.Get("ProductCode"), made: time.Now()}
	if o.csr != "" {
		o.names = csrNames(f.t, o.csr)
	}
	f.orders = append(f.orders, o)
	return o
}

func (f *fake) find(q url.Values) *fakeOrder {
	for _, o := range f.orders {
		if q.Get("OrderId") == fmt.Sprint(o.id) || q.Get("InstanceId") == o.instance {
			return o
		}
	}
	return nil
}

func (o *fakeOrder) status() string {
	switch {
	case o.chain != "":
		return "ISSUED"
	case o.looks < 2:
		return "PAYED"
	}
	return "CHECKING"
}

// state shows payed once, then the challenge until it is placed.
func (f *fake) state(o *fakeOrder, dv bool) map[string]any {
	o.looks++
	first, _, _ := strings.Cut(o.names, ",")
	host := strings.TrimPrefix(first, "*.")
	record, value := "_dnsauth."+host, fmt.Sprint("2026", o.id)
	if o.validate == "FILE" {
		record = host + "/.well-known/pki-validation/fileauth.txt"
	}
	if f.placed[record] == value && o.chain == "" {
		o.chain, o.key = issuertest.Issue(f.t, o.csr, strings.Split(o.names, ","))
	}
	switch {
	case o.chain != "" && dv:
		return map[string]any{"OrderStatus": "issued", "Certificate": o.chain, "PrivateKey": o.key}
	case o.chain != "":
		return map[string]any{"Type": "certificate", "Certificate": o.chain, "PrivateKey": o.key}
	case dv:
		return map[string]any{"OrderStatus": "checking", "CheckType": "DNS", "CheckName": record, "CheckValue": value}
	case o.looks < 2:
		return map[string]any{"Type": "payed"}
	case o.validate == "FILE":
		return map[string]any{"Type": "domain_verify", "ValidateType": "FILE", "Domain": host, "Uri": "/.well-known/pki-validation/fileauth.txt", "Content": value}
	}
	return map[string]any{"Type": "domain_verify", "ValidateType": "DNS", "RecordDomain": record, "RecordType": "TXT", "RecordValue": value}
}

func (f *fake) list(q url.Values) map[string]any {
	rows := []any{}
	for i, o := range f.orders {
		switch {
		case q.Get("OrderType") == "CERT" && o.chain != "":
			rows = append(rows, map[string]any{"CertificateId": 7000 + i, "InstanceId": o.instance, "CommonName": o.names, "Sans": o.names})
		case q.Get("OrderType") != "CERT" && (q.Get("Status") == "" || q.Get("Status") == o.status()) && strings.Contains(o.names, q.Get("Keyword")):
			rows = append(rows, map[string]any{"OrderId": o.id, "InstanceId": o.instance, "Domain": o.names, "Status": o.status(), "BuyDate": o.made.UnixMilli()})
		}
	}
	return map[string]any{"TotalCount": len(rows), "CertificateOrderList": rows, "CurrentPage": 1, "ShowSize": 50}
}

func TestContract(t *testing.T) {
	flows := map[string]func(*aliyun.Client) issuer.Flow{"package": (*aliyun.Client).Package, "csr": (*aliyun.Client).CSR, "instance": (*aliyun.Client).Instance}
	for name, flow := range flows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuertest.Run(t, func(t *testing.T) issuertest.Subject { return subject(t, name, flow) })
		})
	}
}

func subject(t *testing.T, name string, flow func(*aliyun.Client) issuer.Flow) issuertest.Subject {
	const deadline = 500 * time.Millisecond
	f := startFake(t)
	proxy := issuertest.Between(t, f.url, func(r *http.Request) string { return r.URL.Query().Get("Action") },
		func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, code("Throttling.User"))
		})
	at := func(url string, secret order.Secret) issuer.Flow {
		c, err := aliyun.New(aliyun.Config{Endpoint: url, DNSEndpoint: url, AccessKeyID: "LTAItest", AccessKeySecret: secret, Main: "100200", Permits: permits(deadline)})
		if err != nil {
			t.Fatal(err)
		}
		return flow(c)
	}
	apply := func(t *testing.T) issuer.Application {
		f.mu.Lock()
		defer f.mu.Unlock()
		a := application()
		switch name {
		case "csr":
			a.Names = a.Names[:1]
			a.CSR = issuertest.CSR(t, a.Names...)
		case "instance":
			a.Resource = fmt.Sprint("cas-cn-", len(f.instances))
			f.instances[a.Resource] = "PAYED"
		}
		return a
	}
	s := issuertest.Subject{
		Flow: at(proxy.URL, secret), Secret: secret, Deadline: deadline, Application: apply,
		Place: func(_ *testing.T, c order.Challenge) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.placed[c.Host+c.Path] = c.Value
		},
		Fault: func(_ *testing.T, action string, fault issuertest.Fault) { proxy.Fail(action, fault) },
		Submitted: func(*testing.T) int {
			f.mu.Lock()
			defer f.mu.Unlock()
			return len(f.orders)
		},
		Calls:       func(_ *testing.T, action string) int { return proxy.Calls(action) },
		WrongSecret: func(*testing.T) issuer.Flow { return at(proxy.URL, secret+"x") },
		Unreachable: func(*testing.T) issuer.Flow { return at("http://127.0.0.1:1", secret) },
	}
	if name != "instance" {
		s.Exhausted = func(t *testing.T) issuer.Application {
			f.mu.Lock()
			f.quota = 0
			f.mu.Unlock()
			return apply(t)
		}
	}
	return s
}

func csrNames(t *testing.T, text string) string {
	block, _ := pem.Decode([]byte(text))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Error(err)
	}
	return strings.Join(csr.DNSNames, ",")
}
