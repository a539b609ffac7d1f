/*
 * names.pml: who may buy for a set of names (DESIGN 12.1 to 12.4), for Spin.
 *
 * S6: for a set of names at most one living purchase or started resource, unless a verb named it.
 *
 * Orders for one set of names (and one for another set), successors, hand-ins that come again at any time, two accounts whose
 * entries lie under one hash, spending orders and orders that claim a resource, approvals, cancel, retry, again.
 *
 * The purchase is collapsed: spend.pml shows that one opening of an entry makes at most one purchase and that reconciling tells
 * truly whether it did. Here an opening gives its worker the permission to send (may); a look a waiting time later takes that
 * permission from every worker and is made only when no request is in flight. Attempts are not counted.
 *
 * As in spend.pml one step is one side effect, between two steps a worker may freeze for any time or die (CRASH), and any
 * worker is handed any order at any time. Sequence numbers are not counted: fresh[w] has a bit for each entry, "as I read it".
 * The greatest sequence that w read is the last one of the hash exactly if w's reading of the entry that was written last is
 * fresh; that is what the condition spend.*.<hash> tests.
 */

/* Mutations, each takes back one rule:
 * 12.1  M_AGAINNEXT     `again` handed in again makes the next successor       M_HANDINBUYS  a hand-in of an ended order buys
 *       M_ENDLATE       an order has ended when it is cleaned up, not when its end is decided
 * 12.2  M_UNTILBOUGHT   a set is taken until the entry is closed, not until issue
 *       M_FREEONCLOSE   a set is free between two attempts of one order
 *       M_CLAIMNOENTRY  a claiming order opens no names' entry                 M_CLAIMFIRST  it claims before it opens the entry
 *       M_ISSUEDFIRST   order.issued is published before the entry says "in service"
 *       M_NOINS         a set in service is not held                           M_NOPF        one that was paid for and failed is not
 *       M_ANYAPPROVAL   an approval passes any fact                            M_ELSEMAIN    one of an attempt elsewhere names the account, not the order
 *       M_PREDANY       a successor passes the hold for any order, not only for its predecessor
 * 12.3  M_OWNCOND       the condition is on the own entry only                 M_CONDLATER   its value is asked for after the entries were read
 *       M_TWOREADS      the entries are read one by one, the value is the greatest sequence read
 * 12.4  M_GIVEBACKNOW   a claim is given back although a call is on its way    M_NOCOMPARE   names are not compared before the irreversible call
 *       M_NOSTAMP       a call is not fenced by the time of its note           M_NONOTE      no note of a call: a look at once shows "not started"
 *       M_NOREREAD      the names' entry is not read again after the claim     M_NOENDING    who ends an order does not say so before looking
 *       M_RESFREE       a resource may serve other names in the middle of its term
 * NOS1, NOS5, NOS6 leave assertions out, to see what is behind them; NOY leaves the order y out. BUDGET, CANCEL, RETRY, DUE, AGAIN (AGAINLIVE: also of a living
 * order), REST (what must be true when nothing moves any more), ENDS (and then the operator says nothing but "cancel").
 */
#define NO 4
/* x = 0, y = 1, x-2 = 2; 3 is x-3 (CHAIN), other names (OTHER), or one more for the same names (THIRD) */
#ifndef K0
#define K0 0                /* way of ordering: 0 spends, 1 claims a resource */
#endif
#ifndef K1
#define K1 0
#endif
#ifndef K2
#define K2 K0
#endif
#ifndef K3
#define K3 0
#endif
#ifndef A0
#define A0 0                /* main account */
#endif
#ifndef A1
#define A1 0
#endif
#ifndef A2
#define A2 A0
#endif
#ifndef A3
#define A3 A0
#endif
#define KIND(o) ((o)==0 -> K0 : ((o)==1 -> K1 : ((o)==2 -> K2 : K3)))
#define ACC(o)  ((o)==0 -> A0 : ((o)==1 -> A1 : ((o)==2 -> A2 : A3)))
#ifdef OTHER
#define HS(o) ((o)==3)
#define NH 2
#else
#define HS(o) 0
#define NH 1
#endif
#ifdef THIRD
#define PRED(o) ((o)==2 -> 0 : 9)
#else
#define PRED(o) ((o)==2 -> 0 : ((o)==3 && HS(3)==0 -> 2 : 9))
#endif
#define E(o) (2*HS(o)+ACC(o))       /* the order's own entry */
#define X(o) (2*HS(o)+1-ACC(o))     /* the entry of the hash at the other account */
#if K0+K1+K2+K3 > 0
#define RES 1
#ifndef NR
#define NR 1                        /* resources, all at account 0 */
#endif
#endif
#ifndef NW
#define NW 2
#endif

/* states of orders. COL: the end is decided, it is cleaned up */
#define SUB 1
#define VER 2
#define COL 3
#define ISS 4
#define FAI 5
#define HLD 6
#define FINAL(s) ((s)==0 || (s)==ISS || (s)==FAI || (s)==HLD)

/* facts that an approval answers: in service (bits 0-3), paid and failed (4-7), open elsewhere (8-11), budget (12) */
#define INS(p) (1<<(p))
#define PF(p)  (16<<(p))
#define ELSE(p) (256<<(p))
#define BUD 4096

/* ---------- stream ORDERS */
byte st[NO];
bit  att[NO];               /* second attempt, after a retry */
int  fact[NO], app[NO];     /* what a held order asks; what was approved */

