// Package stream is the one place where JetStream streams and buckets are made,
// checked, changed and read. A bucket is a stream too: KV_<NAME>.
//
// Who needs a stream says how it must be, as a jetstream.StreamConfig. Ensure
// makes it where it is missing; Open, and Ensure where there is one, compares
// and changes nothing: a stream of one replica in place of three, or one with a
// limit that forgets, is refused with the difference in a sentence.
package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Format is the number of the format of all that certmill stores. It rises when
// a build can no longer work beside the one before it on the same data; records
// of one format keep the fields that they do not know (package record).
const Format = 2

// FormatKey is the key of the format's number in a stream's metadata.
const FormatKey = "certmill-format"

// ErrMissing is returned for a stream that is not there.
var ErrMissing = errors.New("it is not there; certmill init makes what is missing")

// OtherFormat is returned for a stream whose format another build knows, or
// nobody: then nothing else about it is worth comparing.
type OtherFormat struct {
	Stream string
	Is     string // what its metadata says; "" if nothing
}

func (e *OtherFormat) Error() string {
	if e.Is == "" {
		return fmt.Sprintf("stream %s has no number of a format (metadata %s): it was made by a certmill before format %d, "+
			"or by another program; nothing was changed. Work its orders off with the program that made it, %s",
			e.Stream, FormatKey, Format, ofItsOwn)
	}
	return fmt.Sprintf("stream %s is of format %s, this certmill knows format %d; nothing was changed. "+
		"Use the certmill that knows format %s, %s", e.Stream, e.Is, Format, e.Is, ofItsOwn)
}

const ofItsOwn = "or give this one a NATS account (or a state folder) of its own"

// Ensure makes a stream that is missing, and else verifies it as Open does; it
// never updates one. A new stream gets the format's number, and sequences that
// begin where those of no earlier life of it can have been (FirstSeq). made
// tells whether this very call made it. want.Replicas 0 means any, and one for
// a new stream. Safe to repeat and to run from several processes at once.
func Ensure(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (made bool, err error) {
	if _, err = Open(ctx, js, want); !errors.Is(err, ErrMissing) {
		return false, err
	}
	_, err = js.CreateStream(ctx, fresh(want))
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another process was first
		_, err = Open(ctx, js, want)
		return false, err
	}
	if err != nil {
		return false, fmt.Errorf("make stream %s: %w", want.Name, err)
	}
	return true, nil
}

// fresh is the configuration of a stream that begins now.
func fresh(want jetstream.StreamConfig) jetstream.StreamConfig {
	want.Metadata = maps.Clone(want.Metadata)
	if want.Metadata == nil {
		want.Metadata = map[string]string{}
	}
	want.Metadata[FormatKey] = strconv.Itoa(Format)
	want.FirstSeq = FirstSeq()
	return want
}

// FirstSeq is where a new stream's sequences begin: now, in microseconds, so
// that no sequence of an earlier life of the stream is ever valid again.
func FirstSeq() uint64 { return uint64(time.Now().UnixMicro()) }

// Open binds to a stream that is as it is wanted, and changes nothing. The
// error wraps ErrMissing if there is none, and is an *OtherFormat or a *Differs
// if it is another one. want.Replicas 0 means any: for those who look and do
// not know.
func Open(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	s, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s: %w", want.Name, ErrMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", want.Name, err)
	}
	if err := Verify(s.CachedInfo().Config, want); err != nil {
		return nil, err
	}
	return s, nil
}

// Verify compares the configuration that a stream has with the one that is
// wanted. The error is an *OtherFormat or a *Differs.
func Verify(is, want jetstream.StreamConfig) error {
	if f := is.Metadata[FormatKey]; f != strconv.Itoa(Format) {
		return &OtherFormat{Stream: want.Name, Is: f}
	}
	d := &Differs{Stream: want.Name}
	for _, c := range compared {
		if has, must := c.of(is), c.of(want); has != must && !anything(c.field, is, want) {
			d.Fields = append(d.Fields, Difference{c.field, has, must})
		}
	}
	if len(d.Fields) > 0 {
		return d
	}
	return nil
}

// Differs is returned for a stream that is not as it must be.
type Differs struct {
	Stream string
	Fields []Difference
}

// Difference is one setting, in words.
type Difference struct {
	Field string `json:"field"`
	Is    string `json:"is"`
	Want  string `json:"must_be"`
}

func (d *Differs) Error() string {
	return fmt.Sprintf("stream %[1]s is not as it must be: %[2]s; nothing was changed "+
		"(certmill init --mend says what is to be put back, asks, and puts it back; nats stream info %[1]s shows it)",
		d.Stream, Sentence(d.Fields))
}
