package stage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// places puts challenges out and takes them back by the book, so that nothing
// of ours is left and nothing of others is touched. The order of the effects:
//
//  1. while the book has no entry, a look whether the record is there already:
//     then it is somebody else's, and stays;
//  2. the entry, which says so;
//  3. the record, and a note in the entry, if it is still there;
//  4. when the last order that needs it ends: the record is removed,
//  5. and then the entry.
//
// A crash after 2 leaves an entry without a record, and one after 4 as well:
// whoever comes next removes nothing, and then the entry. A crash after 3 leaves
// both, as they should be. Who comes is the order's next visit, its end, or
// PlacedSweep.
type places struct {
	book    *ledger.Placed
	solvers map[string]dcv.Solver // by account label
}

func (p places) solver(label string) (dcv.Solver, error) {
	if s := p.solvers[label]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%w: account %q, by which it was placed, is not in the config", dcv.Denied, label)
}

// put places one challenge of an order and notes it in the proof. Safe to
// repeat.
func (p places) put(ctx context.Context, label, id string, pr *order.Proof) error {
	solver, err := p.solver(label)
	if err != nil {
		return err
	}
	at, err := located(ctx, solver, pr.Challenge)
	if err != nil {
		return err
	}
	return p.lay(ctx, solver, at, label, id, pr)
}

// lay places a challenge at its place, as put says.
func (p places) lay(ctx context.Context, solver dcv.Solver, at order.Challenge, label, id string, pr *order.Proof) error {
	pl, fresh, err := p.note(ctx, solver, at, label, id, *pr)
	if err != nil {
		return err
	}
	// A crash here leaves an entry without a record.
	gap.At(ctx, "place: noted")
	if !pl.Found {
		if err := p.book.Keep(pl); err != nil {
			return err
		}
		if err := solver.Present(ctx, at); err != nil {
			return errors.Join(err, p.unplaced(ctx, at, label, id, fresh, err))
		}
		// A crash here leaves a record that the book knows of.
		gap.At(ctx, "place: placed")
		if err := p.confirm(ctx, pl, label, id); err != nil {
			return err
		}
	}
	was, placed := pr.Place(), !pr.Placed.IsZero()
	if pr.At = ""; at.Host != pr.Challenge.Host {
		pr.At = at.Host
	}
	pr.Placed, pr.Found = time.Now().UTC().Truncate(time.Millisecond), pl.Found
	if placed && was != at { // the CNAMEs lead elsewhere now
		_ = p.takeBack(ctx, label, id, order.Proof{Challenge: was, Placed: pr.Placed}, false) // or the sweep does
	}
	return nil
}

func located(ctx context.Context, s dcv.Solver, c order.Challenge) (order.Challenge, error) {
	if l, ok := s.(dcv.Locator); ok {
		return l.Locate(ctx, c)
	}
	return c, nil
}

// note enters the need of an order in the book. fresh means that no order of
// ours had put anything there before.
func (p places) note(ctx context.Context, s dcv.Solver, at order.Challenge, label, id string, pr order.Proof) (pl ledger.Placement, fresh bool, err error) {
	pl, err = p.book.Read(ctx, at)
	if err != nil {
		return pl, false, err
	}
	there, looked := false, !pl.Stored() || pl.Found
	if looked {
		if there, err = has(ctx, s, at); err != nil {
			return pl, false, err
		}
	}
	fresh = !pl.Stored()
	// An order that placed it itself knows that it is ours, also where the book
	// was lost; and so does the book's copy.
	mine := !pr.Placed.IsZero() && !pr.Found && pr.Place() == at || p.book.Kept(at)
	if pl, err = p.book.Need(ctx, at, label, id, there && !mine); err != nil {
		return pl, false, err
	}
	if pl.Found && looked && !there { // they took it away
		pl, err = p.book.Ours(ctx, pl)
	}
	return pl, fresh, err
}

// has asks what is there. Where nobody can tell, the record counts as ours: the
// solver must know which it placed.
func has(ctx context.Context, s dcv.Solver, c order.Challenge) (bool, error) {
	h, ok := s.(dcv.Haser)
	if !ok {
		return false, nil
	}
	there, err := h.Has(ctx, c)
	if errors.Is(err, dcv.ErrNobodyKnows) {
		return false, nil
	}
	return there, err
}