/* ---------- stream LEDGER: entries, two for each hash */
byte tk[2*NH];              /* who has the set, + 1 */
bit  op[2*NH];              /* an order that spends: with an open attempt */
byte by[2*NH];              /* the token of its opening: who opened it, + 1 */
bit  dg[2*NH];              /* an order that claims: its end is decided, it looks for what it has */
bit  dc[2*NH];              /* the decision it was taken for: a record that is older claims nothing */
byte svc[NH], pf[NH];       /* the last order in service (bit o); the last order, if it was paid for and ended without a certificate */
byte bo;                    /* orders that have a claim */
byte en[NO];                /* attempts that were closed for good */
byte pas[NO];               /* what lay in the entries when this order took the set: its successor passes that */
byte lastw[NH] = 2;         /* account whose entry was written last, 2: none yet */

/* ---------- the cloud, by order: 0 nothing, 1 in flight, 2 living, 3 ended without a certificate, 4 issued */
byte q[NO];
bit  due[NO];               /* near its end: what it is in service for may be bought anew */
#ifdef RES
byte own[NR];               /* LEDGER: claim.<resource>, order + 1 */
byte cn[NR];                /* LEDGER, in the claim: a call was noted, its answer is not known: by whom, + 1 (NA: a worker that is gone) */
byte nm[NR];                /* the cloud: whose names and CSR were put in, + 1 */
byte ro[NR];                /* whose application was started last, + 1 */
byte upd[NO], apl[NO];      /* calls in flight, one bit for each resource */
#define FLY(o) (upd[o]!=0 || apl[o]!=0)
#else
#define FLY(o) false
#endif

/* ---------- actors: workers, operator 2 */
#define NA 3
byte wo[NA] = 9;
bit  cur[NA];               /* the order's last message is the one that was read */
byte fresh[NA];             /* bit a: the entry at account a is as it was read */
bit  cv[NA];                /* M_CONDLATER: the value that was asked for is still the last */
byte may[NA];               /* may send: order + 1. Of the opening, or of the note in the claim of resource mr */
byte mr[NA];
bit  lk[NA];                /* nothing was noted in the claim since this worker looked */

/* ---------- ghosts */
byte nam[NO];               /* beside which other orders' purchases a verb named this one */
byte ever;                  /* orders for which something was ever bought or started */
bit  home;                  /* no more verbs and hand-ins */
bit  want;                  /* `again: x` was handed in after x had ended */
bit  again;                 /* the message was handed in before */
#ifdef M_HANDINBUYS
bit  p2;
#endif
#ifdef NOS1
bit S1 = 1;
#else
bit S1;
#endif
#ifdef NOS6
bit S6 = 1;
#else
bit S6;
#endif
#ifdef NOS5
bit S5 = 1;
#else
bit S5;
#endif
bit  S4, S6b, S7, S8, S9;   /* never set: names for assertions */

#define CRASH true
#define NAMED(o,p) (((nam[o]>>(p))&1) || ((nam[p]>>(o))&1))
#define LIV(p) (q[p]==2 || q[p]==4)
#define BESIDE(o,p) ((p)!=(o) && HS(p)==HS(o) && LIV(p) && !due[p] && !NAMED(o,p))
#define AFTER(o,p) ((p)!=(o) && HS(p)==HS(o) && ((ever>>(p))&1) && !due[p] && !NAMED(o,p))

inline bought(o) {          /* the moment at the cloud */
	assert(S6 || !(BESIDE(o,0)||BESIDE(o,1)||BESIDE(o,2)||BESIDE(o,3)));
	assert(S6b || !(AFTER(o,0)||AFTER(o,1)||AFTER(o,2)||AFTER(o,3)));
	assert(S5 || en[o]<=att[o]);                            /* it had been declared never bought */
	ever = ever | (1<<(o));
	q[o]=2
}
inline wrote(w,o,a) {       /* a write of the entry at account a of o's hash, after its condition was found true */
	fresh[0] = (wo[0]<9 && HS(wo[0])==HS(o) && w!=0 -> fresh[0] & ~(1<<(a)) : fresh[0]);
	fresh[1] = (wo[1]<9 && HS(wo[1])==HS(o) && w!=1 -> fresh[1] & ~(1<<(a)) : fresh[1]);
	fresh[2] = (wo[2]<9 && HS(wo[2])==HS(o) && w!=2 -> fresh[2] & ~(1<<(a)) : fresh[2]);
	fresh[w] = fresh[w] | (1<<(a));
#ifdef M_CONDLATER
	cv[0] = cv[0] && (w==0 || wo[0]==9 || HS(wo[0])!=HS(o));
	cv[1] = cv[1] && (w==1 || wo[1]==9 || HS(wo[1])!=HS(o));
	cv[2] = cv[2] && (w==2 || wo[2]==9 || HS(wo[2])!=HS(o));
#endif
	lastw[HS(o)] = (a)
}
#if defined(M_OWNCOND)
#define COND(w,o) ((fresh[w]>>ACC(o))&1)
#elif defined(M_CONDLATER)
#define COND(w,o) cv[w]
#else
#define COND(w,o) (lastw[HS(o)]==2 || ((fresh[w]>>lastw[HS(o)])&1))
#endif
inline publish(w,o,s) {     /* after its condition was found true: cur[w] */
	printf("P%d order %d: %d -> %d\n",_pid,o,st[o],s);
	st[o]=s;
	cur[0] = cur[0] && (w==0 || wo[0]!=(o));
	cur[1] = cur[1] && (w==1 || wo[1]!=(o));
	cur[2] = cur[2] && (w==2 || wo[2]!=(o));
	cur[w]=0
}

