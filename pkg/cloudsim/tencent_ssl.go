package cloudsim

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"
)

// SSL Certificate Service, version 2019-12-05, as the API pages below
// cloud.tencent.com 400/41674 describe it. Numbers of Status and the values of
// StatusMsg are from there.

func failed(code, format string, args ...any) error {
	return refuse(0, "FailedOperation."+code, format, args...)
}

func noCertificate() error { return failed("CertificateNotFound", "The certificate does not exist.") }

// certificate finds a certificate of either kind. Callers hold the lock.
func (b *books) certificate(own owner, id string) (*order, error) {
	for _, k := range []kind{kindSSL, kindFree} {
		if o := b.find(own, k, id); o != nil {
			return o, nil
		}
	}
	return nil, noCertificate()
}

// readCertificate is certificate for those who do not hold the lock.
func (s *Sim) readCertificate(own owner, id string) (*order, error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	return s.books.certificate(own, id)
}

// changeCertificate finds and changes a certificate.
func (s *Sim) changeCertificate(own owner, id string, edit func(*order) error) (*order, error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	o, err := s.books.certificate(own, id)
	if err != nil {
		return nil, err
	}
	return s.books.change(o.key(), edit)
}

// submittedInfo are the parameters of CertificateInfoSubmit. CompanyId is marked as
// required, with "0" for none (cloud.tencent.com 400/116033).
type submittedInfo struct {
	CertId         string `tc:"required"`
	GenCsrType     string `tc:"required"`
	CertCommonName string `tc:"required"`
	CompanyType    int    `tc:"required"`
	CompanyId      string `tc:"required"`

	Csr, KeyPass, VerifyType, ContactEmail, CsrKeyParameter, CsrEncryptAlgo, ManagerId, CaType string

	DnsNames      []string
	AutoRenewFlag int

	OrgIdType, OrgIdNumber, AdminIdType, AdminIdNumber, TechIdType, TechIdNumber                   string
	OrgName, OrgDivision, OrgAddress, OrgCountry, OrgCity, OrgRegion, OrgPhoneArea, OrgPhoneNumber string
	AdminFirstName, AdminLastName, AdminPhone, AdminEmail, AdminTitle                              string
	TechFirstName, TechLastName, TechPhone, TechEmail, TechTitle                                   string
}

// certificateInfoSubmit takes the materials of a bought certificate. Until the
// order is submitted they may be overwritten.
func (s *Sim) certificateInfoSubmit(by caller, in submittedInfo) (fields, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	names, err := parseNames(strings.Join(append([]string{in.CertCommonName}, in.DnsNames...), ","))
	if err != nil {
		return nil, failed("InvalidParam", "%v", err)
	}
	keyAlg, err := in.key(names)
	if err != nil {
		return nil, err
	}
	_, err = s.changeCertificate(by.owner, in.CertId, func(o *order) error {
		switch {
		case o.Kind != kindSSL:
			return failed("InvalidCertificateStatusCode", "A free certificate takes no materials.")
		case o.State != stateBought:
			return failed("CertificateInfoSubmitStatusInvalid", "The certificate's status does not allow submitting materials.")
		}
		if err := fits(o, names); err != nil {
			return err
		}
		o.Names, o.Method, o.Email, o.Filled = names, in.VerifyType, in.ContactEmail, true
		o.CSR, o.KeyAlg, o.By = "", keyAlg, by.key.caller()
		if in.GenCsrType == "parse" {
			o.CSR = in.Csr
		}
		return checkVerifyType(o.Method, names)
	})
	return fields{}, err
}

func (in *submittedInfo) check() error {
	switch {
	case in.GenCsrType != "online" && in.GenCsrType != "parse":
		return wrongValue("GenCsrType", in.GenCsrType)
	case in.GenCsrType == "parse" && in.Csr == "":
		return lacking("Csr")
	case in.CompanyType != 1 && in.CompanyType != 2:
		return wrongValue("CompanyType", in.CompanyType)
	case in.AutoRenewFlag != 0 && in.AutoRenewFlag != 1:
		return wrongValue("AutoRenewFlag", in.AutoRenewFlag)
	case in.CompanyType == 1 && in.ContactEmail == "":
		return lacking("ContactEmail")
	case in.CompanyType == 2 && (in.CompanyId == "" || in.CompanyId == "0") && in.OrgName == "":
		return lacking("OrgName")
	}
	if in.ContactEmail != "" {
		if _, err := mail.ParseAddress(in.ContactEmail); err != nil {
			return failed("CertificatePreVerifyEmailInvalid", "The format of the email address is incorrect.")
		}
	}
	return nil
}

