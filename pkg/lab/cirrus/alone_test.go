package cirrus_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNobodyKnowsIt: nothing outside this folder names the cloud, so that none of
// certmill's programs has it; and the cloud itself shares nothing with those who
// order from it.
func TestNobodyKnowsIt(t *testing.T) {
	seen := 0
	for _, root := range []string{"../../../pkg", "../../../cmd"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "cirrus":
				return fs.SkipDir
			case d.IsDir() || !strings.HasSuffix(path, ".go"):
				return nil
			}
			text, err := os.ReadFile(path)
			if seen++; strings.Contains(strings.ToLower(string(text)), "cirrus") {
				t.Errorf("%s names the cloud", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob("sky/*.go")
	if err != nil || len(files) == 0 || seen < 100 {
		t.Fatalf("looked at %d files and at %v: %v", seen, files, err)
	}
	for _, path := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			if strings.Contains(i.Path.Value, "certmill/certmill") {
				t.Errorf("%s imports %s", path, i.Path.Value)
			}
		}
	}
}
