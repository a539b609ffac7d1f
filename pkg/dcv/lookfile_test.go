package dcv_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/file"
	"github.com/certmill/certmill/pkg/order"
)

// webLooker looks at a web server that all hosts of example.com and example.net
// lie on.
func webLooker(t *testing.T, h http.Handler) *dcv.Looker {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	n, _ := strconv.Atoi(port)
	w := newWorld(t)
	for _, host := range []string{"example.com", "www.example.com", "a.www.example.com", "example.net"} {
		w.resolver.add(t, ".", host+" 60 IN A 127.0.0.1")
	}
	return newLooker(t, dcv.LookerConfig{Resolvers: []string{w.resolverAddr()}, HTTPPort: n, Timeout: time.Second, Allow: loopback})
}

func fileAt(host, path string) order.Challenge {
	return order.Challenge{Name: host, Type: dcv.FILE, Host: host, Path: path, Value: "value"}
}

func TestLookForFile(t *testing.T) {
	dir := t.TempDir()
	s, c := file.Solver{Dir: dir}, fileAt("www.example.com", "/.well-known/pki-validation/fileauth.txt")
	l := webLooker(t, file.Handler(dir))
	const at = "http://www.example.com/.well-known/pki-validation/fileauth.txt: "
	wantLook(t, l, c, at+"status 404")
	must(t, s.Present(t.Context(), c))
	wantLook(t, l, c)
	other := c
	other.Value = "another"
	wantLook(t, l, other, at+`holds "value", not "another"`)
	must(t, s.CleanUp(t.Context(), c))
	wantLook(t, l, c, at+"status 404")
}

func TestLookForFileOnStrangeServers(t *testing.T) {
	mux := http.NewServeMux()
	for path, to := range map[string]string{"/one": "/good", "/two": "http://a.www.example.com/one", "/three": "/two",
		"/away": "http://example.net/good", "/port": "http://www.example.com:8080/good", "/loop": "/loop", "/file": "file:///etc/hostname"} {
		mux.Handle(path, http.RedirectHandler(to, http.StatusFound))
	}
	mux.HandleFunc("/good", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "\n value\r\n") })
	mux.HandleFunc("/long", func(w http.ResponseWriter, r *http.Request) {
		for range 200 {
			fmt.Fprint(w, strings.Repeat("\n", 1<<10))
		}
		fmt.Fprint(w, "value")
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
		fmt.Fprint(w, "value")
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "value")
	})
	mux.HandleFunc("/error", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, "value")
	})
	l := webLooker(t, mux)
	for path, want := range map[string]string{
		"/good": "", "/one": "", "/two": "",
		"/three": "more than 2 redirects", "/loop": "more than 2 redirects",
		"/away": "another domain", "/port": "port", "/file": "scheme",
		"/long": `holds ""`, "/headers": "header", "/cut": "breaks the connection off", "/error": "status 500",
	} {
		got, err := l.Look(t.Context(), fileAt("www.example.com", path))
		must(t, err)
		switch {
		case want == "" && !got.Seen:
			t.Errorf("%s: %v, want it to be seen", path, got.Missing)
		case want != "" && (got.Seen || len(got.Missing) != 1 || !strings.Contains(got.Missing[0], want)):
			t.Errorf("%s: %+v, want %q", path, got, want)
		}
	}
	got, err := l.Look(t.Context(), fileAt("nowhere.example.com", "/good"))
	must(t, err)
	if got.Seen || len(got.Missing) != 1 || !strings.Contains(got.Missing[0], "nowhere.example.com has no address") {
		t.Errorf("a host without an address: %+v", got)
	}
}
