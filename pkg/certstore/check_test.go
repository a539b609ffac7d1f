package certstore_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
)

// TestCheckCertificate is the table of what a cloud may hand out, and what
// becomes of it.
func TestCheckCertificate(t *testing.T) {
	authority, stranger := newCA(t), newCA(t)
	key, otherKey := newKey(t), newKey(t)
	names := []string{"a.example.com", "b.example.com"}
	ours := certstore.Fingerprint(key.Public())
	leaf := func(edit func(*x509.Certificate)) *x509.Certificate {
		return authority.leaf(t, key.Public(), names, edit)
	}
	good := leaf(nil)
	dates := func(from, to time.Time) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, to }
	}
	noRoots := func(e *certstore.Expect) { e.Roots = nil }
	expiredCA := issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Test CA"}, NotBefore: now.AddDate(-2, 0, 0), NotAfter: now.AddDate(-1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, authority.root, authority.betweenKey.Public(), authority.rootKey)
	noCA := authority.leaf(t, otherKey.Public(), names, nil)
	selfSigned := issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: now, NotAfter: now.AddDate(0, 0, 90)},
		&x509.Certificate{Subject: pkix.Name{CommonName: names[0]}}, key.Public(), key)
	type edit = func(*certstore.Expect)
	for _, c := range []struct {
		what, chain string
		expect      edit
		says        string // "" is good
	}{
		{"good", chain(good, authority.between), nil, ""},
		{"with the root", chain(good, authority.between, authority.root), nil, ""},
		{"no roots known", chain(good, authority.between), noRoots, ""},
		{"leaf alone, no roots known", chain(good), noRoots, ""},
		{"white space and CRLF", "\n " + strings.ReplaceAll(chain(good, authority.between), "\n", "\r\n") + "\n\n", nil, ""},
		{"ordered in upper case with a dot", chain(good, authority.between), func(e *certstore.Expect) { e.Names = []string{"A.example.com."} }, ""},
		{"names added", chain(leaf(func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "www.example.com") }), authority.between), nil, ""},
		{"clock a little behind", chain(leaf(dates(now.Add(time.Minute), now.AddDate(0, 0, 90))), authority.between), noRoots, ""},
		{"the cloud's key", chain(good, authority.between), func(e *certstore.Expect) { e.Fingerprint, e.Key = "", privatePEM(t, key) }, ""},

		{"wrong key", chain(authority.leaf(t, otherKey.Public(), names, nil), authority.between), nil, "public key"},
		{"the cloud's key is another one", chain(good, authority.between), func(e *certstore.Expect) { e.Fingerprint, e.Key = "", privatePEM(t, otherKey) }, "public key"},
		{"our key is not outvoted by the cloud's", chain(authority.leaf(t, otherKey.Public(), names, nil), authority.between), func(e *certstore.Expect) { e.Key = privatePEM(t, otherKey) }, "public key"},
		{"no key to compare with", chain(good, authority.between), func(e *certstore.Expect) { e.Fingerprint = "" }, "no key to compare"},
		{"the cloud's key is rubbish", chain(good, authority.between), func(e *certstore.Expect) { e.Fingerprint, e.Key = "", "CANARY" }, "not PEM"},

		{"name missing", chain(authority.leaf(t, key.Public(), names[:1], nil), authority.between), nil, "lacks the ordered names b.example.com"},
		{"name covered by a wildcard only", chain(authority.leaf(t, key.Public(), []string{"a.example.com", "*.example.com"}, nil), authority.between), nil, "lacks the ordered names b.example.com"},
		{"wildcard lost", chain(good, authority.between), func(e *certstore.Expect) { e.Names = []string{"*.example.com"} }, "lacks"},
		{"name in the subject only", chain(leaf(func(c *x509.Certificate) { c.DNSNames = names[1:] }), authority.between), nil, "lacks the ordered names a.example.com"},
		{"no names ordered", chain(good, authority.between), func(e *certstore.Expect) { e.Names = nil }, "no ordered names"},

		{"expired", chain(leaf(dates(now.AddDate(0, 0, -90), now.Add(-time.Second))), authority.between), nil, "expired"},
		{"not yet valid", chain(leaf(dates(now.AddDate(0, 0, 2), now.AddDate(0, 0, 90))), authority.between), nil, "valid only from"},
		{"ends before it begins", chain(leaf(dates(now, now.Add(-time.Hour))), authority.between), nil, "before it begins"},
		{"two years", chain(leaf(dates(now, now.AddDate(2, 0, 0))), authority.between), nil, "longer than any public CA"},
		{"expired CA", chain(good, expiredCA), nil, "certificate 2 of the chain expired"},

		{"without its CA", chain(good), nil, "does not lead to a known root"},
		{"another CA", chain(good, stranger.between), nil, "not signed by certificate 2"},
		{"another CA, roots unknown", chain(good, stranger.between), noRoots, "not signed by certificate 2"},
		{"wrong order", chain(authority.between, good), noRoots, "public key"},
		{"root before CA", chain(good, authority.root, authority.between), noRoots, "not signed by certificate 2"},
		{"unknown root", chain(stranger.leaf(t, key.Public(), names, nil), stranger.between, stranger.root), nil, "does not lead to a known root"},
		{"signed by a certificate that is no CA", chain(issue(t, &x509.Certificate{DNSNames: names, NotBefore: now, NotAfter: now.AddDate(0, 0, 9)}, noCA, key.Public(), otherKey), noCA), noRoots, "not signed"},
		{"self-signed", chain(selfSigned), noRoots, "signed by itself"},
		{"a CA", chain(leaf(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), authority.between), nil, "is a CA's"},
		{"not for servers", chain(leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), authority.between), nil, "not for servers"},

		{"empty", " ", nil, "no certificate"},
		{"not PEM", "<html>502</html>", nil, "something other than PEM"},
		{"text after it", chain(good, authority.between) + "hello", nil, "something other than PEM"},
		{"a key in it", chain(good) + string(privatePEM(t, key).Reveal()), nil, "no certificate"},
		{"a broken key before it", "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n" + chain(good, authority.between), nil, "broken PEM"},
		{"cut off", chain(good)[:200], nil, "broken PEM"},
		{"broken DER", strings.Replace(chain(good), "MII", "AII", 1), nil, "cannot be read"},
		{"eleven", strings.Repeat(chain(good), 11), nil, "more than 10"},
		{"huge", strings.Repeat(" ", 100<<10) + chain(good), nil, "at most"},
	} {
		expect := certstore.Expect{Fingerprint: ours, Names: names, Roots: authority.roots(), Now: now}
		if c.expect != nil {
			c.expect(&expect)
		}
		got, err := certstore.CheckCertificate(c.chain, expect)
		var bad *certstore.Wrong
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: refused: %v", c.what, err)
		case c.says != "" && (!errors.As(err, &bad) || !strings.Contains(bad.Reason, c.says) || got != nil):
			t.Errorf("%s: %v, want %q", c.what, err, c.says)
		case errors.Is(err, certstore.ErrWrongKey) != (c.says == "public key"):
			t.Errorf("%s: ErrWrongKey is %v", c.what, !(c.says == "public key"))
		case err != nil && (strings.Contains(err.Error(), "CANARY") || strings.Contains(err.Error(), "BEGIN")):
			t.Errorf("%s: shows what it read: %v", c.what, err)
		}
	}
}

