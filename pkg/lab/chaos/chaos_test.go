package chaos

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// TestMain: the batteries start this very program as their workers and servers.
func TestMain(m *testing.M) {
	if Child() {
		return
	}
	os.Exit(m.Run())
}

// TestKill is the whole harness in small: processes are started, killed and
// judged, and the report has the figures.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	r, err := Run(t.Context(), Options{Batteries: []string{"kill"}, Size: Size{Orders: 8, For: 4 * time.Second, Accounts: 2}, Seed: 7, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() || r.Orders != 8 || r.Kills < 2 || r.QuotaCloud != 8 || r.QuotaOurs != 8 || r.States["issued"] != 8 {
		t.Errorf("%s", r.Text())
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"orders", "kills", "faults", "leader_changes", "lost", "double", "states", "quota_cloud", "quota_ours", "difference", "left", "seed", "seconds"} {
		if !strings.Contains(string(data), `"`+field+`":`) {
			t.Errorf("the report lacks %q: %s", field, data)
		}
	}
}

func TestUnknownBattery(t *testing.T) {
	_, err := Run(t.Context(), Options{Batteries: []string{"flood"}})
	if err == nil || !strings.Contains(err.Error(), "kill, nats, faults") {
		t.Errorf("got %v, want the names there are", err)
	}
}

// TestJudge: the judge finds what each battery looks for. The sites here are
// made up; what the judge reads them from is tested by TestKill.
func TestJudge(t *testing.T) {
	t.Parallel()
	good := func() *verdict {
		s := &site{dir: t.TempDir(), books: newBooks()}
		s.cfg.Deliver.Directory = t.TempDir()
		sim, err := cloudsim.Start(t.Context(), cloudsim.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sim.Close() })
		s.clouds = simulated{sim}
		v := &verdict{site: s, orders: map[string]pipeline.Item{}, entries: map[string]ledger.Entry{},
			paid: map[string]Bought{}, ours: map[string]string{}}
		o := order.Order{Request: order.Request{ID: "a", Names: []string{"a.example.com"}}, Account: "ali", Main: "1", State: order.Issued, Purchase: 1}
		s.books.ack(o.Request)
		v.orders["a"] = pipeline.Item{Order: o, Seq: 1}
		v.paid["1/c1"] = Bought{Main: "1", ID: "c1", Names: []string{"a.example.com"}, Paid: true}
		v.entries["1/a.example.com"] = ledger.Entry{Main: "1", Names: o.Request.Names, Claims: []ledger.Claim{{CloudID: "c1", Order: "a", Purchase: 1}}}
		if err := os.MkdirAll(s.cfg.Deliver.Directory+"/a", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.cfg.Deliver.Directory+"/a/fullchain.pem", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return v
	}
	ours := Record{Name: "_dnsauth.a.example.com", Type: "TXT", Value: "v", By: "LTAIchaos0000"}
	challenge := order.Challenge{Type: "TXT", Host: ours.Name, Value: "v"}
	entry := []ledger.Placement{{Challenge: challenge, Orders: []string{"a"}}}
	for _, c := range []struct {
		name                     string
		spoil                    func(*verdict)
		lost, double, difference int
		left                     int
	}{
		{"nothing wrong", func(*verdict) {}, 0, 0, 0, 0},
		{"vanished", func(v *verdict) { v.books.ack(order.Request{ID: "b"}) }, 1, 0, 0, 0},
		{"stuck", func(v *verdict) { it := v.orders["a"]; it.State = order.Unsure; v.orders["a"] = it }, 1, 0, 0, 0},
		{"not delivered", func(v *verdict) { v.cfg.Deliver.Directory += "/elsewhere" }, 1, 0, 0, 0},
		{"a bad message without its failed order", func(v *verdict) { v.books.refuse() }, 1, 0, 0, 0},
		{"paid twice, and the ledger knows", func(v *verdict) {
			v.paid["1/c2"] = Bought{Main: "1", ID: "c2", Names: []string{"A.example.com"}, Paid: true}
			e := v.entries["1/a.example.com"]
			e.Claims = append(e.Claims, ledger.Claim{CloudID: "c2", Order: "a", Purchase: 1})
			v.entries["1/a.example.com"] = e
		}, 0, 1, 0, 0},
		{"paid twice at another account", func(v *verdict) {
			v.paid["2/c2"] = Bought{Main: "2", ID: "c2", Names: []string{"a.example.com"}, Paid: true}
			v.ours["2/c2"] = "claimed by a"
		}, 0, 1, 0, 0},
		{"bought again by a person's word", func(v *verdict) {
			v.paid["1/c2"] = Bought{Main: "1", ID: "c2", Names: []string{"a.example.com"}, Paid: true}
			v.ours["1/c2"] = "claimed by a"
			it := v.orders["a"]
			it.Purchase = 2
			v.orders["a"] = it
		}, 0, 0, 0, 0},
		{"a list's names", func(v *verdict) { v.sets = map[string]bool{"a.example.com": true} }, 0, 0, 0, 0},
		{"a list's names paid for twice by two orders", func(v *verdict) {
			v.sets = map[string]bool{"a.example.com": true}
			o := v.orders["a"].Order
			o.Request.ID = "b"
			v.orders["b"] = pipeline.Item{Order: o, Seq: 2}
			v.paid["1/c2"], v.ours["1/c2"] = v.paid["1/c1"], "claimed by b"
		}, 0, 1, 0, 0},
		{"a list's names that nobody bought", func(v *verdict) {
			v.sets = map[string]bool{"a.example.com": true, "b.example.com": true, "c.example.com": false}
		}, 1, 0, 0, 0},
		{"paid and unknown to the ledger", func(v *verdict) { v.entries = nil }, 0, 0, 1, 0},
		{"claimed and never paid", func(v *verdict) { v.ours["1/c9"] = "claimed by z" }, 0, 0, 1, 0},
		{"a record that nobody needs", func(v *verdict) { v.records = []Record{ours} }, 0, 0, 0, 1},
		{"records of others", func(v *verdict) {
			v.records = []Record{{Name: ours.Name, Type: ours.Type, Value: ours.Value, By: "console"}, {Name: ours.Name, Type: ours.Type}}
		}, 0, 0, 0, 0},
		{"a held order's record", func(v *verdict) { v.hold(challenge); v.records, v.book = []Record{ours}, entry }, 0, 0, 0, 0},
		{"a held order's record that is not booked", func(v *verdict) { v.hold(challenge); v.records = []Record{ours} }, 0, 0, 0, 1},
		{"another record than the held order's", func(v *verdict) {
			v.hold(order.Challenge{Type: "TXT", Host: ours.Name, Value: "another"})
			v.records = []Record{ours}
		}, 0, 0, 0, 1},
		{"a file that nobody needs", func(v *verdict) { v.files = []string{"www.example.com/.well-known/pki-validation/fileauth.txt"} }, 0, 0, 0, 1},
		{"a held order's file", func(v *verdict) {
			v.hold(order.Challenge{Type: "FILE", Host: "www.example.com", Path: "/.well-known/pki-validation/fileauth.txt", Value: "v"})
			v.files = []string{"www.example.com/.well-known/pki-validation/fileauth.txt"}
		}, 0, 0, 0, 0},
		{"a record of a life that was lost", func(v *verdict) { v.did.Wipes, v.records = 1, []Record{ours} }, 0, 0, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := good()
			c.spoil(v)
			for _, e := range v.entries {
				v.know(e)
			}
			v.lost()
			v.double()
			v.once()
			v.money()
			v.left()
			if r := v.report; r.Lost != c.lost || r.Double != c.double || r.Difference != c.difference || r.Left != c.left || (c.lost+c.double+c.difference+c.left > 0) == r.OK() {
				t.Errorf("lost %d, double %d, difference %d, left %d: %q", r.Lost, r.Double, r.Difference, r.Left, r.Problems)
			}
		})
	}
}

