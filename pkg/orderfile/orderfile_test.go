package orderfile_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/orderfile"
)

// want is a line of a file: an order with these names, or a sentence with these
// words.
type want struct {
	number int
	id     string
	names  string // separated by spaces
	says   string
}

func decode(t testing.TB, format orderfile.Format, text string) []orderfile.Line {
	t.Helper()
	lines, err := orderfile.DecodeBatch(strings.NewReader(text), format, "b")
	if err != nil {
		t.Fatalf("%.200q: %v", text, err)
	}
	return lines
}

func compare(t testing.TB, what string, lines []orderfile.Line, wanted []want) {
	t.Helper()
	if len(lines) != len(wanted) {
		t.Errorf("%s: %d orders, want %d: %+v", what, len(lines), len(wanted), lines)
		return
	}
	for i, l := range lines {
		w := wanted[i]
		switch {
		case l.Number != w.number:
			t.Errorf("%s: order %d is said to be in line %d, it is in line %d (%v)", what, i+1, l.Number, w.number, l.Err)
		case l.Request.ID != w.id:
			t.Errorf("%s: line %d: id %q, want %q (%v)", what, l.Number, l.Request.ID, w.id, l.Err)
		case w.says == "" && l.Err != nil:
			t.Errorf("%s: line %d is refused: %v", what, l.Number, l.Err)
		case w.says != "" && (l.Err == nil || !strings.Contains(l.Err.Error(), w.says)):
			t.Errorf("%s: line %d: %v, want %q", what, l.Number, l.Err, w.says)
		case l.Err != nil && !reflect.DeepEqual(l.Request, order.Request{ID: l.Request.ID}):
			t.Errorf("%s: line %d is bad and has more than its id: %+v", what, l.Number, l.Request)
		case l.Err == nil && strings.Join(l.Request.Names, " ") != w.names:
			t.Errorf("%s: line %d: names %q, want %q", what, l.Number, l.Request.Names, w.names)
		}
	}
}

