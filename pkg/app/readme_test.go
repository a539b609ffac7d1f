package app

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the generated tables of the README")

// TestReadmeTables holds the README's tables against the code.
func TestReadmeTables(t *testing.T) {
	const path = "../../README.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for name, table := range map[string]string{"settings": Table(), "fields": Fields()} {
		before, rest, ok := strings.Cut(text, "<!-- "+name+" -->\n")
		was, after, ok2 := strings.Cut(rest, "<!-- end -->")
		if !ok || !ok2 {
			t.Fatalf("the README has no place for the table of %s", name)
		}
		if want := "\n" + table + "\n"; was != want && !*update {
			t.Errorf("the README's table of %s is not the code's; go test ./pkg/app -run Readme -update", name)
		}
		text = before + "<!-- " + name + " -->\n\n" + table + "\n<!-- end -->" + after
	}
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
