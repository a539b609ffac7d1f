package app

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/pipeline"
)

// free is how much of the disk the embedded server finds free, in bytes: it takes
// three quarters of that for itself.
func (e *Embedded) free() int64 {
	c := e.running().JetStreamConfig()
	if c == nil {
		return 0
	}
	return c.MaxStore / 3 * 4
}

// storable is how many bytes of each replica the JetStream account may still
// store; 0 if it has no limit, or does not say.
func storable(ctx context.Context, js jetstream.JetStream, replicas int) int64 {
	info, err := js.AccountInfo(ctx)
	if err != nil {
		return 0
	}
	if tier, ok := info.Tiers[fmt.Sprint("R", replicas)]; ok && tier.Limits.MaxStore > 0 { // its limit is for one replica
		return max(tier.Limits.MaxStore-int64(tier.Store), 1)
	}
	if info.Limits.MaxStore > 0 {
		return max((info.Limits.MaxStore-int64(info.Store))/int64(max(replicas, 1)), 1)
	}
	return 0
}

// sized is a lasting stream as it is made: the inbox with a bound that leaves room
// for the orders. free is what is free on the disk, 0 where the server has to
// tell what it allows.
func sized(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, free int64) jetstream.StreamConfig {
	if want.Name != pipeline.IntakeStream {
		return want
	}
	if free == 0 {
		free = storable(ctx, js, want.Replicas)
	}
	want.MaxBytes = pipeline.IntakeBytes(free)
	return want
}
