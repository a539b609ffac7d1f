package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
	"github.com/certmill/certmill/pkg/stream"
)

// Explanation is why an order is where it is.
type Explanation struct {
	ID       string      `json:"id"`
	State    order.State `json:"state"`
	Account  string      `json:"account,omitempty"`
	Since    time.Time   `json:"since"`              // it is at this stage, pauses of it included
	Cause    string      `json:"cause"`              // short, for grouping
	Blocker  string      `json:"blocker"`            // what it waits for next, a sentence
	Next     time.Time   `json:"next,omitzero"`      // when that is looked at again, where it is known
	Evidence []string    `json:"evidence,omitempty"` // who said what
	Advice   string      `json:"advice,omitempty"`   // of a failure
	Commands []string    `json:"commands,omitempty"` // that help, if any does
}

// facts are what an order's record does not say of the world around it.
type facts struct {
	state  account.State     // of its main account
	wrong  []account.Trouble // with its account: what stops it first
	marked bool              // its list was swept once
	full   []account.Trouble // places that take nothing, without which it does not go on
	said   bool              // that it need not wait for earlier calls (first-use)
	gone   bool              // workers are connected, and its account is in the config of none
	moved  error             // its account is of another main account now than the order was taken for
	open   ledger.Attempt    // of an unsure order
	waits  time.Duration     // how long nobody may say that nothing was bought; 0: not known here
	now    time.Time
}

// explain says why an order is where it is. It is a function of its arguments.
func explain(o order.Order, f facts) Explanation {
	e := Explanation{ID: o.ID(), State: o.State, Account: o.Account, Since: since(o), Next: o.NotBefore}
	e.Evidence = slices.Concat(provisional(o), evidence(o), cloudSaid(o))
	if t := f.stops(); t.What != "" && !o.State.Final() && o.State != order.Held {
		e.Advice = t.Helps
		return e.because(stoppedCause(o.Account), t.What)
	}
	if f.gone && !o.State.Final() && o.State != order.Held {
		e.Advice = stage.WriteAccount(o.Account, o.Main)
		return e.because("account "+o.Account+" is in no worker's config",
			"account "+o.Account+" "+unattended+", so nothing moves it: "+e.Advice)
	}
	if f.moved != nil && !o.State.Final() && o.State != order.Held {
		return e.because("account "+o.Account+" is of another main account now", f.moved.Error())
	}
	switch o.State {
	case order.Submit, order.Verify, order.Issuing, order.Collect:
		if p, rests := f.state.Rest(o.Account, f.now); rests {
			return e.because("account "+o.Account+" is paused", "account "+o.Account+" is paused: "+p.Why).until(p.Until).with("certmill resume " + o.Account)
		}
	}
	if len(f.full) > 0 && !o.State.Final() && o.State != order.Held {
		e.Advice = f.full[0].Helps
		return e.because("a place takes nothing", f.full[0].What)
	}
	switch o.State {
	case order.Submit:
		return submitting(e, o, f)
	case order.Unsure:
		return unsure(e, o, f)
	case order.Waiting:
		return waiting(e, o, f)
	case order.Verify:
		return verifying(e, o)
	case order.Issuing:
		return issuing(e, o)
	case order.Collect:
		return collecting(e, o)
	}
	return resting(e, o)
}

// stops is what stops the order's account; the zero value if nothing does.
func (f facts) stops() (t account.Trouble) {
	if len(f.wrong) > 0 && f.wrong[0].Stops {
		t = f.wrong[0]
	}
	return t
}

func stoppedCause(label string) string { return "account " + label + " is stopped" }

