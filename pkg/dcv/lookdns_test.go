package dcv_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
)

func (w *world) looker() *dcv.Looker {
	w.t.Helper()
	return newLooker(w.t, w.config())
}

// config is that of a looker that takes the loopback addresses for public.
func (w *world) config() dcv.LookerConfig {
	return dcv.LookerConfig{Resolvers: []string{w.resolverAddr()}, ServerPort: w.port, Timeout: 300 * time.Millisecond, Allow: loopback}
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func newLooker(t *testing.T, cfg dcv.LookerConfig) *dcv.Looker {
	t.Helper()
	l, err := dcv.NewLooker(cfg)
	must(t, err)
	return l
}

// wantLook looks and compares; nothing missing means seen.
func wantLook(t *testing.T, l *dcv.Looker, c order.Challenge, missing ...string) {
	t.Helper()
	got, err := l.Look(t.Context(), c)
	must(t, err)
	if diff := cmp.Diff(dcv.Sighting{Seen: len(missing) == 0, Missing: missing, Silent: got.Silent}, got); diff != "" {
		t.Errorf("sighting (-want +got):\n%s", diff)
	}
}

const (
	theName = "_dnsauth.www.example.com"
	theTXT  = theName + ` 60 IN TXT "value"`
)

func TestLookSeesEveryServer(t *testing.T) {
	w := newWorld(t)
	w.server("example.com", "ns1.example.com", theTXT)
	w.server("example.com", "ns2.example.com", theTXT, theName+` 60 IN TXT "another order's"`)
	late := w.server("example.com", "ns3.example.net", theName+` 60 IN TXT "old"`)
	second, err := w.start() // of ns2's two addresses
	must(t, err)
	w.resolver.add(t, ".", "ns2.example.com 60 IN A "+second.addr)
	second.add(t, "example.com")
	l, c := w.looker(), txt(theName, "value")

	wantLook(t, l, c,
		theName+": ns2.example.com ("+second.addr+") says that there is no such name",
		theName+": ns3.example.net ("+late.addr+`) has TXT "old", not "value"`)
	second.add(t, "example.com", theTXT)
	wantLook(t, l, c, theName+": ns3.example.net ("+late.addr+`) has TXT "old", not "value"`)
	late.add(t, "example.com", theTXT)
	wantLook(t, l, c)

	for _, q := range w.resolver.questions() { // it would remember that there was no such name
		if strings.Contains(q, "_dnsauth") || strings.Contains(q, "www") {
			t.Errorf("the resolver was asked for %s", q)
		}
	}
}

func TestLookOverIPv6(t *testing.T) {
	l6, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6: ", err)
	}
	l6.Close()
	w := newWorld(t)
	w.server("example.com", "ns1.example.com", theTXT)
	w.resolver.add(t, ".", "ns1.example.com 60 IN AAAA ::1")
	got, err := w.looker().Look(t.Context(), txt(theName, "value"))
	must(t, err)
	if got.Seen || len(got.Missing) != 1 || !strings.Contains(got.Missing[0], "ns1.example.com (::1) does not answer") {
		t.Errorf("got %+v, want the IPv6 address, where nobody listens, to be missing", got)
	}
}

func TestLookTruncated(t *testing.T) {
	w := newWorld(t)
	s := w.server("example.com", "ns1.example.com")
	for i := range 60 {
		s.add(t, "example.com", fmt.Sprintf(`%s 60 IN TXT "%060d"`, theName, i))
	}
	s.add(t, "example.com", theTXT)
	s.set(func() { s.truncate = 512 })
	wantLook(t, w.looker(), txt(theName, "value"))
}

func TestLookFollowsCNAME(t *testing.T) {
	w := newWorld(t)
	alias := theName + " 60 IN CNAME Www.dcv.example.net."
	a := w.server("example.com", "ns1.example.com", alias)
	b := w.server("example.com", "ns2.example.com")
	w.server("example.net", "ns.example.net", "dcv.example.net 60 IN NS ns1.dcv.example.net")
	w.server("dcv.example.net", "ns1.dcv.example.net", `www.dcv.example.net 60 IN TXT "value"`)
	late := w.server("dcv.example.net", "ns2.dcv.example.net", `x.dcv.example.net 60 IN TXT "other"`)
	l, c := w.looker(), txt(theName, "value")
	wantLook(t, l, c,
		theName+": ns1.example.com ("+a.addr+`) has a CNAME to "www.dcv.example.net", other servers do not`,
		theName+": ns2.example.com ("+b.addr+") says that there is no such name")
	b.add(t, "example.com", alias)
	wantLook(t, l, c)

	w.resolver.add(t, ".", "extra.example 60 IN NS ns2.dcv.example.net")
	a.set(func() { a.zones["example.com."] = nil })
	b.set(func() { b.zones["example.com."] = nil })
	a.add(t, "example.com", theName+" 60 IN CNAME y.extra.example.")
	b.add(t, "example.com", theName+" 60 IN CNAME y.extra.example.")
	late.add(t, "extra.example")
	wantLook(t, l, c, "y.extra.example: ns2.dcv.example.net ("+late.addr+") says that there is no such name")
}

