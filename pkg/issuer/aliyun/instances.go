package aliyun

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// instances applies for certificates on instances that were bought already
// (CAS 2018-07-13). The SDK has no structs for this version.
type instances struct{ c *Client }

var (
	_ issuer.Pool      = (*instances)(nil)
	_ issuer.AllLister = (*instances)(nil)
	_ issuer.Namer     = (*instances)(nil)
)

func (i *instances) Action() string { return dvAudit }

// Spends is false: one instance is one application, so the call is safe to
// repeat after a Look.
func (i *instances) Spends() bool { return false }

// CSR: the call has no field for one.
func (i *instances) CSR(order.Request) issuer.CSR { return issuer.NoCSR }

func (i *instances) Reserve(ctx context.Context) (context.Context, func(), error) {
	return i.c.caller.Reserve(ctx, i.Action())
}

func rpc2018(action string, query map[string]string) *requests.CommonRequest {
	return rpc("cas", "2018-07-13", action, query)
}

// rpc makes a request; requests.NewCommonRequest would make it a GET, which
// net/http may send twice.
func rpc(product, version, action string, query map[string]string) *requests.CommonRequest {
	r := requests.NewCommonRequest()
	r.Method, r.Product, r.Version, r.ApiName = requests.POST, product, version, action
	for k, v := range query {
		if v != "" {
			r.QueryParams[k] = v
		}
	}
	return r
}

// Submit applies on the instance a.Resource. The cloud makes the key. The
// answer has no id of its own: the instance is the handle.
func (i *instances) Submit(ctx context.Context, a issuer.Application, f issuer.Fence) (issuer.Receipt, error) {
	switch {
	case a.Resource == "":
		return issuer.Receipt{}, rejected(i.Action(), "no instance id")
	case len(a.Names) == 0:
		return issuer.Receipt{}, rejected(i.Action(), "no names")
	case a.CSR != "":
		return issuer.Receipt{}, rejected(i.Action(), "the operation takes no CSR: the cloud makes the key")
	}
	var out struct {
		RequestID text `json:"RequestId"`
	}
	err := i.c.ask(issuer.Spending(ctx, f), rpc2018(i.Action(), map[string]string{
		"InstanceId": a.Resource, "Domain": strings.Join(a.Names, ","), "DomainVerifyType": string(a.Validation),
		"Username": a.Contact.Name, "Email": a.Contact.Email, "Mobile": a.Contact.Phone,
		"Province": a.Contact.Province, "City": a.Contact.City,
	}), &out)
	if err != nil {
		return issuer.Receipt{}, err
	}
	return issuer.Receipt{CloudID: a.Resource, RequestID: string(out.RequestID)}, nil
}

// result is the answer of DescribeDVOrderResult.
type result struct {
	OrderStatus                      string
	CheckType, CheckName, CheckValue string // while checking
	Domain, CheckURI                 string // not documented
	Certificate                      string // once issued
	PrivateKey                       order.Secret
	RequestID                        text `json:"RequestId"`
}

func (i *instances) describe(ctx context.Context, instance string) (result, error) {
	var r result
	err := i.c.ask(ctx, rpc2018("DescribeDVOrderResult", map[string]string{"InstanceId": instance}), &r)
	return r, err
}

// Look asks DescribeDVOrderResult; the list of bought orders for the domain
// where the name of the record is relative to it; and the list of instances
// where there is no result, because what an instance without an application
// answers is not documented.
func (i *instances) Look(ctx context.Context, cloudID string) (issuer.Status, error) {
	r, err := i.describe(ctx, cloudID)
	if err == nil && r.OrderStatus == "" || errors.Is(err, issuer.NotFound) {
		return i.lookInList(ctx, cloudID, r, err)
	}
	if err != nil {
		return issuer.Status{}, err
	}
	st := issuer.Status{Phase: phaseOfResult(r.OrderStatus), Raw: r.OrderStatus, RequestID: string(r.RequestID), Names: names(r.Domain)}
	st.Submitted = st.Phase != issuer.Unstarted
	switch st.Phase {
	case issuer.IssuedPhase:
		if r.Certificate != "" {
			st.Certificate = &issuer.Certificate{Chain: r.Certificate, Key: r.PrivateKey, RequestID: st.RequestID}
		}
	case issuer.Challenged:
		if st.Challenges, err = i.challenges(ctx, cloudID, r); err != nil {
			return issuer.Status{}, err
		}
		if len(st.Challenges) == 0 {
			st.Phase = issuer.Pending
		}
	}
	return st, nil
}

