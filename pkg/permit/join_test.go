package permit_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/permit"
)

// permits are all streams of the server with their consumers and slots.
func permits(t *testing.T, js jetstream.JetStream) map[string]any {
	t.Helper()
	all := map[string]any{}
	names := js.StreamNames(t.Context())
	for name := range names.Name() {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		if err != nil {
			t.Fatal(err)
		}
		all[name] = info.Config
		for subject := range info.State.Subjects {
			all[subject] = true
		}
		consumers := stream.ListConsumers(t.Context())
		for c := range consumers.Info() {
			all[name+" "+c.Name] = c.Config
		}
		if err := consumers.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := names.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestJoin: who only joins makes no ring, fills none and changes none, and goes
// by the settings of those who did.
func TestJoin(t *testing.T) {
	t.Parallel()
	js := connect(t, startServer(t, -1).ClientURL())
	other := permit.Limit{Calls: 3, Period: time.Minute, Deadline: time.Minute, Pull: time.Second}
	guest := func() *permit.Set { return join(t, js, other, permit.Options{Join: true}) }
	refused := func(when string) {
		t.Helper()
		before := permits(t, js)
		if _, _, err := guest().Wait(t.Context(), key); !errors.Is(err, permit.ErrNoRing) {
			t.Errorf("%s: %v", when, err)
		}
		if err := guest().Open(t.Context(), key); !errors.Is(err, permit.ErrNoRing) {
			t.Errorf("%s: opened in advance: %v", when, err)
		}
		if after := permits(t, js); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: something was changed:\n%v\n%v", when, before, after)
		}
	}
	refused("nothing is there")
	host := join(t, js, quick, permit.Options{})
	elsewhere := permit.Key{Account: key.Account, Action: "Other"}
	if _, p, err := host.Wait(t.Context(), elsewhere); err != nil {
		t.Fatal(err)
	} else {
		p.Give(permit.Unused, 0)
	}
	// The host gives out slots while it still fills the ring: what it adds is no guest's doing.
	await(t, func() bool { return len(permits(t, js)) == 1+1+quick.Calls })
	refused("another ring is there")

	take(t, host).Give(permit.Unused, 0)
	await(t, func() bool { return len(permits(t, js)) == 1+2*(1+quick.Calls) })
	before := permits(t, js)
	late := guest()
	for range 3 * quick.Calls {
		p := take(t, late)
		if d := p.Deadline(); d > quick.Deadline {
			t.Fatalf("a call may take %v, by the settings of others %v", d, quick.Deadline)
		}
		p.Give(permit.Answered, 0)
	}
	if err := late.SetLimit(t.Context(), key, 9); err == nil {
		t.Error("the limit of others was changed")
	}
	if err := late.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := permits(t, js); !reflect.DeepEqual(before, after) {
		t.Errorf("something was changed:\n%v\n%v", before, after)
	}
}

// TestJoinBeforeARaise: a slot that came with a raised limit, of which who joined
// earlier did not hear, is put back all the same.
func TestJoinBeforeARaise(t *testing.T) {
	t.Parallel()
	js := connect(t, startServer(t, -1).ClientURL())
	host := join(t, js, quick, permit.Options{})
	take(t, host).Give(permit.Unused, 0)
	guest := join(t, js, permit.Limit{}, permit.Options{Join: true})
	take(t, guest).Give(permit.Unused, 0)
	raised := quick.Calls + 4
	if err := host.SetLimit(t.Context(), key, raised); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return len(permits(t, js)) == 1+1+raised })
	for range 5 * raised {
		take(t, guest).Give(permit.Answered, 0)
	}
	if err := guest.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(permits(t, js)); n != 1+1+raised {
		t.Errorf("%d slots are left of %d", n-2, raised)
	}
}

// TestJoinWhatNobodyFills: the consumer of a process that died before it filled
// the ring is no ring.
func TestJoinWhatNobodyFills(t *testing.T) {
	t.Parallel()
	js := connect(t, startServer(t, -1).ClientURL())
	host := join(t, js, quick, permit.Options{})
	if err := host.Open(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	_ = host.Close(dead)
	if _, _, err := join(t, js, quick, permit.Options{Join: true}).Wait(t.Context(), key); !errors.Is(err, permit.ErrNoRing) {
		t.Error(err)
	}
}

func await(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come")
		}
	}
}
