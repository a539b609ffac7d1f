package stage_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/alidns"
	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// rights is what workers of one process know of the accounts' rights.
func (w *world) rights() *stage.Rights {
	return &stage.Rights{States: w.states, Checker: preflight.New(w.looker), Solvers: w.solvers}
}

// careful is a worker that asks for rights before it buys, and learns from what
// becomes of challenges.
func (w *world) careful() *worker {
	p := w.worker()
	p.submit.Flight = &stage.Flight{Checker: preflight.New(w.looker), Solvers: w.solvers, Hold: true, Rights: w.rights()}
	p.verify.Rights = w.rights()
	return p
}

func (w *world) checks() *stage.Checks {
	return &stage.Checks{Accounts: w.accounts, Solvers: w.solvers, Placed: w.placed, States: w.states, Log: slog.New(slog.DiscardHandler)}
}

// checking answers what submitters ask, as verifiers do, until the test ends.
func (w *world) checking(at func(context.Context, string)) {
	w.t.Helper()
	ctx, end := context.WithCancel(w.t.Context())
	if at != nil {
		ctx = gap.With(ctx, at)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.checks().Serve(ctx) })
	w.t.Cleanup(func() { end(); wg.Wait() })
}

// keyMay changes what the key of "ali" may write and remove.
func (w *world) keyMay(writes, removes []string) {
	w.t.Helper()
	key := w.sim.Accounts()[0]
	key.Writes, key.Removes = writes, removes
	w.must(w.sim.AddAccount(key))
}

func aliZone(zone string) account.ZoneKey {
	return account.ZoneKey{Main: aliUID, Label: "ali", Zone: zone}
}

func (w *world) zone(zone string) account.Zone {
	w.t.Helper()
	z, err := w.states.Zone(w.t.Context(), aliZone(zone))
	w.must(err)
	return z
}

// wantNote checks that an order's story tells something, once.
func (w *world) wantNote(id, what string) {
	w.t.Helper()
	n := 0
	for _, e := range w.last(id).Timeline {
		if strings.Contains(e.Note, what) {
			n++
		}
	}
	if n != 1 {
		w.t.Errorf("%d notes say %q: %s", n, what, w.tell(id))
	}
}

// spentIn counts the paid orders for names in a zone.
func (w *world) spentIn(zone string) (n int) {
	for _, o := range w.sim.Report().Orders {
		if o.Spent && strings.HasSuffix(o.Names[0], "."+zone) {
			n++
		}
	}
	return n
}

// written are the check records that the simulated zone ever had.
func (w *world) written(api string) (n int) {
	for _, c := range w.sim.Report().Calls {
		if c.Action == api {
			n += c.Calls
		}
	}
	return n
}

// wantNoCheckLeft waits until the check's record and entry are gone.
func (w *world) wantNoCheckLeft() {
	w.t.Helper()
	for end := time.Now().Add(natstest.Patience); len(w.ours()) > 0 || len(w.booked()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("left behind: %v, %+v", w.ours(), w.booked())
		}
	}
}

// A zone is tried once before the first purchase that needs it, and leaves nothing.
func TestZoneIsTriedOnceADay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.checking(nil)
	w.checking(nil) // another verifier
	var wg sync.WaitGroup
	for _, id := range []string{"a", "b", "c"} {
		w.publish(request(id, id+".example.com"))
		wg.Go(func() { w.careful().drive(id, order.Issued) })
	}
	wg.Wait()
	if n := w.written("AddDomainRecord"); n != 4 { // three challenges
		t.Errorf("%d records were added, want 4", n)
	}
	if z := w.zone("example.com"); z.Check.Is != account.CheckPassed || len(z.Refused) > 0 {
		t.Errorf("%+v", z)
	}
	w.wantNoCheckLeft()
	w.publish(request("d", "d.example.com"))
	w.careful().drive("d", order.Issued)
	if n := w.written("AddDomainRecord"); n != 5 {
		t.Errorf("%d records were added, want 5", n)
	}
	w.wantNothingPlaced()
}

