package stage_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// caller is an account of the world with a key of its own: kind and id are those
// of who calls, sees what its lists show.
func (w *world) caller(uid, key, kind, id, sees string) *stage.Account {
	w.t.Helper()
	w.must(w.sim.AddAccount(cloudsim.Account{Cloud: "aliyun", UID: uid, AccessKeyID: key, AccessKeySecret: secret, CallerKind: kind, CallerID: id,
		Sees: sees, Products: map[string]int{plenty: 1000}}))
	cloud := w.aliCloud(func(to *issuer.Access) { to.KeyID = key })
	a := *w.accounts["ali"]
	a.Cloud, a.Credentials = cloud, &stage.Credentials{Key: key}
	return &a
}

// bought is a purchase of a caller, as the ledger has it.
func (w *world) bought(a *stage.Account, id string) (cloudID string) {
	w.t.Helper()
	open := w.opened(a, id)
	cloudID = w.cloudOrders(a, id)
	w.must(w.ledger.Bought(w.t.Context(), aliUID, namesOf(id), open, cloudID, "answered"))
	return cloudID
}

func namesOf(id string) []string { return []string{id + ".example.com"} }

// opened is an open attempt of a caller.
func (w *world) opened(a *stage.Account, id string) ledger.Attempt {
	w.t.Helper()
	ctx := w.t.Context()
	by, err := a.Whose(ctx)
	w.must(err)
	e, err := w.ledger.Read(ctx, aliUID, namesOf(id))
	w.must(err)
	_, open, err := w.ledger.Begin(ctx, e, ledger.Attempt{Order: id, Purchase: 1, Attempt: 1, Action: forPackage, Product: plenty, Caller: by.Caller})
	w.must(err)
	return open
}

// orders is a cloud order that a caller makes.
func (w *world) cloudOrders(a *stage.Account, id string) string {
	w.t.Helper()
	flow := a.Flow(forPackage)
	ctx, release, err := flow.Reserve(w.t.Context())
	w.must(err)
	defer release()
	now := time.Now()
	r, err := flow.Submit(ctx, issuer.Application{OrderID: id, Names: namesOf(id), Product: plenty, Validation: order.DNS,
		Contact: a.Contact}, issuer.Fence{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute)})
	w.must(err)
	return r.CloudID
}

// remembering is a key store that knows whose calls its numbers are.
type remembering map[string]int

func (r remembering) Callers(context.Context, string) (map[string]int, error) { return r, nil }

// guard is the guard as a worker of a new session asks it.
func (w *world) guardWith(keys stage.Numbers) stage.Guard {
	return stage.Guard{Ledger: w.ledger, States: w.states, Incarnation: w.line.Incarnation(), Numbers: keys,
		Now: func() time.Time { return time.Now().Add(time.Minute) }} // past the lag of lists
}

// refused wants the sentence of a caller whose lists prove nothing.
func refused(t *testing.T, err error, says string) {
	t.Helper()
	if u, ok := errors.AsType[*stage.Unwitnessed](err); !ok || !strings.Contains(u.Error(), says) || !strings.Contains(u.Error(), "certmill first-use ali") {
		t.Errorf("%v, want a caller that proves nothing, with %q", err, says)
	}
}

