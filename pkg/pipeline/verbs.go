package pipeline

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/certmill/certmill/pkg/order"
)

// A handler takes an order and returns an order and an error; the error is the
// verb. nil stores the returned order in its new state. The functions below
// make the others; any other error is Retry(err, 0).
type verb struct {
	kind    verbKind
	after   time.Duration
	wait    order.Wait
	failure order.Failure
	hold    order.Hold
	err     error
}

type verbKind int

const (
	snooze verbKind = iota
	retry
	wait
	fail
	hold
)

func (v *verb) Error() string {
	switch v.kind {
	case snooze:
		return fmt.Sprintf("not yet, again in %v", v.after)
	case wait:
		return "waits for " + v.wait.For + " " + v.wait.What
	case fail:
		return v.failure.Reason
	case hold:
		return "held: " + v.hold.Reason
	}
	return v.err.Error()
}

func (v *verb) Unwrap() error { return v.err }

// Snooze: not yet. No attempt is counted and nothing is stored, so what the
// handler changed in the order is lost; only the fifth time, or for more than
// five minutes, an order that was delivered goes to state waiting. One that a
// sweep visits stays: the next sweep comes anyway.
func Snooze(d time.Duration) error { return &verb{kind: snooze, after: d} }

// Retry: an error that may pass. The attempt is counted and the order, as the
// handler returned it, is stored. after is the cloud's retry-after; 0 means
// backoff.
func Retry(err error, after time.Duration) error {
	if err == nil {
		err = errors.New("no reason was given")
	}
	return &verb{kind: retry, after: after, err: err}
}

// Wait parks the order, as the handler returned it, in state waiting.
func Wait(w order.Wait) error { return &verb{kind: wait, wait: w} }

// Fail ends the order, by way of collect if anything is owed (Order.Owes).
func Fail(f order.Failure) error { return &verb{kind: fail, failure: f} }

// Hold: a person must decide. The commands are those that end it.
func Hold(reason string, commands ...string) error {
	return &verb{kind: hold, hold: order.Hold{Reason: reason, Commands: commands}}
}

// HoldFor is Hold for what a person may let pass with approve: that fact, in words
// of package order, and nothing else. A handler MUST ask Approves for it first.
func HoldFor(fact, reason string, commands ...string) error {
	return &verb{kind: hold, hold: order.Hold{Reason: reason, Fact: fact, Commands: commands}}
}

// Holds tells whether the answer of a handler holds the order.
func Holds(err error) bool {
	v, is := errors.AsType[*verb](err)
	return is && v.kind == hold
}

// HoldOpen holds an order whose ledger entry is open: only adopt and not-bought
// can end it.
func HoldOpen(id, reason string) error {
	return &verb{kind: hold, hold: order.Hold{Reason: reason, Open: true,
		Commands: []string{"certmill adopt " + id + " <cloud id>", "certmill not-bought " + id}}}
}

// Limits of the loop.
const (
	maxSnoozes    = 5               // the fifth goes to waiting
	maxSnooze     = 5 * time.Minute // longer ones go to waiting
	maxDeliveries = 10              // without a result: the order kills its worker
	maxRetries    = 25              // about four hours
	maxInPlace    = 20 * time.Second
	firstBackoff  = time.Second
	longestWait   = 15 * time.Minute
	newerRest     = time.Minute // of an order whose ledger entry, say, a newer program wrote
)

// Backoff is how long the n-th retry waits (n from 0), doubled each time with
// full jitter on the upper half.
func Backoff(n int) time.Duration {
	d := longestWait
	if n < 10 {
		d = min(firstBackoff<<n, longestWait)
	}
	return d/2 + rand.N(d/2+1)
}

// outcome is what the loop does with a handler's answer.
type outcome struct {
	next order.Order
	nak  time.Duration // > 0: nothing is stored, deliver again then
	note string
}

// decide turns a handler's answer into the next record. It is arithmetic only:
// before is the order as it was delivered, after as the handler returned it;
// deliveries is 0 when a sweep read it. What is stored is always a transition
// that the state machine has: a handler that asks for another would be asked
// again for ever.
func decide(before, after order.Order, err error, deliveries int, now time.Time) outcome {
	out := verdict(before, after, err, deliveries, now)
	if out.nak > 0 {
		return out
	}
	if bad := order.Check(before.State, out.next.State); bad != nil {
		return held(before, before, order.Hold{Reason: "a fault in certmill, please report it: " + bad.Error(), Commands: orRetry(before.ID())})
	}
	return out
}

