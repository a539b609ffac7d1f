package stream_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/redact"
	"github.com/certmill/certmill/pkg/stream"
)

// Whatever was let in: what is stored repeats no secret.
func TestNoSecretIsStored(t *testing.T) {
	t.Parallel()
	redact.Learn("canary-of-the-streams")
	js := natstest.Connect(t, natstest.Server(t))
	want := jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, MaxMsgsPerSubject: 1, DenyDelete: true, DenyPurge: true}
	s := open(t, js, want)
	first, err := stream.At(js, s, "s.a").Write(t.Context(), []byte(`{"why":"canary-of-the-streams"}`), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Within(js, s, "s.*").Write(t.Context(), "s.b", []byte(`{"why":"canary-of-the-streams"}`), first.Seq); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"s.a", "s.b"} {
		v, err := stream.At(js, s, subject).Read(t.Context())
		if err != nil || strings.Contains(string(v.Data), "canary") || string(v.Data) != `{"why":"[redacted]"}` {
			t.Errorf("%s: %s, %v", subject, v.Data, err)
		}
	}
}
