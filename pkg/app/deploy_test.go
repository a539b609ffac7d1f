package app

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/stream"
)

// TestDeployedRights: on the server as deploy/nats configures it, the operator
// makes what must never be lost, and the workers' user can neither make nor
// change nor remove it, but work.
func TestDeployedRights(t *testing.T) {
	for _, name := range []string{"WORKER_PASSWORD", "OPERATOR_PASSWORD", "PUBLISHER_PASSWORD"} {
		t.Setenv(name, strings.ToLower(name))
	}
	o, err := server.ProcessConfigFile("../../deploy/nats/nats-server.conf")
	if err != nil {
		t.Fatal(err)
	}
	o.Host, o.Port, o.HTTPPort, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, 0, t.TempDir(), true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not become ready")
	}
	as := func(user string) (Config, jetstream.JetStream) {
		c := withClouds(t, s.ClientURL(), 1)
		c.NATS.User, c.NATS.Password = user, Ref("env:"+strings.ToUpper(user)+"_PASSWORD")
		nc, err := dial(c.NATS, "test", quiet, nats.NoReconnect())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return c, js
	}
	operator, asOperator := as("operator")
	worker, asWorker := as("worker")
	denied := func(what string, do func(ctx context.Context) error) {
		t.Helper()
		before := natstest.Take(t, asOperator)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // the server answers nothing
		defer cancel()
		if err := do(ctx); err == nil {
			t.Errorf("the workers' user may %s", what)
		}
		before.Same(t, asOperator)
	}
	for _, want := range lasting(1) {
		denied("make "+want.Name, func(ctx context.Context) error { _, err := asWorker.CreateStream(ctx, want); return err })
	}
	if _, err := Init(t.Context(), operator, quiet); err != nil {
		t.Fatal(err)
	}
	for _, want := range lasting(1) {
		denied("remove "+want.Name, func(ctx context.Context) error { return asWorker.DeleteStream(ctx, want.Name) })
		other := want
		other.Description = "another"
		denied("change "+want.Name, func(ctx context.Context) error { _, err := asWorker.UpdateStream(ctx, other); return err })
	}
	startWorkers(t, worker).work(t)
	if _, err := stream.Open(t.Context(), asOperator, lasting(1)[0]); err != nil {
		t.Error(err)
	}
}
