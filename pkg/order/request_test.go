package order_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/certmill/certmill/pkg/order"
)

func ExampleParseRequest() {
	r, err := order.ParseRequest([]byte(`{"id": "shop-1", "names": ["Example.com.", "www.example.com"]}`))
	fmt.Println(r.Names, r.Account, r.Validation, r.Key, err)

	_, err = order.ParseRequest([]byte(`{"id": "shop-2", "names": ["bücher.example"]}`))
	fmt.Println(err)
	_, err = order.ParseRequest([]byte(`{"id": "shop-3", "domains": ["example.com"]}`))
	fmt.Println(err)
	_, err = order.ParseRequest([]byte(`{"id": "shop-4", "name": ["example.com"]}`))
	fmt.Println(err)
	// Output:
	// [example.com www.example.com] any DNS ecdsa-p256 <nil>
	// names: "bücher.example" is not ASCII: write the A-label form (RFC 5890), "xn--bcher-kva.example"
	// "domains": unknown field: known are id, again, names, account, product, validation, contact, company, key, csr, resource, batch, labels, deadline
	// "name": unknown field: did you mean "names"?
}

// TestNames is the table of the name rules: what is wrong with each, or "".
func TestNames(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	for _, c := range []struct{ names, says string }{
		{"example.com", ""},
		{"EXAMPLE.com. www.example.com", ""},
		{"*.example.com *.example.org", ""},
		{"xn--bcher-kva.example", ""},
		{"xn--55qx5d.cn.example", ""},
		{label63 + ".example.com", ""},
		{"my.github.io", ""},
		{"*.my.github.io", ""},
		{"shop.com.cn", ""},
		{"a.b.c.kawasaki.jp", ""},
		{"1.example.com", ""},

		{"", "an empty name"},
		{label63 + "a.example.com", "at most 63"},
		{strings.Repeat("abcdefg.", 32) + "com", "at most 253"},
		{"localhost", "single label"},
		{"example..com", "empty label"},
		{".example.com", "empty label"},
		{"example.com..", "empty label"},
		{"-a.example.com", "hyphen"},
		{"a-.example.com", "hyphen"},
		{"ab--cd.example.com", "reserves"},
		{"xn--a.example.com", "no valid A-label"},
		{"xn--zzzzzzzz999999.example.com", "no valid A-label"},
		{"a_b.example.com", "underscore"},
		{"https://Example.com/path", `write "example.com"`},
		{"example.com:443", `write "example.com"`},
		{"example.com/", `write "example.com"`},
		{"me@example.com", "has the character \"@\""},
		{"a.example.com,b.example.com", "an element of its own"},
		{"example.123", "ends in a number"},

		{"*", "wildcard"},
		{"*.", "empty label|wildcard"},
		{"a.*.example.com", "whole leftmost label"},
		{"*.*.example.com", "whole leftmost label"},
		{"a*.example.com", "whole leftmost label"},
		{"*.com", `public suffix, under which names belong to different owners: write a name of your own under it, such as "*.yourname.com"`},
		{"*.localhost", `such as "*.localhost.example.com"`},

		{"com", "single label"},
		{"COM.", `public suffix, under which names belong to different owners: write a name of your own under it, such as "yourname.com"`},
		{"xn--fiqs8s", `"yourname.xn--fiqs8s"`},
		{"*.blogspot.com", "public suffix"},
		{"*.s3.amazonaws.com", "public suffix"},
		{"co.uk", "public suffix"},
		{"*.co.uk", `"*.yourname.co.uk"`},
		{"*.com.cn", "public suffix"},
		{"github.io", "public suffix"},
		{"*.github.io", "public suffix"},
		{"*.kawasaki.jp", "covers public suffixes"},
		{"foo.kawasaki.jp", "public suffix"},
		{"xn--55qx5d.cn", "public suffix"},

		{"192.0.2.1", "IP address"},
		{"2001:db8::1", "IP address"},
		{"[2001:db8::1]", "IP address"},
		{"*.192.0.2.1", "IP address"},

		{"bücher.example", `"xn--bcher-kva.example"`},
		{"*.bücher.example", `"*.xn--bcher-kva.example"`},
		{"BÜCHER.example", `"xn--bcher-kva.example"`},
		{"例え。テスト.example", `"xn--r8jz45g.xn--zckzah.example"`},
		{"公司.cn", "public suffix"},
		{"\u212aelvin.example", `"kelvin.example"`}, // the Kelvin sign must not become a k silently
		{"a\u200d.example", "characters that no domain name may have"},

		{"a.example.com *.example.com", "cannot be mixed"},
		{"a.example.com A.example.com.", "twice"},
		{"a.example b.example c.example d.example e.example", ""},
		{"a.example b.example c.example d.example e.example f.example", "split them into 2 orders"},
	} {
		names := []string{c.names}
		if strings.Contains(c.names, " ") {
			names = strings.Fields(c.names)
		}
		err := order.Request{ID: "a", Names: names}.Normal().Validate()
		checkSays(t, c.names, err, "names", c.says)
	}
}

