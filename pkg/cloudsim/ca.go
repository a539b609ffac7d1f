package cloudsim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	keyRSA     = "rsa2048"
	keyP256    = "p256"
	keyRSA4096 = "rsa4096" // only where an API lets choose
	keyP384    = "p384"

	pemCert   = "CERTIFICATE"
	pemPKCS8  = "PRIVATE KEY"
	caFile    = "ca.pem"      // root, then intermediate
	caKeyFile = "ca-keys.pem" // their keys, in the same order
)

// ca is a root and the intermediate that signs. It is no CA: its names say so,
// and its keys lie in the clear beside the books.
type ca struct {
	root, issuer *x509.Certificate
	issuerKey    crypto.Signer
}

// openCA takes the CA of the state folder, or makes one.
func openCA(d disk, dir string) (*ca, error) {
	if dir == "" {
		c, _, err := newCA()
		return c, err
	}
	c, err := readCA(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	c, rootKey, err := newCA()
	if err != nil {
		return nil, err
	}
	return c, c.write(d, dir, rootKey)
}

func newCA() (*ca, crypto.Signer, error) {
	rootKey, err := makeKey(keyP256)
	if err != nil {
		return nil, nil, err
	}
	issuerKey, err := makeKey(keyP256)
	if err != nil {
		return nil, nil, err
	}
	root, err := authority("certmill cloudsim root - NOT A CA", 10, nil, rootKey, rootKey)
	if err != nil {
		return nil, nil, err
	}
	issuer, err := authority("certmill cloudsim issuing - NOT A CA", 5, root, issuerKey, rootKey)
	if err != nil {
		return nil, nil, err
	}
	return &ca{root: root, issuer: issuer, issuerKey: issuerKey}, rootKey, nil
}

// authority makes a CA certificate; without a parent it signs itself.
func authority(name string, years int, parent *x509.Certificate, key, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: []string{"certmill cloudsim (simulator)"}},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(years, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return x509.ParseCertificate(der)
}

func (c *ca) write(d disk, dir string, rootKey crypto.Signer) error {
	var keys []byte
	for _, k := range []crypto.Signer{rootKey, c.issuerKey} {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return fmt.Errorf("write CA: %w", err)
		}
		keys = append(keys, pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: der})...)
	}
	// The certificates come last: keys without them are those of a CA that was
	// never told of, and it is made anew.
	if err := d.put(dir, caKeyFile, 0o600, keys); err != nil {
		return fmt.Errorf("write CA: %w", err)
	}
	certs := append(encodeCert(c.root.Raw), encodeCert(c.issuer.Raw)...)
	if err := d.put(dir, caFile, 0o644, certs); err != nil {
		return fmt.Errorf("write CA: %w", err)
	}
	return nil
}

func readCA(dir string) (*ca, error) {
	certs, err := readPEM(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	keys, err := readPEM(filepath.Join(dir, caKeyFile))
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(certs[0])
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	issuer, err := x509.ParseCertificate(certs[1])
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(keys[1])
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read CA: a %T cannot sign", key)
	}
	return &ca{root: root, issuer: issuer, issuerKey: signer}, nil
}

// readPEM returns the two blocks that each file of the CA holds.
func readPEM(name string) ([][]byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	var blocks [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block.Bytes)
	}
	if len(blocks) != 2 {
		return nil, fmt.Errorf("read CA: %s has %d blocks, not 2", name, len(blocks))
	}
	return blocks, nil
}

// policyDV is the CA/B Forum's mark of domain validation.
var policyDV = asn1.ObjectIdentifier{2, 23, 140, 1, 2, 1}

// issue makes a certificate for names, bound to a public key.
func (c *ca) issue(names []string, pub crypto.PublicKey, days int) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	start := time.Now().UTC().Truncate(time.Second)
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      commonName(names),
		DNSNames:     names,
		NotBefore:    start, NotAfter: start.AddDate(0, 0, days).Add(-time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		PolicyIdentifiers:     []asn1.ObjectIdentifier{policyDV},
	}
	if _, isRSA := pub.(*rsa.PublicKey); isRSA {
		t.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	der, err := x509.CreateCertificate(rand.Reader, t, c.issuer, pub, c.issuerKey)
	if err != nil {
		return nil, fmt.Errorf("issue for %v: %w", names, err)
	}
	return x509.ParseCertificate(der)
}

// commonName is the first name, if it fits X.520's 64 characters.
func commonName(names []string) pkix.Name {
	if len(names) == 0 || len(names[0]) > 64 {
		return pkix.Name{}
	}
	return pkix.Name{CommonName: names[0]}
}

// chain is a leaf with the intermediate below it, as both clouds return it.
func (c *ca) chain(leaf string) string { return leaf + string(encodeCert(c.issuer.Raw)) }

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der})
}

func parseCert(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func makeKey(alg string) (crypto.Signer, error) {
	var key crypto.Signer
	var err error
	switch alg {
	case keyP256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case keyP384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case keyRSA4096:
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// encodeKey writes a key in the old form of the vendors' samples, "RSA PRIVATE KEY".
func encodeKey(key crypto.Signer) (string, error) {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
		return string(pem.EncodeToMemory(block)), nil
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return "", fmt.Errorf("encode key: %w", err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})), nil
	}
	return "", fmt.Errorf("encode key: a %T", key)
}

// fingerprint names a public key: the SHA-256 of its SubjectPublicKeyInfo.
func fingerprint(pub crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// parseCSR reads a CSR and refuses what the documents refuse: other keys than RSA
// of at least 2048 bits and ECC (CreateCertificateForPackageRequest, Csr).
func parseCSR(text string) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || (block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST") {
		return nil, errors.New("no PEM certificate request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	switch pub := csr.PublicKey.(type) {
	case *rsa.PublicKey:
		if pub.N.BitLen() < 2048 {
			return nil, fmt.Errorf("RSA key of %d bits", pub.N.BitLen())
		}
	case *ecdsa.PublicKey:
	default:
		return nil, fmt.Errorf("key of type %T", pub)
	}
	return csr, nil
}
