/*
 * rows.pml: whose is a row of the cloud's list (DESIGN 12.5 to 12.8), for Spin.
 *
 * S6 over what the cloud has: owners of cloud orders, provisional and proved; rows that are foreign for an order; the first sweep
 * of a lost ledger, of several accounts and lists; numbers in the key store that belong to another account; a caller whose lists
 * are narrower than those of the one before.
 *
 * Two orders, x = 0 and y = 1, for one set of names (SEP: each has its own), two main accounts whose entries lie under one hash.
 * The purchase is collapsed as in names.pml. A life before the loss (LOST) is not played: the run begins with whatever it may
 * have left: a row of x (and of y: PAST2) that is in flight, landed, listed or was never bought, and numbers in the key store.
 */

/* Mutations, each takes back one rule:
 * 12.5  M_FOREIGNFREE   a row that is foreign for an order does not stop its purchase
 *       M_FOREIGNLEFT   it does so only once a sweep has reported it
 *       M_NOOWNER       nobody looks who owns a cloud order                    M_CLAIMLATER  the owner is written after the entry
 *       M_PROVHIDES     a row that another order has without proof counts as "not there"
 * 12.2  M_OPENELDER     of two orders that have the set the older goes on, also beside the other's open attempt
 *       M_PAIDELDER     and also beside the other's purchase
 * 12.6  M_SWEEPSKIPS    the sweep does not report rows of names with an open attempt
 *       M_NOMARK        the first sweep is not awaited                         M_OWNMARK     only that of the own account is
 *       M_ONELIST       the first sweep is complete after one list             M_SWEEPEARLY  it begins before the waiting time is over
 *       M_NOUNC         an unclaimed row does not stop the purchase
 * 12.7  M_NARROW        any caller's list may say "not there"                  M_NARROWMARK  and may be the first sweep of a lost ledger
 * 12.8  M_NUMACCOUNT    a number that belongs to another account is ignored    M_NONUM       numbers are not looked at
 * Worlds: LOST, KSLOST (with the key store), PAST2, MOVE (an order handed in again may get the other account), CANT (an account
 * may turn out not to be sweepable), TWOLISTS, OUTSIDER (somebody else buys the same names), SEP, BLUR (the list shows less than
 * all names: rows of both look alike), NOPROOF (nothing ever shows whose key a row has), CALLER (the caller changes), PARTIAL.
 */
#define NR 3
#ifndef NW
#define NW 2
#endif
#ifndef MAXATT
#define MAXATT 2
#endif
#ifndef A1
#define A1 0
#endif
#if defined(SEP) || defined(BLUR)
#define HS(o) (o)
#define NH 2
#else
#define HS(o) 0
#define NH 1
#endif
#define E(o) (2*HS(o)+ac[o])
#define SUB 1
#define ISS 2
#define HLD 3

/* ---------- stream ORDERS */
byte st[2] = SUB;
byte ac[2];                 /* the order's main account */
byte ask[2], app[2];        /* rows that a held order asks about; rows that a verb let pass */

/* ---------- stream LEDGER */
byte tk[2*NH], op[2*NH];    /* who has the set (bit o); whose attempt is open, + 1 */
byte elder[NH];             /* of two that have it, the one that had it first, + 1 */
byte by[2*NH];              /* the token of the opening */
byte prov[2*NH];            /* row + 1 that the open attempt has provisionally */
byte latt[2];               /* an order's last attempt */
byte cl[NR];                /* entries: whose the row is, + 1 */
byte fr[2];                 /* entries: rows that are foreign for an order */
byte unc[2*NH];             /* entries: rows reported as unclaimed */
byte ow[NR]; bit owp[NR];   /* claim.<main>.<cloud id>: the owner, + 1; without proof */
byte lastw[NH] = 2;
bit  mark[2];               /* ACCOUNTS: the first sweep is complete */
bit  cant[2];               /* and: it cannot be swept, which was told */

/* ---------- the key store */
byte ksn[2], ksa[2];        /* an order's highest number, and its account */

