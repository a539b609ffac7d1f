// Package dcvtest is what every solver of DNS challenges must keep, as one suite
// of tests (Run), and real name servers to run it against (BIND, Knot).
package dcvtest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// Target is a solver with a zone that it may write.
type Target struct {
	Solver dcv.Solver
	Zone   string // the solver's server hosts it
	// Content is the whole zone as it is now, a line for each record, whoever
	// wrote it. What the server itself changes (serials, signatures) is left out.
	Content func(*testing.T) []string
	// Put writes a record as somebody else would. The name is absolute.
	Put func(t *testing.T, name, kind, value string)
	// Longest is the longest text that the server takes, in bytes.
	Longest int
	// Odd are texts with characters that are special somewhere, as far as the
	// server takes them.
	Odd []string
	// Look sees a challenge at the servers. Nil: nobody serves what is written.
	Look func(*testing.T, order.Challenge) dcv.Sighting
	// Many is how many names are written at a time.
	Many int
	// Writes counts the calls that added records, where the solver is to write
	// several in one. Nil: it is not.
	Writes func(*testing.T) int
	// Calls are the documented calls of the provider's API, for each role that
	// makes them. Nil: it has no API whose calls need a right each.
	Calls issuer.Calls
	// Made counts the calls that the solver made, by action, where Calls are known.
	Made func(*testing.T) map[string]int
}

// Many is how many names a big test writes: CERTMILL_DNS_NAMES, or few, so that
// an ordinary run of the tests is short.
func Many() int {
	if n, err := strconv.Atoi(os.Getenv("CERTMILL_DNS_NAMES")); err == nil && n > 0 {
		return n
	}
	return 200
}

// Run runs the suite, each test at a fresh target. Solvers are used by verifiers,
// which take back what came too late, and by collectors, which put back what
// another order came to need meanwhile; by submitters only to ask for zones. What
// any of them calls must stand in the target's Calls as theirs.
func Run(t *testing.T, start func(*testing.T) Target) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Target)
	}{
		{"present, again, clean up, again", roundTrip},
		{"others at the name stay as they are", othersStay},
		{"a CNAME excludes a text", conflict},
		{"a CNAME challenge", cname},
		{"the zone's own name", apex},
		{"long and odd texts", texts},
		{"a name in no zone", noZone},
		{"two values at each of many names, at the same time", concurrent},
		{"many names", many},
		{"the zone of a name", zoneOf},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := start(t)
			target.foreign(t)
			c.run(t, target)
			for action := range target.made(t) {
				target.wantDocumented(t, action, order.Verifier, order.Collector)
			}
		})
	}
}

func (g Target) made(t *testing.T) map[string]int {
	t.Helper()
	if g.Calls == nil {
		return nil
	}
	return g.Made(t)
}

// wantDocumented wants that an action stands in the documented calls, as one of
// each of the roles.
func (g Target) wantDocumented(t *testing.T, action string, roles ...order.Role) {
	t.Helper()
	for _, r := range roles {
		if _, ok := g.Calls.Of(r).Find(action); !ok {
			t.Errorf("%s was called, and is not documented as a call of the %s", action, r)
		}
	}
}

// foreign writes records that nobody may touch.
func (g Target) foreign(t *testing.T) {
	t.Helper()
	for _, r := range [][3]string{
		{g.Zone, dcv.TXT, "v=spf1 -all"},
		{"www." + g.Zone, "A", "192.0.2.1"},
		{"_dnsauth.www." + g.Zone, dcv.TXT, "another's"},
		{"_dnsauth.other." + g.Zone, dcv.TXT, "value"},
		{"x_dnsauth." + g.Zone, dcv.TXT, "value"},
		{"alias." + g.Zone, dcv.CNAME, "elsewhere.example.net"},
	} {
		g.Put(t, r[0], r[1], r[2])
	}
}

// txt is a challenge below the zone; the apex has no prefix.
func (g Target) txt(prefix, value string) order.Challenge {
	host := g.Zone
	if prefix != "" {
		host = prefix + "." + g.Zone
	}
	return order.Challenge{Name: "www." + g.Zone, Type: dcv.TXT, Host: host, Value: value}
}

