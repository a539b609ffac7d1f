package app

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/certmill/certmill/pkg/durable"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/pipeline"
)

// TestSecretsInURL: a URL with a user, a password or a token in it is refused,
// wherever it comes from, and repeated nowhere.
func TestSecretsInURL(t *testing.T) {
	const secret = "s3cr3t-in-url"
	for _, url := range []string{
		"nats://worker:" + secret + "@h:4222", "worker:" + secret + "@h:4222", "nats://" + secret + "@h:4222",
		"nats://h:4222, tls://worker:" + secret + "@h2:4222", "nats://worker:" + secret + "%zz@h:4222", "nats://h:" + secret,
		"wss://worker:" + secret + "@h/nats",
	} {
		_, parsed := Parse([]byte("nats: {url: '" + url + "'}\n"))
		_, connected := Defaults().NATS.Elsewhere(url).Connect(nats.Timeout(time.Second))
		for from, err := range map[string]error{"a config": parsed, "the command line": connected} {
			if err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "nats.url") {
				t.Errorf("%s, from %s: %v", url, from, err)
			}
			if strings.Contains(url, "@") && !strings.Contains(err.Error(), "write nats://host:port, the user as nats.user, and the password as nats.password") {
				t.Errorf("%s, from %s: %v does not say what to write", url, from, err)
			}
		}
	}
	for _, url := range []string{"nats://h:4222", "h:4222,h2", "tls://[::1]:4222", ""} {
		if _, err := Parse([]byte("nats: {url: '" + url + "'}\n")); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestListenElsewhere: where others reach it, the embedded server wants to know
// who may use it, and lets nobody else in.
func TestListenElsewhere(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:4222", "build.example.com:4222"} {
		state := t.TempDir()
		_, err := StartEmbedded(state, NATS{Listen: listen})
		if err == nil || !strings.Contains(err.Error(), "nats.users: {shop: file:") {
			t.Errorf("%s: %v", listen, err)
		}
		if left, err := os.ReadDir(state); err != nil || len(left) > 0 {
			t.Errorf("%s: files were made: %v, %v", listen, left, err)
		}
	}
	secret := filepath.Join(t.TempDir(), "shop")
	if err := os.WriteFile(secret, []byte("shop's \"own\" $password { }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	users := map[string]Ref{"shop": Ref("file:" + secret), Monitor: Ref("file:" + secret)}
	e, err := StartEmbedded(t.TempDir(), NATS{Listen: "0.0.0.0:0", Users: users, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	c := Defaults()
	c.NATS = e.As(Admin)
	c.Keys.Store = filepath.Join(t.TempDir(), "keys")
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	if _, err := (NATS{URL: e.URL()}).Connect(); err == nil || !strings.Contains(err.Error(), "write nats.user and nats.password") {
		t.Errorf("without credentials: %v", err)
	}
	shop := NATS{URL: e.URL(), User: "shop", Password: Ref("file:" + secret)}
	if _, err := pipeline.Publish(t.Context(), connectAs(t, shop), pipeline.NewSubject+".shop", []byte("{}")); err != nil {
		t.Errorf("the publisher: %v", err)
	}
	monitor := NATS{URL: e.URL(), User: Monitor, Password: Ref("file:" + secret)}
	if _, err := connectAs(t, monitor).Stream(t.Context(), pipeline.OrdersStream); err != nil {
		t.Errorf("the monitor: %v", err)
	}
	shop.User = Operator
	if _, err := shop.Connect(); err == nil || !strings.Contains(err.Error(), "does not take this user or password") {
		t.Errorf("the operator with the publisher's password: %v", err)
	}
}

// TestAccess: the passwords in the state folder are their owner's alone, stay from
// start to start, and one that is lost, or that others could read, is made anew.
func TestAccess(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	first, err := passwordsIn(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.writeContext(Monitor, "nats://h:1"); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(state, accessDir), func(path string, d fs.DirEntry, err error) error {
		if info, ierr := d.Info(); err != nil || ierr != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v %v %v", path, info.Mode(), err, ierr)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for what, harm := range map[string]func(path string) error{
		"lost":     os.Remove,
		"emptied":  func(path string) error { return os.Truncate(path, 0) },
		"readable": func(path string) error { return os.Chmod(path, 0o644) },
		"a link": func(path string) error {
			return errors.Join(os.Remove(path), os.Symlink(first.file(Admin), path))
		},
	} {
		before, err := passwordsIn(state)
		if err != nil {
			t.Fatal(err)
		}
		if err := harm(before.file(Operator)); err != nil {
			t.Fatal(err)
		}
		after, err := passwordsIn(state)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, role := range roles {
			if p := after.passwords[role]; len(p) < 20 || (p == before.passwords[role]) != (role != Operator) {
				t.Errorf("%s: password of %s %q, before %q", what, role, p, before.passwords[role])
			}
		}
		if info, err := os.Lstat(after.file(Operator)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", what, info.Mode(), err)
		}
	}
}

func passwordsIn(state string) (access, error) {
	a, err := openAccess(state)
	return a, errors.Join(err, a.read(nil))
}

// TestBesideRun: what runs beside certmill run finds its credentials by the config
// that it left, also those for what only admin may; the stock command finds a
// monitor's; and neither config nor context tells more.
func TestBesideRun(t *testing.T) {
	t.Parallel()
	_, _, dir := serving(t)
	state := inDir(dir).State
	text, err := os.ReadFile(filepath.Join(state, ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	all, err := passwordsIn(state)
	if err != nil {
		t.Fatal(err)
	}
	for role, password := range all.passwords {
		if strings.Contains(string(text), password) {
			t.Errorf("the config has the password of %s", role)
		}
	}
	c, err := Load(filepath.Join(state, ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	if made, err := Init(t.Context(), c, quiet); err != nil || len(made) == 0 {
		t.Errorf("init: %v, %v", made, err)
	}
	if err := Restored(t.Context(), c, quiet); err != nil {
		t.Errorf("restored: %v", err)
	}
	if there := c.NATS.Elsewhere("nats://elsewhere:4222"); there.User != "" || there.Password != "" {
		t.Errorf("another server is told %+v", there)
	}
	if same := c.NATS.Elsewhere(c.NATS.URL); same.User != Operator {
		t.Errorf("its own server is told %+v", same)
	}
	data, err := os.ReadFile(all.contextOf(Monitor))
	if err != nil {
		t.Fatal(err)
	}
	var context map[string]string
	if err := json.Unmarshal(data, &context); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(context["url"], nats.UserInfo(context["user"], context["password"]), nats.CustomInboxPrefix(context["inbox_prefix"]))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Request("$JS.API.STREAM.INFO.ORDERS", nil, 2*time.Second); err != nil {
		t.Errorf("the context of the stock command: %v", err)
	}
}

// TestMissingRights: a worker whose user lacks a right says so, with the subject;
// init and a console say it at once.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	onGuarded(t, func(t *testing.T, g guarded) {
		g.stock(t)
		c := withClouds(t, g.as(Monitor).URL, 1)
		c.NATS, c.Keys.Store = g.as(Monitor), g.store
		began := time.Now()
		if err := Restored(t.Context(), c, quiet); !errors.Is(err, errNoRight) || !strings.Contains(err.Error(), "STREAM.UPDATE.ORDERS") {
			t.Errorf("restored: %v", err)
		}
		own := c
		own.NATS = g.as(Worker)
		if err := connectAs(t, g.as(Admin)).DeleteStream(t.Context(), "LEDGER"); err != nil {
			t.Fatal(err)
		}
		if _, err := Init(t.Context(), own, quiet); !errors.Is(err, errNoRight) {
			t.Errorf("init as worker: %v", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		told := make(chan error, 8)
		nc, err := dial(c.NATS, "test", func(err error) { told <- err }, quiet)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.Publish("ticket.x", nil)
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := <-told; !strings.Contains(err.Error(), "the NATS user monitor may not publish to ticket.x.") {
			t.Error(err)
		}
		nc.Close()
	})
}

// TestServersThatDoNotSay: a server that asks nobody who it is, and one whose user
// may not ask for its rights, are worked with all the same.
func TestServersThatDoNotSay(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	got, err := rightsOf(t.Context(), js.Conn())
	if err != nil || !got.look() || !got.consume() || !got.decide() || !got.call() {
		t.Errorf("without users: %+v, %v", got, err)
	}
	if subject, err := got.handIn("", false); subject != "orders.new" || err != nil {
		t.Errorf("%s, %v", subject, err)
	}
	s := natstest.Server(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "mute", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$SYS.>"}}}}}
	})
	began := time.Now()
	nc := connectAs(t, NATS{URL: "nats://" + s.Addr().String()}, nats.UserInfo("mute", "p")).Conn()
	got, err = rightsOf(t.Context(), nc)
	if err == nil || !got.look() || !got.decide() || time.Since(began) > rightsTime/2 {
		t.Errorf("who may not ask: %+v, %v after %v", got, err, time.Since(began))
	}
	only := rights{Permissions: &permissions{Publish: subjects{Allow: []string{"orders.urgent.b", "orders.new.a", "orders.new.b", "$SYS.>"}}}}
	for user, want := range map[string]string{"": "orders.new.a", "b": "orders.new.b", "c": "orders.new.a", "d.e": "orders.new.a"} {
		if subject, err := only.handIn(user, false); subject != want || err != nil {
			t.Errorf("%q: %s, %v", user, subject, err)
		}
	}
	only.Permissions.Publish.Deny = []string{"orders.>"}
	if _, err := only.handIn("a", true); !errors.Is(err, errNoRight) {
		t.Errorf("denied: %v", err)
	}
}

// TestPasswordsForTheServerOnly: where no run works, a password is told to
// nobody, whoever listens at the port that one had; and a config beside a run
// finds it.
func TestPasswordsForTheServerOnly(t *testing.T) {
	t.Parallel()
	c := inDir(t.TempDir())
	e, err := StartEmbedded(c.State, NATS{Listen: "127.0.0.1:0", Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	left := c
	left.NATS = e.As(Operator)
	if err := writeConfig(left); err != nil {
		t.Fatal(err)
	}
	if _, err := StartEmbedded(c.State, NATS{Listen: "127.0.0.1:0"}); durable.Locks && (err == nil || !strings.Contains(err.Error(), "stop that certmill run first")) {
		t.Errorf("a second server: %v", err)
	}
	for what, tt := range map[string]struct {
		nats NATS
		user string
	}{
		"no server": {NATS{}, Operator}, "its server": {NATS{URL: e.URL()}, Operator},
		"another server": {NATS{URL: "nats://127.0.0.1:1"}, ""}, "another user": {NATS{URL: e.URL(), User: "shop"}, "shop"},
	} {
		mine := c
		if mine.NATS = tt.nats; mine.Beside().NATS.User != tt.user {
			t.Errorf("%s: %+v", what, mine.Beside().NATS)
		}
	}
	asked := make(chan string)
	go func() { asked <- e.As(Operator).URL }() // a console opens meanwhile
	if err := e.Restart(); err != nil {
		t.Fatal(err)
	}
	if url := <-asked; url != e.URL() {
		t.Errorf("it was at %s and is at %s", url, e.URL())
	}
	connectAs(t, c.Beside().NATS)
	e.Stop()
	stranger := natstest.Server(t)
	mine := c.Beside().NATS
	mine.URL = stranger.ClientURL()
	if _, err := mine.Connect(); durable.Locks && (err == nil || !strings.Contains(err.Error(), "no certmill run works in the state folder "+absolute(c.State))) {
		t.Errorf("a stranger is told the password: %v", err)
	}
}
