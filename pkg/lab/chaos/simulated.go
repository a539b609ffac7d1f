package chaos

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/cloudsim"
)

// simulated are the usual Clouds: both vendors.
type simulated struct{ sim *cloudsim.Sim }

// product is what orders at Alibaba buy.
const product = "symantec-dv-1-starter"

func openSimulated(s Setting) (Clouds, error) {
	_, port, err := net.SplitHostPort(s.Web)
	if err != nil {
		return nil, err
	}
	filePort, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	cfg := cloudsim.Config{
		Seed: s.Seed, FilePort: filePort,
		AliyunSignatureLife:  cloudsim.Duration(s.SignatureLife),
		TencentSignatureLife: cloudsim.Duration(s.SignatureLife),
		ClockSkew:            cloudsim.Duration(s.Clocks), ListLag: cloudsim.Between(0, s.ListLag),
		IssueDelay: cloudsim.Between(200*time.Millisecond, time.Second), CloudKey: "p256",
		Logger: slog.New(slog.DiscardHandler),
	}
	each := 2*s.Orders/s.Accounts + 100
	for n := range s.Accounts {
		a := cloudsim.Account{Cloud: "aliyun", Label: fmt.Sprintf("ali-%d", n/2), UID: s.main(n),
			AccessKeyID: fmt.Sprintf("LTAIchaos%04d", n), AccessKeySecret: fmt.Sprintf("chaos-secret-%d", n)}
		if n%2 == 0 {
			a.Products = map[string]int{product: s.Orders * 10}
			for i := range instancesEach {
				a.Instances = append(a.Instances, cloudsim.Instance{ID: instanceID(a.Label, i)})
			}
		} else {
			a.Cloud, a.Label, a.AccessKeyID = "tencent", fmt.Sprintf("ten-%d", n/2), fmt.Sprintf("AKIDchaos%04d", n)
			for i := range each {
				a.Certificates = append(a.Certificates, cloudsim.Certificate{ID: fmt.Sprintf("c%03d%05d", n, i)})
			}
		}
		cfg.Accounts = append(cfg.Accounts, a)
	}
	sim, err := cloudsim.Start(context.Background(), cfg)
	if err != nil {
		return nil, err
	}
	return simulated{sim}, nil
}

// instancesEach is how many instances each account at Alibaba has besides, for
// orders that name one.
const instancesEach = 8

func instanceID(label string, n int) string { return fmt.Sprintf("cas-%s-%d", label, n) }

// main is the n-th main account: elsewhere the same keys are of others.
func (s Setting) main(n int) string {
	if s.Elsewhere {
		return fmt.Sprintf("2000000000%04d", n)
	}
	return fmt.Sprintf("1000000000%04d", n)
}

// userKey ends the access key of an account's user.
const userKey = "user"

func mainKey(key string) string { return strings.TrimSuffix(key, userKey) }

// User implements Users.
func (s simulated) User(of Account) (key, secret string, err error) {
	u := cloudsim.Account{Cloud: of.Config.Cloud, Label: of.Label + "-user", UID: of.Config.Main,
		CallerKind: "user", CallerID: "3" + of.Config.Main[1:], AccessKeyID: of.Key + userKey, AccessKeySecret: of.Secret + "-user", Sees: "own"}
	return u.AccessKeyID, u.AccessKeySecret, s.sim.AddAccount(u)
}

// limits are those of the clouds' pages, less for the DNS, where these would
// split the rings. Written into the config they make each worker join the rings
// when it starts, so that all of them are filled by the time they are needed.
var limits = map[string]map[string]int{
	"aliyun": {
		"CreateCertificateForPackageRequest": 10, "CreateCertificateWithCsrRequest": 10, "DescribeCertificateState": 10,
		"ListUserCertificateOrder": 10, "GetUserCertificateDetail": 10, "DescribePackageState": 10,
		"GetMainDomainName": 20, "DescribeSubDomainRecords": 30, "AddDomainRecord": 30, "DeleteDomainRecord": 30,
	},
	"tencent": {
		"CertificateInfoSubmit": 10, "CertificateOrderSubmit": 10, "DescribeCertificate": 10, "CompleteCertificate": 10,
		"DescribeCertificates": 10, "DescribeCertificateDetail": 10, "DescribeDomainList": 20, "DescribeRecordList": 30,
		"CreateRecord": 30, "DeleteRecord": 30,
	},
}

