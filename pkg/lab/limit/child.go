package limit

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/certmill/certmill/pkg/permit"
)

// childEnv tells a process that it is one of the bench's replicas or servers,
// and which.
const childEnv = "CERTMILL_BENCH_LIMIT_CHILD"

// child is what such a process is to do.
type child struct {
	// A replica of the ring:
	NATS     string `json:",omitempty"`
	Provider string `json:",omitempty"`
	Key      string `json:",omitempty"`
	Replicas int    `json:",omitempty"` // how many there are
	// A server of a cluster of three:
	Name   string   `json:",omitempty"`
	Port   int      `json:",omitempty"`
	Route  int      `json:",omitempty"`
	Routes []string `json:",omitempty"`
	Dir    string   `json:",omitempty"`
	Deaf   bool     `json:",omitempty"` // to every kind of ack, also the one that puts a redelivery off
}

// Child runs this process as a replica or server of the bench if it was started
// as one, until it is stopped, and tells whether it was. A program that calls
// Run MUST call Child first: Run starts the program's own executable again, as
// processes that can be killed.
func Child() bool {
	v := os.Getenv(childEnv)
	if v == "" {
		return false
	}
	var c child
	err := json.Unmarshal([]byte(v), &c)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		if c.Name != "" {
			err = c.serve(ctx)
		} else {
			err = c.replica(ctx)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench limit:", err)
		os.Exit(1)
	}
	return true
}

func (c child) replica(ctx context.Context) error {
	r, err := newRing(c.NATS, c.Key, permit.Options{})
	if err != nil {
		return err
	}
	all := make([]replica, c.Replicas) // only their number matters to drive
	for i := range all {
		all[i] = r
	}
	d := drive(ctx, all[:1], newCaller(c.Provider).send)
	<-ctx.Done()
	d.stop()
	return nil
}

func (c child) serve(ctx context.Context) error {
	o := &server.Options{ServerName: c.Name, Port: c.Port, StoreDir: c.Dir}
	o.Cluster = server.ClusterOpts{Name: "bench", Host: "127.0.0.1", Port: c.Route}
	if c.Deaf {
		o.NoAuthUser = "bench"
		o.Users = []*server.User{{Username: "bench", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"$JS.ACK.>"}}}}}
	}
	for _, r := range c.Routes {
		u, err := url.Parse(r)
		if err != nil {
			return err
		}
		o.Routes = append(o.Routes, u)
	}
	s, err := startNATS(o)
	if err != nil {
		return err
	}
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// start runs c in a process of its own, which ends with ctx at the latest.
func (c child) start(ctx context.Context) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	v, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childEnv+"="+string(v))
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = 5 * time.Second
	return cmd, cmd.Start()
}

// kill is kill -9.
func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