// An account whose key has no rights: one order is bought, not six.
func TestNoRightsAtAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.keyMay([]string{}, nil)
	w.checking(nil)
	ids := []string{"a", "b", "c", "d", "e", "f"}
	for _, id := range ids {
		w.publish(request(id, id+".example.com"))
	}
	p := w.careful()
	first := p.driveTo("a", "refused", func(order.Order) bool { return len(w.zone("example.com").Refused) > 0 })
	w.wantNote("a", "pre-flight: account ali may not write _certmill-check in the zone example.com")
	var wg sync.WaitGroup
	for _, id := range ids[1:] {
		wg.Go(func() { w.careful().drive(id, order.Held) })
	}
	wg.Wait()
	if n := w.spentIn("example.com"); n != 1 || first.CloudID == "" {
		t.Errorf("%d orders were bought, want 1", n)
	}
	w.wantHeld("b", "the TXT record of a challenge in the zone example.com was refused to account ali", "certmill approve b")
	w.wantHeld("b", "Forbidden.RAM", "certmill retry b")
	if what := w.told(); len(what) != 1 || !strings.Contains(what[0], "DNS rights of ali in example.com") {
		t.Errorf("told: %q", what)
	}

	w.keyMay(nil, nil)
	p.drive("a", order.Issued)
	if z := w.zone("example.com"); len(z.Refused) > 0 || len(w.told()) > 0 {
		t.Errorf("a challenge was placed, and still %+v, %q", z, w.told())
	}
	w.must(p.by.Retry(t.Context(), "b"))
	p.drive("b", order.Issued)
	w.wantNothingPlaced()
}

func (w *world) told() (all []string) {
	for _, t := range w.states.State(aliUID).Troubled(time.Now()) {
		all = append(all, t.Kind+": "+t.What)
	}
	return all
}

// Approved, an order passes what it was held for, and no other does.
func TestApprovedInSpiteOfARefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.refusedIn("example.com", order.Challenge{Type: "TXT"})
	p := w.careful()
	w.checking(nil)
	w.publish(request("b", "b.example.com"))
	w.publish(request("c", "c.example.com"))
	p.drive("b", order.Held)
	w.must(p.by.Approve(t.Context(), "b"))
	p.drive("b", order.Issued)
	if z := w.zone("example.com"); len(z.Refused) > 0 {
		t.Errorf("a challenge was placed, and still %+v", z)
	}
	p.drive("c", order.Issued)
	w.wantPaid(1, "b.example.com")
}

// refusedIn notes a refusal as a verifier does.
func (w *world) refusedIn(zone string, c order.Challenge) {
	w.t.Helper()
	_, _, err := w.states.ChangeZone(w.t.Context(), aliZone(zone), func(z *account.Zone) bool {
		z.Refused = map[string]account.Refusal{c.Type: {Order: "x", Host: "_dnsauth.x." + zone, Why: "for the test", At: time.Now().UTC()}}
		return true
	})
	w.must(err)
	_, err = w.states.TellZone(w.t.Context(), aliZone(zone), account.Trouble{What: "for the test", Last: time.Now().UTC()})
	w.must(err)
}

// A key that may write challenges' names only: warned, bought, issued; the first
// one alone, the others when its challenge was placed.
func TestRightsToChallengesOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.ChallengeDelay = cloudsim.Exactly(300 * time.Millisecond) }})
	w.keyMay([]string{"_dnsauth.* TXT"}, nil)
	w.checking(nil)
	p := w.careful()
	w.publish(request("a", "a.example.com"))
	w.publish(request("b", "b.example.com"))
	p.drive("a", order.Verify)
	o := p.driveTo("b", "waiting", func(o order.Order) bool { return o.State == order.Waiting && o.Wait.What == "example.com a" })
	if o.Wait.For != order.WaitForRights || w.spentIn("example.com") != 1 {
		t.Errorf("b waits for %+v, %d bought", o.Wait, w.spentIn("example.com"))
	}
	p.drive("a", order.Issued)
	p.drive("b", order.Issued)
	w.wantNote("a", "pre-flight: account ali may not write _certmill-check in the zone example.com")
	w.publish(request("c", "c.example.com"))
	p.drive("c", order.Issued)
	if strings.Contains(w.tell("c"), "pre-flight: account ali may not write") || len(w.told()) > 0 {
		t.Errorf("told although a challenge was placed: %s %q", w.tell("c"), w.told())
	}
	w.wantNothingPlaced()
}

