package cloudsim_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// control sends a request to the control port.
func (c *tencentCloud) control(method, path, body string) (int, string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.sim.ControlURL()+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestControlRefuses(t *testing.T) {
	c := startTencent(t, tencentConfig())
	for _, tt := range []struct{ path, body, want string }{
		{"/faults", `{"kind":"earthquake"}`, "is none of"},
		{"/faults", `{"kind":"throttle","colour":"red"}`, "colour"},
		{"/faults", `{"kind":"throttle","cloud":"azure"}`, "neither aliyun nor tencent"},
		{"/faults", `{"kind":"throttle","probability":2}`, "not between 0 and 1"},
		{"/faults", `{"kind":"throttle","commit":"maybe"}`, "neither before nor never"},
		{"/faults", `{"kind":"throttle"} {"kind":"stall"}`, "more than one"},
		{"/settings", `{"limit_mode":"loose"}`, "limit_mode"},
		{"/settings", `{"limitmode":"both"}`, "limitmode"},
		{"/settings", `{"dns_addr":"127.0.0.1:53"}`, "start it anew"},
		{"/settings", `{"accounts":[]}`, "/accounts"},
		{"/settings", `{"issue_delay":"3s..1s"}`, "the end lies before"},
		{"/accounts", `{"cloud":"tencent"}`, "required"},
		{"/accounts", `{"cloud":"tencent","uid":"2","access_key_id":"AKIDone","access_key_secret":"s"}`, "belongs to"},
		{"/stock", `{"cloud":"tencent","uid":"nobody"}`, "POST it to /accounts"},
		{"/settings", `{"odd_states":1.5}`, "between 0 and 1"},
		{"/records", `{"cloud":"tencent","uid":"100000000001","zone":"www.example.com","rr":"x","type":"TXT","value":"v"}`, "has no zone"},
		{"/records", `{"cloud":"tencent","uid":"100000000001","zone":"example.com","rr":"x","type":"A","value":"v"}`, "A"},
		{"/stock", `{"cloud":"tencent","uid":"100000000001","certificates":[{"id":"paid0001"}]}`, "taken"},
		{"/stock", `{"cloud":"tencent","uid":"100000000001","instances":[{"id":"x"}]}`, "sold by aliyun"},
		{"/stock", `{"cloud":"tencent","uid":"100000000001","products":{"83":-3}}`, "not possible"},
	} {
		status, text := c.control("POST", tt.path, tt.body)
		if status != http.StatusBadRequest || !strings.Contains(text, tt.want) {
			t.Errorf("%s %s: %d %s, want %q", tt.path, tt.body, status, text, tt.want)
		}
	}
	if n := len(c.sim.Faults()); n != 0 {
		t.Errorf("%d faults were added all the same", n)
	}
	if s := c.sim.Settings(); s.LimitMode != "both" {
		t.Errorf("settings changed all the same: %+v", s)
	}
}

// ok wants success.
func (c *tencentCloud) ok(method, path, body string) string {
	c.t.Helper()
	status, text := c.control(method, path, body)
	if status != http.StatusOK {
		c.t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	return text
}

func TestControl(t *testing.T) {
	c := startTencent(t, tencentConfig())
	if text := c.ok("GET", "/health", ""); !strings.Contains(text, c.sim.DNSAddr()) {
		t.Errorf("health %s", text)
	}
	if text := c.ok("GET", "/root", ""); text != string(c.sim.RootPEM()) {
		t.Errorf("root %s", text)
	}
	if text := c.ok("GET", "/accounts", ""); !strings.Contains(text, "AKIDone") || strings.Contains(text, "secret-one") {
		t.Errorf("accounts %s", text)
	}

	c.ok("POST", "/settings", `{"limits":{"DescribeCertificates":1},"limit_mode":"sliding","latency":"none"}`)
	codes := map[string]int{}
	for range 5 {
		codes[c.code("ssl", "DescribeCertificates", params{})]++
	}
	if codes["RequestLimitExceeded"] == 0 {
		t.Errorf("the new limit is not in force: %v", codes)
	}
	var settings cloudsim.Config
	if err := json.Unmarshal([]byte(c.ok("GET", "/settings", "")), &settings); err != nil {
		t.Fatal(err)
	}
	if settings.LimitMode != "sliding" || settings.Limits["DescribeCertificates"] != 1 || settings.Limits["default"] != 10_000 || settings.CloudKey != "p256" {
		t.Errorf("settings %+v", settings)
	}

	c.ok("POST", "/settings", `{"records":[{"name":"a.example.com","type":"TXT","value":"v","ttl":5}]}`)
	c.ok("POST", "/settings", `{"records":[{"name":"b.example.com","type":"TXT","value":"w"}]}`)
	if r := c.sim.Settings().Records; len(r) != 1 || r[0] != (cloudsim.StaticRecord{Name: "b.example.com", Type: "TXT", Value: "w"}) {
		t.Errorf("records %+v", r)
	}
	c.ok("POST", "/settings", c.ok("GET", "/settings", "")) // what is shown can be sent back

	c.ok("POST", "/faults", `{"cloud":"tencent","action":"DescribeCertificate","kind":"throttle","times":1}`)
	if got := c.code("ssl", "DescribeCertificate", params{"CertificateId": "paid0001"}); got != "RequestLimitExceeded" {
		t.Errorf("the fault does not hit: %s", got)
	}
	if text := c.ok("GET", "/faults", ""); !strings.Contains(text, `"hits":1`) {
		t.Errorf("faults %s", text)
	}
	c.ok("DELETE", "/faults", "")

	c.ok("POST", "/accounts", `{"cloud":"tencent","uid":"200","access_key_id":"AKIDtwo","access_key_secret":"s2","certificates":[{"id":"two00001"}]}`)
	two := &tencentCloud{t, c.sim, cloudsim.Account{UID: "200", AccessKeyID: "AKIDtwo", AccessKeySecret: "s2"}}
	two.describe("two00001")
	if got := two.code("ssl", "DescribeCertificate", params{"CertificateId": "paid0001"}); got != "FailedOperation.CertificateNotFound" {
		t.Errorf("another account's certificate: %s", got)
	}
	c.ok("POST", "/stock", `{"cloud":"tencent","uid":"200","products":{"83":4}}`)
	if n := two.bought("83"); n != 4 {
		t.Errorf("%d free certificates", n)
	}
	for _, cloud := range []*tencentCloud{c, two} { // the same names at two accounts
		id := map[string]string{"100000000001": "paid0001", "200": "two00001"}[cloud.key.UID]
		cloud.call("ssl", "CertificateInfoSubmit", materials(id, "", "www.example.com"), nil)
		cloud.call("ssl", "CertificateOrderSubmit", params{"CertId": id}, nil)
	}
	checkReport(t, c.ok("GET", "/report", ""))

	c.ok("POST", "/records", `{"cloud":"tencent","uid":"200","zone":"example.com","rr":"_a","type":"TXT","value":"a person's"}`)
	var records []cloudsim.RecordReport
	if err := json.Unmarshal([]byte(c.ok("GET", "/records", "")), &records); err != nil || len(records) != 1 || records[0].Name != "_a.example.com" || records[0].By != "console" {
		t.Errorf("records %+v, %v", records, err)
	}
	if text := c.ok("GET", "/report?orders=false&records=false", ""); !strings.Contains(text, `"dns":{"records":null`) {
		t.Errorf("report %s", text)
	}
	c.ok("DELETE", "/records?id="+records[0].ID, "")
	if text := c.ok("GET", "/records", ""); text != "[]" {
		t.Errorf("records after removal: %s", text)
	}

	c.ok("POST", "/reset", "")
	if got := two.code("ssl", "DescribeCertificate", params{"CertificateId": "two00001"}); got != "AuthFailure.SecretIdNotFound" {
		t.Errorf("after the reset: %s", got)
	}
	if d := c.describe("paid0001"); d.Status != 5 || d.SubmittedData != nil {
		t.Errorf("after the reset: %+v", d)
	}
}

func checkReport(t *testing.T, text string) {
	t.Helper()
	var r cloudsim.Report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Orders) != 2 || r.Orders[0].Names[0] != "www.example.com" || !r.Orders[0].Spent {
		t.Errorf("orders %+v", r.Orders)
	}
	if len(r.Duplicates) != 1 || len(r.Duplicates[0].Orders) != 2 {
		t.Errorf("duplicates %+v", r.Duplicates)
	}
	for _, m := range r.Money {
		if m.UID == "100000000001" && m.Product == "DV SSL" && (m.Bought != 3 || m.Used != 1 || m.Pending != 1) {
			t.Errorf("money %+v", m)
		}
	}
	for _, s := range r.States {
		if s.UID == "100000000001" && (s.Orders["bought"] != 2 || s.Orders["pending"] != 1) {
			t.Errorf("states %+v", s)
		}
	}
}
