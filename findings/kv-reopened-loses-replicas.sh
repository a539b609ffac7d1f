#!/usr/bin/env bash
# nats.go v1.55.0 with nats-server v2.15.2: a key-value bucket of three replicas
# that another program opens with CreateOrUpdateKeyValue, naming no replicas.
#
# Expected: what the second program does not name stays as it is, or the call is
# refused, as a bucket with other settings is by CreateKeyValue.
# Seen: the bucket is scaled down to one replica, without an error, and its one
# copy is gone with that server. A program that only wants to read a bucket must
# open it with KeyValue.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >go.mod <<'MOD'
module finding

go 1.26

require (
	github.com/nats-io/nats-server/v2 v2.15.2
	github.com/nats-io/nats.go v1.55.0
)
MOD
cat >main.go <<'GO'
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	at, stop, err := cluster(ctx, dir)
	if err != nil {
		return err
	}
	defer stop()
	first, err := open(at)
	if err != nil {
		return err
	}
	kv, err := first.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "STATES", Replicas: 3})
	if err != nil {
		return err
	}
	if _, err := kv.Put(ctx, "a", []byte("1")); err != nil {
		return err
	}
	before, err := replicas(ctx, first)
	if err != nil {
		return err
	}

	second, err := open(at)
	if err != nil {
		return err
	}
	_, created := second.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "STATES"})
	if _, err := second.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "STATES"}); err != nil {
		return fmt.Errorf("no surprise any more: it is refused: %w", err)
	}
	after, err := replicas(ctx, first)
	if err != nil {
		return err
	}
	fmt.Printf("replicas before %d, after a second program's CreateOrUpdateKeyValue %d; CreateKeyValue said: %v\n", before, after, created)
	if before != 3 || after != 1 || !errors.Is(created, jetstream.ErrBucketExists) {
		return errors.New("this is not what was seen")
	}
	return nil
}

func open(at string) (jetstream.JetStream, error) {
	nc, err := nats.Connect(at)
	if err != nil {
		return nil, err
	}
	return jetstream.New(nc)
}

func replicas(ctx context.Context, js jetstream.JetStream) (int, error) {
	s, err := js.Stream(ctx, "KV_STATES")
	if err != nil {
		return 0, err
	}
	return s.CachedInfo().Config.Replicas, nil
}

// cluster starts three servers on the loopback and waits until JetStream has a
// leader that knows all of them.
func cluster(ctx context.Context, dir string) (at string, stop func(), err error) {
	ports, err := freePorts(3)
	if err != nil {
		return "", nil, err
	}
	var routes []*url.URL
	for _, p := range ports {
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: fmt.Sprintf("127.0.0.1:%d", p)})
	}
	var all []*server.Server
	stop = func() {
		for _, s := range all {
			s.Shutdown()
		}
	}
	for i, p := range ports {
		s, err := server.NewServer(&server.Options{ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
			JetStream: true, StoreDir: fmt.Sprintf("%s/n%d", dir, i), Routes: routes,
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: p}})
		if err != nil {
			stop()
			return "", nil, err
		}
		s.Start()
		all = append(all, s)
	}
	for {
		for _, s := range all {
			if s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == 3 {
				return all[0].ClientURL(), stop, nil
			}
		}
		select {
		case <-ctx.Done():
			stop()
			return "", nil, errors.New("the cluster does not come up")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
GO
go mod tidy >/dev/null 2>&1
go run . "$work/data"
