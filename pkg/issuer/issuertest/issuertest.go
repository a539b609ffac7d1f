// Package issuertest is the contract that every flow of package issuer must
// pass, against a simulated cloud, and what its tests need to look at the wire.
package issuertest

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

// Fault is what goes wrong with one call.
type Fault string

const (
	Throttle         Fault = "throttle"           // refused by the rate limit
	ResetAfterCommit Fault = "reset after commit" // carried out, then the connection is reset
	HTML502          Fault = "502 HTML"           // a gateway's error page
	Empty200         Fault = "empty 200"          // HTTP 200 without a body
	Stall            Fault = "stall"              // no answer before the deadline
)

// Subject is one flow at one simulated cloud.
type Subject struct {
	Flow issuer.Flow
	// Secret is the flow's secret key, which no error may show.
	Secret order.Secret
	// Deadline is that of the permits.
	Deadline time.Duration
	// Application makes a new one, with names that no other has and, where the
	// flow needs it, an unused resource of its own.
	Application func(*testing.T) issuer.Application
	// Place puts a record or file into the simulated world.
	Place func(*testing.T, order.Challenge)
	// Fault makes the next call of the action fail.
	Fault func(*testing.T, string, Fault)
	// Submitted counts the applications in the cloud's books.
	Submitted func(*testing.T) int
	// Calls counts the calls of an action that reached the cloud.
	Calls func(*testing.T, string) int
	// WrongSecret is the same flow with a secret that is not the key's.
	WrongSecret func(*testing.T) issuer.Flow
	// Unreachable is the same flow at a port where nobody listens.
	Unreachable func(*testing.T) issuer.Flow
	// Exhausted is an application for which no quota is left; nil where
	// Submit takes none.
	Exhausted func(*testing.T) issuer.Application
}

// Run runs the contract. Each part gets a Subject, and so a cloud, of its own.
func Run(t *testing.T, start func(*testing.T) Subject) {
	parts := []struct {
		name string
		run  func(*testing.T, Subject)
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
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.run(t, start(t))
		})
	}
}

// Fence is one that every stamp of now lies in.
func Fence() issuer.Fence {
	now := time.Now()
	return issuer.Fence{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute)}
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

// issued takes one order the whole way.
func issued(t *testing.T, s Subject) {
	a := s.Application(t)
	receipt, err := Submit(t, s.Flow, a, Fence())
	if err != nil {
		t.Fatal(err)
	}
	if receipt.CloudID == "" || receipt.RequestID == "" {
		t.Fatalf("receipt %+v", receipt)
	}
	if n := s.Submitted(t); n != 1 {
		t.Fatalf("the cloud has %d applications", n)
	}
	status := until(t, s, receipt.CloudID, issuer.Challenged)
	checkChallenges(t, a, status.Challenges)
	eventually(t, "listed as waiting", func() bool { return listed(t, s.Flow.Waiting, receipt.CloudID) })
	found(t, s, a, receipt.CloudID)
	for _, c := range status.Challenges {
		s.Place(t, c)
	}
	if k, ok := s.Flow.(issuer.Kicker); ok {
		if err := k.Kick(t.Context(), receipt.CloudID); err != nil {
			t.Errorf("kick: %v", err)
		}
	}
	status = until(t, s, receipt.CloudID, issuer.IssuedPhase)
	eventually(t, "no longer listed as waiting", func() bool { return !listed(t, s.Flow.Waiting, receipt.CloudID) })
	fetched(t, s, a, receipt.CloudID, status.CertID)
}

