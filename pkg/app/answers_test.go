package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/order"
)

// wrongSecret gives an account of the config a secret that its cloud refuses.
func wrongSecret(t *testing.T, h *house, label string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("canary-secret-with-a-slip"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.edit(label, func(a *Account) { a.Secret = Ref("file:" + path) })
}

// says checks that a text, or what is written of a value, has all of the words, and
// none that "not: " stands before.
func says(t *testing.T, where string, v any, words ...string) {
	t.Helper()
	text, is := v.(string)
	if !is {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		text = string(data)
	}
	for _, word := range words {
		if no, absent := strings.CutPrefix(word, "not: "); absent == strings.Contains(text, no) {
			t.Errorf("%s: %q:\n%s", where, word, text)
		}
	}
}

// A wrong secret is told wherever somebody looks, with the cloud's code and with what
// to write, whether the config names the main account or not; and nobody is led to
// first-use. Another account works meanwhile.
func TestAWrongSecretIsTold(t *testing.T) {
	t.Parallel()
	for _, named := range []bool{true, false} {
		t.Run(fmt.Sprint("main account named: ", named), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.only("aliyun-1", "aliyun-2")
			wrongSecret(t, h, "aliyun-1")
			if !named {
				h.edit("aliyun-1", func(a *Account) { a.Main = "" })
			}
			log := &logLines{}
			s := h.work(t, NewLogger(log, "info"))
			s.hand(order.Request{ID: "lost", Account: "aliyun-1", Names: []string{"lost.example.com"}},
				order.Request{ID: "own", Account: "aliyun-2", Names: []string{"own.example.com"}})
			s.await("own", order.Issued)
			const code, write = "SignatureDoesNotMatch", "accounts.aliyun-1.secret"
			eventually(t, "told", func() bool {
				_, body := s.probe()
				return strings.Contains(body, code)
			})
			eventually(t, "its order waits", func() bool {
				it, err := s.console.Find(t.Context(), "lost")
				return err == nil && (it.State == order.Waiting || !named)
			})
			console := s.another()
			tellsWrongSecret(t, s, console, code, write)
			if code, body := s.probe(); code != http.StatusOK || !strings.Contains(body, write) {
				t.Errorf("readyz: %d %s", code, body)
			}
			if n := log.with("ERROR", "refuses its credentials", code, write); n != 1 {
				t.Errorf("logged %d times:\n%s", n, log.buf.String())
			}
			if n := log.with("sweep failed"); n > 0 {
				t.Errorf("%d lines of failing sweeps:\n%s", n, log.buf.String())
			}
		})
	}
}

// tellsWrongSecret looks at what a console's commands say of it.
func tellsWrongSecret(t *testing.T, s *shift, console *Console, code, write string) {
	t.Helper()
	status, err := console.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	says(t, "status", status.Accounts[0].State, code, "not: first-use")
	says(t, "status", status.Accounts[0].Troubles, code, write)
	says(t, "status of the other", status.Accounts[1].State, "works")
	stuck, err := console.Stuck(t.Context(), time.Hour)
	if err != nil || len(stuck.Groups) != 1 {
		t.Fatalf("stuck: %+v, %v", stuck.Groups, err)
	}
	says(t, "stuck", stuck, code, write, `"ids":["lost"]`, "not: first-use", "not: start a submitter")
	lost, err := console.Find(t.Context(), "lost")
	if err != nil {
		t.Fatal(err)
	}
	says(t, "list", console.Why(t.Context(), lost.Order), code)
	batch := Batch{Requests: []order.Request{{ID: "next", Account: "aliyun-1", Names: []string{"next.example.com"}}}, places: make([]place, 1)}
	plan, err := console.Review(t.Context(), batch, PlanOptions{NoDNS: true, Within: 10 * time.Second})
	if err != nil || plan.Failing() != 1 {
		t.Errorf("plan: %d would fail, %v: %+v", plan.Failing(), err, plan.Findings)
	}
	says(t, "plan", plan, code, write, "not: nobody has made this ring")
	looked, err := console.lookUp(t.Context(), batch)
	if err != nil || len(looked.Findings) != 1 || looked.Findings[0].Level != preflight.Warning {
		t.Errorf("order: %+v, %v", looked.Findings, err)
	}
	says(t, "order", looked.Findings, code, write)
	if err := console.FirstUse(t.Context(), "aliyun-1"); err == nil {
		t.Error("first-use was noted")
	} else {
		says(t, "first-use", err.Error(), code, write)
	}
}

