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

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// Rights is what is known, and found out, of whether accounts may write where
// challenges will lie. Submitters ask before they buy; verifiers, whose keys write,
// answer: by a check record before the first purchase of a day that needs a zone,
// and by what becomes of challenges. What they know lies in the states of accounts
// (account.Zone), by label, because a label is a key.
type Rights struct {
	States  *account.Accounts
	Checker *preflight.Checker    // tells the zones
	Solvers map[string]dcv.Solver // by account label
}

// place is the zone, or the part of one, in which a name's challenge will lie.
func (r *Rights) place(ctx context.Context, a *Account, name string) (account.ZoneKey, error) {
	at, err := r.Checker.Place(ctx, name)
	return account.ZoneKey{Main: a.Main, Label: a.Label, Zone: dcv.Area(r.Solvers[a.Label], at.Name, at.Zone)}, err
}

// places are those of an order's names, each once. What cannot be told is left out:
// the look at the names says so.
func (r *Rights) places(ctx context.Context, a *Account, names []string) []account.ZoneKey {
	var all []account.ZoneKey
	for _, name := range names {
		if k, err := r.place(ctx, a, name); err == nil && !slices.Contains(all, k) {
			all = append(all, k)
		}
	}
	return all
}

// Known are the findings of what is known of the zones of an order; nobody is
// asked for more.
func (r *Rights) Known(ctx context.Context, p Planned) (all []preflight.Finding) {
	if p.Account == nil || !p.Account.records(p.Request) {
		return nil
	}
	for _, k := range r.places(ctx, p.Account, p.Request.Names) {
		z, err := r.States.Zone(ctx, k)
		if err != nil {
			continue // nobody knows
		}
		for _, f := range rightsFound(k, z, time.Now()) {
			f.Orders, f.Example = []string{p.Request.ID}, p.Request.Names[0]
			all = append(all, f)
		}
	}
	return all
}

// rightsFound is what is known of a zone, in words. What a finding says is the fact
// that an approval lets pass: it is the same as long as the same is wrong.
func rightsFound(k account.ZoneKey, z account.Zone, now time.Time) (all []preflight.Finding) {
	refused := z.Refusals(now)
	for _, kind := range slices.Sorted(maps.Keys(refused)) {
		all = append(all, refusedOwn(k, kind, refused[kind]))
	}
	is, known := z.Checked(now)
	if len(all) > 0 || !known {
		return all
	}
	switch {
	case is.Is == account.CheckAbsent:
		return []preflight.Finding{{Level: preflight.Error, Kind: preflight.ZoneAbsent,
			What: fmt.Sprintf("no solver of account %s has the zone %s", k.Label, k.Zone),
			Do:   "name its solver in dcv.solvers, or order through the account that has it (" + is.Why + ")"}}
	case is.Is == account.CheckRefused && !z.Proved():
		return []preflight.Finding{refusedCheck(k, is)}
	case is.Is == account.CheckUnanswered && !z.Proved():
		return []preflight.Finding{{Level: preflight.Warning, Kind: preflight.Unseen,
			What: fmt.Sprintf("whether account %s may write in the zone %s could not be tried", k.Label, k.Zone),
			Do:   "look whether its DNS provider works (" + is.Why + ")"}}
	}
	return nil
}

func refusedCheck(k account.ZoneKey, is account.Outcome) preflight.Finding {
	return preflight.Finding{Level: preflight.Warning, Kind: preflight.Rights,
		What: fmt.Sprintf("account %s may not write %s in the zone %s", k.Label, dcv.CheckLabel, k.Zone),
		Do: "no harm if its key may write challenges' own names; else let it write TXT and CNAME records there before more is bought " +
			"(" + is.Why + ")"}
}

