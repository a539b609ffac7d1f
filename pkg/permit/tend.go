package permit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Times of Tend: how often it looks, how often it counts the slots, and how long
// it leaves alone what it has removed. Variables for the tests only.
var (
	tendEvery   = 4 * time.Second
	slotsEvery  = 30 * time.Second
	removePause = 30 * time.Second
)

// Tend looks after the stream and the consumers of the rings that this process
// uses, until ctx ends, and returns nil. What somebody has edited, or paused, or
// taken slots from, is removed, and who uses it makes it anew: the ring then rests
// for Q, by rule 4. With Options.Join it does nothing.
func (s *Set) Tend(ctx context.Context) error {
	st, ok := s.store.(*streamStore)
	if !ok || s.opt.Join {
		return nil
	}
	t := tending{st: st, removed: map[string]time.Time{}, lacking: map[string]string{}}
	for sleep(ctx, tendEvery) == nil {
		if err := t.look(ctx, s.all()); err != nil && ctx.Err() == nil {
			t.tell(ctx, err)
		}
	}
	return nil
}

// tending is what Tend remembers.
type tending struct {
	st      *streamStore
	removed map[string]time.Time // by consumer; "" the stream
	counted time.Time            // when the slots were counted
	lacking map[string]string    // consumers that lacked slots then, with life and limit
	told    bool
}

func (t *tending) tell(ctx context.Context, err error) {
	level := slog.LevelDebug
	if !t.told {
		t.told, level = true, slog.LevelWarn
	}
	t.st.opt.Log.Log(ctx, level, "the permits cannot be looked after", "err", err)
}

// life is one consumer in use, as this process knows it.
type life struct {
	source *streamSource
	life   string
	full   bool // its slots were all put, as far as this process knows
	limit  Limit
	shards int
}

// lives are those that this process uses, by consumer.
func lives(rings []*ring) map[string]life {
	all := map[string]life{}
	for _, r := range rings {
		r.mu.Lock()
		for _, sh := range r.shards {
			if src, ok := sh.src.(*streamSource); ok && sh.life != "" {
				all[src.name] = life{src, sh.life, sh.full == sh.life && !sh.filling, r.limit, len(r.shards)}
			}
		}
		r.mu.Unlock()
	}
	return all
}

func (t *tending) look(ctx context.Context, rings []*ring) error {
	used := lives(rings)
	if len(used) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := t.st.js.Stream(ctx, t.st.opt.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // who uses it makes it
	}
	if err != nil {
		return err
	}
	if why := unfit(s.CachedInfo().Config); why != "" {
		return t.remove(ctx, "", why, func() error { return t.st.js.DeleteStream(ctx, t.st.opt.Stream) })
	}
	list := s.ListConsumers(ctx)
	for info := range list.Info() {
		if l, ours := used[info.Name]; ours {
			if err := t.consumer(ctx, s, info.Config, l, s.CachedInfo().TimeStamp); err != nil {
				return err
			}
		}
	}
	if err := list.Err(); err != nil {
		return err
	}
	return t.slots(ctx, s, used)
}

// unfit tells why the proof does not hold on a stream, "" if it does.
func unfit(c jetstream.StreamConfig) string {
	for _, bad := range []struct {
		is  bool
		why string
	}{
		{c.MaxMsgsPerSubject != 1, "it keeps more than one message of a subject"},
		{c.Retention != jetstream.LimitsPolicy, "its retention is another one"},
		{c.MaxAge != 0, "its messages have a maximum age"},
		{c.MaxMsgs > 0, "it has a maximum of messages"},
		{c.MaxBytes > 0, "it has a maximum of bytes"},
		{c.Discard != jetstream.DiscardOld, "it refuses messages when it is full"},
		{c.NoAck, "it does not acknowledge"},
		{c.AllowRollup, "its messages can be rolled up"},
		{c.SubjectTransform != nil && *c.SubjectTransform != jetstream.SubjectTransformConfig{}, "its subjects are transformed"},
	} {
		if bad.is {
			return bad.why
		}
	}
	return ""
}

