package order_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"pgregory.net/rapid"

	"github.com/certmill/certmill/pkg/order"
)

const (
	goldenHash  = "2-e60ed511d66a296d97fbb859a32047f14602d7af5449e9e97fd4f27b05a80548"
	goldenNames = "d12522ca42c531086051a55ca81720f8fbf249c8"
)

// TestTransitions is the whole matrix: from each state in the first column, the
// states that an order may go to.
func TestTransitions(t *testing.T) {
	allowed := map[order.State]string{
		"":             "submit failed held",
		order.Submit:   "submit unsure waiting verify collect failed held",
		order.Unsure:   "submit unsure waiting verify collect failed held",
		order.Waiting:  "submit unsure waiting verify collect failed held",
		order.Verify:   "unsure waiting verify issuing collect failed held",
		order.Issuing:  "waiting verify issuing collect failed held",
		order.Collect:  "unsure waiting verify issuing collect issued failed held",
		order.Issued:   "archived",
		order.Failed:   "submit unsure verify collect archived",
		order.Held:     "submit unsure verify collect held",
		order.Archived: "",
	}
	if len(allowed) != len(order.States)+1 {
		t.Fatalf("the matrix has %d rows, there are %d states", len(allowed), len(order.States))
	}
	for from, list := range allowed {
		for _, to := range append([]order.State{"", "nonsense"}, order.States...) {
			want := to != "" && strings.Contains(" "+list+" ", " "+string(to)+" ")
			if err := order.Check(from, to); (err == nil) != want {
				t.Errorf("Check(%q, %q) = %v, allowed is %v", from, to, err, want)
			}
		}
	}
	if order.Check("nonsense", order.Submit) == nil {
		t.Error("an unknown state leads on")
	}
}

// TestRules are the promises that the matrix must keep, however it changes.
func TestRules(t *testing.T) {
	for _, from := range order.States {
		if order.Check(from, "") == nil {
			t.Errorf("%s leads to nowhere: the order would be lost", from)
		}
		if from != order.Collect && order.Check(from, order.Issued) == nil {
			t.Errorf("%s leads to issued without passing collect", from)
		}
		if order.Check(from, order.Archived) == nil && !from.Final() {
			t.Errorf("%s is not final and can be archived", from)
		}
	}
	for _, to := range order.States {
		if to.Final() && order.Check(order.Held, to) == nil {
			t.Errorf("an operator's verb leads straight to %s", to)
		}
		if to != order.Archived && order.Check(order.Issued, to) == nil {
			t.Errorf("an issued order goes on to %s", to)
		}
	}
}

func ExampleCheck() {
	fmt.Println(order.Check(order.Verify, order.Issuing))
	fmt.Println(order.Check(order.Submit, order.Issued))
	// Output:
	// <nil>
	// an order in state "submit" cannot go to "issued"
}

func ExampleOrder_Encode() {
	o, _ := order.Decode([]byte(`{"v":1,"state":"verify","request":{"id":"shop-1","names":["example.com"]},"hash":"h","received":"2027-01-01T00:00:00Z","purchase":1,"attempt":1,"retries":0,"of_a_newer_worker":true}`))
	o.State = order.Issuing
	body, _ := o.Encode()
	fmt.Println(strings.Contains(string(body), `"of_a_newer_worker":true`), order.Subject(o.State, o.ID(), o.Lane()))
	// Output: true order.issuing.shop-1.none
}

func TestSubjects(t *testing.T) {
	if got := order.Subject(order.Submit, "shop-1", "ali-urgent"); got != "order.submit.shop-1.ali-urgent" {
		t.Error(got)
	}
	if got := order.AllOf("shop-1"); got != "order.*.shop-1.*" {
		t.Error(got)
	}
	o := order.Order{}
	if o.Lane() != order.NoLane {
		t.Error(o.Lane())
	}
	if o.Account, o.Urgent = "ali", true; o.Lane() != "ali-urgent" {
		t.Error(o.Lane())
	}
}

