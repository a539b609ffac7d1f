package cloudsim_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
)

const (
	sts2015 = "2015-04-01"
	ramUser = "200000000000000007"
	camUser = "100000000777"
	role    = "461168601842741001"
)

// callers are a main account, a user and a role of it.
func callers(cloud, uid, user string) []cloudsim.Account {
	return []cloudsim.Account{
		{Cloud: cloud, Label: "main", UID: uid, AccessKeyID: "KEYmain", AccessKeySecret: "s1"},
		{Cloud: cloud, Label: "clerk", UID: uid, AccessKeyID: "KEYuser", AccessKeySecret: "s2", CallerKind: "user",
			CallerID: user},
		{Cloud: cloud, Label: "mill", UID: uid, AccessKeyID: "KEYrole", AccessKeySecret: "s3", CallerKind: "role",
			CallerID: role, Token: "temporary"},
	}
}

// text are the fields of an answer in a fixed order, without its RequestId.
func text(t *testing.T, answer map[string]any) string {
	t.Helper()
	if id, _ := answer["RequestId"].(string); id == "" {
		t.Errorf("no RequestId in %v", answer)
	}
	delete(answer, "RequestId")
	b, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), `"`, "")
}

// rpcAs calls Alibaba's STS with a key. The secrets of the helper sign are one
// account's, so that keys are told apart by id alone.
func rpcAs(t *testing.T, base string, key cloudsim.Account, more map[string]string) (int, map[string]any) {
	t.Helper()
	params := map[string]string{"Action": "GetCallerIdentity", "Version": sts2015, "AccessKeyId": key.AccessKeyID}
	if key.Token != "" {
		params["SecurityToken"] = key.Token
	}
	for k, v := range more {
		params[k] = v
	}
	resp, err := http.Post(base+"/?"+signed(time.Now(), "POST", params).Encode(), "application/x-www-form-urlencoded",
		nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, out
}

func aliyunCallers() []cloudsim.Account {
	all := callers("aliyun", aliUID, ramUser)
	for i := range all {
		all[i].AccessKeySecret = aliSecret
	}
	return all
}

// TestCallerIdentityAtAliyun sees every reading that the vendor's pages allow,
// each of them the same for the whole run.
func TestCallerIdentityAtAliyun(t *testing.T) {
	t.Parallel()
	words := map[string]int{}
	for seed := range 24 {
		cfg := quick()
		cfg.Seed, cfg.Accounts = uint64(seed+1), aliyunCallers()
		a := startAli(t, cfg)
		for i, want := range []string{
			"{AccountId:1000000000000001,Arn:acs:ram::1000000000000001:root,IdentityType:Account,PrincipalId:1000000000000001,UserId:1000000000000001}",
			"", // below
			"{AccountId:1000000000000001,Arn:acs:ram::1000000000000001:assumed-role/mill/cloudsim,IdentityType:AssumedRoleUser," +
				"PrincipalId:" + role + ":cloudsim,RoleId:" + role + "}",
		} {
			status, out := rpcAs(t, a.AliyunURL(), cfg.Accounts[i], nil)
			got := text(t, out)
			if status != http.StatusOK || want != "" && got != want {
				t.Errorf("%s: %d %s, want %s", cfg.Accounts[i].Label, status, got, want)
			}
			if _, again := rpcAs(t, a.AliyunURL(), cfg.Accounts[i], nil); text(t, again) != got {
				t.Errorf("%s: first %s, then %v", cfg.Accounts[i].Label, got, again)
			}
		}
		_, user := rpcAs(t, a.AliyunURL(), cfg.Accounts[1], nil)
		if user["AccountId"] != aliUID || user["UserId"] != ramUser || user["Arn"] != "acs:ram::"+aliUID+":user/clerk" {
			t.Errorf("user %v", user)
		}
		words[fmt.Sprint(user["IdentityType"])]++
		words[fmt.Sprint("own principal ", user["PrincipalId"] == ramUser, ", role ", user["RoleId"] != nil)]++
	}
	for _, word := range []string{"RAMUser", "RamUser", "own principal true, role false",
		"own principal false, role true"} {
		if words[word] == 0 {
			t.Errorf("no seed reads %q: %v", word, words)
		}
	}
	if len(words) != 4 {
		t.Errorf("readings that no page has: %v", words)
	}
}

func TestAliyunIdentityIsCheckedLikeAllCalls(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Accounts = aliyunCallers()
	a := startAli(t, cfg)
	main, clerk, mill := cfg.Accounts[0], cfg.Accounts[1], cfg.Accounts[2]
	stranger, careless := mill, mill
	stranger.Token, careless.Token = "another", ""
	nosy := clerk
	nosy.Token = "temporary"
	for name, tt := range map[string]struct {
		key  cloudsim.Account
		more map[string]string
		want string
	}{
		"as documented":       {main, nil, "200 <nil>"},
		"another version":     {main, map[string]string{"Version": cas2020}, "404 InvalidAction.NotFound"},
		"tampered":            {main, map[string]string{"SignatureMethod": "HMAC-SHA256"}, "400 InvalidParameter"},
		"a role's":            {mill, nil, "200 <nil>"},
		"no token":            {careless, nil, "400 MissingSecurityToken"},
		"another's token":     {stranger, nil, "400 InvalidSecurityToken.MismatchWithAccessKey"},
		"a token of nobody's": {nosy, nil, "400 InvalidSecurityToken.MismatchWithAccessKey"},
	} {
		status, out := rpcAs(t, a.AliyunURL(), tt.key, tt.more)
		if got := fmt.Sprint(status, " ", out["Code"]); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
	q := signed(time.Now(), "POST", map[string]string{"Action": "GetCallerIdentity", "Version": sts2015,
		"AccessKeyId": main.AccessKeyID})
	q.Set("AccessKeyId", clerk.AccessKeyID) // whose the answer would then be
	if out := send(t, a.AliyunURL(), "POST", q, ""); out.Code != "SignatureDoesNotMatch" {
		t.Errorf("another's name under a signature: %+v", out)
	}
	if err := a.SetConfig(func(c *cloudsim.Config) { c.Unknown = []string{"aliyun/GetCallerIdentity"} }); err != nil {
		t.Fatal(err)
	}
	if status, out := rpcAs(t, a.AliyunURL(), main, nil); status != 404 || out["Code"] != "InvalidAction.NotFound" {
		t.Errorf("a cloud that does not know the call: %d %v", status, out)
	}
}

// stsAs calls a service of Tencent that is no SSL, in a region.
func (c *tencentCloud) stsAs(key cloudsim.Account, service, action, region string, in params) (map[string]any, string) {
	c.t.Helper()
	set := mutate(func(r *http.Request) {
		if r.Header.Del("X-TC-Region"); region != "" { // not among the headers that are signed
			r.Header.Set("X-TC-Region", region)
		}
		if key.Token != "" {
			r.Header.Set("X-TC-Token", key.Token)
		}
	})
	raw, err := c.send(key, set, service, action, in)
	var out map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	return out, codeOf(err)
}

func TestCallerIdentityAtTencent(t *testing.T) {
	uins := map[any]int{}
	for seed := range 12 {
		cfg := tencentConfig()
		cfg.Seed, cfg.Accounts = uint64(seed+1), callers("tencent", "100000000001", camUser)
		c := startTencent(t, cfg)
		for i, want := range []string{
			"{AccountId:100000000001,Arn:qcs::cam:100000000001:uin/100000000001,PrincipalId:100000000001,Type:CAMUser,UserId:100000000001}",
			"{AccountId:100000000001,Arn:qcs::cam:100000000001:uin/100000000777,PrincipalId:100000000777,Type:CAMUser,UserId:100000000777}",
			"{AccountId:100000000001,Arn:qcs::sts:100000000001:assumed-role/" + role +
				",PrincipalId:100000000001,Type:CAMRole,UserId:" + role + ":cloudsim}",
		} {
			out, code := c.stsAs(cfg.Accounts[i], "sts", "GetCallerIdentity", "ap-guangzhou", params{})
			if code != "success" || text(t, out) != want {
				t.Errorf("%s: %s %v, want %s", cfg.Accounts[i].Label, code, out, want)
			}
		}
		for i, want := range []any{"100000000001", camUser} {
			out, code := c.stsAs(cfg.Accounts[i], "cam", "GetUserAppId", "", params{})
			if code != "success" || out["Uin"] != want || out["OwnerUin"] != "100000000001" {
				t.Errorf("%s: %s %v", cfg.Accounts[i].Label, code, out)
			}
			if id, _ := out["AppId"].(float64); id < 1_250_000_000 || id >= 1_350_000_000 {
				t.Errorf("AppId %v", out["AppId"])
			}
		}
		out, _ := c.stsAs(cfg.Accounts[2], "cam", "GetUserAppId", "", params{})
		uins[out["Uin"]]++
	}
	if uins["100000000001"] == 0 || uins[role] == 0 || len(uins) != 2 {
		t.Errorf("the Uin of a role: %v", uins)
	}
}

func TestTencentIdentityIsCheckedLikeAllCalls(t *testing.T) {
	cfg := tencentConfig()
	cfg.Accounts = callers("tencent", "100000000001", camUser)
	cfg.Accounts[1].Deny = []string{"GetCallerIdentity"}
	c := startTencent(t, cfg)
	main, clerk, mill := cfg.Accounts[0], cfg.Accounts[1], cfg.Accounts[2]
	forged, careless := main, mill
	forged.AccessKeySecret, careless.Token = "x", ""
	for _, tt := range []struct {
		name                    string
		key                     cloudsim.Account
		service, action, region string
		in                      params
		want                    string
	}{
		{"as documented", main, "sts", "GetCallerIdentity", "ap-guangzhou", params{}, "success"},
		{"no region", main, "sts", "GetCallerIdentity", "", params{}, "MissingParameter"},
		{"no region at CAM", main, "cam", "GetUserAppId", "", params{}, "success"},
		{"a parameter", main, "sts", "GetCallerIdentity", "ap-guangzhou", params{"Uin": "1"}, "UnknownParameter"},
		{"another service", main, "ssl", "GetCallerIdentity", "ap-guangzhou", params{}, "InvalidAction"},
		{"forged", forged, "sts", "GetCallerIdentity", "ap-guangzhou", params{}, "AuthFailure.SignatureFailure"},
		{"a role's", mill, "sts", "GetCallerIdentity", "ap-guangzhou", params{}, "success"},
		{"no token", careless, "sts", "GetCallerIdentity", "ap-guangzhou", params{}, "AuthFailure.TokenFailure"},
		{"no right", clerk, "sts", "GetCallerIdentity", "ap-guangzhou", params{}, "UnauthorizedOperation"},
		{"the right to the other call", clerk, "cam", "GetUserAppId", "", params{}, "success"},
	} {
		if _, code := c.stsAs(tt.key, tt.service, tt.action, tt.region, tt.in); code != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, code, tt.want)
		}
	}
	if err := c.sim.SetConfig(func(c *cloudsim.Config) { c.Unknown = []string{"GetCallerIdentity"} }); err != nil {
		t.Fatal(err)
	}
	if _, code := c.stsAs(main, "sts", "GetCallerIdentity", "ap-guangzhou", params{}); code != "InvalidAction" {
		t.Errorf("a cloud that does not know the call: %s", code)
	}
	if _, code := c.stsAs(main, "cam", "GetUserAppId", "", params{}); code != "success" {
		t.Errorf("the call that it knows: %s", code)
	}
}

