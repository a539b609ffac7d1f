package certstore

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/certmill/certmill/pkg/order"
)

// parseCSR reads a request in PEM.
func parseCSR(csrPEM string) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode([]byte(csrPEM))
	if block == nil || !strings.HasSuffix(block.Type, "CERTIFICATE REQUEST") {
		return nil, errors.New("this is no certificate request in PEM")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read certificate request: %w", err)
	}
	return req, nil
}

// FingerprintOfCSR is the fingerprint of the key of a request in PEM.
func FingerprintOfCSR(csrPEM string) (string, error) {
	req, err := parseCSR(csrPEM)
	if err != nil {
		return "", err
	}
	return Fingerprint(req.PublicKey), nil
}

// CheckCSR tells whether a request may be sent for these names: it is for the key
// with this fingerprint, asks for ordered names only, and for all of them if for
// more than its common name.
func CheckCSR(csrPEM, fingerprint string, names []string) error {
	req, err := parseCSR(csrPEM)
	if err != nil {
		return err
	}
	if Fingerprint(req.PublicKey) != fingerprint {
		return errors.New("its fingerprint is not that of its CSR")
	}
	asked := namesOf(req)
	for _, n := range asked {
		if !hasName(names, n) {
			return fmt.Errorf("its CSR asks for %s, which was not ordered", order.Quote(n))
		}
	}
	if len(req.IPAddresses)+len(req.EmailAddresses)+len(req.URIs) > 0 {
		return errors.New("its CSR asks for more than DNS names")
	}
	if len(asked) == 0 {
		return errors.New("its CSR asks for no name")
	}
	for _, n := range names {
		if len(req.DNSNames) > 0 && !hasName(asked, n) {
			return fmt.Errorf("its CSR does not ask for %s, which was ordered", n)
		}
	}
	return nil
}

// namesOf are all names that a request asks for, the common name first.
func namesOf(req *x509.CertificateRequest) []string {
	var all []string
	if req.Subject.CommonName != "" {
		all = append(all, req.Subject.CommonName)
	}
	for _, n := range req.DNSNames {
		if !hasName(all, n) {
			all = append(all, n)
		}
	}
	return all
}

func hasName(names []string, name string) bool {
	hash := order.NamesHash([]string{name}) // the same for every spelling
	return slices.ContainsFunc(names, func(n string) bool { return order.NamesHash([]string{n}) == hash })
}

// asksFor are the names of a request as a set that can be compared. Which of them is
// the common name makes no other certificate: a list whose names somebody has sorted
// is the same order. A common name that stands among the alternative names too asks
// for no more.
func asksFor(csrPEM string) (string, error) {
	if csrPEM == "" {
		return "", nil
	}
	req, err := parseCSR(csrPEM)
	if err != nil {
		return "", err
	}
	return order.NamesHash(namesOf(req)), nil
}

// CommonFirst are the names with the common name of the request before the others,
// where it is one of them: a cloud that is told both compares them.
func CommonFirst(csrPEM string, names []string) []string {
	req, err := parseCSR(csrPEM)
	if err != nil {
		return names
	}
	at := slices.IndexFunc(names, func(n string) bool { return hasName([]string{n}, req.Subject.CommonName) })
	if at <= 0 {
		return names
	}
	return slices.Concat(names[at:at+1], names[:at], names[at+1:])
}
