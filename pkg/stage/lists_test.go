package stage

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// shelf is a cloud's lists as they might be: pages of fifty in an order that no
// document tells, and that change while one pages.
type shelf struct {
	issuer.Flow // the rest is not called
	sort        string
	rng         *rand.Rand
	waiting     []issuer.Row // newest last
	certs       []issuer.Row
	between     func() // two pages
	calls, asks int
	came        int
	told        map[string]bool
}

const shelfPage = 50

func (s *shelf) Waiting(_ context.Context, page int) (issuer.Page, error) {
	return s.page(s.waiting, page)
}
func (s *shelf) Certificates(_ context.Context, page int) (issuer.Page, error) {
	return s.page(s.certs, page)
}

func (s *shelf) page(rows []issuer.Row, page int) (issuer.Page, error) {
	s.calls++
	all := slices.Clone(rows)
	switch s.sort {
	case "newest":
		slices.Reverse(all)
	case "named": // newcomers are anywhere
		slices.SortFunc(all, func(a, b issuer.Row) int { return strings.Compare(a.InstanceID, b.InstanceID) })
	case "shuffled":
		s.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	from, to := min(page*shelfPage, len(all)), min((page+1)*shelfPage, len(all))
	p := issuer.Page{Rows: all[from:to], More: to < len(all), Last: max(len(all)-1, 0) / shelfPage}
	if s.between != nil {
		s.between()
	}
	return p, nil
}

// issue moves the order that waited longest to the certificates.
func (s *shelf) issue() {
	if len(s.waiting) == 0 {
		return
	}
	r := s.waiting[0]
	s.waiting = s.waiting[1:]
	s.certs = append(s.certs, issuer.Row{CertID: "cert-" + r.CloudID, InstanceID: r.InstanceID})
}

// arrive puts one more order into the list, and into the line.
func (s *shelf) arrive(t *testing.T, line *pipeline.Line, at time.Time) {
	id := fmt.Sprint("o", s.came)
	s.came++
	s.waiting = append(s.waiting, issuer.Row{CloudID: id, InstanceID: "i-" + fmt.Sprint(s.came*7919%1000)})
	rec := order.Order{V: order.SchemaVersion, Timeline: []order.Event{{At: at}}, Account: "a", Request: order.Request{ID: id, Names: []string{id + ".example.com"}}, State: order.Submit}
	it, err := line.Create(t.Context(), rec)
	must(t, err)
	rec.CloudID, rec.Operation, rec.Challenges = id, s.Action(), []order.Challenge{{Name: id + ".example.com"}}
	for _, rec.State = range []order.State{order.Verify, order.Issuing} {
		it, err = line.Move(t.Context(), it, rec)
		must(t, err)
	}
}

// noticed is true the first time.
func (s *shelf) noticed(cloudID string) bool {
	if s.told == nil {
		s.told = map[string]bool{}
	}
	first := !s.told[cloudID]
	s.told[cloudID] = true
	return first
}

func (s *shelf) fill(n int) (orders []*flying) {
	for i := range n {
		id := fmt.Sprint("o", i)
		s.waiting = append(s.waiting, issuer.Row{CloudID: id, InstanceID: "i-" + id})
		orders = append(orders, &flying{id: id, cloudID: id})
	}
	return orders
}

// What was issued is told by the newest pages of the certificate list, whichever
// end they are at, beside thousands of certificates that nobody waits for.
func TestIssuedByTheNewestPages(t *testing.T) {
	for _, sort := range []string{"newest", "oldest"} {
		t.Run(sort, func(t *testing.T) {
			s := &shelf{sort: sort}
			for i := range 3000 {
				s.certs = append(s.certs, issuer.Row{CertID: fmt.Sprint("old", i), InstanceID: fmt.Sprint("old", i)})
			}
			orders := s.fill(1000)
			l, now := &lists{flow: s}, time.Now()
			must(t, l.readWaiting(t.Context(), orders, now, 20*time.Second))
			var issued []*flying
			for range 60 { // 20 sweeps a pass
				for range 20 {
					s.issue()
				}
				now = now.Add(time.Second)
				must(t, l.readWaiting(t.Context(), orders, now, 20*time.Second))
				must(t, l.readCertificates(t.Context(), orders))
				found, unexplained := l.judge(orders, now, 5*time.Second)
				if len(unexplained) > 0 {
					t.Fatalf("%d orders are to be asked about", len(unexplained))
				}
				issued = append(issued, found...)
				orders = slices.DeleteFunc(orders, func(o *flying) bool { return slices.Contains(found, o) })
			}
			if len(issued) != 1000 || len(orders) != 0 {
				t.Errorf("%d found, %d left", len(issued), len(orders))
			}
			// Passes through 20, 12 and 4 pages, one or two pages a sweep, and at
			// first, where the newest are last, both ends until an order is missed.
			t.Logf("%d calls", s.calls)
			if s.calls > 250 {
				t.Errorf("%d list calls", s.calls)
			}
		})
	}
}

// Rows that slip from page to page, and pages in no order at all, make nobody
// ask about orders that still wait, and hide none that was issued.
func TestListsThatShift(t *testing.T) {
	for _, sort := range []string{"newest", "oldest", "shuffled"} {
		t.Run(sort, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			s := &shelf{sort: sort, rng: rng}
			orders := s.fill(600)
			s.between = s.issue // one order a page is issued while it is read
			l, now := &lists{flow: s}, time.Now()
			waits := func(o *flying) bool {
				return slices.ContainsFunc(s.waiting, func(r issuer.Row) bool { return r.CloudID == o.cloudID })
			}
			early := 0
			for n := 0; len(orders) > 0; n++ {
				if n == 2000 {
					t.Fatalf("%d orders are never found", len(orders))
				}
				now = now.Add(time.Second)
				must(t, l.readWaiting(t.Context(), orders, now, 5*time.Second))
				must(t, l.readCertificates(t.Context(), orders))
				issued, unexplained := l.judge(orders, now, 3*time.Second)
				for _, o := range issued {
					if waits(o) {
						t.Errorf("%s is taken for issued", o.id)
					}
				}
				for _, o := range unexplained { // as the sweep asks
					o.asked, o.distance = now, max(2*o.distance, firstDistance)
					if waits(o) {
						early++
					} else {
						issued = append(issued, o)
					}
				}
				orders = slices.DeleteFunc(orders, func(o *flying) bool { return slices.Contains(issued, o) })
			}
			if sort != "shuffled" && early > 18 { // 3 %
				t.Errorf("%d orders that still waited were asked about", early)
			}
		})
	}
}