// TestIdentityIsCounted makes more calls than Tencent's page allows, and as many
// at Alibaba, whose page allows them.
func TestIdentityIsCounted(t *testing.T) {
	cfg := tencentConfig()
	cfg.Limits = nil // the documented ones
	cfg.Accounts = append(callers("tencent", "100000000001", camUser), cloudsim.DefaultAccounts()[0])
	c := startTencent(t, cfg)
	throttled := 0
	const calls = 50
	for range calls {
		switch _, code := c.stsAs(cfg.Accounts[1], "sts", "GetCallerIdentity", "ap-guangzhou", params{}); code {
		case "RequestLimitExceeded":
			throttled++
		case "success":
		default:
			t.Fatal(code)
		}
		rpcAs(t, c.sim.AliyunURL(), cfg.Accounts[3], nil)
	}
	seen := 0
	for _, r := range c.sim.Report().Calls {
		switch r.Cloud + " " + r.Action {
		case "tencent GetCallerIdentity":
			seen++
			if r.UID != "100000000001" || r.Limit != 20 || r.Calls != calls || r.Throttled != throttled ||
				r.Accepted != calls-throttled {
				t.Errorf("%+v, throttled %d", r, throttled)
			}
		case "aliyun GetCallerIdentity":
			seen++
			if r.Limit != 100 || r.Calls != calls || r.Throttled != 0 {
				t.Errorf("%+v", r)
			}
		}
	}
	if seen != 2 {
		t.Errorf("the report has %d of 2 actions", seen)
	}
}