// key checks the CSR, or says what kind of key the cloud has to make.
func (in *submittedInfo) key(names []string) (string, error) {
	if in.GenCsrType == "online" {
		return cloudKey(in.CsrEncryptAlgo, in.CsrKeyParameter)
	}
	csr, err := parseCSR(in.Csr)
	if err != nil {
		return "", failed("InvalidParam", "The CSR cannot be used: %v.", err)
	}
	if !strings.EqualFold(csr.Subject.CommonName, names[0]) {
		return "", failed("InvalidParam", "The CSR's common name %q is not CertCommonName.", csr.Subject.CommonName)
	}
	for _, name := range csr.DNSNames {
		if !contains(names, strings.ToLower(name)) {
			return "", failed("InvalidParam", "The CSR is for %q, which neither CertCommonName nor DnsNames has.", name)
		}
	}
	return "", nil
}

// cloudKey reads CsrEncryptAlgo and CsrKeyParameter; both left out means the
// setting of the simulator.
func cloudKey(algorithm, parameter string) (string, error) {
	kinds := map[string]string{"RSA": keyRSA, "RSA 2048": keyRSA, "RSA 4096": keyRSA4096,
		"ECC": keyP256, "ECC prime256v1": keyP256, "ECC secp384r1": keyP384, "": ""}
	kind, known := kinds[strings.TrimSpace(algorithm+" "+parameter)]
	if !known {
		return "", wrongValue("CsrKeyParameter", algorithm+" "+parameter)
	}
	return kind, nil
}

// fits compares the names with what was bought: DomainType 1 one name, 2 several,
// 3 one wildcard, 4 several wildcards.
func fits(o *order, names []string) error {
	wild := countWildcards(names)
	fine := map[int]bool{
		0: true,
		1: len(names) == 1 && wild == 0,
		2: wild == 0,
		3: len(names) == 1 && wild == 1,
		4: wild == len(names),
	}
	if !fine[o.Type] || (o.Limit > 0 && len(names) > o.Limit) {
		return failed("InvalidParam", "The certificate that was bought does not fit these names.")
	}
	return nil
}

// checkVerifyType refuses unknown methods, and files for wildcards, which no CA may
// accept (Tencent since 2021-11-21).
func checkVerifyType(method string, names []string) error {
	switch {
	case method != "" && method != methodDNS && method != methodFILE && method != methodAuto:
		return wrongValue("VerifyType", method)
	case method == methodFILE && countWildcards(names) > 0:
		return failed("InvalidParam", "A wildcard cannot be validated by a file.")
	}
	return nil
}

// certificateOrderSubmit hands a bought certificate to the CA. It is keyed by
// CertId: a repetition is refused and changes nothing.
func (s *Sim) certificateOrderSubmit(own owner, in struct {
	CertId              string `tc:"required"`
	DeleteDnsAutoRecord int
	VerifyType          string
}) (fields, error) {
	if in.DeleteDnsAutoRecord != 0 && in.DeleteDnsAutoRecord != 1 {
		return nil, wrongValue("DeleteDnsAutoRecord", in.DeleteDnsAutoRecord)
	}
	o, err := s.changeCertificate(own, in.CertId, func(o *order) error {
		if err := submittable(o); err != nil {
			return err
		}
		if in.VerifyType != "" {
			o.Method = in.VerifyType
		}
		setIfZero(&o.Method, methodDNS)
		o.DropAuto, o.CAOrder, o.Counted = in.DeleteDnsAutoRecord == 1, s.dice.text(8, mixedAndDigits), true
		return s.applyTencent(o)
	})
	if err != nil {
		return nil, err
	}
	return fields{"OrderId": o.CAOrder, "Status": tencentStatus(o, o.State, time.Now()), "IsAudited": false}, nil
}

// submittable says whether the order may be handed over: once, with materials.
func submittable(o *order) error {
	switch {
	case o.State == statePending || o.State == stateReview:
		return failed("CertificateOrderSubmitProcessing", "Your order is being processed. Please wait patiently.")
	case o.State != stateBought:
		return failed("InvalidCertificateStatusCode", "The certificate status is incorrect.")
	case !o.Filled:
		return failed("CertificateInfoSubmitStatusInvalid", "The certificate's materials were not submitted.")
	}
	return nil
}

