package aliyun

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/cas"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// packages orders from package plans (CAS 2020-04-07). The two operations that
// start an order differ only in Submit.
type packages struct {
	c      *Client
	action string
}

var (
	_ issuer.Finder     = (*packages)(nil)
	_ issuer.Counter    = (*packages)(nil)
	_ issuer.CertLister = (*packages)(nil)
	_ issuer.AllLister  = (*packages)(nil)
)

func (p *packages) Action() string { return p.action }

// Spends is true: each call that arrives makes an order and takes quota, and
// the cloud knows no idempotency token.
func (p *packages) Spends() bool { return true }

// CSR: the documents bind only the CN of a CSR (CreateCertificateForPackageRequest,
// Csr: it wins over Domain), and a CN has at most 64 characters (RFC 5280,
// ub-common-name). So a CSR of ours is for the first of several names only where
// it was proved otherwise, and else the cloud makes the key.
func (p *packages) CSR(r order.Request) issuer.CSR {
	switch {
	case r.CSR != "":
		return issuer.GivenCSR
	case p.c.csrSANs:
		return issuer.AllNamesCSR
	case len(r.Names) == 1 && len(r.Names[0]) <= 64:
		return issuer.FirstNameCSR
	}
	return issuer.NoCSR
}

func (p *packages) Reserve(ctx context.Context) (context.Context, func(), error) {
	return p.c.caller.Reserve(ctx, p.action)
}

// Submit orders. It is NOT safe to repeat. The answer is clear only with an
// OrderId.
func (p *packages) Submit(ctx context.Context, a issuer.Application, f issuer.Fence) (issuer.Receipt, error) {
	if reason := p.objection(a); reason != "" {
		return issuer.Receipt{}, rejected(p.action, reason)
	}
	ctx = issuer.Spending(ctx, f)
	var out struct {
		OrderID   id   `json:"OrderId"`
		RequestID text `json:"RequestId"`
	}
	if err := p.c.ask(ctx, p.request(a), &out); err != nil {
		return issuer.Receipt{}, err
	}
	if out.OrderID == "" {
		return issuer.Receipt{}, &issuer.Error{Kind: issuer.UnknownOutcome, Action: p.action,
			Message: "the answer has no OrderId", RequestID: string(out.RequestID)}
	}
	return issuer.Receipt{CloudID: string(out.OrderID), RequestID: string(out.RequestID)}, nil
}

// objection says what is missing for the cloud to read the application at all.
func (p *packages) objection(a issuer.Application) string {
	switch {
	case len(a.Names) == 0:
		return "no names"
	case p.action == withCSR && a.CSR == "":
		return "no CSR"
	}
	return ""
}

func (p *packages) request(a issuer.Application) requests.AcsRequest {
	if p.action == withCSR {
		r := cas.CreateCreateCertificateWithCsrRequestRequest()
		r.Csr, r.ProductCode, r.ValidateType = a.CSR, a.Product, string(a.Validation)
		r.Username, r.Email, r.Phone = a.Contact.Name, a.Contact.Email, a.Contact.Phone
		tag(r.QueryParams, a)
		return r
	}
	r := cas.CreateCreateCertificateForPackageRequestRequest()
	r.Csr, r.ProductCode, r.ValidateType = a.CSR, a.Product, string(a.Validation)
	r.Domain, r.CompanyName = strings.Join(a.Names, ","), a.Company
	r.Username, r.Email, r.Phone = a.Contact.Name, a.Contact.Email, a.Contact.Phone
	tag(r.QueryParams, a)
	return r
}

// tagKey is the key of the tag whose value is our order id. The calls take tags
// since 2024-12; the SDK's structs lack them.
const tagKey = "certmill-order"

func tag(query map[string]string, a issuer.Application) {
	if a.OrderID != "" {
		query["Tags.1.Key"], query["Tags.1.Value"] = tagKey, a.OrderID
	}
}

// state is the answer of DescribeCertificateState.
type state struct {
	Type, ValidateType                    string
	Domain, Uri, Content                  string // FILE
	RecordDomain, RecordType, RecordValue string // DNS
	Certificate                           string
	PrivateKey                            order.Secret
	CertID                                id   `json:"CertId"` // since 2025-07
	RequestID                             text `json:"RequestId"`
}

