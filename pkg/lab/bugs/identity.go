package main

const (
	whoseGo    = "pkg/stage/identity.go"
	identityOf = "pkg/app/identity.go"
	clouds     = "pkg/app/clouds.go"
	call       = "pkg/issuer/call.go"
	redactGo   = "pkg/redact/redact.go"
	hookGo     = "pkg/dcv/hook/hook.go"
	neighbours = "pkg/stage/neighbours.go"

	redact = "pkg/redact"
	hook   = "pkg/dcv/hook"
	stream = "pkg/stream"
)

// whose are bugs of section 12.7 of the design, and of what is known as secret.
var whose = []bug{
	{"another main account's list says what was not bought", whoseGo,
		"\tif w.Main != a.Main {\n\t\treturn w, &Stranger", "\tif false {\n\t\treturn w, &Stranger",
		stage, "TestAnotherMainAccountsListSaysNothing"},
	{"any caller's list says what was not bought", whoseGo,
		"if err != nil || w.All || w.Caller == open.Caller {", "if true {",
		stage, "TestWhoMaySayNotThere"},
	{"a caller's own purchases prove that it sees everything", whoseGo,
		"by.Caller == w.Caller ||", "",
		stage, "TestWhoMaySayNotThere"},
	{"one row of others proves that a caller sees everything", whoseGo,
		"if delete(missing, row.CloudID); len(missing) == 0 {", "if delete(missing, row.CloudID); len(missing) < len(wanted) {\n\t\t\t\tclear(missing)",
		stage, "TestWhoMaySayNotThere"},
	{"another caller's look gives a resource back that may be started", collect,
		"if is.Called.IsZero() || c.Guard == nil {", "if is.Called.IsZero() || c.Guard != nil {",
		stage, "TestClaimIsNotGivenBackByAnotherCallersLook"},
	{"an operator's word holds for every caller", whoseGo,
		"VouchedFor(g.Incarnation, w.Caller)", "VouchedFor(g.Incarnation, \"444\")",
		stage, "TestWhoMaySayNotThere"},
	{"after a lost ledger any caller's sweep is the first", whoseGo,
		"case len(others) == 0:", "default:",
		stage, "TestWhoMayMark"},
	{"first-use skips the wait although the key store knows numbers", whoseGo,
		"return err == nil && len(known) == 0, err", "return err == nil && len(known) >= 0, err",
		stage, "TestWhoMayMark"},
	{"a silent cloud's keys are one caller", whoseGo,
		"Caller: account.Unnamed(a.key()), Silent: why}", "Caller: account.Unnamed(\"\"), Silent: why}",
		stage, "TestSilentCloudAndAnotherKey"},
	{"an order that was sent moves to another main account", whoseGo,
		"if raised.Attempt > 0 || !untouched(o) {", "if raised.Attempt < 0 || !untouched(o) {",
		stage, "TestTakenForAnotherMainAccount"},
	{"an order at the CA is asked for at another main account", "pkg/stage/sweep.go",
		"if Strayed(it.Order, a.Label, a.Main) != nil {", "if false {",
		stage, "TestStrayedOrders"},
	{"an order waits for what never comes at another main account", waiting,
		"a != nil && Strayed(o, a.Label, a.Main) != nil {", "a != nil && false {",
		stage, "TestStrayedOrders"},
	{"an order is cancelled where nobody can take back what it has", operate,
		"if err := Strayed(*o, a.Label, a.Main); err != nil {", "if err := Strayed(*o, a.Label, a.Main); err != nil && false {",
		stage, "TestStrayedOrders"},
	{"an order of a stopped account is told to be tried again", "pkg/app/answers.go",
		"main = cmp.Or(c.mainOf(label), main)", "main = cmp.Or(main, c.mainOf(label))",
		app, "TestAMadeUpMainAccountIsTold"},
	{"of a gone account only open attempts are told", "pkg/stage/gone.go",
		"if t.End == \"\" && has && t.Order != open.Order {", "if t.End == \"\" && has && false {",
		stage, "TestGoneAccountIsTold"},
	{"a stopped account is called", clouds,
		"a.open(label, permits, account.May)", "a.open(label, permits, nil)",
		app, "TestAStoppedAccountCallsNothing"},
	{"the gate is not asked", call,
		"if err := c.Gate(ctx); err != nil {", "if err := c.Gate(ctx); err != nil && false {",
		issuer, "TestGate"},
	{"a missing main account is the label", identityOf,
		"a.Main, why[label] = c.fits(label, asked.accounts[label].Known(), failed[label])", "a.Main, _ = label, failed",
		app, "TestMainIsFilledIn"},
	{"a main account that the cloud said stops whoever names another one, and everybody with it", "pkg/app/config.go",
		"if a.Main == \"\" || a.found || key(label) == \"\" {", "if a.Main == \"\" || key(label) == \"\" {",
		app, "TestMainThatIsFilledInStopsNobodyElse"},
	{"another key works before its cloud has said whose it is", identityOf,
		"case id.Caller != \"\" && !id.Silent:", "case false:",
		app, "TestAnotherKeyWaitsForTheAnswer"},
	{"a person's word takes the wait from an account whose key is refused", "pkg/app/verbs.go",
		"err = c.hopeless(label, main)", "err = nil",
		app, "TestAWrongSecretIsTold"},
	{"a call that is under way is somebody else's", neighbours,
		"claimed := e.Claimed(row.CloudID); open || claimed {", "claimed := e.Claimed(row.CloudID); open && false || claimed {",
		stage, "TestOrdersOfSomebodyElse"},

	// Secrets.
	{"answers of the clouds come in as they are", transport,
		"body = redact.JSON(body)", "_ = redact.JSON",
		issuer, "TestAnswersRepeatNoSecret"},
	{"what is stored is stored as it is", cellGo,
		"data = redact.Bytes(data)", "_ = redact.Bytes",
		stream, "TestNoSecretIsStored"},
	{"what a web service says is cut before its secrets are taken out", hookGo,
		"redact.Head(said, maxTold)", "redact.Text(string(said[:min(len(said), maxTold)]))",
		hook, "TestHooksRepeatNoSecret"},
	{"a secret is found in clear only", redactGo,
		"for offset := range 3 {", "for offset := range 1 {",
		redact, "TestInsideBase64"},
}