// A zone that the account does not have: nothing is bought.
func TestZoneThatTheAccountDoesNotHave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.Accounts[0].Zones = []string{"example.org"} }})
	w.checking(nil)
	w.publish(request("a", "a.example.com"))
	w.careful().drive("a", order.Held)
	w.wantHeld("a", "no solver of account ali has the zone example.com", "certmill approve a")
	w.wantPaid(0, "a.example.com")
}

// A zone that goes to another account after the check: further orders are held.
func TestZoneThatMovesAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.Accounts[0].Zones = []string{"example.com"} }})
	w.checking(nil)
	p := w.careful()
	w.publish(request("a", "a.example.com"))
	p.driveTo("a", "bought", func(o order.Order) bool { return o.CloudID != "" })
	w.wantNoCheckLeft()
	key := w.sim.Accounts()[0]
	key.Zones = []string{"example.org"}
	w.must(w.sim.AddAccount(key))
	w.solvers["ali"] = w.openSolvers()["ali"] // which does not remember the zones
	p = w.careful()
	p.drive("a", order.Held)
	w.publish(request("b", "b.example.com"))
	p.drive("b", order.Held)
	w.wantHeld("b", "account ali found no zone for the TXT record of a challenge in example.com", "certmill approve b")
	w.wantPaid(0, "b.example.com")
}

// What a submitter's own key sees of the zones says nothing: verifiers write.
func TestSubmittersListIsNarrower(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) {
		narrow := c.Accounts[0]
		narrow.UID, narrow.AccessKeyID, narrow.Zones = "300300", "LTAInarrow", []string{"example.org"}
		c.Accounts = append(c.Accounts, narrow)
	}})
	w.checking(nil)
	p := w.careful()
	seesLess := w.aliCloud(func(a *issuer.Access) { a.KeyID, a.Main = "LTAInarrow", "300300" })
	p.submit.Flight.Solvers = map[string]dcv.Solver{"ali": dcv.ByType{DNS: alidns.New(seesLess)}}
	w.publish(request("a", "a.example.com"))
	p.drive("a", order.Issued)
}

// With warn nothing is held and nobody waits for another's turn; what is known is
// told.
func TestRightsAreToldOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.keyMay([]string{}, nil)
	w.checking(nil)
	p := w.careful()
	p.submit.Flight.Hold = false
	for _, id := range []string{"a", "b"} {
		w.publish(request(id, id+".example.com"))
		p.driveTo(id, "refused", func(o order.Order) bool { return o.CloudID != "" && w.zone("example.com").Refused["TXT"].Order == id })
		w.wantNote(id, "in the zone example.com")
	}
	if n := w.spentIn("example.com"); n != 2 {
		t.Errorf("%d were bought", n)
	}
}

// What was refused is a record of one type: that one of the other type is placed
// says nothing of it.
func TestRefusalOfOneType(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.refusedIn("example.com", order.Challenge{Type: "CNAME"})
	w.checking(nil)
	w.publish(request("a", "a.example.com"))
	p := w.careful()
	p.drive("a", order.Held)
	w.must(p.by.Approve(t.Context(), "a"))
	p.drive("a", order.Issued)
	if z := w.zone("example.com"); len(z.Refused) != 1 || len(w.told()) != 1 {
		t.Errorf("%+v, %q", z, w.told())
	}
}

