package app

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// seen is a View that remembers.
type seen struct {
	mu           sync.Mutex
	where        Where
	steps        []Step
	known, fresh int
	last         Progress
	moved        func(Progress)
}

func (s *seen) Started(w Where) { s.where = w }
func (s *seen) Planned(steps []Step, _ Batch) {
	s.steps = steps
}
func (s *seen) HandedIn(known, fresh int) { s.known, s.fresh = known, fresh }
func (s *seen) Ended(Summary)             {}
func (s *seen) Moved(p Progress) {
	s.mu.Lock()
	s.last = p
	s.mu.Unlock()
	if s.moved != nil {
		s.moved(p)
	}
}

// inDir is a config for a run of its own below dir.
func inDir(dir string) Config {
	c := Defaults()
	c.Rest(filepath.Join(dir, "state"))
	c.fill()
	c.NATS.Listen = "127.0.0.1:0"
	c.AckWait = 2 * time.Second // handlers send heartbeats
	c.Deliver.Directory = filepath.Join(dir, "certs")
	return c
}

func runIn(ctx context.Context, dir string, v *seen, files ...string) (Summary, error) {
	return Run(ctx, RunOptions{Config: inDir(dir), Files: files, Log: NewLogger(io.Discard, "error"), View: v})
}

const example = "../../deploy/examples/orders.yaml"

// TestRun is the product in one test: orders in, certificates out.
func TestRun(t *testing.T) {
	t.Parallel()
	dir, v := t.TempDir(), &seen{}
	sum, err := runIn(t.Context(), dir, v, example)
	if err != nil || !sum.OK() || sum.Issued != sum.New || sum.Issued < 5 {
		t.Fatalf("%+v, %v", sum, err)
	}
	if sum.PeakPerSec > 10 || sum.Calls < 3*sum.Issued {
		t.Errorf("%d calls, at most %d a second", sum.Calls, sum.PeakPerSec)
	}
	planned := 0
	for _, s := range v.steps {
		planned += s.Orders
	}
	if planned != sum.Orders {
		t.Errorf("%d of %d orders were shown before they were handed in", planned, sum.Orders)
	}
	checkDelivered(t, filepath.Join(dir, "certs"), sum.Issued)
	noKeyIn(t, filepath.Join(dir, "state", "nats"), filepath.Join(dir, "state", "keys"))

	t.Run("the same file again", func(t *testing.T) {
		again := &seen{}
		sum, err := runIn(t.Context(), dir, again, example)
		if err != nil || !sum.OK() || sum.New != 0 || sum.Known != sum.Orders {
			t.Errorf("%+v, %v", sum, err)
		}
	})
}

// TestRunGoesOn: stopped as soon as the first order is issued, a second run
// finishes the rest and buys nothing twice.
func TestRunGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	v := &seen{moved: func(p Progress) {
		if p.States[order.Issued] > 0 {
			stop()
		}
	}}
	sum, err := runIn(ctx, dir, v, example)
	if !errors.Is(err, context.Canceled) || sum.Issued == sum.Orders {
		t.Fatalf("not stopped in the middle: %+v, %v", sum, err)
	}
	sum, err = runIn(t.Context(), dir, &seen{}, example)
	if err != nil || !sum.OK() {
		t.Fatalf("%+v, %v", sum, err)
	}
	checkDelivered(t, filepath.Join(dir, "certs"), sum.Orders)
	h, err := openHouse(t.Context(), inDir(dir), NewLogger(io.Discard, "error"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.close() }()
	if twice := h.world.sim.Report().Duplicates; len(twice) > 0 {
		t.Errorf("bought twice: %+v", twice)
	}
}

// checkDelivered verifies what lies in the folder: chains to the simulated
// root, keys that match, modes.
func checkDelivered(t *testing.T, dir string, want int) {
	t.Helper()
	root, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	records, _ := filepath.Glob(filepath.Join(dir, "*", "order.json"))
	if len(records) != want {
		t.Errorf("%d orders were delivered, want %d", len(records), want)
	}
	for _, record := range records {
		if err := checkFolder(filepath.Dir(record), roots); err != nil {
			t.Errorf("%s: %v", record, err)
		}
	}
}

