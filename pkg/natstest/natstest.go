// Package natstest runs real NATS servers inside tests: one, or a cluster of
// three, with JetStream on files in a temporary directory.
package natstest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// startTime is how long a server or a cluster may take to become ready.
const startTime = time.Minute

// Server starts one server, which is shut down when the test ends. It asks nobody
// who it is, unless with changes that.
func Server(t testing.TB, with ...func(*server.Options)) *server.Server {
	t.Helper()
	return start(t, options(t, "single", with...))
}

// clusterTries bounds how often a cluster is begun anew: routes must be known
// before the servers start, and a port that was free a moment ago may be taken
// by then, which a server never gets over.
const clusterTries = 3

// Cluster starts three servers that have elected a leader.
func Cluster(t testing.TB, with ...func(*server.Options)) []*server.Server {
	t.Helper()
	for n := range clusterTries {
		all, ready := cluster(t, fmt.Sprint("try", n, "-"), with...)
		if !ready {
			continue
		}
		await(t, "the cluster has a leader and three peers", func() bool {
			for _, s := range all {
				if s.JetStreamIsLeader() {
					return len(s.JetStreamClusterPeers()) == len(all)
				}
			}
			return false
		})
		return all
	}
	t.Fatal("the test servers do not become ready")
	return nil
}

// cluster starts three servers and tells whether all of them became ready.
func cluster(t testing.TB, prefix string, with ...func(*server.Options)) (all []*server.Server, ready bool) {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range 3 {
		port := freePort(t)
		ports = append(ports, port)
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	ready = true
	for i, port := range ports {
		o := options(t, fmt.Sprintf("n%d", i), with...)
		o.StoreDir = filepath.Join(t.TempDir(), prefix+o.ServerName)
		o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port}
		o.Routes = routes
		s := begin(t, o)
		all, ready = append(all, s), ready && s.ReadyForConnections(startTime)
	}
	return all, ready
}

// Connect opens a connection as the workers have it: one that never reconnects
// by itself. It is closed when the test ends.
func Connect(t testing.TB, s *server.Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), nats.NoReconnect(), nats.ReconnectBufSize(-1), nats.Timeout(startTime))
	if err != nil {
		t.Fatalf("connect to the test server: %v", err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(startTime)) // a cluster on a busy machine takes its time
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func options(t testing.TB, name string, with ...func(*server.Options)) *server.Options {
	o := &server.Options{
		ServerName: name, Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: filepath.Join(t.TempDir(), name),
		JetStreamMaxMemory: 256 << 20, JetStreamMaxStore: 8 << 30, // more than the inbox reserves
	}
	for _, change := range with {
		change(o)
	}
	return o
}

// UsersOf gives a server the accounts and users of a config file, each with
// PasswordOf as its password: the file names them as $<USER>_PASSWORD.
func UsersOf(t testing.TB, path string, users ...string) func(*server.Options) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var known strings.Builder
	for _, u := range users {
		fmt.Fprintf(&known, "%s_PASSWORD: %q\n", strings.ToUpper(u), PasswordOf(u))
	}
	return func(o *server.Options) {
		var file server.Options
		if err := file.ProcessConfigString(known.String() + string(text)); err != nil {
			t.Fatal(err)
		}
		o.Accounts, o.Users = file.Accounts, file.Users
	}
}

// PasswordOf is a user's password in a test.
func PasswordOf(user string) string { return user + "'s password" }

func start(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	s := begin(t, o)
	if !s.ReadyForConnections(startTime) {
		t.Fatal("the test server does not become ready")
	}
	return s
}

// begin starts a server that may need a moment yet. It is shut down when the
// test ends.
func begin(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatalf("make the test server: %v", err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	started.Store(s, o)
	return s
}

// started are the options of each server.
var started sync.Map

// Restart stops a server and starts another one in its place: at its address,
// with what it has stored.
func Restart(t testing.TB, s *server.Server) *server.Server {
	t.Helper()
	was, ok := started.Load(s)
	if !ok {
		t.Fatal("it was not started here")
	}
	o := was.(*server.Options).Clone()
	o.Port = s.Addr().(*net.TCPAddr).Port
	s.Shutdown()
	s.WaitForShutdown()
	return start(t, o)
}

// freePort is a port that was free a moment ago. Routes must be known before
// the servers start.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(startTime); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("timed out: %s", what)
}
