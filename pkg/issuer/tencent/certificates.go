package tencent

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// certificates applies for paid certificates (SSL 2019-12-05): materials by
// CertificateInfoSubmit, then CertificateOrderSubmit.
type certificates struct{ c *Client }

var (
	_ issuer.Preparer  = (*certificates)(nil)
	_ issuer.Kicker    = (*certificates)(nil)
	_ issuer.Finder    = (*certificates)(nil)
	_ issuer.Pool      = (*certificates)(nil)
	_ issuer.AllLister = (*certificates)(nil)
)

func (f *certificates) Action() string { return orderSubmit }

// Spends is false: the certificate was bought before, so the call is safe to
// repeat after a Look.
func (f *certificates) Spends() bool { return false }

// CSR: the user's, or ours for all names. What the certificate is for is told
// beside it (CertificateInfoSubmit, CertCommonName and DnsNames), so that the
// documents leave nothing open.
func (f *certificates) CSR(r order.Request) issuer.CSR {
	if r.CSR != "" {
		return issuer.GivenCSR
	}
	return issuer.AllNamesCSR
}

func (f *certificates) Reserve(ctx context.Context) (context.Context, func(), error) {
	return f.c.caller.Reserve(ctx, f.Action())
}

// Submit hands the order to the CA. The materials must be in: see Prepare.
func (f *certificates) Submit(ctx context.Context, a issuer.Application, fence issuer.Fence) (issuer.Receipt, error) {
	if a.Resource == "" {
		return issuer.Receipt{}, rejected(f.Action(), "no certificate id")
	}
	var out struct{ RequestId string }
	err := f.c.ssl(issuer.Spending(ctx, fence), f.Action(), struct {
		CertId     string
		VerifyType string `json:",omitempty"`
	}{a.Resource, string(a.Validation)}, &out)
	if err != nil {
		return issuer.Receipt{}, err
	}
	return issuer.Receipt{CloudID: a.Resource, RequestID: out.RequestId}, nil
}

// materials is the request of CertificateInfoSubmit; what is empty is not sent,
// because the cloud refuses what it does not know.
type materials struct {
	CertId          string
	GenCsrType      string
	Csr             string `json:",omitempty"`
	CertCommonName  string
	CompanyType     int
	CompanyId       string   // required by the documents; "0": no company is on file
	DnsNames        []string `json:",omitempty"`
	VerifyType      string   `json:",omitempty"`
	ContactEmail    string   `json:",omitempty"`
	CsrEncryptAlgo  string   `json:",omitempty"`
	CsrKeyParameter string   `json:",omitempty"`
}

// ReservePrepare implements issuer.Preparer.
func (f *certificates) ReservePrepare(ctx context.Context) (context.Context, func(), error) {
	return f.c.caller.Reserve(ctx, infoSubmit)
}

// Prepare submits the materials: our CSR, or what the cloud makes key and CSR
// from. Safe to repeat until the order was submitted: it overwrites.
func (f *certificates) Prepare(ctx context.Context, a issuer.Application) error {
	const action = infoSubmit
	if a.Resource == "" || len(a.Names) == 0 {
		return rejected(action, "a certificate id and at least one name are needed")
	}
	m := materials{CertId: a.Resource, GenCsrType: "parse", Csr: a.CSR, CertCommonName: a.Names[0], DnsNames: a.Names[1:],
		CompanyType: 1, CompanyId: "0", // a person: DV, no organisation is asked for
		VerifyType: string(a.Validation), ContactEmail: a.Contact.Email}
	if a.CSR == "" {
		m.GenCsrType = "online"
		if m.CsrEncryptAlgo, m.CsrKeyParameter = keyParameters(a.Key); m.CsrEncryptAlgo == "" {
			return rejected(action, "unknown key algorithm "+a.Key)
		}
	}
	return f.c.ssl(ctx, action, m, nil)
}

// keyParameters are CsrEncryptAlgo and CsrKeyParameter for a key algorithm as
// orders name it. Documented are RSA 2048 and ECC prime256v1.
func keyParameters(key string) (algorithm, parameter string) {
	switch key {
	case "", "ecdsa-p256":
		return "ECC", "prime256v1"
	case "ecdsa-p384":
		return "ECC", "secp384r1"
	case "rsa-2048", "rsa-3072", "rsa-4096":
		return "RSA", strings.TrimPrefix(key, "rsa-")
	}
	return "", ""
}

