package cloudsim_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/cas"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// hosted is a quick cloud that validates by itself, so that orders need no help.
func hosted() cloudsim.Config {
	cfg := quick()
	cfg.SelfValidate, cfg.Accounts = true, cloudsim.DefaultAccounts()
	cfg.Accounts[0].Zones = []string{"example.com"}
	return cfg
}

// page is one page of a list of CAS, as the numbers of its orders or certificates.
func (a *aliCloud) page(kind string, number, size int) (rows []int64) {
	a.t.Helper()
	r := cas.CreateListUserCertificateOrderRequest()
	r.OrderType, r.CurrentPage, r.ShowSize = kind, requests.NewInteger(number), requests.NewInteger(size)
	out, err := a.cas.ListUserCertificateOrder(r)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, row := range out.CertificateOrderList {
		rows = append(rows, row.OrderId+row.CertificateId) // a row has one of them
	}
	return rows
}

// numbered orders single names.
func (a *aliCloud) numbered(n int) (ids []int64) {
	a.t.Helper()
	for i := range n {
		ids = append(ids, a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.Domain = fmt.Sprintf("n%d.example.com", i) }))
	}
	return ids
}

func TestListOrder(t *testing.T) {
	t.Parallel()
	a := startAli(t, hosted())
	placed := a.numbered(12)
	for _, id := range placed {
		a.until(id, "certificate")
	}
	newest := slices.Clone(placed)
	slices.Reverse(newest)
	set := func(order string) {
		if err := a.SetConfig(func(c *cloudsim.Config) { c.ListOrder = order }); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.page("CPACK", 1, 50); !slices.Equal(got, newest) {
		t.Errorf("newest first: %v", got)
	}
	certs := a.page("CERT", 1, 50)
	set("oldest")
	if got := append(a.page("CPACK", 1, 6), a.page("CPACK", 2, 6)...); !slices.Equal(got, placed) {
		t.Errorf("oldest first: %v", got)
	}
	back := a.page("CERT", 1, 50)
	slices.Reverse(back)
	if !slices.Equal(back, certs) || len(certs) != 12 {
		t.Errorf("certificates: newest %v, oldest reversed %v", certs, back)
	}
	set("shuffled")
	one, two := a.page("CPACK", 1, 50), a.page("CPACK", 1, 50)
	if slices.Equal(one, two) {
		t.Errorf("shuffled twice alike: %v", one)
	}
	slices.Sort(one)
	slices.Sort(placed)
	if !slices.Equal(one, placed) {
		t.Errorf("shuffled, some are lost: %v", one)
	}
	if err := a.SetConfig(func(c *cloudsim.Config) { c.ListOrder = "alphabetic" }); err == nil {
		t.Error("an order that nobody knows was taken")
	}
}

// TestCertificatesAreListedAsIssued has an order issued after a later one.
func TestCertificatesAreListedAsIssued(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Dir = t.TempDir()
	a := startAli(t, cfg)
	first, second := a.mustOrder(nil), a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.Domain = "b.example.org" })
	a.answer(second)
	a.answer(first)
	want := func(when string, sim *aliCloud) {
		rows := sim.list("CERT", "", "").CertificateOrderList
		if len(rows) != 2 || rows[0].CommonName != "www.example.com" || rows[1].CommonName != "b.example.org" {
			t.Errorf("%s: %+v", when, rows)
		}
	}
	want("at once", a)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	want("after a restart", startAli(t, cfg))
}

// TestListShift pages through a list whose pages do not fit together: some row
// comes twice or not at all, sooner or later, and none is invented.
func TestListShift(t *testing.T) {
	t.Parallel()
	cfg := hosted()
	cfg.ListShift = 1
	a := startAli(t, cfg)
	placed := a.numbered(30)
	slices.Reverse(placed)
	if got := a.page("CPACK", 1, 10); !slices.Equal(got, placed[:10]) {
		t.Errorf("the first page: %v", got)
	}
	for range 10 {
		got := a.page("CPACK", 2, 10)
		if len(got) != 10 || got[0] == placed[10] || !slices.Contains(placed[7:14], got[0]) {
			t.Errorf("the second page begins with %v", got)
		}
	}
}

