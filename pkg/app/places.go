package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/durable"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
	"github.com/certmill/certmill/pkg/stream"
)

// volume is a folder that this process writes to and without which nothing goes on. It
// is tried now and then, at once when something could not be written there, and
// quickly until it takes something again: what a disk says of itself is not what it
// takes, and a retry of an order says what it stumbled over, but not that it stops
// everybody.
type volume struct {
	name  string // account.KeyStorePlace, …
	what  string // that takes nothing, for people
	path  string
	stops string // what does not go on, a sentence
	try   func() error

	kicked chan struct{}
	bad    atomic.Bool // it took nothing when it was tried last
}

// spareFile is how large a file is that tries a place: larger than what is written there,
// so that it is told before that fails.
const spareFile = 64 << 10

// How often a place is tried: while it takes what it is given, and while it does not.
const (
	placeEvery = 30 * time.Second
	placeSoon  = 2 * time.Second
)

const placePrefix = "place "

// openPlaces are those of the process's roles.
func (p *Process) openPlaces() {
	add := func(name, what, path, stops string, try func() error) {
		kicked := make(chan struct{}, 1)
		p.places = append(p.places, &volume{name: name, what: what, path: path, stops: stops, try: try, kicked: kicked})
	}
	if p.keys != nil {
		add(account.KeyStorePlace, "the key store", p.keys.Dir(), "without it no purchase of any account goes on, and none is begun",
			func() error { return p.keys.Try(spareFile) })
	}
	if slices.Contains(p.roles, order.Collector) {
		at := absolute(p.cfg.Deliver.Directory)
		add(account.DeliveryPlace, "the folder of certificates", at,
			"what is issued is not delivered, and nothing more is bought until it can be",
			func() error { return tryFolder(at, 0o755) })
	}
	if p.cfg.DCV.Copy != "" && (slices.Contains(p.roles, order.Verifier) || slices.Contains(p.roles, order.Collector)) {
		at := absolute(p.cfg.DCV.Copy)
		add(account.CopyPlace, "the folder of dcv.copy", at, "no challenge is placed without it",
			func() error { return tryFolder(at, 0o700) })
	}
}

// place is one of them; nil where this process does not write there.
func (p *Process) place(name string) *volume {
	i := slices.IndexFunc(p.places, func(at *volume) bool { return at.name == name })
	if i < 0 {
		return nil
	}
	return p.places[i]
}

// tryFolder writes a file of no use into a folder, and removes it. A crash between
// leaves a torn file, which is removed as others are.
func tryFolder(path string, mode os.FileMode) error {
	err := durable.MakeFolder(path, mode)
	if err != nil {
		return err
	}
	file, err := durable.Temp(path, make([]byte, spareFile), 0o600)
	if err == nil {
		err = os.Remove(file)
	}
	return err
}

// stumbled is given what came of writing there.
func (p *volume) stumbled(err error) {
	if p == nil || err == nil {
		return
	}
	select {
	case p.kicked <- struct{}{}:
	default: // it is tried soon anyway
	}
}

// watchPlace tries a place until ctx ends.
func (s *session) watchPlace(ctx context.Context, p *volume) error {
	told := true // perhaps, by an earlier life of this worker
	for ctx.Err() == nil {
		err := p.try()
		if errors.Is(err, certstore.ErrGone) {
			err = nil // that ends the process (feelStore)
		}
		if p.bad.Store(err != nil); err != nil {
			s.refuses(ctx, p, err)
			told = true
		} else if told {
			s.ready.troubles.over(ctx, placePrefix+p.name)
			told = !s.takes(ctx, p)
		}
		wait := placeEvery
		if err != nil || told {
			wait = placeSoon
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		case <-p.kicked:
			// No more often than that: whoever tries again and again is refused as often.
			_ = stream.Sleep(ctx, placeSoon/20)
		}
	}
	return nil
}