func TestLookAtCNAMEsThatDiffer(t *testing.T) {
	w := newWorld(t)
	a := w.server("example.com", "ns1.example.com", theName+" 60 IN CNAME a.example.com.", `a.example.com 60 IN TXT "value"`)
	b := w.server("example.com", "ns2.example.com", theName+" 60 IN CNAME b.example.com.", `a.example.com 60 IN TXT "value"`)
	wantLook(t, w.looker(), txt(theName, "value"),
		theName+": ns1.example.com ("+a.addr+`) has a CNAME to "a.example.com", other servers do not`,
		theName+": ns2.example.com ("+b.addr+`) has a CNAME to "b.example.com", other servers do not`)
}

func TestLookEndsInCNAMELoop(t *testing.T) {
	w := newWorld(t)
	w.server("example.com", "ns1.example.com", theName+" 60 IN CNAME b.example.com.", "b.example.com 60 IN CNAME "+theName+".")
	wantLook(t, w.looker(), txt(theName, "value"), theName+" leads through more than 8 CNAMEs")
}

func TestLookFindsTheCut(t *testing.T) {
	const below = "_dnsauth.www.dev.example.com"
	c := txt(below, "value")
	t.Run("by referral", func(t *testing.T) {
		w := newWorld(t)
		w.server("example.com", "ns1.example.com", "dev.example.com 60 IN NS ns1.dev.example.com", below+` 60 IN TXT "value"`)
		dev := w.server("dev.example.com", "ns1.dev.example.com")
		wantLook(t, w.looker(), c, below+": ns1.dev.example.com ("+dev.addr+") says that there is no such name")
		dev.add(t, "dev.example.com", below+` 60 IN TXT "value"`)
		wantLook(t, w.looker(), c)
	})
	t.Run("on shared servers", func(t *testing.T) {
		w := newWorld(t)
		both := w.server("example.com", "ns1.example.com")
		both.add(t, "dev.example.com", "dev.example.com 60 IN NS ns1.example.com", "dev.example.com 60 IN NS ns2.example.com", below+` 60 IN TXT "value"`)
		other := w.server("dev.example.com", "ns2.example.com")
		wantLook(t, w.looker(), c, below+": ns2.example.com ("+other.addr+") says that there is no such name")
	})
	t.Run("a name that nobody registered", func(t *testing.T) {
		w := newWorld(t)
		com := w.server("com", "a.gtld.test")
		wantLook(t, w.looker(), c, below+": a.gtld.test ("+com.addr+") says that there is no such name")
	})
}

func TestLookAtBrokenServers(t *testing.T) {
	w := newWorld(t)
	w.server("example.com", "ns1.example.com", theTXT)
	refusing := w.server("example.org", "ns2.example.com")
	w.resolver.add(t, ".", "example.com 60 IN NS ns2.example.com")
	lame := w.server("example.com", "ns3.example.com", theTXT)
	lame.set(func() { lame.distort = func(m *dns.Msg) { m.Authoritative = false } })
	w.resolver.add(t, ".", "example.com 60 IN NS ns4.example.com")
	liar := w.server("example.com", "ns5.example.com", theTXT)
	liar.set(func() { liar.distort = func(m *dns.Msg) { m.Question[0].Name = "other.example.com." } })
	stranger := w.server("example.com", "ns6.example.com")
	stranger.set(func() {
		stranger.distort = func(m *dns.Msg) {
			rr, _ := dns.NewRR(`other.example.com 60 IN TXT "value"`)
			m.Rcode, m.Answer = dns.RcodeSuccess, []dns.RR{rr}
		}
	})
	wantLook(t, w.looker(), txt(theName, "value"),
		theName+": ns2.example.com ("+refusing.addr+") answers REFUSED",
		theName+": ns3.example.com ("+lame.addr+") is not authoritative for it",
		theName+": ns4.example.com has no address",
		theName+": ns5.example.com ("+liar.addr+") does not answer: the answer is to another question",
		theName+": ns6.example.com ("+stranger.addr+") has no TXT")
}

