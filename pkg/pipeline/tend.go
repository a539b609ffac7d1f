package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/stream"
)

// tended are the consumers that a line pulls from, by stream and name.
type tended struct {
	mu   sync.Mutex
	pull map[[2]string]jetstream.ConsumerConfig
	anew map[[2]string]time.Time // when one was last made anew
	told map[[2]string]bool      // that one is as another build wants it
	left uint64                  // first message of the inbox, when some were handed to nobody; else 0
}

// pulls notes a consumer until the function that it returns is called.
func (t *tended) pulls(from string, cfg jetstream.ConsumerConfig) (ended func()) {
	key := [2]string{from, cfg.Durable}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begin()
	t.pull[key] = cfg
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.pull, key)
	}
}

// begin makes the maps. Callers hold the lock.
func (t *tended) begin() {
	if t.pull == nil {
		t.pull, t.anew, t.told = map[[2]string]jetstream.ConsumerConfig{}, map[[2]string]time.Time{}, map[[2]string]bool{}
	}
}

// of are those of one stream, by name.
func (t *tended) of(from string) map[string]jetstream.ConsumerConfig {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := map[string]jetstream.ConsumerConfig{}
	for key, cfg := range t.pull {
		if key[0] == from {
			all[key[1]] = cfg
		}
	}
	return all
}

// mayAnew tells whether a consumer may be made anew now, and notes that it is: one
// that is edited again and again is left alone for a while, because each time its
// orders are handed out once more.
func (t *tended) mayAnew(key [2]string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begin()
	if time.Since(t.anew[key]) < anewPause {
		return false
	}
	t.anew[key] = time.Now()
	return true
}

// once tells whether something is new.
func (t *tended) once(key [2]string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begin()
	if t.told[key] {
		return false
	}
	t.told[key] = true
	return true
}

// Times of tending. Variables for the tests only.
var (
	tendEvery = 4 * time.Second
	anewPause = 20 * time.Second
)

// Tend looks after the consumers that this line pulls from, until ctx ends. One
// that somebody has edited or paused is removed, and whoever pulls from it makes
// it anew, as it must be: that costs a redelivery of what it had handed out, which
// is harmless, and hands out what it had passed over. Tickets that were removed
// are put again.
//
// Messages of the inbox that no consumer hands out, because they were acknowledged
// while the disk was full and could not be removed, are handed out once more, too.
//
// It returns nil; what it cannot do it tells.
func (l *Line) Tend(ctx context.Context) error {
	for stream.Sleep(ctx, tendEvery) == nil {
		for _, from := range []string{OrdersStream, IntakeStream, TicketStream} {
			if err := l.tend(ctx, from); err != nil && ctx.Err() == nil && l.tended.once([2]string{from, ""}) {
				l.log.WarnContext(ctx, "the consumers of a stream cannot be looked after", "stream", from, "err", err)
			}
		}
		if err := l.putTickets(ctx); err != nil && ctx.Err() == nil {
			l.log.DebugContext(ctx, "tickets cannot be looked after", "err", err)
		}
	}
	return nil
}

// tend looks at the consumers of one stream once.
func (l *Line) tend(ctx context.Context, from string) error {
	wanted := l.tended.of(from)
	if len(wanted) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := l.js.Stream(ctx, from)
	if err != nil {
		return err
	}
	if from == TicketStream {
		if anew, err := l.tendTickets(ctx, s); anew || err != nil {
			return err
		}
	}
	now := s.CachedInfo().TimeStamp // the clock that a pause is reckoned on
	list, handed := s.ListConsumers(ctx), uint64(0)
	for info := range list.Info() {
		handed += info.NumPending + uint64(info.NumAckPending)
		want, ours := wanted[info.Name]
		if !ours {
			continue
		}
		delete(wanted, info.Name)
		if err := l.straighten(ctx, s, info.Config, want, now); err != nil {
			return fmt.Errorf("consumer %s: %w", info.Name, err)
		}
	}
	if err := list.Err(); err != nil || from != IntakeStream || len(wanted) > 0 { // about to be made anew
		return err
	}
	return l.handOut(ctx, s, handed)
}

// tendTickets removes the stream of the tickets if somebody has edited it: whoever
// waits for one makes it anew.
func (l *Line) tendTickets(ctx context.Context, s jetstream.Stream) (anew bool, err error) {
	differs, is := errors.AsType[*stream.Differs](stream.Verify(s.CachedInfo().Config, ticketConfig(l.replicas)))
	if !is || !l.tended.mayAnew([2]string{TicketStream, ""}) {
		return false, nil
	}
	l.log.WarnContext(ctx, "the stream of the tickets was edited, and not by certmill: it is made anew", "stream", TicketStream,
		"was", stream.Sentence(differs.Fields))
	err = l.js.DeleteStream(ctx, TicketStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = nil // another worker was quicker
	}
	return true, err
}