// TestPairsOfStores: a paid key that lies in none of the stores is found, and no other.
func TestPairsOfStores(t *testing.T) {
	t.Parallel()
	store, _, err := certstore.MakeKeyStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	id, err := certstore.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	to, err := id.Recipients()
	if err != nil {
		t.Fatal(err)
	}
	key, csr, fp, err := certstore.NewKey("ecdsa-p256", []string{"a.example.com"}, true)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := to.Seal(key)
	if err != nil {
		t.Fatal(err)
	}
	r := certstore.Ref{ID: "a", Hash: strings.Repeat("a", 64), Main: "1", Names: []string{"a.example.com"}}
	if _, _, err := store.Put(t.Context(), r, order.Key{Algorithm: "ecdsa-p256", Fingerprint: fp, CSR: csr, Sealed: sealed}); err != nil {
		t.Fatal(err)
	}
	all := []Bought{{ID: "1", KeyFP: fp, Paid: true}, {ID: "2", KeyFP: "another", Paid: true}, {ID: "3", KeyFP: "another"}, {ID: "4", Paid: true},
		{ID: "5", KeyFP: "theirs", Names: []string{"b.example.com"}, Paid: true}}
	without, err := withoutPair(all, map[string]bool{"b.example.com": true}, store.Dir())
	if err != nil || len(without) != 1 || without[0].ID != "2" {
		t.Errorf("%+v, %v", without, err)
	}
}

// hold makes order "a" a held one with a challenge.
func (v *verdict) hold(c order.Challenge) {
	it := v.orders["a"]
	it.State, it.Hold = order.Held, &order.Hold{Reason: "for the test", Commands: []string{"certmill retry a"}}
	it.Challenges = []order.Challenge{c}
	v.orders["a"] = it
}

// TestSchedule: what is drawn depends on the seed alone.
func TestSchedule(t *testing.T) {
	t.Parallel()
	draw := func(seed uint64) []int {
		s := &site{seed: seedOf(seed, "kill", 0)}
		d := s.dice("kills")
		return []int{d.IntN(1000), d.IntN(1000), d.IntN(1000)}
	}
	if !slices.Equal(draw(1), draw(1)) || slices.Equal(draw(1), draw(2)) {
		t.Errorf("%v %v %v", draw(1), draw(1), draw(2))
	}
}

// TestBadMessages: every bad message is one that the system refuses.
func TestBadMessages(t *testing.T) {
	t.Parallel()
	known := order.Request{ID: "poison-0", Names: []string{"a.example.com"}}
	for _, m := range (&site{seed: 3}).badMessages(200, known) {
		r, err := order.ParseRequest(m)
		if err == nil && r.ID != known.ID && r.Account != "nobody" {
			t.Errorf("%.100q would be taken", m)
		}
	}
}
