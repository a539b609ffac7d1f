// Package issuertest is the contract that every cloud of package issuer must
// pass, against a simulated one, and what its tests need to look at the wire.
//
// A new cloud describes itself as a Vendor and is run; nothing here changes for
// it.
package issuertest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// Fault is what goes wrong with one call.
type Fault string

const (
	Throttle         Fault = "throttle"           // refused by the rate limit
	ResetAfterCommit Fault = "reset after commit" // carried out, then the connection is reset
	HTML502          Fault = "502 HTML"           // a gateway's error page
	Empty200         Fault = "empty 200"          // HTTP 200 without a body
	Stall            Fault = "stall"              // no answer before the deadline
	Unknown          Fault = "unknown action"     // refused, as an action that there is none of
)

// Vendor is what the suite is told of a cloud.
type Vendor struct {
	// Ways of ordering, by name: at least one for each flow. Each starts a fresh
	// simulated cloud with one account. What concerns the account and no flow is
	// tried at the first of them.
	Ways map[string]func(*testing.T) Subject
	// Routes are requests and what becomes of them: at least one for each flow,
	// and one for each reason why not.
	Routes []Routed
	// Products are codes of the vendor's and what they tell.
	Products []issuer.Product
	// Rare are documented actions that the contract does not come to, because
	// they are made only after an answer that the simulated cloud does not give.
	// Each needs a test of its own.
	Rare []string
}

// Subject is one account at one simulated cloud, and the flow that is looked at.
type Subject struct {
	// Open makes the client, as package app does.
	Open func(issuer.Access) (issuer.Cloud, error)
	// Access is how the account is reached, so that Calls counts and Fault works.
	// No error may show its secret.
	Access issuer.Access
	// Deadline is that of the permits.
	Deadline time.Duration
	// Identity is whose Access's credentials are.
	Identity issuer.Identity
	// Calls counts the calls that reached the cloud, by action. What the other
	// functions here ask of the cloud does not count.
	Calls func(*testing.T) map[string]int
	// Fault makes the next call of the action fail.
	Fault func(*testing.T, string, Fault)

	// Action is the flow's.
	Action string
	// Application makes a new one, with names that no other has and, where the
	// flow needs it, an unused resource of its own.
	Application func(*testing.T) issuer.Application
	// Place puts a record or file into the simulated world.
	Place func(*testing.T, order.Challenge)
	// Submitted counts the applications in the cloud's books.
	Submitted func(*testing.T) int
	// Exhausted is an application for which no quota is left; nil where
	// Submit takes none.
	Exhausted func(*testing.T) issuer.Application
	// Following makes an unused resource that follows another one within a term
	// that was paid for, and tells both; nil where the cloud knows no such thing.
	Following func(*testing.T) (resource, origin string)
}

// Run runs the contract. Each part gets a Subject, and so a cloud, of its own.
//
// Whatever reaches the cloud meanwhile must stand in About().Calls, as an action
// of the workers that make such calls:
//
//   - submitters: Prepare, Submit, Usage, Unused, Find and All; Look before a
//     Submit that does not spend, Fetch after one that does, to compare keys;
//   - verifiers: Look, Waiting, Certificates and Kick;
//   - collectors: Fetch;
//   - all of them: Identify.
//
// What stands there and was never made is a right that nobody needs.
func Run(t *testing.T, v Vendor) {
	ways := slices.Sorted(maps.Keys(v.Ways))
	seen := &seen{parts: len(ways)*len(flowParts) + len(cloudParts), flows: map[string]bool{}, actions: map[string]bool{}}
	t.Cleanup(func() { seen.all(t, v) }) // when all parts have ended
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			for _, p := range flowParts {
				t.Run(p.name, func(t *testing.T) {
					t.Parallel()
					run(t, v.Ways[way](t), seen, p.run)
				})
			}
		})
	}
	t.Run("account", func(t *testing.T) {
		t.Parallel()
		for _, p := range cloudParts {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				run(t, v.Ways[ways[0]](t), seen, func(t *testing.T, s trial) { p.run(t, s, v) })
			})
		}
	})
}

func run(t *testing.T, s Subject, seen *seen, part func(*testing.T, trial)) {
	c := s.open(t, nil)
	x := trial{Subject: s, cloud: c, flow: flowOf(t, c, s.Action), calls: c.About().Calls}
	part(t, x)
	made := s.Calls(t)
	Documented(t, x.calls, made)
	seen.note(x, made)
}

// trial is a part of the contract under way.
type trial struct {
	Subject
	cloud issuer.Cloud
	flow  issuer.Flow
	calls issuer.Calls // that are documented
}

