package certstore

import (
	"maps"
	"testing"
)

func TestCallers(t *testing.T) {
	s, _, err := MakeKeyStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range []Raised{{Main: "1", Caller: "u"}, {Main: "1", Caller: "u"}, {Main: "1"}, {Main: "2", Caller: "v"}} {
		r.Attempt, r.Purchase = i+1, 1
		ref := Ref{ID: "a", Hash: "2-0123456789", Main: r.Main, Names: []string{"a.example.com"}}
		if err := s.Raise(ref, r); err != nil {
			t.Fatal(err)
		}
	}
	for main, want := range map[string]map[string]int{"1": {"u": 2, "": 1}, "2": {"v": 1}, "3": {}} {
		if got, err := s.Callers(t.Context(), main); err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", main, got, err, want)
		}
	}
}
