package certstore

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/order"
)

// What a chain may have at most, and what a certificate's dates may say.
const (
	maxChain        = 100 << 10
	maxCertificates = 10
	// The Baseline Requirements allowed 398 days until 2026 and less since; a
	// longer one was not issued by a public CA.
	maxLifetime = 400 * 24 * time.Hour
	// CAs date certificates back, so only a clock that is far off fails here.
	clockTolerance = 5 * time.Minute
)

// ErrWrongKey is wrapped by a Wrong whose certificate has another public key
// than the one that was ordered.
var ErrWrongKey = errors.New("wrong key")

// Wrong says why a certificate is not what was ordered.
type Wrong struct {
	Reason string
	Kind   error // ErrWrongKey or nil
}

func (w *Wrong) Error() string { return w.Reason }
func (w *Wrong) Unwrap() error { return w.Kind }

func wrong(format string, args ...any) error { return &Wrong{Reason: fmt.Sprintf(format, args...)} }

// Expect is what a certificate is compared with.
type Expect struct {
	Fingerprint string         // of our key, or of the user's CSR; empty: the cloud made the key
	Key         order.Secret   // the cloud's key; not looked at if there is a fingerprint
	Names       []string       // those that were ordered
	Roots       *x509.CertPool // nil: only the signatures within the chain are checked
	Now         time.Time      // zero: the clock
}

// CheckCertificate reads a chain in PEM, leaf first, and compares it with what
// was ordered. A certificate that is not what was ordered is a *Wrong. Names
// that the cloud added are listed, not refused. The chain that is returned was
// encoded anew: nothing but certificates gets into the record.
func CheckCertificate(chainPEM string, want Expect) (*order.Certificate, error) {
	if want.Now.IsZero() {
		want.Now = time.Now()
	}
	certs, err := parseChain(chainPEM)
	if err != nil {
		return nil, err
	}
	for _, check := range []func([]*x509.Certificate, Expect) error{checkKey, checkNames, checkDates, checkChain} {
		if err := check(certs, want); err != nil {
			return nil, err
		}
	}
	return describe(certs, want), nil
}

// KeyOf returns the fingerprint of the key that a chain in PEM, leaf first, is
// for.
func KeyOf(chainPEM string) (string, error) {
	certs, err := parseChain(chainPEM)
	if err != nil {
		return "", err
	}
	return Fingerprint(certs[0].PublicKey), nil
}