// checkSays wants an *Invalid of that field with one of the texts (separated by
// |), or no error.
func checkSays(t *testing.T, what string, err error, field, says string) {
	t.Helper()
	if says == "" {
		if err != nil {
			t.Errorf("%.100q: refused: %v", what, err)
		}
		return
	}
	var bad *order.Invalid
	if !errors.As(err, &bad) {
		t.Errorf("%.100q: not refused (%v), want %q", what, err, says)
		return
	}
	if bad.Field != field || !slices.ContainsFunc(strings.Split(says, "|"), func(s string) bool { return strings.Contains(bad.Reason, s) }) {
		t.Errorf("%.100q: %v; want %s: …%s…", what, bad, field, says)
	}
	if len(bad.Error()) > 600 {
		t.Errorf("%.100q: a sentence of %d bytes", what, len(bad.Error()))
	}
}

// TestMessages is the table of what is refused before the names are looked at.
func TestMessages(t *testing.T) {
	const n = `"names":["example.com"]`
	for _, c := range []struct{ message, field, says string }{
		{`{"id":"a",` + n + `}`, "", ""},
		{"\n {\"id\":\"a\"," + n + "} \r\n", "", ""},
		{`{"id":" a ",` + n + `,"validation":" dns","key":"RSA-2048"}`, "", ""},
		{`{"id":"a",` + n + `,"account":"","contact":{},"labels":{},"deadline":null}`, "", ""},
		{`{"id":"a",` + n + `,"deadline":"2027-01-31T12:00:00.5+08:00"}`, "", ""},
		{`{"id":"a",` + n + `,"contact":{"name":"Zhāng 三","email":"a@example.com","phone":"+86 (10) 0000-0000"}}`, "", ""},
		{`{"id":"a",` + n + `,"resource":"any"}`, "", ""},
		{`{"id":"a",` + n + `,"resource":" cas-cn-68n1mm16abcd "}`, "", ""},

		{``, "", "is empty"},
		{`  `, "", "is empty"},
		{`hello`, "", "not JSON (line 1, column 1"},
		{"{\n\"id\": 'a'}", "", "line 2, column 7"},
		{`{"id":"a"`, "", "in the middle"},
		{`{"id":"a",` + n + `} {}`, "", "more follows"},
		{`[{"id":"a"}]`, "", "no object"},
		{`null`, "", "no object"},
		{"{\"id\":\"\xff\"}", "", "not UTF-8"},
		{strings.Repeat("x", 60<<10), "", "not JSON"},
		{strings.Repeat("[", 60<<10), "", "not JSON|in the middle"},
		{`{"id":"a",` + strings.Repeat(" ", 64<<10) + n + `}`, "", "at most 65536"},

		{`{"ID":"a",` + n + `}`, `"ID"`, `did you mean "id"`},
		{`{"id":"a",` + n + `,"vaildation":"DNS"}`, `"vaildation"`, `did you mean "validation"`},
		{`{"id":"a",` + n + `,"instance":"any"}`, `"instance"`, `did you mean "resource"`},
		{`{"id":"a",` + n + `,"Certificate":"any"}`, `"Certificate"`, `did you mean "resource"`},
		{`{"id":"a",` + n + `,"contact":{"instance":"any"}}`, `contact."instance"`, "known are name, email"},
		{`{"id":"a",` + n + `,"contact":{"mail":"x"}}`, `contact."mail"`, `did you mean "email"`},
		{`{"id":"a",` + n + `,"id":"b"}`, `"id"`, "twice"},
		{`{"id":"a",` + n + `,"labels":{"x":"1","x":"2"}}`, `labels."x"`, "twice"},
		{`{"id":7,` + n + `}`, "id", "a number, but must be a text"},
		{`{"id":"a","names":"example.com"}`, "names", `write "names": ["example.com"]`},
		{`{"id":"a","names":[1]}`, "names", "a list of texts"},
		{`{"id":"a",` + n + `,"contact":"me"}`, "contact", "an object"},
		{`{"id":"a",` + n + `,"labels":{"x":1}}`, "labels", "an object of texts"},
		{`{"id":"a",` + n + `,"deadline":"tomorrow"}`, "deadline", "RFC 3339"},
		{`{"id":"a",` + n + `,"deadline":5}`, "deadline", "RFC 3339"},
		{`{"id":"a",` + n + `,"deadline":"9999-12-31T23:59:59-01:00"}`, "deadline", "between 1970 and 9999"},

		{`{` + n + `}`, "", ""},
		{`{"id":"",` + n + `}`, "", ""},
		{`{"again":"a",` + n + `}`, "", ""},
		{`{"again":"a","id":"a",` + n + `}`, "", ""},
		{`{"again":"a-2","id":"a",` + n + `}`, "", ""},
		{`{"again":"a","id":"a-2",` + n + `}`, "", ""}, // as its record has it
		{`{"again":false,` + n + `}`, "", ""},
		{`{"again":true,` + n + `}`, "again", "only files and the command know"},
		{`{"again":"true",` + n + `}`, "again", "only files and the command know"},
		{`{"again":"A b",` + n + `}`, "again", "is no order id"},
		{`{"again":"bad-x-1",` + n + `}`, "again", "is no order id"},
		{`{"again":7,` + n + `}`, "again", "a number, but must be a text"},
		{`{"again":"a","id":"b",` + n + `}`, "again", "leave id out"},
		{`{"id":"A b",` + n + `}`, "id", "no order id"},
		{`{"id":"a.b",` + n + `}`, "id", "no order id"},
		{`{"id":"-a",` + n + `}`, "id", "no order id"},
		{`{"id":"` + strings.Repeat("a", 64) + `",` + n + `}`, "id", "no order id"},
		{`{"id":"bad-1",` + n + `}`, "id", "is kept for"},
		{`{"id":"a"}`, "names", "is missing"},
		{`{"id":"a","names":[]}`, "names", "is missing"},
		{`{"id":"a","names":["*.example.com"],"validation":"FILE"}`, "validation", "FILE cannot prove a wildcard"},
		{`{"id":"a",` + n + `,"validation":"EMAIL"}`, "validation", "DNS or FILE"},
		{`{"id":"a",` + n + `,"key":"dsa"}`, "key", "ecdsa-p256"},
		{`{"id":"a",` + n + `,"key":"rsa-2048","csr":"x"}`, "key", "exclude each other"},
		{`{"id":"a",` + n + `,"csr":"x"}`, "csr", "not PEM"},
		{`{"id":"a",` + n + `,"resource":"a b"}`, "resource", "no id of something bought"},
		{`{"id":"a",` + n + `,"resource":"a/b"}`, "resource", "letters, digits, '-' and '_', or 'any'"},
		{`{"id":"a",` + n + `,"account":"a.b"}`, "account", "no account label"},
		{`{"id":"a",` + n + `,"product":"a b"}`, "product", "no product code"},
		{`{"id":"a",` + n + `,"batch":"a b"}`, "batch", "no batch name"},
		{`{"id":"a",` + n + `,"company":"a\nb"}`, "company", "one line"},
		{`{"id":"a",` + n + `,"contact":{"name":"\u0000"}}`, "contact.name", "one line"},
		{`{"id":"a",` + n + `,"contact":{"name":"a\u2028b"}}`, "contact.name", "one line"},
		{`{"id":"a",` + n + `,"company":"a\u202eb"}`, "company", "one line"}, // shown right to left: another name than is stored
		{`{"id":"a",` + n + `,"contact":{"email":"Me <a@example.com>"}}`, "contact.email", "no e-mail address"},
		{`{"id":"a",` + n + `,"contact":{"email":"a@localhost"}}`, "contact.email", "no e-mail address"},
		{`{"id":"a",` + n + `,"contact":{"phone":"call me"}}`, "contact.phone", "no phone number"},
		{`{"id":"a",` + n + `,"contact":{"phone":"1234"}}`, "contact.phone", "no phone number"},
		{`{"id":"a",` + n + `,"labels":{"a b":"x"}}`, "labels", "no label name"},
		{`{"id":"a",` + n + `,"labels":{"a":"` + strings.Repeat("x", 201) + `"}}`, "labels", "too long"},
	} {
		_, err := order.ParseRequest([]byte(c.message))
		checkSays(t, c.message, err, c.field, c.says)
	}
}

