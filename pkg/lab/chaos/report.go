package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Report is what a battery, or all of them, did and found.
type Report struct {
	Battery string `json:"battery,omitempty"` // empty: all of them
	Seed    uint64 `json:"seed"`
	Orders  int    `json:"orders"` // handed in and acknowledged, bad ones too

	// What was done.
	Kills         int            `json:"kills"`                  // kill -9 of workers and servers
	Freezes       int            `json:"freezes,omitempty"`      // SIGSTOP of workers and servers
	Faults        int            `json:"faults"`                 // calls that the clouds made go wrong
	LeaderChanges int            `json:"leader_changes"`         // of stream ORDERS
	LateLanded    int            `json:"late_landed,omitempty"`  // late create calls that took effect
	LateRefused   int            `json:"late_refused,omitempty"` // and that came after their signature's life
	Wipes         int            `json:"wipes,omitempty"`        // JetStream lost
	Restores      int            `json:"restores,omitempty"`     // JetStream put back to an earlier copy
	Exits         int            `json:"exits,omitempty"`        // of workers, by themselves
	Rolls         int            `json:"rolls,omitempty"`        // of workers, to the other of two builds
	Edits         int            `json:"edits,omitempty"`        // by somebody with the stock nats command
	PutBack       int            `json:"put_back,omitempty"`     // orders whose message was removed while they were worked on
	Fills         int            `json:"fills,omitempty"`        // times the disk was full
	Lists         int            `json:"lists,omitempty"`        // times a list was handed in
	Vaults        int            `json:"vaults,omitempty"`       // times the key store was taken away
	Open          int            `json:"open,omitempty"`         // calls of unknown outcome when accounts were mixed up
	Narrow        int            `json:"narrow,omitempty"`       // orders that were held because of what a caller is shown
	NotRun        string         `json:"not_run,omitempty"`      // why a battery could not be run here
	Gaps          map[string]int `json:"gaps,omitempty"`         // where workers were frozen

	// What was found.
	Lost       int            `json:"lost"`           // acknowledged orders that vanished or never come to rest
	Double     int            `json:"double"`         // sets of names for which more was paid than was authorised
	States     map[string]int `json:"states"`         // orders by their last state
	Held       map[string]int `json:"held,omitempty"` // held orders by reason, digits as #
	QuotaCloud int            `json:"quota_cloud"`    // paid orders, by the clouds' books
	QuotaOurs  int            `json:"quota_ours"`     // by the ledger
	Unresolved int            `json:"unresolved"`     // of ours: known to the ledger, but no order's claim (open, or unclaimed)
	Difference int            `json:"difference"`     // paid orders that the ledger does not know, or the clouds do not
	Left       int            `json:"left"`           // records of ours in the DNS that no held order accounts for
	OverLimit  int            `json:"over_limit"`     // calls above an account's limit in a sliding second
	Ratio      float64        `json:"ratio,omitempty"`
	Problems   []string       `json:"problems,omitempty"`

	Seconds   float64  `json:"seconds"`
	Kept      string   `json:"kept,omitempty"` // folder with logs, streams and problems.json
	Batteries []Report `json:"batteries,omitempty"`
}

// OK tells whether nothing was found.
func (r Report) OK() bool {
	return r.Lost == 0 && r.Double == 0 && r.Difference == 0 && r.Left == 0 && len(r.Problems) == 0
}

// merge adds another run of the same battery.
func (r *Report) merge(o Report) {
	r.Orders += o.Orders
	r.Kills, r.Freezes, r.Faults, r.LeaderChanges = r.Kills+o.Kills, r.Freezes+o.Freezes, r.Faults+o.Faults, r.LeaderChanges+o.LeaderChanges
	r.LateLanded, r.LateRefused, r.Wipes, r.Restores = r.LateLanded+o.LateLanded, r.LateRefused+o.LateRefused, r.Wipes+o.Wipes, r.Restores+o.Restores
	r.Lost, r.Double, r.Difference, r.OverLimit = r.Lost+o.Lost, r.Double+o.Double, r.Difference+o.Difference, r.OverLimit+o.OverLimit
	r.QuotaCloud, r.QuotaOurs, r.Unresolved = r.QuotaCloud+o.QuotaCloud, r.QuotaOurs+o.QuotaOurs, r.Unresolved+o.Unresolved
	r.Exits += o.Exits
	r.Rolls, r.Edits, r.PutBack, r.Fills = r.Rolls+o.Rolls, r.Edits+o.Edits, r.PutBack+o.PutBack, r.Fills+o.Fills
	r.Lists, r.Vaults, r.Open, r.Narrow = r.Lists+o.Lists, r.Vaults+o.Vaults, r.Open+o.Open, r.Narrow+o.Narrow
	r.NotRun = cmp.Or(r.NotRun, o.NotRun)
	r.Left += o.Left
	r.Problems = append(r.Problems, o.Problems...)
	if o.Ratio > 0 {
		r.Ratio = o.Ratio
	}
	r.States, r.Gaps, r.Held = plus(r.States, o.States), plus(r.Gaps, o.Gaps), plus(r.Held, o.Held)
}

