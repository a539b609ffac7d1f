package stream_test

import (
	"errors"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/stream"
)

// lasting is a stream as certmill has them.
func lasting(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{Name: "BOOK", Subjects: []string{"book.*", "claim.*"}, Storage: jetstream.FileStorage,
		Replicas: replicas, MaxMsgsPerSubject: 1, DenyDelete: true, DenyPurge: true}
}

func open(t testing.TB, js jetstream.JetStream, want jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	if made, err := stream.Ensure(t.Context(), js, want); err != nil || !made {
		t.Fatalf("made %v: %v", made, err)
	}
	s, err := stream.Open(t.Context(), js, want)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What Ensure makes, Open accepts, whatever the server adds; neither changes it.
func TestEnsureMakesWhatOpenAccepts(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	want := lasting(1)
	if _, err := stream.Open(t.Context(), js, want); !errors.Is(err, stream.ErrMissing) || !strings.Contains(err.Error(), "certmill init") {
		t.Fatalf("before it was made: %v", err)
	}
	began := stream.FirstSeq()
	s := open(t, js, want)
	is := s.CachedInfo().Config
	if is.Metadata[stream.FormatKey] != "2" || is.FirstSeq < began || want.Metadata != nil {
		t.Errorf("made %+v; what was wanted is now %+v", is, want)
	}
	for range 2 {
		if made, err := stream.Ensure(t.Context(), js, want); made || err != nil {
			t.Errorf("again: made %v, %v", made, err)
		}
	}
	want.Replicas = 0
	after, err := stream.Open(t.Context(), js, want)
	if err != nil {
		t.Fatalf("for one that does not know how many replicas there are: %v", err)
	}
	if now := after.CachedInfo(); !now.Created.Equal(s.CachedInfo().Created) || now.Config.FirstSeq != is.FirstSeq {
		t.Errorf("it is another one now: %+v", now)
	}
}

// One of several makes it, and every one finds it as it wants it.
func TestRivalsMakeItOnce(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		js := natstest.Connect(t, s)
		wg.Go(func() {
			is, err := stream.Ensure(t.Context(), js, lasting(1))
			if err != nil {
				t.Error(err)
			}
			if is {
				made.Add(1)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("%d of them made it", made.Load())
	}
}

// Every setting that is meant is compared, in both functions, and nothing is
// changed.
func TestDifferencesAreRefused(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	for _, tt := range []struct {
		field string
		off   func(*jetstream.StreamConfig)
	}{
		{"subjects is a.* b.*", func(c *jetstream.StreamConfig) { c.Subjects = []string{"b.*", "a.*"} }},
		{"storage is memory", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }},
		{"retention is interest", func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }},
		{"discard is new", func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew }},
		{"discard by subject is on", func(c *jetstream.StreamConfig) { c.Discard, c.DiscardNewPerSubject = jetstream.DiscardNew, true }},
		{"maximum of messages is 7", func(c *jetstream.StreamConfig) { c.MaxMsgs = 7 }},
		{"maximum of messages by subject is 5", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }},
		{"maximum of bytes is 1000", func(c *jetstream.StreamConfig) { c.MaxBytes = 1000 }},
		{"maximum age is 1h0m0s", func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }},
		{"maximum size of a message is 100", func(c *jetstream.StreamConfig) { c.MaxMsgSize = 100 }},
		{"maximum of consumers is 3", func(c *jetstream.StreamConfig) { c.MaxConsumers = 3 }},
		{"limits of consumers is present", func(c *jetstream.StreamConfig) { c.ConsumerLimits.MaxAckPending = 1 }},
		{"deny delete is off", func(c *jetstream.StreamConfig) { c.DenyDelete = false }},
		{"deny purge is off", func(c *jetstream.StreamConfig) { c.DenyPurge = false }},
		{"no acknowledgement is on", func(c *jetstream.StreamConfig) { c.NoAck = true }},
		{"rollup is on", func(c *jetstream.StreamConfig) { c.DenyPurge, c.AllowRollup = false, true }},
		{"direct get is on", func(c *jetstream.StreamConfig) { c.AllowDirect = true }},
		{"sources is present", func(c *jetstream.StreamConfig) { c.Sources = []*jetstream.StreamSource{{Name: "OTHER"}} }},
		{"subject transform is present", func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "elsewhere.*", Destination: "claim.$1"}
		}},
		{"republish is present", func(c *jetstream.StreamConfig) {
			c.RePublish = &jetstream.RePublish{Source: ">", Destination: "seen.>"}
		}},
		{"message TTL is on", func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true }},
		{"delete markers is present", func(c *jetstream.StreamConfig) {
			c.AllowMsgTTL, c.SubjectDeleteMarkerTTL = true, time.Minute
		}},
		{"message counters is on", func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true }},
		{"message schedules is on", func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = true }},
		{"atomic batches is on", func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = true }},
		{"fast batches is on", func(c *jetstream.StreamConfig) { c.AllowBatchPublish = true }},
		{"writing before it is on disk is on", func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode }},
	} {
		t.Run(tt.field, func(t *testing.T) {
			other := lasting(1)
			other.Name += "-" + stream.Token(tt.field)
			other.Subjects = []string{other.Name + ".a.*", other.Name + ".b.*"}
			want := other
			tt.off(&other)
			if _, err := js.CreateStream(t.Context(), stamped(other, "2")); err != nil {
				t.Fatal(err)
			}
			before := config(t, js, want.Name)
			_, opened := stream.Open(t.Context(), js, want)
			made, ensured := stream.Ensure(t.Context(), js, want)
			for _, err := range []error{opened, ensured} {
				d, is := errors.AsType[*stream.Differs](err)
				if !is || made || !strings.Contains(err.Error(), tt.field+" and must be ") || d.Stream != want.Name {
					t.Errorf("made %v: %v", made, err)
				}
			}
			if after := config(t, js, want.Name); !reflect.DeepEqual(before, after) {
				t.Errorf("it was changed from %+v to %+v", before, after)
			}
		})
	}
}

