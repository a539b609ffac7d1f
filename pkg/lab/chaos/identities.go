package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// identities has accounts that are not whom the config says (DESIGN 12.7). First two
// labels have one key, and the config names no main account for either: they share
// ledger and limits. Then, with calls of unknown outcome open everywhere, two accounts
// have each other's key, one has another endpoint, where its key is another main
// account's, and one has the key of a user whose lists show little. Each of them is
// told in a sentence, and nothing is concluded from what they read; after the config
// was put right every order ends.
func identities(ctx context.Context, s *site, _ int) error {
	s.rate, s.sets = true, map[string]bool{}
	m := &mixUp{site: s, dice: s.dice("identities"), of: map[string][]Account{}}
	for _, a := range s.clouds.Accounts() {
		m.of[a.Config.Cloud] = append(m.of[a.Config.Cloud], a)
	}
	elsewhere := s.setting()
	elsewhere.Elsewhere = true
	var err error
	if m.elsewhere, err = s.open(elsewhere); err != nil {
		return err
	}
	defer func() { _ = m.elsewhere.Close() }()
	if err := m.twins(ctx); err != nil {
		return err
	}
	for end := time.Now().Add(s.size.For); ; {
		if err := m.round(ctx); err != nil {
			return err
		}
		if time.Now().After(end) {
			break
		}
	}
	for _, o := range m.elsewhere.Books().Orders {
		s.complain("cloud order %s was made at clouds that the accounts do not belong to", o.ID)
	}
	return nil
}

// mixUp are the accounts of a site, and those for which they are taken.
type mixUp struct {
	*site
	dice      *rand.Rand
	of        map[string][]Account // by cloud
	elsewhere Clouds
	made      int // orders so far
}

// twin is the second label of an account.
func twin(label string) string { return label + "-b" }

// twins gives the first account of each cloud a second label with the same key, and
// names a main account for neither. Orders come for both at once, more than one ring
// of permits lets through in a second, and some for the same names.
func (m *mixUp) twins(ctx context.Context) error {
	m.tell("two labels with one key, and no main account")
	m.stopWorkers(true)
	var firsts []Account
	for _, cloud := range slices.Sorted(maps.Keys(m.of)) {
		firsts = append(firsts, m.of[cloud][0])
	}
	err := m.configureAll(func(c *app.Config) {
		for _, of := range firsts {
			a := c.Accounts[of.Label]
			a.Main = ""
			c.Accounts[of.Label] = a
			a.KeyID, a.Secret, _ = m.keyFiles(twin(of.Label), of.Key, of.Secret)
			c.Accounts[twin(of.Label)] = a
		}
	})
	if err != nil {
		return err
	}
	if err := m.startWorkers(); err != nil {
		return err
	}
	var all []order.Request
	for i := range m.size.Orders / 2 {
		of := firsts[i%len(firsts)]
		r := m.request(of.Label)
		if i/len(firsts)%2 == 1 {
			r.Account = twin(of.Label)
		}
		all = append(all, r)
		if i%6 == 0 { // and once more by the other label
			r.ID, r.Account = r.ID+"-too", twin(of.Label)
			all = append(all, r)
		}
	}
	if err := m.publish(ctx, all, 0); err != nil {
		return err
	}
	if err := stream.Sleep(ctx, 5*time.Second); err != nil { // most of them are bought by then
		return err
	}
	m.stopWorkers(true)
	err = m.configureAll(func(c *app.Config) {
		for _, of := range firsts {
			a := c.Accounts[of.Label]
			a.Main = of.Config.Main
			c.Accounts[of.Label] = a
		}
	})
	return errors.Join(err, m.startWorkers())
}

func (m *mixUp) request(label string) order.Request {
	id := fmt.Sprintf("identities-%d", m.made)
	m.made++
	r := order.Request{ID: id, Names: []string{id + ".example.com"}, Account: label, Batch: "chaos"}
	m.sets[names(r.Names)] = false // a call of unknown outcome may be left to a person
	return r
}

