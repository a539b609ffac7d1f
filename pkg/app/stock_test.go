package app

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// told is what a console says that stands in no order's record, in one text:
// what status says, and what stuck says.
func told(t *testing.T, c *Console) (status, stuck string) {
	t.Helper()
	one, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := c.Stuck(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return inLines(one.Troubles), inLines(other.Troubles)
}

func inLines(all []Trouble) string {
	var lines []string
	for _, t := range all {
		lines = append(lines, t.line())
	}
	return strings.Join(lines, "\n")
}

// awaitTold waits until status and stuck say something, or with "" nothing.
func awaitTold(t *testing.T, open func() *Console, words string) {
	t.Helper()
	status, stuck := "", ""
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		status, stuck = told(t, open())
		if words == "" && status+stuck == "" || words != "" && strings.Contains(status, words) && strings.Contains(stuck, words) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("they do not say %q but\n%s\n%s", words, status, stuck)
		}
	}
}

// TestRemovedOrderIsTold: an order at rest whose only message somebody deletes with
// the stock command is noticed by the ledger, told everywhere, and goes on, handed
// in again, with what was bought.
func TestRemovedOrderIsTold(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	world, c := openClouded(t, js.Conn().ConnectedUrl(), 1)
	slow := func(d time.Duration) {
		if err := world.sim.SetConfig(func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Between(d, d) }); err != nil {
			t.Fatal(err)
		}
	}
	slow(5 * time.Second)
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	startLogged(t, c, io.Discard, func(p *Process) { p.removedEvery = 300 * time.Millisecond }).work(t)
	console := openConsole(t, c)
	lost := order.Request{ID: "lost", Names: []string{"www.lost.example"}, Account: "aliyun-1"}
	in, err := console.handIn(t.Context(), []order.Request{lost}, false)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "it is at the CA", func() bool {
		it, err := console.Find(t.Context(), "lost")
		return err == nil && it.State == order.Issuing
	})
	same, anew := func() *Console { return console }, func() *Console { return openConsole(t, c) }
	awaitTold(t, same, "")
	it, err := console.Find(t.Context(), "lost")
	if err != nil {
		t.Fatal(err)
	}
	orders, err := js.Stream(t.Context(), pipeline.OrdersStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := orders.DeleteMsg(t.Context(), it.Seq); err != nil {
		t.Fatal(err)
	}
	awaitTold(t, anew, "order lost www.lost.example: nothing goes on with it; the ledger has its cloud order "+it.CloudID)
	left, err := console.Surplus(t.Context())
	if err != nil || !strings.Contains(strings.Join(whys(left), "\n"), "its message was removed") {
		t.Errorf("surplus: %+v, %v", left, err)
	}
	slow(0)
	if in, err = console.handIn(t.Context(), []order.Request{lost}, false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if all, err := console.follow(ctx, in.wanted, func(Progress) {}); err != nil || all["lost"].State != order.Issued || all["lost"].CloudID != it.CloudID {
		t.Errorf("%+v, %v", all["lost"], err)
	}
	awaitTold(t, anew, "")
	if bought := world.sim.Report(); len(bought.Orders) != 1 || len(bought.Duplicates) > 0 {
		t.Errorf("bought: %+v", bought.Orders)
	}
}

func whys(s Surplus) (all []string) {
	for _, l := range s.Left {
		all = append(all, l.Why)
	}
	return all
}

// TestEditedConsumersAreTold: while no worker runs that makes them anew, and lanes
// that nobody serves.
func TestEditedConsumersAreTold(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	c := withClouds(t, js.Conn().ConnectedUrl(), 1)
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	w := startWorkers(t, c)
	w.work(t)
	console := openConsole(t, c)
	orders, err := js.Stream(t.Context(), pipeline.OrdersStream)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "its consumer is there", func() bool {
		_, err := orders.Consumer(t.Context(), "submit-aliyun-1")
		return err == nil
	})
	same := func() *Console { return console }
	awaitTold(t, same, "")
	w.stop()
	<-w.ended
	if _, err := orders.PauseConsumer(t.Context(), "submit-aliyun-1", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	awaitTold(t, same, "consumer submit-aliyun-1 of stream ORDERS: pause is until")
	if _, err := js.Publish(t.Context(), pipeline.NewSubject, []byte(`{"names":["a.example.com"],"id":"a"}`)); err != nil {
		t.Fatal(err)
	}
	awaitTold(t, same, "no submitter takes orders: nobody takes order messages from the inbox (1)")
	startWorkers(t, c).work(t)
	awaitTold(t, same, "")
	cons, err := orders.Consumer(t.Context(), "submit-aliyun-1")
	if err != nil || cons.CachedInfo().Paused || cons.CachedInfo().Config.DeliverPolicy != jetstream.DeliverAllPolicy {
		t.Errorf("%+v, %v", cons.CachedInfo(), err)
	}
}
