package issuertest

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Recorder is a server that writes down what it is sent and always gives the
// same answer.
type Recorder struct {
	URL string

	mu   sync.Mutex
	seen []string
}

// Steady tells how a header or parameter is written down, so that what differs
// from call to call does not show, or that it is not: because it says nothing of
// the API.
type Steady func(name, value string) (shown string, ok bool)

// Record starts a recorder that answers every request with body.
func Record(t *testing.T, body string, steady Steady) *Recorder {
	rec := &Recorder{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := wireForm(r, steady)
		rec.mu.Lock()
		rec.seen = append(rec.seen, text)
		rec.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	rec.URL = server.URL
	return rec
}

// Requests are the requests so far, in the form of the golden files.
func (r *Recorder) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

// Golden compares got with testdata/<name>.golden; -update rewrites the file.
func Golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: the wire changed; -update if this is meant\n--- want\n%s\n--- got\n%s", file, want, got)
	}
}

// wireForm writes a request line by line, parameters sorted.
func wireForm(r *http.Request, steady Steady) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\n", r.Method, r.URL.Path, r.Proto)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if shown, ok := steady(name, r.Header.Get(name)); ok && !ofHTTP[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, oneLine(shown))
		}
	}
	writeParameters(&b, "query", r.URL.Query(), steady)
	body, _ := io.ReadAll(r.Body) // of the loopback
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		form, _ := url.ParseQuery(string(body))
		writeParameters(&b, "body", form, steady)
	} else if len(body) > 0 {
		fmt.Fprintf(&b, "body %s\n", body)
	}
	return b.String()
}

func writeParameters(b *bytes.Buffer, where string, values url.Values, steady Steady) {
	for _, n := range slices.Sorted(maps.Keys(values)) {
		for _, v := range values[n] {
			if shown, ok := steady(n, v); ok {
				fmt.Fprintf(b, "\n%s %s = %s", where, n, oneLine(shown))
			}
		}
	}
	b.WriteString("\n")
}

// ofHTTP are headers that no API cares about.
var ofHTTP = map[string]bool{"User-Agent": true, "Accept-Encoding": true, "Content-Length": true}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", `\n`) }

// Changing is what is written in place of a value that is another one in each
// call: that it was there.
func Changing(name, value string) string {
	if value == "" {
		return "(EMPTY)"
	}
	return "(" + strings.ToLower(name) + ")"
}
