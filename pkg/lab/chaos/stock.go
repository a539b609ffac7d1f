package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// stockCommand has somebody with the stock nats command and all rights do what it
// can do, to consumers, streams and messages, while orders are under way. Each
// kind comes once before any comes again. Then the whole order file is handed in
// again, and what was put back for a person is retried.
func stockCommand(ctx context.Context, s *site, _ int) error {
	all, err := s.requests(s.size.Orders, "stock")
	if err != nil {
		return err
	}
	err = s.while(ctx, all, func(ctx context.Context) error {
		dice := s.dice("stock")
		for {
			for _, i := range dice.Perm(len(edits)) {
				if stream.Sleep(ctx, between(dice, 200*time.Millisecond, s.size.For/time.Duration(len(edits)))) != nil {
					return nil
				}
				if err := s.edit(ctx, dice, edits[i]); err != nil {
					return err
				}
			}
		}
	})
	if err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	s.tell("the order file is handed in again")
	if err := s.publish(ctx, all, 0); err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	return s.retryRemoved(ctx)
}

// stockEdit is one thing that somebody does. undone ends what no worker mends; it
// may be nil.
type stockEdit struct {
	what string
	do   func(context.Context, *site, *rand.Rand) (undone func(context.Context) error, err error)
}

var edits = []stockEdit{
	{"nats consumer edit ORDERS --filter", onStage(func(c *jetstream.ConsumerConfig) { c.FilterSubject = "order.nobody.>" })},
	{"nats consumer edit ORDERS --max-deliver 1", onStage(func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 1 })},
	{"nats consumer edit ORDERS --wait 1h", onStage(func(c *jetstream.ConsumerConfig) { c.AckWait = time.Hour })},
	{"nats consumer edit ORDERS --max-pending 1", onStage(func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 1 })},
	{"nats consumer edit ORDERS --headers-only", onStage(func(c *jetstream.ConsumerConfig) { c.HeadersOnly = true })},
	{"nats consumer pause ORDERS", pauseOne(pipeline.OrdersStream)},
	{"nats consumer pause INTAKE", pauseOne(pipeline.IntakeStream)},
	{"nats consumer pause TICKETS", pauseOne(pipeline.TicketStream)},
	{"nats consumer pause PERMITS", pauseOne("PERMITS")},
	{"nats consumer rm ORDERS", removeOne(pipeline.OrdersStream)},
	{"nats consumer rm INTAKE", removeOne(pipeline.IntakeStream)},
	{"nats consumer rm TICKETS", removeOne(pipeline.TicketStream)},
	{"nats consumer rm PERMITS", removeOne("PERMITS")},
	{"nats stream purge TICKETS", func(ctx context.Context, s *site, _ *rand.Rand) (func(context.Context) error, error) {
		t, err := s.js.Stream(ctx, pipeline.TicketStream)
		if err != nil {
			return nil, err
		}
		return nil, t.Purge(ctx)
	}},
	{"nats stream rm TICKETS", removeStream(pipeline.TicketStream)},
	{"nats stream rm PERMITS", removeStream("PERMITS")},
	{"nats stream edit PERMITS --max-msgs-per-subject 2", editStream("PERMITS", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 2 }, false)},
	{"nats stream edit ORDERS --max-age 1h", editStream(pipeline.OrdersStream, func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }, true)},
	{"nats stream rmm PERMITS", func(ctx context.Context, s *site, d *rand.Rand) (func(context.Context) error, error) {
		return nil, s.removeMessage(ctx, d, "PERMITS", "permit.>")
	}},
	{"nats stream rmm PLACED", func(ctx context.Context, s *site, d *rand.Rand) (func(context.Context) error, error) {
		return nil, s.removeMessage(ctx, d, ledger.PlacedStream, ">")
	}},
	{"nats stream rmm ORDERS", removeOrder},
	{"nats stream rmm ORDERS, once more", removeOrder},
	{"nats kv del ACCOUNTS", func(ctx context.Context, s *site, d *rand.Rand) (func(context.Context) error, error) {
		kv, err := s.js.KeyValue(ctx, account.Bucket)
		if err != nil {
			return nil, err
		}
		return nil, kv.Delete(ctx, pick(d, s.clouds.Accounts()).Config.Main)
	}},
	{"what is denied", denied},
}

// edit does one of them, and undoes it where no worker does.
func (s *site) edit(ctx context.Context, dice *rand.Rand, e stockEdit) error {
	try, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	undone, err := e.do(try, s, dice)
	api, _ := errors.AsType[*jetstream.APIError](err)
	switch {
	case api != nil && api.Code == 500:
		return nil // the server was about to remove it
	case errors.Is(err, errNothingThere), errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrConsumerNotFound),
		errors.Is(err, jetstream.ErrMsgNotFound), ctx.Err() != nil:
		return nil // it was done already, or the workers are about to make it anew
	case err != nil:
		return fmt.Errorf("%s: %w", e.what, err)
	}
	s.tell(e.what)
	s.count(func(r *Report) { r.Edits++ })
	if undone == nil {
		return nil
	}
	_ = stream.Sleep(ctx, between(dice, 2*time.Second, 5*time.Second))
	// Also when ctx has ended: the workers do nothing before it is undone.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return undone(after)
}

var errNothingThere = errors.New("there is nothing")

// one picks a consumer whose name has one of the beginnings.
func (s *site) one(ctx context.Context, d *rand.Rand, from string, begins ...string) (string, error) {
	st, err := s.js.Stream(ctx, from)
	if err != nil {
		return "", err
	}
	names := st.ConsumerNames(ctx)
	var all []string
	for name := range names.Name() {
		if len(begins) == 0 || slices.ContainsFunc(begins, func(b string) bool { return strings.HasPrefix(name, b) }) {
			all = append(all, name)
		}
	}
	if err := names.Err(); err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "", errNothingThere
	}
	slices.Sort(all)
	return pick(d, all), nil
}

