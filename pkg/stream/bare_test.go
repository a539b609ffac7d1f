package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
)

// TestWithoutConsumers: who may only ask for a stream's settings and for single
// messages reads, counts and follows what a consumer would show.
func TestWithoutConsumers(t *testing.T) {
	t.Parallel()
	const name = "READ"
	s := natstest.Server(t, func(o *server.Options) {
		allow := []string{"$JS.API.STREAM.INFO." + name, "$JS.API.STREAM.MSG.GET." + name}
		o.Users = []*server.User{{Username: "all", Password: "all"}, {Username: "look", Password: "look",
			Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: allow}}}}
		o.NoAuthUser = "all"
	})
	js := natstest.Connect(t, s)
	made, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{"r.*.*"}, MaxMsgsPerSubject: 1, FirstSeq: FirstSeq()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		publish(t, js, fmt.Sprintf("r.%d.%d", i%2, i%30)) // the last ten replace the first ten
	}
	if err := made.DeleteMsg(t.Context(), made.CachedInfo().State.FirstSeq+15); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("look", "look"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	looking, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := WithoutConsumers(looking).Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for _, filter := range []string{"r.*.*", "r.1.*", "r.1.29", "r.2.*"} {
		if want, got := subjectsOf(t, made, filter), subjectsOf(t, bare, filter); !slices.Equal(want, got) {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
		want, _ := Count(t.Context(), made, filter)
		if got, err := Count(t.Context(), bare, filter); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", filter, got, err, want)
		}
	}
	follows(t, js, bare)
}

func publish(t *testing.T, js jetstream.JetStream, subject string) {
	t.Helper()
	if _, err := js.Publish(t.Context(), subject, []byte(subject)); err != nil {
		t.Fatal(err)
	}
}

func subjectsOf(t *testing.T, s jetstream.Stream, filter string) (all []string) {
	t.Helper()
	last, err := ReadAll(t.Context(), s, filter, 0, func(m Message) error {
		all = append(all, fmt.Sprint(m.Subject, m.Seq, string(m.Data), m.Stored))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return append(all, fmt.Sprint(last))
}

// follows: what comes later is shown, and an error of the reader ends it.
func follows(t *testing.T, js jetstream.JetStream, s jetstream.Stream) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	enough, n := errors.New("enough"), 0
	err := Follow(ctx, s, "r.1.*", 0, func(m Message) error {
		if n++; n == 1 {
			publish(t, js, "r.1.77")
		}
		if m.Subject == "r.1.77" {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || n < 10 {
		t.Errorf("%v after %d", err, n)
	}
}
