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
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"
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
	intakeMaxBytes  = 4 << 30
)

// Provision makes the streams that are missing and leaves existing ones alone.
// replicas is 1 for a single server and 3 in a cluster. Safe to repeat and to
// run from several processes at once.
func Provision(ctx context.Context, js jetstream.JetStream, replicas int) error {
	for _, cfg := range []jetstream.StreamConfig{ordersConfig(replicas), intakeConfig(replicas), ticketConfig(replicas)} {
		if err := EnsureStream(ctx, js, cfg); err != nil {
			return err
		}
	}
	return nil
}

// EnsureStream makes a stream unless it exists.
func EnsureStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) error {
	_, err := js.Stream(ctx, cfg.Name)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return wrapStream(cfg.Name, err)
	}
	_, err = js.CreateStream(ctx, cfg)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil // another process was first; its incarnation counts
	}
	return wrapStream(cfg.Name, err)
}

func wrapStream(name string, err error) error {
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	return nil
}

// ordersConfig: nothing but a transition may ever remove a message. A limit by
// count, bytes or age on the newest message of an order would bring an older
// state back to life (measured). Direct get is off, because a follower that
// lags would answer with an older state.
func ordersConfig(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              OrdersStream,
		Description:       "one message per order: its present state",
		Subjects:          []string{"order.*.*.*"},
		Retention:         jetstream.LimitsPolicy,
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		MaxMsgsPerSubject: 1,
		FirstSeq:          FirstSeq(),
		Metadata:          incarnation(),
	}
}

func intakeConfig(replicas int) jetstream.StreamConfig {
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
		DenyDelete:  true,
		DenyPurge:   true,
		FirstSeq:    FirstSeq(),
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

// FirstSeq is where a new stream's sequences begin: now, in microseconds, so
// that no sequence of an earlier life of the stream is ever valid again.
func FirstSeq() uint64 { return uint64(time.Now().UnixMicro()) }

// incarnation is the metadata of a new life of the streams.
func incarnation() map[string]string {
	return map[string]string{incarnationIn: rand.Text(), sinceIn: time.Now().UTC().Format(time.RFC3339)}
}

// Incarnation returns the token of this life of the streams. A worker belongs
// to one incarnation and stops when it finds another.
func Incarnation(ctx context.Context, js jetstream.JetStream) (string, error) {
	token, _, err := readIncarnation(ctx, js)
	return token, err
}

// readIncarnation also returns when it began. That of a restored stream is
// older than its restoration: Renew.
func readIncarnation(ctx context.Context, js jetstream.JetStream) (token string, since time.Time, err error) {
	s, err := js.Stream(ctx, OrdersStream)
	if err != nil {
		return "", time.Time{}, wrapStream(OrdersStream, err)
	}
	info := s.CachedInfo()
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
	s, err := js.Stream(ctx, OrdersStream)
	if err != nil {
		return wrapStream(OrdersStream, err)
	}
	cfg := s.CachedInfo().Config
	maps.Copy(cfg.Metadata, incarnation())
	_, err = js.UpdateStream(ctx, cfg)
	return wrapStream(OrdersStream, err)
}
