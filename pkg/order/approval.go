package order

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// A fact is what a person lets pass with an approval, in words that are the same
// for the same thing: an approval of a budget must not pass the names (DESIGN
// 12.2). Who holds an order names the fact in Hold.Fact, and asks Approves for
// that very fact before it holds.

// FactDeadline: the order's deadline has passed.
const FactDeadline = "deadline"

// FactBudget: a budget is used up; what names it, as "account ali on 2027-01-31".
func FactBudget(what string) string { return "budget of " + what }

// FactInService: another order's certificate for these names is in service.
func FactInService(order string, notAfter time.Time) string {
	return "order " + order + " in service until " + notAfter.UTC().Format(time.RFC3339)
}

// FactPaidAndFailed: another order for these names was paid and failed.
func FactPaidAndFailed(order string) string { return "order " + order + " paid and failed" }

// FactUnclaimed: a cloud order for these names is there that nobody claims.
func FactUnclaimed(cloudID string) string { return "cloud order " + cloudID + " unclaimed" }

// FactElsewhere: another order's attempt at another main account may have bought
// for these names, and nobody there says so.
func FactElsewhere(main, order string, attempt int) string {
	return "order " + order + " attempt " + strconv.Itoa(attempt) + " unknown at account " + main
}

// FactPreflight: a finding of the look before the purchase, in its own words.
func FactPreflight(finding string) string { return "finding: " + finding }

// Facts are several in one hold: approve lets all of them pass.
func Facts(facts ...string) string {
	all := slices.Clone(facts)
	for i, f := range all {
		all[i] = strings.ReplaceAll(f, "\n", " ")
	}
	return strings.Join(all, "\n")
}

// FactLine is a hold's facts in one line, for people.
func FactLine(facts string) string { return strings.ReplaceAll(facts, "\n", "; ") }

// Approves tells whether a person let this fact pass.
func (o Order) Approves(fact string) bool {
	return slices.Contains(o.Approvals, strings.ReplaceAll(fact, "\n", " "))
}

// Approve notes the facts of a hold as approved.
func (o *Order) Approve(h Hold) {
	o.Approvals = slices.Clone(o.Approvals)
	for fact := range strings.SplitSeq(h.Fact, "\n") {
		if fact != "" && !slices.Contains(o.Approvals, fact) {
			o.Approvals = append(o.Approvals, fact)
		}
	}
}

// FactKind is a fact without what differs from order to order, for grouping.
func FactKind(fact string) string {
	switch is := func(words string) bool { return strings.HasPrefix(fact, "order ") && strings.Contains(fact, words) }; {
	case strings.HasPrefix(fact, "cloud order "):
		return "cloud order unclaimed"
	case is(" in service until "):
		return "names in service"
	case is(" paid and failed"):
		return "names paid and failed"
	case is(" unknown at account "):
		_, account, _ := strings.Cut(fact, " unknown at ")
		return "outcome unknown at " + account
	}
	return fact
}

// Kinds are those of a hold's facts.
func (h Hold) Kinds() []string {
	var kinds []string
	for fact := range strings.SplitSeq(h.Fact, "\n") {
		if fact != "" {
			kinds = append(kinds, FactKind(fact))
		}
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}