/* what an order that wants the set reads in an entry i of the hash */
#define TAKEN(i,o) (tk[i]!=0 && tk[i]!=(o)+1 && !((app[o]>>(7+tk[i]))&1 && i==X(o) && op[i]))
#ifdef M_ELSEMAIN
#undef TAKEN
#define TAKEN(i,o) (tk[i]!=0 && tk[i]!=(o)+1 && !((app[o]&(15*256))!=0 && i==X(o) && op[i]))
#endif
#ifdef M_ANYAPPROVAL
#define PASSED(o) (app[o]!=0 -> 255 : 0)
#else
#define PASSED(o) (app[o]&255)
#endif
#ifdef M_PREDANY
#define OWNPRED(o) (PRED(o)<9 -> 255 : 0)
#else
#define OWNPRED(o) (PRED(o)<9 -> (INS(PRED(o))|PF(PRED(o))) : 0)
#endif
#define DUEMASK (due[0]|(due[1]<<1)|(due[2]<<2)|(due[3]<<3))
#define AT(a) (((A0==(a)))|((A1==(a))<<1)|((A2==(a))<<2)|((A3==(a))<<3))
#ifdef M_NOINS
#define SVM(h) 0
#else
#define SVM(h) (svc[h] & ~DUEMASK)
#endif
#ifdef M_NOPF
#define PFM(h) 0
#else
#define PFM(h) pf[h]
#endif
#define ALLFACTS(o) (SVM(HS(o))|(PFM(HS(o))<<4))
#define PREDPAS(o) (PRED(o)<9 -> pas[PRED(o)] : 0)
#define FACTS(o) (ALLFACTS(o) & ~(PASSED(o)|OWNPRED(o)|PREDPAS(o)|INS(o)|PF(o)))
#define FACTSAT(a,o) (FACTS(o) & (AT(a)|(AT(a)<<4)))
#define STUCK(p) (st[p]==0 || FINAL(st[p]))
#define STUCKAT(i,o) (tk[i]!=0 && tk[i]!=(o)+1 && STUCK(tk[i]-1))
#define OPENELSE(o) (tk[X(o)]!=0 && tk[X(o)]!=(o)+1 && op[X(o)])
#define BO(o) ((bo>>(o))&1)
#ifdef M_HANDINBUYS
#define OLDEND(o) ((o)==0 && p2)
#else
#define OLDEND(o) false
#endif
#define KNOWN(o) ((BO(o) || en[o]>att[o]) && !OLDEND(o))
#define WAITS(o) (!((!TAKEN(E(o),o) && !TAKEN(X(o),o)) || STUCKAT(E(o),o) || STUCKAT(X(o),o) || OPENELSE(o)))
#define GOSUB(o) (KNOWN(o) || (tk[E(o)]==(o)+1 && !(op[E(o)] && q[o]==1)) || (tk[E(o)]!=(o)+1 && !WAITS(o)))
#define DONE(o) (q[o]>=3 || ((svc[HS(o)]|pf[HS(o)])>>(o))&1)
#ifdef RES
/* a look a waiting time after the last note: no call of that order is in flight */
#define LOOKOK(o,r) (cn[r]==0 || (((upd[o]|apl[o])>>(r))&1)==0)
#define MYLOOK(o) (!(own[0]==(o)+1) || LOOKOK(o,0))
#else
#define MYLOOK(o) true
#endif
#define GO(o) ((st[o]==SUB && GOSUB(o)) || (st[o]==VER && DONE(o)) || (st[o]==COL && !(op[E(o)] && tk[E(o)]==(o)+1 && q[o]==1) && MYLOOK(o) && (q[o]!=2 || KIND(o)==0)))
#define OWNS(r,o) (own[r]==(o)+1)

#define IDLE (w==0 || wo[0]<9)
#ifdef M_CLAIMNOENTRY
#define NOENTRY(o) (KIND(o)==1)
#else
#define NOENTRY(o) false
#endif
#ifdef M_UNTILBOUGHT
#define UNTILBOUGHT true
#else
#define UNTILBOUGHT false
#endif
#ifdef RES
/* its own names' next order takes a resource over when the last one has ended; a claim of an ended order for which nothing was called is nobody's */
#define ENDED(p) (st[p]==ISS || st[p]==FAI)
#ifdef M_RESFREE
#define FREEFOR(r,o) (own[r]==0 || ENDED(own[r]-1))
#else
#define FREEFOR(r,o) (own[r]==0 || (HS(own[r]-1)==HS(o) && ENDED(own[r]-1)) || (en[own[r]-1]>att[own[r]-1] && ENDED(own[r]-1) && cn[r]==0 && ro[r]!=own[r]))
#endif
inline note(n) {            /* written into the claim before the call, if the claim is still the order's */
#ifdef M_NONOTE
	atomic { if :: CRASH -> goto rel :: OWNS(r,o) -> may[w]=o+1; mr[w]=r :: !OWNS(r,o) -> goto rel fi };
#else
	atomic {
	if
	:: CRASH -> goto rel
	:: OWNS(r,o) -> b=cn[r]; cn[r]=w+1; may[w]=o+1; mr[w]=r;
		lk[0] = lk[0] && (w==0 || mr[0]!=r); lk[1] = lk[1] && (w==1 || mr[1]!=r)
	:: !OWNS(r,o) -> goto rel
	fi };
#endif
}
#define answered if :: OWNS(r,o) && cn[r]==w+1 -> cn[r]=b; b=0 :: else -> b=0 fi
#ifdef M_NOSTAMP
#define CALLOK true
#else
#define CALLOK (may[w]==o+1)
#endif
#endif

