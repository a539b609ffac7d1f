package app

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
)

// identityAt makes an identity file and returns its recipient.
func identityAt(t *testing.T, path string) string {
	t.Helper()
	id, err := certstore.OpenIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	to, err := id.Recipients()
	if err != nil {
		t.Fatal(err)
	}
	return to.String()
}

// DESIGN 12.8: a submitter whose recipients differ does not start: they are the
// store's.
func TestSubmitterWithOtherRecipients(t *testing.T) {
	t.Parallel()
	_, c := initialised(t)
	first, second := identityAt(t, filepath.Join(c.State, "first.age")), identityAt(t, filepath.Join(c.State, "second.age"))
	c.Keys.Identity, c.Keys.Recipients = "", []string{first}
	for range 2 {
		if _, err := NewProcess(c, "test", true, quiet, order.Submitter); err != nil {
			t.Fatal(err)
		}
	}
	for _, other := range [][]string{{second}, {first, second}} {
		c.Keys.Recipients = other
		_, err := NewProcess(c, "test", true, quiet, order.Submitter)
		wantWords(t, "with others", err, "are sealed to "+first, "this config has ", second, "certmill reseal")
	}
	c.Keys.Recipients, c.Keys.Identity = nil, filepath.Join(c.State, "lost.age")
	_, err := NewProcess(c, "test", true, quiet, order.Submitter)
	wantWords(t, "with an identity that was lost", err, "there is no identity at "+c.Keys.Identity, "are sealed to "+first, "restore its file")
	if _, err := os.Stat(c.Keys.Identity); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another one was made: %v", err)
	}
}

// Submitters that work while the recipients are changed end, and say why.
func TestSubmittersNoticeOtherRecipients(t *testing.T) {
	t.Parallel()
	_, c := initialised(t)
	p := startWorkers(t, c)
	p.work(t)
	id, err := certstore.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	to, err := id.Recipients()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.keys.ChangeRecipients(to); err != nil {
		t.Fatal(err)
	}
	wantWords(t, "the workers", p.end(t), "are sealed to "+to.String(), "certmill reseal")
}

// DESIGN 12.8: a submitter whose recipients differ does not start, and no more does a
// collector that cannot open: a collector with an identity proves at start that it
// opens what is sealed, or refuses: by the config, by a pair of the store where it
// sees that, and by the orders' records.
func TestCollectorProvesItsIdentity(t *testing.T) {
	t.Parallel()
	js, c := initialised(t)
	mine := filepath.Join(c.State, "mine.age")
	right, wrong := identityAt(t, mine), identityAt(t, filepath.Join(c.State, "wrong.age"))
	keys, err := certstore.OpenKeyStore(c.Keys.Store)
	if err != nil {
		t.Fatal(err)
	}
	start := func(identity string, to ...string) error {
		c := c
		c.Keys.Identity, c.Keys.Recipients = identity, to
		_, err := NewProcess(c, "test", true, quiet, order.Collector)
		return err
	}
	if err := start(mine, right); err != nil {
		t.Errorf("before anything is sealed: %v", err)
	}
	wantWords(t, "with another identity", start(filepath.Join(c.State, "wrong.age"), right), "the identity at ", "opens nothing that is sealed to those of keys.recipients")
	wantWords(t, "without its file", start(filepath.Join(c.State, "nowhere.age"), right), "nowhere.age")
	if _, err := os.Stat(filepath.Join(c.State, "nowhere.age")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one was made: %v", err)
	}
	theirs, err := certstore.ParseRecipients(wrong)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.KeepRecipients(theirs); err != nil {
		t.Fatal(err)
	}
	wantWords(t, "beside a store of others", start(mine, right), "opens nothing that is sealed to those of the key store "+keys.Dir(), "certmill reseal")
	both, err := certstore.ParseRecipients(right, wrong)
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.ChangeRecipients(both); err != nil {
		t.Fatal(err)
	}
	if err := start(mine, right, wrong); err != nil {
		t.Errorf("as one of two: %v", err)
	}
	// What the recipients' file says is not what a pair is sealed to.
	o := withKey(t, named(orderIn(order.Collect), "a"), theirs)
	k := *o.Key
	k.SealedTo = both.ID()
	if _, _, err := keys.Put(t.Context(), certstore.Ref{ID: o.ID(), Hash: o.Hash, Main: "100", Names: o.Request.Names}, k); err != nil {
		t.Fatal(err)
	}
	wantWords(t, "beside a pair of others", start(mine, right, wrong), "does not open the key of order a in "+keys.Dir())

	// Without the store the records tell.
	move(t, c.Keys.Store, c.Keys.Store+"-elsewhere")
	lay(t, js, c, o)
	c.Keys.Identity, c.Keys.Recipients = mine, []string{right}
	p, err := NewProcess(c, "test", true, quiet, order.Collector)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Run(t.Context(), order.Collector)
	wantWords(t, "by the records", err, "does not open the key of order a", "certmill reseal")
	if !decided(err) {
		t.Error("it would be tried for ever")
	}
}

