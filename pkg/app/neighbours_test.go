package app

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/order"
)

// beside is another installation on an account of a house's clouds: a server, a key
// store and an access key of its own.
func (h *house) beside(t *testing.T, label string) *house {
	t.Helper()
	further(t, h, "beside", fewOf(cloudsim.Account{Cloud: "aliyun", UID: h.cfg.Accounts[label].Main, AccessKeyID: "LTAIbeside"}), h.cfg.Accounts[label].Main)
	c := inDir(t.TempDir())
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	c.Keys.Identity = filepath.Join(c.State, "identity.age")
	c.Accounts = map[string]Account{label: h.cfg.Accounts["beside"]}
	delete(h.cfg.Accounts, "beside")
	c.DCV.Servers, c.DCV.Resolvers, c.DCV.Allow = h.cfg.DCV.Servers, h.cfg.DCV.Resolvers, h.cfg.DCV.Allow
	other, err := openHouse(t.Context(), c, NewLogger(io.Discard, "error"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.close() })
	return other
}

// Issue 18, point 8: two installations on one account that begin at the same moment
// cannot be kept from buying the same names; each is told of the other, once, in
// its log, in status and in stuck.
func TestTwoInstallationsAreTold(t *testing.T) {
	t.Parallel()
	often := func(p *Process) { p.neighboursEvery = 2 * time.Second }
	h := newHouse(t)
	h.only("aliyun-1")
	if err := h.world.sim.SetConfig(func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Between(4*time.Second, 8*time.Second) }); err != nil {
		t.Fatal(err)
	}
	main := h.cfg.Accounts["aliyun-1"].Main
	logs := []*logLines{{}, {}}
	both := []*shift{h.work(t, NewLogger(logs[0], "error"), often), h.beside(t, "aliyun-1").work(t, NewLogger(logs[1], "error"), often)}
	for _, s := range both { // both have swept
		eventually(t, "marked", func() bool {
			c := s.another()
			return c.states.State(main).Marked(c.line.Incarnation())
		})
	}
	for i := range 20 {
		for _, s := range both {
			s.hand(order.Request{ID: fmt.Sprint("n", i), Account: "aliyun-1", Names: []string{fmt.Sprintf("n%d.example.com", i)}})
		}
	}
	for i, s := range both {
		var line AccountStatus
		told := func() map[string]account.Trouble {
			status, err := s.another().Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			all := map[string]account.Trouble{}
			line = status.Accounts[0]
			for _, x := range line.Troubles {
				all[x.Kind] = x
			}
			return all
		}
		for end := time.Now().Add(90 * time.Second); told()[account.Elsewhere].Kind == ""; time.Sleep(time.Second) {
			if time.Now().After(end) {
				t.Fatalf("installation %d is never told of the other: %+v\n%s", i, told(), logs[i].buf.String())
			}
		}
		if x := told()[account.Elsewhere]; !strings.Contains(x.What, ".example.com") || !strings.Contains(x.What, main) || x.Helps == "" {
			t.Errorf("%d: %+v", i, x)
		}
		if n := logs[i].with("somebody else orders on main account " + main); n != 1 {
			t.Errorf("installation %d logged it %d times", i, n)
		}
		stuck, err := s.another().Stuck(t.Context(), time.Hour)
		if err != nil || !strings.Contains(fmt.Sprintf("%+v", stuck.Groups), "somebody else orders on main account") {
			t.Errorf("%d: stuck %+v, %v", i, stuck.Groups, err)
		}
		t.Logf("installation %d: %v", i, line.Troubles)
	}
}
