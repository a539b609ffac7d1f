package issuertest

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

// flowParts are the parts of the contract that each flow must pass.
var flowParts = []struct {
	name string
	run  func(*testing.T, trial)
}{
	{"an order is issued", issued},
	{"submitting without a permit is impossible", needsPermit},
	{"a permit is given back unused", givesBack},
	{"throttled", faulty(Throttle, issuer.Throttled, 0)},
	{"reset after commit", faulty(ResetAfterCommit, issuer.UnknownOutcome, 1)},
	{"502 HTML", faulty(HTML502, issuer.UnknownOutcome, -1)},
	{"empty 200", faulty(Empty200, issuer.UnknownOutcome, -1)},
	{"stalled beyond the deadline", stalled},
	{"nobody listens", unreachable},
	{"wrong secret", wrongSecret},
	{"no quota", noQuota},
	{"stamp outside the fence", outsideFence},
	{"nothing to submit", nothingToSubmit},
	{"the materials are shown before the start", materialsShown},
	{"what follows another one says so", following},
}

// Submit prepares, reserves and submits.
func Submit(t *testing.T, f issuer.Flow, a issuer.Application, fence issuer.Fence) (issuer.Receipt, error) {
	t.Helper()
	if p, ok := f.(issuer.Preparer); ok {
		if err := p.Prepare(t.Context(), a); err != nil {
			return issuer.Receipt{}, fmt.Errorf("prepare: %w", err)
		}
	}
	return submitOnly(t, f, a, fence)
}

func submitOnly(t *testing.T, f issuer.Flow, a issuer.Application, fence issuer.Fence) (issuer.Receipt, error) {
	t.Helper()
	ctx, release, err := f.Reserve(t.Context())
	if err != nil {
		t.Fatalf("reserve: %v", err)
	}
	defer release()
	return f.Submit(ctx, a, fence)
}

// issued takes one order the whole way, each call as the worker makes it whose
// it is.
func issued(t *testing.T, s trial) {
	a := s.Application(t)
	witness := s.witnesses(t, a)
	receipt := s.start(t, a)
	witness()
	var status issuer.Status
	s.by(t, s.lookers(), func() { status = until(t, s, receipt.CloudID, issuer.Challenged) })
	checkChallenges(t, a, status.Challenges)
	checkShown(t, s, a, receipt.CloudID, status)
	s.by(t, verifier, func() {
		eventually(t, "listed as waiting", func() bool { return listed(t, s.flow.Waiting, receipt.CloudID) })
	})
	s.by(t, submitter, func() { found(t, s, a, receipt.CloudID) })
	for _, c := range status.Challenges {
		s.Place(t, c)
	}
	s.by(t, verifier, func() { status = finished(t, s, receipt.CloudID) })
	fetched(t, s, a, receipt.CloudID, status.CertID)
}

// start prepares and submits, and checks that all that was sent for it is
// documented as leading to an order.
func (s trial) start(t *testing.T, a issuer.Application) (receipt issuer.Receipt) {
	t.Helper()
	made := s.by(t, submitter, func() {
		var err error
		if receipt, err = Submit(t, s.flow, a, Fence()); err != nil {
			t.Fatal(err)
		}
	})
	for _, action := range made {
		if c, ok := s.calls.Find(action); !ok || !c.Starts {
			t.Errorf("%s was made to start an order, which the documented calls do not say", action)
		}
	}
	if receipt.CloudID == "" || receipt.RequestID == "" {
		t.Fatalf("receipt %+v", receipt)
	}
	if n := s.Submitted(t); n != 1 {
		t.Fatalf("the cloud has %d applications", n)
	}
	return receipt
}

// witnesses asks before an order starts what its product has left, and what is
// unused; what it returns asks again, and wants the one order as the difference.
func (s trial) witnesses(t *testing.T, a issuer.Application) (after func()) {
	t.Helper()
	c, counted := s.flow.(issuer.Counter)
	var before issuer.Usage
	if counted {
		before = s.usage(t, c, a.Product)
	}
	p, pooled := s.flow.(issuer.Pool)
	if pooled && !s.unused(t, p, a.Resource) {
		t.Errorf("%s is not listed as unused", a.Resource)
	}
	return func() {
		t.Helper()
		if counted {
			eventually(t, "the order is counted", func() bool { return s.usage(t, c, a.Product).Used == before.Used+1 })
		}
		if pooled {
			eventually(t, "not listed as unused", func() bool { return !s.unused(t, p, a.Resource) })
		}
	}
}

func (s trial) usage(t *testing.T, c issuer.Counter, product string) (u issuer.Usage) {
	t.Helper()
	began := time.Now()
	s.by(t, submitter, func() {
		var err error
		if u, err = c.Usage(t.Context(), product); err != nil || u.Read.Before(began) {
			t.Fatalf("usage %+v: %v", u, err)
		}
	})
	return u
}

