package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
	"github.com/certmill/certmill/pkg/stream"
)

// observed is how the streams stand that workers pull from.
type observed struct {
	now       time.Time // by the server's clock
	last      time.Time // a message of an order was stored
	consumers []*jetstream.ConsumerInfo
}

// pulledFrom are the streams that workers pull from. Those in memory may be
// missing while no worker runs.
var pulledFrom = []string{pipeline.OrdersStream, pipeline.IntakeStream, pipeline.TicketStream, permitStream}

// permitStream is the name that package permit gives its stream.
const permitStream = "PERMITS"

func observe(ctx context.Context, js jetstream.JetStream) (o observed, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, name := range pulledFrom {
		s, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return o, fmt.Errorf("stream %s: %w", name, err)
		}
		if info := s.CachedInfo(); name == pipeline.OrdersStream {
			o.now, o.last = info.TimeStamp, info.State.LastTime
			if o.last.IsZero() { // nothing was ever stored there
				o.last = info.Created
			}
		}
		list := s.ListConsumers(ctx)
		for c := range list.Info() {
			o.consumers = append(o.consumers, c)
		}
		if err := list.Err(); err != nil {
			return o, fmt.Errorf("consumers of stream %s: %w", name, err)
		}
	}
	return o, nil
}

// lane is what a stage's consumer serves; ok is false for any other consumer.
func lane(c *jetstream.ConsumerInfo) (state order.State, label string, ok bool) {
	for _, s := range []order.State{order.Submit, order.Verify, order.Collect} {
		if l, is := strings.CutPrefix(c.Name, string(s)+"-"); is && c.Stream == pipeline.OrdersStream {
			return s, strings.TrimSuffix(l, order.UrgentSuffix), true
		}
	}
	return "", "", false
}

// due counts the orders that a stage is to work on, of accounts that do not rest,
// and those in the inbox.
func (o observed) due(rests func(label string) bool) (n int) {
	for _, c := range o.consumers {
		_, label, ok := lane(c)
		if ok && !rests(label) || c.Stream == pipeline.IntakeStream {
			n += int(c.NumPending) + c.NumAckPending
		}
	}
	return n
}

// silence is how long no message of an order was stored.
func (o observed) silence() time.Duration { return o.now.Sub(o.last) }

// How long nothing may be stored before the server is asked whether it can store
// at all, and, with orders that are due, before that is called a stall. Orders that
// wait for their turn or for a challenge, and nothing else, store something
// earlier.
const (
	askAfter   = 10 * time.Second
	stallAfter = 30 * time.Minute
)

// stalled tells that work is due and nothing succeeds.
func (o observed) stalled(rests func(string) bool) (t Trouble, is bool) {
	n := o.due(rests)
	if n == 0 || o.silence() < stallAfter {
		return Trouble{}, false
	}
	return Trouble{What: "work is due and nothing succeeds", Since: o.last,
		Why:   fmt.Sprintf("%s due, and nothing was stored for %v", are(n), o.silence().Round(time.Second)),
		Helps: []string{"look at the workers' logs and at their /readyz", seeStuck}}, true
}

// seeStuck is for those who do not look there yet.
const seeStuck = "certmill stuck says what the orders wait for"

func are(orders int) string {
	if orders == 1 {
		return "1 order is"
	}
	return fmt.Sprintf("%d orders are", orders)
}

// unattendedFor is how long a lane has nobody who takes its orders before that is
// told: between two of its pulls a worker asks for nothing, for a moment.
const unattendedFor = 10 * time.Second

// unattended are the lanes that have orders and nobody who takes them. held: nothing
// is bought because of a place that takes nothing, which is told.
func (o observed) unattended(rests func(string) bool, held bool) (all []Trouble) {
	lanes := map[string][]string{} // by who should
	for _, c := range o.consumers {
		quiet := c.Delivered.Last == nil || o.now.Sub(*c.Delivered.Last) > unattendedFor
		if c.NumPending == 0 || c.NumAckPending > 0 || c.NumWaiting > 0 || !quiet || o.now.Sub(c.Created) < unattendedFor {
			continue
		}
		state, label, ok := lane(c)
		switch {
		case c.Stream == pipeline.IntakeStream:
			lanes["submitter"] = append(lanes["submitter"], fmt.Sprintf("order messages from the inbox (%d)", c.NumPending))
		case ok && held && state == order.Submit: // nobody may buy
		case ok && !rests(label):
			who := string(takes[state])
			lanes[who] = append(lanes[who], fmt.Sprintf("orders of account %s (%d)", label, c.NumPending))
		}
	}
	for _, who := range sorted(lanes) {
		all = append(all, Trouble{What: "no " + who + " takes orders", Since: o.last,
			Why: "nobody takes " + strings.Join(lanes[who], ", "), Helps: []string{"start a " + who + ", whose config has the accounts"}})
	}
	return all
}

// takes is which worker takes the orders of a state.
var takes = map[order.State]order.Role{order.Submit: order.Submitter, order.Verify: order.Verifier, order.Collect: order.Collector}