// certificate is what DescribeCertificate, DescribeCertificateDetail and the
// rows of DescribeCertificates share. Much of it is null at times.
type certificate struct {
	CertificateId  string
	Domain         string
	SubjectAltName []string // with the main domain in DescribeCertificate, without in the detail
	CertSANs       []string // rows
	Status         *int
	StatusMsg      string
	ProductZhName  string
	PackageType    string
	InsertTime     string
	CertEndTime    string
	DvAuthDetail   *dvAuthDetail
	SubmittedData  *submittedData
	// CertificateExtra links the certificates of one service (SSL 2019-12-05,
	// CertificateExtra; the Service… fields since 2026-07).
	CertificateExtra *struct{ ServiceOriginCertificateId, ReplacedFor string }
	RequestId        string

	CertificatePublicKey  string       // detail: PEM
	CertificatePrivateKey order.Secret // detail: PEM, if the cloud made the key
}

// submittedData are the materials that are in.
type submittedData struct {
	CertificateDomain string
	DomainList        []string
	CsrType           string
	CsrContent        string
}

// shown are the names that it is for: by the materials until it is started.
func (c certificate) shown() []string {
	if d := c.SubmittedData; d != nil && d.CertificateDomain != "" && c.phase() == issuer.Unstarted {
		return certificate{Domain: d.CertificateDomain, SubjectAltName: d.DomainList}.names()
	}
	return c.names()
}

// origin is the certificate that this one follows: the next one of a service that
// is paid for, or the same one issued anew.
func (c certificate) origin() string {
	if c.CertificateExtra == nil {
		return ""
	}
	return firstOf(c.CertificateExtra.ServiceOriginCertificateId, c.CertificateExtra.ReplacedFor)
}

type dvAuthDetail struct {
	dvAuth
	DvAuths []dvAuth
}

type dvAuth struct {
	DvAuthKey        string // absolute name of the record
	DvAuthValue      string
	DvAuthDomain     string // zone, or host of the file
	DvAuthPath       string // FILE
	DvAuthSubDomain  string
	DvAuthVerifyType string // TXT, CNAME or FILE
}

// Look asks DescribeCertificate.
func (f *certificates) Look(ctx context.Context, cloudID string) (issuer.Status, error) {
	var c certificate
	if err := f.c.ssl(ctx, "DescribeCertificate", byID(cloudID), &c); err != nil {
		return issuer.Status{}, err
	}
	st := issuer.Status{Phase: c.phase(), Raw: c.raw(), Detail: f.c.show(c.StatusMsg, 120),
		CertID: cloudID, RequestID: c.RequestId, Names: c.shown(), Expires: beijing(c.CertEndTime)}
	st.Submitted = st.Phase != issuer.Unstarted
	if d := c.SubmittedData; d != nil && d.CertificateDomain+d.CsrContent != "" {
		st.Submitted, st.CSR = true, d.CsrContent
	}
	if st.Phase == issuer.Challenged {
		st.Challenges = c.challenges()
	}
	return st, nil
}

func byID(id string) any { return struct{ CertificateId string }{id} }

// Waiting lists the certificates in the statuses from which one may still be
// issued, newest first. One that was bought and not submitted is not waiting.
func (f *certificates) Waiting(ctx context.Context, page int) (issuer.Page, error) {
	return f.list(ctx, query{CertificateStatus: waiting}, page)
}

// List names what All reads.
func (f *certificates) List() string { return "certificates" }

// All lists every certificate, newest first.
func (f *certificates) All(ctx context.Context, page int) (issuer.Page, error) {
	return f.list(ctx, query{}, page)
}

// Unused lists the certificates that were bought and have no materials.
func (f *certificates) Unused(ctx context.Context) ([]issuer.Row, error) {
	return f.every(ctx, query{CertificateStatus: []int{5}}, func(r issuer.Row) bool { return r.Phase == issuer.Unstarted })
}

