package hook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/dcvtest"
	"github.com/certmill/certmill/pkg/dcv/hook"
	"github.com/certmill/certmill/pkg/order"
)

// zone is somebody's DNS behind a hook, in a file, so that programs can share it.
type zone struct {
	path string
	lock string
}

func newZone(t *testing.T) zone {
	dir := t.TempDir()
	z := zone{filepath.Join(dir, "zone"), filepath.Join(dir, "lock")}
	if err := os.WriteFile(z.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return z
}

func (z zone) content(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(z.path)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
	slices.Sort(all)
	return all
}

type asked struct{ Action, Type, Name, Value, Zone string }

// do is what a hook has to do; it returns an HTTP status.
func (z zone) do(a asked) (int, error) {
	lock, err := os.OpenFile(z.lock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return 0, err
	}
	data, err := os.ReadFile(z.path)
	if err != nil {
		return 0, err
	}
	mine := fmt.Sprintf("%s %s %q", a.Name, a.Type, a.Value)
	var keep []string
	there := false
	for _, line := range strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' }) {
		name, rest, _ := strings.Cut(line, " ")
		kind, _, _ := strings.Cut(rest, " ")
		if line == mine {
			there = true
			continue
		}
		if a.Action == "present" && name == a.Name && (kind == "CNAME" || a.Type == "CNAME") {
			return http.StatusConflict, nil
		}
		keep = append(keep, line)
	}
	switch {
	case a.Name != "example.com" && !strings.HasSuffix(a.Name, ".example.com"):
		return http.StatusNotFound, nil
	case a.Action == "present" && there, a.Action == "cleanup" && !there:
		return http.StatusNoContent, nil
	case a.Action == "present":
		keep = append(keep, mine)
	}
	return http.StatusOK, os.WriteFile(z.path, []byte(strings.Join(keep, "\n")), 0o600)
}

func (z zone) target(s dcv.Solver, many int) dcvtest.Target {
	return dcvtest.Target{
		Solver: s, Zone: "example.com", Longest: 1200, Odd: []string{`a "quoted" \ thing; é中`}, Many: many, Content: z.content,
		Put: func(t *testing.T, name, kind, value string) {
			if status, err := z.do(asked{Action: "present", Type: kind, Name: name, Value: value}); err != nil || status >= 300 {
				t.Fatalf("put %s: %d, %v", name, status, err)
			}
		},
	}
}

func TestWebhookKeepsTheContract(t *testing.T) {
	dcvtest.Run(t, func(t *testing.T) dcvtest.Target {
		z := newZone(t)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var a asked
			if err := json.NewDecoder(r.Body).Decode(&a); err != nil || r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer secret-token" {
				t.Errorf("%s, %v, %v", r.Method, r.Header, err)
			}
			status, err := z.do(a)
			if err != nil {
				t.Error(err)
			}
			w.WriteHeader(status)
		}))
		t.Cleanup(server.Close)
		s, err := hook.NewWebhook(hook.WebhookConfig{URL: server.URL + "/dns", Token: "secret-token"})
		if err != nil {
			t.Fatal(err)
		}
		return z.target(s, 100)
	})
}

// TestMain is also the program of the tests: it is this binary with a variable.
func TestMain(m *testing.M) {
	path := os.Getenv("HOOK_TEST_ZONE")
	if path == "" {
		os.Exit(m.Run())
	}
	var a asked
	if err := json.NewDecoder(os.Stdin).Decode(&a); err != nil {
		os.Exit(65)
	}
	status, err := zone{path, path + ".lock"}.do(a)
	switch {
	case err != nil:
		os.Exit(75)
	case status == http.StatusConflict:
		os.Exit(73)
	case status == http.StatusNotFound:
		os.Exit(68)
	}
	os.Exit(0)
}

func TestProgramKeepsTheContract(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dcvtest.Run(t, func(t *testing.T) dcvtest.Target {
		z := newZone(t)
		z.lock = z.path + ".lock"
		t.Setenv("HOOK_TEST_ZONE", z.path)
		t.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector would sleep a second at each end
		s, err := hook.NewProgram(hook.ProgramConfig{Command: []string{self}, Env: []string{"HOOK_TEST_ZONE", "GORACE"}})
		if err != nil {
			t.Fatal(err)
		}
		return z.target(s, 30)
	})
}

var challenge = order.Challenge{Type: dcv.TXT, Host: "_dnsauth.www.Example.com.", Value: "value"}

// wantKind wants the kind, or none for "".
func wantKind(t *testing.T, what string, err error, kind dcv.Kind) {
	t.Helper()
	for _, k := range []dcv.Kind{dcv.NoZone, dcv.Conflict, dcv.Denied} {
		if errors.Is(err, k) != (k == kind) || err == nil {
			t.Errorf("%s: got %v, want the kind %q", what, err, kind)
		}
	}
}

