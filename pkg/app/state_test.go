package app

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// earlier is the state folder that certmill run of 65f809e has left, before
// formats had numbers: recorded by testdata/record-state.
func earlier(t *testing.T) string {
	t.Helper()
	f, err := os.Open("testdata/state-65f809e.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return filepath.Join(dir, "state")
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.FileInfo().IsDir() {
			err = os.MkdirAll(path, h.FileInfo().Mode())
		} else {
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, data, h.FileInfo().Mode())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// filesIn are names, modes and contents of all that lies below a folder.
func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || d.IsDir() {
			all[path] = info.Mode().String()
			return err
		}
		data, err := os.ReadFile(path)
		all[path] = info.Mode().String() + " " + string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func unchangedFiles(t *testing.T, dir string, before map[string]string) {
	t.Helper()
	after := filesIn(t, dir)
	for path := range maps.Keys(after) {
		if before[path] != after[path] {
			t.Errorf("%s was changed, or made", path)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files and folders in place of %d", len(after), len(before))
	}
}

// TestStateOfAnEarlierFormat: it is refused before anything touches it.
func TestStateOfAnEarlierFormat(t *testing.T) {
	t.Parallel()
	state := earlier(t)
	before := filesIn(t, state)
	if len(before) < 40 {
		t.Fatalf("the recording has %d files and folders", len(before))
	}
	c := inDir(t.TempDir())
	c.Rest(state)
	v := &seen{}
	_, err := Run(t.Context(), RunOptions{Config: c, Files: []string{example}, Log: quiet, View: v})
	if err == nil || v.where != (Where{}) {
		t.Fatalf("it began at %+v: %v", v.where, err)
	}
	for _, words := range []string{"state folder " + state, "nothing was changed",
		"Use the build that made it, or name another folder with --state and hand the order files in again"} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("%q lacks %q", err, words)
		}
	}
	// The key store alone, as a submitter of this build would find it, and as a
	// console.
	for what, open := range map[string]func(string) (*certstore.KeyStore, error){
		"submitter": certstore.OpenKeyStore, "console": certstore.FindKeyStore} {
		_, err := open(filepath.Join(state, "keys"))
		if other, is := errors.AsType[*certstore.OtherFormat](err); !is || other.Is != "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	unchangedFiles(t, state, before)
}

// TestClaimState: what is of this format, what is no earlier life, and what is
// refused.
func TestClaimState(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		files   []string // one that ends in a slash is a folder
		format  string   // content of the file, if not empty
		refused string
	}{
		{"missing", nil, "", ""},
		{"a person's identity", []string{"identity.age"}, "", ""},
		{"killed before it began", []string{".certmill-1.tmp"}, "", ""},
		{"this format", []string{"nats/", "keys/"}, "2\n", ""},
		{"streams", []string{"nats/"}, "", `has no file "format"`},
		{"a config", []string{ConfigName}, "", `has no file "format"`},
		{"keys", []string{"keys/", "identity.age"}, "", `has no file "format"`},
		{"a later format", []string{"nats/"}, "3\n", `has format "3", and this one knows format 2 only`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			for _, name := range tt.files {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name+"x")), 0o700); err != nil {
					t.Fatal(err)
				}
				if !strings.HasSuffix(name, "/") {
					if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			if tt.format != "" {
				if err := os.WriteFile(filepath.Join(dir, "format"), []byte(tt.format), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := map[string]string{}
			if tt.refused != "" {
				before = filesIn(t, dir)
			}
			for range 2 {
				err := claimState(inDir(filepath.Dir(dir)))
				if (err == nil) != (tt.refused == "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
					t.Errorf("%v, want %q", err, tt.refused)
				}
			}
			if tt.refused != "" {
				unchangedFiles(t, dir, before)
			} else if data, err := os.ReadFile(filepath.Join(dir, "format")); err != nil || string(data) != "2\n" {
				t.Errorf("the file says %q, %v", data, err)
			}
		})
	}
}

// TestRunWhereInitAndWorkersWere: a run takes the folder in which certmill init has
// made the key store, and workers have left their files.
func TestRunWhereInitAndWorkersWere(t *testing.T) {
	t.Parallel()
	c := inDir(t.TempDir())
	c.NATS.URL, c.NATS.Replicas, c.Keys.Store = natstest.Server(t).ClientURL(), 1, filepath.Join(c.State, "keys")
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"placed", "files"} {
		if err := os.MkdirAll(filepath.Join(c.State, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := claimState(c); err != nil {
			t.Error(err)
		}
	}
}

// TestStreamsOfAnEarlierFormat: on a server of its own, too, they are refused by
// everybody and left as they are.
// DESIGN 12.9: a build that knows another format refuses, and changes nothing.
func TestStreamsOfAnEarlierFormat(t *testing.T) {
	t.Parallel()
	recorded := filepath.Join(earlier(t), "nats")
	s := natstest.Server(t, func(o *server.Options) { o.StoreDir = recorded })
	js := natstest.Connect(t, s)
	c := withClouds(t, s.ClientURL(), 1)
	makeStore(t, c)
	before := natstest.Take(t, js)
	if before["stream ORDERS"] == "" || before["stream LEDGER"] == "" || before["stream KV_ACCOUNTS"] == "" {
		t.Fatalf("the recording has no streams: %v", before)
	}
	attempts := map[string]func() error{
		"init":     func() error { _, err := Init(t.Context(), c, quiet); return err },
		"console":  func() error { _, err := OpenConsole(t.Context(), at(s.ClientURL(), 1), quiet); return err },
		"restored": func() error { return Restored(t.Context(), at(s.ClientURL(), 1), quiet) },
		"plan": func() error {
			_, err := MakePlan(t.Context(), c, quiet, Batch{}, PlanOptions{NoDNS: true})
			return err
		},
		"run": func() error {
			own := inDir(t.TempDir())
			own.NATS.URL = s.ClientURL()
			own.Keys.Store = filepath.Join(t.TempDir(), "keys")
			makeStore(t, own)
			_, err := Run(t.Context(), RunOptions{Config: own, Log: quiet, View: &seen{}})
			return err
		},
	}
	for _, role := range order.Roles {
		attempts[string(role)] = func() error { return Work(t.Context(), c, role) }
	}
	for who, attempt := range attempts {
		err := attempt()
		if other, is := errors.AsType[*stream.OtherFormat](err); !is || other.Is != "" || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%s: %v", who, err)
		}
	}
	before.Same(t, js)
}

// TestOneRunAFolder: a second run on the folder of one that works is refused
// before it starts a server on the same store.
func TestOneRunAFolder(t *testing.T) {
	t.Parallel()
	first, err := lockState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	again := filepath.Dir(first.Name())
	if _, err := lockState(again); err == nil {
		t.Fatal("the folder was locked twice")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := lockState(again)
	if err != nil {
		t.Fatalf("after the first one's end: %v", err)
	}
	_ = next.Close()

	console, _, dir := serving(t)
	opt := RunOptions{Config: inDir(dir), Log: quiet, View: &seen{}}
	if _, err := Run(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "another certmill run works in the state folder") {
		t.Errorf("a second run: %v", err)
	}
	if _, err := console.Status(t.Context()); err != nil {
		t.Errorf("the first run: %v", err)
	}
}

// config --check says of the folders what run would.
func TestMayRun(t *testing.T) {
	t.Parallel()
	real := withClouds(t, "", 1)
	c := inDir(t.TempDir())
	if err := c.MayRun(); err != nil {
		t.Errorf("nothing is there: %v", err)
	}
	if err := claimState(c); err != nil {
		t.Fatal(err)
	}
	if err := c.MayRun(); err != nil {
		t.Errorf("its own: %v", err)
	}
	c.Accounts = real.Accounts
	before := filesIn(t, c.State)
	wantWords(t, "after a pilot", c.MayRun(), "has what a run on simulated clouds has left", "--state")
	unchangedFiles(t, c.State, before)
}