// Anybody can answer for a server over UDP; where it takes no TCP, it is said.
func TestLookOverTCP(t *testing.T) {
	w := newWorld(t)
	modern := w.server("example.com", "ns1.example.com", theTXT)
	old := w.server("example.com", "ns2.example.com")
	must(t, old.tcp.Shutdown())
	l, c := w.looker(), txt(theName, "value")
	wantLook(t, l, c, theName+": ns2.example.com ("+old.addr+") says that there is no such name (over UDP; over TCP: connection refused)")
	if m, o := modern.overUDP(), old.overUDP(); m != 0 || o == 0 {
		t.Errorf("%d questions over UDP to a server that takes TCP, %d to one that does not", m, o)
	}
	old.add(t, "example.com", theTXT)
	wantLook(t, l, c)
	for i := range 60 {
		old.add(t, "example.com", fmt.Sprintf(`%s 60 IN TXT "%060d"`, theName, i))
	}
	old.set(func() { old.truncate = 512 })
	wantLook(t, l, c, theName+": ns2.example.com ("+old.addr+") does not answer: the answer is truncated, and there is no other over TCP")
}

// What is stale, fails, or is another server each time behind one address.
func TestLookAtServersThatChange(t *testing.T) {
	w := newWorld(t)
	w.server("example.com", "ns1.example.com", theTXT)
	stale := w.server("example.com", "ns2.example.com")
	stale.set(func() { stale.serial = 2026112401 })
	failing := w.server("example.com", "ns3.example.com", theTXT)
	failing.set(func() { failing.distort = func(m *dns.Msg) { m.Rcode, m.Answer = dns.RcodeServerFailure, nil } })
	split := w.server("example.com", "ns4.example.com", theTXT)
	turn := 0
	split.set(func() {
		split.distort = func(m *dns.Msg) {
			if m.Question[0].Qtype != dns.TypeTXT {
				return
			}
			if turn++; turn%2 == 0 {
				m.Answer = nil
			}
		}
	})
	l, c := w.looker(), txt(theName, "value")
	at2 := theName + ": ns2.example.com (" + stale.addr + ") says that there is no such name (serial 2026112401)"
	at3 := theName + ": ns3.example.com (" + failing.addr + ") answers SERVFAIL"
	wantLook(t, l, c, at2, at3)
	wantLook(t, l, c, at2, at3, theName+": ns4.example.com ("+split.addr+") has no TXT")
	wantLook(t, l, c, at2, at3)
	stale.add(t, "example.com", theTXT)
	failing.set(func() { failing.distort = nil })
	split.set(func() { split.distort = nil })
	wantLook(t, l, c)
}

// The evidence is stored with the order: it is the same while nothing changes,
// and no longer than a person reads.
func TestLookTellsTheSameEachTime(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		ns := fmt.Sprintf("ns%02d.example.com", i)
		if i%2 == 0 {
			w.server("example.com", ns)
			continue
		}
		silent, err := net.ListenPacket("udp", fmt.Sprintf("127.0.1.%d:%d", i, w.port))
		must(t, err)
		defer silent.Close()
		w.resolver.add(t, ".", ns+" 60 IN A 127.0.1."+fmt.Sprint(i), "example.com 60 IN NS "+ns)
	}
	l := w.looker()
	first, err := l.Look(t.Context(), txt(theName, "value"))
	must(t, err)
	wantLook(t, l, txt(theName, "value"), first.Missing...)
	if n := len(first.Missing); n != 13 || first.Missing[n-1] != "and 8 more servers" || !slices.IsSorted(first.Missing[:n-1]) {
		t.Errorf("%d sentences: %q", n, first.Missing)
	}
}

func TestLookAtADeadServer(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0") // takes questions and says nothing
	must(t, err)
	defer silent.Close()
	l := newLooker(t, dcv.LookerConfig{Resolvers: []string{"127.0.0.1:1"}, Servers: []string{silent.LocalAddr().String()}, Timeout: 50 * time.Millisecond})
	got, err := l.Look(t.Context(), txt(theName, "value"))
	must(t, err)
	if got.Seen || len(got.Missing) != 1 || !strings.HasPrefix(got.Missing[0], theName+": "+silent.LocalAddr().String()+" does not answer: ") {
		t.Errorf("got %+v", got)
	}
}

