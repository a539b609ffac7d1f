package ledger

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// lostPublish loses a write on its way, after which something else happens.
type lostPublish struct {
	jetstream.JetStream
	then func()
}

func (l *lostPublish) Publish(context.Context, string, []byte, ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	l.then()
	return nil, nats.ErrTimeout
}

// A worker whose write got no answer finds an open entry for its own order and
// number, opened by a rival that was handed the same record. Only the token
// tells that it is not its own.
func TestWhoGotNoAnswerIsTheOpenerOnlyByItsToken(t *testing.T) {
	l := openLedger(t)
	e := read(t, l)
	slow := *l
	slow.js = &lostPublish{JetStream: l.js, then: func() { begin(t, l, attempt("a", 1)) }}
	if _, open, err := slow.Begin(t.Context(), e, attempt("a", 1)); err == nil {
		t.Errorf("it takes itself for the opener of %+v", open)
	}
}

// Who decides on an old read opens nothing, also when nobody else is about to:
// the write's condition is the read.
// DESIGN 12.3: the greatest sequence that was read is the condition, and nothing that
// is asked for afterwards.
func TestAnOldReadOpensNothing(t *testing.T) {
	l := openLedger(t)
	old := read(t, l)
	a := begin(t, l, attempt("a", 1))
	_, _, err := l.Begin(t.Context(), old, attempt("b", 1))
	wantErr(t, "beside an open attempt", err, ErrConflict)
	if err := l.Bought(t.Context(), main, names, a, "77", "answered"); err != nil {
		t.Fatal(err)
	}
	_, _, err = l.Begin(t.Context(), old, attempt("a", 2))
	wantErr(t, "for a purchase that has its claim by now", err, ErrConflict)
	if e := read(t, l); len(e.Claims) != 1 || len(e.Attempts) != 1 {
		t.Errorf("the entry is %+v", e)
	}
}

// A row may be a candidate for an order unless somebody claims it, another order
// has it provisionally, or this order knows that it has another key.
func TestWhatIsFree(t *testing.T) {
	t.Parallel()
	e := Entry{
		Claims:   []Claim{{CloudID: "claimed", Order: "a", Purchase: 1}},
		Attempts: []Attempt{{Order: "a", Ending: Open, Provisional: "adopted", Foreign: []string{"foreign"}}},
	}
	for _, tt := range []struct {
		id, order string
		want      bool
	}{
		{"claimed", "a", false}, {"claimed", "b", false},
		{"adopted", "a", true}, {"adopted", "b", false},
		{"foreign", "a", false}, {"foreign", "b", true},
		{"new", "a", true}, {"new", "b", true},
	} {
		if got := e.Free(tt.id, tt.order); got != tt.want {
			t.Errorf("the %s row for %s: %v", tt.id, tt.order, got)
		}
	}
}
