package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// fetchFrom serves one consumer of the inbox as pullFrom does, until ctx ends or
// the consumer does not answer.
//
// It does not use nats.go's own pull, nor its NextMsg, because in what a publisher
// wrote they may see a word of the server's: such a message is not handed out.
// What the server says itself has no subject to reply to; a message always has one.
func (l *Line) fetchFrom(ctx context.Context, cons jetstream.Consumer, hands chan struct{}, running *sync.WaitGroup,
	work func(*nats.Msg)) error {
	f, err := l.fetch(cons)
	if err != nil {
		return err
	}
	defer f.end()
	for {
		hands <- struct{}{}
		m, err := f.next(ctx)
		if err != nil {
			<-hands
			return err
		}
		running.Go(func() {
			defer func() { <-hands }()
			work(m)
		})
	}
}

// Times of a pull request: how long it stands, and how often the server says
// that it still does.
const (
	fetchStands = 30 * time.Second
	fetchBeat   = 5 * time.Second
)

// fetcher asks one consumer for one message at a time.
type fetcher struct {
	line    *Line
	sub     *nats.Subscription
	got     chan *nats.Msg
	subject string
	request []byte
	asked   bool
}

func (l *Line) fetch(cons jetstream.Consumer) (*fetcher, error) {
	request, err := json.Marshal(map[string]any{"batch": 1, "expires": fetchStands, "idle_heartbeat": fetchBeat})
	if err != nil {
		return nil, err
	}
	nc, got := l.js.Conn(), make(chan *nats.Msg, 64)
	sub, err := nc.ChanSubscribe(nc.NewInbox(), got)
	return &fetcher{line: l, sub: sub, got: got, request: request,
		subject: jetstream.DefaultAPIPrefix + "CONSUMER.MSG.NEXT." + IntakeStream + "." + cons.CachedInfo().Name}, err
}

// next waits for the next message. An error means that ctx has ended, that the
// consumer does not answer, or that it is gone.
func (f *fetcher) next(ctx context.Context) (*nats.Msg, error) {
	for ctx.Err() == nil {
		if !f.asked {
			if err := f.line.js.Conn().PublishRequest(f.subject, f.sub.Subject, f.request); err != nil {
				return nil, err
			}
			f.asked = true
		}
		select {
		case m := <-f.got:
			if m.Reply != "" {
				f.asked = false
				return m, nil
			}
			if err := f.heard(m); err != nil {
				return nil, err
			}
		case <-time.After(2 * fetchBeat):
			return nil, fmt.Errorf("no word for %v", 2*fetchBeat)
		case <-f.line.lost.Done():
			return nil, ErrLost
		case <-ctx.Done():
		}
	}
	return nil, ctx.Err()
}

// heard takes a word of the server's.
func (f *fetcher) heard(m *nats.Msg) error {
	status, words := m.Header.Get("Status"), m.Header.Get("Description")
	switch {
	case status == "100": // the request still stands
	case status == "404", status == "408": // it does no more
		f.asked = false
	case strings.EqualFold(words, "Consumer Deleted"):
		return jetstream.ErrConsumerDeleted
	default:
		return fmt.Errorf("the server says: %s %s", status, words)
	}
	return nil
}

// end stops asking, and gives back what came meanwhile: another worker has it at
// once.
func (f *fetcher) end() {
	if f.sub.Drain() != nil || f.line.js.Conn().FlushTimeout(fetchBeat) != nil {
		return // the connection is lost
	}
	for len(f.got) > 0 {
		if m := <-f.got; m.Reply != "" {
			_ = m.Nak()
		}
	}
}
