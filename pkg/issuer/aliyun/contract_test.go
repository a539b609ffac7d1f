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
	account := cloudsim.Account{Cloud: "aliyun", UID: "100200", AccessKeyID: simKey, AccessKeySecret: simSecret,
		Products: map[string]int{plenty: 100, scarce: 1}}
	for n := range 120 { // more than a page
		account.Instances = append(account.Instances, cloudsim.Instance{ID: fmt.Sprintf("cas-cn-contract%03d", n)})
	}
	sim, err := cloudsim.Start(context.WithoutCancel(t.Context()), cloudsim.Config{
		Accounts: []cloudsim.Account{account}, Limits: map[string]int{"default": 1000},
		ChallengeDelay: cloudsim.Between(0, 200*time.Millisecond), IssueDelay: cloudsim.Between(0, 200*time.Millisecond),
		CheckInterval: cloudsim.Duration(50 * time.Millisecond), ListLag: cloudsim.Between(0, 300*time.Millisecond),
		DNSLag: cloudsim.Between(0, 50*time.Millisecond), Latency: cloudsim.Between(time.Millisecond, 10*time.Millisecond),
		MaxShowSize: 40, // less than the flow asks for
		CloudKey:    "p256", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	return &simulated{sim: sim}
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
	for name, flow := range map[string]func(*aliyun.Client) issuer.Flow{
		"package": (*aliyun.Client).Package, "package with CSR": (*aliyun.Client).Package,
		"csr": (*aliyun.Client).CSR, "instance": (*aliyun.Client).Instance,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuertest.Run(t, func(t *testing.T) issuertest.Subject { return simulatedSubject(t, name, flow) })
		})
	}
}

func simulatedSubject(t *testing.T, name string, flow func(*aliyun.Client) issuer.Flow) issuertest.Subject {
	const deadline = 500 * time.Millisecond
	s := startSim(t)
	proxy := issuertest.Between(t, s.sim.AliyunURL(), func(r *http.Request) string { return r.URL.Query().Get("Action") },
		func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, code("Throttling.User"))
		})
	at := func(url string, secret order.Secret) issuer.Flow {
		c, err := aliyun.New(issuer.Access{Endpoint: url, DNSEndpoint: url, KeyID: simKey, Secret: secret,
			Main: "100200", Permits: permits(deadline)})
		if err != nil {
			t.Fatal(err)
		}
		return flow(c)
	}
	subject := issuertest.Subject{
		Flow: at(proxy.URL, simSecret), Secret: simSecret, Deadline: deadline,
		Application: func(t *testing.T) issuer.Application { return s.apply(t, name) },
		Place:       s.place,
		Fault:       func(_ *testing.T, action string, f issuertest.Fault) { proxy.Fail(action, f) },
		Submitted:   s.submitted,
		Calls:       func(_ *testing.T, action string) int { return proxy.Calls(action) },
		WrongSecret: func(*testing.T) issuer.Flow { return at(proxy.URL, simSecret+"x") },
		Unreachable: func(*testing.T) issuer.Flow { return at("http://127.0.0.1:1", simSecret) },
	}
	if name != "instance" {
		subject.Exhausted = func(t *testing.T) issuer.Application {
			s.ask(t, "2020-04-07", "CreateCertificateForPackageRequest", map[string]string{"Domain": "last.example.com", "ProductCode": scarce})
			a := s.apply(t, name)
			a.Product = scarce
			return a
		}
	}
	return subject
}
