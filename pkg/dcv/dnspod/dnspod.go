// Package dnspod places DNS challenges in zones that Tencent's DNSPod hosts
// (version 2021-03-23). Calls tells the rights that the key needs. With those that
// are optional, many records of a zone are written in one call; without them, one
// by one.
package dnspod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/tencent"
)

// New returns the solver for the zones of the client's account. Every call takes
// a permit of its action.
func New(c *tencent.Client) *dcv.Records { return dcv.NewRecords(newProvider(c)) }

type provider struct {
	client  *tencent.Client
	batches *dcv.Gate
	ids     *sync.Map // zone to its DomainId, a string, as last listed
	recent  *recent
}

func newProvider(c *tencent.Client) provider {
	return provider{client: c, batches: new(dcv.Gate), ids: new(sync.Map), recent: new(recent)}
}

const (
	pageSize    = 3000 // the largest
	maxPages    = 1000 // a list that is longer does not end
	defaultLine = "默认" // the line of all who have none of their own; this is its name
)

func (p provider) Zones(ctx context.Context, about string) ([]string, error) {
	var all []string
	for n := range maxPages {
		var out struct {
			DomainCountInfo struct{ DomainTotal int } // of those that match
			DomainList      []struct {
				Name     string
				DomainId json.Number // uint64
			}
		}
		err := p.call(ctx, "DescribeDomainList", struct {
			Type    string
			Keyword string `json:",omitempty"`
			Offset  int
			Limit   int
		}{"ALL", about, n * pageSize, pageSize}, &out)
		switch {
		case code(err) == "ResourceNotFound.NoDataOfDomain":
			return all, nil
		case err != nil:
			return nil, err
		}
		for _, d := range out.DomainList {
			all = append(all, d.Name)
			p.ids.Store(strings.ToLower(d.Name), d.DomainId.String())
		}
		if len(out.DomainList) == 0 || (n+1)*pageSize >= out.DomainCountInfo.DomainTotal {
			return all, nil
		}
	}
	return nil, errors.New("DescribeDomainList: the list does not end")
}

// Find takes the first page, which has room for more values than a name may
// have.
func (p provider) Find(ctx context.Context, zone, rr string) ([]dcv.Record, error) {
	var out struct {
		RecordList []struct {
			RecordId                  json.Number // uint64
			Name, Type, Value, Status string
		}
	}
	err := p.call(ctx, "DescribeRecordList", struct {
		Domain       string
		SubDomain    string
		ErrorOnEmpty string
		Limit        int
	}{zone, rr, "no", pageSize}, &out)
	if err != nil && code(err) != "ResourceNotFound.NoDataOfRecord" {
		return nil, err
	}
	var all []dcv.Record
	for _, r := range out.RecordList {
		all = append(all, dcv.Record{ID: r.RecordId.String(), RR: r.Name, Type: r.Type, Value: r.Value, Disabled: r.Status == "DISABLE"})
	}
	return append(all, p.recent.missing(zone, rr, all)...), nil
}

// Lag is how late Find may find what another process has added.
func (p provider) Lag() time.Duration { return lag }

func (p provider) Add(ctx context.Context, zone string, r dcv.Record) error {
	var out struct{ RecordId json.Number }
	err := p.call(ctx, "CreateRecord", struct {
		Domain, SubDomain, RecordType, RecordLine, Value string
		TTL                                              int
	}{zone, r.RR, r.Type, defaultLine, r.Value, dcv.TTL}, &out)
	switch {
	case code(err) == "InvalidParameter.DomainRecordExist": // the list may not show it yet
		return fmt.Errorf("%w: %w", dcv.Exists, err)
	case err == nil && out.RecordId != "":
		r.ID = out.RecordId.String()
		p.recent.added(zone, r)
	}
	return err
}

func (p provider) Delete(ctx context.Context, zone string, r dcv.Record) error {
	err := p.call(ctx, "DeleteRecord", struct {
		Domain   string
		RecordId json.Number
	}{zone, json.Number(r.ID)}, nil)
	if code(err) == "InvalidParameter.RecordIdInvalid" { // gone already
		err = nil
	}
	if err == nil {
		p.recent.deleted(r.ID)
	}
	return err
}

// call adds the kind of dcv to an error where there is one. The error stays
// below it.
func (p provider) call(ctx context.Context, action string, in, out any) error {
	err := p.client.Call(ctx, "dnspod", "2021-03-23", action, in, out)
	switch issuer.KindOf(err) {
	case issuer.NotFound:
		return fmt.Errorf("%w: %w", dcv.NoZone, err)
	case issuer.Credentials:
		return fmt.Errorf("%w: %w", dcv.Denied, err)
	case issuer.Rejected:
		return fmt.Errorf("%w: %w", dcv.Refused, err)
	}
	return err
}

// code is the cloud's, "" if err is none of the cloud's answers.
func code(err error) string {
	if e, ok := errors.AsType[*issuer.Error](err); ok {
		return e.Code
	}
	return ""
}
