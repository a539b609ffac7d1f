package certstore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/certmill/certmill/pkg/order"
)

// NewKey makes the pair of one order: the private key as PKCS#8 PEM, the
// certificate request (RFC 2986) and the key's fingerprint. The common name is
// the first name; without sanInCSR it is the only one in the request: some clouds
// document no more.
func NewKey(algorithm string, names []string, sanInCSR bool) (keyPEM order.Secret, csrPEM, fingerprint string, err error) {
	if len(names) == 0 {
		return "", "", "", errors.New("there is no name to make a key for")
	}
	key, err := generate(algorithm)
	if err != nil {
		return "", "", "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", "", fmt.Errorf("encode private key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, requestFor(names, sanInCSR), key)
	if err != nil {
		return "", "", "", fmt.Errorf("make certificate request: %w", err)
	}
	keyPEM = order.Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	csrPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	return keyPEM, csrPEM, Fingerprint(key.Public()), nil
}

func requestFor(names []string, san bool) *x509.CertificateRequest {
	req := &x509.CertificateRequest{}
	// A common name has at most 64 characters (RFC 5280, ub-common-name). A
	// longer name can only stand among the alternative names.
	if len(names[0]) <= 64 {
		req.Subject = pkix.Name{CommonName: names[0]}
	} else {
		san = true
	}
	if san {
		req.DNSNames = names
	}
	return req
}

func generate(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case "ecdsa-p256", "":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "rsa-2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "rsa-3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "rsa-4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, fmt.Errorf("unknown key algorithm %q: write one of %s", algorithm, strings.Join(order.KeyAlgorithms, ", "))
}

// Fingerprint is the SHA-256 of a public key's SubjectPublicKeyInfo, in
// hexadecimal; empty for what is no public key of an X.509 kind.
func Fingerprint(pub any) string {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// publicOf returns the public half of a private key in PEM, in any of the
// three forms that the clouds hand out. Its errors never repeat the text.
func publicOf(key order.Secret) (crypto.PublicKey, error) {
	for rest := []byte(key.Reveal()); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("the private key is not PEM, or of an unknown kind")
		}
		if parsed := parsePrivate(block); parsed != nil {
			return parsed.Public(), nil
		}
	}
}

func parsePrivate(block *pem.Block) crypto.Signer {
	var parsed any
	switch block.Type {
	case "PRIVATE KEY":
		parsed, _ = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, _ = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, _ = x509.ParseECPrivateKey(block.Bytes)
	}
	switch key := parsed.(type) { // the parsers return typed nil pointers on error
	case *rsa.PrivateKey:
		if key != nil {
			return key
		}
	case *ecdsa.PrivateKey:
		if key != nil {
			return key
		}
	}
	return nil
}
