package stage_test

import (
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// forgotten are the numbers by which the streams are an older copy.
func (w *world) forgotten() []stage.Forgotten {
	w.t.Helper()
	all, err := stage.Older{Line: w.line, Ledger: w.ledger, Keys: w.keys, Now: time.Now}.Find(w.t.Context())
	w.must(err)
	return all
}

// DESIGN 12.8: who buys notices an older copy, by a number of this life that nobody
// knows. A crash leaves none, wherever it comes between a number and its entry.
func TestNoCrashForgetsANumber(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for id, where := range map[string]string{"a": "submit: number stored", "b": "submit: entry opened", "c": "submit: answered"} {
		w.order(id, id+".example.com")
		p, died := w.dying(where)
		for !died() {
			p.visit(id)
		}
	}
	for id, where := range map[string]string{"d": "start: number stored", "e": "start: started"} {
		w.publish(order.Request{ID: id, Account: "ali", Resource: order.AnyResource, Names: []string{id + ".example.com"}})
		p, died := w.dying(where)
		for !died() {
			p.visit(id)
		}
	}
	w.order("issued", "issued.example.com")
	w.worker().drive("issued", order.Issued)
	if all := w.forgotten(); len(all) > 0 {
		t.Errorf("%v", all)
	}
}

// What shows an older copy: a number that the record has not come to, whose order is
// not there, or that only another main account's entry explains; not one that was
// given back, nor one of an earlier life.
func TestForgottenNumbers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("issued", "issued.example.com")
	w.worker().drive("issued", order.Issued)
	raise := func(id string, to certstore.Raised) {
		t.Helper()
		to.Purchase = 1
		w.must(w.keys.Raise(refOf(request(id, "issued.example.com")), to))
	}
	raise("issued", certstore.Raised{Attempt: 2, Main: aliUID})
	raise("gone", certstore.Raised{Attempt: 1, Main: aliUID})
	raise("elsewhere", certstore.Raised{Attempt: 1, Main: tenUID})
	raise("uses", certstore.Raised{Attempt: 1, Main: tenUID, Resource: "stage0"})
	raise("back", certstore.Raised{Attempt: 1, Main: tenUID, GaveBack: true})
	got := map[string]bool{}
	for _, f := range w.forgotten() {
		got[f.ID] = true
	}
	if len(got) != 4 || got["back"] {
		t.Errorf("%v", got)
	}
	behind := stage.Older{Line: w.line, Ledger: w.ledger, Keys: w.keys, Now: func() time.Time { return time.Now().Add(-time.Hour) }}
	if ahead, err := behind.Find(t.Context()); err != nil || len(ahead) > 0 {
		t.Errorf("raised by a clock that is ahead: %v, %v", ahead, err)
	}
	all, err := w.keys.RaisedSince("gone", time.Now().Add(2*time.Second))
	if err != nil || len(all) > 0 {
		t.Errorf("of an earlier life: %v, %v", all, err)
	}
}
