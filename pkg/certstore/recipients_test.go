package certstore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
)

// sealedTo is a pair that says whom it is sealed to, as the submitter makes it.
func sealedTo(t testing.TB, to certstore.Recipients) order.Key {
	t.Helper()
	k := sealedPair(t, to)
	k.SealedTo = to.ID()
	return k
}

// DESIGN 12.8: of two seals of one key, where recipients are kept with the store, the
// one to the present recipients stays.
func TestSealsOfAStoreWithRecipients(t *testing.T) {
	oldID, oldTo := identity(t)
	newID, newTo := identity(t)
	dir := t.TempDir()
	s := openStore(t, dir)
	if to, err := s.Recipients(); err != nil || to.ID() != "" {
		t.Fatalf("%v, %v", to, err)
	}
	for _, to := range []certstore.Recipients{oldTo, newTo} { // the first decides
		if kept, err := s.KeepRecipients(to); err != nil || kept.ID() != oldTo.ID() || kept.String() != oldTo.String() {
			t.Fatalf("%v, %v", kept, err)
		}
	}
	k, other := sealedTo(t, oldTo), sealedTo(t, newTo)
	if _, _, err := s.Put(t.Context(), ref("a"), other); !errors.Is(err, certstore.ErrOtherRecipients) {
		t.Errorf("sealed to others: %v", err)
	}
	if _, won, err := s.Put(t.Context(), ref("a"), k); err != nil || !won {
		t.Fatal(err)
	}
	raise := number(1, 1)
	raise.Fingerprint = k.Fingerprint
	if err := s.Raise(ref("a"), raise); err != nil {
		t.Fatal(err)
	}

	if err := s.ChangeRecipients(newTo); err != nil {
		t.Fatal(err)
	}
	raise.Attempt = 2
	if err := s.Raise(ref("a"), raise); !errors.Is(err, certstore.ErrOtherRecipients) {
		t.Errorf("a number for a key that is sealed to others: %v", err)
	}
	anew, err := certstore.Reopen(k, oldID, newTo)
	if err != nil {
		t.Fatal(err)
	}
	for _, put := range []order.Key{anew, k, anew} {
		got, won, err := s.Put(t.Context(), ref("a"), put)
		if err != nil || won || got.SealedTo != newTo.ID() || got.Fingerprint != k.Fingerprint {
			t.Errorf("%+v, %v, %v", got, won, err)
		}
	}
	got, err := s.Get(ref("a"))
	if err != nil || got.SealedTo != newTo.ID() {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := newID.Open(got.Sealed); err != nil {
		t.Error(err)
	}
	if err := s.Raise(ref("a"), raise); err != nil {
		t.Error(err)
	}
}

// TestResealStore: what opens is sealed anew, what does not is told and stays, and
// what was put there by a trick under another fingerprint is not believed.
func TestResealStore(t *testing.T) {
	oldID, oldTo := identity(t)
	_, newTo := identity(t)
	dir := t.TempDir()
	s := openStore(t, dir)
	given := sealedTo(t, oldTo)
	given.Sealed, given.SealedTo = nil, ""
	swapped := sealedTo(t, oldTo)
	swapped.Sealed = sealedTo(t, oldTo).Sealed
	_, strange := identity(t)
	for id, k := range map[string]order.Key{"a": sealedTo(t, oldTo), "b": sealedTo(t, oldTo), "given": given, "strange": sealedTo(t, strange),
		"swapped": swapped, "damaged": sealedTo(t, oldTo)} {
		if _, _, err := s.Put(t.Context(), ref(id), k); err != nil {
			t.Fatal(err)
		}
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*", "damaged", "*", "pair-*"))
	if err := os.WriteFile(found[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.ChangeRecipients(newTo); err != nil {
		t.Fatal(err)
	}
	for pass, want := range []int{2, 0} {
		left := map[string]bool{}
		done, err := s.Reseal(t.Context(), oldID, newTo, func(r certstore.Ref, err error) { left[r.ID] = err != nil })
		if err != nil || done != want || len(left) != 3 || !left["strange"] || !left["swapped"] || !left["damaged"] {
			t.Errorf("pass %d: %d, left %v, %v", pass, done, left, err)
		}
	}
	pairs, unread := 0, 0
	err := s.EachPair(func(r certstore.Ref, k order.Key) error {
		pairs++
		if is := k.SealedTo == newTo.ID(); is != (r.ID == "a" || r.ID == "b") {
			t.Errorf("%s is sealed to %s", r.ID, k.SealedTo)
		}
		return nil
	}, func(string, error) error { unread++; return nil })
	if err != nil || pairs != 5 || unread != 1 {
		t.Errorf("%d pairs, %d that cannot be read, %v", pairs, unread, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Reseal(ctx, oldID, newTo, func(certstore.Ref, error) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}

func TestRecipientsHaveAnID(t *testing.T) {
	a, toA := identity(t)
	b, toB := identity(t)
	both, err := certstore.ParseRecipients(toA.String(), toB.String())
	if err != nil {
		t.Fatal(err)
	}
	turned, err := certstore.ParseRecipients("# who\n" + toB.String() + "\n\n" + toA.String())
	if err != nil {
		t.Fatal(err)
	}
	if both.ID() != turned.ID() || both.ID() == toA.ID() || toA.ID() == "" || (certstore.Recipients{}).ID() != "" {
		t.Errorf("%s %s %s", both.ID(), turned.ID(), toA.ID())
	}
	if !both.OpenedBy(b) || toA.OpenedBy(b) || toA.OpenedBy(certstore.Identities{}) || !toA.OpenedBy(certstore.JoinIdentities(b, a)) {
		t.Error("whose identity is among them is not seen")
	}
	joined := certstore.JoinIdentities(certstore.Identities{}, a)
	sealed, err := toA.Seal("secret")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := joined.Open(sealed); err != nil || got != "secret" {
		t.Error(err)
	}
}
