package permit

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// maxConsumers is how many rings the stream allows; the server's own default is
// 1,000.
const maxConsumers = 100_000

// streamConfig keeps one message per slot. Nothing but a put-back or a removal
// by sequence may ever take one away. Sequences begin at now in microseconds,
// so that none of an earlier life of the stream is ever valid again. On a
// single server it lies in memory: on a file, the consumer's state is written
// up to 100 ms late, and a killed server would hand a permit out as a first
// delivery twice.
func streamConfig(o Options) jetstream.StreamConfig {
	storage := jetstream.MemoryStorage
	if o.Replicas > 1 {
		storage = jetstream.FileStorage
	}
	return jetstream.StreamConfig{
		Name:              o.Stream,
		Description:       "permits to call a provider: one message per slot of a ring",
		Subjects:          []string{o.Prefix + ".*.*.*.*"}, // account, action, life of the consumer, slot
		Storage:           storage,
		Replicas:          o.Replicas,
		MaxMsgsPerSubject: 1,
		MaxMsgSize:        1 << 10,
		MaxConsumers:      maxConsumers,
		DenyPurge:         true,
		FirstSeq:          uint64(time.Now().UnixMicro()),
	}
}

// Keys of a ring consumer's metadata.
const (
	metaCalls    = "permit-calls"
	metaPeriod   = "permit-period"
	metaDeadline = "permit-deadline"
	metaPull     = "permit-pull"
	metaShards   = "permit-shards"
	metaLife     = "permit-life"     // as in the filter
	metaAckWait  = "permit-ack-wait" // as its maker wanted it
)

// metadata writes down the settings that all processes must share.
func metadata(l Limit, shards int) map[string]string {
	return map[string]string{
		metaCalls: strconv.Itoa(l.Calls), metaPeriod: l.Period.String(),
		metaDeadline: l.Deadline.String(), metaPull: l.Pull.String(), metaShards: strconv.Itoa(shards),
	}
}

func parseMetadata(m map[string]string) (l Limit, shards int, err error) {
	var errs [5]error
	l.Calls, errs[0] = strconv.Atoi(m[metaCalls])
	l.Period, errs[1] = time.ParseDuration(m[metaPeriod])
	l.Deadline, errs[2] = time.ParseDuration(m[metaDeadline])
	l.Pull, errs[3] = time.ParseDuration(m[metaPull])
	shards, errs[4] = strconv.Atoi(m[metaShards])
	return l, shards, errors.Join(errs[:]...)
}

// token writes any text as one token of a subject and part of a consumer's
// name, and different texts differently: letters, digits and hyphens stay,
// other bytes become =XX. Long ones end in a hash.
func token(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	t := b.String()
	switch {
	case t == "":
		return "=" // no text gives this one
	case len(t) > 100:
		sum := sha256.Sum256([]byte(s))
		return t[:60] + "==" + hex.EncodeToString(sum[:16])
	}
	return t
}

// consumerName is what nats consumer info shows: account_action, and _n for the
// further consumers of a ring that is split.
func consumerName(k Key, shard int) string {
	name := token(k.Account) + "_" + token(k.Action)
	if shard > 0 {
		name += "_" + strconv.Itoa(shard)
	}
	return name
}

// streamStore is the JetStream side of all rings of a Set.
type streamStore struct {
	js  jetstream.JetStream
	nc  *nats.Conn
	opt Options
	api string // prefix of the JetStream API

	mu      sync.Mutex
	sources []*streamSource
	status  chan nats.Status
	lost    chan struct{} // closed and made anew when the connection drops
}

func newStreamStore(js jetstream.JetStream, opt Options) *streamStore {
	api := js.Options().APIPrefix
	if d := js.Options().Domain; d != "" {
		api = "$JS." + d + ".API"
	}
	if api == "" {
		api = "$JS.API"
	}
	return &streamStore{js: js, nc: js.Conn(), opt: opt, api: strings.TrimSuffix(api, ".") + ".", lost: make(chan struct{})}
}

func (st *streamStore) source(k Key, shard int, stray func(int, delivery)) source {
	st.mu.Lock()
	defer st.mu.Unlock()
	s := &streamSource{store: st, shard: shard, stray: stray, name: consumerName(k, shard),
		subject: st.opt.Prefix + "." + token(k.Account) + "." + token(k.Action) + "."}
	st.sources = append(st.sources, s)
	return s
}