// wantMore wants the zone as it was before and so many records more.
func (g Target) wantMore(t *testing.T, before []string, more int) {
	t.Helper()
	after := g.Content(t)
	if diff := cmp.Diff(before, after); more == 0 && diff != "" {
		t.Fatalf("the zone is not as it was (-before +now):\n%s", diff)
	}
	for _, line := range before {
		if !slices.Contains(after, line) {
			t.Errorf("%s is gone, or was changed", line)
		}
	}
	if len(after) != len(before)+more {
		t.Fatalf("the zone has %d records more than before, want %d", len(after)-len(before), more)
	}
}

func (g Target) present(t *testing.T, c order.Challenge) {
	t.Helper()
	if err := g.Solver.Present(t.Context(), c); err != nil {
		t.Fatalf("present %s: %v", c.Host, err)
	}
}

func (g Target) cleanUp(t *testing.T, c order.Challenge) {
	t.Helper()
	if err := g.Solver.CleanUp(t.Context(), c); err != nil {
		t.Fatalf("clean up %s: %v", c.Host, err)
	}
}

// wantSeen wants that the challenge shows, where anybody serves it.
func (g Target) wantSeen(t *testing.T, c order.Challenge, seen bool) {
	t.Helper()
	if g.Look == nil {
		return
	}
	if s := g.Look(t, c); s.Seen != seen {
		t.Errorf("%s %s: seen is %v, want %v: %v", c.Host, c.Type, s.Seen, seen, s.Missing)
	}
}

// wantHas wants that the solver says so, where it can tell.
func (g Target) wantHas(t *testing.T, c order.Challenge, want bool) {
	t.Helper()
	h, ok := g.Solver.(dcv.Haser)
	if !ok {
		return
	}
	if has, err := h.Has(t.Context(), c); err != nil || has != want {
		t.Errorf("has %s %q: %v, %v; want %v", c.Host, c.Value, has, err, want)
	}
}

func wantKind(t *testing.T, err error, kind dcv.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("got %v, want the kind %q", err, kind)
	}
}

func roundTrip(t *testing.T, g Target) {
	before := g.Content(t)
	c := g.txt("_dnsauth.new", "value")
	g.cleanUp(t, c) // nothing there is a success
	g.present(t, c)
	g.present(t, c)
	g.wantMore(t, before, 1)
	g.wantSeen(t, c, true)
	g.wantHas(t, c, true)
	g.wantHas(t, g.txt("_dnsauth.new", "Value"), false)
	g.cleanUp(t, g.txt("_dnsauth.new", "Value")) // another value
	g.wantMore(t, before, 1)
	g.cleanUp(t, c)
	g.cleanUp(t, c)
	g.wantMore(t, before, 0)
	g.wantHas(t, c, false)
	g.wantSeen(t, c, false)
}

func othersStay(t *testing.T, g Target) {
	before := g.Content(t)
	one, two := g.txt("_dnsauth.www", "one"), g.txt("_dnsauth.www", "two")
	g.present(t, one)
	g.present(t, two)
	g.wantMore(t, before, 2)
	g.wantSeen(t, one, true)
	g.wantSeen(t, two, true)
	g.cleanUp(t, one)
	g.wantMore(t, before, 1)
	g.wantSeen(t, two, true)
	g.cleanUp(t, two)
	g.wantMore(t, before, 0)
}

func conflict(t *testing.T, g Target) {
	before := g.Content(t)
	wantKind(t, g.Solver.Present(t.Context(), g.txt("alias", "value")), dcv.Conflict)
	g.wantMore(t, before, 0)
	c := order.Challenge{Type: dcv.CNAME, Host: "_dnsauth.www." + g.Zone, Value: "token.ca.example"}
	wantKind(t, g.Solver.Present(t.Context(), c), dcv.Conflict)
	g.wantMore(t, before, 0)
	c.Host = "alias." + g.Zone
	wantKind(t, g.Solver.Present(t.Context(), c), dcv.Conflict)
	g.cleanUp(t, c)
	g.wantMore(t, before, 0)
}

func cname(t *testing.T, g Target) {
	before := g.Content(t)
	c := order.Challenge{Type: dcv.CNAME, Host: "_x.new." + g.Zone, Value: "token.ca.example"}
	g.present(t, c)
	g.present(t, c)
	g.wantMore(t, before, 1)
	g.wantSeen(t, c, true)
	other := c
	other.Value = "another.ca.example"
	g.cleanUp(t, other)
	g.wantMore(t, before, 1)
	g.cleanUp(t, c)
	g.wantMore(t, before, 0)
}

