package stage_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// DESIGN 12.8: entries lie under id and hash, and a pair that does not fit is not
// used. The order files of a lost JetStream come back with a row inserted on top:
// each id is another order than before.
// DESIGN 12.8: a pair that does not fit is not used.
func TestARowInsertedAfterALostJetStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	names := []string{"one.example.com", "two.example.com", "three.example.com"}
	ids := []string{"row-1", "row-2", "row-3", "row-4"}
	p := w.worker()
	for i, name := range names {
		w.order(ids[i], name)
		p.drive(ids[i], order.Issued)
	}
	n := w.afterWipe()
	n.sweepFirst()
	p = n.worker()
	n.order("row-1", "new.example.com")
	p.drive("row-1", order.Held) // what is served under its id stays
	n.must(os.Rename(filepath.Join(w.out, "row-1"), filepath.Join(w.out, "one")))
	n.must(p.by.Retry(t.Context(), "row-1"))
	p.drive("row-1", order.Issued)
	n.wantPaid(1, "new.example.com")
	if o := n.wantIssued("row-1"); o.Attempt != 2 {
		t.Errorf("attempt %d under an id that has used number 1", o.Attempt)
	}
	for i, name := range names {
		id := ids[i+1]
		n.order(id, name)
		p.drive(id, order.Held)
		n.wantHeld(id, "no ledger entry claims it", "certmill approve "+id)
		n.wantPaid(1, name)
	}
}

// DESIGN 12.8: an attempt's number is never ignored. Where it belongs to another
// main account it is an unknown outcome there, and the order stays there.
// DESIGN 12.8: a number of another account is an unknown outcome there.
func TestNumberAtAnotherMainAccount(t *testing.T) {
	t.Parallel()
	for fault, paid := range map[string]int{"reset_after_commit": 1, "reset_before_commit": 1} {
		w := newWorld(t, setup{})
		r := order.Request{ID: "a", Account: order.AnyAccount, Names: []string{"a.example.com"}}
		w.atOnly("ali", r)
		w.loses(fault)
		w.worker().drive("a", order.Unsure)

		n := w.afterWipe()
		n.sweepFirst()
		n.atOnly("ten", r)
		if o := n.last("a"); o.Account != "ten" {
			t.Fatalf("it was taken for %s", o.Account)
		}
		p := n.worker()
		p.driveTo("a", "reconciled where it was", func(o order.Order) bool { return o.Account == "ali" && o.State != order.Submit })
		if e := n.entry(tenUID, r.Names...); len(e.Attempts) != 0 {
			t.Errorf("%s: an attempt at the other account: %+v", fault, e.Attempts)
		}
		n.later()
		p.drive("a", order.Issued)
		if o := n.wantIssued("a"); o.Main != aliUID {
			t.Errorf("%s: it was issued at %s", fault, o.Main)
		}
		n.wantPaid(paid, r.Names...)
	}
}

// The same where the earlier life used something already bought.
func TestResourceAtAnotherMainAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	r := order.Request{ID: "a", Account: order.AnyAccount, Names: []string{"a.example.com"}}
	w.atOnly("ten", r)
	used := w.worker().drive("a", order.Verify).Resource
	n := w.afterWipe()
	n.sweepFirst()
	n.atOnly("ali", r)
	n.worker().drive("a", order.Issued)
	if o := n.wantIssued("a"); o.Main != tenUID || o.Resource != used {
		t.Errorf("it has %s of %s, it had started %s", o.Resource, o.Main, used)
	}
	n.wantPaid(1, r.Names...)
}