func allowed(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// DESIGN 12.7: a new caller's list may say "not there" only after it has shown
// rows that earlier entries claim.
func TestWhoMaySayNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	first := w.caller(aliUID, "LTAIfirst", "user", "111", "all")
	wide := w.caller(aliUID, "LTAIwide", "user", "222", "all")
	narrow := w.caller(aliUID, "LTAInarrow", "user", "333", "own")
	open := w.opened(first, "open")
	deny := func(a *stage.Account) error { return w.guardWith(nil).MayDeny(t.Context(), a, aliUID, open) }
	again := func(a *stage.Account) *stage.Account { // in another session
		b := *a
		b.Credentials = &stage.Credentials{Key: a.Credentials.Key}
		return &b
	}

	allowed(t, "whoever sent it", deny(first))
	allowed(t, "the main account itself", deny(w.caller(aliUID, aliKey, "", "", "")))
	refused(t, deny(wide), "calls as 222, and the attempt was made as 111, of which nothing is known that its list should show")

	w.bought(narrow, "two")
	refused(t, deny(again(narrow)), "of which nothing is known that its list should show") // its own row is no proof
	id := w.bought(first, "one")
	allowed(t, "a caller whose list shows what the other bought", deny(again(wide)))
	refused(t, deny(again(narrow)), "whose cloud order "+id+" its list does not show")

	// One that is shown is not enough: rights may end at a resource group.
	w.must(w.ledger.Bought(t.Context(), aliUID, namesOf("gone"), w.opened(first, "gone"), "1", "answered"))
	refused(t, deny(again(wide)), "whose cloud order 1 its list does not show")

	// An operator's word, for this life of the streams and this caller.
	w.must(w.states.Change(t.Context(), aliUID, func(s *account.State) { s.Vouch("another life", "333") }))
	refused(t, deny(again(narrow)), "its list does not show")
	w.must(w.states.Change(t.Context(), aliUID, func(s *account.State) { s.Vouch(w.line.Incarnation(), "444") }))
	refused(t, deny(again(narrow)), "its list does not show")
	w.must(w.states.Change(t.Context(), aliUID, func(s *account.State) { s.Vouch(w.line.Incarnation(), "333") }))
	allowed(t, "an operator vouches", deny(again(narrow)))
}

// DESIGN 12.7: no conclusion from a list that another main account read.
func TestAnotherMainAccountsListSaysNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	open := w.opened(w.caller(aliUID, "LTAIfirst", "user", "111", "all"), "open")
	stranger := w.caller("900900", "LTAIstranger", "", "", "")
	for what, err := range map[string]error{
		"deny": w.guardWith(nil).MayDeny(t.Context(), stranger, aliUID, open),
		"mark": w.guardWith(nil).MayMark(t.Context(), stranger),
	} {
		if s, ok := errors.AsType[*stage.Stranger](err); !ok || s.Is.Main != "900900" || !strings.Contains(s.Error(), `write main: "900900" for accounts.ali`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := stranger.Stopped(); err == nil {
		t.Error("it is not stopped")
	}
	moved := w.caller("900900", "LTAImoved", "", "", "") // the config was changed
	moved.Main = "900900"
	err := w.guardWith(nil).MayDeny(t.Context(), moved, aliUID, open)
	if e, ok := errors.AsType[*stage.Elsewhere](err); !ok || e.Was != aliUID || e.Main != "900900" {
		t.Errorf("deny, by a label of another main account: %v", err)
	}
}

// DESIGN 12.7: an entry keeps its caller beside the main account.
// DESIGN 12.7: it is asked once a session, without a permit, whose an account is.
func TestAnEntryKeepsItsCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	before := w.calls("GetCallerIdentity")
	w.accounts["ali"] = w.caller(aliUID, "LTAIuser", "user", "111", "all")
	for _, id := range []string{"a", "b"} {
		w.order(id, id+".example.com")
		w.worker().drive(id, order.Issued)
		if at, n := w.attempt(id), w.number(id); at.Caller != "111" || n.Main != aliUID {
			t.Errorf("the entry is %+v, the number %+v", at, n)
		}
	}
	if n := w.calls("GetCallerIdentity") - before; n != 1 {
		t.Errorf("asked %d times", n)
	}
	for _, k := range w.permits.Stats() {
		if strings.Contains(k.Key.Action, "GetCallerIdentity") && k.Granted > 0 {
			t.Errorf("%v took %d permits", k.Key, k.Granted)
		}
	}
}

// DESIGN 12.7: the endpoint is part of identity where the cloud cannot say, and only
// there. Where the cloud does not tell, another key is another caller, and the endpoint
// is part of it: package app makes Credentials.Key of both.
func TestSilentCloudAndAnotherKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.Unknown = []string{"aliyun/GetCallerIdentity"} }})
	first := w.caller(aliUID, "LTAIfirst", "", "", "")
	open := w.opened(first, "open")
	if open.Caller != "key LTAIfirst" {
		t.Errorf("the entry has the caller %q", open.Caller)
	}
	allowed(t, "the same key", w.guardWith(nil).MayDeny(t.Context(), first, aliUID, open))
	other := w.caller(aliUID, "LTAIother", "", "", "")
	refused(t, w.guardWith(nil).MayDeny(t.Context(), other, aliUID, open), "calls as key LTAIother, and the attempt was made as key LTAIfirst")
	w.bought(first, "one")
	other.Credentials = &stage.Credentials{Key: "LTAIother"}
	allowed(t, "another key that shows what the first bought", w.guardWith(nil).MayDeny(t.Context(), other, aliUID, open))
}

