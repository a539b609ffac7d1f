package permit_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/permit"
)

// TestTend: whatever somebody with the stock command does to the stream or to a
// ring's consumer, permits come again at the full rate, and never too many.
func TestTend(t *testing.T) {
	t.Parallel()
	const ring = "100200_CreateOrder"
	consumer := func(f func(*jetstream.ConsumerConfig)) func(context.Context, jetstream.JetStream) error {
		return func(ctx context.Context, js jetstream.JetStream) error {
			c, err := js.Consumer(ctx, "PERMITS", ring)
			if err != nil {
				return err
			}
			cfg := c.CachedInfo().Config
			f(&cfg)
			_, err = js.UpdateConsumer(ctx, "PERMITS", cfg)
			return err
		}
	}
	edit := func(f func(*jetstream.StreamConfig)) func(context.Context, jetstream.JetStream) error {
		return func(ctx context.Context, js jetstream.JetStream) error {
			s, err := js.Stream(ctx, "PERMITS")
			if err != nil {
				return err
			}
			cfg := s.CachedInfo().Config
			f(&cfg)
			_, err = js.UpdateStream(ctx, cfg)
			return err
		}
	}
	for name, does := range map[string]func(context.Context, jetstream.JetStream) error{
		"nothing":       func(context.Context, jetstream.JetStream) error { return nil },
		"filter":        consumer(func(c *jetstream.ConsumerConfig) { c.FilterSubject = "permit.nobody.>" }),
		"wide filter":   consumer(func(c *jetstream.ConsumerConfig) { c.FilterSubject = "permit.>" }),
		"deliveries":    consumer(func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 1 }),
		"ack wait":      consumer(func(c *jetstream.ConsumerConfig) { c.AckWait = time.Hour }),
		"pending":       consumer(func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 1 }),
		"metadata":      consumer(func(c *jetstream.ConsumerConfig) { c.Metadata = nil }),
		"two messages":  edit(func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 2 }),
		"a maximum age": edit(func(c *jetstream.StreamConfig) { c.MaxAge = time.Second; c.Duplicates = time.Second }),
		"a maximum":     edit(func(c *jetstream.StreamConfig) { c.MaxMsgs = 1 }),
		"paused": func(ctx context.Context, js jetstream.JetStream) error {
			_, err := js.PauseConsumer(ctx, "PERMITS", ring, time.Now().Add(time.Hour))
			return err
		},
		"removed": func(ctx context.Context, js jetstream.JetStream) error {
			return js.DeleteConsumer(ctx, "PERMITS", ring)
		},
		"no stream": func(ctx context.Context, js jetstream.JetStream) error { return js.DeleteStream(ctx, "PERMITS") },
		"slots": func(ctx context.Context, js jetstream.JetStream) error {
			s, err := js.Stream(ctx, "PERMITS")
			for n := 0; n < 3 && err == nil; { // of five
				var m *jetstream.RawStreamMsg
				if m, err = s.GetMsg(ctx, 1, jetstream.WithGetMsgSubject("permit.>")); err == nil && s.DeleteMsg(ctx, m.Sequence) == nil {
					n++
				}
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, c := startServer(t, -1), newCloud(quick)
			for range 2 {
				s := join(t, connect(t, srv.ClientURL()), quick, permit.Options{})
				load(t, s, c)
				tend(t, s)
			}
			c.wait(t, 12)
			if err := does(t.Context(), connect(t, srv.ClientURL())); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond) // what came through before
			fullRate(t, c)
			c.check(t)
		})
	}
}

func tend(t *testing.T, s *permit.Set) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Tend(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// fullRate waits until calls come as fast as the limit lets them, or nearly.
func fullRate(t *testing.T, c *cloud) {
	t.Helper()
	const sample = time.Second
	want := int(0.6 * float64(quick.Calls) * float64(sample) / float64(quick.Period))
	rates := ""
	for range 20 {
		before := c.calls()
		time.Sleep(sample)
		n := c.calls() - before
		if n >= want {
			return
		}
		rates += fmt.Sprint(n, " ")
	}
	t.Errorf("%s calls came in a second, not %d", rates, want)
}

func (c *cloud) calls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.arrivals)
}