func (p *packages) describe(ctx context.Context, orderID string) (state, error) {
	r := cas.CreateDescribeCertificateStateRequest()
	r.OrderId = requests.Integer(orderID)
	var s state
	err := p.c.ask(ctx, r, &s)
	return s, err
}

// Look asks DescribeCertificateState. Where the cloud gives the record's name
// relative to the domain and not the domain, the list is asked for it, too.
func (p *packages) Look(ctx context.Context, cloudID string) (issuer.Status, error) {
	s, err := p.describe(ctx, cloudID)
	if err != nil {
		return issuer.Status{}, err
	}
	st := issuer.Status{Phase: phaseOfType(s.Type), Raw: s.Type, Submitted: true,
		CertID: string(s.CertID), RequestID: string(s.RequestID)}
	switch st.Phase {
	case issuer.IssuedPhase:
		if s.Certificate != "" {
			st.Certificate = &issuer.Certificate{Chain: s.Certificate, Key: s.PrivateKey, RequestID: st.RequestID}
		}
	case issuer.Challenged:
		if s.relative() {
			if s.Domain, err = p.domainOf(ctx, cloudID); err != nil {
				return issuer.Status{}, err
			}
		}
		if st.Challenges = s.challenges(); len(st.Challenges) == 0 {
			st.Phase = issuer.Pending
		}
	}
	return st, nil
}

// phaseOfType maps DescribeCertificateState's Type. "payed" is what an order
// shows for a moment after it was made; it is also what a cancelled one goes
// back to.
func phaseOfType(t string) issuer.Phase {
	switch t {
	case "payed":
		return issuer.Pending
	case "domain_verify":
		return issuer.Challenged
	case "process":
		return issuer.Reviewing
	case "verify_fail":
		return issuer.Refused
	case "certificate":
		return issuer.IssuedPhase
	}
	return issuer.Unlisted // "unknow", spelled so, is listed but says the same
}

// relative tells whether the record's name can not be made absolute from the
// answer alone: the documents' sample is a bare "_dnsauth".
func (s state) relative() bool {
	return s.Domain == "" && s.RecordDomain != "" && !strings.Contains(strings.Trim(s.RecordDomain, "."), ".")
}

func (s state) challenges() []order.Challenge {
	if s.ValidateType == "FILE" || s.RecordDomain == "" && s.Uri != "" {
		return fileChallenges(s.Domain, s.Uri, s.Content)
	}
	return recordChallenges(s.Domain, s.RecordDomain, s.RecordType, s.RecordValue)
}

// domainOf finds the names of an order in the list, first among those that are
// being checked, where it is while it has a challenge.
func (p *packages) domainOf(ctx context.Context, orderID string) (string, error) {
	for _, status := range []string{"CHECKING", ""} {
		for page := 0; page < maxPages; page++ {
			rows, err := p.c.orders(ctx, orderQuery{kind: "CPACK", status: status, page: page})
			if err != nil {
				return "", err
			}
			for _, r := range rows.Rows {
				if r.CloudID == orderID {
					return strings.Join(r.Names, ","), nil
				}
			}
			if !rows.More {
				break
			}
		}
	}
	return "", &issuer.Error{Kind: issuer.Unavailable, Action: "ListUserCertificateOrder",
		Message: "the challenge's name is relative and the list does not show the order's domain yet"}
}

// Waiting lists orders in status CHECKING. An order that is still PAYED just
// after it was made is in none of these pages: the sweep asks about an order
// that it does not find before it believes that something changed.
func (p *packages) Waiting(ctx context.Context, page int) (issuer.Page, error) {
	return p.c.orders(ctx, orderQuery{kind: "CPACK", status: "CHECKING", page: page})
}

// List names what All reads: both operations make orders of one list.
func (p *packages) List() string { return "orders of package plans" }

// All lists orders in every status.
func (p *packages) All(ctx context.Context, page int) (issuer.Page, error) {
	return p.c.orders(ctx, orderQuery{kind: "CPACK", page: page})
}

// Certificates lists issued certificates; their InstanceID links them to the
// orders' rows.
func (p *packages) Certificates(ctx context.Context, page int) (issuer.Page, error) {
	return p.c.orders(ctx, orderQuery{kind: "CERT", page: page})
}

