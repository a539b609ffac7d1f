package cloudsim

import (
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// outcome is what a caller saw of one call.
type outcome struct {
	status    int
	body      string
	failed    bool // no whole answer
	committed bool
}

// TestFaults lets one order go wrong in every way and looks into the books.
func TestFaults(t *testing.T) {
	t.Parallel()
	code := func(status int, name string) func(outcome) bool {
		return func(o outcome) bool { return o.status == status && strings.Contains(o.body, `"Code":"`+name+`"`) }
	}
	looks := map[string]func(outcome) bool{
		"reset_before_commit": func(o outcome) bool { return o.failed && o.status == 0 },
		"reset_after_commit":  func(o outcome) bool { return o.failed && o.status == 0 },
		"http_500":            code(500, "Error"),
		"http_502_html":       func(o outcome) bool { return o.status == 502 && strings.Contains(o.body, "<html>") },
		"throttle":            code(400, "Throttling.User"),
		"empty_200":           func(o outcome) bool { return o.status == 200 && o.body == "" && !o.failed },
		"truncated":           func(o outcome) bool { return o.status == 200 && o.failed && o.body != "" },
		"wrong_type":          func(o outcome) bool { return o.status == 200 && strings.Contains(o.body, `"OrderId":{`) },
		"numeric_code":        func(o outcome) bool { return o.status == 500 && strings.Contains(o.body, `"Code":500`) },
		"code_in_200":         code(200, "ServiceUnavailable"),
		"stall":               func(o outcome) bool { return o.status == 200 && strings.Contains(o.body, `"OrderId":`) },
		"nonce_used":          code(400, "SignatureNonceUsed"),
		"redirect_307":        func(o outcome) bool { return o.status == 307 },
		"stale_close":         func(o outcome) bool { return o.status == 200 && strings.Contains(o.body, `"OrderId":`) },
	}
	for kind, commits := range FaultKinds {
		for _, commit := range []string{"", "never", "before"} {
			t.Run(kind+" "+commit, func(t *testing.T) {
				t.Parallel()
				got := orderInto(t, Fault{Kind: kind, Commit: commit, Times: 1, Seconds: 0.01})
				want := commits
				if commit != "" {
					want = commit == "before"
				}
				if got.committed != want {
					t.Errorf("carried out: %v, want %v", got.committed, want)
				}
				if commit == "" && !looks[kind](got) {
					t.Errorf("answer %+v", got)
				}
			})
		}
	}
}

func orderInto(t *testing.T, f Fault) outcome {
	t.Helper()
	sim, err := Start(t.Context(), Config{Latency: None})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	f.Cloud, f.Action = cloudAliyun, "CreateCertificateForPackageRequest"
	if err := sim.faults.add(f); err != nil {
		t.Fatal(err)
	}
	key := sim.Accounts()[0]
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	got := outcome{}
	resp, err := client.Post(sim.AliyunURL()+"/?"+orderQuery(key), "application/x-www-form-urlencoded", nil)
	if got.failed = err != nil; err == nil {
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		got.status, got.body, got.failed = resp.StatusCode, string(body), err != nil
	}
	sim.books.mu.Lock()
	defer sim.books.mu.Unlock()
	got.committed = sim.books.usage(owner{cloudAliyun, key.UID}, "geotrust-dv-1-starter").used() == 1
	return got
}

func orderQuery(key Account) string {
	c := &rpcCall{method: "POST", params: map[string]string{
		"Action": "CreateCertificateForPackageRequest", "Version": cas2020, "Format": "JSON", "AccessKeyId": key.AccessKeyID,
		"SignatureMethod": "HMAC-SHA1", "SignatureVersion": "1.0", "SignatureNonce": strconv.FormatInt(time.Now().UnixNano(), 10),
		"Timestamp": time.Now().UTC().Format(rpcTime), "Domain": "www.example.com", "ProductCode": "geotrust-dv-1-starter",
	}}
	q := url.Values{"Signature": {rpcSignature(key.AccessKeySecret, c.stringToSign())}}
	for k, v := range c.params {
		q.Set(k, v)
	}
	return q.Encode()
}

// TestDocumentedSignature is the vendor's own worked example (help.aliyun.com
// 30563, DescribeRegions, key testid, secret testsecret).
func TestDocumentedSignature(t *testing.T) {
	c := &rpcCall{method: "GET", params: map[string]string{
		"Timestamp": "2016-02-23T12:46:24Z", "Format": "XML", "AccessKeyId": "testid", "Action": "DescribeRegions",
		"SignatureMethod": "HMAC-SHA1", "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf", "Version": "2014-05-26",
		"SignatureVersion": "1.0", "Signature": "left out",
	}}
	const text = "GET&%2F&AccessKeyId%3Dtestid%26Action%3DDescribeRegions%26Format%3DXML%26SignatureMethod%3DHMAC-SHA1" +
		"%26SignatureNonce%3D3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf%26SignatureVersion%3D1.0" +
		"%26Timestamp%3D2016-02-23T12%253A46%253A24Z%26Version%3D2014-05-26"
	if got := c.stringToSign(); got != text {
		t.Errorf("string to sign\n%s\nwant\n%s", got, text)
	}
	if got := rpcSignature("testsecret", text); got != "OLeaidS1JvxuMvnyHOwuJ+uX5qY=" {
		t.Errorf("signature %s", got)
	}
}
