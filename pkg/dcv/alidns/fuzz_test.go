package alidns

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/permit"
)

func FuzzAnswers(f *testing.F) {
	const secret = "canary-secret-key-9f2b"
	issuertest.FuzzAnswers(f, secret, func(url string, permits *permit.Set) (issuer.Flow, []issuertest.Call) {
		c, err := aliyun.New(issuer.Access{Endpoint: url, DNSEndpoint: url, KeyID: "LTAItest", Secret: secret, Main: "100200", Permits: permits})
		if err != nil {
			f.Fatal(err)
		}
		p := newProvider(c)
		many := make([]dcv.Record, batchLeast)
		for i := range many {
			many[i] = dcv.Record{RR: fmt.Sprint("_dnsauth.", i), Type: "TXT", Value: "v"}
		}
		return nil, []issuertest.Call{
			func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, 150*time.Millisecond) // a task may never end
				defer cancel()
				return errors.Join(p.AddAll(ctx, "example.com", many)()...)
			},
			func(ctx context.Context) error { _, err := p.Zones(ctx, "www.example.com"); return err },
			func(ctx context.Context) error { _, err := p.Find(ctx, "example.com", "_dnsauth.www"); return err },
			func(ctx context.Context) error {
				return p.Add(ctx, "example.com", dcv.Record{RR: "_dnsauth", Type: "TXT", Value: "v"})
			},
			func(ctx context.Context) error { return p.Delete(ctx, "example.com", dcv.Record{ID: "7"}) },
		}
	},
		`{"RequestId":"1","TotalCount":9223372036854775807,"Domains":{"Domain":[{"DomainName":"example.com"}]}}`,
		`{"RequestId":"1","TaskId":7,"Status":1,"TotalCount":1,"BatchResultDetails":{"BatchResultDetail":[{"Status":true,"Domain":"example.com","Rr":"_dnsauth.0","Type":"TXT","Value":"v"}]}}`,
		`{"RequestId":"1","TotalCount":1,"DomainRecords":{"Record":[{"RecordId":"9","RR":"_dnsauth.www","Type":"TXT","Value":"v"}]}}`)
}
