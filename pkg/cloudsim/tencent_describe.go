package cloudsim

import (
	"context"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"path"
	"slices"
	"strings"
	"time"
)

// tencentStatus is the number of a state. Before the challenge is there the order
// is in review (0), then validation is outstanding (4), then it is in review again.
func tencentStatus(o *order, st state, now time.Time) int {
	switch st {
	case stateBought:
		return 5
	case statePending:
		if now.Before(o.ChallengeAt) {
			return 0
		}
		return 4
	case stateReview:
		return 0
	case stateIssued:
		return 1
	case stateFailed:
		return 2
	case stateRevoked:
		return 10
	default:
		return 7
	}
}

// shownStatus is tencentStatus, or a number that no document knows.
func (s *Sim) shownStatus(o *order, st state, now time.Time) int {
	if s.odd(o, now) {
		return oddNumber
	}
	return tencentStatus(o, st, now)
}

// statusNames are StatusName by Status.
var statusNames = []string{"审核中", "已通过", "审核失败", "已过期", "待验证", "待提交资料", "订单取消中", "已取消", "待上传确认函",
	"证书吊销中", "已吊销", "重颁发中", "待上传吊销确认函", "免费证书待提交资料", "证书已退款", "证书迁移中", oddNumber: ""}

// statusMsg explains a state. An issued certificate may go on showing the review,
// as the vendor's own sample does: only Status tells.
func statusMsg(o *order, st state, now time.Time) string {
	switch {
	case st == statePending && !now.Before(o.ChallengeAt):
		return "PENDING-DCV"
	case st == stateReview:
		return "WAIT-ISSUE"
	case st == statePending, st == stateIssued:
		return "CA-REVIEWING"
	case st == stateFailed:
		return o.Reason
	default:
		return ""
	}
}

// packageType is a number of the documents' list that fits what was bought.
func packageType(o *order) string {
	if o.Kind == kindFree {
		return freePackage
	}
	switch o.Type {
	case 1:
		return "2" // TrustAsia TLS RSA CA
	case 3:
		return "12" // DV wildcard
	case 4:
		return "42" // DV wildcards
	default:
		return "11" // DV, several names
	}
}

