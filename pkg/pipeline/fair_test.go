package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
)

// taking is a Taker of messages that look like "account number". It notes them in
// the order in which they are accepted.
type taking struct {
	slow   time.Duration // each takes so long
	refuse func(m Message) error

	mu    sync.Mutex
	calls atomic.Int64
	seen  map[string]bool
	order []string // "publisher account number", each when it was accepted first
}

func (tk *taking) Account(data []byte) string {
	account, _, _ := strings.Cut(string(data), " ")
	return account
}

func (tk *taking) Accept(_ context.Context, m Message) error {
	tk.calls.Add(1)
	time.Sleep(tk.slow)
	if tk.refuse != nil {
		if err := tk.refuse(m); err != nil {
			return err
		}
	}
	tk.mu.Lock()
	defer tk.mu.Unlock()
	if what := m.Publisher + " " + string(m.Data); !tk.seen[what] {
		if tk.seen == nil {
			tk.seen = map[string]bool{}
		}
		tk.seen[what] = true
		tk.order = append(tk.order, what)
	}
	return nil
}

func (tk *taking) taken() []string {
	tk.mu.Lock()
	defer tk.mu.Unlock()
	return slices.Clone(tk.order)
}

func (tk *taking) count(prefix string) (n int) {
	for _, what := range tk.taken() {
		if strings.HasPrefix(what, prefix) {
			n++
		}
	}
	return n
}

// flood publishes many messages at once.
func flood(t testing.TB, l *Line, subject, account string, n int) {
	t.Helper()
	for i := range n {
		if _, err := l.js.PublishAsync(subject, fmt.Appendf(nil, "%s %d", account, i)); err != nil {
			t.Fatal(err)
		}
		if i%500 != 0 && i != n-1 {
			continue
		}
		select {
		case <-l.js.PublishAsyncComplete():
		case <-time.After(natstest.Patience):
			t.Fatal("timed out: the flood is stored")
		}
	}
}

func takes(t testing.TB, l *Line, urgent bool, tk Taker) {
	t.Helper()
	running(t, func(ctx context.Context) error { return l.Intake(ctx, urgent, tk) })
}

// emptied waits longer than for one event: it is a thousand of them.
func emptied(t testing.TB, l *Line) {
	t.Helper()
	for range 4 {
		for end := time.Now().Add(natstest.Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if n, err := l.Pending(t.Context()); err == nil && n == 0 {
				return
			}
		}
	}
	t.Fatal("timed out: the inbox empty")
}

// Behind thousands of one publisher, or for one account, another's first order is
// taken before 200 more of them; those of each queue come in their order, none is
// lost, and none is left. Both where the flood was there before the worker, and
// where the order comes in the middle of it.
func TestOnePublisherDoesNotHoldUpAnother(t *testing.T) {
	t.Parallel()
	const many, bound = 600, 200
	for _, tt := range []struct {
		name, flooded, of, other, account string
		urgent                            bool
		replicas                          int
	}{
		{"publishers", "orders.new.big", "acme", "orders.new.small", "acme", false, 1},
		{"accounts of a publisher", "orders.new.big", "acme", "orders.new.big", "other", false, 1},
		{"the plain subject and a publisher", "orders.new", "acme", "orders.new.small", "acme", false, 1},
		{"a publisher and the plain subject", "orders.new.big", "acme", "orders.new", "acme", false, 1},
		{"accounts of the plain subject", "orders.new", "acme", "orders.new", "other", false, 1},
		{"accounts on three servers", "orders.new", "acme", "orders.new", "other", false, 3},
		{"urgent publishers", "orders.urgent.big", "acme", "orders.urgent.small", "acme", true, 1},
		{"urgent accounts", "orders.urgent", "acme", "orders.urgent", "other", true, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := lineOfReplicas(t, tt.replicas)
			tk := &taking{slow: 2 * time.Millisecond} // as long as an order takes to be stored
			flood(t, l, tt.flooded, tt.of, many)
			publish(t, l, tt.other, []byte(tt.account+" first"))
			takes(t, l, tt.urgent, tk)
			await(t, "the other's order", func() bool { return tk.count(PublisherOf(tt.other)+" "+tt.account+" first") == 1 })
			before := slices.Index(tk.taken(), PublisherOf(tt.other)+" "+tt.account+" first")
			if before > bound {
				t.Errorf("%d were taken before it", before)
			}
			flooded := PublisherOf(tt.flooded) + " " + tt.of + " "
			await(t, "the flood is under way", func() bool { return tk.count(flooded) > many/10 })
			publish(t, l, tt.other, []byte(tt.account+" second"))
			was := tk.count(flooded)
			await(t, "the other's order", func() bool { return tk.count(PublisherOf(tt.other)+" "+tt.account+" second") == 1 })
			all := tk.taken()
			at := slices.Index(all, PublisherOf(tt.other)+" "+tt.account+" second")
			if more := at - was; more > bound {
				t.Errorf("%d more were taken before it", more)
			}
			emptied(t, l)
			if got := tk.count(""); got != many+2 {
				t.Errorf("%d of %d taken", got, many+2)
			}
			inOrder(t, tk.taken(), flooded)
		})
	}
}

