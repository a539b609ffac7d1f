package record_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/certmill/certmill/pkg/record"
)

// Two builds of one program, which work side by side: the newer one has a field
// more in each struct.
type (
	oldRecord struct {
		V      int                   `json:"v"`
		Name   string                `json:"name"`
		At     time.Time             `json:"at,omitzero"`
		Inner  oldInner              `json:"inner"`
		Zero   oldInner              `json:"zero,omitzero"`
		Ptr    *oldInner             `json:"ptr,omitempty"`
		Rows   []oldInner            `json:"rows,omitempty"`
		Keyed  []oldKeyed            `json:"keyed,omitempty"`
		Map    map[string]oldInner   `json:"map,omitempty"`
		Deep   map[string][]oldKeyed `json:"deep,omitempty"`
		Data   []byte                `json:"data,omitempty"`
		Labels map[string]string     `json:"labels,omitempty"`
	}
	oldInner struct {
		A    string   `json:"a,omitempty"`
		Zero oldLeaf  `json:"zero,omitzero"`
		Leaf *oldLeaf `json:"leaf,omitempty"`
	}
	oldLeaf struct {
		N int `json:"n"`
	}
	oldKeyed struct {
		ID    string    `json:"id" record:"key"`
		Try   int       `json:"try" record:"key"`
		Note  string    `json:"note,omitempty"`
		Inner oldInner  `json:"inner,omitzero"`
		Rows  []oldLeaf `json:"rows,omitempty"`
	}

	newRecord struct {
		V      int                   `json:"v"`
		Name   string                `json:"name"`
		At     time.Time             `json:"at,omitzero"`
		Inner  newInner              `json:"inner"`
		Zero   newInner              `json:"zero,omitzero"`
		Ptr    *newInner             `json:"ptr,omitempty"`
		Rows   []newInner            `json:"rows,omitempty"`
		Keyed  []newKeyed            `json:"keyed,omitempty"`
		Map    map[string]newInner   `json:"map,omitempty"`
		Deep   map[string][]newKeyed `json:"deep,omitempty"`
		Data   []byte                `json:"data,omitempty"`
		Labels map[string]string     `json:"labels,omitempty"`
		New    *newInner             `json:"new,omitempty"`
	}
	newInner struct {
		A    string   `json:"a,omitempty"`
		Zero newLeaf  `json:"zero,omitzero"`
		Leaf *newLeaf `json:"leaf,omitempty"`
		New  string   `json:"new,omitempty"`
	}
	newLeaf struct {
		N   int   `json:"n"`
		New int64 `json:"new,omitempty"`
	}
	newKeyed struct {
		ID    string    `json:"id" record:"key"`
		Try   int       `json:"try" record:"key"`
		Note  string    `json:"note,omitempty"`
		Inner newInner  `json:"inner,omitzero"`
		Rows  []newLeaf `json:"rows,omitempty"`
		New   []string  `json:"new,omitempty"`
	}
)

const knows = 3

var (
	word  = rapid.SampledFrom([]string{"", "a", "b", "<&>", "\"", "ä"})
	leafs = rapid.Custom(func(t *rapid.T) newLeaf {
		return newLeaf{rapid.IntRange(0, 1).Draw(t, "n"), rapid.SampledFrom([]int64{0, 1, 98987582437920968}).Draw(t, "new")}
	})
	inners = rapid.Custom(func(t *rapid.T) newInner {
		return newInner{word.Draw(t, "a"), leafs.Draw(t, "zero"), rapid.Ptr(leafs, true).Draw(t, "leaf"), word.Draw(t, "new")}
	})
	keyeds = rapid.Custom(func(t *rapid.T) newKeyed {
		return newKeyed{word.Draw(t, "id"), rapid.IntRange(0, 2).Draw(t, "try"), word.Draw(t, "note"), inners.Draw(t, "inner"),
			rapid.SliceOfN(leafs, 0, 3).Draw(t, "rows"), rapid.SliceOfN(word, 0, 2).Draw(t, "new")}
	})
	records = rapid.Custom(func(t *rapid.T) newRecord {
		few := func(n int) int { return rapid.IntRange(0, n).Draw(t, "some") }
		return newRecord{V: few(knows), Name: word.Draw(t, "name"), At: time.Unix(int64(few(1)), 0).UTC(), Inner: inners.Draw(t, "inner"),
			Zero: inners.Draw(t, "zero"), Ptr: rapid.Ptr(inners, true).Draw(t, "ptr"),
			Rows:  rapid.SliceOfN(inners, 0, 4).Draw(t, "rows"),
			Keyed: rapid.SliceOfN(keyeds, 0, 4).Draw(t, "keyed"),
			Map:   rapid.MapOfN(word, inners, 0, 3).Draw(t, "map"),
			Deep:  rapid.MapOfN(word, rapid.SliceOfN(keyeds, 0, 3), 0, 2).Draw(t, "deep"),
			Data:  rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "data"), Labels: rapid.MapOfN(word, word, 0, 2).Draw(t, "labels"),
			New: rapid.Ptr(inners, true).Draw(t, "new")}
	})
)

