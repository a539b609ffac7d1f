package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// at is a config that knows a server and nothing else.
func at(url string, replicas int) Config {
	c := Defaults()
	c.NATS.URL, c.NATS.Replicas, c.State = url, replicas, sharedState
	c.fill()
	return c
}

// made says which streams Init made, and which of them were lost.
func made(all []Made) (made, lost string) {
	for _, m := range all {
		if m.Name == KeyStoreName {
			continue
		}
		if m.Made {
			made += m.Name + " "
		}
		if m.Lost != "" {
			lost += m.Name + " "
		}
	}
	return made, lost
}

const everything = "LEDGER PLACED KV_ACCOUNTS KV_CHALLENGES INTAKE ORDERS "

// TestInit: what must never be lost is made once, with the replicas of the
// config, and left alone from then on.
func TestInit(t *testing.T) {
	t.Parallel()
	servers := natstest.Cluster(t)
	js := natstest.Connect(t, servers[0])
	c := at(servers[0].ClientURL(), 3)
	all, err := Init(t.Context(), c, quiet)
	if m, lost := made(all); err != nil || m != everything || lost != "" {
		t.Fatalf("made %q, lost %q, %v", m, lost, err)
	}
	before := natstest.Take(t, js)
	for name, is := range before {
		if strings.HasPrefix(name, "stream ") && !strings.Contains(is, `"num_replicas":3`) {
			t.Errorf("%s: %s", name, is)
		}
	}
	if len(before) != 6 {
		t.Errorf("there are %d things: %v", len(before), before)
	}
	all, err = Init(t.Context(), c, quiet)
	if m, lost := made(all); err != nil || m+lost != "" || len(all) != 7 {
		t.Errorf("again: made %q, lost %q, %v", m, lost, err)
	}
	_, err = Init(t.Context(), at(servers[0].ClientURL(), 1), quiet)
	if d, differs := errors.AsType[*stream.Differs](err); !differs || d.Stream != ledger.StreamName {
		t.Errorf("asked for one replica: %v", err)
	}
	before.Same(t, js)
}

// TestInitAtOnce: of several, each stream is made by one.
func TestInitAtOnce(t *testing.T) {
	t.Parallel()
	c := at(natstest.Server(t).ClientURL(), 1)
	var mu sync.Mutex
	count := map[string]int{}
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			all, err := Init(t.Context(), c, quiet)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			for _, m := range all {
				if m.Made {
					count[m.Name]++
				}
			}
		})
	}
	g.Wait()
	for _, want := range lasting(1) {
		if count[want.Name] != 1 {
			t.Errorf("%s was made %d times", want.Name, count[want.Name])
		}
	}
}

// TestInitRefuses: beside something that is not as it must be, nothing is made.
func TestInitRefuses(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]func(*jetstream.StreamConfig){
		"forgets":        func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 },
		"another format": func(c *jetstream.StreamConfig) { c.Metadata = map[string]string{stream.FormatKey: "3"} },
		"no format":      func(c *jetstream.StreamConfig) { c.Metadata = nil },
	} {
		js := natstest.Connect(t, natstest.Server(t))
		cfg := pipeline.OrdersConfig(1) // the last one
		cfg.Metadata = map[string]string{stream.FormatKey: "2"}
		off(&cfg)
		if _, err := js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		before := natstest.Take(t, js)
		ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience) // it tries again what may pass
		defer cancel()
		all, err := Init(ctx, at(js.Conn().ConnectedUrl(), 1), quiet)
		if !decided(err) || len(all) > 0 || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%s: made %v, %v", name, all, err)
		}
		before.Same(t, js)
	}
}

// TestInitSaysWhatHelps: what a server refuses for good is not asked for again,
// and what was made before that is told.
func TestInitSaysWhatHelps(t *testing.T) {
	t.Parallel()
	small, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 1 << 30, JetStreamMaxMemory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	small.Start()
	t.Cleanup(small.Shutdown)
	if !small.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not become ready")
	}
	all, err := Init(t.Context(), at(small.ClientURL(), 1), quiet)
	if m, _ := made(all); err == nil || !strings.Contains(err.Error(), "max_file_store") || !strings.HasPrefix(everything, m) || m == "" {
		t.Errorf("of a small server: made %q, %v", m, err)
	}
	_, err = Init(t.Context(), at(natstest.Server(t).ClientURL(), 3), quiet)
	if err == nil || !strings.Contains(err.Error(), "nats.replicas: 1") {
		t.Errorf("three replicas on a single server: %v", err)
	}
}

