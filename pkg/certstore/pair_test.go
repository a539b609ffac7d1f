package certstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
)

// pairFor is a pair whose request asks for these names, or the first alone.
func pairFor(t testing.TB, to certstore.Recipients, all bool, names ...string) order.Key {
	t.Helper()
	key, csr, fp, err := certstore.NewKey("ecdsa-p256", names, all)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := to.Seal(key)
	if err != nil {
		t.Fatal(err)
	}
	return order.Key{Algorithm: "ecdsa-p256", Fingerprint: fp, CSR: csr, Sealed: sealed}
}

// DESIGN 12.8: entries lie under id and hash; a pair that does not fit is not used.
// DESIGN 12.8: a pair that does not fit is not used.
func TestPairsOfSeveralOrdersUnderOneID(t *testing.T) {
	_, to := identity(t)
	s := openStore(t, t.TempDir())
	two := certstore.Ref{ID: "a", Hash: strings.Repeat("b", 64), Main: "100", Names: []string{"example.com", "www.example.com"}}
	put := func(what string, r certstore.Ref, k order.Key, wins string) {
		t.Helper()
		got, won, err := s.Put(t.Context(), r, k)
		if err != nil || got.Fingerprint != wins || won != (wins == k.Fingerprint) {
			t.Errorf("%s: %.8s, won %v, %v; want %.8s", what, got.Fingerprint, won, err, wins)
		}
	}
	first, other, onlyCN := pairFor(t, to, true, "example.com"), pairFor(t, to, true, two.Names...), pairFor(t, to, false, two.Names...)
	put("the first", ref("a"), first, first.Fingerprint)
	put("of another order", two, other, other.Fingerprint)
	put("that asks for the common name alone", two, onlyCN, onlyCN.Fingerprint)
	put("that asks for all", two, pairFor(t, to, true, two.Names...), other.Fingerprint)
	put("that asks for all, with another as the common name", two, pairFor(t, to, true, two.Names[1], two.Names[0]), other.Fingerprint)
	put("that asks for the common name again", two, pairFor(t, to, false, two.Names...), onlyCN.Fingerprint)
	put("of the first order", ref("a"), pairFor(t, to, true, "example.com"), first.Fingerprint)
	put("whose common name is no alternative name", ref("a"), pairFor(t, to, false, "example.com"), first.Fingerprint)
	moved := ref("a")
	moved.Main = "200"
	put("at another account", moved, pairFor(t, to, true, "example.com"), first.Fingerprint)
	given := pairFor(t, to, true, "example.com")
	given.Sealed = nil
	put("of the user", ref("a"), given, given.Fingerprint)
	_, _, err := s.Put(t.Context(), ref("a"), pairFor(t, to, true, "other.com"))
	if err == nil || !strings.Contains(err.Error(), "asks for \"other.com\", which was not ordered") {
		t.Errorf("of other names: %v", err)
	}
	swapped := two
	swapped.Names = []string{"www.example.com", "example.com"}
	if k, err := s.Get(swapped); err != nil || k.Fingerprint != onlyCN.Fingerprint {
		t.Errorf("the latest: %+v, %v", k, err)
	}
	swapped.Names = []string{"example.com"}
	if _, err := s.Get(swapped); err == nil || !strings.Contains(err.Error(), "it is the pair of example.com www.example.com") {
		t.Errorf("for other names than it was made for: %v", err)
	}
}

