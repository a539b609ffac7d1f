package dcv_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
)

// hosted is a solver with fixed zones, which remembers.
type hosted struct {
	recorder
	zones map[string]bool
}

func (h *hosted) Zone(_ context.Context, host string) (string, error) {
	if zone, _, ok := dcv.Split(host, h.zones); ok {
		return zone, nil
	}
	return "", dcv.NoZone
}

func host(zones ...string) *hosted {
	h := &hosted{zones: map[string]bool{}}
	for _, z := range zones {
		h.zones[z] = true
	}
	return h
}

func TestRouteByLongestZone(t *testing.T) {
	solvers := map[string]dcv.Solver{}
	got := map[string]*recorder{}
	for _, zone := range []string{"example.com", "Dev.Example.com.", "cn", "com.cn", "中国.example", "*"} {
		got[zone] = &recorder{}
		solvers[zone] = got[zone]
	}
	r := dcv.NewRoute(solvers, nil)
	for host, zone := range map[string]string{
		"_dnsauth.www.example.com": "example.com", "_dnsauth.dev.example.com": "Dev.Example.com.", "dev.example.com": "Dev.Example.com.",
		"_dnsauth.notexample.com": "*", "_dnsauth.example.com.cn": "com.cn", "_dnsauth.example.cn": "cn",
		"_dnsauth.www.xn--fiqs8s.example": "中国.example", "_dnsauth.www.中国.example": "中国.example",
	} {
		must(t, r.Present(t.Context(), txt(host, "v")))
		must(t, r.CleanUp(t.Context(), txt(host, "v")))
		if diff := cmp.Diff([]string{"present TXT", "clean up TXT"}, got[zone].got); diff != "" {
			t.Errorf("%s did not go to %s: %s", host, zone, diff)
		}
		got[zone].got = nil
	}
	only := dcv.NewRoute(map[string]dcv.Solver{"example.com": &recorder{}}, nil)
	wantKind(t, only.Present(t.Context(), txt("_dnsauth.example.org", "v")), dcv.NoZone, "dcv.solvers")
	wantKind(t, only.CleanUp(t.Context(), txt("_dnsauth.example.org", "v")), dcv.NoZone)
}

// delegations is a world in which names of example.com lead elsewhere.
func delegations(t *testing.T) *world {
	w := newWorld(t)
	w.server("example.com.", "ns1.example.com.",
		"_dnsauth.example.com. 60 IN CNAME example-com.dcv.example.net.",
		"_dnsauth.chain.example.com. 60 IN CNAME one.example.com.", "one.example.com. 60 IN CNAME two.example.com.", "two.example.com. 60 IN CNAME End.DCV.example.net.",
		"_dnsauth.loop.example.com. 60 IN CNAME loop.example.com.", "loop.example.com. 60 IN CNAME _dnsauth.loop.example.com.",
		"_dnsauth.far.example.com. 60 IN CNAME x.example.org.",
		"_dnsauth.gone.example.com. 60 IN CNAME nothing.dcv.example.net.",
		"away.example.com. 60 IN NS ns.away.example.")
	w.server("example.net.", "ns1.example.net.", "dcv.example.net. 60 IN NS ns2.example.net.")
	w.server("dcv.example.net.", "ns2.example.net.", `example-com.dcv.example.net. 60 IN TXT "there"`)
	w.server("example.org.", "ns1.example.org.", `x.example.org. 60 IN TXT "x"`)
	w.server("away.example.com.", "ns.away.example.", "_dnsauth.away.example.com. 60 IN A 192.0.2.1")
	return w
}

func TestLocate(t *testing.T) {
	w := delegations(t)
	l := newLooker(t, dcv.LookerConfig{Resolvers: []string{w.resolverAddr()}, ServerPort: w.port, Allow: loopback})
	here, there := host("example.com"), host("dcv.example.net")
	r := dcv.NewRoute(map[string]dcv.Solver{"*": here, "example.net": there}, l)
	for from, to := range map[string]string{
		"_dnsauth.www.example.com":   "_dnsauth.www.example.com",
		"_dnsauth.example.com":       "example-com.dcv.example.net",
		"_dnsauth.chain.example.com": "end.dcv.example.net",
		"_dnsauth.gone.example.com":  "nothing.dcv.example.net", // it is there once the record is
	} {
		c := txt(from, "value")
		placed, err := r.Locate(t.Context(), c)
		must(t, err)
		c.Host = to
		if diff := cmp.Diff(c, placed); diff != "" {
			t.Errorf("%s (-want +got):\n%s", from, diff)
		}
		again, err := r.Locate(t.Context(), placed)
		must(t, err)
		if diff := cmp.Diff(placed, again); diff != "" {
			t.Errorf("%s, again (-want +got):\n%s", from, diff)
		}
	}
	for from, says := range map[string][]string{
		"_dnsauth.far.example.com":  {"x.example.org", "CNAME"},             // in a zone of nobody's
		"_dnsauth.away.example.com": {"delegated away", "away.example.com"}, // in a zone that is hosted elsewhere
	} {
		_, err := r.Locate(t.Context(), txt(from, "value"))
		wantKind(t, err, dcv.NoZone, says...)
	}
	_, err := r.Locate(t.Context(), txt("_dnsauth.loop.example.com", "value"))
	wantKind(t, err, dcv.Conflict, "CNAMEs")

	cname := order.Challenge{Type: dcv.CNAME, Host: "_dnsauth.example.com", Value: "token.ca.example"}
	file := order.Challenge{Type: dcv.FILE, Host: "_dnsauth.example.com", Path: "/x", Value: "v"}
	for _, c := range []order.Challenge{cname, file} {
		placed, err := dcv.ByType{DNS: r, FILE: &recorder{}}.Locate(t.Context(), c)
		must(t, err)
		if placed != c {
			t.Errorf("a %s challenge was moved to %s", c.Type, placed.Host)
		}
	}
	placed, err := dcv.ByType{DNS: r}.Locate(t.Context(), txt("_dnsauth.example.com", "value"))
	must(t, err)
	if placed.Host != "example-com.dcv.example.net" {
		t.Errorf("ByType does not locate: %s", placed.Host)
	}
}

