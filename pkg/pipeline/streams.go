// Package pipeline is how orders move: the streams, the one conditional
// transition, the one worker loop and its verbs.
//
// An order is one message on stream ORDERS, subject order.<state>.<id>.<lane>.
// A transition publishes the next state on condition that the message that was
// read is still the order's last, and then deletes that message. Nobody acks:
// removal is the acknowledgement, so the stream's content is the exact present
// state of every order, and a crash at any point leaves at worst two messages
// of one order, of which the older one is removed by whoever is handed it.
package pipeline

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/stream"
)

// Names of the streams, and of the metadata key that holds their incarnation.
const (
	OrdersStream  = "ORDERS"
	IntakeStream  = "INTAKE"
	TicketStream  = "TICKETS"
	incarnationIn = "certmill-incarnation"
	sinceIn       = "certmill-since" // when this incarnation began, RFC 3339
)

// Limits of the inbox.
const (
	MaxRequestBytes = 64 << 10 // of one order message; larger ones are refused when they are published
	// intakeWindow is the shortest that servers take.
	intakeWindow   = 100 * time.Millisecond
	intakeMaxBytes = 4 << 30
	intakeMinBytes = 16 * MaxRequestBytes
)

// IntakeBytes is the bound of an inbox that is made where so many bytes are free;
// 0 if nobody knows. Servers reserve it, and refuse what they have no room for.
func IntakeBytes(free int64) int64 {
	if free <= 0 {
		return intakeMaxBytes
	}
	return min(max(free/10, intakeMinBytes), intakeMaxBytes)
}

// OrdersConfig is the stream of the orders: nothing but a transition may ever
// remove a message. A limit by count, bytes or age on the newest message of an
// order would bring an older state back to life (measured). Direct get is off,
// because a follower that lags would answer with an older state. replicas is 1
// for a single server and 3 in a cluster; 0 means any, for those who look. A
// stream that is made by it begins a new incarnation.
func OrdersConfig(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              OrdersStream,
		Description:       "one message per order: its present state",
		Subjects:          []string{"order.*.*.*"},
		Retention:         jetstream.LimitsPolicy,
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		MaxMsgsPerSubject: 1,
		Metadata:          incarnation(),
	}
}

// IntakeConfig is the stream of the inbox: full, it refuses messages and loses
// none. replicas is as for OrdersConfig; the bound is that of IntakeBytes, and
// any other one is as good (stream.Verify).
//
// Anybody publishes here, so no header of a message may change what is stored of
// another: no rollups, TTLs, schedules, counters and batches, which the server
// refuses then. It cannot be told to ignore Nats-Msg-Id, and ids are known over
// all publishers: what one sends with an id that another has just used is
// acknowledged and not stored. The window in which that happens is the shortest
// that there is; an order that comes twice is known by its own id.
func IntakeConfig(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        IntakeStream,
		Description: "order messages, published by anybody",
		Subjects:    []string{"orders.new", "orders.new.*", "orders.urgent", "orders.urgent.*"},
		Retention:   jetstream.WorkQueuePolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     jetstream.FileStorage,
		Replicas:    replicas,
		MaxBytes:    intakeMaxBytes,
		MaxMsgSize:  MaxRequestBytes,
		Duplicates:  intakeWindow,
		DenyDelete:  true,
		DenyPurge:   true,
	}
}

// ticketConfig: in memory, because a lost ticket is made again (Ticket), but on
// as many servers as the rest, or losing one would stop the sweeps.
func ticketConfig(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              TicketStream,
		Description:       "work that one replica at a time should do",
		Subjects:          []string{"ticket.*"},
		Storage:           jetstream.MemoryStorage,
		Replicas:          replicas,
		MaxMsgsPerSubject: 1,
	}
}

// incarnation is the metadata of a new life of the streams.
func incarnation() map[string]string {
	return map[string]string{incarnationIn: rand.Text(), sinceIn: time.Now().UTC().Format(time.RFC3339)}
}

// Incarnation returns the token of this life of the streams. A worker belongs
// to one incarnation and stops when it finds another.
func Incarnation(ctx context.Context, js jetstream.JetStream) (string, error) {
	s, err := stream.Open(ctx, js, OrdersConfig(0))
	if err != nil {
		return "", err
	}
	token, _, err := incarnationOf(s.CachedInfo())
	return token, err
}

// incarnationOf also returns when it began. That of a restored stream is older
// than its restoration: Renew.
func incarnationOf(info *jetstream.StreamInfo) (token string, since time.Time, err error) {
	if token = info.Config.Metadata[incarnationIn]; token == "" {
		return "", time.Time{}, fmt.Errorf("stream %s was not made by certmill: its metadata lacks %s", OrdersStream, incarnationIn)
	}
	since, err = time.Parse(time.RFC3339, info.Config.Metadata[sinceIn])
	if err != nil || since.Before(info.Created) {
		since = info.Created
	}
	return token, since, nil
}

// Renew begins a new incarnation of streams that were restored from a copy:
// nothing is bought until the accounts' lists were swept again, begun no earlier
// than the waiting time from now, because calls that the copy does not know of
// may still land. Workers must be stopped before a restore; those that were not
// stop themselves. Safe to repeat.
func Renew(ctx context.Context, js jetstream.JetStream) error {
	s, err := stream.Open(ctx, js, OrdersConfig(0))
	if err != nil {
		return err
	}
	cfg := s.CachedInfo().Config
	maps.Copy(cfg.Metadata, incarnation())
	if _, err = js.UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("stream %s: %w", OrdersStream, err)
	}
	return nil
}