// refuses tells that a place takes nothing: in this process's log and at /readyz, and
// to everybody who looks or must not buy meanwhile. Where JetStream lies on the same
// disk that second word may not be stored; then that is what is told there.
func (s *session) refuses(ctx context.Context, p *volume, err error) {
	t := Trouble{What: refusingWhat[p.name], Since: time.Now(), Helps: []string{placeHelps},
		Why: fmt.Sprintf("%s at %s: %s; %s", p.what, p.path, diskWord(err), p.stops)}
	s.ready.troubles.set(ctx, placePrefix+p.name, t)
	told := account.Trouble{What: t.Why, Helps: placeHelps, Last: time.Now().UTC()}
	if err := s.states.TellPlace(ctx, p.name, s.writer(), told); err != nil && ctx.Err() == nil {
		s.log.DebugContext(ctx, "that a place takes nothing could not be stored", "place", p.name, "err", err)
	}
}

const placeHelps = "make room on its disk, or make it writable for the workers: " +
	"it is tried every 2 seconds, and everything goes on by itself then"

// takes tells that a place takes what it is given, and whether that was stored.
func (s *session) takes(ctx context.Context, p *volume) bool {
	err := s.states.CalmPlace(ctx, p.name, s.writer())
	if err != nil && ctx.Err() == nil {
		s.log.DebugContext(ctx, "that a place takes something again could not be stored", "place", p.name, "err", err)
	}
	return err == nil
}

// writer is this worker, and was it before it was started again.
func (p *Process) writer() string { return strings.TrimSuffix(p.name, fmt.Sprintf("-%d", os.Getpid())) }

// diskWord is why something could not be written, without names of files, which
// differ each time.
func diskWord(err error) string {
	if no, is := errors.AsType[syscall.Errno](err); is {
		return no.Error()
	}
	return short(err.Error())
}

// mayBuy tells whether what is bought could be kept and delivered. While no certificate
// can be delivered nothing more is bought: each would be paid for, and its time would
// run, while nobody has it. One collector that cannot deliver is enough: the orders
// are given to all of them by turns. The orders stay where they are.
func (s *session) mayBuy() bool {
	if at := s.place(account.KeyStorePlace); at != nil && at.bad.Load() {
		return false
	}
	_, undeliverable := s.states.Refusing(time.Now())[account.DeliveryPlace]
	return !undeliverable
}

// feltKeys is the key store of which is noted what it does not take.
type feltKeys struct {
	*certstore.KeyStore
	place *volume
}

// Put implements stage.KeyStore.
func (k feltKeys) Put(ctx context.Context, r certstore.Ref, key order.Key) (stored order.Key, won bool, err error) {
	stored, won, err = k.KeyStore.Put(ctx, r, key)
	k.place.stumbled(err)
	return stored, won, err
}

// Raise implements stage.KeyStore.
func (k feltKeys) Raise(r certstore.Ref, to certstore.Raised) error {
	err := k.KeyStore.Raise(r, to)
	if !errors.Is(err, certstore.ErrExists) && !errors.Is(err, certstore.ErrNoPair) {
		k.place.stumbled(err)
	}
	return err
}

// feltSink is a sink of which is noted what it does not take.
type feltSink struct {
	stage.Sink
	place *volume
}

// Deliver implements stage.Sink.
func (s feltSink) Deliver(ctx context.Context, d certstore.Delivery) (string, error) {
	where, err := s.Sink.Deliver(ctx, d)
	s.place.stumbled(err)
	return where, err
}

// refusingWhat is a place that takes nothing, in short.
var refusingWhat = map[string]string{
	account.KeyStorePlace: "the key store takes nothing",
	account.DeliveryPlace: "the folder of certificates takes nothing",
	account.CopyPlace:     "the folder of dcv.copy takes nothing",
}

// refusingPlaces are those, by what the workers told last.
func (c *Console) refusingPlaces() (all []Trouble) {
	refusing := c.states.Refusing(time.Now())
	for _, name := range sorted(refusing) {
		t := refusing[name]
		all = append(all, Trouble{What: refusingWhat[name], Why: t.What + " (told by " + t.Kind + ")", Since: t.Since,
			Helps: []string{t.Helps}})
	}
	return all
}

// fullFor are the places that take nothing and without which an order does not go on.
func (c *Console) fullFor(s order.State) (all []account.Trouble) {
	needs := map[order.State][]string{
		order.Submit:  {account.KeyStorePlace, account.DeliveryPlace},
		order.Verify:  {account.CopyPlace},
		order.Collect: {account.DeliveryPlace},
	}
	refusing := c.states.Refusing(time.Now())
	for _, name := range needs[s] {
		if t, is := refusing[name]; is {
			all = append(all, t)
		}
	}
	return all
}
