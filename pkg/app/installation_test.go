package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// wantWords checks that an error says all of it.
func wantWords(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v, want %q", what, err, w)
		}
	}
}

// move renames a folder.
func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// spent is what all of the world's accounts have bought.
func spent(w *world) (n int) {
	for _, m := range w.sim.Report().Money {
		n += m.Spent
	}
	return n
}

// bought is how many orders for just this name cost something.
func bought(w *world, name string) (n int) {
	for _, o := range w.sim.Report().Orders {
		if o.Spent && len(o.Names) == 1 && o.Names[0] == name {
			n++
		}
	}
	return n
}

// DESIGN 12.8: simulated clouds and real accounts never share a state folder. After
// a pilot, the same folder with accounts in the config does not start, and the other
// way round.
func TestPilotThenRealAccounts(t *testing.T) {
	t.Parallel()
	real := withClouds(t, "", 1) // of another process, as far as a run can tell
	dir := t.TempDir()
	if sum, err := runIn(t.Context(), dir, &seen{}, manyOrders(t, 1)); err != nil || sum.Issued == 0 {
		t.Fatalf("%+v, %v", sum, err)
	}
	c := inDir(dir)
	c.Accounts = real.Accounts
	before := filesIn(t, c.State)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a run that begins would go on
	defer cancel()
	_, err := Run(ctx, RunOptions{Config: c, Files: []string{example}, Log: quiet, View: &seen{}})
	wantWords(t, "real accounts", err, "state folder "+c.State+" has what a run on simulated clouds has left, and this config has real accounts",
		"nothing was changed", "Name another folder with --state, or state in the config")
	// The key store alone, as a submitter with real accounts has it that was started
	// beside it.
	c.State, c.NATS.URL = t.TempDir(), "nats://127.0.0.1:1"
	_, err = NewProcess(c, "test", false, quiet, order.Submitter)
	wantWords(t, "a submitter", err, "key store "+absolute(c.Keys.Store)+" has what a run on simulated clouds has left", "Name another folder in keys.store")
	unchangedFiles(t, inDir(dir).State, before)

	other := inDir(t.TempDir())
	other.Accounts = real.Accounts
	if err := claimState(other); err != nil {
		t.Fatal(err)
	}
	other.Accounts = nil
	before = filesIn(t, other.State)
	_, err = Run(ctx, RunOptions{Config: other, Log: quiet, View: &seen{}})
	wantWords(t, "a pilot after real accounts", err, "has what real accounts have left, and this config has none", "--state")
	unchangedFiles(t, other.State, before)
}