// edited are the consumers that somebody has changed. Workers make them anew
// within seconds; where none runs they stay.
func (o observed) edited() (all []Trouble) {
	for _, c := range o.consumers {
		if differ := stream.Edited(c.Config, o.now); len(differ) > 0 {
			all = append(all, Trouble{What: "a consumer was edited, and not by certmill", Since: o.now,
				Why: fmt.Sprintf("consumer %s of stream %s: %s", c.Name, c.Stream, stream.Sentence(differ)),
				Helps: []string{"workers make it anew within seconds; where none runs: nats consumer rm " + c.Stream + " " + c.Name,
					"certmill pause rests an account"}})
		}
	}
	return all
}

// troubles are all that a look at the streams shows.
func (c *Console) troubles(ctx context.Context) ([]Trouble, error) {
	rests, err := c.rest(ctx)
	if err != nil {
		return nil, err
	}
	o, err := observe(ctx, c.js)
	if err != nil {
		return nil, err
	}
	places := c.refusingPlaces()
	all := slices.Concat(places, o.unattended(rests, len(places) > 0), o.edited())
	if t, is := c.refusing(ctx, o); is {
		all = append([]Trouble{t}, all...)
	} else if t, is := o.stalled(rests); is {
		all = append([]Trouble{t}, all...)
	}
	removed, err := c.removed(ctx)
	return slices.Concat(all, removed, c.goneMains()), err
}

// goneMains are the main accounts that the workers' config has no more, although
// something is open there.
func (c *Console) goneMains() (all []Trouble) {
	for _, main := range c.states.Mains() {
		for _, t := range c.states.State(main).Troubled(time.Now()) {
			if t.Kind == account.Gone {
				all = append(all, Trouble{What: "main account " + main + " is " + account.Gone, Why: t.What, Since: t.Since, Helps: []string{t.Helps}})
			}
		}
	}
	return all
}

// refusing tells that the server stores no orders any more, if it says so, while
// some have not ended. Who only looks may not ask (the user monitor of deploy/nats).
func (c *Console) refusing(ctx context.Context, o observed) (t Trouble, is bool) {
	if o.silence() < askAfter || c.cfg.NATS.User == "monitor" {
		return Trouble{}, false
	}
	if !c.unended(ctx) {
		return Trouble{}, false
	}
	why := storeError(ctx, c.js, pipeline.OrdersStream)
	return refuses(pipeline.OrdersStream, why, o.last), why != ""
}

// unended tells whether any order has not ended.
func (c *Console) unended(ctx context.Context) bool {
	if n, err := c.line.Pending(ctx); err == nil && n > 0 {
		return true
	}
	for _, s := range stuckStates {
		if n, err := c.line.Count(ctx, s); err == nil && n > 0 {
			return true
		}
	}
	return false
}

// rest tells which labels rest, or are stopped, as far as it is known.
func (c *Console) rest(ctx context.Context) (func(label string) bool, error) {
	all, err := c.accounts(ctx)
	if err != nil {
		return nil, err
	}
	mains := map[string]string{}
	for _, k := range all {
		mains[k.label] = k.main
	}
	return func(label string) bool {
		_, rests := c.states.State(mains[label]).Rest(label, time.Now())
		return rests && mains[label] != "" || c.stopped(label, mains[label])
	}, nil
}

// stopped tells whether nothing is called with an account, as far as it is known.
func (c *Console) stopped(label, main string) bool {
	return slices.ContainsFunc(c.wrong(label, main), func(t account.Trouble) bool { return t.Stops })
}

// removed are the orders whose message somebody has removed, by what the
// submitters' sweep has found; those that were handed in again since are not.
func (c *Console) removed(ctx context.Context) (all []Trouble, err error) {
	for _, main := range c.states.Mains() {
		for _, o := range c.states.State(main).Removed {
			_, err := c.line.Last(ctx, o.Order)
			if err == nil || errors.Is(err, pipeline.ErrUnreadable) {
				continue
			}
			if !errors.Is(err, pipeline.ErrNoOrder) {
				return nil, err
			}
			why := strings.TrimSpace(fmt.Sprintf("order %s %s", o.Order, strings.Join(o.Names, " ")))
			all = append(all, Trouble{What: "an order's message was removed, and not by certmill", Since: o.Since,
				Why: why + ": nothing goes on with it; " + o.Known, Helps: []string{stage.BringsBack(o)}})
		}
	}
	slices.SortStableFunc(all, func(a, b Trouble) int { return a.Since.Compare(b.Since) })
	return all, nil
}

const stallTrouble = "stall"

// feelWork tells when work is due and nothing succeeds.
func (s *session) feelWork(ctx context.Context) {
	o, err := observe(ctx, s.js)
	if err != nil {
		s.log.DebugContext(ctx, "the streams cannot be looked at", "err", err)
		return
	}
	rests := func(label string) bool {
		a := s.accounts[label]
		return a == nil || !s.active(a)(ctx)
	}
	if t, is := o.stalled(rests); is {
		s.ready.troubles.set(ctx, stallTrouble, t)
		return
	}
	s.ready.troubles.over(ctx, stallTrouble)
}

// feelWorkEvery is how often that is looked at.
const feelWorkEvery = 30 * time.Second
