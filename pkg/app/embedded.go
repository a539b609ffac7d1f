package app

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/certmill/certmill/pkg/pipeline"
)

// Embedded is a nats-server in this process, for a single machine.
type Embedded struct {
	access  access
	nats    NATS            // as it was asked for
	options *server.Options // with the port that it got
	held    *os.File        // the passwords' folder
	open    bool            // it listens on the loopback only, and asks nobody who it is

	mu     sync.Mutex // guards what follows: Restart replaces it
	server *server.Server
	url    string
}

// StartEmbedded starts a server with file storage below dir and an fsync on
// every write: an acknowledged order survives a power cut. n.Listen is host:port;
// empty means the loopback and NATS's usual port if that is free, so that the
// stock nats command finds it. Its users are those of rights.conf, with passwords
// in files below dir, and those of n.Users. Whoever comes without credentials, to
// the loopback only, may publish orders and nothing else.
func StartEmbedded(dir string, n NATS) (*Embedded, error) {
	if err := n.checkListen(); err != nil {
		return nil, err
	}
	host, port, err := listenAt(n.Listen)
	if err != nil {
		return nil, err
	}
	if err := vacant(host, port); err != nil { // the server itself would say nothing for half a minute
		return nil, err
	}
	e := &Embedded{nats: n, open: loopback(host)}
	if e.access, err = openAccess(dir); err != nil {
		return nil, err
	}
	if e.held, err = e.access.hold(); err != nil {
		return nil, err
	}
	if err := e.begin(dir, host, port); err != nil {
		return nil, errors.Join(err, e.held.Close())
	}
	return e, nil
}

func (e *Embedded) begin(dir, host string, port int) error {
	if err := e.access.read(e.nats.Users); err != nil {
		return err
	}
	var err error
	if e.options, err = e.configure(); err != nil {
		return fmt.Errorf("embedded nats-server: %w", err)
	}
	e.options.Host, e.options.Port, e.options.StoreDir = host, port, filepath.Join(dir, "nats")
	if err := e.start(); err != nil {
		return err
	}
	if err := e.access.writeContext(Monitor, e.URL()); err != nil {
		e.stop()
		return err
	}
	return nil
}

func (e *Embedded) start() error {
	s, err := server.NewServer(e.options.Clone())
	if err != nil {
		return fmt.Errorf("embedded nats-server: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		s.Shutdown()
		return errors.New("embedded nats-server did not become ready within 30 s; " +
			"is another one running on the same state folder?")
	}
	e.options.Port = s.Addr().(*net.TCPAddr).Port
	e.mu.Lock()
	defer e.mu.Unlock()
	e.server, e.url = s, reached(s)
	return nil
}

// configure makes the options of the server, but for where it listens and stores.
func (e *Embedded) configure() (*server.Options, error) {
	o := &server.Options{ServerName: "certmill", JetStream: true, SyncAlways: true,
		NoSigs: true, NoLog: true, MaxPayload: 1 << 20,
		AuthTimeout: 10} // seconds: a machine that is busy with everything else, too, takes its time
	var text strings.Builder
	for _, role := range append(slices.Clone(roles), examplePublisher) {
		// A password that a person chose is set below: here it could be more than one.
		fmt.Fprintf(&text, "%s_PASSWORD: \"unset\"\n", strings.ToUpper(role))
	}
	if err := o.ProcessConfigString(text.String() + rightsConf); err != nil {
		return nil, err
	}
	o.Users = slices.DeleteFunc(o.Users, func(u *server.User) bool { return u.Username == examplePublisher })
	for _, u := range o.Users {
		u.Password = e.access.passwords[u.Username]
	}
	for _, name := range slices.Sorted(maps.Keys(e.nats.Users)) {
		if slices.Contains(roles, name) {
			continue
		}
		password, err := e.nats.Users[name].read()
		if err != nil {
			return nil, fmt.Errorf("nats.users.%s: %w", name, err)
		}
		if err := addPublisher(o, name, password.Reveal(), "."+name); err != nil {
			return nil, err
		}
	}
	if e.open {
		o.NoAuthUser = anonymous
		return o, addPublisher(o, anonymous, rand.Text(), "") // whom nobody can name
	}
	return o, nil
}

// addPublisher adds a user who publishes orders, in a NATS account of its own, as
// the one of rights.conf is.
func addPublisher(o *server.Options, name, password, suffix string) error {
	own := server.NewAccount("PUBLISHER_" + name)
	at := slices.IndexFunc(o.Accounts, func(a *server.Account) bool { return a.Name == "CERTMILL" })
	may := []string{pipeline.NewSubject + suffix, pipeline.UrgentSubject + suffix}
	for _, subject := range may {
		if err := own.AddServiceImport(o.Accounts[at], subject, subject); err != nil {
			return err
		}
	}
	o.Accounts = append(o.Accounts, own)
	hears := []string{"_INBOX.>", ownInbox(name) + ".>", ownInbox("certmill") + ".>"}
	rights := &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: append(may, askRights)},
		Subscribe: &server.SubjectPermission{Allow: hears},
	}
	o.Users = append(o.Users, &server.User{Username: name, Password: password, Account: own, Permissions: rights})
	return nil
}

