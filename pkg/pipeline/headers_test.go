package pipeline

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/stream"
)

// answer is what a publisher is told.
type answer struct {
	Seq       uint64
	Duplicate bool
	Error     *jetstream.APIError
}

// send publishes as any NATS client can.
func send(t testing.TB, l *Line, subject string, data []byte, header map[string]string) (a answer, told bool) {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Data = data
	for k, v := range header {
		m.Header[k] = []string{v}
	}
	r, err := l.js.Conn().RequestMsg(m, 500*time.Millisecond)
	if err != nil {
		return answer{}, false
	}
	if err := json.Unmarshal(r.Data, &a); err != nil {
		t.Fatalf("%s: %v", r.Data, err)
	}
	return a, true
}

// takenIn collects the messages that are taken, by sequence.
func takenIn(t testing.TB, l *Line) (taken func() map[uint64]Message) {
	t.Helper()
	var mu sync.Mutex
	all := map[uint64]Message{}
	intake(t, l, false, func(_ context.Context, m Message) error {
		mu.Lock()
		defer mu.Unlock()
		all[m.Seq] = m
		return nil
	})
	return func() map[uint64]Message {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(all)
	}
}

// headersOfAServer are those that mean something to nats-server or nats.go, and
// whether a message with them is stored.
var headersOfAServer = []struct {
	header map[string]string
	stored bool
}{
	{map[string]string{"Nats-Rollup": "all"}, false},
	{map[string]string{"Nats-Rollup": "sub"}, false},
	{map[string]string{"Nats-TTL": "1s"}, false},
	{map[string]string{"Nats-TTL": "never"}, false},
	{map[string]string{"Nats-Schedule": "@at 2030-01-01T00:00:00Z", "Nats-Schedule-Target": "orders.new.shop"}, false},
	{map[string]string{"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": "orders.new.shop"}, false},
	{map[string]string{"Nats-Scheduler": "orders.new.shop", "Nats-Schedule-Next": "purge"}, false},
	{map[string]string{"Nats-Incr": "+1"}, false},
	{map[string]string{"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"}, false},
	{map[string]string{"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"}, false},
	{map[string]string{"Nats-Expected-Stream": "OTHER"}, false},
	{map[string]string{"Nats-Expected-Last-Sequence": "5"}, false},
	{map[string]string{"Nats-Expected-Last-Subject-Sequence": "5"}, false},
	{map[string]string{"Nats-Expected-Last-Subject-Sequence": "0", "Nats-Expected-Last-Subject-Sequence-Subject": "orders.>"}, false},
	{map[string]string{"Nats-Stream-Source": "OTHER 1"}, false},
	{map[string]string{"Nats-Schedule-TTL": "1s"}, true},
	{map[string]string{"Nats-Expected-Stream": IntakeStream}, true},
	{map[string]string{"Nats-Trace-Dest": "trace"}, true},
	{map[string]string{"Nats-Marker-Reason": "Purge"}, true},
	{map[string]string{"KV-Operation": "PURGE"}, true},
	{map[string]string{"Nats-Msg-Size": "5"}, true},
	{map[string]string{"Nats-Subject": "orders.new.shop", "Nats-Sequence": "7", "Nats-Stream": OrdersStream}, true},
	{map[string]string{"Nats-Request-Info": "{}"}, true},
	{map[string]string{"Nats-Required-Api-Level": "99"}, true},
	{map[string]string{"Status": "100"}, true},
}

// No header of one publisher's message takes away, hides or changes what another
// one published; and one whose message is acknowledged has it taken, under his
// own name. Also for messages without a body, of which nats.go reads the headers
// as words of the server's.
func TestHeadersOfAPublisher(t *testing.T) {
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprint("R", replicas), func(t *testing.T) {
			t.Parallel()
			l := lineOfReplicas(t, replicas)
			wanted := map[uint64]string{}
			note := func(publisher string, seq uint64) { wanted[seq] = publisher }
			note("shop", publish(t, l, "orders.new.shop", []byte("before")))
			for _, h := range headersOfAServer {
				for _, body := range [][]byte{nil, []byte("{}")} {
					a, told := send(t, l, "orders.new.evil", body, h.header)
					switch {
					case !told:
						t.Errorf("%v, body %q: no answer", h.header, body)
					case (a.Error == nil) != h.stored || a.Duplicate:
						t.Errorf("%v, body %q: %+v", h.header, body, a)
					case a.Error == nil:
						note("evil", a.Seq)
					}
				}
			}
			note("shop", publish(t, l, "orders.new.shop", []byte("after")))
			if n, err := l.Pending(t.Context()); err != nil || n != uint64(len(wanted)) {
				t.Errorf("%d messages are stored, %d were acknowledged (%v)", n, len(wanted), err)
			}
			taken := takenIn(t, l)
			await(t, "all that was acknowledged is taken", func() bool { return len(taken()) == len(wanted) })
			for seq, m := range taken() {
				if m.Publisher != wanted[seq] {
					t.Errorf("message %d is of %q and came as %+v", seq, wanted[seq], m)
				}
			}
			await(t, "the inbox empty", func() bool { n, err := l.Pending(t.Context()); return err == nil && n == 0 })
		})
	}
}

