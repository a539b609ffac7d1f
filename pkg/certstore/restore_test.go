package certstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/certmill/certmill/pkg/certstore"
)

// A damaged pair is stored again from the record that says it was stored, the damaged
// file is kept, and where nobody can tell whose the file was nothing is replaced.
func TestRestore(t *testing.T) {
	t.Parallel()
	_, to := identity(t)
	dir := t.TempDir()
	s, k := openStore(t, dir), sealedPair(t, to)
	k, _, err := s.Put(t.Context(), ref("a"), k)
	if err != nil {
		t.Fatal(err)
	}
	if done, err := s.Restore(t.Context(), ref("a"), sealedPair(t, to)); done || err != nil {
		t.Errorf("where nothing is damaged: %v, %v", done, err)
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*", "a", "*", "pair-000001"))
	if err := os.WriteFile(found[0], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if done, err := s.Restore(t.Context(), ref("a"), k); !done || err != nil {
		t.Fatalf("%v, %v", done, err)
	}
	if is, err := s.Get(ref("a")); err != nil || is.Fingerprint != k.Fingerprint {
		t.Errorf("there is %+v, %v", is, err)
	}
	if aside, _ := filepath.Glob(filepath.Join(filepath.Dir(found[0]), "damaged-*")); len(aside) != 1 {
		t.Errorf("put aside: %v", aside)
	}
	raised := certstore.Raised{Attempt: 1, Purchase: 1, Main: "1", Fingerprint: k.Fingerprint}
	if err := s.Raise(ref("a"), raised); err != nil {
		t.Error(err)
	}

	two := filepath.Join(filepath.Dir(found[0]), "pair-000002") // another key's, and it is the record's that is whole
	if err := os.WriteFile(two, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if done, err := s.Restore(t.Context(), ref("a"), k); done || err != nil {
		t.Errorf("another key's file: %v, %v", done, err)
	}
	if _, err := os.Stat(two); err != nil {
		t.Errorf("another key's file was put aside: %v", err)
	}
	if err := os.WriteFile(found[0], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if done, err := s.Restore(t.Context(), ref("a"), k); done || err == nil {
		t.Errorf("of two damaged ones: %v, %v", done, err)
	}
}