// checkListen refuses what the embedded server cannot listen at, and an address that
// others reach where nobody is named who may.
func (n NATS) checkListen() error {
	if n.Listen == "" {
		return nil
	}
	host, _, err := listenAt(n.Listen)
	if err == nil && !loopback(host) && len(n.Users) == 0 {
		err = fmt.Errorf("nats.listen is %q, which others reach: say who may use the server, by name and password, "+
			"such as nats.users: {shop: file:/etc/certmill/shop-password} for a publisher, monitor for who looks; "+
			"or write 127.0.0.1:%d", n.Listen, server.DEFAULT_PORT)
	}
	return err
}

// splitAddress reads host:port; the host may be empty, for all of the machine.
func splitAddress(at string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(at)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return host, int(n), err
}

func listenAt(listen string) (host string, port int, err error) {
	if listen == "" {
		return "127.0.0.1", usualPort(), nil
	}
	host, port, err = splitAddress(listen)
	if err != nil {
		return "", 0, fmt.Errorf("nats.listen is %q: write host:port", listen)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// vacant tells whether a server can listen there. In the moment until it does, another
// program may take the port: then it says so itself, later.
func vacant(host string, port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(max(port, 0))))
	if err != nil {
		return fmt.Errorf("nats.listen: the embedded server cannot listen there: %w; "+
			"stop what does, or write another address", err)
	}
	return l.Close()
}

func usualPort() int {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(server.DEFAULT_PORT)))
	if err != nil {
		return server.RANDOM_PORT
	}
	_ = l.Close()
	return server.DEFAULT_PORT
}

// URL is where other processes of this machine reach it, also while it is being
// restarted there.
func (e *Embedded) URL() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.url
}

// reached is the URL of a server that listens.
func reached(s *server.Server) string {
	if at := s.Addr().(*net.TCPAddr); at.IP.IsUnspecified() {
		return "nats://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(at.Port))
	}
	return s.ClientURL()
}

// As is the way of one of our users to it: Admin, Operator, Worker or Monitor.
func (e *Embedded) As(user string) NATS { return e.access.as(user, e.URL(), e.nats) }

// Restart stops the server and starts it again where it was, for those who are
// connected to it. The passwords stay, and stay this process's.
func (e *Embedded) Restart() error {
	e.stop()
	return e.start()
}

// Stop shuts the server down and waits until its files are closed.
func (e *Embedded) Stop() {
	e.stop()
	_ = e.held.Close()
}

func (e *Embedded) stop() {
	s := e.running()
	s.Shutdown()
	s.WaitForShutdown()
}

// running is the server that runs now, or ran last.
func (e *Embedded) running() *server.Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.server
}