// orRetry are the commands that end a hold without an open question.
func orRetry(id string) []string { return []string{"certmill retry " + id, "certmill cancel " + id} }

func verdict(before, after order.Order, err error, deliveries int, now time.Time) outcome {
	if err == nil {
		return moved(before, after)
	}
	v, ok := errors.AsType[*verb](err)
	if !ok {
		v = &verb{kind: retry, err: err}
	}
	switch v.kind {
	case snooze:
		if deliveries == 0 || v.after <= maxSnooze && deliveries < maxSnoozes {
			return outcome{nak: max(v.after, time.Millisecond)}
		}
		return parked(before, before, order.Wait{For: order.WaitForTime, Till: now.Add(v.after)}, "")
	case wait:
		return parked(before, after, v.wait, "")
	case fail:
		return failed(before, after, v.failure)
	case hold:
		return held(before, after, v.hold)
	}
	return retried(before, after, v, now)
}

// moved: a new stage begins counting anew. To come back from a pause is no new
// stage, or an error that comes with every visit would never end in a hold.
func moved(before, after order.Order) outcome {
	if after.State != before.State && after.State != stageOf(before) {
		after.Retries = 0
	}
	if after.State == order.Waiting { // what it waits for and where it goes must stay known
		return parked(before, after, after.Wait, "")
	}
	after.NotBefore, after.Wait = time.Time{}, order.Wait{}
	return outcome{next: after}
}

func parked(before, after order.Order, w order.Wait, note string) outcome {
	if w.Then == "" {
		w.Then = stageOf(before)
	}
	if w.Then == order.Issuing {
		w.Then = order.Verify // which looks, and sends it on to issuing
	}
	after.State, after.Wait, after.NotBefore = order.Waiting, w, time.Time{}
	if note == "" {
		note = "waits for " + w.For
		if w.What != "" {
			note += ": " + w.What
		}
	}
	return outcome{next: after, note: note}
}

// stageOf is the state whose work the order is at: waiting is only a pause of
// it.
func stageOf(o order.Order) order.State {
	if o.State == order.Waiting {
		return o.Wait.Then
	}
	return o.State
}

func failed(before, o order.Order, f order.Failure) outcome {
	o.Failure, o.Wait, o.NotBefore = &f, order.Wait{}, time.Time{}
	o.State = order.Failed
	if o.Owes() {
		o.State = order.Collect // its records, its resource and its names go first
	}
	if o.State != before.State {
		o.Retries = 0
	}
	return outcome{next: o, note: f.Reason}
}

func held(before, after order.Order, h order.Hold) outcome {
	h.From = stageOf(before)
	after.Hold, after.State, after.Wait, after.NotBefore = &h, order.Held, order.Wait{}, time.Time{}
	return outcome{next: after, note: h.Reason}
}

func retried(before, after order.Order, v *verb, now time.Time) outcome {
	after.State = before.State
	after.Retries = before.Retries + 1
	if errors.Is(v.err, order.ErrNewer) {
		// What is in its way is a newer program's to judge. Nothing was tried, so
		// it must not end in a hold.
		after.Retries, v = before.Retries, &verb{kind: retry, after: max(v.after, newerRest), err: v.err}
	}
	if after.Retries > maxRetries {
		return held(before, after, order.Hold{
			Reason:   fmt.Sprintf("tried %d times; the last error was: %v", maxRetries, v.err),
			Commands: orRetry(after.ID())})
	}
	d := max(v.after, Backoff(before.Retries))
	if d > maxInPlace && !swept(before.State) || before.State == order.Waiting {
		w := order.Wait{For: order.WaitForTime}
		if before.State == order.Waiting {
			w = before.Wait
		}
		w.Till = now.Add(d)
		return parked(before, after, w, v.err.Error())
	}
	after.NotBefore, after.Wait = now.Add(d), order.Wait{}
	return outcome{next: after, note: v.err.Error()}
}

// swept: no consumer hands these out, so an order that rests there occupies no
// delivery slot and need not leave.
func swept(s order.State) bool { return s == order.Issuing || s == order.Unsure }
