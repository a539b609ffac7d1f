package app

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
)

var began = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func after(minutes int) time.Time { return began.Add(time.Duration(minutes) * time.Minute) }

// orderIn is an order that came to a state two minutes after it was received.
func orderIn(s order.State) order.Order {
	o := order.Order{V: 1, Request: order.Request{ID: "shop-1", Names: []string{"www.example.com.cn"}}, Received: began, State: s,
		Account: "ali", Main: "100", Operation: "CreateCertificateForPackageRequest", CloudID: "42"}
	o.Tell(order.Event{At: after(1), State: order.Submit})
	if s != order.Submit {
		o.Tell(order.Event{At: after(2), State: s})
	}
	return o
}

func withChallenge(o order.Order, missing ...string) order.Order {
	c := order.Challenge{Name: "www.example.com.cn", Type: "TXT", Host: "_dnsauth.www.example.com.cn", Value: "v"}
	o.Challenges = []order.Challenge{c}
	o.Proofs = []order.Proof{{Challenge: c, At: "x.challenges.example.net", Placed: after(2), Looked: after(5), Seen: after(3), Missing: missing}}
	return o
}

// Every state, with what may hold an order up in it.
var situations = map[string]struct {
	order    func() order.Order
	facts    func(*facts)
	cause    string
	blocker  string // a part of it
	command  string
	evidence string
}{
	"its turn": {order: func() order.Order { return orderIn(order.Submit) }, cause: "its turn: CreateCertificateForPackageRequest of ali", blocker: "share the permits"},
	"a lowered limit": {order: func() order.Order { return orderIn(order.Submit) }, facts: func(f *facts) {
		f.state.Limits = map[string]int{"CreateCertificateForPackageRequest": 3}
	}, blocker: "(3 a second)"},
	"not swept": {order: func() order.Order { return orderIn(order.Submit) }, facts: func(f *facts) { f.marked = false },
		cause: "first sweep of 100", blocker: "until its list was swept once", command: "certmill first-use ali"},
	"its account is gone": {order: func() order.Order { return orderIn(order.Submit) }, facts: func(f *facts) { f.gone = true },
		cause: "account ali is in no worker's config", blocker: `write accounts.ali, with its cloud, its key and main: "100", into the workers' config`},
	"held, its account is gone": {order: func() order.Order {
		o := orderIn(order.Held)
		o.Hold = &order.Hold{Reason: "cannot place the challenge", Commands: []string{"certmill retry shop-1"}, From: order.Verify}
		return o
	}, facts: func(f *facts) { f.gone = true }, cause: "held in verify: cannot place the challenge", command: "certmill retry shop-1"},
	"adopted provisionally": {order: func() order.Order {
		o := orderIn(order.Issuing)
		o.Provisional = true
		return o
	}, cause: "at the CA (ali)", evidence: "cloud order 42 is taken for it provisionally: its own call got no clear answer"},
	"adopted provisionally, and what ends it": {order: func() order.Order {
		o := orderIn(order.Waiting)
		o.Provisional, o.Wait = true, order.Wait{For: order.WaitForTime, What: "a while", Then: order.Verify}
		return o
	}, evidence: "that ends when 42 is issued and its key is compared"},
	"paused": {order: func() order.Order { return orderIn(order.Verify) }, facts: func(f *facts) {
		f.state.Paused = map[string]account.Pause{"ali": {Why: "credentials refused: InvalidAccessKeyId.NotFound"}}
	}, cause: "account ali is paused", blocker: "InvalidAccessKeyId", command: "certmill resume ali"},
	"failing": {order: func() order.Order {
		o := orderIn(order.Submit)
		o.Retries = 3
		o.Tell(order.Event{At: after(3), State: order.Submit, Note: "read attempt number: disk full"})
		return o
	}, cause: "submit fails: read attempt number: disk full", blocker: "the last of 3 tries failed", command: "certmill cancel shop-1"},
	"unsure, early": {order: func() order.Order { return orderIn(order.Unsure) }, facts: func(f *facts) {
		f.open, f.waits = ledger.Attempt{Attempt: 2, Opened: after(55)}, 17*time.Minute
	}, blocker: "until 2026-11-25 13:12:00Z the call may still land", command: "certmill adopt shop-1", evidence: "attempt 2 was opened"},
	"unsure, late": {order: func() order.Order { return orderIn(order.Unsure) }, facts: func(f *facts) {
		f.open, f.waits = ledger.Attempt{Attempt: 2, Opened: after(5)}, 17*time.Minute
	}, blocker: "could no longer land since 2026-11-25 12:22:00Z"},
	"unsure, before its entry was read": {order: func() order.Order { return orderIn(order.Unsure) }, blocker: "the next sweep looks"},
	"no quota": {order: func() order.Order {
		o := orderIn(order.Waiting)
		o.Wait = order.Wait{For: order.WaitForQuota, What: "product-x", Till: after(70), Then: order.Submit}
		return o
	}, cause: "no quota of product-x", command: "certmill resume ali product-x"},
	"same names": {order: func() order.Order {
		o := orderIn(order.Waiting)
		o.Wait = order.Wait{For: order.WaitForNames, What: "shop-0", Then: order.Submit}
		return o
	}, cause: "another order for the same names", blocker: "order shop-0", command: "certmill show shop-0"},
	"waits for the sweep": {order: func() order.Order {
		o := orderIn(order.Waiting)
		o.Wait = order.Wait{For: order.WaitForSweep, Then: order.Submit}
		return o
	}, cause: "first sweep of 100"},
	"a rest": {order: func() order.Order {
		o := orderIn(order.Waiting)
		o.Wait = order.Wait{For: order.WaitForTime, Till: after(70), Then: order.Verify}
		o.Tell(order.Event{At: after(3), State: order.Waiting, Note: "look for _dnsauth.a.example.com: no resolver"})
		return o
	}, cause: "waits: look for … no resolver", blocker: "no resolver"},
	"a file in the way": {order: func() order.Order {
		o := withChallenge(orderIn(order.Waiting))
		o.Wait = order.Wait{For: order.WaitForChallenge, What: "order shop-0 has its FILE at www.example.com.cn/x, where there is room for one at a time", Then: order.Verify}
		return o
	}, cause: "another order's file at the same place", command: "certmill show shop-0"},
	"no challenge": {order: func() order.Order { return orderIn(order.Verify) }, cause: "the cloud shows no challenge"},
	"being placed": {order: func() order.Order { return withChallenge(orderIn(order.Verify)) }, cause: "its challenge is being placed",
		evidence: "TXT x.challenges.example.net (where _dnsauth.www.example.com.cn leads) placed 2026-11-25 12:02:00Z, first seen everywhere 2026-11-25 12:03:00Z, last looked for 2026-11-25 12:05:00Z"},
	"does not show": {order: func() order.Order {
		return withChallenge(orderIn(order.Verify), "ns1.example.com.cn (192.0.2.1) has no TXT")
	},
		cause: "a challenge does not show: example.com.cn", blocker: "ns1.example.com.cn", command: "certmill show --now shop-1", evidence: "    ns1.example.com.cn (192.0.2.1) has no TXT"},
	"refused for what stands in it": {order: func() order.Order {
		o := orderIn(order.Failed)
		o.CloudID, o.Failure = "", &order.Failure{Class: "rejected", Code: "InvalidParameter", Reason: "the cloud says no", Mend: true}
		return o
	}, cause: "rejected/InvalidParameter", blocker: "the cloud says no", command: "certmill order <file>"},
	"refused after it was paid": {order: func() order.Order {
		o := orderIn(order.Failed)
		o.Failure = &order.Failure{Class: "rejected", Code: "InvalidParameter", Reason: "the cloud says no", Mend: true}
		return o
	}, cause: "rejected/InvalidParameter", blocker: "the cloud says no", command: "certmill retry shop-1"},
	"does not show, resting": {order: func() order.Order {
		o := withChallenge(orderIn(order.Waiting), "ns1.example.com.cn (192.0.2.1) has no TXT")
		o.Wait = order.Wait{For: order.WaitForChallenge, What: "ns1.example.com.cn (192.0.2.1) has no TXT", Till: after(70), Then: order.Verify}
		return o
	}, cause: "a challenge does not show: example.com.cn", blocker: "has no TXT"},
	"at the CA": {order: func() order.Order {
		o := withChallenge(orderIn(order.Issuing))
		o.Timeline[0] = order.Event{At: after(1), State: order.Submit, Worker: "cloud", Note: "bought 42", RequestID: "R-1"}
		return o
	}, cause: "at the CA (ali)", blocker: "cloud order 42 since 2026-11-25 12:02:00Z; its challenge showed everywhere at 2026-11-25 12:03:00Z", evidence: "2026-11-25 12:01:00Z cloud: bought 42 (RequestId R-1)"},
	"being fetched": {order: func() order.Order { return orderIn(order.Collect) }, cause: "being fetched"},
	"cleaning up": {order: func() order.Order {
		o := orderIn(order.Collect)
		o.Failure = &order.Failure{Class: "review", Reason: "the CA says no"}
		return o
	}, cause: "cleaning up", blocker: "the CA says no"},
	"held": {order: func() order.Order {
		o := orderIn(order.Held)
		o.Hold = &order.Hold{Reason: "cannot place the challenge", Commands: []string{"certmill retry shop-1"}, From: order.Verify}
		return o
	}, cause: "held in verify: cannot place the challenge", command: "certmill retry shop-1"},
	"failed": {order: func() order.Order {
		o := orderIn(order.Failed)
		o.Failure = &order.Failure{Class: "rejected", Code: "NameInvalid", RequestID: "R-2", Reason: "the cloud says no", Advice: "mend the name"}
		return o
	}, cause: "rejected/NameInvalid", blocker: "the cloud says no", command: "certmill retry shop-1", evidence: "NameInvalid (RequestId R-2)"},
	"issued": {order: func() order.Order {
		o := orderIn(order.Issued)
		o.Certificate = &order.Certificate{NotAfter: after(0), Delivered: []string{"/certs/shop-1"}}
		return o
	}, blocker: "at /certs/shop-1"},
	"archived": {order: func() order.Order { return orderIn(order.Archived) }, blocker: "only its id is left"},
}