func TestWebhookAnswers(t *testing.T) {
	var got []string
	var mu sync.Mutex
	status := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.URL.Path+" "+string(body))
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		_, _ = w.Write([]byte("no such thing \x1b[31m" + strings.Repeat("x", 10_000)))
	}))
	defer server.Close()
	s, err := hook.NewWebhook(hook.WebhookConfig{URL: server.URL + "/hook", Zones: []string{"com", "Example.com.", "ww.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	for code, kind := range map[int]dcv.Kind{404: dcv.NoZone, 409: dcv.Conflict, 401: dcv.Denied, 403: dcv.Denied, 400: dcv.Denied, 422: dcv.Denied,
		302: "", 307: "", 408: "", 429: "", 500: "", 503: ""} {
		status = code
		err := s.Present(t.Context(), challenge)
		wantKind(t, fmt.Sprint(code), err, kind)
		if len(err.Error()) > 1000 || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "no such thing") {
			t.Errorf("%d is told in %d bytes: %.200s", code, len(err.Error()), err)
		}
	}
	got = nil
	status = 200
	if err := s.CleanUp(t.Context(), challenge); err != nil {
		t.Error(err)
	}
	want := []string{`/hook {"action":"cleanup","type":"TXT","name":"_dnsauth.www.example.com","value":"value","zone":"example.com"}`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	server.Close()
	wantKind(t, "nobody listens", s.Present(t.Context(), challenge), "")
	wantKind(t, "a file", s.Present(t.Context(), order.Challenge{Type: dcv.FILE, Host: "example.com", Value: "v"}), dcv.Denied)
}

// script writes a program for the test.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProgramAnswers(t *testing.T) {
	run := func(timeout time.Duration, command ...string) error {
		s, err := hook.NewProgram(hook.ProgramConfig{Command: command, Timeout: timeout})
		if err != nil {
			t.Fatal(err)
		}
		return s.Present(t.Context(), challenge)
	}
	exit := script(t, `echo "went wrong: $1" >&2; head -c 100000 /dev/zero >&2; exit "$1"`)
	for code, kind := range map[string]dcv.Kind{"65": dcv.Denied, "68": dcv.NoZone, "73": dcv.Conflict, "77": dcv.Denied, "1": "", "75": "", "127": ""} {
		err := run(0, exit, code)
		wantKind(t, code, err, kind)
		if !strings.Contains(err.Error(), "went wrong: "+code) || len(err.Error()) > 3000 {
			t.Errorf("%s is told in %d bytes: %.200s", code, len(err.Error()), err)
		}
	}
	// Arguments are no shell's.
	mark := filepath.Join(t.TempDir(), "mark")
	wantKind(t, "an argument", run(0, exit, "1; touch "+mark), "")
	if _, err := os.Stat(mark); err == nil {
		t.Error("a shell has read the arguments")
	}
	// What it started ends with it.
	pid := filepath.Join(t.TempDir(), "pid")
	hang := script(t, `sleep 600 & echo $! > "$1"; wait`)
	err := run(time.Second, hang, pid)
	wantKind(t, "it hangs", err, "")
	data, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(data)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("its child runs on")
		}
	}
}

// TestProgramBesideAZoneOverWhichItHangs: another zone's records are placed.
func TestProgramBesideAZoneOverWhichItHangs(t *testing.T) {
	began := filepath.Join(t.TempDir(), "began")
	s, err := hook.NewProgram(hook.ProgramConfig{Timeout: time.Hour, Zones: []string{"dark.example", "*"},
		Command: []string{script(t, `case "$(cat)" in *dark.example*) echo >> "$1"; sleep 600;; esac`), began}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var crowd sync.WaitGroup
	defer crowd.Wait()
	defer stop()
	for range 40 {
		crowd.Go(func() { _ = s.Present(ctx, order.Challenge{Type: "TXT", Host: "a.dark.example", Value: "v"}) })
	}
	for data := ""; len(data) < 8; time.Sleep(5 * time.Millisecond) { // so many programs hang
		read, _ := os.ReadFile(began)
		data = string(read)
	}
	for i := range 10 {
		ended := make(chan error, 1)
		go func() { ended <- s.Present(ctx, order.Challenge{Type: "TXT", Host: "a.clear.example", Value: "v"}) }()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("record %d of another zone is not placed", i)
		}
	}
}

func TestProgramGetsNoSecrets(t *testing.T) {
	t.Setenv("ALIYUN_SECRET", "canary")
	t.Setenv("DNS_TOKEN", "given")
	env := filepath.Join(t.TempDir(), "env")
	s, err := hook.NewProgram(hook.ProgramConfig{Command: []string{script(t, `env > "$1"; cat >> "$1"`), env}, Env: []string{"DNS_TOKEN"}, Zones: []string{"*", "example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Present(t.Context(), challenge); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(env)
	if err != nil {
		t.Fatal(err)
	}
	got := string(data)
	if strings.Contains(got, "canary") || !strings.Contains(got, "DNS_TOKEN=given\n") ||
		!strings.HasSuffix(got, `{"action":"present","type":"TXT","name":"_dnsauth.www.example.com","value":"value","zone":"example.com"}`+"\n") {
		t.Errorf("the program got %s", got)
	}
}

func TestSettings(t *testing.T) {
	for _, url := range []string{"", "example.com/hook", "ftp://example.com", "https://user:canary@example.com/"} {
		if _, err := hook.NewWebhook(hook.WebhookConfig{URL: url}); err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "http(s)://") {
			t.Errorf("%s: got %v", url, err)
		}
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{nil, {""}, {"hook.sh"}, {"/nonexistent/hook"}, {"/"}, {plain}} {
		if _, err := hook.NewProgram(hook.ProgramConfig{Command: command}); err == nil || !strings.Contains(err.Error(), "command") {
			t.Errorf("%q: got %v", command, err)
		}
	}
}
