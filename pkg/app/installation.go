package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
	"github.com/certmill/certmill/pkg/stream"
)

// An installation is its key store: what was bought, and with which keys, is known
// there when JetStream is lost. Its id is made with the store and copied into the
// metadata of all lasting streams. Who works on both compares them: with another
// store, or an empty one, names would be bought again and certificates paid whose
// keys nobody has.

// storeIn is the key of a stream's metadata that holds the id of the key store.
const storeIn = "certmill-store"

// wrongStore says that the key store at hand is not that of the streams. Nothing was
// changed.
type wrongStore struct {
	path   string
	is     string // its id; empty: no store is there
	wanted string // the streams' one; empty: they name none
	stream string // one that names another store than the others do, if there is one
}

func (e *wrongStore) Error() string {
	help := "mount that one, or name it in keys.store. If this one is right all the same: certmill accept-store"
	what := fmt.Sprintf("the key store at %s has the id %s, and these streams belong to the one with the id %s", e.path, e.is, e.wanted)
	switch {
	case e.stream != "":
		what = fmt.Sprintf("stream %s names another key store (%s) than the other streams do", e.stream, e.wanted)
		help = "put back the streams of one installation, or say that the store at hand is right for all of them: certmill accept-store"
	case e.wanted == "":
		what = "these streams name no key store"
		help = "certmill init, where keys.store of the config leads to it"
	case e.is == "":
		what = fmt.Sprintf("there is no key store at %s, and these streams belong to the one with the id %s", e.path, e.wanted)
		help = "bring it back (mount its volume, restore a backup), or name it in keys.store. If it is lost for good: certmill accept-store --new, " +
			"which begins an empty one; it is filled from the orders' records"
	}
	return what + "; nothing was changed. " + help
}

// namedStores are the ids that streams name, by the name of the stream.
type namedStores map[string]string

// one is the id that all of them name.
func (n namedStores) one() (string, error) {
	id := ""
	for _, name := range slices.Sorted(maps.Keys(n)) {
		if id != "" && n[name] != id && n[name] != "" {
			return "", &wrongStore{wanted: n[name], stream: name}
		}
		if n[name] != "" {
			id = n[name]
		}
	}
	return id, nil
}

// belongTo tells whether all of the streams name this store.
func (n namedStores) belongTo(keys *certstore.KeyStore) error {
	wanted, err := n.one()
	if err != nil {
		return err
	}
	for _, id := range n {
		if id == "" {
			wanted = ""
		}
	}
	if wanted == "" || wanted != keys.ID() {
		return &wrongStore{path: absolute(keys.Dir()), is: keys.ID(), wanted: wanted}
	}
	return nil
}

// ownStore opens the store that these streams belong to. Where they belong to none,
// they are new: the store at hand is theirs, and is made if there is none.
func (c Config) ownStore(named namedStores) (keys *certstore.KeyStore, made bool, err error) {
	wanted, err := named.one()
	if err != nil {
		return nil, false, err
	}
	path := absolute(c.Keys.Store)
	if wanted == "" {
		return certstore.MakeKeyStore(path)
	}
	keys, err = certstore.FindKeyStore(path)
	switch {
	case errors.Is(err, certstore.ErrNoStore):
		return nil, false, &wrongStore{path: path, wanted: wanted}
	case err != nil:
		return nil, false, err
	case keys.ID() != wanted:
		return nil, false, &wrongStore{path: path, is: keys.ID(), wanted: wanted}
	}
	return keys, false, nil
}

// nameStore copies the store's id into a stream that names another one, or none.
func nameStore(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, id string) error {
	s, err := stream.Open(ctx, js, want)
	if err != nil {
		return err
	}
	cfg := s.CachedInfo().Config
	if cfg.Metadata[storeIn] == id {
		return nil
	}
	cfg.Metadata = maps.Clone(cfg.Metadata)
	cfg.Metadata[storeIn] = id
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("stream %s: %w", want.Name, err)
	}
	return nil
}

// openStore opens the store that submitters share, which somebody else has made.
func (c Config) openStore() (*certstore.KeyStore, error) {
	path := absolute(c.Keys.Store)
	keys, err := certstore.OpenKeyStore(path)
	if errors.Is(err, certstore.ErrNoStore) {
		return nil, fmt.Errorf("%w (%s): mount its volume, or name it in keys.store; a new installation gets one by certmill init",
			certstore.ErrNoStore, path)
	}
	return keys, err
}

// Accepted is what AcceptStore did.
type Accepted struct {
	Path   string         `json:"path"`
	Was    string         `json:"was"` // id of the store that the streams named
	Is     string         `json:"is"`
	Filled stage.Refilled `json:"filled"`
}

// AcceptStore says that the key store at hand is the one that the streams belong
// to, although they name another one; with anew, one is made where there is none.
// It is filled from the records first. Safe to repeat: a crash in between leaves
// streams that name two stores, and workers refuse those. Workers that run stop.
func (c *Console) AcceptStore(ctx context.Context, anew bool) (Accepted, error) {
	a := Accepted{Path: absolute(c.cfg.Keys.Store)}
	keys, err := c.anyStore(a.Path, anew)
	if err != nil {
		return a, err
	}
	there, err := lookAt(ctx, c.js, lasting(0))
	if err != nil {
		return a, err
	}
	a.Was, a.Is = there.stores()[pipeline.OrdersStream], keys.ID()
	if a.Filled, err = (stage.Refill{Line: c.line, Ledger: c.ledger, Keys: keys}).Sweep(ctx); err != nil {
		return a, err
	}
	for _, want := range lasting(0) {
		if err := nameStore(ctx, c.js, want, keys.ID()); err != nil {
			return a, err
		}
	}
	return a, nil
}