/* ---------- the clouds: rows */
byte q[NR];                 /* 0 nothing, 1 in flight, 2 bought, 3 in the list */
byte qo[NR];                /* whose key it has; 2: somebody else's */
byte qa[NR];
bit  ql[NR];                /* the list that shows it */
bit  qc[NR], qv[NR];        /* bought by the second caller; PARTIAL: which that one sees all the same */
bit  call[2];               /* who calls on an account: the first, the second caller */

/* ---------- actors */
byte wo[2] = 9;
bit  cur[2];
byte fresh[2];
byte may[2];

/* ---------- ghosts */
bit  neu[NR];               /* bought in this life */
byte told;                  /* rows that a finished sweep, or a comparison of keys, has seen */
byte outb = 1, pastb;
#ifdef NOS1
bit S1 = 1;
#else
bit S1;
#endif
bit  S2, S2c, S6;       /* never set: names for assertions */

#define CRASH true
#define OURS(k) (qo[k]<2)
#define SAMENAMES(k,o) (qo[k]==2 || HS(qo[k])==HS(o))
#ifdef BLUR
#define ALIKE(k,o) true
#else
#define ALIKE(k,o) SAMENAMES(k,o)
#endif
#ifdef CALLER
#ifdef PARTIAL
#define SEES(k) (call[qa[k]]==0 || qc[k] || qv[k])
#else
#define SEES(k) (call[qa[k]]==0 || qc[k])
#endif
#else
#define SEES(k) true
#endif
#define LISTED(k) (q[k]==3 && SEES(k))
#define BIT(k) (1<<(k))
#define PROVED(k) (ow[k]!=0 && !owp[k])

/* two living purchases for one set: the new one is in the wrong, unless a verb let the other pass */
#define LET(k,j) ((OURS(k) && ((app[qo[k]]>>(j))&1)) || (OURS(j) && ((app[qo[j]]>>(k))&1)))
#define TWICE(k,j) ((j)!=(k) && q[j]>=2 && OURS(j) && OURS(k) && (neu[j]||neu[k]) && HS(qo[j])==HS(qo[k]) && !LET(k,j))
#define SAMEORDER(k,j) (TWICE(k,j) && qo[j]==qo[k])
#define BESIDE(k,j) (TWICE(k,j) && qo[j]!=qo[k] && !cant[qa[j]] && !cant[qa[k]])
inline lands(k) {
	assert(S1 || !(SAMEORDER(k,0)||SAMEORDER(k,1)||SAMEORDER(k,2)));
	assert(S6 || !(BESIDE(k,0)||BESIDE(k,1)||BESIDE(k,2)));
	q[k]=2
}
inline wrote(w,h,a) {
	fresh[0] = (w!=0 && wo[0]<9 && HS(wo[0])==(h) -> fresh[0] & ~(1<<(a)) : fresh[0]);
	fresh[1] = (w!=1 && wo[1]<9 && HS(wo[1])==(h) -> fresh[1] & ~(1<<(a)) : fresh[1]);
	if :: w<2 -> fresh[w] = fresh[w] | (1<<(a)) :: else fi;
	lastw[h] = (a)
}
#define COND(w,o) (lastw[HS(o)]==2 || ((fresh[w]>>lastw[HS(o)])&1))
inline publish(w,o,s) {
	printf("W%d order %d: %d -> %d\n",w,o,st[o],s); st[o]=s;
	cur[0] = cur[0] && wo[0]!=(o); cur[1] = cur[1] && wo[1]!=(o)
}