// DESIGN 12.7: after a lost ledger, with numbers in the key store, the mark needs
// the operator's word, unless the main account itself calls.
func TestWhoMayMark(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	user := w.caller(aliUID, "LTAIuser", "user", "111", "all")
	allowed(t, "nothing was ever bought", w.guardWith(remembering{}).MayMark(t.Context(), user))
	allowed(t, "nobody else ever called", w.guardWith(remembering{"111": 7}).MayMark(t.Context(), user))
	refused(t, w.guardWith(remembering{"111": 7, "222": 1}).MayMark(t.Context(), user), "calls as 111, and calls were made there before as 222")
	refused(t, w.guardWith(remembering{"": 1}).MayMark(t.Context(), user), "somebody unknown")
	allowed(t, "the main account itself", w.guardWith(remembering{"222": 1}).MayMark(t.Context(), w.caller(aliUID, aliKey, "", "", "")))

	// A restored ledger knows what its list must show.
	w.bought(w.caller(aliUID, "LTAIother", "user", "222", "all"), "one")
	user.Credentials = &stage.Credentials{Key: "LTAIuser"}
	allowed(t, "its list shows what others bought", w.guardWith(remembering{"222": 1}).MayMark(t.Context(), user))
	narrow := w.caller(aliUID, "LTAInarrow", "user", "333", "own")
	refused(t, w.guardWith(nil).MayMark(t.Context(), narrow), "calls were made there before as 222")

	// The word skips the wait only where nothing is known.
	w.must(w.states.Change(t.Context(), aliUID, func(s *account.State) { s.Vouch(w.line.Incarnation(), "333") }))
	allowed(t, "an operator vouches", w.guardWith(remembering{"222": 1}).MayMark(t.Context(), narrow))
	for _, c := range []struct {
		keys stage.Numbers
		want bool
	}{{nil, true}, {remembering{}, true}, {remembering{"222": 1}, false}} {
		if skips, err := w.guardWith(c.keys).MaySkipWait(t.Context(), narrow); err != nil || skips != c.want {
			t.Errorf("with %v: %v, %v", c.keys, skips, err)
		}
	}
}

// A cloud that does not answer says nothing: neither yes nor no.
func TestNoAnswerNoConclusion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	first := w.caller(aliUID, "LTAIfirst", "user", "111", "all")
	open := w.opened(first, "open")
	w.must(w.sim.AddFault(cloudsim.Fault{Action: "GetCallerIdentity", Kind: "http_502_html"}))
	first.Credentials = &stage.Credentials{Key: "LTAIfirst"}
	for what, err := range map[string]error{
		"deny": w.guardWith(nil).MayDeny(t.Context(), first, aliUID, open), "mark": w.guardWith(nil).MayMark(t.Context(), first), "call": first.May(t.Context()),
	} {
		if issuer.KindOf(err) != issuer.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An order that was taken for another main account moves along while nothing was
// sent for it, and stays for a person to decide afterwards.
func TestTakenForAnotherMainAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	const stays = "it was taken for main account 900900, and account ali is of " + aliUID + " now"
	w.must(w.keys.Raise(certstore.Ref{ID: "numbered", Hash: "2-numbered", Main: "900900", Names: namesOf("moved")}, certstore.Raised{Attempt: 1, Purchase: 1})) // of an attempt that the record has forgotten
	for _, c := range []struct {
		id      string
		attempt int
		want    string
	}{{"new", 0, aliUID + " <nil>"}, {"sent", 1, stays}, {"numbered", 0, stays}} {
		o := order.Order{V: order.SchemaVersion, Request: order.Request{ID: c.id, Account: "ali", Names: namesOf("moved")},
			State: order.Submit, Account: "ali", Main: "900900", Operation: forPackage, Product: plenty, Purchase: 1, Attempt: c.attempt}
		next, err := w.worker().submit.Handle(t.Context(), o)
		if got := fmt.Sprint(next.Main, " ", err); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.id, got, c.want)
		}
	}
}

