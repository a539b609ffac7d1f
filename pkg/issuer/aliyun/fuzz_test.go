package aliyun_test

import (
	"testing"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/permit"
)

var answers = []string{
	`{"RequestId":"1","OrderId":98987582437920968}`,
	`{"RequestId":"1","OrderId":"0"}`,
	`{"RequestId":"1","Code":"Throttling.User","Message":"flow control"}`,
	`{"RequestId":"1","Type":"domain_verify","RecordDomain":"_dnsauth","RecordType":"TXT","RecordValue":"v","Domain":"a.example.com","Uri":"/x","Content":"c"}`,
	`{"RequestId":"1","Type":"certificate","Certificate":"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n","PrivateKey":"k"}`,
	`{"RequestId":"1","TotalCount":9223372036854775807,"ShowSize":1,"CertificateOrderList":[{"OrderId":98987582437920968,"Domain":"a.example.com,b.example.com","Status":"CHECKING","BuyDate":1666666666000,"CertEndTime":"x"}]}`,
	`{"RequestId":"1","UsedCount":1e3,"TotalCount":"7","ProductCode":"p"}`,
}

func FuzzPackageAnswers(f *testing.F) { fuzzFlow(f, (*aliyun.Client).Package) }

func FuzzInstanceAnswers(f *testing.F) { fuzzFlow(f, (*aliyun.Client).Instance) }

func fuzzFlow(f *testing.F, flow func(*aliyun.Client) issuer.Flow) {
	issuertest.FuzzAnswers(f, secret, func(url string, permits *permit.Set) (issuer.Flow, []issuertest.Call) {
		c, err := aliyun.New(issuer.Access{Endpoint: url, DNSEndpoint: url, KeyID: "LTAItest", Secret: secret, Main: "100200", Permits: permits})
		if err != nil {
			f.Fatal(err)
		}
		return flow(c), issuertest.Reads(flow(c))
	}, answers...)
}