/* what stops a purchase: unclaimed rows for these names, at whatever account */
#define STOPPER(k,o) (SAMENAMES(k,o) && !PROVED(k) && !((app[o]>>(k))&1) && q[k]!=0)
#define MASK(o) (STOPPER(0,o) | (STOPPER(1,o)<<1) | (STOPPER(2,o)<<2))
#ifdef M_NOUNC
#define STOP(o) 0
#elif defined(M_FOREIGNFREE)
#define STOP(o) ((unc[2*HS(o)]|unc[2*HS(o)+1]) & MASK(o) & ~fr[o])
#else
#define STOP(o) ((unc[2*HS(o)]|unc[2*HS(o)+1]) & MASK(o))
#endif
/* Two orders may have one set where an ownerless entry was opened, because what may have been bought comes first. An open
 * attempt and a purchase of the other one are in the way, whoever was first; else the older goes on */
#define HAS(o) ((tk[2*HS(o)]|tk[2*HS(o)+1]) >> (o) & 1)
#ifdef M_OPENELDER
#define OPENOTHER(o) false
#else
#define OPENOTHER(o) (op[2*HS(o)]==2-(o) || op[2*HS(o)+1]==2-(o))
#endif
#ifdef M_PAIDELDER
#define PAIDOTHER(o) false
#else
#define PAIDOTHER(o) CLAIMED(1-(o))
#endif
#define TAKEN(o) (HS(0)==HS(1) && (OPENOTHER(o) || PAIDOTHER(o) || (HAS(1-(o)) && !(HAS(o) && elder[HS(o)]==(o)+1))))
#define CLAIMED(o) (cl[0]==(o)+1 || cl[1]==(o)+1 || cl[2]==(o)+1)
#define OPENAT(o) (op[2*HS(o)]==(o)+1 || op[2*HS(o)+1]==(o)+1)
#if defined(M_NOMARK)
#define SWEPT(o) true
#elif defined(M_OWNMARK)
#define SWEPT(o) mark[ac[o]]
#else
#define SWEPT(o) (mark[ac[o]] && (mark[1-ac[o]] || cant[1-ac[o]]))
#endif
#if defined(M_NONUM)
#define NUM(o) 0
#elif defined(M_NUMACCOUNT)
#define NUM(o) (ksa[o]==ac[o] -> ksn[o] : 0)
#else
#define NUM(o) ksn[o]
#endif
/* a candidate: listed, looks like it, nobody owns it, or one without proof whose entry says otherwise */
#define SAYS(k) (prov[E(ow[k]-1)]==(k)+1 && op[E(ow[k]-1)]==ow[k])
#if defined(M_NOOWNER) || defined(M_CLAIMLATER)
#define FREE(k,o) (cl[k]==0 || HS(cl[k]-1)!=HS(o))              /* the own names' entry is all that is looked at */
#else
#define FREE(k,o) (ow[k]==0 || ow[k]==(o)+1 || (owp[k] && !SAYS(k)))
#endif
/* one that another order has without proof may yet be this one's: it is not "not there" */
#ifdef M_PROVHIDES
#define MAYBE(k,o) false
#else
#define MAYBE(k,o) (LISTED(k) && qa[k]==ac[o] && ALIKE(k,o) && !((fr[o]>>(k))&1) && owp[k])
#endif
#define CAND(k,o) (LISTED(k) && qa[k]==ac[o] && ALIKE(k,o) && !((fr[o]>>(k))&1) && FREE(k,o))
#define INFLIGHT(k,o) ((q[k]==1 || q[k]==2) && qo[k]==(o))
#define OVER(o) !(INFLIGHT(0,o)||INFLIGHT(1,o)||INFLIGHT(2,o))  /* the waiting time is over: landed and listed, or lost */
/* a new caller's list may say "not there" after it has shown a row that an entry of the caller before it claims */
#define SHOWN(k,a) (qa[k]==(a) && cl[k]!=0 && !qc[k] && q[k]==3 && SEES(k))
#if defined(M_NARROW) || !defined(CALLER)
#define TRUSTED(a) true
#else
#define TRUSTED(a) (call[a]==0 || SHOWN(0,a) || SHOWN(1,a) || SHOWN(2,a))
#endif

#define takes if :: tk[2*HS(o)]==0 && tk[2*HS(o)+1]==0 -> elder[HS(o)]=o+1 :: else fi; tk[E(o)]=tk[E(o)]|(1<<o)