proctype Worker(byte w)
{	byte o, r, b; int f; bit c, d;

rel:	atomic {
	if :: by[0]==w+1 -> by[0]=0 :: else fi;
	if :: by[1]==w+1 -> by[1]=0 :: else fi;
#if NH > 1
	if :: by[2]==w+1 -> by[2]=0 :: else fi;
	if :: by[3]==w+1 -> by[3]=0 :: else fi;
#endif
#ifdef RES
	if :: cn[0]==w+1 -> cn[0]=NA :: else fi;
#if NR > 1
	if :: cn[1]==w+1 -> cn[1]=NA :: else fi;
#endif
#endif
	cur[w]=0; fresh[w]=0; cv[w]=0; may[w]=0; mr[w]=0; lk[w]=0; wo[w]=9; o=0; r=0; b=0; f=0; c=0; d=0;
end:	if                                                              /* the workers are alike: of two that are idle the first begins */
	:: IDLE && GO(0) -> o=0
	:: IDLE && GO(1) -> o=1
	:: IDLE && GO(2) -> o=2
	:: IDLE && GO(3) -> o=3
	fi;
	wo[w]=o; cur[w]=1; d=att[o]; printf("W%d takes order %d in state %d\n",w,o,st[o]);
	if
	:: st[o]==VER -> goto verify
	:: st[o]==COL -> goto clean
	:: st[o]==SUB
	fi
	}

	/* ---------- submit: read the entries of the hash */
#ifdef M_TWOREADS
	atomic {
	if
	:: CRASH -> goto rel
	:: tk[E(o)]!=o+1 && !KNOWN(o) && !TAKEN(X(o),o) && FACTSAT(1-ACC(o),o)==0 -> fresh[w]=fresh[w]|(1<<(1-ACC(o))); goto readown
	:: true
	fi }
#endif
	atomic {
	fresh[w]=3; cv[w]=1;
	if
	:: CRASH -> goto rel
	:: KNOWN(o) && BO(o) -> goto toverify
	:: KNOWN(o) && !BO(o) -> goto tofailed
	:: !KNOWN(o) && tk[E(o)]==o+1 && op[E(o)] && q[o]!=1 -> goto look
	:: !KNOWN(o) && tk[E(o)]==o+1 && op[E(o)] && q[o]==1 -> goto rel
	:: !KNOWN(o) && tk[E(o)]==o+1 && !op[E(o)] -> skip                   /* its own, between two attempts */
	:: !KNOWN(o) && tk[E(o)]!=o+1 && (TAKEN(E(o),o) || TAKEN(X(o),o)) ->
		if
		:: STUCKAT(E(o),o) || STUCKAT(X(o),o) -> f=0; goto hold           /* waits for one that is held: held too */
		:: OPENELSE(o) && TAKEN(X(o),o) -> f=(1<<(7+tk[X(o)])); goto hold /* twice its waiting time has passed */
		:: else -> goto rel
		fi
	:: !KNOWN(o) && tk[E(o)]!=o+1 && !TAKEN(E(o),o) && !TAKEN(X(o),o) ->
		f=FACTS(o);
		if
		:: f!=0 -> f = f & -f; goto hold                                  /* one fact at a time */
		:: f==0
		fi
	fi;
	f=0
	}
	goto passed;
#ifdef M_TWOREADS
readown: atomic {
	fresh[w]=fresh[w]|(1<<ACC(o));
	if
	:: CRASH -> goto rel
	:: tk[E(o)]==0 && !KNOWN(o) && FACTSAT(ACC(o),o)==0 -> skip
	:: else -> goto rel
	fi }
#endif
passed:	skip;
#ifdef M_CONDLATER
	atomic { if :: CRASH -> goto rel :: cv[w]=1 fi };
#endif
#ifdef BUDGET
	atomic { if :: (app[o]&BUD)==0 -> f=BUD; goto hold :: true fi };
#endif
#if defined(RES) && defined(M_CLAIMFIRST)
	if :: KIND(o)==1 && !c -> goto claim :: else fi;
opening:
#endif
#if defined(RES) && defined(M_CLAIMNOENTRY)
	if :: KIND(o)==1 -> goto claim :: else fi;
#endif
	/* ---------- the opening: from here on the set is taken */
	atomic {
	if
	:: CRASH -> goto rel
	:: COND(w,o) ->
		tk[E(o)]=o+1;
#ifdef AGAIN
		pas[o]=ALLFACTS(o);
#endif
		if :: KIND(o)==0 -> op[E(o)]=1; by[E(o)]=w+1; may[w]=o+1 :: else -> dc[E(o)]=d; dg[E(o)]=0 fi;
		wrote(w,o,ACC(o)); fresh[w]=0; cv[w]=0; printf("W%d opens the entry for %d\n",w,o)
	:: !COND(w,o) -> goto rel
	fi }
#ifdef RES
	if
	:: KIND(o)==1 -> goto claim
	:: KIND(o)==0
	fi;
#endif
	/* ---------- the call that spends. A stamp too old is not sent */
	atomic {
	if
	:: CRASH -> goto rel
	:: may[w]==o+1 -> assert(S1 || q[o]==0); q[o]=1; may[w]=0; printf("W%d sends for %d\n",w,o)
	:: may[w]!=o+1 -> goto rel
	fi }
	atomic {
	if
	:: CRASH -> goto rel
	:: q[o]>=2 -> goto close
	:: q[o]==0 -> goto refused
	fi }
#ifdef RES
	/* ---------- the claim. A worker that slept may write one for an order that has ended */
claim:	atomic {
	if
	:: CRASH -> goto rel
	:: OWNS(0,o) -> r=0
#if NR > 1
	:: OWNS(1,o) -> r=1
#endif
	:: !OWNS(0,o) && !OWNS(NR-1,o) && FREEFOR(0,o) -> own[0]=o+1; r=0; printf("W%d claims 0 for %d\n",w,o)
#if NR > 1
	:: !OWNS(1,o) && !OWNS(0,o) && FREEFOR(1,o) -> own[1]=o+1; r=1; printf("W%d claims 1 for %d\n",w,o)
	:: !OWNS(0,o) && !FREEFOR(0,o) && !OWNS(1,o) && !FREEFOR(1,o) -> goto nothing
#else
	:: !OWNS(0,o) && !FREEFOR(0,o) -> goto nothing                      /* an empty pool */
#endif
	fi }
#ifdef M_CLAIMFIRST
	if :: !c -> c=1; goto opening :: else -> c=0 fi;
#endif
#if !defined(M_NOREREAD) && !defined(M_CLAIMNOENTRY)
	/* the names' entry again: who ends an order says so there before it looks for its claims, one of the two sees the other */
	atomic {
	if
	:: CRASH -> goto rel
	:: tk[E(o)]==o+1 && !dg[E(o)] && dc[E(o)]==d && !KNOWN(o)
	:: !(tk[E(o)]==o+1 && !dg[E(o)] && dc[E(o)]==d && !KNOWN(o)) -> c=1
	fi }
	if
	:: atomic { c -> if :: OWNS(r,o) && cn[r]==0 && ro[r]!=o+1 -> own[r]=0; printf("W%d takes its claim of %d for %d back\n",w,r,o) :: else fi; goto rel }
	:: atomic { !c }
	fi;
#endif
	/* ---------- what the cloud shows */
	atomic {
	if
	:: CRASH -> goto rel
	:: q[o]>=2 && ro[r]==o+1 -> goto close                            /* started, and with its names */
#ifdef M_NOCOMPARE
	:: ro[r]!=0 && ro[r]!=o+1 && q[ro[r]-1]>=2 && ro[r]!=PRED(o)+1 -> assert(S7 || HS(ro[r]-1)==HS(o)); goto close
	:: !(q[o]>=2 && ro[r]==o+1) && !(ro[r]!=0 && ro[r]!=o+1 && q[ro[r]-1]>=2 && ro[r]!=PRED(o)+1)
#else
	:: !(q[o]>=2 && ro[r]==o+1)
#endif
	fi }
	/* ---------- names and CSR are put in: noted, and sent within the fence of the note */
	note(0);
	atomic {
	if
	:: CRASH -> goto rel
	:: CALLOK -> upd[o]=upd[o]|(1<<r); may[w]=0; printf("W%d puts names of %d into %d\n",w,o,r)
	:: !CALLOK -> goto rel
	fi }
	atomic {
	if
	:: CRASH -> goto rel
	:: ((upd[o]>>r)&1)==0 -> answered
#ifdef M_NOCOMPARE
	:: true -> b=0                                                    /* no answer: the look shows what is in it; not made */
#endif
	fi }
	/* what the cloud shows is compared before the irreversible call */
	atomic {
	if
	:: CRASH -> goto rel
#ifdef M_NOCOMPARE
	:: true
#else
	:: nm[r]==o+1
	:: nm[r]!=o+1 -> goto nothing
#endif
	fi }
	note(1);
	atomic {
	if
	:: CRASH -> goto rel
	:: CALLOK -> apl[o]=apl[o]|(1<<r); may[w]=0; printf("W%d starts %d for %d\n",w,r,o)
	:: !CALLOK -> goto rel
	fi }
	atomic {
	if
	:: CRASH -> goto rel
#ifdef M_NOCOMPARE
	:: ((apl[o]>>r)&1)==0 && ro[r]!=0 && q[ro[r]-1]>=2 -> assert(S7 || HS(ro[r]-1)==HS(o)); goto close
#else
	:: q[o]>=2 && ro[r]==o+1 -> goto close
#endif
	:: ((apl[o]>>r)&1)==0 && q[o]==0 -> answered; goto nothing
	fi }
	/* ---------- nothing could be claimed, or the cloud said no: again later, or it is given up */
nothing:	if
	:: atomic { true -> goto rel }
	:: atomic { cur[w] -> publish(w,o,COL); printf("W%d gives %d up\n",w,o); goto rel }
	fi;
#endif
	/* ---------- a clear answer: bought or started. A close that conflicts reads again and finds its token */
close:	atomic {
	if
	:: CRASH -> goto rel
	:: (tk[E(o)]==o+1 && (KIND(o)==1 || op[E(o)])) || NOENTRY(o) ->
		op[E(o)] = (KIND(o)==0 -> 0 : op[E(o)]); bo=bo|(1<<o); wrote(w,o,ACC(o)); fresh[w]=0; printf("W%d: %d is bought\n",w,o);
#ifdef M_UNTILBOUGHT
		tk[E(o)]=0
#endif
	:: !((tk[E(o)]==o+1 && (KIND(o)==1 || op[E(o)])) || NOENTRY(o)) -> goto rel
	fi }
toverify: atomic { if :: CRASH -> goto rel :: cur[w] -> publish(w,o,VER); goto rel :: !cur[w] -> goto rel fi };

	/* ---------- an order that spends, a clear no: the attempt is closed; the order goes on, or ends (both by one write) */
refused: atomic {
	if
	:: CRASH -> goto rel
	:: tk[E(o)]==o+1 && op[E(o)] && by[E(o)]==w+1 ->
		op[E(o)]=0; by[E(o)]=0;
		if
		:: wrote(w,o,ACC(o)); printf("W%d closes the attempt of %d\n",w,o);
#ifdef M_FREEONCLOSE
			tk[E(o)]=0;
#endif
			goto rel
		:: cur[w] -> tk[E(o)]=0; en[o]=att[o]+1; wrote(w,o,ACC(o)); fresh[w]=0; printf("W%d: %d ends, never bought\n",w,o)
		fi
	:: else -> goto rel
	fi }
tofailed: atomic { if :: CRASH -> goto rel :: cur[w] -> publish(w,o,FAI); goto rel :: !cur[w] -> goto rel fi };

	/* ---------- an unknown outcome: the look, a waiting time after the opening */
look:	atomic {
	if
	:: CRASH -> goto rel
	:: q[o]!=1 ->
		if :: may[0]==o+1 -> may[0]=0 :: else fi;
		if :: may[1]==o+1 -> may[1]=0 :: else fi;
		c = (q[o]>=2)
	:: q[o]==1 -> goto rel
	fi }
	if
	:: atomic { c -> c=0; if :: st[o]==COL -> goto cleanclose :: else -> goto close fi }
	:: atomic { !c }
	fi;
	atomic {
	if
	:: CRASH -> goto rel
	:: COND(w,o) -> op[E(o)]=0; by[E(o)]=0; wrote(w,o,ACC(o)); printf("W%d: %d was not bought\n",w,o);
#ifdef M_FREEONCLOSE
		tk[E(o)]=0;
#endif
		goto rel
	:: !COND(w,o) -> goto rel
	fi }

	/* ---------- verify: the cloud has issued, or the order ended there without a certificate */
verify:	atomic {
	if
	:: CRASH -> goto rel
	:: q[o]==4 -> c=1
	:: q[o]==3 -> c=0
	:: q[o]<3 -> goto rel
	fi
	}
#ifdef M_ISSUEDFIRST
	if :: c -> atomic { if :: CRASH -> goto rel :: cur[w] -> publish(w,o,ISS) :: !cur[w] -> goto rel fi } :: else fi;
#endif
	/* the entry first, then the order */
	atomic {
	if
	:: CRASH -> goto rel
	:: true ->
		if
		:: ((svc[HS(o)]|pf[HS(o)])>>o)&1 || (tk[E(o)]!=o+1 && !NOENTRY(o) && !UNTILBOUGHT) -> skip       /* it says so already */
		:: else ->
			if :: tk[E(o)]==o+1 -> tk[E(o)]=0; dc[E(o)]=0 :: else fi;
			if
			:: c -> svc[HS(o)]=1<<o; pf[HS(o)]=0; printf("W%d: %d is in service\n",w,o)
			:: else -> pf[HS(o)]=1<<o; printf("W%d: %d was paid for and failed\n",w,o)
			fi;
			wrote(w,o,ACC(o)); fresh[w]=0
		fi
	fi }
	atomic {
	if
	:: CRASH -> goto rel
	:: cur[w] -> if :: c -> publish(w,o,ISS) :: else -> publish(w,o,FAI) fi; goto rel
	:: !cur[w] -> goto rel
	fi }

	/* ---------- the end is decided (cancelled, given up): what it has is cleaned up, the entry says how it ended, then the order */
clean:	atomic {
	fresh[w]=3; cv[w]=1;
	if
	:: CRASH -> goto rel
	:: tk[E(o)]==o+1 && op[E(o)] -> goto look
	:: !(tk[E(o)]==o+1 && op[E(o)]) && tk[E(o)]!=o+1 && (BO(o) || en[o]>att[o]) -> goto tofailed  /* the entry says so already */
	:: !(tk[E(o)]==o+1 && op[E(o)]) && !(tk[E(o)]!=o+1 && (BO(o) || en[o]>att[o]))
	fi }
	goto cleaned;
cleanclose: atomic {
	if
	:: CRASH -> goto rel
	:: tk[E(o)]==o+1 && op[E(o)] -> op[E(o)]=0; by[E(o)]=0; bo=bo|(1<<o); wrote(w,o,ACC(o))
	:: !(tk[E(o)]==o+1 && op[E(o)]) -> goto rel
	fi }
cleaned: skip;
#ifdef RES
	if :: KIND(o)==0 -> goto over :: else fi;
#ifndef M_NOENDING
	atomic {            /* first it says that it ends */
	if
	:: CRASH -> goto rel
	:: tk[E(o)]!=o+1 || dg[E(o)]
	:: tk[E(o)]==o+1 && !dg[E(o)] && COND(w,o) -> dg[E(o)]=1; wrote(w,o,ACC(o)); printf("W%d: %d is ending\n",w,o)
	:: tk[E(o)]==o+1 && !dg[E(o)] && !COND(w,o) -> goto rel
	fi };
#endif
	/* the look at what it has claimed */
	atomic {
	if
	:: CRASH -> goto rel
	:: !OWNS(0,o) && (NR<2 || !OWNS(NR-1,o)) -> goto over
	:: OWNS(0,o) -> r=0
#if NR > 1
	:: OWNS(1,o) -> r=1
#endif
	fi }
	atomic {
	lk[w]=1; mr[w]=r;
	if
	:: CRASH -> goto rel
#ifdef M_GIVEBACKNOW
	:: true -> c=(q[o]>=2 && ro[r]==o+1)
#else
	:: LOOKOK(o,r) -> c=(q[o]>=2 && ro[r]==o+1);
		if :: cn[r]!=0 && may[0]==o+1 -> may[0]=0 :: else fi;
		if :: cn[r]!=0 && may[1]==o+1 -> may[1]=0 :: else fi
	:: !LOOKOK(o,r) -> goto rel
#endif
	fi }
	if
	:: atomic { c -> c=0; if :: q[o]==2 -> goto rel :: else -> bo=bo|(1<<o); goto over fi } /* started: it waits for the application's end */
	:: atomic { !c }
	fi;
	atomic {
	if
	:: CRASH -> goto rel
#ifdef M_GIVEBACKNOW
	:: OWNS(r,o) -> own[r]=0; cn[r]=0; printf("W%d gives back %d of %d\n",w,r,o)
#else
	:: OWNS(r,o) && (cn[r]==0 || lk[w]) -> own[r]=0; cn[r]=0; printf("W%d gives back %d of %d\n",w,r,o)
	:: OWNS(r,o) && !(cn[r]==0 || lk[w]) -> goto rel                  /* noted since: too early */
#endif
	:: !OWNS(r,o)
	fi }
#endif
over:	atomic {
	if
	:: CRASH -> goto rel
	:: COND(w,o) && cur[w] ->
		if
		:: BO(o) && tk[E(o)]==o+1 -> pf[HS(o)]=1<<o
		:: BO(o) && tk[E(o)]!=o+1
		:: else -> en[o]=att[o]+1
		fi;
		if :: tk[E(o)]==o+1 -> tk[E(o)]=0; dg[E(o)]=0; dc[E(o)]=0 :: else fi;
		wrote(w,o,ACC(o)); fresh[w]=0; printf("W%d: %d has ended\n",w,o)
	:: !(COND(w,o) && cur[w]) -> goto rel
	fi }
	goto tofailed;

hold:	atomic { if :: CRASH -> goto rel :: cur[w] -> fact[o]=f; publish(w,o,HLD); goto rel :: !cur[w] -> goto rel fi }
}