func record() order.Order {
	at := time.Date(2027, 1, 2, 3, 4, 5, 6000, time.UTC)
	return order.Order{
		V: order.SchemaVersion, Request: order.Request{ID: "a", Names: []string{"a.example"}, Deadline: &at, Labels: map[string]string{"x": "y"}},
		Hash: "h", Predecessor: "b", Generation: 2, Approvals: []string{order.FactDeadline}, Received: at, State: order.Collect, Account: "ali", Main: "1", Purchase: 1, Attempt: 2, Taken: at,
		Key: &order.Key{Fingerprint: "f", Sealed: []byte{0, 1, 255}}, NotBefore: at, Wait: order.Wait{For: order.WaitForTime, Till: at, Then: order.Submit},
		CloudID: "98987582437920968", Challenges: []order.Challenge{{Name: "a.example", Type: "TXT", Host: "_dnsauth.a.example", Value: "v"}},
		Proofs: []order.Proof{{Challenge: order.Challenge{Name: "a.example", Type: "TXT", Host: "_dnsauth.a.example", Value: "v"}, At: "x.example",
			Placed: at, Found: true, Inherited: true, Looked: at, Seen: at, Missing: []string{"ns1 has no TXT"}}},
		Failure: &order.Failure{Class: "c", Reason: "r"}, Hold: &order.Hold{Reason: "r", Commands: []string{"c"}, Fact: order.FactBudget("x"), From: order.Unsure},
		Certificate: &order.Certificate{Chain: "c", NotAfter: at}, Original: []byte("{"), Timeline: []order.Event{{At: at, State: order.Submit}},
	}
}

func TestRecordRoundTrip(t *testing.T) {
	want := record()
	body, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := order.Decode(body)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
	if !bytes.Contains(body, []byte(`"98987582437920968"`)) {
		t.Error("the cloud's id is no string")
	}
}

func TestUnknownFieldsAreKept(t *testing.T) {
	o, err := order.Decode([]byte(`{"v":1,"state":"submit","STATE":"verify","future":{"a":1},
		"request":{"id":"a","names":null,"new":"n","contact":{"fax":"1"}},
		"key":{"fingerprint":"f","hsm":true},"failure":{"class":"c","reason":"r","new":1},"wait":{"new":2},
		"proofs":[{"challenge":{"host":"h","value":"1","new":3},"new":4},{"challenge":{"host":"h","value":"2"},"new":5}],
		"timeline":[{"at":"2027-01-01T00:00:00Z","state":"submit","new":6}]}`))
	if err != nil {
		t.Fatal(err)
	}
	o.Failure = nil // overcome: its parts go with it
	o.Attempt = 7
	o.Proofs = o.Proofs[:1]
	o.Proofs[0].At = "elsewhere"
	o.Tell(order.Event{Note: "moved"})
	body, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	request, _ := got["request"].(map[string]any)
	contact, _ := request["contact"].(map[string]any)
	key, _ := got["key"].(map[string]any)
	proofs, _ := got["proofs"].([]any)
	proof, _ := proofs[0].(map[string]any)
	challenge, _ := proof["challenge"].(map[string]any)
	timeline, _ := got["timeline"].([]any)
	event, _ := timeline[0].(map[string]any)
	for what, ok := range map[string]bool{
		"top level":              reflect.DeepEqual(got["future"], map[string]any{"a": 1.0}),
		"in request":             request["new"] == "n" && request["id"] == "a",
		"in key":                 key["hsm"] == true && key["fingerprint"] == "f",
		"own change":             got["attempt"] == 7.0,
		"no failure":             got["failure"] == nil,
		"known in other case":    got["STATE"] == nil && got["state"] == "verify",
		"all there is of a part": reflect.DeepEqual(contact, map[string]any{"fax": "1"}),
		"in a proof":             len(proofs) == 1 && proof["new"] == 4.0 && proof["at"] == "elsewhere" && challenge["new"] == 3.0,
		"in the timeline":        len(timeline) == 2 && event["new"] == 6.0,
	} {
		if !ok {
			t.Errorf("%s: %s", what, body)
		}
	}
	if again, err := order.Decode(body); err != nil || again.Attempt != 7 {
		t.Errorf("cannot be read again: %v", err)
	}
}