// confirm notes that the record is there. Whoever stood still between the entry
// and the record, for so long that another visit brought the order to its end,
// takes back what it has put there, by an entry of its own, unless another order
// needs it.
func (p places) confirm(ctx context.Context, pl ledger.Placement, label, id string) error {
	still, err := p.book.Confirm(ctx, pl, id)
	if err != nil || still {
		return err
	}
	if err = p.book.Again(ctx, pl.Challenge, label, id); err == nil {
		// A crash here leaves an entry that no order needs: PlacedSweep takes it back.
		err = p.takeBack(ctx, label, id, order.Proof{Challenge: pl.Challenge}, false)
	}
	return errors.Join(errors.New("the challenge was taken back while it was placed"), err)
}

// noting is how long it may take to note what a call may have left, also when the
// time of the visit is over.
const noting = 5 * time.Second

// unplaced is what a call leaves that failed. Where it is clear that nothing of ours
// is there, the entry is taken back: other orders must not wait for one that waits
// itself. Else the entry stays, and comes back if it is gone: the record may come yet.
// A crash before leaves the entry; only if another visit removes that one while the
// call is under way, and this process ends, is a record left that nobody knows.
func (p places) unplaced(ctx context.Context, at order.Challenge, label, id string, fresh bool, why error) error {
	if !forAPerson(why) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noting)
		defer cancel()
		return p.book.Again(ctx, at, label, id)
	}
	if !errors.Is(why, dcv.Conflict) && !fresh {
		return nil
	}
	pl, last, err := p.book.Leave(ctx, at, id)
	if err == nil && last {
		err = p.book.Remove(ctx, pl)
	}
	if errors.Is(err, ledger.ErrConflict) { // another order came to need it
		return nil
	}
	return err
}

func forAPerson(err error) bool {
	return errors.Is(err, dcv.NoZone) || errors.Is(err, dcv.Conflict) || errors.Is(err, dcv.Denied)
}

// inTheWay returns another order of ours whose challenge lies at this one's
// place, if there is one: a cloud may have one path for all orders of a host.
func (p places) inTheWay(ctx context.Context, label, id string, c order.Challenge) (string, error) {
	solver, err := p.solver(label)
	if err != nil {
		return "", err
	}
	at, err := located(ctx, solver, c)
	if err != nil {
		return "", err
	}
	all, err := p.book.At(ctx, at)
	if err != nil {
		return "", err
	}
	for _, pl := range all {
		for _, other := range pl.Orders {
			if other != id && pl.Challenge.Value != c.Value && !pl.Found {
				return other, nil
			}
		}
	}
	return "", nil
}

// takeBack takes an order's challenge away, unless it is others' or another
// order needs it. proved says that a record that was inherited is ours. Safe to
// repeat.
func (p places) takeBack(ctx context.Context, label, id string, pr order.Proof, proved bool) error {
	at := pr.Place()
	pl, last, err := p.book.Leave(ctx, at, id)
	switch {
	case err != nil:
		return err
	case !pl.Stored() && !pr.Placed.IsZero() && (!pr.Found || pr.Inherited && proved):
		// Taken back before, or the book was lost since: the order's own word counts.
		return p.clean(ctx, []string{label}, at)
	case !last:
		return nil
	case pl.Found && !(pr.Inherited && proved):
		if err := p.book.Remove(ctx, pl); !errors.Is(err, ledger.ErrConflict) {
			return err
		}
		return nil
	}
	if hidden, err := p.hidden(ctx, pl, time.Now()); err != nil || hidden {
		return err // the entry stays, and PlacedSweep comes later
	}
	return p.drop(ctx, pl, id)
}

// placing is how far the note of a placement may be from the record: a call, and
// two processes' clocks.
const placing = 10 * time.Second

// hidden tells whether a record may be there that its provider does not list
// yet, because another process placed it a moment ago: to remove it now would
// find nothing, and forget it.
func (p places) hidden(ctx context.Context, pl ledger.Placement, now time.Time) (bool, error) {
	for _, label := range pl.Labels {
		solver, err := p.solver(label)
		if err != nil {
			return false, err
		}
		l, ok := solver.(dcv.Lagger)
		if !ok || l.Lag(pl.Challenge) == 0 || now.Sub(pl.At) >= l.Lag(pl.Challenge)+placing {
			continue
		}
		if there, err := has(ctx, solver, pl.Challenge); err != nil || !there {
			return err == nil, err
		}
	}
	return false, nil
}