// TestCSV is the table of what people's spreadsheets and scripts write.
func TestCSV(t *testing.T) {
	for _, c := range []struct {
		what, text string
		want       []want
	}{
		{"plain", "id,names\na,a.example.com\nb,b.example.com\n", []want{{2, "a", "a.example.com", ""}, {3, "b", "b.example.com", ""}}},
		{"no line end", "id,names\na,a.example.com", []want{{2, "a", "a.example.com", ""}}},
		{"BOM and CRLF", "\ufeffid,names\r\na,a.example.com\r\n\r\nb,b.example.com\r\n", []want{{2, "a", "a.example.com", ""}, {4, "b", "b.example.com", ""}}},
		{"any case and order of columns", " Names , ID\na.example.com, a\n", []want{{2, "a", "a.example.com", ""}}},
		{"quoted header", "\"id\",\"names\"\n\"a\",\"a.example.com,b.example.com\"\n", []want{{2, "a", "a.example.com b.example.com", ""}}},
		{"separators of names", "id,names\na,a.example.com b.example.com;c.example.com\n", []want{{2, "a", "a.example.com b.example.com c.example.com", ""}}},
		{"lines before the header", "\n,,\nid,names\na,a.example.com\n", []want{{4, "a", "a.example.com", ""}}},
		{"empty rows of a spreadsheet", "id,names\n,\na,a.example.com\n , \n", []want{{3, "a", "a.example.com", ""}}},
		{"cell of several lines", "id,names,company\na,\"a.example.com\nb.example.com\",\"x\"\nb,c.example.com,\n", []want{{2, "a", "a.example.com b.example.com", ""}, {4, "b", "c.example.com", ""}}},
		{"quotes in a cell", "id,names,company\na,a.example.com,\"the \"\"best\"\"\"\n", []want{{2, "a", "a.example.com", ""}}},
		{"no id", "names\na.example.com\nb.example.com\n", []want{{2, "a-example-com-18bec2daed46", "a.example.com", ""}, {3, "b-example-com-1dd6f2b37777", "b.example.com", ""}}},
		{"again", "id,names,again\na,a.example.com,shop-1-2\n,b.example.com,yes\nc,c.example.com,NO\nd,d.example.com,Ja\n", []want{
			{2, "a", "", "leave id out"}, {3, "b-example-com-1dd6f2b37777", "b.example.com", ""}, {4, "c", "c.example.com", ""}, {5, "d", "", "no order id"}}},
		{"again of an order that is named", "names,again\na.example.com,shop-1-2\n", []want{{2, "shop-1-2", "a.example.com", ""}}},

		{"stray quote", "id,names,company\na,a.example.com,5\" pipes\nb,b.example.com,x\nc,c.example.com,x\n", []want{
			{2, "", "", "quotes do not match"}, {3, "b", "b.example.com", ""}, {4, "c", "c.example.com", ""}}},
		{"quote that is never closed", "id,names\na,\"a.example.com\nb,b.example.com\n", []want{{2, "", "", "quotes do not match"}, {3, "b", "b.example.com", ""}}},
		{"two that are never closed", "id,names\na,\"a.example.com\nb,\"b.example.com\nc,c.example.com\n", []want{
			{2, "", "", "quotes do not match"}, {3, "", "", "quotes do not match"}, {4, "c", "c.example.com", ""}}},
		{"too few and too many cells", "id,names\na\nb,b.example.com,c.example.com\nc,c.example.com\n", []want{
			{2, "", "", "1 cells, the header 2"}, {3, "", "", "3 cells, the header 2"}, {4, "c", "c.example.com", ""}}},
		{"bad name between good ones", "id,names\na,a.example.com\nb,co.uk\nc,c.example.com\n", []want{
			{2, "a", "a.example.com", ""}, {3, "b", "", "public suffix"}, {4, "c", "c.example.com", ""}}},
		{"bad id", "id,names\nNot An Id,a.example.com\n", []want{{2, "", "", "no order id"}}},
		{"bad id beside a bad cell", "id,names,deadline\nNot An Id,a.example.com,tomorrow\n a ,a.example.com,tomorrow\n", []want{{2, "", "", "RFC 3339"}, {3, "a", "", "RFC 3339"}}},
		{"twice", "id,names\na,a.example.com\na,b.example.com\n", []want{{2, "a", "a.example.com", ""}, {3, "a", "", "in line 2 already"}}},
		{"the same names twice", "id,names,product\n,a.example.com b.example.com,\nb,B.example.com. A.example.com,p\n,a.example.com b.example.com,\n", []want{
			{2, "a-example-com-b527de815cc1", "a.example.com b.example.com", ""}, {3, "b", "", "the same names are in line 2 already"}, {4, "a-example-com-b527de815cc1", "", "in line 2 already"}}},
		{"the same names again", "id,names,again\na,a.example.com,\nb,a.example.com,true\na,a.example.com,true\n", []want{
			{2, "a", "a.example.com", ""}, {3, "b", "a.example.com", ""}, {4, "a", "a.example.com", ""}}},
		{"another's derived id", "id,names\na-example-com-18bec2daed46,b.example.com\n", []want{{2, "a-example-com-18bec2daed46", "", "leave the id out"}}},
		{"a bad row has no derived id", "id,names\n,co.uk\n,b.example.com\n", []want{{2, "", "", "public suffix"}, {3, "b-example-com-1dd6f2b37777", "b.example.com", ""}}},
		{"not UTF-8", "id,names,company\na,a.example.com,\xff\nb,b.example.com,\n", []want{{2, "", "", "not UTF-8"}, {3, "b", "b.example.com", ""}}},
		{"deadline", "id,names,deadline\na,a.example.com,2027-01-31\nb,b.example.com,2027-01-31T12:00:00+08:00\n", []want{{2, "a", "", "RFC 3339"}, {3, "b", "b.example.com", ""}}},
		{"labels", "id,names,labels\na,a.example.com,team=web;stage=prod;\nb,b.example.com,team\nc,c.example.com,x=1;x=2\n", []want{
			{2, "a", "a.example.com", ""}, {3, "b", "", "no label"}, {4, "c", "", "no label"}}},
		{"phone that Excel spoiled", "id,names,contact_phone\na,a.example.com,1.38E+10\n", []want{{2, "a", "", "no phone number"}}},
		{"huge line", "id,names,company\na,a.example.com," + strings.Repeat("x", 70<<10) + "\nb,b.example.com,\n", []want{{2, "", "", "more than 65536 bytes"}, {3, "b", "b.example.com", ""}}},
		{"huge quoted cell", "id,names,company\na,a.example.com,\"" + strings.Repeat("x\n", 40<<10) + "\"\n", nil},
		{"NUL", "id,names\na,a\x00.example.com\n", []want{{2, "a", "", "has the character"}}},
	} {
		lines := decode(t, orderfile.CSV, c.text)
		if c.want == nil { // each of its lines is explained, whatever they are taken for
			if len(lines) == 0 || slices.ContainsFunc(lines, func(l orderfile.Line) bool { return l.Err == nil }) {
				t.Errorf("%s: %d lines, some of them good", c.what, len(lines))
			}
			continue
		}
		compare(t, c.what, lines, c.want)
	}
}

