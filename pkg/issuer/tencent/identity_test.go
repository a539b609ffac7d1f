package tencent_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/issuer/tencent"
	"github.com/certmill/certmill/pkg/order"
)

// asked gives fixed answers by action, and notes which actions came.
func asked(t *testing.T, answers map[string]string) (at string, actions func() []string) {
	var mu sync.Mutex
	var all []string
	at = serve(t, 200, func(r *http.Request) string {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, r.Header.Get("X-TC-Action"))
		return answers[r.Header.Get("X-TC-Action")]
	})
	return at, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

func identity(fields string) string { return `{"Response":{` + fields + `,"RequestId":"R1"}}` }

// The answers are those of the documents: 1312/66098 and 598/70416.
func TestIdentify(t *testing.T) {
	const sts, cam, token = "GetCallerIdentity", "GetUserAppId", "canary-token-55d1"
	user := identity(`"Uin":"1000261","OwnerUin":"1000262","AppId":1250000000`)
	for name, tt := range map[string]struct {
		sts, cam string
		token    order.Secret
		want     issuer.Identity
		kind     issuer.Kind
		asked    []string
	}{
		"main account": {sts: identity(`"Type":"CAMUser","AccountId":"1000262","UserId":"1000262","PrincipalId":"1000262","Arn":"qcs::cam:1000262:uin/1000262"`),
			want: issuer.Identity{Main: "1000262", Caller: "1000262", Kind: "CAMUser"}, asked: []string{sts}},
		"user": {sts: identity(`"Type":"CAMUser","AccountId":"1000262","UserId":"1000261","PrincipalId":"1000261","Arn":"qcs::cam:1000262:uin/1000261"`),
			want: issuer.Identity{Main: "1000262", Caller: "1000261", Kind: "CAMUser"}, asked: []string{sts}},
		"role": {sts: identity(`"Type":"CAMRole","AccountId":"1000262","UserId":"461168601842741:roleSessionName","PrincipalId":"1000261","Arn":"qcs::sts:1000262:assumed-role/461168601842741"`),
			token: token, want: issuer.Identity{Main: "1000262", Caller: "461168601842741", Kind: "CAMRole"}, asked: []string{sts}},
		"federated user of the main account": {sts: identity(`"Type":"CAMUser","AccountId":"1000262","UserId":"1000262:name","PrincipalId":"1000262","Arn":"qcs::sts:1000262:federated-user/1000262"`),
			token: token, want: issuer.Identity{Main: "1000262", Caller: "1000262:name", Kind: "CAMUser"}, asked: []string{sts}},
		"no right": {sts: code("UnauthorizedOperation.CamNoAuth"), cam: user,
			want: issuer.Identity{Main: "1000262", Caller: "1000261"}, asked: []string{sts, cam}},
		"no right, in another word": {sts: code("AuthFailure.UnauthorizedOperation"), cam: user,
			want: issuer.Identity{Main: "1000262", Caller: "1000261"}, asked: []string{sts, cam}},
		"no such call": {sts: code("InvalidAction"), cam: user,
			want: issuer.Identity{Main: "1000262", Caller: "1000261"}, asked: []string{sts, cam}},
		"no such product": {sts: code("NoSuchProduct"), cam: identity(`"Uin":"1000262","OwnerUin":"1000262","AppId":1`),
			want: issuer.Identity{Main: "1000262", Caller: "1000262"}, asked: []string{sts, cam}},
		"a role that looks like the main account": {sts: code("InvalidAction"), cam: identity(`"Uin":"1000262","OwnerUin":"1000262","AppId":1`), token: token,
			want: issuer.Identity{Main: "1000262"}, asked: []string{sts, cam}},
		"no right to either":  {sts: code("UnauthorizedOperation"), cam: code("UnauthorizedOperation"), kind: issuer.Rejected, asked: []string{sts, cam}},
		"neither is known":    {sts: code("InvalidAction"), cam: code("InvalidAction"), kind: issuer.Rejected, asked: []string{sts, cam}},
		"wrong secret":        {sts: code("AuthFailure.SignatureFailure"), cam: user, kind: issuer.Credentials, asked: []string{sts}},
		"wrong id":            {sts: code("AuthFailure.SecretIdNotFound"), cam: user, kind: issuer.Credentials, asked: []string{sts}},
		"token has run out":   {sts: code("AuthFailure.TokenFailure"), cam: user, token: token, kind: issuer.Credentials, asked: []string{sts}},
		"clock":               {sts: code("AuthFailure.SignatureExpire"), cam: user, kind: issuer.NeverSent, asked: []string{sts}},
		"broken":              {sts: code("InternalError"), cam: user, kind: issuer.Unavailable, asked: []string{sts}},
		"throttled":           {sts: code("RequestLimitExceeded"), cam: user, kind: issuer.Throttled, asked: []string{sts}},
		"nobody":              {sts: identity(`"Type":"CAMUser","AccountId":"","UserId":""`), cam: user, kind: issuer.Unavailable, asked: []string{sts}},
		"nobody there either": {sts: code("InvalidAction"), cam: identity(`"Uin":"","OwnerUin":"","AppId":0`), kind: issuer.Unavailable, asked: []string{sts, cam}},
	} {
		t.Run(name, func(t *testing.T) {
			at, actions := asked(t, map[string]string{sts: tt.sts, cam: tt.cam})
			c, err := tencent.New(issuer.Access{Endpoint: at, KeyID: "AKIDtest", Secret: secret, Token: tt.token, Main: "1000262", Permits: permits(time.Second)})
			if err != nil {
				t.Fatal(err)
			}
			id, err := c.Identify(t.Context())
			if id != tt.want || issuer.KindOf(err) != tt.kind || err != nil && tt.kind == "" {
				t.Errorf("%+v, %v; want %+v, %q", id, err, tt.want, tt.kind)
			}
			issuertest.Silent(t, err, secret, token)
			if got := actions(); !slices.Equal(got, tt.asked) {
				t.Errorf("asked %v, want %v", got, tt.asked)
			}
		})
	}
}

