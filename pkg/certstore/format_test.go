package certstore_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/certstore"
)

// contents are the files below a folder, and its folders as names that end in a
// slash.
func contents(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for path, mode := range tree(t, root) {
		if mode.IsDir() {
			all[path+"/"] = ""
			continue
		}
		data, err := os.ReadFile(root + path)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = string(data)
	}
	return all
}

// TestFormatOfAStore: a submitter makes a store where there is none, and nobody
// touches one of another format.
// DESIGN 12.9: a build that knows another format refuses.
func TestFormatOfAStore(t *testing.T) {
	for _, tt := range []struct {
		name      string
		files     map[string]string // by path; one that ends in a slash is a folder
		submitter string            // what its error says; empty: none
		looker    string
	}{
		{"missing", nil, "", "no key store is there"},
		{"empty", map[string]string{"keys/": ""}, "", "no key store is there"},
		{"a volume of its own", map[string]string{"keys/lost+found/": "", "keys/placed/": ""}, "", "no key store is there"},
		{"made by a submitter that died", map[string]string{"keys/tmp/": "", "keys/.certmill-1.tmp": "1"}, "", "no key store is there"},
		{"made by a submitter that died later", map[string]string{"keys/format": "2\n"}, "", ""},
		{"of an earlier build", map[string]string{"keys/tmp/": "", "keys/3f/a/attempt-000001": "1 2026-11-25T00:00:00Z\n"},
			`has no file "format": an earlier certmill made it, and this one knows format 2 only; nothing was changed. Use the build that made it, or once all its orders have ended, name a new folder in keys.store`,
			`has no file "format"`},
		{"of a later build", map[string]string{"keys/tmp/": "", "keys/format": "3\n", "keys/3f/a/attempt-000001": "1 2026-11-25T00:00:00Z\n"}, `has format "3"`, `has format "3"`},
		{"damaged", map[string]string{"keys/format": ""}, `has format ""`, `has format ""`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for path, text := range tt.files {
				write(t, filepath.Join(root, path), text, strings.HasSuffix(path, "/"))
			}
			before := contents(t, root)
			_, err := certstore.FindKeyStore(filepath.Join(root, "keys"))
			judge(t, "looking", err, tt.looker)
			if after := contents(t, root); !maps.Equal(before, after) {
				t.Errorf("looking changed it:\n%v\n%v", before, after)
			}
			_, _, err = certstore.MakeKeyStore(filepath.Join(root, "keys"))
			judge(t, "opening", err, tt.submitter)
			if after := contents(t, root); tt.submitter != "" && !maps.Equal(before, after) {
				t.Errorf("a store that was refused was changed:\n%v\n%v", before, after)
			}
			if tt.submitter != "" {
				return
			}
			s := openStore(t, filepath.Join(root, "keys"))
			if err := s.Raise(ref("a"), number(1, 1)); err != nil {
				t.Fatal(err)
			}
			found, err := certstore.FindKeyStore(filepath.Join(root, "keys"))
			if err != nil {
				t.Fatal(err)
			}
			if r, err := found.Number(ref("a")); err != nil || r.Attempt != 1 {
				t.Errorf("read %+v, %v", r, err)
			}
		})
	}
	if _, err := certstore.FindKeyStore(filepath.Join(t.TempDir(), "keys")); !errors.Is(err, certstore.ErrNoStore) {
		t.Errorf("no store: %v", err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "format"), "7", false)
	_, _, err := certstore.MakeKeyStore(dir)
	if other, ok := errors.AsType[*certstore.OtherFormat](err); !ok || other.Is != `"7"` {
		t.Errorf("another format: %v", err)
	}
}

func write(t testing.TB, path, text string, folder bool) {
	t.Helper()
	dir := path
	if !folder {
		dir = filepath.Dir(path)
	}
	err := os.MkdirAll(dir, 0o700)
	if err == nil && !folder {
		err = os.WriteFile(path, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func judge(t *testing.T, what string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}