// unswept explains an order that waits for the first sweep of its main account.
func unswept(e Explanation, o order.Order, f facts) Explanation {
	const nothing = "nothing is bought on main account %s until its list was swept once"
	t, refused := needsMending(f.wrong)
	switch {
	case refused:
		e.Advice = t.Helps
		return e.because("credentials of "+o.Account, fmt.Sprintf(nothing, o.Main)+", and "+t.What)
	case f.state.Unswept.Why != "":
		return e.because("first sweep of "+o.Main, fmt.Sprintf(nothing, o.Main)+", which fails: "+f.state.Unswept.Why)
	}
	if f.said {
		return e.because("first sweep of "+o.Main, fmt.Sprintf(nothing, o.Main)+"; certmill first-use was said, so it waits for no earlier calls")
	}
	return e.because("first sweep of "+o.Main, fmt.Sprintf(nothing, o.Main)).
		with("certmill first-use " + o.Account + "   (only if nothing was ever bought there, by an installation whose streams were lost either)")
}

func (e Explanation) because(cause, blocker string) Explanation {
	e.Cause, e.Blocker = cause, blocker
	return e
}

func (e Explanation) with(commands ...string) Explanation {
	e.Commands = append(e.Commands, commands...)
	return e
}

func (e Explanation) until(t time.Time) Explanation {
	if !t.IsZero() {
		e.Next = t
	}
	return e
}

// since is when an order came to its stage. Waiting is a pause of the stage that
// it goes on to.
func since(o order.Order) (at time.Time) {
	stage := o.State
	if stage == order.Waiting {
		stage = o.Wait.Then
	}
	at = o.Received
	for _, ev := range slices.Backward(o.Timeline) {
		if ev.Worker == "cloud" { // a word of the cloud's between two visits
			continue
		}
		if ev.State != stage && ev.State != order.Waiting {
			break
		}
		at = ev.At
	}
	return at
}

// failing is what the last visit stumbled over, "" if it did not.
func failing(o order.Order) string {
	if o.Retries == 0 {
		return ""
	}
	for _, ev := range slices.Backward(o.Timeline) {
		if ev.Worker != "cloud" {
			return ev.Note
		}
	}
	return ""
}

// retrying explains an order whose last visit failed.
func retrying(e Explanation, o order.Order, why string) Explanation {
	return e.because(string(o.State)+" fails: "+short(why), fmt.Sprintf("the last of %d tries failed, and it is tried again: %s", o.Retries, why)).with("certmill cancel " + o.ID())
}

func submitting(e Explanation, o order.Order, f facts) Explanation {
	if o.Main == "" {
		return e.because("main account of "+o.Account, awaitsMain(o.Account))
	}
	if !f.marked {
		return unswept(e, o, f)
	}
	if why := failing(o); why != "" {
		return retrying(e, o, why)
	}
	limit := "10 a second, or what the config says"
	if n := f.state.Limits[o.Operation]; n > 0 {
		limit = fmt.Sprintf("%d a second", n)
	}
	return e.because("its turn: "+o.Operation+" of "+o.Account,
		fmt.Sprintf("it waits for its turn: all orders of main account %s share the permits of %s (%s)", o.Main, o.Operation, limit))
}

func unsure(e Explanation, o order.Order, f facts) Explanation {
	e = e.with("certmill adopt " + o.ID() + " <cloud id>   (if the cloud's console shows its order)")
	if f.open.Opened.IsZero() {
		return e.because("outcome of the purchase unknown", "it is not known whether its call bought anything; the next sweep looks")
	}
	known := f.open.Opened.Add(f.waits)
	e.Evidence = append(e.Evidence, fmt.Sprintf("attempt %d was opened at %s and has no clear answer", f.open.Attempt, clock(f.open.Opened)))
	if f.waits == 0 {
		return e.because("outcome of the purchase unknown", "it is not known whether its call bought anything; the call may still land for as long as the config of account "+o.Account+
			" says (certmill show with the workers' --config tells until when), and only finding it in the cloud's list decides")
	}
	if f.now.Before(known) {
		return e.until(known).because("outcome of the purchase unknown", "it is not known whether its call bought anything; until "+clock(known)+" the call may still land, and only finding it in the cloud's list decides")
	}
	return e.because("outcome of the purchase unknown", "its call could no longer land since "+clock(known)+
		"; nothing was bought if the cloud's list and the product's used count both say so, which the sweep asks again and again")
}

