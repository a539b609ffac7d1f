package order

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

type rawJSON = json.RawMessage

// ErrNewer is returned by Decode for a record that a newer program wrote.
var ErrNewer = errors.New("the record was written by a newer certmill")

// Decode reads a record. Fields that this program does not know, those inside
// its structs too (not inside the elements of its lists), are kept and written
// back by Encode. The error wraps ErrNewer when the record's version is higher
// than SchemaVersion; any other error means that the bytes are no record.
func Decode(data []byte) (Order, error) {
	// The version first: a newer program may have changed a field's type, and
	// its record must not be taken for rubbish.
	var version struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(data, &version); err == nil && version.V > SchemaVersion {
		return Order{V: version.V}, fmt.Errorf("the record has version %d, this program knows %d: %w", version.V, SchemaVersion, ErrNewer)
	}
	var o Order
	if err := json.Unmarshal(data, (*plain)(&o)); err != nil {
		return Order{}, fmt.Errorf("decode order record: %w", err)
	}
	if o.V < 1 || o.State == "" {
		return Order{}, errors.New("decode order record: no version or no state")
	}
	if extra := unknownParts(data, reflect.TypeFor[Order]()); len(extra) > 0 {
		o.extra = extra
	}
	return o, nil
}

// Encode writes the record, with the unknown fields that Decode kept.
func (o Order) Encode() ([]byte, error) {
	body, err := json.Marshal(plain(o))
	if err == nil && len(o.extra) > 0 {
		body, err = merge(body, o.extra, reflect.TypeFor[Order]())
	}
	if err != nil {
		return nil, fmt.Errorf("encode order %q: %w", o.ID(), err)
	}
	return body, nil
}

// MarshalJSON and UnmarshalJSON make the record keep its unknown fields
// wherever it is embedded.
func (o Order) MarshalJSON() ([]byte, error) { return o.Encode() }

func (o *Order) UnmarshalJSON(data []byte) error {
	decoded, err := Decode(data)
	if err == nil {
		*o = decoded
	}
	return err
}

type plain Order

// unknownParts returns what the JSON object has and the struct has no field
// for: whole fields, and of fields that are structs their unknown parts. Lists
// are the program's own: their elements are not looked into.
func unknownParts(object []byte, t reflect.Type) map[string]rawJSON {
	var parts map[string]rawJSON
	if err := json.Unmarshal(object, &parts); err != nil {
		return nil
	}
	for name, value := range parts {
		field, known := fieldNamed(t, name)
		if !known {
			continue
		}
		delete(parts, name)
		if inner, ok := structOf(field.Type); ok {
			if rest := unknownParts(value, inner); len(rest) > 0 {
				parts[name], _ = json.Marshal(rest) // of values that were JSON
			}
		}
	}
	return parts
}

// merge writes unknown parts back into an object. Parts of a field that is no
// longer there (a failure that was overcome) are gone with it.
func merge(object []byte, parts map[string]rawJSON, t reflect.Type) ([]byte, error) {
	var all map[string]rawJSON
	if err := json.Unmarshal(object, &all); err != nil {
		return nil, err
	}
	for name, value := range parts {
		field, known := fieldNamed(t, name)
		if !known {
			all[name] = value
			continue
		}
		inner, _ := structOf(field.Type)
		own, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		var rest map[string]rawJSON
		if err := json.Unmarshal(value, &rest); err != nil {
			return nil, err
		}
		if all[own] == nil || inner == nil {
			continue
		}
		merged, err := merge(all[own], rest, inner)
		if err != nil {
			return nil, err
		}
		all[own] = merged
	}
	return json.Marshal(all)
}

// fieldNamed finds a field by its JSON name, as encoding/json does: without
// regard to case.
func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		own, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if own != "" && strings.EqualFold(own, name) {
			return t.Field(i), true
		}
	}
	return reflect.StructField{}, false
}

// structOf is the struct of ours that a field holds; times are values.
func structOf(t reflect.Type) (reflect.Type, bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() {
		return nil, false
	}
	return t, true
}
