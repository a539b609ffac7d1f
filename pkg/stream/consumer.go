package stream

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ConsumerKey is the key in a consumer's metadata under which its maker writes
// down how it is to be. What differs from that was edited by somebody; what says
// something else there is another build's, or another config's.
const ConsumerKey = "certmill-consumer"

// Marked is a consumer that says how it is to be.
func Marked(want jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	want.Metadata = maps.Clone(want.Metadata)
	if want.Metadata == nil {
		want.Metadata = map[string]string{}
	}
	want.Metadata[ConsumerKey] = settings(want, time.Time{})
	return want
}

// consumerSettings is what is meant by a consumer's configuration. Left out is
// what harms nobody: description, sampling, replicas, and what no server lets
// anybody change.
var consumerSettings = []struct {
	field string
	of    func(jetstream.ConsumerConfig, time.Time) string
}{
	{"filter", func(c jetstream.ConsumerConfig, _ time.Time) string { return filters(c) }},
	{"deliver policy", func(c jetstream.ConsumerConfig, _ time.Time) string { return c.DeliverPolicy.String() }},
	{"ack policy", func(c jetstream.ConsumerConfig, _ time.Time) string { return c.AckPolicy.String() }},
	{"ack wait", func(c jetstream.ConsumerConfig, _ time.Time) string { return span(c.AckWait) }},
	{"backoff", func(c jetstream.ConsumerConfig, _ time.Time) string { return absent(len(c.BackOff) == 0) }},
	{"maximum of deliveries", func(c jetstream.ConsumerConfig, _ time.Time) string { return limit(int64(c.MaxDeliver)) }},
	{"maximum of unacknowledged", func(c jetstream.ConsumerConfig, _ time.Time) string { return limit(int64(c.MaxAckPending)) }},
	{"maximum of a pull", func(c jetstream.ConsumerConfig, _ time.Time) string {
		return absent(c.MaxRequestBatch <= 0 && c.MaxRequestMaxBytes <= 0 && c.MaxRequestExpires <= 0)
	}},
	{"headers only", func(c jetstream.ConsumerConfig, _ time.Time) string { return onOff(c.HeadersOnly) }},
	{"goes when idle for", func(c jetstream.ConsumerConfig, _ time.Time) string { return span(c.InactiveThreshold) }},
	{"in memory", func(c jetstream.ConsumerConfig, _ time.Time) string { return onOff(c.MemoryStorage) }},
	{"priority groups", func(c jetstream.ConsumerConfig, _ time.Time) string { return absent(len(c.PriorityGroups) == 0) }},
	{"pause", paused},
}

func filters(c jetstream.ConsumerConfig) string {
	all := slices.Clone(c.FilterSubjects)
	if c.FilterSubject != "" {
		all = append(all, c.FilterSubject)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func paused(c jetstream.ConsumerConfig, now time.Time) string {
	if c.PauseUntil == nil || !c.PauseUntil.After(now) {
		return "off"
	}
	return "until " + c.PauseUntil.UTC().Format(time.RFC3339)
}

// settings writes them as one text.
func settings(c jetstream.ConsumerConfig, now time.Time) string {
	parts := make([]string, len(consumerSettings))
	for i, s := range consumerSettings {
		parts[i] = s.field + " " + s.of(c, now)
	}
	return strings.Join(parts, "; ")
}

// Edited tells what somebody has changed of a consumer since it was made, by what
// its maker wrote down there; nil if nothing, or if it says nothing of the kind.
// now is the server's clock, or close to it.
func Edited(is jetstream.ConsumerConfig, now time.Time) []Difference {
	said, marked := is.Metadata[ConsumerKey]
	if !marked || said == settings(is, now) {
		return nil
	}
	wanted := map[string]string{}
	for _, part := range strings.Split(said, "; ") {
		for _, s := range consumerSettings {
			if v, ok := strings.CutPrefix(part, s.field+" "); ok {
				wanted[s.field] = v
			}
		}
	}
	var all []Difference
	for _, s := range consumerSettings {
		v := s.of(is, now)
		if want, known := wanted[s.field]; known && want != v {
			all = append(all, Difference{s.field, v, want})
		}
	}
	return all
}

// Strays tells whether a consumer is not as this one is wanted, and that nobody
// else wants it so: it was edited, or made by another program. differ are its
// settings that differ; other tells that they are those that another build, or
// another config, wrote down.
func Strays(is, want jetstream.ConsumerConfig, now time.Time) (differ []Difference, other bool) {
	for _, s := range consumerSettings {
		if is, want := s.of(is, now), s.of(want, now); is != want {
			differ = append(differ, Difference{s.field, is, want})
		}
	}
	said, marked := is.Metadata[ConsumerKey]
	return differ, len(differ) > 0 && marked && said != settings(want, time.Time{})
}

// Sentence is differences in words.
func Sentence(differ []Difference) string {
	parts := make([]string, len(differ))
	for i, d := range differ {
		parts[i] = fmt.Sprintf("%s is %s and must be %s", d.Field, d.Is, d.Want)
	}
	return strings.Join(parts, ", ")
}
