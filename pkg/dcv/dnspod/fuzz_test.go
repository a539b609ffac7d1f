package dnspod

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/issuer/tencent"
	"github.com/certmill/certmill/pkg/permit"
)

func FuzzAnswers(f *testing.F) {
	const secret = "canary-secret-key-9f2b"
	issuertest.FuzzAnswers(f, secret, func(url string, permits *permit.Set) (issuer.Flow, []issuertest.Call) {
		c, err := tencent.New(issuer.Access{Endpoint: url, DNSEndpoint: url, KeyID: "AKIDtest", Secret: secret, Main: "200200", Permits: permits})
		if err != nil {
			f.Fatal(err)
		}
		p := newProvider(c)
		p.ids.Store("example.com", "12")
		many := make([]dcv.Record, batchLeast)
		for i := range many {
			many[i] = dcv.Record{ID: fmt.Sprint(i + 1), RR: fmt.Sprint("_dnsauth.", i), Type: "TXT", Value: "v"}
		}
		return nil, []issuertest.Call{
			func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, 150*time.Millisecond) // a task may never end
				defer cancel()
				return errors.Join(append(p.AddAll(ctx, "example.com", many)(), p.DeleteAll(ctx, "example.com", many)()...)...)
			},
			func(ctx context.Context) error { _, err := p.Zones(ctx, "www.example.com"); return err },
			func(ctx context.Context) error { _, err := p.Find(ctx, "example.com", "_dnsauth.www"); return err },
			func(ctx context.Context) error {
				return p.Add(ctx, "example.com", dcv.Record{RR: "_dnsauth", Type: "TXT", Value: "v"})
			},
			func(ctx context.Context) error { return p.Delete(ctx, "example.com", dcv.Record{ID: "7"}) },
		}
	},
		`{"Response":{"RequestId":"1","DomainCountInfo":{"AllTotal":4294967295},"DomainList":[{"Name":"example.com"}]}}`,
		`{"Response":{"RequestId":"1","JobId":7,"TotalCount":1,"SuccessCount":1,"FailCount":0,"DetailList":[{"RecordList":[{"RecordId":1,"SubDomain":"_dnsauth.0","RecordType":"TXT","Value":"v","Status":"ok"}]}]}}`,
		`{"Response":{"RequestId":"1","RecordCountInfo":{"TotalCount":7},"RecordList":[{"RecordId":9,"Name":"_dnsauth.www","Type":"TXT","Value":"v"}]}}`)
}
