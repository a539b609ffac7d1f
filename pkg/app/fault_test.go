package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/durable"
	"github.com/certmill/certmill/pkg/durable/durabletest"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
)

// everyStep: .ci/long disk lets each single step of writing a file fail, the test
// that everybody runs some of them.
var everyStep = flag.Bool("disk-every-step", false, "let each step of writing a file fail, not only some")

// chosen are the steps that are tried, of so many.
func chosen(steps, few int) (all []int) {
	pace := max(steps/few, 1)
	if *everyStep {
		pace = 1
	}
	for n := 1; n <= steps; n += pace {
		all = append(all, n)
	}
	return all
}

// TestHouseOnAFailingDisk: whichever step fails of what certmill run writes into
// its state folder when it starts, it says so, or has tried again by itself as with
// the key store, and starts the next time.
func TestHouseOnAFailingDisk(t *testing.T) {
	t.Parallel()
	start := func(dir string) error {
		h, err := openHouse(context.Background(), inDir(dir), quiet)
		if err != nil {
			return err
		}
		return h.close()
	}
	steps := countSteps(t, start)
	g, _ := limited(t.Context(), 3)
	for _, n := range chosen(steps, 5) {
		dir := t.TempDir()
		g.Go(func() error {
			failed, mend := durabletest.At(dir, n)
			err := start(dir)
			mend()
			if failed() != "" && err != nil && !durabletest.Failed(err) {
				t.Errorf("step %d of %d, %s: it says %v", n, steps, failed(), err)
			}
			for range 2 {
				if err := start(dir); err != nil {
					t.Errorf("after step %d of %d, %s: %v", n, steps, failed(), err)
				}
			}
			return nil
		})
	}
	_ = g.Wait()
}

func countSteps(t *testing.T, work func(dir string) error) int {
	t.Helper()
	dir := t.TempDir()
	var steps atomic.Int32
	mend := durable.Break(dir, func(durable.Step, string) error { steps.Add(1); return nil })
	defer mend()
	if err := work(dir); err != nil {
		t.Fatal(err)
	}
	if steps.Load() < 8 {
		t.Errorf("only %d steps are taken", steps.Load())
	}
	return int(steps.Load())
}

// TestWorkersOnAFailingDisk: whichever step fails of what the workers write (keys,
// numbers, copies of placements, certificates), every order ends issued, none is
// bought twice, and what is delivered is whole.
func TestWorkersOnAFailingDisk(t *testing.T) {
	t.Parallel()
	steps := countSteps(t, func(dir string) error { return issueIn(t, dir, func() {}) })
	g, _ := limited(t.Context(), 4)
	for _, n := range chosen(steps, 4) {
		dir := t.TempDir()
		g.Go(func() error {
			failed, mend := func() durable.Step { return "" }, func() {}
			err := issueIn(t, dir, func() { failed, mend = durabletest.At(dir, n) })
			mend()
			if err != nil {
				t.Errorf("step %d of %d, %s: %v", n, steps, failed(), err)
			}
			return nil
		})
	}
	_ = g.Wait()
}

// issueIn lets workers of their own issue two orders, with everything below a
// folder. begin is called when they work.
func issueIn(t *testing.T, dir string, begin func()) error {
	c := inDir(dir)
	c.NATS.URL, c.NATS.Replicas, c.Log = natstest.Server(t).ClientURL(), 1, "error"
	c.Keys.Identity = filepath.Join(c.State, "identity.age")
	c.DCV.Copy = filepath.Join(dir, "placed")
	w, c, err := openWorld(context.Background(), c, quiet)
	if err != nil {
		return err
	}
	defer func() { _ = w.close() }()
	c.Accounts = fewer(c.Accounts)
	if err := errors.Join(shortWaits(w, c), w.begin(c)); err != nil {
		return err
	}
	if _, err := Init(t.Context(), c, quiet); err != nil {
		return err
	}
	p, err := NewProcess(c, "test", true, quiet, order.Roles...)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, order.Roles...) }()
	defer func() { stop(); <-ended }()
	console, err := OpenConsole(ctx, c, quiet)
	if err != nil {
		return err
	}
	defer console.Close()
	begin()
	in, err := console.handIn(ctx, []order.Request{
		{ID: "a", Names: []string{"www.a.example"}, Account: "aliyun-1"},
		{ID: "b", Names: []string{"www.b.example"}, Account: "tencent-1", Validation: order.FILE},
	}, false)
	if err != nil {
		return err
	}
	all, err := console.follow(ctx, in.wanted, func(Progress) {})
	for _, id := range []string{"a", "b"} {
		if all[id].State != order.Issued {
			err = errors.Join(err, fmt.Errorf("%s is %s: %+v", id, all[id].State, all[id].Timeline))
		}
	}
	if err != nil {
		return err
	}
	checkDelivered(t, filepath.Join(dir, "certs"), 2)
	if twice := w.sim.Report().Duplicates; len(twice) > 0 {
		return fmt.Errorf("bought twice: %+v", twice)
	}
	return nil
}

// shortWaits lets it be known soon what became of a purchase.
func shortWaits(w *world, c Config) error {
	for label, a := range c.Accounts {
		a.EntryLife, a.SignatureLife, a.Clocks, a.ListLag = time.Second, 2*time.Second, time.Second, time.Second
		c.Accounts[label] = a
	}
	return w.sim.SetConfig(func(c *cloudsim.Config) {
		c.AliyunSignatureLife, c.TencentSignatureLife = cloudsim.Duration(2*time.Second), cloudsim.Duration(2*time.Second)
	})
}