// some are n orders for each of the accounts.
func (m *mixUp) some(n int, of []Account) (all []order.Request) {
	for range n {
		for _, a := range of {
			all = append(all, m.request(a.Label))
		}
	}
	return all
}

// round mixes accounts of both clouds up, while calls are open, and puts them right
// again.
func (m *mixUp) round(ctx context.Context) error {
	var swapped, strays, users []Account
	for _, cloud := range slices.Sorted(maps.Keys(m.of)) {
		of := slices.Clone(m.of[cloud])
		if len(of) < 4 {
			return fmt.Errorf("the battery needs four accounts of %s", cloud)
		}
		m.dice.Shuffle(len(of)-1, func(i, j int) { of[1+i], of[1+j] = of[1+j], of[1+i] }) // the first has a twin
		swapped, strays, users = append(swapped, of[0], of[1]), append(strays, of[2]), append(users, of[3])
	}
	all := slices.Concat(swapped, strays, users)
	if err := m.leaveOpen(ctx, all, users); err != nil {
		return err
	}
	m.tell("keys swapped, another endpoint, the key of a user who sees little")
	m.stopWorkers(true)
	right := m.cfg
	if err := errors.Join(m.swap(swapped, true), m.narrow(users), m.stray(strays), m.startWorkers()); err != nil {
		return err
	}
	if err := m.publish(ctx, m.some(1, all), time.Second); err != nil {
		return err
	}
	if err := stream.Sleep(ctx, waiting+2*time.Second); err != nil { // whoever concludes too much has concluded by then
		return err
	}
	m.told(ctx, "the stopped accounts are told", func(ctx context.Context) error {
		return m.stopsTold(ctx, slices.Concat(swapped, strays))
	})
	if _, has := m.clouds.(Users); has {
		m.told(ctx, "narrow lists are told", func(ctx context.Context) error { return m.narrowTold(ctx, users) })
	}
	m.tell("all is put right")
	m.stopWorkers(true)
	m.cfg = right
	err := errors.Join(m.configureAll(func(*app.Config) {}), m.swap(all, false), m.startWorkers())
	if err != nil {
		return err
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	return m.retryNarrow(ctx)
}

// told waits until something is told, and complains if it never is.
func (m *mixUp) told(ctx context.Context, what string, told func(context.Context) error) {
	if err := m.await(ctx, time.Minute, what, told); err != nil && ctx.Err() == nil {
		m.complain("%v", err)
	}
}

// leaveOpen has calls of the accounts go wrong until some have an unknown outcome,
// above all of those that get a key which sees little.
func (m *mixUp) leaveOpen(ctx context.Context, of, above []Account) error {
	if err := m.setFaults(0.4); err != nil {
		return err
	}
	defer m.endFaults()
	all := m.some(max(m.size.Orders/2/len(of), 3), of)
	for try := 0; ; try++ {
		if err := m.publish(ctx, all, 0); err != nil {
			return err
		}
		err := m.await(ctx, 5*time.Second, "calls are open", func(ctx context.Context) error {
			n, err := m.openCalls(ctx, above)
			if err == nil && n == 0 {
				err = errors.New("none is")
			}
			return err
		})
		if err == nil || try == 5 {
			break
		}
		all = m.some(2, above)
	}
	open := 0
	err := m.await(ctx, time.Minute, "the ledger is read", func(ctx context.Context) (err error) {
		open, err = m.openCalls(ctx, of)
		return err
	})
	if err != nil {
		return err
	}
	m.count(func(r *Report) { r.Open += open })
	if open == 0 {
		m.complain("no call was left open: the battery has tried nothing")
	}
	return nil
}

// openCalls counts the attempts of the accounts whose outcome nobody knows.
func (m *mixUp) openCalls(ctx context.Context, of []Account) (n int, err error) {
	l, err := ledger.New(ctx, m.js, 0)
	if err != nil {
		return 0, err
	}
	for _, a := range of {
		_, err = l.Each(ctx, a.Config.Main, func(e ledger.Entry) error {
			if _, open := e.OpenAttempt(); open {
				n++
			}
			return nil
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// swap gives each two accounts each other's key, or all of them their own.
func (m *mixUp) swap(of []Account, wrong bool) (err error) {
	for i, a := range of {
		k := a
		if wrong {
			k = of[i^1]
		}
		_, _, werr := m.keyFiles(a.Label, k.Key, k.Secret)
		err = errors.Join(err, werr)
	}
	return err
}

// stray sends accounts elsewhere, where their keys are others'.
func (m *mixUp) stray(of []Account) error {
	endpoints := map[string]string{}
	for _, a := range m.elsewhere.Accounts() {
		endpoints[a.Label] = a.Config.Endpoint
	}
	return m.configureAll(func(c *app.Config) {
		for _, of := range of {
			a := c.Accounts[of.Label]
			a.Endpoint, a.DNSEndpoint = endpoints[of.Label], endpoints[of.Label]
			c.Accounts[of.Label] = a
		}
	})
}

// narrow gives accounts the key of a user of theirs who sees what he ordered himself.
func (m *mixUp) narrow(of []Account) (err error) {
	clouds, has := m.clouds.(Users)
	if !has {
		return nil
	}
	for _, a := range of {
		key, secret, uerr := clouds.User(a)
		_, _, werr := m.keyFiles(a.Label, key, secret)
		err = errors.Join(err, uerr, werr)
	}
	return err
}

// stopsTold: status has a sentence for each account that is somebody else's.
func (m *mixUp) stopsTold(ctx context.Context, of []Account) error {
	console, err := app.OpenConsole(ctx, m.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer console.Close()
	status, err := console.Status(ctx)
	if err != nil {
		return err
	}
	for _, a := range of {
		told := slices.ContainsFunc(status.Accounts, func(s app.AccountStatus) bool {
			return s.Label == a.Label && strings.Contains(s.State, "is stopped: the config says main account "+a.Config.Main)
		})
		if !told {
			return fmt.Errorf("nothing is said of account %s", a.Label)
		}
	}
	return nil
}

const cannotSay = "its list cannot say what was not bought"

// narrowTold: every call of the accounts that is still open is held with the sentence
// that says why nobody concludes anything.
func (m *mixUp) narrowTold(ctx context.Context, of []Account) error {
	open, err := m.openCalls(ctx, of)
	if err != nil {
		return err
	}
	held, err := m.heldNarrow(ctx)
	if err == nil && len(held) < open {
		return fmt.Errorf("%d calls are open, %d orders say why", open, len(held))
	}
	m.count(func(r *Report) { r.Narrow += len(held) })
	return err
}

// heldNarrow are the orders that are held because of what a caller is shown.
func (m *mixUp) heldNarrow(ctx context.Context) (ids []string, err error) {
	line, err := m.line(ctx)
	if err != nil {
		return nil, err
	}
	err = line.Each(ctx, order.Held, "*", func(it pipeline.Item) error {
		if it.Hold != nil && strings.Contains(it.Hold.Reason, cannotSay) {
			ids = append(ids, it.ID())
		}
		return nil
	})
	return ids, err
}

// retryNarrow lets a person retry those that the sweep has not found by itself, now
// that the account has its own key again.
func (m *mixUp) retryNarrow(ctx context.Context) error {
	ids, err := m.heldNarrow(ctx)
	if err != nil {
		return err
	}
	console, err := app.OpenConsole(ctx, m.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer console.Close()
	for _, id := range ids {
		err = errors.Join(err, console.Retry(ctx, "chaos", id))
	}
	return errors.Join(err, m.settle(ctx))
}
