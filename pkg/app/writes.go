package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/pipeline"
)

// writes notes how the messages fare that a process stores: which streams take
// none.
type writes struct {
	mu sync.Mutex
	of map[string]refused // by stream; only those whose last messages were not taken
}

// refused are messages that a stream did not take, since the last one that it
// took.
type refused struct {
	since time.Time // when the first of them was sent
	times int
	last  error
}

// watched is a JetStream whose stores are noted.
type watched struct {
	jetstream.JetStream
	writes *writes
}

// Publish notes how it went.
func (w watched) Publish(ctx context.Context, subject string, data []byte, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	began := time.Now()
	ack, err := w.JetStream.Publish(ctx, subject, data, opts...)
	w.writes.note(subject, began, err)
	return ack, err
}

// PublishMsg notes how it went.
func (w watched) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	began := time.Now()
	ack, err := w.JetStream.PublishMsg(ctx, m, opts...)
	w.writes.note(m.Subject, began, err)
	return ack, err
}

// note takes what became of a message that was sent at a time. A condition that
// does not hold, or a message that is refused for what it is, says nothing of the
// stream, and neither does a connection that ended.
func (w *writes) note(subject string, began time.Time, err error) {
	name := streamOf(subject)
	if name == "" || err != nil && !takesNone(err) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		delete(w.of, name)
		return
	}
	if w.of == nil {
		w.of = map[string]refused{}
	}
	r := w.of[name]
	if r.times == 0 || began.Before(r.since) {
		r.since = began
	}
	r.times, r.last = r.times+1, err
	w.of[name] = r
}

// takesNone tells whether an error is that of a stream which takes no message,
// whichever it is.
func takesNone(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.Code >= 500
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse)
}

// refusing are the streams that have taken nothing for so long, although more
// than one message was sent.
func (w *writes) refusing(long time.Duration) map[string]refused {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]refused{}
	for name, r := range w.of {
		if r.times > 1 && time.Since(r.since) >= long {
			all[name] = r
		}
	}
	return all
}

func (w *writes) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.of)
}

// streamOf is the lasting stream that a subject belongs to, "" if none.
func streamOf(subject string) string {
	for _, c := range lasting(0) {
		for _, s := range c.Subjects {
			if beginsAs(subject, s) {
				return c.Name
			}
		}
	}
	return ""
}

// beginsAs compares a subject with one of a stream as far as the first wildcard.
func beginsAs(subject, of string) bool {
	head, _, wild := strings.Cut(of, "*")
	if !wild {
		head, _, wild = strings.Cut(of, ">")
	}
	return subject == of || wild && strings.HasPrefix(subject, head)
}

// refusingAfter is how long a stream must have taken nothing before that is told:
// longer than the election of a leader takes, as a rule.
const refusingAfter = 8 * time.Second

const refusesPrefix = "refuses "

// feelWrites tells which streams take no messages any more, and which do again.
func (s *session) feelWrites(ctx context.Context) {
	now := s.writes.refusing(refusingAfter)
	for name, r := range now {
		why := s.storeError(ctx, name)
		if why == "" {
			why = short(r.last.Error())
		}
		s.ready.troubles.set(ctx, refusesPrefix+name, refuses(name, why, r.since))
	}
	for _, key := range s.ready.troubles.keys() {
		if name, is := strings.CutPrefix(key, refusesPrefix); is && now[name].times == 0 {
			s.ready.troubles.over(ctx, key)
		}
	}
}

// refuses is the trouble of a stream that takes no messages.
func refuses(name, why string, since time.Time) Trouble {
	return Trouble{What: "stream " + name + " takes no messages", Since: since,
		Why: fmt.Sprintf("nothing is stored there since %s: %s", clock(since), why),
		Helps: []string{"look at the server's log and at the room on its disk, and make some",
			"restart the nats-server then: a stream that met a full disk refuses everything until it is opened anew (the server of certmill run does so itself)"}}
}

// never is a sequence that no stream of ours ever had: they begin where the clock
// stood when they were made.
const never = 1

// storeError asks the server for the error that a stream's store keeps, "" if it
// keeps none or does not say. Only the stream of the orders can be asked: the
// others let nothing be deleted. What is deleted here was never there, so nothing
// changes; a store that refuses writes says why before it looks.
func storeError(ctx context.Context, js jetstream.JetStream, name string) string {
	if name != pipeline.OrdersStream {
		return ""
	}
	s, err := js.Stream(ctx, name)
	if err != nil {
		return ""
	}
	err = s.DeleteMsg(ctx, never)
	if _, why, said := strings.Cut(fmt.Sprint(err), "description="); said && !pipeline.NoMessage(err) {
		return why
	}
	return ""
}

func (s *session) storeError(ctx context.Context, name string) string {
	ctx, cancel := context.WithTimeout(ctx, groundEvery)
	defer cancel()
	return storeError(ctx, s.js, name)
}
