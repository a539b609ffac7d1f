// Package permit keeps a provider's call limit among any number of processes:
// at most L calls in any sliding period T, for one account and API action, as
// counted at the provider. It needs a JetStream and nothing else.
//
//	set := permit.New(js, limits, permit.Options{})
//	ctx, p, err := set.Wait(ctx, permit.Key{Account: "100200", Action: "CreateOrder"})
//	...                            // one call, sent with ctx, ending by p.Deadline
//	p.Give(permit.Answered, 0)
//
// # The ring
//
// The limit is a ring of L slots, each one message on a stream that keeps one
// message per subject. All processes pull from one durable consumer, one pull
// at a time each, and the server's queue is fair among them. What is pulled is
// the permit for one call. T after the response it is put back: the slot's
// subject is published again, on condition that the message which was pulled is
// still its last. Nobody acknowledges anything.
//
// Four lengths of time rule a ring, and Q is their sum without AckWait:
//
//	E  Limit.Pull      a permit is used by then, from before its pull was sent, or not at all
//	D  Limit.Deadline  a call ends by then
//	T  Limit.Period    the provider's period
//	Q  E + D + T       what nobody answered for is back after this
//	   AckWait         a permit nobody put back is handed out again after this
//
// # The rules
//
//  1. A permit is used only if this is its first delivery. The second time,
//     somebody had it and may still be calling: whoever receives it puts it
//     back Q later and does not use it.
//  2. A permit whose pull took longer than E is not used.
//  3. An answered call's permit is put back T after the answer, one whose
//     outcome is unknown Q after its pull began, one that was throttled after a
//     longer rest, and one that was never used at once. A put is repeated until
//     it is stored or refused because the slot has moved on.
//  4. The slots of a new consumer are put Q after it was created, as the one who
//     puts them saw it on its own clock, each on condition that it is empty.
//     Every life of a consumer has subjects of its own, so this condition can be
//     met once.
//  5. A lowered limit removes a slot when it would have been put back; a raised
//     one puts the new slots Q after the raise was seen.
//
// # Why it holds
//
// For each slot and sequence at most one process sees a first delivery, because
// the server has the delivery count replicated before it sends the message. A
// sequence is replaced by a put conditional on it, which succeeds once. That
// put comes from the user, T or more after its answer or Q after its pull
// began; or from a later receiver, Q after it received, which is later than the
// user's pull began. Every call is counted by E + D after its pull began. So
// two uses of one slot are counted at least T apart. And of any L+1 calls two
// use the same slot: L+1 calls span at least T. No bound on the network's
// jitter, no server clock, no comparison of clocks, no number of processes and
// no leader enters: only lengths of time, each on one process's own clock.
//
// In return a slot is idle while its call is under way: a ring makes
// L/(T + mean response time) calls, which is the most that can be had without
// trusting a bound on delays.
//
// # What it rests on
//
//   - An answer means that the call was counted before it, and a request that
//     was given up at its deadline is not counted later: reset the connection,
//     do not drain it. Packets already in the network are not covered.
//   - All calls go through the ring. Transport sees to it within a program;
//     programs that know nothing of the ring are met by rule 3's rest: a slot
//     that was throttled rests, which finds a fair share without shared state.
//   - What the server confirmed it keeps: R3 on file, and fsync on every write
//     where all servers can lose power together. A single server keeps the
//     stream in memory, where a delivery and its count cannot come apart; its
//     restart begins a new life (rule 4).
//   - The process does not stop between the last look at the clock and the
//     write to the socket for longer than what is left of D + T, and the
//     monotonic clock runs on while it stops (a suspended virtual machine's may
//     not).
//
// # Conditions beyond one ring
//
// A consumer hands out about 50 delayed messages a second at full precision. A
// ring of a higher rate is split over several consumers by slot number, which
// changes nothing in the proof. Two names of one account at the provider MUST
// use the same Key.Account.
//
// The settings of a ring stand in its consumer's metadata. A process that has
// other ones gets ErrSettings and no permits. One that only joins (Options.Join)
// takes those that stand there, and makes, fills and changes nothing.
package permit
