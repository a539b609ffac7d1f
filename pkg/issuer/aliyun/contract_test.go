package aliyun_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/order"
)

const (
	simKey, simSecret = "LTAIcontract", "canary-contract-secret-51c7"
	simUID            = "100200"
	plenty, scarce    = "geotrust-dv-1-starter", "globalsign-dv-1-personal"
)

// simulated is one simulated account. What the test itself asks of it passes no
// proxy, so that only the flow's calls are counted and fail.
type simulated struct {
	sim *cloudsim.Sim

	mu        sync.Mutex // guards what follows
	given     int
	instances []string
}

func startSim(t *testing.T) *simulated {
	t.Helper()
	account := cloudsim.Account{Cloud: "aliyun", UID: simUID, AccessKeyID: simKey, AccessKeySecret: simSecret,
		Products: map[string]int{plenty: 100, scarce: 1}}
	for n := range 120 { // more than a page
		account.Instances = append(account.Instances, cloudsim.Instance{ID: fmt.Sprintf("cas-cn-contract%03d", n)})
	}
	return &simulated{sim: startAccount(t, account, func(*cloudsim.Config) {})}
}

func startAccount(t *testing.T, account cloudsim.Account, change func(*cloudsim.Config)) *cloudsim.Sim {
	t.Helper()
	cfg := cloudsim.Config{
		Accounts: []cloudsim.Account{account}, Limits: map[string]int{"default": 1000},
		ChallengeDelay: cloudsim.Between(0, 200*time.Millisecond), IssueDelay: cloudsim.Between(0, 200*time.Millisecond),
		CheckInterval: cloudsim.Duration(50 * time.Millisecond), ListLag: cloudsim.Between(0, 300*time.Millisecond),
		DNSLag: cloudsim.Between(0, 50*time.Millisecond), Latency: cloudsim.Between(time.Millisecond, 10*time.Millisecond),
		MaxShowSize: 40, // less than the flow asks for
		CloudKey:    "p256", Logger: slog.New(slog.DiscardHandler),
	}
	change(&cfg)
	sim, err := cloudsim.Start(context.WithoutCancel(t.Context()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	return sim
}

// ask makes a call past proxy and flow.
func (s *simulated) ask(t *testing.T, version, action string, params map[string]string) map[string]any {
	t.Helper()
	client, err := sdk.NewClientWithOptions("cn-hangzhou", sdk.NewConfig(), credentials.NewAccessKeyCredential(simKey, simSecret))
	if err != nil {
		t.Fatal(err)
	}
	r := requests.NewCommonRequest()
	r.Method, r.Scheme, r.Domain = requests.POST, "HTTP", strings.TrimPrefix(s.sim.AliyunURL(), "http://")
	r.Product, r.Version, r.ApiName, r.QueryParams = "cas", version, action, params
	resp, err := client.ProcessCommonRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(resp.GetHttpContentBytes(), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// apply makes an application with names of its own.
func (s *simulated) apply(t *testing.T, flow string) issuer.Application {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given++
	name := fmt.Sprintf("n%d.example.com", s.given)
	a := issuer.Application{OrderID: fmt.Sprint("web-", s.given), Names: []string{name, "www." + name}, Product: plenty, Validation: order.DNS,
		Contact: order.Contact{Name: "Tom Zhang", Email: "tom+ssl@example.com", Phone: "13000000000", Province: "zhejiang", City: "hangzhou"}}
	switch flow {
	case "csr", "package with CSR":
		a.Names = a.Names[:1]
		a.CSR = issuertest.CSR(t, a.Names...)
	case "instance":
		a.Names = []string{name, "*." + name}
		a.Resource = fmt.Sprintf("cas-cn-contract%03d", s.given-1) // the last of the list, which is sorted newest first
		s.instances = append(s.instances, a.Resource)
	}
	return a
}

// place writes a record by alidns.
func (s *simulated) place(t *testing.T, c order.Challenge) {
	t.Helper()
	zone := s.ask(t, "2015-01-09", "GetMainDomainName", map[string]string{"InputString": c.Host})
	s.ask(t, "2015-01-09", "AddDomainRecord", map[string]string{"DomainName": fmt.Sprint(zone["DomainName"]),
		"RR": fmt.Sprint(zone["RR"]), "Type": c.Type, "Value": c.Value})
}

// submitted counts by what does not lag: used quota, and results of instances.
func (s *simulated) submitted(t *testing.T) int {
	t.Helper()
	n := 0
	for _, product := range []string{plenty, scarce} {
		out := s.ask(t, "2020-04-07", "DescribePackageState", map[string]string{"ProductCode": product})
		n += int(out["UsedCount"].(float64))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.instances {
		if s.ask(t, "2018-07-13", "DescribeDVOrderResult", map[string]string{"InstanceId": id})["OrderStatus"] != nil {
			n++
		}
	}
	return n
}

// TestContract runs the contract against cloudsim, which knows the
// vendor's documents and nothing of this client.
func TestContract(t *testing.T) {
	ways := map[string]func(*testing.T) issuertest.Subject{}
	for name, action := range map[string]string{
		"package": "CreateCertificateForPackageRequest", "package with CSR": "CreateCertificateForPackageRequest",
		"csr": "CreateCertificateWithCsrRequest", "instance": "CreateDVOrderAudit",
	} {
		ways[name] = func(t *testing.T) issuertest.Subject { return simulatedSubject(t, name, action) }
	}
	issuertest.Run(t, issuertest.Vendor{Ways: ways, Routes: routed, Products: products})
}

// dialect is what a proxy has to know of the wire.
var dialect = issuertest.Dialect{
	Action: func(r *http.Request) string { return r.URL.Query().Get("Action") },
	Throttle: func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, code("Throttling.User"))
	},
	Unknown: func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, code("InvalidAction.NotFound"))
	},
}

func simulatedSubject(t *testing.T, name, action string) issuertest.Subject {
	const deadline = 500 * time.Millisecond
	s := startSim(t)
	proxy := issuertest.Between(t, s.sim.AliyunURL(), dialect)
	subject := issuertest.Subject{
		Open: func(a issuer.Access) (issuer.Cloud, error) { return aliyun.New(a) },
		Access: issuer.Access{Endpoint: proxy.URL, DNSEndpoint: proxy.URL, KeyID: simKey, Secret: simSecret,
			Main: simUID, Permits: permits(deadline)},
		Deadline:    deadline,
		Identity:    issuer.Identity{Main: simUID, Caller: simUID, Kind: "Account"},
		Action:      action,
		Application: func(t *testing.T) issuer.Application { return s.apply(t, name) },
		Place:       s.place,
		Fault:       func(_ *testing.T, action string, f issuertest.Fault) { proxy.Fail(action, f) },
		Submitted:   s.submitted,
		Calls:       func(*testing.T) map[string]int { return proxy.Calls() },
	}
	if name == "instance" {
		subject.Following = func(t *testing.T) (resource, origin string) {
			// As hosting names what it makes; what the list shows of it is not documented.
			resource, origin = "cas-cn-contract000-8012-renew", "cas-cn-contract000"
			stock := cloudsim.Stock{Cloud: "aliyun", UID: simUID, Instances: []cloudsim.Instance{{ID: resource}}}
			if err := s.sim.AddStock(stock); err != nil {
				t.Fatal(err)
			}
			return resource, origin
		}
	} else {
		subject.Exhausted = func(t *testing.T) issuer.Application {
			s.ask(t, "2020-04-07", "CreateCertificateForPackageRequest", map[string]string{"Domain": "last.example.com", "ProductCode": scarce})
			a := s.apply(t, name)
			a.Product = scarce
			return a
		}
	}
	return subject
}

var (
	one     = order.Request{Names: []string{"www.example.com"}}
	several = order.Request{Names: []string{"www.example.com", "api.example.com"}}
	long    = order.Request{Names: []string{strings.Repeat("a", 53) + ".example.com"}} // 65 characters
)

// with is a request with more.
func with(r order.Request, change func(*order.Request)) order.Request {
	change(&r)
	return r
}

func csr(r *order.Request) { r.CSR = csrPEM }

func proved(a *issuer.Access) { a.CSRSANs = true }

var (
	applicant = []string{"name", "email", "phone"}
	located   = []string{"name", "email", "phone", "province", "city"}
)

const usual = "digicert-free-1-free"

var routed = []issuertest.Routed{
	{Name: "one name", Request: one, Action: "CreateCertificateForPackageRequest", CSR: issuer.FirstNameCSR, Product: usual},
	{Name: "a name that is too long for a CN", Request: long, Action: "CreateCertificateForPackageRequest", CSR: issuer.NoCSR, Product: usual},
	{Name: "several names", Request: several, Action: "CreateCertificateForPackageRequest", CSR: issuer.NoCSR, Product: usual},
	{Name: "several names, SANs proved", Request: several, Account: proved, Action: "CreateCertificateForPackageRequest", CSR: issuer.AllNamesCSR, Product: usual},
	{Name: "product", Request: with(one, func(r *order.Request) { r.Product = "geotrust-dv-1-starter" }),
		Account: func(a *issuer.Access) { a.Product = "cfca-ev-w-advanced" },
		Action:  "CreateCertificateForPackageRequest", CSR: issuer.FirstNameCSR, Product: "geotrust-dv-1-starter"},
	{Name: "product of the account", Request: one, Account: func(a *issuer.Access) { a.Product = "cfca-ev-w-advanced" },
		Action: "CreateCertificateForPackageRequest", CSR: issuer.FirstNameCSR, Product: "cfca-ev-w-advanced"},
	{Name: "CSR", Request: with(one, csr), Action: "CreateCertificateWithCsrRequest", CSR: issuer.GivenCSR, Product: usual, Needs: applicant},
	{Name: "CSR, and the CA validates an organisation", Request: with(one, func(r *order.Request) { csr(r); r.Product = "globalsign-ov-1-personal" }),
		Action: "CreateCertificateForPackageRequest", CSR: issuer.GivenCSR, Product: "globalsign-ov-1-personal"},
	{Name: "CSR for several names", Request: with(several, csr), Refused: []string{"CN", "csr_sans: true", "one order per name"}},
	{Name: "CSR for several names, SANs proved", Request: with(several, csr), Account: proved,
		Action: "CreateCertificateWithCsrRequest", CSR: issuer.GivenCSR, Product: usual, Needs: applicant},
	{Name: "instance", Request: with(several, func(r *order.Request) { r.Resource = "cas-cn-68n1mm16abcd" }), Action: "CreateDVOrderAudit", Needs: located},
	{Name: "any instance", Request: with(one, func(r *order.Request) { r.Resource = order.AnyResource }), Account: proved, Action: "CreateDVOrderAudit", Needs: located},
	{Name: "instance and CSR", Request: with(one, func(r *order.Request) { r.Resource, r.CSR = order.AnyResource, csrPEM }),
		Refused: []string{"no field for it", "leave the csr out", "by product"}},
}

var products = []issuer.Product{
	{Code: ""},
	{Code: usual, CA: issuer.DigiCert, One: true, Names: issuer.SingleNames, Instead: "geotrust-dv-w-starter"},
	{Code: "symantec-free-1-free", CA: issuer.DigiCert, One: true, Names: issuer.SingleNames, Instead: "geotrust-dv-w-starter"},
	{Code: "Geotrust-DV-w-starter", CA: issuer.DigiCert, Several: true, Names: issuer.Wildcards, Instead: "geotrust-dv-1-starter"},
	{Code: "globalsign-ov-w-advanced", CA: issuer.GlobalSign, Organisation: true, Several: true, Names: issuer.Wildcards, Instead: "geotrust-dv-1-starter"},
	{Code: "cfca-ev-w-advanced", CA: issuer.CA{Name: "CFCA", Identities: []string{"cfca.com.cn"}, Unread: true}, Organisation: true, Several: true},
	{Code: "wosign-dv-1-starter", Several: true, Names: issuer.SingleNames, Instead: "geotrust-dv-w-starter"}, // not documented: no CA is known
}