// dropped is closed when the connection drops.
func (st *streamStore) dropped() <-chan struct{} {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.status == nil {
		st.status = st.nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
		go st.watch(st.status)
	}
	return st.lost
}

// watch ends with the connection or with close.
func (st *streamStore) watch(status <-chan nats.Status) {
	for range status {
		st.mu.Lock()
		close(st.lost)
		st.lost = make(chan struct{})
		st.mu.Unlock()
	}
}

func (st *streamStore) close() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.status != nil {
		st.nc.RemoveStatusListener(st.status) // closes it
	}
	for _, s := range st.sources {
		s.giveUp(0)
	}
}

// streamSource is one consumer.
type streamSource struct {
	store   *streamStore
	shard   int
	stray   func(int, delivery)
	name    string // of the consumer
	subject string // prefix.account.action.

	mu   sync.Mutex
	line *line
}

// line is a subscription that one pull after another is answered on. A
// permit's message does not say which pull it answers, so once a pull is given
// up without an answer its line is not used again: what still comes on it is a
// stray, which this process alone knows was not used.
type line struct {
	sub   *nats.Subscription
	inbox string

	mu    sync.Mutex
	asked chan *nats.Msg // of the pull under way; nil if none
}

// open finds the consumer or makes it, and the stream if need be.
func (s *streamSource) open(ctx context.Context, l Limit, shards int, retune bool) (opened, error) {
	for range 4 { // each time another process was quicker
		c, err := s.store.js.Consumer(ctx, s.store.opt.Stream, s.name)
		switch {
		case s.store.opt.Join && missing(err):
			return opened{}, fmt.Errorf("join %s: %w", s.name, ErrNoRing)
		case errors.Is(err, jetstream.ErrStreamNotFound):
			err = s.makeStream(ctx)
		case errors.Is(err, jetstream.ErrConsumerNotFound):
			err = s.makeConsumer(ctx, l, shards)
		case err == nil && s.refiltered(c.CachedInfo().Config):
			err = s.store.js.DeleteConsumer(ctx, s.store.opt.Stream, s.name) // and it is made anew
			if errors.Is(err, jetstream.ErrConsumerNotFound) {
				err = nil
			}
		case err == nil:
			return s.join(ctx, c.CachedInfo(), l, retune)
		}
		if err != nil {
			return opened{}, s.failure("open", err)
		}
	}
	return opened{}, errGone
}

// refiltered tells that somebody has changed what the consumer hands out.
func (s *streamSource) refiltered(c jetstream.ConsumerConfig) bool {
	life, marked := c.Metadata[metaLife]
	return marked && !s.store.opt.Join && (c.FilterSubject != s.subject+life+".*" || len(c.FilterSubjects) > 0)
}

func missing(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound)
}

func (s *streamSource) makeStream(ctx context.Context) error {
	_, err := s.store.js.CreateStream(ctx, streamConfig(s.store.opt))
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil
	}
	return err
}

// makeConsumer begins a new life of the ring. Its random token makes that of
// two processes one fails, and that no slot is there: whatever is stored under
// an earlier token is never handed out again.
func (s *streamSource) makeConsumer(ctx context.Context, l Limit, shards int) error {
	if err := s.checkStream(ctx); err != nil {
		return err
	}
	life, meta := rand.Text()[:12], metadata(l, shards)
	meta[metaLife], meta[metaAckWait] = life, s.store.opt.AckWait.String()
	_, err := s.store.js.CreateConsumer(ctx, s.store.opt.Stream, jetstream.ConsumerConfig{
		Durable:       s.name,
		Description:   "one message per permit that may be taken now",
		FilterSubject: s.subject + life + ".*",
		DeliverPolicy: jetstream.DeliverNewPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       s.store.opt.AckWait,
		MaxDeliver:    -1,
		MaxAckPending: maxAckPending(l),
		MaxWaiting:    2048, // pulls: one per process
		MemoryStorage: s.store.opt.Replicas == 1,
		Metadata:      meta,
	})
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return nil
	}
	return err
}