// MayAcceptStore says why AcceptStore would be refused, as far as that can be told
// before anything is changed: whoever asks for the word looks first.
func (c *Console) MayAcceptStore(ctx context.Context, anew bool) error {
	if !c.rights.rename() {
		return &NoRight{c.cfg.NATS.User, "change the streams, which accept-store does"}
	}
	path := absolute(c.cfg.Keys.Store)
	_, err := c.anyStore(path, false)
	if anew && errors.Is(err, certstore.ErrNoStore) {
		err = nil
	}
	if err == nil {
		_, err = lookAt(ctx, c.js, lasting(0))
	}
	return err
}

// anyStore opens what is there, or makes one.
func (c *Console) anyStore(path string, anew bool) (*certstore.KeyStore, error) {
	if anew {
		keys, made, err := certstore.MakeKeyStore(path)
		if err == nil && !made {
			c.log.Warn("there is a key store already; it is taken as it is", "path", path)
		}
		return keys, err
	}
	keys, err := certstore.OpenKeyStore(path)
	if errors.Is(err, certstore.ErrNoStore) {
		return nil, fmt.Errorf("%w (%s, where keys.store leads): run this where it is, or begin an empty one: certmill accept-store --new",
			certstore.ErrNoStore, path)
	}
	return keys, err
}

// refill stores again what the key store lacks and the records have, once a process.
// Orders go on meanwhile: who spends reads the pair back himself (Raise).
func (s *session) refill(ctx context.Context) error {
	if s.keys == nil || s.refilled.Load() {
		return nil
	}
	filled, err := stage.Refill{Line: s.line, Ledger: s.ledger, Keys: s.keys}.Sweep(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		s.log.WarnContext(ctx, "the key store could not be compared with the orders' records", "err", err)
	case err == nil:
		s.refilled.Store(true)
	}
	if filled.Pairs+filled.Numbers > 0 {
		s.log.ErrorContext(ctx, "the key store had lost what the orders' records say it has; it was stored again from there: "+
			"look after its volume, and back it up", "path", s.keys.Dir(), "pairs", filled.Pairs, "numbers", filled.Numbers)
	}
	for _, left := range filled.Left {
		s.log.ErrorContext(ctx, "the key store lacks what an order's record says it has, and could not be given it back", "why", left)
	}
	return nil // the session's work does not depend on it
}

// errOlderCopy: what was bought since the copy was taken would be bought again.
var errOlderCopy = errors.New("the streams are an older copy: the key store has numbers, raised in this life of theirs, that they do not know")

// thisLife makes sure, before anything is bought, that the streams are no older copy
// which somebody put back without the word (certmill restored): what the key store
// has and they do not shows it (stage.Older). Then a new incarnation begins, and each
// account's list is swept before anything is bought there. A false alarm costs no more.
// Whoever lacks the right to begin one ends, with what helps.
func (s *session) thisLife(ctx context.Context) error {
	if s.keys == nil {
		return nil // it buys nothing
	}
	forgotten, err := stage.Older{Line: s.line, Ledger: s.ledger, Keys: s.keys, Now: time.Now}.Find(ctx)
	if err != nil {
		return fmt.Errorf("compare the key store with the streams: %w", err)
	}
	if len(forgotten) == 0 {
		return nil
	}
	s.log.ErrorContext(ctx, "the streams are an older copy of themselves: the key store has numbers of this life that they do not know; "+
		"a new incarnation begins, nothing is bought until each account's list was swept, and orders handed in since the copy are to be handed in again",
		"numbers", len(forgotten), "one", forgotten[0].String())
	switch err := s.anew(ctx); {
	case err != nil && !errors.Is(err, errNoRight):
		return err // it is tried again, on another connection
	case err != nil:
		return fmt.Errorf("%w (%d, one of them: %v): stop all workers, certmill restored, and start them again; nothing was bought: %w",
			errOlderCopy, len(forgotten), forgotten[0], err)
	}
	return errAnew
}

// errAnew ends a session that began a new incarnation: the next stands on it.
var errAnew = errors.New("a new incarnation of the streams began")

// anew begins a new incarnation, unless another worker has just done so, and lets the
// process stand on it. A crash behind it leaves streams that nobody works on yet.
func (s *session) anew(ctx context.Context) error {
	now, err := pipeline.Incarnation(ctx, s.js)
	if err == nil && now == s.line.Incarnation() {
		c := s.cfg
		c.NATS = c.NATS.instead(Admin) // the workers of a run are not, but may take the word
		err = renew(ctx, c, s.log)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Process.ground = nil
	return nil
}

// OnServer calls f with a config that names a server: the config's own, or the one
// of the state folder, which is started for it. For what is decided while no run
// works there. The config that a run left there names the server of a run: while
// none works, it is started, too.
func OnServer(ctx context.Context, c Config, f func(Config) error) (err error) {
	if c.NATS.URL != "" && !c.leftByARun() {
		return f(c)
	}
	if traceOf(c).fresh {
		return fmt.Errorf("no certmill run has worked in the state folder %s, so there is nothing to decide: "+
			"name the folder where one did with --state, or the server with --nats; nothing was changed", absolute(c.State))
	}
	if !c.leftByARun() { // else its accounts may be the simulated ones
		if err := claimState(c); err != nil {
			return err
		}
	}
	lock, err := lockState(c.State)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	at := c.NATS
	at.Listen = "127.0.0.1:0"
	server, err := StartEmbedded(c.State, at)
	if err != nil {
		return err
	}
	defer server.Stop()
	c.NATS = server.As(Admin)
	c.sealToItself() // as a run here does
	return f(c)
}

// leftByARun tells whether this is the config that a run left in its state folder.
func (c Config) leftByARun() bool {
	home, is := c.NATS.home()
	return is && absolute(filepath.Dir(home)) == absolute(c.State)
}
