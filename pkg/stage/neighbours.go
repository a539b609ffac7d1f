package stage

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
)

// Neighbours notice that somebody else uses an account: another installation, a
// program, a person at the console. It cannot be prevented that two buy the same
// names at the same moment, because the clouds have no idempotency token; so it is
// told, by three signs:
//
//   - a cloud order that no order of ours has, made after our first sweep;
//   - a product's used count that grows by more than was bought here;
//   - throttling while we keep below our own rate (Throttled).
//
// What it knows lies in memory; another replica learns it again. A sign stops
// nothing: what stops a purchase is an unclaimed row for its names.
type Neighbours struct {
	Ledger      *ledger.Ledger
	States      *account.Accounts
	Incarnation string // of the streams
	Log         *slog.Logger
	Now         func() time.Time
	// Counts: the ledger's news and the products' counts are compared as well,
	// which takes the rights of a submitter. Else only rows that were seen.
	Counts bool

	mu    sync.Mutex
	mains map[string]*neighbourhood
}

// neighbourhood is what is known of one main account.
type neighbourhood struct {
	sync.Mutex // held while one sweeps; guards all below
	upTo       uint64
	bought     map[string]map[attempt]time.Time // by product: when their entries were opened
	count      map[string]ledger.Used           // a reading to compare with, by product
	rows       map[string]issuer.Row            // of lists, that nobody seems to have
}

// attempt tells one purchase from another.
type attempt struct {
	order  string
	number int
}

// What the signs allow for: a call whose answer is under way, and clocks that
// differ.
const (
	ownerless   = 30 * time.Second // a row that is so old and has no owner is nobody's here
	counted     = time.Minute      // an entry was opened so long before the count may show it
	compareFor  = 30 * time.Minute // a reading is compared with
	mostUnowned = 10_000           // rows that are remembered
)

func (n *Neighbours) of(main string) *neighbourhood {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mains == nil {
		n.mains = map[string]*neighbourhood{}
	}
	if n.mains[main] == nil {
		n.mains[main] = &neighbourhood{bought: map[string]map[attempt]time.Time{}, count: map[string]ledger.Used{}, rows: map[string]issuer.Row{}}
	}
	return n.mains[main]
}

// Saw takes rows of the account's lists that belong to no order that the caller
// knows of. They are looked at by the next sweep: it may be a moment until the
// ledger has what was bought.
func (n *Neighbours) Saw(a *Account, rows ...issuer.Row) {
	if n == nil || len(rows) == 0 {
		return
	}
	h := n.of(a.Main)
	h.Lock()
	defer h.Unlock()
	for _, row := range rows {
		if row.CloudID != "" && len(h.rows) < mostUnowned {
			h.rows[row.CloudID] = row
		}
	}
}

// Sweep looks for the signs at one main account.
func (n *Neighbours) Sweep(ctx context.Context, a *Account) error {
	h := n.of(a.Main)
	h.Lock()
	defer h.Unlock()
	mark := n.States.State(a.Main).Mark
	if mark.Incarnation != n.Incarnation {
		return nil // what was there before us is nobody's fault
	}
	if n.Counts {
		if err := n.read(ctx, a, h, mark.At); err != nil {
			return err
		}
	}
	if err := n.unowned(ctx, a, h, mark.At); err != nil || !n.Counts {
		return err
	}
	return n.counts(ctx, a, h)
}

// read learns what was written into the ledger since the last sweep: purchases,
// and rows that nobody claims.
func (n *Neighbours) read(ctx context.Context, a *Account, h *neighbourhood, mark time.Time) (err error) {
	h.upTo, err = n.Ledger.Since(ctx, a.Main, h.upTo, func(e ledger.Entry) error {
		for _, at := range e.Attempts {
			if at.Ending == ledger.Bought || at.Ending == ledger.Open {
				h.noted(at)
			}
		}
		if _, open := e.OpenAttempt(); open {
			return nil // it may be the attempt's own
		}
		for _, u := range e.Loose() {
			if u.Created.After(mark) && len(u.Shown) == 0 { // once, by the names that are shown
				h.rows[u.CloudID] = issuer.Row{CloudID: u.CloudID, Names: e.Names, Product: u.Product, Created: u.Created}
			}
		}
		return nil
	})
	return err
}

// noted remembers a purchase, once.
func (h *neighbourhood) noted(at ledger.Attempt) {
	if h.bought[at.Product] == nil {
		h.bought[at.Product] = map[attempt]time.Time{}
	}
	h.bought[at.Product][attempt{at.Order, at.Attempt}] = at.Opened
}

