package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// deployed is the config that production has.
const deployed = "../../deploy/nats/nats-server.conf"

// TestRightsAreDeployed: deploy/nats gives the roles the rights that the embedded
// server gives them, word by word.
func TestRightsAreDeployed(t *testing.T) {
	text, err := os.ReadFile(deployed)
	if err != nil {
		t.Fatal(err)
	}
	if _, rights, _ := strings.Cut(string(text), rightsConf[:40]); rightsConf[:40]+rights != rightsConf {
		t.Errorf("%s does not end in pkg/app/rights.conf: write the same into both", deployed)
	}
}

// guarded is a server that asks who it is.
type guarded struct {
	as    func(user string) NATS // anonymous: without credentials, where that is a user
	store string                 // folder of its key store
}

// everybody are the users of a guarded server, but anonymous.
var everybody = append(slices.Clone(roles), examplePublisher)

// onGuarded runs a test on a server as deploy/nats configures it, and on the
// embedded one.
func onGuarded(t *testing.T, f func(*testing.T, guarded)) {
	secrets := t.TempDir()
	for _, u := range everybody {
		if err := os.WriteFile(filepath.Join(secrets, u), []byte(natstest.PasswordOf(u)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secret := func(user string) Ref { return Ref("file:" + filepath.Join(secrets, user)) }
	t.Run("deployed", func(t *testing.T) {
		t.Parallel()
		s := natstest.Server(t, natstest.UsersOf(t, deployed, everybody...))
		f(t, guarded{func(user string) NATS {
			return NATS{URL: s.ClientURL(), User: user, Password: secret(user), Replicas: 1}
		}, filepath.Join(t.TempDir(), "keys")})
	})
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		e, err := StartEmbedded(t.TempDir(), NATS{Listen: "127.0.0.1:0", Replicas: 1,
			Users: map[string]Ref{examplePublisher: secret(examplePublisher)}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Stop)
		f(t, guarded{func(user string) NATS {
			switch user {
			case anonymous:
				return NATS{URL: e.URL(), Replicas: 1}
			case examplePublisher:
				return NATS{URL: e.URL(), User: user, Password: secret(user), Replicas: 1}
			}
			return e.As(user)
		}, filepath.Join(t.TempDir(), "keys")})
	})
}

// guests are those who work or look with no rights but their own.
func (g guarded) guests(t *testing.T) []string {
	all := []string{Operator, Worker, Monitor, examplePublisher}
	if g.as(anonymous).User == "" {
		all = append(all, anonymous)
	}
	return all
}

func connectAs(t *testing.T, n NATS, with ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := n.Connect(with...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// deed is something that a user may do, or not.
type deed struct {
	verb    string // publish, ask (and be answered), or listen
	subject string
	body    string
	by      string // who may, besides admin
}

// deeds are what every role needs and what none but admin may do. The rights
// follow from it:
//
//	            publishes                                      asks JetStream
//	submitter   order, spend, claim, $KV.ACCOUNTS, ticket,     consumers of INTAKE, ORDERS, TICKETS, PERMITS, and to
//	            permit, $JS.ACK                                read LEDGER, PLACED, KV_ACCOUNTS; makes TICKETS, PERMITS;
//	                                                           removes of ORDERS and PERMITS
//	verifier    order, placed, $KV.ACCOUNTS, $KV.CHALLENGES,   the same, but INTAKE; removes of PLACED and KV_CHALLENGES,
//	            ticket, permit, $JS.ACK                        too
//	collector   order, spend, claim, placed, $KV.ACCOUNTS,     as the verifier
//	            $KV.CHALLENGES, ticket, permit, $JS.ACK
//	operator    orders.*.operator, order, spend, claim,        reads ORDERS, LEDGER, PLACED, KV_ACCOUNTS by consumers, pulls
//	            $KV.ACCOUNTS, permit, $JS.ACK.PERMITS          of PERMITS, removes of ORDERS and PERMITS
//	monitor                                                    single messages of ORDERS, LEDGER, PLACED, KV_ACCOUNTS;
//	                                                           settings of all streams and consumers
//	publisher   orders.*.publisher
func deeds() []deed {
	const all, work, look = "operator worker monitor", "operator worker", "operator monitor"
	publish := func(subject, by string) deed { return deed{"publish", subject, `{}`, by} }
	ask := func(subject, body, by string) deed { return deed{"ask", "$JS.API." + subject, body, by} }
	listen := func(subject, by string) deed { return deed{"listen", subject, "", by} }
	list := []deed{
		publish("orders.new", "anonymous"), publish("orders.urgent", "anonymous"),
		publish("orders.new.publisher", "publisher"), publish("orders.urgent.publisher", "publisher"),
		publish("orders.new.operator", "operator"), publish("orders.urgent.operator", "operator"),
		publish("orders.new.another", ""), publish("orders.urgent.another", ""), publish("orders.new.publisher.x", ""),
		publish("order.held.shop-1.ali", work), publish("spend.m.h", work), publish("claim.m.r", work), publish("$KV.ACCOUNTS.m", work),
		publish("$KV.ACCOUNTS.batch.spring", "worker"), publish("$KV.ACCOUNTS.zone.m.ali.shop.example", "worker"),
		publish("placed.a.b", "worker"), publish("$KV.CHALLENGES.k", "worker"), publish("ticket.x", "worker"), publish("permit.m.A.life.1", work),
		publish("$JS.ACK.INTAKE.intake.1.1.1.1.1", "worker"), publish("$JS.ACK.ORDERS.submit-ali.1.1.1.1.1", "worker"),
		publish("$JS.ACK.PERMITS.m_A.1.1.1.1.1", work), publish("$JS.FC.ORDERS.x.y", ""), publish("anything", ""),

		ask("INFO", "", all), ask("STREAM.LIST", "", look), ask("STREAM.NAMES", "", look),
		ask("STREAM.PURGE.ORDERS", `{"filter":"order.*.nobody.*"}`, work),
		ask("ACCOUNT.PURGE.CERTMILL", "", ""), ask("SERVER.REMOVE", `{"peer":"x"}`, ""), ask("META.LEADER.STEPDOWN", "", ""),

		listen("_INBOX_operator.>", "operator"), listen("_INBOX_worker.>", "worker"), listen("_INBOX_monitor.>", "monitor"),
		listen("_INBOX_publisher.>", "publisher"), listen("_INBOX.>", "monitor publisher anonymous"), // each in an account of its own
		listen("order.>", look), listen("orders.>", ""), listen("spend.>", ""), listen("placed.>", ""), listen("permit.>", ""), listen("ticket.>", ""),
		listen("$KV.>", ""), listen("$JS.>", ""), listen("$JS.EVENT.>", ""), listen("_R_.>", ""), listen("*", ""), listen(">", ""),
	}
	for _, s := range []struct{ name, subject, read, info, consume, pull, remove string }{
		{pipeline.OrdersStream, "order.held.shop-1.ali", all, all, work, work, work},
		{"LEDGER", "spend.m.h", all, all, work, work, ""},
		{"PLACED", "placed.a.b", all, all, work, work, "worker"},
		{"KV_ACCOUNTS", "$KV.ACCOUNTS.m", all, all, work, work, ""},
		{"KV_CHALLENGES", "$KV.CHALLENGES.k", work, all, "worker", "worker", "worker"},
		{pipeline.IntakeStream, "orders.new", work, all, "worker", "worker", ""},
		{pipeline.TicketStream, "ticket.x", work, all, "worker", "worker", "worker"},
		{"PERMITS", "permit.m.A.life.1", work, all, "worker", work, work},
	} {
		made := ""
		if s.name == "PERMITS" || s.name == pipeline.TicketStream {
			made = "worker"
		}
		consumer := fmt.Sprintf(`{"stream_name":%q,"config":{"durable_name":"stray","ack_policy":"explicit","filter_subject":%q}}`, s.name, s.subject)
		list = append(list,
			ask("STREAM.INFO."+s.name, "", s.info),
			ask("STREAM.MSG.GET."+s.name, fmt.Sprintf(`{"last_by_subj":%q}`, s.subject), s.read), ask("DIRECT.GET."+s.name, `{"seq":1}`, ""),
			ask("STREAM.MSG.DELETE."+s.name, `{"seq":1}`, s.remove),
			ask("STREAM.CREATE."+s.name, fmt.Sprintf(`{"name":%q,"subjects":[%q]}`, s.name, s.subject), made),
			ask("STREAM.UPDATE."+s.name, fmt.Sprintf(`{"name":%q,"subjects":[%q]}`, s.name, s.subject), ""),
			ask("STREAM.SNAPSHOT."+s.name, `{"deliver_subject":"_INBOX.x"}`, ""), ask("STREAM.RESTORE."+s.name, `{}`, ""),
			ask("STREAM.LEADER.STEPDOWN."+s.name, "", ""), ask("STREAM.PEER.REMOVE."+s.name, `{"peer":"x"}`, ""),
			ask("CONSUMER.CREATE."+s.name+".stray."+s.subject, strings.Replace(consumer, "durable_name", "name", 1), s.consume),
			ask("CONSUMER.DURABLE.CREATE."+s.name+".stray", consumer, ""), ask("CONSUMER.CREATE."+s.name, consumer, ""),
			ask("CONSUMER.NAMES."+s.name, "", all), ask("CONSUMER.LIST."+s.name, "", all), ask("CONSUMER.INFO."+s.name+".stray", "", all),
			ask("CONSUMER.MSG.NEXT."+s.name+".stray", `{"batch":1,"no_wait":true}`, s.pull),
			ask("CONSUMER.PAUSE."+s.name+".stray", `{}`, ""), ask("CONSUMER.LEADER.STEPDOWN."+s.name+".stray", "", ""),
		)
		if s.name != pipeline.OrdersStream {
			list = append(list, ask("STREAM.PURGE."+s.name, "", ""))
		}
	}
	// What destroys comes last, so that what may not be done is tried on all of it.
	for _, name := range []string{pipeline.IntakeStream, pipeline.TicketStream, "PERMITS", "KV_CHALLENGES", "KV_ACCOUNTS", "PLACED", "LEDGER", pipeline.OrdersStream} {
		list = append(list, ask("CONSUMER.DELETE."+name+".stray", "", map[string]string{pipeline.IntakeStream: "worker", pipeline.TicketStream: "worker",
			"PERMITS": "worker", "KV_ACCOUNTS": work, "PLACED": work, "LEDGER": work, pipeline.OrdersStream: work}[name]),
			ask("STREAM.DELETE."+name, "", ""))
	}
	return list
}

// TestRightsMatrix: on both servers, every role tries what every other role does.
// What it may not do is refused and changes nothing; what it may, is done.
func TestRightsMatrix(t *testing.T) {
	t.Parallel()
	onGuarded(t, func(t *testing.T, g guarded) {
		admin := g.stock(t)
		for _, guest := range g.guests(t) {
			u := g.tries(t, guest)
			before := natstest.Take(t, admin)
			for _, d := range deeds() {
				if !slices.Contains(strings.Fields(d.by), guest) && u.does(t, d) {
					t.Errorf("%s may %s %s", guest, d.verb, d.subject)
				}
			}
			before.Same(t, admin)
		}
		for _, guest := range append(g.guests(t), Admin) {
			u := g.tries(t, guest)
			for _, d := range deeds() {
				if slices.Contains(strings.Fields(d.by), guest) && !u.does(t, d) {
					t.Errorf("%s may not %s %s", guest, d.verb, d.subject)
				}
			}
		}
	})
}

// stock makes the streams, with something in each, and a consumer of each.
func (g guarded) stock(t *testing.T) jetstream.JetStream {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c := Defaults()
	c.NATS = g.as(Admin)
	c.Keys.Store = g.store
	_, err := Init(t.Context(), c, quiet)
	must(err)
	js := connectAs(t, g.as(Admin))
	for name, subject := range map[string]string{pipeline.TicketStream: "ticket.*", "PERMITS": "permit.*.*.*.*"} {
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}, Storage: jetstream.MemoryStorage,
			FirstSeq: stream.FirstSeq()})
		must(err)
	}
	for name, subject := range map[string]string{"ORDERS": "order.held.shop-1.ali", "LEDGER": "spend.m.h", "PLACED": "placed.a.b",
		"KV_ACCOUNTS": "$KV.ACCOUNTS.m", "KV_CHALLENGES": "$KV.CHALLENGES.k", "INTAKE": "orders.new", "TICKETS": "ticket.x", "PERMITS": "permit.m.A.life.1"} {
		_, err := js.Publish(t.Context(), subject, []byte(`{"v":1}`))
		must(err)
		_, err = js.CreateConsumer(t.Context(), name, jetstream.ConsumerConfig{Durable: "stray", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: subject})
		must(err)
	}
	return js
}

// trier is a user's connection.
type trier struct {
	user string
	nc   *nats.Conn
}

func (g guarded) tries(t *testing.T, user string) trier {
	t.Helper()
	quietly := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	return trier{user, connectAs(t, g.as(user), nats.NoReconnect(), quietly).Conn()}
}

// does tries it, and tells whether the server let it happen.
func (u trier) does(t *testing.T, d deed) bool {
	t.Helper()
	inbox, earlier := u.nc.NewInbox(), u.nc.LastError()
	listens := inbox
	if d.verb == "listen" {
		listens = d.subject
	}
	sub, err := u.nc.SubscribeSync(listens)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	switch d.verb {
	case "publish":
		err = u.nc.Publish(d.subject, []byte(d.body))
	case "ask":
		err = u.nc.PublishRequest(d.subject, inbox, []byte(d.body))
	}
	if err = errors.Join(err, u.nc.Flush()); err != nil { // what the server refuses it says before
		t.Fatalf("%s: %v", u.user, err)
	}
	if now := u.nc.LastError(); now != earlier && errors.Is(now, nats.ErrPermissionViolation) {
		return false
	}
	return d.verb != "ask" || answered(t, u.user, sub, d)
}

// answered tells whether somebody is there in the user's account who answers.
func answered(t *testing.T, user string, sub *nats.Subscription, d deed) bool {
	t.Helper()
	m, err := sub.NextMsg(2 * time.Second)
	if err != nil {
		t.Errorf("%s asks %s: %v", user, d.subject, err)
		return false
	}
	return m.Header.Get("Status") != "503"
}

// TestLineWithRights: the whole line works with these users: orders come from
// publishers by stock means, workers issue them, an operator decides, a monitor
// looks. Meanwhile a publisher that listens at all it may hears acknowledgements.
func TestLineWithRights(t *testing.T) {
	t.Parallel()
	onGuarded(t, func(t *testing.T, g guarded) {
		at := func(user string) Config {
			c := Defaults()
			c.NATS, c.Keys.Store = g.as(user), g.store
			return c
		}
		if _, err := Init(t.Context(), at(Admin), quiet); err != nil {
			t.Fatal(err)
		}
		c := withClouds(t, g.as(Worker).URL, 1)
		c.NATS, c.Keys.Store = g.as(Worker), g.store
		heard := listenAll(t, g.as(examplePublisher))
		startWorkers(t, c).work(t)
		operator := consoleOf(t, g, c, Operator)
		ids := publishSome(t, g, c, operator)
		var wanted []awaited
		for _, id := range ids {
			wanted = append(wanted, awaited{id: id})
		}
		all, err := operator.follow(t.Context(), wanted, func(Progress) {})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if it := all[id]; it.State != order.Issued {
				t.Errorf("%s is %s: %s", id, it.State, Why(it.Order))
			}
		}
		decides(t, operator, sorted(c.Accounts)[0])
		marked(t, c, consoleOf(t, g, c, Operator))
		looksAlike(t, consoleOf(t, g, c, Monitor), consoleOf(t, g, c, Operator))
		for _, m := range heard() {
			var answer struct {
				Stream string
				Data   rights
			}
			if json.Unmarshal(m.Data, &answer) != nil || answer.Stream != pipeline.IntakeStream && answer.Data.User != examplePublisher {
				t.Errorf("a publisher hears %s: %.200s", m.Subject, m.Data)
			}
		}
	})
}

