package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/redact"
)

// Config is everything that does not change while a process runs. It is read
// once; unknown keys are refused. What changes at run time (pauses, products
// without quota, sweep marks) is account state in NATS.
//
// The doc tags are the source of the tables of settings (Table).
type Config struct {
	NATS       NATS                 `yaml:"nats"`
	State      string               `yaml:"state" doc:"folder of this process: embedded server, key store, identity, simulated clouds"`
	Keys       Keys                 `yaml:"keys"`
	Deliver    Deliver              `yaml:"deliver"`
	DCV        DCV                  `yaml:"dcv"`
	Preflight  string               `yaml:"preflight" doc:"what submitters do with what they find before an order is bought (CAA, DNSSEC, words; whether the account's key may write in the zone of its challenges, tried once a day by a TXT record _certmill-check, which is removed again): hold (what will surely fail is held, the rest is a note in its timeline), warn (notes only) or off; certmill plan looks always"`
	Listen     string               `yaml:"listen" doc:"host:port of the probes /healthz and /readyz and of the counters /permits; empty: none"`
	Log        string               `yaml:"log" doc:"debug, info, warn or error"`
	Parallel   int                  `yaml:"parallel" doc:"orders that one worker handles at the same time, for each stage and lane"`
	AckWait    time.Duration        `yaml:"ack_wait" doc:"the orders of a worker that died are handed out again after this"`
	Zone       string               `yaml:"zone" doc:"time zone of the calendar day that daily budgets go by, such as Asia/Shanghai"`
	Duplicates string               `yaml:"duplicates" doc:"what becomes of an order for a set of names that another order has in service, not due yet, with whatever account: hold (before anything is taken; approve lets it go on) or allow. Names that are on their way, or were paid for in vain, wait or are held always"`
	Batches    map[string]int       `yaml:"batches" doc:"most purchases of a batch, by its name; over it, orders are held. An attempt whose outcome was unknown stays counted"`
	Publishers map[string]Publisher `yaml:"publishers" doc:"what those who publish orders may do, by the last token of their subject, shop for orders.new.shop; anonymous for orders.new itself, operator for certmill's own commands, * for all whom nothing here names"`
	Accounts   map[string]Account   `yaml:"accounts" doc:"by label, [a-z0-9-]; a label is a queue of its own, what concerns money or limits goes by main account"`
}

// NATS is the way to the server.
type NATS struct {
	URL         string         `yaml:"url" doc:"server or servers, comma-separated, without a user or password; empty: certmill run embeds one"`
	Listen      string         `yaml:"listen" doc:"host:port of the embedded server; empty: 127.0.0.1:4222, or another port if that is taken. Any address but the loopback needs nats.users"`
	Users       map[string]Ref `yaml:"users" doc:"who may use the embedded server from elsewhere, each with its password as env:NAME or file:PATH: admin, operator, worker and monitor are the roles of deploy/nats, any other name is a publisher, who publishes to orders.new.<name>"`
	User        string         `yaml:"user" doc:"user name, where the server asks for one; deploy/nats has one for each role"`
	Password    Ref            `yaml:"password" doc:"its password, as env:NAME or file:PATH"`
	Credentials string         `yaml:"credentials" doc:"path of a .creds file, in place of user and password"`
	Inbox       string         `yaml:"inbox" doc:"first tokens of the subjects at which answers come; empty: _INBOX_<user>, or _INBOX_certmill without nats.user"`
	CA          string         `yaml:"ca" doc:"path of the root certificates that the server's certificate chains to"`
	Replicas    int            `yaml:"replicas" doc:"of the streams: 1, or 3 in a cluster"`
}

// Keys say who can open private keys, and where sealed ones rest.
type Keys struct {
	Store      string   `yaml:"store" doc:"folder with the sealed keys and attempt numbers, shared by all submitters"`
	Recipients []string `yaml:"recipients" doc:"age recipients (age1…) that keys are sealed to"`
	Identity   string   `yaml:"identity" doc:"path of the age identity that opens keys; collectors only, empty: keys are delivered sealed"`
}

// Deliver is where certificates go.
type Deliver struct {
	Directory string `yaml:"directory" doc:"folder that gets <id>/fullchain.pem, <id>/privkey.pem (or .age) and <id>/order.json"`
}