// unowned looks who has the rows that were seen, and tells of the first that
// nobody has.
func (n *Neighbours) unowned(ctx context.Context, a *Account, h *neighbourhood, mark time.Time) error {
	var theirs []issuer.Row
	for id, row := range h.rows {
		switch mine, err := n.mine(ctx, a, row); {
		case err != nil:
			return err
		case mine, !row.Created.After(mark):
			delete(h.rows, id)
		case n.Now().Sub(row.Created) >= ownerless:
			delete(h.rows, id)
			theirs = append(theirs, row)
		}
	}
	if len(theirs) == 0 {
		return nil
	}
	row := theirs[0]
	n.tell(ctx, a, account.Trouble{Kind: account.Elsewhere,
		What: fmt.Sprintf("somebody else orders on main account %s: cloud order %s for %s, made at %s, is no order's of this installation%s",
			a.Main, row.CloudID, strings.Join(row.Names, " "), row.Created.UTC().Format(time.RFC3339), andMore(len(theirs)-1)),
		Helps: "let one installation alone have the account: two buy the same names twice where they begin at the same moment, and share its calls a second; " +
			"what was ordered by hand: certmill surplus"})
	return nil
}

func andMore(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", and so are %d more", n)
}

// mine tells whether a row is an order's of this installation, or may become one's:
// an attempt for its names is open.
func (n *Neighbours) mine(ctx context.Context, a *Account, row issuer.Row) (bool, error) {
	o, err := n.Ledger.Owner(ctx, a.Main, row.CloudID)
	if err != nil || o.Order != "" {
		return true, err
	}
	if len(row.Names) == 0 {
		return false, nil
	}
	for _, names := range order.MayBeFor(row.Names) {
		e, err := n.Ledger.Read(ctx, a.Main, names)
		if err != nil {
			return true, err
		}
		_, open := e.OpenAttempt()
		if _, claimed := e.Claimed(row.CloudID); open || claimed {
			return true, nil
		}
	}
	return false, nil
}

// counts compares each product's used count with what was bought here.
func (n *Neighbours) counts(ctx context.Context, a *Account, h *neighbourhood) error {
	for product := range h.bought {
		now, counts, err := usageOf(ctx, a, product)
		if err != nil {
			return err
		}
		if !counts {
			continue
		}
		base, known := h.count[product]
		if growth, own := now.Used-base.Count, h.since(product, base.Read); known && growth > own {
			n.tell(ctx, a, account.Trouble{Kind: account.Growth,
				What: fmt.Sprintf("somebody else buys on main account %s: the used count of %s grew by %d between %s and %s, and this installation bought %d at most",
					a.Main, product, growth, base.Read.UTC().Format(time.RFC3339), now.Read.UTC().Format(time.RFC3339), own),
				Helps: "see in the cloud's console who orders there; let one installation alone have the account, and a plan that others use no part of it"})
			known = false
		}
		if !known || now.Read.Sub(base.Read) > compareFor {
			h.count[product] = ledger.Used{Count: now.Used, Read: now.Read}
			h.forget(product, now.Read)
		}
	}
	return nil
}

// usageOf reads a product's count, if one of the account's flows tells it.
func usageOf(ctx context.Context, a *Account, product string) (u issuer.Usage, counts bool, err error) {
	if product == "" {
		return u, false, nil
	}
	for _, f := range a.Cloud.Flows() {
		if c, ok := f.(issuer.Counter); ok && f.Spends() {
			u, err = c.Usage(ctx, product)
			return u, err == nil, err
		}
	}
	return u, false, nil
}

// since counts the purchases of a product that a reading may not have had yet.
func (h *neighbourhood) since(product string, read time.Time) (n int64) {
	for _, opened := range h.bought[product] {
		if opened.After(read.Add(-counted)) {
			n++
		}
	}
	return n
}

// forget those that the reading has; the product stays known.
func (h *neighbourhood) forget(product string, read time.Time) {
	maps.DeleteFunc(h.bought[product], func(_ attempt, opened time.Time) bool { return !opened.After(read.Add(-counted)) })
}

// Throttled takes note that the cloud throttled calls of an action although fewer
// than its limit were made.
func (n *Neighbours) Throttled(ctx context.Context, main, label, action string, times, limit int) {
	n.tell(ctx, &Account{Label: label, Main: main}, account.Trouble{Kind: account.Throttled,
		What: fmt.Sprintf("somebody else calls %s of main account %s, or the cloud allows less than %d calls a second: it throttled %d calls although this installation kept below",
			action, main, limit, times),
		Helps: fmt.Sprintf("find the other program, installation or console; or give certmill its share: certmill limit %s %s <calls a second>", label, action)})
}

// tell keeps a sign, and logs it once an hour.
func (n *Neighbours) tell(ctx context.Context, a *Account, t account.Trouble) {
	t.Last = n.Now().UTC().Truncate(time.Second)
	news, err := n.States.Tell(ctx, a.Main, t)
	switch {
	case err != nil && ctx.Err() == nil:
		n.Log.WarnContext(ctx, "a trouble of an account could not be kept", "main", a.Main, "what", t.What, "err", err)
	case news:
		n.Log.ErrorContext(ctx, t.What, "main", a.Main, "helps", t.Helps)
	}
}
