package issuer

// CAs that more than one vendor sells for, with the names that they take in CAA
// records, from their own pages.
var (
	// DigiCert, with all its brands: docs.digicert.com, "DNS CAA resource record
	// check", and knowledge.digicert.com SO28343 and SO28344 for the brands' own
	// names, which stay valid.
	DigiCert = CA{Name: "DigiCert", Identities: []string{"digicert.com", "www.digicert.com", "symantec.com",
		"geotrust.com", "rapidssl.com", "thawte.com", "digitalcertvalidation.com", "digicert.ne.jp", "cybertrust.ne.jp"}}
	// GlobalSign: support.globalsign.com, "CAA checking for SSL certificates".
	GlobalSign = CA{Name: "GlobalSign", Identities: []string{"globalsign.com"}}
)
