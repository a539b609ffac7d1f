package app

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/certmill/certmill/pkg/durable"
	"github.com/certmill/certmill/pkg/redact"
)

// accessDir is the folder in the state folder that has the passwords of the
// embedded server's own users, a file for each. Who can read it can do what they
// can, so it is its owner's alone.
const accessDir = "access"

// access are those passwords, by user, and where they lie.
type access struct {
	dir       string
	passwords map[string]string
}

// openAccess opens the folder, or makes it.
func openAccess(state string) (access, error) {
	a := access{dir: filepath.Join(absolute(state), accessDir), passwords: map[string]string{}}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return a, fmt.Errorf("passwords of the embedded server: %w", err)
	}
	return a, nil
}

// read reads the passwords. One that is missing, or that others could have read,
// is made anew: then who had it has it no more.
func (a access) read(of map[string]Ref) error {
	for _, role := range roles {
		password, err := a.password(role, of[role])
		if err != nil {
			return fmt.Errorf("password of the embedded server's user %s: %w", role, err)
		}
		a.passwords[role] = password
	}
	return nil
}

// password is what the config says, or what lies there, or a new one. It lies
// there from then on.
func (a access) password(role string, configured Ref) (string, error) {
	path := a.file(role)
	there, err := ownFile(path)
	if err != nil {
		return "", err
	}
	wanted := there
	if configured != "" {
		secret, err := configured.read()
		if err != nil {
			return "", err
		}
		wanted = secret.Reveal()
	} else if there == "" {
		wanted = rand.Text()
	}
	if wanted == there {
		return there, nil
	}
	return wanted, writeOwn(path, []byte(wanted+"\n"))
}

