package permit_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/permit"
)

// limits are what a provider documents, by action.
func limits(k permit.Key) permit.Limit {
	if k.Action == "CreateOrder" {
		return permit.Limit{Calls: 10, Deadline: 15 * time.Second} // per second; creating takes long
	}
	return permit.Limit{Calls: 50}
}

// Any number of processes may do this at the same time: together they make at
// most ten calls of CreateOrder in any second.
func ExampleNew() {
	nc, stop := natsConnection()
	defer stop()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	permits := permit.New(js, limits, permit.Options{
		Replicas: 1,    // 3 in a cluster
		SkipWait: true, // only because this example's provider is in this process
	})
	defer permits.Close(context.Background())

	k := permit.Key{Account: "100200", Action: "CreateOrder"}
	err = permits.Do(context.Background(), k, func(ctx context.Context, p *permit.Permit) error {
		fmt.Println("one call of", k) // with ctx, which ends at the permit's deadline
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("granted:", permits.Stats()[0].Granted)
	// Output:
	// one call of 100200/CreateOrder
	// granted: 1
}

// A transport below a provider's SDK makes sure that no call can miss the limit.
func ExampleTransport() {
	provider := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer provider.Close()
	permits := permit.NewSet(limits)
	defer permits.Close(context.Background())
	client := &http.Client{Transport: permit.Transport{
		Next: http.DefaultTransport,
		Identify: func(r *http.Request) (permit.Key, error) {
			return permit.Key{Account: "100200", Action: r.URL.Query().Get("Action")}, nil
		},
	}}
	get := func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, provider.URL+"?Action=CreateOrder", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(r)
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	fmt.Println("without a permit, an error:", get(context.Background()) != nil)

	ctx, p, err := permits.Wait(context.Background(), permit.Key{Account: "100200", Action: "CreateOrder"})
	if err != nil {
		log.Fatal(err)
	}
	err = get(ctx)
	p.Give(permit.Answered, 0)
	fmt.Println("with one:", err)
	// Output:
	// without a permit, an error: true
	// with one: <nil>
}

// natsConnection stands for nats.Connect to your server.
func natsConnection() (*nats.Conn, func()) {
	dir, err := os.MkdirTemp("", "permit")
	if err != nil {
		log.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{JetStream: true, StoreDir: dir, DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		log.Fatal(err)
	}
	s.Start()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		log.Fatal(err)
	}
	return nc, func() { nc.Close(); s.Shutdown(); os.RemoveAll(dir) }
}
