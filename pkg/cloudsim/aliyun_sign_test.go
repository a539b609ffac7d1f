package cloudsim_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"

	"github.com/certmill/certmill/pkg/cloudsim"
)

const (
	cas2018 = "2018-07-13"
	cas2020 = "2020-04-07"
)

// call makes any request by the SDK, in form parameters, and decodes the answer.
func (a *aliCloud) call(version, action string, params map[string]string) (map[string]any, error) {
	a.t.Helper()
	r := requests.NewCommonRequest()
	r.Method, r.Product, r.Version, r.ApiName = "POST", "cas", version, action
	r.Domain, r.Scheme = a.cas.Domain, "HTTP"
	maps.Copy(r.FormParams, params)
	resp, err := a.cas.ProcessCommonRequest(r)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	return out, json.Unmarshal(resp.GetHttpContentBytes(), &out)
}

func (a *aliCloud) must(version, action string, params map[string]string) map[string]any {
	a.t.Helper()
	out, err := a.call(version, action, params)
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}

// gateway is the body of a refusal, in which all values are strings.
type gateway struct {
	Status                                      int `json:"-"`
	RequestId, HostId, Code, Message, Recommend string
}

// send sends parameters as they are, for what the SDK would never send.
func send(t *testing.T, base, method string, query url.Values, body string) gateway {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, base+"/?"+query.Encode(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := gateway{Status: resp.StatusCode}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}

var nonce atomic.Int64

// signed completes and signs parameters.
func signed(at time.Time, method string, params map[string]string) url.Values {
	q := url.Values{}
	for k, v := range map[string]string{"Format": "JSON", "Version": cas2020, "AccessKeyId": aliKey, "SignatureMethod": "HMAC-SHA1",
		"SignatureVersion": "1.0", "SignatureNonce": fmt.Sprint("nonce-", nonce.Add(1)), "Timestamp": at.UTC().Format("2006-01-02T15:04:05Z")} {
		q.Set(k, v)
	}
	for k, v := range params {
		q.Set(k, v)
	}
	return sign(method, q)
}

func sign(method string, q url.Values) url.Values {
	q.Del("Signature")
	escape := strings.NewReplacer("+", "%20", "*", "%2A", "%7E", "~")
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(q)) {
		pairs = append(pairs, escape.Replace(url.QueryEscape(k)+"="+url.QueryEscape(q.Get(k))))
	}
	mac := hmac.New(sha1.New, []byte(aliSecret+"&"))
	mac.Write([]byte(method + "&%2F&" + escape.Replace(url.QueryEscape(strings.Join(pairs, "&")))))
	q.Set("Signature", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return q
}

func signedOrder(at time.Time) url.Values {
	return signed(at, "POST", map[string]string{"Action": "CreateCertificateForPackageRequest", "Domain": "raw.example.com", "ProductCode": paid})
}

func TestSignature(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	now := time.Now()
	change := func(key, value string) url.Values { // after signing
		q := signedOrder(now)
		q.Set(key, value)
		return q
	}
	again := func(key, value string) url.Values { // before signing
		q := signedOrder(now)
		if value == "" {
			q.Del(key)
		} else {
			q.Set(key, value)
		}
		return sign("POST", q)
	}
	twice := signedOrder(now)
	twice.Add("Domain", "second.example.com")
	for name, tt := range map[string]struct {
		query url.Values
		want  string
	}{
		"tampered":           {change("Domain", "evil.example.com"), "400 SignatureDoesNotMatch"},
		"parameter added":    {change("Csr", "x"), "400 SignatureDoesNotMatch"},
		"method changed":     {sign("GET", signedOrder(now)), "400 SignatureDoesNotMatch"},
		"given twice":        {twice, "400 InvalidParameter"},
		"too old":            {signedOrder(now.Add(-16 * time.Minute)), "400 InvalidTimeStamp.Expired"},
		"too new":            {signedOrder(now.Add(16 * time.Minute)), "400 InvalidTimeStamp.Expired"},
		"old, not too old":   {signedOrder(now.Add(-14 * time.Minute)), "200 "},
		"local time":         {again("Timestamp", now.Format("2006-01-02T15:04:05+08:00")), "400 InvalidTimeStamp.Format"},
		"fractions":          {again("Timestamp", now.UTC().Format("2006-01-02T15:04:05.000Z")), "400 InvalidTimeStamp.Format"},
		"unknown key":        {again("AccessKeyId", "LTAInobody"), "404 InvalidAccessKeyId.NotFound"},
		"Tencent's key":      {again("AccessKeyId", "AKIDCloudsimTencent0001"), "404 InvalidAccessKeyId.NotFound"},
		"no signature":       {change("Signature", ""), "400 MissingSignature"},
		"no nonce":           {again("SignatureNonce", ""), "400 MissingSignatureNonce"},
		"no timestamp":       {again("Timestamp", ""), "400 MissingTimestamp"},
		"no key":             {again("AccessKeyId", ""), "400 MissingAccessKeyId"},
		"no method":          {again("SignatureMethod", ""), "400 MissingSignatureMethod"},
		"no version of it":   {again("SignatureVersion", ""), "400 MissingSignatureVersion"},
		"no action":          {again("Action", ""), "400 MissingAction"},
		"no version":         {again("Version", ""), "400 MissingVersion"},
		"another method":     {again("SignatureMethod", "HMAC-SHA256"), "400 InvalidParameter"},
		"another version":    {again("Version", "2019-01-01"), "400 InvalidVersion"},
		"unknown action":     {again("Action", "MakeCoffee"), "404 InvalidAction.NotFound"},
		"another's action":   {again("Action", "CreateDVOrderAudit"), "404 InvalidAction.NotFound"},
		"XML":                {again("Format", "XML"), "400 InvalidParameter"},
		"a token of nobody":  {again("SecurityToken", "x"), "400 InvalidSecurityToken.MismatchWithAccessKey"},
		"odd characters":     {again("Username", "a+b ~*'()!/ü\n"), "200 "},
		"nothing to hide":    {signedOrder(now), "200 "},
		"empty, but counted": {again("SignatureType", " "), "400 InvalidParameter"},
	} {
		t.Run(name, func(t *testing.T) {
			out := send(t, a.AliyunURL(), "POST", tt.query, "")
			if got := fmt.Sprint(out.Status, " ", out.Code); got != tt.want {
				t.Errorf("%s, want %s: %s", got, tt.want, out.Message)
			}
			if out.RequestId == "" {
				t.Error("no RequestId")
			}
			if out.Code != "" && (out.HostId == "" || out.Message == "" || out.Recommend == "") {
				t.Errorf("error body %+v", out)
			}
			if strings.HasSuffix(tt.want, "NotMatch") && !strings.Contains(out.Message, "server string to sign is:POST&%2F&AccessKeyId%3D") {
				t.Error(out.Message)
			}
		})
	}
	if used, _ := a.used(paid); used != 3 {
		t.Errorf("%d orders, want those of the three good requests", used)
	}
}

func TestReplayIsRefused(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	q := signedOrder(time.Now())
	if out := send(t, a.AliyunURL(), "POST", q, ""); out.Code != "" {
		t.Fatal(out)
	}
	if out := send(t, a.AliyunURL(), "POST", q, ""); out.Status != 400 || out.Code != "SignatureNonceUsed" {
		t.Errorf("replay: %+v", out)
	}
	if used, _ := a.used(paid); used != 1 {
		t.Errorf("%d orders", used)
	}
	// The nonce is the caller's own: another key may draw the same.
	forged := signedOrder(time.Now())
	forged.Set("Signature", "nonsense")
	nonce := forged.Get("SignatureNonce")
	send(t, a.AliyunURL(), "POST", forged, "")
	good := signed(time.Now(), "POST", map[string]string{"Action": "DescribePackageState", "SignatureNonce": nonce})
	if out := send(t, a.AliyunURL(), "POST", good, ""); out.Code != "" {
		t.Errorf("a forged request used up the nonce: %+v", out)
	}
}

// TestQueryAndFormAreSignedTogether sends what the SDK's CommonRequest may mix.
func TestQueryAndFormAreSignedTogether(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	split := func(q url.Values) (url.Values, string) {
		form := url.Values{"Domain": q["Domain"], "ProductCode": q["ProductCode"]}
		q.Del("Domain")
		q.Del("ProductCode")
		return q, form.Encode()
	}
	q, body := split(signedOrder(time.Now()))
	if out := send(t, a.AliyunURL(), "POST", q, body); out.Code != "" {
		t.Errorf("split: %+v", out)
	}
	q, body = split(signedOrder(time.Now()))
	if out := send(t, a.AliyunURL(), "POST", q, strings.Replace(body, "raw", "bad", 1)); out.Code != "SignatureDoesNotMatch" {
		t.Errorf("form tampered with: %+v", out)
	}
	get := signed(time.Now(), "GET", map[string]string{"Action": "DescribePackageState", "ProductCode": paid})
	if out := send(t, a.AliyunURL(), "GET", get, ""); out.Code != "" {
		t.Errorf("GET: %+v", out)
	}
	if out := send(t, a.AliyunURL(), "PUT", get, ""); out.Code != "UnsupportedHTTPMethod" {
		t.Errorf("PUT: %+v", out)
	}
}

func TestSignatureLifeIsASetting(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.AliyunSignatureLife, cfg.ClockSkew = cloudsim.Duration(time.Minute), cloudsim.Duration(10*time.Second)
	a := startAli(t, cfg)
	for off, want := range map[time.Duration]string{-90 * time.Second: "InvalidTimeStamp.Expired", -30 * time.Second: "", 30 * time.Second: "InvalidTimeStamp.Expired"} {
		if out := send(t, a.AliyunURL(), "POST", signedOrder(time.Now().Add(off)), ""); out.Code != want {
			t.Errorf("%v: %+v", off, out)
		}
	}
}

func TestKeysWithoutPermission(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Accounts = []cloudsim.Account{
		{Cloud: "aliyun", UID: aliUID, AccessKeyID: aliKey, AccessKeySecret: aliSecret, Products: map[string]int{paid: 1}, Deny: []string{"DescribePackageState"}},
		{Cloud: "aliyun", UID: aliUID, AccessKeyID: "LTAIdisabled", AccessKeySecret: aliSecret, Disabled: true},
	}
	a := startAli(t, cfg)
	denied := map[string]string{"Action": "DescribePackageState", "ProductCode": paid}
	if out := send(t, a.AliyunURL(), "POST", signed(time.Now(), "POST", denied), ""); out.Status != 403 || out.Code != "Forbidden.RAM" {
		t.Errorf("denied: %+v", out)
	}
	denied["AccessKeyId"] = "LTAIdisabled"
	if out := send(t, a.AliyunURL(), "POST", signed(time.Now(), "POST", denied), ""); out.Status != 400 || out.Code != "InvalidAccessKeyId.Inactive" {
		t.Errorf("disabled: %+v", out)
	}
}

// TestThrottling makes 25 calls at once, 5 of which are allowed in any second. Of
// fixed windows they can meet two.
func TestThrottling(t *testing.T) {
	t.Parallel()
	for mode, most := range map[string]int{"sliding": 5, "fixed": 10, "both": 5} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			cfg := quick()
			cfg.LimitMode, cfg.Limits = mode, map[string]int{"DescribePackageState": 5, "default": 1000}
			a := startAli(t, cfg)
			start, passed := time.Now(), 0
			for range 25 {
				q := signed(time.Now(), "POST", map[string]string{"Action": "DescribePackageState", "ProductCode": paid})
				switch out := send(t, a.AliyunURL(), "POST", q, ""); out.Code {
				case "":
					passed++
				case "Throttling.User":
					if out.Status != 400 || out.Message != "Request was denied due to user flow control." {
						t.Errorf("refusal %+v", out)
					}
				default:
					t.Fatalf("%+v", out)
				}
			}
			if lasted := time.Since(start); lasted < time.Second && (passed < 5 || passed > most) {
				t.Errorf("%d of 25 passed in %v", passed, lasted)
			}
			if _, err := a.call(cas2020, "CancelOrderRequest", map[string]string{"OrderId": "1"}); code(err) != "404 NotFoundOrder" {
				t.Errorf("each action has a limit of its own: %v", err)
			}
			b := aliClient(t, a.Sim, "LTAI5tCloudsimAliyun0002", "cloudsim-secret-aliyun-2")
			b.used(paid) // and each main account
			eventually(t, "the window passes", func() bool {
				_, err := a.call(cas2020, "DescribePackageState", map[string]string{"ProductCode": paid})
				time.Sleep(250 * time.Millisecond)
				return err == nil
			})
		})
	}
}