// DCV is how control of names is proved and seen.
type DCV struct {
	Files     string            `yaml:"files" doc:"folder that FILE challenges are written to, <host>/<path>; the web servers of the names serve it. Without dcv.bucket and dcv.serve: files in the state folder"`
	Bucket    string            `yaml:"bucket" doc:"URL of an object store that FILE challenges are written to in place of a folder: s3://name?region=…&endpoint=…, also for OSS and COS; credentials from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"`
	Serve     string            `yaml:"serve" doc:"host:port at which every verifier serves FILE challenges itself, in place of a folder; they are kept in NATS. Port 80 of the names has to lead there for /.well-known/pki-validation/"`
	FilePort  int               `yaml:"file_port" doc:"port at which certmill looks at FILE challenges"`
	CleanUp   time.Duration     `yaml:"clean_up" doc:"records and files that no order needs any more, because of a crash or of what a person decided, are removed when they are so old"`
	Copy      string            `yaml:"copy" doc:"folder, shared by all verifiers and collectors, with a copy of what was placed: records are taken back by it that a lost JetStream has forgotten. Empty: none; placed in the state folder where certmill run embeds the server"`
	Resolvers []string          `yaml:"resolvers" doc:"host:port of recursive resolvers; empty: those of /etc/resolv.conf"`
	Servers   []string          `yaml:"servers" doc:"host:port of name servers that are asked in place of the zones' own: split-horizon DNS and simulated clouds"`
	Solvers   map[string]Solver `yaml:"solvers" doc:"by name: who places DNS challenges in zones that are not in the ordering account's own cloud DNS"`
	Allow     []string          `yaml:"allow" doc:"networks (10.20.0.0/16) that are not public and that certmill looks at all the same, where a name lies or has its name servers there; link-local addresses and metadata services never"`
}

// Publisher is what one publisher may do.
type Publisher struct {
	Accounts []string `yaml:"accounts" doc:"labels that its orders may be for, and that any chooses from; empty: all; none: no account at all"`
	Daily    int      `yaml:"daily" doc:"most purchases of its orders on a calendar day, what they use up of things already bought among them; over it, orders are held; 0: no bound. Those of * share theirs"`
}

// Account is one label.
type Account struct {
	Cloud            string         `yaml:"cloud" doc:"aliyun or tencent"`
	Main             string         `yaml:"main" doc:"id of the main account (ParentUid, Uin); labels with the same one share limits and ledger. Empty: the cloud is asked whose the key is. An account whose key is another main account's is stopped"`
	Endpoint         string         `yaml:"endpoint" doc:"scheme://host[:port] of CAS or SSL; empty: the cloud's own"`
	DNSEndpoint      string         `yaml:"dns_endpoint" doc:"scheme://host[:port] of alidns or DNSPod; empty: the cloud's own"`
	IdentityEndpoint string         `yaml:"identity_endpoint" doc:"scheme://host[:port] of STS, which tells whose the credentials are; empty: the cloud's own, or endpoint where that is not the cloud's"`
	Region           string         `yaml:"region" doc:"cn-hangzhou at Alibaba; none is needed at Tencent"`
	KeyID            Ref            `yaml:"key_id" doc:"access key id or SecretId, as env:NAME or file:PATH"`
	Secret           Ref            `yaml:"secret" doc:"access key secret or SecretKey, as env:NAME or file:PATH"`
	Token            Ref            `yaml:"token" doc:"security token of temporary credentials, as env:NAME or file:PATH"`
	Product          string         `yaml:"product" doc:"product code of orders that name none"`
	Contact          order.Contact  `yaml:"contact" doc:"name, email, phone, province, city of orders that leave them out"`
	Company          string         `yaml:"company" doc:"of orders that leave it out; OV products only"`
	CSRSANs          bool           `yaml:"csr_sans" doc:"it was proved that this account's product honours the SANs of a CSR"`
	Daily            int            `yaml:"daily" doc:"most purchases of the main account on a calendar day, what is used up of things already bought among them; over it, orders are held; 0: no bound"`
	Limits           map[string]int `yaml:"limits" doc:"calls a second by API action, where they differ from the documented ones"`
	Deadline         time.Duration  `yaml:"deadline" doc:"how long a call may take (3s)"`
	SpendDeadline    time.Duration  `yaml:"spend_deadline" doc:"how long a call that starts an order may take (15s)"`
	SignatureLife    time.Duration  `yaml:"signature_life" doc:"how old a signature the cloud takes: 15m at Alibaba, 5m at Tencent"`
	EntryLife        time.Duration  `yaml:"entry_life" doc:"a spending call is signed at most this long after its ledger entry (30s)"`
	Clocks           time.Duration  `yaml:"clocks" doc:"how far the clocks of cloud, NATS and workers may be apart (60s)"`
	ListLag          time.Duration  `yaml:"list_lag" doc:"how late the cloud's list may show an order (60s)"`

	found bool // Main is no word of the config's: the cloud said it
}