// STS wants a region, CAM none.
func TestIdentityRegion(t *testing.T) {
	for configured, want := range map[string]string{"": "ap-guangzhou", "ap-shanghai": "ap-shanghai"} {
		regions := map[string]string{}
		at := serve(t, 200, func(r *http.Request) string {
			regions[r.Header.Get("X-TC-Action")] = r.Header.Get("X-TC-Region")
			return code("InvalidAction")
		})
		c, err := tencent.New(issuer.Access{Endpoint: at, Region: configured, KeyID: "AKIDtest", Secret: secret, Main: "m", Permits: permits(time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Identify(t.Context())
		if regions["GetCallerIdentity"] != want || regions["GetUserAppId"] != configured {
			t.Errorf("%q: %v", configured, regions)
		}
	}
}

// connects notes where a client wants to connect to, and lets it in nowhere;
// what it is asked for in clear it answers itself.
func connects(t *testing.T, clear string) (proxy *url.URL, hosts func() []string) {
	var mu sync.Mutex
	var all []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, r.Host)
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprint(w, clear)
	}))
	t.Cleanup(server.Close)
	proxy, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return proxy, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// Where the identity is asked for follows from where the certificates are.
func TestIdentityEndpoint(t *testing.T) {
	for name, tt := range map[string]struct {
		ssl, identity string
		want          []string
	}{
		"nothing is named":      {"", "", []string{"sts.tencentcloudapi.com:443"}},
		"the vendor's own":      {"http://ssl.intl.tencentcloudapi.com", "", []string{"sts.tencentcloudapi.com:443"}},
		"another":               {"http://gateway.example:81", "", []string{"gateway.example:81", "gateway.example:81"}},
		"named":                 {"http://gateway.example:81", "http://who.example", []string{"who.example", "who.example"}},
		"named, the vendor's":   {"http://gateway.example:81", "http://sts.ap-beijing.tencentcloudapi.com", []string{"sts.ap-beijing.tencentcloudapi.com", "cam.tencentcloudapi.com:443"}},
		"looks like the vendor": {"http://ssl.tencentcloudapi.com.example", "", []string{"ssl.tencentcloudapi.com.example", "ssl.tencentcloudapi.com.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			proxy, hosts := connects(t, code("InvalidAction"))
			c, err := tencent.New(issuer.Access{Endpoint: tt.ssl, IdentityEndpoint: tt.identity, KeyID: "AKIDtest", Secret: secret, Main: "m",
				Permits: permits(time.Second), Proxy: proxy})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Identify(t.Context()); err == nil {
				t.Error("no error")
			}
			if got := hosts(); !slices.Equal(got, tt.want) {
				t.Errorf("asked at %v, want %v", got, tt.want)
			}
		})
	}
}

// Whoever the key belongs to at the simulated cloud, and whether STS tells it or
// CAM.
func TestIdentifyAtCloudsim(t *testing.T) {
	for kind, want := range map[string]issuer.Identity{
		"user": {Main: simUID, Caller: "200300", Kind: "CAMUser"},
		"role": {Main: simUID, Caller: "200300", Kind: "CAMRole"},
	} {
		for _, denied := range []string{"", "GetCallerIdentity"} {
			for seed := range uint64(4) { // in some of which CAM takes a role for its account
				t.Run(fmt.Sprintf("%s %s %d", kind, denied, seed), func(t *testing.T) {
					account := cloudsim.Account{Cloud: "tencent", UID: simUID, AccessKeyID: simID, AccessKeySecret: secret, CallerKind: kind, CallerID: "200300"}
					if kind == "role" {
						account.Token = "canary-token"
					}
					if denied != "" {
						account.Deny = []string{denied}
					}
					identifiedAs(t, account, seed, want, denied != "")
				})
			}
		}
	}
}

func identifiedAs(t *testing.T, account cloudsim.Account, seed uint64, want issuer.Identity, byCAM bool) {
	t.Helper()
	sim := startAccount(t, account, func(c *cloudsim.Config) { c.Seed = seed })
	c, err := tencent.New(issuer.Access{Endpoint: sim.TencentURL(), KeyID: simID, Secret: secret, Token: order.Secret(account.Token), Main: simUID, Permits: permits(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.Identify(t.Context())
	if byCAM { // it does not know kinds, and roles only at times
		want.Kind = ""
		if account.CallerKind == "role" && id.Caller == "" {
			want.Caller = ""
		}
	}
	if err != nil || id != want || id.IsMain() {
		t.Errorf("%+v, %v; want %+v", id, err, want)
	}
}