// A stopped account has its orders in stuck, and nobody is sent where he looks
// already, or told of a time that never was; where it is the only one, nothing is
// ready.
func TestTheOnlyAccountIsRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.only("aliyun-1")
	wrongSecret(t, h, "aliyun-1")
	h.edit("aliyun-1", func(a *Account) { a.Main = "" })
	s := h.work(t, NewLogger(io.Discard, "error"))
	s.hand(order.Request{ID: "lost", Account: "aliyun-1", Names: []string{"lost.example.com"}})
	s.await("lost", order.Submit)
	eventually(t, "not ready", func() bool {
		code, body := s.probe()
		return code == http.StatusServiceUnavailable && strings.Contains(body, "accounts.aliyun-1.secret")
	})
	stuck, err := s.another().Stuck(t.Context(), time.Hour)
	if err != nil || len(stuck.Groups) != 1 || len(stuck.Troubles) > 0 {
		t.Errorf("stuck: %+v, %v", stuck, err)
	}
	says(t, "stuck", stuck, `"ids":["lost"]`, "not: certmill stuck", "not: certmill status")
}

// What nobody has stored yet was not stored for ever.
func TestNothingWasStoredYet(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	console, err := OpenConsole(t.Context(), h.cfg, NewLogger(io.Discard, "error"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	o, err := observe(t.Context(), console.js)
	if err != nil || o.silence() > time.Hour {
		t.Errorf("nothing was stored for %v, %v", o.silence(), err)
	}
}

// A first start at which nothing is wrong warns of nothing.
func TestAFirstStartWarnsOfNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.only("aliyun-1")
	log := &logLines{}
	s := h.work(t, NewLogger(log, "warn"))
	s.hand(order.Request{ID: "own", Account: "aliyun-1", Names: []string{"own.example.com"}})
	s.await("own", order.Issued)
	if log.with("WARN")+log.with("ERROR") > 0 {
		t.Errorf("%s", log.buf.String())
	}
}

// An account of another main account than the config says is told of by every
// command that meets it.
func TestAMadeUpMainAccountIsTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.only("aliyun-1")
	h.edit("aliyun-1", func(a *Account) { a.Main = "1000999" })
	s := h.work(t, NewLogger(io.Discard, "error"))
	s.hand(order.Request{ID: "lost", Account: "aliyun-1", Names: []string{"lost.example.com"}})
	lost := s.await("lost", order.Submit)
	const write = "write main: "
	eventually(t, "told", func() bool { return strings.Contains(s.another().Why(t.Context(), lost.Order), write) })
	// Also one that was taken when the label was of the right one, and has failed since.
	failed := lost.Order
	failed.Main, failed.Retries = "1000000000000001", 1
	failed.Tell(order.Event{At: time.Now(), State: order.Submit, Note: "no answer"})
	if why := s.another().Why(t.Context(), failed); !strings.Contains(why, write) {
		t.Errorf("an order that has failed once: %s", why)
	}
	console := s.another()
	stuck, err := console.Stuck(t.Context(), time.Hour)
	if err != nil || len(stuck.Groups) != 1 {
		t.Errorf("stuck: %+v, %v", stuck.Groups, err)
	}
	says(t, "stuck", stuck, write, `"ids":["lost"]`, "not: certmill status")
	if err := console.FirstUse(t.Context(), "aliyun-1"); err == nil || !strings.Contains(err.Error(), write) {
		t.Errorf("first-use: %v", err)
	}
	batch := Batch{Requests: []order.Request{{ID: "next", Account: "aliyun-1", Names: []string{"next.example.com"}}}, places: make([]place, 1)}
	looked, err := console.lookUp(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	says(t, "order", looked.Findings, write)
}

// TestAStrayedOrderIsTold: an order whose label is of another main account now is not at
// "its turn", nor "at the CA": every command says what stops it.
func TestAStrayedOrderIsTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.only("aliyun-1")
	s := h.work(t, NewLogger(io.Discard, "error"))
	s.hand(order.Request{ID: "own", Account: "aliyun-1", Names: []string{"own.example.com"}})
	o := s.await("own", order.Issued).Order
	console := s.another()
	for _, state := range []order.State{order.Submit, order.Verify, order.Issuing, order.Collect, order.Waiting} {
		o.State, o.Wait = state, order.Wait{For: order.WaitForSweep, Then: order.Submit}
		if why := console.Why(t.Context(), o); strings.Contains(why, "it was taken for main account") {
			t.Errorf("%s: of its own account: %s", state, why)
		}
		strayed := o
		strayed.Main = "1000777"
		if why := console.Why(t.Context(), strayed); !strings.Contains(why, "it was taken for main account 1000777") {
			t.Errorf("%s: %s", state, why)
		}
		if says, err := console.Now(t.Context(), strayed); err == nil || !strings.Contains(err.Error(), "1000777") {
			t.Errorf("%s: the wrong cloud was asked: %v, %v", state, says, err)
		}
	}
}
