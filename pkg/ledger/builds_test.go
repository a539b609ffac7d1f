package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/record"
	"github.com/certmill/certmill/pkg/stream"
)

// put stores what another build wrote.
func put(t testing.TB, js jetstream.JetStream, subject, data string) {
	t.Helper()
	if _, err := js.Publish(t.Context(), subject, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// raw is what lies under a subject, as JSON.
func raw(t testing.TB, s jetstream.Stream, subject string) (all map[string]any) {
	t.Helper()
	m, err := s.GetLastMsgForSubject(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(m.Data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// find looks into objects and lists: the first element of a list whose value
// under key is the one that is asked for.
func find(v any, list, key, value string) map[string]any {
	all, _ := v.(map[string]any)[list].([]any)
	for _, e := range all {
		if m := e.(map[string]any); fmt.Sprint(m[key]) == value {
			return m
		}
	}
	return nil
}

// What another build of the same format wrote into an entry stays there, in
// every element of its lists, whatever this one writes.
// DESIGN 12.9: builds of one format work side by side.
func TestEntriesKeepWhatAnotherBuildWrote(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	subject := spendSubject(main, names)
	put(t, l.js, subject, `{"v":1,"main":"100001","names":["a.example.com","b.example.com"],"new":{"deep":[1]},
		"attempts":[{"order":"a","purchase":1,"attempt":1,"ending":"bought","new":"a1","used":{"count":1,"read":"2026-11-25T12:00:00Z","new":"u"}},
			{"order":"b","purchase":1,"attempt":1,"ending":"open","token":"T","opened":"2026-11-25T12:00:00Z","new":"b1"}],
		"claims":[{"cloud_id":"7","order":"a","purchase":1,"attempt":1,"at":"2026-11-25T12:00:00Z","new":"c7"}],
		"unclaimed":[{"cloud_id":"8","status":"CHECKING","seen":"2026-11-25T12:00:00Z","new":"u8"},{"cloud_id":"9","status":"x","seen":"2026-11-25T12:00:00Z","new":"u9"}]}`)
	open, _ := read(t, l).OpenAttempt()
	if err := l.Foreign(t.Context(), main, names, open, "6"); err != nil {
		t.Fatal(err)
	}
	if err := l.Bought(t.Context(), main, names, open, "8", "answered"); err != nil {
		t.Fatal(err)
	}
	if err := l.Report(t.Context(), main, names, Unclaimed{CloudID: "9", Status: "y"}); err != nil {
		t.Fatal(err)
	}
	begin(t, l, attempt("c", 1))
	e := raw(t, l.stream, subject)
	a1 := find(e, "attempts", "order", "a")
	for what, ok := range map[string]bool{
		"of the entry":              reflect.DeepEqual(e["new"], map[string]any{"deep": []any{1.0}}),
		"of another's attempt":      a1["new"] == "a1" && a1["used"].(map[string]any)["new"] == "u",
		"of the changed attempt":    find(e, "attempts", "order", "b")["new"] == "b1" && find(e, "attempts", "order", "b")["ending"] == "bought",
		"of a claim":                find(e, "claims", "cloud_id", "7")["new"] == "c7",
		"of a changed row":          find(e, "unclaimed", "cloud_id", "9")["new"] == "u9" && find(e, "unclaimed", "cloud_id", "9")["status"] == "y",
		"but of what is gone":       find(e, "unclaimed", "cloud_id", "8") == nil,
		"and none of what is fresh": find(e, "attempts", "order", "c")["new"] == nil,
	} {
		if !ok {
			t.Errorf("the fields %s: %v", what, e)
		}
	}
}

// A further attempt is another one: what was written about the last one does not
// speak of it.
func TestAFurtherAttemptInheritsNothingUnknown(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	put(t, l.js, spendSubject(main, names), `{"v":1,"main":"100001","names":["a.example.com","b.example.com"],
		"attempts":[{"order":"a","purchase":1,"attempt":1,"ending":"refused","new":"of the first"}]}`)
	begin(t, l, attempt("a", 2))
	if a := find(raw(t, l.stream, spendSubject(main, names)), "attempts", "order", "a"); a["attempt"] != 2.0 || a["new"] != nil {
		t.Errorf("%v", a)
	}
}

func TestClaimsKeepWhatAnotherBuildWrote(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	put(t, l.js, claimSubject(main, "r"), `{"order":"a","purchase":1,"at":"2026-11-25T12:00:00Z","new":"n"}`)
	if err := claim(t, l, names, "r", "a", 2); err != nil {
		t.Fatal(err)
	}
	if got := raw(t, l.stream, claimSubject(main, "r")); got["new"] != "n" || got["purchase"] != 2.0 || got["v"] != 1.0 {
		t.Errorf("%v", got)
	}
	put(t, l.js, claimSubject(main, "s"), `{"v":2,"order":""}`)
	_, err := l.Owner(t.Context(), main, "s")
	_, released := l.Release(t.Context(), main, "s", "a", time.Now(), 0)
	for _, err := range []error{err, l.Claim(t.Context(), of(names), "s", "a", 1, decided), released} {
		wantErr(t, "a claim of a newer program", err, record.ErrNewer)
	}
	if got := raw(t, l.stream, claimSubject(main, "s")); got["v"] != 2.0 {
		t.Errorf("it was overwritten: %v", got)
	}
}

func TestPlacementsKeepWhatAnotherBuildWrote(t *testing.T) {
	t.Parallel()
	p := openBook(t)
	dir := t.TempDir()
	c, err := OpenCopy(dir)
	if err != nil {
		t.Fatal(err)
	}
	p = p.Copied(c)
	put(t, p.js, placedSubject(text), `{"v":1,"challenge":{"name":"a.example.com","type":"TXT","host":"_dnsauth.a.example.com","value":"v1","new":"c"},
		"labels":["ali"],"orders":["a"],"at":"2026-11-25T12:00:00Z","new":"n"}`)
	pl := need(t, p, text, "b", false)
	if err := p.Keep(pl); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Confirm(t.Context(), pl, "b"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Leave(t.Context(), text, "a"); err != nil {
		t.Fatal(err)
	}
	got := raw(t, p.stream, placedSubject(text))
	kept, _, err := c.read(placedSubject(text))
	copied, err2 := kept.encode()
	if got["new"] != "n" || got["challenge"].(map[string]any)["new"] != "c" || err != nil || err2 != nil || !strings.Contains(string(copied), `"new":"n"`) {
		t.Errorf("book %v, copy %s (%v, %v)", got, copied, err, err2)
	}
}

// An entry that cannot be read does not end the reading of the others: it is
// returned, with what it claims as far as this program can tell, and left alone.
func TestEachGoesOnPastWhatItCannotRead(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	for i, data := range []string{`{"v":2,"claims":[{"cloud_id":"77","of":"a newer program"}],"names":{"of":"another type"}}`, `no record`} {
		put(t, l.js, spendSubject(main, []string{fmt.Sprint(i, ".example.com")}), data)
	}
	begin(t, l, attempt("a", 1))
	n := 0
	unread, err := l.Each(t.Context(), main, func(Entry) error { n++; return nil })
	if err != nil || n != 1 || len(unread) != 2 {
		t.Fatalf("%d entries, and %v: %v", n, unread, err)
	}
	newer, broken := unread[0], unread[1]
	if !newer.Newer() || len(newer.Claims) != 1 || newer.Claims[0] != "77" || newer.Seq == 0 || !newer.Of(main, []string{"0.example.com"}) || newer.Of(main, names) {
		t.Errorf("the newer program's: %+v", newer)
	}
	if broken.Newer() || len(broken.Claims) != 0 || !broken.Of(main, []string{"1.example.com"}) {
		t.Errorf("the broken one: %+v", broken)
	}
}

// The book goes on past what it cannot read, and never writes over it.
func TestBookGoesOnPastWhatItCannotRead(t *testing.T) {
	t.Parallel()
	p := openBook(t)
	other := text
	other.Value = "v2"
	put(t, p.js, placedSubject(other), `{"v":2,"challenge":"of another type"}`)
	need(t, p, text, "a", false)
	n := 0
	unread, err := p.Each(t.Context(), func(Placement) error { n++; return nil })
	if err != nil || n != 1 || len(unread) != 1 || !unread[0].Newer() || unread[0].Subject != placedSubject(other) {
		t.Errorf("%d entries, and %v: %v", n, unread, err)
	}
	_, err = p.Need(t.Context(), other, "ali", "a", false)
	wantErr(t, "need of what a newer program wrote", err, record.ErrNewer)
	if got := raw(t, p.stream, placedSubject(other)); got["v"] != 2.0 {
		t.Errorf("it was overwritten: %v", got)
	}
}

// A copy that a newer program wrote says that the record is ours; it is left for
// who can read it. What is no record says nothing.
func TestCopiesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	p := openBook(t)
	c, err := OpenCopy(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p = p.Copied(c)
	broken := text
	broken.Value = "v2"
	for subject, data := range map[string]string{placedSubject(text): `{"v":2,"challenge":"of another type"}`, placedSubject(broken): `no record`} {
		if err := os.WriteFile(c.path(subject), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !p.Kept(text) || p.Kept(broken) {
		t.Errorf("ours by the newer program's copy: %v; by a broken one: %v", p.Kept(text), p.Kept(broken))
	}
	n, unread, err := p.Recall(t.Context(), nil)
	if n != 0 || err != nil || len(unread) != 2 || unread[0].Newer() == unread[1].Newer() {
		t.Errorf("recalled %d, %v, %v", n, unread, err)
	}
	if len(booked(t, p)) != 0 {
		t.Error("the book has what nobody could read")
	}
}

// Nobody but init makes them, and a stream that is not as it must be is refused.
func TestOpenMakesNothing(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	_, err := New(t.Context(), js, 1)
	_, err2 := OpenPlaced(t.Context(), js, 1)
	for _, err := range []error{err, err2} {
		wantErr(t, "with no stream", err, stream.ErrMissing)
	}
	for range js.StreamNames(t.Context()).Name() {
		t.Error("a stream was made")
	}
	short := Config(1)
	short.MaxAge = time.Hour
	if _, err := stream.Ensure(t.Context(), js, short); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), js, 1); err == nil || !errors.As(err, new(*stream.Differs)) {
		t.Errorf("of a ledger that forgets: %v", err)
	}
}