// Action and Look make the shelf a flow that can be swept.
func (s *shelf) Action() string { return "Buy" }

func (s *shelf) Look(_ context.Context, cloudID string) (issuer.Status, error) {
	s.asks++
	for _, r := range s.certs {
		if r.CertID == "cert-"+cloudID {
			return issuer.Status{Phase: issuer.IssuedPhase, CertID: r.CertID}, nil
		}
	}
	return issuer.Status{Phase: issuer.Reviewing}, nil
}

// However a cloud sorts its lists, what it issues is noticed within about a
// tenth of the time that orders take, and orders are not asked about one by one
// where a list tells. Sorted as expected, it is noticed at once: otherwise a
// probe has to show first that the newest pages are not the newest.
func TestNoticedHoweverListsAreSorted(t *testing.T) {
	const orders, perOrder, takes = 600, time.Second, 1000 * time.Second
	for sort, most := range map[string]struct {
		p95         time.Duration
		lists, asks int
	}{
		"newest": {takes / 20, 450, 60}, "oldest": {takes / 6, 600, 60}, "named": {takes / 6, 750, 700},
	} {
		t.Run(sort, func(t *testing.T) {
			t.Parallel()
			s := &shelf{sort: sort}
			for i := range 3000 {
				s.certs = append(s.certs, issuer.Row{CertID: fmt.Sprint("old", i), InstanceID: fmt.Sprintf("i-%d-%d", i%1000, i)})
			}
			sweep, a := issuingSweep(t, s)
			began := time.Now()
			now, issuedAt, delays := began, map[string]time.Time{}, []time.Duration(nil)
			sweep.Now = func() time.Time { return now }
			for n := 0; len(delays) < orders; n++ {
				if n > 1000 {
					t.Fatalf("only %d of %d orders were noticed", len(delays), orders)
				}
				for due := min(orders, int(now.Sub(began)/perOrder)); s.came < due; {
					s.arrive(t, sweep.Line, now)
				}
				for due := int((now.Sub(began) - takes) / perOrder); len(issuedAt) < min(due, orders); {
					issuedAt[s.waiting[0].CloudID] = began.Add(takes + time.Duration(len(issuedAt))*perOrder)
					s.issue()
				}
				must(t, sweep.Sweep(t.Context(), a))
				must(t, sweep.Line.Each(t.Context(), order.Collect, "a", func(it pipeline.Item) error {
					if at, new := issuedAt[it.CloudID]; new && s.noticed(it.CloudID) {
						delays = append(delays, now.Sub(at))
					}
					return nil
				}))
				now = now.Add(sweep.Interval("a"))
			}
			slices.Sort(delays)
			p95 := delays[len(delays)*95/100]
			t.Logf("p50 %v, p95 %v, longest %v; %d list calls, %d questions", delays[len(delays)/2], p95, delays[len(delays)-1], s.calls, s.asks)
			if p95 > most.p95 || s.calls > most.lists || s.asks > most.asks {
				t.Errorf("want at most %+v", most)
			}
		})
	}
}

