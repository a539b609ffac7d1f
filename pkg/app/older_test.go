package app

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write leaves a file of orders.
func write(t *testing.T, path string, lines ...string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// putBack puts the streams of a state folder back from a copy.
func putBack(t *testing.T, c Config, from string) {
	t.Helper()
	nats := filepath.Join(c.State, "nats")
	if err := errors.Join(os.RemoveAll(nats), os.CopyFS(nats, os.DirFS(from))); err != nil {
		t.Fatal(err)
	}
}

// DESIGN 12.8: who buys notices an older copy of the streams by what the key store
// knows besides, and nothing that was bought since is bought a second time,
// whoever hands it in as what and at whichever account, although nobody said
// certmill restored.
func TestAnOlderCopyIsNoticed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := inDir(dir)
	before := write(t, filepath.Join(dir, "before.jsonl"), `{"id":"o1","names":["o1.example"],"account":"aliyun-1"}`)
	if sum, err := runIn(t.Context(), dir, &seen{}, before); err != nil || sum.Issued != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	was := incarnationIn(t, c)
	copied := filepath.Join(dir, "copied")
	if err := os.CopyFS(copied, os.DirFS(filepath.Join(c.State, "nats"))); err != nil {
		t.Fatal(err)
	}
	since := write(t, filepath.Join(dir, "since.jsonl"), `{"id":"z1","names":["z1.example"],"account":"aliyun-1"}`,
		`{"id":"z2","names":["z2.example"],"account":"tencent-1"}`)
	if sum, err := runIn(t.Context(), dir, &seen{}, since); err != nil || sum.Issued != 2 {
		t.Fatalf("%+v, %v", sum, err)
	}
	putBack(t, c, copied)
	var log bytes.Buffer
	again := write(t, filepath.Join(dir, "again.jsonl"), `{"names":["z1.example"],"account":"aliyun-1"}`,
		`{"names":["z2.example"],"account":"aliyun-1"}`)
	said := &seen{}
	opt := RunOptions{Config: c, Files: []string{again}, Log: NewLogger(&log, "error"), View: said}
	if _, err := Run(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "older copy of themselves"); n != 1 {
		t.Errorf("it was told %d times: %s", n, &log)
	}
	world := booksOf(t, c)
	for _, name := range []string{"z1.example", "z2.example", "o1.example"} {
		if n := bought(world, name); n != 1 {
			t.Errorf("%s was bought %d times", name, n)
		}
	}
	if now := incarnationIn(t, c); now == was {
		t.Error("no new incarnation began")
	}
}

// booksOf opens the simulated clouds that a run has left.
func booksOf(t *testing.T, c Config) *world {
	t.Helper()
	w, _, err := openWorld(t.Context(), c, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.close() })
	return w
}

// certmill restored works where a run keeps its state, while none works there and
// while one does, with the run's own config and with what it left.
func TestRestoredInTheStateFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := inDir(dir)
	file := write(t, filepath.Join(dir, "a.jsonl"), `{"id":"o1","names":["o1.example"],"account":"aliyun-1"}`)
	if sum, err := runIn(t.Context(), dir, &seen{}, file); err != nil || sum.Issued != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	left, err := Load(filepath.Join(c.State, ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	last := incarnationIn(t, c)
	for what, c := range map[string]Config{"the run's config": c, "what the run left": left} {
		if err := Restored(t.Context(), c, quiet); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		now := incarnationIn(t, c)
		if now == last {
			t.Errorf("%s: no new incarnation began", what)
		}
		last = now
	}
}

// incarnationIn reads it while no run works.
func incarnationIn(t *testing.T, c Config) (token string) {
	t.Helper()
	err := OnServer(t.Context(), c, func(c Config) error {
		token = openConsole(t, c).line.Incarnation()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return token
}