/* ---------- the cloud */
#define SPENT(o) \
	:: atomic { q[o]==1 -> printf("   cloud: %d is bought\n",o); bought(o) } \
	:: atomic { q[o]==1 -> q[o]=0 } \
	:: atomic { q[o]==2 -> q[o]=3 } \
	:: atomic { q[o]==2 -> q[o]=4 }
#ifdef DUE
#define AGES(o) :: atomic { q[o]==4 && !due[o] && st[o]==ISS -> due[o]=1 }
#else
#define AGES(o)
#endif
/* a repetition of the same start, after its end, makes at most a surplus certificate of the same names: left out */
#define STARTABLE(o,r) (ro[r]==0 || (q[ro[r]-1]>=3 && ro[r]!=(o)+1))
#define LANDS(o,r) \
	:: atomic { (upd[o]>>(r))&1 -> upd[o]=upd[o]&~(1<<(r)) } \
	:: atomic { ((upd[o]>>(r))&1) && STARTABLE(o,r) -> upd[o]=upd[o]&~(1<<(r)); nm[r]=(o)+1; printf("   cloud: names of %d are in %d\n",o,r) } \
	:: atomic { (apl[o]>>(r))&1 -> apl[o]=apl[o]&~(1<<(r)) } \
	:: atomic { ((apl[o]>>(r))&1) && STARTABLE(o,r) && nm[r]!=0 -> apl[o]=apl[o]&~(1<<(r)); \
		printf("   cloud: %d starts with the names of %d, asked by %d\n",r,nm[r]-1,o); \
		assert(S7 || HS(nm[r]-1)==HS(o));                               /* wrong names */ \
		assert(S9 || ro[r]==0 || HS(ro[r]-1)==HS(nm[r]-1));             /* a resource stays with its names */ \
		assert(S1 || q[nm[r]-1]==0); \
		ro[r]=nm[r]; bought(ro[r]-1); nm[r]=0 }