func TestExplain(t *testing.T) {
	explained := map[order.State]bool{}
	for name, s := range situations {
		f := facts{marked: true, now: after(60)}
		if s.facts != nil {
			s.facts(&f)
		}
		o := s.order()
		e := explain(o, f)
		explained[o.State] = true
		has := func(all []string, part string) bool {
			return part == "" || strings.Contains("\n"+strings.Join(all, "\n"), "\n"+part) || strings.Contains(strings.Join(all, "\n"), part)
		}
		switch {
		case e.Cause == "" || e.Blocker == "" || e.ID != "shop-1" || e.State != o.State:
			t.Errorf("%s: nothing is said: %+v", name, e)
		case s.cause != "" && e.Cause != s.cause, !strings.Contains(e.Blocker, s.blocker), !has(e.Commands, s.command), !has(e.Evidence, s.evidence):
			t.Errorf("%s: %+v", name, e)
		case Why(o) == "":
			t.Errorf("%s: no reason in a list", name)
		}
	}
	for _, s := range order.States {
		if !explained[s] {
			t.Errorf("state %s is not explained", s)
		}
	}
}

// A stage's pauses belong to it; an order that came back to a stage is there
// since it came back.
func TestSince(t *testing.T) {
	o := orderIn(order.Verify)
	for i, s := range []order.State{order.Verify, order.Waiting, order.Verify, order.Waiting, order.Verify} {
		o.Tell(order.Event{At: after(3 + i), State: s})
	}
	o.Tell(order.Event{At: after(9), State: order.Verify, Worker: "cloud", Note: "the cloud says CHECKING"})
	if got := since(o); !got.Equal(after(2)) {
		t.Errorf("since %v", got)
	}
	o.State, o.Wait = order.Waiting, order.Wait{Then: order.Verify}
	if got := since(o); !got.Equal(after(2)) {
		t.Errorf("while it waits: since %v", got)
	}
	o.State = order.Issuing
	o.Tell(order.Event{At: after(10), State: order.Issuing})
	if got := since(o); !got.Equal(after(10)) {
		t.Errorf("at the next stage: since %v", got)
	}
}

// Orders with one cause are one group, whatever numbers and names their
// sentences have.
func TestStuckOrdersAreGrouped(t *testing.T) {
	groups := map[string]*StuckGroup{}
	for i := range 5 {
		o := orderIn(order.Collect)
		o.Request.ID = fmt.Sprint("shop-", i)
		o.Retries = 1
		o.Tell(order.Event{At: after(10 - i), State: order.Collect, Note: fmt.Sprintf("clean up _dnsauth.n%d.example.com: dial tcp 192.0.2.%d:53: connection refused", i, i)})
		o.Timeline[1].At = after(8 - i)
		group(groups, explain(o, facts{marked: true, now: after(60)}))
	}
	if len(groups) != 1 {
		t.Fatalf("%d groups: %v", len(groups), groups)
	}
	for cause, g := range groups {
		if len(g.IDs) != 5 || g.Example.ID != "shop-4" || !g.Oldest.Equal(after(4)) || cause != "collect fails: clean up … dial tcp … connection refused" {
			t.Errorf("%q: %+v", cause, g)
		}
	}
}