// An order for an account of which nobody knows as yet which main account it is of
// waits in its lane, where no worker takes it, and not in the inbox, where all
// others would wait behind it. Whoever leaves the account open gets another.
func TestTakenBeforeItsMainAccountIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ctx := t.Context()
	unknown := *w.accounts["ali"]
	unknown.Label, unknown.Main, unknown.Credentials = "who", "", &stage.Credentials{}
	unknown.Halt(errors.New("account who waits"))
	w.accounts["who"] = &unknown
	for _, account := range []string{"who", "ali", order.AnyAccount} {
		w.publish(order.Request{ID: "for-" + account, Account: account, Names: namesOf(account)})
	}
	if o := w.last("for-who"); o.State != order.Submit || o.Account != "who" || o.Main != "" {
		t.Errorf("it is %s for %q", w.tell("for-who"), o.Main)
	}
	if o := w.last("for-any"); o.Main == "" {
		t.Errorf("an order for any account went to one that cannot be worked with: %s", o.Account)
	}
	w.worker().drive("for-ali", order.Issued)
	w.wantNotNow("for-who", w.worker().by.Cancel(ctx, "for-who"), "which main account")

	unknown.Main, unknown.Credentials = aliUID, nil // the next session
	w.worker().driveTo("for-who", "at its main account", func(o order.Order) bool { return o.Main == aliUID })
	w.must(w.worker().by.Cancel(ctx, "for-who"))
	w.worker().drive("for-who", order.Failed)
}

// A cancelled order whose account has got its main account meanwhile ends, although
// no worker has seen it since.
func TestCancelledBeforeItsMainAccountWasKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ali := *w.accounts["ali"]
	w.accounts["ali"] = &ali
	ali.Main = ""
	w.publish(request("a", "a.example.com"))
	ali.Main = aliUID
	w.must(w.worker().by.Cancel(t.Context(), "a"))
	w.worker().drive("a", order.Failed)
	w.wantFailed("a", stage.ClassCancelled)
}

// DESIGN 12.7, end to end: the keys of two accounts are exchanged in the config, or
// the endpoint is another cloud's, while an attempt is open. Nothing is concluded
// from the other account's list, by nobody; nothing is bought; the account stops
// with a sentence, and only that one. Put back, it goes on with what was bought.
func TestSwappedWithAnOpenEntry(t *testing.T) {
	t.Parallel()
	for name, swapped := range map[string]func(*world) *stage.Account{
		"keys": func(w *world) *stage.Account { return w.caller("900900", "LTAIswapped", "", "", "") },
		"endpoint": func(w *world) *stage.Account {
			other := startClouds(w.t, setup{cloud: func(c *cloudsim.Config) { c.Accounts[0].UID = "900900" }}, 1)
			a := *w.accounts["ali"]
			a.Cloud = w.aliCloud(func(to *issuer.Access) { to.Endpoint = other.AliyunURL() })
			a.Credentials = &stage.Credentials{Key: aliKey}
			return &a
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			w.lost("a", "reset_after_commit", "a.example.com")
			w.later()
			own, stray := w.accounts["ali"], swapped(w)
			w.accounts["ali"] = stray
			_, err := stray.Ask(t.Context())
			w.must(err)
			w.publish(request("b", "b.example.com"))
			w.publish(order.Request{ID: "c", Account: "ten", Names: []string{"c.example.com"}})
			p := w.worker()
			for range 5 {
				p.visit("a")
				p.visit("b")
			}
			if o, at := w.last("a"), w.attempt("a"); o.State != order.Unsure || at.Ending != ledger.Open {
				t.Errorf("the order is %s, its attempt %+v", w.tell("a"), at)
			}
			if o := w.last("b"); o.State != order.Waiting || !strings.Contains(o.Wait.What, `write main: "900900" for accounts.ali`) {
				t.Errorf("another order of the account is %s: %+v", w.tell("b"), o.Wait)
			}
			if left := w.guard().MayMark(t.Context(), stray); !strings.Contains(fmt.Sprint(left), "is stopped") {
				t.Errorf("its sweep counts: %v", left)
			}
			p.drive("c", order.Issued)

			w.accounts["ali"] = own
			w.worker().drive("a", order.Issued)
			w.worker().drive("b", order.Issued)
			w.wantIssued("a")
			w.wantPaid(1, "a.example.com")
			w.wantPaid(1, "b.example.com")
		})
	}
}