// TestInitOverSeveralTries tells what each of them made.
func TestInitOverSeveralTries(t *testing.T) {
	first := []Made{{Name: "LEDGER", Made: true, Lost: "much"}, {Name: "PLACED"}}
	for _, tt := range []struct{ now, want []Made }{
		{nil, first},
		{[]Made{{Name: "LEDGER"}}, first},
		{[]Made{{Name: "LEDGER"}, {Name: "PLACED"}, {Name: "ORDERS", Made: true}}, append(slices.Clone(first), Made{Name: "ORDERS", Made: true})},
	} {
		if got := together(first, tt.now); !slices.Equal(got, tt.want) {
			t.Errorf("with %v: %v", tt.now, got)
		}
	}
}

// TestInitAfterALoss: what is missing beside the others was lost, and it is said;
// a lost ledger begins a new incarnation.
func TestInitAfterALoss(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	c := at(js.Conn().ConnectedUrl(), 1)
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	for _, want := range lasting(1) {
		if _, err := js.Publish(t.Context(), "claim.100.c1", nil); err != nil { // the ledger has seen use
			t.Fatal(err)
		}
		before, err := pipeline.Incarnation(t.Context(), js)
		if err != nil {
			t.Fatal(err)
		}
		if err := js.DeleteStream(t.Context(), want.Name); err != nil {
			t.Fatal(err)
		}
		all, err := Init(t.Context(), c, quiet)
		if m, lost := made(all); err != nil || m != want.Name+" " || lost != want.Name+" " {
			t.Errorf("%s: made %q, lost %q, %v", want.Name, m, lost, err)
		}
		after, err := pipeline.Incarnation(t.Context(), js)
		if err != nil {
			t.Fatal(err)
		}
		if begins := want.Name == ledger.StreamName || want.Name == pipeline.OrdersStream; (before != after) != begins {
			t.Errorf("%s: a new incarnation began: %v", want.Name, before != after)
		}
	}
	for name, meaning := range forgotten {
		if meaning == "" || name == "" {
			t.Errorf("nothing is said of a lost %q", name)
		}
	}
}

// dying does not make or change the stream of one name: as if the process died
// there.
type dying struct {
	jetstream.JetStream
	at string
}

func (d dying) CreateStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	if c.Name == d.at {
		return nil, errors.New("died")
	}
	return d.JetStream.CreateStream(ctx, c)
}

func (d dying) UpdateStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	if c.Name == d.at {
		return nil, errors.New("died")
	}
	return d.JetStream.UpdateStream(ctx, c)
}

// TestInitDiesOverALostLedger: whenever it dies, no empty ledger is left under
// the incarnation whose marks say that everything was swept.
func TestInitDiesOverALostLedger(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	if _, err := provision(t.Context(), js, at("", 1), 0); err != nil {
		t.Fatal(err)
	}
	marked, err := pipeline.Incarnation(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), ledger.StreamName); err != nil {
		t.Fatal(err)
	}
	for _, dies := range []string{pipeline.OrdersStream, ledger.StreamName, ""} {
		if dies != "" {
			_, err = provision(t.Context(), dying{js, dies}, at("", 1), 0)
		} else { // a server may need a moment to make a stream that it has just removed
			_, err = Init(t.Context(), at(js.Conn().ConnectedUrl(), 1), quiet)
		}
		if (err != nil) != (dies != "") {
			t.Errorf("it dies at %q: %v", dies, err)
		}
		now, err := pipeline.Incarnation(t.Context(), js)
		_, lerr := js.Stream(t.Context(), ledger.StreamName)
		if err != nil || now == marked && lerr == nil {
			t.Errorf("it died at %q: a new ledger (%v) under the old incarnation (%v)", dies, lerr, err)
		}
	}
}

// TestInitGoesOn: an init that was killed is no loss.
func TestInitGoesOn(t *testing.T) {
	t.Parallel()
	for n := range len(lasting(1)) {
		js := natstest.Connect(t, natstest.Server(t))
		for _, want := range lasting(1)[:n] {
			if _, err := stream.Ensure(t.Context(), js, want); err != nil {
				t.Fatal(err)
			}
		}
		all, err := Init(t.Context(), at(js.Conn().ConnectedUrl(), 1), quiet)
		if m, lost := made(all); err != nil || !strings.HasSuffix(everything, m) || lost != "" {
			t.Errorf("after %d: made %q, lost %q, %v", n, m, lost, err)
		}
	}
}

// TestFormatsAreOne: streams and folders carry the same number.
func TestFormatsAreOne(t *testing.T) {
	if stream.Format != certstore.Format {
		t.Errorf("streams are of format %d, folders of %d", stream.Format, certstore.Format)
	}
}