// lookInList tells an instance that has no application from one that the
// account does not have.
func (i *instances) lookInList(ctx context.Context, instance string, r result, asked error) (issuer.Status, error) {
	for n := range maxPages {
		rows, more, err := i.list(ctx, n)
		if err != nil {
			return issuer.Status{}, err
		}
		for _, row := range rows {
			if row.InstanceID == instance {
				phase := phaseOfResult(row.Status)
				if phase == issuer.Challenged {
					phase = issuer.Pending // the result will have the challenge
				}
				return issuer.Status{Phase: phase, Raw: row.Status, Submitted: phase != issuer.Unstarted, RequestID: string(r.RequestID)}, nil
			}
		}
		if !more {
			break
		}
	}
	return issuer.Status{Phase: issuer.Unlisted, RequestID: string(r.RequestID)}, asked
}

// phaseOfResult maps OrderStatus of DescribeDVOrderResult (lower case) and
// Status of DescribeOrderInstanceList (upper case).
func phaseOfResult(s string) issuer.Phase {
	switch strings.ToUpper(s) {
	case "PAYED":
		return issuer.Unstarted
	case "CHECKING":
		return issuer.Challenged
	case "CHECKED_FAIL", "REVOKED":
		return issuer.Refused
	case "ISSUED", "WILLEXPIRED", "EXPIRED":
		return issuer.IssuedPhase
	}
	return issuer.Unlisted
}

func (i *instances) challenges(ctx context.Context, instance string, r result) ([]order.Challenge, error) {
	if r.CheckName == "" {
		return nil, nil
	}
	file := strings.EqualFold(r.CheckType, "FILE")
	bare := strings.HasPrefix(r.CheckName, "/") || !strings.Contains(strings.Trim(r.CheckName, "."), ".")
	if r.Domain == "" && (file && !strings.Contains(r.CheckName, "://") || !file && bare) {
		var err error
		if r.Domain, err = i.domainOf(ctx, instance); err != nil {
			return nil, err
		}
	}
	if file {
		return fileChallenges(r.Domain, r.CheckName, r.CheckValue), nil
	}
	return recordChallenges(r.Domain, r.CheckName, "TXT", r.CheckValue), nil
}

// domainOf finds the names that were applied for in the list of bought orders,
// whose keyword may be an instance id.
func (i *instances) domainOf(ctx context.Context, instance string) (string, error) {
	names, err := i.Names(ctx, instance)
	if err != nil || len(names) > 0 {
		return strings.Join(names, ","), err
	}
	return "", &issuer.Error{Kind: issuer.Unavailable, Action: "ListUserCertificateOrder",
		Message: "the challenge's name is relative and the list does not show the instance's domain"}
}

// Names are those that were applied for, by the list of bought orders: neither
// DescribeDVOrderResult nor the list of instances is documented to have them.
func (i *instances) Names(ctx context.Context, cloudID string) ([]string, error) {
	page, err := i.c.orders(ctx, orderQuery{kind: "BUY", keyword: cloudID})
	if err != nil {
		return nil, err
	}
	for _, r := range page.Rows {
		if r.InstanceID == cloudID {
			return r.Names, nil
		}
	}
	return nil, nil
}

// instanceRow is a row of DescribeOrderInstanceList. It has no names.
type instanceRow struct {
	InstanceID string `json:"InstanceId"`
	CertType   string
	Status     string
	Source     string
}