// A mirror has no subjects, so it is made apart.
func TestAMirrorIsRefused(t *testing.T) {
	t.Parallel()
	is := stamped(lasting(1), "2")
	is.Mirror = &jetstream.StreamSource{Name: "OTHER"}
	if err := stream.Verify(is, lasting(1)); err == nil || !strings.Contains(err.Error(), "mirror is present and must be absent") {
		t.Error(err)
	}
}

// A stream of another format, or of none, is refused with a sentence of its own,
// however else it is.
// DESIGN 12.9: a build that knows another format refuses with a sentence.
func TestOtherFormats(t *testing.T) {
	t.Parallel()
	for format, words := range map[string]string{"": "has no number of a format", "3": "is of format 3, this certmill knows format 2", "0": "is of format 0"} {
		js := natstest.Connect(t, natstest.Server(t)) // a store that was just removed cannot always be made anew
		is := stamped(lasting(1), format)
		is.MaxMsgsPerSubject = 7
		if _, err := js.CreateStream(t.Context(), is); err != nil {
			t.Fatal(err)
		}
		before := config(t, js, is.Name)
		_, opened := stream.Open(t.Context(), js, lasting(1))
		_, ensured := stream.Ensure(t.Context(), js, lasting(1))
		for _, err := range []error{opened, ensured} {
			other, is := errors.AsType[*stream.OtherFormat](err)
			if !is || other.Is != format || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "nothing was changed") {
				t.Errorf("format %q: %v", format, err)
			}
		}
		if after := config(t, js, is.Name); !reflect.DeepEqual(before, after) {
			t.Errorf("it was changed from %+v to %+v", before, after)
		}
	}
}

// Asked for three replicas, nobody takes a stream of one.
func TestReplicas(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Cluster(t)[0])
	open(t, js, lasting(1))
	for _, tt := range []struct {
		replicas int
		words    string
	}{{0, ""}, {1, ""}, {3, "replicas is 1 and must be 3"}} {
		_, err := stream.Open(t.Context(), js, lasting(tt.replicas))
		made, err2 := stream.Ensure(t.Context(), js, lasting(tt.replicas))
		for _, err := range []error{err, err2} {
			if made || (err == nil) != (tt.words == "") || err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Errorf("asked for %d: %v", tt.replicas, err)
			}
		}
	}
	three := lasting(3)
	three.Name, three.Subjects = "BOOK3", []string{"three.*"}
	if s := open(t, js, three); s.CachedInfo().Config.Replicas != 3 {
		t.Errorf("made with %d replicas", s.CachedInfo().Config.Replicas)
	}
}

func stamped(c jetstream.StreamConfig, format string) jetstream.StreamConfig {
	if format != "" {
		c.Metadata = map[string]string{stream.FormatKey: format}
	}
	return c
}

func config(t testing.TB, js jetstream.JetStream, name string) jetstream.StreamConfig {
	t.Helper()
	s, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}