proctype Worker(byte w)
{	byte o, k, m; bit c;
rel:	atomic {
	if :: by[0]==w+1 -> by[0]=0 :: else fi; if :: by[1]==w+1 -> by[1]=0 :: else fi;
#if NH > 1
	if :: by[2]==w+1 -> by[2]=0 :: else fi; if :: by[3]==w+1 -> by[3]=0 :: else fi;
#endif
	cur[w]=0; fresh[w]=0; may[w]=0; wo[w]=9; o=0; k=0; m=0; c=0;
end:	if
	:: (w==0 || wo[0]<9) && st[0]==SUB -> o=0
	:: (w==0 || wo[0]<9) && st[1]==SUB -> o=1
	fi;
	wo[w]=o; cur[w]=1
	}
	/* ---------- read the entries of the hash */
	atomic {
	fresh[w]=3;
	if
	:: CRASH -> goto rel
	:: CLAIMED(o) -> goto issued
	:: !CLAIMED(o) && OPENAT(o) && op[E(o)]==o+1 -> if :: prov[E(o)]!=0 -> k=prov[E(o)]-1; goto compare :: else -> goto look fi
	:: !CLAIMED(o) && OPENAT(o) && op[E(o)]!=o+1 -> if :: cur[w] -> ac[o]=1-ac[o] :: else fi; goto rel  /* the order stays where its attempt is open */
	:: !CLAIMED(o) && !OPENAT(o) && NUM(o)>latt[o] -> goto unowned
	:: !CLAIMED(o) && !OPENAT(o) && NUM(o)<=latt[o] && TAKEN(o) -> goto rel
	:: !CLAIMED(o) && !OPENAT(o) && NUM(o)<=latt[o] && !TAKEN(o) && !SWEPT(o) -> goto rel
	:: !CLAIMED(o) && !OPENAT(o) && NUM(o)<=latt[o] && !TAKEN(o) && SWEPT(o) && STOP(o)!=0 -> m=STOP(o); m=m&-m; goto hold
	:: !CLAIMED(o) && !OPENAT(o) && NUM(o)<=latt[o] && !TAKEN(o) && SWEPT(o) && STOP(o)==0 && latt[o]<MAXATT -> skip
	:: !CLAIMED(o) && !OPENAT(o) && NUM(o)<=latt[o] && !TAKEN(o) && SWEPT(o) && STOP(o)==0 && latt[o]>=MAXATT -> m=0; goto hold
	fi
	}
	/* ---------- the number, before the entry; numbers only rise */
	atomic {
	if
	:: CRASH -> goto rel
	:: NUM(o)<=latt[o] -> ksn[o]=latt[o]+1; ksa[o]=ac[o]
	:: NUM(o)>latt[o] -> goto unowned
	fi }
	atomic {
	if
	:: CRASH -> goto rel
	:: COND(w,o) && cur[w] ->
#define UNSEEN(k,o) (((told>>(k))&1) && qo[k]==2 && STOPPER(k,o))
		assert(S6 || !(UNSEEN(0,o)||UNSEEN(1,o)||UNSEEN(2,o)));   /* a row of somebody else's that was seen, and no verb let pass */
		takes; op[E(o)]=o+1; by[E(o)]=w+1; latt[o]=latt[o]+1; may[w]=o+1; wrote(w,HS(o),ac[o]); fresh[w]=0; printf("W%d opens the entry for %d at %d\n",w,o,ac[o])
	:: !(COND(w,o) && cur[w]) -> goto rel
	fi }
	/* ---------- the call */
	atomic {
	if
	:: CRASH -> goto rel
	:: may[w]==o+1 && q[0]==0 -> k=0
	:: may[w]==o+1 && q[0]!=0 && q[1]==0 -> k=1
	:: may[w]==o+1 && q[0]!=0 && q[1]!=0 && q[2]==0 -> k=2
	:: may[w]!=o+1 || (q[0]!=0 && q[1]!=0 && q[2]!=0) -> goto rel
	fi;
	q[k]=1; qo[k]=o; qa[k]=ac[o]; qc[k]=call[ac[o]]; neu[k]=1; may[w]=0; printf("W%d sends %d for %d at %d\n",w,k,o,ac[o])
	}
	atomic {
	if
	:: CRASH -> goto rel
	:: q[k]==1 -> q[k]=0; qo[k]=0; qa[k]=0; qc[k]=0; neu[k]=0; goto refused
	:: q[k]>=2 && qo[k]==o -> skip
	:: else -> goto rel
	fi }
	/* ---------- the answer names it: the owner first, then the entry */
proof:
#ifndef M_CLAIMLATER
	atomic {
	if
	:: CRASH -> goto rel
#ifdef M_NOOWNER
	:: true
#else
#ifdef NOPROOF
	:: ow[k]==0 || ow[k]==o+1 -> ow[k]=o+1; owp[k]=0
	:: ow[k]!=0 && ow[k]!=o+1 -> goto rel                           /* somebody else has it */
#else
	:: true -> assert(S2 || !(ow[k]!=0 && ow[k]!=o+1 && !owp[k])); assert(S2 || qo[k]==o); ow[k]=o+1; owp[k]=0
#endif
#endif
	fi }
#endif
	atomic {
	if
	:: CRASH -> goto rel
	:: op[E(o)]==o+1 -> assert(S2c || cl[k]==0);                      /* one cloud order, one claimant */
		cl[k]=o+1; op[E(o)]=0; by[E(o)]=0; prov[E(o)]=0; wrote(w,HS(o),ac[o]); printf("W%d: %d is %d's\n",w,k,o)
	:: op[E(o)]!=o+1 -> goto rel
	fi }
#ifdef M_CLAIMLATER
	atomic { if :: CRASH -> goto rel :: ow[k]=o+1; owp[k]=0 fi };
#endif
issued:	atomic { if :: CRASH -> goto rel :: cur[w] -> publish(w,o,ISS); goto rel :: !cur[w] -> goto rel fi };
refused: atomic {
	if
	:: CRASH -> goto rel
	:: op[E(o)]==o+1 && by[E(o)]==w+1 -> op[E(o)]=0; by[E(o)]=0; wrote(w,HS(o),ac[o]); goto rel
	:: else -> goto rel
	fi }
	/* ---------- a number that the ledger does not know: an entry that nobody owns, at the account of the number */
unowned: atomic {
	if
	:: CRASH -> goto rel
	:: ksa[o]!=ac[o] -> if :: cur[w] -> ac[o]=ksa[o]; publish(w,o,SUB) :: else fi; goto rel
	:: ksa[o]==ac[o] && COND(w,o) && op[E(o)]==0 -> op[E(o)]=o+1; by[E(o)]=0; latt[o]=ksn[o]; takes;
		wrote(w,HS(o),ac[o]); printf("W%d opens an entry for %d at %d that nobody owns\n",w,o,ac[o]); goto rel
	:: ksa[o]==ac[o] && !(COND(w,o) && op[E(o)]==0) -> goto rel
	fi }
	/* ---------- reconcile: the list */
look:	atomic {
	if
	:: CRASH -> goto rel
	:: CAND(0,o) && OVER(o) -> k=0
	:: CAND(1,o) && OVER(o) -> k=1
	:: CAND(2,o) && OVER(o) -> k=2
	:: !CAND(0,o) && !CAND(1,o) && !CAND(2,o) && !MAYBE(0,o) && !MAYBE(1,o) && !MAYBE(2,o) && OVER(o) && SWEPT(o) && TRUSTED(ac[o]) ->
		if :: may[0]==o+1 -> may[0]=0 :: else fi;
		if :: may[1]==o+1 -> may[1]=0 :: else fi;
		c=1
	:: else -> goto rel
	fi }
	if
	:: c -> atomic {
		if
		:: CRASH -> goto rel
		:: COND(w,o) -> op[E(o)]=0; by[E(o)]=0; wrote(w,HS(o),ac[o]); printf("W%d: %d was not bought\n",w,o); goto rel
		:: !COND(w,o) -> goto rel
		fi }
	:: !c
	fi;
#ifdef NOPROOF
	goto proof;                                                         /* a person's word, or a lone candidate that nothing proves */
#endif
	/* adoption without proof: the owner first (the same conditional write replaces one whose entry says otherwise), then the entry */
#ifndef M_NOOWNER
	atomic {
	if
	:: CRASH -> goto rel
	:: FREE(k,o) && q[k]==3 -> if :: ow[k]!=o+1 -> ow[k]=o+1; owp[k]=1 :: else fi
	:: else -> goto rel
	fi };
#endif
	atomic {
	if
	:: CRASH -> goto rel
	:: COND(w,o) && op[E(o)]==o+1 && prov[E(o)]==0 -> prov[E(o)]=k+1; wrote(w,HS(o),ac[o]); printf("W%d: %d has %d without proof\n",w,o,k)
	:: else -> goto rel
	fi };
	/* ---------- at collection the key is compared */
compare: atomic {
	if
	:: CRASH -> goto rel
	:: qo[k]==o -> c=1
	:: qo[k]!=o -> c=0
	fi }
	if
	:: c -> goto proof
	:: !c
	fi;
	atomic {
	if
	:: CRASH -> goto rel
	:: op[E(o)]==o+1 && prov[E(o)]==k+1 -> prov[E(o)]=0; fr[o]=fr[o]|BIT(k); told=told|BIT(k);
#ifndef M_FOREIGNLEFT
		if :: SAMENAMES(k,o) && !PROVED(k) -> unc[E(o)]=unc[E(o)]|BIT(k) :: else fi;    /* it stays unclaimed: by the same write */
#endif
		 wrote(w,HS(o),ac[o]); printf("W%d: %d is foreign for %d\n",w,k,o); goto rel
	:: else -> goto rel
	fi };
hold:	atomic { if :: CRASH -> goto rel :: cur[w] -> ask[o]=m; publish(w,o,HLD); goto rel :: !cur[w] -> goto rel fi }
}

