package redact

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
)

// Handler is a log handler that writes on another what has no secrets of this
// process: the last line of defence.
func Handler(next slog.Handler) slog.Handler { return handler{next, &known} }

type handler struct {
	next  slog.Handler
	words *Words
}

// Enabled implements slog.Handler.
func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, h.words.Text(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(h.attr(a))
		return true
	})
	return h.next.Handle(ctx, out)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = h.attr(a)
	}
	return handler{h.next.WithAttrs(clean), h.words}
}

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.next.WithGroup(name), h.words}
}

func (h handler) attr(a slog.Attr) slog.Attr {
	a.Key, a.Value = h.words.Text(a.Key), h.value(a.Value.Resolve())
	return a
}

// value is a value without secrets; the value itself where it has none.
func (h handler) value(v slog.Value) slog.Value {
	switch v.Kind() {
	case slog.KindString:
		return slog.StringValue(h.words.Text(v.String()))
	case slog.KindGroup:
		var all []slog.Attr
		for _, a := range v.Group() {
			all = append(all, h.attr(a))
		}
		return slog.GroupValue(all...)
	case slog.KindAny:
		return h.any(v)
	}
	return v
}

// any looks at a value in the forms in which handlers write it.
func (h handler) any(v slog.Value) slog.Value {
	x := v.Any()
	text := fmt.Sprintf("%+v", x)
	if clean := h.words.Text(text); clean != text {
		return slog.StringValue(clean)
	}
	if doc, err := json.Marshal(x); err == nil {
		if clean := h.words.JSON(doc); string(clean) != string(doc) {
			return slog.StringValue(string(clean))
		}
	}
	return v
}
