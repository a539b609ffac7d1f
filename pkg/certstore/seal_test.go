package certstore_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
	"github.com/goccy/go-yaml"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
)

func TestSealAndOpen(t *testing.T) {
	one, toOne := identity(t)
	two, toTwo := identity(t)
	stranger, _ := identity(t)
	both, err := certstore.ParseRecipients("# both\n"+toOne.String(), "", toTwo.String())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := both.Seal("CANARY")
	if err != nil || bytes.Contains(sealed, []byte("CANARY")) {
		t.Fatalf("%v %q", err, sealed)
	}
	for _, id := range []certstore.Identities{one, two} {
		if got, err := id.Open(sealed); err != nil || got.Reveal() != "CANARY" {
			t.Errorf("%v %q", err, got.Reveal())
		}
	}
	if _, err := stranger.Open(sealed); err == nil {
		t.Error("a stranger opens it")
	}
	if _, err := (certstore.Identities{}).Open(sealed); err == nil {
		t.Error("nobody opens it")
	}
	for i := range sealed { // a flipped bit anywhere is noticed
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if got, err := one.Open(bad); err == nil && got.Reveal() != "CANARY" {
			t.Fatalf("byte %d altered: %q", i, got.Reveal())
		}
	}
	for _, secret := range []order.Secret{"", order.Secret(strings.Repeat("x", 65<<10))} {
		if _, err := both.Seal(secret); err == nil {
			t.Errorf("%d bytes sealed", len(secret))
		}
	}
	if _, err := (certstore.Recipients{}).Seal("x"); err == nil {
		t.Error("sealed to nobody")
	}
}

// TestRecipientsNeverRepeatASecret: an identity in place of a recipient is the
// likely mistake, and the error goes to the terminal.
func TestRecipientsNeverRepeatASecret(t *testing.T) {
	made, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	secret := made.String()
	for _, text := range []string{secret, "  " + secret, strings.ToLower(secret), "key: " + secret, made.Recipient().String() + " " + secret, secret[:40], "\ufeff" + secret} {
		_, err := certstore.ParseRecipients(text)
		if err == nil || strings.Contains(strings.ToUpper(err.Error()), secret[20:32]) {
			t.Errorf("%.10s…: %v", text, err)
		}
	}
	for _, text := range []string{"", "# nobody", "age1x", "ssh-ed25519 AAAA", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"} {
		if _, err := certstore.ParseRecipients(text); err == nil || !strings.Contains(err.Error(), "age1…") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := certstore.ParseIdentities(order.Secret("hello " + secret)); err == nil || strings.Contains(err.Error(), secret[20:32]) {
		t.Error(err)
	}
}

func TestIdentitiesNeverShow(t *testing.T) {
	id, err := certstore.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		Exported certstore.Identities
		inner    certstore.Identities
		pointer  *certstore.Identities
	}
	h := holder{id, id, &id}
	var shown strings.Builder
	for _, v := range []any{id, &id, h, &h, []any{h}, map[string]certstore.Identities{"a": id}} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%20v", "%p", "%w"} {
			fmt.Fprintf(&shown, format+"\n", v)
		}
		for _, handler := range []slog.Handler{slog.NewTextHandler(&shown, nil), slog.NewJSONHandler(&shown, nil)} {
			slog.New(handler).Info("m", "id", v)
		}
		body, _ := json.Marshal(v)
		shown.Write(body)
		body, _ = yaml.Marshal(v)
		shown.Write(body)
	}
	for _, leak := range []string{"AGE-SECRET-KEY", fmt.Sprintf("%x", "AGE-SECRET-KEY"), fmt.Sprintf("%X", "AGE-SECRET-KEY")} {
		if i := strings.Index(shown.String(), leak); i >= 0 {
			t.Errorf("shown: …%s…", shown.String()[max(0, i-80):i])
		}
	}
}

func TestIdentityFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "identity.txt")
	if _, err := certstore.LoadIdentities(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	made, err := certstore.OpenIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	to, err := made.Recipients()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := to.Seal("x")
	if err != nil {
		t.Fatal(err)
	}
	again, err := certstore.OpenIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Open(sealed); err != nil {
		t.Errorf("the file does not hold the identity that was made: %v", err)
	}
	other, _ := identity(t)
	if err := other.Save(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an identity file was replaced: %v", err)
	}
	if err := (certstore.Identities{}).Save(path + "2"); err == nil {
		t.Error("nothing was saved")
	}
	if err := os.WriteFile(path+"3", []byte("CANARY"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := certstore.OpenIdentity(path + "3"); err == nil || strings.Contains(err.Error(), "CANARY") {
		t.Errorf("%v", err)
	}
}

// TestOneIdentity: of two processes that start at once, both seal to the same.
func TestOneIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.txt")
	var mu sync.Mutex
	seen := map[string]bool{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			id, err := certstore.OpenIdentity(path)
			if err != nil {
				t.Error(err)
				return
			}
			to, err := id.Recipients()
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[to.String()] = true
		})
	}
	all.Wait()
	if len(seen) != 1 {
		t.Errorf("%d identities", len(seen))
	}
}

func TestNewKey(t *testing.T) {
	names := []string{"a.example.com", "b.example.com"}
	long := strings.Repeat("a", 60) + ".example.com"
	for _, algorithm := range append([]string{""}, order.KeyAlgorithms[:3]...) {
		key, csr, fp, err := certstore.NewKey(algorithm, names, true)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := order.ParseCSR(csr)
		if err != nil || parsed.Fingerprint != fp || strings.Join(parsed.Names, " ") != strings.Join(names, " ") || parsed.CommonName != names[0] {
			t.Errorf("%s: %v %+v", algorithm, err, parsed)
		}
		if got, err := certstore.FingerprintOfCSR(csr); got != fp || err != nil {
			t.Errorf("%s: %v", got, err)
		}
		block, rest := pem.Decode([]byte(key.Reveal()))
		private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil || len(rest) > 0 {
			t.Fatal(err)
		}
		switch k := private.(type) {
		case *ecdsa.PrivateKey:
			if certstore.Fingerprint(k.Public()) != fp || !strings.Contains("ecdsa-p256 ecdsa-p384", algorithm) {
				t.Errorf("%s: %s", algorithm, k.Curve.Params().Name)
			}
		case *rsa.PrivateKey:
			if certstore.Fingerprint(k.Public()) != fp || algorithm != fmt.Sprintf("rsa-%d", k.N.BitLen()) {
				t.Errorf("%s: %d bits", algorithm, k.N.BitLen())
			}
		}
	}
	for _, c := range []struct {
		names []string
		san   bool
		cn    string
		sans  int
	}{{names, false, names[0], 0}, {names, true, names[0], 2}, {[]string{long}, false, "", 1}} {
		_, csr, _, err := certstore.NewKey("", c.names, c.san)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(csr))
		req, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || req.Subject.CommonName != c.cn || len(req.DNSNames) != c.sans {
			t.Errorf("%+v: CN %q, names %q, %v", c, req.Subject.CommonName, req.DNSNames, err)
		}
	}
	if _, _, _, err := certstore.NewKey("dsa", names, true); err == nil || !strings.Contains(err.Error(), "ecdsa-p256") {
		t.Error(err)
	}
	if _, _, _, err := certstore.NewKey("", nil, true); err == nil {
		t.Error("a key for nobody")
	}
}

// FuzzOpen feeds foreign bytes to what opens sealed keys.
func FuzzOpen(f *testing.F) {
	id, to := identity(f)
	sealed, err := to.Seal("CANARY")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte("age-encryption.org/v1\n-> X25519 a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, err := id.Open(data); err == nil && got.Reveal() != "CANARY" {
			t.Fatal("what nobody sealed was opened")
		}
	})
}
