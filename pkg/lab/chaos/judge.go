package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// patience is how long no order may come to rest before those that did not are
// called lost. It is longer than the rests that are not scaled down.
const patience = 150 * time.Second

// settle waits until every order rests (it is final, or held), or until nothing
// has come to rest for a long time.
func (s *site) settle(ctx context.Context) error {
	s.tell("settling")
	last, since := -1, time.Now()
	for {
		left, err := s.unrested(ctx)
		if err == nil && left == 0 {
			return nil
		}
		if err == nil && left != last {
			last, since = left, time.Now()
		}
		if time.Since(since) > patience {
			s.tell(fmt.Sprintf("%d orders do not come to rest (%v)", left, err))
			return nil // judge names them
		}
		if err := stream.Sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// unrested counts what is not at rest.
func (s *site) unrested(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	line, err := s.line(ctx)
	if err != nil {
		return 0, err
	}
	inbox, err := line.Pending(ctx)
	if err != nil {
		return 0, err
	}
	counts, err := line.Counts(ctx)
	if err != nil {
		return 0, err
	}
	left := int(inbox)
	for state, n := range counts {
		if !rests(state) {
			left += n
		}
	}
	return left, nil
}

func rests(s order.State) bool { return s.Final() || s == order.Held }

// verdict is what the judging needs.
type verdict struct {
	*site
	report  Report
	orders  map[string]pipeline.Item // last state by id
	entries map[string]ledger.Entry  // by account and names
	paid    map[string]Bought
	ours    map[string]string // paid orders that the ledger knows: what it says of them
	book    []ledger.Placement
	records []Record
	files   []string // FILE challenges, as host and path
	cases   []dossier
}

// dossier is all that is known about one problem.
type dossier struct {
	Problem string         `json:"problem"`
	Orders  []order.Order  `json:"orders,omitempty"`
	Ledger  []ledger.Entry `json:"ledger,omitempty"`
	Cloud   []Bought       `json:"cloud,omitempty"`
}

// judge compares what was acknowledged, what lies in the streams and what the
// clouds have in their books.
func (s *site) judge(ctx context.Context) (Report, error) {
	s.swept(ctx)
	s.tell("judging")
	v := &verdict{site: s, report: s.tally(), orders: map[string]pipeline.Item{}, entries: map[string]ledger.Entry{},
		paid: map[string]Bought{}, ours: map[string]string{}}
	if err := v.read(ctx); err != nil {
		return v.report, fmt.Errorf("judge: %w", err)
	}
	v.lost()
	v.double()
	v.once()
	v.money()
	v.left()
	for _, w := range v.wrong {
		v.problem("%s", nil, w)
	}
	if over := v.clouds.Books().Over; v.rate && len(over) > 0 {
		v.problem("calls were above their account's limit: %s", nil, strings.Join(over, "; "))
	}
	return v.report, errors.Join(v.pairs(ctx), v.kept(ctx), v.panics(), v.file())
}

func (v *verdict) read(ctx context.Context) error {
	line, err := v.line(ctx)
	if err != nil {
		return err
	}
	if n, err := line.Pending(ctx); err == nil && n > 0 {
		v.problem("%d order messages lie in the inbox, and nobody takes them", nil, n)
	}
	states := map[string]int{}
	err = line.List(ctx, "*", func(it pipeline.Item) error {
		if was, twice := v.orders[it.ID()]; twice && rests(was.State) && rests(it.State) {
			v.problem("order %s rests in two states, %s and %s", []string{it.ID()}, it.ID(), was.State, it.State)
		}
		if it.Seq > v.orders[it.ID()].Seq {
			v.orders[it.ID()] = it
		}
		return nil
	}, func(u pipeline.Unread) error {
		v.problem("the record of order %s (%s) cannot be read: %s", []string{u.ID}, u.ID, u.State, u.Why)
		return nil
	})
	if err != nil {
		return err
	}
	// Such a reading may come from a server that lags. One by one they are the
	// leader's word.
	for id := range v.books.acked {
		it, err := line.Last(ctx, id)
		switch {
		case errors.Is(err, pipeline.ErrNoOrder):
			delete(v.orders, id)
		case err != nil:
			return err
		default:
			v.orders[id] = it
		}
	}
	for _, it := range v.orders {
		states[string(it.State)]++
		if it.State == order.Held && it.Hold != nil {
			v.report.Held = plus(v.report.Held, map[string]int{digits.ReplaceAllString(it.Hold.Reason, "#"): 1})
		}
	}
	v.report.States = states
	for _, o := range v.clouds.Books().Orders {
		if o.Paid {
			v.paid[o.Main+"/"+o.ID] = o
		}
	}
	return errors.Join(v.readLedger(ctx), v.readPlaced(ctx))
}

// readLedger reads what is known of all names that were ordered or paid, entry
// by entry.
func (v *verdict) readLedger(ctx context.Context) error {
	l, err := ledger.New(ctx, v.js, 0)
	if err != nil {
		return err
	}
	asked := map[string][]string{} // main account and names
	for _, it := range v.orders {
		if it.Main != "" {
			asked[it.Main+"/"+names(it.Request.Names)] = it.Request.Names
		}
	}
	for _, o := range v.paid {
		asked[o.Main+"/"+names(o.Names)] = o.Names
	}
	for key, of := range asked {
		main, _, _ := strings.Cut(key, "/")
		e, err := l.Read(ctx, main, of)
		if err != nil {
			return err
		}
		v.entries[key] = e
		v.know(e)
	}
	for key, o := range v.paid {
		if !o.Resource {
			continue
		}
		r, err := l.Owner(ctx, o.Main, o.ID)
		if err != nil {
			return err
		}
		if r.Order != "" {
			v.ours[key] = "claimed by " + r.Order
		}
	}
	return nil
}

// know notes which cloud orders an entry accounts for.
func (v *verdict) know(e ledger.Entry) {
	for _, u := range e.Loose() {
		v.ours[e.Main+"/"+u.CloudID] = "unclaimed"
	}
	if _, open := e.OpenAttempt(); open { // one of these rows is its purchase, nobody knows yet which
		for key, o := range v.paid {
			if o.Main == e.Main && names(o.Names) == names(e.Names) {
				v.ours[key] = "open"
			}
		}
	}
	for _, c := range e.Claims {
		v.ours[e.Main+"/"+c.CloudID] = "claimed by " + c.Order
	}
}

// lost: an order that was acknowledged exists and rests, an issued one is
// delivered, and a bad message is kept with its reason.
func (v *verdict) lost() {
	for _, id := range slices.Sorted(maps.Keys(v.books.acked)) {
		it, there := v.orders[id]
		switch {
		case !there:
			v.report.Lost++
			v.problem("order %s was acknowledged and is gone", []string{id}, id)
		case !rests(it.State):
			v.report.Lost++
			v.problem("order %s does not come to rest: %s, %+v, not before %s", []string{id}, id, it.State, it.Wait, it.NotBefore.Format(time.TimeOnly))
		case it.State == order.Issued && !v.delivered(id):
			v.report.Lost++
			v.problem("order %s is issued but not delivered", []string{id}, id)
		case it.State == order.Failed && (it.Failure == nil || it.Failure.Reason == ""), it.State == order.Held && (it.Hold == nil || it.Hold.Reason == "" || len(it.Hold.Commands) == 0):
			v.problem("order %s ended as %s without a reason or a command", []string{id}, id, it.State)
		}
	}
	bad := 0
	for id, it := range v.orders {
		if strings.HasPrefix(id, "bad-") && it.State == order.Failed && it.Failure != nil && it.Failure.Reason != "" {
			bad++
		}
	}
	if bad < v.books.bad {
		v.report.Lost += v.books.bad - bad
		v.problem("%d of %d bad messages are not kept as failed with a reason", nil, v.books.bad-bad, v.books.bad)
	}
}

func (v *verdict) delivered(id string) bool {
	_, err := os.Stat(filepath.Join(v.cfg.Deliver.Directory, id, "fullchain.pem"))
	return err == nil
}

// double: nothing more was paid for a set of names than purchases were
// authorised for it, nor for one key than for its order, nor does an order have
// more claims.
func (v *verdict) double() {
	allowed, asked := map[string]int{}, map[string][]string{}
	byKey := map[string]int{}
	for id, it := range v.orders {
		if it.Account == "" {
			continue
		}
		n := names(it.Request.Names)
		allowed[n] += max(it.Purchase, 1)
		asked[n] = append(asked[n], id)
		if it.Key != nil {
			byKey[it.Key.Fingerprint] += max(it.Purchase, 1)
		}
	}
	claims := map[string]int{} // by order
	for _, e := range v.entries {
		for _, c := range e.Claims {
			claims[c.Order]++
		}
	}
	paid, keys := map[string][]string{}, map[string]int{}
	for key, o := range v.paid {
		paid[names(o.Names)] = append(paid[names(o.Names)], key)
		if o.KeyFP != "" {
			keys[o.KeyFP]++
		}
	}
	for n, ids := range paid {
		over := len(ids) > allowed[n]
		for _, key := range ids {
			fp := v.paid[key].KeyFP
			over = over || fp != "" && byKey[fp] > 0 && keys[fp] > byKey[fp]
		}
		for _, id := range asked[n] {
			over = over || claims[id] > max(v.orders[id].Purchase, 1)
		}
		if over {
			v.report.Double++
			v.problem("%d cloud orders were paid for %s, %d were authorised (orders %v, cloud %v)", asked[n], len(ids), n, allowed[n], asked[n], ids)
		}
	}
}

// once: where a battery says which sets of names it has handed in, each was paid
// for once, in however many orders it stood, and nothing else was.
func (v *verdict) once() {
	if v.sets == nil {
		return
	}
	paid := map[string][]string{}
	for key, o := range v.paid {
		paid[names(o.Names)] = append(paid[names(o.Names)], key)
	}
	for set, must := range v.sets {
		n := len(paid[set])
		switch {
		case n > 1:
			v.report.Double++
			v.problem("%d cloud orders were paid for %s, which stands in a list of one for each (%v)",
				v.asking(strings.Fields(set)), n, set, paid[set])
		case n == 0 && must:
			v.report.Lost++
			v.problem("nothing was bought for %s", v.asking(strings.Fields(set)), set)
		}
		delete(paid, set)
	}
	for set, keys := range paid {
		v.problem("%v were paid for %s, which nobody has handed in", nil, keys, set)
	}
}

// pairs: where a battery says in which key stores a pair may lie, every paid order
// whose key is certmill's has one.
func (v *verdict) pairs(ctx context.Context) error {
	if v.stores == nil {
		return nil
	}
	without, err := v.withoutPair(ctx, v.stores...)
	for _, o := range without {
		v.problem("cloud order %s for %v was paid, and its pair is in no key store", v.asking(o.Names), o.ID, o.Names)
	}
	return err
}

// withoutPair are the paid orders whose key is certmill's and in none of the key
// stores.
func (s *site) withoutPair(ctx context.Context, stores ...string) ([]Bought, error) {
	theirs, err := s.othersKeys(ctx)
	if err != nil {
		return nil, err
	}
	return withoutPair(s.clouds.Books().Orders, theirs, stores...)
}

func withoutPair(bought []Bought, theirs map[string]bool, stores ...string) (all []Bought, err error) {
	known := map[string]bool{}
	for _, dir := range stores {
		store, err := certstore.FindKeyStore(dir)
		if err != nil {
			return nil, err
		}
		err = store.EachPair(func(_ certstore.Ref, k order.Key) error { known[k.Fingerprint] = true; return nil },
			func(_ string, err error) error { return err })
		if err != nil {
			return nil, err
		}
	}
	for _, o := range bought {
		if o.Paid && o.KeyFP != "" && !known[o.KeyFP] && !theirs[names(o.Names)] {
			all = append(all, o)
		}
	}
	return all, nil
}

// othersKeys are the sets of names of the orders whose key the cloud makes, or a
// customer.
func (s *site) othersKeys(ctx context.Context) (map[string]bool, error) {
	line, err := s.line(ctx)
	if err != nil {
		return nil, err
	}
	theirs := map[string]bool{}
	err = line.List(ctx, "*", func(it pipeline.Item) error {
		if it.Account != "" && it.State != order.Submit && (it.Key == nil || it.Key.CSR == "" || it.Request.CSR != "") {
			theirs[names(it.Request.Names)] = true
		}
		return nil
	}, func(pipeline.Unread) error { return nil })
	return theirs, err
}

// money: every paid order is in the ledger, and every claim is a paid order.
func (v *verdict) money() {
	v.report.QuotaCloud = len(v.paid)
	for key, how := range v.ours {
		if _, paid := v.paid[key]; !paid {
			v.report.Difference++
			v.problem("the ledger knows cloud order %s (%s), which the clouds' books do not have as paid", nil, key, how)
			continue
		}
		v.report.QuotaOurs++
		if !strings.HasPrefix(how, "claimed") {
			v.report.Unresolved++
		}
	}
	for key, o := range v.paid {
		if v.ours[key] == "" {
			v.report.Difference++
			v.problem("cloud order %s for %v was paid and the ledger does not know it", v.asking(o.Names), key, o.Names)
		}
	}
}

func (v *verdict) asking(of []string) (ids []string) {
	for id, it := range v.orders {
		if names(it.Request.Names) == names(of) {
			ids = append(ids, id)
		}
	}
	return ids
}

// panics: none of the processes may have.
func (v *verdict) panics() error {
	for _, p := range slices.Concat(v.workers, v.servers) {
		data, err := os.ReadFile(p.log)
		if err != nil {
			return err
		}
		if strings.Contains(string(data), "handler panicked") || strings.Contains(string(data), "goroutine 1 [") {
			v.problem("%s panicked: see %s", nil, p.name, p.log)
		}
	}
	return nil
}

// problem notes something that must not be, with all that is known of the
// orders.
func (v *verdict) problem(format string, ids []string, args ...any) {
	d := dossier{Problem: fmt.Sprintf("%s: "+format, append([]any{v.did.Battery}, args...)...)}
	v.report.Problems = append(v.report.Problems, d.Problem)
	for _, id := range ids {
		it, there := v.orders[id]
		if !there {
			continue
		}
		d.Orders = append(d.Orders, it.Order)
		n := names(it.Request.Names)
		for _, e := range v.entries {
			if names(e.Names) == n {
				d.Ledger = append(d.Ledger, e)
			}
		}
		for _, o := range v.clouds.Books().Orders {
			if names(o.Names) == n {
				d.Cloud = append(d.Cloud, o)
			}
		}
	}
	v.cases = append(v.cases, d)
}

// file leaves what was found beside the logs.
func (v *verdict) file() error {
	if len(v.cases) == 0 {
		return nil
	}
	v.keep = true
	data, err := json.MarshalIndent(v.cases, "", "  ")
	return errors.Join(err, os.WriteFile(filepath.Join(v.dir, "problems.json"), data, 0o600))
}

// digits are what the same reasons differ in: numbers, and the hashes in derived ids.
var digits = regexp.MustCompile(`-[0-9a-f]{12}\b|[0-9]+`)

func names(of []string) string {
	n := slices.Clone(of)
	for i := range n {
		n[i] = strings.ToLower(n[i])
	}
	slices.Sort(n)
	return strings.Join(slices.Compact(n), " ")
}
