package file_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/file"
	"github.com/certmill/certmill/pkg/dcv/file/bucket"
	"github.com/certmill/certmill/pkg/dcv/file/shared"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// place is where files are put, as two workers have it.
type place struct {
	a, b dcv.Solver
	// shown is what the public gets, "" if nothing.
	shown func(host, path string) string
	// left counts what is stored.
	left func() int
	// exclusive: of several who create at the same moment, one succeeds.
	exclusive bool
}

// places are all of them: a new one is one line here.
var places = map[string]func(*testing.T) place{
	"folder":  inFolder,
	"shared":  inNATS,
	"memory":  inMemory,
	"S3":      func(t *testing.T) place { return inS3(t, true) },
	"like S3": func(t *testing.T) place { return inS3(t, false) }, // does not heed If-None-Match
}

// each runs a test at all places.
func each(t *testing.T, run func(*testing.T, place)) {
	for name, open := range places {
		t.Run(name, func(t *testing.T) { run(t, open(t)) })
	}
}

func inFolder(t *testing.T) place {
	dir := t.TempDir()
	return place{a: file.Solver{Dir: dir}, b: file.Solver{Dir: dir}, shown: served(file.Handler(dir)), exclusive: true,
		left: func() int {
			all, err := os.ReadDir(dir)
			must(t, err)
			return len(all)
		}}
}

func inNATS(t *testing.T) place {
	server := natstest.Server(t)
	open := func() (*shared.Solver, jetstream.JetStream) {
		js := natstest.Connect(t, server)
		_, err := stream.Ensure(t.Context(), js, shared.Config(1))
		must(t, err)
		s, err := shared.Open(t.Context(), js, 1)
		must(t, err)
		return s, js
	}
	a, js := open()
	b, _ := open()
	return place{a: a, b: b, shown: served(b.Handler()), exclusive: true, left: func() int {
		bucket, err := js.Stream(t.Context(), "KV_"+shared.Bucket)
		must(t, err)
		return int(bucket.CachedInfo().State.Msgs)
	}}
}

func inMemory(t *testing.T) place {
	b := memblob.OpenBucket(nil)
	t.Cleanup(func() { b.Close() })
	return place{a: bucket.New(b), b: bucket.New(b), exclusive: true,
		shown: func(host, path string) string {
			data, _ := b.ReadAll(context.Background(), host+path)
			return string(data)
		},
		left: func() (n int) {
			for all := b.List(&blob.ListOptions{}); ; n++ {
				if _, err := all.Next(t.Context()); err == io.EOF {
					return n
				} else {
					must(t, err)
				}
			}
		}}
}