// A check that brings no answer holds nothing up for long: no verifier runs, one
// died, or the DNS provider is down.
func TestCheckWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(w *world){
		"nobody": func(*world) {},
		"dead": func(w *world) {
			w.checking(func(ctx context.Context, where string) {
				if where == "check: taken" {
					<-ctx.Done()
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			_, _, err := w.states.ChangeZone(t.Context(), aliZone("example.com"), func(z *account.Zone) bool {
				z.Asked = time.Now().Add(3*time.Second - account.CheckWait)
				return true
			})
			w.must(err)
			prepare(w)
			p := w.careful()
			w.publish(request("a", "a.example.com"))
			if o := p.drive("a", order.Waiting); o.Wait.For != order.WaitForRights || o.Wait.What != "example.com" {
				t.Errorf("it waits for %+v", o.Wait)
			}
			p.drive("a", order.Issued)
			w.wantNote("a", "pre-flight: whether account ali may write in the zone example.com is not known")
		})
	}
	t.Run("the provider is down", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, setup{})
		w.fault(cloudsim.Fault{Action: "AddDomainRecord", Kind: "http_500", Commit: "never", Times: 1})
		w.checking(nil)
		w.publish(request("a", "a.example.com"))
		w.careful().drive("a", order.Issued)
		w.wantNote("a", "pre-flight: whether account ali may write in the zone example.com could not be tried")
		w.wantNothingPlaced()
	})
}

// checkGaps are those of a check alone.
var checkGaps = []string{"check: taken", "check: tried", "check: noted"}

// A crash at each gap of a check leaves what the book's sweep takes back, and the
// order goes on.
func TestCrashInACheck(t *testing.T) {
	t.Parallel()
	for _, where := range append([]string{"place: noted", "place: placed", "clean up: removed"}, checkGaps...) {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			_, _, err := w.states.ChangeZone(t.Context(), aliZone("example.com"), func(z *account.Zone) bool {
				z.Asked = time.Now().UTC()
				return true
			})
			w.must(err)
			p, died := w.dying(where)
			p.survive(func() { _ = w.checks().Answer(p.ctx, aliZone("example.com")) })
			if !died() {
				t.Fatal("it did not come there")
			}
			if err := w.checks().Answer(t.Context(), aliZone("example.com")); err != nil || w.written("AddDomainRecord") > 1 {
				t.Errorf("tried twice: %v", err)
			}
			w.must(w.worker().placing.Sweep(t.Context()))
			if left := w.ours(); len(left) > 0 || len(w.booked()) > 0 {
				t.Errorf("left behind: %v, %+v", left, w.booked())
			}
		})
	}
}

// Two that are handed the same check: one of them tries.
func TestOneTriesForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	_, _, err := w.states.ChangeZone(t.Context(), aliZone("example.com"), func(z *account.Zone) bool {
		z.Asked = time.Now().UTC()
		return true
	})
	w.must(err)
	var tried atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		c := w.checks()
		wg.Go(func() {
			ctx := gap.With(t.Context(), func(_ context.Context, where string) {
				if where == "check: tried" {
					tried.Add(1)
				}
			})
			w.must(c.Answer(ctx, aliZone("example.com")))
		})
	}
	wg.Wait()
	if tried.Load() != 1 || w.written("AddDomainRecord") != 1 {
		t.Errorf("%d tried, %d records", tried.Load(), w.written("AddDomainRecord"))
	}
	w.wantNoCheckLeft()
}

// Accounts that share a zone try it side by side, each with a record of its own: what
// one has placed is not found by another as that of strangers, and left behind.
func TestAccountsOfOneZoneTryApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	labels := []string{"first", "second", "third"}
	for _, label := range labels {
		w.solvers[label] = w.openSolvers()["ali"]
		_, _, err := w.states.ChangeZone(t.Context(), sharedZone(label), func(z *account.Zone) bool {
			z.Asked = time.Now().UTC()
			return true
		})
		w.must(err)
	}
	answer := func(label string, at map[string]func()) {
		w.must(w.checks().Answer(gap.With(t.Context(), func(_ context.Context, where string) {
			if f := at[where]; f != nil {
				f()
			}
		}), sharedZone(label)))
	}
	first := w.solvers["first"]
	w.solvers["first"] = lateSolver{first, first.(dcv.Haser), func() { answer("second", nil) }}
	tried, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	answer("first", map[string]func(){
		"place: placed": func() {
			go func() {
				defer close(ended)
				answer("third", map[string]func(){"check: tried": func() { close(tried); <-goOn }})
			}()
			<-tried
		},
	})
	close(goOn)
	<-ended
	if n := w.written("AddDomainRecord"); n != 3 {
		t.Errorf("%d records were placed, want 3", n)
	}
	if left, book := w.ours(), w.booked(); len(left)+len(book) > 0 {
		t.Errorf("left behind: %v, %+v", left, book)
	}
}

