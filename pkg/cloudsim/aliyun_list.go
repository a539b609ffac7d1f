package cloudsim

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The operations of CAS 2020-04-07 that show lists and certificates.

// expiringDays is when a certificate is called about to expire.
const expiringDays = 30

// orderStatuses are the values of Status, and whether certificates have it, too.
var orderStatuses = map[string]bool{
	"PAYED": false, "CHECKING": false, "CHECKED_FAIL": false, "NOTACTIVATED": false, "REVOKED": false,
	"ISSUED": true, "WILLEXPIRED": true, "EXPIRED": true,
}

// rowFilter is what ListUserCertificateOrder was asked for.
type rowFilter struct {
	kind, status, keyword string
	page, size            int
}

func (c *rpcCall) rowFilter(largest int) (rowFilter, error) {
	f := rowFilter{kind: c.params["OrderType"], status: c.params["Status"], keyword: strings.ToLower(c.params["Keyword"])}
	setIfZero(&f.kind, "CPACK")
	certificates, known := orderStatuses[f.status]
	switch {
	case !slices.Contains([]string{"CPACK", "BUY", "CERT", "UPLOAD"}, f.kind):
		return f, rpcInvalid("OrderType", "it is none of CPACK, BUY, CERT and UPLOAD")
	case f.status != "" && !known, f.status != "" && f.ofCertificates() && !certificates:
		return f, rpcInvalid("Status", "there is no such status of "+f.kind)
	}
	var err error
	if f.page, err = c.number("CurrentPage", 1, 1); err != nil {
		return f, err
	}
	f.size, err = c.number("ShowSize", 50, 1)
	f.size = min(f.size, largest)
	return f, err
}

func (f rowFilter) ofCertificates() bool { return f.kind == "CERT" || f.kind == "UPLOAD" }

