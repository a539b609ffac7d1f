package main

// attacked are bugs that somebody found from outside who bought with stock tools, in
// the second round of that.
var attacked = []bug{
	{"a label of another main account says what was not bought", whoseGo,
		"if a.Main != main {", "if false {",
		stage, "TestAnotherMainAccountsListSaysNothing"},
	{"what an order gave back explains a row for ever", entry,
		"t.Resource == resource && t.End != TakeOver", "t.Resource == resource",
		stage, "TestGivenBackAsItWasFound"},
	{"what an order uses stops purchases, if its row was reported late", entry,
		"return e.uses(u.CloudID) })", "return false })",
		ledger, "TestARowOfWhatAnOrderUses"},
	{"what somebody else started is forgotten when it is given back", resourceGo,
		"if st.Phase == \"\" || !inTheWay(row, now) {", "if true {",
		stage, "TestCSRIsCompared"},
	{"a certificate for other names is replaced", "pkg/certstore/dir.go",
		"if len(lacks) > 0 {", "if false {",
		store, "TestDeliverLeavesOtherNames"},
	{"a secret is found in the spellings of some programs only", redactGo,
		"return f.escaped(f.replacer.Replace(s))", "return f.replacer.Replace(s)",
		redact, "TestWhateverIsEscaped"},
}
