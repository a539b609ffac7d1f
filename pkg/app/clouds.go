package app

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/alidns"
	"github.com/certmill/certmill/pkg/dcv/dnspod"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/tencent"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/stage"
)

// clouds are the vendors, by the word that a config has for them: a new one is
// one line here.
var clouds = map[string]Provider{
	"aliyun":  provider(aliyun.About(), aliyun.New, "alidns", alidns.Calls(), alidns.New),
	"tencent": provider(tencent.About(), tencent.New, "dnspod", dnspod.Calls(), dnspod.New),
}

// Provider is a vendor as the config knows it.
type Provider struct {
	About issuer.About
	// Open makes an account's client, and the solver of its own DNS. Nothing is
	// sent.
	Open func(issuer.Access) (issuer.Cloud, dcv.Solver, error)
	// DNS is the kind of dcv.solvers that is the DNS of one of its accounts; empty:
	// the vendor has none.
	DNS      string
	DNSCalls issuer.Calls
}

func provider[C issuer.Cloud, S dcv.Solver](about issuer.About, open func(issuer.Access) (C, error),
	dns string, calls issuer.Calls, solver func(C) S) Provider {
	return Provider{About: about, DNS: dns, DNSCalls: calls, Open: func(a issuer.Access) (issuer.Cloud, dcv.Solver, error) {
		c, err := open(a)
		if err != nil {
			return nil, nil, err
		}
		return c, solver(c), nil
	}}
}

// registering guards clouds, which tests add to.
var registering sync.RWMutex

// Register adds a cloud under a word that accounts.<label>.cloud may then have.
// It must come before a config with such an account is read. A word that is known
// means the new one from then on.
func Register(word string, p Provider) {
	registering.Lock()
	defer registering.Unlock()
	clouds[word] = p
}

// vendors are all clouds, by the config's word.
func vendors() map[string]Provider {
	registering.RLock()
	defer registering.RUnlock()
	return maps.Clone(clouds)
}

// calls are the vendor's actions that certmill makes, those of its DNS too.
func (p Provider) calls() issuer.Calls { return slices.Concat(p.About.Calls, p.DNSCalls) }

// limited are those of them that take permits.
func (p Provider) limited() issuer.Calls {
	return slices.DeleteFunc(p.calls(), func(c issuer.Call) bool { return c.Free })
}

// CloudNames are the names of all clouds, for a sentence.
func CloudNames() string {
	all := vendors()
	var names []string
	for _, word := range sorted(all) {
		names = append(names, all[word].About.Name)
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// WriteCodes prints the documented error codes of all clouds, in English (en) or
// Chinese (zh).
func WriteCodes(w io.Writer, lang string) error {
	all := vendors()
	var tables []*issuer.Table
	for _, word := range sorted(all) {
		tables = append(tables, all[word].About.Codes)
	}
	return issuer.WriteCodes(w, lang, tables...)
}

// ready are the accounts of a config, ready to be called.
type ready struct {
	accounts stage.Accounts
	solvers  map[string]dcv.Solver // of DNS challenges, by label
}

// openClouds makes the clients. Nothing is sent. aliases follow delegated
// challenges; nil: names are what they seem.
func openClouds(c Config, permits *permit.Set, simulated bool, aliases dcv.Aliases) (ready, error) {
	out := ready{accounts: stage.Accounts{}, solvers: map[string]dcv.Solver{}}
	own := map[string]dcv.Solver{} // the accounts' own DNS, by label
	keys := map[string]string{}    // by label
	for _, label := range sorted(c.Accounts) {
		a := c.Accounts[label]
		account := &stage.Account{
			Label: label, Main: a.Main, Contact: a.Contact, Company: a.Company, Daily: a.Daily, Simulated: simulated,
			Waits: stage.Waits{Entry: a.EntryLife, Signature: a.SignatureLife, Clocks: a.Clocks, ListLag: a.ListLag},
		}
		opened, err := a.open(label, permits, account.May)
		if err != nil {
			return ready{}, fmt.Errorf("account %s: %w", label, err)
		}
		if opened.records != nil {
			own[label] = opened.records
		}
		account.Cloud, account.Credentials = opened.cloud, &stage.Credentials{Key: opened.key}
		out.accounts[label], keys[label] = account, opened.key
	}
	if err := errors.Join(c.sharedKeys(func(label string) string { return keys[label] })...); err != nil {
		return ready{}, err
	}
	byZone, err := c.openSolvers(own)
	if err != nil {
		return ready{}, err
	}
	for label := range out.accounts {
		out.solvers[label] = route(byZone, own[label], aliases)
	}
	return out, nil
}

// opened is the client of one label, the solver of its own DNS, and what tells its
// access key from others.
type opened struct {
	cloud   issuer.Cloud
	records dcv.Solver
	key     string // empty: it was not read
}

// open makes the client of one label. gate says why nothing may be called with it.
// One whose main account is not known yet is asked whose it is, and nothing else:
// its limits would be counted under the label.
func (a Account) open(label string, permits *permit.Set, gate func(context.Context) error) (opened, error) {
	id, err := a.KeyID.read()
	if err != nil {
		return opened{}, fmt.Errorf("key_id: %w", err)
	}
	secret, err := a.Secret.read()
	if err != nil {
		return opened{}, fmt.Errorf("secret: %w", err)
	}
	token, err := a.Token.read()
	if err != nil {
		return opened{}, fmt.Errorf("token: %w", err)
	}
	cloud, records, err := vendors()[a.Cloud].Open(issuer.Access{
		Endpoint: a.Endpoint, DNSEndpoint: a.DNSEndpoint, IdentityEndpoint: a.IdentityEndpoint, Region: a.Region,
		KeyID: id.Reveal(), Secret: secret, Token: token, Main: cmp.Or(a.Main, label), Permits: permits, Gate: gate,
		Product: a.Product, CSRSANs: a.CSRSANs,
	})
	return opened{cloud, records, a.fingerprint(id)}, err
}

// fingerprint tells an access key, and where it is used, from others. It tells
// nothing of the secret, and the id of the key only to who knows it.
func (a Account) fingerprint(id order.Secret) string {
	if a.KeyID == unread {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{a.Cloud, a.Endpoint, a.IdentityEndpoint, id.Reveal()}, "\x00")))
	return hex.EncodeToString(sum[:6])
}

