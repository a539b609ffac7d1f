package app

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// exempt are the places where vendors may be named, each with its reason. A
// folder's name ends in a slash.
var exempt = map[string]string{
	"pkg/issuer/aliyun/":  "a vendor's own room",
	"pkg/issuer/tencent/": "a vendor's own room",
	"pkg/dcv/alidns/":     "a vendor's own DNS",
	"pkg/dcv/dnspod/":     "a vendor's own DNS",
	"pkg/cloudsim/":       "it is the vendors, as their documents have them",
	"pkg/lab/":            "rivals call the clouds without the product's rooms, and faults are set by action",
}

// tagged are files in which the keys of the config, and the sentences of the
// README's table about them, name vendors: in the tags of fields, nowhere else.
var tagged = []string{"pkg/app/config.go", "pkg/app/solvers.go"}

// table has one line for each vendor, besides its imports.
const table = "pkg/app/clouds.go"

// vendorWords are the names of vendors and of their products, in whatever
// spelling, and the fields of their APIs that have no other meaning.
var vendorWords = []string{
	`(?i:aliyun|alibaba|aliyuncs|alidns|yundun)`, `(?i:tencent|dnspod|qcloud|myqcloud)`, `(?i:huawei|trustasia)`,
	`\bCAS\b`, `\bOSS\b`, `\bCOS\b`, `\bRAM\b`, `\bCAM\b`, `\bTC3\b`,
	`\b(UsedCount|ProductCode|ValidateType|DomainVerifyType|VerifyType|InstanceId|CertificateId|CertId|ParentUid|Uin|DvAuth\w*|RecordDomain|OrderType|CPACK)\b`,
	`(?i:digicert-|symantec-|geotrust-|globalsign-|cfca-)\w+`, // product codes
}

// forbidden is what may stand in no other place: the words above, and every API
// action that certmill calls.
func forbidden() *regexp.Regexp {
	words := slices.Clone(vendorWords)
	for _, p := range vendors() {
		for _, call := range p.calls() {
			words = append(words, `\b`+regexp.QuoteMeta(call.Action)+`\b`)
		}
	}
	return regexp.MustCompile(strings.Join(words, "|"))
}

// TestVendorsAreNamedInTheirRooms: a vendor, one of its API actions or of its
// fields is named, in code, texts and comments, only where it is at home.
func TestVendorsAreNamedInTheirRooms(t *testing.T) {
	words, seen := forbidden(), map[string]bool{}
	for _, action := range []string{"CreateCertificateForPackageRequest", "CompleteCertificate", "OperateBatchDomain", "CreateRecordBatch", "GetCallerIdentity"} {
		if !words.MatchString(action) {
			t.Fatalf("%s is not looked for", action)
		}
	}
	if words.MatchString("x509.CreateCertificateRequest of the CAs") {
		t.Fatal("what is nobody's is looked for")
	}
	files := 0
	for top, is := range map[string]string{"..": "pkg", "../../cmd": "cmd"} {
		err := filepath.WalkDir(top, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return err
			}
			name := is + filepath.ToSlash(strings.TrimPrefix(file, top))
			if place := home(name); place != "" {
				seen[place] = seen[place] || words.MatchString(read(t, file))
				return nil
			}
			files++
			for _, found := range vendorsIn(t, file, name, words) {
				t.Errorf("%s: %s", name, found)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 100 {
		t.Errorf("only %d files were looked at", files)
	}
	for place := range exempt {
		if !seen[place] {
			t.Errorf("%s names no vendor, or is not there: it needs no exception", place)
		}
	}
}

// home is the exempt place that a file lies in.
func home(name string) string {
	for place := range exempt {
		if strings.HasPrefix(name, place) {
			return place
		}
	}
	return ""
}

// vendorsIn finds the words in a file, with their lines.
func vendorsIn(t *testing.T, file, name string, words *regexp.Regexp) (found []string) {
	t.Helper()
	text := []byte(read(t, file))
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, text, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range allowed(t, set, parsed, name) {
		for i := set.Position(n.Pos()).Offset; i < set.Position(n.End()).Offset; i++ {
			if text[i] != '\n' {
				text[i] = ' '
			}
		}
	}
	for i, line := range strings.Split(string(text), "\n") {
		for _, word := range words.FindAllString(line, -1) {
			found = append(found, fmt.Sprintf("line %d names %s", i+1, word))
		}
	}
	return found
}

// allowed are the parts of a file that may name vendors: the tags of a config's
// fields, and in the table its imports and one line for each vendor.
func allowed(t *testing.T, set *token.FileSet, f *ast.File, name string) (all []ast.Node) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			if n.Tag != nil && slices.Contains(tagged, name) {
				all = append(all, n.Tag)
			}
		case *ast.ImportSpec:
			if name == table {
				all = append(all, n)
			}
		case *ast.ValueSpec:
			if name == table && n.Names[0].Name == "clouds" {
				all = append(all, tableRows(t, set, n)...)
			}
		}
		return true
	})
	return all
}

// tableRows are the lines of the table, which must be as many as there are vendors.
func tableRows(t *testing.T, set *token.FileSet, table *ast.ValueSpec) (all []ast.Node) {
	for _, row := range table.Values[0].(*ast.CompositeLit).Elts {
		if from, to := set.Position(row.Pos()).Line, set.Position(row.End()).Line; from != to {
			t.Errorf("the row of the table in line %d has more than one line", from)
		}
		all = append(all, row)
	}
	if len(all) != len(vendors()) {
		t.Errorf("the table has %d rows for %d vendors", len(all), len(vendors()))
	}
	return all
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
