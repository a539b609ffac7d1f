package pipeline

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/order"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// workStates are the states in which a handler is called.
var workStates = []order.State{order.Submit, order.Unsure, order.Waiting, order.Verify, order.Issuing, order.Collect}

func in(s order.State) order.Order {
	o := to(anOrder("a"), s)
	if s == order.Waiting {
		o.Wait = order.Wait{For: order.WaitForNames, What: "b", Then: order.Submit}
	}
	return o
}

// Every verb in every state leads where an order may go, and what waits knows a
// state that it can go back to.
func TestDecideStaysInTheStateMachine(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	verbs := map[string]error{
		"moved nowhere": nil, "snooze": Snooze(time.Second), "long snooze": Snooze(time.Hour), "bare error": cause,
		"retry": Retry(cause, 0), "late retry": Retry(cause, time.Hour), "retry without a cause": Retry(nil, 0),
		"wait": Wait(order.Wait{For: order.WaitForQuota, What: "p"}), "fail": Fail(order.Failure{Reason: "no"}),
		"hold": Hold("why", "certmill retry a"), "hold open": HoldOpen("a", "why"),
		"wrapped fail": fmt.Errorf("context: %w", Fail(order.Failure{Reason: "no"})),
	}
	for _, s := range workStates {
		for name, verb := range verbs {
			for _, deliveries := range []int{0, 1, 5, 11} {
				for _, retries := range []int{0, 9, maxRetries} {
					for _, placed := range []bool{false, true} {
						o := in(s)
						o.Retries, o.Placed = retries, placed
						out := decide(o, o, verb, deliveries, noon)
						if out.nak > 0 {
							continue
						}
						if err := order.Check(s, out.next.State); err != nil {
							t.Errorf("%s in %s: %v", name, s, err)
						}
						if out.next.State != order.Waiting {
							continue
						}
						if err := order.Check(order.Waiting, out.next.Wait.Then); err != nil || out.next.Wait.Then == order.Waiting {
							t.Errorf("%s in %s waits and can never go on to %q", name, s, out.next.Wait.Then)
						}
					}
				}
			}
		}
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	type want struct {
		state   order.State
		nak     time.Duration
		retries int
		then    order.State
	}
	for name, c := range map[string]struct {
		before     order.State
		retries    int
		after      func(*order.Order)
		err        error
		deliveries int
		want       want
	}{
		"a new state begins counting anew":          {order.Submit, 3, func(o *order.Order) { o.State = order.Verify }, nil, 1, want{state: order.Verify}},
		"progress in place keeps the count":         {order.Submit, 3, nil, nil, 1, want{state: order.Submit, retries: 3}},
		"back from waiting keeps the count":         {order.Waiting, 7, func(o *order.Order) { o.State = order.Submit }, nil, 1, want{state: order.Submit, retries: 7}},
		"from waiting to another stage forgets it":  {order.Waiting, 7, func(o *order.Order) { o.State = order.Verify }, nil, 1, want{state: order.Verify}},
		"a state nobody may go to is held":          {order.Submit, 0, func(o *order.Order) { o.State = order.Issued }, nil, 1, want{state: order.Held}},
		"snooze":                                    {order.Submit, 2, nil, Snooze(time.Second), 1, want{nak: time.Second}},
		"snooze of nothing is not at once for ever": {order.Submit, 0, nil, Snooze(0), 1, want{nak: time.Millisecond}},
		"snooze of five minutes":                    {order.Submit, 0, nil, Snooze(maxSnooze), 4, want{nak: maxSnooze}},
		"the fifth snooze":                          {order.Submit, 2, nil, Snooze(time.Second), 5, want{state: order.Waiting, retries: 2, then: order.Submit}},
		"a long snooze":                             {order.Verify, 0, nil, Snooze(maxSnooze + 1), 1, want{state: order.Waiting, then: order.Verify}},
		"a long snooze of a sweep stores nothing":   {order.Waiting, 0, nil, Snooze(time.Hour), 0, want{nak: time.Hour}},
		"the first retry":                           {order.Verify, 0, nil, Retry(cause, 0), 1, want{state: order.Verify, retries: 1}},
		"a late retry waits":                        {order.Verify, 0, nil, Retry(cause, time.Hour), 1, want{state: order.Waiting, retries: 1, then: order.Verify}},
		"a late retry of a sweep stays":             {order.Issuing, 0, nil, Retry(cause, time.Hour), 0, want{state: order.Issuing, retries: 1}},
		"an unsure order stays unsure":              {order.Unsure, 0, nil, Retry(cause, time.Hour), 0, want{state: order.Unsure, retries: 1}},
		"a waiting order stays waiting":             {order.Waiting, 0, nil, cause, 0, want{state: order.Waiting, retries: 1, then: order.Submit}},
		"the last retry":                            {order.Verify, maxRetries - 1, nil, cause, 1, want{state: order.Waiting, retries: maxRetries, then: order.Verify}},
		"one too many":                              {order.Verify, maxRetries, nil, cause, 1, want{state: order.Held, retries: maxRetries + 1}},
		"behind a newer program":                    {order.Verify, maxRetries, nil, fmt.Errorf("the ledger: %w", order.ErrNewer), 1, want{state: order.Waiting, retries: maxRetries, then: order.Verify}},
		"behind a newer program, for a sweep":       {order.Unsure, maxRetries, nil, Retry(order.ErrNewer, 0), 0, want{state: order.Unsure, retries: maxRetries}},
		"a retry goes nowhere else":                 {order.Submit, 0, func(o *order.Order) { o.State = order.Verify }, cause, 1, want{state: order.Submit, retries: 1}},
		"wait":                                      {order.Submit, 0, nil, Wait(order.Wait{For: order.WaitForQuota}), 1, want{state: order.Waiting, then: order.Submit}},
		"wait for another stage":                    {order.Submit, 0, nil, Wait(order.Wait{Then: order.Unsure}), 1, want{state: order.Waiting, then: order.Unsure}},
		"wait from issuing":                         {order.Issuing, 0, nil, Wait(order.Wait{For: order.WaitForTime}), 0, want{state: order.Waiting, then: order.Verify}},
		"fail":                                      {order.Submit, 4, nil, Fail(order.Failure{Reason: "no"}), 1, want{state: order.Failed}},
		"fail with challenges out":                  {order.Verify, 4, func(o *order.Order) { o.Placed = true }, Fail(order.Failure{Reason: "no"}), 1, want{state: order.Collect}},
		"fail with an attempt's number":             {order.Submit, 4, func(o *order.Order) { o.Attempt = 1 }, Fail(order.Failure{Reason: "no"}), 1, want{state: order.Collect}},
		"fail with a resource":                      {order.Submit, 4, func(o *order.Order) { o.Resource = "r" }, Fail(order.Failure{Reason: "no"}), 1, want{state: order.Collect}},
		"fail with names that are taken":            {order.Waiting, 4, func(o *order.Order) { o.Taken = noon }, Fail(order.Failure{Reason: "no"}), 0, want{state: order.Collect}},
		"fail with a cloud order":                   {order.Unsure, 4, func(o *order.Order) { o.CloudID = "1" }, Fail(order.Failure{Reason: "no"}), 0, want{state: order.Collect}},
		"hold":                                      {order.Waiting, 0, nil, Hold("why"), 0, want{state: order.Held}},
	} {
		t.Run(name, func(t *testing.T) {
			before := in(c.before)
			before.Retries, before.NotBefore = c.retries, noon
			after := before
			if c.after != nil {
				c.after(&after)
			}
			out := decide(before, after, c.err, c.deliveries, noon)
			if out.nak != c.want.nak {
				t.Errorf("nak %v, want %v", out.nak, c.want.nak)
			}
			if out.nak > 0 {
				return
			}
			got := want{state: out.next.State, retries: out.next.Retries, then: out.next.Wait.Then}
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestDecideKeepsWhatTheHandlerLearned(t *testing.T) {
	t.Parallel()
	before := in(order.Verify)
	after := before
	after.CloudID, after.Placed = "98987582437920968", true
	for name, err := range map[string]error{"moved": nil, "retry": errors.New("x"), "wait": Wait(order.Wait{}), "fail": Fail(order.Failure{}), "hold": Hold("h")} {
		if out := decide(before, after, err, 1, noon); out.next.CloudID != after.CloudID {
			t.Errorf("%s loses what the handler wrote", name)
		}
	}
	out := decide(before, after, Retry(errors.New("slow down"), 5*time.Second), 1, noon)
	if d := out.next.NotBefore.Sub(noon); d < 5*time.Second {
		t.Errorf("tried again after %v, the cloud asked for 5s", d)
	}
	out = decide(in(order.Waiting), in(order.Waiting), errors.New("x"), 0, noon)
	if out.next.Wait.For != order.WaitForNames || !out.next.Wait.Till.After(noon) {
		t.Errorf("a waiting order forgets what it waits for: %+v", out.next.Wait)
	}
	out = decide(before, after, HoldOpen("a", "why"), 1, noon)
	if h := out.next.Hold; !h.Open || h.From != order.Verify || len(h.Commands) != 2 {
		t.Errorf("hold %+v", out.next.Hold)
	}
	out = decide(in(order.Waiting), in(order.Waiting), Hold("why"), 0, noon)
	if out.next.Hold.From != order.Submit {
		t.Errorf("held from %s, want the stage it waited for", out.next.Hold.From)
	}
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	t.Parallel()
	total := time.Duration(0)
	for n := range maxRetries {
		d := Backoff(n)
		top := min(firstBackoff<<min(n, 20), longestWait)
		if d < top/2 || d > top {
			t.Errorf("Backoff(%d) = %v, want within %v and %v", n, d, top/2, top)
		}
		total += top
	}
	if total < 2*time.Hour || total > 6*time.Hour {
		t.Errorf("all retries take up to %v; the documentation says about four hours", total)
	}
}
