package app

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/lab/smalldisk"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
)

// Of the long form, which .ci/long disk runs: at how many moments of a run the
// disk gets full, how long it stays so, and how many of these runs there are at a
// time.
var (
	moments = flag.Int("disk-moments", 2, "moments of a run at which the disk is full for a while")
	fullFor = flag.Duration("disk-full", time.Second, "how long the disk is full")
	atOnce  = flag.Int("disk-at-once", 4, "runs at a time")
)

// smallDisk is a folder on a disk that can be filled.
func smallDisk(t *testing.T) *smalldisk.Disk {
	t.Helper()
	d, err := smalldisk.Mount(filepath.Join(t.TempDir(), "disk"))
	if errors.Is(err, smalldisk.ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// TestFullDisk: the disk of a run, with everything on it, is full for a while, at
// one moment after another. Every order ends issued, none is bought twice, and
// the simulator's books agree with those of its next life.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	const length = 2 * time.Second // orders are under way for, at least
	file := manyOrders(t, 8)
	var restarts atomic.Int32
	g, _ := limited(t.Context(), *atOnce)
	for n := range *moments {
		d := smallDisk(t)
		f := fullRun{disk: d, file: file, orders: 8, left: rand.Int64N(48 << 10),
			at: length * time.Duration(2*n+1) / time.Duration(2**moments)}
		if n%2 == 1 {
			f.left = 0
		}
		g.Go(func() error {
			if err := f.run(t.Context(), &restarts); err != nil {
				t.Errorf("full at %v but for %d bytes: %v", f.at, f.left, err)
				return nil
			}
			checkDelivered(t, filepath.Join(d.Dir, "certs"), f.orders)
			return nil
		})
	}
	_ = g.Wait()
	for more := 0; restarts.Load() == 0 && more < 6; more++ { // none of them met a write
		f := fullRun{disk: smallDisk(t), file: file, orders: 8, at: length * time.Duration(more+1) / 8}
		if err := f.run(t.Context(), &restarts); err != nil {
			t.Fatalf("full at %v: %v", f.at, err)
		}
	}
	if restarts.Load() == 0 {
		t.Error("the server was never started anew: nothing was tried")
	}
}

// TestFullDiskElsewhere: the disk of a nats-server that is not ours is full for a
// while. It is told once in the log, by /readyz, status and stuck, why nothing is
// stored and what helps, and that it is over once the server was started anew.
func TestFullDiskElsewhere(t *testing.T) {
	t.Parallel()
	d := smallDisk(t)
	server, err := StartEmbedded(d.Dir, NATS{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	world, c := openClouded(t, server.URL(), 1)
	c.NATS = server.As(Admin)
	c.NATS.Replicas = 1
	if err := world.sim.SetConfig(func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Between(4*time.Second, 4*time.Second) }); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	var log lockedLog
	w := startLogged(t, c, &log, func(*Process) {})
	w.work(t)
	console := openConsole(t, c)
	var wanted []order.Request // more than fits into what the last pages have left
	for n := range 12 {
		id := fmt.Sprint("full-", n)
		wanted = append(wanted, order.Request{ID: id, Names: []string{"www." + id + ".example"}, Account: "aliyun-1"})
	}
	in, err := console.handIn(t.Context(), wanted, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Fill(0); err != nil {
		t.Fatal(err)
	}
	const words = "stream ORDERS takes no messages"
	awaitTold(t, func() *Console { return console }, words)
	await(t, "/readyz says so", func() bool { return strings.Contains(w.ready.why(), words) })
	if why := w.ready.why(); !strings.Contains(why, "no space left on device") || !strings.Contains(why, "restart the nats-server") {
		t.Errorf("it says %q", why)
	}
	if err := d.Free(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * groundEvery)
	if why := w.ready.why(); !strings.Contains(why, words) {
		t.Errorf("with room again, and the server as it was, it says %q", why)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	await(t, "/readyz is well", func() bool { return w.ready.why() == "" })
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
	defer cancel()
	all, err := console.follow(ctx, in.wanted, func(Progress) {})
	for _, r := range wanted {
		if err != nil || all[r.ID].State != order.Issued {
			t.Errorf("%s: %+v, %v", r.ID, all[r.ID], err)
		}
	}
	awaitTold(t, func() *Console { return console }, "")
	if n := strings.Count(log.String(), `"msg":"`+words); n != 1 {
		t.Errorf("it was told %d times:\n%s", n, log.String())
	}
}

// lockedLog may be read while it is written.
type lockedLog struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// fullRun is a run whose disk is full for a while.
type fullRun struct {
	disk   *smalldisk.Disk
	file   string
	orders int
	at     time.Duration // after which it gets full, from when orders are under way
	left   int64         // bytes that are left then
}

func (f fullRun) run(ctx context.Context, restarts *atomic.Int32) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	filled := make(chan error, 1)
	go func() {
		f.underWay(ctx)
		time.Sleep(f.at)
		err := f.disk.Fill(f.left)
		time.Sleep(*fullFor)
		filled <- errors.Join(err, f.disk.Free())
	}()
	var log bytes.Buffer
	opt := RunOptions{Config: inDir(f.disk.Dir), Files: []string{f.file}, Log: NewLogger(&log, "warn"), View: &seen{}}
	sum, err := Run(ctx, opt)
	for noRoom(err) { // while it started: it says so and ends
		time.Sleep(200 * time.Millisecond)
		sum, err = Run(ctx, opt)
	}
	restarts.Add(int32(strings.Count(log.String(), "started anew")))
	if err = errors.Join(err, <-filled); err != nil || !sum.OK() || sum.Issued != f.orders {
		return fmt.Errorf("%+v, %w\n%s", sum, err, log.String())
	}
	return f.books()
}

// underWay waits until orders have keys: the streams are made then, and are written to.
func (f fullRun) underWay(ctx context.Context) {
	for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		keys, _ := filepath.Glob(filepath.Join(inDir(f.disk.Dir).Keys.Store, "??", "*", "*"))
		if len(keys) > 0 {
			return
		}
	}
}

// noRoom: a file could not be written, or the server made no stream for want of room.
func noRoom(err error) bool {
	const insufficient jetstream.ErrorCode = 10047
	api, is := errors.AsType[*jetstream.APIError](err)
	return errors.Is(err, syscall.ENOSPC) || is && api.ErrorCode == insufficient
}

// books looks at the simulator's books in its next life.
func (f fullRun) books() error {
	h, err := openHouse(context.Background(), inDir(f.disk.Dir), NewLogger(io.Discard, "error"))
	if err != nil {
		return err
	}
	defer func() { _ = h.close() }()
	r, bought := h.world.sim.Report(), 0
	for _, o := range r.Orders {
		if o.Spent {
			bought++
		}
	}
	if len(r.Duplicates) > 0 || bought != f.orders {
		return fmt.Errorf("%d were bought, twice: %+v", bought, r.Duplicates)
	}
	return nil
}

func manyOrders(t *testing.T, n int) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("id,names\n")
	for i := range n {
		fmt.Fprintf(&b, "full-%d,w%d.full.example.com\n", i, i)
	}
	path := filepath.Join(t.TempDir(), "orders.csv")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
