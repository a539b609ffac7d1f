package permit

import (
	"context"
	"errors"
)

// source is where the slots of one shard of a ring lie: a consumer on a stream,
// or memory. It MUST hand out each sequence of a slot as first at most once,
// ever, and MUST replace a sequence only by a put or a remove that names it.
type source interface {
	// open makes the shard unless it is there. ErrSettings, wrapped, if it is
	// there with other settings; with retune, another number of calls is
	// changed instead. With Options.Join it makes and changes nothing: ErrNoRing,
	// wrapped, if it is not there.
	open(ctx context.Context, l Limit, shards int, retune bool) (opened, error)
	// pull waits for one permit, somewhat shorter than E. errNothing: none came.
	// errGone: the shard is not there, or not now; open it again.
	pull(ctx context.Context, l Limit) (delivery, error)
	// put and remove return errRefused if d is no longer its slot's last. Any
	// other error leaves open whether it was done; repeating is safe.
	put(ctx context.Context, d delivery) error
	remove(ctx context.Context, d delivery) error
	// fill puts an empty slot; errRefused if it is not empty.
	fill(ctx context.Context, life string, slot int) error
	// filled tells which slots of a life are not empty.
	filled(ctx context.Context, life string) (map[int]bool, error)
	// touch puts off that d is handed out again. It may fail.
	touch(d delivery)
}

// opened is what open found or made.
type opened struct {
	life   string // changes when the consumer is made anew
	shards int    // over how many consumers this ring is split
	limit  Limit  // the settings that stand there, of a ring that is only joined
}

// delivery is a slot's message as it was handed out.
type delivery struct {
	life    string
	slot    int
	seq     uint64
	first   bool   // delivered for the first time
	subject string // of a JetStream message
	reply   string
}

var (
	errNothing = errors.New("no permit came")
	errGone    = errors.New("the consumer is not there")
	errRefused = errors.New("the slot has moved on")
)
