package dnspod

import (
	"context"
	"testing"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/issuer/tencent"
	"github.com/certmill/certmill/pkg/permit"
)

func FuzzAnswers(f *testing.F) {
	const secret = "canary-secret-key-9f2b"
	issuertest.FuzzAnswers(f, secret, func(url string, permits *permit.Set) (issuer.Flow, []issuertest.Call) {
		c, err := tencent.New(tencent.Config{Endpoint: url, DNSEndpoint: url, SecretID: "AKIDtest", SecretKey: secret, Main: "200200", Permits: permits})
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
		`{"Response":{"RequestId":"1","DomainCountInfo":{"AllTotal":4294967295},"DomainList":[{"Name":"example.com"}]}}`,
		`{"Response":{"RequestId":"1","RecordCountInfo":{"TotalCount":7},"RecordList":[{"RecordId":9,"Name":"_dnsauth.www","Type":"TXT","Value":"v"}]}}`)
}
