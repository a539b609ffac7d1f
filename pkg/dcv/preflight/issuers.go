package preflight

import "strings"

// CA is who issues a product, and the names in CAA records that mean it. The
// first one is what a new record should say.
type CA struct {
	Name       string
	Identities []string
	// Unread: the names were not read on a page of the CA's own, so that what
	// they leave out is a warning, not an error.
	Unread bool
}

// The names that CAs take in CAA records, from their own pages:
//
//   - DigiCert, with all its brands: docs.digicert.com, "DNS CAA resource record
//     check", and knowledge.digicert.com SO28343 and SO28344 for the brands' own
//     names, which stay valid.
//   - GlobalSign: support.globalsign.com, "CAA checking for SSL certificates".
//   - CFCA: its CP/CPS for the global trust system (www.cfca.com.cn) has the
//     name, but could not be read here.
//   - TrustAsia at Tencent Cloud is issued under several roots, of which it has
//     one of its own by now: cloud.tencent.com/document/faq/400/88117 tells to
//     allow the first three.
var (
	digicert   = CA{Name: "DigiCert", Identities: []string{"digicert.com", "www.digicert.com", "symantec.com", "geotrust.com", "rapidssl.com", "thawte.com", "digitalcertvalidation.com", "digicert.ne.jp", "cybertrust.ne.jp"}}
	globalsign = CA{Name: "GlobalSign", Identities: []string{"globalsign.com"}}
	cfca       = CA{Name: "CFCA", Identities: []string{"cfca.com.cn"}, Unread: true}
	trustasia  = CA{Name: "TrustAsia", Identities: []string{"trust-provider.com", "sectigo.com", "globalsign.com", "trustasia.com"}, Unread: true}
)

// brands are the first part of product codes, as the documents of
// CreateCertificateForPackageRequest list them, and Tencent's free package.
var brands = map[string]CA{
	"digicert": digicert, "symantec": digicert, "geotrust": digicert, "rapidssl": digicert, "thawte": digicert,
	"globalsign": globalsign,
	"cfca":       cfca,
	"trustasia":  trustasia,
	"83":         trustasia, // ApplyCertificate's PackageType: TrustAsia C1 DV Free
}

// CAOf tells who issues a product.
func CAOf(product string) (CA, bool) {
	brand, _, _ := strings.Cut(strings.ToLower(product), "-")
	ca, ok := brands[brand]
	return ca, ok
}
