package ledger

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"
)

// slowJetStream lets something happen between a write and whatever its writer
// does next.
type slowJetStream struct {
	jetstream.JetStream
	after func()
}

func (s *slowJetStream) Publish(ctx context.Context, subject string, data []byte, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ack, err := s.JetStream.Publish(ctx, subject, data, opts...)
	s.after()
	return ack, err
}

// Any sequence of operations by two orders, from fresh and from stale reads,
// keeps what the protocol rests on: at most one attempt is open, numbers only
// rise, a cloud order has one claim for ever, nothing is forgotten, and only
// one opening of a number succeeds.
func TestEntryModel(t *testing.T) {
	t.Parallel()
	l := openLedger(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := model{l: l, run: run, names: []string{fmt.Sprintf("r%d.example.com", run)}, claims: map[string]string{}, numbers: map[string]int{}, foreign: map[string]bool{}}
		m.stale = m.read(t)
		t.Repeat(map[string]func(*rapid.T){
			"begin":     m.begin,
			"ownerless": m.ownerless,
			"bought":    m.bought,
			"end":       m.end,
			"adopt":     m.adopt,
			"disown":    m.disown,
			"forgo":     m.forgo,
			"assign":    m.assign,
			"report":    m.report,
			"keep":      func(t *rapid.T) { m.stale = m.read(t) },
			"":          m.check,
		})
	})
}

type model struct {
	l       *Ledger
	run     int // cloud ids are never used twice
	names   []string
	stale   Entry             // a read of some earlier moment
	claims  map[string]string // order by cloud id
	numbers map[string]int    // last attempt by order
	foreign map[string]bool   // "order id"
}

func (m *model) read(t *rapid.T) Entry {
	e, err := m.l.Read(context.Background(), main, m.names)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (m *model) seen(t *rapid.T) Entry {
	if rapid.Bool().Draw(t, "stale") {
		return m.stale
	}
	return m.read(t)
}

func (m *model) draw(t *rapid.T) (Attempt, string) {
	a := Attempt{Order: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "order"),
		Purchase: rapid.IntRange(1, 2).Draw(t, "purchase"), Attempt: rapid.IntRange(1, 6).Draw(t, "attempt")}
	return a, fmt.Sprintf("%d-%s", m.run, rapid.SampledFrom([]string{"71", "72", "73"}).Draw(t, "cloud id"))
}

// known tells apart a refusal from a fault.
func known(t *rapid.T, err error) {
	if err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotOpener) && !errors.Is(err, ErrTaken) {
		t.Fatal(err)
	}
}

func (m *model) begin(t *rapid.T) {
	a, _ := m.draw(t)
	before := m.read(t)
	_, open, err := m.l.Begin(context.Background(), m.seen(t), a)
	known(t, err)
	if err != nil {
		return
	}
	if _, was := before.OpenAttempt(); was {
		t.Fatal("opened beside an open attempt")
	}
	if _, bought := before.Claim(a.Order, a.Purchase); bought {
		t.Fatal("opened for a purchase that has its claim")
	}
	if a.Attempt <= m.numbers[a.Order] {
		t.Fatalf("number %d of order %s was used twice", a.Attempt, a.Order)
	}
	if open.Token == "" || open.Ending != Open {
		t.Fatalf("the opener got %+v", open)
	}
}

func (m *model) ownerless(t *rapid.T) {
	a, _ := m.draw(t)
	known(t, m.l.BeginOwnerless(context.Background(), m.seen(t), a))
}

func (m *model) bought(t *rapid.T) {
	a, id := m.draw(t)
	known(t, m.l.Bought(context.Background(), main, m.names, a, id, "answered"))
}

func (m *model) end(t *rapid.T) {
	e := m.seen(t)
	a, ok := e.OpenAttempt()
	if !ok {
		return
	}
	known(t, m.l.End(context.Background(), main, m.names, a, rapid.SampledFrom([]Ending{Refused, NeverSent, NotBought}).Draw(t, "ending"), ""))
}

func (m *model) adopt(t *rapid.T) {
	a, id := m.draw(t)
	known(t, m.l.Adopt(context.Background(), main, m.names, a, id))
}

func (m *model) disown(t *rapid.T) {
	a, id := m.draw(t)
	known(t, m.l.Disown(context.Background(), main, m.names, a, id))
}

func (m *model) forgo(t *rapid.T) {
	a, _ := m.draw(t)
	err := m.l.Forgo(context.Background(), main, m.names, a, Cancelled, "")
	known(t, err)
	if _, _, err2 := m.l.Begin(context.Background(), m.stale, a); err == nil && err2 == nil {
		t.Fatal("an attempt was opened that had been given up")
	}
}

func (m *model) assign(t *rapid.T) {
	a, id := m.draw(t)
	known(t, m.l.Assign(context.Background(), main, m.names, Claim{CloudID: id, Order: a.Order, Purchase: a.Purchase}))
}

func (m *model) report(t *rapid.T) {
	_, id := m.draw(t)
	known(t, m.l.Report(context.Background(), main, m.names, Unclaimed{CloudID: id, Status: "CHECKING"}))
}

// check holds after every step.
func (m *model) check(t *rapid.T) {
	e := m.read(t)
	open := 0
	for _, a := range e.Attempts {
		if a.Ending == Open {
			open++
			if a.Opened.IsZero() {
				t.Fatal("an open attempt without a time")
			}
		} else if a.Provisional != "" {
			t.Fatalf("a closed attempt keeps a provisional row: %+v", a)
		}
		if a.Attempt < m.numbers[a.Order] {
			t.Fatalf("the number of order %s fell from %d to %d", a.Order, m.numbers[a.Order], a.Attempt)
		}
		m.numbers[a.Order] = a.Attempt
		for _, id := range a.Foreign {
			m.foreign[a.Order+" "+id] = true
		}
	}
	if open > 1 {
		t.Fatalf("%d attempts are open", open)
	}
	now := map[string]string{}
	for _, c := range e.Claims {
		if now[c.CloudID] != "" {
			t.Fatalf("cloud order %s has two claims", c.CloudID)
		}
		now[c.CloudID] = c.Order
	}
	for id, order := range m.claims {
		if now[id] != order {
			t.Fatalf("the claim of %s was %q and is %q", id, order, now[id])
		}
	}
	m.claims = now
	for key := range m.foreign {
		var order, id string
		if _, err := fmt.Sscan(key, &order, &id); err != nil {
			t.Fatal(err)
		}
		if e.Free(id, order) {
			t.Fatalf("forgot that %s is foreign for %s", id, order)
		}
	}
	for _, u := range e.Unclaimed {
		if now[u.CloudID] != "" {
			t.Fatalf("%s is claimed and unclaimed", u.CloudID)
		}
	}
}