/* ---------- the sweep of an account */
#ifdef M_SWEEPEARLY
#define MAYSWEEP(a) true
#else
#define LATE(k,a) ((q[k]==1 || q[k]==2) && qa[k]==(a) && !neu[k])
#define MAYSWEEP(a) (mark[a] || !(LATE(0,a)||LATE(1,a)||LATE(2,a)))  /* begun a waiting time after this ledger began */
#endif
#define ROW(k,a,l) (LISTED(k) && qa[k]==(a) && ql[k]==(l))
#define ROWS(a,l) (ROW(0,a,l)|(ROW(1,a,l)<<1)|(ROW(2,a,l)<<2))
#define NAMESOF(h) ((qo[0]==2||HS(qo[0])==(h))|((qo[1]==2||HS(qo[1])==(h))<<1)|((qo[2]==2||HS(qo[2])==(h))<<2))
#define KNOWN (PROVED(0)|(PROVED(1)<<1)|(PROVED(2)<<2))
inline report(a,h) {
#ifdef M_SWEEPSKIPS
	if :: op[2*(h)+(a)]!=0 -> skip :: else -> unc[2*(h)+(a)]=unc[2*(h)+(a)]|(seen & NAMESOF(h) & ~KNOWN); wrote(2,h,a) fi
#else
	if :: (seen & NAMESOF(h) & ~KNOWN & ~unc[2*(h)+(a)])!=0 -> unc[2*(h)+(a)]=unc[2*(h)+(a)]|(seen & NAMESOF(h) & ~KNOWN); wrote(2,h,a) :: else fi
#endif
}
#if defined(CALLER) && !defined(M_NARROWMARK)
#define MAYMARK(a) (call[a]==0)     /* else on the operator's word only */
#else
#define MAYMARK(a) true
#endif
proctype Sweep(byte a)
{	byte seen; bit whole;
end:	do
	:: atomic { MAYSWEEP(a) && !cant[a] -> seen=ROWS(a,0); whole=MAYMARK(a); printf("   sweep of %d reads %d\n",a,seen) };
#if defined(TWOLISTS) && !defined(M_ONELIST)
	   atomic { seen=seen|ROWS(a,1); printf("   sweep of %d reads %d\n",a,seen) };
#endif
	   atomic { report(a,0);
#if NH > 1
		report(a,1);
#endif
		told=told|(seen & ~KNOWN) };
	   atomic { if :: !mark[a] && whole && MAYMARK(a) -> mark[a]=1; printf("   sweep of %d is complete\n",a) :: else fi; seen=0; whole=0 }
#ifdef CANT
	:: atomic { !mark[a] && !cant[a] -> cant[a]=1; printf("   sweep of %d cannot be made\n",a) }
#endif
	od
}

