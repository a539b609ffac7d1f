package certstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
)

func TestDeliver(t *testing.T) {
	authority, key := newCA(t), newKey(t)
	_, to := identity(t)
	sealed, err := to.Seal(privatePEM(t, key))
	if err != nil {
		t.Fatal(err)
	}
	full := chain(authority.leaf(t, key.Public(), []string{"a.example.com"}, nil), authority.between)
	for _, c := range []struct {
		what     string
		delivery certstore.Delivery
		files    map[string]fs.FileMode
	}{
		{"opened", certstore.Delivery{ID: "a", Chain: full, Key: privatePEM(t, key), Record: []byte("{}")}, map[string]fs.FileMode{"privkey.pem": 0o600, "fullchain.pem": 0o644, "order.json": 0o600}},
		{"sealed", certstore.Delivery{ID: "a", Chain: full, Sealed: sealed, Record: []byte("{}")}, map[string]fs.FileMode{"privkey.pem.age": 0o600, "fullchain.pem": 0o644, "order.json": 0o600}},
		{"the key is the user's", certstore.Delivery{ID: "a", Chain: full, Record: []byte("{}")}, map[string]fs.FileMode{"fullchain.pem": 0o644, "order.json": 0o600}},
	} {
		root := filepath.Join(t.TempDir(), "certs")
		for range 2 { // again writes the same again
			where, err := certstore.Dir{Path: root}.Deliver(t.Context(), c.delivery)
			if err != nil || where != filepath.Join(root, "a") {
				t.Errorf("%s: %s %v", c.what, where, err)
			}
		}
		found := 0
		for path, mode := range tree(t, root) {
			if !mode.IsRegular() {
				continue
			}
			found++
			if want, ok := c.files[filepath.Base(path)]; !ok || mode.Perm() != want {
				t.Errorf("%s: %s has mode %v", c.what, path, mode)
			}
		}
		if found != len(c.files) {
			t.Errorf("%s: %d files", c.what, found)
		}
		if got, _ := os.ReadFile(filepath.Join(root, "a", "fullchain.pem")); string(got) != full {
			t.Errorf("%s: %s", c.what, got)
		}
	}
}

// TestDeliverReplaces: files that are there, with whatever mode, are replaced
// whole; nobody who has one open sees it change.
func TestDeliverReplaces(t *testing.T) {
	authority, key := newCA(t), newKey(t)
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "a", "privkey.pem")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	_, err = certstore.Dir{Path: root}.Deliver(t.Context(), certstore.Delivery{ID: "a", Key: privatePEM(t, key),
		Chain: chain(authority.leaf(t, key.Public(), []string{"a.example.com"}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	was := make([]byte, 10)
	if n, _ := open.Read(was); string(was[:n]) != "old" {
		t.Errorf("the open file changed: %q", was[:n])
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// TestDeliverLeavesOtherNames: what serves other names under the same id is not
// replaced, neither the certificate nor the key; more names are no others.
func TestDeliverLeavesOtherNames(t *testing.T) {
	authority := newCA(t)
	root := t.TempDir()
	deliver := func(names ...string) error {
		key := newKey(t)
		_, err := certstore.Dir{Path: root}.Deliver(t.Context(), certstore.Delivery{ID: "a", Key: privatePEM(t, key), Record: []byte("{}"),
			Chain: chain(authority.leaf(t, key.Public(), names, nil))})
		return err
	}
	if err := deliver("a.example.com"); err != nil {
		t.Fatal(err)
	}
	if err := deliver("a.example.com", "www.a.example.com"); err != nil {
		t.Errorf("one with a name more: %v", err)
	}
	before := map[string]string{}
	for _, name := range []string{"privkey.pem", "fullchain.pem", "order.json"} {
		data, err := os.ReadFile(filepath.Join(root, "a", name))
		if err != nil {
			t.Fatal(err)
		}
		before[name] = string(data)
	}
	err := deliver("b.example.com")
	if other, is := errors.AsType[*certstore.OtherNames](err); !is || !slices.Equal(other.Names, []string{"a.example.com", "www.a.example.com"}) {
		t.Errorf("one for other names: %v", err)
	}
	for name, was := range before {
		if data, _ := os.ReadFile(filepath.Join(root, "a", name)); string(data) != was {
			t.Errorf("%s was replaced", name)
		}
	}
}

func TestDeliverRefuses(t *testing.T) {
	authority, key, other := newCA(t), newKey(t), newKey(t)
	full := chain(authority.leaf(t, key.Public(), []string{"a.example.com"}, nil))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		what     string
		ctx      context.Context
		delivery certstore.Delivery
	}{
		{"another key", t.Context(), certstore.Delivery{ID: "a", Chain: full, Key: privatePEM(t, other)}},
		{"no key", t.Context(), certstore.Delivery{ID: "a", Chain: full, Key: "CANARY"}},
		{"a key as sealed", t.Context(), certstore.Delivery{ID: "a", Chain: full, Sealed: []byte(privatePEM(t, key).Reveal())}},
		{"a key in the chain", t.Context(), certstore.Delivery{ID: "a", Chain: full + privatePEM(t, key).Reveal()}},
		{"a broken key in the chain", t.Context(), certstore.Delivery{ID: "a", Chain: "-----BEGIN PRIVATE KEY-----\nCANARY!\n-----END PRIVATE KEY-----\n" + full}},
		{"no chain", t.Context(), certstore.Delivery{ID: "a"}},
		{"ended context", ended, certstore.Delivery{ID: "a", Chain: full}},
	} {
		root := t.TempDir()
		_, err := certstore.Dir{Path: root}.Deliver(c.ctx, c.delivery)
		if err == nil || strings.Contains(err.Error(), "CANARY") || strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%s: %v", c.what, err)
		}
		if c.what == "another key" && !errors.Is(err, certstore.ErrWrongKey) {
			t.Errorf("%s: %v", c.what, err)
		}
		if left := tree(t, root); len(left) != 1 {
			t.Errorf("%s: left %v", c.what, left)
		}
	}
}

// TestCloudKeys: the clouds hand out keys in three forms.
func TestCloudKeys(t *testing.T) {
	authority := newCA(t)
	key := newKey(t)
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	rsaPEM, csr, _, err := certstore.NewKey("rsa-2048", []string{"a.example.com"}, true)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(csr))
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	ecPEM := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}))
	for what, c := range map[string]struct {
		pub any
		key order.Secret
	}{
		"SEC 1":                   {key.Public(), order.Secret(ecPEM)},
		"PKCS 8":                  {key.Public(), privatePEM(t, key)},
		"RSA":                     {req.PublicKey, rsaPEM},
		"EC PARAMETERS before it": {key.Public(), order.Secret("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + ecPEM)},
	} {
		_, err := certstore.Dir{Path: t.TempDir()}.Deliver(t.Context(), certstore.Delivery{ID: "a", Key: c.key,
			Chain: chain(authority.leaf(t, c.pub, []string{"a.example.com"}, nil))})
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if certstore.Fingerprint(ecdsa.PublicKey{}) != "" || certstore.Fingerprint(nil) != "" {
		t.Error("what is no key has a fingerprint")
	}
}

func TestPutRoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "certs")
	d := certstore.Dir{Path: root}
	for _, text := range []string{"one", "one", "two"} {
		if err := d.PutRoot(text); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(root, "ca.pem")); string(got) != text || err != nil {
			t.Errorf("%q %v", got, err)
		}
	}
}