proctype Cloud()
{
end:	do
	SPENT(0)
	SPENT(1)
	SPENT(2)
	SPENT(3)
	AGES(0)
	AGES(1)
	AGES(2)
	AGES(3)
#ifdef RES
	LANDS(0,0)
	LANDS(1,0)
	LANDS(2,0)
	LANDS(3,0)
#if NR > 1
	LANDS(0,1)
	LANDS(1,1)
	LANDS(2,1)
	LANDS(3,1)
#endif
#endif
	od
}

/* ---------- INTAKE: every message is handed in at any time, as often as one likes */
#ifdef M_ENDLATE
#define HASENDED(o) (st[o]==ISS || st[o]==FAI)
#else
#define HASENDED(o) (st[o]==COL || st[o]==ISS || st[o]==FAI)
#endif
proctype Intake()
{
end:	do
	:: atomic { !home && st[0]==0 -> st[0]=SUB; printf("handed in: 0\n") }
#ifndef NOY
	:: atomic { !home && st[1]==0 -> st[1]=SUB; printf("handed in: 1\n") }
#endif
#if defined(THIRD) || defined(OTHER)
	:: atomic { !home && st[3]==0 -> st[3]=SUB; printf("handed in: 3\n") }
#endif
#ifdef M_HANDINBUYS
	:: atomic { !home && !p2 && (st[0]==ISS || st[0]==FAI) -> p2=1; st[0]=SUB; cur[0]=cur[0]&&wo[0]!=0; cur[1]=cur[1]&&wo[1]!=0; printf("handed in again: 0\n") }
#endif
#ifdef AGAIN
	:: atomic { !home && st[0]!=0 && !want && (st[0]==COL || st[0]==ISS || st[0]==FAI) -> want=1;
		if
		:: st[2]==0 && HASENDED(0) -> st[2]=SUB; nam[2]=nam[2]|1|nam[0]; again=1; printf("again: 0 makes 2\n")
		:: else
		fi }
#ifdef AGAINLIVE
	:: atomic { !home && st[0]!=0 && !again && st[2]==0 -> st[2]=SUB; nam[2]=nam[2]|1|nam[0]; again=1; printf("again: 0 makes 2\n") }
#endif
#ifdef M_AGAINNEXT
	:: atomic { !home && again && st[2]!=0 && st[3]==0 -> st[3]=SUB; printf("again: 0 makes 3\n") }
#endif
#ifdef CHAIN
	:: atomic { !home && st[2]!=0 && st[3]==0 && (st[2]==COL || st[2]==ISS || st[2]==FAI) -> st[3]=SUB; nam[3]=nam[3]|4|nam[2]; printf("again: 2 makes 3\n") }
#endif
#endif
	#ifdef REST
	:: atomic { !home -> home=1; printf("no more verbs\n") }
#endif
	od
}

