package natstest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Snapshot is all that a server keeps, as text by name: the configuration of
// every stream, bucket and consumer, how far each consumer has come, and every
// message.
type Snapshot map[string]string

// Take reads it.
func Take(t testing.TB, js jetstream.JetStream) Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTime)
	defer cancel()
	all := Snapshot{}
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		n := info.State
		all["stream "+info.Config.Name] = text(t, info.Config, info.Created, n.FirstSeq, n.LastSeq, n.Msgs)
		s, err := js.Stream(ctx, info.Config.Name)
		if err != nil {
			t.Fatal(err)
		}
		all.consumers(ctx, t, s)
		all.messages(ctx, t, s)
	}
	if err := streams.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func (all Snapshot) consumers(ctx context.Context, t testing.TB, s jetstream.Stream) {
	t.Helper()
	consumers := s.ListConsumers(ctx)
	for c := range consumers.Info() {
		all["consumer "+c.Stream+" "+c.Name] = text(t, c.Config, c.Delivered.Consumer, c.Delivered.Stream,
			c.AckFloor.Consumer, c.AckFloor.Stream, c.NumAckPending, c.NumPending)
	}
	if err := consumers.Err(); err != nil {
		t.Fatal(err)
	}
}

func (all Snapshot) messages(ctx context.Context, t testing.TB, s jetstream.Stream) {
	t.Helper()
	name := s.CachedInfo().Config.Name
	for next := uint64(1); ; {
		m, err := s.GetMsg(ctx, next, jetstream.WithGetMsgSubject(">"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		all[fmt.Sprintf("message %s %d", name, m.Sequence)] = text(t, m.Subject, m.Header, string(m.Data), m.Time)
		next = m.Sequence + 1
	}
}

func text(t testing.TB, parts ...any) string {
	t.Helper()
	data, err := json.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Same takes another one and reports what is not as it was. It waits for
// consumers that were thrown away to be gone.
func (was Snapshot) Same(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	now := Take(t, js)
	for end := time.Now().Add(min(startTime, Patience)); !maps.Equal(was, now) && time.Now().Before(end); now = Take(t, js) {
		time.Sleep(100 * time.Millisecond)
	}
	names := maps.Clone(was)
	maps.Copy(names, now)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if was[name] != now[name] {
			t.Errorf("%s was %s\nand is %s", name, was[name], now[name])
		}
	}
}
