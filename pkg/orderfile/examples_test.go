package orderfile_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/orderfile"
)

const examples = "../../deploy/examples"

func readExample(t *testing.T, path string) []order.Request {
	t.Helper()
	lines, err := orderfile.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) == 0 {
		t.Fatalf("%s holds no order", path)
	}
	requests := make([]order.Request, 0, len(lines))
	for _, l := range lines {
		if l.Err != nil {
			t.Errorf("%s: line %d: %v", path, l.Number, l.Err)
		}
		requests = append(requests, l.Request)
	}
	return requests
}

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

// TestExamples: every order in the example files is good, by the rules and by
// the published schema, and no two of them share an id or their names: such two
// would wait for each other.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(examples, "orders.*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%d example files: %v", len(files), err)
	}
	published := schema(t)
	ids, names, keys := map[string]string{}, map[string]string{}, map[string]string{}
	taken := func(what string, seen map[string]string, key, by string) {
		if first, twice := seen[key]; twice {
			t.Errorf("%s: %s is that of %s too", by, what, first)
		}
		seen[key] = by
	}
	for _, path := range files {
		for _, r := range readExample(t, path) {
			by := filepath.Base(path) + ": " + r.ID
			taken("id", ids, r.ID, by)
			taken("set of names", names, order.NamesHash(r.Names), by)
			if r.CSR != "" {
				csr, err := order.ParseCSR(r.CSR)
				if err != nil {
					t.Errorf("%s: %v", by, err)
					continue
				}
				taken("key", keys, csr.Fingerprint, by)
			}
			body, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if err := published.Validate(doc); err != nil {
				t.Errorf("%s: the schema refuses it: %v", by, err)
			}
		}
	}
}

// TestExampleCSV: the file of the first command goes over all the ways of
// ordering, in two accounts of each cloud.
func TestExampleCSV(t *testing.T) {
	requests := readExample(t, filepath.Join(examples, "orders.csv"))
	if len(requests) != 200 {
		t.Errorf("%d orders, want 200", len(requests))
	}
	found := map[string]int{}
	free := map[string]int{}
	for _, r := range requests {
		found[traits(r)]++
		if strings.Contains(r.Product, "-free-") {
			free[r.Account]++
		}
		checkOrderable(t, r)
	}
	for _, account := range []string{"aliyun-1", "aliyun-2"} {
		for _, way := range []string{"package", "csr", "instance"} {
			for _, shape := range []string{"one DNS", "one FILE", "wildcard DNS"} {
				if found[account+" "+way+" "+shape] == 0 {
					t.Errorf("no order %s, %s, %s", account, way, shape)
				}
			}
		}
		for _, way := range []string{"package", "instance"} { // CAS binds one name of a CSR
			if found[account+" "+way+" several DNS"] == 0 {
				t.Errorf("no order %s, %s for several names", account, way)
			}
		}
		if n := free[account]; n == 0 || n > 20 { // a calendar year's
			t.Errorf("%d free certificates of %s", n, account)
		}
	}
	for _, account := range []string{"tencent-1", "tencent-2"} {
		for _, want := range []string{"certificate one DNS", "certificate one FILE", "certificate several DNS", "certificate wildcard DNS", "csr one DNS", "csr one FILE", "csr several DNS"} {
			if found[account+" "+want] == 0 {
				t.Errorf("no order %s %s", account, want)
			}
		}
	}
	if found["any package one DNS"] == 0 {
		t.Error("no order that leaves the account open")
	}
}

func traits(r order.Request) string {
	way := "package"
	switch {
	case r.CSR != "":
		way = "csr"
	case r.Resource != "" && strings.HasPrefix(r.Account, "aliyun"):
		way = "instance"
	case r.Resource != "":
		way = "certificate"
	}
	shape := "one"
	switch {
	case strings.HasPrefix(r.Names[0], "*."):
		shape = "wildcard"
	case len(r.Names) > 1:
		shape = "several"
	}
	return fmt.Sprintf("%s %s %s %s", r.Account, way, shape, r.Validation)
}

// checkOrderable is what the clouds want besides the rules: a product for
// wildcards has "-w-" in its code, the others do not; the contact is complete.
func checkOrderable(t *testing.T, r order.Request) {
	t.Helper()
	c := r.Contact
	if c.Name == "" || c.Email == "" || c.Phone == "" || c.Province == "" || c.City == "" {
		t.Errorf("%s: the contact lacks something: %+v", r.ID, c)
	}
	if wild := strings.HasPrefix(r.Names[0], "*."); r.Product != "" && strings.Contains(r.Product, "-w-") != wild {
		t.Errorf("%s: product %s for %s", r.ID, r.Product, r.Names)
	}
	if aliyun := strings.HasPrefix(r.Account, "aliyun"); aliyun && (r.Product == "" && r.Resource == "" || r.CSR != "" && (len(r.Names) > 1 || r.Resource != "")) {
		t.Errorf("%s: not for Alibaba Cloud: %+v", r.ID, r)
	}
	if strings.HasPrefix(r.Account, "tencent") && (r.Product != "" || r.Resource == "") {
		t.Errorf("%s: not for Tencent Cloud: %+v", r.ID, r)
	}
}

func ExampleDecode() {
	lines, err := orderfile.Decode(strings.NewReader(`id,names,validation
shop-1,www.example.com,FILE
shop-2,co.uk,DNS
shop-3,"*.example.com, *.example.org",DNS
`), orderfile.CSV)
	for _, l := range lines {
		fmt.Println(l.Number, l.Request.ID, l.Request.Names, l.Err)
	}
	fmt.Println(err)
	// Output:
	// 2 shop-1 [www.example.com] <nil>
	// 3 shop-2 [] names: "co.uk": "co.uk" is a public suffix, under which names belong to different owners: write a name of your own under it, such as "yourname.co.uk"
	// 4 shop-3 [*.example.com *.example.org] <nil>
	// <nil>
}