func TestCSVFields(t *testing.T) {
	lines := decode(t, orderfile.CSV, "id,names,account,product,validation,contact_name,contact_email,contact_phone,contact_province,contact_city,company,key,resource,batch,labels,deadline\n"+
		"a,a.example.com,ali-1,p,file,n,e@example.com,12345,p2,c,co,RSA-2048,cas-1,b1,x=1=2;y=,2027-01-31T12:00:00+08:00\n")
	l := lines[0]
	if l.Err != nil {
		t.Fatal(l.Err)
	}
	at := l.Request.Deadline.Format("2006-01-02T15:04:05Z07:00")
	l.Request.Deadline = nil
	want := order.Request{ID: "a", Names: []string{"a.example.com"}, Account: "ali-1", Product: "p", Validation: order.FILE,
		Contact: order.Contact{Name: "n", Email: "e@example.com", Phone: "12345", Province: "p2", City: "c"}, Company: "co", Key: "rsa-2048",
		Resource: "cas-1", Batch: "b1", Labels: map[string]string{"x": "1=2", "y": ""}}
	if !reflect.DeepEqual(l.Request, want) || at != "2027-01-31T04:00:00Z" {
		t.Errorf("got  %+v %s\nwant %+v", l.Request, at, want)
	}
}

// TestWholeFile: what is wrong with a file as a whole.
func TestWholeFile(t *testing.T) {
	for _, c := range []struct {
		format     orderfile.Format
		text, says string
	}{
		{orderfile.CSV, "", "the file is empty"},
		{orderfile.CSV, " \n,\n", "the file is empty"},
		{orderfile.CSV, "id,domains\na,b\n", "unknown column \"domains\""},
		{orderfile.CSV, "id,name\na,b\n", `did you mean "names"`},
		{orderfile.CSV, "id,names,instance\na,b,any\n", `unknown column "instance": did you mean "resource"?`},
		{orderfile.CSV, "id,names,certificate\na,b,any\n", `unknown column "certificate": did you mean "resource"?`},
		{orderfile.CSV, "\n\nid,names,id\n", `line 3: the column "id" is there twice`},
		{orderfile.CSV, "id;names\na;a.example.com\n", "not separated by commas"},
		{orderfile.CSV, "id,account\n", "no column \"names\""},
		{orderfile.CSV, "id,names\ra,a.example.com\r", "line 1: its lines end with CR alone"},
		{orderfile.CSV, "a,a.example.com\n", "unknown column"},
		{orderfile.JSON, "\xff\xfe{\x00", "UTF-16"},
		{orderfile.YAML, "\xfe\xff\x00-", "UTF-16"},
		{"xml", "<a/>", "write csv, json or yaml"},
	} {
		lines, err := orderfile.Decode(strings.NewReader(c.text), c.format)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v (%d lines), want %q", c.text, err, len(lines), c.says)
		}
	}
	if _, err := orderfile.Decode(endless{}, orderfile.CSV); err == nil || !strings.Contains(err.Error(), "more than 64 MiB") {
		t.Errorf("a file without end: %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestJSON(t *testing.T) {
	for _, c := range []struct {
		what, text string
		want       []want
	}{
		{"lines", `{"id":"a","names":["a.example.com"]}` + "\n\n" + `{"id":"b","names":["b.example.com"]}`, []want{{1, "a", "a.example.com", ""}, {3, "b", "b.example.com", ""}}},
		{"BOM and CRLF", "\ufeff" + `{"id":"a","names":["a.example.com"]}` + "\r\n" + `{"id":"b","names":["b.example.com"]}` + "\r\n", []want{{1, "a", "a.example.com", ""}, {2, "b", "b.example.com", ""}}},
		{"indented", "{\n  \"id\": \"a\",\n  \"names\": [\n    \"a.example.com\"\n  ]\n}\n{\"names\":[\"b.example.com\"]}\n", []want{{1, "a", "a.example.com", ""}, {7, "b-example-com-1dd6f2b37777", "b.example.com", ""}}},
		{"array", "[\n{\"id\":\"a\",\"names\":[\"a.example.com\"]},\n{\"id\":\"b\",\"names\":[\"co.uk\"]},\n\n{\"id\":\"c\",\"names\":[\"c.example.com\"]}]\n", []want{
			{2, "a", "a.example.com", ""}, {3, "b", "", "public suffix"}, {5, "c", "c.example.com", ""}}},
		{"braces in texts", `{"id":"a","names":["a.example.com"],"company":"}{\"{"}` + "\n" + `{"id":"b","names":["b.example.com"]}`, []want{{1, "a", "a.example.com", ""}, {2, "b", "b.example.com", ""}}},
		{"empty array", "[]", nil},
		{"empty", "", nil},

		{"cut off in the middle", "{\"id\":\"a\",\n{\"id\":\"b\",\"names\":[\"b.example.com\"]}\n", []want{{1, "", "", "ends in the middle"}, {2, "b", "b.example.com", ""}}},
		{"quote not closed", "{\"id\":\"a,\"names\":[]}\n{\"id\":\"b\",\"names\":[\"b.example.com\"]}\n", []want{{1, "", "", "not JSON (line 1"}, {2, "b", "b.example.com", ""}}},
		{"the line of the file", "{\"id\":\"a\",\"names\":[\"a.example.com\"]}\n{\"id\":\"b\",\n\"names\":['x']}\n", []want{{1, "a", "a.example.com", ""}, {2, "", "", "line 3, column 10"}}},
		{"another word", `{"id":"a","names":["a.example.com"],"instance":"any"}`, []want{{1, "a", "", `"instance": unknown field: did you mean "resource"?`}}},
		{"two on a line", `{"id":"a","names":["a.example.com"]}{"id":"b","names":["b.example.com"]}`, []want{{1, "", "", "more follows"}}},
		{"unknown and repeated fields", `{"id":"a","nams":[]}` + "\n" + `{"id":"b","names":["b.example.com"],"names":[]}`, []want{{1, "a", "", `did you mean "names"`}, {2, "b", "", "is there twice"}}},
		{"rubbish", "hello\n{\"id\":\"b\",\"names\":[\"b.example.com\"]}\n7\n", []want{{1, "", "", "not JSON"}, {2, "b", "b.example.com", ""}, {3, "", "", "no object"}}},
		{"broken array", "[\n{\"id\":\"a\",\"names\":[\"a.example.com\"]},\n{\"id\":'b'}\n]", []want{{2, "a", "a.example.com", ""}, {3, "", "", "the array is broken here"}}},
		{"array not closed", "[\n{\"id\":\"a\",\"names\":[\"a.example.com\"]}\n", []want{{2, "a", "a.example.com", ""}, {3, "", "", "the array is broken here"}}},
		{"more after the array", "[]\n{}", []want{{1, "", "", "more follows after the array"}}},
		{"deep", strings.Repeat("[", 100_000), []want{{1, "", "", "broken here"}}},
		{"deep object", strings.Repeat(`{"id":`, 10_000), []want{{1, "", "", "ends in the middle"}}},
		{"huge line", `{"id":"a","names":["a.example.com"],"company":"` + strings.Repeat("x", 70<<10) + "\"}\n{\"id\":\"b\",\"names\":[\"b.example.com\"]}", []want{{1, "", "", "at most 65536"}, {2, "b", "b.example.com", ""}}},
		{"not UTF-8", "{\"id\":\"\xff\"}\n{\"id\":\"b\",\"names\":[\"b.example.com\"]}", []want{{1, "", "", "not UTF-8"}, {2, "b", "b.example.com", ""}}},
	} {
		compare(t, c.what, decode(t, orderfile.JSON, c.text), c.want)
	}
}

func TestYAML(t *testing.T) {
	bomb := "- &a [x,x,x,x,x,x,x,x,x]\n- &b [*a,*a,*a,*a,*a,*a,*a,*a]\n- {id: c, names: *b}\n"
	for _, c := range []struct {
		what, text string
		want       []want
	}{
		{"list", "# orders\n- id: a\n  names: [a.example.com]\n\n- id: b\n  names:\n    - b.example.com\n    - c.example.com\n", []want{{2, "a", "a.example.com", ""}, {5, "b", "b.example.com c.example.com", ""}}},
		{"documents", "---\nid: a\nnames:\n- a.example.com\n---\n# b\nid: b\nnames: [b.example.com]\n...\n", []want{{2, "a", "a.example.com", ""}, {7, "b", "b.example.com", ""}}},
		{"documents on the mark's line", "--- {id: a, names: [a.example.com]}\n--- {id: b, names: [b.example.com]}\n", []want{{1, "a", "a.example.com", ""}, {2, "b", "b.example.com", ""}}},
		{"BOM and CRLF", "\ufeff- id: a\r\n  names: [a.example.com]\r\n- id: b\r\n  names:\r\n  - b.example.com\r\n", []want{{1, "a", "a.example.com", ""}, {3, "b", "b.example.com", ""}}},
		{"indented list", "  - id: a\n    names: [a.example.com]\n  - id: b\n    names: [b.example.com]\n", []want{{1, "a", "a.example.com", ""}, {3, "b", "b.example.com", ""}}},
		{"list in brackets", "[{id: a, names: [a.example.com]},\n {id: b, names: [b.example.com]}]\n", []want{{1, "a", "a.example.com", ""}, {2, "b", "b.example.com", ""}}},
		{"one order", "id: a\nnames: [a.example.com]\n", []want{{1, "a", "a.example.com", ""}}},
		{"texts that look like something else", "- id: 0123\n  names: [a.example.com]\n  contact: {phone: 13800000000, province: NO, city: null, name: 1e3}\n  labels: {on: yes, v: 1.20, n: ~}\n", []want{{1, "0123", "a.example.com", ""}}},
		{"comment at the margin", "- id: a\n# - id: x\n  names: [a.example.com]\n- id: b\n  names: [b.example.com]\n", []want{{1, "a", "a.example.com", ""}, {4, "b", "b.example.com", ""}}},
		{"no id", "- names: [a.example.com]\n- names: [co.uk]\n- names: [c.example.com]\n", []want{{1, "a-example-com-18bec2daed46", "a.example.com", ""}, {2, "", "", "public suffix"}, {3, "c-example-com-82c243f97e71", "c.example.com", ""}}},
		{"empty", "# nothing\n---\n...\n", nil},

		{"one broken between good ones", "- id: a\n  names: [a.example.com]\n- id: b\n  names: [b.example.com\n- id: c\n  names: [c.example.com]\n", []want{{1, "a", "a.example.com", ""}, {3, "", "", "cannot be read as YAML"}, {5, "c", "c.example.com", ""}}},
		{"wildcard without quotes", "- id: a\n  names: [*.example.com]\n- id: b\n  names: [\"*.example.com\"]\n", []want{{1, "", "", ""}, {3, "b", "*.example.com", ""}}},
		{"wildcard without quotes in a list", "- id: a\n  names:\n    - *.example.com\n- id: b\n  names: [b.example.com]\n", []want{{1, "", "", `"*.example.com"`}, {4, "b", "b.example.com", ""}}},
		{"twice", "- id: a\n  names: [a.example.com]\n  names: [b.example.com]\n", []want{{1, "", "", ""}}},
		{"bomb", bomb, []want{{1, "", "", "anchors"}, {2, "", "", "anchors"}, {3, "", "", "anchors"}}},
		{"merge", "- id: a\n  <<: {names: [a.example.com]}\n", []want{{1, "", "", "merges"}}},
		{"tag", "- id: !!binary YQ==\n  names: [a.example.com]\n", []want{{1, "", "", "tags"}}},
		{"deep flow", "- " + strings.Repeat("[", 30_000) + "\n- id: b\n  names: [b.example.com]\n", []want{{1, "", "", "nested more deeply"}, {2, "b", "b.example.com", ""}}},
		{"deep block", "- id: a\n- " + strings.Repeat("- ", 30_000) + "\n", []want{{1, "a", "", "is missing"}, {2, "", "", "nested more deeply"}}},
		{"CR alone ends a line too", "[\r{id: a},\r{id: b}]\n- c\n", []want{{1, "", "", "cannot be read as YAML"}}},
		{"scalar", "hello\n", []want{{1, "", "", "this is no order"}}},
		{"unknown field", "- id: a\n  domain: a.example.com\n", []want{{1, "a", "", "unknown field"}}},
		{"another word", "- id: a\n  names: [a.example.com]\n  certificate: any\n", []want{{1, "a", "", `"certificate": unknown field: did you mean "resource"?`}}},
		{"names is a text", "- id: a\n  names: a.example.com\n", []want{{1, "a", "", `["example.com"]`}}},
		{"huge", "- id: a\n  names: [a.example.com]\n  company: " + strings.Repeat("x", 70<<10) + "\n- id: b\n  names: [b.example.com]\n", []want{{1, "", "", "more than 65536 bytes"}, {4, "b", "b.example.com", ""}}},
		{"not UTF-8", "- id: \xff\n- id: b\n  names: [b.example.com]\n", []want{{1, "", "", "not UTF-8"}, {2, "b", "b.example.com", ""}}},
	} {
		lines := decode(t, orderfile.YAML, c.text)
		for i := range c.want { // refused, by parser or by us
			if w := &c.want[i]; w.names == "" && w.says == "" && i < len(lines) && lines[i].Err != nil {
				w.says, w.id = lines[i].Err.Error(), lines[i].Request.ID
			}
		}
		compare(t, c.what, lines, c.want)
	}
}

func TestYAMLTexts(t *testing.T) {
	csr := "-----BEGIN CERTIFICATE REQUEST-----\n" // not read here, only carried
	l := decode(t, orderfile.YAML, "- id: 7\n  names: [a.example.com]\n  contact: {phone: 0123456, province: NO, city: ~}\n  labels: {v: 1.20, 1: on}\n")[0]
	if l.Err != nil || l.Request.Contact.Phone != "0123456" || l.Request.Contact.Province != "NO" || l.Request.Contact.City != "" ||
		l.Request.Labels["v"] != "1.20" || l.Request.Labels["1"] != "on" {
		t.Errorf("%+v", l)
	}
	for _, text := range []string{"- csr: |\n    " + csr, "csr: |\n  " + csr + "id: a\n"} {
		if l := decode(t, orderfile.YAML, text)[0]; l.Err == nil || !strings.Contains(l.Err.Error(), "broken PEM") {
			t.Errorf("%q: the csr did not arrive: %v", text, l.Err)
		}
	}
}

// TestPrivateKeysAreNotRepeated: sentences go to the terminal and into logs.
func TestPrivateKeysAreNotRepeated(t *testing.T) {
	const body = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCANARY"
	key := "-----BEGIN PRIVATE KEY-----\n" + body + "\n-----END PRIVATE KEY-----\n"
	oneLine := strings.ReplaceAll(key, "\n", `\n`)
	block := "|\n    " + strings.ReplaceAll(strings.TrimSpace(key), "\n", "\n    ") + "\n"
	for _, c := range []struct {
		format orderfile.Format
		text   string
	}{
		{orderfile.CSV, "id,names,csr,labels,deadline,key\na,a.example.com,\"" + key + "\",,,\n"},
		{orderfile.CSV, "id,names,csr,labels,deadline,key\na,a.example.com,,\"" + key + "\",,\n"},
		{orderfile.CSV, "id,names,csr,labels,deadline,key\na,a.example.com,,,\"" + key + "\",\n"},
		{orderfile.CSV, "id,names,csr,labels,deadline,key\na,a.example.com,,,,\"" + oneLine + "\"\n"},
		{orderfile.CSV, "\"names\",\"" + key + "\"\n"},
		{orderfile.JSON, `{"id":"a","names":["a.example.com"],"key":"` + oneLine + `"}`},
		{orderfile.YAML, "- id: a\n  key: " + block},
		{orderfile.YAML, "- id: a\n  \"" + oneLine + "\": x\n"},
		{orderfile.YAML, "- id: a\n  \"" + oneLine + "\": x\n  \"" + oneLine + "\": y\n"},
		{orderfile.YAML, "- id: a\n  " + block},
		{orderfile.YAML, "- id: a\n  key: \"" + oneLine + "\" x\n"},
		{orderfile.YAML, key},
	} {
		lines, err := orderfile.DecodeBatch(strings.NewReader(c.text), c.format, "b")
		bad := err != nil
		said := fmt.Sprint(err)
		for _, l := range lines {
			bad = bad || l.Err != nil
			said += fmt.Sprint(l.Err)
		}
		if !bad || strings.Contains(strings.ToLower(said), strings.ToLower(body[:12])) {
			t.Errorf("%q: %v", c.text, said)
		}
	}
}

// TestBatch: DESIGN 12.1: an order is what it buys: the file's name is its batch and
// no part of their ids.
func TestBatch(t *testing.T) {
	dir := t.TempDir()
	batches := map[string]string{}
	for _, file := range []string{"shop.csv", "Shop 2027.csv", "bad-orders.csv", "公司.csv", "商店.csv", "公司1.csv", "商店1.csv",
		strings.Repeat("x", 70) + "1.csv", strings.Repeat("x", 70) + "2.csv", "---.csv"} {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, []byte("names\na.example.com\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		lines, err := orderfile.Read(path)
		if err != nil || len(lines) != 1 || lines[0].Err != nil {
			t.Errorf("%s: %v %+v", file, err, lines)
			continue
		}
		r := lines[0].Request
		if other := batches[r.Batch]; other != "" {
			t.Errorf("%s and %s share the batch %s", file, other, r.Batch)
		}
		if batches[r.Batch] = file; r.ID != "a-example-com-18bec2daed46" {
			t.Errorf("%s: id %s", file, r.ID)
		}
	}
	if batches["shop"] != "shop.csv" || batches["shop-2027"] != "Shop 2027.csv" {
		t.Errorf("%v", batches)
	}
	lines := decode(t, orderfile.CSV, "names,batch\na.example.com,\nb.example.com,Own.1\n")
	if lines[0].Request.Batch != "b" || lines[1].Request.Batch != "Own.1" {
		t.Errorf("%+v", lines)
	}
}

// TestTheSameListAgain: DESIGN 12.1: without an id one is derived: whatever a
// spreadsheet does to a list, what it ordered before has the id it had before.
func TestTheSameListAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.IntRange(1, 12).Draw(t, "rows")
		row := func(i int) string { return fmt.Sprintf("www.shop-%d.example.com shop-%[1]d.example.com", i) }
		before := idsOf(t, "list", numbers(rows), row)
		now := rapid.Permutation(numbers(rows+1)).Draw(t, "sorted in another way, a row inserted")
		now = now[:rapid.IntRange(1, len(now)).Draw(t, "shortened")]
		spelled := func(i int) string {
			return strings.ToUpper(fmt.Sprintf("shop-%d.example.com; www.shop-%[1]d.example.com. ", i))
		}
		for i, id := range idsOf(t, "list-1", now, spelled) {
			if was, there := before[i]; there && id != was || !there && slices.Contains(slices.Collect(maps.Values(before)), id) {
				t.Fatalf("row %d was %q and is %q", i, was, id)
			}
		}
	})
}

