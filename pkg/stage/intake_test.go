package stage_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

func (w *world) accept(text string) {
	w.t.Helper()
	w.must(w.worker().intake.Accept(w.t.Context(), w.message([]byte(text))))
}

// refusal is the order that stands for the last message.
func (w *world) refusal() order.Order {
	w.t.Helper()
	return w.wantFailed(w.line.BadID(w.seq.Load()), stage.ClassInvalid)
}

func TestIntakeTakesAnOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	m := w.message([]byte(`{"id":"a","account":"ali","names":["A.Example.com"],"labels":{"team":"shop"}}`))
	m.Publisher, m.Urgent = "crm", true
	w.must(w.worker().intake.Accept(t.Context(), m))
	o := w.last("a")
	if o.State != order.Submit || o.Account != "ali" || o.Main != aliUID || o.Operation != forPackage || o.Product != plenty ||
		o.Purchase != 1 || o.Attempt != 0 || o.Publisher != "crm" || o.Lane() != "ali-urgent" || o.Request.Names[0] != "a.example.com" {
		t.Errorf("record %+v", o)
	}
}

// Each kind of message that cannot be taken ends as a failed order of its own,
// with a sentence, its bytes, and the id that it named left free.
func TestIntakeRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for _, c := range []struct{ message, says string }{
		{`{`, "JSON"},
		{`{"id":"a-example-com-0123456789ab","names":["a.example.com"]}`, "leave the id out"},
		{`{"id":"x","account":"ali"}`, "names"},
		{`{"id":"x","account":"nobody","names":["a.example.com"]}`, `no account "nobody"`},
		{`{"id":"x","account":"ten","instance":"cas-cn-1","names":["a.example.com"]}`, `did you mean "resource"`},
		{`{"id":"x","account":"ali","certificate":"c1","names":["a.example.com"]}`, `did you mean "resource"`},
		{withCSR(t, `{"id":"x","account":"ali","resource":"any","names":["a.example.com"],"csr":%s}`, "a.example.com"), "takes no csr"},
		{`{"id":"x","resource":"stage1","names":["a.example.com"]}`, "name the account that has it"},
		{`{"id":"x","account":"ali","name":"a.example.com","names":["a.example.com"]}`, "name"},
	} {
		w.accept(c.message)
		o := w.refusal()
		if !strings.Contains(o.Failure.Reason, c.says) || o.Failure.Advice == "" || string(o.Original) != c.message || o.Lane() != order.NoLane {
			t.Errorf("%s: %+v, original %q", c.message, o.Failure, o.Original)
		}
	}
	w.accept(`{"id":"x","account":"ali","names":["a.example.com"]}`) // the mended message
	if o := w.last("x"); o.State != order.Submit {
		t.Errorf("the mended order is %s", o.State)
	}
}

// A private key in a message is not kept.
func TestIntakeKeepsNoPrivateKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	const marker = "MIGHcanarycanary"
	text, err := json.Marshal(map[string]any{"id": "x", "account": "ali", "names": []string{"a.example.com"},
		"csr": "-----BEGIN PRIVATE KEY-----\n" + marker + "\n-----END PRIVATE KEY-----\n"})
	w.must(err)
	w.accept(string(text))
	o := w.refusal()
	record, err := o.Encode()
	w.must(err)
	if strings.Contains(string(record), marker) || !strings.Contains(string(o.Original), "not kept") {
		t.Errorf("the record keeps it: %s", record)
	}
}

// A known id with the same content is dropped, in whatever state the order is;
// with another content it is refused on an id of its own.
// DESIGN 12.1: an id never runs twice, whatever state its order is in.
func TestIntakeKnownID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.accept(`{"id":"a","account":"ali","names":["a.example.com"]}`)
	w.worker().drive("a", order.Issued)
	w.accept(`{"names":["A.example.com"], "account":"ali", "id":"a"}`)
	if _, err := w.line.Last(t.Context(), w.line.BadID(w.seq.Load())); err == nil {
		t.Error("the same order was refused")
	}
	w.accept(`{"id":"a","account":"ali","names":["other.example.com"]}`)
	if o := w.refusal(); !strings.Contains(o.Failure.Reason, "taken by another order (state issued)") {
		t.Errorf("%+v", o.Failure)
	}
	if o := w.wantIssued("a"); o.Request.Names[0] != "a.example.com" {
		t.Errorf("%+v", o.Request)
	}
	w.wantPaid(1, "a.example.com")
}

// The same message handed out twice makes one order, or one refusal.
func TestIntakeOfARedeliveredMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	in := w.worker().intake
	for _, text := range []string{`{"id":"a","account":"ali","names":["a.example.com"]}`, `{`} {
		m := w.message([]byte(text))
		w.must(in.Accept(t.Context(), m))
		w.must(in.Accept(t.Context(), m))
	}
	counts, err := w.line.Counts(t.Context())
	w.must(err)
	if counts[order.Submit] != 1 || counts[order.Failed] != 1 {
		t.Errorf("%v", counts)
	}
}

// "Choose for me" is decided once, and by the names alone: two orders for the
// same names meet in one ledger.
func TestIntakeChoosesAnAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.accept(`{"id":"a","names":["a.example.com"]}`)
	w.accept(`{"id":"b","account":"any","names":["a.example.com"]}`)
	a, b := w.last("a"), w.last("b")
	if a.Account == "" || a.Account != b.Account || a.Main != b.Main {
		t.Errorf("a at %q, b at %q", a.Account, b.Account)
	}
	// Only "ten" takes a CSR for something already bought; else the id alone does
	// not tell whose it is, and any unused one will do.
	w.accept(withCSR(t, `{"id":"i","resource":"stage1","names":["i.example.com"],"csr":%s}`, "i.example.com"))
	if o := w.last("i"); o.Account != "ten" || o.Operation != orderSubmit {
		t.Errorf("i at %q, %s", o.Account, o.Operation)
	}
	w.accept(`{"id":"u","resource":"any","names":["u.example.com"]}`)
	if o := w.last("u"); o.Operation != dvAudit && o.Operation != orderSubmit {
		t.Errorf("u at %q, %s", o.Account, o.Operation)
	}
}

// withCSR puts a CSR for the names into a message.
func withCSR(t *testing.T, message string, names ...string) string {
	t.Helper()
	text, err := json.Marshal(issuertest.CSR(t, names...))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(message, text)
}