func TestOddStates(t *testing.T) {
	t.Parallel()
	cfg := hosted()
	cfg.OddStates = 1
	a := startAli(t, cfg)
	id := a.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.Domain = "www.example.com" })
	if s := a.state(id); s.Type != "unknow" || s.Certificate != "" {
		t.Errorf("state %+v", s)
	}
	if rows := a.list("CPACK", "", "").CertificateOrderList; len(rows) != 1 || rows[0].Status != "SYNCING" {
		t.Errorf("listed %+v", rows)
	}
	if n := a.list("CPACK", "CHECKING", "").TotalCount; n != 0 {
		t.Errorf("%d are listed as CHECKING", n)
	}
	share := func(odd float64) {
		if err := a.SetConfig(func(c *cloudsim.Config) { c.OddStates = odd }); err != nil {
			t.Fatal(err)
		}
	}
	share(0)
	a.until(id, "certificate")
	a.numbered(40)
	share(0.5)
	odd := 0
	for _, row := range a.list("CPACK", "", "").CertificateOrderList {
		if row.Status == "SYNCING" {
			odd++
		}
	}
	if odd < 5 || odd > 36 {
		t.Errorf("%d of 41 are odd, not about half", odd)
	}
}

func TestTencentLists(t *testing.T) {
	cfg := tencentConfig()
	c := startTencent(t, cfg)
	list := func(in params) (ids []string, states []int) {
		var out struct {
			Certificates []struct {
				CertificateId string
				Status        int
			}
		}
		c.call("ssl", "DescribeCertificates", in, &out)
		for _, row := range out.Certificates {
			ids, states = append(ids, row.CertificateId), append(states, row.Status)
		}
		return ids, states
	}
	set := func(edit func(*cloudsim.Config)) {
		if err := c.sim.SetConfig(edit); err != nil {
			t.Fatal(err)
		}
	}
	set(func(c *cloudsim.Config) { c.ListOrder = "oldest" }) // the newest first is documented
	if ids, _ := list(params{}); !slices.Equal(ids, []string{"single01", "paid0002", "paid0001"}) {
		t.Errorf("listed %v", ids)
	}
	set(func(c *cloudsim.Config) { c.ListOrder = "shuffled" })
	seen := map[string]bool{}
	eventually(t, "each comes first", func() bool {
		ids, _ := list(params{})
		seen[ids[0]] = true
		return len(seen) == 3
	})
	c.call("ssl", "CertificateInfoSubmit", materials("paid0001", "", "www.example.com"), nil)
	c.call("ssl", "CertificateOrderSubmit", params{"CertId": "paid0001"}, nil)
	set(func(c *cloudsim.Config) { c.OddStates, c.ListOrder = 1, "newest" })
	if _, states := list(params{}); !slices.Equal(states, []int{5, 5, 16}) {
		t.Errorf("odd states %v", states)
	}
	if d := c.describe("paid0001"); d.Status != 16 {
		t.Errorf("described %+v", d)
	}
}

// TestReportTimes follows an order through the times that detection is measured
// by.
func TestReportTimes(t *testing.T) {
	t.Parallel()
	cfg := hosted()
	cfg.ChallengeDelay, cfg.IssueDelay = cloudsim.Exactly(50*time.Millisecond), cloudsim.Exactly(50*time.Millisecond)
	cfg.ListLag = cloudsim.Exactly(200 * time.Millisecond)
	a := startAli(t, cfg)
	a.until(a.mustOrder(nil), "certificate")
	text, err := json.Marshal(a.Report().Orders[0])
	if err != nil {
		t.Fatal(err)
	}
	var o cloudsim.OrderReport
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatal(err)
	}
	times := []time.Time{o.Created, o.ChallengeAt, o.ValidatedAt, o.IssuedAt, o.ChangedAt, o.ListedAt}
	if !slices.IsSortedFunc(times, time.Time.Compare) || o.Created.IsZero() || o.ListedAt.Sub(o.ChangedAt) < 200*time.Millisecond {
		t.Errorf("times %v", times)
	}
}
