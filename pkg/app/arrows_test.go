package app

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// rooms is the arrow rule: what each package may import of ours, besides its
// own subfolders' parents. Arrows point downward only.
var rooms = map[string][]string{
	"record":    {}, // how anything stored keeps what it does not know
	"stream":    {"record", "redact"},
	"durable":   {}, // files that are there as a whole or not at all
	"order":     {"record"},
	"orderfile": {"order"},
	"ledger":    {"order", "gap", "record", "stream", "durable"},
	"account":   {"order", "record", "stream"},
	"certstore": {"order", "durable"},
	"permit":    {}, // anybody could import it for limits of their own
	"memo":      {},
	"redact":    {}, // what this process knows as secret
	"cloudsim":  {}, // it must not share the product's mistakes
	"issuer":    {"order", "permit", "redact"},
	"dcv":       {"order", "issuer", "memo", "stream", "redact"},
	"pipeline":  {"order", "gap", "stream", "redact"},
	"stage":     {"order", "stream", "gap", "memo", "ledger", "account", "issuer", "dcv", "certstore", "pipeline"},
	"app":       {"order", "durable", "redact", "stream", "orderfile", "ledger", "account", "issuer", "dcv", "permit", "certstore", "pipeline", "stage", "cloudsim"},
	"lab":       {"order", "durable", "stream", "gap", "orderfile", "ledger", "account", "issuer", "dcv", "permit", "certstore", "pipeline", "stage", "cloudsim", "app"},
	"gap":       {},
	"natstest":  {}, // an embedded server for the tests
}

const module = "github.com/certmill/certmill/"

func TestArrowsPointDownward(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || strings.Contains(file, "testdata") {
			return err
		}
		if nested(file) {
			return nil
		}
		room := strings.Split(filepath.ToSlash(file), "/")[1]
		allowed, known := rooms[room]
		if !known {
			t.Errorf("%s: pkg/%s is no room of the map", file, room)
			return nil
		}
		seen[room] = true
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range parsed.Imports {
			target, ours := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), module+"pkg/")
			to := strings.Split(target, "/")[0]
			if ours && to != room && !contains(allowed, to) {
				t.Errorf("%s imports %s: an arrow from %s to %s points the wrong way", file, target, room, to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) < 12 {
		t.Errorf("only %d rooms were found: %v", len(seen), seen)
	}
}

// nested tells whether the file belongs to a module of its own, whose
// dependencies are not the product's.
func nested(file string) bool {
	for dir := path.Dir(filepath.ToSlash(file)); dir != ".." && dir != "."; dir = path.Dir(dir) {
		if ok, _ := filepath.Glob(filepath.Join(dir, "go.mod")); len(ok) > 0 {
			return true
		}
	}
	return false
}

// TestTestsOfTheSimulatorAreForeign: its tests import nothing of ours either.
func TestTestsOfTheSimulatorAreForeign(t *testing.T) {
	files, err := filepath.Glob("../cloudsim/*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests of the simulator: %v", err)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			if p := strings.Trim(i.Path.Value, `"`); strings.HasPrefix(p, module) && !strings.HasSuffix(p, "/pkg/cloudsim") {
				t.Errorf("%s imports %s", file, p)
			}
		}
	}
}
