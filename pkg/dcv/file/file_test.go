package file_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/file"
	"github.com/certmill/certmill/pkg/order"
)

func challenge(host, value string) order.Challenge {
	return order.Challenge{Name: host, Type: dcv.FILE, Host: host, Path: "/.well-known/pki-validation/fileauth.txt", Value: value}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree lists what is below dir, files with content and mode.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if !d.IsDir() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			name += fmt.Sprintf(" %v %s", info.Mode(), content)
		}
		all = append(all, name)
		return nil
	}))
	return all
}

func wantTree(t *testing.T, dir string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Fatalf("folder (-want +got):\n%s", diff)
	}
}

func TestPresentAndCleanUp(t *testing.T) {
	dir := t.TempDir()
	s := file.Solver{Dir: dir}
	one, two := challenge("www.example.com", "one"), challenge("Example.com", "two")
	two.Path = "/.well-known/pki-validation/other.txt"
	for _, c := range []order.Challenge{one, two, one} {
		must(t, s.Present(t.Context(), c))
	}
	wantTree(t, dir, "example.com", "example.com/.well-known", "example.com/.well-known/pki-validation",
		"example.com/.well-known/pki-validation/other.txt -rw-r--r-- two",
		"www.example.com", "www.example.com/.well-known", "www.example.com/.well-known/pki-validation",
		"www.example.com/.well-known/pki-validation/fileauth.txt -rw-r--r-- one")
	for _, c := range []order.Challenge{one, two, one} {
		must(t, s.CleanUp(t.Context(), c))
	}
	wantTree(t, dir)
}

func TestOthersStay(t *testing.T) {
	dir := t.TempDir()
	s := file.Solver{Dir: dir}
	must(t, s.Present(t.Context(), challenge("example.com", "theirs")))
	must(t, os.WriteFile(filepath.Join(dir, "example.com", "index.html"), []byte("site"), 0o600))
	before := tree(t, dir)
	if err := s.Present(t.Context(), challenge("example.com", "mine")); !errors.Is(err, dcv.Conflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	must(t, s.CleanUp(t.Context(), challenge("example.com", "mine")))
	must(t, s.CleanUp(t.Context(), challenge("example.com", "their")))
	wantTree(t, dir, before...)
	must(t, s.CleanUp(t.Context(), challenge("example.com", "theirs")))
	wantTree(t, dir, "example.com", "example.com/index.html -rw------- site")
}

func TestLinksDoNotLeadOut(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	must(t, os.Symlink(outside, filepath.Join(dir, "example.com")))
	if err := (file.Solver{Dir: dir}).Present(t.Context(), challenge("example.com", "value")); err == nil {
		t.Error("wrote through a link that leads out of the folder")
	}
	wantTree(t, outside)
}

func TestMissingFolderIsTriedAgain(t *testing.T) {
	s := file.Solver{Dir: filepath.Join(t.TempDir(), "not mounted")}
	if err := s.Present(t.Context(), challenge("example.com", "value")); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, dcv.Denied) {
		t.Errorf("got %v, want an error that says try again", err)
	}
}

func get(h http.Handler, method, host, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/", nil)
	r.Host, r.URL.Path = host, path
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestHandler(t *testing.T) {
	dir := t.TempDir()
	c := challenge("www.example.com", "value")
	must(t, file.Solver{Dir: dir}.Present(t.Context(), c))
	must(t, os.WriteFile(filepath.Join(dir, "www.example.com", "secret"), []byte("secret"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, ".certmill-x.tmp"), []byte("secret"), 0o600))
	h := file.Handler(dir)
	for _, r := range []struct {
		method, host, path string
		want               int
	}{
		{"GET", "www.example.com", c.Path, 200},
		{"GET", "WWW.example.com:8080", c.Path, 200},
		{"HEAD", "www.example.com", c.Path, 200},
		{"POST", "www.example.com", c.Path, 405},
		{"GET", "example.com", c.Path, 404},
		{"GET", "", c.Path, 404},
		{"GET", "..", c.Path, 404},
		{"GET", "www.example.com", "/secret", 404},
		{"GET", "www.example.com", "/.well-known/../secret", 404},
		{"GET", "www.example.com", "/.well-known/pki-validation", 404}, // a folder
		{"GET", "www.example.com", "/.certmill-x.tmp", 404},
	} {
		got := get(h, r.method, r.host, r.path)
		if got.Code != r.want || strings.Contains(got.Body.String(), "secret") {
			t.Errorf("%s %s%s: %d %q, want %d", r.method, r.host, r.path, got.Code, got.Body, r.want)
		}
		if r.want == 200 && r.method == "GET" && got.Body.String() != "value" {
			t.Errorf("%s%s serves %q", r.host, r.path, got.Body)
		}
	}
}
