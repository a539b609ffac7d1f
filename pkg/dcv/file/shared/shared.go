// Package shared keeps FILE challenges in a JetStream key-value bucket, from
// which every verifier serves them: the replica that the CA happens to ask need
// not be the one that placed the file, and no two need a common folder.
package shared

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/file"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// Bucket is the key-value bucket of the files.
const Bucket = "CHALLENGES"

// StreamName is the bucket's stream, as every client names it (NATS ADR-8).
const StreamName = "KV_" + Bucket

// Solver keeps the files. It is safe for concurrent use.
type Solver struct {
	kv     jetstream.KeyValue
	stream jetstream.Stream
	slots  chan struct{} // one for each request that is answered
}

var (
	_ dcv.Solver = (*Solver)(nil)
	_ dcv.Haser  = (*Solver)(nil)
)

// entry is a file. Nothing in it is secret: it is there to be fetched.
type entry struct {
	Name    string `json:"name"` // host and path; the key is its hash
	Content string `json:"content"`
}

// Open binds to the bucket, if it is as Config has it, and makes nothing. See
// stream.Open for the errors.
func Open(ctx context.Context, js jetstream.JetStream, replicas int) (*Solver, error) {
	s := &Solver{slots: make(chan struct{}, maxAnswers)}
	var err error
	if s.stream, err = stream.Open(ctx, js, Config(replicas)); err != nil {
		return nil, err
	}
	if s.kv, err = js.KeyValue(ctx, Bucket); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", Bucket, err)
	}
	return s, nil
}

// Config is the bucket's stream. It differs from the client's own in three points:
// no direct reads, which any replica would answer, however far behind; messages
// may be deleted, so that a removed file leaves no marker behind; and no header of
// a message rolls up the others.
// replicas is 1 for a single server and 3 in a cluster; 0 means any, for those
// who look.
func Config(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: StreamName, Description: "FILE challenges, served by the verifiers", Subjects: []string{"$KV." + Bucket + ".>"},
		MaxMsgsPerSubject: 1, MaxMsgSize: 128 << 10, Storage: jetstream.FileStorage, Replicas: replicas,
		Discard: jetstream.DiscardNew,
	}
}

// key is where a file lies: a host and a path have characters that a key may
// not have.
func key(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// Present stores the file, unless there is one under this name.
func (s *Solver) Present(ctx context.Context, c order.Challenge) error {
	name, err := file.Locate(c)
	if err != nil {
		return err
	}
	data, err := json.Marshal(entry{name, c.Value})
	if err != nil {
		return fmt.Errorf("encode file: %w", err)
	}
	for range 10 { // a clean-up may remove the one that was in the way
		_, err := s.kv.Create(ctx, key(name), data)
		if err == nil {
			return nil
		}
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return fmt.Errorf("place file: %w", err)
		}
		there, _, err := s.read(ctx, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return fmt.Errorf("place file: %w", err)
		case there != c.Value:
			return fmt.Errorf("%w: %s is another order's; it goes when that order ends", dcv.Conflict, name)
		}
		return nil
	}
	return errors.New("place file: others place and remove it all the time")
}

// CleanUp deletes the file if it has the challenge's content: exactly the
// message that was read, so that a file which came since then stays.
func (s *Solver) CleanUp(ctx context.Context, c order.Challenge) error {
	name, err := file.Locate(c)
	if err != nil {
		return err
	}
	there, revision, err := s.read(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("remove file: %w", err)
	case there != c.Value:
		return nil
	}
	if err := s.stream.DeleteMsg(ctx, revision); err != nil {
		_, now, again := s.read(ctx, name)
		if errors.Is(again, fs.ErrNotExist) || again == nil && now != revision {
			return nil // somebody was first
		}
		return fmt.Errorf("remove file: %w", err)
	}
	return nil
}

// Has implements dcv.Haser: whether the file is there with exactly the
// challenge's content.
func (s *Solver) Has(ctx context.Context, c order.Challenge) (bool, error) {
	name, err := file.Locate(c)
	if err != nil {
		return false, err
	}
	there, _, err := s.read(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look at file: %w", err)
	}
	return err == nil && there == c.Value, nil
}

// read returns a file's content and revision, fs.ErrNotExist if there is none.
func (s *Solver) read(ctx context.Context, name string) (content string, revision uint64, err error) {
	e, err := s.kv.Get(ctx, key(name))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return "", 0, fs.ErrNotExist
	case err != nil:
		return "", 0, err
	}
	var got entry
	if err := json.Unmarshal(e.Value(), &got); err != nil || got.Name != name {
		return "", 0, fmt.Errorf("bucket %s: what lies under the key of %s is no file of it", Bucket, name)
	}
	return got.Content, e.Revision(), nil
}

// Bounds of what strangers can make us do.
const (
	maxAnswers = 64              // requests that ask NATS at the same time; the others are told to try again
	readTime   = 3 * time.Second // for one of them
)

// Handler serves the files by the request's Host, whoever placed them.
func (s *Solver) Handler() http.Handler {
	return file.Serve(func(ctx context.Context, name string) ([]byte, error) {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			return nil, errors.New("too many requests at once")
		}
		ctx, cancel := context.WithTimeout(ctx, readTime)
		defer cancel()
		content, _, err := s.read(ctx, name)
		return []byte(content), err
	})
}
