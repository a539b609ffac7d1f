package certstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/durable/durabletest"
)

// TestKeyStoreOnAFailingDisk: wherever the disk fails, what was said to be stored
// is, nothing is half there, and the same again succeeds. A number that is there
// without having been told of is no second caller's.
func TestKeyStoreOnAFailingDisk(t *testing.T) {
	_, to := identity(t)
	k := sealedPair(t, to)
	order, one := certstore.Ref{ID: "a", Hash: "2-0123456789", Main: "1", Names: []string{"example.com"}}, certstore.Raised{Attempt: 1, Purchase: 1, Main: "1"}
	put, raised := false, false
	work := func(dir string) error {
		put, raised = false, false
		s, _, err := certstore.MakeKeyStore(filepath.Join(dir, "keys"))
		if err != nil {
			return err
		}
		if _, _, err = s.Put(t.Context(), order, k); err != nil {
			return err
		}
		put = true
		if err = s.Raise(order, one); err != nil {
			return err
		}
		raised = true
		return nil
	}
	durabletest.Each(t, work, func(t *testing.T, dir string, err error) {
		if !durabletest.Failed(err) {
			t.Errorf("it says %v", err)
		}
		s, _, err := certstore.MakeKeyStore(filepath.Join(dir, "keys"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(order); put && err != nil || err != nil && !errors.Is(err, certstore.ErrNoPair) {
			t.Errorf("the pair was stored (%v): %v", put, err)
		}
		if n, err := s.Number(order); err != nil || raised && n.Attempt != 1 {
			t.Errorf("the number was stored (%v): %+v, %v", raised, n, err)
		}
		stored, _, err := s.Put(t.Context(), order, k)
		if err != nil || stored.Fingerprint != k.Fingerprint {
			t.Errorf("again: %v", err)
		}
		if err := s.Raise(order, one); err != nil && !errors.Is(err, certstore.ErrExists) {
			t.Errorf("again: %v", err)
		}
		if n, err := s.Number(order); err != nil || n.Attempt != 1 || n.Purchase != 1 {
			t.Errorf("%+v, %v", n, err)
		}
	})
}

// TestDeliveryOnAFailingDisk: whoever finds order.json finds the others whole,
// and delivering again mends it.
func TestDeliveryOnAFailingDisk(t *testing.T) {
	authority, key := newCA(t), newKey(t)
	v := certstore.Delivery{ID: "a", Key: privatePEM(t, key), Record: []byte("{}"),
		Chain: chain(authority.leaf(t, key.Public(), []string{"a.example.com"}, nil), authority.between)}
	files := []string{"privkey.pem", "fullchain.pem", "order.json"}
	durabletest.Each(t, func(dir string) error {
		_, err := certstore.Dir{Path: filepath.Join(dir, "certs")}.Deliver(t.Context(), v)
		return err
	}, func(t *testing.T, dir string, err error) {
		if !durabletest.Failed(err) {
			t.Errorf("it says %v", err)
		}
		at := func(file string) string { return filepath.Join(dir, "certs", v.ID, file) }
		whole := map[string]string{"privkey.pem": v.Key.Reveal(), "fullchain.pem": v.Chain, "order.json": string(v.Record)}
		if _, err := os.Stat(at("order.json")); err == nil {
			for _, f := range files {
				if data, err := os.ReadFile(at(f)); err != nil || string(data) != whole[f] {
					t.Errorf("order.json is there, and %s is %q, %v", f, data, err)
				}
			}
		}
		if _, err := (certstore.Dir{Path: filepath.Join(dir, "certs")}).Deliver(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if data, err := os.ReadFile(at(f)); err != nil || string(data) != whole[f] {
				t.Errorf("%s is %q, %v", f, data, err)
			}
		}
		if torn, _ := filepath.Glob(at(tornFiles)); len(torn) > 0 {
			t.Errorf("left: %v", torn)
		}
	})
}

// tornFiles are those that are being written.
const tornFiles = ".certmill-*.tmp"

// TestFolderOnAFailingDisk: a folder has its format, or none and no content, and
// an identity is whole.
func TestFolderOnAFailingDisk(t *testing.T) {
	file := func(dir string) string { return filepath.Join(dir, "identity.age") }
	durabletest.Each(t, func(dir string) error {
		if err := certstore.ClaimFolder(dir, "folder", "help", func(string) bool { return false }); err != nil {
			return err
		}
		_, err := certstore.OpenIdentity(file(dir))
		return err
	}, func(t *testing.T, dir string, err error) {
		if !durabletest.Failed(err) {
			t.Errorf("it says %v", err)
		}
		was, _ := os.ReadFile(file(dir))
		if err := certstore.ClaimFolder(dir, "folder", "help", func(string) bool { return false }); err != nil {
			t.Error(err)
		}
		if _, err := certstore.OpenIdentity(file(dir)); err != nil {
			t.Error(err)
		}
		if is, _ := os.ReadFile(file(dir)); len(was) > 0 && string(is) != string(was) {
			t.Error("an identity that was there is another one")
		}
	})
}
