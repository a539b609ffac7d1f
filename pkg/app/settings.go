package app

import (
	_ "embed"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/certmill/certmill/pkg/order"
)

// Example is a commented config that works against `certmill sim`.
//
//go:embed example.yaml
var Example string

// Table renders all settings as a Markdown table, from the struct itself.
func Table() string {
	var b strings.Builder
	b.WriteString("| setting | default | meaning |\n|---|---|---|\n")
	rows(&b, "", reflect.ValueOf(Defaults()))
	return b.String()
}

func rows(b *strings.Builder, prefix string, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue // no word of the config's
		}
		name, doc := prefix+f.Tag.Get("yaml"), f.Tag.Get("doc")
		if f.Type.Kind() == reflect.Struct && doc == "" {
			rows(b, name+".", v.Field(i))
			continue
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, shown(v.Field(i)), doc)
		if f.Type == reflect.TypeFor[map[string]Account]() {
			rows(b, name+".<label>.", reflect.ValueOf(Account{}))
		}
		if f.Type == reflect.TypeFor[map[string]Publisher]() {
			rows(b, name+".<name>.", reflect.ValueOf(Publisher{}))
		}
		if f.Type == reflect.TypeFor[map[string]Solver]() {
			rows(b, name+".<name>.", reflect.ValueOf(Solver{}))
		}
	}
}

func shown(v reflect.Value) string {
	if v.IsZero() {
		return ""
	}
	return fmt.Sprintf("`%v`", v.Interface())
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func equal(a, b map[string]int) bool { return maps.Equal(a, b) }

func logLevel(s string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return 0, fmt.Errorf("%q is no log level: write debug, info, warn or error", s)
	}
	return l, nil
}

// Fields renders the fields of an order message as a Markdown table.
func Fields() string {
	var b strings.Builder
	b.WriteString("| field | meaning |\n|---|---|\n")
	for _, t := range []struct {
		prefix string
		of     reflect.Type
	}{{"", reflect.TypeFor[order.Request]()}, {"contact.", reflect.TypeFor[order.Contact]()}} {
		for i := range t.of.NumField() {
			f := t.of.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			fmt.Fprintf(&b, "| `%s%s` | %s |\n", t.prefix, name, f.Tag.Get("jsonschema_description"))
		}
	}
	return b.String()
}
