package ledger

import (
	"encoding/json"
	"errors"
	"testing"
)

// FuzzClaim puts anything where a claim should be. Only one that plainly says
// that nobody, or this very order, has the resource may be taken.
func FuzzClaim(f *testing.F) {
	l := openLedger(f)
	if err := l.Take(f.Context(), of(names), "a", "r", decided); err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{``, `{}`, `null`, `{"order":"b"}`, `{"order":"a","purchase":1}`, `{"order":7}`, `{"ORDER":"b"}`, `{"order":"b"}x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := l.js.Publish(t.Context(), claimSubject(main, "r"), data); err != nil {
			t.Skip(err) // too large for a message
		}
		held, err := l.Owner(t.Context(), main, "r")
		if (err == nil) != json.Valid(data) && err == nil {
			t.Errorf("%q is read as %+v", data, held)
		}
		taken := l.Claim(t.Context(), of(names), "r", "a", 1, decided)
		switch free := err == nil && (held.Order == "" || held.Order == "a"); {
		case taken == nil && !free:
			t.Errorf("%q was taken for a free resource", data)
		case taken != nil && free, err == nil && !free && !errors.Is(taken, ErrTaken):
			t.Errorf("%q (%+v): %v", data, held, taken)
		}
	})
}
