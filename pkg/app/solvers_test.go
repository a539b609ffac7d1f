package app

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

const twoAccounts = `
accounts:
  ali: {cloud: aliyun, key_id: env:TEST_KEY, secret: env:TEST_KEY, dns_endpoint: "http://127.0.0.1:1", endpoint: "http://127.0.0.1:1"}
  ten: {cloud: tencent, key_id: env:TEST_KEY, secret: env:TEST_KEY}
`

func anyPermits() *permit.Set {
	return permit.NewSet(func(permit.Key) permit.Limit {
		return permit.Limit{Calls: 10, Period: time.Second, Deadline: time.Second}
	})
}

// TestExampleOfSolversWorks reads what the example has as a comment.
func TestExampleOfSolversWorks(t *testing.T) {
	lines := regexp.MustCompile(`(?m)^  # (solvers:\n(?:  #   .*\n)+)`).FindStringSubmatch(Example)
	if lines == nil {
		t.Fatal("the example shows no solvers")
	}
	text := "dcv:\n  " + strings.ReplaceAll(lines[1], "\n  # ", "\n  ")
	c, err := Parse([]byte(strings.Replace(text, "account: aliyun-2", "account: ali", 1) + twoAccounts))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.DCV.Solvers) != 4 || c.DCV.Solvers["in-house"].Server != "192.0.2.53:53" || len(c.DCV.Solvers["program"].Command) != 2 {
		t.Errorf("got %+v", c.DCV.Solvers)
	}
}

func TestWrongSolversAreExplained(t *testing.T) {
	for _, c := range []struct{ solvers, says string }{
		{`a: {kind: bind, zones: [example.com]}`, `dcv.solvers.a.kind is "bind": write one of alidns, dnspod, exec, rfc2136, webhook`},
		{`a: {kind: webhook, url: "http://h/"}`, `dcv.solvers.a.zones is empty: write the zones`},
		{`a: {kind: webhook, zones: [example.com]}`, `dcv.solvers.a.url is missing: a solver of kind webhook needs it`},
		{`a: {kind: webhook, zones: [example.com], url: "http://h/", server: "h:53"}`, `dcv.solvers.a.server is not for the kind webhook: leave it out`},
		{`a: {kind: webhook, zones: ["*.example.com"], url: "http://h/"}`, `dcv.solvers.a.zones has "*.example.com": write a zone such as example.com`},
		{`a: {kind: webhook, zones: [""], url: "http://h/"}`, `write a zone such as example.com`},
		{`a: {kind: webhook, zones: [Example.com.], url: "http://h/"}, b: {kind: webhook, zones: [example.com], url: "http://h/"}`, `dcv.solvers.b.zones has example.com, and so has dcv.solvers.a`},
		{`a: {kind: webhook, zones: [例子.中国], url: "http://h/"}, b: {kind: webhook, zones: [xn--fsqu00a.xn--fiqs8s], url: "http://h/"}`, `and so has dcv.solvers.a`},
		{`a: {kind: alidns, zones: [example.com], account: ten}`, `dcv.solvers.a.account is "ten": write the label of one of the accounts at aliyun`},
		{`a: {kind: dnspod, zones: [example.com], account: nobody}`, `write the label of one of the accounts at tencent`},
		{`a: {kind: webhook, zones: [example.com], url: "http://h/", token: canary-token}`, `dcv.solvers.a.token: write env:NAME or file:PATH`},
		{`a: {kind: webhook, zones: [example.com], url: "http://h/", timeout: -1s}`, `dcv.solvers.a.timeout is -1s: it cannot be negative`},
	} {
		_, err := Parse([]byte("dcv: {solvers: {" + c.solvers + "}}\n" + twoAccounts))
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: got %v, want it to say %s", c.solvers, err, c.says)
		}
	}
}

// What the packages of the solvers refuse is told when the process starts, and what
// needs no secret when the config is read.
func TestSolversThatCannotBeOpened(t *testing.T) {
	t.Setenv("TEST_KEY", "not base64!")
	for _, c := range []struct{ solvers, says string }{
		{`a: {kind: rfc2136, zones: [example.com], server: h, key: k, secret: env:TEST_KEY}`, "dcv.solvers.a: the secret of the TSIG key is not base64"},
		{`a: {kind: rfc2136, zones: [example.com], server: h, key: k, secret: env:NOBODY_SET_THIS}`, "environment variable NOBODY_SET_THIS is not set"},
		{`a: {kind: exec, zones: [example.com], command: [dns-hook]}`, "dcv.solvers.a: command is"},
		{`a: {kind: webhook, zones: [example.com], url: "h/hook"}`, "dcv.solvers.a: url: write http(s)://"},
	} {
		cfg, err := Parse([]byte("dcv: {solvers: {" + c.solvers + "}}\n" + twoAccounts))
		if read := strings.Contains(c.solvers, "env:"); read != (err == nil) {
			t.Errorf("%s: %v", c.solvers, err)
		}
		if err == nil {
			_, err = openClouds(cfg, anyPermits(), true, nil)
		}
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "not base64!") {
			t.Errorf("%s: got %v, want it to say %s", c.solvers, err, c.says)
		}
	}
}

// Each zone goes to the solver that is configured, and the rest to the account's
// own DNS, which in this test is not there.
func TestSolversServeTheirZones(t *testing.T) {
	t.Setenv("TEST_KEY", "key")
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var asked struct{ Action, Name, Zone string }
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		got = append(got, r.URL.Path+" "+asked.Action+" "+asked.Name+" "+asked.Zone)
	}))
	defer server.Close()
	mark := filepath.Join(t.TempDir(), "mark")
	program := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(program, []byte("#!/bin/sh\ncat > "+mark+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := Parse([]byte(`dcv:
  solvers:
    one: {kind: webhook, url: "` + server.URL + `/one", zones: [example.com]}
    two: {kind: webhook, url: "` + server.URL + `/two", zones: [dev.example.com, 例子.中国]}
    three: {kind: exec, command: [` + program + `], zones: [example.org]}
` + twoAccounts))
	if err != nil {
		t.Fatal(err)
	}
	clouds, err := openClouds(c, anyPermits(), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	present := func(host string) error {
		return clouds.solvers["ali"].Present(t.Context(), order.Challenge{Type: dcv.TXT, Host: host, Value: "v"})
	}
	for _, host := range []string{"_dnsauth.www.example.com", "_dnsauth.dev.example.com", "_dnsauth.xn--fsqu00a.xn--fiqs8s", "_dnsauth.example.org"} {
		if err := present(host); err != nil {
			t.Error(err)
		}
	}
	want := []string{"/one present _dnsauth.www.example.com example.com", "/two present _dnsauth.dev.example.com dev.example.com",
		"/two present _dnsauth.xn--fsqu00a.xn--fiqs8s xn--fsqu00a.xn--fiqs8s"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if said, err := os.ReadFile(mark); err != nil || !strings.Contains(string(said), "_dnsauth.example.org") {
		t.Errorf("the program got %q, %v", said, err)
	}
	if err := present("_dnsauth.example.net"); err == nil || !strings.Contains(err.Error(), "DescribeDomains") {
		t.Errorf("got %v, want the account's own DNS to be asked", err)
	}
}
