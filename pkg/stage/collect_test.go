package stage_test

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/order"
)

func (w *world) wantPair(id string) {
	w.t.Helper()
	if _, err := tls.X509KeyPair([]byte(w.delivered(id, "fullchain.pem")), []byte(w.delivered(id, "privkey.pem"))); err != nil {
		w.t.Errorf("%s: what was delivered is no pair: %v", id, err)
	}
}

// Keys of certmill and of the cloud are delivered with the certificate that they
// fit, and are nowhere in clear text in the record.
func TestDelivery(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	for id, r := range map[string]order.Request{
		"ours":          {Account: "ali", Names: []string{"ours.example.com"}},
		"tencent":       {Account: "ten", Names: []string{"ten.example.com", "www.ten.example.com"}},
		"cloud-several": {Account: "ali", Names: []string{"c1.example.com", "c2.example.com"}},
		"cloud":         {Account: "ali", Resource: "any", Names: []string{"cloud.example.com"}},
	} {
		r.ID = id
		w.publish(r)
		w.worker().drive(id, order.Issued)
		o := w.wantIssued(id)
		w.wantPair(id)
		record, err := o.Encode()
		w.must(err)
		if order.HoldsSecret(string(record)) || order.HoldsSecret(w.delivered(id, "order.json")) {
			t.Errorf("%s: a record holds a private key", id)
		}
		if strings.Contains(w.delivered(id, "order.json"), `"sealed"`) || len(o.Certificate.Delivered) != 1 {
			t.Errorf("%s: order.json holds ciphertext, or it was delivered to %v", id, o.Certificate.Delivered)
		}
		if cloud := strings.HasPrefix(id, "cloud"); cloud != (o.Key == nil) {
			t.Errorf("%s: key %+v", id, o.Key)
		}
	}
}

// A CSR of the user's own: the key is theirs, nothing of it is delivered.
func TestDeliveryForAUsersCSR(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	r := request("a", "a.example.com")
	r.CSR = issuertest.CSR(t, "a.example.com")
	w.publish(r)
	w.worker().drive("a", order.Issued)
	o := w.wantIssued("a")
	if o.Key == nil || len(o.Key.Sealed) != 0 || o.Operation != "CreateCertificateWithCsrRequest" {
		t.Errorf("key %+v, by %s", o.Key, o.Operation)
	}
	for _, name := range []string{"privkey.pem", "privkey.pem.age"} {
		if _, err := os.Stat(filepath.Join(w.out, "a", name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A collector without an identity delivers keys sealed, also those that the
// cloud made; whoever has the identity opens them.
func TestSealedDelivery(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	p.collect.Opener = nil
	w.publish(request("ours", "ours.example.com"))
	w.publish(order.Request{ID: "cloud", Account: "ali", Resource: "any", Names: []string{"cloud.example.com"}})
	for _, id := range []string{"ours", "cloud"} {
		p.drive(id, order.Issued)
		w.wantIssued(id)
		if _, err := os.Stat(filepath.Join(w.out, id, "privkey.pem")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a key in clear text: %v", id, err)
		}
		key, err := w.identities.Open([]byte(w.delivered(id, "privkey.pem.age")))
		w.must(err)
		if _, err := tls.X509KeyPair([]byte(w.delivered(id, "fullchain.pem")), []byte(key.Reveal())); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// A certificate for another key, of an order that was not adopted on trust, is
// for a person: the purchase is spent.
func TestWrongKeyIsHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	p := w.worker()
	p.drive("a", order.Verify)
	it, err := w.line.Last(t.Context(), "a")
	w.must(err)
	o := it.Order
	k := *o.Key
	k.Fingerprint = strings.Repeat("0", 64)
	o.Key = &k
	_, err = w.line.Move(t.Context(), it, o)
	w.must(err)
	p.drive("a", order.Held)
	w.wantHeld("a", "not what was ordered", "certmill retry a")
	if _, err := os.Stat(filepath.Join(w.out, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was delivered: %v", err)
	}
	w.wantPaid(1, "a.example.com")
}

// A certificate that lacks an ordered name is not delivered: with csr_sans
// claimed for a cloud that binds the CN only.
func TestMissingNamesAreHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.accounts["ali"].Cloud = w.aliCloud(func(to *issuer.Access) { to.CSRSANs = true })
	r := request("a", "a.example.com", "b.example.com")
	r.CSR = issuertest.CSR(t, "a.example.com", "b.example.com")
	w.publish(r)
	w.worker().drive("a", order.Held)
	w.wantHeld("a", "b.example.com", "certmill cancel a")
}

// A sink that cannot be written to is tried again, and the challenge stays until
// the order ends.
func TestDeliveryIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.order("a", "a.example.com")
	p := w.worker()
	o := p.drive("a", order.Collect)
	good := p.collect.Sinks
	blocked := filepath.Join(w.out, "file")
	w.must(os.WriteFile(blocked, nil, 0o600))
	p.collect.Sinks = append(p.collect.Sinks[:1:1], certstore.Dir{Path: blocked})
	p.visit("a")
	if got := w.last("a"); got.State != order.Collect || got.Retries != 1 || !w.shows(o.Challenges[0]) {
		t.Errorf("it is %s, retries %d", w.tell("a"), got.Retries)
	}
	p.collect.Sinks = good
	p.drive("a", order.Issued)
	w.wantPair("a")
	if w.shows(o.Challenges[0]) {
		t.Error("the challenge was left behind")
	}
}

// What the sweep sent too early goes back to issuing after some tries.
func TestCollectThatCameTooEarly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: func(c *cloudsim.Config) { c.IssueDelay = cloudsim.Exactly(hour) }})
	w.order("a", "a.example.com")
	p := w.worker()
	p.drive("a", order.Issuing)
	it, err := w.line.Last(t.Context(), "a")
	w.must(err)
	o := it.Order
	o.State = order.Collect
	_, err = w.line.Move(t.Context(), it, o)
	w.must(err)
	p.drive("a", order.Issuing)
	w.must(w.sim.SetConfig(func(c *cloudsim.Config) { c.IssueDelay = cloudsim.None }))
}
