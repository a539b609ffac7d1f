package cloudsim_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/cas"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// BenchmarkListPage is one page of a list, by the vendor's SDK, of an account with
// 10,000 orders that wait for the CA, or that are issued.
func BenchmarkListPage(b *testing.B) {
	for _, tt := range []struct {
		name, kind, status string
		issue              time.Duration
	}{
		{"waiting", "CPACK", "CHECKING", time.Hour},
		{"issued orders", "CPACK", "ISSUED", 0},
		{"certificates", "CERT", "", 0},
	} {
		b.Run(tt.name, func(b *testing.B) {
			a := crowded(b, tt.issue, tt.kind, tt.status)
			for n := 0; b.Loop(); n++ {
				r := cas.CreateListUserCertificateOrderRequest()
				r.OrderType, r.Status, r.CurrentPage = tt.kind, tt.status, requests.NewInteger(1+n%200)
				if out, err := a.cas.ListUserCertificateOrder(r); err != nil || len(out.CertificateOrderList) != 50 {
					b.Fatal(out, err)
				}
			}
		})
	}
}

// crowded is a cloud in which 10,000 orders have come to a list.
func crowded(b *testing.B, issue time.Duration, kind, status string) *aliCloud {
	const orders = 10_000
	cfg := quick()
	cfg.Limits = map[string]int{"default": 1_000_000}
	cfg.SelfValidate, cfg.IssueDelay = true, cloudsim.Exactly(issue)
	cfg.Accounts = cloudsim.DefaultAccounts()
	cfg.Accounts[0].Zones = []string{"example.com"}
	a := startAli(b, cfg)
	for n := range orders {
		a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.Domain = fmt.Sprintf("n%d.example.com", n) })
	}
	for a.list(kind, status, "").TotalCount < orders {
		time.Sleep(100 * time.Millisecond)
	}
	return a
}
