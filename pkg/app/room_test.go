package app

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

const mega = 1 << 20

// limited starts a server that stores at most so many bytes, all of them of one
// account if that is told so, on the same folder as another one before it.
func limitedServer(t testing.TB, dir string, most int64, account bool) *server.Server {
	t.Helper()
	o := &server.Options{ServerName: "small", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: dir, JetStreamMaxStore: most, JetStreamMaxMemory: 64 * mega}
	if account {
		o.JetStreamMaxStore = 8 << 30
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not become ready")
	}
	if account {
		limits := map[string]server.JetStreamAccountLimits{"": {MaxMemory: -1, MaxStore: most, MaxStreams: -1, MaxConsumers: -1}}
		if err := s.GlobalAccount().UpdateJetStreamLimits(limits); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func bound(t testing.TB, js jetstream.JetStream) int64 {
	t.Helper()
	s, err := js.Stream(t.Context(), pipeline.IntakeStream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config.MaxBytes
}

// The inbox reserves a tenth of what the NATS account may store, and at most
// 4 GiB. Once made it stays as it is, also where less is free than it reserves.
func TestTheInboxLeavesRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := limitedServer(t, dir, 300*mega, true)
	c := at(s.ClientURL(), 1)
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	js := natstest.Connect(t, s)
	if got := bound(t, js); got != 30*mega {
		t.Errorf("of 300 MiB it has %d", got)
	}
	before := natstest.Take(t, js)
	s.Shutdown()
	s.WaitForShutdown()

	less := limitedServer(t, dir, 20*mega, false)
	if made, err := Init(t.Context(), at(less.ClientURL(), 1), quiet); err != nil {
		t.Errorf("where less is free than it reserves: %v, %v", made, err)
	}
	js = natstest.Connect(t, less)
	before.Same(t, js)
	if _, err := pipeline.Publish(t.Context(), js, pipeline.NewSubject, []byte("{}")); err != nil {
		t.Errorf("an order: %v", err)
	}
	if _, _, err := stand(t.Context(), js, 1); err != nil {
		t.Errorf("a worker: %v", err)
	}
}

// Any bound will do; none is another stream.
func TestAnInboxWithoutABoundIsRefused(t *testing.T) {
	want := pipeline.IntakeConfig(1)
	is := want
	is.Metadata = map[string]string{stream.FormatKey: fmt.Sprint(stream.Format)}
	for _, bytes := range []int64{mega, 5 << 30} {
		if is.MaxBytes = bytes; stream.Verify(is, want) != nil {
			t.Errorf("%d bytes: %v", bytes, stream.Verify(is, want))
		}
	}
	for _, bytes := range []int64{-1, 0} {
		if is.MaxBytes = bytes; stream.Verify(is, want) == nil {
			t.Errorf("%d bytes are no bound", bytes)
		}
	}
}

// The embedded server knows what is free on the disk; of 300 MB a tenth is
// reserved.
func TestTheEmbeddedInboxLeavesRoom(t *testing.T) {
	t.Parallel()
	small := limitedServer(t, t.TempDir(), 225*mega, false) // as a server takes of 300
	e := &Embedded{server: small}
	if got := e.free(); got != 300*mega {
		t.Fatalf("free are %d", got)
	}
	if _, err := initIn(t.Context(), at(small.ClientURL(), 1), e.free(), quiet); err != nil {
		t.Fatal(err)
	}
	if got := bound(t, natstest.Connect(t, small)); got != 30*mega {
		t.Errorf("of 300 MiB it has %d", got)
	}
	for free, want := range map[int64]int64{0: 4 << 30, 1: mega, 100 * mega: 10 * mega, 1 << 40: 4 << 30} {
		if got := pipeline.IntakeBytes(free); got != want {
			t.Errorf("of %d it gets %d, want %d", free, got, want)
		}
	}
}