// Ref is where a secret comes from: env:NAME or file:PATH. The secret itself
// is refused in a config file.
type Ref string

// unread is in place of a secret that nothing is called with.
const unread Ref = "unread:"

// read fetches the secret, without the line end that files have, and makes it
// known to package redact.
func (r Ref) read() (order.Secret, error) {
	secret, err := r.fetch()
	if r != unread {
		redact.Learn(secret.Reveal())
	}
	return secret, err
}

func (r Ref) fetch() (order.Secret, error) {
	kind, where, _ := strings.Cut(string(r), ":")
	switch {
	case r == "":
		return "", nil
	case r == unread:
		return "bm90IHJlYWQ=", nil // what takes base64 takes it, too
	case kind == "env" && where != "":
		if v := os.Getenv(where); v != "" {
			return order.Secret(v), nil
		}
		return "", fmt.Errorf("environment variable %s is not set", where)
	case kind == "file" && where != "":
		data, err := os.ReadFile(where)
		if err != nil {
			return "", err
		}
		if text := strings.TrimSpace(string(data)); text != "" {
			return order.Secret(text), nil
		}
		return "", fmt.Errorf("%s is empty", where)
	}
	return "", errRef
}

// errRef never repeats what was written: it may be the secret.
var errRef = errors.New("write env:NAME or file:PATH; a secret itself does not belong into the config")

// check tells whether it is a reference, or nothing. What it leads to is not read.
func (r Ref) check() error {
	if r != "" && r != unread && !refForm.MatchString(string(r)) {
		return errRef
	}
	return nil
}

// Defaults are the settings that a config starts from.
func Defaults() Config {
	return Config{
		NATS: NATS{Replicas: 1}, State: "state", Deliver: Deliver{Directory: "certs"}, DCV: DCV{FilePort: 80, CleanUp: 10 * time.Minute},
		Preflight: flightHold, Log: "info", Parallel: 16, AckWait: time.Minute, Zone: "UTC", Duplicates: duplicatesHold,
	}
}

// Values of the setting duplicates.
const (
	duplicatesHold  = "hold"
	duplicatesAllow = "allow"
)

// Load reads a config file. An empty path means the defaults.
func Load(path string) (Config, error) {
	if path == "" {
		return Parse(nil)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read config: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Parse reads a config from YAML. Unknown keys are refused with their line.
func Parse(data []byte) (Config, error) {
	c := Defaults()
	err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&c)
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: there is nothing in it
		return Config{}, badYAML(err)
	}
	if reflect.ValueOf(c).IsZero() { // a document without content clears what it is read into
		c = Defaults()
	}
	c.fill()
	return c, c.check()
}

// badYAML says line and column first and leaves the source out: a value could
// be a secret that was written where a reference belongs.
func badYAML(err error) error {
	var known yaml.Error
	if !errors.As(err, &known) {
		return err
	}
	at := known.GetToken().Position
	return fmt.Errorf("line %d, column %d: %s", at.Line, at.Column, known.GetMessage())
}

// Rest moves the process's own folder, and what follows from it.
func (c *Config) Rest(state string) {
	for path, name := range map[*string]string{&c.Keys.Store: "keys", &c.DCV.Files: "files", &c.DCV.Copy: "placed"} {
		if *path == filepath.Join(c.State, name) {
			*path = filepath.Join(state, name)
		}
	}
	c.State = state
}

// fill sets what follows from other settings.
func (c *Config) fill() {
	if c.Keys.Store == "" {
		c.Keys.Store = filepath.Join(c.State, "keys")
	}
	if c.DCV.Files == "" && c.DCV.Bucket == "" && c.DCV.Serve == "" {
		c.DCV.Files = filepath.Join(c.State, "files")
	}
	if c.DCV.Copy == "" && c.NATS.URL == "" { // one process has all
		c.DCV.Copy = filepath.Join(c.State, "placed")
	}
	all := vendors()
	for label, a := range c.Accounts {
		if a.SignatureLife == 0 {
			a.SignatureLife = all[a.Cloud].About.SignatureLife
		}
		setIfZero(&a.Deadline, 3*time.Second)
		setIfZero(&a.SpendDeadline, 15*time.Second) // a paid call is given every chance to answer
		setIfZero(&a.EntryLife, 30*time.Second)
		setIfZero(&a.Clocks, time.Minute)
		setIfZero(&a.ListLag, time.Minute)
		c.Accounts[label] = a
	}
}