// marked waits until nothing changes any more in the accounts' states.
func marked(t *testing.T, c Config, k *Console) {
	t.Helper()
	for end := time.Now().Add(natstest.Patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		states, err := account.Look(t.Context(), k.js, 0, quiet)
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for label, a := range c.Accounts {
			s := states.State(a.Main)
			if _, known := s.Identities[label]; !known || !s.Marked(k.line.Incarnation()) {
				left++
			}
		}
		if left == 0 {
			return
		}
	}
	t.Fatal("the accounts are not swept")
}

func consoleOf(t *testing.T, g guarded, c Config, user string) *Console {
	t.Helper()
	c.NATS = g.as(user)
	console, err := OpenConsole(t.Context(), c, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(console.Close)
	return console
}

// listenAll listens as a publisher at all that it may.
func listenAll(t *testing.T, n NATS) func() []*nats.Msg {
	t.Helper()
	nc := connectAs(t, n).Conn()
	var mu sync.Mutex
	var all []*nats.Msg
	for _, subject := range []string{"_INBOX.>", ownInbox(n.User) + ".>"} {
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, m)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() []*nats.Msg {
		mu.Lock()
		defer mu.Unlock()
		if len(all) == 0 {
			t.Error("the publisher heard nothing, not even its own acknowledgements")
		}
		return slices.Clone(all)
	}
}

// publishSome orders from everybody who may, and returns the ids.
func publishSome(t *testing.T, g guarded, c Config, operator *Console) (ids []string) {
	t.Helper()
	request := func(id string) order.Request {
		ids = append(ids, id)
		return order.Request{ID: id, Names: []string{"www." + id + ".example"}, Account: sorted(c.Accounts)[0]}
	}
	// As the stock command does it: its own inbox, and the answer awaited.
	for _, user := range []string{examplePublisher, anonymous} {
		n := g.as(user)
		if user == anonymous && n.User != "" {
			continue
		}
		n.Inbox = "_INBOX"
		body, err := json.Marshal(request("stock-" + user))
		if err != nil {
			t.Fatal(err)
		}
		subject := pipeline.NewSubject
		if n.User != "" {
			subject += "." + n.User
		}
		if _, err := pipeline.Publish(t.Context(), connectAs(t, n), subject, body); err != nil {
			t.Errorf("%s publishes: %v", user, err)
		}
		blind := c
		blind.NATS = g.as(user)
		_, err = OpenConsole(t.Context(), blind, quiet)
		if missing, is := errors.AsType[*NoRight](err); !is || !strings.Contains(missing.Error(), "may not look at the orders") {
			t.Errorf("%s opens a console: %v", user, err)
		}
		if n, err := HandInBlind(t.Context(), blind, []order.Request{request("blind-" + user)}, true, quiet); n != 1 || err != nil {
			t.Errorf("%s hands in: %d, %v", user, n, err)
		}
	}
	if _, err := operator.handIn(t.Context(), []order.Request{request("by-operator")}, false); err != nil {
		t.Error(err)
	}
	return ids
}

// decides has the operator do what operators do.
func decides(t *testing.T, k *Console, label string) {
	t.Helper()
	ctx := t.Context()
	main, _ := k.main(ctx, label)
	var archive strings.Builder
	for what, err := range map[string]error{
		"pause": k.Pause(ctx, label, "a test"), "resume": k.Resume(ctx, label, ""), "limit": k.Limit(ctx, label, "DescribePackageState", 3),
		"first use": k.FirstUse(ctx, label), "decide": k.MayDecide(),
		"archive": func() error { _, err := k.Archive(ctx, 0, &archive, func() error { return nil }); return err }(),
		"permit": func() error {
			h, err := k.reach()
			if err != nil {
				return err
			}
			_, p, err := h.permits.Wait(ctx, permit.Key{Account: main, Action: "DescribeCertificateState"})
			if err == nil {
				p.Give(permit.Unused, 0)
			}
			return err
		}(),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := strings.Count(archive.String(), "\n"); n < 3 {
		t.Errorf("%d orders were archived", n)
	}
}

// looksAlike: who may only look sees what the operator sees, and is told at once
// what it may not.
func looksAlike(t *testing.T, monitor, operator *Console) {
	t.Helper()
	see := func(k *Console) string {
		var all []any
		each := func(it pipeline.Item) error { all = append(all, it.ID(), it.State); return nil }
		status, err1 := k.Status(t.Context())
		stuck, err2 := k.Stuck(t.Context(), 0)
		failed, err3 := k.Failed(t.Context(), "")
		surplus, err4 := k.Surplus(t.Context())
		err5 := k.Each(t.Context(), "", each, func(pipeline.Unread) error { return nil })
		if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
			t.Error(err)
		}
		data, err := json.Marshal(append(all, status, stuck, failed, surplus))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if m, o := see(monitor), see(operator); m != o {
		t.Errorf("the monitor sees\n%s\nthe operator\n%s", m, o)
	}
	if _, err := monitor.reach(); !errors.Is(err, errNoRight) {
		t.Errorf("the monitor calls a cloud: %v", err)
	}
	if err := monitor.MayDecide(); !errors.Is(err, errNoRight) {
		t.Errorf("the monitor decides: %v", err)
	}
	began := time.Now()
	err := monitor.Because(monitor.Pause(t.Context(), "any", "a test"))
	if err == nil || time.Since(began) > 2*time.Second {
		t.Errorf("the monitor pauses: %v after %v", err, time.Since(began))
	}
}
