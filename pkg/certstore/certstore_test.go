package certstore_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
)

// now is the clock of these tests.
var now = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

// ca is a certificate authority with one intermediate.
type ca struct {
	root, between       *x509.Certificate
	rootKey, betweenKey crypto.Signer
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func issue(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func authority(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-5, 0, 0), NotAfter: now.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

func newCA(t testing.TB) *ca {
	t.Helper()
	rootKey, betweenKey := newKey(t), newKey(t)
	template := authority("Test Root")
	root := issue(t, template, template, rootKey.Public(), rootKey)
	between := issue(t, authority("Test CA"), root, betweenKey.Public(), rootKey)
	return &ca{root, between, rootKey, betweenKey}
}

func (c *ca) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.root)
	return pool
}

// leaf issues a certificate; edit may be nil.
func (c *ca) leaf(t testing.TB, pub crypto.PublicKey, names []string, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 0, 90),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if edit != nil {
		edit(template)
	}
	return issue(t, template, c.between, pub, c.betweenKey)
}

func chain(certs ...*x509.Certificate) string {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return string(text)
}

func privatePEM(t testing.TB, key crypto.Signer) order.Secret {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return order.Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// sealedPair is a pair as the submitter makes it.
func sealedPair(t testing.TB, to certstore.Recipients) order.Key {
	t.Helper()
	key, csr, fp, err := certstore.NewKey("ecdsa-p256", []string{"example.com"}, true)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := to.Seal(key)
	if err != nil {
		t.Fatal(err)
	}
	return order.Key{Algorithm: "ecdsa-p256", Fingerprint: fp, CSR: csr, Sealed: sealed}
}

func identity(t testing.TB) (certstore.Identities, certstore.Recipients) {
	t.Helper()
	id, err := certstore.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	to, err := id.Recipients()
	if err != nil {
		t.Fatal(err)
	}
	return id, to
}