func TestCallersThatNobodyHas(t *testing.T) {
	base := func(change func(*cloudsim.Account)) cloudsim.Config {
		cfg := tencentConfig()
		change(&cfg.Accounts[0])
		return cfg
	}
	unknown := tencentConfig()
	unknown.Unknown = []string{"tencent/CreateDVOrderAudit"}
	for want, cfg := range map[string]cloudsim.Config{
		"needs the caller_kind": base(func(a *cloudsim.Account) { a.CallerID = "7" }),
		"has an id of its own":  base(func(a *cloudsim.Account) { a.CallerKind = "user" }),
		"is none of":            base(func(a *cloudsim.Account) { a.CallerKind = "guest" }),
		"a token goes with":     base(func(a *cloudsim.Account) { a.CallerKind, a.CallerID = "role", "7" }),
		"no policy": base(func(a *cloudsim.Account) {
			a.Cloud, a.Deny = "aliyun",
				[]string{"GetCallerIdentity"}
		}),
		"there is no action": unknown,
	} {
		if sim, err := cloudsim.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
			if err == nil {
				_ = sim.Close()
			}
		}
	}
}

// TestTokensAreNotShown: whoever configured them knows them.
func TestTokensAreNotShown(t *testing.T) {
	cfg := tencentConfig()
	cfg.Accounts = callers("tencent", "100000000001", camUser)
	c := startTencent(t, cfg)
	if body := c.ok("GET", "/accounts", ""); strings.Contains(body, "temporary") || !strings.Contains(body,
		`"caller_id":"`+camUser+`"`) {
		t.Error(body)
	}
}