// add adds a battery to the report of all.
func (r *Report) add(b Report) {
	r.merge(b)
	r.Ratio, r.Gaps, r.NotRun = 0, nil, ""
	r.Batteries = append(r.Batteries, b)
}

func plus(a, b map[string]int) map[string]int {
	if a == nil {
		a = map[string]int{}
	}
	for k, n := range b {
		a[k] += n
	}
	return a
}

// Text is the report for people.
func (r Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %6s %5s %6s %6s %7s %5s %4s %6s %6s %4s %4s  %s\n", "battery", "orders", "kills", "frozen", "faults", "leaders", "lost", "dbl", "cloud", "ours", "diff", "left", "orders by state")
	for _, l := range append(slices.Clone(r.Batteries), r) {
		name := l.Battery
		if name == "" {
			name = "all"
		}
		fmt.Fprintf(&b, "%-12s %6d %5d %6d %6d %7d %5d %4d %6d %6d %4d %4d  %s\n", name, l.Orders, l.Kills, l.Freezes, l.Faults, l.LeaderChanges,
			l.Lost, l.Double, l.QuotaCloud, l.QuotaOurs, l.Difference, l.Left, l.states())
	}
	for _, l := range r.Batteries {
		if more := l.more(); more != "" {
			fmt.Fprintf(&b, "%s: %s\n", l.Battery, more)
		}
	}
	for _, p := range r.Problems {
		fmt.Fprintln(&b, "PROBLEM", p)
	}
	fmt.Fprintf(&b, "seed %d, %.0f s\n", r.Seed, r.Seconds)
	if r.Kept != "" {
		fmt.Fprintf(&b, "logs, streams and problems.json are kept in %s\n", r.Kept)
	}
	return b.String()
}

func (r Report) states() string {
	var parts []string
	for _, s := range slices.Sorted(maps.Keys(r.States)) {
		parts = append(parts, fmt.Sprintf("%s %d", s, r.States[s]))
	}
	return strings.Join(parts, ", ")
}

// more are the figures that only some batteries have.
func (r Report) more() string {
	if r.NotRun != "" {
		return "not run: " + r.NotRun
	}
	var parts []string
	tell := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	tell(r.LateLanded, "late calls took effect")
	tell(r.LateRefused, "late calls came after their signature's life")
	tell(r.Wipes, "times JetStream was lost")
	tell(r.Restores, "times it was put back to a copy")
	tell(r.Unresolved, "paid orders are known to the ledger and left to a person")
	tell(r.Rolls, "times a worker was rolled to the other of two builds")
	tell(r.Edits, "times somebody used the stock nats command")
	tell(r.PutBack, "orders were put back whose message was removed, and retried")
	tell(r.Fills, "times the disk was full")
	tell(r.Lists, "times the list was handed in, saved in another way")
	tell(r.Vaults, "times the key store was taken away")
	tell(r.Open, "calls of unknown outcome were open when accounts were mixed up")
	tell(r.Narrow, "orders were held because of what a caller is shown")
	tell(r.Exits, "times a worker ended by itself and was started again")
	tell(r.OverLimit, "calls above the limit of 10 a second")
	if r.Ratio > 0 {
		parts = append(parts, fmt.Sprintf("with bad messages %.2f of the speed without them", r.Ratio))
	}
	for _, why := range slices.Sorted(maps.Keys(r.Held)) {
		tell(r.Held[why], "held: "+why)
	}
	for _, g := range slices.Sorted(maps.Keys(r.Gaps)) {
		tell(r.Gaps[g], "frozen at "+g)
	}
	return strings.Join(parts, "; ")
}