// applyTencent starts the validation. Callers hold the lock and store the order.
func (s *Sim) applyTencent(o *order) error {
	if err := checkVerifyType(o.Method, o.Names); err != nil {
		return err
	}
	if o.Method == methodAuto {
		for _, name := range o.Names {
			if _, ok := s.zoneOf(o.Owner, name); !ok {
				return failed("InvalidParam", "%s is not in the DNS of this account: DNS_AUTO cannot validate it.", name)
			}
		}
	}
	o.Challenges = s.tencentChallenges(o)
	s.apply(o)
	return nil
}

// tencentChallenges makes one challenge for each name to be validated; a wildcard
// is validated at its parent.
func (s *Sim) tencentChallenges(o *order) []challenge {
	var all []challenge
	typ := s.pickType(s.cfg().TencentRecordType)
	for _, name := range o.Names {
		host := base(name)
		i := slices.IndexFunc(all, func(c challenge) bool { return base(c.For[0]) == host })
		if i >= 0 {
			all[i].For = append(all[i].For, name)
			continue
		}
		all = append(all, s.tencentChallenge(o.Method, typ, name))
	}
	return all
}

func (s *Sim) tencentChallenge(method, typ, name string) challenge {
	host := base(name)
	switch {
	case method == methodFILE:
		return challenge{For: []string{name}, Type: typeFILE, Name: host,
			Path: "/.well-known/pki-validation/" + strings.ToUpper(s.dice.hex(32)) + ".txt", Value: s.token()}
	case typ == typeCNAME:
		return challenge{For: []string{name}, Type: typeCNAME, Name: "_" + s.dice.hex(32) + "." + host, Value: s.cnameTarget()}
	default:
		return challenge{For: []string{name}, Type: typeTXT, Name: "_dnsauth." + host, Value: s.token()}
	}
}

// applyCertificate is the free certificate: one name, the cloud's key, and quota
// that is spent at once. An apex gets its www as well.
func (s *Sim) applyCertificate(by caller, in struct {
	DvAuthMethod string `tc:"required"`
	DomainName   string `tc:"required"`

	PackageType, ContactEmail, ContactPhone, ValidityPeriod, CsrEncryptAlgo, CsrKeyParameter, CsrKeyPassword string

	Alias, OldCertificateId, PackageId string

	ProjectId           int64
	DeleteDnsAutoRecord bool
	DnsNames            []string
}) (fields, error) {
	switch {
	case in.DvAuthMethod != methodDNS && in.DvAuthMethod != methodFILE && in.DvAuthMethod != methodAuto:
		return nil, wrongValue("DvAuthMethod", in.DvAuthMethod)
	case in.PackageType != "" && in.PackageType != freePackage:
		return nil, wrongValue("PackageType", in.PackageType)
	case in.ValidityPeriod != "" && in.ValidityPeriod != "3":
		return nil, wrongValue("ValidityPeriod", in.ValidityPeriod)
	case len(in.DnsNames) > 0:
		return nil, failed("InvalidParam", "DnsNames is not open.")
	case in.CsrEncryptAlgo == "ECC" && in.CsrKeyParameter == "":
		return nil, lacking("CsrKeyParameter")
	}
	keyAlg, err := cloudKey(in.CsrEncryptAlgo, in.CsrKeyParameter)
	if err != nil {
		return nil, err
	}
	name := strings.ToLower(in.DomainName)
	if err := checkName(name); err != nil || isWildcard(name) {
		return nil, failed("InvalidParam", "A free certificate is for one name: %q is none.", name)
	}
	return s.addFree(&order{Kind: kindFree, Owner: by.owner, By: by.key.caller(), Product: freePackage, Names: []string{name}, Method: in.DvAuthMethod,
		KeyAlg: keyAlg, Alias: in.Alias, Email: in.ContactEmail, DropAuto: in.DeleteDnsAutoRecord, Filled: true})
}