// An account that is not in the config any more cannot say what came of it: the
// order is held, and the attempt has its entry.
// DESIGN 12.8: a number of another account gets its ownerless entry there.
func TestNumberAtAnAccountThatIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	r := order.Request{ID: "a", Account: order.AnyAccount, Names: []string{"a.example.com"}}
	w.atOnly("ali", r)
	w.loses("reset_after_commit")
	w.worker().drive("a", order.Unsure)
	n := w.afterWipe()
	n.sweepFirst()
	n.atOnly("ten", r)
	p := n.worker()
	p.submit.Accounts = stage.Accounts{"ten": n.accounts["ten"]}
	p.drive("a", order.Held)
	n.wantHeld("a", "attempt 1 of this order was made at main account "+aliUID, "certmill retry a")
	if e := n.entry(aliUID, r.Names...); len(e.Attempts) != 1 || e.Attempts[0].Ending != ledger.Open || e.Attempts[0].Token != "" {
		t.Errorf("its entry there: %+v", e.Attempts)
	}
	n.wantPaid(1, r.Names...)
	n.wantNotNow("a", p.by.Cancel(t.Context(), "a"), "nobody knows what came of it") // it is not known what came of it
	w.must(p.by.Retry(t.Context(), "a"))
	n.worker().drive("a", order.Issued) // the account is back
	n.wantPaid(1, r.Names...)
}

// DESIGN 12.8: an attempt's number is never ignored: one under the same id counts,
// whatever was ordered under it, and the key of that life is not taken over.
func TestNumberOfAnotherOrderForTheSameNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	before := w.last("a")
	w.loses("reset_before_commit")
	w.worker().drive("a", order.Unsure)
	n := w.afterWipe()
	n.sweepFirst()
	r := request("a", "a.example.com")
	r.Key = "ecdsa-p384"
	n.publish(r)
	p := n.worker()
	p.drive("a", order.Unsure)
	o, last := n.last("a"), n.attempt("a")
	if o.Attempt != 1 || last.Token != "" || last.Ending != ledger.Open {
		t.Errorf("the attempt of the life before: %+v, %s", last, n.tell("a"))
	}
	if o.Key.Fingerprint == before.Key.Fingerprint {
		t.Error("it took the key of another order")
	}
	n.later()
	p.drive("a", order.Issued)
	n.wantPaid(1, "a.example.com")
}

// DESIGN 12.8: a pair that does not fit is not used: CSR and names are compared just
// before Submit; a difference holds before anything is paid.
func TestWhatIsSentIsWhatWasOrdered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	_, theirs, fp, err := certstore.NewKey("ecdsa-p256", []string{"other.example.com"}, true)
	w.must(err)
	for id, r := range map[string]order.Request{"spends": {Account: "ali"}, "uses": {Account: "ten"}} {
		r.ID, r.Names = id, []string{id + ".example.com"}
		w.publish(r)
		p := w.worker()
		p.driveTo(id, "at the first call", func(o order.Order) bool { return keyStored(o) && o.Attempt == 1 })
		good := w.last(id).Key
		for what, k := range map[string]order.Key{
			"names of another order": {Fingerprint: fp, CSR: theirs},
			"another fingerprint":    {Fingerprint: fp, CSR: good.CSR},
			"no request":             {Fingerprint: good.Fingerprint, CSR: "x"},
		} {
			it, err := w.line.Last(t.Context(), id)
			w.must(err)
			o := it.Order
			k.Sealed, k.Stored = good.Sealed, true
			o.Key, o.State = &k, order.Submit
			w.must(w.line.MoveByHand(t.Context(), it, o))
			p.drive(id, order.Held)
			w.wantHeld(id, "its key is not for what was ordered", "certmill cancel "+id)
			if n, err := w.keys.Number(w.ref(id)); err != nil || n.Attempt != 0 {
				t.Errorf("%s: %s: number %+v, %v", id, what, n, err)
			}
		}
		w.wantPaid(0, r.Names...)
	}
}

// A pair that the store has lost is stored again from the record, before its
// number is raised.
func TestPairThatIsGoneIsStoredAgain(t *testing.T) {
	t.Parallel()
	for _, account := range []string{"ali", "ten"} {
		w := newWorld(t, setup{})
		w.publish(order.Request{ID: "a", Account: account, Names: []string{"a.example.com"}})
		p := w.worker()
		p.driveTo("a", "at the first call", func(o order.Order) bool { return keyStored(o) && o.Attempt == 1 })
		pair := filepath.Join(w.store, "*", "a", "*", "pair-*")
		found, err := filepath.Glob(pair)
		if err != nil || len(found) != 1 {
			t.Fatalf("%v, %v", found, err)
		}
		w.must(os.Remove(found[0]))
		p.driveTo("a", "noticed", func(o order.Order) bool { return !keyStored(o) })
		if n, err := w.keys.Number(w.ref("a")); err != nil || n.Attempt != 0 {
			t.Errorf("%s: a number without its pair: %+v, %v", account, n, err)
		}
		w.wantPaid(0, "a.example.com")
		p.drive("a", order.Issued)
		w.wantPaid(1, "a.example.com")
		if k, err := w.keys.Get(w.ref("a")); err != nil || k.Fingerprint != w.last("a").Key.Fingerprint {
			t.Errorf("%s: the store has %+v, %v", account, k, err)
		}
	}
}

