package sky

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// placed is an order. Nothing is ever given back: what was placed was paid.
type placed struct {
	id, main, product string
	names             []string
	csr               *x509.CertificateRequest
	at                time.Time // when it was placed
	shows             time.Time // when the list begins to show it
	asks              time.Time // when it asks for its proofs
	next              time.Time // when it is looked after again
	signs             time.Time // when there will be a certificate; zero: proofs are missing
	busy              bool      // somebody looks after it

	proofs []proof
	chain  string
	until  time.Time // its certificate's end
	why    string    // it was refused
}

// proof is a file that the cloud looks for.
type proof struct {
	Name, Path, Content string
	seen                bool
}

// state is the documented word. Callers hold mu.
func (p *placed) state(now time.Time) string {
	switch {
	case p.why != "":
		return "refused"
	case p.chain != "":
		return "issued"
	case !p.signs.IsZero():
		return "signing"
	case now.Before(p.asks):
		return "accepted"
	}
	return "proving"
}

func (p *placed) open() bool { return p.why == "" && p.chain == "" }

// name draws a name that is not taken.
func (s *Sky) name(prefix string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.named(prefix)
}

func (s *Sky) named(prefix string) string { return fmt.Sprintf("%s-%016x", prefix, s.dice.Uint64()) }

// mostNames is how many names an order may have.
const mostNames = 5

func (s *Sky) placeOrder(by Account, body []byte) (any, error) {
	in, err := read[struct {
		Product    string
		Names      []string
		CSR, Email string
	}](body)
	if err != nil {
		return nil, err
	}
	csr, err := checked(in.CSR, in.Names)
	if err != nil {
		return nil, err
	}
	if in.Email == "" {
		return nil, refuse(http.StatusBadRequest, "BadRequest", "Email is missing")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := plan{by.Main, in.Product}
	bought, sold := s.bought(at)
	switch {
	case !sold:
		return nil, refuse(http.StatusPaymentRequired, "NoSuchPlan", "the account has no plan of product %.40q",
			in.Product)
	case s.used[at] >= bought:
		return nil, refuse(http.StatusPaymentRequired, "PlanEmpty", "nothing is left of product %.40q", in.Product)
	}
	s.used[at]++
	now := time.Now()
	p := &placed{id: s.named("co"), main: by.Main, product: in.Product, names: slices.Clone(in.Names), csr: csr,
		at:    now,
		shows: now.Add(s.drawn(s.cfg.ListLag)), asks: now.Add(s.drawn(s.cfg.ProofDelay))}
	p.next = p.asks
	for _, n := range in.Names {
		p.proofs = append(p.proofs, proof{Name: n, Path: "/.well-known/pki-validation/" + s.named("cirrus") + ".txt",
			Content: s.named("proof")})
	}
	s.orders, s.byID[p.id] = append(s.orders, p), p
	return map[string]string{"Order": p.id}, nil
}

// checked reads the CSR of an order.
func checked(text string, names []string) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, refuse(http.StatusBadRequest, "BadRequest", "CSR is no PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return nil, refuse(http.StatusBadRequest, "BadRequest", "CSR cannot be read")
	}
	asked, has := slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(csr.DNSNames))
	wild := slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "*") })
	if len(names) == 0 || len(names) > mostNames || wild || !slices.Equal(asked, slices.Compact(has)) {
		return nil, refuse(http.StatusBadRequest, "BadRequest",
			"Names are not those of the CSR, more than %d, or wildcards", mostNames)
	}
	return csr, nil
}

// bought is how much of a product an account has, by any of its keys. Callers
// hold mu.
func (s *Sky) bought(at plan) (n int, sold bool) {
	for _, a := range s.keys {
		if has, is := a.Plans[at.product]; is && a.Main == at.main {
			n, sold = max(n, has), true
		}
	}
	return n, sold
}

