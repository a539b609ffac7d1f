package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/dcv/file/shared"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// lasting are the streams and buckets that must never be lost. Init makes them,
// and certmill run on its own server; everybody else verifies that they are as
// they must be, and stops where they are not. The ledger comes first and the
// orders last, so that orders without a ledger mean that it was lost.
func lasting(replicas int) []jetstream.StreamConfig {
	return []jetstream.StreamConfig{
		ledger.Config(replicas), ledger.PlacedConfig(replicas), account.Config(replicas), shared.Config(replicas),
		pipeline.IntakeConfig(replicas), pipeline.OrdersConfig(replicas),
	}
}

// forgotten says what is lost with each of them, and what becomes of it.
var forgotten = map[string]string{
	ledger.StreamName: "what was bought is found by the key store's numbers and the accounts' lists; " +
		"a new incarnation began, in which nothing is bought before each account's list was swept again",
	ledger.PlacedStream: "records that were placed are taken back by dcv.copy alone",
	account.StreamName: "pauses, limits and counted budgets are forgotten, " +
		"and each account's list is swept again before anything is bought",
	shared.Config(0).Name: "files of challenges are placed again as their orders are looked at",
	pipeline.IntakeStream: "orders that nobody had taken yet are gone: hand the order files in again",
	pipeline.OrdersStream: "the orders are gone: hand the order files in again; " +
		"what was bought is found by the key store and the ledger",
}

// Made is what Init did about one stream or bucket, or the key store.
type Made struct {
	Name string `json:"name"`
	Path string `json:"path,omitempty"` // of the key store
	Made bool   `json:"made"`           // it was missing
	Lost string `json:"lost,omitempty"` // it was missing beside others that have seen use: what that means
}

// KeyStoreName is the name of the key store in what Init made.
const KeyStoreName = "key store"

// Init makes what must never be lost where it is missing, as the config says, and
// changes nothing that is there: first the key store, whose id the streams get. It
// waits for a server that is starting. The error is a *stream.Differs or
// *stream.OtherFormat if something there is not as it must be, and a sentence about
// the key store if it is not that of the streams; then nothing was made. Safe to repeat, and to run from several
// processes at once.
func Init(ctx context.Context, c Config, log *slog.Logger) ([]Made, error) {
	return initIn(ctx, c, 0, log)
}

// initIn is Init where so many bytes are free; 0 where the server has to tell.
func initIn(ctx context.Context, c Config, free int64, log *slog.Logger) ([]Made, error) {
	if c.NATS.URL == "" {
		return nil, errNoServer
	}
	if c.Keys.Store == "" {
		return nil, errors.New("keys.store is empty: name the folder of the key store that all submitters share, whose id the streams get")
	}
	var missing barrier
	nc, err := dial(c.NATS.by(Admin), hostName("init"), missing.refused, log, again()...)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	missing.guards(nc)
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	var all []Made
	for end := time.Now().Add(initTime); ; {
		made, err := provision(ctx, js, c, free)
		all = together(all, made)
		err = missing.because(err)
		if err == nil || decided(err) || refusal(err) != "" || errors.Is(err, errNoRight) || ctx.Err() != nil || time.Now().After(end) {
			return all, explained(err)
		}
		log.WarnContext(ctx, "the server does not do it yet; it is asked for another while", "until", end.Format(time.TimeOnly), "err", err)
		_ = stream.Sleep(ctx, 2*time.Second)
	}
}

// initTime is how long Init waits for a server that is starting, or has no
// leader.
const initTime = time.Minute

// together is what two tries did: what the first one made is there for the
// second.
func together(before, now []Made) []Made {
	for i, m := range now {
		for _, b := range before {
			if b.Name == m.Name && b.Made {
				now[i] = b
			}
		}
	}
	return append(now, before[min(len(now), len(before)):]...) // if the second did not come so far
}

// decided tells whether asking the server again is useless, because of what is
// there.
func decided(err error) bool {
	_, differs := errors.AsType[*stream.Differs](err)
	_, other := errors.AsType[*stream.OtherFormat](err)
	_, folder := errors.AsType[*certstore.OtherFormat](err)
	_, store := errors.AsType[*wrongStore](err)
	return differs || other || folder || store || errors.Is(err, certstore.ErrGone) || errors.Is(err, errRecipients)
}