// atOnly hands a request in where intake knows one account only.
func (w *world) atOnly(label string, r order.Request) {
	w.t.Helper()
	in := w.worker().intake
	in.Accounts = stage.Accounts{label: w.accounts[label]}
	w.publishTo(in, r)
}

// toOthers makes an order whose key is to be sealed to others: its record has the
// present seal, like the store, and workers have the new config by now.
func toOthers(w *world) {
	kept, err := w.keys.KeepRecipients(w.recipients)
	w.must(err)
	if kept.ID() != w.recipients.ID() {
		w.t.Fatal("the store has other recipients")
	}
	w.order("a", crashName)
	another, err := certstore.NewIdentity()
	w.must(err)
	w.recipients, err = another.Recipients()
	w.must(err)
	w.identities = certstore.JoinIdentities(w.identities, another)
}

func reseal(p *worker) {
	_, err := stage.Reseal{Line: p.line, Keys: p.keys, By: p.identities, To: p.recipients, Who: "eve"}.Run(p.ctx)
	p.must(err)
}

// emptied makes an order that was bought in a key store that is lost, with its
// outcome unknown.
func emptied(w *world) {
	w.order("a", crashName)
	w.loses("reset_after_commit")
	w.worker().drive("a", order.Unsure)
	w.store = w.t.TempDir()
	var err error
	w.keys, _, err = certstore.MakeKeyStore(w.store)
	w.must(err)
}

func refill(p *worker) {
	_, err := stage.Refill{Line: p.line, Ledger: p.ledger, Keys: p.keys}.Sweep(p.ctx)
	p.must(err)
}

// DESIGN 12.8: sealed anew are the recipients first, then the store, then the
// records, until a pass finds nothing; of two seals of one key the one to the
// present recipients stays.
func TestReseal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	before := w.identities
	toOthers(w)
	stale := w.last("a")
	_, err := stage.Reseal{Line: w.line, Keys: w.keys, By: before, To: w.recipients, Who: "eve"}.Run(t.Context())
	w.must(err)
	o := w.last("a")
	k, err := w.keys.Get(w.ref("a"))
	w.must(err)
	for where, k := range map[string]order.Key{"record": *o.Key, "store": k} {
		if k.SealedTo != w.recipients.ID() || k.Fingerprint != stale.Key.Fingerprint || !k.Stored {
			t.Errorf("%s: %+v", where, k)
		}
		if _, err := before.Open(k.Sealed); err == nil {
			t.Errorf("%s: the old identity opens it", where)
		}
		if _, err := w.identities.Open(k.Sealed); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
	// A frozen visit that comes with the old seal: the store's stays.
	if got, won, err := w.keys.Put(t.Context(), w.ref("a"), *stale.Key); err != nil || won || got.SealedTo != w.recipients.ID() {
		t.Errorf("an old seal: %+v, %v, %v", got.SealedTo, won, err)
	}
	again, err := stage.Reseal{Line: w.line, Keys: w.keys, By: before, To: w.recipients}.Run(t.Context())
	if err != nil || again.Pairs+again.Records != 0 || again.Passes != 1 {
		t.Errorf("again: %+v, %v", again, err)
	}
	w.worker().drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, crashName)
}