// A number is raised only where the pair is that it is for.
func TestNumberWantsItsPair(t *testing.T) {
	_, to := identity(t)
	dir := t.TempDir()
	s := openStore(t, dir)
	k := sealedPair(t, to)
	with := number(1, 1)
	with.Fingerprint = k.Fingerprint
	if err := s.Raise(ref("a"), with); !errors.Is(err, certstore.ErrNoPair) {
		t.Errorf("before its pair: %v", err)
	}
	if _, _, err := s.Put(t.Context(), ref("a"), sealedPair(t, to)); err != nil {
		t.Fatal(err)
	}
	if err := s.Raise(ref("a"), with); !errors.Is(err, certstore.ErrNoPair) {
		t.Errorf("beside another pair: %v", err)
	}
	of := ref("a")
	of.Hash = strings.Repeat("b", 64)
	if _, _, err := s.Put(t.Context(), of, k); err != nil {
		t.Fatal(err)
	}
	if err := s.Raise(ref("a"), with); !errors.Is(err, certstore.ErrNoPair) {
		t.Errorf("with the pair of another order under the id: %v", err)
	}
	if n, err := s.Number(ref("a")); n.Attempt != 0 || err != nil {
		t.Errorf("it left number %+v, %v", n, err)
	}
	if err := s.Raise(of, with); err != nil {
		t.Error(err)
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*", "a", of.Hash, "pair-*"))
	if err := os.WriteFile(found[0], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	with.Attempt = 2
	if err := s.Raise(of, with); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("with a damaged one: %v", err)
	}
}

// DESIGN 12.8: an attempt's number is never ignored: those under an id are one
// series, whatever was ordered, and of each account the highest is told.
func TestNumbersOfSeveralLives(t *testing.T) {
	s := openStore(t, t.TempDir())
	same, other := ref("a"), ref("a")
	same.Hash, other.Hash, other.Names = strings.Repeat("b", 64), strings.Repeat("c", 64), []string{"other.com"}
	for _, raise := range []struct {
		r certstore.Ref
		n certstore.Raised
	}{
		{ref("a"), certstore.Raised{Attempt: 1, Purchase: 1, Main: "100", Caller: "eve"}},
		{same, certstore.Raised{Attempt: 2, Purchase: 2, Main: "200", Resource: "r1"}},
		{other, certstore.Raised{Attempt: 4, Purchase: 1, Main: "300"}},
		{ref("a"), certstore.Raised{Attempt: 5, Purchase: 1, Main: "200", GaveBack: true}},
		{other, certstore.Raised{Attempt: 6, Purchase: 1}},
	} {
		if err := s.Raise(raise.r, raise.n); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Raise(ref("a"), number(6, 1)); !errors.Is(err, certstore.ErrExists) {
		t.Errorf("the number of another order under the id: %v", err)
	}
	if n, err := s.Number(ref("a")); err != nil || n.Attempt != 6 || n.Hash != other.Hash || n.Main != other.Main {
		t.Errorf("the highest: %+v, %v", n, err)
	}
	all, err := s.Numbers(ref("a"))
	var got []certstore.Raised
	for _, n := range all {
		if n.At.IsZero() || !reflect.DeepEqual(n.Names, []string{"example.com"}) {
			t.Errorf("%+v", n)
		}
		got = append(got, certstore.Raised{Attempt: n.Attempt, Main: n.Main, Caller: n.Caller, GaveBack: n.GaveBack})
	}
	want := []certstore.Raised{{Attempt: 5, Main: "200", GaveBack: true}, {Attempt: 1, Main: "100", Caller: "eve"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("of each account: %+v, %v", got, err)
	}
}

func TestCheckCSR(t *testing.T) {
	_, both, fp, _ := certstore.NewKey("", []string{"example.com", "www.example.com"}, true)
	_, cn, cnFP, _ := certstore.NewKey("", []string{"example.com", "www.example.com"}, false)
	for _, tt := range []struct {
		what, csr, fp string
		names         []string
		says          string
	}{
		{"all", both, fp, []string{"example.com", "www.example.com"}, ""},
		{"in another order and spelling", both, fp, []string{"WWW.example.com.", "Example.com"}, ""},
		{"the common name", cn, cnFP, []string{"example.com", "www.example.com"}, ""},
		{"one more", both, fp, []string{"example.com"}, "asks for \"www.example.com\", which was not ordered"},
		{"one less", both, fp, []string{"a.com", "example.com", "www.example.com"}, "does not ask for a.com"},
		{"another common name", cn, cnFP, []string{"www.example.com"}, "asks for \"example.com\""},
		{"another key", cn, fp, []string{"example.com"}, "its fingerprint"},
		{"no request", "x", fp, []string{"example.com"}, "no certificate request"},
	} {
		err := certstore.CheckCSR(tt.csr, tt.fp, tt.names)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
}
