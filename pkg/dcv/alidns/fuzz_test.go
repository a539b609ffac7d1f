package alidns

import (
	"context"
	"testing"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/permit"
)

func FuzzAnswers(f *testing.F) {
	const secret = "canary-secret-key-9f2b"
	issuertest.FuzzAnswers(f, secret, func(url string, permits *permit.Set) (issuer.Flow, []issuertest.Call) {
		c, err := aliyun.New(aliyun.Config{Endpoint: url, DNSEndpoint: url, AccessKeyID: "LTAItest", AccessKeySecret: secret, Main: "100200", Permits: permits})
		if err != nil {
			f.Fatal(err)
		}
		p := provider{c}
		return nil, []issuertest.Call{
			func(ctx context.Context) error { _, err := p.Zones(ctx, "www.example.com"); return err },
			func(ctx context.Context) error { _, err := p.Find(ctx, "example.com", "_dnsauth.www"); return err },
			func(ctx context.Context) error {
				return p.Add(ctx, "example.com", dcv.Record{RR: "_dnsauth", Type: "TXT", Value: "v"})
			},
			func(ctx context.Context) error { return p.Delete(ctx, "example.com", "7") },
		}
	},
		`{"RequestId":"1","TotalCount":9223372036854775807,"Domains":{"Domain":[{"DomainName":"example.com"}]}}`,
		`{"RequestId":"1","TotalCount":1,"DomainRecords":{"Record":[{"RecordId":"9","RR":"_dnsauth.www","Type":"TXT","Value":"v"}]}}`)
}