#define CLOUD(k) \
	:: atomic { q[k]==1 -> printf("   cloud: %d is bought, for %d\n",k,qo[k]); lands(k) } \
	:: atomic { q[k]==1 && neu[k] -> q[k]=0; qo[k]=0; qa[k]=0; qc[k]=0; neu[k]=0 } \
	:: atomic { q[k]==1 && !neu[k] -> q[k]=0; qo[k]=0; qa[k]=0; qc[k]=0; ql[k]=0 } \
	:: atomic { q[k]==2 -> q[k]=3; printf("   cloud: %d is listed\n",k) }
proctype Cloud()
{
end:	do
	CLOUD(0)
	CLOUD(1)
	CLOUD(2)
#ifdef OUTSIDER
	:: atomic { outb>0 && q[2]==0 -> outb--; q[2]=3; qo[2]=2; qa[2]=0; printf("   cloud: 2 is listed, somebody else's\n") }
#endif
#ifdef CALLER
	:: atomic { call[0]==0 -> call[0]=1; printf("   cloud: another caller\n") }
#endif
	:: atomic { st[0]==HLD && ask[0]!=0 -> app[0]=app[0]|ask[0]; ask[0]=0; printf("approve 0\n"); publish(2,0,SUB) }
	:: atomic { st[1]==HLD && ask[1]!=0 -> app[1]=app[1]|ask[1]; ask[1]=0; printf("approve 1\n"); publish(2,1,SUB) }
	od
}