func apex(t *testing.T, g Target) {
	before := g.Content(t)
	c := g.txt("", "value")
	g.present(t, c)
	g.present(t, c)
	g.wantMore(t, before, 1)
	g.wantSeen(t, c, true)
	g.cleanUp(t, c)
	g.wantMore(t, before, 0)
}

func texts(t *testing.T, g Target) {
	before := g.Content(t)
	for i, value := range append(slices.Clone(g.Odd), strings.Repeat("0123456789abcdef", g.Longest/16+1)[:g.Longest]) {
		c := g.txt(fmt.Sprintf("_dnsauth.text%d", i), value)
		g.present(t, c)
		g.present(t, c)
		g.wantMore(t, before, 1)
		g.wantSeen(t, c, true)
		g.cleanUp(t, c)
		g.wantMore(t, before, 0)
	}
}

func noZone(t *testing.T, g Target) {
	before := g.Content(t)
	for _, host := range []string{"_dnsauth.not" + g.Zone, "_dnsauth.www.example.org"} {
		c := order.Challenge{Type: dcv.TXT, Host: host, Value: "value"}
		wantKind(t, g.Solver.Present(t.Context(), c), dcv.NoZone)
		wantKind(t, g.Solver.CleanUp(t.Context(), c), dcv.NoZone)
	}
	g.wantMore(t, before, 0)
}

// zoneOf asks as the pre-flight of submitters does.
func zoneOf(t *testing.T, g Target) {
	z, ok := g.Solver.(dcv.Zoner)
	if !ok {
		return
	}
	zone, err := z.Zone(t.Context(), "_dnsauth.www."+g.Zone)
	if err != nil || zone != g.Zone {
		t.Errorf("zone %q, %v; want %q", zone, err, g.Zone)
	}
	_, err = z.Zone(t.Context(), "_dnsauth.www.example.org")
	wantKind(t, err, dcv.NoZone)
	for action := range g.made(t) {
		g.wantDocumented(t, action, order.Submitter)
	}
}

func concurrent(t *testing.T, g Target) {
	before := g.Content(t)
	var all []order.Challenge
	for i := range 20 {
		prefix := fmt.Sprintf("_dnsauth.n%d", i)
		one, two := g.txt(prefix, "one"), g.txt(prefix, "two")
		all = append(all, one, two, one, two) // each by two callers
	}
	each(t, all, 40, func(c order.Challenge) error { return g.Solver.Present(t.Context(), c) })
	g.wantMore(t, before, 40)
	each(t, all, 40, func(c order.Challenge) error { return g.Solver.CleanUp(t.Context(), c) })
	g.wantMore(t, before, 0)
}

func many(t *testing.T, g Target) {
	before := g.Content(t)
	all := make([]order.Challenge, g.Many)
	for i := range all {
		all[i] = g.txt(fmt.Sprintf("_dnsauth.host%04d", i), fmt.Sprintf("value of host %d", i))
	}
	writes := g.writes(t)
	began := time.Now()
	each(t, all, 64, func(c order.Challenge) error { return g.Solver.Present(t.Context(), c) })
	added := time.Since(began)
	if n := g.writes(t) - writes; n >= len(all) {
		// How many wait while a call is under way depends on the machine; that some
		// do, does not.
		t.Errorf("%d writes for %d records, want several in one", n, len(all))
	} else if n > 0 {
		t.Logf("%d records in %d writes", len(all), n)
	}
	g.wantMore(t, before, len(all))
	each(t, all, 8, func(c order.Challenge) error { g.wantSeen(t, c, true); return nil })
	seen := time.Since(began)
	each(t, all, 64, func(c order.Challenge) error { return g.Solver.CleanUp(t.Context(), c) })
	t.Logf("%d names: added in %v, seen after %v, deleted after %v", len(all), added, seen, time.Since(began))
	g.wantMore(t, before, 0)
}

func (g Target) writes(t *testing.T) int {
	t.Helper()
	if g.Writes == nil {
		return 0
	}
	return g.Writes(t)
}

// each does something to all challenges, several at the same time.
func each(t *testing.T, all []order.Challenge, at int, do func(order.Challenge) error) {
	t.Helper()
	work := make(chan order.Challenge)
	var wg sync.WaitGroup
	for range at {
		wg.Go(func() {
			for c := range work {
				if err := do(c); err != nil {
					t.Errorf("%s %s: %v", c.Host, c.Value, err)
				}
			}
		})
	}
	for _, c := range all {
		work <- c
	}
	close(work)
	wg.Wait()
}