// DESIGN 12.8: an installation is its key store. A run whose store was removed, or
// lies on a fresh volume, does not start until somebody says what is right; then it
// goes on with what the records have.
// DESIGN 12.8: another or an empty store is refused until a verb says which is right.
func TestRunWithoutItsKeyStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if sum, err := runIn(t.Context(), dir, &seen{}, example); err != nil || sum.Issued == 0 {
		t.Fatalf("%+v, %v", sum, err)
	}
	c := inDir(dir)
	kept := c.Keys.Store + "-kept"
	move(t, c.Keys.Store, kept)
	more := filepath.Join(dir, "more.csv")
	if err := os.WriteFile(more, []byte("id,names,account\nmore,www.more.example,aliyun-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := runIn(t.Context(), dir, &seen{}, more)
	wantWords(t, "removed", err, "there is no key store at "+absolute(c.Keys.Store), "nothing was changed", "certmill accept-store --new")
	if _, err := os.Stat(c.Keys.Store); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it made a store: %v", err)
	}
	if err := os.Mkdir(c.Keys.Store, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = runIn(t.Context(), dir, &seen{}, more)
	wantWords(t, "a fresh volume", err, "there is no key store at ")

	other := makeStore(t, c)
	_, err = runIn(t.Context(), dir, &seen{}, more)
	wantWords(t, "another store", err, "has the id "+other.ID(), "nothing was changed", "certmill accept-store")
	var is Accepted
	err = OnServer(t.Context(), c, func(c Config) (err error) {
		console := openConsole(t, c)
		is, err = console.AcceptStore(t.Context(), true)
		return err
	})
	if err != nil || is.Is != other.ID() || is.Was == is.Is || is.Was == "" || is.Filled.Pairs == 0 || is.Filled.Numbers == 0 || len(is.Filled.Left) > 0 {
		t.Fatalf("%+v, %v", is, err)
	}
	theirs, err := certstore.FindKeyStore(kept)
	if err != nil {
		t.Fatal(err)
	}
	samePairs(t, theirs, other)
	if sum, err := runIn(t.Context(), dir, &seen{}, more); err != nil || sum.Issued != 1 {
		t.Errorf("with the accepted store: %+v, %v", sum, err)
	}
}

// After JetStream was lost, the same file with a row inserted on top: nothing is
// bought a second time, and nothing for wrong names.
func TestARowInsertedAfterALostJetStream(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := inDir(dir)
	file := filepath.Join(dir, "orders.csv")
	rows := []string{"www.one.example", "www.two.example", "www.three.example"}
	run := func(names []string) Summary {
		t.Helper()
		lines := "id,names,account\n"
		for i, name := range names {
			lines += fmt.Sprintf("row-%d,%s,aliyun-1\n", i+1, name)
		}
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		sum, err := runIn(t.Context(), dir, &seen{}, file)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	if sum := run(rows); sum.Issued != 3 {
		t.Fatalf("%+v", sum)
	}
	if err := os.RemoveAll(filepath.Join(c.State, "nats")); err != nil {
		t.Fatal(err)
	}
	sum := run(append([]string{"www.new.example"}, rows...))
	// The new name is bought under the first one's id, and is delivered beside that one only
	// once a person has made room: what is served there stays.
	if sum.Held != 4 {
		t.Errorf("%+v", sum)
	}
	w, _, err := openWorld(t.Context(), c, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.close() }()
	if n := spent(w); n != 4 {
		t.Errorf("%d were bought for 4 sets of names", n)
	}
	for _, name := range append([]string{"www.new.example"}, rows...) {
		if n := bought(w, name); n != 1 {
			t.Errorf("%s was bought %d times", name, n)
		}
	}
}

// samePairs checks that one store has the other's pairs and numbers.
func samePairs(t *testing.T, want, got *certstore.KeyStore) {
	t.Helper()
	pairs := 0
	err := want.EachPair(func(r certstore.Ref, k order.Key) error {
		pairs++
		if is, err := got.Get(r); err != nil || is.Fingerprint != k.Fingerprint {
			t.Errorf("the pair of %s: %+v, %v", r.ID, is, err)
		}
		n, err := want.Number(r)
		if is, gerr := got.Number(r); err != nil || gerr != nil || is.Attempt != n.Attempt || is.Resource != n.Resource {
			t.Errorf("the number of %s: %+v in place of %+v, %v, %v", r.ID, is, n, err, gerr)
		}
		return nil
	}, func(path string, err error) error { t.Errorf("%s: %v", path, err); return nil })
	if err != nil || pairs == 0 {
		t.Errorf("%d pairs, %v", pairs, err)
	}
}

// sameNumbers tells whether one store has the other's numbers.
func sameNumbers(want, got *certstore.KeyStore) bool {
	same := true
	err := want.EachPair(func(r certstore.Ref, _ order.Key) error {
		n, err := want.Number(r)
		is, gerr := got.Number(r)
		same = same && errors.Join(err, gerr) == nil && is.Attempt == n.Attempt
		return nil
	}, func(_ string, err error) error { return err })
	return err == nil && same
}

// New streams over an existing store take its id; streams that name two stores are
// those of two installations.
// DESIGN 12.8: new streams over a store take its id.
func TestNewStreamsTakeTheStoresID(t *testing.T) {
	t.Parallel()
	first, second := natstest.Connect(t, natstest.Server(t)), natstest.Connect(t, natstest.Server(t))
	c := withClouds(t, first.Conn().ConnectedUrl(), 1)
	keys := makeStore(t, c)
	for range 2 {
		if _, err := Init(t.Context(), c, quiet); err != nil {
			t.Fatal(err)
		}
	}
	startWorkers(t, c).work(t)
	c.NATS.URL = second.Conn().ConnectedUrl() // JetStream was lost
	all, err := Init(t.Context(), c, quiet)
	if err != nil || all[0].Name != KeyStoreName || all[0].Made || all[0].Path != absolute(c.Keys.Store) {
		t.Fatalf("%+v, %v", all, err)
	}
	there, err := lookAt(t.Context(), second, lasting(1))
	if err != nil || len(there.stores()) != len(lasting(1)) {
		t.Fatal(err)
	}
	for name, id := range there.stores() {
		if id != keys.ID() {
			t.Errorf("%s names store %q, not %q", name, id, keys.ID())
		}
	}
	if err := nameStore(t.Context(), second, lasting(1)[0], "ANOTHER"); err != nil {
		t.Fatal(err)
	}
	before := natstest.Take(t, second)
	_, err = Init(t.Context(), c, quiet)
	wantWords(t, "init", err, "names another key store", "certmill accept-store")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // one that begins would go on
	defer cancel()
	err = Work(ctx, notSimulated(t, c), order.Submitter)
	wantWords(t, "a submitter", err, "names another key store")
	notSimulated(t, c)
	before.Same(t, second)
	console := openConsole(t, c)
	if _, err := console.AcceptStore(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	startWorkers(t, c).work(t)
}

// notSimulated is a config whose store nobody has bought in.
func notSimulated(t *testing.T, c Config) Config {
	t.Helper()
	if err := os.Remove(filepath.Join(c.Keys.Store, "clouds")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return c
}

// TestAcceptStoreDies: whenever accept-store dies, submitters refuse or the store is
// that of all streams; said again, it is.
func TestAcceptStoreDies(t *testing.T) {
	t.Parallel()
	for _, dies := range lasting(1) {
		js, c := initialised(t)
		if err := os.RemoveAll(c.Keys.Store); err != nil {
			t.Fatal(err)
		}
		console := openConsole(t, c)
		console.js = dying{js, dies.Name}
		if _, err := console.AcceptStore(t.Context(), true); err == nil {
			t.Fatalf("%s: it did not die", dies.Name)
		}
		keys, err := certstore.FindKeyStore(c.Keys.Store)
		if err != nil {
			t.Fatal(err)
		}
		_, named, err := stand(t.Context(), js, 1)
		if err != nil {
			t.Fatal(err)
		}
		if named.belongTo(keys) == nil {
			t.Errorf("it died at %s, and the store was taken for that of all streams: %v", dies.Name, named)
		}
		console.js = js
		if _, err := console.AcceptStore(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if _, named, err = stand(t.Context(), js, 1); err != nil || named.belongTo(keys) != nil {
			t.Errorf("%v, %v", named, err)
		}
	}
}

// A key store that goes away under running workers ends them, before anything is
// bought: nothing is paid for a key that is in no store.
func TestWorkersNoticeThatTheKeyStoreIsGone(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, path string){
		"removed":        func(t *testing.T, path string) { move(t, path, path+"-gone") },
		"a fresh volume": func(t *testing.T, path string) { move(t, path, path+"-gone"); _ = os.Mkdir(path, 0o700) },
		"emptied": func(t *testing.T, path string) {
			all, _ := filepath.Glob(filepath.Join(path, "*"))
			for _, p := range all {
				_ = os.RemoveAll(p)
			}
		},
		"another": func(t *testing.T, path string) {
			move(t, path, path+"-gone")
			if _, _, err := certstore.MakeKeyStore(path); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := natstest.Connect(t, natstest.Server(t))
			w, c := openClouded(t, js.Conn().ConnectedUrl(), 1)
			if _, err := Init(t.Context(), c, quiet); err != nil {
				t.Fatal(err)
			}
			p := startWorkers(t, c)
			p.work(t)
			lose(t, c.Keys.Store)
			for _, id := range []string{"a", "b", "c"} {
				publish(t, js.Conn().ConnectedUrl(), `{"id":"`+id+`","names":["www.`+id+`.example"],"account":"aliyun-1"}`)
			}
			if err := p.end(t); !errors.Is(err, certstore.ErrGone) {
				t.Errorf("they end with %v", err)
			}
			if n := spent(w); n != 0 {
				t.Errorf("%d were bought", n)
			}
			if _, err := NewProcess(c, "test", true, quiet, order.Submitter); name != "another" && !errors.Is(err, certstore.ErrNoStore) {
				t.Errorf("they would start again: %v", err)
			}
			if again := startWorkersThat(t, c); again != nil {
				wantWords(t, "again", again.end(t), "the key store at ")
			}
		})
	}
}

// startWorkersThat starts workers that come as far as their connection, or none.
func startWorkersThat(t *testing.T, c Config) *workers {
	t.Helper()
	if _, err := NewProcess(c, "test", true, quiet, order.Submitter); err != nil {
		return nil
	}
	return startWorkers(t, c)
}

// publish hands a message in as any client does.
func publish(t *testing.T, url, message string) {
	t.Helper()
	nc, err := dial(NATS{URL: url}, "publisher", func(error) {}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.Publish(pipeline.NewSubject, []byte(message)); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// DESIGN 12.8: an installation is its key store: after a restart with a key store that
// has lost its pairs (an older backup), they are stored again from the records.
func TestKeyStoreFromAnOlderBackup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if sum, err := runIn(t.Context(), dir, &seen{}, example); err != nil || sum.Issued == 0 {
		t.Fatalf("%+v, %v", sum, err)
	}
	c := inDir(dir)
	kept := c.Keys.Store + "-kept"
	if err := os.CopyFS(kept, os.DirFS(c.Keys.Store)); err != nil {
		t.Fatal(err)
	}
	shards, _ := filepath.Glob(filepath.Join(c.Keys.Store, "[0-9a-f][0-9a-f]"))
	if len(shards) == 0 {
		t.Fatal("the store is empty")
	}
	for _, s := range shards {
		if err := os.RemoveAll(s); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { _, err := runIn(ctx, dir, &seen{}); ended <- err }()
	theirs, err := certstore.FindKeyStore(kept)
	if err != nil {
		t.Fatal(err)
	}
	is, err := certstore.FindKeyStore(c.Keys.Store)
	if err != nil {
		t.Fatal(err)
	}
	want, err := theirs.IDs()
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the pairs are there again", func() bool {
		ids, err := is.IDs()
		return err == nil && len(ids) == len(want) && sameNumbers(theirs, is)
	})
	stop()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	samePairs(t, theirs, is)
}

// decided errors are not asked for again: all sentences about the key store are.
func TestStoreErrorsAreDecided(t *testing.T) {
	for _, err := range []error{&wrongStore{}, certstore.ErrGone, badRecipients("x"), &stream.Differs{}} {
		if !decided(err) {
			t.Errorf("%T is asked for again", err)
		}
	}
}