// DESIGN 12.8: sealed anew are the recipients first, and then all else until a pass
// finds nothing. A submitter that was not stopped makes one more key with the old seal
// while the second pass is under way.
func TestResealUntilNothingIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	old := w.recipients
	toOthers(w)
	passes := 0
	p := w.at(func(_ context.Context, name string) {
		if name != "reseal: pairs sealed" {
			return
		}
		if passes++; passes == 2 {
			in := w.worker().intake
			in.Sealer = old
			w.publishTo(in, request("late", "late.example.com"))
		}
	})
	reseal(p)
	if k := w.last("late").Key; passes != 3 || k.SealedTo != w.recipients.ID() {
		t.Errorf("after %d passes a key is sealed to %s", passes, k.SealedTo)
	}
}

// What the identities at hand do not open is told, and left as it is.
func TestResealOfWhatNobodyOpens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	toOthers(w)
	stranger, err := certstore.NewIdentity()
	w.must(err)
	was := w.last("a").Key
	got, err := stage.Reseal{Line: w.line, Keys: w.keys, By: stranger, To: w.recipients}.Run(t.Context())
	if err != nil || len(got.Left) != 2 || got.Pairs+got.Records != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if is := w.last("a").Key; is.SealedTo != was.SealedTo {
		t.Errorf("its key is sealed to %s", is.SealedTo)
	}
	// No number is raised for a key that nobody may be able to open.
	p := w.worker()
	for range 5 {
		p.visit("a")
	}
	if n, err := w.keys.Number(w.ref("a")); err != nil || n.Attempt != 0 {
		t.Errorf("number %+v, %v", n, err)
	}
	w.wantPaid(0, crashName)
	reseal(p)
	p.drive("a", order.Issued)
	w.wantPaid(1, crashName)
}

// A key that a submitter with the old config has made, and that nothing was bought
// with, is made anew.
func TestKeyThatWasSealedToOthersIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(request("a", crashName))
	w.worker().visit("a") // makes the key
	made := w.last("a").Key
	var err error
	w.identities, err = certstore.NewIdentity()
	w.must(err)
	w.recipients, err = w.identities.Recipients()
	w.must(err)
	w.must(w.keys.ChangeRecipients(w.recipients))
	w.worker().drive("a", order.Issued)
	o := w.wantIssued("a")
	if o.Key.Fingerprint == made.Fingerprint || o.Key.SealedTo != w.recipients.ID() {
		t.Errorf("its key is %+v", o.Key)
	}
	w.wantPaid(1, crashName)
}

// DESIGN 12.8: an installation is its key store: one that lacks what the records call
// stored is refilled from them.
func TestRefill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.publish(order.Request{ID: "uses", Account: "ten", Names: []string{"uses.example.com"}})
	w.worker().drive("uses", order.Verify)
	w.order("early", "early.example.com")
	// Killed before its number was stored: that is no loss.
	w.publish(order.Request{ID: "planned", Account: "ten", Names: []string{"planned.example.com"}})
	w.worker().driveTo("planned", "at the first call", func(o order.Order) bool { return keyStored(o) && o.Attempt == 1 })
	if got, err := (stage.Refill{Line: w.line, Ledger: w.ledger, Keys: w.keys}).Sweep(t.Context()); err != nil || got.Pairs+got.Numbers != 0 {
		t.Errorf("nothing was lost, and %+v is told, %v", got, err)
	}
	emptied(w) // order a
	got, err := stage.Refill{Line: w.line, Ledger: w.ledger, Keys: w.keys}.Sweep(t.Context())
	if err != nil || got.Pairs != 4 || got.Numbers != 2 || len(got.Left) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for id, want := range map[string]certstore.Raised{"a": {Attempt: 1}, "uses": {Attempt: 1, Resource: w.last("uses").Resource}, "early": {}} {
		n, err := w.keys.Number(w.ref(id))
		if err != nil || n.Attempt != want.Attempt || n.Resource != want.Resource {
			t.Errorf("%s: number %+v, %v", id, n, err)
		}
		if k, err := w.keys.Get(w.ref(id)); err != nil || k.Fingerprint != w.last(id).Key.Fingerprint {
			t.Errorf("%s: %+v, %v", id, k, err)
		}
	}
	again, err := stage.Refill{Line: w.line, Ledger: w.ledger, Keys: w.keys}.Sweep(t.Context())
	if err != nil || again.Pairs+again.Numbers != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	// A damaged pair is like one that is lost, and the file is kept.
	damaged, _ := filepath.Glob(filepath.Join(w.store, "*", "early", "*", "pair-000001"))
	w.must(os.WriteFile(damaged[0], nil, 0o600))
	got, err = stage.Refill{Line: w.line, Ledger: w.ledger, Keys: w.keys}.Sweep(t.Context())
	if err != nil || got.Pairs != 1 || len(got.Left) != 0 {
		t.Errorf("of a damaged one: %+v, %v", got, err)
	}
	if k, err := w.keys.Get(w.ref("early")); err != nil || k.Fingerprint != w.last("early").Key.Fingerprint {
		t.Errorf("a damaged one became %+v, %v", k, err)
	}
	// JetStream is lost after that: the purchase is still known.
	n := w.afterWipe()
	n.sweepFirst()
	n.order("a", crashName)
	n.worker().drive("a", order.Issued)
	n.wantPaid(1, crashName)
}