// open makes a client whose access differs from the subject's.
func (s Subject) open(t *testing.T, change func(*issuer.Access)) issuer.Cloud {
	t.Helper()
	a := s.Access
	if change != nil {
		change(&a)
	}
	c, err := s.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func flowOf(t *testing.T, c issuer.Cloud, action string) issuer.Flow {
	t.Helper()
	for _, f := range c.Flows() {
		if f.Action() == action {
			return f
		}
	}
	t.Fatalf("no flow has the action %q", action)
	return nil
}

func secretIsWrong(a *issuer.Access) { a.Secret += "x" }

func nobodyListens(a *issuer.Access) {
	const nowhere = "http://127.0.0.1:1"
	a.Endpoint, a.DNSEndpoint, a.IdentityEndpoint = nowhere, nowhere, nowhere
}

// by makes calls as workers of some roles do, and checks that each action is
// documented as one that they make. It returns the actions.
func (s trial) by(t *testing.T, roles []order.Role, call func()) (made []string) {
	t.Helper()
	before := s.Calls(t)
	call()
	for action, n := range s.Calls(t) {
		if n == before[action] {
			continue
		}
		made = append(made, action)
		for _, r := range roles {
			if _, ok := s.calls.Of(r).Find(action); !ok {
				t.Errorf("%s was made as a %s does, which the documented calls do not say", action, r)
			}
		}
	}
	return made
}

var (
	submitter = []order.Role{order.Submitter}
	verifier  = []order.Role{order.Verifier}
)

// lookers are who looks at an order: submitters do before they start something
// that was bought already.
func (s trial) lookers() []order.Role {
	if s.flow.Spends() {
		return verifier
	}
	return []order.Role{order.Submitter, order.Verifier}
}

// Documented checks a table of documented calls, and that all that was made
// stands in it.
func Documented(t *testing.T, calls issuer.Calls, made map[string]int) {
	t.Helper()
	for i, c := range calls {
		first, _ := calls.Find(c.Action)
		same := c
		same.Roles, same.Optional = first.Roles, first.Optional
		switch {
		case c.Service == "" || c.Action == "" || c.Limit < 0 || c.Page < 0:
			t.Errorf("documented call %+v", c)
		case len(c.Roles) == 0:
			t.Errorf("nobody makes %s", c.Action)
		case fmt.Sprint(same) != fmt.Sprint(first):
			t.Errorf("%s is documented as %+v and as %+v", c.Action, first, c)
		case c.Starts && (c.Free || c.Optional):
			t.Errorf("%s starts an order: it needs a right and a permit", c.Action)
		}
		for _, r := range c.Roles {
			if !slices.Contains(order.Roles, r) || twice(calls[:i], c.Action, r) {
				t.Errorf("%s by %q: no role, or a second time", c.Action, r)
			}
		}
	}
	for action := range made {
		if _, ok := calls.Find(action); !ok {
			t.Errorf("%q was called and is not documented", action)
		}
	}
}

func twice(calls issuer.Calls, action string, r order.Role) bool {
	_, is := calls.Of(r).Find(action)
	return is
}

// seen is what all parts together have called.
type seen struct {
	parts int // that there are

	mu      sync.Mutex // guards what follows
	ended   int
	flows   map[string]bool // by action
	actions map[string]bool
	last    trial
}

func (s *seen) note(x trial, made map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.last, s.flows[x.Action] = s.ended+1, x, true
	for action := range made {
		s.actions[action] = true
	}
}

// all checks that every flow was tried and every documented call was made, if
// all parts came to their end: with -run, they do not.
func (s *seen) all(t *testing.T, v Vendor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended < s.parts {
		return
	}
	for _, f := range s.last.cloud.Flows() {
		if !s.flows[f.Action()] {
			t.Errorf("no way of ordering tries %s", f.Action())
		}
	}
	for _, c := range s.last.calls {
		if rare := slices.Contains(v.Rare, c.Action); s.actions[c.Action] == rare {
			t.Errorf("%s: called is %v, said to be rare is %v", c.Action, s.actions[c.Action], rare)
		}
	}
}

// Fence is one that every stamp of now lies in.
func Fence() issuer.Fence {
	now := time.Now()
	return issuer.Fence{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute)}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}

// want checks an error: its kind, that it names an action, and that it shows no
// secret under any verb.
func (s Subject) want(t *testing.T, err error, kind issuer.Kind) {
	t.Helper()
	e, ok := errors.AsType[*issuer.Error](err)
	if !ok {
		t.Fatalf("error %v (%T) is no *issuer.Error, want %s", err, err, kind)
	}
	if e.Kind != kind || !errors.Is(err, kind) {
		t.Errorf("kind %q, want %q: %v", e.Kind, kind, err)
	}
	s.silent(t, e)
}

func (s Subject) silent(t *testing.T, e *issuer.Error) {
	t.Helper()
	if e.Action == "" {
		t.Errorf("no action: %v", e)
	}
	Silent(t, e, s.Access.Secret.Reveal(), s.Access.Token.Reveal(), "Signature=", "BEGIN ", "@")
}

// Silent checks that an error and its causes show none of the words.
func Silent(t *testing.T, err error, words ...string) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			text := fmt.Sprintf(verb, e)
			for _, w := range words {
				if w != "" && strings.Contains(text, w) {
					t.Errorf("%s of a %T shows %q: %s", verb, e, w, text)
				}
			}
		}
	}
}
