package rfc2136

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
)

// roomy is how many bytes of records an update carries, about; a message over
// TCP has 64 KiB.
const roomy = 32 << 10

// errStands: a prerequisite does not hold, so the server has changed nothing.
var errStands = errors.New("something stands at the name")

// Add implements dcv.Provider.
func (s *server) Add(ctx context.Context, zone string, r dcv.Record) error {
	for range 3 { // others come and go at the name meanwhile
		err := s.addFresh(ctx, zone, []dcv.Record{r})
		if !errors.Is(err, errStands) {
			return err
		}
		if r.Type != dcv.TXT {
			return fmt.Errorf("%w: %w", dcv.Refused, err)
		}
		if err = s.addBeside(ctx, zone, r); !errors.Is(err, errStands) {
			return err
		}
	}
	return fmt.Errorf("the records at %s change all the time", absolute(zone, r.RR))
}

// AddAll implements dcv.Batcher. TXT records go together; if a prerequisite of
// one does not hold, nothing was added, and the halves are tried.
func (s *server) AddAll(ctx context.Context, zone string, rs []dcv.Record) func() []error {
	return dcv.Known(s.addAll(ctx, zone, rs))
}

func (s *server) addAll(ctx context.Context, zone string, rs []dcv.Record) []error {
	if len(rs) == 1 {
		return []error{s.Add(ctx, zone, rs[0])}
	}
	for _, r := range rs {
		if r.Type != dcv.TXT { // it may exclude another of these
			return dcv.Each(rs, func(r dcv.Record) error { return s.Add(ctx, zone, r) })
		}
	}
	n := fitting(zone, rs)
	if n == len(rs) {
		err := s.addFresh(ctx, zone, rs)
		if !errors.Is(err, errStands) {
			return same(rs, err)
		}
		n = len(rs) / 2
	}
	return append(s.addAll(ctx, zone, rs[:n]), s.addAll(ctx, zone, rs[n:])...)
}

// addFresh adds records at names that have none of these types.
func (s *server) addFresh(ctx context.Context, zone string, rs []dcv.Record) error {
	u := newUpdate(zone)
	for _, r := range rs {
		rr := wire(zone, r, dcv.TTL)
		if r.Type == dcv.CNAME {
			u.NameNotUsed([]dns.RR{rr})
		} else {
			u.RRsetNotUsed([]dns.RR{rr, wire(zone, dcv.Record{RR: r.RR, Type: dcv.CNAME, Value: "."}, 0)})
		}
		u.Insert([]dns.RR{rr})
	}
	return s.update(ctx, u)
}

// addBeside adds a TXT record to those at its name, with their time to live.
func (s *server) addBeside(ctx context.Context, zone string, r dcv.Record) error {
	m, err := s.query(ctx, absolute(zone, r.RR), dns.TypeTXT)
	if err != nil {
		return err
	}
	var ttl uint32
	for _, rr := range m.Answer {
		if found := shown(r.RR, rr); found.Type == dcv.CNAME {
			return fmt.Errorf("%w: a CNAME stands at the name", dcv.Refused)
		} else if found.Type == dcv.TXT {
			ttl = rr.Header().Ttl
			if found.Value == r.Value {
				return nil
			}
		}
	}
	rr := wire(zone, r, ttl)
	u := newUpdate(zone)
	u.RRsetUsed([]dns.RR{rr})
	u.Insert([]dns.RR{rr})
	return s.update(ctx, u)
}

// Delete implements dcv.Provider.
func (s *server) Delete(ctx context.Context, zone string, r dcv.Record) error {
	return s.deleteAll(ctx, zone, []dcv.Record{r})[0]
}

// DeleteAll implements dcv.Batcher.
func (s *server) DeleteAll(ctx context.Context, zone string, rs []dcv.Record) func() []error {
	return dcv.Known(s.deleteAll(ctx, zone, rs))
}

func (s *server) deleteAll(ctx context.Context, zone string, rs []dcv.Record) []error {
	if n := fitting(zone, rs); n < len(rs) {
		return append(s.deleteAll(ctx, zone, rs[:n]), s.deleteAll(ctx, zone, rs[n:])...)
	}
	u := newUpdate(zone)
	for _, r := range rs {
		u.Remove([]dns.RR{wire(zone, r, 0)})
	}
	return same(rs, s.update(ctx, u))
}

func newUpdate(zone string) *dns.Msg {
	u := new(dns.Msg)
	u.SetUpdate(dns.Fqdn(zone))
	u.Compress = true
	return u
}

// update sends an update, which the server does as a whole or not at all
// (RFC 2136, 3.7).
func (s *server) update(ctx context.Context, u *dns.Msg) error {
	a, err := s.exchange(ctx, u)
	if err != nil {
		return err
	}
	zone := u.Question[0].Name
	switch a.Rcode {
	case dns.RcodeSuccess:
		return nil
	case dns.RcodeYXDomain, dns.RcodeYXRrset, dns.RcodeNXRrset:
		return errStands
	case dns.RcodeRefused:
		return fmt.Errorf("%w: server %s refuses the update of %s; let its policy for the key %s allow TXT and CNAME there", dcv.Denied, s.addr, zone, s.key)
	case dns.RcodeNotImplemented:
		return fmt.Errorf("%w: server %s takes no updates of %s; name the primary server, and let it allow them", dcv.Denied, s.addr, zone)
	case dns.RcodeNotZone:
		return fmt.Errorf("%w: server %s says that the name is not in %s", dcv.NoZone, s.addr, zone)
	}
	return fmt.Errorf("server %s answers %s to the update of %s", s.addr, dns.RcodeToString[a.Rcode], zone)
}

// fitting tells how many of the records one update carries, at least one.
func fitting(zone string, rs []dcv.Record) int {
	room := roomy
	for i, r := range rs {
		room -= 3*len(absolute(zone, r.RR)) + len(r.Value) + 64 // prerequisites, headers
		if room < 0 && i > 0 {
			return i
		}
	}
	return len(rs)
}

// wire is a record as it travels: a text in strings of 255 bytes, so that it is
// found again in the same form.
func wire(zone string, r dcv.Record, ttl uint32) dns.RR {
	hdr := dns.RR_Header{Name: absolute(zone, r.RR), Rrtype: dns.StringToType[r.Type], Class: dns.ClassINET, Ttl: ttl}
	if r.Type == dcv.CNAME {
		return &dns.CNAME{Hdr: hdr, Target: dns.Fqdn(r.Value)}
	}
	t := &dns.TXT{Hdr: hdr}
	for rest := r.Value; rest != ""; {
		n := min(len(rest), 255)
		t.Txt = append(t.Txt, strings.ReplaceAll(rest[:n], `\`, `\\`)) // the library reads escapes
		rest = rest[n:]
	}
	return t
}

func same(rs []dcv.Record, err error) []error {
	outcomes := make([]error, len(rs))
	for i := range outcomes {
		outcomes[i] = err
	}
	return outcomes
}
