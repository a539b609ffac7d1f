package cloudsim_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/aliyun/alibaba-cloud-sdk-go/services/cas"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// narrow is a key of a user whose lists end at what it ordered itself.
func narrow(cloud, uid string) cloudsim.Account {
	return cloudsim.Account{Cloud: cloud, UID: uid, AccessKeyID: "NARROW", AccessKeySecret: "narrow-secret", CallerKind: "user",
		CallerID: "777", Sees: "own"}
}

// A key that sees its own has narrower lists than its main account, and may ask
// about single orders of others all the same.
func TestNarrowLists(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	if err := a.AddAccount(narrow("aliyun", aliUID)); err != nil {
		t.Fatal(err)
	}
	n := aliClient(t, a.Sim, "NARROW", "narrow-secret")
	others := a.mustOrder(nil)
	if got := n.list("CPACK", "", "").TotalCount; got != 0 {
		t.Errorf("it sees %d orders, none of which is its own", got)
	}
	own := n.mustOrder(func(r *cas.CreateCertificateForPackageRequestRequest) { r.Domain = "own.example.com" })
	if rows := n.list("CPACK", "", "").CertificateOrderList; len(rows) != 1 || rows[0].OrderId != own {
		t.Errorf("it sees %v, not its own %d", rows, own)
	}
	if got := a.list("CPACK", "", "").TotalCount; got != 2 {
		t.Errorf("the main account sees %d of 2", got)
	}
	n.state(others)
	by := map[string]string{}
	for _, o := range a.Report().Orders {
		by[o.Names[0]] = o.By
	}
	if by["own.example.com"] != "777" || by["www.example.com"] != aliUID {
		t.Errorf("ordered by %v", by)
	}
	if err := a.AddAccount(cloudsim.Account{Cloud: "aliyun", UID: "1", AccessKeyID: "X", AccessKeySecret: "x", Sees: "half"}); err == nil {
		t.Error("a key that sees half was taken")
	}
}

func TestNarrowListsAtTencent(t *testing.T) {
	t.Parallel()
	c := startTencent(t, tencentConfig())
	if err := c.sim.AddAccount(narrow("tencent", c.key.UID)); err != nil {
		t.Fatal(err)
	}
	c.call("ssl", "CertificateInfoSubmit", materials("paid0001", "", "a.example.com"), nil)
	seen := func(key cloudsim.Account) (n int) {
		raw, err := c.send(key, http.DefaultTransport, "ssl", "DescribeCertificates", params{})
		if err != nil {
			t.Fatal(err)
		}
		var out struct{ TotalCount int }
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatal(err)
		}
		return out.TotalCount
	}
	if all, own := seen(c.key), seen(narrow("tencent", c.key.UID)); all != 3 || own != 2 { // what nobody uses is everybody's
		t.Errorf("all %d of 3, own %d of 2", all, own)
	}
}

// Repeat has the secrets of whoever asks in answers, refusals and odd states, in
// every spelling.
func TestRepeat(t *testing.T) {
	t.Parallel()
	cfg := tencentConfig()
	cfg.Repeat, cfg.OddStates = true, 1
	cfg.Accounts = append(cfg.Accounts, cloudsim.Account{Cloud: "aliyun", UID: aliUID, AccessKeyID: aliKey, AccessKeySecret: aliSecret,
		Products: map[string]int{paid: 5}})
	c := startTencent(t, cfg)
	has := func(what, text, secret string) {
		t.Helper()
		for _, s := range cloudsim.Spellings(secret) {
			if !strings.Contains(text, s) {
				t.Errorf("%s does not repeat %q: %s", what, s, text)
			}
		}
	}
	raw, err := c.send(c.key, http.DefaultTransport, "ssl", "DescribeCertificates", params{})
	if err != nil {
		t.Fatal(err)
	}
	has("a list", string(raw), c.key.AccessKeySecret)
	_, err = c.send(c.key, http.DefaultTransport, "ssl", "DescribeCertificate", params{"CertificateId": "none"})
	has("a refusal", err.Error(), c.key.AccessKeySecret)

	a := aliClient(t, c.sim, aliKey, aliSecret)
	a.mustOrder(nil)
	eventually(t, "listed", func() bool { return a.list("CPACK", "", "").TotalCount == 1 })
	row := a.list("CPACK", "", "").CertificateOrderList[0]
	has("an odd state", row.Status, aliSecret)
	has("a request id", a.list("CPACK", "", "").RequestId, aliSecret)
	_, err = a.order(func(r *cas.CreateCertificateForPackageRequestRequest) { r.ProductCode = "none" })
	has("a refusal at Alibaba", err.Error(), aliSecret)
}
