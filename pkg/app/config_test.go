package app

import (
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/order"
)

func TestExampleWorks(t *testing.T) {
	c, err := Parse([]byte(Example))
	if err != nil {
		t.Fatal(err)
	}
	a := c.Accounts["aliyun-1"]
	if a.Main != "1000000000000001" || a.SignatureLife != 15*time.Minute || a.Contact.Email != "pki@example.com" {
		t.Errorf("account: %+v", a)
	}
	if c.Accounts["tencent-1"].SignatureLife != 5*time.Minute {
		t.Errorf("account: %+v", c.Accounts["tencent-1"])
	}
}

// TestExampleNamesEverySetting keeps the printed example from falling behind.
func TestExampleNamesEverySetting(t *testing.T) {
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(Table(), -1) {
		name := row[1][strings.LastIndex(row[1], ".")+1:]
		if optional := []string{"token", "region", "company", "csr_sans", "listen", "deadline", "spend_deadline", "entry_life", "clocks", "list_lag", "resolvers"}; contains(optional, name) {
			continue
		}
		if !strings.Contains(Example, name+":") {
			t.Errorf("the example does not show %s", row[1])
		}
	}
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

func TestDefaults(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "comments": "# nothing\n", "one setting": "log: info\n", "a section": "nats: {url: nats://h:1}\n",
	} {
		c, err := Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := Defaults()
		if name == "a section" {
			want.NATS.URL = "nats://h:1" // a server of its own: no folder can be known to be shared
		}
		want.fill()
		if !reflect.DeepEqual(c, want) {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestBadConfig(t *testing.T) {
	account := func(lines string) string {
		return "accounts:\n  a:\n    cloud: aliyun\n    key_id: env:ID\n    secret: env:SECRET\n" + lines
	}
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "nats:\n  replicas: 1\n  ulr: x\n", "line 3, column 3: unknown field"},
		{"unknown key of an account", account("    limit: 3\n"), "line 6, column 5: unknown field"},
		{"wrong type", "parallel: many\n", "line 1, column 11"},
		{"replicas", "nats: {replicas: 2}\n", "nats.replicas is 2: write 1"},
		{"duplicates", "duplicates: maybe\n", `duplicates is "maybe": write hold or allow`},
		{"log", "log: loud\n", `"loud" is no log level`},
		{"cloud", strings.Replace(account(""), "aliyun", "azure", 1), `accounts.a.cloud is "azure": write aliyun or tencent`},
		{"label", strings.Replace(account(""), "  a:", "  a-urgent:", 1), "does not end in"},
		{"limit", account("    limits: {CreateRecord: 0}\n"), "accounts.a.limits.CreateRecord is 0"},
		{"absurd limit", account("    limits: {CreateRecord: 100000}\n"), "accounts.a.limits.CreateRecord is 100000: write how many calls a second are allowed, 1 to 1000"},
		{"endpoint", account("    endpoint: cas.example\n"), "write http(s)://host[:port]"},
		{"negative", account("    clocks: -1s\n"), "cannot be negative"},
		{"publisher", account("") + "publishers: {shop.eu: {}}\n", "publishers.shop.eu: write the last token"},
		{"publisher's account", account("") + "publishers: {shop: {accounts: [a, b]}}\n", `publishers.shop.accounts has "b": write labels of accounts (a), or "none" alone`},
		{"publisher's none", account("") + "publishers: {shop: {accounts: [a, none]}}\n", `publishers.shop.accounts has "none"`},
		{"publisher's budget", account("") + "publishers: {'*': {daily: -1}}\n", "publishers.*.daily is -1"},
		{"no credentials", "accounts: {a: {cloud: aliyun}}\n", "key_id and secret are required"},
		{"recipient", "keys: {recipients: [age1nonsense]}\n", "keys.recipients"},
		{"main account shared", account("    main: m\n") + "  b:\n    cloud: tencent\n    main: m\n    key_id: env:ID\n    secret: env:SECRET\n", "on one main account (m) but differ"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// TestSecretInConfig: a secret that was written in clear is refused and not
// repeated.
func TestSecretInConfig(t *testing.T) {
	const secret = "LTAI5tSecretSecret"
	if _, err := Ref(secret).read(); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("error %v", err)
	}
	_, err := Parse([]byte("accounts:\n  a:\n    secret: [" + secret + "]\n"))
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("error %v", err)
	}
}

func TestRef(t *testing.T) {
	t.Setenv("CERTMILL_TEST_SECRET", "s3cret")
	got, err := Ref("env:CERTMILL_TEST_SECRET").read()
	if err != nil || got != order.Secret("s3cret") {
		t.Errorf("%v", err)
	}
	if _, err := Ref("env:CERTMILL_TEST_NOTHING").read(); err == nil || !strings.Contains(err.Error(), "CERTMILL_TEST_NOTHING is not set") {
		t.Errorf("%v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(Example))
	f.Add([]byte("accounts: {a: {limits: {x: 1}}}"))
	f.Add([]byte("&a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = Parse(data) })
}