func numbers(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// idsOf reads a list of such rows, and returns the id of each.
func idsOf(t *rapid.T, batch string, rows []int, row func(int) string) map[int]string {
	text := "contact_email,names\n"
	for _, i := range rows {
		text += "me@example.com,\"" + row(i) + "\"\n"
	}
	lines, err := orderfile.DecodeBatch(strings.NewReader(text), orderfile.CSV, batch)
	if err != nil || len(lines) != len(rows) {
		t.Fatalf("%v %+v", err, lines)
	}
	ids := map[int]string{}
	for at, l := range lines {
		if l.Err != nil {
			t.Fatalf("%v\n%s", l.Err, text)
		}
		ids[rows[at]] = l.Request.ID
	}
	return ids
}

// TestTwinsOverFiles: several files are one list.
func TestTwinsOverFiles(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "1.csv"), filepath.Join(dir, "2.csv")
	var lines []orderfile.Line
	files := orderfile.Files{Batch: "b"}
	for _, path := range []string{first, second} {
		err := os.WriteFile(path, []byte("names\na.example.com\n"), 0o600)
		if err == nil {
			lines, err = files.Read(path)
		}
		if err != nil || len(lines) != 1 {
			t.Fatal(err, lines)
		}
	}
	if err := lines[0].Err; err == nil || !strings.Contains(err.Error(), "line 2 of "+first) {
		t.Errorf("%v", err)
	}
}

