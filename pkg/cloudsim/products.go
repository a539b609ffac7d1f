package cloudsim

import (
	"slices"
	"strconv"
	"strings"
)

// freePackage is PackageType of Tencent's ApplyCertificate, the only free one.
const freePackage = "83"

// product is one ProductCode of CAS.
type product struct {
	Code     string
	Name     string // ProductName of ListUserCertificateOrder
	Brand    string // RootBrand
	CertType string // DV, OV, EV or FREE
	Wildcard bool   // it certifies wildcards only; the others single names only
	Free     bool
}

// catalogue is what CreateCertificateForPackageRequest lists under ProductCode.
var catalogue = []product{
	{Code: "digicert-free-1-free", Name: "DigiCert DV SSL", Brand: "DigiCert", CertType: "FREE", Free: true},
	{Code: "symantec-free-1-free", Name: "DigiCert DV SSL", Brand: "DigiCert", CertType: "FREE", Free: true},
	{Code: "symantec-dv-1-starter", Name: "DigiCert DV SSL", Brand: "DigiCert", CertType: "DV"},
	{Code: "symantec-ov-1-personal", Name: "DigiCert OV SSL", Brand: "DigiCert", CertType: "OV"},
	{Code: "symantec-ov-w-personal", Name: "DigiCert OV SSL", Brand: "DigiCert", CertType: "OV", Wildcard: true},
	{Code: "geotrust-dv-1-starter", Name: "GeoTrust DV SSL", Brand: "GeoTrust", CertType: "DV"},
	{Code: "geotrust-dv-w-starter", Name: "GeoTrust DV SSL", Brand: "GeoTrust", CertType: "DV", Wildcard: true},
	{Code: "geotrust-ov-1-personal", Name: "GeoTrust OV SSL", Brand: "GeoTrust", CertType: "OV"},
	{Code: "geotrust-ov-w-personal", Name: "GeoTrust OV SSL", Brand: "GeoTrust", CertType: "OV", Wildcard: true},
	{Code: "globalsign-dv-1-personal", Name: "GlobalSign DV SSL", Brand: "GlobalSign", CertType: "DV"},
	{Code: "globalsign-dv-w-advanced", Name: "GlobalSign DV SSL", Brand: "GlobalSign", CertType: "DV", Wildcard: true},
	{Code: "globalsign-ov-1-personal", Name: "GlobalSign OV SSL", Brand: "GlobalSign", CertType: "OV"},
	{Code: "globalsign-ov-w-advanced", Name: "GlobalSign OV SSL", Brand: "GlobalSign", CertType: "OV", Wildcard: true},
	{Code: "cfca-ov-1-personal", Name: "CFCA OV SSL", Brand: "CFCA", CertType: "OV"},
	{Code: "cfca-ev-w-advanced", Name: "CFCA EV SSL", Brand: "CFCA", CertType: "EV"},
}

// defaultProduct is taken when ProductCode is left out.
const defaultProduct = "digicert-free-1-free"

// productOf is the product of a code. A code that only the config names tells by
// its own letters what it is, as the documents' codes do: -1- single, -w- wildcard.
func productOf(code string) product {
	i := slices.IndexFunc(catalogue, func(p product) bool { return p.Code == code })
	if i >= 0 {
		return catalogue[i]
	}
	p := product{Code: code, Name: code, Brand: strings.SplitN(code, "-", 2)[0], CertType: "DV",
		Wildcard: strings.Contains(code, "-w-"), Free: strings.HasSuffix(code, "-free") || code == freePackage}
	switch {
	case p.Free:
		p.CertType = "FREE"
	case strings.Contains(code, "-ov-"):
		p.CertType = "OV"
	case strings.Contains(code, "-ev-"):
		p.CertType = "EV"
	}
	return p
}

// formatID writes an id as alidns shows it, in decimal digits.
func formatID(id uint64) string { return strconv.FormatUint(id, 10) }