// lateSolver places after something else.
type lateSolver struct {
	dcv.Solver
	dcv.Haser
	first func()
}

func (s lateSolver) Present(ctx context.Context, c order.Challenge) error {
	s.first()
	return s.Solver.Present(ctx, c)
}

func sharedZone(label string) account.ZoneKey {
	return account.ZoneKey{Main: aliUID, Label: label, Zone: "example.com"}
}

// Where the challenges lie by a CNAME, that zone is tried; what leads the check's
// own name elsewhere means nothing.
func TestDelegatedZoneIsTried(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) {
		c.Records = append(c.Records, cloudsim.StaticRecord{Name: "_dnsauth.www.example.com", Type: "CNAME", Value: "www.auth.example.net"},
			cloudsim.StaticRecord{Name: "_certmill-check.example.net", Type: "CNAME", Value: "parking.example.org"})
		c.Accounts[0].Zones = []string{"example.net"}
	}})
	for label, s := range w.solvers {
		w.solvers[label] = dcv.ByType{DNS: dcv.NewRoute(map[string]dcv.Solver{dcv.AnyZone: s}, w.looker), FILE: s}
	}
	w.checking(nil)
	w.publish(request("a", "www.example.com"))
	w.careful().drive("a", order.Issued)
	if z := w.zone("example.net"); z.Check.Is != account.CheckPassed {
		t.Errorf("%+v", z)
	}
	if z := w.zone("example.com"); !z.Asked.IsZero() {
		t.Errorf("example.com was asked for: %+v", z)
	}
}

// FILE challenges need no zone.
func TestFilesNeedNoZone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.keyMay([]string{}, nil)
	w.publish(order.Request{ID: "a", Account: "ali", Names: []string{"www.example.com"}, Validation: order.FILE})
	w.careful().drive("a", order.Issued)
	if z := w.zone("example.com"); !z.Asked.IsZero() {
		t.Errorf("%+v", z)
	}
}

// A key that may add and not remove: the check passes, and it is told.
func TestAddedAndNotRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.keyMay(nil, []string{})
	w.checking(nil)
	w.publish(request("a", "a.example.com"))
	p := w.careful()
	p.drive("a", order.Issued)
	p.driveTo("a", "told", func(order.Order) bool { return len(w.told()) > 0 })
	if what := w.told(); len(what) != 1 || !strings.Contains(what[0], "may add records in the zone example.com, and not remove them") {
		t.Errorf("told: %q", what)
	}
	w.keyMay(nil, nil)
	w.wantNothingPlaced()
}

// A cloud that validates by itself needs no rights: nobody is held for what it did.
func TestCloudThatValidatesByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) {
		c.SelfValidate, c.Accounts[0].Zones, c.Accounts[0].Writes = true, []string{"example.com"}, []string{}
	}})
	w.checking(nil)
	for i := range 3 {
		id := fmt.Sprint("n", i)
		w.publish(request(id, id+".example.com"))
		w.careful().drive(id, order.Issued)
	}
}

// What is known of zones is not among the states, and no name server's word makes
// another key of it.
func TestZonesAreNoStates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.refusedIn("example.com", order.Challenge{Type: "TXT"})
	other, err := account.Look(t.Context(), w.js, 1, slog.New(slog.DiscardHandler))
	w.must(err)
	if mains := other.Mains(); slices.Contains(mains, "zone") || len(mains) > 2 {
		t.Errorf("main accounts: %v", mains)
	}
	for _, zone := range []string{"", "a..b", "*", "example.>", "ex ample.com", strings.Repeat("a.", 200) + "com"} {
		if _, err := w.states.Zone(t.Context(), aliZone(zone)); err == nil {
			t.Errorf("%q is a zone", zone)
		}
	}
}