func waiting(e Explanation, o order.Order, f facts) Explanation {
	w := o.Wait
	e = e.until(w.Till)
	switch w.For {
	case order.WaitForSweep:
		if w.What != "" && w.What != o.Main {
			return e.because("first sweep of "+w.What, "main account "+w.What+" may have bought for its names in an earlier life, and its list was not swept since").with("certmill status")
		}
		return unswept(e, o, f)
	case order.WaitForQuota:
		return e.because("no quota of "+w.What, "no quota of "+w.What+" is left at account "+o.Account+": buy some; it is asked for every minute").
			with("certmill resume "+o.Account+" "+w.What+"   (to ask at once)", "certmill cancel "+o.ID())
	case order.WaitForNames:
		stands := "is not issued yet: until it is, or has ended, nothing more is bought for them"
		if w.Open {
			stands = "may have been bought, which is being found out"
		}
		return e.because("another order for the same names", "it waits for order "+w.What+", which has the same names and "+stands).
			with("certmill show " + w.What)
	case order.WaitForResource:
		return e.because("another order has the resource", "it waits for order "+w.What+", which came first to the resource "+o.Resource+
			": until that one gives it back, or has it for good").
			with("certmill show "+w.What, "certmill cancel "+o.ID()+"   (to hand it in with another resource, or with any)")
	case order.WaitForRights:
		return rightsAwaited(e, o)
	case order.WaitForChallenge:
		if other, ok := strings.CutPrefix(w.What, "order "); ok {
			id, _, _ := strings.Cut(other, " ")
			return e.because("another order's file at the same place", w.What).with("certmill show " + id)
		}
		return challenge(e, o, w.What)
	}
	why := w.What
	if why == "" {
		why = lastNote(o)
	}
	return e.because("waits: "+short(why), "it rests: "+cmp.Or(why, "its stage asked for it"))
}

// rightsAwaited: before the purchase it must be known whether challenges can be
// placed.
func rightsAwaited(e Explanation, o order.Order) Explanation {
	zone, first, _ := strings.Cut(o.Wait.What, " ")
	if first == "" {
		return e.because("DNS rights of "+o.Account+" are tried", "nothing was bought yet: it is being tried whether account "+o.Account+" may write in the zone "+zone+"; verifiers do that, and without an answer it goes on")
	}
	return e.because("DNS rights of "+o.Account+" are not sure", "nothing was bought yet: account "+o.Account+" may perhaps not write in the zone "+zone+", so order "+first+" goes first there, and this one when its challenge was placed").
		with("certmill show " + first)
}

func lastNote(o order.Order) string {
	for _, ev := range slices.Backward(o.Timeline) {
		if ev.Note != "" && ev.Worker != "cloud" {
			return ev.Note
		}
	}
	return ""
}

// challenge explains an order whose challenge does not come, or does not show.
func challenge(e Explanation, o order.Order, what string) Explanation {
	if len(o.Challenges) == 0 {
		return e.because("the cloud shows no challenge", "the cloud has not said yet what it wants to see for "+Names(o)+": "+what)
	}
	return e.because("a challenge does not show: "+domains(hidden(o)), "its challenge does not show everywhere: "+what).with("certmill show --now " + o.ID())
}

// hidden are the challenges that the last look did not see.
func hidden(o order.Order) (all []order.Challenge) {
	for _, pr := range o.Proofs {
		if len(pr.Missing) > 0 {
			all = append(all, pr.Challenge)
		}
	}
	return all
}