func TestRead(t *testing.T) {
	if _, err := orderfile.Read("orders.txt"); err == nil || !strings.Contains(err.Error(), "let it end in .csv") {
		t.Error(err)
	}
	if _, err := orderfile.Read(filepath.Join(t.TempDir(), "none.csv")); !os.IsNotExist(unwrapAll(err)) {
		t.Error(err)
	}
	for path, want := range map[string]orderfile.Format{"A.CSV": orderfile.CSV, "a.jsonl": orderfile.JSON, "a.ndjson": orderfile.JSON, "a.json": orderfile.JSON, "a.yml": orderfile.YAML, "a.yaml": orderfile.YAML} {
		if got, err := orderfile.FormatOf(path); got != want || err != nil {
			t.Errorf("%s: %s %v", path, got, err)
		}
	}
}

func unwrapAll(err error) error {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		err = inner.Unwrap()
	}
}

// TestFormatsAgree: the same orders written in the three ways are the same.
func TestFormatsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var csv, jsonl, yaml strings.Builder
		csv.WriteString("id,names,key,company\n")
		for i := range rapid.IntRange(1, 5).Draw(t, "orders") {
			id := fmt.Sprintf("%s-%d", rapid.StringMatching(`[a-z0-9]{1,8}`).Draw(t, "id"), i)
			name := rapid.StringMatching(`(\*\.)?[a-z]{1,8}`).Draw(t, "name") + fmt.Sprintf("-%d.example.com", i)
			key := rapid.SampledFrom(order.KeyAlgorithms).Draw(t, "key")
			company := rapid.StringMatching(`[A-Za-z ,;'{}:#&*!-]{0,12}`).Draw(t, "company")
			fmt.Fprintf(&csv, "%s,%s,%s,\"%s\"\n", id, name, key, company)
			fmt.Fprintf(&jsonl, "{\"id\":%q,\"names\":[%q],\"key\":%q,\"company\":%q}\n", id, name, key, company)
			fmt.Fprintf(&yaml, "- id: %s\n  names: [\"%s\"]\n  key: %s\n  company: %q\n", id, name, key, company)
		}
		var all [][]order.Request
		for _, f := range []struct {
			format orderfile.Format
			text   string
		}{{orderfile.CSV, csv.String()}, {orderfile.JSON, jsonl.String()}, {orderfile.YAML, yaml.String()}} {
			lines, err := orderfile.DecodeBatch(strings.NewReader(f.text), f.format, "b")
			if err != nil {
				t.Fatal(err)
			}
			var requests []order.Request
			for _, l := range lines {
				if l.Err != nil {
					t.Fatalf("%s: %v\n%s", f.format, l.Err, f.text)
				}
				requests = append(requests, l.Request)
			}
			all = append(all, requests)
		}
		if !reflect.DeepEqual(all[0], all[1]) || !reflect.DeepEqual(all[0], all[2]) {
			t.Fatalf("csv  %+v\njson %+v\nyaml %+v", all[0], all[1], all[2])
		}
	})
}