/* ---------- the operator */
/* who names an order names what that one was named beside */
#define F(x) (((x)|((x)>>4)|((x)>>8))&15)
#define WITH(x) (F(x) | (F(x)&1 -> nam[0] : 0) | (F(x)&2 -> nam[1] : 0) | (F(x)&4 -> nam[2] : 0) | (F(x)&8 -> nam[3] : 0))
#define VERBS(o) \
	:: atomic { !home && st[o]==HLD && fact[o]!=0 -> printf("approve %d: fact %d\n",o,fact[o]); \
		app[o]=app[o]|fact[o]; nam[o]=nam[o]|WITH(fact[o]); fact[o]=0; publish(2,o,SUB) } \
	:: atomic { !home && st[o]==HLD && fact[o]==0 -> printf("retry %d\n",o); publish(2,o,SUB) } \
	RETRIES(o) \
	CANCELS(o)
#ifdef RETRY
#define RETRIES(o) :: atomic { !home && st[o]==FAI && !BO(o) && att[o]==0 && en[o]==1 -> printf("retry %d\n",o); att[o]=1; publish(2,o,SUB) }
#else
#define RETRIES(o)
#endif
#ifdef CANCEL
#define CANCELS(o) :: atomic { (!home || home) && CANCELOK(o) -> c=o; wo[2]=o; cur[2]=1; fresh[2]=3; cv[2]=1; goto cancel }
#else
#define CANCELS(o)
#endif
#ifndef ENDS
#define CANWORK !home
#else
#define CANWORK true        /* afterwards the operator says nothing but "cancel" */
#endif
/* an open attempt that spends is reconciled first; an order that claims is cancelled, and waits for the look in its clean-up */
#define CANCELOK(o) (CANWORK && (st[o]==SUB || st[o]==HLD || st[o]==VER) && !(KIND(o)==0 && tk[E(o)]==(o)+1 && op[E(o)]))
proctype Operator()
{	byte c;
rel:	atomic {
	cur[2]=0; fresh[2]=0; cv[2]=0; wo[2]=9; c=0;
end:	if
	VERBS(0)
	VERBS(1)
	VERBS(2)
	VERBS(3)
	fi
	};
	goto rel;
cancel:	atomic {            /* the ledger first: the attempt is closed there, or there is something to clean up */
	if
	:: CRASH -> goto rel
	:: KIND(c)==0 && !BO(c) && COND(2,c) && st[c]!=VER -> en[c]=att[c]+1; if :: tk[E(c)]==c+1 -> tk[E(c)]=0 :: else fi; wrote(2,c,ACC(c))
	:: KIND(c)==1 || BO(c) || st[c]==VER
	:: else -> goto rel
	fi }
	atomic { if :: CRASH -> goto rel :: cur[2] -> printf("cancel %d\n",c); publish(2,c,COL); goto rel :: !cur[2] -> goto rel fi }
}