func checkFolder(dir string, roots *x509.CertPool) error {
	data, err := os.ReadFile(filepath.Join(dir, "order.json"))
	if err != nil {
		return err
	}
	o, err := order.Decode(data)
	if err != nil {
		return err
	}
	chain, err := os.ReadFile(filepath.Join(dir, "fullchain.pem"))
	if err != nil {
		return err
	}
	block, rest := pem.Decode(chain)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	between.AppendCertsFromPEM(rest)
	for _, name := range o.Request.Names {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: strings.Replace(name, "*", "any", 1), Roots: roots, Intermediates: between}); err != nil {
			return err
		}
	}
	return checkKey(filepath.Join(dir, "privkey.pem"), leaf, o.Request.CSR != "")
}

func checkKey(path string, leaf *x509.Certificate, users bool) error {
	info, err := os.Stat(path)
	switch {
	case users && errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Perm() != 0o600:
		return fmt.Errorf("mode %v", info.Mode())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(data)
	var key any
	if key, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		if key, err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
			return err
		}
	}
	mine, err := x509.MarshalPKIXPublicKey(key.(crypto.Signer).Public())
	if err != nil {
		return err
	}
	if !bytes.Equal(mine, leaf.RawSubjectPublicKeyInfo) {
		return errors.New("the key is not the certificate's")
	}
	return nil
}

// noKeyIn looks for clear-text keys in what is stored.
func noKeyIn(t *testing.T, dirs ...string) {
	t.Helper()
	files := 0
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			files++
			data, _ := os.ReadFile(path)
			if strings.Contains(string(data), "PRIVATE KEY") {
				t.Errorf("%s holds a private key in clear", path)
			}
			return nil
		})
	}
	if files == 0 {
		t.Error("nothing was looked at")
	}
}