// What cannot be known for sure is asked again later.
func TestFollowWhenServersDiffer(t *testing.T) {
	w := newWorld(t)
	one := w.server("example.com.", "ns1.example.com.", "_dnsauth.example.com. 60 IN CNAME a.example.net.")
	two := w.server("example.com.", "ns2.example.com.", "_dnsauth.example.com. 60 IN CNAME a.example.net.")
	w.server("example.net.", "ns1.example.net.", `a.example.net. 60 IN TXT "x"`)
	l := newLooker(t, dcv.LookerConfig{Resolvers: []string{w.resolverAddr()}, ServerPort: w.port, Allow: loopback})
	follow := func() (dcv.Place, error) { return l.Follow(t.Context(), "_dnsauth.example.com.") }
	want := dcv.Place{Name: "a.example.net", Zone: "example.net", Via: []string{"_dnsauth.example.com"}}
	servfail := func(m *dns.Msg) { m.Rcode, m.Answer = dns.RcodeServerFailure, nil }

	two.set(func() { two.distort = servfail }) // one that is broken does not hold it up
	got, err := follow()
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	one.set(func() { one.distort = servfail })
	_, err = follow()
	wantKind(t, err, "", "SERVFAIL")

	one.set(func() { one.distort = nil })
	two.set(func() { two.distort = func(m *dns.Msg) { m.Answer = nil } }) // stale
	_, err = follow()
	wantKind(t, err, "", "do not agree", "ns1.example.com", "a.example.net", "no CNAME")

	two.set(func() {
		two.distort = func(m *dns.Msg) { // split
			for _, rr := range m.Answer {
				if c, ok := rr.(*dns.CNAME); ok {
					c.Target = "b.example.net."
				}
			}
		}
	})
	_, err = follow()
	wantKind(t, err, "", "do not agree", "b.example.net")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Follow(ctx, "_dnsauth.example.com"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := l.Follow(t.Context(), strings.Repeat("x", 300)+".example.com"); err == nil {
		t.Error("a name that is none was followed")
	}
}

// lister is a Provider of zones alone.
type lister struct {
	dcv.Provider
	all   []string
	asked []string
}

func (l *lister) Zones(_ context.Context, about string) ([]string, error) {
	l.asked = append(l.asked, about)
	if about == "" {
		return l.all, nil
	}
	var some []string
	for _, z := range l.all {
		if strings.Contains(z, about) {
			some = append(some, z)
		}
	}
	return some, nil
}

// added is what the provider is told to add.
type added struct {
	*lister
	got []string
}

func (a *added) Add(_ context.Context, zone string, r dcv.Record) error {
	a.got = append(a.got, r.RR+" in "+zone)
	return nil
}

// A provider is spoken to in its own spelling, whatever the challenge has.
func TestZonesWithInternationalNames(t *testing.T) {
	a := &added{lister: &lister{all: []string{"例子.中国", "Example.COM", "xn--fiqs8s.example", "münchen.example", "_dcv.example.net"}}}
	s := dcv.NewRecords(a)
	for _, c := range []struct{ host, zone, told string }{
		{"_dnsauth.www.xn--fsqu00a.xn--fiqs8s", "xn--fsqu00a.xn--fiqs8s", "_dnsauth.www in 例子.中国"},
		{"_dnsauth.例子.中国", "xn--fsqu00a.xn--fiqs8s", "_dnsauth in 例子.中国"},
		{"_dnsauth.xn--mnchen-3ya.example", "xn--mnchen-3ya.example", "_dnsauth in münchen.example"},
		{"_dnsauth.中国.example", "xn--fiqs8s.example", "_dnsauth in xn--fiqs8s.example"},
		{"_dnsauth.例子.example.com", "example.com", "_dnsauth.xn--fsqu00a in example.com"},
		{"x._dcv.example.net", "_dcv.example.net", "x in _dcv.example.net"},
	} {
		zone, err := s.Zone(t.Context(), c.host)
		must(t, err)
		must(t, s.Present(t.Context(), txt(c.host, "v")))
		if told := a.got[len(a.got)-1]; zone != c.zone || told != c.told {
			t.Errorf("%s: zone %s, told %s; want %s, %s", c.host, zone, told, c.zone, c.told)
		}
	}
	if !slices.Equal(a.asked, []string{""}) {
		t.Errorf("the zones were asked for: %q", a.asked)
	}
	_, err := s.Zone(t.Context(), "_dnsauth.www.example.org")
	wantKind(t, err, dcv.NoZone, "example.org")
}
