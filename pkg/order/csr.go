package order

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxCSR bounds a request in PEM; one for RSA 4096 and five names has 2 KiB.
const maxCSR = 16 << 10

// CSR is a certificate request that passed every check but the one against an
// order's names.
type CSR struct {
	CommonName  string
	Names       []string // common name and alternative names, normal form, sorted, each once
	Fingerprint string   // SHA-256 of the SubjectPublicKeyInfo, hex
}

// ParseCSR reads a PKCS#10 request (RFC 2986) in PEM. Its error says what is
// wrong and what to do, and never repeats the text, which may be a private key.
func ParseCSR(text string) (*CSR, error) {
	der, err := decodeCSR(text)
	if err != nil {
		return nil, err
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, errors.New("cannot be read as a certificate request (PKCS#10): make it anew, for example with openssl req -new")
	}
	if err := req.CheckSignature(); err != nil {
		return nil, errors.New("its signature does not match its key: it was damaged or altered, make it anew")
	}
	for _, check := range []func(*x509.CertificateRequest) error{checkCSRKey, checkCSRSignature, checkCSRSubject, checkCSRAltNames} {
		if err := check(req); err != nil {
			return nil, err
		}
	}
	names := []string{normalName(req.Subject.CommonName)}
	for _, n := range req.DNSNames {
		names = append(names, normalName(n))
	}
	slices.Sort(names)
	sum := sha256.Sum256(req.RawSubjectPublicKeyInfo)
	return &CSR{CommonName: req.Subject.CommonName, Names: slices.Compact(names), Fingerprint: hex.EncodeToString(sum[:])}, nil
}

const secretSent = "holds a private key, which has now been sent over the wire: make a new key, and send only its CERTIFICATE REQUEST in csr"

func decodeCSR(text string) ([]byte, error) {
	if len(text) > maxCSR {
		return nil, fmt.Errorf("has %d bytes, at most %d are taken: send the request alone", len(text), maxCSR)
	}
	if HoldsSecret(text) {
		return nil, errors.New(secretSent)
	}
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "-----BEGIN ") {
		return nil, errors.New("is not PEM: it must begin with -----BEGIN CERTIFICATE REQUEST----- and keep its line breaks (\\n in JSON)")
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, errors.New("is broken PEM: keep all its lines and line breaks (\\n in JSON)")
	case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
		return nil, fmt.Errorf("is a PEM block of type %s: send the CERTIFICATE REQUEST", Quote(block.Type))
	case len(block.Headers) > 0: // RFC 7468 has none; the clouds get the text as it is
		return nil, errors.New("has header lines between BEGIN and the data: leave them out")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("more follows after the request: send exactly one CERTIFICATE REQUEST block")
	}
	return block.Bytes, nil
}

// checkCSRKey takes what the clouds document: RSA from 2048 bits, or ECDSA.
func checkCSRKey(req *x509.CertificateRequest) error {
	const instead = "make a key with RSA 2048 to 4096 bits or ECDSA P-256 or P-384"
	switch key := req.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 4096 {
			return fmt.Errorf("its RSA key has %d bits: %s", bits, instead)
		}
		if key.E < 65537 || key.E%2 == 0 { // CA/Browser Forum BR, 6.1.6
			return fmt.Errorf("its RSA key has the exponent %d: make a key with the exponent 65537", key.E)
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return fmt.Errorf("its key is on curve %s: %s", key.Curve.Params().Name, instead)
		}
	default:
		return fmt.Errorf("its key is of an algorithm (%s) that the clouds do not take: %s", req.PublicKeyAlgorithm, instead)
	}
	return nil
}

func checkCSRSignature(req *x509.CertificateRequest) error {
	switch req.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.MD5WithRSA, x509.MD2WithRSA, x509.DSAWithSHA1:
		return fmt.Errorf("it is signed with %s, which is weak: sign it with SHA-256", req.SignatureAlgorithm)
	}
	return nil
}

// checkCSRSubject wants exactly one common name, because it is what a cloud takes
// the domain from whose call with a CSR has no other field for it.
func checkCSRSubject(req *x509.CertificateRequest) error {
	commonName := asn1.ObjectIdentifier{2, 5, 4, 3}
	count := 0
	for _, a := range req.Subject.Names {
		if a.Type.Equal(commonName) {
			count++
		}
	}
	switch cn := req.Subject.CommonName; {
	case count == 0 || cn == "":
		return errors.New("it has no common name, from which the cloud takes the domain: make it with one of the names as CN")
	case count > 1:
		return errors.New("it has several common names: make it with one of the names as CN, and all of them as alternative names")
	case len(cn) > 64: // ub-common-name, RFC 5280 appendix A.1
		return fmt.Errorf("its common name has %d characters, at most 64 are allowed (RFC 5280): take a shorter name of the certificate as CN", len(cn))
	}
	return nil
}

// checkCSRAltNames looks at the extension itself, because crypto/x509 skips the
// kinds of names it has no field for (otherName, directoryName).
func checkCSRAltNames(req *x509.CertificateRequest) error {
	for _, ext := range req.Extensions {
		if !ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names []asn1.RawValue
		if _, err := asn1.Unmarshal(ext.Value, &names); err != nil {
			return errors.New("its alternative names cannot be read: make it anew")
		}
		for _, n := range names {
			if kind := altNameKind(n.Tag); kind != "" {
				return fmt.Errorf("it asks for %s as an alternative name, which these clouds do not issue: make it with DNS names only", kind)
			}
		}
	}
	return nil
}

// altNameKind names the choices of GeneralName (RFC 5280, 4.2.1.6) but dNSName.
func altNameKind(tag int) string {
	switch tag {
	case 1:
		return "an e-mail address"
	case 2:
		return ""
	case 6:
		return "a URI"
	case 7:
		return "an IP address"
	}
	return "something other than a DNS name"
}

// differs says how the request's names differ from those of the order.
func (c *CSR) differs(names []string) string {
	var missing, extra []string
	for _, n := range names {
		if !slices.Contains(c.Names, n) {
			missing = append(missing, n)
		}
	}
	for _, n := range c.Names {
		if !slices.Contains(names, n) {
			extra = append(extra, n)
		}
	}
	var told []string
	if len(missing) > 0 {
		told = append(told, "it lacks "+Quote(strings.Join(missing, ", ")))
	}
	if len(extra) > 0 {
		told = append(told, "it asks also for "+Quote(strings.Join(extra, ", ")))
	}
	if told == nil {
		return ""
	}
	return "its names differ from the order's names: " + strings.Join(told, " and ") + "; make both lists the same (common name and alternative names count together)"
}
