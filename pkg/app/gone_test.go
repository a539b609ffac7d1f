package app

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// TestAccountThatIsGone: an order of an account that workers have in their config no
// more is told to be that, with what to write, not to wait for its turn; and so is an
// attempt that is open there. It takes seconds, for workers must have started and a
// sweep been made.
func TestAccountThatIsGone(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	c := withClouds(t, js.Conn().ConnectedUrl(), 1)
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	o := lay(t, js, c, named(order.Order{V: order.SchemaVersion, State: order.Submit, Received: time.Now()}, "lost"))
	main := c.Accounts["aliyun-1"].Main
	l, err := ledger.New(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	e, err := l.Read(t.Context(), main, []string{"open.example.com"})
	if err == nil {
		_, _, err = l.Begin(t.Context(), e, ledger.Attempt{Order: "open", Purchase: 1, Attempt: 1})
	}
	if err != nil {
		t.Fatal(err)
	}
	console := openConsole(t, c)
	const gone = "is in the config of no connected worker"
	if why := console.Why(t.Context(), o); strings.Contains(why, gone) {
		t.Errorf("while no worker is connected it says %q", why)
	}

	without := c
	without.Accounts = maps.Clone(c.Accounts)
	delete(without.Accounts, "aliyun-1")
	w := startWorkers(t, without)
	w.work(t)
	await(t, "the workers are seen", func() bool { return strings.Contains(console.Why(t.Context(), o), gone) })
	awaitTold(t, func() *Console { return openConsole(t, c) }, "no account of the workers' config is of main account "+main+" any more, and nobody finds out there")
	stuck, err := console.Stuck(t.Context(), time.Hour)
	if err != nil || len(stuck.Groups) != 1 || stuck.Groups[0].Cause != "account aliyun-1 is in no worker's config" ||
		!strings.Contains(stuck.Groups[0].Example.Advice, "accounts.aliyun-1") {
		t.Errorf("stuck: %+v, %v", stuck.Groups, err)
	}
	if status, err := console.Status(t.Context()); err != nil || !strings.Contains(status.Accounts[0].State, gone) {
		t.Errorf("status: %+v, %v", status.Accounts, err)
	}
	// A server that was killed brings a state back that an order has left, and nobody
	// is handed it: it is no second order.
	now := order.Order{V: order.SchemaVersion, State: order.Issuing, CloudID: "1", Received: time.Now()}
	lay(t, js, c, named(now, "lost"))
	await(t, "it is counted once", func() bool {
		status, err := console.Status(t.Context())
		return err == nil && status.States[order.Issuing] == 1 && status.States[order.Submit] == 0
	})
	var listed []order.State
	err = console.Each(t.Context(), "", func(it pipeline.Item) error { listed = append(listed, it.State); return nil }, nil)
	if err != nil || !slices.Equal(listed, []order.State{order.Issuing}) {
		t.Errorf("list: %v, %v", listed, err)
	}
	stuck, err = console.Stuck(t.Context(), 0)
	if err != nil || len(stuck.Groups) != 1 || !slices.Equal(stuck.Groups[0].IDs, []string{"lost"}) ||
		stuck.Groups[0].Example.State != order.Issuing {
		t.Errorf("stuck: %+v, %v", stuck.Groups, err)
	}
	w.stop()
	<-w.ended
	startWorkers(t, c).work(t)
	await(t, "it is there again", func() bool {
		it, err := console.Find(t.Context(), o.ID())
		return err == nil && !strings.Contains(console.Why(t.Context(), it.Order), gone)
	})
	await(t, "status says so", func() bool { // also where the order was moved before that was looked at again
		status, err := console.Status(t.Context())
		return err == nil && !strings.Contains(status.Accounts[0].State, gone)
	})
}
