package preflight

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
)

// hosted are the zones of a solver.
type hosted []string

func (h hosted) Zone(_ context.Context, host string) (string, error) {
	all := map[string]bool{}
	for _, z := range h {
		all[z] = true
	}
	if zone, _, ok := dcv.Split(host, all); ok {
		return zone, nil
	}
	return "", fmt.Errorf("%w: %s", dcv.NoZone, host)
}

func subject(names ...string) Subject {
	return Subject{Order: "o-1", Names: names, Product: issuer.Product{Code: "symantec-dv-1-starter", CA: issuer.DigiCert}, Records: true, Account: "ali"}
}

// only returns the single finding, or fails.
func only(t *testing.T, found []Finding) Finding {
	t.Helper()
	if found = Group(found); len(found) != 1 {
		t.Fatalf("%d findings, want one: %+v", len(found), found)
	}
	if found[0].Do == "" || len(found[0].Orders) == 0 || found[0].Example == "" {
		t.Errorf("what to do, for whom? %+v", found[0])
	}
	return found[0]
}

func TestNothingIsFound(t *testing.T) {
	w := newWorld(t)
	w.zone("example.cn", `example.cn CAA 0 issue "DigiCert.com; account=7"`, "www.example.cn A 192.0.2.1")
	s := subject("www.example.cn", "*.example.cn", "not.there.example.cn")
	s.Zones = hosted{"example.cn"}
	if found := w.checker().Check(t.Context(), []Subject{s}); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

func TestCAA(t *testing.T) {
	w := newWorld(t)
	cases := []struct{ records, name, want, do string }{
		{`Z CAA 0 issue "letsencrypt.org"`, "a.Z", "CAA of Z forbids digicert.com", `add 0 issue "digicert.com" to it, or order another brand; it allows letsencrypt.org`},
		{`Z CAA 0 issue ";"`, "Z", "CAA of Z forbids digicert.com", "it allows nobody"},
		{`Z CAA 0 issue ""`, "Z", "CAA of Z forbids digicert.com", "it allows nobody"},
		{`Z CAA 0 issue "digi cert.com"`, "Z", "CAA of Z forbids digicert.com", "it allows nobody"},
		{`Z CAA 0 issue "letsencrypt.org"|Z CAA 0 issue "geotrust.com"`, "a.b.c.Z", "", ""},
		{`Z CAA 0 issue "digicert.com"|Z CAA 0 issuewild ";"`, "a.Z", "", ""},
		{`Z CAA 0 issue "digicert.com"|Z CAA 0 issuewild ";"`, "*.a.Z", "CAA of Z forbids digicert.com for wildcards", `add 0 issuewild "digicert.com"`},
		{`Z CAA 0 issue ";"|Z CAA 0 issuewild "digicert.com"`, "*.Z", "", ""},
		{`Z CAA 0 issue ";"|Z CAA 0 issuewild "digicert.com"`, "Z", "CAA of Z forbids digicert.com", ""},
		{`Z CAA 0 iodef "mailto:pki@example.com"`, "Z", "", ""},
		{`Z CAA 0 issuewild "letsencrypt.org"`, "a.Z", "", ""},
		{`Z CAA 128 tbs "x"|Z CAA 0 issue "digicert.com"`, "Z", `CAA of Z has the critical property "tbs"`, "critical flag"},
		{`Z CAA 0 tbs "x"|Z CAA 128 ISSUE "digicert.com"`, "Z", "", ""},
		{`Z CAA 0 issue "letsencrypt.org"|a.Z CAA 0 issue "digicert.com"`, "b.a.Z", "", ""},
		{`Z CAA 0 issue "digicert.com"|a.Z CAA 0 issue "letsencrypt.org"`, "a.Z", "CAA of a.Z forbids digicert.com", ""},
		{`Z CAA 0 issue "digicert.com"|a.Z CAA 0 issue "letsencrypt.org"`, "*.a.Z", "CAA of a.Z forbids digicert.com", "0 issue"},
		{`Z CAA 0 issue "digicert.com"|a.Z CNAME pages.hoster.net`, "a.Z", "CAA of pages.hoster.net, where a CNAME leads, forbids digicert.com", "it allows letsencrypt.org"},
		{`Z CAA 0 issue "digicert.com"|a.Z CNAME plain.hoster.net`, "a.Z", "", ""},
	}
	w.zone("hoster.net", `pages.hoster.net CAA 0 issue "letsencrypt.org"`, "plain.hoster.net A 192.0.2.1")
	one := w.zone("shop0.cn")
	for i, c := range cases {
		zone := fmt.Sprintf("shop%d.cn", i)
		records := strings.Split(strings.ReplaceAll(c.records, "Z ", zone+" 60 IN "), "|")
		one.zones[dns.Fqdn(zone)] = parse(t, append([]string{zone + " 60 IN SOA ns.shop0.cn a.shop0.cn 1 2 3 4 5", zone + " 60 IN NS ns.shop0.cn"}, records...)...)
		w.publish(one, zone)
	}
	w.publish(one, "shop0.cn")
	w.resolver.zones["shop0.cn."] = append(w.resolver.zones["shop0.cn."], parse(t, "ns.shop0.cn 60 IN A "+one.addr)...)
	checker := w.checker()
	for i, c := range cases {
		in := func(s string) string { return strings.ReplaceAll(s, "Z", fmt.Sprintf("shop%d.cn", i)) }
		t.Run(c.records+" "+c.name, func(t *testing.T) {
			found := checker.Check(t.Context(), []Subject{subject(in(c.name))})
			if c.want == "" {
				if len(found) > 0 {
					t.Errorf("found %+v", found)
				}
				return
			}
			if f := only(t, found); f.Level != Error || f.Kind != CAA || !strings.HasPrefix(f.What, in(c.want)) || !strings.Contains(f.Do, in(c.do)) {
				t.Errorf("%+v", f)
			}
		})
	}
}

// TestUnknownBrand: a product whose CA is not known is only warned of, unless
// nobody may issue.
func TestUnknownBrand(t *testing.T) {
	w := newWorld(t)
	w.zone("some.cn", `some.cn CAA 0 issue "letsencrypt.org"`, `some.cn CAA 0 issue "a.example"`)
	w.zone("nobody.cn", `nobody.cn CAA 0 issue ";"`)
	w.zone("open.cn")
	s := subject("some.cn")
	s.Product = issuer.Product{}
	checker := w.checker()
	f := only(t, checker.Check(t.Context(), []Subject{s}))
	if f.Level != Warning || f.What != "CAA of some.cn allows only a.example, letsencrypt.org, and which CA issues the account's certificates is not known" {
		t.Errorf("%+v", f)
	}
	s.Product.Code = "other-dv"
	if f := only(t, checker.Check(t.Context(), []Subject{s})); f.Level != Warning || !strings.HasSuffix(f.What, "and which CA issues product other-dv is not known") {
		t.Errorf("%+v", f)
	}
	s.Names = []string{"nobody.cn"}
	if f := only(t, checker.Check(t.Context(), []Subject{s})); f.Level != Error || f.What != "CAA of nobody.cn forbids every CA" {
		t.Errorf("%+v", f)
	}
	s.Product.CA = issuer.CA{Name: "CFCA", Identities: []string{"cfca.com.cn"}, Unread: true} // known, but not for certain
	s.Names = []string{"some.cn"}
	if f := only(t, checker.Check(t.Context(), []Subject{s})); f.Level != Warning || f.What != "CAA of some.cn seems to forbid cfca.com.cn" {
		t.Errorf("%+v", f)
	}
	s.Names = []string{"nobody.cn"}
	if f := only(t, checker.Check(t.Context(), []Subject{s})); f.Level != Error || f.What != "CAA of nobody.cn forbids cfca.com.cn" {
		t.Errorf("%+v", f)
	}
	s.Names = []string{"open.cn"}
	if found := checker.Check(t.Context(), []Subject{s}); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

func TestDNSSEC(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	cases := []struct {
		zone, want string
		make       func(s *nameServer, zone string, k signer)
	}{
		{"good.cn", "", func(s *nameServer, zone string, k signer) {
			w.sign(s, zone, k, k.key.ToDS(dns.SHA256), now.Add(-time.Hour), now.Add(time.Hour))
		}},
		{"expired.cn", "the signature of its SOA expired on ", func(s *nameServer, zone string, k signer) {
			w.sign(s, zone, k, k.key.ToDS(dns.SHA256), now.Add(-48*time.Hour), now.Add(-time.Hour))
		}},
		{"early.cn", "the signature of its SOA holds only from ", func(s *nameServer, zone string, k signer) {
			w.sign(s, zone, k, k.key.ToDS(dns.SHA256), now.Add(time.Hour), now.Add(48*time.Hour))
		}},
		{"otherds.cn", "no key matches the DS at the parent", func(s *nameServer, zone string, k signer) {
			w.sign(s, zone, k, newSigner(t, zone).key.ToDS(dns.SHA256), now.Add(-time.Hour), now.Add(time.Hour))
		}},
		{"unsigned.cn", "its SOA is not signed by a key", func(s *nameServer, zone string, k signer) {
			w.sign(s, zone, k, k.key.ToDS(dns.SHA256), now.Add(-time.Hour), now.Add(time.Hour))
			drop(s, zone, func(rr dns.RR) bool { sig, is := rr.(*dns.RRSIG); return is && sig.TypeCovered == dns.TypeSOA })
		}},
		{"keyless.cn", "the parent has a DS (key tag ", func(s *nameServer, zone string, k signer) {
			w.sign(s, zone, k, k.key.ToDS(dns.SHA256), now.Add(-time.Hour), now.Add(time.Hour))
			drop(s, zone, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeDNSKEY })
		}},
		{"forged.cn", "the signature of its SOA does not verify", func(s *nameServer, zone string, k signer) {
			w.sign(s, zone, k, k.key.ToDS(dns.SHA256), now.Add(-time.Hour), now.Add(time.Hour))
			s.zones[dns.Fqdn(zone)][0] = parse(t, zone+" 60 IN SOA ns."+zone+" a."+zone+" 2 3600 600 86400 60")[0]
		}},
		{"exotic.cn", "", func(s *nameServer, zone string, k signer) { // an algorithm that nobody knows: not signed
			ds := k.key.ToDS(dns.SHA256)
			ds.Algorithm = 200
			w.resolver.zones[dns.Fqdn(zone)] = append(w.resolver.zones[dns.Fqdn(zone)], ds)
		}},
		{"above.cn", "the resolver's validation refuses its SOA (Signature Expired)", func(s *nameServer, zone string, k signer) {
			w.sign(s, zone, k, k.key.ToDS(dns.SHA256), now.Add(-time.Hour), now.Add(time.Hour))
			w.resolver.bogus[dns.Fqdn(zone)] = true
		}},
		{"nods.cn", "", func(s *nameServer, zone string, k signer) { // signed, and nobody trusts it: not signed
			s.zones[dns.Fqdn(zone)] = append(s.zones[dns.Fqdn(zone)], k.key)
		}},
	}
	var all []Subject
	for _, c := range cases {
		c.make(w.zone(c.zone), c.zone, newSigner(t, c.zone))
		all = append(all, subject("www."+c.zone))
	}
	checker := w.checker()
	for i, c := range cases {
		t.Run(c.zone, func(t *testing.T) {
			found := checker.Check(t.Context(), all[i:i+1])
			if c.want == "" {
				if len(found) > 0 {
					t.Errorf("%+v", found)
				}
				return
			}
			found = kind(found, DNSSEC, c.zone)
			if f := only(t, found); f.Level != Error || !strings.HasPrefix(f.What, "DNSSEC of "+c.zone+" is broken: "+c.want) {
				t.Errorf("%+v", f)
			}
		})
	}
}

// kind leaves out what the CAA lookup of a held-back zone says besides.
func kind(found []Finding, k Kind, zone string) []Finding {
	var all []Finding
	for _, f := range found {
		if f.Kind == k && !strings.Contains(f.What, "its CAA") {
			all = append(all, f)
		}
	}
	return all
}

func drop(s *nameServer, zone string, gone func(dns.RR) bool) {
	var left []dns.RR
	for _, rr := range s.zones[dns.Fqdn(zone)] {
		if !gone(rr) {
			left = append(left, rr)
		}
	}
	s.zones[dns.Fqdn(zone)] = left
}

// TestOneStaleServer: one server of two is enough to break a zone, and is named.
func TestOneStaleServer(t *testing.T) {
	w := newWorld(t)
	s, k, now := w.zone("pair.cn"), newSigner(t, "pair.cn"), time.Now()
	stale, err := w.start()
	if err != nil {
		t.Fatal(err)
	}
	extra := parse(t, "pair.cn 60 IN NS ns2.pair.cn", "ns2.pair.cn 60 IN A "+stale.addr)
	s.zones["pair.cn."] = append(s.zones["pair.cn."], extra...)
	stale.zones["pair.cn."] = append([]dns.RR{}, s.zones["pair.cn."]...)
	w.sign(s, "pair.cn", k, k.key.ToDS(dns.SHA256), now.Add(-time.Hour), now.Add(time.Hour))
	f := only(t, w.checker().Check(t.Context(), []Subject{subject("pair.cn")}))
	if !strings.Contains(f.What, "the zone has no DNSKEY (at ns2.pair.cn ("+stale.addr+"))") {
		t.Errorf("%+v", f)
	}
}

func TestZones(t *testing.T) {
	w := newWorld(t)
	parent := w.zone("corp.cn", "_dnsauth.moved.corp.cn CNAME proofs.dns.net", "_dnsauth.lost.corp.cn CNAME x.foreign.net",
		"_dnsauth.loop.corp.cn CNAME _dnsauth.pool.corp.cn", "_dnsauth.pool.corp.cn CNAME _dnsauth.loop.corp.cn")
	w.zone("dns.net")
	w.zone("foreign.net")
	w.zone("sub.corp.cn")
	w.delegate(parent, "corp.cn", "sub.corp.cn")
	cases := []struct {
		name, want string
		kind       Kind
		zones      hosted
	}{
		{"www.corp.cn", "", "", hosted{"corp.cn"}},
		{"*.corp.cn", "", "", hosted{"corp.cn"}},
		{"www.corp.cn", "no solver of account ali has the zone corp.cn", ZoneAbsent, hosted{"dns.net"}},
		{"moved.corp.cn", "", "", hosted{"dns.net"}},
		{"moved.corp.cn", "CNAMEs of _dnsauth.… in corp.cn lead to dns.net, a zone that no solver of account ali has", InTheWay, hosted{"corp.cn"}},
		{"lost.corp.cn", "CNAMEs of _dnsauth.… in corp.cn lead to foreign.net, a zone that no solver of account ali has", InTheWay, hosted{"corp.cn", "dns.net"}},
		{"loop.corp.cn", "CNAMEs of _dnsauth.… in corp.cn do not end", InTheWay, hosted{"corp.cn"}},
		{"a.sub.corp.cn", "sub.corp.cn is delegated away from corp.cn, the zone that account ali has", ZoneAbsent, hosted{"corp.cn"}},
		{"a.sub.corp.cn", "", "", hosted{"corp.cn", "sub.corp.cn"}},
		{"nowhere-at-all.cn", "the domain nowhere-at-all.cn does not exist", NoDomain, hosted{"corp.cn"}},
		{"co.uk", "co.uk is a public suffix", Suffix, nil},
		{"*.com.cn", "*.com.cn covers a public suffix", Suffix, nil},
	}
	for _, c := range cases {
		t.Run(c.name+strings.Join(c.zones, " "), func(t *testing.T) {
			s := subject(c.name)
			s.Zones = c.zones
			found := w.checker().Check(t.Context(), []Subject{s})
			if c.want == "" {
				if len(found) > 0 {
					t.Errorf("%+v", found)
				}
				return
			}
			if f := only(t, found); f.Level != Error || f.Kind != c.kind || !strings.HasPrefix(f.What, c.want) {
				t.Errorf("%+v", f)
			}
		})
	}
	t.Run("files need no zone", func(t *testing.T) {
		s := subject("www.corp.cn")
		s.Records, s.Zones = false, hosted{"dns.net"}
		if found := w.checker().Check(t.Context(), []Subject{s}); len(found) > 0 {
			t.Errorf("%+v", found)
		}
	})
	t.Run("nobody is asked for the challenge but the zone's servers", func(t *testing.T) {
		for what := range w.resolver.questions() {
			if strings.HasPrefix(what, "_dnsauth.") {
				t.Errorf("the resolver was asked for %s", what)
			}
		}
	})
}

// TestUnseen: what cannot be looked at is a warning that says why; nothing is
// concluded from it.
func TestUnseen(t *testing.T) {
	w := newWorld(t)
	w.zone("dead.cn")
	w.resolver.codes["dead.cn. SOA"] = dns.RcodeServerFailure
	w.zone("odd.cn")
	w.resolver.codes["odd.cn. CAA"] = dns.RcodeNotImplemented
	down := w.zone("down.cn")
	down.codes["_dnsauth.down.cn. CNAME"] = dns.RcodeRefused
	for name, want := range map[string]string{
		"dead.cn": "DNS of dead.cn could not be looked at: the resolver answers SERVFAIL for dead.cn",
		"odd.cn":  "CAA of odd.cn could not be looked at: the resolver answers NOTIMP for CAA of odd.cn",
		"down.cn": "the challenge's place in down.cn could not be looked at: ns.down.cn (" + down.addr + ") answers REFUSED",
	} {
		if f := only(t, w.checker().Check(t.Context(), []Subject{subject(name)})); f.Level != Warning || f.Kind != Unseen || f.What != want {
			t.Errorf("%+v, want %q", f, want)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if f := only(t, w.checker().Check(ctx, []Subject{subject("dead.cn")})); f.What != timeUp.What {
		t.Errorf("%+v", f)
	}
}

func TestSilentResolver(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0") // takes queries, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	looker, err := dcv.NewLooker(dcv.LookerConfig{Resolvers: []string{l.LocalAddr().String()}, Timeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	found := New(looker).Check(t.Context(), []Subject{subject("a.example.cn"), subject("b.example.cn")})
	if f := only(t, found); f.Level != Warning || !strings.Contains(f.What, "does not answer for example.cn") {
		t.Errorf("%+v", f)
	}
}

// TestManyOrders: 2,000 orders of one zone ask for what concerns the zone once.
func TestManyOrders(t *testing.T) {
	w := newWorld(t)
	s := w.zone("bulk.cn", `bulk.cn CAA 0 issue "letsencrypt.org"`)
	k := newSigner(t, "bulk.cn")
	w.sign(s, "bulk.cn", k, k.key.ToDS(dns.SHA256), time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	var all []Subject
	for i := range 2000 {
		one := subject(fmt.Sprintf("h%d.bulk.cn", i))
		one.Order, one.Zones = fmt.Sprint("o-", i), hosted{"bulk.cn"}
		all = append(all, one)
	}
	f := only(t, w.checker().Check(t.Context(), all))
	if len(f.Orders) != 2000 || f.Orders[0] != "o-0" || f.Orders[1999] != "o-1999" || f.What != "CAA of bulk.cn forbids digicert.com" {
		t.Errorf("%d orders: %s", len(f.Orders), f.What)
	}
	for what, most := range map[string]int{"bulk.cn. SOA": 2, "bulk.cn. DS": 1, "bulk.cn. NS": 1, "bulk.cn. CAA": 1} {
		if n := w.resolver.questions()[what]; n == 0 || n > most {
			t.Errorf("the resolver was asked %d times for %s", n, what)
		}
	}
	if n := s.questions()["bulk.cn. DNSKEY"]; n != 1 {
		t.Errorf("the zone was asked %d times for its keys", n)
	}
}

func TestGroup(t *testing.T) {
	f := func(l Level, k Kind, what string, ids ...string) Finding {
		return Finding{Level: l, Kind: k, What: what, Orders: ids}
	}
	got := Group([]Finding{f(Warning, Words, "w", "1"), f(Warning, Words, "w", "2"), f(Warning, Words, "w", "3"), f(Error, CAA, "c", "1"), f(Error, CAA, "c", "1"),
		f(Error, DNSSEC, "d", "2"), f(Error, DNSSEC, "d", "3"), f(Advice, Packing, "p", "1", "2", "3", "4")})
	var lines []string
	for _, g := range got {
		lines = append(lines, fmt.Sprintf("%s %s %v", g.Level, g.What, g.Orders))
	}
	want := "error d [2 3]\nerror c [1]\nwarning w [1 2 3]\nadvice p [1 2 3 4]"
	if s := strings.Join(lines, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
}