// inOrder: several are accepted at a time, and those of a hand that is slow are
// overtaken by what the others take meanwhile.
func inOrder(t testing.TB, all []string, prefix string) {
	t.Helper()
	last := -1
	for _, what := range all {
		var n int
		if rest, ok := strings.CutPrefix(what, prefix); !ok {
			continue
		} else if _, err := fmt.Sscan(rest, &n); err != nil {
			continue
		}
		if n < last-200 {
			t.Fatalf("%s%d came after %d", prefix, n, last)
		}
		last = max(last, n)
	}
}

// Many publishers and accounts, known to nobody before, all have their share, and
// the one that floods has no more than one.
func TestEveryPublisherHasItsShare(t *testing.T) {
	t.Parallel()
	const publishers, accounts, each = 12, 3, 10
	l := openLine(t)
	flood(t, l, "orders.new.big", "acme", 1000)
	for p := range publishers {
		for a := range accounts {
			flood(t, l, fmt.Sprintf("orders.new.p%d", p), fmt.Sprintf("a%d", a), each)
		}
	}
	tk := &taking{slow: time.Millisecond}
	takes(t, l, false, tk)
	await(t, "all of the small ones", func() bool { return tk.count("p") == publishers*accounts*each })
	if n := tk.count("big"); n > publishers*accounts*each {
		t.Errorf("%d of the flood were taken meanwhile", n)
	}
	first := tk.taken()[:4*publishers]
	for p := range publishers {
		if !slices.ContainsFunc(first, func(what string) bool { return strings.HasPrefix(what, fmt.Sprintf("p%d ", p)) }) {
			t.Errorf("p%d has none of the first %d: %q", p, len(first), first)
		}
	}
	emptied(t, l)
}

// Two replicas share the work: what one of them accepted early the other finds
// known, and nothing is left.
func TestTwoReplicasTakeEarly(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	a, b := lineOn(t, s), lineOn(t, s)
	flood(t, a, "orders.new.big", "acme", 600)
	flood(t, a, "orders.new.small", "acme", 200)
	tk := &taking{}
	takes(t, a, false, tk)
	takes(t, b, false, tk)
	emptied(t, a)
	if n := tk.count(""); n != 800 {
		t.Errorf("%d of 800 taken", n)
	}
	inOrder(t, tk.taken(), "small acme ")
	if n := tk.calls.Load(); n > 1200 {
		t.Errorf("800 were accepted %d times", n)
	}
}

// An order that cannot be taken yet rests, and those behind it do not.
func TestWhatIsNotTakenYetHoldsUpNobody(t *testing.T) {
	restore := intakeRest
	intakeRest = 50 * time.Millisecond
	defer func() { intakeRest = restore }()
	l := openLine(t)
	flood(t, l, "orders.new.big", "acme", 1000)
	flood(t, l, "orders.new.small", "acme", 20)
	tries := map[string]int{}
	var mu sync.Mutex
	tk := &taking{slow: time.Millisecond, refuse: func(m Message) error {
		mu.Lock()
		defer mu.Unlock()
		if m.Publisher == "small" && string(m.Data) == "acme 0" {
			if tries["0"]++; tries["0"] < 3 {
				return errors.New("not yet")
			}
		}
		return nil
	}}
	takes(t, l, false, tk)
	await(t, "all of the small one but that", func() bool { return tk.count("small") >= 19 })
	if n := tk.count("big"); n > 500 {
		t.Errorf("%d of the flood were taken before", n)
	}
	await(t, "that, too", func() bool { return tk.count("small") == 20 })
	emptied(t, l)
}

// Without the right to look ahead orders are taken as they came.
func TestWithoutLookingAhead(t *testing.T) {
	t.Parallel()
	o := &server.Options{ServerName: "s", JetStream: true, StoreDir: t.TempDir(), Users: []*server.User{
		{Username: "all", Password: "x"},
		{Username: "few", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.MSG.GET.INTAKE"}}}},
	}}
	s := run(t, o)
	as := func(user string) jetstream.JetStream {
		nc, err := nats.Connect(s.ClientURL(), nats.UserInfo(user, "x"), nats.NoReconnect())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	js := as("all")
	if err := provision(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	l, err := Open(t.Context(), as("few"), "worker-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	flood(t, l, "orders.new.big", "acme", 100)
	tk := &taking{}
	takes(t, l, false, tk)
	await(t, "all taken", func() bool { return tk.count("") == 100 })
}