func refusedOwn(k account.ZoneKey, kind string, r account.Refusal) preflight.Finding {
	f := preflight.Finding{Level: preflight.Error, Kind: preflight.Rights,
		What: fmt.Sprintf("the %s record of a challenge in the zone %s was refused to account %s", kind, k.Zone, k.Label),
		Do:   fmt.Sprintf("let its key write %s records there (%s: %s)", kind, r.Host, r.Why)}
	if r.Zone {
		f.Kind = preflight.ZoneAbsent
		f.What = fmt.Sprintf("account %s found no zone for the %s record of a challenge in %s", k.Label, kind, k.Zone)
		f.Do = fmt.Sprintf("name the solver of that zone in dcv.solvers, or order through the account that has it (%s: %s)", r.Host, r.Why)
	}
	f.Do += "; it is known to be mended when a challenge was placed there: "
	if r.Rests {
		f.Do += fmt.Sprintf("order %s tries that again every few minutes, or approve one order", r.Order)
	} else {
		f.Do += fmt.Sprintf("certmill retry %s tries it again, or approve one order", r.Order)
	}
	return f
}

// trouble is a finding as a person is told of it who looks at the account.
func trouble(f preflight.Finding, now time.Time) account.Trouble {
	return account.Trouble{What: f.What, Helps: f.Do, Last: now.UTC()}
}

// checkSoon is how long a submitter itself waits for a check, which takes a moment;
// then the order waits where it holds no delivery slot.
const (
	checkSoon = 2 * time.Second
	checkPoll = 50 * time.Millisecond
)

// ask has a zone checked of which nothing is known today, once for all who ask,
// and waits a moment for the outcome. settled is false while the order is to wait.
// A crash here leaves a zone that was asked for, and is checked all the same.
func (r *Rights) ask(ctx context.Context, k account.ZoneKey) (z account.Zone, settled bool, err error) {
	if z, err = r.States.Zone(ctx, k); err != nil {
		return z, false, err
	}
	if z.Due(time.Now()) {
		z, _, err = r.States.ChangeZone(ctx, k, func(z *account.Zone) bool {
			now := time.Now()
			if !z.Due(now) {
				return false // another worker was quicker
			}
			z.Asked = now.UTC()
			return true
		})
	}
	for err == nil && z.UnderWay(time.Now()) && time.Since(z.Asked) < checkSoon {
		if err = stream.Sleep(ctx, checkPoll); err == nil {
			z, err = r.States.Zone(ctx, k)
		}
	}
	return z, !z.UnderWay(time.Now()), err
}

// before is what is known of the zones of an order that is about to be bought. The
// verb makes it wait: for a check, or for the order that goes first where the check
// was refused. It waits for no answer that does not come: then that is a finding.
func (r *Rights) before(ctx context.Context, a *Account, o order.Order, hold bool) (all []preflight.Finding, verb error) {
	type zone struct {
		account.ZoneKey
		account.Zone
	}
	look, cancel := context.WithTimeout(ctx, flightTime)
	places := r.places(look, a, o.Request.Names)
	cancel()
	var careful []zone
	for _, k := range places {
		z, settled, err := r.ask(ctx, k)
		switch {
		case errors.Is(err, account.ErrZone):
			continue // nobody can have it; the look at the names says what is wrong
		case err != nil:
			return nil, pipeline.Retry(fmt.Errorf("rights in zone %s: %w", k.Zone, err), 0)
		case !settled:
			return nil, pipeline.Wait(order.Wait{For: order.WaitForRights, What: k.Zone, Till: time.Now().UTC().Add(time.Second)})
		}
		if _, known := z.Checked(time.Now()); !known {
			all = append(all, unanswered(k))
		}
		all = append(all, rightsFound(k, z, time.Now())...)
		if goesFirst(z, time.Now()) {
			careful = append(careful, zone{k, z})
		}
	}
	if !hold || slices.ContainsFunc(all, func(f preflight.Finding) bool { return sure(f, o) }) {
		return all, nil // it is held: it takes no turn
	}
	for _, z := range careful {
		if mine, err := r.turn(ctx, z.ZoneKey, o.ID()); err != nil {
			return nil, pipeline.Retry(fmt.Errorf("rights in zone %s: %w", z.ZoneKey.Zone, err), 0)
		} else if mine != o.ID() {
			return nil, pipeline.Wait(order.Wait{For: order.WaitForRights, What: z.ZoneKey.Zone + " " + mine, Till: time.Now().UTC().Add(time.Second)})
		}
	}
	return all, nil
}