// handOut has messages of the inbox handed out that are there and that no consumer
// has before it: seen twice in a row, because others come and go in between. Their
// orders are known by then.
func (l *Line) handOut(ctx context.Context, s jetstream.Stream, handed uint64) error {
	state, t := s.CachedInfo().State, l.tended
	t.mu.Lock()
	before := t.left
	if t.left = 0; state.Msgs > handed {
		t.left = state.FirstSeq
	}
	again := t.left != 0 && t.left == before
	t.mu.Unlock()
	if !again {
		return nil
	}
	for name := range t.of(IntakeStream) {
		if !t.mayAnew([2]string{IntakeStream, name}) {
			continue
		}
		l.log.WarnContext(ctx, "messages lie in the inbox that nobody is handed: its consumer is made anew", "consumer", name,
			"messages", state.Msgs-handed)
		if err := s.DeleteConsumer(ctx, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return err
		}
	}
	return nil
}

// straighten makes one consumer anew if it is not as it must be.
func (l *Line) straighten(ctx context.Context, s jetstream.Stream, is, want jetstream.ConsumerConfig, now time.Time) error {
	from := s.CachedInfo().Config.Name
	differ, other := stream.Strays(is, want, now)
	key := [2]string{from, want.Durable}
	switch {
	case len(differ) == 0:
		return nil
	case other:
		if l.tended.once(key) {
			l.log.WarnContext(ctx, "a consumer is as another certmill wants it, with other settings than these; all should have the same",
				"stream", from, "consumer", want.Durable, "differs", stream.Sentence(differ))
		}
		return nil
	case !l.tended.mayAnew(key):
		return nil
	}
	l.log.WarnContext(ctx, "a consumer was edited, and not by certmill: it is made anew, and hands its messages out once more "+
		"(certmill pause rests an account)", "stream", from, "consumer", want.Durable, "was", stream.Sentence(differ))
	err := s.DeleteConsumer(ctx, want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil // another worker was quicker
	}
	return err
}

// consumer makes a consumer, or binds to it. One that stands in its way, because
// it is another one in what no server lets anybody change, is made anew.
func (l *Line) consumer(ctx context.Context, from string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	cons, err := l.js.CreateOrUpdateConsumer(ctx, from, stream.Marked(cfg))
	api, refused := errors.AsType[*jetstream.APIError](err)
	if !refused {
		return cons, err
	}
	s, serr := l.js.Stream(ctx, from)
	if serr != nil {
		return nil, err
	}
	if api.ErrorCode == storeFailed {
		return l.restored(ctx, s, cfg, err)
	}
	there, serr := s.Consumer(ctx, cfg.Durable)
	if serr != nil {
		return nil, err
	}
	if serr := l.straighten(ctx, s, there.CachedInfo().Config, cfg, s.CachedInfo().TimeStamp); serr != nil {
		return nil, errors.Join(err, serr)
	}
	return l.js.CreateOrUpdateConsumer(ctx, from, stream.Marked(cfg))
}

// storeFailed is the server's code for a consumer that it cannot store. Where one was
// removed while workers made it again, the server may take the folder of the new one
// away with the old one's, and refuses each change of it from then on, until it is
// removed once more (seen with 2.15).
const storeFailed jetstream.ErrorCode = 10012

// restored makes a consumer anew that the server has and cannot store: it hands its
// messages out once more. Where that is for want of room, the server says so again.
func (l *Line) restored(ctx context.Context, s jetstream.Stream, cfg jetstream.ConsumerConfig, why error) (jetstream.Consumer, error) {
	from := s.CachedInfo().Config.Name
	if !l.tended.mayAnew([2]string{from, cfg.Durable}) {
		return nil, why
	}
	l.log.WarnContext(ctx, "the server cannot store a consumer: it is made anew, and hands its messages out once more",
		"stream", from, "consumer", cfg.Durable, "err", why)
	if err := s.DeleteConsumer(ctx, cfg.Durable); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, errors.Join(why, err)
	}
	return l.js.CreateOrUpdateConsumer(ctx, from, stream.Marked(cfg))
}

// putTickets puts the tickets again that somebody has removed. Whoever works
// gives a ticket back and never removes it.
func (l *Line) putTickets(ctx context.Context) error {
	wanted := l.tended.of(TicketStream)
	if len(wanted) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := l.js.Stream(ctx, TicketStream)
	if err != nil {
		return err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(ticketSubject("*")))
	if err != nil {
		return err
	}
	for name := range wanted {
		if info.State.Subjects[ticketSubject(name)] > 0 {
			continue
		}
		l.log.WarnContext(ctx, "a ticket was removed, and not by certmill: it is put again", "ticket", name)
		if err := l.putTicket(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func ticketSubject(name string) string { return "ticket." + name }