// period is what limits count in: calls a second.
const period = time.Second

// limits tells the size of each ring: what was set by command, else the
// account's own setting, else the documented one.
func (c Config) limits(states *account.Accounts) func(permit.Key) permit.Limit {
	own := map[string]Account{}
	for _, a := range c.Accounts {
		own[a.Main] = a
	}
	delete(own, "") // not known yet
	all := vendors()
	return func(k permit.Key) permit.Limit {
		a := own[k.Account]
		call, _ := all[a.Cloud].calls().Find(k.Action)
		l := permit.Limit{Calls: call.Most(), Period: period, Deadline: a.Deadline}
		for _, n := range []int{a.Limits[k.Action], states.State(k.Account).Limits[k.Action]} {
			if n > 0 {
				l.Calls = n
			}
		}
		if call.Starts { // an unclear answer is dear
			l.Deadline = a.SpendDeadline
		}
		return l
	}
}

// openRings joins the rings of all calls that the roles make: a process whose
// settings differ from the others' refuses to start instead of failing later,
// and the first order finds rings whose permits were all laid out meanwhile.
// Whoever works in no role joins a ring when it first calls.
func (c Config) openRings(ctx context.Context, set *permit.Set, accounts stage.Accounts, roles []order.Role) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(joining)
	for _, k := range c.rings(accounts, roles) {
		g.Go(func() error { return set.Open(ctx, k) })
	}
	return g.Wait()
}

// joining is how many rings are joined at the same time.
const joining = 16

// rings are those of the calls that the roles make, each once.
func (c Config) rings(accounts stage.Accounts, roles []order.Role) []permit.Key {
	all := vendors()
	wanted := map[permit.Key]bool{}
	for _, a := range accounts.Mains() {
		for _, role := range roles {
			for _, call := range all[c.Accounts[a.Label].Cloud].calls().Of(role) {
				if !call.Free {
					wanted[permit.Key{Account: a.Main, Action: call.Action}] = true
				}
			}
		}
	}
	return slices.Collect(maps.Keys(wanted))
}

// newLooker looks as the CA will.
func newLooker(c DCV) (looker, error) {
	allow, err := c.allowed()
	if err != nil {
		return looker{}, err
	}
	l, err := dcv.NewLooker(dcv.LookerConfig{Resolvers: c.Resolvers, Servers: c.Servers, HTTPPort: c.FilePort, Allow: allow, OwnPort: c.servePort()})
	return looker{l}, err
}