func (s *Sim) addFree(o *order) (fields, error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	bought, known := s.books.quota(o.Owner, freePackage)
	if !known {
		bought = 50 // Account.Products
	}
	if s.books.usage(o.Owner, freePackage).used() >= bought {
		return nil, failed("ExceedsFreeLimit", "The number of free certificates exceeds the limit.")
	}
	o.ID, o.CAOrder, o.Counted = s.books.freshCertificate(s.dice), s.dice.text(8, mixedAndDigits), true
	o.Created = time.Now()
	o.VisibleAt = o.Created.Add(s.dice.in(s.cfg().ListLag))
	if err := s.applyTencent(o); err != nil {
		return nil, err
	}
	o.Before = "" // it was nothing before
	if apex, err := registrable(o.Names[0]); err == nil && apex == o.Names[0] {
		o.Names = append(o.Names, "www."+apex)
	}
	if err := s.books.add(o); err != nil {
		return nil, err
	}
	return fields{"CertificateId": o.ID}, nil
}

// certificateID are the parameters of most actions.
type certificateID struct {
	CertificateId string `tc:"required"`
}

// completeCertificate asks the CA to look at once. It has no result.
func (s *Sim) completeCertificate(own owner, in certificateID) (fields, error) {
	o, err := s.readCertificate(own, in.CertificateId)
	if err != nil || !o.waiting() {
		return nil, failed("CertificateNotFoundOrAudited", "The certificate does not exist or was reviewed already.")
	}
	now := time.Now()
	if o.challenged(now) {
		s.agenda.put(o.key(), now)
	}
	return fields{"CertificateId": o.ID}, nil
}

// cancelCertificateOrder gives up an order that was not issued; what it cost comes
// back.
func (s *Sim) cancelCertificateOrder(own owner, in certificateID) (fields, error) {
	o, err := s.withdraw(own, in.CertificateId)
	if err != nil {
		return nil, err
	}
	return fields{"CertificateId": o.ID}, nil
}

// cancelAuditCertificate is the same under the name of the free certificates.
func (s *Sim) cancelAuditCertificate(own owner, in certificateID) (fields, error) {
	if _, err := s.withdraw(own, in.CertificateId); err != nil {
		return nil, err
	}
	return fields{"Result": true}, nil
}

func (s *Sim) withdraw(own owner, id string) (*order, error) {
	return s.changeCertificate(own, id, func(o *order) error {
		if !o.waiting() {
			return failed("InvalidCertificateStatusCode", "The certificate status is incorrect.")
		}
		o.Returned = true
		s.enter(o, stateWithdrawn)
		return s.dropOwn(o)
	})
}

// deleteCertificate removes what ended without a certificate. A free certificate
// can not be deleted within its first hour, one that was issued never.
func (s *Sim) deleteCertificate(own owner, in struct {
	CertificateId   string `tc:"required"`
	IsCheckResource bool
}) (fields, error) {
	_, err := s.changeCertificate(own, in.CertificateId, func(o *order) error {
		switch {
		case o.State == stateIssued:
			return failed("CannotBeDeletedIssued", "The certificate was issued and cannot be deleted.")
		case o.Kind == kindFree && time.Since(o.Created) < time.Hour:
			return failed("CannotBeDeletedWithinHour", "A free certificate cannot be deleted within an hour after its application.")
		case o.State != stateFailed && o.State != stateWithdrawn:
			return failed("InvalidCertificateStatusCode", "The certificate status is incorrect.")
		}
		o.State, o.Returned = stateDeleted, true
		return nil
	})
	return fields{"DeleteResult": err == nil}, err
}

// readLeaf fills in what an older journal does not have.
func (o *order) readLeaf() error {
	if o.Leaf == "" || !o.NotAfter.IsZero() {
		return nil
	}
	leaf, err := issuedLeaf(o)
	if err == nil {
		o.NotBefore, o.NotAfter, o.LeafAlg = leaf.NotBefore, leaf.NotAfter, leaf.PublicKeyAlgorithm.String()
	}
	return err
}

// issuedLeaf is the issued certificate, nil before.
func issuedLeaf(o *order) (*x509.Certificate, error) {
	if o.Leaf == "" {
		return nil, nil
	}
	leaf, err := parseCert(o.Leaf)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", o.ID, err)
	}
	return leaf, nil
}

// Results of CheckCertificateDomainVerification, LocalCheck: nothing there, and
// another value there.
var localChecks = map[string][2]int{typeTXT: {-1, -2}, typeCNAME: {-6, -7}, typeFILE: {-4, -5}}

// localCheck names the outcome of a proof.
func localCheck(typ string, err error) int {
	switch {
	case err == nil:
		return 1
	case errors.Is(err, errOther):
		return localChecks[typ][1]
	default:
		return localChecks[typ][0]
	}
}