func TestEveryMistakeIsTold(t *testing.T) {
	_, err := order.ParseRequest([]byte(`{"id":"A","names":["co.uk"],"validation":"x"}`))
	for _, part := range []string{"id: ", "names: ", "validation: "} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v: says nothing of %s", err, part)
		}
	}
}

// TestPrivateKeysAreNotRepeated: whatever field somebody puts a private key
// into, the sentence that refuses it is stored and logged.
func TestPrivateKeysAreNotRepeated(t *testing.T) {
	const body = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCANARY"
	for _, secret := range []string{
		"-----BEGIN PRIVATE KEY-----\n" + body + "\n-----END PRIVATE KEY-----\n",
		"-----BEGIN EC PRIVATE KEY-----\n" + body + "\n-----END EC PRIVATE KEY-----\n",
		"AGE-SECRET-KEY-1" + body,
		"age-secret-key-1" + strings.ToLower(body),
	} {
		text, _ := json.Marshal(secret)
		for _, message := range []string{
			`{"id":"a","names":["example.com"],"key":%s}`,
			`{"id":"a","names":["example.com"],"csr":%s}`,
			`{"id":"a","names":["example.com"],"company":%s}`,
			`{"id":"a","names":["example.com"],"labels":{%s:"x"}}`,
			`{"id":"a","names":["example.com"],"labels":{"x":%s}}`,
			`{"id":"a","names":["example.com"],%s:"x"}`,
			`{"id":"a","names":[%s]}`,
			`{"id":%s,"names":["example.com"]}`,
			`{"id":"a","names":["example.com"],"account":%s,"batch":%[1]s,"product":%[1]s,"resource":%[1]s,"validation":%[1]s,"deadline":%[1]s}`,
			`{"id":"a","names":["example.com"],"account":%s,"batch":%[1]s,"product":%[1]s,"resource":%[1]s,"validation":%[1]s}`,
			`{"id":"a","names":["example.com"],"resource":%s,"contact":{"name":%[1]s,"email":%[1]s}}`,
			`{"id":"a","names":["example.com"],"contact":{"phone":%s}}`,
			`{"id":"a","names":["example.com"]} %s`,
			`{"id":"a","names":[%s, }`,
			`%s`,
		} {
			_, err := order.ParseRequest(fmt.Appendf(nil, message, text))
			if err == nil {
				t.Errorf("%s: taken", message)
				continue
			}
			if said := strings.ToLower(err.Error()); strings.Contains(said, strings.ToLower(body[:12])) {
				t.Errorf("%s: repeats the key: %v", message, err)
			}
		}
	}
	_, err := order.ParseRequest([]byte(`{"id":"a","names":["example.com"],"key":"-----BEGIN PRIVATE KEY-----\nMIG"}`))
	checkSays(t, "key in key", err, "key", "make a new key")
}