// Find returns the orders that show this set of names (order.Shows). The keyword of
// the list is fuzzy; the comparison is not. Of a long answer the pages are
// read twice, because rows shift while one pages.
func (p *packages) Find(ctx context.Context, want []string) ([]issuer.Row, error) {
	if len(want) == 0 {
		return nil, nil
	}
	f := finding{want: want, seen: map[string]bool{}}
	q := orderQuery{kind: "CPACK", keyword: strings.TrimPrefix(strings.ToLower(want[0]), "*.")}
	pages, err := p.collect(ctx, q, &f)
	if err == nil && pages > 1 {
		_, err = p.collect(ctx, q, &f)
	}
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(f.rows, func(a, b issuer.Row) int { return b.Created.Compare(a.Created) })
	return f.rows, nil
}

type finding struct {
	want []string
	seen map[string]bool
	rows []issuer.Row
}

func (f *finding) add(r issuer.Row) {
	if order.Shows(r.Names, f.want) && !f.seen[r.CloudID] {
		f.seen[r.CloudID] = true
		f.rows = append(f.rows, r)
	}
}

// collect reads the pages of q and returns how many there were.
func (p *packages) collect(ctx context.Context, q orderQuery, f *finding) (int, error) {
	for q.page = 0; q.page < maxPages; q.page++ {
		page, err := p.c.orders(ctx, q)
		if err != nil {
			return 0, err
		}
		for _, r := range page.Rows {
			f.add(r)
		}
		if !page.More {
			return q.page + 1, nil
		}
	}
	return 0, &issuer.Error{Kind: issuer.Unavailable, Action: "ListUserCertificateOrder", Message: "the list does not end"}
}

// Usage reads DescribePackageState. Used counts successful create calls, issued
// or not.
func (p *packages) Usage(ctx context.Context, product string) (issuer.Usage, error) {
	r := cas.CreateDescribePackageStateRequest()
	r.ProductCode = product
	var out struct{ TotalCount, UsedCount, IssuedCount *number }
	if err := p.c.ask(ctx, r, &out); err != nil {
		return issuer.Usage{}, err
	}
	if out.TotalCount == nil || out.UsedCount == nil {
		return issuer.Usage{}, &issuer.Error{Kind: issuer.Unavailable, Action: "DescribePackageState", Message: "the answer has no counts"}
	}
	u := issuer.Usage{Bought: int64(*out.TotalCount), Used: int64(*out.UsedCount), Read: time.Now()}
	if out.IssuedCount != nil {
		u.Issued = int64(*out.IssuedCount)
	}
	return u, nil
}

// Fetch asks GetUserCertificateDetail if the certificate's id is known, and
// DescribeCertificateState if not or where that has no certificate.
func (p *packages) Fetch(ctx context.Context, cloudID, certID string) (issuer.Certificate, error) {
	if certID != "" {
		c, err := p.detail(ctx, certID)
		if err == nil || cloudID == "" || passing(err) {
			return c, err
		}
	}
	s, err := p.describe(ctx, cloudID)
	if err != nil {
		return issuer.Certificate{}, err
	}
	if s.Certificate == "" {
		return issuer.Certificate{}, &issuer.Error{Kind: issuer.WrongState, Action: "DescribeCertificateState",
			Message: "no certificate in state " + p.c.show(text(s.Type), 40), RequestID: string(s.RequestID)}
	}
	return issuer.Certificate{Chain: s.Certificate, Key: s.PrivateKey, RequestID: string(s.RequestID)}, nil
}

// passing tells errors that pass by themselves from those that the other call
// may not have.
func passing(err error) bool {
	switch issuer.KindOf(err) {
	case issuer.Throttled, issuer.NeverSent, issuer.Unavailable:
		return true
	}
	return false
}

func (p *packages) detail(ctx context.Context, certID string) (issuer.Certificate, error) {
	r := cas.CreateGetUserCertificateDetailRequest()
	r.CertId = requests.Integer(certID)
	var out struct {
		Cert      string
		Key       order.Secret
		RequestID text `json:"RequestId"`
	}
	if err := p.c.ask(ctx, r, &out); err != nil {
		return issuer.Certificate{}, err
	}
	if out.Cert == "" {
		return issuer.Certificate{}, &issuer.Error{Kind: issuer.NotFound, Action: "GetUserCertificateDetail",
			Message: "the answer has no certificate", RequestID: string(out.RequestID)}
	}
	return issuer.Certificate{Chain: out.Cert, Key: out.Key, RequestID: string(out.RequestID)}, nil
}