// parseChain takes certificates and white space, nothing else.
func parseChain(text string) ([]*x509.Certificate, error) {
	if len(text) > maxChain {
		return nil, wrong("the chain has %d bytes, at most %d are taken", len(text), maxChain)
	}
	var certs []*x509.Certificate
	for rest := strings.TrimSpace(text); rest != ""; {
		if !strings.HasPrefix(rest, "-----BEGIN ") {
			return nil, wrong("there is something other than PEM blocks in the chain")
		}
		block, after := pem.Decode([]byte(rest))
		if block == nil {
			return nil, wrong("the chain is broken PEM")
		}
		// Decode passes over blocks that it cannot read, and returns the next.
		if strings.Count(rest[:len(rest)-len(after)], "-----BEGIN ") > 1 {
			return nil, wrong("the chain is broken PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, wrong("there is a PEM block in the chain that is no certificate")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, wrong("certificate %d of the chain cannot be read: %v", len(certs)+1, err)
		}
		if certs = append(certs, cert); len(certs) > maxCertificates {
			return nil, wrong("the chain has more than %d certificates", maxCertificates)
		}
		rest = strings.TrimSpace(string(after))
	}
	if len(certs) == 0 {
		return nil, wrong("there is no certificate")
	}
	return certs, nil
}

func checkKey(certs []*x509.Certificate, want Expect) error {
	expected := want.Fingerprint
	if expected == "" {
		if want.Key == "" {
			return wrong("there is no key to compare the certificate with: the cloud returned none")
		}
		pub, err := publicOf(want.Key)
		if err != nil {
			return wrong("the cloud's key: %v", err)
		}
		expected = Fingerprint(pub)
	}
	if got := Fingerprint(certs[0].PublicKey); got != expected {
		return &Wrong{Reason: fmt.Sprintf("its public key (SHA-256 %.16s…) is not the one that was ordered (%.16s…)", got, expected), Kind: ErrWrongKey}
	}
	return nil
}

// checkNames wants each ordered name literally among the alternative names: a
// wildcard that happens to cover it was not what was ordered.
func checkNames(certs []*x509.Certificate, want Expect) error {
	if len(want.Names) == 0 {
		return wrong("there are no ordered names to compare it with")
	}
	var missing []string
	for _, n := range want.Names {
		if !slices.ContainsFunc(certs[0].DNSNames, func(has string) bool { return sameName(has, n) }) {
			missing = append(missing, n)
		}
	}
	if missing != nil {
		return wrong("it lacks the ordered names %s (it has %s)", strings.Join(missing, ", "), strings.Join(certs[0].DNSNames, ", "))
	}
	return nil
}

func sameName(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

func checkDates(certs []*x509.Certificate, want Expect) error {
	leaf := certs[0]
	switch {
	case !leaf.NotAfter.After(leaf.NotBefore):
		return wrong("it ends (%s) before it begins (%s)", day(leaf.NotAfter), day(leaf.NotBefore))
	case leaf.NotAfter.Sub(leaf.NotBefore) > maxLifetime:
		return wrong("it is valid from %s to %s, longer than any public CA may issue", day(leaf.NotBefore), day(leaf.NotAfter))
	}
	for i, c := range certs {
		if want.Now.After(c.NotAfter) {
			return wrong("certificate %d of the chain expired on %s", i+1, day(c.NotAfter))
		}
		if c.NotBefore.After(want.Now.Add(clockTolerance)) {
			return wrong("certificate %d of the chain is valid only from %s", i+1, day(c.NotBefore))
		}
	}
	return nil
}

func day(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// checkChain wants each certificate signed by the next one. A chain of the leaf
// alone passes without Roots: there is nothing to check it against, and it is
// what was bought.
func checkChain(certs []*x509.Certificate, want Expect) error {
	leaf := certs[0]
	if leaf.IsCA {
		return wrong("the first certificate of the chain is a CA's")
	}
	if usages := leaf.ExtKeyUsage; len(usages) > 0 && !slices.Contains(usages, x509.ExtKeyUsageServerAuth) && !slices.Contains(usages, x509.ExtKeyUsageAny) {
		return wrong("it is not for servers (no serverAuth among its extended key usages)")
	}
	if leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil {
		return wrong("it is signed by itself: no CA issued it")
	}
	for i := range len(certs) - 1 {
		if err := certs[i].CheckSignatureFrom(certs[i+1]); err != nil {
			return wrong("certificate %d of the chain is not signed by certificate %d: %v", i+1, i+2, err)
		}
	}
	if want.Roots == nil {
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: want.Roots, Intermediates: between, CurrentTime: want.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return wrong("the chain does not lead to a known root: %v", err)
	}
	return nil
}

func encodeChain(certs []*x509.Certificate) string {
	var chain strings.Builder
	for _, c := range certs {
		_ = pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Builder does not fail
	}
	return chain.String()
}

func describe(certs []*x509.Certificate, want Expect) *order.Certificate {
	leaf := certs[0]
	sum := sha256.Sum256(leaf.Raw)
	return &order.Certificate{
		Chain: encodeChain(certs), Fingerprint: hex.EncodeToString(sum[:]), Serial: leaf.SerialNumber.Text(16),
		Issuer: leaf.Issuer.String(), NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(),
		Names: leaf.DNSNames, Added: added(leaf, want.Names),
	}
}

// added are the names that nobody ordered, addresses included.
func added(leaf *x509.Certificate, ordered []string) []string {
	var more []string
	for _, n := range leaf.DNSNames {
		if !slices.ContainsFunc(ordered, func(o string) bool { return sameName(n, o) }) {
			more = append(more, n)
		}
	}
	for _, ip := range leaf.IPAddresses {
		more = append(more, ip.String())
	}
	return append(more, leaf.EmailAddresses...)
}