// fetched gets the certificate without and with its id.
func fetched(t *testing.T, s Subject, a issuer.Application, cloudID, certID string) {
	t.Helper()
	if l, ok := s.Flow.(issuer.CertLister); ok {
		certID = listedCertificate(t, l, a.Names)
	}
	for _, id := range []string{"", certID} {
		c, err := s.Flow.Fetch(t.Context(), cloudID, id)
		if err != nil {
			t.Fatalf("fetch with certificate id %q: %v", id, err)
		}
		checkCertificate(t, a, c)
	}
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
func found(t *testing.T, s Subject, a issuer.Application, cloudID string) {
	t.Helper()
	if f, ok := s.Flow.(issuer.Finder); ok {
		eventually(t, "found by its names", func() bool {
			rows, err := f.Find(t.Context(), a.Names)
			if err != nil {
				t.Fatal(err)
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
	if l, ok := s.Flow.(issuer.AllLister); ok {
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
				return true
			}
		}
		more = p.More
	}
	return false
}

// until looks until the order is in the phase.
func until(t *testing.T, s Subject, cloudID string, want issuer.Phase) issuer.Status {
	t.Helper()
	var st issuer.Status
	eventually(t, string(want), func() bool {
		var err error
		if st, err = s.Flow.Look(t.Context(), cloudID); err != nil && !passes(err) {
			t.Fatalf("look: %v", err)
		}
		if err == nil && st.Phase == issuer.Refused {
			t.Fatalf("refused: %+v", st)
		}
		return err == nil && st.Phase == want
	})
	return st
}

// passes tells errors that a caller waits out: an order that was just made may
// not be known yet.
func passes(err error) bool {
	k := issuer.KindOf(err)
	return k == issuer.Throttled || k == issuer.Unavailable || k == issuer.NotFound
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 20 s: %s", what)
		}
	}
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

func needsPermit(t *testing.T, s Subject) {
	a := s.Application(t)
	_, err := s.Flow.Submit(t.Context(), a, Fence())
	Want(t, s, err, issuer.NeverSent)
	if !errors.Is(err, permit.ErrNoPermit) {
		t.Errorf("error %v does not say that the permit is missing", err)
	}
	ctx, release, err := s.Flow.Reserve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release()
	_, err = s.Flow.Submit(ctx, a, Fence()) // with one that was given back
	Want(t, s, err, issuer.NeverSent)
	if n := s.Calls(t, s.Flow.Action()); n != 0 {
		t.Errorf("%d calls reached the cloud", n)
	}
}

// givesBack reserves far more often than there are permits.
func givesBack(t *testing.T, s Subject) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 25 {
		_, release, err := s.Flow.Reserve(ctx)
		if err != nil {
			t.Fatal(err)
		}
		release()
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, _, err := s.Flow.Reserve(ctx)
	Want(t, s, err, issuer.NeverSent)
}

// faulty submits once into a fault. committed is how many applications the
// cloud then has, -1 if it may be either.
func faulty(f Fault, want issuer.Kind, committed int) func(*testing.T, Subject) {
	return func(t *testing.T, s Subject) {
		a := s.Application(t)
		prepare(t, s, a)
		s.Fault(t, s.Flow.Action(), f)
		_, err := submitOnly(t, s.Flow, a, Fence())
		Want(t, s, err, want)
		if n := s.Submitted(t); committed >= 0 && n != committed {
			t.Errorf("the cloud has %d applications, want %d", n, committed)
		}
		if n := s.Calls(t, s.Flow.Action()); n != 1 {
			t.Errorf("%d calls reached the cloud, want 1", n)
		}
	}
}

func prepare(t *testing.T, s Subject, a issuer.Application) {
	t.Helper()
	if p, ok := s.Flow.(issuer.Preparer); ok {
		if err := p.Prepare(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
}

func stalled(t *testing.T, s Subject) {
	start := time.Now()
	faulty(Stall, issuer.UnknownOutcome, -1)(t, s)
	if d := time.Since(start); d < s.Deadline || d > s.Deadline+5*time.Second {
		t.Errorf("returned after %v, the deadline is %v", d, s.Deadline)
	}
}

func unreachable(t *testing.T, s Subject) {
	f := s.Unreachable(t)
	_, err := submitOnly(t, f, s.Application(t), Fence())
	Want(t, s, err, issuer.NeverSent)
	_, err = f.Look(t.Context(), "1")
	Want(t, s, err, issuer.NeverSent)
}

func wrongSecret(t *testing.T, s Subject) {
	f := s.WrongSecret(t)
	_, err := submitOnly(t, f, s.Application(t), Fence())
	Want(t, s, err, issuer.Credentials)
	_, err = f.Look(t.Context(), "1")
	Want(t, s, err, issuer.Credentials)
	if n := s.Submitted(t); n != 0 {
		t.Errorf("the cloud has %d applications", n)
	}
}

func noQuota(t *testing.T, s Subject) {
	if s.Exhausted == nil {
		t.Skip("Submit takes no quota")
	}
	a := s.Exhausted(t)
	before := s.Submitted(t)
	_, err := submitOnly(t, s.Flow, a, Fence())
	Want(t, s, err, issuer.QuotaExhausted)
	if n := s.Submitted(t); n != before {
		t.Errorf("the cloud has %d applications more", n-before)
	}
}

func outsideFence(t *testing.T, s Subject) {
	now := time.Now()
	for _, f := range []issuer.Fence{
		{NotBefore: now.Add(30 * time.Second), NotAfter: now.Add(time.Minute)},
		{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(-5 * time.Second)},
		{},
	} {
		_, err := submitOnly(t, s.Flow, s.Application(t), f)
		Want(t, s, err, issuer.NeverSent)
		if !errors.Is(err, issuer.ErrOutsideFence) {
			t.Errorf("error %v does not say why", err)
		}
	}
	if n := s.Calls(t, s.Flow.Action()); n != 0 {
		t.Errorf("%d calls reached the cloud", n)
	}
}

func nothingToSubmit(t *testing.T, s Subject) {
	_, err := submitOnly(t, s.Flow, issuer.Application{OrderID: "empty"}, Fence())
	Want(t, s, err, issuer.Rejected)
	if n := s.Calls(t, s.Flow.Action()); n != 0 {
		t.Errorf("%d calls reached the cloud", n)
	}
}

// Want checks an error: its kind, that it names an action, and that it shows no
// secret under any verb.
func Want(t *testing.T, s Subject, err error, kind issuer.Kind) {
	t.Helper()
	e, ok := errors.AsType[*issuer.Error](err)
	if !ok {
		t.Fatalf("error %v (%T) is no *issuer.Error, want %s", err, err, kind)
	}
	if e.Kind != kind || !errors.Is(err, kind) {
		t.Errorf("kind %q, want %q: %v", e.Kind, kind, err)
	}
	if e.Action == "" {
		t.Errorf("no action: %v", err)
	}
	Silent(t, err, s.Secret.Reveal(), "Signature=", "BEGIN ", "@")
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
