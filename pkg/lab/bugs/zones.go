package main

const (
	rightsGo  = "pkg/stage/rights.go"
	flightGo  = "pkg/stage/preflight.go"
	zoneGo    = "pkg/account/zone.go"
	troubleGo = "pkg/account/trouble.go"

	account = "pkg/account"
)

// inZones are bugs of what is known of DNS rights before a purchase.
var inZones = []bug{
	{"DNS rights: a zone in which a challenge was refused is bought in again", rightsGo,
		"refused := z.Refusals(now)\n", "refused := map[string]account.Refusal{}\n",
		stage, "TestNoRightsAtAll"},
	{"DNS rights: where the check was refused all orders go at once", rightsGo,
		"if goesFirst(z, time.Now()) {\n\t\t\tcareful", "if false {\n\t\t\tcareful",
		stage, "TestRightsToChallengesOnly"},
	{"DNS rights: whoever asks for a turn has it", rightsGo,
		"now.Sub(taken.At) < turnLasts {", "now.Sub(taken.At) < 0 {",
		stage, "TestRightsToChallengesOnly"},
	{"DNS rights: a refused check holds", rightsGo,
		"Level: preflight.Warning, Kind: preflight.Rights,", "Level: preflight.Error, Kind: preflight.Rights,",
		stage, "TestRightsToChallengesOnly"},
	{"DNS rights: a zone that is not there is only told", rightsGo,
		"return []preflight.Finding{{Level: preflight.Error, Kind: preflight.ZoneAbsent,", "return []preflight.Finding{{Level: preflight.Warning, Kind: preflight.ZoneAbsent,",
		stage, "TestZoneThatTheAccountDoesNotHave"},
	{"DNS rights: each replica tries", rightsGo,
		"return z.Asked.After(z.Taken) && time", "return time",
		stage, "TestOneTriesForAll"},
	{"DNS rights: a zone is tried for each order", zoneGo,
		"return !known && !within(z.Asked, now, CheckAgain)", "return !within(z.Asked, now, CheckAgain) || known",
		stage, "TestZoneIsTriedOnceADay"},
	{"DNS rights: an order waits for an answer that does not come", zoneGo,
		"return !known && within(z.Asked, now, CheckWait)", "return !known && !z.Asked.IsZero()",
		account, "TestZoneInTime"},
	{"DNS rights: a challenge that is placed clears nothing", rightsGo,
		"\t\tdelete(z.Refused, kind)\n", "",
		stage, "TestNoRightsAtAll"},
	{"DNS rights: a record of one type speaks for the other", rightsGo,
		"\t\t_, was := z.Refused[kind]\n\t\tif kind == \"\" {", "\t\twas := len(z.Refused) > 0\n\t\tif true {",
		stage, "TestRefusalOfOneType"},
	{"DNS rights: what is placed is not told others", verify,
		"if err := v.Rights.proved(ctx, a, pr.Challenge.Name, pr.Challenge.Type); err != nil {", "if err := error(nil); err != nil {",
		stage, "TestRightsToChallengesOnly"},
	{"DNS rights: what is refused is not told others", verify,
		"if err := v.Rights.refused(ctx, a, o, c, why); err != nil {", "if err := error(nil); err != nil {",
		stage, "TestZoneThatMovesAway"},
	{"DNS rights: a submitter's own list of zones holds orders", flightGo,
		"if f.Rights != nil {\n\t\treturn p.Subject(nil)", "if false {\n\t\treturn p.Subject(nil)",
		stage, "TestSubmittersListIsNarrower"},
	{"DNS rights: the check's record is left to itself", rightsGo,
		"return c.takeBack(ctx, k, pr)", "return nil",
		stage, "TestZoneIsTriedOnceADay"},
	{"DNS rights: accounts of one zone have one record", rightsGo,
		"Value: dcv.CheckValue(k.Label)}}", "Value: dcv.CheckValue(\"\")}}",
		stage, "TestAccountsOfOneZoneTryApart"},
	{"placed: what a call without an answer may have left is not booked", placed,
		"if !forAPerson(why) {\n\t\tctx", "if !forAPerson(why) {\n\t\tif ctx != nil {\n\t\t\treturn nil\n\t\t}\n\t\tctx",
		stage, "TestPlacedTooLateWithoutAnAnswer"},
	{"placed: what another found is not said to be ours", "pkg/ledger/placed.go",
		"pl.Challenge, pl.At, pl.Found = c, time.Now().UTC(), false", "pl.Challenge, pl.At = c, time.Now().UTC()",
		stage, "TestPlacedTooLateAndFound"},
	{"placed: what cannot be removed is forgotten with its book", placed,
		"if err := p.book.Again(ctx, at, label, id); err != nil {", "if err := ctx.Err(); err != nil {",
		stage, "TestRecordOfALostBookThatCannotBeRemoved"},
	{"DNS rights: the state of an account grows with its zones", troubleGo,
		"countZones(told) >= mostZones {", "false {",
		account, "TestManyZonesAreTold"},
}