// drop removes a record and then its entry.
func (p places) drop(ctx context.Context, pl ledger.Placement, id string) error {
	for range dropTries {
		if err := p.clean(ctx, pl.Labels, pl.Challenge); err != nil {
			return err
		}
		// A crash here leaves an entry without a record.
		gap.At(ctx, "clean up: removed")
		err := p.book.Remove(ctx, pl)
		if !errors.Is(err, ledger.ErrConflict) {
			return err
		}
		// Somebody placed it, or came to need it, while it was removed.
		next, last, err := p.book.Leave(ctx, pl.Challenge, id)
		switch {
		case err != nil || !next.Stored():
			return err
		case !last:
			return p.again(ctx, next)
		}
		pl = next // a late visit of this very order
	}
	return fmt.Errorf("the challenge at %s is placed again and again while it is removed", pl.Challenge.Host)
}

const dropTries = 5

// again puts back what another order needs.
func (p places) again(ctx context.Context, pl ledger.Placement) error {
	solver, err := p.solver(pl.Labels[0])
	if err != nil {
		return err
	}
	return solver.Present(ctx, pl.Challenge)
}

func (p places) clean(ctx context.Context, labels []string, c order.Challenge) error {
	for _, label := range labels {
		solver, err := p.solver(label)
		if err != nil {
			return err
		}
		if err := solver.CleanUp(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// leftBehind notes in the book that a record of an order that ends could not be
// removed, also if the book was lost since it was placed: PlacedSweep goes on trying.
func (p places) leftBehind(ctx context.Context, at order.Challenge, label, id string, why error) error {
	if err := p.book.Again(ctx, at, label, id); err != nil {
		return err
	}
	return p.stuck(ctx, at, why)
}

func (p places) stuck(ctx context.Context, at order.Challenge, why error) error {
	pl, err := p.book.Read(ctx, at)
	if err != nil || !pl.Stored() {
		return err
	}
	return p.book.Stuck(ctx, pl, why.Error(), time.Now().UTC().Add(stuckDistance(pl.Tries)))
}

// stuckDistance is how long a record that could not be removed is left alone.
func stuckDistance(tries int) time.Duration { return min(time.Minute<<min(tries, 12), 6*time.Hour) }

// PlacedSweep removes what a crash, or an order that went another way, left in
// the DNS and on web servers: what the book has, and no order needs any more.
type PlacedSweep struct {
	Accounts Accounts
	Placed   *ledger.Placed
	Solvers  map[string]dcv.Solver
	Line     *pipeline.Line
	Trouble  Trouble
	Log      *slog.Logger
	Now      func() time.Time
	// Older is how old an entry must be before it is looked at: orders that are
	// under way look after theirs.
	Older time.Duration
}

// zoneTries is how often a record is looked for whose zone is gone, before it
// counts as gone with it: over some days.
const zoneTries = 15

// Sweep looks at every entry once, and enters what only the book's copy has. It
// goes on after one that cannot be dealt with; those of one account do not wait
// for another's.
func (s *PlacedSweep) Sweep(ctx context.Context) error {
	var all, old []ledger.Placement
	unread, err := s.Placed.Each(ctx, func(pl ledger.Placement) error {
		all = append(all, pl)
		if s.Now().Sub(pl.At) >= s.Older && !s.Now().Before(pl.Next) {
			old = append(old, pl)
		}
		return nil
	})
	for _, u := range unread {
		u.Tell(ctx, s.Log)
	}
	whole := err == nil
	err = errors.Join(err, s.apart(ctx, old))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if whole { // else what was not read would seem to be lost
		err = errors.Join(err, s.recall(ctx, all))
	}
	return err
}

// apart looks at the entries of all accounts at the same time, and at those of
// one account, or of several that placed the same, one after the other.
func (s *PlacedSweep) apart(ctx context.Context, all []ledger.Placement) error {
	own := map[string][]ledger.Placement{}
	for _, pl := range all {
		labels := strings.Join(pl.Labels, " ")
		own[labels] = append(own[labels], pl)
	}
	errs := make([]error, len(own))
	var wg sync.WaitGroup
	for i, labels := range slices.Sorted(maps.Keys(own)) {
		wg.Go(func() { errs[i] = s.each(ctx, own[labels]) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// each looks at entries one after the other. Once one cannot be removed because
// nobody answers for its zone, the zone's others are left to the next sweep: a
// zone costs one time-out, and not one for each record.
func (s *PlacedSweep) each(ctx context.Context, all []ledger.Placement) (err error) {
	silent := map[string]bool{}
	for _, pl := range all {
		zone := registrable(pl.Challenge.Host)
		if silent[zone] || ctx.Err() != nil {
			continue
		}
		looked := s.carefully(ctx, pl)
		if silent[zone] = errors.Is(looked, errSilent); !silent[zone] {
			err = errors.Join(err, looked)
		}
	}
	return err
}

// carefully looks at one entry. A panic is its own trouble, and no other's.
func (s *PlacedSweep) carefully(ctx context.Context, pl ledger.Placement) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Log.ErrorContext(ctx, "looking after a challenge panicked", "host", pl.Challenge.Host, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic while looking after the challenge at %s: %v", pl.Challenge.Host, p)
		}
	}()
	return s.look(ctx, pl)
}

// errSilent: an entry stays, as is noted in the book, for a reason that may
// concern its zone as a whole.
var errSilent = errors.New("nobody answers for the zone")

// registrable is the domain in which a host lies: what is in one is served by
// the same, as a rule.
func registrable(host string) string {
	if domain, err := publicsuffix.EffectiveTLDPlusOne(strings.TrimSuffix(host, ".")); err == nil {
		return domain
	}
	return host
}

func (s *PlacedSweep) recall(ctx context.Context, known []ledger.Placement) error {
	n, unread, err := s.Placed.Recall(ctx, known)
	for _, u := range unread {
		u.Tell(ctx, s.Log)
	}
	if n > 0 {
		s.Log.WarnContext(ctx, "the copy of what was placed has more than the book, as after a loss of JetStream: entered", "entries", n)
	}
	return err
}

// look decides about one entry.
func (s *PlacedSweep) look(ctx context.Context, pl ledger.Placement) error {
	var needed bool
	var done []string
	for _, id := range pl.Orders {
		it, err := s.Line.Last(ctx, id)
		switch {
		case errors.Is(err, pipeline.ErrNoOrder):
		case errors.Is(err, pipeline.ErrUnreadable): // not ours to judge: it may
			needed = true
			continue
		case err != nil:
			return err
		case needs(it.Order, pl.Challenge):
			needed = true
			continue
		}
		done = append(done, id)
	}
	if needed {
		return s.leave(ctx, pl, done)
	}
	return s.remove(ctx, pl)
}

// needs tells whether an order needs a challenge at its place. One that forgot
// its challenges, to ask for them anew, may get the same again, or the cloud may
// have seen them already and still look at times; so may it while the order is
// held.
func needs(o order.Order, at order.Challenge) bool {
	if o.State.Final() {
		return false
	}
	if len(o.Challenges) == 0 {
		return o.CloudID != ""
	}
	return slices.Contains(o.Challenges, at) || slices.ContainsFunc(o.Prove(), func(pr order.Proof) bool { return pr.Place() == at })
}

// leave takes orders off that do not need it any more, of which others do.
func (s *PlacedSweep) leave(ctx context.Context, pl ledger.Placement, done []string) error {
	for _, id := range done {
		if _, _, err := s.Placed.Leave(ctx, pl.Challenge, id); err != nil {
			return err
		}
	}
	return nil
}

// remove takes back what nobody needs. What cannot be removed stays in the
// book, with the reason, and is tried again at growing distance.
func (s *PlacedSweep) remove(ctx context.Context, pl ledger.Placement) error {
	for _, label := range pl.Labels {
		if a := s.Accounts[label]; a != nil && s.Trouble.paused(a) != nil {
			return nil
		}
	}
	p := places{s.Placed, s.Solvers}
	var err error
	var hidden bool
	if pl.Found {
		err = s.Placed.Remove(ctx, pl)
	} else if hidden, err = p.hidden(ctx, pl, s.Now()); err == nil && !hidden {
		err = p.drop(ctx, pl, pl.Orders[0])
	}
	log := s.Log.With("host", pl.Challenge.Host, "type", pl.Challenge.Type, "orders", strings.Join(pl.Orders, " "))
	switch {
	case hidden: // a later sweep removes it
	case err == nil:
		log.InfoContext(ctx, "removed a challenge that no order needs any more", "found", pl.Found)
	case ctx.Err() != nil || errors.Is(err, ledger.ErrConflict):
		return ctx.Err()
	case errors.Is(err, dcv.NoZone) && pl.Tries >= zoneTries:
		log.WarnContext(ctx, "the zone of a challenge is gone, and so is the challenge", "err", err)
		return s.Placed.Remove(ctx, pl)
	default:
		log.WarnContext(ctx, "cannot remove a challenge that no order needs any more", "tries", pl.Tries+1, "err", err)
		noted := p.stuck(ctx, pl.Challenge, err)
		if noted == nil && !forAPerson(err) {
			return errSilent
		}
		return noted
	}
	return nil
}