// listUserCertificateOrder lists orders or certificates, by default newest first,
// as of a little while ago. Rows shift while one pages, and TotalCount with them.
func (s *Sim) listUserCertificateOrder(c *rpcCall) (rpcFields, error) {
	f, err := c.rowFilter(s.cfg().MaxShowSize)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	list := s.books.list
	if f.ofCertificates() {
		list = s.books.listIssued
	}
	found := s.arrange(list(c.own, func(o *order) bool { return s.matches(f, o, now) && c.key.lists(o) }))
	rows := []rpcFields{}
	for _, o := range offsetPage(found, s.start(pageStart(f.page, f.size, len(found))), f.size) {
		row, err := s.row(f, o, now)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rpcFields{"CurrentPage": f.page, "ShowSize": f.size, "TotalCount": len(found), "CertificateOrderList": rows}, nil
}

// matches looks at what is cheap first: every order of the account passes here.
func (s *Sim) matches(f rowFilter, o *order, now time.Time) bool {
	switch {
	case f.kind == "UPLOAD": // nobody can upload here
		return false
	case f.kind == "CPACK" && o.Kind != kindPackage, f.kind == "BUY" && o.Kind != kindInstance, f.kind == "CERT" && o.CertID == 0:
		return false
	case !o.visible(now), f.keyword != "" && !o.mentions(f.keyword):
		return false
	case f.status == "" && f.kind != "CERT":
		return true
	}
	status := s.listedStatus(o, now)
	if f.status == "" {
		return status == "ISSUED" || status == "WILLEXPIRED"
	}
	return status == f.status
}

// mentions is the fuzzy search of Keyword: part of a name, or of the instance id.
func (o *order) mentions(keyword string) bool {
	return strings.Contains(strings.ToLower(o.Instance), keyword) ||
		slices.ContainsFunc(o.Names, func(name string) bool { return strings.Contains(name, keyword) })
}

// listedStatus is Status as lists show it.
func (s *Sim) listedStatus(o *order, now time.Time) string {
	if s.odd(o, now) {
		return oddWord
	}
	switch o.listed(now) {
	case statePending:
		if now.Before(o.ChallengeAt) {
			return "PAYED"
		}
		return "CHECKING"
	case stateReview:
		return "CHECKING"
	case stateFailed:
		return "CHECKED_FAIL"
	case stateRevoked:
		return "REVOKED"
	case stateIssued:
		return issuedStatus(o, now)
	}
	return "PAYED"
}

func issuedStatus(o *order, now time.Time) string {
	switch {
	case now.After(o.NotAfter):
		return "EXPIRED"
	case now.After(o.NotAfter.Add(-expiringDays * 24 * time.Hour)):
		return "WILLEXPIRED"
	}
	return "ISSUED"
}

func (s *Sim) row(f rowFilter, o *order, now time.Time) (rpcFields, error) {
	if f.ofCertificates() {
		return casCertificateRow(o, now)
	}
	row := rpcFields{
		"OrderId": o.Number, "AliyunOrderId": o.Number - 1_000_003, // never the OrderId
		"InstanceId": o.Instance,
		"Domain":     strings.Join(o.Names, ","), "Status": s.listedStatus(o, now),
		"ProductCode": o.Product, "CertType": o.CertType, "DomainType": domainType(o.Names),
		"DomainCount": len(o.Names) - countWildcards(o.Names), "WildDomainCount": countWildcards(o.Names),
		"BuyDate": o.Created.UnixMilli(), "SourceType": strings.ToLower(f.kind), "TrusteeStatus": "unTrustee",
	}
	p := productOf(o.Product)
	if o.Product != "" {
		row["ProductName"], row["RootBrand"] = p.Name, p.Brand
	}
	if o.Leaf == "" || o.listed(now) != stateIssued {
		return row, nil
	}
	row["CertStartTime"], row["CertEndTime"], row["Algorithm"] = o.NotBefore.UnixMilli(), o.NotAfter.UnixMilli(), o.algorithm()
	return row, nil
}

// domainType is DomainType of an order's row.
func domainType(names []string) string {
	switch {
	case mixed(names):
		return "MIX"
	case countWildcards(names) > 1:
		return "M_WILDCARD"
	case countWildcards(names) == 1:
		return "WILDCARD"
	case len(names) > 1:
		return "MULTIPLE"
	}
	return "ONE"
}

func (o *order) algorithm() string {
	if o.LeafAlg == x509.ECDSA.String() {
		return "ECC"
	}
	return "RSA"
}

// casCertificateRow has no OrderId: InstanceId is what links it to its order.
func casCertificateRow(o *order, now time.Time) (rpcFields, error) {
	leaf, err := casLeaf(o)
	if err != nil {
		return nil, err
	}
	row := casCertificateFields(o, leaf, now)
	row["CertificateId"], row["InstanceId"], row["CommonName"] = o.CertID, o.Instance, leaf.Subject.CommonName
	row["Upload"] = false
	return row, nil
}

// casCertificateFields are those of the list and of GetUserCertificateDetail alike.
func casCertificateFields(o *order, leaf *x509.Certificate, now time.Time) rpcFields {
	one, two := sha1.Sum(leaf.Raw), sha256.Sum256(leaf.Raw)
	return rpcFields{
		"Name": "cert-" + strconv.FormatInt(o.CertID, 10), "Sans": strings.Join(leaf.DNSNames, ","),
		"SerialNo":    fmt.Sprintf("%032x", leaf.SerialNumber), // zero-padded, as Certimate reports
		"Fingerprint": strings.ToUpper(hex.EncodeToString(one[:])), "Sha2": strings.ToUpper(hex.EncodeToString(two[:])),
		"Issuer": leaf.Issuer.CommonName, "OrgName": "", "Province": "", "City": "", "Country": "",
		"StartDate": leaf.NotBefore.Format(time.DateOnly), "EndDate": leaf.NotAfter.Format(time.DateOnly),
		"Expired": now.After(leaf.NotAfter), "ResourceGroupId": "rg-cloudsim",
	}
}

// getUserCertificateDetail shows one certificate, and with CertFilter=false, the
// default, its key where the cloud made it.
func (s *Sim) getUserCertificateDetail(c *rpcCall) (rpcFields, error) {
	if err := c.require("CertId"); err != nil {
		return nil, err
	}
	id, err := strconv.ParseInt(c.params["CertId"], 10, 64)
	if err != nil {
		return nil, rpcInvalid("CertId", "it is no whole number")
	}
	filter, err := strconv.ParseBool(cmp.Or(c.params["CertFilter"], "false"))
	if err != nil {
		return nil, rpcInvalid("CertFilter", "it is neither true nor false")
	}
	s.books.mu.Lock()
	o := s.books.orders[s.books.certs[id]]
	s.books.mu.Unlock()
	if o == nil || o.Owner != c.own || o.State == stateDeleted {
		return nil, refuse(http.StatusNotFound, "NotFoundOrder", "The specified certificate order was not found.")
	}
	leaf, err := casLeaf(o)
	if err != nil {
		return nil, err
	}
	out := casCertificateFields(o, leaf, time.Now())
	out["Id"], out["Common"], out["InstanceId"] = o.CertID, leaf.Subject.CommonName, o.Instance
	out["CertIdentifier"] = strconv.FormatInt(o.CertID, 10) + "-cn-hangzhou"
	out["OrderId"], out["BuyInAliyun"], out["Algorithm"] = o.Number, true, o.algorithm()
	out["NotBefore"], out["NotAfter"] = leaf.NotBefore.UnixMilli(), leaf.NotAfter.UnixMilli()
	if !filter {
		out["Cert"], out["Key"] = s.ca.chain(o.Leaf), o.Key
	}
	return out, nil
}