// unanswered: nobody has checked in time. Perhaps no verifier runs.
func unanswered(k account.ZoneKey) preflight.Finding {
	return preflight.Finding{Level: preflight.Warning, Kind: preflight.Unseen,
		What: fmt.Sprintf("whether account %s may write in the zone %s is not known", k.Label, k.Zone),
		Do:   "see with certmill status whether verifiers run"}
}

// turnLasts is how long others wait for what becomes of the challenge of the order
// that goes first. So where the check was refused one order a zone is bought in this
// time, and no more, until it is known.
const turnLasts = 10 * time.Minute

// goesFirst tells whether one order goes first: the check was refused, and nobody
// knows what becomes of challenges.
func goesFirst(z account.Zone, now time.Time) bool {
	is, known := z.Checked(now)
	return known && is.Is == account.CheckRefused && !z.Proved() && len(z.Refusals(now)) == 0
}

// turn takes the turn of a zone if it is free, and returns whose it is. A crash
// afterwards leaves a turn that is over by itself.
func (r *Rights) turn(ctx context.Context, k account.ZoneKey, id string) (mine string, err error) {
	_, _, err = r.States.ChangeZone(ctx, k, func(z *account.Zone) bool {
		now := time.Now().UTC()
		if !goesFirst(*z, now) { // it is known now
			mine = id
			return false
		}
		if taken := z.First; taken.Order != "" && taken.At.After(z.Check.At) && now.Sub(taken.At) < turnLasts {
			mine = taken.Order
			return false
		}
		mine, z.First = id, account.Turn{Order: id, At: now}
		return true
	})
	return mine, err
}

// decided tells whether what a waiting order waits for has come.
func decided(z account.Zone, first string, now time.Time) bool {
	if first == "" {
		return !z.UnderWay(now)
	}
	return !goesFirst(z, now) || z.First.Order != first || now.Sub(z.First.At) >= turnLasts
}

// refused notes that a challenge was refused at its own name: further orders of the
// zone are held before they are bought. Safe to repeat.
func (r *Rights) refused(ctx context.Context, a *Account, o order.Order, c order.Challenge, why error) error {
	if r == nil || c.Type == dcv.FILE || !noRight(why) {
		return nil
	}
	k, err := r.place(ctx, a, c.Name)
	if err != nil {
		return fmt.Errorf("zone of %s: %w", c.Name, err)
	}
	now := time.Now().UTC()
	is := account.Refusal{Order: o.ID(), Host: c.Host, Why: why.Error(), Zone: errors.Is(why, dcv.NoZone), Rests: issuer.KindOf(why) == issuer.Credentials, At: now}
	_, _, err = r.States.ChangeZone(ctx, k, func(z *account.Zone) bool {
		if was, known := z.Refused[c.Type]; known && was.At.Equal(is.At) {
			return false
		}
		if z.Refused == nil {
			z.Refused = map[string]account.Refusal{}
		}
		z.Refused[c.Type] = is
		return true
	})
	if err != nil {
		return err
	}
	// A crash here leaves a refusal that status does not tell; the order's next try
	// does.
	_, err = r.States.TellZone(ctx, k, trouble(refusedOwn(k, c.Type, is), now))
	return err
}

// noRight tells whether an error says that a key or an account cannot write here.
// A conflict at the name is the name's own.
func noRight(err error) bool {
	return errors.Is(err, dcv.NoZone) || errors.Is(err, dcv.Denied) || issuer.KindOf(err) == issuer.Credentials
}