// withKey gives an order a key as the submitter makes it.
func withKey(t *testing.T, o order.Order, to certstore.Recipients) order.Order {
	t.Helper()
	key, csr, fp, err := certstore.NewKey("ecdsa-p256", o.Request.Names, true)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := to.Seal(key)
	if err != nil {
		t.Fatal(err)
	}
	o.Key = &order.Key{Algorithm: "ecdsa-p256", Fingerprint: fp, CSR: csr, Sealed: sealed, SealedTo: to.ID(), Stored: true}
	o.Hash = o.Request.Hash()
	return o
}

// TestResealARun: a run gets another identity. It does not start before everything is
// sealed to that; then it goes on, and the old one opens nothing any more.
func TestResealARun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if sum, err := runIn(t.Context(), dir, &seen{}, example); err != nil || sum.Issued == 0 {
		t.Fatalf("%+v, %v", sum, err)
	}
	c := inDir(dir)
	own, old := filepath.Join(c.State, "identity.age"), filepath.Join(dir, "old.age")
	move(t, own, old)
	_, err := runIn(t.Context(), dir, &seen{})
	wantWords(t, "without its identity", err, "there is no identity at "+absolute(own), "restore its file")
	identityAt(t, own)
	_, err = runIn(t.Context(), dir, &seen{})
	wantWords(t, "with another identity", err, "certmill reseal")

	reseal := func(with ResealOptions) (is stage.Resealed, err error) {
		err = OnServer(t.Context(), c, func(c Config) (err error) {
			is, err = openConsole(t, c).Reseal(t.Context(), with)
			return err
		})
		return is, err
	}
	before := filesIn(t, c.Keys.Store)
	_, err = reseal(ResealOptions{})
	wantWords(t, "without what opens it", err, "none of the identities here opens what is in ", "--identity FILE")
	unchangedFiles(t, c.Keys.Store, before)
	is, err := reseal(ResealOptions{Identities: []string{old}, Who: "eve"})
	if err != nil || is.Pairs == 0 || is.Records < is.Pairs || len(is.Left) > 0 {
		t.Fatalf("%+v, %v", is, err)
	}
	again, err := reseal(ResealOptions{Identities: []string{old}})
	if err != nil || again.Pairs+again.Records > 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	wantAllSealedTo(t, c, own, old)
	more := filepath.Join(dir, "more.csv")
	if err := os.WriteFile(more, []byte("id,names,account\nmore,www.more.example,aliyun-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if sum, err := runIn(t.Context(), dir, &seen{}, more); err != nil || sum.Issued != 1 {
		t.Errorf("after that: %+v, %v", sum, err)
	}
	if _, err := os.Stat(filepath.Join(c.Deliver.Directory, "more", "privkey.pem")); err != nil {
		t.Error(err)
	}
	c.Keys.Recipients = []string{identityAt(t, filepath.Join(dir, "third.age"))}
	c.Keys.Identity = own
	_, err = reseal(ResealOptions{})
	wantWords(t, "to somebody whose identity is not here", err, "none of the identities here is that of a new recipient", "--unproved")
	if is, err := reseal(ResealOptions{Unproved: true}); err != nil || is.Pairs == 0 {
		t.Errorf("unproved: %+v, %v", is, err)
	}
	wantAllSealedTo(t, c, filepath.Join(dir, "third.age"), own)
}

// wantAllSealedTo looks at every pair and every record.
func wantAllSealedTo(t *testing.T, c Config, opens, not string) {
	t.Helper()
	by, err := certstore.LoadIdentities(opens)
	if err != nil {
		t.Fatal(err)
	}
	old, err := certstore.LoadIdentities(not)
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	look := func(what string, k *order.Key) {
		if k == nil || len(k.Sealed) == 0 {
			return
		}
		looked++
		if _, err := by.Open(k.Sealed); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := old.Open(k.Sealed); err == nil {
			t.Errorf("%s is opened by the old identity", what)
		}
	}
	err = OnServer(t.Context(), c, func(c Config) error {
		console := openConsole(t, c)
		keys, err := console.keyStore(t.Context())
		if err != nil {
			return err
		}
		err = keys.EachPair(func(r certstore.Ref, k order.Key) error { look("the pair of "+r.ID, &k); return nil },
			func(_ string, err error) error { return err })
		if err != nil {
			return err
		}
		return console.line.EachOrder(t.Context(), func(it pipeline.Item) error { look("the record of "+it.ID(), it.Key); return nil })
	})
	if err != nil || looked < 4 {
		t.Errorf("%d keys, %v", looked, err)
	}
}
