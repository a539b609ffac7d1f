package stream

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	fieldReplicas = "replicas"
	fieldBytes    = "maximum of bytes"
	fieldWindow   = "window of repeated message ids"

	fieldRetention  = "retention"
	fieldMsgs       = "maximum of messages"
	fieldPerSubject = "maximum of messages by subject"
	fieldAge        = "maximum age"
)

type config = jetstream.StreamConfig

// compared is what is meant by a stream's configuration. Left out is what
// harms nobody: description, placement, compression, and metadata other than
// the format's number (servers add their own).
var compared = []setting{
	of("subjects", func(c *config) *[]string { return &c.Subjects }, func(all []string) string {
		return strings.Join(slices.Sorted(slices.Values(all)), " ")
	}),
	of("storage", func(c *config) *jetstream.StorageType { return &c.Storage }, lower),
	of(fieldReplicas, func(c *config) *int { return &c.Replicas }, func(n int) string { return fmt.Sprint(n) }),
	of(fieldRetention, func(c *config) *jetstream.RetentionPolicy { return &c.Retention }, lower),
	of("discard", func(c *config) *jetstream.DiscardPolicy { return &c.Discard }, func(p jetstream.DiscardPolicy) string {
		return strings.ToLower(strings.TrimPrefix(p.String(), "Discard"))
	}),
	of("discard by subject", func(c *config) *bool { return &c.DiscardNewPerSubject }, onOff),
	of(fieldMsgs, func(c *config) *int64 { return &c.MaxMsgs }, limit),
	of(fieldPerSubject, func(c *config) *int64 { return &c.MaxMsgsPerSubject }, limit),
	of(fieldBytes, func(c *config) *int64 { return &c.MaxBytes }, limit),
	of(fieldAge, func(c *config) *time.Duration { return &c.MaxAge }, span),
	of("maximum size of a message", func(c *config) *int32 { return &c.MaxMsgSize }, limit),
	of("maximum of consumers", func(c *config) *int { return &c.MaxConsumers }, limit),
	of("limits of consumers", func(c *config) *jetstream.StreamConsumerLimits { return &c.ConsumerLimits }, zero),
	of("deny delete", func(c *config) *bool { return &c.DenyDelete }, onOff),
	of("deny purge", func(c *config) *bool { return &c.DenyPurge }, onOff),
	of("sealed", func(c *config) *bool { return &c.Sealed }, onOff),
	of("no acknowledgement", func(c *config) *bool { return &c.NoAck }, onOff),
	of("rollup", func(c *config) *bool { return &c.AllowRollup }, onOff),
	of("direct get", func(c *config) *bool { return &c.AllowDirect }, onOff),
	of("direct get from a mirror", func(c *config) *bool { return &c.MirrorDirect }, onOff),
	of("mirror", func(c *config) **jetstream.StreamSource { return &c.Mirror }, zero),
	of("sources", func(c *config) *[]*jetstream.StreamSource { return &c.Sources }, func(all []*jetstream.StreamSource) string {
		return absent(len(all) == 0)
	}),
	of("subject transform", func(c *config) **jetstream.SubjectTransformConfig { return &c.SubjectTransform },
		func(t *jetstream.SubjectTransformConfig) string {
			return absent(t == nil || *t == jetstream.SubjectTransformConfig{})
		}),
	of("republish", func(c *config) **jetstream.RePublish { return &c.RePublish }, zero),
	of(fieldWindow, func(c *config) *time.Duration { return &c.Duplicates }, span),
	of("message TTL", func(c *config) *bool { return &c.AllowMsgTTL }, onOff),
	of("delete markers", func(c *config) *time.Duration { return &c.SubjectDeleteMarkerTTL }, zero),
	of("message counters", func(c *config) *bool { return &c.AllowMsgCounter }, onOff),
	of("message schedules", func(c *config) *bool { return &c.AllowMsgSchedules }, onOff),
	of("atomic batches", func(c *config) *bool { return &c.AllowAtomicPublish }, onOff),
	of("fast batches", func(c *config) *bool { return &c.AllowBatchPublish }, onOff),
	of("writing before it is on disk", func(c *config) *jetstream.PersistModeType { return &c.PersistMode },
		func(m jetstream.PersistModeType) string { return onOff(m == jetstream.AsyncPersistMode) }),
}

// setting is one setting of a stream: what it says, and how it is put back.
type setting struct {
	field string
	of    func(config) string
	put   func(is *config, want config)
}

func of[T any](field string, at func(*config) *T, says func(T) string) setting {
	return setting{field,
		func(c config) string { return says(*at(&c)) },
		func(is *config, want config) { *at(is) = *at(&want) }}
}

// anything tells whether a difference in a field is none: the number of replicas,
// for those who look and do not know; how large a bound in bytes is, because that
// goes by the room that there was; and the window of a stream whose publishers
// send no ids.
func anything(field string, is, want jetstream.StreamConfig) bool {
	switch field {
	case fieldReplicas:
		return want.Replicas == 0
	case fieldBytes:
		return is.MaxBytes > 0 && want.MaxBytes > 0
	case fieldWindow:
		return want.Duplicates == 0
	}
	return false
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func absent(is bool) string {
	if is {
		return "absent"
	}
	return "present"
}

// zero is for what is there or is not.
func zero[T comparable](is T) string {
	var none T
	return absent(is == none)
}

func lower[T fmt.Stringer](is T) string { return strings.ToLower(is.String()) }

// limit: servers write -1 for what a client left out.
func limit[N int | int32 | int64](n N) string {
	if n <= 0 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

func span(d time.Duration) string {
	if d <= 0 {
		return "unlimited"
	}
	return d.String()
}
