package aliyun

import (
	"cmp"
	"errors"
	"strings"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// The actions that start an order.
const (
	forPackage = "CreateCertificateForPackageRequest" // CAS 2020-04-07
	withCSR    = "CreateCertificateWithCsrRequest"    // CAS 2020-04-07
	dvAudit    = "CreateDVOrderAudit"                 // CAS 2018-07-13
)

// About implements issuer.Cloud.
func (c *Client) About() issuer.About { return About() }

// Flows implements issuer.Cloud.
func (c *Client) Flows() []issuer.Flow { return []issuer.Flow{c.Package(), c.CSR(), c.Instance()} }

// Package returns the flow of package plans, CreateCertificateForPackageRequest.
func (c *Client) Package() issuer.Flow { return &packages{c: c, action: forPackage} }

// CSR returns the flow of package plans for a CSR of the user's,
// CreateCertificateWithCsrRequest. All but Submit is the same as in Package.
func (c *Client) CSR() issuer.Flow { return &packages{c: c, action: withCSR} }

// Instance returns the flow of single instances that were bought already,
// CreateDVOrderAudit.
func (c *Client) Instance() issuer.Flow { return &instances{c} }

// Route implements issuer.Cloud: a resource is an instance, a CSR of the user's
// has a call of its own, all else goes by package plan. What the calls need of
// the contact is what their pages call required; CreateCertificateForPackageRequest
// takes the account's own where none is named (Username, Email, Phone), and so
// it does with the company of OV products (CompanyName).
func (c *Client) Route(r order.Request) (issuer.Route, error) {
	named := cmp.Or(r.Product, c.product)
	inForce := cmp.Or(named, usualProduct)
	switch {
	case r.Resource != "" && r.CSR != "":
		return issuer.Route{}, errors.New("an order on an instance takes no csr, because CreateDVOrderAudit has no field " +
			"for it: leave the csr out, or order by product instead of by resource")
	case r.Resource != "":
		needs := []string{"email", "name", "phone", "province", "city"}
		return issuer.Route{Flow: c.Instance(), Product: named, Needs: needs}, nil
	case r.CSR != "" && len(r.Names) > 1 && !c.csrSANs:
		return issuer.Route{}, errors.New("the documents of CAS bind only the CN of a CSR, so a CSR for several names needs " +
			"csr_sans: true in the account's config; or order without a CSR, or one order per name")
	case r.CSR != "" && c.Product(named).Organisation:
		// CreateCertificateWithCsrRequest is for DV alone, and has no field for
		// the company; its page sends all others by the package's call, with Csr.
		return issuer.Route{Flow: c.Package(), Product: named}, nil
	case r.CSR != "":
		return issuer.Route{Flow: c.CSR(), Product: inForce, Needs: []string{"email", "name", "phone"}}, nil
	}
	return issuer.Route{Flow: c.Package(), Product: inForce}, nil
}

// usualProduct is what orders from package plans get for which nobody names a
// product (CreateCertificateForPackageRequest, ProductCode).
const usualProduct = "digicert-free-1-free"

// cfca: its CP/CPS for the global trust system (www.cfca.com.cn) has the name,
// but could not be read here.
var cfca = issuer.CA{Name: "CFCA", Identities: []string{"cfca.com.cn"}, Unread: true}

// brands are the first part of product codes, as the documents of
// CreateCertificateForPackageRequest list them, and DigiCert's other brands.
var brands = map[string]issuer.CA{
	"digicert": issuer.DigiCert, "symantec": issuer.DigiCert, "geotrust": issuer.DigiCert,
	"rapidssl": issuer.DigiCert, "thawte": issuer.DigiCert,
	"globalsign": issuer.GlobalSign,
	"cfca":       cfca,
}

// Product implements issuer.Cloud. Codes are brand, kind (dv, ov, ev, free),
// names (1: single ones, w: wildcards) and level, such as geotrust-ov-w-personal.
// Free ones take one name (help.aliyun.com 212989), all others several. What
// EV products certify is left open: their codes say -w-, and no CA may issue such.
func (c *Client) Product(code string) issuer.Product {
	lower := strings.ToLower(code)
	brand, _, _ := strings.Cut(lower, "-")
	p := issuer.Product{
		Code:         code,
		CA:           brands[brand],
		Organisation: strings.Contains(lower, "-ov-") || strings.Contains(lower, "-ev-"),
		Several:      code != "" && !strings.HasSuffix(lower, "-free"),
		One:          strings.HasSuffix(lower, "-free"),
	}
	switch {
	case strings.Contains(lower, "-ev-"):
	case strings.Contains(lower, "-1-"):
		p.Names, p.Instead = issuer.SingleNames, "geotrust-dv-w-starter"
	case strings.Contains(lower, "-w-"):
		p.Names, p.Instead = issuer.Wildcards, "geotrust-dv-1-starter"
	}
	return p
}