// Find returns the certificates that show this set of names (order.Shows). The
// search key is fuzzy; the comparison is not.
func (f *certificates) Find(ctx context.Context, want []string) ([]issuer.Row, error) {
	if len(want) == 0 {
		return nil, nil
	}
	q := query{SearchKey: strings.TrimPrefix(strings.ToLower(want[0]), "*.")}
	return f.every(ctx, q, func(r issuer.Row) bool { return order.Shows(r.Names, want) })
}

// pageSize is the largest Limit; the cloud clamps what is larger.
const pageSize = 1000

// query is the request of DescribeCertificates.
type query struct {
	Offset            int
	Limit             int
	SearchKey         string `json:",omitempty"`
	CertificateStatus []int  `json:",omitempty"`
}

func (f *certificates) list(ctx context.Context, q query, page int) (issuer.Page, error) {
	q.Offset, q.Limit = page*pageSize, pageSize
	var out struct {
		TotalCount   int
		Certificates []certificate
	}
	if err := f.c.ssl(ctx, "DescribeCertificates", q, &out); err != nil {
		return issuer.Page{}, err
	}
	p := issuer.Page{More: len(out.Certificates) > 0 && out.TotalCount > q.Offset+pageSize}
	for _, c := range out.Certificates {
		p.Rows = append(p.Rows, c.row())
	}
	return p, nil
}

// every reads all pages of q and returns the rows that are wanted. Pages
// overlap by what was bought meanwhile: a row is counted once.
func (f *certificates) every(ctx context.Context, q query, want func(issuer.Row) bool) ([]issuer.Row, error) {
	var all []issuer.Row
	seen := map[string]bool{}
	for n := range 1000 {
		p, err := f.list(ctx, q, n)
		if err != nil {
			return nil, err
		}
		for _, r := range p.Rows {
			if want(r) && !seen[r.CloudID] {
				seen[r.CloudID] = true
				all = append(all, r)
			}
		}
		if !p.More {
			return all, nil
		}
	}
	return nil, &issuer.Error{Kind: issuer.Unavailable, Action: "DescribeCertificates", Message: "the list does not end"}
}

func (c certificate) row() issuer.Row {
	return issuer.Row{CloudID: issuer.ID(c.CertificateId), CertID: issuer.ID(c.CertificateId), Names: c.names(), Product: c.PackageType,
		Phase: c.phase(), Raw: c.raw(), Created: beijing(c.InsertTime), Expires: beijing(c.CertEndTime), Origin: c.origin()}
}

// names are all names, the main domain first.
func (c certificate) names() []string {
	var all []string
	for _, n := range slices.Concat([]string{c.Domain}, c.SubjectAltName, c.CertSANs) {
		if n = strings.ToLower(strings.TrimSpace(n)); n != "" && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	return all
}

// beijing reads a time of the cloud: GMT+8, and null or empty at times.
func beijing(s string) time.Time {
	t, err := time.ParseInLocation(time.DateTime, s, time.FixedZone("GMT+8", 8*3600))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// Kick asks the cloud to check the validation now. It has no result; for a
// certificate that is gone or issued already the error is issuer.WrongState.
func (f *certificates) Kick(ctx context.Context, cloudID string) error {
	return f.c.ssl(ctx, "CompleteCertificate", byID(cloudID), nil)
}

// Fetch asks DescribeCertificateDetail, and DownloadCertificate where that has
// no certificate. certID is the same as cloudID and not used.
func (f *certificates) Fetch(ctx context.Context, cloudID, _ string) (issuer.Certificate, error) {
	var c certificate
	if err := f.c.ssl(ctx, "DescribeCertificateDetail", byID(cloudID), &c); err != nil {
		return issuer.Certificate{}, err
	}
	if p := c.phase(); p != issuer.IssuedPhase {
		return issuer.Certificate{}, &issuer.Error{Kind: issuer.WrongState, Action: "DescribeCertificateDetail",
			Message: "no certificate in status " + c.raw(), RequestID: c.RequestId}
	}
	if c.CertificatePublicKey == "" {
		return f.download(ctx, cloudID)
	}
	return issuer.Certificate{Chain: c.CertificatePublicKey, Key: c.CertificatePrivateKey, RequestID: c.RequestId}, nil
}
