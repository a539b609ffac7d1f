package app

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/pipeline"
)

// No lasting stream obeys a header that would remove other messages, let one
// expire, put one off, or count: the server refuses the message. What they were
// before stays. (Of the inbox, to which anybody publishes: package pipeline.)
func TestNoStreamObeysAHeader(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	if _, err := Init(t.Context(), at(js.Conn().ConnectedUrl(), 1), quiet); err != nil {
		t.Fatal(err)
	}
	headers := []map[string]string{
		{"Nats-Rollup": "all"}, {"Nats-Rollup": "sub"}, {"Nats-TTL": "1s"}, {"Nats-Incr": "+1"},
		{"Nats-Schedule": "@at 2030-01-01T00:00:00Z", "Nats-Schedule-Target": "order.submit.x.x"},
		{"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
	}
	for _, want := range lasting(1) {
		subject := strings.NewReplacer("*", "x", ">", "x").Replace(want.Subjects[len(want.Subjects)-1])
		if want.Name != pipeline.IntakeStream && want.Duplicates != 0 {
			t.Errorf("%s has a window of its own", want.Name)
		}
		ack, err := js.Publish(t.Context(), subject, []byte("x"))
		if err != nil || ack.Stream != want.Name {
			t.Fatalf("%s: %+v, %v", subject, ack, err)
		}
		for _, h := range headers {
			m := nats.NewMsg(subject)
			for k, v := range h {
				m.Header.Set(k, v)
			}
			if _, err := js.PublishMsg(t.Context(), m); err == nil {
				t.Errorf("%s takes %v", want.Name, h)
			}
		}
		s, err := js.Stream(t.Context(), want.Name)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.CachedInfo().State.Msgs; n != 1 {
			t.Errorf("%s has %d messages", want.Name, n)
		}
	}
}
