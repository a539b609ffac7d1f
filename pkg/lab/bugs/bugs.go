package main

// bug is one mutation of the product, and the test that must fail with it.
type bug struct {
	what           string
	file, old, new string
	pkg, test      string
}

const (
	accounts  = "pkg/stage/accounts.go"
	submit    = "pkg/stage/submit.go"
	reconcile = "pkg/stage/reconcile.go"
	operate   = "pkg/stage/operate.go"
	entry     = "pkg/ledger/entry.go"
	ledgerGo  = "pkg/ledger/ledger.go"
	bookGo    = "pkg/ledger/placed.go"
	cellGo    = "pkg/stream/cell.go"
	placed    = "pkg/stage/placed.go"
	waiting   = "pkg/stage/waiting.go"
	recheck   = "pkg/stage/recheck.go"
	verify    = "pkg/stage/verify.go"
	memoGo    = "pkg/memo/memo.go"
	line      = "pkg/pipeline/line.go"
	loop      = "pkg/pipeline/loop.go"
	transport = "pkg/issuer/transport.go"
	ring      = "pkg/permit/ring.go"
	initGo    = "pkg/app/init.go"
	ground    = "pkg/app/ground.go"
	keyStore  = "pkg/certstore/keystore.go"
	format    = "pkg/certstore/format.go"

	stage    = "pkg/stage"
	ledger   = "pkg/ledger"
	pipeline = "pkg/pipeline"
	issuer   = "pkg/issuer"
	permit   = "pkg/permit"
	app      = "pkg/app"
	store    = "pkg/certstore"
)

