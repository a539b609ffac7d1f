package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/natstest"
)

// deployed are the users of deploy/nats: a cluster that has them, and a config
// file for each.
type deployed struct {
	servers []*server.Server
	configs map[string]string // by user
	admin   jetstream.JetStream
}

func deploy(t *testing.T) deployed {
	t.Helper()
	for _, name := range []string{"CERTMILL_CONFIG", "CERTMILL_NATS"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	users := []string{app.Admin, app.Operator, app.Worker, app.Monitor, "publisher"}
	d := deployed{configs: map[string]string{}}
	d.servers = natstest.Cluster(t, natstest.UsersOf(t, "../../deploy/nats/nats-server.conf", users...))
	dir := t.TempDir()
	for _, u := range users {
		secret, config := filepath.Join(dir, u), filepath.Join(dir, u+".yaml")
		text := fmt.Sprintf("nats: {url: '%s', user: %s, password: 'file:%s', replicas: 3}\n", urls(d.servers), u, secret)
		if err := os.WriteFile(secret, []byte(natstest.PasswordOf(u)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d.configs[u] = config
	}
	as := func(user string) app.NATS {
		return app.NATS{URL: urls(d.servers), User: user, Password: app.Ref("file:" + filepath.Join(dir, user)), Replicas: 3}
	}
	nc, err := as(app.Admin).Connect(nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if d.admin, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	install(t, d.admin, as(app.Admin))
	t.Chdir(t.TempDir())
	return d
}

// since are times that go on between two looks.
var since = regexp.MustCompile(`\(\d[^)]*s\)|"at": "[^"]*"`)

// TestLookingAsMonitor: on a cluster with the rights of deploy/nats, every command
// that looks shows a monitor what it shows admin, changes nothing, and takes no
// time-out.
func TestLookingAsMonitor(t *testing.T) {
	d := deploy(t)
	orders := filepath.Join(t.TempDir(), "orders.csv")
	if err := os.WriteFile(orders, []byte("id,names,account\nnew-1,www.example.com,ali\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	settle(t, d.admin)
	before := natstest.Take(t, d.admin)
	for _, args := range looks(t) {
		for _, output := range []string{"text", "json"} {
			all := append([]string{"-o", output}, args...)
			for i, a := range all {
				if a == "ORDERS" {
					all[i] = orders
				}
			}
			d.looksAlike(t, all)
		}
	}
	before.Same(t, d.admin)
}

// looksAlike compares what a command shows those who may run it.
func (d deployed) looksAlike(t *testing.T, args []string) {
	t.Helper()
	see := func(user string) (string, error) {
		began := time.Now()
		out, err := execute(t, append([]string{"--config", d.configs[user]}, args...)...)
		if took := time.Since(began); took > 15*time.Second { // what hangs for want of a right hangs for 30
			t.Errorf("%s: %v took %v", user, args, took)
		}
		return since.ReplaceAllString(out, ""), err
	}
	out, err := see(app.Monitor)
	switch args[2] {
	case "retry": // looks, but is no command of those that do
		if err == nil || !strings.Contains(err.Error(), "the NATS user monitor may not change anything") {
			t.Errorf("%v: %v", args, err)
		}
		return
	case "plan": // asks the clouds, too
		if err != nil || !strings.Contains(out, "the NATS user monitor may not take permits") {
			t.Errorf("%v: %v: %s", args, err, out)
		}
		return
	}
	if err != nil {
		t.Errorf("%v: %v", args, err)
	}
	for _, user := range []string{app.Admin, app.Operator} {
		want, err := see(user)
		for n := 0; err == nil && want != out && n < 20; n++ { // a server that lags shows a consumer less (seen)
			time.Sleep(100 * time.Millisecond)
			want, err = see(user)
		}
		if err != nil || out != want {
			t.Errorf("%v: monitor sees\n%s\n%s, %v\n%s", args, out, user, err, want)
		}
	}
}

// settle waits until the consumers that installing has thrown away are gone.
func settle(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	for end := time.Now().Add(time.Minute); count(natstest.Take(t, js), "consumer ") > 2; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("consumers are left")
		}
	}
}

// TestOrderAsPublisher: whoever may only publish hands orders in, on the subject
// with its own name, and is told that nobody looked; what needs a look is refused
// at once.
func TestOrderAsPublisher(t *testing.T) {
	d := deploy(t)
	orders := filepath.Join(t.TempDir(), "orders.csv")
	if err := os.WriteFile(orders, []byte("id,names,account\nnew-1,www.example.com,ali\nnew-2,www.example.net,ali\nnew-3,,ali\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := intakeOf(t, d.admin)
	began := time.Now()
	out, err := execute(t, "--config", d.configs["publisher"], "order", orders)
	if !errors.Is(err, errNotAll) || !strings.Contains(out, "2 handed in, without looking: the NATS user publisher may only publish") { // one line is bad
		t.Errorf("%v: %s", err, out)
	}
	var told struct {
		HandedIn int  `json:"handed_in"`
		Blind    bool `json:"blind"`
	}
	out, err = execute(t, "--config", d.configs["publisher"], "-o", "json", "order", "--urgent", orders)
	if jerr := json.Unmarshal([]byte(out), &told); !errors.Is(err, errNotAll) || jerr != nil || told.HandedIn != 2 || !told.Blind {
		t.Errorf("%v, %v: %s", err, jerr, out)
	}
	if now := intakeOf(t, d.admin); !maps.Equal(map[string]int{"orders.new.publisher": 2, "orders.urgent.publisher": 2}, less(now, before)) {
		t.Errorf("the inbox has %v, before %v", now, before)
	}
	column := filepath.Join(t.TempDir(), "again.csv")
	if err := os.WriteFile(column, []byte("id,names,account,again\nnew-1,www.example.com,ali,true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before = intakeOf(t, d.admin)
	for _, args := range [][]string{{"order", "--again", orders}, {"order", column}} { // only who looks knows the last of a line
		_, err := execute(t, append([]string{"--config", d.configs["publisher"]}, args...)...)
		if err == nil || !strings.Contains(err.Error(), "order new-1: again: true") || !strings.Contains(err.Error(), "write its id: again: new-1") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if now := intakeOf(t, d.admin); !maps.Equal(now, before) {
		t.Errorf("the inbox has %v, before %v", now, before)
	}
	for _, args := range [][]string{{"order", "--follow", orders}, {"status"}, {"list"}, {"stuck"}, {"show", "held-1"}, {"approve", "held-1"}, {"pause", "ali", "x"}} {
		_, err := execute(t, append([]string{"--config", d.configs["publisher"]}, args...)...)
		if err == nil || !strings.Contains(err.Error(), "the NATS user publisher may not look at the orders") {
			t.Errorf("%v: %v", args, err)
		}
	}
	for _, args := range [][]string{{"approve", "held-1"}, {"retry", "failed-1"}, {"cancel", "held-1"}, {"pause", "ali"}, {"limit", "ali", "A", "1"},
		{"first-use", "ali"}, {"restored"}, {"archive", "file"}} {
		_, err := execute(t, append([]string{"--config", d.configs[app.Monitor]}, args...)...)
		if err == nil || !strings.Contains(err.Error(), "the NATS user monitor may not ") {
			t.Errorf("monitor: %v: %v", args, err)
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("all of it took %v", took)
	}
	_, err = execute(t, "--config", d.configs[app.Worker], "order", orders)
	if err == nil || !strings.Contains(err.Error(), "the NATS user worker may not publish to orders.new.worker") {
		t.Errorf("a worker orders: %v", err)
	}
	if slices.Contains(slices.Collect(maps.Keys(intakeOf(t, d.admin))), "orders.new.worker") {
		t.Error("it did")
	}
}

// intakeOf counts the messages of the inbox by subject.
func intakeOf(t *testing.T, js jetstream.JetStream) map[string]int {
	t.Helper()
	s, err := js.Stream(t.Context(), "INTAKE")
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int{}
	for subject, n := range info.State.Subjects {
		all[subject] = int(n)
	}
	return all
}

func less(now, before map[string]int) map[string]int {
	maps.DeleteFunc(now, func(subject string, n int) bool { return n == before[subject] })
	return now
}
