package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/certmill/certmill/pkg/durable"
	"github.com/certmill/certmill/pkg/durable/durabletest"
)

// eachFailure is durabletest.Each over what before has made.
func eachFailure(t *testing.T, before, work func(dir string) error, after func(t *testing.T, dir string)) {
	t.Helper()
	durabletest.Each(t, func(dir string) error {
		return errors.Join(before(dir), work(dir))
	}, func(t *testing.T, dir string, err error) {
		if !durabletest.Failed(err) {
			t.Errorf("it says %v", err)
		}
		after(t, dir)
	})
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}

// leftovers are what lies in a folder besides what should.
func leftovers(t *testing.T, dir string, besides ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.Contains(" "+strings.Join(besides, " ")+" ", " "+e.Name()+" ") {
			t.Errorf("%s is left", e.Name())
		}
	}
}

func TestReplaceLeavesOldOrNew(t *testing.T) {
	at := func(dir string) string { return filepath.Join(dir, "file") }
	eachFailure(t, func(dir string) error { return os.WriteFile(at(dir), []byte("the old content"), 0o600) },
		func(dir string) error { return Replace(at(dir), []byte("and the new one"), 0o640) },
		func(t *testing.T, dir string) {
			if is := content(t, at(dir)); is != "the old content" && is != "and the new one" {
				t.Errorf("it is %q", is)
			}
			leftovers(t, dir, "file")
			if err := Replace(at(dir), []byte("and the new one"), 0o640); err != nil || content(t, at(dir)) != "and the new one" {
				t.Errorf("again: %v", err)
			}
		})
}

func TestCreateLeavesNothingOrAll(t *testing.T) {
	at := func(dir string) string { return filepath.Join(dir, "file") }
	eachFailure(t, func(string) error { return nil },
		func(dir string) error { return Create(dir, at(dir), []byte("content"), 0o600) },
		func(t *testing.T, dir string) {
			is := content(t, at(dir))
			leftovers(t, dir, "file")
			err := Create(dir, at(dir), []byte("content"), 0o600)
			switch {
			case is == "" && err != nil, is == "content" && !errors.Is(err, fs.ErrExist), is != "" && is != "content":
				t.Errorf("it was %q, and then %v", is, err)
			}
		})
}

func TestMakeFolderAgain(t *testing.T) {
	at := func(dir string) string { return filepath.Join(dir, "a", "b", "c") }
	eachFailure(t, func(string) error { return nil }, func(dir string) error { return MakeFolder(at(dir), 0o700) },
		func(t *testing.T, dir string) {
			if err := MakeFolder(at(dir), 0o700); err != nil {
				t.Error(err)
			}
		})
}

// TestLinesAreWhole: whatever fails, the file has whole lines, each at most
// twice, and those that were flushed are there.
func TestLinesAreWhole(t *testing.T) {
	lines := []string{`{"n":1}`, `{"n":2,"long":"` + strings.Repeat("x", 300_000) + `"}`, `{"n":3}`}
	at := func(dir string) string { return filepath.Join(dir, "file") }
	// once appends what an earlier try has not flushed.
	once := func(dir string, from *int) error {
		l, err := OpenLines(at(dir), 0o600)
		if err != nil {
			return err
		}
		defer l.Close()
		for _, line := range lines[*from:] {
			if _, err := l.Write([]byte(line + "\n")); err != nil {
				return err
			}
			if err := l.Flush(); err != nil {
				return err
			}
			*from++
		}
		return nil
	}
	flushed := 0
	eachFailure(t, func(string) error { flushed = 0; return nil }, func(dir string) error { return once(dir, &flushed) },
		func(t *testing.T, dir string) {
			if err := once(dir, &flushed); err != nil {
				t.Fatal(err)
			}
			if is := content(t, at(dir)); is != strings.Join(lines, "\n")+"\n" {
				t.Errorf("it is %.60q… of %d bytes", is, len(is))
			}
		})
}

// TestTornTailIsCut: what a killed writer left is cut off, and a document without
// its newline stays.
func TestTornTailIsCut(t *testing.T) {
	for _, tt := range []struct {
		name, is, want string
		torn           int64
	}{
		{"nothing", "", "+\n", 0},
		{"whole", "{}\n", "{}\n+\n", 0},
		{"torn", "{}\n{\"n\":1", "{}\n+\n", 6},
		{"torn, and alone", "{\"n\":1", "+\n", 6},
		{"long", "{}\n{\"n\":\"" + strings.Repeat("x", 200_000), "{}\n+\n", 200_006},
		{"without its newline", "{}\n{\"n\":1}", "{}\n{\"n\":1}\n+\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, []byte(tt.is), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := OpenLines(path, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if _, err := l.Write([]byte("+\n")); err != nil {
				t.Fatal(err)
			}
			if is := content(t, path); is != tt.want || l.Torn != tt.torn {
				t.Errorf("%.40q, %d torn", is, l.Torn)
			}
			if _, err := OpenLines(path, 0o600); err == nil {
				t.Error("two append to it at once")
			}
		})
	}
}

// TestLinesGoOn: what was torn does not stay behind what is written in its place.
func TestLinesGoOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	l, err := OpenLines(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, mend := durabletest.At(path, 1)
	if _, err := l.Write([]byte(`{"long":"` + strings.Repeat("x", 1000) + "\"}\n")); !durabletest.Failed(err) {
		t.Errorf("it says %v", err)
	}
	mend()
	if _, err := l.Write([]byte("{}\n")); err != nil {
		t.Fatal(err)
	}
	if is := content(t, path); is != "{}\n" {
		t.Errorf("it is %.60q", is)
	}
}