func setIfZero[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

var (
	labelForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)
	mainForm  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// check refuses what cannot work, all of it at once: whatever the config alone tells,
// so that certmill config --check refuses what certmill run would (ready).
func (c Config) check() error {
	var all []error
	bad := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	if c.NATS.Replicas != 1 && c.NATS.Replicas != 3 && c.NATS.Replicas != 5 {
		bad("nats.replicas is %d: write 1 for a single server, 3 or 5 in a cluster", c.NATS.Replicas)
	}
	all = append(all, c.NATS.check()...)
	if _, err := logLevel(c.Log); err != nil {
		bad("log: %w", err)
	}
	if _, _, err := splitAddress(c.Listen); c.Listen != "" && err != nil {
		bad("listen is %q: write host:port, such as 127.0.0.1:8080", c.Listen)
	}
	if c.Parallel < 1 || c.Parallel > 500 {
		bad("parallel is %d: write 1 to 500", c.Parallel)
	}
	if _, err := time.LoadLocation(c.Zone); err != nil {
		bad("zone is %q: write a name of the time zone database, such as Asia/Shanghai", c.Zone)
	}
	for batch, most := range c.Batches {
		if most < 0 {
			bad("batches.%s is %d: write how many purchases are allowed", batch, most)
		}
	}
	if c.Preflight != flightOff && c.Preflight != flightWarn && c.Preflight != flightHold {
		bad("preflight is %q: write %s, %s or %s", c.Preflight, flightOff, flightWarn, flightHold)
	}
	if c.Duplicates != duplicatesHold && c.Duplicates != duplicatesAllow {
		bad("duplicates is %q: write %s or %s", c.Duplicates, duplicatesHold, duplicatesAllow)
	}
	all = append(all, c.DCV.checkFiles()...)
	if err := (dcv.LookerConfig{Resolvers: c.DCV.Resolvers, Servers: c.DCV.Servers}).Check(); err != nil {
		bad("dcv.resolvers, dcv.servers: %w", err)
	}
	if c.DCV.CleanUp < time.Second {
		bad("dcv.clean_up is %v: write at least 1s; orders that are under way look after theirs", c.DCV.CleanUp)
	}
	if c.AckWait < time.Second {
		bad("ack_wait is %v: write at least 1s; a call to a cloud alone may take 15s", c.AckWait)
	}
	if len(c.Keys.Recipients) > 0 {
		if _, err := certstore.ParseRecipients(c.Keys.Recipients...); err != nil {
			bad("keys.recipients: %w", err)
		}
	}
	all = append(all, c.checkPublishers(c.labels())...)
	for label, a := range c.Accounts {
		all = append(all, a.check("accounts."+label, label)...)
	}
	all = append(all, c.sharedMains()...)
	all = append(all, c.sharedKeys(func(label string) string { return string(c.Accounts[label].KeyID) })...)
	all = append(all, c.checkSolvers()...)
	slices.SortFunc(all, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(all...)
}

// ready refuses what a run would come to refuse, before it begins anything: what check
// does, which also sees what the command line changed, and what only this machine can
// tell, secrets that are not there. Nothing is sent or written.
func (c Config) ready() error {
	if err := c.check(); err != nil {
		return err
	}
	simulated := len(c.Accounts) == 0
	if simulated { // also where the config names a server
		if err := errors.Join(c.checkPublishers(simulatedLabels())...); err != nil {
			return err
		}
	} else if _, err := newLooker(c.DCV); err != nil {
		return err
	}
	if _, err := openClouds(c, permit.NewSet(c.limits(nil)), simulated, nil); err != nil {
		return err
	}
	for _, name := range sorted(c.NATS.Users) {
		if _, err := c.NATS.Users[name].read(); err != nil {
			return fmt.Errorf("nats.users.%s: %w", name, err)
		}
	}
	return nil
}

func (a Account) check(at, label string) (all []error) {
	bad := func(format string, args ...any) { all = append(all, fmt.Errorf(at+format, args...)) }
	if !labelForm.MatchString(label) || strings.HasSuffix(label, order.UrgentSuffix) || label == order.AnyAccount || label == order.NoLane {
		bad(": a label has 1 to 40 of a-z, 0-9 and '-', does not end in %q, and is neither %q nor %q", order.UrgentSuffix, order.AnyAccount, order.NoLane)
	}
	if known := vendors(); known[a.Cloud].Open == nil {
		bad(".cloud is %q: write %s", a.Cloud, strings.Join(sorted(known), " or "))
	}
	if a.Main != "" && !mainForm.MatchString(a.Main) {
		bad(".main is %q: write the id of the main account in quotes, letters, digits, '-' and '_', or leave it out", a.Main)
	}
	if a.KeyID == "" || a.Secret == "" {
		bad(": key_id and secret are required, as env:NAME or file:PATH")
	}
	for name, ref := range map[string]Ref{"key_id": a.KeyID, "secret": a.Secret, "token": a.Token} {
		if err := ref.check(); err != nil {
			bad(".%s: %w", name, err)
		}
	}
	for name, e := range map[string]string{"endpoint": a.Endpoint, "dns_endpoint": a.DNSEndpoint, "identity_endpoint": a.IdentityEndpoint} {
		if e == "" {
			continue
		}
		if _, err := issuer.ParseEndpoint(e); err != nil { // it says what may be shown of it
			bad(".%s: %w: write http(s)://host[:port]", name, err)
		}
	}
	if a.Daily < 0 {
		bad(".daily is %d: write how many purchases a day are allowed, or 0 for any", a.Daily)
	}
	for action, n := range a.Limits {
		if n < 1 || n > mostCalls {
			bad(".limits.%s is %d: write how many calls a second are allowed, 1 to %d", action, n, mostCalls)
		}
	}
	for name, d := range map[string]time.Duration{"deadline": a.Deadline, "spend_deadline": a.SpendDeadline, "signature_life": a.SignatureLife, "entry_life": a.EntryLife, "clocks": a.Clocks, "list_lag": a.ListLag} {
		if d < 0 {
			bad(".%s is %v: it cannot be negative", name, d)
		}
	}
	return all
}

// mostCalls is what no cloud grants: each of them is a message of a permit ring.
const mostCalls = 1000

// sharedMains refuses labels that share a main account and differ in what holds
// for it as a whole.
func (c Config) sharedMains() (all []error) {
	first := map[string]string{}
	for _, label := range sorted(c.Accounts) {
		a := c.Accounts[label]
		other, shared := first[a.Main]
		if !shared {
			first[a.Main] = label
		}
		if !shared || a.Main == "" { // not known yet
			continue
		}
		if err := a.agrees(label, c.Accounts[other], other); err != nil {
			all = append(all, err)
		}
	}
	return all
}

// agrees tells whether two labels on one main account are the same in what holds
// for it as a whole.
func (a Account) agrees(label string, b Account, other string) error {
	if a.Cloud != b.Cloud || a.Endpoint != b.Endpoint || !equal(a.Limits, b.Limits) || a.Deadline != b.Deadline || a.SpendDeadline != b.SpendDeadline {
		return fmt.Errorf("accounts.%s and accounts.%s are on one main account (%s) but differ in cloud, endpoint, limits or deadlines: write the same for both", other, label, a.Main)
	}
	return nil
}

// sharedKeys refuses labels that have one access key and name different main
// accounts: a key belongs to one. key tells two keys apart. A main account that the
// cloud has said is right: where another label names another one, that label alone is
// stopped, by what the cloud says of it.
func (c Config) sharedKeys(key func(label string) string) (all []error) {
	first := map[string]string{}
	for _, label := range sorted(c.Accounts) {
		a := c.Accounts[label]
		at := a.Cloud + " " + a.Endpoint + " " + key(label)
		if a.Main == "" || a.found || key(label) == "" {
			continue
		}
		other, shared := first[at]
		if !shared {
			first[at] = label
			continue
		}
		if b := c.Accounts[other]; b.Main != a.Main {
			all = append(all, fmt.Errorf("accounts.%s and accounts.%s have one access key but different main accounts (%s, %s): "+
				"a key belongs to one main account; write the same main for both, or leave it out", other, label, b.Main, a.Main))
		}
	}
	return all
}
