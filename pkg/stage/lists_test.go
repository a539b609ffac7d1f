package stage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
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
	calls       int
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