// store speaks as much of the S3 protocol as is used: objects by path, signed,
// created on condition.
type store struct {
	heeds bool // If-None-Match

	mu      sync.Mutex
	objects map[string]string
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	content, there := s.objects[r.URL.Path]
	refuse := func(status int, code string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>refused</Message></Error>`, code)
	}
	switch {
	case err != nil || !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIDtest/"):
		refuse(http.StatusForbidden, "AccessDenied")
	case r.Header.Get("X-Amz-Trailer") != "" || r.Header.Get("X-Amz-Sdk-Checksum-Algorithm") != "": // as OSS says
		refuse(http.StatusBadRequest, "InvalidArgument")
	case r.Method == http.MethodPut && there && s.heeds && r.Header.Get("If-None-Match") == "*":
		refuse(http.StatusPreconditionFailed, "PreconditionFailed")
	case r.Method == http.MethodPut:
		s.objects[r.URL.Path] = string(body)
	case !there:
		refuse(http.StatusNotFound, "NoSuchKey")
	case r.Method == http.MethodDelete:
		delete(s.objects, r.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	default:
		fmt.Fprint(w, content)
	}
}

func inS3(t *testing.T, heeds bool) place {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDtest")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	s := &store{heeds: heeds, objects: map[string]string{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	open := func() dcv.Solver {
		b, err := bucket.Open(t.Context(), "s3://challenges?region=oss-cn-hangzhou&use_path_style=true&endpoint="+server.URL)
		must(t, err)
		t.Cleanup(func() { b.Close() })
		return b
	}
	return place{a: open(), b: open(), exclusive: heeds,
		shown: func(host, path string) string {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.objects["/challenges/"+host+path]
		},
		left: func() int {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.objects)
		}}
}

func served(h http.Handler) func(host, path string) string {
	return func(host, path string) string {
		if got := get(h, "GET", host, path); got.Code == http.StatusOK {
			return got.Body.String()
		}
		return ""
	}
}

const authFile = "/.well-known/pki-validation/fileauth.txt"

func (p place) wantShown(t *testing.T, host, want string) {
	t.Helper()
	if got := p.shown(host, authFile); got != want {
		t.Errorf("%s shows %q, want %q", host, got, want)
	}
}

func (p place) wantLeft(t *testing.T, want int) {
	t.Helper()
	if got := p.left(); got != want {
		t.Errorf("%d things are left, want %d", got, want)
	}
}

func TestContractIdempotent(t *testing.T) {
	each(t, func(t *testing.T, p place) {
		one, two := challenge("www.example.com", "one"), challenge("Example.COM", "two")
		for _, s := range []dcv.Solver{p.a, p.b, p.a} {
			must(t, s.Present(t.Context(), one))
			must(t, s.Present(t.Context(), two))
		}
		p.wantShown(t, "www.example.com", "one")
		p.wantShown(t, "example.com", "two")
		p.wantShown(t, "other.example.com", "")
		for _, s := range []dcv.Solver{p.b, p.a, p.b} {
			must(t, s.CleanUp(t.Context(), one))
		}
		p.wantShown(t, "www.example.com", "")
		p.wantShown(t, "example.com", "two")
		must(t, p.a.CleanUp(t.Context(), two))
		p.wantLeft(t, 0)
	})
}

// All orders of a host have the same path at one of the clouds: the second waits
// until the first has ended.
func TestContractOneAfterTheOther(t *testing.T) {
	each(t, func(t *testing.T, p place) {
		first, second := challenge("example.com", "first"), challenge("example.com", "second")
		must(t, p.a.Present(t.Context(), first))
		if err := p.b.Present(t.Context(), second); !errors.Is(err, dcv.Conflict) {
			t.Errorf("the second: got %v, want a conflict", err)
		}
		for _, other := range []string{"second", "firs", "first ", "First"} { // none has exactly this content
			must(t, p.b.CleanUp(t.Context(), challenge("example.com", other)))
		}
		p.wantShown(t, "example.com", "first")
		must(t, p.b.CleanUp(t.Context(), first)) // the collector does it
		must(t, p.b.Present(t.Context(), second))
		must(t, p.a.CleanUp(t.Context(), first)) // once more, late
		p.wantShown(t, "example.com", "second")
		must(t, p.a.CleanUp(t.Context(), second))
		p.wantLeft(t, 0)
	})
}

func TestContractHas(t *testing.T) {
	each(t, func(t *testing.T, p place) {
		mine, other := challenge("example.com", "mine"), challenge("example.com", "other")
		want := func(c order.Challenge, want bool) {
			t.Helper()
			if got, err := p.b.(dcv.Haser).Has(t.Context(), c); err != nil || got != want {
				t.Errorf("has %q: %v, %v, want %v", c.Value, got, err, want)
			}
		}
		want(mine, false)
		must(t, p.a.Present(t.Context(), mine))
		want(mine, true)
		want(other, false)
		must(t, p.a.CleanUp(t.Context(), mine))
		want(mine, false)
	})
}

func TestContractRefusesWhatIsNoFileOfAHost(t *testing.T) {
	const good = "/.well-known/pki-validation/x.txt"
	var bad []order.Challenge
	for _, c := range []struct{ host, path string }{
		{"..", good}, {".", good}, {"", good}, {"../x", good}, {"a/b", good}, {"example.com:80", good}, {"a..b", good},
		{`..\x`, good}, {"example.com\x00", good}, {"*.example.com", good}, {".certmill-x", good}, {strings.Repeat("a.", 200) + "com", good},
		{"example.com", ""}, {"example.com", "/"}, {"example.com", "/index.html"}, {"example.com", ".well-known/x"},
		{"example.com", "/.well-known/"}, {"example.com", "/.well-known/../../../x"}, {"example.com", "/.well-known/../index.html"},
		{"example.com", "/.well-known/./x"}, {"example.com", "/.well-known//x"}, {"example.com", "/.well-known/x/"},
		{"example.com", `/.well-known/..\..\x`}, {"example.com", "/.well-known/x\x00"}, {"example.com", "/.well-known/" + strings.Repeat("x", 600)},
	} {
		bad = append(bad, order.Challenge{Type: dcv.FILE, Host: c.host, Path: c.path, Value: "value"})
	}
	bad = append(bad, order.Challenge{Type: dcv.TXT, Host: "example.com", Path: good, Value: "v"}, order.Challenge{Type: dcv.FILE, Host: "example.com", Path: good},
		order.Challenge{Type: dcv.FILE, Host: "example.com", Path: good, Value: strings.Repeat("x", 100<<10)})
	each(t, func(t *testing.T, p place) {
		for _, c := range bad {
			if err := p.a.Present(t.Context(), c); !errors.Is(err, dcv.Denied) {
				t.Errorf("present %q %.50q: got %v, want denied", c.Host, c.Path, err)
			}
			if err := p.a.CleanUp(t.Context(), c); !errors.Is(err, dcv.Denied) {
				t.Errorf("clean up %q %.50q: got %v, want denied", c.Host, c.Path, err)
			}
		}
		p.wantLeft(t, 0)
	})
}

// Orders of one host come and go at once; folders are made and removed under
// each other.
func TestContractConcurrent(t *testing.T) {
	each(t, func(t *testing.T, p place) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				c := challenge("example.com", fmt.Sprint("value ", i))
				c.Path = fmt.Sprintf("/.well-known/pki-validation/%d.txt", i)
				for range 10 {
					if err := p.a.Present(t.Context(), c); err != nil {
						t.Error(err)
					}
					if got := p.shown("example.com", c.Path); got != c.Value {
						t.Errorf("%s shows %q", c.Path, got)
					}
					if err := p.b.CleanUp(t.Context(), c); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		p.wantLeft(t, 0)
	})
}

// Several want the same path at the same moment. One gets it, and the others are
// told of the conflict; nobody's content is replaced or removed.
func TestContractRivals(t *testing.T) {
	each(t, func(t *testing.T, p place) {
		for range 10 {
			var mu sync.Mutex
			var won []order.Challenge
			var wg sync.WaitGroup
			for i := range 6 {
				wg.Go(func() {
					c := challenge("example.com", fmt.Sprint("value ", i))
					err := []dcv.Solver{p.a, p.b}[i%2].Present(t.Context(), c)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						won = append(won, c)
					} else if !errors.Is(err, dcv.Conflict) {
						t.Errorf("rival %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			if len(won) == 0 || p.exclusive && len(won) != 1 {
				t.Fatalf("%d of 6 rivals were told that it is theirs", len(won))
			}
			shown := p.shown("example.com", authFile)
			for _, c := range won {
				// Where the store cannot create exclusively, a later one may have
				// replaced it; the next visit tells.
				if err := p.a.Present(t.Context(), c); (err == nil) != (c.Value == shown) {
					t.Errorf("%q is shown, and %q is told %v", shown, c.Value, err)
				}
			}
			for _, c := range won {
				must(t, p.b.CleanUp(t.Context(), c))
			}
			p.wantLeft(t, 0)
		}
	})
}

// Nobody but init makes the bucket; one that could forget a file, or would show
// an old one, is refused.
func TestBucketIsVerified(t *testing.T) {
	js := natstest.Connect(t, natstest.Server(t))
	if _, err := shared.Open(t.Context(), js, 1); !errors.Is(err, stream.ErrMissing) {
		t.Errorf("with no bucket: %v", err)
	}
	for name := range js.StreamNames(t.Context()).Name() {
		t.Errorf("%s was made", name)
	}
	short := shared.Config(1)
	short.MaxAge, short.AllowDirect = time.Hour, true
	_, err := stream.Ensure(t.Context(), js, short)
	must(t, err)
	if _, err := shared.Open(t.Context(), js, 1); err == nil || !errors.As(err, new(*stream.Differs)) {
		t.Errorf("of one that forgets: %v", err)
	}
}

// A request for what strangers may not see learns nothing.
func TestContractHandler(t *testing.T) {
	server := natstest.Server(t)
	js := natstest.Connect(t, server)
	_, err := stream.Ensure(t.Context(), js, shared.Config(1))
	must(t, err)
	s, err := shared.Open(t.Context(), js, 1)
	must(t, err)
	must(t, s.Present(t.Context(), challenge("www.example.com", "value")))
	for _, r := range []struct {
		method, host, path string
		want               int
	}{
		{"GET", "www.example.com", authFile, 200}, {"GET", "WWW.example.com.:8080", authFile, 200}, {"HEAD", "www.example.com", authFile, 200},
		{"POST", "www.example.com", authFile, 405}, {"DELETE", "www.example.com", authFile, 405}, {"OPTIONS", "www.example.com", authFile, 405},
		{"GET", "example.com", authFile, 404}, {"GET", "", authFile, 404}, {"GET", "*", authFile, 404}, {"GET", "www.example.com", "/", 404},
		{"GET", "www.example.com", "/.well-known/pki-validation/", 404}, {"GET", "www.example.com", "/.well-known/pki-validation/../pki-validation/fileauth.txt", 404},
	} {
		got := get(s.Handler(), r.method, r.host, r.path)
		if got.Code != r.want || got.Code != 200 && strings.Contains(got.Body.String(), "value") {
			t.Errorf("%s %s%s: %d %q, want %d", r.method, r.host, r.path, got.Code, got.Body, r.want)
		}
	}
	server.Shutdown()
	if got := get(s.Handler(), "GET", "www.example.com", authFile); got.Code != http.StatusServiceUnavailable || strings.Contains(got.Body.String(), "nats") {
		t.Errorf("without NATS: %d %q, want 503 without a reason", got.Code, got.Body)
	}
}

func TestBucketURL(t *testing.T) {
	for _, address := range []string{"", "challenges", "s3://", "nfs://server/export", "s3://key:secret@challenges", "s3://challenges?no_such_option=1", "file:///var/www", "://"} {
		s, err := bucket.Open(t.Context(), address)
		if err == nil {
			s.Close()
			t.Errorf("%q was taken", address)
		} else if strings.Contains(err.Error(), "secret@") {
			t.Errorf("%q: the error shows what could be a secret: %v", address, err)
		}
	}
}