/* ---------- at rest */
proctype Quiet()
{
end:	timeout ->
	assert(S4 || (FINAL(st[0]) && FINAL(st[1]) && FINAL(st[2]) && FINAL(st[3])));
#ifdef ENDS
	assert(S4 || (st[0]!=HLD && st[1]!=HLD && st[2]!=HLD && st[3]!=HLD));
#endif
#define HASNOENDED(i) (tk[i]==0 || (st[tk[i]-1]!=ISS && st[tk[i]-1]!=FAI))
	assert(S4 || (HASNOENDED(0) && HASNOENDED(1)));                     /* an ended order takes no set */
	assert(S4 || (st[0]!=ISS && st[1]!=ISS && st[2]!=ISS && st[3]!=ISS) || svc[0]!=0 || NH>1);
	assert(S8 || !want || st[2]!=0)                                     /* `again` was answered as if the order were still under way */
}

init { atomic {
#ifndef INTAKE
	st[0]=SUB;
#ifndef NOY
	st[1]=SUB;
#endif
#if defined(THIRD) || defined(OTHER)
	st[3]=SUB;
#endif
#endif
	run Worker(0);
#if NW > 1
	run Worker(1);
#endif
	run Cloud(); run Intake(); run Operator();
#ifdef REST
	run Quiet()
#endif
} }