// DESIGN 12.7: no conclusion from a list that another main account read, by nobody: a
// person's word is not taken, either, while the label is of another main account, and
// what was bought there is found when the right one is back.
func TestNobodyDecidesByAnotherMainAccount(t *testing.T) {
	t.Parallel()
	for what, verb := range map[string]func(*worker) error{
		"not-bought": func(p *worker) error { return p.by.NotBought(t.Context(), "a") },
		"cancel":     func(p *worker) error { return p.by.Cancel(t.Context(), "a") },
		"adopt":      func(p *worker) error { return p.by.Adopt(t.Context(), "a", "1") },
	} {
		w := newWorld(t, setup{})
		w.lost("a", "reset_after_commit", "a.example.com")
		right := w.accounts["ali"]
		other := w.caller("900900", "LTAIother", "", "", "")
		other.Main = "900900"
		w.accounts["ali"] = other
		p := w.worker()
		w.later()
		p.drive("a", order.Held)
		err := verb(p)
		if err == nil || !strings.Contains(err.Error(), `write main: "`+aliUID+`" for an account of that label again`) {
			t.Errorf("%s: %v", what, err)
		}
		if at := w.attempt("a"); at.Ending != ledger.Open {
			t.Errorf("%s: the attempt is %+v", what, at)
		}
		w.accounts["ali"] = right
		w.must(p.by.Retry(t.Context(), "a"))
		w.worker().drive("a", order.Issued)
		w.wantPaid(1, "a.example.com")
	}
}

// TestStrayedOrders: DESIGN 12.7: no conclusion from a list that another main account
// read, whatever stage an order is at when the config gives its label to another one: it
// is held with the sentence, and not cancelled where nobody could take back what it has.
// With the account back it is issued.
func TestStrayedOrders(t *testing.T) {
	t.Parallel()
	for state, r := range map[order.State]order.Request{
		order.Verify:  request("a", "a.example.com"),
		order.Issuing: request("a", "a.example.com"),
		order.Waiting: {ID: "a", Account: "ali", Resource: "any", Names: []string{"a.example.com"}},
	} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			w.publish(r)
			was := w.worker()
			if state == order.Waiting { // until its account works again, or what else may never come
				was.driveTo("a", "chosen", chosen)
				it, err := w.line.Last(t.Context(), "a")
				w.must(err)
				o := it.Order
				o.State, o.Wait = order.Waiting, order.Wait{For: order.WaitForSweep, What: aliUID + "0", Then: order.Submit}
				_, err = w.line.Move(t.Context(), it, o)
				w.must(err)
				w.accounts["old"] = &stage.Account{Label: "old", Main: aliUID + "0", Cloud: w.accounts["ali"].Cloud}
			} else {
				was.drive("a", state)
			}
			mine, other := w.accounts["ali"], w.caller("900900", "LTAIother", "", "", "")
			other.Main = "900900"
			w.accounts["ali"] = other
			p := w.worker()
			w.wantNotNow("a", p.by.Cancel(t.Context(), "a"), "taken for main account "+aliUID)
			asked := w.calls("DescribeCertificateState")
			for range 3 {
				w.must(p.recheck.Sweep(t.Context(), other))
			}
			if o := w.last("a"); o.State != state {
				t.Fatalf("%s", w.tell("a"))
			}
			p.drive("a", order.Held)
			w.wantHeld("a", "it was taken for main account "+aliUID+", and account ali is of 900900 now", "certmill retry a")
			if n := w.calls("DescribeCertificateState"); n != asked {
				t.Errorf("the other main account was asked %d times", n-asked)
			}
			w.accounts["ali"] = mine
			w.must(w.worker().by.Retry(t.Context(), "a"))
			w.worker().drive("a", order.Issued)
			w.wantPaid(1, "a.example.com")
		})
	}
}
