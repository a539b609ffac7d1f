package aliyun

import (
	"context"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/cas"

	"github.com/certmill/certmill/pkg/issuer"
)

const (
	// pageSize is ShowSize of lists: the default, and the largest that anybody
	// is known to use. The maximum is not documented.
	pageSize = 50
	// maxPages bounds a search, in case a list never ends.
	maxPages = 2000
)

// orderQuery is a question to ListUserCertificateOrder.
type orderQuery struct {
	kind    string // OrderType: CPACK, BUY or CERT
	status  string // empty: all; for CERT those that are issued
	keyword string // fuzzy: part of a domain, or an instance id
	page    int    // from 0
}

// orderRow is a row of ListUserCertificateOrder: of an order (CPACK, BUY) or of
// a certificate (CERT). No row has both ids. Whether tags are listed is not
// documented.
type orderRow struct {
	OrderID       id     `json:"OrderId"`
	CertificateID id     `json:"CertificateId"`
	InstanceID    string `json:"InstanceId"`
	Status        string
	ProductCode   string

	Domain               string // orders
	BuyDate, CertEndTime number // ms
	CommonName, Sans     string // certificates
	StartDate, EndDate   string
	Tags                 []rowTag
}

type rowTag struct{ Key, TagKey, Value, TagValue string }

// orders reads one page of ListUserCertificateOrder. Its order is not
// documented.
func (c *Client) orders(ctx context.Context, q orderQuery) (issuer.Page, error) {
	r := cas.CreateListUserCertificateOrderRequest()
	r.OrderType, r.Status, r.Keyword = q.kind, q.status, q.keyword
	r.CurrentPage, r.ShowSize = requests.NewInteger(q.page+1), requests.NewInteger(pageSize)
	var out struct {
		TotalCount           number
		ShowSize             number
		CertificateOrderList []orderRow
	}
	if err := c.ask(ctx, r, &out); err != nil {
		return issuer.Page{}, err
	}
	size := int64(out.ShowSize) // the largest that the cloud gives is undocumented
	if size <= 0 || size > pageSize {
		size = pageSize
	}
	page := issuer.Page{More: int64(out.TotalCount) > int64(q.page+1)*size && len(out.CertificateOrderList) > 0,
		Last: int(max(int64(out.TotalCount)-1, 0) / size)}
	for _, row := range out.CertificateOrderList {
		page.Rows = append(page.Rows, row.row())
	}
	return page, nil
}

func (r orderRow) row() issuer.Row {
	row := issuer.Row{CloudID: string(r.OrderID), CertID: string(r.CertificateID), InstanceID: issuer.ID(r.InstanceID),
		Product: r.ProductCode, Raw: r.Status, Tag: r.tag()}
	if r.CertificateID != "" && r.OrderID == "" {
		row.Names, row.Phase = names(r.CommonName, r.Sans), issuer.IssuedPhase
		row.Created, row.Expires = day(r.StartDate), day(r.EndDate)
		return row
	}
	row.Names, row.Phase = names(r.Domain), phaseOfStatus(r.Status)
	row.Created, row.Expires = r.BuyDate.time(), r.CertEndTime.time()
	return row
}

func (r orderRow) tag() string {
	for _, t := range r.Tags {
		if t.Key+t.TagKey == tagKey {
			return t.Value + t.TagValue
		}
	}
	return ""
}

// phaseOfStatus maps the list's Status. CHECKING is open for a challenge or in
// review; the list does not tell which.
func phaseOfStatus(s string) issuer.Phase {
	switch s {
	case "PAYED":
		return issuer.Pending
	case "CHECKING":
		return issuer.Challenged
	case "CHECKED_FAIL", "REVOKED":
		return issuer.Refused
	case "ISSUED", "WILLEXPIRED", "EXPIRED":
		return issuer.IssuedPhase
	}
	return issuer.Unlisted // NOTACTIVATED, and what is not listed
}
