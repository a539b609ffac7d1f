package main

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
)

// holding is an installation in which an order is held.
type holding struct {
	t  *testing.T
	js jetstream.JetStream
	at string
}

func newHolding(t *testing.T) holding {
	t.Helper()
	for _, name := range []string{"CERTMILL_CONFIG", "CERTMILL_NATS"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	h := holding{t, natstest.Connect(t, natstest.Server(t)), ""}
	h.at = h.js.Conn().ConnectedUrl()
	c := app.Defaults()
	c.NATS, c.Keys.Store = app.NATS{URL: h.at, Replicas: 1}, filepath.Join(t.TempDir(), "keys")
	if _, err := app.Init(t.Context(), c, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	return h
}

// hold lays an order that is held for a fact.
func (h holding) hold(id, fact, reason string) {
	h.t.Helper()
	o := orderIn(order.Held)
	o.Request.ID, o.Operation, o.Product = id, "Buy", "the-product"
	o.Hold = &order.Hold{Reason: reason, From: order.Submit, Fact: fact, Commands: []string{"certmill approve " + id}}
	h.lay(o)
}

func (h holding) state(id string) string {
	h.t.Helper()
	out, err := execute(h.t, "--nats", h.at, "-o", "json", "show", id)
	if err != nil {
		h.t.Fatal(err)
	}
	_, state, _ := strings.Cut(out, `"state": "`)
	state, _, _ = strings.Cut(state, `"`)
	return state
}

// answers runs certmill approve, which asks, and gives the word when before has
// been done. asked is what it wrote until then.
func (h holding) answers(word string, before func(), args ...string) (asked string, err error) {
	h.t.Helper()
	return h.asked(word, before, append([]string{"--nats", h.at, "approve"}, args...)...)
}

// asked is answers for any command; where it does not ask, what it wrote at all.
func (h holding) asked(word string, before func(), args ...string) (asked string, err error) {
	h.t.Helper()
	stdin, stderr := os.Stdin, os.Stderr
	defer func() { os.Stdin, os.Stderr = stdin, stderr }()
	in, answer, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	question, out, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	os.Stdin, os.Stderr = in, out
	said := make(chan string, 1)
	go func() {
		text, r := "", bufio.NewReader(question)
		for !strings.Contains(text, "to go on:") {
			more, err := r.ReadString(':')
			if text += more; err != nil {
				break
			}
		}
		before()
		_, _ = io.WriteString(answer, word+"\n")
		said <- text
	}()
	_, err = execute(h.t, args...)
	_ = out.Close()
	return <-said, errors.Join(err, answer.Close())
}

// TestApproveAnswersTheHoldThatWasShown: an approval of one order says the fact and
// the cost, and asks; what the order is held for by the time that the answer comes
// is not approved by it (DESIGN 12.2).
func TestApproveAnswersTheHoldThatWasShown(t *testing.T) {
	h := newHolding(t)
	h.hold("x", "cloud order 7 unclaimed", "cloud order 7 is there. approve buys one more certificate")
	again := func() { h.hold("x", "order y in service until 2027", "order y is in service") }
	asked, err := h.answers("x", again, "x")
	if err == nil || h.state("x") != "held" {
		t.Errorf("approved, though it is held for something else by now: %v, %s", err, h.state("x"))
	}
	for _, says := range []string{"cloud order 7 unclaimed", "approve buys one more certificate", "one of the-product (ali Buy)", "its id, x,"} {
		if !strings.Contains(asked, says) {
			t.Errorf("it does not say %q but %s", says, asked)
		}
	}
	if _, err := h.answers("no", func() {}, "x"); err == nil || h.state("x") != "held" {
		t.Errorf("approved without the word: %v", err)
	}
	if asked, err := h.answers("x", func() {}, "x"); err != nil || h.state("x") != "submit" || !strings.Contains(asked, "order y in service until 2027") {
		t.Errorf("%v, now %s; %s", err, h.state("x"), asked)
	}
}

// lay lays an order in a state.
func (h holding) lay(o order.Order) {
	h.t.Helper()
	body, err := o.Encode()
	if err == nil {
		_, err = h.js.Publish(h.t.Context(), order.Subject(o.State, o.ID(), o.Lane()), body)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// TestNobodyIsAskedForNothing: a verb looks whether it would be refused before it asks
// for a word; of several orders it asks about those that it can do.
func TestNobodyIsAskedForNothing(t *testing.T) {
	h := newHolding(t)
	h.hold("x", "cloud order 7 unclaimed", "cloud order 7 is there")
	h.lay(orderIn(order.Issued))
	h.lay(orderIn(order.Submit))
	failed := orderIn(order.Failed)
	failed.Operation = "Buy"
	h.lay(failed)
	config := filepath.Join(t.TempDir(), "certmill.yaml")
	if err := os.WriteFile(config, []byte("nats: {url: '"+h.at+"'}\nkeys: {store: nowhere}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"approve", "issued-1"}, "1 of 1 orders were refused"},
		{[]string{"approve", "nosuch"}, "1 of 1 orders were refused"},
		{[]string{"buy-again", "submit-1"}, "1 of 1 orders were refused"},
		{[]string{"buy-again", "failed-1", "x"}, "2 of 2 orders were refused"},
		{[]string{"-c", config, "accept-store"}, "certmill accept-store --new"},
	} {
		asked, err := h.asked("yes", func() {}, append([]string{"--nats", h.at}, tt.args...)...)
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(asked, "to go on") {
			t.Errorf("%v: %v: it asked %q", tt.args, err, asked)
		}
	}
	asked, err := h.answers("1", func() {}, "issued-1", "x")
	if !strings.Contains(asked, "the number of orders, 1, to go on") || err == nil || !strings.Contains(err.Error(), "1 of 2 orders were refused") || h.state("x") != "submit" {
		t.Errorf("%v, x is %s: it asked %q", err, h.state("x"), asked)
	}
}

// TestOrderAgainAsks: what is bought once more by a line that says so, or by the
// command, is told with its cost and asked about; one that is known, new or names its
// predecessor is not.
func TestOrderAgainAsks(t *testing.T) {
	h := newHolding(t)
	file := func(name, lines string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte("id,names,account,again\n"+lines), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ended := orderIn(order.Issued)
	ended.Operation, ended.Product, ended.Request.Account = "Buy", "the-product", "ali"
	ended.Hash = ended.Request.Hash()
	h.lay(ended)
	inbox := func() int {
		n := 0
		for _, of := range intakeOf(t, h.js) {
			n += of
		}
		return n
	}
	plain, column := file("plain.csv", "issued-1,www.issued-1.example,ali,\n"), file("column.csv", "issued-1,www.issued-1.example,ali,true\n")
	byID := file("id.csv", "issued-1,www.issued-1.example,ali,issued-1\n")
	for _, args := range [][]string{{"order", "--again", plain}, {"order", column}} {
		asked, err := h.asked("no", func() {}, append([]string{"--nats", h.at}, args...)...)
		if err == nil || !strings.Contains(err.Error(), "nothing was done") || inbox() != 0 {
			t.Errorf("%v: %v, %d handed in", args, err, inbox())
		}
		for _, says := range []string{"is bought once more: 1 order of the-product (ali Buy)", "issued-1-2, after issued-1", "it buys yet another each time", "to go on"} {
			if !strings.Contains(asked, says) {
				t.Errorf("%v: it does not say %q but %s", args, says, asked)
			}
		}
	}
	for i, args := range [][]string{{"order", "--again", "--yes", plain}, {"order", byID}} {
		asked, err := h.asked("no", func() {}, append([]string{"--nats", h.at}, args...)...)
		if err != nil || strings.Contains(asked, "to go on") || inbox() != i+1 {
			t.Errorf("%v: %v, %d handed in; it asked %q", args, err, inbox(), asked)
		}
	}
	asked, err := h.asked("1", func() {}, "--nats", h.at, "order", "--again", plain)
	if err != nil || !strings.Contains(asked, "to go on") || inbox() != 3 {
		t.Errorf("with the word: %v, %d handed in", err, inbox())
	}
	if asked, err := h.asked("no", func() {}, "--nats", h.at, "order", plain); err != nil || strings.Contains(asked, "to go on") || inbox() != 3 {
		t.Errorf("a known line: %v, %q", err, asked)
	}
}

// TestApproveOfAFact: whoever names the fact is not asked, and approves that fact
// only. With --yes it is said which was approved.
func TestApproveOfAFact(t *testing.T) {
	h := newHolding(t)
	h.hold("x", order.Facts("deadline", "budget of b"), "two facts")
	for _, facts := range [][]string{{"deadline"}, {"budget of b", "deadline"}, {"deadline, budget of b"}} {
		args := []string{"--nats", h.at, "approve", "x"}
		for _, f := range facts {
			args = append(args, "--fact", f)
		}
		if _, err := execute(t, args...); err == nil || h.state("x") != "held" {
			t.Errorf("%q: %v, %s", facts, err, h.state("x"))
		}
	}
	out, err := execute(t, "--nats", h.at, "approve", "x", "--fact", "deadline", "--fact", "budget of b")
	if err != nil || h.state("x") != "submit" {
		t.Errorf("%v: %s", err, out)
	}
	h.hold("y", "deadline", "late")
	out, err = execute(t, "--nats", h.at, "approve", "y", "--yes")
	if err != nil || h.state("y") != "submit" || !strings.Contains(out, "approved: deadline; it may spend one of the-product") {
		t.Errorf("%v: %s", err, out)
	}
	for _, args := range [][]string{{"approve", "--batch", "nosuch"}, {"retry", "--cause", "nosuch"}, {"buy-again", "--batch", "nosuch"}} {
		if out, err := execute(t, append([]string{"--nats", h.at}, args...)...); err == nil || !strings.Contains(err.Error(), `"nosuch"`) {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
}
