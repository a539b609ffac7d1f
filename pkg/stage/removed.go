package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// Removed finds the orders that the ledger or the key store know and of which
// there is no message: nothing of ours ever removes the last one, so somebody has
// done it with another tool. What these two do not know yet has cost nothing.
type Removed struct {
	Ledger *ledger.Ledger
	States *account.Accounts
	Line   *pipeline.Line
	Keys   KeyLister // nil: not at hand
	Log    *slog.Logger
	Now    func() time.Time
}

// BringsBack is what helps an order whose message was removed: a successor is made
// anew by the order that it follows, and gets its id again.
func BringsBack(o account.RemovedOrder) string {
	if o.Of != "" {
		return "certmill buy-again " + o.Of + "   (which makes " + o.Order + " anew, as the message with again: " + o.Of + " does that ordered it: " +
			"it goes on with its key and with what was bought, and nothing is bought twice)"
	}
	return handInAgain
}

const handInAgain = "hand the order in again, or its whole file: it goes on with its key and with what was bought, and nothing is bought twice"

// KeyLister is a key store that can say of which orders something was stored since a
// time.
type KeyLister interface {
	Touched(since time.Time) (ids []string, err error)
}

// mostRemoved bounds how many are kept in an account's state.
const mostRemoved = 100

// Sweep notes them in the account's state, where every command sees them, and
// tells of each once. What was handed in again is taken off.
func (r *Removed) Sweep(ctx context.Context, a *Account) error {
	found, err := r.Find(ctx, a.Main)
	if err != nil {
		return err
	}
	was := r.States.State(a.Main).Removed
	told := map[string]account.RemovedOrder{}
	for _, o := range was {
		told[o.Order] = o
	}
	for i, o := range found {
		if before, known := told[o.Order]; known {
			found[i].Since = before.Since
			continue
		}
		r.Log.ErrorContext(ctx, "an order's message was removed from stream "+pipeline.OrdersStream+", and not by certmill; nothing goes on with it; what helps: "+BringsBack(o),
			"order", o.Order, "names", o.Names, "main", a.Main, "known", o.Known)
	}
	if slices.EqualFunc(was, found, func(x, y account.RemovedOrder) bool { return x.Order == y.Order }) {
		return nil
	}
	return r.States.Change(ctx, a.Main, func(s *account.State) { s.Removed = found })
}

// Find lists them for one main account, by id. Orders of an earlier life of the
// streams are not among them: that these are gone was told when it began.
func (r *Removed) Find(ctx context.Context, main string) ([]account.RemovedOrder, error) {
	known, err := r.known(ctx, main) // before the orders: each of them was there by then
	if err != nil || len(known) == 0 {
		return nil, err
	}
	there, err := r.Line.IDs(ctx)
	if err != nil {
		return nil, err
	}
	var all []account.RemovedOrder
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if _, is := there[id]; is {
			continue
		}
		// The list may be that of a server which lags.
		if _, err := r.Line.Last(ctx, id); !errors.Is(err, pipeline.ErrNoOrder) {
			continue
		}
		o := known[id]
		if o.Of, err = r.predecessor(ctx, id, there); err != nil {
			return nil, err
		}
		if all = append(all, o); len(all) == mostRemoved {
			break
		}
	}
	return all, nil
}

// predecessor is the order whose successor had this id, and would get it again.
func (r *Removed) predecessor(ctx context.Context, id string, there map[string]struct{}) (string, error) {
	at := strings.LastIndexByte(id, '-')
	n, err := strconv.Atoi(id[at+1:])
	if at < 1 || err != nil || n < 2 {
		return "", nil
	}
	of := id[:at]
	if n > 2 {
		of = order.Numbered(of, n-1)
	}
	if _, is := there[of]; !is {
		return "", nil // also where the base of a long id was cut: then its file is all that is said
	}
	it, err := r.Line.Last(ctx, of)
	if err != nil {
		return "", ignore(err, pipeline.ErrNoOrder, pipeline.ErrUnreadable)
	}
	next, _, made, err := Succession{Line: r.Line}.Find(ctx, it.Order)
	if err != nil || made || next != id || !it.Ended() && it.State != order.Held {
		return "", ignore(err, pipeline.ErrUnreadable)
	}
	return of, nil
}

// ignore is the error, unless it is one of these.
func ignore(err error, these ...error) error {
	for _, is := range these {
		if errors.Is(err, is) {
			return nil
		}
	}
	return err
}

// known are the orders that something is known of since this life of the streams
// began.
func (r *Removed) known(ctx context.Context, main string) (map[string]account.RemovedOrder, error) {
	since, all := r.Line.Since(), map[string]account.RemovedOrder{}
	add := func(id string, names []string, at time.Time, how string) {
		if !at.Before(since) {
			all[id] = account.RemovedOrder{Order: id, Names: names, Since: r.Now().UTC(), Known: how}
		}
	}
	if err := r.ofKeys(since, add); err != nil {
		return nil, err
	}
	_, err := r.Ledger.Each(ctx, main, func(e ledger.Entry) error {
		for _, a := range e.Attempts {
			add(a.Order, e.Names, a.Opened, fmt.Sprintf("the ledger has its attempt %d (%s)", a.Attempt, a.Ending))
		}
		for _, c := range e.Claims {
			add(c.Order, e.Names, c.At, "the ledger has its cloud order "+c.CloudID)
		}
		return nil
	})
	return all, err
}

func (r *Removed) ofKeys(since time.Time, add func(string, []string, time.Time, string)) error {
	if r.Keys == nil {
		return nil
	}
	ids, err := r.Keys.Touched(since)
	for _, id := range ids {
		add(id, nil, since, "the key store has its key")
	}
	return err
}