init { atomic {
	ac[1]=A1;
#ifdef LOST
	/* what the life before has left: a number is there before anything is sent */
	if
	:: skip
	:: ksn[0]=1; ksa[0]=0;
		if :: skip :: q[0]=1; qo[0]=0; qa[0]=0 :: q[0]=2; qo[0]=0; qa[0]=0 :: q[0]=3; qo[0]=0; qa[0]=0 fi
	fi;
#ifdef TWOLISTS
	if :: q[0]!=0 -> ql[0]=1 :: true fi;
#endif
#ifdef PAST2
	if
	:: skip
	:: ksn[1]=1; ksa[1]=A1;
		if :: skip :: q[1]=1; qo[1]=1; qa[1]=A1 :: q[1]=2; qo[1]=1; qa[1]=A1 :: q[1]=3; qo[1]=1; qa[1]=A1 fi
	fi;
#endif
#ifdef KSLOST
	ksn[0]=0; ksn[1]=0;
#endif
#ifdef MOVE
	if :: true :: ac[0]=1 fi;
#endif
#else
	mark[0]=1; mark[1]=1;
#endif
#ifdef PARTIAL
	if :: qv[0]=1 :: qv[1]=1 :: true fi;
#endif
	run Worker(0);
#if NW > 1
	run Worker(1);
#endif
	run Cloud();
#ifndef NOSWEEP
	run Sweep(0);
#ifdef TWOACC
	run Sweep(1)
#else
	mark[1]=1
#endif
#else
	skip
#endif
} }