// domains are the registrable domains of challenges, for grouping.
func domains(of []order.Challenge) string {
	var all []string
	for _, c := range of {
		d, err := publicsuffix.EffectiveTLDPlusOne(strings.TrimPrefix(c.Name, "*."))
		if err != nil {
			d = c.Name
		}
		all = append(all, d)
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}

func verifying(e Explanation, o order.Order) Explanation {
	if all := hidden(o); len(all) > 0 {
		var missing []string
		for _, pr := range o.Proofs {
			missing = append(missing, pr.Missing...)
		}
		return challenge(e, o, strings.Join(missing, "; "))
	}
	if why := failing(o); why != "" {
		return retrying(e, o, why)
	}
	if len(o.Challenges) == 0 {
		return e.because("the cloud shows no challenge", "the cloud has not said yet what it wants to see for "+Names(o))
	}
	return e.because("its challenge is being placed", "its challenge is being placed and looked for")
}

func issuing(e Explanation, o order.Order) Explanation {
	shown := "; the cloud validates its names by itself"
	for _, pr := range o.Proofs {
		if !pr.Seen.IsZero() {
			shown = "; its challenge showed everywhere at " + clock(pr.Seen)
		}
	}
	return e.because("at the CA ("+o.Account+")", "the CA has it as cloud order "+o.CloudID+" since "+clock(e.Since)+shown+"; the sweep asks the cloud's lists").
		with("certmill show --now " + o.ID())
}

func collecting(e Explanation, o order.Order) Explanation {
	if why := failing(o); why != "" {
		return retrying(e, o, why)
	}
	if o.Failure != nil {
		return e.because("cleaning up", "its challenge is taken back before it ends: "+o.Failure.Reason)
	}
	return e.because("being fetched", "its certificate is being fetched and delivered")
}

// resting explains what no worker handles.
func resting(e Explanation, o order.Order) Explanation {
	switch {
	case o.State == order.Held && o.Hold != nil:
		return e.because(cause(o)+": "+short(o.Hold.Reason), o.Hold.Reason).with(o.Hold.Commands...)
	case o.State == order.Failed && o.Failure != nil:
		e = e.because(cause(o), o.Failure.Reason)
		if o.Failure.RequestID != "" {
			e.Evidence = append(e.Evidence, fmt.Sprintf("the cloud answered %s (RequestId %s)", o.Failure.Code, o.Failure.RequestID))
		}
		e.Advice = o.Failure.Advice
		switch {
		case o.OnlyMended():
			e = e.with(stage.HandInMended)
			if o.Request.Contact == (order.Contact{}) {
				e = e.with("certmill retry " + o.ID() + "   (where it was the account's contact, once that is mended in the config)")
			}
		case o.Account != "":
			e = e.with("certmill retry " + o.ID())
		}
		if o.CloudID != "" { // it was paid
			e = e.with(stage.BuysWith(o))
		}
		return e
	case o.State == order.Issued && o.Certificate != nil:
		return e.because("issued", "nothing: its certificate, valid until "+o.Certificate.NotAfter.Format(time.DateOnly)+", is at "+strings.Join(o.Certificate.Delivered, ", "))
	case o.State == order.Archived:
		how := string(order.Issued)
		if o.Failure != nil {
			how = "failed: " + o.Failure.Class
		}
		return e.because("archived", "nothing: it ended ("+how+") and was written out; only its id is left")
	}
	return e.because(string(o.State), "its record does not say; please report it")
}

// provisional says of an order whose cloud order nobody has proved to be its own why
// it is taken for it all the same, and what ends that.
func provisional(o order.Order) []string {
	if !o.Provisional || o.State.Final() {
		return nil
	}
	return []string{
		"cloud order " + o.CloudID + " is taken for it provisionally: its own call got no clear answer, " +
			"and the cloud's list has no other for its names that it could be",
		"    that ends when " + o.CloudID + " is issued and its key is compared: " +
			"with this order's key it is this order's purchase, with another it is somebody else's, and the outcome is unknown again; if " + o.CloudID + " ends without a certificate, the order is held",
		"    until then the attempt is open: the order is neither bought again nor cancelled",
	}
}

// evidence is what was seen of an order's challenges.
func evidence(o order.Order) (all []string) {
	for _, pr := range o.Proofs {
		c := pr.Place()
		where := c.Type + " " + c.Host + c.Path
		if pr.At != "" {
			where += " (where " + pr.Challenge.Host + " leads)"
		}
		switch {
		case pr.Found:
			where += " was there already"
		case !pr.Placed.IsZero():
			where += " placed " + clock(pr.Placed)
		}
		if !pr.Seen.IsZero() {
			where += ", first seen everywhere " + clock(pr.Seen)
		}
		if !pr.Looked.IsZero() {
			where += ", last looked for " + clock(pr.Looked)
		}
		all = append(all, where)
		for _, m := range pr.Missing {
			all = append(all, "    "+m)
		}
	}
	return all
}

// cloudSaid is the cloud's own last word.
func cloudSaid(o order.Order) []string {
	for _, ev := range slices.Backward(o.Timeline) {
		if ev.Worker == "cloud" {
			return []string{strings.TrimSuffix(fmt.Sprintf("%s cloud: %s (RequestId %s)", clock(ev.At), ev.Note, ev.RequestID), " (RequestId )")}
		}
	}
	return nil
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// short makes a cause of a sentence: what differs from order to order is left
// out, so that orders with one cause fall into one group.
func short(s string) string {
	s, _, _ = strings.Cut(s, "; ")
	var out []string
	for _, word := range strings.Fields(s) {
		if strings.ContainsAny(word, "0123456789_") || strings.Count(word, ".") > 1 {
			word = "…"
		}
		if len(out) == 0 || word != "…" || out[len(out)-1] != "…" {
			out = append(out, word)
		}
	}
	const most = 12 // words
	return strings.Join(out[:min(len(out), most)], " ")
}

// Why says in a sentence why an order is where it is, as far as its record
// tells.
func Why(o order.Order) string {
	return explain(o, facts{marked: true, now: time.Now()}).Blocker
}

// Why says in a sentence why an order is where it is, by its record and by how its
// account stands.
func (c *Console) Why(ctx context.Context, o order.Order) string {
	return explain(o, c.facts(ctx, o)).Blocker
}

// facts are those that are at hand without a look into the books.
func (c *Console) facts(ctx context.Context, o order.Order) facts {
	f := facts{now: time.Now(), marked: true, wrong: c.wrong(o.Account, o.Main), gone: c.gone(ctx, o.Account),
		moved: stage.Strayed(o, o.Account, c.mainOf(o.Account))}
	f.full = c.fullFor(o.State)
	if o.Main != "" {
		f.state = c.states.State(o.Main)
		f.marked, f.said = f.state.Marked(c.line.Incarnation()), c.firstUseSaid(f.state)
	}
	return f
}

// Explain says why an order is where it is, and what helps.
func (c *Console) Explain(ctx context.Context, it pipeline.Item) (Explanation, error) {
	f := c.facts(ctx, it.Order)
	if it.State == order.Unsure {
		all, err := c.routes()
		if err != nil {
			return Explanation{}, err
		}
		if a := all[it.Account]; a != nil {
			f.waits = a.Waits.Total()
		}
	}
	if it.State == order.Unsure {
		entry, err := c.ledger.Read(ctx, it.Main, it.Request.Names)
		if err != nil {
			return Explanation{}, err
		}
		if last, ok := entry.Last(it.ID()); ok && last.Ending == ledger.Open {
			f.open = last
		}
	}
	e := explain(it.Order, f)
	return e, c.leftBehind(ctx, it.Order, &e)
}

// leftBehind adds the records of an order that could not be taken back.
func (c *Console) leftBehind(ctx context.Context, o order.Order, e *Explanation) error {
	for _, pr := range o.Proofs {
		pl, err := c.placed.Read(ctx, pr.Place())
		if err != nil {
			return err
		}
		if pl.Why != "" {
			e.Evidence = append(e.Evidence, fmt.Sprintf("left behind at %s since %s: %s", pl.Challenge.Host, clock(pl.Since), pl.Why))
		}
	}
	return nil
}

// Now asks the cloud about an order, and looks for its challenges from outside.
// It returns what they say; nothing is stored. Of an ended order nobody is asked.
func (c *Console) Now(ctx context.Context, o order.Order) ([]string, error) {
	if o.State.Final() {
		return nil, nil
	}
	looker, err := newLooker(c.cfg.DCV)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, pr := range o.Prove() {
		s, err := looker.Look(ctx, pr.Place())
		switch {
		case err != nil:
			return all, err
		case s.Seen:
			all = append(all, "now: "+pr.Place().Host+" shows it everywhere")
		}
		for _, m := range s.Missing {
			all = append(all, "now: "+m)
		}
	}
	if o.CloudID == "" {
		return all, nil
	}
	h, err := c.reach()
	if err != nil {
		return all, err
	}
	a, err := h.accounts.Find(o.Account)
	if err != nil {
		return all, err
	}
	if err := stage.Strayed(o, a.Label, a.Main); err != nil {
		return all, err // its cloud would be asked for what another one knows
	}
	flow := a.Flow(o.Operation)
	if flow == nil {
		return all, fmt.Errorf("%v: it cannot %s any more", a, o.Operation)
	}
	st, err := flow.Look(ctx, o.CloudID)
	if err != nil {
		if err := noWorker(err); errors.Is(err, permit.ErrNoRing) {
			return all, err
		}
		return append(all, "now: the cloud answers: "+err.Error()), nil
	}
	return append(all, "now: "+cloudWord(st)), nil
}

func cloudWord(st issuer.Status) string {
	s := "the cloud says " + issuer.Word(st.Raw)
	if st.Detail != "" {
		s += ": " + st.Detail
	}
	return fmt.Sprintf("%s (RequestId %s)", s, st.RequestID)
}

// Stuck is what does not go on by itself as it should.
type Stuck struct {
	Inbox    uint64             `json:"inbox"`    // order messages that were not taken yet
	Troubles []Trouble          `json:"troubles"` // of no order's own
	Groups   []StuckGroup       `json:"groups"`
	Left     []ledger.Placement `json:"left"` // records that nobody needs and that cannot be removed
}

// StuckGroup is orders with one blocker.
type StuckGroup struct {
	Cause   string      `json:"cause"`
	IDs     []string    `json:"ids"` // none where no order waits for it
	Oldest  time.Time   `json:"oldest"`
	Example Explanation `json:"example"` // the one that waits longest, or what is no order
}

// stuckStates are those in which an order is not at its end.
var stuckStates = []order.State{order.Submit, order.Unsure, order.Waiting, order.Verify, order.Issuing, order.Collect, order.Held}

// Stuck lists the orders that have been at one stage for so long, and those that
// wait, are held or cannot be read, or whose account is stopped, however long, grouped
// by what blocks them: the largest group first. Accounts that are stopped, troubled or
// cannot be read are groups, too, without ids unless orders wait for it.
func (c *Console) Stuck(ctx context.Context, older time.Duration) (Stuck, error) {
	groups := map[string]*StuckGroup{}
	for _, s := range stuckStates {
		err := c.line.List(ctx, s, c.present(ctx, func(it pipeline.Item) error {
			rests := s == order.Waiting || s == order.Held || it.Main == "" || c.stopped(it.Account, it.Main) || c.gone(ctx, it.Account) ||
				stage.Strayed(it.Order, it.Account, c.mainOf(it.Account)) != nil
			if !rests && time.Since(since(it.Order)) < older {
				return nil
			}
			e, err := c.Explain(ctx, it)
			if err == nil {
				group(groups, e)
			}
			return err
		}), func(u pipeline.Unread) error {
			group(groups, unreadable(u))
			return nil
		})
		if err != nil {
			return Stuck{}, err
		}
	}
	for _, u := range c.states.Unreadable() {
		group(groups, unreadableState(u))
	}
	if err := c.stoppedAccounts(ctx, groups); err != nil {
		return Stuck{}, err
	}
	c.troubledAccounts(groups)
	out := Stuck{Groups: []StuckGroup{}, Left: []ledger.Placement{}}
	for _, g := range groups {
		slices.Sort(g.IDs)
		g.IDs = slices.Compact(g.IDs)
		out.Groups = append(out.Groups, *g)
	}
	slices.SortFunc(out.Groups, func(a, b StuckGroup) int {
		return cmp.Or(cmp.Compare(len(b.IDs), len(a.IDs)), a.Oldest.Compare(b.Oldest), strings.Compare(a.Cause, b.Cause))
	})
	var err error
	if out.Troubles, err = c.troubles(ctx); err != nil {
		return Stuck{}, err
	}
	for i := range out.Troubles {
		out.Troubles[i].Helps = slices.DeleteFunc(slices.Clone(out.Troubles[i].Helps), func(s string) bool { return s == seeStuck })
	}
	if out.Inbox, err = c.line.Pending(ctx); err != nil {
		return Stuck{}, err
	}
	out.Left, err = c.Left(ctx)
	return out, err
}

// unreadable explains an order that nobody of this program moves.
func unreadable(u pipeline.Unread) Explanation {
	e := Explanation{ID: u.ID, State: u.State, Since: u.Stored, Evidence: []string{"message " + fmt.Sprint(u.Seq) + " of stream " + pipeline.OrdersStream}}
	if u.Lane != order.NoLane {
		e.Account = strings.TrimSuffix(u.Lane, order.UrgentSuffix)
	}
	if u.Newer {
		return e.because("its record is of a newer certmill", "no worker of this certmill moves it: "+u.Why).with("certmill show " + u.ID + "   (of that certmill, whose workers go on with it)")
	}
	return e.because("its record cannot be read", "no worker moves it: "+u.Why).with(fmt.Sprintf("nats stream get %s %d   (to see what lies there)", pipeline.OrdersStream, u.Seq))
}

// unreadableState explains an account nobody of this program knows anything of.
func unreadableState(u stream.Unreadable) Explanation {
	_, main, _ := strings.Cut(u.Subject, "."+account.Bucket+".")
	e := Explanation{ID: "account " + main, Evidence: []string{fmt.Sprintf("message %d of stream %s", u.Seq, account.StreamName)}}
	return e.because("an account's state cannot be read", "workers of this certmill take every label of main account "+main+" for paused: "+u.Err.Error()).
		with(fmt.Sprintf("nats kv get %s %s --raw   (to see what lies there)", account.Bucket, main))
}

// stoppedAccounts are a group each, whether they have orders or not: those with
// which something is wrong by their clouds' last answers.
func (c *Console) stoppedAccounts(ctx context.Context, groups map[string]*StuckGroup) error {
	all, err := c.accounts(ctx)
	for _, a := range all {
		for _, t := range c.wrong(a.label, a.main) {
			e := Explanation{ID: "account " + a.label, Account: a.label, Since: t.Since, Advice: t.Helps}
			switch {
			case t.Stops:
				e = e.because(stoppedCause(a.label), t.What)
			case t.Code != "":
				e = e.because("credentials of "+a.label, t.What)
			default:
				e = e.because("what the cloud of account "+a.label+" answers", t.What)
			}
			group(groups, e)
		}
	}
	return err
}

// troubledAccounts are a group for each trouble: no order waits for it.
func (c *Console) troubledAccounts(groups map[string]*StuckGroup) {
	for _, main := range c.states.Mains() {
		for _, t := range c.states.State(main).Troubled(time.Now()) {
			if t.Kind == account.Gone {
				continue // told among the troubles: no account has it
			}
			e := Explanation{ID: "account " + main, Since: t.Since, Advice: t.Helps}
			group(groups, e.because(t.Kind+" on "+main, t.What))
		}
	}
}

// group adds an order, or what is none and has no state, to those with its cause.
func group(groups map[string]*StuckGroup, e Explanation) {
	g := groups[e.Cause]
	if g == nil {
		g = &StuckGroup{Cause: e.Cause, IDs: []string{}, Oldest: e.Since, Example: e}
		groups[e.Cause] = g
	}
	if e.State == "" {
		return // an order is the better example
	}
	g.IDs = append(g.IDs, e.ID)
	if g.Example.State == "" || e.Since.Before(g.Oldest) {
		g.Oldest, g.Example = e.Since, e
	}
}

// Left are the records and files that no order needs and that could not be
// removed.
func (c *Console) Left(ctx context.Context) ([]ledger.Placement, error) {
	all := []ledger.Placement{}
	unread, err := c.placed.Each(ctx, func(pl ledger.Placement) error {
		if pl.Why != "" {
			all = append(all, pl)
		}
		return nil
	})
	for _, u := range unread {
		u.Tell(ctx, c.log)
	}
	return all, err
}
