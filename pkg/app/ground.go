package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/stream"
)

// ground is what a process stands on: each of its lasting streams and buckets,
// by name, with what tells it from another one of that name.
type ground map[string]string

// stand verifies the lasting streams, as whoever works on them needs them. The
// error wraps stream.ErrMissing, or is a *stream.Differs or *stream.OtherFormat. It
// also returns which key stores they name.
func stand(ctx context.Context, js jetstream.JetStream, replicas int) (ground, namedStores, error) {
	g, named := ground{}, namedStores{}
	for _, want := range lasting(replicas) {
		s, err := stream.Open(ctx, js, want)
		if err != nil {
			return nil, nil, err
		}
		info := s.CachedInfo()
		g[want.Name], named[want.Name] = life(info), info.Config.Metadata[storeIn]
	}
	return g, named, nil
}

// life tells one life of a stream from another: when it was made, and what
// certmill wrote into its metadata then, or when it was restored.
func life(info *jetstream.StreamInfo) string {
	parts := []string{info.Created.UTC().Format(time.RFC3339Nano)}
	for _, k := range slices.Sorted(maps.Keys(info.Config.Metadata)) {
		if strings.HasPrefix(k, "certmill-") {
			parts = append(parts, k+"="+info.Config.Metadata[k])
		}
	}
	return strings.Join(parts, " ")
}

// errOtherStreams: what this process knows belongs to another life of them.
var errOtherStreams = errors.New("the streams are not those that this process began with: " +
	"they were restored or made anew; start the workers again")

// same compares what is there now, as far as it was seen, with what the process
// began with.
func (g ground) same(now ground) error {
	var others []string
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if g[name] != now[name] {
			others = append(others, name)
		}
	}
	if len(others) > 0 {
		return fmt.Errorf("%s: %w", strings.Join(others, ", "), errOtherStreams)
	}
	return nil
}

// groundEvery is how often a worker looks whether it still stands on the streams
// that it began with: one small question for each of them.
const groundEvery = 2 * time.Second

// watchGround looks until ctx ends, or until a stream is missing, is another one,
// or is not as it must be any more, because somebody edited it; then it drops the connection, so that every handler stops where it is, as
// if the server were lost.
func (s *session) watchGround(ctx context.Context) error {
	felt := time.Now()
	for stream.Sleep(ctx, groundEvery) == nil {
		if err := s.feelGround(ctx); err != nil {
			s.end(err)
			return err
		}
		s.feelWrites(ctx)
		if time.Since(felt) >= feelWorkEvery {
			felt = time.Now()
			s.feelWork(ctx)
		}
	}
	return nil
}

// feelStore looks whether the key store is still the one, sealed to whom it was. A
// file system that does not answer says nothing: who spends looks himself (Put,
// Raise).
func (s *session) feelStore() error {
	if s.keys == nil {
		return nil
	}
	if err := s.keys.Check(); errors.Is(err, certstore.ErrGone) {
		return err
	}
	to, err := s.keys.Recipients()
	if err == nil && to.ID() != s.recipients.ID() {
		return s.otherRecipients(to)
	}
	return nil
}

// feelGround looks once. A server that does not answer, or has no leader, says
// nothing about its streams.
func (s *session) feelGround(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, groundEvery)
	defer cancel()
	if err := s.feelStore(); err != nil {
		return err
	}
	now := ground{}
	for _, want := range lasting(s.cfg.NATS.Replicas) {
		st, err := stream.Open(ctx, s.js, want)
		switch {
		case err == nil:
			now[want.Name] = life(st.CachedInfo())
		case errors.Is(err, stream.ErrMissing), decided(err):
			return err
		}
	}
	return s.ground.same(now)
}