// serving starts a run without files and returns a connection to its server.
func serving(t *testing.T) (*Console, jetstream.JetStream, string) {
	t.Helper()
	dir, v := t.TempDir(), &seen{}
	c := inDir(dir)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	started := make(chan Where, 1)
	go func() {
		_, err := Run(ctx, RunOptions{Config: c, Log: NewLogger(io.Discard, "error"), View: startedView{v, started}})
		ended <- err
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run ended with %v", err)
		}
	})
	<-started
	cfg, err := Load(filepath.Join(c.State, ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	console, err := OpenConsole(t.Context(), cfg, NewLogger(io.Discard, "error"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(console.Close)
	return console, connectAs(t, cfg.NATS.by(Admin)), dir
}

type startedView struct {
	*seen
	at chan Where
}

func (s startedView) Started(w Where) { s.at <- w }

// TestBadMessages: each ends as a failed order whose sentence says what is
// wrong and what to write; nothing else is delayed.
func TestBadMessages(t *testing.T) {
	t.Parallel()
	console, js, _ := serving(t)
	bad := []struct{ name, message, want string }{
		{"unreadable", `{"id": "x", "names": [`, "ends in the middle of its JSON"},
		{"not JSON", `id=x`, "not JSON"},
		{"unknown field", `{"id":"u1","names":["a.shop1.com"],"nmaes":[]}`, `unknown field`},
		{"another order's derived id", `{"id":"a-shop1-com-0123456789ab","names":["a.shop2.com"]}`, "leave the id out"},
		{"bad id", `{"id":"A B","names":["a.shop3.com"]}`, "id"},
		{"no names", `{"id":"u2","names":[]}`, "names"},
		{"public suffix", `{"id":"u3","names":["co.uk"]}`, "public suffix"},
		{"wildcard of a public suffix", `{"id":"u4","names":["*.com.cn"]}`, "public suffix"},
		{"private suffix", `{"id":"u5","names":["github.io"]}`, "public suffix"},
		{"mixed", `{"id":"u6","names":["*.shop4.com","shop4.com"]}`, "wildcard"},
		{"six names", `{"id":"u7","names":["a.s.com","b.s.com","c.s.com","d.s.com","e.s.com","f.s.com"]}`, "5"},
		{"U-label", `{"id":"u8","names":["bücher.shop5.com"]}`, "xn--bcher-kva.shop5.com"},
		{"broken CSR", `{"id":"u9","names":["a.shop6.com"],"csr":"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"}`, "csr"},
		{"names of the CSR differ", message(t, "u10", "a.shop7.com", csr(t, "b.shop7.com")), "b.shop7.com"},
		{"unknown account", `{"id":"u11","names":["a.shop8.com"],"account":"nobody"}`, `no account "nobody" in the config; there are: aliyun-1`},
		{"a CSR on an instance", message(t, "u12", "a.shop9.com", csr(t, "a.shop9.com"), "account", "aliyun-1", "resource", "any"), "takes no csr"},
		{"another word for the resource", `{"id":"u13","names":["a.shop9.com"],"account":"tencent-1","instance":"any"}`, `did you mean "resource"`},
		{"rubbish", strings.Repeat("rubbish ", 7500), "not JSON"},
	}
	ids := map[string]string{}
	for _, b := range bad {
		seq, err := pipeline.Publish(t.Context(), js, "orders.new.tests", []byte(b.message))
		if err != nil {
			t.Fatalf("%s: %v", b.name, err)
		}
		ids[b.name] = console.line.BadID(seq)
	}
	if _, err := pipeline.Publish(t.Context(), js, "orders.new", make([]byte, 65<<10)); err == nil {
		t.Error("65 KiB were taken")
	}
	if _, err := pipeline.Publish(t.Context(), js, "orders.new", []byte(`{"id":"good","names":["a.shop10.com"],"account":"aliyun-1","contact":{"email":"a@shop10.com"}}`)); err != nil {
		t.Fatal(err)
	}
	for _, b := range bad {
		it := ended(t, console, ids[b.name])
		if it.State != order.Failed || it.Failure == nil || !strings.Contains(it.Failure.Reason, b.want) {
			t.Errorf("%s: %s, %+v, want %q", b.name, it.State, it.Failure, b.want)
		}
		if it.Publisher != "tests" || string(it.Original) != b.message {
			t.Errorf("%s: publisher %q, %d bytes kept", b.name, it.Publisher, len(it.Original))
		}
	}
	if it := ended(t, console, "good"); it.State != order.Issued {
		t.Errorf("the good one: %s %s", it.State, Why(it.Order))
	}
}

// ended waits until an order needs no worker any more.
func ended(t *testing.T, c *Console, id string) pipeline.Item {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
	defer cancel()
	all, err := c.follow(ctx, []awaited{{id: id}}, func(Progress) {})
	if err != nil {
		t.Fatalf("order %s: %v (%+v)", id, err, all)
	}
	return all[id]
}

func csr(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// message is an order with a CSR and further fields, each with its value.
func message(t *testing.T, id, name, csr string, further ...string) string {
	t.Helper()
	fields := map[string]any{"id": id, "names": []string{name}, "csr": csr}
	for i := 0; i < len(further); i += 2 {
		fields[further[i]] = further[i+1]
	}
	data, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestServerLost: the workers outlive their server and go on when it is back.
func TestServerLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := inDir(dir)
	log := NewLogger(io.Discard, "error")
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	c.Keys.Identity = filepath.Join(c.State, "identity.age")
	h, err := openHouse(t.Context(), c, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.close() }()
	p, err := NewProcess(h.workers(), "test", true, log, order.Roles...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	worked := make(chan error, 1)
	go func() { worked <- p.Run(ctx, order.Roles...) }()
	batch, err := ReadFiles("", example)
	if err != nil {
		t.Fatal(err)
	}
	first, err := OpenConsole(ctx, h.cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	in, err := first.handIn(ctx, batch.Requests, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	second, err := OpenConsole(ctx, h.cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	follow, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	all, err := second.follow(follow, in.wanted, func(Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	for id, it := range all {
		if it.State != order.Issued {
			t.Errorf("%s: %s %s", id, it.State, Why(it.Order))
		}
	}
	if twice := h.world.sim.Report().Duplicates; len(twice) > 0 {
		t.Errorf("bought twice: %+v", twice)
	}
	stop()
	if err := <-worked; err != nil {
		t.Error(err)
	}
}
