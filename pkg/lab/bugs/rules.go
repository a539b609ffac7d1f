package main

const (
	groupGo   = "pkg/stream/group.go"
	surplusGo = "pkg/stage/surplus.go"
	elsewhere = "pkg/stage/elsewhere.go"
	tend      = "pkg/pipeline/tend.go"
)

func init() { bugs = append(bugs, rules...) }

// rules are bugs of sentences of section 12 of the design that no other bug breaks.
var rules = []bug{
	// 12.1
	{"an id that is derived begins as refusals do", identity,
		"if strings.HasPrefix(first+\"-\", BadPrefix) {", "if false {",
		orders, "TestDerivedIDs"},
	{"an order is made twice under one id", line,
		", jetstream.WithExpectLastSequenceForSubject(seq, order.AllOf(o.ID())))", ")",
		pipeline, "TestCreateOnce"},
	{"again: true is published, and somebody guesses what it means", "pkg/order/request.go",
		"err == nil && r.Again == AgainLast {", "err == nil && r.Again == AgainLast && false {",
		stage, "TestAgainIsRefused"},
	{"an order that only cleans up has not ended", identity,
		"return o.State.Final() || o.Failure != nil &&", "return o.State.Final() || o.Failure != nil && false &&",
		orders, "TestEnded"},
	{"a successor waits until its predecessor is cleaned up", identity,
		"return o.State.Final() || o.Failure != nil &&", "return o.State.Final() || o.Failure != nil && o.State.Final() &&",
		stage, "TestHandedInAgainWhileItCleansUp"},

	// 12.2
	{"names that a claiming order has are free", standing,
		`if t.End == "" && t.Order != id && !at.yields(t, own)`, `if t.End == "" && t.Resource == "" && t.Order != id && !at.yields(t, own)`,
		stage, "TestTwoClaimingOrdersTakeOne"},
	{"how an order ended is forgotten", ledgerGo,
		"t.End, t.At, t.Ending, t.Paid = TakeOver, time.Now().UTC(), false, paid", "t.End, t.At, t.Ending, t.Paid = TakeOver, time.Now().UTC(), false, false",
		ledger, "TestOverAndResume"},
	{"an order that is held for another's certificate keeps names that it has for nothing", names,
		`if fact(st) != "" && o.Resource == "" {`, `if fact(st) != "" && o.Resource == "" && false {`,
		stage, "TestHeldGivesItsNamesBack"},
	{"names are left while an attempt is open", ledgerGo,
		`if !ok || t.End != "" || last.Ending == Open || bought {`, `if !ok || t.End != "" || bought {`,
		ledger, "TestLeave"},
	{"names are left although something was bought", ledgerGo,
		`if !ok || t.End != "" || last.Ending == Open || bought {`, `if !ok || t.End != "" || last.Ending == Open || bought && false {`,
		ledger, "TestLeave"},
	{"an attempt at another account is a question at once", waiting,
		"w.Now().Sub(st.Since) > 2*waits.Total():", "w.Now().Sub(st.Since) > 0*waits.Total():",
		stage, "TestOneSetAtTwoAccounts"},
	{"a certificate that is due is in service", standing,
		"!order.Due(issued.NotBefore, issued.NotAfter, now) {", "(true || !order.Due(issued.NotBefore, issued.NotAfter, now)) {",
		ledger, "TestStanding"},
	{"a successor is held for its predecessor", standing,
		`case t.Order == predecessor && predecessor != "":`, "case false:",
		stage, "TestSuccessorPassesItsPredecessor"},
	{"duplicates: allow passes what was paid and failed", names,
		"case st.Is == ledger.InService && duplicates, ", "case duplicates && st.Is != ledger.Taken, ",
		stage, "TestDuplicatesAllowed"},

	// 12.3
	{"each main account has a condition of its own", groupGo,
		"jetstream.WithExpectLastSequenceForSubject(last, g.filter)", "jetstream.WithExpectLastSequenceForSubject(last, subject)",
		ledger, "TestOneSetAtTwoAccounts"},
	{"the condition is read after the entry", ledgerGo,
		"if _, err = l.names(e.Names).Write(ctx, spendSubject(e.Main, e.Names), data, e.seq); err != nil {",
		"_, now, _ := l.names(e.Names).Read(ctx)\n\tif _, err = l.names(e.Names).Write(ctx, spendSubject(e.Main, e.Names), data, now); err != nil {",
		ledger, "TestAnOldReadOpensNothing"},
	{"the condition's filter is another text", ledgerGo,
		`return stream.Within(l.js, l.stream, spendSubject("*", names))`, `return stream.Within(l.js, l.stream, "*"+spendSubject("*", names)[5:])`,
		ledger, "TestTheConditionsFilter"},

	// 12.4
	{"a resource is of whoever has the id of the order that had it", claimGo,
		"case o.Order == by && o.sameNames(e.Names):", "case o.Order == by:",
		ledger, "TestAResourceStaysWithItsNames"},
	{"what stays with its names is refused to their renewal", claimGo,
		`if t, _ := e.Take(o.Order); o.Order == "" || t.End != "" {`, `if t, _ := e.Take(o.Order); o.Order == "" || t.End == TakeOver {`,
		ledger, "TestAResourceStaysWithItsNames"},

	// 12.5
	{"a cloud order that another order has is claimed", claimGo,
		`case is.Order != "" && !is.Provisional:`, "case false:",
		ledger, "TestOneClaimant"},
	{"who has a cloud order without proof keeps it", claimGo,
		"return ok && last.Ending == Open && last.Provisional == o.ID, nil", "return true || ok && last.Ending == Open, nil",
		ledger, "TestOneClaimant"},
	{"an answer is written without its owner", ledgerGo,
		"if err := l.own(ctx, main, cloudID, Owner{Order: a.Order, Purchase: a.Purchase, Names: canonical(names)}); err != nil {", "if err := error(nil); err != nil {",
		ledger, "TestTheOwnerIsWrittenFirst"},
	{"an adoption is written without its owner", ledgerGo,
		"if err := l.own(ctx, main, c.CloudID, Owner{Order: c.Order, Purchase: c.Purchase, Names: canonical(names)}); err != nil {", "if err := error(nil); err != nil {",
		ledger, "TestTheOwnerIsWrittenFirst"},
	{"an adoption without proof is written without its owner", ledgerGo,
		"if err := l.own(ctx, main, cloudID, Owner{Order: a.Order, Purchase: a.Purchase, Names: canonical(names), Provisional: true}); err != nil {", "if err := error(nil); err != nil {",
		ledger, "TestTheOwnerIsWrittenFirst"},
	{"a row that is foreign for one order stops no purchase", ledgerGo,
		"return e.with(last).withUnclaimed(cloudID), true, nil", "return e.with(last), true, nil",
		stage, "TestProvisionalAdoptionOfAStrangersOrder"},
	{"a row without an id is one", ledgerGo,
		`if _, claimed := e.Claimed(u.CloudID); claimed || u.CloudID == "" {`, "if _, claimed := e.Claimed(u.CloudID); claimed {",
		ledger, "TestReport"},

	// 12.6
	{"the first sweep reads one list", surplusGo,
		"if !ok || read[all.List()] {", "if !ok || len(read) > 0 {",
		stage, "TestFirstSweepReadsEveryList"},
	{"rows of names with an open attempt are left out", ledgerGo,
		`if _, claimed := e.Claimed(u.CloudID); claimed || u.CloudID == "" {`,
		"if _, open := e.OpenAttempt(); open {\n\t\t\treturn e, false, nil\n\t\t}\n\t\tif _, claimed := e.Claimed(u.CloudID); claimed || u.CloudID == \"\" {",
		stage, "TestARowSkippedByTheFirstSweep"},
	{"an account that cannot be swept holds up all others", elsewhere,
		"return !st.Unswept.Since.IsZero() && now.Sub(st.Unswept.Since) > waiting+unsweptAfter", "return false",
		stage, "TestAnotherAccountMayHaveTheNames"},
	{"an account that was not swept yet is passed over", elsewhere,
		"if a.Main == o.Main || st.Marked(s.Line.Incarnation()) {", "if true {",
		stage, "TestAnotherAccountMayHaveTheNames"},

	// 12.7
	{"whose an account is takes a permit", "pkg/issuer/aliyun/calls.go",
		"Action: callerIdentity, Roles: order.Roles, Limit: 100, Free: true,", "Action: callerIdentity, Roles: order.Roles, Limit: 100, Free: false,",
		stage, "TestAnEntryKeepsItsCaller"},
	{"whose an account is, is asked at every purchase", whoseGo,
		"if known, _ := c.get(); known != nil {\n\t\treturn *known, nil", "if known, _ := c.get(); known != nil && false {\n\t\treturn *known, nil",
		stage, "TestAnEntryKeepsItsCaller"},
	{"a stopped account works", whoseGo,
		"case w != nil && w.Told && w.Main != a.Main:", "case false:",
		app, "TestAnotherMainAccountStopsTheAccount"},
	{"an entry does not say who called", submit,
		"Caller: who.Caller, Used: used", "Caller: who.Caller[:0], Used: used",
		stage, "TestAnEntryKeepsItsCaller"},
	{"a key is the same at every endpoint", clouds,
		"[]string{a.Cloud, a.Endpoint, a.IdentityEndpoint, id.Reveal()}", "[]string{a.Cloud, id.Reveal()}",
		app, "TestKeysAreKnownByTheirEndpoints"},

	// 12.9
	{"streams of another format are opened", "pkg/stream/stream.go",
		"if f := is.Metadata[FormatKey]; f != strconv.Itoa(Format) {", "if f := is.Metadata[FormatKey]; f != strconv.Itoa(Format) && false {",
		stream, "TestOtherFormats"},
	{"what another build wrote into an entry is dropped", ledgerGo,
		"data, err := record.Encode(e, e.rest)", "data, err := record.Encode(e, record.Rest{})",
		ledger, "TestEntriesKeepWhatAnotherBuildWrote"},
}
