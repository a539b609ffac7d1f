package stage_test

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
)

// table is what lies in the streams, in memory, so that it can be put back to what
// lay there before: thousands of times a second. It knows what line and ledger ask
// of a server: conditions, last messages and removals. All else is the server's own
// (the streams that it has are empty, and as they must be).
//
// All streams keep one message of a subject, so one table is enough for all.
type table struct {
	jetstream.JetStream

	mu   sync.Mutex // guards what follows
	seq  uint64
	rows map[string]row // by subject; a row is replaced, never changed
}

type row struct {
	data   []byte
	header nats.Header
	seq    uint64
	at     time.Time
	read   *reading
}

// reading is what was read of a row.
type reading struct {
	order *order.Order
	entry *ledger.Entry
}

func newTable(js jetstream.JetStream) *table {
	return &table{JetStream: js, rows: map[string]row{}}
}

// take is what lies there now.
func (t *table) take() map[string]row {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.rows)
}

// put is take back.
func (t *table) put(rows map[string]row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = map[string]row{}
	maps.Copy(t.rows, rows)
}

func (t *table) Publish(ctx context.Context, subject string, data []byte, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	return t.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: data}, opts...)
}

func (t *table) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if want, filter, is := conditionOf(opts); is {
		if filter == "" {
			filter = m.Subject
		}
		if _, last := t.last(filter); last.seq != want {
			return nil, &jetstream.APIError{Code: 400, ErrorCode: 10071, Description: fmt.Sprintf("wrong last sequence: %d", last.seq)}
		}
	}
	t.seq++
	t.rows[m.Subject] = row{m.Data, m.Header, t.seq, time.Now(), &reading{}}
	return &jetstream.PubAck{Sequence: t.seq}, nil
}

// conditionOf reads what only the client itself can read of a publish.
func conditionOf(opts []jetstream.PublishOpt) (want uint64, filter string, is bool) {
	for _, o := range opts {
		f := reflect.ValueOf(o)
		into := reflect.New(f.Type().In(0).Elem())
		f.Call([]reflect.Value{into})
		if seq := into.Elem().FieldByName("lastSubjectSeq"); !seq.IsNil() {
			return seq.Elem().Uint(), into.Elem().FieldByName("lastSubject").String(), true
		}
	}
	return 0, "", false
}

// last is the last message of a filter, from is how the others are left out.
func (t *table) last(filter string) (subject string, last row) {
	for s, r := range t.rows {
		if r.seq > last.seq && covers(filter, s) {
			subject, last = s, r
		}
	}
	return subject, last
}

// covers tells whether a filter without ">" covers a subject.
func covers(filter, subject string) bool {
	for filter != "" {
		var f, s string
		f, filter, _ = strings.Cut(filter, ".")
		s, subject, _ = strings.Cut(subject, ".")
		if f != "*" && f != s {
			return false
		}
	}
	return subject == ""
}

func (t *table) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	s, err := t.JetStream.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	return tableStream{s, t}, nil
}

// tableStream is a stream of the table. Its consumers are the server's: whoever
// reads it must do without (stream.WithoutConsumers).
type tableStream struct {
	jetstream.Stream
	t *table
}

func (s tableStream) Info(context.Context, ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	info := *s.CachedInfo()
	info.State.LastSeq = s.t.seq
	return &info, nil
}

func (s tableStream) GetLastMsgForSubject(_ context.Context, filter string) (*jetstream.RawStreamMsg, error) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	return raw(s.t.last(filter))
}

func (s tableStream) GetMsg(_ context.Context, seq uint64, opts ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	filter := ""
	for _, o := range opts {
		f := reflect.ValueOf(o)
		into := reflect.New(f.Type().In(0).Elem())
		f.Call([]reflect.Value{into})
		filter = into.Elem().FieldByName("NextFor").String()
	}
	var subject string
	var next row
	for name, r := range s.t.rows {
		if r.seq >= seq && (next.seq == 0 || r.seq < next.seq) && covers(filter, name) {
			subject, next = name, r
		}
	}
	return raw(subject, next)
}

func raw(subject string, r row) (*jetstream.RawStreamMsg, error) {
	if r.seq == 0 {
		return nil, jetstream.ErrMsgNotFound
	}
	return &jetstream.RawStreamMsg{Subject: subject, Sequence: r.seq, Header: r.header, Data: r.data, Time: r.at}, nil
}

func (s tableStream) DeleteMsg(_ context.Context, seq uint64) error {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	for name, r := range s.t.rows {
		if r.seq == seq {
			delete(s.t.rows, name)
			return nil
		}
	}
	return jetstream.ErrMsgNotFound
}

func (s tableStream) Purge(_ context.Context, opts ...jetstream.StreamPurgeOpt) error {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	var what jetstream.StreamPurgeRequest
	for _, o := range opts {
		if err := o(&what); err != nil {
			return err
		}
	}
	for name, r := range s.t.rows {
		if covers(what.Subject, name) && (what.Sequence == 0 || r.seq < what.Sequence) {
			delete(s.t.rows, name)
		}
	}
	return nil
}