// What the newer build writes, the older one keeps, at every depth and in the
// elements of lists.
func TestWhatOneBuildWritesTheOtherKeeps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		written := encode(t, records.Draw(t, "record"), record.Rest{})
		var old oldRecord
		rest := decode(t, written, &old)
		same(t, encode(t, old, rest), written)
	})
}

// What the older build changes is changed, and everything else is kept.
func TestChangesOfTheOtherBuild(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := records.Draw(t, "record")
		var old oldRecord
		rest := decode(t, encode(t, r, record.Rest{}), &old)

		// The change, in both.
		old.Name, r.Name = "changed", "changed"
		old.Inner.A, r.Inner.A = "changed", "changed"
		old.Ptr, r.Ptr = nil, nil
		for i := range r.Keyed {
			old.Keyed[i].Note, r.Keyed[i].Note = "changed", "changed"
			old.Keyed[i].Inner.Zero.N, r.Keyed[i].Inner.Zero.N = 7, 7
		}
		for name := range r.Map {
			o, n := old.Map[name], r.Map[name]
			o.A, n.A = "changed", "changed"
			old.Map[name], r.Map[name] = o, n
		}
		old.Rows, r.Rows = append(old.Rows, oldInner{A: "added"}), append(r.Rows, newInner{A: "added"})
		old.Keyed, r.Keyed = append(old.Keyed, oldKeyed{ID: "added"}), append(r.Keyed, newKeyed{ID: "added"})

		same(t, encode(t, old, rest), encode(t, r, record.Rest{}))
	})
}

// Elements are known again wherever they stand: in another order, and when
// others are gone.
func TestElementsMoveAndGo(t *testing.T) {
	const data = `{"v":1,"name":"","inner":{},"keyed":[{"id":"a","try":1,"new":["a1"]},{"id":"a","try":2,"new":["a2"]},{"id":"b","try":1,"new":["b1"]}],
		"rows":[{"a":"x","new":"first"},{"a":"x"},{"a":"x","new":"third"},{"a":"y","new":"y"}]}`
	var old oldRecord
	rest := decode(t, []byte(data), &old)
	old.Keyed = []oldKeyed{{ID: "b", Try: 1}, {ID: "c"}, {ID: "a", Try: 2, Note: "n"}, {ID: "a", Try: 3}}
	old.Rows = []oldInner{{A: "y"}, {A: "x"}, {A: "x"}, {A: "x", Leaf: &oldLeaf{}}}
	same(t, encode(t, old, rest), []byte(`{"v":1,"name":"","inner":{},
		"keyed":[{"id":"b","try":1,"new":["b1"]},{"id":"c","try":0},{"id":"a","try":2,"note":"n","new":["a2"]},{"id":"a","try":3}],
		"rows":[{"a":"y","new":"y"},{"a":"x","new":"first"},{"a":"x"},{"a":"x","leaf":{"n":0}}]}`))
}

// A struct of which nothing is known is kept; one that is emptied goes with its
// unknown parts.
func TestEmptied(t *testing.T) {
	var old oldRecord
	rest := decode(t, []byte(`{"v":1,"zero":{"new":"z","zero":{"new":5}},"inner":{"zero":{"n":1,"new":6}},"keyed":[{"inner":{"new":"k"}}]}`), &old)
	old.Inner.Zero = oldLeaf{}
	same(t, encode(t, old, rest), []byte(`{"v":1,"name":"","zero":{"new":"z","zero":{"n":0,"new":5}},"inner":{},"keyed":[{"id":"","try":0,"inner":{"new":"k"}}]}`))
}

// Fields in another case are known, as to encoding/json.
func TestKnownInAnotherCase(t *testing.T) {
	var old oldRecord
	rest := decode(t, []byte(`{"V":1,"NAME":"x","Inner":{"A":"y","nEw":"z"},"future":1}`), &old)
	same(t, encode(t, old, rest), []byte(`{"v":1,"name":"x","inner":{"a":"y","nEw":"z"},"future":1}`))
}

type embedding struct {
	oldLeaf
	Own  string `json:"own"`
	Not  string `json:"-"`
	Bare string
}

// The fields of an embedded struct are the record's own; one without a tag has
// its own name, and one that is never written is unknown.
func TestEmbedded(t *testing.T) {
	var e embedding
	rest := decode(t, []byte(`{"n":1,"own":"o","Bare":"b","Not":"n","new":2}`), &e)
	e.N, e.Bare = 3, "c"
	same(t, encode(t, e, rest), []byte(`{"n":3,"own":"o","Bare":"c","Not":"n","new":2}`))
}

