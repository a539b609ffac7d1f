package dcv_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/responses"
	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/alidns"
	"github.com/certmill/certmill/pkg/dcv/dnspod"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/tencent"
	"github.com/certmill/certmill/pkg/permit"
)

// cloud is what a test has to know of a provider.
type cloud struct {
	name                    string
	account                 cloudsim.Account
	list, add, find, delete string // actions
	addMany                 string // the action that adds a batch
	gone, locked            string // codes
	documented              issuer.Calls

	url      func(*cloudsim.Sim) string
	connect  func(t *testing.T, url string, permits *permit.Set) (s dcv.Solver, put func(zone, rr, kind, value string) error)
	scripted func(fields map[string]any) any                            // an answer's body
	record   func(rr, kind, value string, disabled bool) map[string]any // an answer of find with one record
	zone     func(name string) map[string]any                           // an answer of list with one zone
	code     func(w http.ResponseWriter, code string) map[string]any    // an error's answer
	action   func(*http.Request) string                                 // of a request
}

var clouds = []cloud{
	{name: "alidns", account: cloudsim.Account{Cloud: "aliyun", UID: "1000", AccessKeyID: "LTAItest", AccessKeySecret: "secret"},
		list: "DescribeDomains", add: "AddDomainRecord", find: "DescribeSubDomainRecords", delete: "DeleteDomainRecord",
		addMany: "OperateBatchDomain",
		gone:    "DomainRecordNotBelongToUser", locked: "DomainRecordLocked",
		documented: alidns.Calls(),
		url:        (*cloudsim.Sim).AliyunURL, connect: connectAliyun,
		scripted: func(f map[string]any) any { return f },
		zone: func(name string) map[string]any {
			return map[string]any{"TotalCount": 1, "Domains": map[string]any{"Domain": []any{map[string]any{"DomainName": name}}}}
		},
		record: func(rr, kind, value string, disabled bool) map[string]any {
			return map[string]any{"TotalCount": 1, "DomainRecords": map[string]any{"Record": []any{map[string]any{
				"RecordId": "9007199254740993", "RR": rr, "Type": kind, "Value": value, "Status": status(disabled)}}}}
		},
		code: func(w http.ResponseWriter, code string) map[string]any {
			w.WriteHeader(http.StatusBadRequest)
			return map[string]any{"Code": code, "Message": "refused"}
		},
		action: func(r *http.Request) string { return r.URL.Query().Get("Action") }},
	{name: "dnspod", account: cloudsim.Account{Cloud: "tencent", UID: "2000", AccessKeyID: "AKIDtest", AccessKeySecret: "secret"},
		list: "DescribeDomainList", add: "CreateRecord", find: "DescribeRecordList", delete: "DeleteRecord",
		addMany: "CreateRecordBatch",
		gone:    "InvalidParameter.RecordIdInvalid", locked: "LimitExceeded.SubdomainRollLimit",
		documented: dnspod.Calls(),
		url:        (*cloudsim.Sim).TencentURL, connect: connectTencent,
		scripted: func(f map[string]any) any { return map[string]any{"Response": f} },
		zone: func(name string) map[string]any {
			return map[string]any{"DomainCountInfo": map[string]any{"DomainTotal": 1}, "DomainList": []any{map[string]any{"Name": name}}}
		},
		record: func(rr, kind, value string, disabled bool) map[string]any {
			return map[string]any{"RecordList": []any{map[string]any{
				"RecordId": uint64(9007199254740993), "Name": rr, "Type": kind, "Value": value, "Status": status(disabled)}}}
		},
		code: func(_ http.ResponseWriter, code string) map[string]any {
			return map[string]any{"Error": map[string]string{"Code": code, "Message": "refused"}}
		},
		action: func(r *http.Request) string { return r.Header.Get("X-TC-Action") }},
}

func status(disabled bool) string {
	if disabled {
		return "DISABLE"
	}
	return "ENABLE"
}

func connectAliyun(t *testing.T, url string, permits *permit.Set) (dcv.Solver, func(zone, rr, kind, value string) error) {
	c, err := aliyun.New(issuer.Access{Endpoint: url, DNSEndpoint: url, KeyID: "LTAItest", Secret: "secret", Main: "1000", Permits: permits})
	must(t, err)
	return alidns.New(c), func(zone, rr, kind, value string) error {
		req := requests.NewCommonRequest()
		req.Product, req.Version, req.ApiName, req.Method = "Alidns", "2015-01-09", "AddDomainRecord", requests.POST
		req.QueryParams = map[string]string{"DomainName": zone, "RR": rr, "Type": kind, "Value": value}
		return c.Call(t.Context(), req, responses.NewCommonResponse())
	}
}