// DESIGN 12.9: a build that knows another format refuses: messages, too.
func TestHigherVersionIsRefused(t *testing.T) {
	_, err := order.Decode([]byte(`{"v":2,"state":"submit","request":"of another type now"}`))
	if !errors.Is(err, order.ErrNewer) {
		t.Errorf("want ErrNewer, got %v", err)
	}
	for _, bad := range []string{``, `x`, `null`, `{}`, `{"v":0,"state":"submit"}`, `{"v":1}`, `{"v":"2"}`, `[]`, `{"v":1,"state":7}`} {
		if _, err := order.Decode([]byte(bad)); err == nil || errors.Is(err, order.ErrNewer) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTimelineKeepsItsBeginning(t *testing.T) {
	var o order.Order
	for i := range 1000 {
		o.Tell(order.Event{Note: fmt.Sprint(i)})
	}
	if n := len(o.Timeline); n > 60 {
		t.Errorf("%d events", n)
	}
	if o.Timeline[0].Note != "0" || o.Timeline[len(o.Timeline)-1].Note != "999" {
		t.Errorf("first %s, last %s", o.Timeline[0].Note, o.Timeline[len(o.Timeline)-1].Note)
	}
}

// TestTellDoesNotShare: a handler's copy of an order must not write into the
// story of the one that the loop holds.
func TestTellDoesNotShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var o order.Order
		for range rapid.IntRange(0, 100).Draw(t, "events") {
			o.Tell(order.Event{Note: "before"})
		}
		a, b := o, o
		a.Tell(order.Event{Note: "a"})
		b.Tell(order.Event{Note: "b"})
		if a.Timeline[len(a.Timeline)-1].Note != "a" {
			t.Fatal("one copy's event overwrote the other's")
		}
	})
}

func TestSecretNeverShows(t *testing.T) {
	const text = "CANARY-7f3a"
	secret := order.Secret(text)
	type holder struct {
		Key  order.Secret `json:"key" yaml:"key"`
		Ptr  *order.Secret
		Map  map[string]order.Secret
		List []order.Secret
		Any  any
	}
	h := holder{secret, &secret, map[string]order.Secret{"a": secret}, []order.Secret{secret}, secret}
	var shown strings.Builder
	for _, v := range []any{secret, &secret, h, &h, []any{h}, fmt.Errorf("wrapped: %v", secret)} {
		for _, verb := range "vsqxXdtbocUeEfFgG" {
			for _, flags := range []string{"", "+", "#", "-20", "020.3", " "} {
				fmt.Fprintf(&shown, "%"+flags+string(verb)+"\n", v)
			}
		}
		fmt.Fprintln(&shown, v)
		for _, handler := range []slog.Handler{slog.NewTextHandler(&shown, nil), slog.NewJSONHandler(&shown, nil)} {
			slog.New(handler).With("with", v).Info("m", "key", v, slog.Group("g", "k", v))
		}
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		shown.Write(body)
		if body, err = yaml.Marshal(v); err != nil {
			t.Fatal(err)
		}
		shown.Write(body)
	}
	for _, leak := range []string{text, fmt.Sprintf("%x", text), fmt.Sprintf("%X", text)} {
		if i := strings.Index(shown.String(), leak); i >= 0 {
			t.Errorf("shown: …%s…", shown.String()[max(0, i-60):i])
		}
	}
	if secret.Reveal() != text {
		t.Error("Reveal does not reveal")
	}
}

func FuzzDecode(f *testing.F) {
	body, _ := record().Encode()
	f.Add(body)
	f.Add([]byte(`{"v":1,"state":"submit","future":1,"request":{"x":null},"key":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := order.Decode(data)
		if err != nil {
			return
		}
		once, err := o.Encode()
		if err != nil {
			return // a time beyond the year 9999 can be read with an offset, not written
		}
		again, err := order.Decode(once)
		if err != nil {
			t.Fatalf("written and refused: %v\n%s", err, once)
		}
		if twice, err := again.Encode(); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("changes each time (%v)\n%s\n%s", err, once, twice)
		}
	})
}
