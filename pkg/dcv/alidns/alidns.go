// Package alidns places DNS challenges in zones that Alibaba Cloud DNS hosts
// (alidns, version 2015-01-09). Calls tells the rights that the key needs. With
// those that are optional, many records of a zone are added in one call; without
// them, one by one.
package alidns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/responses"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
)

// New returns the solver for the zones of the client's account. Every call takes
// a permit of its action.
func New(c *aliyun.Client) *dcv.Records { return dcv.NewRecords(newProvider(c)) }

type provider struct {
	client  *aliyun.Client
	batches *dcv.Gate
}

func newProvider(c *aliyun.Client) provider { return provider{client: c, batches: new(dcv.Gate)} }

const (
	pageSize = 100  // the largest
	maxPages = 1000 // a list that is longer does not end
)

// page is what all lists have. The cloud may give shorter pages than were asked
// for, and says so.
type page struct{ TotalCount, PageSize int }

func (p provider) Zones(ctx context.Context, about string) ([]string, error) {
	var all []string
	params := map[string]string{}
	if about != "" {
		params["KeyWord"] = about
	}
	return all, p.pages(ctx, "DescribeDomains", params, func(body []byte) (page, error) {
		var out struct {
			page
			Domains struct{ Domain []struct{ DomainName string } }
		}
		err := json.Unmarshal(body, &out)
		for _, d := range out.Domains.Domain {
			all = append(all, d.DomainName)
		}
		return out.page, err
	})
}

// Find names the zone too: the cloud would otherwise guess where to cut.
func (p provider) Find(ctx context.Context, zone, rr string) ([]dcv.Record, error) {
	host := zone
	if rr != dcv.Apex {
		host = rr + "." + zone
	}
	var all []dcv.Record
	return all, p.pages(ctx, "DescribeSubDomainRecords", map[string]string{"DomainName": zone, "SubDomain": host}, func(body []byte) (page, error) {
		var out struct {
			page
			DomainRecords struct {
				Record []struct{ RecordId, RR, Type, Value, Status string }
			}
		}
		err := json.Unmarshal(body, &out)
		for _, r := range out.DomainRecords.Record {
			all = append(all, dcv.Record{ID: r.RecordId, RR: r.RR, Type: r.Type, Value: r.Value, Disabled: r.Status == "DISABLE"})
		}
		return out.page, err
	})
}

func (p provider) Add(ctx context.Context, zone string, r dcv.Record) error {
	_, err := p.call(ctx, "AddDomainRecord", map[string]string{"DomainName": zone, "RR": r.RR, "Type": r.Type, "Value": r.Value,
		"TTL": strconv.Itoa(dcv.TTL), "Line": "default"})
	return err
}

func (p provider) Delete(ctx context.Context, zone string, r dcv.Record) error {
	_, err := p.call(ctx, "DeleteDomainRecord", map[string]string{"RecordId": r.ID})
	if issuer.KindOf(err) == issuer.NotFound { // DomainRecordNotBelongToUser
		return nil
	}
	return err
}

// pages reads a whole list. read decodes a page and keeps its rows.
func (p provider) pages(ctx context.Context, action string, params map[string]string, read func([]byte) (page, error)) error {
	params["PageSize"] = strconv.Itoa(pageSize)
	for n := 1; n <= maxPages; n++ {
		params["PageNumber"] = strconv.Itoa(n)
		body, err := p.call(ctx, action, params)
		if err != nil {
			return err
		}
		list, err := read(body)
		if err != nil {
			return malformed(action)
		}
		size := pageSize
		if list.PageSize > 0 {
			size = min(size, list.PageSize)
		}
		if n*size >= list.TotalCount {
			return nil
		}
	}
	return fmt.Errorf("%s: the list does not end", action)
}

func malformed(action string) error {
	return fmt.Errorf("%s: the answer does not have the documented form", action)
}

// call returns the answer's bytes.
func (p provider) call(ctx context.Context, action string, params map[string]string) ([]byte, error) {
	req := newRequest(action)
	maps.Copy(req.QueryParams, params)
	return p.send(ctx, req)
}

func newRequest(action string) *requests.CommonRequest {
	req := requests.NewCommonRequest()
	req.Product, req.Version, req.ApiName, req.Method = "Alidns", "2015-01-09", action, requests.POST
	return req
}

func (p provider) send(ctx context.Context, req *requests.CommonRequest) ([]byte, error) {
	resp := responses.NewCommonResponse()
	if err := p.client.Call(ctx, req, resp); err != nil {
		return nil, meaning(err)
	}
	return resp.GetHttpContentBytes(), nil
}

// meaning adds the kind of dcv where there is one. The error stays below it.
func meaning(err error) error {
	e, ok := errors.AsType[*issuer.Error](err)
	if !ok {
		return err
	}
	switch {
	case e.Code == "DomainRecordNotBelongToUser": // the record is gone, the zone is not
		return err
	case e.Kind == issuer.NotFound:
		return fmt.Errorf("%w: %w", dcv.NoZone, err)
	case e.Kind == issuer.Credentials:
		return fmt.Errorf("%w: %w", dcv.Denied, err)
	case e.Kind == issuer.Rejected:
		return fmt.Errorf("%w: %w", dcv.Refused, err)
	}
	return err
}
