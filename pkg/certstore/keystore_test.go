package certstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
)

// ref is an order for the names that sealedPair makes pairs for.
func ref(id string) certstore.Ref {
	return certstore.Ref{ID: id, Hash: strings.Repeat("a", 64), Main: "100", Names: []string{"example.com"}}
}

func number(attempt, purchase int) certstore.Raised {
	return certstore.Raised{Attempt: attempt, Purchase: purchase}
}

func openStore(t testing.TB, dir string) *certstore.KeyStore {
	t.Helper()
	s, _, err := certstore.MakeKeyStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFirstPairWins(t *testing.T) {
	_, to := identity(t)
	dir := filepath.Join(t.TempDir(), "a", "keys")
	s := openStore(t, dir)
	first, second := sealedPair(t, to), sealedPair(t, to)
	if _, err := s.Get(ref("shop-1")); !errors.Is(err, certstore.ErrNoPair) {
		t.Fatalf("want ErrNoPair, got %v", err)
	}
	stored, won, err := s.Put(t.Context(), ref("shop-1"), first)
	if err != nil || !won || stored.Fingerprint != first.Fingerprint || !stored.Stored {
		t.Fatalf("%v %v %+v", err, won, stored)
	}
	for range 2 {
		again, won, err := openStore(t, dir).Put(t.Context(), ref("shop-1"), second)
		if err != nil || won || !reflect.DeepEqual(again, stored) {
			t.Fatalf("%v %v %+v", err, won, again)
		}
	}
	if got, err := s.Get(ref("shop-1")); err != nil || !reflect.DeepEqual(got, stored) {
		t.Errorf("%v %+v", err, got)
	}
	if ids, err := s.IDs(); err != nil || !reflect.DeepEqual(ids, []string{"shop-1"}) {
		t.Errorf("%v %v", ids, err)
	}
}

// TestPutRefuses: what is refused leaves nothing behind, so that the right pair
// can still be put.
func TestPutRefuses(t *testing.T) {
	_, to := identity(t)
	s := openStore(t, t.TempDir())
	good, other := sealedPair(t, to), sealedPair(t, to)
	plainKey, _, _, _ := certstore.NewKey("", []string{"example.com"}, true)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for what, put := range map[string]func() error{
		"no fingerprint":         func() error { k := good; k.Fingerprint = ""; return put(s, k) },
		"nothing":                func() error { return put(s, order.Key{Fingerprint: good.Fingerprint}) },
		"not sealed":             func() error { k := good; k.Sealed = []byte(plainKey.Reveal()); return put(s, k) },
		"key where the CSR":      func() error { k := good; k.CSR = plainKey.Reveal(); return put(s, k) },
		"fingerprint of another": func() error { k := good; k.Fingerprint = other.Fingerprint; return put(s, k) },
		"CSR of another":         func() error { k := good; k.CSR = other.CSR; return put(s, k) },
		"broken CSR":             func() error { k := good; k.CSR = "x"; return put(s, k) },
		"cancelled":              func() error { _, _, err := s.Put(cancelled, ref("a"), good); return err },
	} {
		if err := put(); err == nil || strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := s.Get(ref("a")); !errors.Is(err, certstore.ErrNoPair) {
			t.Errorf("%s: left something behind: %v", what, err)
		}
	}
	if err := put(s, good); err != nil {
		t.Error(err)
	}
}

func put(s *certstore.KeyStore, k order.Key) error {
	_, _, err := s.Put(context.Background(), ref("a"), k)
	return err
}

// TestIDsAreNoPaths: an id becomes a path, so nothing but an id may pass.
func TestIDsAreNoPaths(t *testing.T) {
	_, to := identity(t)
	root := t.TempDir()
	s := openStore(t, filepath.Join(root, "keys"))
	before := tree(t, root)
	for _, id := range []string{"", ".", "..", "../x", "a/../../x", "/etc/x", `a\b`, "a\x00", "A", "a.b", "-", strings.Repeat("a", 64), "ä"} {
		_, _, err := s.Put(t.Context(), ref(id), sealedPair(t, to))
		_, getErr := s.Get(ref(id))
		raiseErr := s.Raise(ref(id), number(1, 1))
		_, numberErr := s.Number(ref(id))
		_, deliverErr := certstore.Dir{Path: filepath.Join(root, "certs")}.Deliver(t.Context(), certstore.Delivery{ID: id})
		for _, err := range []error{err, getErr, raiseErr, numberErr, deliverErr} {
			if err == nil || errors.Is(err, certstore.ErrNoPair) {
				t.Errorf("%q: %v", id, err)
			}
		}
	}
	if after := tree(t, root); !reflect.DeepEqual(before, after) {
		t.Errorf("something was written:\n%v\n%v", before, after)
	}
}

// tree lists files and folders with their modes.
func tree(t testing.TB, root string) map[string]fs.FileMode {
	t.Helper()
	all := map[string]fs.FileMode{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			all[strings.TrimPrefix(path, root)] = info.Mode()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestModes: nobody else may read the store, and nothing is left in tmp.
func TestModes(t *testing.T) {
	_, to := identity(t)
	root := t.TempDir()
	s := openStore(t, filepath.Join(root, "keys"))
	if _, _, err := s.Put(t.Context(), ref("a"), sealedPair(t, to)); err != nil {
		t.Fatal(err)
	}
	if err := s.Raise(ref("a"), number(1, 1)); err != nil {
		t.Fatal(err)
	}
	files := 0
	for path, mode := range tree(t, filepath.Join(root, "keys")) {
		if mode.Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, mode)
		}
		if mode.IsRegular() {
			files++
			if strings.Contains(path, "/tmp/") || mode.Perm() != 0o600 {
				t.Errorf("%s has mode %v", path, mode)
			}
		}
	}
	if files != 4 {
		t.Errorf("%d files, want pair, number, format and id", files)
	}
}

func TestDamagedPairIsTold(t *testing.T) {
	_, to := identity(t)
	for what, damage := range map[string]func(text string) string{
		"empty":               func(string) string { return "" },
		"cut off":             func(s string) string { return s[:len(s)/2] },
		"of another order":    func(s string) string { return strings.Replace(s, `"id":"a"`, `"id":"b"`, 1) },
		"another fingerprint": func(s string) string { return strings.Replace(s, `"fingerprint":"`, `"fingerprint":"0`, 1) },
		"sealed replaced":     func(s string) string { return strings.Replace(s, `"sealed":"`, `"sealed":"AAAA`, 1) },
	} {
		dir := t.TempDir()
		s := openStore(t, dir)
		if _, _, err := s.Put(t.Context(), ref("a"), sealedPair(t, to)); err != nil {
			t.Fatal(err)
		}
		found, err := filepath.Glob(filepath.Join(dir, "*", "a", "*", "pair-000001"))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		text, _ := os.ReadFile(found[0])
		if err := os.WriteFile(found[0], []byte(damage(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(ref("a")); err == nil || errors.Is(err, certstore.ErrNoPair) || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", what, err)
		}
		if _, won, err := s.Put(t.Context(), ref("a"), sealedPair(t, to)); err == nil || won {
			t.Errorf("%s: a damaged pair was replaced (%v)", what, err)
		}
	}
}

// TestNumbersOnlyRise compares the store with the obvious model of it.
func TestNumbersOnlyRise(t *testing.T) {
	root := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		s, _, err := certstore.MakeKeyStore(filepath.Join(root, fmt.Sprint(run)))
		if err != nil {
			t.Fatal(err)
		}
		highest, of := 0, 0
		for range rapid.IntRange(1, 8).Draw(t, "calls") {
			attempt := rapid.IntRange(-1, 6).Draw(t, "attempt")
			purchase := rapid.IntRange(0, 3).Draw(t, "purchase")
			err := s.Raise(ref("a"), number(attempt, purchase))
			switch {
			case attempt < 1 || purchase < 1:
				if err == nil || errors.Is(err, certstore.ErrExists) {
					t.Fatalf("attempt %d of purchase %d: %v", attempt, purchase, err)
				}
			case attempt > highest:
				if err != nil {
					t.Fatal(err)
				}
				highest, of = attempt, purchase
			case !errors.Is(err, certstore.ErrExists) || errors.Is(err, certstore.ErrLower) != (attempt < highest):
				t.Fatalf("%d with %d there: %v", attempt, highest, err)
			}
			if r, err := s.Number(ref("a")); r.Attempt != highest || r.Purchase != of || err != nil {
				t.Fatalf("number %+v (%v), want %d of %d", r, err, highest, of)
			}
		}
	})
}

func TestDamagedNumberIsTold(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if err := s.Raise(ref("a"), number(3, 1)); err != nil {
		t.Fatal(err)
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*", "a", "attempt-*"))
	for _, text := range []string{"", "x", "0", "{}", "null", `{"id":"a","attempt":3}`,
		`{"id":"a","attempt":2,"purchase":1,"at":"2026-11-25T00:00:00Z","main":"100","hash":"aaaaaaaa","names":["example.com"]}`} {
		if err := os.WriteFile(found[0], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Number(ref("a")); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%q: %v", text, err)
		}
		if err := s.Raise(ref("a"), number(4, 1)); err == nil {
			t.Errorf("%q: raised over a number that cannot be read", text)
		}
		_ = os.Remove(strings.Replace(found[0], "000003", "000004", 1))
	}
}

// TestOneWinner: of goroutines of several openings of the store, one wins each
// attempt, and all get the same pair.
func TestOneWinner(t *testing.T) {
	_, to := identity(t)
	dir := t.TempDir()
	const rivals, attempts = 8, 5
	var mu sync.Mutex
	winners, fingerprints := map[int]int{}, map[string]int{}
	pairsWon := 0
	var all sync.WaitGroup
	for range rivals {
		s, mine := openStore(t, dir), sealedPair(t, to)
		all.Go(func() {
			stored, won, err := s.Put(context.Background(), ref("a"), mine)
			if err != nil || won != (stored.Fingerprint == mine.Fingerprint) {
				t.Errorf("won is %v: %v", won, err)
			}
			for n := 1; n <= attempts; n++ {
				err := s.Raise(ref("a"), number(n, 1))
				mu.Lock()
				if err == nil {
					winners[n]++
				} else if !errors.Is(err, certstore.ErrExists) {
					t.Error(err)
				}
				mu.Unlock()
			}
			mu.Lock()
			defer mu.Unlock()
			fingerprints[stored.Fingerprint]++
			if won {
				pairsWon++
			}
		})
	}
	all.Wait()
	if pairsWon != 1 || len(fingerprints) != 1 {
		t.Errorf("%d won, %d pairs", pairsWon, len(fingerprints))
	}
	for n, w := range winners {
		if w > 1 {
			t.Errorf("attempt %d was won %d times", n, w)
		}
	}
	if winners[attempts] != 1 {
		t.Errorf("the highest attempt was won %d times", winners[attempts])
	}
}

const rivalEnv = "CERTMILL_TEST_RIVAL_STORE"

// TestMain turns the test's own binary into a rival process, see TestProcesses.
func TestMain(m *testing.M) {
	if dir := os.Getenv(rivalEnv); dir != "" {
		if err := rival(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type outcome struct {
	Fingerprint string
	Won         bool
	Attempts    []int // those that it won
}

// rival waits for the starting sign, competes for every id and number, and
// prints what it got.
func rival(dir string) error {
	id, err := certstore.NewIdentity()
	if err != nil {
		return err
	}
	to, err := id.Recipients()
	if err != nil {
		return err
	}
	key, csr, fp, err := certstore.NewKey("", []string{"example.com"}, true)
	if err != nil {
		return err
	}
	sealed, err := to.Seal(key)
	if err != nil {
		return err
	}
	s, _, err := certstore.MakeKeyStore(dir)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := fmt.Scanln(); err != nil && err.Error() != "unexpected newline" {
		return err
	}
	stored, won, err := s.Put(context.Background(), ref("a"), order.Key{Fingerprint: fp, CSR: csr, Sealed: sealed})
	if err != nil {
		return err
	}
	out := outcome{Fingerprint: stored.Fingerprint, Won: won}
	for n := 1; n <= 20; n++ {
		switch err := s.Raise(ref("a"), number(n, 1)); {
		case err == nil:
			out.Attempts = append(out.Attempts, n)
		case !errors.Is(err, certstore.ErrExists):
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// TestProcesses: the same with processes, as submitters on one shared folder.
func TestProcesses(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	outcomes := make([]outcome, 4)
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range outcomes {
		cmd := exec.CommandContext(ctx, self)
		cmd.Env = append(os.Environ(), rivalEnv+"="+dir)
		cmd.Stderr = os.Stderr
		in, inErr := cmd.StdinPipe()
		out, outErr := cmd.StdoutPipe()
		if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		ready.Add(1)
		done.Go(func() {
			var word string
			_, err := fmt.Fscanln(out, &word)
			ready.Done()
			<-start
			_, writeErr := fmt.Fprintln(in)
			err = errors.Join(err, writeErr, json.NewDecoder(out).Decode(&outcomes[i]), cmd.Wait())
			if err != nil {
				t.Errorf("rival %d: %v", i, err)
			}
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	won, winners := 0, map[int]int{}
	for _, o := range outcomes {
		if o.Fingerprint != outcomes[0].Fingerprint {
			t.Errorf("two pairs: %+v", outcomes)
		}
		if o.Won {
			won++
		}
		for _, n := range o.Attempts {
			winners[n]++
		}
	}
	if won != 1 || winners[20] != 1 {
		t.Errorf("%d won the pair, %d the last attempt", won, winners[20])
	}
	for n, w := range winners {
		if w > 1 {
			t.Errorf("attempt %d was won %d times", n, w)
		}
	}
	if n, err := openStore(t, dir).Number(ref("a")); n.Attempt != 20 || time.Since(n.At) > time.Minute || err != nil {
		t.Errorf("number %+v, %v", n, err)
	}
}

func TestStoreThatCannotWork(t *testing.T) {
	if _, _, err := certstore.MakeKeyStore(""); err == nil {
		t.Error("a store nowhere")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := certstore.MakeKeyStore(file); err == nil {
		t.Error("a store in a file")
	}
}

// TestTornFiles: what a killed writer left is removed when it is old, and never
// taken for anything.
func TestTornFiles(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if err := s.Raise(ref("a"), number(1, 1)); err != nil {
		t.Fatal(err)
	}
	old, young := filepath.Join(dir, "tmp", ".certmill-1.tmp"), filepath.Join(dir, "tmp", ".certmill-2.tmp")
	for _, path := range []string{old, young} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the old one is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("the young one is gone; it may be another process's")
	}
	if ids, err := s.IDs(); err != nil || !reflect.DeepEqual(ids, []string{"a"}) {
		t.Errorf("%v %v", ids, err)
	}
}

// A store that was removed, or in whose place another one lies, takes nothing: what
// is written there would be lost, or nobody's.
// DESIGN 12.8: another or an empty store is refused.
func TestStoreThatIsGone(t *testing.T) {
	_, to := identity(t)
	for what, lose := range map[string]func(dir string) error{
		"removed": os.RemoveAll,
		"emptied": func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) },
		"another": func(dir string) error {
			_, _, err := certstore.MakeKeyStore(dir + "-another")
			return errors.Join(err, os.RemoveAll(dir), os.Rename(dir+"-another", dir))
		},
	} {
		dir := filepath.Join(t.TempDir(), "keys")
		s := openStore(t, dir)
		if _, _, err := s.Put(t.Context(), ref("a"), sealedPair(t, to)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Check(), lose(dir)); err != nil {
			t.Fatal(err)
		}
		var before map[string]fs.FileMode
		if what != "removed" {
			before = tree(t, dir)
		}
		_, _, err := s.Put(t.Context(), ref("b"), sealedPair(t, to))
		_, kerr := s.KeepRecipients(to)
		for did, err := range map[string]error{"Check": s.Check(), "Put": err, "Raise": s.Raise(ref("a"), number(1, 1)), "KeepRecipients": kerr,
			"ChangeRecipients": s.ChangeRecipients(to)} {
			if !errors.Is(err, certstore.ErrGone) {
				t.Errorf("%s: %s: %v", what, did, err)
			}
		}
		if what == "removed" {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it was made again: %v", err)
			}
		} else if after := tree(t, dir); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: something was written: %v", what, after)
		}
	}
}

// A store that goes away while somebody writes leaves nothing of it where it was: an
// unmounted volume's place stays empty, and a removed store is not begun anew.
func TestStoreThatGoesWhileItIsWritten(t *testing.T) {
	_, to := identity(t)
	k := sealedPair(t, to)
	for n := range 60 {
		dir := filepath.Join(t.TempDir(), "keys")
		s := openStore(t, dir)
		var writers sync.WaitGroup
		written := make(chan bool, 1)
		for w := range 4 {
			writers.Go(func() {
				for i := 0; ; i++ {
					if _, _, err := s.Put(t.Context(), ref(fmt.Sprintf("%d-%d", w, i)), k); err != nil {
						return // it is away
					}
					select {
					case written <- true:
					default:
					}
				}
			})
		}
		<-written
		err := os.Rename(dir, dir+"-away")
		if n%2 == 0 {
			err = errors.Join(err, os.Mkdir(dir, 0o700))
		}
		writers.Wait()
		left, rerr := os.ReadDir(dir)
		if err != nil || len(left) > 0 || n%2 == 1 && !errors.Is(rerr, fs.ErrNotExist) {
			t.Fatalf("round %d: there is %v (%v, %v)", n, left, err, rerr)
		}
	}
}

// Who works opens what is there; only who sets an installation up makes a store.
func TestOpeningMakesNoStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	for range 2 {
		if _, err := certstore.OpenKeyStore(dir); !errors.Is(err, certstore.ErrNoStore) {
			t.Error(err)
		}
		_ = os.Mkdir(dir, 0o700) // a volume without anything
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "format"), []byte("2\n"), 0o600); err != nil { // who made it died
		t.Fatal(err)
	}
	if _, err := certstore.OpenKeyStore(dir); !errors.Is(err, certstore.ErrNoStore) {
		t.Error(err)
	}
	s, made, err := certstore.MakeKeyStore(dir)
	if err != nil || !made || s.ID() == "" {
		t.Fatalf("%v, %v", made, err)
	}
	again, made, err := certstore.MakeKeyStore(dir)
	if err != nil || made || again.ID() != s.ID() {
		t.Errorf("%v, %v", made, err)
	}
	opened, err := certstore.OpenKeyStore(dir)
	if err != nil || opened.ID() != s.ID() {
		t.Error(err)
	}
}
