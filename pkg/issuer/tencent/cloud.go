package tencent

import (
	"cmp"
	"strings"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// The actions that start an order: the materials, and the order (SSL 2019-12-05).
const (
	infoSubmit  = "CertificateInfoSubmit"
	orderSubmit = "CertificateOrderSubmit"
)

// About implements issuer.Cloud.
func (c *Client) About() issuer.About { return About() }

// Flows implements issuer.Cloud.
func (c *Client) Flows() []issuer.Flow { return []issuer.Flow{c.Certificate()} }

// Certificate returns the flow of paid certificates, CertificateOrderSubmit.
func (c *Client) Certificate() issuer.Flow { return &certificates{c} }

// Route implements issuer.Cloud. All orders take a certificate that was bought
// before: the one that they name, or an unused one. No call asks for a product;
// one that is named tells who the CA is. For a person, which all DV orders are
// made for, CertificateInfoSubmit needs ContactEmail.
func (c *Client) Route(r order.Request) (issuer.Route, error) {
	return issuer.Route{Flow: c.Certificate(), Product: cmp.Or(r.Product, c.product), Needs: []string{"email"}}, nil
}

// trustasia is issued under several roots, of which it has one of its own by
// now: cloud.tencent.com/document/faq/400/88117 tells to allow the first three.
var trustasia = issuer.CA{Name: "TrustAsia", Unread: true,
	Identities: []string{"trust-provider.com", "sectigo.com", "globalsign.com", "trustasia.com"}}

// brands are the first part of how orders name what was bought: the brand, or
// the number of a package.
var brands = map[string]issuer.CA{
	"digicert": issuer.DigiCert, "symantec": issuer.DigiCert, "geotrust": issuer.DigiCert,
	"rapidssl": issuer.DigiCert, "thawte": issuer.DigiCert,
	"globalsign": issuer.GlobalSign,
	"trustasia":  trustasia,
	"83":         trustasia, // ApplyCertificate's PackageType: TrustAsia C1 DV Free
}

// Product implements issuer.Cloud. How many names a certificate takes that was
// bought, only its own page tells.
func (c *Client) Product(code string) issuer.Product {
	lower := strings.ToLower(code)
	brand, _, _ := strings.Cut(lower, "-")
	return issuer.Product{
		Code:         code,
		CA:           brands[brand],
		Organisation: strings.Contains(lower, "-ov-") || strings.Contains(lower, "-ev-"),
	}
}