// proved notes that a challenge was placed, or that the cloud needs none (kind is
// empty), where something had been refused: others need not wait. Nearly always
// nothing was, and nothing is asked. Safe to repeat.
func (r *Rights) proved(ctx context.Context, a *Account, name, kind string) error {
	if r == nil || !r.States.State(a.Main).ZoneTroubled(a.Label) {
		return nil
	}
	k, err := r.place(ctx, a, name)
	if err != nil {
		return fmt.Errorf("zone of %s: %w", name, err)
	}
	now := time.Now().UTC()
	z, changed, err := r.States.ChangeZone(ctx, k, func(z *account.Zone) bool {
		_, was := z.Refused[kind]
		if kind == "" {
			was = len(z.Refused) > 0
			clear(z.Refused)
		}
		if !was && (z.Check.Is != account.CheckRefused || z.Proved()) {
			return false
		}
		delete(z.Refused, kind)
		if z.Placed == nil {
			z.Placed = map[string]time.Time{}
		}
		z.Placed[kind] = now
		return true
	})
	if err != nil || !changed || len(z.Refusals(now)) > 0 {
		return err
	}
	// A crash here leaves a trouble that is told for the rest of the day.
	return r.States.Calm(ctx, k.Main, account.DNSRights(k.Label, k.Zone))
}

// Checks answers what submitters ask: it tries whether a solver may write in a
// zone, by a record that is placed and taken back by the book, like a challenge.
type Checks struct {
	Accounts Accounts
	Solvers  map[string]dcv.Solver
	Placed   *ledger.Placed
	States   *account.Accounts
	Log      *slog.Logger

	mu    sync.Mutex
	turns map[string]chan struct{} // by label; owned by mu
}

// checkID is in the place of an order in the book. No order can have it, so the
// book's sweep finds that nobody needs the record, and removes it.
const checkID = dcv.CheckLabel

// Of checks: how many of a label at a time, how long one may take, and how old one
// may be that was asked for.
const (
	checksAtOnce = 8
	checkTime    = 20 * time.Second
	checkTooOld  = 5 * time.Minute
)

// open tells whether a check is asked for that nobody has begun, and that somebody
// may still want.
func open(z account.Zone) bool {
	return z.Asked.After(z.Taken) && time.Since(z.Asked) < checkTooOld
}

// Serve answers until ctx ends.
func (c *Checks) Serve(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	return c.States.FollowZones(ctx, func(k account.ZoneKey, z account.Zone) {
		if !open(z) || c.Solvers[k.Label] == nil {
			return
		}
		wg.Go(func() {
			if err := c.carefully(ctx, k); err != nil && ctx.Err() == nil {
				c.Log.WarnContext(ctx, "what was found of an account's rights could not be stored", "account", k.Label, "zone", k.Zone, "err", err)
			}
		})
	})
}

// carefully answers. A panic is a check without an outcome.
func (c *Checks) carefully(ctx context.Context, k account.ZoneKey) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.Log.ErrorContext(ctx, "a check of an account's rights panicked", "account", k.Label, "zone", k.Zone, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return c.Answer(ctx, k)
}

// Answer tries one zone, unless another worker does. The order of the effects: the
// check is taken; the record is placed by the book; the outcome is noted; the record
// is taken back. A crash after the first leaves a check without an outcome: orders
// go on without one after a while, and it is asked for again later. A crash after
// the record leaves what the book's sweep removes.
func (c *Checks) Answer(ctx context.Context, k account.ZoneKey) error {
	leave, err := c.enter(ctx, k.Label)
	if err != nil {
		return nil
	}
	defer leave()
	_, mine, err := c.States.ChangeZone(ctx, k, func(z *account.Zone) bool {
		if !open(*z) {
			return false
		}
		z.Taken = z.Asked
		return true
	})
	if err != nil || !mine {
		return err
	}
	gap.At(ctx, "check: taken")
	pr := order.Proof{Challenge: order.Challenge{Name: k.Zone, Type: dcv.TXT, Host: dcv.CheckLabel + "." + k.Zone, Value: dcv.CheckValue(k.Label)}}
	why := c.try(ctx, k, &pr)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	gap.At(ctx, "check: tried")
	if err := c.note(ctx, k, outcome(why)); err != nil {
		return err
	}
	gap.At(ctx, "check: noted")
	if why != nil {
		return nil
	}
	return c.takeBack(ctx, k, pr)
}