// TestNoFieldTakesAPrivateKey: the rule knows every text of a request, also one
// that somebody adds later.
func TestNoFieldTakesAPrivateKey(t *testing.T) {
	const key = "-----BEGIN PRIVATE KEY-----\nCANARY"
	good := order.Request{ID: "a", Names: []string{"example.com"}}
	var visit func(path string, field func(*order.Request) reflect.Value)
	seen := 0
	visit = func(path string, field func(*order.Request) reflect.Value) {
		r := good
		v := field(&r)
		switch v.Kind() {
		case reflect.String:
			v.SetString(key)
		case reflect.Slice:
			v.Set(reflect.ValueOf([]string{key}))
		case reflect.Map:
			v.Set(reflect.ValueOf(map[string]string{"x": key}))
		case reflect.Struct:
			for i := range v.NumField() {
				visit(path+"."+v.Type().Field(i).Name, func(r *order.Request) reflect.Value { return field(r).Field(i) })
			}
			return
		default:
			return // the deadline
		}
		seen++
		if err := r.Normal().Validate(); err == nil || !strings.Contains(err.Error(), "private key") || strings.Contains(strings.ToUpper(err.Error()), "CANARY") {
			t.Errorf("%s: %v", path, err)
		}
	}
	visit("Request", func(r *order.Request) reflect.Value { return reflect.ValueOf(r).Elem() })
	if seen < 16 {
		t.Errorf("only %d fields were tried", seen)
	}
}

