package issuertest

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
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

// Record starts a recorder that answers every request with body.
func Record(t *testing.T, body string) *Recorder {
	rec := &Recorder{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := wireForm(r)
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

// wireForm writes a request line by line: parameters sorted, what differs from
// call to call replaced.
func wireForm(r *http.Request) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\n", r.Method, r.URL.Path, r.Proto)
	for _, name := range slices.Sorted(keys(r.Header)) {
		if value := r.Header.Get(name); !ignored[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, normal(name, value))
		}
	}
	writeParameters(&b, "query", r.URL.Query())
	body, _ := io.ReadAll(r.Body) // of the loopback
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		form, _ := url.ParseQuery(string(body))
		writeParameters(&b, "body", form)
	} else if len(body) > 0 {
		fmt.Fprintf(&b, "body %s\n", body)
	}
	return b.String()
}

func keys(h http.Header) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range h {
			if !yield(k) {
				return
			}
		}
	}
}

func writeParameters(b *bytes.Buffer, where string, values url.Values) {
	names := []string{}
	for n := range values {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		for _, v := range values[n] {
			fmt.Fprintf(b, "\n%s %s = %s", where, n, normal(n, v))
		}
	}
	b.WriteString("\n")
}

// ignored are headers that say nothing about the API.
var ignored = map[string]bool{"User-Agent": true, "X-Sdk-Core-Version": true, "X-Tc-Requestclient": true, "Accept-Encoding": true, "Content-Length": true}

var signature = regexp.MustCompile(`/\d{4}-\d\d-\d\d/|Signature=[0-9a-f]+`)

// normal replaces what is new in each call.
func normal(name, value string) string {
	switch name {
	case "Timestamp", "SignatureNonce", "Signature", "X-Tc-Timestamp":
		if value == "" {
			return "(EMPTY)"
		}
		return "(" + strings.ToLower(name) + ")"
	case "Authorization":
		return signature.ReplaceAllStringFunc(value, func(s string) string {
			if strings.HasPrefix(s, "/") {
				return "/(date)/"
			}
			return "Signature=(signature)"
		})
	}
	return strings.ReplaceAll(value, "\n", `\n`)
}