// hold takes the folder for a server, until the file is closed or the process
// ends. Who only asks whether somebody has it is in the way for a moment.
func (a access) hold() (*os.File, error) {
	f, err := os.OpenFile(a.file(lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for range 20 {
		taken, err := durable.Lock(f)
		if err == nil {
			return f, nil
		}
		if !taken {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = f.Close()
	return nil, fmt.Errorf("another server has the passwords in %s: stop that certmill run first", a.dir)
}

// held tells whether a server runs whose passwords lie in a folder. Where none
// does, any program may listen at its port by now, and would be told a password.
func held(dir string) bool {
	if !durable.Locks {
		return true
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	taken, _ := durable.Lock(f)
	return taken
}

func (a access) file(role string) string { return filepath.Join(a.dir, role) }

// ownFile reads a file that nobody else could read; "" if there is none.
func ownFile(path string) (string, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0:
		return "", nil
	}
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

// writeOwn puts a file in place that is its owner's alone, also where one with
// other rights was.
func writeOwn(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// contextOf is the file by which the stock nats command gets a user's rights: a
// context of its own format.
func (a access) contextOf(user string) string { return a.file(user) + ".json" }

// writeContext leaves it. The server may listen elsewhere than the last time.
func (a access) writeContext(user, at string) error {
	data, err := json.MarshalIndent(map[string]string{"description": "certmill, as " + user, "url": at,
		"user": user, "password": a.passwords[user], "inbox_prefix": ownInbox(user)}, "", "  ")
	if err == nil {
		err = writeOwn(a.contextOf(user), append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("context of the nats command: %w", err)
	}
	return nil
}

// as is the way of one user to the embedded server.
func (a access) as(user, at string, n NATS) NATS {
	return NATS{URL: at, User: user, Password: Ref("file:" + a.file(user)), Replicas: n.Replicas}
}

// home is the folder of the passwords that a run left in its state folder; ok is
// false for credentials of any other kind.
func (n NATS) home() (dir string, ok bool) {
	path, is := strings.CutPrefix(string(n.Password), "file:")
	dir = filepath.Dir(path)
	return dir, is && filepath.Base(path) == n.User && filepath.Base(dir) == accessDir
}

func (n NATS) atHome() bool {
	_, is := n.home()
	return is
}

// Beside is the config with the way to the server of the certmill run that works
// with the same state folder, unless it names another server or user.
func (c Config) Beside() Config {
	left, err := Load(filepath.Join(c.State, ConfigName))
	nobody, anywhere := c.NATS.User == "" && c.NATS.Credentials == "", c.NATS.URL == ""
	if err == nil && left.NATS.atHome() && nobody && (anywhere || c.NATS.URL == left.NATS.URL) {
		c.NATS = left.NATS
	}
	return c
}

// by is the way as another of our users, for what the operator may not, where the
// state folder has the passwords of all; else as it is.
func (n NATS) by(role string) NATS {
	if n.User == Operator {
		return n.instead(role)
	}
	return n
}

// instead is the way as another of our users, whoever it is now.
func (n NATS) instead(role string) NATS {
	if n.atHome() {
		n.Password = Ref(strings.TrimSuffix(string(n.Password), n.User) + role)
		n.User = role
	}
	return n
}

// Elsewhere is the way to another server. What a run left in its state folder is
// for that run's own server, and nobody else is told it.
func (n NATS) Elsewhere(at string) NATS {
	if at != n.URL && n.atHome() {
		n.User, n.Password = "", ""
	}
	n.URL = at
	return n
}

// tokenForm is what can be one token of a subject.
var tokenForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)

// ownInbox is the prefix of the subjects at which a user's answers come. No other
// user of rights.conf may listen there.
func ownInbox(user string) string { return "_INBOX_" + user }

// inbox is the prefix in force.
func (n NATS) inbox() string {
	switch {
	case n.Inbox != "":
		return n.Inbox
	case n.User != "":
		return ownInbox(n.User)
	}
	return ownInbox("certmill") // of a server that asks for no user
}

// inboxForm is a subject without wildcards and empty tokens.
var inboxForm = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// check refuses what cannot work, or would tell a secret.
func (n NATS) check() (all []error) {
	bad := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	if err := n.checkURL(); err != nil {
		all = append(all, err)
	}
	if n.URL == "" {
		if err := n.checkListen(); err != nil {
			all = append(all, err)
		}
	}
	if err := n.Password.check(); err != nil {
		bad("nats.password: %w", err)
	}
	if n.Inbox != "" && !inboxForm.MatchString(n.Inbox) {
		bad("nats.inbox is %q: write a subject without wildcards, such as _INBOX_certmill", n.Inbox)
	}
	if n.Inbox == "" && n.User != "" && !tokenForm.MatchString(n.User) {
		bad("nats.user has characters that no subject may have: write nats.inbox, too, such as _INBOX_certmill")
	}
	if len(n.Users) > 0 && n.URL != "" {
		bad("nats.users is for the server that certmill run embeds, and nats.url names another: leave one of them out")
	}
	for _, name := range sorted(n.Users) {
		if !tokenForm.MatchString(name) || name == anonymous {
			bad("nats.users.%s: a name has 1 to 63 of A-Z, a-z, 0-9, '-' and '_', and is not %q", name, anonymous)
		}
		if n.Users[name] == "" {
			bad("nats.users.%s has no password: write env:NAME or file:PATH", name)
		}
		if err := n.Users[name].check(); err != nil {
			bad("nats.users.%s: %w", name, err)
		}
	}
	return all
}

// errURL never repeats the URL: there may be a password in it.
var errURL = errors.New("nats.url is no URL of a server: write nats://host:port, and commas between several")

// checkURL refuses a URL with a user or password in it, which would stand in
// configs, command lines and logs.
func (n NATS) checkURL() error {
	for _, one := range strings.Split(n.URL, ",") {
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		if !strings.Contains(one, "://") {
			one = "nats://" + one
		}
		u, err := url.Parse(one)
		switch {
		case strings.Contains(one, "@") || err == nil && u.User != nil:
			return errors.New("nats.url has a user, a password or a token in it, which would stand in logs: " +
				"write nats://host:port, the user as nats.user, and the password as nats.password: env:NAME or file:PATH")
		case err != nil || u.Host == "":
			return errURL
		}
	}
	return nil
}

// options are what it takes to connect, but for what becomes of a connection that
// is lost.
func (n NATS) options() ([]nats.Option, error) {
	if err := n.checkURL(); err != nil { // also one that came from the command line
		return nil, err
	}
	opts := []nats.Option{nats.CustomInboxPrefix(n.inbox())}
	if dir, is := n.home(); is && !held(dir) {
		return nil, fmt.Errorf("no certmill run works in the state folder %s: start it there, "+
			"or name another server (nats.url) and its user", filepath.Dir(dir))
	}
	password, err := n.Password.read()
	if err != nil && n.atHome() {
		return nil, fmt.Errorf("%w; certmill run makes the passwords of its server when it starts: start it again", err)
	}
	if err != nil {
		return nil, fmt.Errorf("nats.password: %w", err)
	}
	if n.User != "" {
		opts = append(opts, nats.UserInfo(n.User, password.Reveal()))
	}
	if n.Credentials != "" {
		learnFile(n.Credentials)
		opts = append(opts, nats.UserCredentials(n.Credentials))
	}
	if n.CA != "" {
		opts = append(opts, nats.RootCAs(n.CA))
	}
	return opts, nil
}

// Connect opens a connection as this user, with the options of the caller.
func (n NATS) Connect(with ...nats.Option) (*nats.Conn, error) {
	opts, err := n.options()
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(n.URL, append(opts, with...)...)
	if err != nil {
		// The server may repeat what it was told.
		return nil, redact.Error(fmt.Errorf("connect to NATS at %s: %w", n.URL, explainConnect(err, n)))
	}
	return nc, nil
}

// explainConnect says what to do where the server does not let this user in.
func explainConnect(err error, n NATS) error {
	if !errors.Is(err, nats.ErrAuthorization) {
		return err
	}
	if n.User == "" && n.Credentials == "" {
		return fmt.Errorf("%w: the server asks who it is: write nats.user and nats.password (or nats.credentials)", err)
	}
	return fmt.Errorf("%w: the server does not take this user or password (nats.user, nats.password)", err)
}

// loopback tells whether only this machine reaches an address.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