// TestLineOfAFile: an order that stands further down in a file is explained
// with the line of the file.
func TestLineOfAFile(t *testing.T) {
	_, err := order.DecodeRequestAt(7, []byte("{\n\"id\": 'a'}"))
	checkSays(t, "line 8", err, "", "line 8, column 7")
}

func TestRefusedMessageKeepsItsID(t *testing.T) {
	for message, want := range map[string]string{
		`{"id":"shop-1","names":["co.uk"]}`:      "shop-1",
		`{"id":"shop-1","nams":["example.com"]}`: "shop-1",
		`{"id":"shop-1","names":"example.com"}`:  "shop-1",
		`{"id":"not an id","names":["co.uk"]}`:   "",
		`{"id":"shop-1"`:                         "",
	} {
		r, err := order.ParseRequest([]byte(message))
		if err == nil || r.ID != want {
			t.Errorf("%s: id %q, error %v; want id %q", message, r.ID, err, want)
		}
	}
}

func TestHash(t *testing.T) {
	parse := func(s string) order.Request {
		t.Helper()
		r, err := order.ParseRequest([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	one := parse(`{"id":"a","names":["a.example","b.example"],"deadline":"2027-01-01T00:00:00Z"}`)
	same := parse(`{"deadline":"2027-01-01T08:00:00+08:00","names":["B.example.","a.example"],"id":"a","account":"any","key":"ecdsa-p256","validation":"DNS","labels":{}}`)
	if one.Hash() != same.Hash() {
		t.Error("the same order written in another way has another hash")
	}
	if other := parse(`{"id":"a","names":["a.example"],"deadline":"2027-01-01T00:00:00Z"}`); other.Hash() == one.Hash() {
		t.Error("another order has the same hash")
	}
	// Hashes are stored: this one must stay for ever.
	if got := parse(`{"id":"golden","names":["example.com"]}`).Hash(); got != goldenHash {
		t.Errorf("the hash of the golden request is %s now, it was %s", got, goldenHash)
	}
	if got := order.NamesHash([]string{"*.example.com", "Bücher.example."}); got != goldenNames || len(got) != 40 {
		t.Errorf("the hash of the golden names is %s now, it was %s", got, goldenNames)
	}
	if order.NamesHash([]string{"bücher.example", "*.Example.com"}) != order.NamesHash([]string{"*.example.com", "xn--bcher-kva.example", "*.example.com."}) {
		t.Error("the same names written in another way have another hash")
	}
}

// requests draws requests, mostly with some fields wrong.
func requests() *rapid.Generator[order.Request] {
	return rapid.Custom(func(t *rapid.T) order.Request {
		text := rapid.OneOf(rapid.SampledFrom([]string{"", " ", "any", "DNS", "file", "rsa-2048", "Shop-1", " x "}), rapid.String())
		name := rapid.OneOf(rapid.SampledFrom([]string{" Example.com. ", "*.A.example", "b.example", "bücher.example", "", "a.example..", "a.example .", " . "}), rapid.String())
		r := order.Request{
			ID: text.Draw(t, "id"), Names: rapid.SliceOfN(name, 0, 6).Draw(t, "names"), Account: text.Draw(t, "account"),
			Product: text.Draw(t, "product"), Validation: order.Validation(text.Draw(t, "validation")), Company: text.Draw(t, "company"),
			Contact: order.Contact{Name: text.Draw(t, "name"), Email: text.Draw(t, "email"), Phone: text.Draw(t, "phone")},
			Key:     text.Draw(t, "key"), CSR: text.Draw(t, "csr"), Resource: text.Draw(t, "resource"), Batch: text.Draw(t, "batch"),
			Labels: rapid.MapOfN(text, text, 0, 3).Draw(t, "labels"),
		}
		if rapid.Bool().Draw(t, "has deadline") {
			at := time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "deadline"), 5)
			r.Deadline = &at
		}
		return r
	})
}

func TestNormalIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := requests().Draw(t, "request")
		once, twice := r.Normal(), r.Normal().Normal()
		if fmt.Sprintf("%#v", flat(once)) != fmt.Sprintf("%#v", flat(twice)) {
			t.Fatalf("once  %#v\ntwice %#v", flat(once), flat(twice))
		}
		if r.Hash() != once.Hash() {
			t.Fatal("normalising changes the hash")
		}
	})
}