// stages are the beginnings of their consumers' names. Whoever reads makes others,
// which go by themselves.
var stages = []string{string(order.Submit) + "-", string(order.Verify) + "-", string(order.Collect) + "-"}

func of(from string) []string {
	if from == pipeline.OrdersStream {
		return stages
	}
	return nil
}

type undoable = func(context.Context, *site, *rand.Rand) (func(context.Context) error, error)

func onStage(f func(*jetstream.ConsumerConfig)) undoable {
	return func(ctx context.Context, s *site, d *rand.Rand) (func(context.Context) error, error) {
		name, err := s.one(ctx, d, pipeline.OrdersStream, stages...)
		if err != nil {
			return nil, err
		}
		c, err := s.js.Consumer(ctx, pipeline.OrdersStream, name)
		if err != nil {
			return nil, err
		}
		cfg := c.CachedInfo().Config
		f(&cfg)
		_, err = s.js.UpdateConsumer(ctx, pipeline.OrdersStream, cfg)
		return nil, err
	}
}

func pauseOne(from string) undoable {
	return func(ctx context.Context, s *site, d *rand.Rand) (func(context.Context) error, error) {
		name, err := s.one(ctx, d, from, of(from)...)
		if err != nil {
			return nil, err
		}
		_, err = s.js.PauseConsumer(ctx, from, name, time.Now().Add(time.Hour))
		return nil, err
	}
}

func removeOne(from string) undoable {
	return func(ctx context.Context, s *site, d *rand.Rand) (func(context.Context) error, error) {
		name, err := s.one(ctx, d, from, of(from)...)
		if err != nil {
			return nil, err
		}
		return nil, s.js.DeleteConsumer(ctx, from, name)
	}
}

func removeStream(name string) undoable {
	return func(ctx context.Context, s *site, _ *rand.Rand) (func(context.Context) error, error) {
		return nil, s.js.DeleteStream(ctx, name)
	}
}

// editStream changes a stream's settings; back tells that nobody but whoever did
// it may put them right.
func editStream(name string, f func(*jetstream.StreamConfig), back bool) undoable {
	return func(ctx context.Context, s *site, _ *rand.Rand) (func(context.Context) error, error) {
		st, err := s.js.Stream(ctx, name)
		if err != nil {
			return nil, err
		}
		was := st.CachedInfo().Config
		is := was
		f(&is)
		_, err = s.js.UpdateStream(ctx, is)
		if !back || err != nil {
			return nil, err
		}
		return func(ctx context.Context) error {
			_, err := s.js.UpdateStream(ctx, was)
			return err
		}, nil
	}
}

// removeMessage deletes one message of a stream.
func (s *site) removeMessage(ctx context.Context, d *rand.Rand, from, filter string) error {
	st, err := s.js.Stream(ctx, from)
	if err != nil {
		return err
	}
	state := st.CachedInfo().State
	if state.Msgs == 0 {
		return errNothingThere
	}
	m, err := st.GetMsg(ctx, state.FirstSeq+d.Uint64N(state.LastSeq-state.FirstSeq+1), jetstream.WithGetMsgSubject(filter))
	if err != nil {
		return err
	}
	if err := st.DeleteMsg(ctx, m.Sequence); err != nil && !pipeline.NoMessage(err) {
		return err
	}
	return nil
}

func removeOrder(ctx context.Context, s *site, d *rand.Rand) (func(context.Context) error, error) {
	return nil, s.removeMessage(ctx, d, pipeline.OrdersStream, "order.>")
}

// denied tries what the streams themselves refuse to everybody.
func denied(ctx context.Context, s *site, _ *rand.Rand) (func(context.Context) error, error) {
	for _, name := range []string{pipeline.IntakeStream, ledger.StreamName, account.StreamName} {
		st, err := s.js.Stream(ctx, name)
		if err != nil {
			return nil, err
		}
		if err := st.Purge(ctx); err == nil {
			return nil, fmt.Errorf("stream %s can be purged", name)
		}
		if err := st.DeleteMsg(ctx, st.CachedInfo().State.LastSeq); err == nil {
			return nil, fmt.Errorf("messages of stream %s can be deleted", name)
		}
		for _, open := range []func(*jetstream.StreamConfig){
			func(c *jetstream.StreamConfig) { c.DenyDelete = false }, func(c *jetstream.StreamConfig) { c.DenyPurge = false }} {
			cfg := st.CachedInfo().Config
			open(&cfg)
			if _, err := s.js.UpdateStream(ctx, cfg); err == nil {
				return nil, fmt.Errorf("stream %s can be opened for that", name)
			}
		}
	}
	return nil, nil
}

// retryRemoved lets a person retry the orders whose message was removed while they
// were worked on.
func (s *site) retryRemoved(ctx context.Context) error {
	console, err := app.OpenConsole(ctx, s.cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		return err
	}
	defer console.Close()
	var ids []string
	err = console.Each(ctx, order.Held, func(it pipeline.Item) error {
		if it.Hold != nil && strings.Contains(it.Hold.Reason, "its message was removed") {
			ids = append(ids, it.ID())
		}
		return nil
	}, func(pipeline.Unread) error { return nil })
	for _, id := range ids {
		err = errors.Join(err, console.Retry(ctx, "chaos", id))
	}
	s.tell(fmt.Sprintf("%d orders were put back and are retried", len(ids)))
	s.count(func(r *Report) { r.PutBack += len(ids) })
	return err
}