// checkLines is what holds whatever the file.
func checkLines(t testing.TB, data []byte, lines []orderfile.Line) {
	last, most := 1, 1+strings.Count(string(data), "\n")
	ids := map[string]bool{}
	for _, l := range lines {
		if l.Number < last || l.Number > most {
			t.Fatalf("line %d after %d, of %d", l.Number, last, most)
		}
		last = l.Number
		if l.Err != nil {
			if l.Err.Error() == "" || l.Request.ID != "" && !order.ValidID(l.Request.ID) {
				t.Fatalf("line %d: %v, id %q", l.Number, l.Err, l.Request.ID)
			}
			continue
		}
		if err := l.Request.Validate(); err != nil {
			t.Fatalf("line %d was taken: %v", l.Number, err)
		}
		if ids[l.Request.ID] && l.Request.Again == "" {
			t.Fatalf("line %d: id %q twice", l.Number, l.Request.ID)
		}
		ids[l.Request.ID] = l.Request.Again == "" || ids[l.Request.ID]
	}
}

func fuzzFormat(f *testing.F, format orderfile.Format, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines, err := orderfile.DecodeBatch(strings.NewReader(string(data)), format, "b")
		if err == nil {
			checkLines(t, data, lines)
		}
	})
}

func FuzzCSV(f *testing.F) {
	fuzzFormat(f, orderfile.CSV, "id,names,labels\na,\"a.example.com\nb.example.com\",x=1\n\"\n", "names,csr,deadline\n,,\r\n\"\"\"", "\ufeffnames\nco.uk\n")
}

func FuzzJSON(f *testing.F) {
	fuzzFormat(f, orderfile.JSON, `{"id":"a","names":["a.example.com"]}`+"\n{\n}\n", `[{"id":"a"},7,`, "{\"a\":\"\\\n{")
}

func FuzzYAML(f *testing.F) {
	fuzzFormat(f, orderfile.YAML, "- id: a\n  names: [a.example.com]\n- b\n", "---\nid: &a |\n  x\n...\n--- {a: *a}\n", "[{id: a}, - , !!x y]", "? - a\n: <<: b\n", "\r8")
}