func flat(r order.Request) any {
	deadline := ""
	if r.Deadline != nil {
		deadline = r.Deadline.String()
	}
	r.Deadline = nil
	return []any{r, deadline}
}

func TestNamesHashIgnoresOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(rapid.StringMatching(`(\*\.)?[a-zA-Z]{1,5}\.example`), 1, 5).Draw(t, "names")
		if order.NamesHash(names) != order.NamesHash(rapid.Permutation(names).Draw(t, "permuted")) {
			t.Fatal("another order of names, another hash")
		}
		upper := make([]string, len(names))
		for i, n := range names {
			upper[i] = strings.ToUpper(n) + "."
		}
		if order.NamesHash(names) != order.NamesHash(upper) {
			t.Fatal("another spelling, another hash")
		}
		if order.NamesHash(names) == order.NamesHash(append(slices.Clone(names), "zzzzzz.example")) {
			t.Fatal("another name, the same hash")
		}
	})
}

// csr makes a request; edit may be nil.
func csr(t testing.TB, key any, cn string, names []string, edit func(*x509.CertificateRequest)) string {
	t.Helper()
	req := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}, DNSNames: names}
	if edit != nil {
		edit(req)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, req, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestCSR(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	key := ecKey(t, elliptic.P256())
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	names := []string{"a.example", "b.example"}
	good := csr(t, key, "a.example", names, nil)
	const begin = "-----BEGIN CERTIFICATE REQUEST-----\n"
	broken := begin + "MIIB" + strings.TrimPrefix(good, begin)[4:60] + "\n-----END CERTIFICATE REQUEST-----\n"
	other := ecKey(t, elliptic.P256())
	for _, c := range []struct{ what, csr, says string }{
		{"good", good, ""},
		{"common name counts", csr(t, key, "b.example", []string{"a.example"}, nil), ""},
		{"upper case", csr(t, key, "A.example", []string{"B.EXAMPLE"}, nil), ""},
		{"P-384", csr(t, ecKey(t, elliptic.P384()), "a.example", names, nil), ""},
		{"white space around it", "\n\n" + good + "\n \n", ""},
		{"header lines", strings.Replace(good, begin, begin+"Comment: hello\n\n", 1), "header lines"},
		{"old label", strings.ReplaceAll(good, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"), ""},

		{"missing name", csr(t, key, "a.example", nil, nil), "lacks"},
		{"extra name", csr(t, key, "a.example", append(names, "c.example"), nil), "asks also for"},
		{"no common name", csr(t, key, "", names, nil), "no common name"},
		{"long common name", csr(t, key, strings.Repeat("a", 57)+".example", names, nil), "at most 64"},
		{"two common names", csr(t, key, "", names, func(r *x509.CertificateRequest) {
			cn := asn1.ObjectIdentifier{2, 5, 4, 3}
			r.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: cn, Value: "a.example"}, {Type: cn, Value: "b.example"}}
		}), "several common names"},
		{"e-mail", csr(t, key, "a.example", names, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@a.example"} }), "an e-mail address"},
		{"IP", csr(t, key, "a.example", names, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{{192, 0, 2, 1}} }), "an IP address"},
		{"URI", csr(t, key, "a.example", names, func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "https", Host: "a.example"}} }), "a URI"},
		{"other name", csr(t, key, "a.example", nil, func(r *x509.CertificateRequest) {
			san, _ := asn1.Marshal([]asn1.RawValue{{Class: 2, Tag: 0, IsCompound: true, Bytes: []byte{6, 1, 42}}})
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san}}
		}), "other than a DNS name"},
		{"RSA 1024", csr(t, weak, "a.example", names, nil), "1024 bits"},
		{"P-224", csr(t, ecKey(t, elliptic.P224()), "a.example", names, nil), "curve P-224"},
		{"Ed25519", csr(t, ed, "a.example", names, nil), "do not take"},
		{"SHA-1", csr(t, weak, "a.example", names, nil), "1024 bits"},
		{"certificate", strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE"), "of type"},
		{"private key", good + "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n", "holds a private key"},
		{"two", good + good, "more follows"},
		{"broken DER", broken, "cannot be read|broken PEM"},
		{"one line", strings.ReplaceAll(good, "\n", " "), "broken PEM"},
		{"no PEM", "MIIB", "not PEM"},
		{"large", good + strings.Repeat(" ", 17<<10), "at most"},
		{"signature of another key", swapKey(t, good, other), "signature does not match"},
	} {
		err := order.Request{ID: "a", Names: names, CSR: c.csr}.Normal().Validate()
		if c.what == "white space around it" || c.what == "large" { // Normal trims
			_, err = order.ParseCSR(c.csr)
			if err != nil {
				err = &order.Invalid{Field: "csr", Reason: err.Error()}
			}
		}
		checkSays(t, c.what, err, "csr", c.says)
	}
	// Which clouds can take both, only they know.
	r := order.Request{ID: "a", Names: names, CSR: good, Resource: "cas-cn-1"}.Normal()
	checkSays(t, "csr with resource", r.Validate(), "", "")
}