// An earlier life has made an attempt at an account that the config has no more:
// nobody can say what came of it, so it is a person's to decide, who may let that
// very attempt pass (DESIGN 12.2, 12.8). Approved, the order is bought where it
// stands, or cancelled; put back, the account has the order again.
func TestNumberOfAnAccountThatIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	ctx := t.Context()
	for _, id := range []string{"a", "b"} {
		w.order(id, id+".example.com")
		r := w.ref(id)
		r.Main = "900900"
		w.must(w.keys.Raise(r, certstore.Raised{Attempt: 1, Purchase: 1, Main: "900900"}))
	}
	p := w.worker()
	for _, id := range []string{"a", "b"} {
		p.drive(id, order.Held)
		o := w.wantHeld(id, "no account of the config can say what came of it", "certmill approve "+id)
		if want := order.FactElsewhere("900900", id, 1); o.Hold.Fact != want {
			t.Errorf("the fact is %q, want %q", o.Hold.Fact, want)
		}
	}
	w.must(p.by.Retry(ctx, "a"))
	p.drive("a", order.Held) // retry lets nothing pass
	w.must(p.by.Approve(ctx, "a"))
	p.drive("a", order.Issued)
	w.wantIssued("a")
	w.wantPaid(1, "a.example.com")
	if a, _ := w.entry("900900", "a.example.com").Last("a"); a.Ending != ledger.Open {
		t.Errorf("of the attempt elsewhere nobody knows anything: %+v", a)
	}
	w.must(p.by.Cancel(ctx, "b"))
	p.drive("b", order.Failed)
	w.wantFailed("b", stage.ClassCancelled)
	w.wantPaid(0, "b.example.com")

	// Another order for the names is held for that attempt, whatever became of the
	// first one: its cloud order is not what was bought there.
	w.order("c", "a.example.com")
	p.driveTo("c", "held", func(o order.Order) bool { return o.State == order.Held })
	w.wantHeld("c", "attempt 1 at main account 900900", "certmill approve c")
	if a, _ := w.entry("900900", "a.example.com").Last("a"); a.Ending != ledger.Open {
		t.Errorf("another account's cloud order ended the attempt: %+v", a)
	}
}

// What serves other names under the same id is not replaced: the order waits for room,
// and what it bought is delivered there once a person has made it.
func TestDeliveredBesideOtherNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "one.example.com")
	w.worker().drive("a", order.Issued)
	folder := filepath.Join(w.out, "a")
	before, err := os.ReadFile(filepath.Join(folder, "fullchain.pem"))
	w.must(err)
	n := w.afterWipe()
	n.sweepFirst()
	p := n.worker()
	n.order("a", "two.example.com")
	p.drive("a", order.Held)
	n.wantHeld("a", "is a certificate for one.example.com", "certmill retry a")
	if now, err := os.ReadFile(filepath.Join(folder, "fullchain.pem")); err != nil || string(now) != string(before) {
		t.Errorf("it was replaced: %v", err)
	}
	n.must(os.Rename(folder, filepath.Join(w.out, "one")))
	n.must(p.by.Retry(t.Context(), "a"))
	p.drive("a", order.Issued)
	n.wantIssued("a")
	n.wantPaid(1, "two.example.com")
}
