package aliyun_test

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
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/order"
)

// The answers are those of the document, help.aliyun.com 43767, in all its
// editions.
func TestIdentify(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		body   string
		want   issuer.Identity
		kind   issuer.Kind
	}{
		"account": {200, `{"IdentityType":"Account","AccountId":"1968132000120001","UserId":"1968132000120001","PrincipalId":"1968132000120001","Arn":"acs:ram::1968132000120001:root","RequestId":"R"}`,
			issuer.Identity{Main: "1968132000120001", Caller: "1968132000120001", Kind: "Account"}, ""},
		"user": {200, `{"IdentityType":"RAMUser","AccountId":"1968132000120001","UserId":"216959339000002","PrincipalId":"28877424437521003","RoleId":"33537620082992004","Arn":"acs:ram::1968132000120001:user/admin","RequestId":"R"}`,
			issuer.Identity{Main: "1968132000120001", Caller: "216959339000002", Kind: "RAMUser"}, ""},
		"user, older edition": {200, `{"IdentityType":"RamUser","AccountId":"1968132000120001","UserId":"216959339000002","PrincipalId":"216959339000002","RequestId":"R"}`,
			issuer.Identity{Main: "1968132000120001", Caller: "216959339000002", Kind: "RamUser"}, ""},
		"role": {200, `{"IdentityType":"AssumedRoleUser","AccountId":"1968132000120001","RoleId":"33537620082992004","PrincipalId":"33537620082992004:session","Arn":"acs:ram::1968132000120001:assumed-role/certmill/session","RequestId":"R"}`,
			issuer.Identity{Main: "1968132000120001", Caller: "33537620082992004", Kind: "AssumedRoleUser"}, ""},
		"role of which no id is told": {200, `{"IdentityType":"AssumedRoleUser","AccountId":"1968132000120001","UserId":"1968132000120001","RequestId":"R"}`,
			issuer.Identity{Main: "1968132000120001", Kind: "AssumedRoleUser"}, ""},
		"numbers": {200, `{"IdentityType":"Account","AccountId":1968132000120001,"UserId":1968132000120001,"RequestId":"R"}`,
			issuer.Identity{Main: "1968132000120001", Caller: "1968132000120001", Kind: "Account"}, ""},
		"nobody":                               {200, `{"IdentityType":"Account","RequestId":"R"}`, issuer.Identity{}, issuer.Unavailable},
		"wrong secret":                         {400, code("SignatureDoesNotMatch"), issuer.Identity{}, issuer.Credentials},
		"wrong id":                             {404, code("InvalidAccessKeyId.NotFound"), issuer.Identity{}, issuer.Credentials},
		"token has run out":                    {400, code("InvalidSecurityToken.Expired"), issuer.Identity{}, issuer.Credentials},
		"account in trouble":                   {403, code("Forbidden.RiskControl"), issuer.Identity{}, issuer.Credentials},
		"a policy forbids it":                  {403, code("NoPermission"), issuer.Identity{}, issuer.Rejected},
		"a policy forbids it, in another word": {403, code("Forbidden.RAM"), issuer.Identity{}, issuer.Rejected},
		"no such call":                         {404, code("InvalidAction.NotFound"), issuer.Identity{}, issuer.Rejected},
		"no such version":                      {400, code("NoSuchVersion"), issuer.Identity{}, issuer.Rejected},
		"clock":                                {400, code("InvalidTimeStamp.Expired"), issuer.Identity{}, issuer.NeverSent},
		"broken":                               {500, code("InternalError"), issuer.Identity{}, issuer.Unavailable},
		"throttled":                            {400, code("Throttling.User"), issuer.Identity{}, issuer.Throttled},
		"no JSON":                              {200, "<html>", issuer.Identity{}, issuer.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, serve(t, tt.status, text(tt.body)), permits(time.Second))
			id, err := c.Identify(t.Context())
			if id != tt.want || issuer.KindOf(err) != tt.kind || err != nil && tt.kind == "" {
				t.Errorf("%+v, %v; want %+v, %q", id, err, tt.want, tt.kind)
			}
			if id.IsMain() != (tt.want.Kind == "Account") {
				t.Errorf("%+v is the main account: %v", id, id.IsMain())
			}
			issuertest.Silent(t, err, secret, "LTAItest")
		})
	}
}

// connects notes where a client wants to connect to, and lets it in nowhere.
func connects(t *testing.T) (proxy *url.URL, hosts func() []string) {
	var mu sync.Mutex
	var all []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, r.Host)
		w.WriteHeader(http.StatusForbidden)
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
	for name, tt := range map[string]struct{ cas, identity, want string }{
		"nothing is named":      {"", "", "sts.aliyuncs.com:443"},
		"the vendor's own":      {"http://cas.ap-southeast-1.aliyuncs.com", "", "sts.aliyuncs.com:443"},
		"another":               {"http://gateway.example:81", "", "gateway.example:81"},
		"named":                 {"", "https://sts.eu-central-1.aliyuncs.com", "sts.eu-central-1.aliyuncs.com:443"},
		"looks like the vendor": {"http://cas-aliyuncs.com", "", "cas-aliyuncs.com"},
	} {
		t.Run(name, func(t *testing.T) {
			proxy, hosts := connects(t)
			c, err := aliyun.New(issuer.Access{Endpoint: tt.cas, IdentityEndpoint: tt.identity, KeyID: "LTAItest", Secret: secret, Main: "m",
				Permits: permits(time.Second), Proxy: proxy})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Identify(t.Context()); err == nil {
				t.Error("no error")
			}
			if got := hosts(); len(got) != 1 || got[0] != tt.want {
				t.Errorf("asked at %v, want %v", got, tt.want)
			}
		})
	}
}

// Whoever the key belongs to at the simulated cloud.
func TestIdentifyAtCloudsim(t *testing.T) {
	for kind, word := range map[string][]string{"user": {"RAMUser", "RamUser"}, "role": {"AssumedRoleUser"}} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%s %d", kind, seed), func(t *testing.T) {
				account := cloudsim.Account{Cloud: "aliyun", UID: simUID, AccessKeyID: simKey, AccessKeySecret: simSecret, CallerKind: kind, CallerID: "200300"}
				if kind == "role" {
					account.Token = "canary-token"
				}
				identifiedAs(t, account, seed, word)
			})
		}
	}
}

func identifiedAs(t *testing.T, account cloudsim.Account, seed uint64, words []string) {
	t.Helper()
	s := startAccount(t, account, func(c *cloudsim.Config) { c.Seed = seed })
	c, err := aliyun.New(issuer.Access{Endpoint: s.AliyunURL(), KeyID: simKey, Secret: simSecret, Token: order.Secret(account.Token), Main: simUID, Permits: permits(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.Identify(t.Context())
	if err != nil || id.Main != simUID || id.Caller != "200300" || id.IsMain() || !slices.Contains(words, id.Kind) {
		t.Errorf("%+v, %v; want caller 200300, %v", id, err, words)
	}
}