// swapKey puts another key of the same size into a request.
func swapKey(t *testing.T, text string, key *ecdsa.PrivateKey) string {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	block.Bytes = []byte(strings.Replace(string(block.Bytes), string(req.RawSubjectPublicKeyInfo), string(spki), 1))
	return string(pem.EncodeToMemory(block))
}

func ExampleRequest_Hash() {
	one := order.Request{ID: "shop-1", Names: []string{"a.example.com", "b.example.com"}}
	two := order.Request{ID: "shop-1", Names: []string{"B.example.com.", "A.example.com"}, Account: "any", Validation: "dns"}
	fmt.Println(one.Hash() == two.Hash()) // a repeated message is dropped, another order refused
	// Output: true
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"id":"a","names":["Example.com."],"contact":{"email":"a@example.com"},"labels":{"a":"b"},"deadline":"2027-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"id":"bad-1","names":["*.github.io","bücher.example","192.0.2.1"]}`))
	f.Add([]byte(`{"id":"a","id":"b"}{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := order.ParseRequest(data)
		if err != nil {
			var bad *order.Invalid
			if !errors.As(err, &bad) || bad.Reason == "" {
				t.Fatalf("not an explained refusal: %v", err)
			}
			return
		}
		body, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("accepted, but cannot be written: %v", err)
		}
		again, err := order.ParseRequest(body)
		if err != nil || again.Hash() != r.Hash() {
			t.Fatalf("accepted, written and refused: %v\n%s", err, body)
		}
	})
}

func FuzzCSR(f *testing.F) {
	key := ecKey(f, elliptic.P256())
	block, _ := pem.Decode([]byte(csr(f, key, "a.example", []string{"a.example", "b.example"}, nil)))
	f.Add(block.Bytes)
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := order.ParseCSR(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
		if err == nil && (len(c.Names) == 0 || len(c.Fingerprint) != 64) {
			t.Fatalf("accepted without names or key: %+v", c)
		}
	})
}