// A higher version is left alone, whatever else is in it; what is no record is
// an error of another kind.
func TestHigherVersions(t *testing.T) {
	for _, s := range []string{`{"v":4}`, `{"v":4,"name":"known"}`, `{"v":4,"name":{"of":"another type"}}`, `{"v":4,"future":1}`, `{"V":4}`} {
		var old oldRecord
		if _, err := record.Decode([]byte(s), knows, &old); !errors.Is(err, record.ErrNewer) {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{``, `x`, `[]`, `7`, `{"v":"4"}`, `{"v":1}{"v":1}`, `{"v":1} x`, `{"v":1,"rows":{}}`, `{"v":3,"name":7}`} {
		var old oldRecord
		if _, err := record.Decode([]byte(s), knows, &old); err == nil || errors.Is(err, record.ErrNewer) {
			t.Errorf("%q: %v", s, err)
		}
	}
	var none struct{ Name string }
	if _, err := record.Decode([]byte(`{"v":1}`), 0, &none); !errors.Is(err, record.ErrNewer) {
		t.Errorf("a record that has no version in this program: %v", err)
	}
}

// What went wrong half way leaves nothing in the record that is read then.
func TestNothingOfTheFirstTryStays(t *testing.T) {
	for range 20 { // of what is unknown first
		var old oldRecord
		decode(t, []byte(`{"name":"x","inner":{"a":"y","new":1},"v":1}`), &old)
		if !reflect.DeepEqual(old, oldRecord{V: 1, Name: "x", Inner: oldInner{A: "y"}}) {
			t.Fatalf("%+v", old)
		}
	}
}

// Copies of a record share their rest, and none changes it for the others.
func TestRestIsShared(t *testing.T) {
	var a oldRecord
	rest := decode(t, []byte(`{"v":1,"keyed":[{"id":"a","new":["n"]}],"map":{"m":{"new":"n"}},"new":{"a":"b"}}`), &a)
	whole := encode(t, a, rest)
	b := a
	b.Keyed, b.Map = nil, nil
	without := encode(t, b, rest)
	if bytes.Equal(whole, without) || !bytes.Equal(whole, encode(t, a, rest)) {
		t.Errorf("the rest was changed: %s", encode(t, a, rest))
	}
	same(t, without, []byte(`{"v":1,"name":"","inner":{},"new":{"a":"b"}}`))
}

// Whatever comes, what is written is read again, and written as it was.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"v":1,"name":"","rows":[{"a":"x","new":"1"},{"a":"x"}],"keyed":[{"id":"a","new":[]},null],"map":{"a":{"x":1}}}`))
	f.Add([]byte(`{"v":1,"NAME":"x","name":"y","ptr":null,"inner":{"leaf":{"x":{}}},"deep":{"a":[{"rows":[{"x":1}]}]}}`))
	f.Add([]byte(`{"zero":{"zero":{"x":1}},"ZERO":{"zero":{"y":1}},"future":98987582437920968,"data":"AAEC"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var old oldRecord
		rest, err := record.Decode(data, knows, &old)
		if err != nil {
			return
		}
		once, err := record.Encode(old, rest)
		if err != nil {
			return // a time beyond the year 9999 can be read with an offset, not written
		}
		var again oldRecord
		rest, err = record.Decode(once, knows, &again)
		if err != nil {
			t.Fatalf("written and refused: %v\n%s", err, once)
		}
		if twice, err := record.Encode(&again, rest); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("changes each time (%v)\n%s\n%s", err, once, twice)
		}
	})
}

func Example() {
	type order struct {
		V    int    `json:"v"`
		Name string `json:"name"`
		rest record.Rest
	}
	var o order
	o.rest, _ = record.Decode([]byte(`{"v":1,"name":"a","of_a_newer_build":true}`), 1, &o)
	o.Name = "b"
	data, _ := record.Encode(o, o.rest)
	fmt.Println(string(data))
	// Output: {"name":"b","of_a_newer_build":true,"v":1}
}

type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func encode(t fataler, v any, rest record.Rest) []byte {
	t.Helper()
	data, err := record.Encode(v, rest)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decode(t fataler, data []byte, into any) record.Rest {
	t.Helper()
	rest, err := record.Decode(data, knows, into)
	if err != nil {
		t.Fatal(err)
	}
	return rest
}

// same compares as JSON; numbers are compared by their text.
func same(t fataler, got, want []byte) {
	t.Helper()
	var a, b any
	for _, x := range []struct {
		data []byte
		into *any
	}{{got, &a}, {want, &b}} {
		d := json.NewDecoder(strings.NewReader(string(x.data)))
		d.UseNumber()
		if err := d.Decode(x.into); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(a, b) {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}
