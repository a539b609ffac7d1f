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
)

// compared is what is meant by a stream's configuration. Left out is what
// harms nobody: description, placement, compression, and metadata other than
// the format's number (servers add their own).
var compared = []struct {
	field string
	of    func(jetstream.StreamConfig) string
}{
	{"subjects", func(c jetstream.StreamConfig) string {
		return strings.Join(slices.Sorted(slices.Values(c.Subjects)), " ")
	}},
	{"storage", func(c jetstream.StreamConfig) string { return strings.ToLower(c.Storage.String()) }},
	{fieldReplicas, func(c jetstream.StreamConfig) string { return fmt.Sprint(c.Replicas) }},
	{"retention", func(c jetstream.StreamConfig) string { return strings.ToLower(c.Retention.String()) }},
	{"discard", func(c jetstream.StreamConfig) string {
		return strings.ToLower(strings.TrimPrefix(c.Discard.String(), "Discard"))
	}},
	{"discard by subject", func(c jetstream.StreamConfig) string { return onOff(c.DiscardNewPerSubject) }},
	{"maximum of messages", func(c jetstream.StreamConfig) string { return limit(c.MaxMsgs) }},
	{"maximum of messages by subject", func(c jetstream.StreamConfig) string { return limit(c.MaxMsgsPerSubject) }},
	{fieldBytes, func(c jetstream.StreamConfig) string { return limit(c.MaxBytes) }},
	{"maximum age", func(c jetstream.StreamConfig) string { return span(c.MaxAge) }},
	{"maximum size of a message", func(c jetstream.StreamConfig) string { return limit(int64(c.MaxMsgSize)) }},
	{"maximum of consumers", func(c jetstream.StreamConfig) string { return limit(int64(c.MaxConsumers)) }},
	{"limits of consumers", func(c jetstream.StreamConfig) string {
		return absent(c.ConsumerLimits == jetstream.StreamConsumerLimits{})
	}},
	{"deny delete", func(c jetstream.StreamConfig) string { return onOff(c.DenyDelete) }},
	{"deny purge", func(c jetstream.StreamConfig) string { return onOff(c.DenyPurge) }},
	{"sealed", func(c jetstream.StreamConfig) string { return onOff(c.Sealed) }},
	{"no acknowledgement", func(c jetstream.StreamConfig) string { return onOff(c.NoAck) }},
	{"rollup", func(c jetstream.StreamConfig) string { return onOff(c.AllowRollup) }},
	{"direct get", func(c jetstream.StreamConfig) string { return onOff(c.AllowDirect) }},
	{"direct get from a mirror", func(c jetstream.StreamConfig) string { return onOff(c.MirrorDirect) }},
	{"mirror", func(c jetstream.StreamConfig) string { return absent(c.Mirror == nil) }},
	{"sources", func(c jetstream.StreamConfig) string { return absent(len(c.Sources) == 0) }},
	{"subject transform", func(c jetstream.StreamConfig) string {
		return absent(c.SubjectTransform == nil || *c.SubjectTransform == jetstream.SubjectTransformConfig{})
	}},
	{"republish", func(c jetstream.StreamConfig) string { return absent(c.RePublish == nil) }},
	{fieldWindow, func(c jetstream.StreamConfig) string { return span(c.Duplicates) }},
	{"message TTL", func(c jetstream.StreamConfig) string { return onOff(c.AllowMsgTTL) }},
	{"delete markers", func(c jetstream.StreamConfig) string { return absent(c.SubjectDeleteMarkerTTL == 0) }},
	{"message counters", func(c jetstream.StreamConfig) string { return onOff(c.AllowMsgCounter) }},
	{"message schedules", func(c jetstream.StreamConfig) string { return onOff(c.AllowMsgSchedules) }},
	{"atomic batches", func(c jetstream.StreamConfig) string { return onOff(c.AllowAtomicPublish) }},
	{"fast batches", func(c jetstream.StreamConfig) string { return onOff(c.AllowBatchPublish) }},
	{"writing before it is on disk", func(c jetstream.StreamConfig) string {
		return onOff(c.PersistMode == jetstream.AsyncPersistMode)
	}},
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

// limit: servers write -1 for what a client left out.
func limit(n int64) string {
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