func TestWhatACertificateSays(t *testing.T) {
	authority, key := newCA(t), newKey(t)
	leaf := authority.leaf(t, key.Public(), []string{"a.example.com", "www.a.example.com"}, func(c *x509.Certificate) {
		c.IPAddresses, c.EmailAddresses = []net.IP{{192, 0, 2, 1}}, []string{"a@example.com"}
	})
	// PEM headers are no part of a certificate: they must not get into the record.
	withHeader := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw, Headers: map[string]string{"Secret": "CANARY"}}))
	got, err := certstore.CheckCertificate(withHeader+chain(authority.between), certstore.Expect{
		Fingerprint: certstore.Fingerprint(key.Public()), Names: []string{"a.example.com"}, Roots: authority.roots(), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if got.Chain != chain(leaf, authority.between) {
		t.Errorf("the chain is not the certificates alone:\n%s", got.Chain)
	}
	if want := []string{"www.a.example.com", "192.0.2.1", "a@example.com"}; !reflect.DeepEqual(got.Added, want) {
		t.Errorf("added %q, want %q", got.Added, want)
	}
	if !got.NotAfter.Equal(leaf.NotAfter) || got.NotAfter.Location() != time.UTC || got.Serial != leaf.SerialNumber.Text(16) ||
		len(got.Fingerprint) != 64 || !strings.Contains(got.Issuer, "Test CA") {
		t.Errorf("%+v", got)
	}
}

func FuzzCheckCertificate(f *testing.F) {
	authority, key := newCA(f), newKey(f)
	leaf := authority.leaf(f, key.Public(), []string{"a.example.com"}, nil)
	f.Add([]byte(chain(leaf, authority.between)))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nA: b\n\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := certstore.CheckCertificate(string(data), certstore.Expect{
			Fingerprint: certstore.Fingerprint(key.Public()), Names: []string{"a.example.com"}, Roots: authority.roots(), Now: now})
		if err == nil && !strings.HasPrefix(got.Chain, chain(leaf)) {
			t.Fatalf("taken, and no leaf of the CA: %+v", got)
		}
	})
}

// FuzzDER feeds the same to what is behind the PEM.
func FuzzDER(f *testing.F) {
	authority, key := newCA(f), newKey(f)
	f.Add(authority.leaf(f, key.Public(), []string{"a.example.com"}, nil).Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		_, err := certstore.CheckCertificate(text, certstore.Expect{Fingerprint: "0", Names: []string{"a.example.com"}, Now: now})
		var bad *certstore.Wrong
		if !errors.As(err, &bad) || bad.Reason == "" {
			t.Fatalf("not an explained refusal: %v", err)
		}
	})
}
