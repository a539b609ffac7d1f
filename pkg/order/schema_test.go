package order_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/certmill/certmill/pkg/order"
)

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(order.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(order.SchemaID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(order.SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func matches(t *testing.T, s *jsonschema.Schema, message string) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

// TestSchema: what the schema takes and refuses, ParseRequest takes and refuses
// too.
func TestSchema(t *testing.T) {
	s := schema(t)
	request, _ := json.Marshal(csr(t, ecKey(t, elliptic.P256()), "example.com", []string{"example.com"}, nil))
	for _, good := range []string{
		`{"names":["example.com"]}`,
		`{"names":["example.com"],"again":"shop-1"}`,
		`{"names":["example.com"],"again":"trueish"}`,
		`{"id":"a","names":["example.com"]}`,
		`{"id":"shop-1","names":["*.example.com","*.example.org"],"account":"any","product":"digicert-free-1-free","validation":"DNS","key":"rsa-4096","batch":"2027.Q1"}`,
		`{"id":"a","names":["Example.com"],"validation":"FILE","contact":{"name":"n","email":"a@example.com","phone":"13800000000","province":"p","city":"c"},"company":"c","labels":{"team":"web"},"deadline":"2027-01-01T00:00:00+08:00"}`,
		`{"id":"a","names":["example.com"],"csr":` + string(request) + `}`,
		`{"id":"a","names":["example.com"],"resource":"cas-cn-68n1mm16abcd"}`,
		`{"id":"a","names":["example.com"],"resource":"9dZYNnVq"}`,
		`{"id":"a","names":["example.com"],"resource":"any"}`,
		`{"id":"a","names":["example.com"],"resource":"any","csr":` + string(request) + `}`,
		`{"id":"` + strings.Repeat("a", 63) + `","names":["xn--bcher-kva.example","b.example","c.example","d.example","e.example"]}`,
	} {
		if err := matches(t, s, good); err != nil {
			t.Errorf("the schema refuses %s: %v", good, err)
		}
		if _, err := order.ParseRequest([]byte(good)); err != nil {
			t.Errorf("ParseRequest refuses %s: %v", good, err)
		}
	}
	const n = `"names":["example.com"]`
	for _, bad := range []string{
		`[]`,
		`{"id":"a"}`,
		`{"again":"A",` + n + `}`,
		`{"again":"true",` + n + `}`,
		`{"again":true,` + n + `}`,
		`{"again":"bad-x-1",` + n + `}`,
		`{"id":"A",` + n + `}`,
		`{"id":"bad-1",` + n + `}`,
		`{"id":"` + strings.Repeat("a", 64) + `",` + n + `}`,
		`{"id":"a","names":[]}`,
		`{"id":"a","names":"example.com"}`,
		`{"id":"a","names":["a.example","a.example"]}`,
		`{"id":"a","names":["a.example","b.example","c.example","d.example","e.example","f.example"]}`,
		`{"id":"a","names":["*.example.com","example.com"]}`,
		`{"id":"a","names":["bücher.example"]}`,
		`{"id":"a","names":["192.0.2.1"]}`,
		`{"id":"a","names":["a.*.example.com"]}`,
		`{"id":"a",` + n + `,"unknown":1}`,
		`{"id":"a",` + n + `,"contact":{"mail":"x"}}`,
		`{"id":"a",` + n + `,"validation":"EMAIL"}`,
		`{"id":"a",` + n + `,"key":"dsa"}`,
		`{"id":"a",` + n + `,"key":"rsa-2048","csr":"x"}`,
		`{"id":"a",` + n + `,"instance":"any"}`,
		`{"id":"a",` + n + `,"certificate":"any"}`,
		`{"id":"a",` + n + `,"resource":"a b"}`,
		`{"id":"a",` + n + `,"labels":{"a":1}}`,
		`{"id":"a",` + n + `,"labels":{"a b":"1"}}`,
		`{"id":"a",` + n + `,"deadline":"tomorrow"}`,
		`{"id":"a",` + n + `,"account":"a.b"}`,
		`{"id":"a",` + n + `,"batch":"a b"}`,
	} {
		if matches(t, s, bad) == nil {
			t.Errorf("the schema takes %s", bad)
		}
		if _, err := order.ParseRequest([]byte(bad)); err == nil {
			t.Errorf("ParseRequest takes %s", bad)
		}
	}
}

func TestSchemaDescribesEveryField(t *testing.T) {
	var s struct {
		Properties map[string]struct {
			Description string
			Properties  map[string]struct{ Description string }
		}
	}
	if err := json.Unmarshal(order.Schema(), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Properties) != 14 {
		t.Errorf("%d fields", len(s.Properties))
	}
	for name, p := range s.Properties {
		if p.Description == "" {
			t.Errorf("%s has no description", name)
		}
		for inner, q := range p.Properties {
			if q.Description == "" {
				t.Errorf("%s.%s has no description", name, inner)
			}
		}
	}
}

// TestPublishedSchema holds the published file against the code.
func TestPublishedSchema(t *testing.T) {
	published, err := os.ReadFile("../../deploy/order.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(published) != string(order.Schema()) {
		t.Error("deploy/order.schema.json is not what the code says: go run ./cmd/certmill schema > deploy/order.schema.json")
	}
}