func connectTencent(t *testing.T, url string, permits *permit.Set) (dcv.Solver, func(zone, rr, kind, value string) error) {
	c, err := tencent.New(issuer.Access{Endpoint: url, DNSEndpoint: url, KeyID: "AKIDtest", Secret: "secret", Main: "2000", Permits: permits})
	must(t, err)
	return dnspod.New(c), func(zone, rr, kind, value string) error {
		return c.Call(t.Context(), "dnspod", "2021-03-23", "CreateRecord",
			map[string]any{"Domain": zone, "SubDomain": rr, "RecordType": kind, "RecordLine": "默认", "Value": value}, nil)
	}
}

func newPermits() *permit.Set {
	return permit.NewSet(func(permit.Key) permit.Limit {
		return permit.Limit{Calls: 500, Period: 10 * time.Millisecond, Deadline: 5 * time.Second}
	})
}

// account is a simulated cloud with one account, and a solver for it.
type account struct {
	*cloudsim.Sim
	cloud
	solver dcv.Solver
	put    func(zone, rr, kind, value string) error // what somebody else writes
	t      *testing.T
}

// each runs a test at both clouds, with the zones that it names; none means every
// domain that is asked for.
func each(t *testing.T, zones []string, run func(*testing.T, *account)) {
	for _, c := range clouds {
		t.Run(c.name, func(t *testing.T) { run(t, start(t, c, zones)) })
	}
}

func start(t *testing.T, c cloud, zones []string) *account {
	return startWith(t, c, zones, func(*cloudsim.Config) {})
}

func startWith(t *testing.T, c cloud, zones []string, change func(*cloudsim.Config)) *account {
	c.account.Zones = zones
	cfg := cloudsim.Config{
		Accounts: []cloudsim.Account{c.account}, Limits: map[string]int{"default": 10_000}, Latency: cloudsim.None, DNSLag: cloudsim.None,
		BatchDelay: cloudsim.None, CloudKey: "p256", Logger: slog.New(slog.DiscardHandler)}
	change(&cfg)
	sim, err := cloudsim.Start(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { sim.Close() })
	a := &account{Sim: sim, cloud: c, t: t}
	a.solver, a.put = c.connect(t, c.url(sim), newPermits())
	return a
}

// rezone changes which zones the account hosts.
func (a *account) rezone(zones ...string) {
	a.t.Helper()
	a.cloud.account.Zones = zones
	must(a.t, a.AddAccount(a.cloud.account))
}

func (a *account) calls(action string) int { return a.made()[action] }

// made counts the calls that arrived, by action.
func (a *account) made() map[string]int {
	all := map[string]int{}
	for _, c := range a.Report().Calls {
		all[c.Action] += c.Calls
	}
	return all
}

// want compares what the simulated DNS serves at a name with "TYPE value"s.
func (a *account) want(name string, want ...string) {
	a.t.Helper()
	var got []string
	for _, kind := range []uint16{dns.TypeTXT, dns.TypeMX, dns.TypeCNAME} {
		q := new(dns.Msg)
		q.SetQuestion(dns.Fqdn(name), kind)
		q.SetEdns0(4096, false)
		m, err := dns.Exchange(q, a.DNSAddr())
		must(a.t, err)
		for _, rr := range m.Answer {
			if rr.Header().Rrtype == kind {
				_, value, _ := strings.Cut(rr.String(), "\tIN\t")
				got = append(got, strings.ReplaceAll(value, "\t", " "))
			}
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		a.t.Fatalf("%s (-want +got):\n%s", name, diff)
	}
}

// scripted is a solver at a server that gives fixed answers by action, for what
// the simulator cannot be brought to say.
func scripted(t *testing.T, c cloud, answers map[string]func(http.ResponseWriter) map[string]any) dcv.Solver {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := answers[c.action(r)]
		if answer == nil {
			t.Errorf("%s was called", c.action(r))
			return
		}
		fields := answer(w)
		fields["RequestId"] = "scripted"
		_ = json.NewEncoder(w).Encode(c.scripted(fields))
	}))
	t.Cleanup(server.Close)
	s, _ := c.connect(t, server.URL, newPermits())
	return s
}