// consumer removes a consumer that is not as its ring needs it. One of another
// life is a newer one: whoever uses it finds that out by itself.
func (t *tending) consumer(ctx context.Context, s jetstream.Stream, c jetstream.ConsumerConfig, l life, now time.Time) error {
	if c.Metadata[metaLife] != l.life {
		return nil
	}
	there, _, err := parseMetadata(c.Metadata)
	filter := l.source.subject + l.life + ".*"
	why := ""
	for _, bad := range []struct {
		is  bool
		why string
	}{
		{err != nil, "its metadata were changed"},
		{c.FilterSubject != filter || len(c.FilterSubjects) > 0, "its filter is " + c.FilterSubject + strings.Join(c.FilterSubjects, " ")},
		{c.MaxDeliver > 0, fmt.Sprintf("it delivers at most %d times", c.MaxDeliver)},
		{c.AckWait != t.st.opt.AckWait && c.Metadata[metaAckWait] == t.st.opt.AckWait.String(), "its ack wait is " + c.AckWait.String()},
		{len(c.BackOff) > 0, "it has a backoff"},
		{c.MaxAckPending < maxAckPending(there), fmt.Sprintf("it hands out at most %d", c.MaxAckPending)},
		{c.HeadersOnly, "it delivers headers only"},
		{c.MaxRequestBatch > 0 || c.MaxRequestExpires > 0 || c.MaxRequestMaxBytes > 0, "its pulls are limited"},
		{c.InactiveThreshold > 0, "it goes when it is idle"},
		{len(c.PriorityGroups) > 0, "it has priority groups"},
		{c.PauseUntil != nil && c.PauseUntil.After(now), "it is paused"},
	} {
		if bad.is {
			why = bad.why
			break
		}
	}
	if why == "" {
		return nil
	}
	return t.remove(ctx, l.source.name, why, func() error { return s.DeleteConsumer(ctx, l.source.name) })
}

// slots counts the slots now and then. One that is missing twice was removed by
// somebody: whoever has its permit cannot put it back.
func (t *tending) slots(ctx context.Context, s jetstream.Stream, used map[string]life) error {
	if time.Since(t.counted) < slotsEvery {
		return nil
	}
	t.counted = time.Now()
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(t.st.opt.Prefix+".>"))
	if err != nil {
		return err
	}
	lacked := t.lacking
	t.lacking = map[string]string{}
	for name, l := range used {
		missing := l.missing(info.State.Subjects)
		if !l.full || missing == 0 {
			continue
		}
		sign := fmt.Sprint(l.life, l.limit.Calls)
		t.lacking[name] = sign
		if lacked[name] != sign {
			continue // it may be in the making
		}
		why := fmt.Sprintf("%d of its slots were removed", missing)
		if err := t.remove(ctx, name, why, func() error { return s.DeleteConsumer(ctx, name) }); err != nil {
			return err
		}
	}
	return nil
}

func (l life) missing(there map[string]uint64) (n int) {
	for slot := range l.limit.Calls {
		if slot%l.shards == l.source.shard && there[fmt.Sprint(l.source.subject, l.life, ".", slot)] == 0 {
			n++
		}
	}
	return n
}

// remove tells and removes, unless it has done so a moment ago.
func (t *tending) remove(ctx context.Context, name, why string, f func() error) error {
	if time.Since(t.removed[name]) < removePause {
		return nil
	}
	t.removed[name] = time.Now()
	what := "the consumer of a ring was edited by another program: it is made anew, and hands out nothing for a moment"
	if name == "" {
		what = "the stream of the permits was edited by another program: it is made anew, and no permits come for a moment"
	}
	t.st.opt.Log.WarnContext(ctx, what, "stream", t.st.opt.Stream, "consumer", name, "why", why)
	err := f()
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // another process was quicker
	}
	return err
}
