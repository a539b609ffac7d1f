package stream_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/stream"
)

// What is read of a group is the last message of each of its subjects, and a
// write counts only on top of all of them.
// DESIGN 12.3: the greatest sequence that was read is what a write is conditional on.
func TestGroup(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	s := open(t, js, lasting(1))
	g := stream.Within(js, s, "book.*")
	if all, last, err := g.Read(t.Context()); err != nil || len(all) != 0 || last != 0 {
		t.Fatalf("of an empty group: %v, %d, %v", all, last, err)
	}
	a, err := g.Write(t.Context(), "book.a", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Write(t.Context(), "book.b", []byte("2"), 0); !errors.Is(err, stream.ErrConflict) {
		t.Errorf("another subject, on top of nothing: %v", err)
	}
	b, err := g.Write(t.Context(), "book.b", []byte("2"), a.Seq)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Write(t.Context(), "book.a", []byte("3"), b.Seq); err != nil {
		t.Fatal(err)
	}
	all, last, err := g.Read(t.Context())
	if err != nil || len(all) != 2 || string(all[0].Data) != "2" || string(all[1].Data) != "3" || last != all[1].Seq {
		t.Errorf("%v, %d, %v", all, last, err)
	}
}

// Rivals that each write a subject of their own, on top of all: the sum over the
// group rises by one with each write, and nobody's is lost.
// DESIGN 12.3: the greatest sequence that was read is what each of rivals writes upon.
func TestRivalsInAGroup(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	g := stream.Within(js, open(t, js, lasting(1)), "book.*")
	sum := func(all []stream.Value) (n uint64) {
		for _, v := range all {
			n = max(n, binary.BigEndian.Uint64(v.Data))
		}
		return n
	}
	const rivals, each = 4, 10
	var mu sync.Mutex
	var wrote []uint64
	var wg sync.WaitGroup
	for i := range rivals {
		wg.Go(func() {
			for range each {
				var n uint64
				err := g.Change(t.Context(), fmt.Sprintf("book.%d", i), func(all []stream.Value, _ uint64) ([]byte, error) {
					n = sum(all) + 1
					return binary.BigEndian.AppendUint64(nil, n), nil
				})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				wrote = append(wrote, n)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(wrote)
	for i, n := range wrote {
		if n != uint64(i+1) {
			t.Fatalf("written were %v", wrote)
		}
	}
}