// checkStream refuses a stream on which the proof would not hold.
func (s *streamSource) checkStream(ctx context.Context) error {
	stream, err := s.store.js.Stream(ctx, s.store.opt.Stream)
	if err != nil {
		return err
	}
	c := stream.CachedInfo().Config
	if c.MaxMsgsPerSubject != 1 || c.Retention != jetstream.LimitsPolicy || c.MaxAge != 0 || c.Discard != jetstream.DiscardOld {
		return fmt.Errorf("%w: stream %s was not made by this program: it must keep one message per subject, for ever; remove it or choose another Options.Stream",
			ErrSettings, s.store.opt.Stream)
	}
	return nil
}

// maxAckPending is well above L because a message that was replaced stays
// pending for a moment.
func maxAckPending(l Limit) int { return 8 * l.Calls }

// join compares the settings of the consumer with one's own.
func (s *streamSource) join(ctx context.Context, info *jetstream.ConsumerInfo, l Limit, retune bool) (opened, error) {
	there, shards, err := parseMetadata(info.Config.Metadata)
	if err != nil {
		return opened{}, fmt.Errorf("%w: consumer %s of stream %s was not made by this program: %w", ErrSettings, s.name, s.store.opt.Stream, err)
	}
	life, _ := strings.CutPrefix(info.Config.FilterSubject, s.subject)
	o := opened{life: strings.TrimSuffix(life, ".*"), shards: shards, limit: there}
	if s.store.opt.Join {
		return o, nil
	}
	if err := agree(there, l, retune); err != nil {
		return opened{}, fmt.Errorf("%w; to change them, stop all processes that use it, wait %v, then remove consumer %s of stream %s",
			err, there.quiet(), s.name, s.store.opt.Stream)
	}
	if there.Calls != l.Calls {
		if err := s.retune(ctx, info.Config, l); err != nil {
			return opened{}, s.failure("change the limit of", err)
		}
	}
	return o, nil
}

func (s *streamSource) retune(ctx context.Context, cfg jetstream.ConsumerConfig, l Limit) error {
	cfg.Metadata = maps.Clone(cfg.Metadata)
	cfg.Metadata[metaCalls] = strconv.Itoa(l.Calls)
	cfg.MaxAckPending = max(cfg.MaxAckPending, maxAckPending(l))
	_, err := s.store.js.UpdateConsumer(ctx, s.store.opt.Stream, cfg)
	return err
}