// list reads a page and says whether there are more. StartIndex is a row, counted
// from 0; how many rows an answer holds is not documented, so one that falls short
// of a page is followed by another.
func (i *instances) list(ctx context.Context, page int) ([]instanceRow, bool, error) {
	var rows []instanceRow
	for len(rows) < pageSize {
		var out struct {
			TotalCount number
			OrderList  []instanceRow
		}
		start := page*pageSize + len(rows)
		r := rpc2018("DescribeOrderInstanceList", map[string]string{"StartIndex": strconv.Itoa(start)})
		if err := i.c.ask(ctx, r, &out); err != nil {
			return nil, false, err
		}
		rows = append(rows, out.OrderList...)
		if len(out.OrderList) == 0 || start+len(out.OrderList) >= int(out.TotalCount) {
			return rows, false, nil
		}
	}
	return rows, true, nil
}

// renewal is the form of the id of an order that hosting made out of another one
// (ListTrusteeOrder, by its sample): "<instance>-<order>-renew". That the list of
// instances shows such orders is not documented.
var renewal = regexp.MustCompile(`^(.+)-[0-9]+-renew$`)

// followed is the instance that one follows; empty if none.
func followed(instance string) string {
	if m := renewal.FindStringSubmatch(instance); m != nil {
		return m[1]
	}
	return ""
}

func (i *instances) page(ctx context.Context, page int, want func(instanceRow) bool) (issuer.Page, error) {
	rows, more, err := i.list(ctx, page)
	p := issuer.Page{More: more}
	for _, r := range rows {
		if want(r) {
			p.Rows = append(p.Rows, issuer.Row{CloudID: issuer.ID(r.InstanceID), InstanceID: issuer.ID(r.InstanceID),
				Product: r.CertType, Phase: phaseOfResult(r.Status), Raw: r.Status, Origin: followed(r.InstanceID)})
		}
	}
	return p, err
}

// Waiting lists the instances whose application is being checked.
func (i *instances) Waiting(ctx context.Context, page int) (issuer.Page, error) {
	return i.page(ctx, page, func(r instanceRow) bool { return phaseOfResult(r.Status) == issuer.Challenged })
}

// List names what All reads.
func (i *instances) List() string { return "instances" }

// All lists the instances in every status. Their own list has no names; that of
// bought orders has, as soon as something was applied for, and links them by the
// instance's id. A page of the one and a page of the other make a page here.
func (i *instances) All(ctx context.Context, page int) (issuer.Page, error) {
	p, err := i.page(ctx, page, func(instanceRow) bool { return true })
	if err != nil {
		return p, err
	}
	orders, err := i.c.orders(ctx, orderQuery{kind: "BUY", page: page})
	if err != nil {
		return p, err
	}
	for _, row := range orders.Rows {
		if row.InstanceID != "" {
			row.CloudID = row.InstanceID
			p.Rows = append(p.Rows, row)
		}
	}
	p.More = p.More || orders.More
	return p, nil
}

// Unused lists the instances that were bought and not applied for.
func (i *instances) Unused(ctx context.Context) ([]issuer.Row, error) {
	var all []issuer.Row
	seen := map[string]bool{}
	for n := range maxPages {
		p, err := i.page(ctx, n, func(r instanceRow) bool { return phaseOfResult(r.Status) == issuer.Unstarted })
		if err != nil {
			return nil, err
		}
		for _, r := range p.Rows {
			if !seen[r.CloudID] {
				seen[r.CloudID] = true
				all = append(all, r)
			}
		}
		if !p.More {
			break
		}
	}
	return all, nil
}

// Fetch asks DescribeDVOrderResult for certificate and key. certID is not used.
func (i *instances) Fetch(ctx context.Context, cloudID, _ string) (issuer.Certificate, error) {
	r, err := i.describe(ctx, cloudID)
	if err != nil {
		return issuer.Certificate{}, err
	}
	if r.Certificate == "" {
		return issuer.Certificate{}, &issuer.Error{Kind: issuer.WrongState, Action: "DescribeDVOrderResult",
			Message: "no certificate in state " + i.c.show(text(r.OrderStatus), 40), RequestID: string(r.RequestID)}
	}
	return issuer.Certificate{Chain: r.Certificate, Key: r.PrivateKey, RequestID: string(r.RequestID)}, nil
}