func (s *Sky) getPlan(by Account, body []byte) (any, error) {
	in, err := read[struct{ Product string }](body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := plan{by.Main, in.Product}
	bought, sold := s.bought(at)
	if !sold {
		return nil, refuse(http.StatusPaymentRequired, "NoSuchPlan", "the account has no plan of product %.40q",
			in.Product)
	}
	return map[string]int{"Bought": bought, "Used": s.used[at]}, nil
}

func (s *Sky) getOrder(by Account, body []byte) (any, error) {
	in, err := read[struct{ Order string }](body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.byID[in.Order]
	if p == nil || p.main != by.Main {
		return nil, refuse(http.StatusNotFound, "NoSuchOrder", "there is no order %.40q", in.Order)
	}
	out := map[string]any{"State": p.state(time.Now()), "Why": p.why, "Chain": p.chain}
	if out["State"] == "proving" {
		out["Proofs"] = slices.Clone(p.proofs)
	}
	return out, nil
}

func (s *Sky) listOrders(by Account, body []byte) (any, error) {
	in, err := read[struct {
		Name       string
		Open       bool
		Page, Size int
	}](body)
	if err != nil {
		return nil, err
	}
	const most = 20
	if in.Page < 0 || in.Size < 1 || in.Size > most {
		return nil, refuse(http.StatusBadRequest, "BadRequest", "Page begins with 0, Size is 1 to %d", most)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	rows := []map[string]any{}
	for _, p := range slices.Backward(s.orders) {
		if p.main == by.Main && !now.Before(p.shows) && (!in.Open || p.open()) && (in.Name == "" ||
			slices.Contains(p.names, in.Name)) {
			rows = append(rows, map[string]any{"Order": p.id, "Product": p.product, "Names": p.names,
				"State": p.state(now), "Placed": p.at, "Until": p.until})
		}
	}
	from := min(in.Page*in.Size, len(rows))
	to := min(from+in.Size, len(rows))
	return map[string]any{"Orders": rows[from:to], "More": to < len(rows)}, nil
}

func (s *Sky) whoAmI(by Account, _ []byte) (any, error) {
	out := map[string]string{"Account": by.Main, "Caller": by.Main, "Kind": "owner"}
	if by.Caller != "" {
		out["Caller"], out["Kind"] = by.Caller, by.Kind
	}
	return out, nil
}

// meter counts the calls of one account and action.
type meter struct {
	Calls
	passed  []time.Time // within the last second, those that were let through
	arrived []time.Time // all of them
}

type meterKey struct{ main, action string }

// Calls are what the cloud saw of one action.
type Calls struct {
	Main, Action string
	Calls        int
	Throttled    int
	OverLimit    int // calls at whose arrival more than the limit lay within a second
	Peak         int // most calls within a second
}

// count counts a call at its arrival and tells whether it is within the limit.
func (s *Sky) count(main, action string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := meterKey{main, action}
	m := s.meters[k]
	if m == nil {
		m = &meter{Calls: Calls{Main: main, Action: action}}
		s.meters[k] = m
	}
	now := time.Now()
	recent := func(all []time.Time) []time.Time {
		return slices.DeleteFunc(all, func(t time.Time) bool { return now.Sub(t) >= time.Second })
	}
	m.passed, m.arrived = recent(m.passed), append(recent(m.arrived), now)
	m.Calls.Calls, m.Peak = m.Calls.Calls+1, max(m.Peak, len(m.arrived))
	if action == unlimited {
		return true
	}
	if len(m.arrived) > s.cfg.Limit {
		m.OverLimit++
	}
	if len(m.passed) >= s.cfg.Limit {
		m.Throttled++
		return false
	}
	m.passed = append(m.passed, now)
	return true
}

// Order is one that was placed, and so paid.
type Order struct {
	Main, ID, Product, State string
	Names                    []string
	KeyFP                    string // SHA-256 of its public key, hex
	Placed                   time.Time
}

// Report is what is in the books.
type Report struct {
	Orders []Order // the oldest first
	Calls  []Calls
	Twice  []string // sets of names for which more than one order was paid that was not refused
}

// Report takes stock.
func (s *Sky) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r Report
	paid := map[string]int{}
	for _, p := range s.orders {
		r.Orders = append(r.Orders, Order{p.main, p.id, p.product, p.state(time.Now()), slices.Clone(p.names),
			fingerprint(p.csr), p.at})
		if p.why == "" {
			paid[strings.Join(slices.Sorted(slices.Values(p.names)), " ")]++
		}
	}
	for _, m := range s.meters {
		r.Calls = append(r.Calls, m.Calls)
	}
	slices.SortFunc(r.Calls, func(a, b Calls) int { return strings.Compare(a.Main+a.Action, b.Main+b.Action) })
	for names, n := range paid {
		if n > 1 {
			r.Twice = append(r.Twice, names)
		}
	}
	slices.Sort(r.Twice)
	return r
}

func fingerprint(csr *x509.CertificateRequest) string {
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
