package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/pipeline"
)

// runs are the command lines of every command that looks: a new one belongs here.
// ORDERS is a file of orders.
var runs = map[string][][]string{
	"plan":    {{"--no-dns", "ORDERS"}}, // what the DNS is asked is none of the server's business
	"check":   {{"ORDERS"}},
	"status":  {{}},
	"list":    {{}, {"--in", "held"}, {"--batch", "b"}},
	"show":    {{"submit-1"}, {"unsure-1"}, {"held-1"}, {"issued-1"}, {"archived-1"}},
	"stuck":   {{}, {"--older", "1ns"}},
	"failed":  {{}},
	"surplus": {{}},
	"codes":   {{}},
	"config":  {{}, {"--check"}, {"--table"}},
	"schema":  {{}},
}

// more look without being commands that look.
var more = [][]string{{"retry", "--dry-run", "--batch", "b"}}

// TestLookingWritesNothing: every command that looks leaves a cluster as it was,
// and the folder that it is run in, where it knows nothing but the server.
func TestLookingWritesNothing(t *testing.T) {
	for _, name := range []string{"CERTMILL_CONFIG", "CERTMILL_NATS"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	servers := natstest.Cluster(t)
	js := natstest.Connect(t, servers[0])
	install(t, js, app.NATS{URL: urls(servers), Replicas: 3})
	orders := filepath.Join(t.TempDir(), "orders.csv")
	lines := "id,names,account\nnew-1,www.example.com,ali\nnew-2,www.example.net,\n"
	if err := os.WriteFile(orders, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	before := natstest.Take(t, js)
	for end := time.Now().Add(time.Minute); count(before, "consumer ") > 2 && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond) // what installing has thrown away is not gone yet
		before = natstest.Take(t, js)
	}
	if c, m := count(before, "consumer "), count(before, "message "); c != 2 || m < 15 {
		t.Fatalf("there are %d consumers and %d messages", c, m)
	}
	for _, args := range looks(t) {
		for _, output := range []string{"text", "json"} {
			all := append([]string{"--nats", urls(servers), "-o", output}, args...)
			for i, a := range all {
				if a == "ORDERS" {
					all[i] = orders
				}
			}
			if _, err := execute(t, all...); err != nil {
				t.Errorf("%v: %v", args, err)
			}
		}
	}
	before.Same(t, js)
	if left, err := os.ReadDir("."); err != nil || len(left) > 0 {
		t.Errorf("files were made: %v, %v", left, err)
	}
	t.Run("what they say", func(t *testing.T) { said(t, urls(servers)) })
}

// looks are all the command lines, as the command's own structure names them.
func looks(t *testing.T) (all [][]string) {
	t.Helper()
	unknown := map[string]bool{}
	for name := range runs {
		unknown[name] = true
	}
	for _, leaf := range newParser(t.Context(), &cli{}).Model.Leaves(false) {
		group := leaf.ClosestGroup()
		if group == nil || !slices.ContainsFunc(groups, func(g kong.Group) bool { return g.Key == group.Key }) {
			t.Errorf("certmill %s has no group of the four that say what a command may do", leaf.Path())
			continue
		}
		if group.Key != look {
			continue
		}
		delete(unknown, leaf.Name)
		if len(runs[leaf.Name]) == 0 {
			t.Errorf("certmill %s looks, and is not tried", leaf.Name)
		}
		for _, args := range runs[leaf.Name] {
			all = append(all, append([]string{leaf.Name}, args...))
		}
	}
	for name := range unknown {
		t.Errorf("certmill %s is no command that looks", name)
	}
	return append(all, more...)
}

// execute runs a command as main does and returns what it prints.
func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = out
	defer func() { os.Stdout = stdout }()
	var c cli
	k, err := newParser(t.Context(), &c).Parse(args)
	if err == nil {
		err = c.run(k)
	}
	data, rerr := os.ReadFile(out.Name())
	return string(data), errors.Join(err, rerr, out.Close())
}