func (s trial) unused(t *testing.T, p issuer.Pool, resource string) (is bool) {
	t.Helper()
	s.by(t, submitter, func() {
		rows, err := p.Unused(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		is = slices.ContainsFunc(rows, func(r issuer.Row) bool { return r.CloudID == resource })
	})
	return is
}

// finished waits until the order is issued.
func finished(t *testing.T, s trial, cloudID string) issuer.Status {
	t.Helper()
	if k, ok := s.flow.(issuer.Kicker); ok {
		if err := k.Kick(t.Context(), cloudID); err != nil {
			t.Errorf("kick: %v", err)
		}
	}
	status := until(t, s, cloudID, issuer.IssuedPhase)
	if status.Expires.IsZero() && status.Certificate == nil && !s.flow.Spends() {
		t.Error("nothing tells when the term of a started resource ends")
	}
	eventually(t, "no longer listed as waiting", func() bool { return !listed(t, s.flow.Waiting, cloudID) })
	return status
}

// fetched gets the certificate without and with its id.
func fetched(t *testing.T, s trial, a issuer.Application, cloudID, certID string) {
	t.Helper()
	if l, ok := s.flow.(issuer.CertLister); ok {
		s.by(t, verifier, func() { certID = listedCertificate(t, l, a.Names) })
	}
	fetch := func(id string) {
		c, err := s.flow.Fetch(t.Context(), cloudID, id)
		if err != nil {
			t.Fatalf("fetch with certificate id %q: %v", id, err)
		}
		checkCertificate(t, a, c)
	}
	comparers := []order.Role{order.Collector}
	if s.flow.Spends() { // submitters compare keys to know a lost order of theirs
		comparers = append(comparers, order.Submitter)
	}
	s.by(t, comparers, func() { fetch("") })
	s.by(t, []order.Role{order.Collector}, func() { fetch(certID) })
}

// listedCertificate is the id that the list of certificates has for the names.
func listedCertificate(t *testing.T, l issuer.CertLister, names []string) string {
	t.Helper()
	var id string
	eventually(t, "the certificate is listed", func() bool {
		for n, more := 0, true; more; n++ {
			p, err := l.Certificates(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range p.Rows {
				if r.CertID != "" && covers(r.Names, names) {
					id = r.CertID
				}
			}
			more = p.More
		}
		return id != ""
	})
	return id
}

// found asks Find and All for the order.
func found(t *testing.T, s trial, a issuer.Application, cloudID string) {
	t.Helper()
	if f, ok := s.flow.(issuer.Finder); ok {
		eventually(t, "found by its names", func() bool {
			rows, err := f.Find(t.Context(), a.Names)
			if err != nil {
				t.Fatal(err)
			}
			if len(rows) == 1 {
				checkWord(t, rows[0].Raw)
			}
			return len(rows) == 1 && rows[0].CloudID == cloudID
		})
		if rows, err := f.Find(t.Context(), a.Names[:0]); err != nil || len(rows) != 0 {
			t.Errorf("found %v, %v for no names", rows, err)
		}
		if rows, err := f.Find(t.Context(), []string{strings.TrimPrefix(a.Names[0], "*.") + "x"}); err != nil || len(rows) != 0 {
			t.Errorf("found %v, %v for another name", rows, err)
		}
	}
	if l, ok := s.flow.(issuer.AllLister); ok {
		eventually(t, "in the list of all", func() bool { return listed(t, l.All, cloudID) })
	}
}

func listed(t *testing.T, list func(context.Context, int) (issuer.Page, error), cloudID string) bool {
	t.Helper()
	for n, more := 0, true; more; n++ {
		p, err := list(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range p.Rows {
			if r.CloudID == cloudID {
				checkWord(t, r.Raw)
				return true
			}
		}
		more = p.More
	}
	return false
}

// until looks until the order is in the phase.
func until(t *testing.T, s trial, cloudID string, want issuer.Phase) issuer.Status {
	t.Helper()
	var st issuer.Status
	eventually(t, string(want), func() bool {
		var err error
		if st, err = s.flow.Look(t.Context(), cloudID); err != nil && !passes(err) {
			t.Fatalf("look: %v", err)
		}
		if err == nil && st.Phase == issuer.Refused {
			t.Fatalf("refused: %+v", st)
		}
		return err == nil && st.Phase == want
	})
	checkWord(t, st.Raw)
	return st
}

// checkWord wants a word for a state that a person can read: no bare number.
func checkWord(t *testing.T, raw string) {
	t.Helper()
	if issuer.Word(raw) != raw {
		t.Errorf("the state %q is no word", raw)
	}
}

// passes tells errors that a caller waits out: an order that was just made may
// not be known yet.
func passes(err error) bool {
	k := issuer.KindOf(err)
	return k == issuer.Throttled || k == issuer.Unavailable || k == issuer.NotFound
}

func checkChallenges(t *testing.T, a issuer.Application, all []order.Challenge) {
	t.Helper()
	for _, c := range all {
		base := strings.TrimPrefix(c.Name, "*.")
		switch {
		case base == "" || c.Host == "" || c.Value == "" || strings.HasSuffix(c.Host, "."):
			t.Errorf("challenge %+v", c)
		case c.Type == "FILE" && !strings.HasPrefix(c.Path, "/"):
			t.Errorf("path of %+v", c)
		case c.Type != "FILE" && c.Type != "TXT" && c.Type != "CNAME":
			t.Errorf("type of %+v", c)
		case !within(c.Host, a.Names):
			t.Errorf("host of %+v is not absolute", c)
		}
	}
	if len(all) == 0 {
		t.Error("no challenges")
	}
}

// checkShown compares what the cloud shows of a started resource: whoever started
// it must see whether it is theirs. What an order that spends shows is compared
// where it shows any.
func checkShown(t *testing.T, s trial, a issuer.Application, cloudID string, st issuer.Status) {
	t.Helper()
	n, namer := s.flow.(issuer.Namer)
	if namer && len(st.Names) == 0 {
		s.by(t, submitter, func() {
			eventually(t, "the names are shown", func() bool {
				var err error
				if st.Names, err = n.Names(t.Context(), cloudID); err != nil {
					t.Fatal(err)
				}
				return len(st.Names) > 0
			})
		})
	}
	if (len(st.Names) > 0 || !s.flow.Spends()) && !(covers(st.Names, a.Names) && covers(a.Names, st.Names)) {
		t.Errorf("it is shown for %q, applied for were %q", st.Names, a.Names)
	}
	if st.CSR != "" && a.CSR != "" && st.CSR != a.CSR {
		t.Error("another CSR is shown than was handed in")
	}
}

// materialsShown looks between Prepare and Submit.
func materialsShown(t *testing.T, s trial) {
	p, ok := s.flow.(issuer.Preparer)
	if !ok {
		t.Skip("it needs no materials")
	}
	a := s.Application(t)
	if err := p.Prepare(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	s.by(t, submitter, func() {
		st := until(t, s, a.Resource, issuer.Unstarted)
		if !st.Submitted || a.CSR != "" && st.CSR == "" {
			t.Errorf("with the materials in: submitted %v, CSR %q", st.Submitted, st.CSR)
		}
		checkShown(t, s, a, a.Resource, st)
	})
	if n := s.Submitted(t); n != 0 {
		t.Errorf("the materials made %d applications", n)
	}
}

// following: it is never taken for one that anybody may have.
func following(t *testing.T, s trial) {
	p, pooled := s.flow.(issuer.Pool)
	if s.Following == nil || !pooled {
		t.Skip("there is no such thing")
	}
	resource, origin := s.Following(t)
	eventually(t, "listed as unused, with what it follows", func() bool {
		rows, err := p.Unused(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(rows, func(r issuer.Row) bool { return r.CloudID == resource && r.Origin == origin })
	})
}

// within tells whether host lies in the zone of one of the names; a zone has at
// least two labels.
func within(host string, names []string) bool {
	for _, n := range names {
		labels := strings.Split(strings.TrimPrefix(n, "*."), ".")
		zone := strings.Join(labels[max(0, len(labels)-2):], ".")
		if host == zone || strings.HasSuffix(host, "."+zone) {
			return true
		}
	}
	return false
}

func checkCertificate(t *testing.T, a issuer.Application, c issuer.Certificate) {
	t.Helper()
	block, _ := pem.Decode([]byte(c.Chain))
	if block == nil {
		t.Fatalf("chain is no PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range a.Names {
		if !covers(leaf.DNSNames, []string{n}) {
			t.Errorf("certificate is for %v, ordered %v", leaf.DNSNames, a.Names)
		}
	}
	if a.CSR == "" {
		if _, err := tls.X509KeyPair([]byte(c.Chain), []byte(c.Key.Reveal())); err != nil {
			t.Errorf("key of the cloud: %v", err)
		}
		return
	}
	request, _ := pem.Decode([]byte(a.CSR))
	csr, err := x509.ParseCertificateRequest(request.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !csr.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(leaf.PublicKey) {
		t.Error("certificate is for another key")
	}
}

func covers(have, want []string) bool {
	set := map[string]bool{}
	for _, n := range have {
		set[strings.ToLower(n)] = true
	}
	for _, n := range want {
		if !set[n] {
			return false
		}
	}
	return len(want) > 0
}

func needsPermit(t *testing.T, s trial) {
	a := s.Application(t)
	_, err := s.flow.Submit(t.Context(), a, Fence())
	s.want(t, err, issuer.NeverSent)
	if !errors.Is(err, permit.ErrNoPermit) {
		t.Errorf("error %v does not say that the permit is missing", err)
	}
	ctx, release, err := s.flow.Reserve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release()
	_, err = s.flow.Submit(ctx, a, Fence()) // with one that was given back
	s.want(t, err, issuer.NeverSent)
	if n := s.Calls(t)[s.flow.Action()]; n != 0 {
		t.Errorf("%d calls reached the cloud", n)
	}
}

// givesBack reserves far more often than there are permits.
func givesBack(t *testing.T, s trial) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 25 {
		_, release, err := s.flow.Reserve(ctx)
		if err != nil {
			t.Fatal(err)
		}
		release()
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, _, err := s.flow.Reserve(ctx)
	s.want(t, err, issuer.NeverSent)
}

// faulty submits once into a fault. committed is how many applications the
// cloud then has, -1 if it may be either.
func faulty(f Fault, want issuer.Kind, committed int) func(*testing.T, trial) {
	return func(t *testing.T, s trial) {
		a := s.Application(t)
		prepare(t, s, a)
		s.Fault(t, s.flow.Action(), f)
		_, err := submitOnly(t, s.flow, a, Fence())
		s.want(t, err, want)
		if n := s.Submitted(t); committed >= 0 && n != committed {
			t.Errorf("the cloud has %d applications, want %d", n, committed)
		}
		if n := s.Calls(t)[s.flow.Action()]; n != 1 {
			t.Errorf("%d calls reached the cloud, want 1", n)
		}
	}
}

func prepare(t *testing.T, s trial, a issuer.Application) {
	t.Helper()
	if p, ok := s.flow.(issuer.Preparer); ok {
		if err := p.Prepare(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
}

func stalled(t *testing.T, s trial) {
	start := time.Now()
	faulty(Stall, issuer.UnknownOutcome, -1)(t, s)
	if d := time.Since(start); d < s.Deadline || d > s.Deadline+5*time.Second {
		t.Errorf("returned after %v, the deadline is %v", d, s.Deadline)
	}
}

func unreachable(t *testing.T, s trial) {
	f := flowOf(t, s.open(t, nobodyListens), s.Action)
	_, err := submitOnly(t, f, s.Application(t), Fence())
	s.want(t, err, issuer.NeverSent)
	_, err = f.Look(t.Context(), "1")
	s.want(t, err, issuer.NeverSent)
}

func wrongSecret(t *testing.T, s trial) {
	f := flowOf(t, s.open(t, secretIsWrong), s.Action)
	_, err := submitOnly(t, f, s.Application(t), Fence())
	s.want(t, err, issuer.Credentials)
	_, err = f.Look(t.Context(), "1")
	s.want(t, err, issuer.Credentials)
	if n := s.Submitted(t); n != 0 {
		t.Errorf("the cloud has %d applications", n)
	}
}

func noQuota(t *testing.T, s trial) {
	if s.Exhausted == nil != !s.flow.Spends() {
		t.Fatalf("Submit spends: %v, and there is an application without quota: %v", s.flow.Spends(), s.Exhausted != nil)
	}
	if s.Exhausted == nil {
		return
	}
	a := s.Exhausted(t)
	before := s.Submitted(t)
	_, err := submitOnly(t, s.flow, a, Fence())
	s.want(t, err, issuer.QuotaExhausted)
	if n := s.Submitted(t); n != before {
		t.Errorf("the cloud has %d applications more", n-before)
	}
}

func outsideFence(t *testing.T, s trial) {
	now := time.Now()
	for _, f := range []issuer.Fence{
		{NotBefore: now.Add(30 * time.Second), NotAfter: now.Add(time.Minute)},
		{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(-5 * time.Second)},
		{},
	} {
		_, err := submitOnly(t, s.flow, s.Application(t), f)
		s.want(t, err, issuer.NeverSent)
		if !errors.Is(err, issuer.ErrOutsideFence) {
			t.Errorf("error %v does not say why", err)
		}
	}
	if n := s.Calls(t)[s.flow.Action()]; n != 0 {
		t.Errorf("%d calls reached the cloud", n)
	}
}

func nothingToSubmit(t *testing.T, s trial) {
	_, err := submitOnly(t, s.flow, issuer.Application{OrderID: "empty"}, Fence())
	s.want(t, err, issuer.Rejected)
	if n := s.Calls(t)[s.flow.Action()]; n != 0 {
		t.Errorf("%d calls reached the cloud", n)
	}
}