// enter waits for a turn of a label: one whose DNS does not answer holds up itself.
func (c *Checks) enter(ctx context.Context, label string) (leave func(), err error) {
	c.mu.Lock()
	if c.turns == nil {
		c.turns = map[string]chan struct{}{}
	}
	turns := c.turns[label]
	if turns == nil {
		turns = make(chan struct{}, checksAtOnce)
		c.turns[label] = turns
	}
	c.mu.Unlock()
	select {
	case turns <- struct{}{}:
		return func() { <-turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// try places the record. CNAMEs of the check's own name are not followed: the zone
// is where challenges were found to lie, and a wildcard may lead the name elsewhere.
func (c *Checks) try(ctx context.Context, k account.ZoneKey, pr *order.Proof) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	p := places{c.Placed, c.Solvers}
	solver, err := p.solver(k.Label)
	if err != nil {
		return err
	}
	return p.lay(ctx, solver, pr.Challenge, k.Label, checkID, pr)
}

// outcome is what an error says of the rights.
func outcome(err error) account.Outcome {
	is := account.Outcome{Is: account.CheckUnanswered, At: time.Now().UTC()}
	switch {
	case err == nil:
		is.Is = account.CheckPassed
	case errors.Is(err, dcv.NoZone):
		is.Is = account.CheckAbsent
	case noRight(err):
		is.Is = account.CheckRefused
	}
	if err != nil {
		is.Why = err.Error()
	}
	return is
}

func (c *Checks) note(ctx context.Context, k account.ZoneKey, is account.Outcome) error {
	z, _, err := c.States.ChangeZone(ctx, k, func(z *account.Zone) bool {
		z.Check = is
		return true
	})
	if err != nil {
		return err
	}
	found := rightsFound(k, z, is.At)
	if len(found) == 0 {
		return c.States.Calm(ctx, k.Main, account.DNSRights(k.Label, k.Zone))
	}
	c.Log.WarnContext(ctx, "an account may perhaps not write where challenges will lie", "account", k.Label, "zone", k.Zone,
		"outcome", is.Is, "why", is.Why)
	if is.Is == account.CheckUnanswered {
		return nil // the orders say so; it may be over in a moment
	}
	_, err = c.States.TellZone(ctx, k, trouble(found[0], is.At))
	return err
}

// takeBack removes the record again; what cannot be removed stays in the book, whose
// sweep goes on trying, and is told: challenges would be left behind, too.
func (c *Checks) takeBack(ctx context.Context, k account.ZoneKey, pr order.Proof) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	p := places{c.Placed, c.Solvers}
	err := p.takeBack(ctx, k.Label, checkID, pr, false)
	if err == nil {
		return nil
	}
	c.Log.WarnContext(ctx, "the record of a check could not be removed", "account", k.Label, "zone", k.Zone, "err", err)
	left := p.leftBehind(ctx, pr.Place(), k.Label, checkID, err)
	if !noRight(err) {
		return left
	}
	_, told := c.States.TellZone(ctx, k, account.Trouble{Last: time.Now().UTC(),
		What:  fmt.Sprintf("account %s may add records in the zone %s, and not remove them: challenges are left behind there", k.Label, k.Zone),
		Helps: "let its key delete TXT and CNAME records there (" + err.Error() + "); what is left is removed then"})
	return errors.Join(left, told)
}

// waitsFor are zone and order of a wait for rights.
func waitsFor(w order.Wait) (zone, first string) {
	zone, first, _ = strings.Cut(w.What, " ")
	return zone, first
}
