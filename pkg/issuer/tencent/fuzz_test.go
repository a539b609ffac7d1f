package tencent

import (
	"testing"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/permit"
)

func FuzzAnswers(f *testing.F) {
	const secret = "canary-secret-key-9f2b"
	issuertest.FuzzAnswers(f, secret, func(url string, permits *permit.Set) (issuer.Flow, []issuertest.Call) {
		c, err := New(issuer.Access{Endpoint: url, DNSEndpoint: url, KeyID: "AKIDtest", Secret: secret, Main: "200200", Permits: permits})
		if err != nil {
			f.Fatal(err)
		}
		return c.Certificate(), issuertest.Reads(c.Certificate())
	},
		`{"Response":{"RequestId":"1","OrderId":7}}`,
		`{"Response":{"RequestId":"1","Error":{"Code":"RequestLimitExceeded","Message":"m"}}}`,
		`{"Response":{"RequestId":"1","CertificateId":"98987582437920968","Status":0,"Domain":"a.example.com","SubjectAltName":["b.example.com"],"DvAuthDetail":{"DvAuths":[{"DvAuthKey":"_dnsauth","DvAuthValue":"v","DvAuthDomain":"a.example.com","DvAuthSubDomain":"_dnsauth","DvAuthVerifyType":"TXT","DvAuthPath":"/x"}]}}}`,
		`{"Response":{"RequestId":"1","TotalCount":18446744073709551615,"Certificates":[{"CertificateId":"x","Status":1,"Domain":"a.example.com","InsertTime":"2026-01-01 00:00:00","CertEndTime":"0000"}]}}`,
		`{"Response":{"RequestId":"1","Content":"UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA==","ContentType":"application/zip"}}`,
		`{"Response":{"RequestId":"1","CertificatePublicKey":"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n","CertificatePrivateKey":"k","Status":1}}`)
}