func (s simulated) Accounts() (all []Account) {
	for _, a := range s.sim.Accounts() {
		c := app.Account{Cloud: a.Cloud, Main: a.UID, Endpoint: s.sim.TencentURL(), Limits: limits["tencent"]}
		if a.Cloud == "aliyun" {
			c.Endpoint, c.Product, c.Limits = s.sim.AliyunURL(), product, limits["aliyun"]
		}
		c.DNSEndpoint = c.Endpoint
		all = append(all, Account{a.Label, c, a.AccessKeyID, a.AccessKeySecret})
	}
	return all
}

func (s simulated) DNS() string  { return s.sim.DNSAddr() }
func (s simulated) Close() error { return s.sim.Close() }

// Odd: pages that shift, now and then states that no document knows, and
// DNSPod's records late.
func (s simulated) Odd() error {
	return s.sim.SetConfig(func(c *cloudsim.Config) {
		c.ListOrder, c.ListShift, c.OddStates = "oldest", 0.2, 0.05
		c.RecordListLag = cloudsim.Between(0, 3*time.Second)
	})
}

// faultKinds are what goes wrong, in equal shares.
var faultKinds = []cloudsim.Fault{
	{Kind: "http_500"}, {Kind: "http_502_html"}, {Kind: "throttle"}, {Kind: "reset_before_commit"},
	{Kind: "reset_after_commit"},
	{Kind: "empty_200"}, {Kind: "wrong_type"}, {Kind: "stall", Seconds: 2.5 * deadline.Seconds()}, {Kind: "nonce_used"},
}

func (s simulated) Fail(share float64) (hits int, err error) {
	for _, f := range s.sim.Faults() {
		hits += f.Hits
	}
	s.sim.ClearFaults()
	if share == 0 {
		return hits, nil
	}
	each, left := share/float64(len(faultKinds)), 1.0
	for _, f := range faultKinds {
		f.Probability = each / left // the rules are drawn one after another
		left -= each
		if err := s.sim.AddFault(f); err != nil {
			return hits, err
		}
	}
	return hits, nil
}

// create calls by their action: the query or form has it at Alibaba, a header
// at Tencent.
var creates = []string{"CreateCertificateForPackageRequest", "CreateCertificateWithCsrRequest",
	"CertificateOrderSubmit"}

func (s simulated) Buys(r *http.Request, body []byte) bool {
	form, _ := url.ParseQuery(string(body))
	for _, action := range []string{r.URL.Query().Get("Action"), form.Get("Action"), r.Header.Get("X-TC-Action"),
		r.Header.Get("x-acs-action")} {
		if slices.Contains(creates, action) {
			return true
		}
	}
	return false
}

// whose are the questions whose a key is.
var whose = []string{"GetCallerIdentity", "GetUserAppId"}

// started are the states of an instance that was used up: its price was paid before.
var started = []string{"pending", "review", "issued"}

func (s simulated) Books() (b Books) {
	r := s.sim.Report()
	for _, o := range r.Orders {
		b.Orders = append(b.Orders, Bought{Main: o.UID, ID: o.ID, Names: o.Names, KeyFP: o.KeyFP,
			Paid:     o.Spent || o.Kind == "instance" && slices.Contains(started, o.State),
			Resource: o.Kind != "package", Told: o})
	}
	for _, x := range r.DNS.Records {
		b.Records = append(b.Records, Record{x.Name, x.Type, x.Value, x.By, x.Created})
	}
	for _, f := range r.DNS.Foreign {
		if mainKey(f.Record.By) == mainKey(f.Key) { // an account that had another of its keys meanwhile
			continue
		}
		b.Foreign = append(b.Foreign, fmt.Sprintf("%+v", f))
	}
	for _, c := range r.Calls {
		if b.OverLimit += c.Violations; c.Violations > 0 && !slices.Contains(whose, c.Action) {
			b.Over = append(b.Over, fmt.Sprintf("%d of %s by %s: %d in a second, %d are allowed",
				c.Violations, c.Action, c.UID, c.PeakSliding, c.Limit))
		}
	}
	return b
}