// Who must not reach a server's headers publishes by way of a leaf node that has
// none: plain orders come through and are acknowledged, headers are refused
// there.
func TestALeafNodeWithoutHeaders(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().(*net.TCPAddr)
	_ = free.Close()
	hub := run(t, &server.Options{ServerName: "hub", JetStream: true, StoreDir: t.TempDir(), LeafNode: server.LeafNodeOpts{Host: "127.0.0.1", Port: addr.Port}})
	at := &url.URL{Scheme: "nats-leaf", Host: addr.String()}
	leaf := run(t, &server.Options{ServerName: "leaf", NoHeaderSupport: true, LeafNode: server.LeafNodeOpts{Remotes: []*server.RemoteLeafOpts{{URLs: []*url.URL{at}}}}})
	l := lineOn(t, hub)
	await(t, "the leaf node is connected", func() bool { return hub.NumLeafNodes() == 1 })
	js := natstest.Connect(t, leaf)
	await(t, "an order comes through", func() bool {
		_, err := Publish(t.Context(), js, NewSubject, []byte("a"))
		return err == nil
	})
	m := nats.NewMsg(NewSubject)
	m.Header.Set("Any-Header", "x")
	if _, err := js.PublishMsg(t.Context(), m); err == nil {
		t.Error("a header comes through")
	}
	before, err := l.Pending(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := rawClient(t, leaf)
	c.hpub(NewSubject, "NATS/1.0\r\nAny-Header: x\r\n\r\n")
	if _, err := c.in.ReadString('!'); err == nil {
		t.Error("a client that sends one all the same is not thrown out")
	}
	if after, err := l.Pending(t.Context()); err != nil || after != before {
		t.Errorf("%d messages became %d (%v)", before, after, err)
	}
}

// run starts a server.
func run(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.Port, o.NoLog, o.NoSigs = "127.0.0.1", server.RANDOM_PORT, true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(natstest.Patience) {
		t.Fatal("the test server does not become ready")
	}
	return s
}

// lineOfReplicas is a line on one server, or on three.
func lineOfReplicas(t testing.TB, n int) *Line {
	t.Helper()
	if n == 1 {
		return openLine(t)
	}
	js := natstest.Connect(t, natstest.Cluster(t)[0])
	if err := provision(t.Context(), js, n); err != nil {
		t.Fatal(err)
	}
	l, err := Open(t.Context(), js, "worker-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A trace without delivery is stored nowhere, and nobody is told that it was.
func TestATraceIsNoOrder(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	a, told := send(t, l, NewSubject, []byte("{}"), map[string]string{"Nats-Trace-Dest": "trace", "Nats-Trace-Only": "true"})
	if n, err := l.Pending(t.Context()); told || err != nil || n != 0 {
		t.Errorf("%+v, %d stored (%v)", a, n, err)
	}
}

// Ids decide, not Nats-Msg-Id: one that another publisher has used a moment ago
// takes no order away. In the shortest window that the server takes it does, which
// is documented.
func TestMsgIdsOfTwoPublishers(t *testing.T) {
	t.Parallel()
	l := openLine(t)
	id := map[string]string{"Nats-Msg-Id": "1"}
	first, _ := send(t, l, "orders.new.shop", []byte("a"), id)
	within, _ := send(t, l, "orders.new.crm", []byte("b"), id)
	if first.Error != nil || first.Duplicate || !within.Duplicate {
		t.Errorf("the first: %+v, within the window: %+v", first, within)
	}
	time.Sleep(3 * intakeWindow)
	after, told := send(t, l, "orders.new.crm", []byte("b"), id)
	if !told || after.Error != nil || after.Duplicate {
		t.Errorf("after the window: %+v", after)
	}
	if n, err := l.Pending(t.Context()); err != nil || n != 2 {
		t.Errorf("%d stored (%v)", n, err)
	}
}

// The window is the shortest that the server takes, and one that somebody made
// longer is refused.
func TestTheWindowIsTheShortest(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	shorter := IntakeConfig(1)
	shorter.Duplicates--
	if _, err := js.CreateStream(t.Context(), shorter); err == nil {
		t.Errorf("the server takes %v", shorter.Duplicates)
	}
	if err := provision(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(t.Context(), IntakeStream)
	if err != nil {
		t.Fatal(err)
	}
	longer := st.CachedInfo().Config
	longer.Duplicates = 2 * time.Minute
	if _, err := js.UpdateStream(t.Context(), longer); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Open(t.Context(), js, IntakeConfig(1))
	if err == nil || !strings.Contains(err.Error(), "window of repeated message ids is 2m0s and must be 100ms") {
		t.Errorf("a window of 2 minutes: %v", err)
	}
}

// Headers that are none, as only a hand-made client sends them, neither stop the
// inbox nor what looks ahead in it.
func TestBrokenHeaders(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	l := lineOn(t, s)
	c := rawClient(t, s)
	blocks := []string{
		"NATS/1.0\r\nno colon\r\n\r\n",
		"no version\r\n\r\n",
		"x",
		"\r\n",
		"NATS/1.0\r\nA: b",
	}
	for _, block := range blocks {
		c.hpub("orders.new.evil", block)
	}
	before := uint64(len(blocks))
	await(t, "all of them stored", func() bool { n, err := l.Pending(t.Context()); return err == nil && n == before })
	seq := publish(t, l, "orders.new.shop", []byte("x"))
	var read []string
	for at := uint64(1); ; {
		m, err := l.inInbox(t.Context(), NewSubject+".*", at)
		if err != nil {
			break
		}
		read, at = append(read, m.Publisher), m.Seq+1
	}
	if uint64(len(read)) != before+1 || read[before] != "shop" || slices.Contains(read[:before], "shop") {
		t.Errorf("ahead of %d messages: %q", before+1, read)
	}
	taken := takenIn(t, l)
	await(t, "all taken", func() bool { n, err := l.Pending(t.Context()); return err == nil && n == 0 })
	if all := taken(); uint64(len(all)) != before+1 || all[seq].Publisher != "shop" {
		t.Errorf("%d of %d taken: %+v", len(all), before+1, all)
	}
}

// raw speaks NATS by hand.
type raw struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

func rawClient(t testing.TB, s *server.Server) raw {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(natstest.Patience))
	c := raw{t, conn, bufio.NewReader(conn)}
	c.write("CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true,\"lang\":\"hand\",\"version\":\"1\"}\r\n")
	return c
}

func (c raw) write(text string) {
	c.t.Helper()
	if _, err := c.conn.Write([]byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// hpub publishes a message without a body.
func (c raw) hpub(subject, header string) {
	c.t.Helper()
	c.write(fmt.Sprintf("HPUB %s %d %d\r\n%s\r\n", subject, len(header), len(header), header))
}

// An inbox that does not answer, here because its stream has lost most of its
// servers, is told of once, with what helps.
func TestAnInboxThatDoesNotAnswerIsTold(t *testing.T) {
	restore := feelEvery
	feelEvery = 100 * time.Millisecond
	defer func() { feelEvery = restore }()
	servers := natstest.Cluster(t)
	js := natstest.Connect(t, servers[0])
	if err := provision(t.Context(), js, 3); err != nil {
		t.Fatal(err)
	}
	var told lines
	l, err := Open(t.Context(), js, "worker-1", slog.New(slog.NewTextHandler(&told, nil)))
	if err != nil {
		t.Fatal(err)
	}
	taken := takenIn(t, l)
	publish(t, l, NewSubject, []byte("{}"))
	await(t, "the inbox is served", func() bool { return len(taken()) == 1 })
	for _, s := range servers[1:] {
		s.Shutdown()
	}
	await(t, "it is told", func() bool { return told.of("the inbox does not answer") == 1 })
}