// refusals are the server's own reasons not to make a stream that do not pass by
// themselves, by the code of its error, and what helps.
var refusals = map[jetstream.ErrorCode]string{
	10047: "the inbox reserves 4 GiB, or a tenth of what the NATS account may store where that is less: " +
		"give the server 5 GiB or more (max_file_store of its config, and free disk), or the account a limit (max_file), then: certmill init",
	10028: "give the server more memory for JetStream (max_memory_store of its config), then: certmill init",
	10027: "the NATS account may have no more streams: raise max_streams of it, then: certmill init",
	10039: "the NATS account of this user has no JetStream: enable it, or use another user, then: certmill init",
	10074: "a single server keeps one replica: write nats.replicas: 1, or make the server part of a cluster of three, then: certmill init",
	10113: "the NATS account wants a bound for each stream (max_bytes_required), and orders and ledger must have none: take that off, then: certmill init",
	10122: "the NATS account bounds the bytes of a stream: raise disk_max_stream_bytes above 4 GiB, then: certmill init",
}

// refusal is what helps against the server's refusal, "" if the error is none.
func refusal(err error) string {
	api, _ := errors.AsType[*jetstream.APIError](err)
	if api == nil {
		return ""
	}
	return refusals[api.ErrorCode]
}

func explained(err error) error {
	if help := refusal(err); help != "" {
		return fmt.Errorf("%w; %s", err, help)
	}
	return err
}

// provision looks at everything first, so that nothing is made beside what is
// refused.
func provision(ctx context.Context, js jetstream.JetStream, c Config, free int64) ([]Made, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	wanted := lasting(c.NATS.Replicas)
	there, err := lookAt(ctx, js, wanted)
	if err != nil {
		return nil, err
	}
	keys, made, err := c.ownStore(there.stores())
	if err != nil {
		return nil, err
	}
	// A crash here leaves a store without streams, whose id the next Init gives to
	// new ones.
	all := []Made{{Name: KeyStoreName, Path: absolute(keys.Dir()), Made: made}}
	if there.lost(ledger.StreamName) {
		// The new incarnation comes first. A crash here leaves no ledger, and the
		// next Init begins another incarnation; the other way round it would leave
		// an empty ledger under marks that say that everything was swept.
		if err := pipeline.Renew(ctx, js); err != nil {
			return nil, err
		}
	}
	for _, want := range wanted {
		want.Metadata = maps.Clone(want.Metadata)
		if want.Metadata == nil {
			want.Metadata = map[string]string{}
		}
		want.Metadata[storeIn] = keys.ID()
		made, err := stream.Ensure(ctx, js, sized(ctx, js, want, free))
		if err == nil {
			err = nameStore(ctx, js, want, keys.ID()) // one that names none yet
		}
		if err != nil {
			return all, err
		}
		m := Made{Name: want.Name, Made: made}
		if there.lost(want.Name) {
			m.Lost = forgotten[want.Name]
		}
		all = append(all, m)
	}
	return all, nil
}

// present are the streams that were there when they were looked at.
type present map[string]found

// found is a stream that was there.
type found struct {
	msgs  uint64
	store string // id of the key store that it names
}

// stores are the key stores that they name.
func (p present) stores() namedStores {
	all := namedStores{}
	for name, f := range p {
		all[name] = f.store
	}
	return all
}

// lookAt verifies what is there of the wanted streams. What is missing is no
// error.
func lookAt(ctx context.Context, js jetstream.JetStream, wanted []jetstream.StreamConfig) (present, error) {
	there := present{}
	for _, want := range wanted {
		s, err := stream.Open(ctx, js, want)
		switch {
		case errors.Is(err, stream.ErrMissing):
		case err != nil:
			return nil, err
		default:
			info := s.CachedInfo()
			there[want.Name] = found{info.State.Msgs, info.Config.Metadata[storeIn]}
		}
	}
	return there, nil
}

// lost tells whether a stream is missing that was there: the orders, which come
// last, are there; or the orders are missing, and the others have seen use.
func (p present) lost(name string) bool {
	if _, there := p[name]; there {
		return false
	}
	if _, orders := p[pipeline.OrdersStream]; orders {
		return true
	}
	return name == pipeline.OrdersStream && p[ledger.StreamName].msgs+p[account.StreamName].msgs > 0
}