// describe are the fields that DescribeCertificate and its Detail share.
func (s *Sim) describe(o *order, leaf *x509.Certificate, now time.Time) fields {
	status := s.shownStatus(o, o.State, now)
	out := fields{
		"OwnerUin": o.Owner.UID, "ProjectId": "0", "From": "trustasia", "CertificateType": "SVR",
		"PackageType": packageType(o), "ProductZhName": o.Product, "Domain": nil, "Alias": o.Alias,
		"Status": status, "StatusMsg": statusMsg(o, o.State, now), "StatusName": statusNames[status],
		"VerifyType": orNull(o.Method), "VulnerabilityStatus": "INACTIVE", "VulnerabilityReport": nil,
		"CertBeginTime": nil, "CertEndTime": nil, "ValidityPeriod": "12", "InsertTime": gmt8(o.Created),
		"OrderId": orNull(o.CAOrder), "CertificateExtra": certificateExtra(o), "DvAuthDetail": s.dvAuthDetail(o, now),
		"CertificateId": o.ID, "IsVip": o.Kind == kindSSL, "IsWildcard": countWildcards(o.Names) > 0, "IsDv": true,
		"IsVulnerability": false, "RenewAble": false, "SubmittedData": submittedData(o), "Deployable": o.State == stateIssued,
		"Tags": tagList(o),
	}
	if o.Kind == kindFree {
		out["ValidityPeriod"], out["ProductZhName"] = "3", "TrustAsia"
	}
	if len(o.Names) > 0 {
		out["Domain"] = o.Names[0]
	}
	if leaf != nil {
		out["CertBeginTime"], out["CertEndTime"] = gmt8(leaf.NotBefore), gmt8(leaf.NotAfter)
	}
	return out
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func tagList(o *order) []fields {
	tags := []fields{}
	for _, key := range sortedKeys(o.Tags) {
		tags = append(tags, fields{"TagKey": key, "TagValue": o.Tags[key]})
	}
	return tags
}

// certificateExtra links a certificate to the one that it follows, null where it
// follows none. Its other fields have no effect here.
func certificateExtra(o *order) any {
	if o.Origin == "" {
		return nil
	}
	return fields{"DomainNumber": "1", "OriginCertificateId": nil, "ReplacedBy": nil, "ReplacedFor": nil, "RenewOrder": nil,
		"ServiceOriginCertificateId": o.Origin, "ServiceRenewCertificateId": nil}
}

// submittedData are the materials, null before there are any.
func submittedData(o *order) any {
	if !o.Filled {
		return nil
	}
	kind := "online"
	if o.CSR != "" {
		kind = "parse"
	}
	return fields{"CsrType": kind, "CsrContent": orNull(o.CSR), "CertificateDomain": o.Names[0],
		"DomainList": slices.Clone(o.Names[1:]), "KeyPassword": nil, "VerifyType": orNull(o.Method), "ContactEmail": orNull(o.Email)}
}

// dvAuthDetail is null until the challenge is there, filled until the certificate
// is, and then an object without content.
func (s *Sim) dvAuthDetail(o *order, now time.Time) any {
	switch {
	case o.State == stateIssued:
		return fields{"DvAuthKey": nil, "DvAuthValue": nil, "DvAuthDomain": nil, "DvAuthPath": nil, "DvAuthKeySubDomain": "", "DvAuths": nil}
	case !o.challenged(now) && o.State != stateReview, len(o.Challenges) == 0:
		return nil
	}
	var auths []fields
	for _, c := range o.Challenges {
		auths = append(auths, s.dvAuth(c))
	}
	first := auths[0]
	return fields{"DvAuthKey": first["DvAuthKey"], "DvAuthValue": first["DvAuthValue"], "DvAuthDomain": first["DvAuthDomain"],
		"DvAuthPath": first["DvAuthPath"], "DvAuthKeySubDomain": first["DvAuthSubDomain"], "DvAuths": auths}
}

// dvAuth shows one challenge. For records the domain is the zone; for files it is
// the host, and WholeFilePath says where the file's name stands.
func (s *Sim) dvAuth(c challenge) fields {
	if c.Type == typeFILE {
		dir, file := path.Split(c.Path)
		if s.cfg().WholeFilePath {
			dir = c.Path
		}
		return fields{"DvAuthKey": file, "DvAuthValue": c.Value, "DvAuthDomain": c.Name, "DvAuthPath": dir,
			"DvAuthSubDomain": "", "DvAuthVerifyType": typeFILE}
	}
	zone, err := registrable(c.Name)
	if err != nil {
		zone = base(c.For[0])
	}
	return fields{"DvAuthKey": c.Name, "DvAuthValue": c.Value, "DvAuthDomain": zone, "DvAuthPath": "",
		"DvAuthSubDomain": relative(c.Name, zone), "DvAuthVerifyType": c.Type}
}

// describeCertificate shows everything but the certificate. SubjectAltName has the
// main domain, which the Detail's has not.
func (s *Sim) describeCertificate(own owner, in certificateID) (fields, error) {
	o, err := s.readCertificate(own, in.CertificateId)
	if err != nil {
		return nil, err
	}
	leaf, err := issuedLeaf(o)
	if err != nil {
		return nil, err
	}
	out := s.describe(o, leaf, time.Now())
	out["PackageTypeName"], out["SubjectAltName"] = out["ProductZhName"], slices.Clone(o.Names)
	return out, nil
}

// describeCertificateDetail shows the certificate too, and the key if the cloud
// made it.
func (s *Sim) describeCertificateDetail(own owner, in certificateID) (fields, error) {
	o, err := s.readCertificate(own, in.CertificateId)
	if err != nil {
		return nil, err
	}
	leaf, err := issuedLeaf(o)
	if err != nil {
		return nil, err
	}
	out := s.describe(o, leaf, time.Now())
	out["TypeName"], out["SubjectAltName"], out["DomainType"] = out["ProductZhName"], []string{}, o.Type
	if len(o.Names) > 1 {
		out["SubjectAltName"] = slices.Clone(o.Names[1:])
	}
	for _, name := range []string{"CertificatePublicKey", "CertFingerprint", "RootCert", "EncryptCert", "EncryptPrivateKey", "EncryptAlgorithm", "CertChainInfo"} {
		out[name] = nil
	}
	out["CertificatePrivateKey"] = orNull(o.Key)
	if leaf != nil {
		sum := sha1.Sum(leaf.Raw) // what the field is documented to be
		out["CertificatePublicKey"], out["CertFingerprint"] = s.ca.chain(o.Leaf), hex.EncodeToString(sum[:])
		out["RootCert"] = fields{"Sign": nil, "Encrypt": nil, "Standard": string(encodeCert(s.ca.root.Raw))}
		out["EncryptAlgorithm"] = leaf.PublicKeyAlgorithm.String()
	}
	return out, nil
}

// certificateQuery are the parameters of DescribeCertificates. Those in the second
// group have no effect: nothing here is uploaded, deployed or hosted.
type certificateQuery struct {
	Offset            int
	Limit             *int
	SearchKey         string
	CertificateType   string
	ExpirationSort    string
	CertificateStatus []int
	FilterSource      string
	IsPendingIssue    int
	Upload            int
	CertIds           []string
	Tags              []struct{ TagKey, TagValue string }

	ProjectId, Deployable, Renew, IsSM, FilterExpiring, Hostable int64
}

// describeCertificates lists, newest first, what the lists know so far.
func (s *Sim) describeCertificates(by caller, in certificateQuery) (fields, error) {
	limit := 10
	if in.Limit != nil {
		limit = min(*in.Limit, 1000) // clamped, not refused
	}
	switch {
	case in.Offset < 0:
		return nil, wrongValue("Offset", in.Offset)
	case limit < 0:
		return nil, wrongValue("Limit", limit)
	case len(in.CertIds) > 50:
		return nil, refuse(0, "InvalidParameter.CertificateIdNumberLimit", "No more than 50 certificate ids can be asked for.")
	}
	now := time.Now()
	in.SearchKey = strings.ToLower(in.SearchKey)
	found := s.books.list(by.owner, func(o *order) bool {
		return by.key.lists(o) && in.wants(o, s.shownStatus(o, o.listed(now), now), now)
	})
	if s.cfg().ListOrder == noOrder {
		found = s.arrange(found)
	}
	if in.ExpirationSort != "" {
		slices.SortStableFunc(found, func(x, y *order) int {
			if in.ExpirationSort == "DESC" {
				x, y = y, x
			}
			return x.IssuedAt.Compare(y.IssuedAt) // all have the same validity
		})
	}
	rows := []fields{}
	for _, o := range offsetPage(found, s.start(in.Offset), limit) {
		rows = append(rows, s.sslRow(o, now))
	}
	return fields{"TotalCount": len(found), "Certificates": rows}, nil
}

// offsetPage cuts a list; offsets count from 0.
func offsetPage[T any](all []T, offset, limit int) []T {
	all = all[min(offset, len(all)):]
	return all[:min(limit, len(all))]
}

func (in *certificateQuery) wants(o *order, status int, now time.Time) bool {
	switch {
	case (o.Kind != kindSSL && o.Kind != kindFree) || !o.visible(now),
		in.CertificateType == "CA", in.FilterSource == "upload", in.Upload == 1,
		len(in.CertificateStatus) > 0 && !slices.Contains(in.CertificateStatus, status),
		len(in.CertIds) > 0 && !contains(in.CertIds, o.ID),
		in.IsPendingIssue == 1 && !slices.Contains([]int{0, 4, 5}, status):
		return false
	}
	for _, tag := range in.Tags {
		if value, has := o.Tags[tag.TagKey]; !has || (tag.TagValue != "" && value != tag.TagValue) {
			return false
		}
	}
	return in.SearchKey == "" ||
		strings.Contains(strings.ToLower(strings.Join(append([]string{o.ID, o.Alias}, o.Names...), "\n")), in.SearchKey)
}

// sslRow is one line of the list: no challenge, no PEM, no OrderId.
func (s *Sim) sslRow(o *order, now time.Time) fields {
	shown := o.listed(now)
	status := s.shownStatus(o, shown, now)
	row := fields{
		"OwnerUin": o.Owner.UID, "ProjectId": "0", "From": "trustasia", "PackageType": packageType(o), "CertificateType": "SVR",
		"ProductZhName": o.Product, "Domain": nil, "Alias": o.Alias, "Status": status, "StatusMsg": statusMsg(o, shown, now),
		"StatusName": statusNames[status], "VerifyType": orNull(o.Method), "VulnerabilityStatus": "INACTIVE",
		"CertBeginTime": nil, "CertEndTime": nil, "ValidityPeriod": "12", "InsertTime": gmt8(o.Created), "CertificateId": o.ID,
		"SubjectAltName": slices.Clone(o.Names), "CertSANs": slices.Clone(o.Names), "IsVip": o.Kind == kindSSL, "IsDv": true,
		"IsWildcard": countWildcards(o.Names) > 0, "IsVulnerability": false, "AllowDownload": shown == stateIssued,
		"Deployable": shown == stateIssued, "RenewAble": false, "Tags": tagList(o), "DVAuthDeadline": gmt8(o.Deadline),
		"ValidationPassedTime": gmt8(o.ValidatedAt), "AwaitingValidationMsg": nil, "HasRenewOrder": nil,
		"CertificateExtra": certificateExtra(o),
		"BoundResource":    []string{}, "PreAuditInfo": nil, "IsIgnore": false, "IsSM": false, "EncryptAlgorithm": nil,
	}
	if len(o.Names) > 0 {
		row["Domain"] = o.Names[0]
	}
	if shown == stateIssued {
		row["CertBeginTime"], row["CertEndTime"], row["EncryptAlgorithm"] = gmt8(o.NotBefore), gmt8(o.NotAfter), o.LeafAlg
	}
	return row
}

// checkDomainVerification looks at every challenge now, and tells what it saw.
func (s *Sim) checkDomainVerification(own owner, in certificateID) (fields, error) {
	o, err := s.readCertificate(own, in.CertificateId)
	if err != nil {
		return nil, err
	}
	if !o.challenged(time.Now()) {
		return nil, failed("CertificateStatusNotAllowVerify", "The certificate's status does not allow verification.")
	}
	results := []fields{}
	for _, c := range o.Challenges {
		err := s.prove(context.Background(), c)
		row := fields{"Domain": base(c.For[0]), "VerifyType": o.Method, "LocalCheck": localCheck(c.Type, err), "CaCheck": -1,
			"LocalCheckFailReason": "", "CheckValue": []string{}, "Frequently": false, "Issued": false}
		if c.Proved {
			row["CaCheck"] = 2
		}
		if err != nil {
			row["LocalCheckFailReason"] = err.Error()
		}
		results = append(results, row)
	}
	return fields{"VerificationResults": results}, nil
}