// bugs are in the order of the design's section 4. The texts are exact.
var bugs = []bug{
	// Two numbers, and what the ledger decides.
	{"a claim is looked up without the order's id", entry,
		"if c.Order == order && c.Purchase == purchase {", "if c.Purchase == purchase {",
		stage, "TestOrdersForTheSameNamesWaitForEachOther"},
	{"a claim counts only for its own attempt", submit,
		"if c, ok := e.Claim(o.ID(), o.Purchase); ok {", "if c, ok := e.Claim(o.ID(), o.Purchase); ok && c.Attempt == o.Attempt {",
		stage, "TestClaimIsTheOutcomeWhateverTheAttempt"},
	{"an old record keeps its old attempt", submit,
		"if o.Attempt < last.Attempt {", "if false {",
		stage, "TestOldRecordTakesTheLedgersAttempt"},
	{"another order's open entry does not stop the purchase", submit,
		"if open, is := e.OpenAttempt(); is { // of another order", "if open, is := e.OpenAttempt(); is && false { // of another order",
		stage, "TestOrdersForTheSameNamesWaitForEachOther"},

	// Where an order goes.
	{"a resource that is named may be looked for at any account", accounts,
		"len(mains) > 1 && named(r) {", "len(mains) > 1 && named(r) && false {",
		stage, "TestIntakeRefuses"},

	// A purchase, step by step.
	{"the record's key wins over the key store's", submit,
		"\to.Key = &stored\n", "\to.Key.Stored = true\n",
		stage, "TestPairInTheKeyStoreWins"},
	{"the attempt's number is not stored", submit,
		`if err := s.Keys.Raise(o.ID(), o.Attempt, o.Purchase, ""); err != nil {`, "if err := error(nil); err != nil {",
		stage, "TestNumberThenEntryThenCall"},
	{"the number is stored after the entry", submit,
		`if err := s.Keys.Raise(o.ID(), o.Attempt, o.Purchase, ""); err != nil {`,
		"defer func() { _ = s.Keys.Raise(o.ID(), o.Attempt, o.Purchase, \"\") }()\n\tif err := error(nil); err != nil {",
		stage, "TestNumberThenEntryThenCall"},
	{"a number that the ledger does not know is passed over", submit,
		"if raised.Attempt <= last.Attempt {", "if raised.Attempt <= last.Attempt || true {",
		stage, "TestUnknownNumberOpensAnOwnerlessEntry"},
	{"the entry is not stored", ledgerGo,
		"\ta.Token = crand.Text()\n", "\ta.Token, a.Opened = crand.Text(), time.Now()\n\tif true {\n\t\treturn e.with(a), a, nil\n\t}\n",
		stage, "TestNumberThenEntryThenCall"},
	{"the entry is written without its condition", cellGo,
		", jetstream.WithExpectLastSequencePerSubject(seq))", ")",
		ledger, "TestAnOldReadOpensNothing"},
	{"a second opener may send", ledgerGo,
		"if open, is := e.OpenAttempt(); is {\n\t\treturn e, open, ErrNotOpener", "if open, is := e.OpenAttempt(); is && false {\n\t\treturn e, open, ErrNotOpener",
		ledger, "TestOnlyAnUnusedNumberOfAnOpenPurchaseBegins"},
	{"the opener's token is not compared", ledgerGo,
		"if !ok || last.Token != a.Token || last.Ending != Open", "if !ok || last.Ending != Open",
		ledger, "TestWhoGotNoAnswerIsTheOpenerOnlyByItsToken"},
	{"an entry that was closed meanwhile is sent", ledgerGo,
		"last.Token != a.Token || last.Ending != Open || last.Provisional", "last.Token != a.Token || last.Provisional",
		ledger, "TestAClosedEntryIsNotSent"},
	{"a number is used twice", ledgerGo,
		"return a.Attempt > last.Attempt && !claimed", "return a.Attempt >= last.Attempt && !claimed",
		ledger, "TestOnlyAnUnusedNumberOfAnOpenPurchaseBegins"},
	{"the fence is measured from the sending, not from the entry", submit,
		"NotAfter: open.Opened.Add(a.Waits.Entry)})", "NotAfter: time.Now().Add(a.Waits.Entry)})",
		stage, "TestFrozenOpenerIsStoppedByItsStamp"},
	{"the fence is not compared", transport,
		"if err == nil && spending {", "if err == nil && spending && false {",
		stage, "TestFrozenOpenerIsStoppedByItsStamp"},
	{"a clock is compared with the fence, not the stamp that was signed", transport,
		"at, err := t.stamp(r)", "at, err := time.Now(), error(nil)",
		issuer, "TestTheStampIsComparedAndNotAClock"},
	{"a purchase goes out on a connection that is kept alive", transport,
		"return watched(r, t.fresh)", "return watched(r, t.pooled)",
		issuer, "TestConnections"},
	{"redirects are followed", transport,
		"if resp.StatusCode >= 300 && resp.StatusCode < 400 {", "if false {",
		issuer, "TestRedirectsAreRefused"},
	{"every action passes without a permit", transport,
		"err == nil && t.free[k.Action] {", "err == nil && (t.free[k.Action] || true) {",
		issuer, "TestOnlyFreeActionsPassWithoutAPermit"},
	{"a call without a permit may spend", transport,
		"if _, spending := fenceOf(r.Context()); spending {", "if _, spending := fenceOf(r.Context()); spending && false {",
		issuer, "TestFreeActionsKeepTheOtherRules"},
	{"a call without a permit has no deadline", transport,
		"context.WithTimeout(r.Context(), t.patience)", "context.WithCancel(r.Context())",
		issuer, "TestFreeCallsEnd"},
	{"an unknown outcome is taken for a refusal", submit,
		"\tcase issuer.Rejected:\n\t\treturn ledger.Refused, true", "\tcase issuer.Rejected, issuer.UnknownOutcome:\n\t\treturn ledger.Refused, true",
		stage, "TestUnknownOutcomeIsNeverRetried"},
	{"an unknown outcome is taken for never sent", submit,
		"case issuer.NeverSent, issuer.Throttled, issuer.QuotaExhausted", "case issuer.NeverSent, issuer.UnknownOutcome, issuer.Throttled, issuer.QuotaExhausted",
		stage, "TestUnknownOutcomeIsNeverRetried"},

	// Reconciling.
	{"what another order claims is a candidate", entry,
		"if _, taken := e.Claimed(cloudID); taken {", "if _, taken := e.Claimed(cloudID); taken && false {",
		ledger, "TestWhatIsFree"},
	{"a foreign row is recorded for all orders", entry,
		"if a.Order == order && slices.Contains(a.Foreign, cloudID) {", "if slices.Contains(a.Foreign, cloudID) {",
		stage, "TestForeignIsRecordedPerOrder"},
	{"a row without proof is adopted for good", reconcile,
		"r.Ledger.Adopt(ctx, o.Main, o.Request.Names, open, cloudID)", `r.Ledger.Bought(ctx, o.Main, o.Request.Names, open, cloudID, "adopted")`,
		stage, "TestProvisionalAdoptionWithTheRightKey"},
	{"the next attempt comes before the end of the signature", reconcile,
		"case began.Before(open.Opened.Add(a.Waits.Total())):", "case began.Before(open.Opened.Add(a.Waits.Entry)):",
		stage, "TestNotBoughtNeedsTheWaitingTimeAndTheMark"},
	{"not bought is said before the first sweep", reconcile,
		"if !r.States.State(o.Main).Marked(r.Line.Incarnation()) {", "if false {",
		stage, "TestNotBoughtNeedsTheWaitingTimeAndTheMark"},
	{"the second witness is not heard", reconcile,
		"if unexplained > 0 {", "if false {",
		stage, "TestUsedCountStopsNotBought"},
	{"the row of an entry that cannot be read explains a use", reconcile,
		"if len(unread) > 0 {", "if false {",
		stage, "TestNotBoughtBesideAnEntryThatCannotBeRead"},

	// An empty or older ledger.
	{"the mark of the first sweep is ignored", submit,
		"if !st.Marked(s.Line.Incarnation()) {", "if false {",
		stage, "TestNothingIsBoughtBeforeTheFirstSweep"},
	{"an account is marked although rows were left alone", waiting,
		"if left > 0 {\n\t\treturn 0, fmt.Errorf(", "if false {\n\t\treturn 0, fmt.Errorf(",
		stage, "TestSurplusBesideEntriesThatCannotBeRead"},
	{"an unclaimed row does not stop a purchase", submit,
		"if len(e.Unclaimed) == 0 {", "if true {",
		stage, "TestUnclaimedRowStopsThePurchase"},

	// A person's verbs.
	{"retry buys again", operate,
		"\to := it.Order\n\to.Failure = nil\n", "\to := it.Order\n\to.Failure = nil\n\to.Purchase, o.CloudID = o.Purchase+1, \"\"\n",
		stage, "TestRetryNeverBuysAgain"},
	{"an order with an open entry is cancelled", operate,
		"\tif last.Ending == ledger.Open {\n\t\treturn refuse(\"it is unknown", "\tif false {\n\t\treturn refuse(\"it is unknown",
		stage, "TestCancelIsRefusedWhileTheOutcomeIsUnknown"},
	{"not-bought is taken before the waiting time is over", operate,
		"left > 0 {\n\t\treturn refuse(\"the call may still land", "left > 0 && false {\n\t\treturn refuse(\"the call may still land",
		stage, "TestNotBoughtByHand"},

	// What is placed, and taken back.
	{"a record that was there counts as ours", placed,
		"label, id, there && !mine)", "label, id, there && !mine && false)",
		stage, "TestRecordOfOthersStays"},
	{"a shared challenge goes with the first order", bookGo,
		"if !pl.Needs(id) || len(pl.Orders) == 1 {", "if true {",
		stage, "TestSharedChallenge"},
	{"a challenge that is needed again while it is removed stays away", placed,
		"\t\t\treturn p.again(ctx, next)\n", "\t\t\treturn nil\n",
		stage, "TestSharedWhileItIsRemoved"},
	{"an entry is removed whatever it is by now", bookGo,
		"\terr := p.stream.DeleteMsg(ctx, pl.seq)\n", "\terr := p.stream.Purge(ctx, jetstream.WithPurgeSubject(placedSubject(pl.Challenge)))\n",
		ledger, "TestPlacementFromNeedToRemove"},
	{"who placed too late does not take it back", placed,
		"if err != nil || still {\n", "if err != nil || still || true {\n",
		stage, "TestPlacedTooLate"},
	{"the sweep takes what a live order needs", placed,
		"case needs(it.Order, pl.Challenge):", "case needs(it.Order, pl.Challenge) && false:",
		stage, "TestPlacedSweep"},
	{"a late placing is not noted", bookGo,
		"if _, err = p.write(ctx, pl); err == nil { // nearly always\n\t\treturn true", "if true {\n\t\treturn true",
		stage, "TestPlacedWhileItIsRemoved"},
	{"another order's file in the way is for a person", verify,
		"if other != \"\" {", "if false {",
		stage, "TestFilesOfOneHostTakeTurns"},
	{"one look that misses a record sends its order back", recheck,
		"if k.misses < surelyHidden {\n\t\treturn nil", "if k.misses < 1 {\n\t\treturn nil",
		stage, "TestRecheck"},

	{"the sweep takes what an order may need that cannot be read", placed,
		"case errors.Is(err, pipeline.ErrUnreadable): // not ours to judge: it may", "case errors.Is(err, pipeline.ErrUnreadable) && false:",
		stage, "TestPlacedSweepPastWhatCannotBeRead"},

	// One account's trouble is its own.
	{"all questions to the clouds are one", memoGo,
		"a := m.join(ctx, key, keep, ask)", "key = \"\"\n\ta := m.join(ctx, key, keep, ask)",
		"pkg/memo", "TestQuestionsDoNotWaitForEachOther"},
	{"that nobody answers is not remembered", memoGo,
		"return k.Failure\n", "return 0\n",
		"pkg/memo", "TestAHundredAskOnce"},
	{"an asking ends with who began it", memoGo,
		"context.WithCancel(context.WithoutCancel(ctx))", "context.WithCancel(ctx)",
		"pkg/memo", "TestWhoLeaves"},
	{"rounds of all accounts are one", recheck,
		"f := r.of(a.Label)", "f := r.of(\"\")",
		stage, "TestRecheckBesideASilentZone"},
	{"what is left is looked at one account after the other", placed,
		"wg.Go(func() { errs[i] = s.each(ctx, own[labels]) })", "errs[i] = s.each(ctx, own[labels])",
		stage, "TestPlacedSweepBesideASilentAccount"},
	{"a silent zone costs a time-out for each record", placed,
		"silent[zone] = errors.Is(looked, errSilent)", "silent[zone] = errors.Is(looked, errSilent) && false",
		stage, "TestPlacedSweepBesideASilentZone"},
	{"whoever comes first takes all places", "pkg/dcv/places.go",
		"if p.has[s.who] >= p.free {", "if p.free == 0 {",
		"pkg/dcv", "TestPlaces"},
	{"a main account is swept by its first label alone", "pkg/app/worker.go",
		"if err == nil || ctx.Err() != nil {\n\t\t\treturn err", "if true {\n\t\t\treturn err",
		"pkg/app", "TestAKeyThatIsRefused"},

	// Transitions.
	{"the old state is deleted before the new one is published", line,
		"next, err := l.publish(ctx, from.Seq, to)", "_ = l.remove(ctx, from.Seq)\n\tnext, err := l.publish(ctx, from.Seq, to)",
		pipeline, "TestOneWinnerPerTransition"},
	{"the condition of a transition is dropped", line,
		", jetstream.WithExpectLastSequenceForSubject(seq, order.AllOf(o.ID())))", ")",
		pipeline, "TestOneWinnerPerTransition"},
	{"an order's last message is removed as old", line,
		"case raw.Sequence > it.Seq:", "case raw.Sequence >= it.Seq:",
		pipeline, "TestSettleRemovesOnlyWhatIsBelowTheLast"},
	{"what a crash left below a final state stays", line,
		"\t\tl.purgeIfFinal(ctx, it.ID(), raw)\n", "",
		stage, "TestPairsThatOnceFailed"},
	{"an old state is handled", loop,
		"} else if !last {", "} else if !last && false {",
		pipeline, "TestOldStateIsRemovedNotHandled"},

	// The permit ring.
	{"a redelivered permit is used", ring,
		"case !d.first && !r.set.opt.BreakFirstDelivery:", "case false:",
		permit, "TestAfterDeath"},
	{"a permit is put back before T is over", ring,
		"back = now.Add(l.Period)\n\tcase Throttled:", "back = now.Add(l.Period / 2)\n\tcase Throttled:",
		permit, "TestBack"},
	{"the permit of a call of unknown outcome is put back at once", ring,
		"back = began.Add(l.quiet())\n", "back = now\n",
		permit, "TestBack"},
	{"who has only joined takes away a slot that came since then", ring,
		"if r.set.opt.Join || d.slot < r.settings().Calls {", "if d.slot < r.settings().Calls {",
		permit, "TestJoinBeforeARaise"},

	// Who makes what, and whose it is.
	{"a lost ledger begins no new incarnation", initGo,
		"if err := pipeline.Renew(ctx, js); err != nil {", "if err := error(nil); err != nil {",
		app, "TestInitAfterALoss"},
	{"the new incarnation comes after the new ledger", initGo,
		"if err := pipeline.Renew(ctx, js); err != nil {", "defer func() { _ = pipeline.Renew(ctx, js) }()\n\t\tif err := error(nil); err != nil {",
		app, "TestInitDiesOverALostLedger"},
	{"an edited stream is not looked at", "pkg/app/ground.go",
		"case errors.Is(err, stream.ErrMissing), decided(err):", "case errors.Is(err, stream.ErrMissing):",
		app, "TestWorkersNoticeAnEdit"},
	{"two runs share a state folder", "pkg/app/state.go",
		"	taken, err := lockFile(f)\n", "	taken, err := false, error(nil)\n",
		app, "TestOneRunAFolder"},
	{"init makes streams beside one that it refuses", initGo,
		"\t\tcase err != nil:\n\t\t\treturn nil, err\n", "\t\tcase err != nil:\n",
		app, "TestInitRefuses"},
	{"workers go on although their streams were made anew", ground,
		"if g[name] != now[name] {", "if false {",
		app, "TestWorkersNotice"},
	{"who looks for a key store takes an empty folder for one", keyStore,
		"\t\terr = ErrNoStore\n", "\t\tis, err = \"1\", nil\n",
		store, "TestFormatOfAStore"},
	{"what an earlier format has left is opened", format,
		"if ours(e.Name()) {", "if ours(e.Name()) && false {",
		app, "TestStateOfAnEarlierFormat"},
}