func TestLookReadsTexts(t *testing.T) {
	long := strings.Repeat("0123456789", 30)
	odd := "q\"b\\s\\065;\x01é"
	w := newWorld(t)
	s := w.server("example.com", "ns1.example.com", fmt.Sprintf(`%s 60 IN TXT "%s" "%s"`, theName, long[:255], long[255:]))
	s.set(func() {
		s.zones["example.com."] = append(s.zones["example.com."], &dns.TXT{
			Hdr: dns.RR_Header{Name: theName + ".", Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}, Txt: []string{`q\"b\\s\\065;\001é`}})
	})
	wantLook(t, w.looker(), txt(theName, long))
	wantLook(t, w.looker(), txt(theName, odd))
	got, err := w.looker().Look(t.Context(), txt(theName, "Value"))
	must(t, err)
	if len(got.Missing) != 1 || len(got.Missing[0]) > 400 || strings.ContainsAny(got.Missing[0], "\x01\n") {
		t.Errorf("not a short printable line: %q", got.Missing)
	}
}

func TestLookForCNAME(t *testing.T) {
	w := newWorld(t)
	s := w.server("example.com", "ns1.example.com", "_x.example.com 60 IN CNAME Token.CA.example.")
	c := order.Challenge{Type: dcv.CNAME, Host: "_x.example.com", Value: "token.ca.example"}
	wantLook(t, w.looker(), c)
	c.Value = "another.ca.example"
	wantLook(t, w.looker(), c, "_x.example.com: ns1.example.com ("+s.addr+`) has CNAME "token.ca.example", not "another.ca.example"`)
}

func TestLookWithGivenServers(t *testing.T) {
	w := newWorld(t)
	a, b := w.server("example.com", "ns1.example.com", theTXT), w.server("example.com", "ns2.example.com")
	at := func(s *nameServer) string { return fmt.Sprintf("%s:%d", s.addr, w.port) }
	wantLook(t, newLooker(t, dcv.LookerConfig{Resolvers: []string{"127.0.0.1:1"}, Servers: []string{at(a)}}), txt(theName, "value"))
	wantLook(t, newLooker(t, dcv.LookerConfig{Resolvers: []string{"127.0.0.1:1"}, Servers: []string{at(a), at(b)}}), txt(theName, "value"),
		theName+": "+at(b)+" says that there is no such name")
}

func TestLookNeedsAResolver(t *testing.T) {
	w := newWorld(t)
	w.server("example.com", "ns1.example.com", theTXT)
	cfg := w.config()
	cfg.Resolvers = []string{"127.0.0.1:1"}
	if got, err := newLooker(t, cfg).Look(t.Context(), txt(theName, "value")); err == nil {
		t.Errorf("got %+v without a resolver, want an error", got)
	}
	cfg.Resolvers = append(cfg.Resolvers, w.resolverAddr()) // the second one answers
	wantLook(t, newLooker(t, cfg), txt(theName, "value"))
	w.resolver.set(func() { w.resolver.distort = func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure } })
	if got, err := newLooker(t, cfg).Look(t.Context(), txt(theName, "value")); err == nil || !strings.Contains(err.Error(), "SERVFAIL") {
		t.Errorf("got %+v, %v, want an error that says SERVFAIL", got, err)
	}
}

func TestLookEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	w.server("example.com", "ns1.example.com", theTXT)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := w.looker().Look(ctx, txt(theName, "value")); err == nil {
		t.Errorf("got %+v after the end, want an error", got)
	}
}

func TestLookRefusesBadInput(t *testing.T) {
	l := newLooker(t, dcv.LookerConfig{Resolvers: []string{"127.0.0.1:1"}})
	for _, c := range []order.Challenge{{Type: "EMAIL", Host: "example.com"}, {Type: dcv.TXT, Host: strings.Repeat("a", 70) + ".com"}, {Type: dcv.TXT, Host: "a..b"}} {
		if got, err := l.Look(t.Context(), c); err == nil {
			t.Errorf("%+v: got %+v, want an error", c, got)
		}
	}
	for _, addr := range []string{"127.0.0.1", "ns.example.com:", ":53", "x:0", "x:99999"} {
		if _, err := dcv.NewLooker(dcv.LookerConfig{Resolvers: []string{addr}}); err == nil {
			t.Errorf("resolver %q was taken", addr)
		}
	}
}