// issuingSweep is a sweep of an account whose only flow is the shelf.
func issuingSweep(t *testing.T, s *shelf) (*IssuingSweep, *Account) {
	js := natstest.Connect(t, natstest.Server(t))
	for _, c := range []jetstream.StreamConfig{pipeline.OrdersConfig(1), pipeline.IntakeConfig(1)} {
		_, err := stream.Ensure(t.Context(), js, c)
		must(t, err)
	}
	line, err := pipeline.Open(t.Context(), js, "test", slog.New(slog.NewTextHandler(t.Output(), nil)))
	must(t, err)
	return &IssuingSweep{Line: line, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, &Account{Label: "a", Cloud: shop{flow: s}}
}

// shop is a cloud with one flow, of which nothing else is asked.
type shop struct {
	issuer.Cloud
	flow issuer.Flow
}

func (s shop) Flows() []issuer.Flow { return []issuer.Flow{s.flow} }

// An order that ended without a certificate is in no list: it is asked about,
// and each further time at twice the distance.
func TestGoneWithoutCertificate(t *testing.T) {
	s := &shelf{sort: "newest"}
	orders := s.fill(10)
	l, now := &lists{flow: s}, time.Now()
	var asked []time.Duration
	began := now
	for range 100 {
		must(t, l.readWaiting(t.Context(), orders, now, time.Second))
		must(t, l.readCertificates(t.Context(), orders))
		_, unexplained := l.judge(orders, now, 3*time.Second)
		for _, o := range unexplained {
			o.asked, o.distance = now, min(max(2*o.distance, firstDistance), farDistance)
			asked = append(asked, now.Sub(began))
		}
		if now = now.Add(time.Second); now.Sub(began) == 10*time.Second {
			s.waiting = s.waiting[1:]
		}
	}
	want := []time.Duration{13 * time.Second, 15 * time.Second, 19 * time.Second, 27 * time.Second, 43 * time.Second, 75 * time.Second}
	if !slices.Equal(asked, want) {
		t.Errorf("asked after %v, want %v", asked, want)
	}
}

// An instance may have a certificate of earlier, or for other names: neither is
// what the order waits for.
func TestCertificateOfAnotherOrder(t *testing.T) {
	now := time.Now()
	o := &flying{id: "a", cloudID: "a", instance: "i-a", names: []string{"a.example.com"}, stored: now}
	for _, c := range []struct {
		row  issuer.Row
		want string
	}{
		{issuer.Row{InstanceID: "i-a", CertID: "1", Names: []string{"a.example.com", "www.a.example.com"}, Created: now}, "1"},
		{issuer.Row{InstanceID: "i-a", CertID: "1"}, "1"},
		{issuer.Row{InstanceID: "i-a", CertID: "1", Names: []string{"b.example.com"}, Created: now}, ""},
		{issuer.Row{InstanceID: "i-a", CertID: "1", Names: o.names, Created: now.AddDate(0, -3, 0)}, ""},
		{issuer.Row{InstanceID: "i-b", CertID: "1", Names: o.names, Created: now}, ""},
	} {
		l := &lists{}
		l.learn([]issuer.Row{c.row}, map[string]bool{"i-a": true})
		if got := l.certificate(o); got != c.want {
			t.Errorf("%+v: certificate %q, want %q", c.row, got, c.want)
		}
	}
}

// The pace comes close to how long challenges take, and few questions are early.
func TestPace(t *testing.T) {
	var p Pace
	rng := rand.New(rand.NewPCG(3, 4))
	early, waited := 0, time.Duration(0)
	for range 2000 {
		takes := time.Duration(rng.IntN(20_000)) * time.Millisecond
		age := p.wait("a", 0)
		for age < takes {
			early++
			age += p.early("a", age)
		}
		p.shown("a")
		waited += age
	}
	if early > 60 { // 3 % of 2,000, the first included
		t.Errorf("%d questions came too early", early)
	}
	if mean := waited / 2000; mean > 24*time.Second {
		t.Errorf("the challenges, which take 20 s at most, are asked for after %v", mean)
	}
	if p.wait("b", 0) != firstPace {
		t.Error("what is learned of one account is taken for another")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