func count(s natstest.Snapshot, prefix string) (n int) {
	for name := range s {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}

func urls(servers []*server.Server) string {
	var all []string
	for _, s := range servers {
		all = append(all, s.ClientURL())
	}
	return strings.Join(all, ",")
}

// install makes an installation that has orders in every state, and what workers
// leave: a stage's consumer and a ring of permits.
func install(t *testing.T, js jetstream.JetStream, at app.NATS) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c := app.Defaults()
	c.NATS, c.Keys.Store = at, filepath.Join(t.TempDir(), "keys")
	log := slog.New(slog.DiscardHandler)
	_, err := app.Init(t.Context(), c, log)
	must(err)
	for _, s := range order.States {
		o := orderIn(s)
		body, err := o.Encode()
		must(err)
		if s == order.Archived {
			body = nil
		}
		_, err = js.Publish(t.Context(), order.Subject(s, o.ID(), o.Lane()), body)
		must(err)
	}
	_, err = js.Publish(t.Context(), order.Subject(order.Verify, "newer-1", "ali"), []byte(`{"v":99,"state":"verify"}`))
	must(err)
	inbox := []byte(`{"id":"inbox-1","names":["www.inbox.example"]}`)
	_, err = pipeline.Publish(t.Context(), js, pipeline.NewSubject, inbox)
	must(err)

	l, err := ledger.New(t.Context(), js, 3)
	must(err)
	o := orderIn(order.Unsure)
	_, _, err = l.Begin(t.Context(), ledger.Entry{Main: "100", Names: o.Request.Names},
		ledger.Attempt{Order: o.ID(), Purchase: 1, Attempt: 1})
	must(err)
	must(l.Report(t.Context(), "100", []string{"www.nobody.example"},
		ledger.Unclaimed{CloudID: "77", Status: "ISSUED", Seen: time.Now()}))
	placed, err := ledger.OpenPlaced(t.Context(), js, 3)
	must(err)
	lies := order.Challenge{Name: "www.example.com", Type: "TXT", Host: "_dnsauth.www.example.com", Value: "v"}
	_, err = placed.Need(t.Context(), lies, "ali", "verify-1", false)
	must(err)
	states, err := account.Look(t.Context(), js, 3, log)
	must(err)
	must(states.Pause(t.Context(), "100", "ali", account.Pause{Why: "by a test", Since: time.Now()}))
	must(states.Exhaust(t.Context(), "200", "a-product", account.Pause{Why: "none is left", Since: time.Now()}))
	states.Close()

	_, err = js.CreateConsumer(t.Context(), pipeline.OrdersStream, jetstream.ConsumerConfig{Durable: "submit-ali",
		FilterSubject: "order.submit.*.ali", AckPolicy: jetstream.AckExplicitPolicy, MemoryStorage: true, Replicas: 3})
	must(err)
	ring := permit.New(js, func(permit.Key) permit.Limit { return permit.Limit{Calls: 2} },
		permit.Options{Replicas: 3, SkipWait: true})
	_, p, err := ring.Wait(t.Context(), permit.Key{Account: "100", Action: "A"})
	must(err)
	p.Give(permit.Unused, 0)
	must(ring.Close(t.Context()))
}

func orderIn(s order.State) order.Order {
	id := string(s) + "-1"
	asked := order.Request{ID: id, Names: []string{"www." + id + ".example"}, Batch: "b"}
	o := order.Order{V: order.SchemaVersion, Request: asked, State: s, Account: "ali", Main: "100",
		Purchase: 1, Attempt: 1, Received: time.Now().Add(-time.Hour)}
	switch s {
	case order.Held:
		o.Hold = &order.Hold{Reason: "for a test", From: order.Submit, Commands: []string{"certmill approve " + id}}
	case order.Failed:
		o.Failure = &order.Failure{Class: "rejected", Reason: "for a test"}
	case order.Waiting:
		o.Wait = order.Wait{For: order.WaitForQuota, What: "a-product", Then: order.Submit}
	case order.Issued:
		o.Certificate = &order.Certificate{Serial: "1", Delivered: []string{"certs"}}
	}
	return o
}

// said: a console that has no config tells what the installation itself knows.
func said(t *testing.T, url string) {
	out, err := execute(t, "--nats", url, "-o", "json", "status")
	var status app.Status
	if err := errors.Join(err, json.Unmarshal([]byte(out), &status)); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	counts := fmt.Sprint(status.Inbox, status.States[order.Held], status.States[order.Verify], status.Unreadable, len(status.Accounts))
	if counts != "1 1 2 1 2" {
		t.Errorf("status %+v", status)
	}
	for _, command := range []string{"list", "stuck"} {
		out, err := execute(t, "--nats", url, command)
		if err != nil || !strings.Contains(out, "newer-1") || !strings.Contains(out, "it has version 99, this program knows 1") {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
	for i, want := range []app.AccountStatus{
		{Label: "", Main: "200", State: "no quota of a-product"},
		{Label: "ali", Main: "100", State: "rests: by a test"},
	} {
		got := status.Accounts[i]
		if got.Label != want.Label || got.Main != want.Main || !strings.Contains(got.State, want.State) {
			t.Errorf("account %+v, want %+v", got, want)
		}
	}
	out, err = execute(t, "--nats", url, "surplus")
	const numbers = "not looked at: the attempt numbers of ended orders: look for the key store at "
	if err != nil || !strings.Contains(out, "77") || !strings.Contains(out, numbers) {
		t.Errorf("surplus: %v\n%s", err, out)
	}
	out, err = execute(t, "--nats", url, "show", "archived-1")
	if err != nil || strings.Contains(out, "0001-01-01") || strings.Contains(out, "()") || !strings.Contains(out, "since     20") {
		t.Errorf("show: %v\n%s", err, out)
	}
	out, err = execute(t, "--nats", url, "show", "unsure-1")
	if err != nil || !strings.Contains(out, "for as long as the config of account ali says") {
		t.Errorf("show: %v\n%s", err, out)
	}
}
