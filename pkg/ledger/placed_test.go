package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

func openBook(t testing.TB) *Placed {
	t.Helper()
	js := natstest.Connect(t, natstest.Server(t))
	if _, err := stream.Ensure(t.Context(), js, PlacedConfig(1)); err != nil {
		t.Fatal(err)
	}
	p, err := OpenPlaced(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var text = order.Challenge{Name: "a.example.com", Type: "TXT", Host: "_dnsauth.a.example.com", Value: "v1"}

func need(t testing.TB, p *Placed, c order.Challenge, id string, found bool) Placement {
	t.Helper()
	pl, err := p.Need(t.Context(), c, "ali", id, found)
	if err != nil || !pl.Stored() || !pl.Needs(id) {
		t.Fatalf("need of %s: %+v, %v", id, pl, err)
	}
	return pl
}

func booked(t testing.TB, p *Placed) (all []Placement) {
	t.Helper()
	unread, err := p.Each(t.Context(), func(pl Placement) error { all = append(all, pl); return nil })
	if err != nil || len(unread) > 0 {
		t.Fatal(unread, err)
	}
	return all
}

func TestBookForgetsOnlyByRemove(t *testing.T) {
	c := openBook(t).stream.CachedInfo().Config
	if c.DenyDelete || c.AllowDirect || c.MaxAge > 0 || c.MaxMsgs > 0 || c.MaxBytes > 0 || c.MaxMsgsPerSubject != 1 {
		t.Errorf("PLACED can lose an entry or answer with an old one: %+v", c)
	}
}

// An entry lives as long as some order needs it, and is then removed by whoever
// read it last.
func TestPlacementFromNeedToRemove(t *testing.T) {
	p := openBook(t)
	a := need(t, p, text, "a", false)
	again := need(t, p, text, "a", true)
	if again.seq != a.seq || again.Found {
		t.Errorf("a need that is known was written again: %+v", again)
	}
	both := need(t, p, text, "b", true)
	if both.Found || !slices.Equal(both.Orders, []string{"a", "b"}) {
		t.Errorf("what is ours became others': %+v", both)
	}
	if err := p.Remove(t.Context(), a); !errors.Is(err, ErrConflict) {
		t.Errorf("an entry that changed was removed: %v", err)
	}
	for range 2 { // safe to repeat
		if pl, last, err := p.Leave(t.Context(), text, "a"); err != nil || last || pl.Needs("a") {
			t.Errorf("a leaves: %+v, last %v, %v", pl, last, err)
		}
	}
	pl, last, err := p.Leave(t.Context(), text, "b")
	if err != nil || !last || !pl.Stored() {
		t.Fatalf("b leaves: %+v, last %v, %v", pl, last, err)
	}
	for range 2 {
		if err := p.Remove(t.Context(), pl); err != nil {
			t.Error(err)
		}
	}
	if pl, last, err := p.Leave(t.Context(), text, "b"); err != nil || last || pl.Stored() {
		t.Errorf("leaving what is gone: %+v, last %v, %v", pl, last, err)
	}
	if all := booked(t, p); len(all) != 0 {
		t.Errorf("left: %+v", all)
	}
	if fresh := need(t, p, text, "c", true); !fresh.Found {
		t.Errorf("a new entry is an old one: %+v", fresh)
	}
}

// Types, hosts, paths and values are apart; letter case of a host is not.
func TestPlacementsByPlace(t *testing.T) {
	t.Parallel()
	p := openBook(t)
	file := order.Challenge{Type: "FILE", Host: "a.example.com", Path: "/.well-known/pki-validation/fileauth.txt", Value: "v1"}
	second, other, upper := text, file, text
	second.Value, other.Value, upper.Host = "v2", "v2", "_DNSauth.a.example.com"
	for i, c := range []order.Challenge{text, second, file, other} {
		need(t, p, c, fmt.Sprint("o", i), false)
	}
	need(t, p, upper, "o0", false)
	at, err := p.At(t.Context(), file)
	if err != nil || len(at) != 2 {
		t.Errorf("at the file's place: %+v, %v", at, err)
	}
	if n := len(booked(t, p)); n != 4 {
		t.Errorf("%d entries", n)
	}
	if pl, err := p.Read(t.Context(), second); err != nil || pl.Challenge != second {
		t.Errorf("%+v, %v", pl, err)
	}
}

func TestFoundBecomesOurs(t *testing.T) {
	p := openBook(t)
	found := need(t, p, text, "a", true)
	ours, err := p.Ours(t.Context(), found)
	if err != nil || ours.Found {
		t.Fatalf("%+v, %v", ours, err)
	}
	if _, err := p.Ours(t.Context(), found); !errors.Is(err, ErrConflict) {
		t.Errorf("an old reading decides: %v", err)
	}
}

// Why it cannot be removed stands there until an order needs it again.
func TestStuckPlacement(t *testing.T) {
	t.Parallel()
	p := openBook(t)
	need(t, p, text, "a", false)
	var since time.Time
	for n := 1; n <= 3; n++ {
		pl, err := p.Read(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Stuck(t.Context(), pl, "denied", time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		pl, err = p.Read(t.Context(), text)
		if since.IsZero() {
			since = pl.Since
		}
		if err != nil || pl.Tries != n || pl.Why != "denied" || !pl.Since.Equal(since) || time.Until(pl.Next) < time.Minute {
			t.Errorf("%+v, %v", pl, err)
		}
	}
	if pl := need(t, p, text, "a", false); pl.Why != "" || pl.Tries != 0 || !pl.Next.IsZero() {
		t.Errorf("%+v", pl)
	}
}

// Rivals lose no need, and exactly one of those who leave is the last.
func TestRivalsForOnePlacement(t *testing.T) {
	t.Parallel()
	p := openBook(t)
	const n = 12
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { need(t, p, text, fmt.Sprint("o", i), false) })
	}
	wg.Wait()
	if all := booked(t, p); len(all) != 1 || len(all[0].Orders) != n {
		t.Fatalf("booked %+v", all)
	}
	var mu sync.Mutex
	lasts := 0
	for i := range n {
		wg.Go(func() {
			_, last, err := p.Leave(t.Context(), text, fmt.Sprint("o", i))
			if err != nil {
				t.Error(err)
			}
			if last {
				mu.Lock()
				defer mu.Unlock()
				lasts++
			}
		})
	}
	wg.Wait()
	if all := booked(t, p); lasts != 1 || len(all) != 1 || len(all[0].Orders) != 1 {
		t.Errorf("%d were the last; booked %+v", lasts, all)
	}
}

func TestNewerPlacementIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := openBook(t)
	if _, err := p.js.Publish(t.Context(), placedSubject(text), []byte(`{"v":99,"orders":["a"]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Need(t.Context(), text, "ali", "b", false); err == nil {
		t.Error("it was overwritten")
	}
}

// What only the copy has comes back into the book; what the book has removed
// does not, unless somebody needed it at that moment.
func TestCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, err := OpenCopy(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := openBook(t).Copied(c)
	keep := func(pl Placement) {
		t.Helper()
		for range 2 {
			if err := p.Keep(pl); err != nil {
				t.Fatal(err)
			}
		}
	}
	other, theirs := text, text
	other.Value, theirs.Value = "v2", "v3"
	keep(need(t, p, text, "a", false))
	keep(need(t, p, other, "b", false))
	keep(need(t, p, theirs, "c", true))
	if !p.Kept(text) || !p.Kept(other) || p.Kept(theirs) {
		t.Error("ours is not kept, or others' is")
	}
	if n, unread, err := p.Recall(t.Context(), booked(t, p)); n != 0 || len(unread) > 0 || err != nil {
		t.Errorf("recalled %d, %v, while nothing was lost", n, err)
	}

	if err := os.WriteFile(filepath.Join(dir, "placed.torn.json"), []byte(`{"v":1`), 0o600); err != nil {
		t.Fatal(err)
	}
	lost := openBook(t).Copied(c)
	for _, want := range []int{2, 0} {
		if n, unread, err := lost.Recall(t.Context(), booked(t, lost)); n != want || len(unread) != 1 || err != nil {
			t.Errorf("recalled %d, %v, want %d and the torn one not read: %v", n, err, want, unread)
		}
	}
	a, err := lost.Read(t.Context(), text)
	if err != nil || !a.Needs("a") || a.Found || !slices.Equal(a.Labels, []string{"ali"}) {
		t.Errorf("recalled %+v, %v", a, err)
	}

	need(t, lost, text, "d", false)
	if err := lost.Remove(t.Context(), a); !errors.Is(err, ErrConflict) || !lost.Kept(text) {
		t.Errorf("removed what d needs: %v, or its copy", err)
	}
	b, _ := lost.Read(t.Context(), other)
	if err := lost.Remove(t.Context(), b); err != nil || lost.Kept(other) {
		t.Errorf("the copy outlives its entry: %v", err)
	}
}