// pull asks for one permit. The server is told to give up a little before E, so
// that little comes too late.
func (s *streamSource) pull(ctx context.Context, l Limit) (delivery, error) {
	dropped := s.store.dropped()
	if !s.store.nc.IsConnected() {
		return delivery{}, s.failure("pull from", nats.ErrDisconnected)
	}
	line, asked, err := s.begin()
	if err != nil {
		return delivery{}, s.failure("pull from", err)
	}
	margin := min(l.Pull/20, 20*time.Millisecond)
	body := fmt.Appendf(nil, `{"batch":1,"expires":%d}`, (l.Pull - margin).Nanoseconds())
	err = s.store.nc.PublishRequest(s.store.api+"CONSUMER.MSG.NEXT."+s.store.opt.Stream+"."+s.name, line.inbox, body)
	expired := time.NewTimer(l.Pull)
	defer expired.Stop()
	if err == nil {
		select {
		case m := <-asked:
			return s.answer(m)
		case <-expired.C:
			err = errNothing
		case <-dropped:
			err = nats.ErrDisconnected
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	s.giveUp(2 * l.Pull)
	select {
	case m := <-asked: // at the last moment
		return s.answer(m)
	default:
		return delivery{}, s.failure("pull from", err)
	}
}

// begin makes ready for the answer to one pull.
func (s *streamSource) begin() (*line, <-chan *nats.Msg, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == nil {
		l := &line{inbox: s.store.nc.NewInbox()}
		sub, err := s.store.nc.Subscribe(l.inbox, func(m *nats.Msg) { s.got(l, m) })
		if err != nil {
			return nil, nil, fmt.Errorf("subscribe: %w", err)
		}
		l.sub, s.line = sub, l
	}
	asked := make(chan *nats.Msg, 1)
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	s.line.asked = asked
	return s.line, asked, nil
}

// got takes what came on a line.
func (s *streamSource) got(l *line, m *nats.Msg) {
	l.mu.Lock()
	asked := l.asked
	l.asked = nil
	if asked != nil {
		asked <- m
	}
	l.mu.Unlock()
	if asked != nil {
		return
	}
	if d, err := s.answer(m); err == nil {
		s.stray(s.shard, d)
	}
}

// giveUp leaves the line, which goes on taking strays for a while.
func (s *streamSource) giveUp(strays time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.line
	if l == nil {
		return
	}
	s.line = nil
	time.AfterFunc(strays, func() { _ = l.sub.Unsubscribe() })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = nil
}

// answer reads a permit, or a status: the server's word that there is none.
func (s *streamSource) answer(m *nats.Msg) (delivery, error) {
	switch status := m.Header.Get("Status"); status {
	case "":
	case "404", "408":
		return delivery{}, errNothing
	default: // 503: nobody there; 409: removed, or another leader
		return delivery{}, fmt.Errorf("pull from %s: status %s %s: %w", s.name, status, m.Header.Get("Description"), errGone)
	}
	md, err := m.Metadata()
	if err != nil {
		return delivery{}, fmt.Errorf("pull from %s: %w", s.name, err)
	}
	rest, ours := strings.CutPrefix(m.Subject, s.subject)
	life, number, _ := strings.Cut(rest, ".")
	slot, err := strconv.Atoi(number)
	if err != nil || !ours || slot < 0 {
		return delivery{}, fmt.Errorf("pull from %s: %q is no slot of this ring", s.name, m.Subject)
	}
	return delivery{life: life, slot: slot, seq: md.Sequence.Stream, first: md.NumDelivered == 1,
		subject: m.Subject, reply: m.Reply}, nil
}

func (s *streamSource) put(ctx context.Context, d delivery) error {
	return s.publish(ctx, d.subject, d.seq)
}

func (s *streamSource) fill(ctx context.Context, life string, slot int) error {
	return s.publish(ctx, s.subject+life+"."+strconv.Itoa(slot), 0)
}

// publish puts a slot on condition that its last sequence is seq.
func (s *streamSource) publish(ctx context.Context, subject string, seq uint64) error {
	_, err := s.store.js.Publish(ctx, subject, nil, jetstream.WithExpectLastSequencePerSubject(seq), jetstream.WithRetryAttempts(1))
	if api, ok := errors.AsType[*jetstream.APIError](err); err != nil && ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return errRefused
	}
	if err != nil { // also another condition in flight: ask again
		return s.failure("put a slot of", err)
	}
	return nil
}

// remove deletes by sequence, which is a condition in itself.
func (s *streamSource) remove(ctx context.Context, d delivery) error {
	stream, err := s.store.js.Stream(ctx, s.store.opt.Stream)
	if err == nil {
		err = stream.DeleteMsg(ctx, d.seq)
	}
	if err == nil {
		return nil
	}
	if stream != nil {
		if _, gone := stream.GetMsg(ctx, d.seq); errors.Is(gone, jetstream.ErrMsgNotFound) {
			return errRefused
		}
	}
	return s.failure("remove a slot of", err)
}

func (s *streamSource) filled(ctx context.Context, life string) (map[int]bool, error) {
	prefix := s.subject + life + "."
	stream, err := s.store.js.Stream(ctx, s.store.opt.Stream)
	if err != nil {
		return nil, s.failure("list the slots of", err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+"*"))
	if err != nil {
		return nil, s.failure("list the slots of", err)
	}
	have := map[int]bool{}
	for subject := range info.State.Subjects {
		if slot, err := strconv.Atoi(strings.TrimPrefix(subject, prefix)); err == nil {
			have[slot] = true
		}
	}
	return have, nil
}

// touch resets the AckWait of a delivery. If it is lost, or late, whoever is
// handed the permit as well does not use it.
func (s *streamSource) touch(d delivery) { _ = s.store.nc.Publish(d.reply, []byte("+WPI")) }

func (s *streamSource) failure(what string, err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) || s.store.nc.IsClosed() {
		return fmt.Errorf("%s %s: %w: %w", what, s.name, ErrClosed, err)
	}
	return fmt.Errorf("%s %s: %w", what, s.name, err)
}
