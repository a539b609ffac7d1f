// Package record is how anything that is stored as JSON keeps what it does not
// know: what one build writes, the other, which works beside it on the same
// records, writes back as it came.
//
// A record decoded by Decode leaves its unknown parts in a Rest, which its
// holder keeps beside the fields and gives to Encode. Unknown are the fields for
// which the type has none, at every depth: in structs, in the values of maps and
// in the elements of lists. An element of a list is known again by those of its
// fields that have the tag `record:"key"`, or, where no field has, by the whole
// of what is known of it; of several that are the same, by their order.
//
// What this build takes out of a record is gone with its unknown parts: a struct
// that it empties, an element that it removes or whose key it changes.
package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// ErrNewer: a newer program wrote the record, in a version that this one does
// not know. It MUST be left alone.
var ErrNewer = errors.New("the record was written by a newer certmill")

// Rest is what a record has and its type does not know. The zero value is
// nothing. It is never changed and may be shared by copies of a record.
type Rest struct{ root *part }

// Decode reads a record into a pointer to its struct. knows is the highest
// version (field "v") that this program can read: a higher one is ErrNewer,
// whatever else the record is, because a newer program may have changed the type
// of a field. Any other error means that the bytes are no such record. With an
// error, what into points to is undefined.
func Decode(data []byte, knows int, into any) (Rest, error) {
	v := reflect.ValueOf(into).Elem()
	if decodeKnown(data, into) == nil {
		_, version, has := fieldNamed(v, "v")
		if has && version.CanInt() {
			return Rest{}, newer(int(version.Int()), knows)
		}
		return Rest{}, nil
	}
	// Something is unknown, or wrong. The version decides before the types do.
	var version struct {
		V int `json:"v"`
	}
	if json.Unmarshal(data, &version) == nil && newer(version.V, knows) != nil {
		return Rest{}, newer(version.V, knows)
	}
	v.SetZero() // the first try may have come half way
	if err := json.Unmarshal(data, into); err != nil {
		return Rest{}, err
	}
	return Rest{collect(data, v)}, nil
}

// decodeKnown reads a record of which everything is known, as nearly all are.
func decodeKnown(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one value")
	}
	return nil
}

func newer(is, knows int) error {
	if is > knows {
		return fmt.Errorf("it has version %d, this program knows %d: %w", is, knows, ErrNewer)
	}
	return nil
}

// Encode writes a record, the struct or a pointer to it, with the rest that
// Decode left.
func Encode(record any, rest Rest) ([]byte, error) {
	body, err := json.Marshal(record)
	if err != nil || rest.root == nil {
		return body, err
	}
	return rest.root.merge(body, reflect.ValueOf(record))
}

// part is what is unknown of one value.
type part struct {
	fields   map[string]json.RawMessage // of a struct: those that its type does not have
	inner    map[string]*part           // of a struct: of its fields; of a map: of its values
	elements []element                  // of a list
	bare     bool                       // nothing is known of it: where it is left out, it was not emptied
}

// element is an element of a list that has unknown parts.
type element struct {
	id
	*part
}

// id is how an element is known again: its key, and how many of the same key
// come before it.
type id struct {
	key string
	nth int
}

// collect returns the unknown parts of a value, nil if there are none. v is what
// was decoded from raw.
func collect(raw json.RawMessage, v reflect.Value) *part {
	switch v = deref(v); kindOf(v) {
	case reflect.Struct:
		return collectFields(raw, v)
	case reflect.Map:
		return collectValues(raw, v)
	case reflect.Slice:
		return collectElements(raw, v)
	}
	return nil
}

func collectFields(raw json.RawMessage, v reflect.Value) *part {
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	p := part{fields: map[string]json.RawMessage{}, inner: map[string]*part{}}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		own, value, known := fieldNamed(v, name)
		if !known {
			p.fields[name] = all[name]
		} else if in := collect(all[name], value); in != nil && (name == own || p.inner[own] == nil) {
			p.inner[own] = in
			in.bare = value.IsZero()
		}
	}
	if len(p.fields)+len(p.inner) == 0 {
		return nil
	}
	return &p
}

func collectValues(raw json.RawMessage, v reflect.Value) *part {
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	p := part{inner: map[string]*part{}}
	for name, value := range all {
		if at := v.MapIndex(reflect.ValueOf(name).Convert(v.Type().Key())); at.IsValid() {
			if in := collect(value, at); in != nil {
				p.inner[name] = in
			}
		}
	}
	if len(p.inner) == 0 {
		return nil
	}
	return &p
}

func collectElements(raw json.RawMessage, v reflect.Value) *part {
	var all []json.RawMessage
	if json.Unmarshal(raw, &all) != nil || len(all) != v.Len() {
		return nil
	}
	var p part
	var ids []id
	for i, value := range all {
		in := collect(value, v.Index(i))
		if in == nil {
			continue
		}
		if ids == nil {
			ids = idsOf(v)
		}
		p.elements = append(p.elements, element{ids[i], in})
	}
	if len(p.elements) == 0 {
		return nil
	}
	return &p
}

// merge writes unknown parts back into what was encoded from v.
func (p *part) merge(body json.RawMessage, v reflect.Value) (json.RawMessage, error) {
	switch v = deref(v); kindOf(v) {
	case reflect.Struct:
		return p.mergeInto(body, func(name string) reflect.Value {
			_, field, _ := fieldNamed(v, name)
			return field
		})
	case reflect.Map:
		return p.mergeInto(body, func(name string) reflect.Value {
			return v.MapIndex(reflect.ValueOf(name).Convert(v.Type().Key()))
		})
	case reflect.Slice:
		return p.mergeElements(body, v)
	}
	return body, nil // a pointer that is nil now
}

// mergeInto merges into an object. at is the value of a name.
func (p *part) mergeInto(body json.RawMessage, at func(string) reflect.Value) (json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, err
	}
	for name, in := range p.inner {
		value, there := all[name]
		if !there && !in.bare {
			continue // it was emptied
		}
		var err error
		if !there {
			if value, err = json.Marshal(at(name).Interface()); err != nil {
				return nil, err
			}
		}
		if all[name], err = in.merge(value, at(name)); err != nil {
			return nil, err
		}
	}
	maps.Copy(all, p.fields)
	return json.Marshal(all)
}

func (p *part) mergeElements(body json.RawMessage, v reflect.Value) (json.RawMessage, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, err
	}
	ids := idsOf(v)
	for _, e := range p.elements {
		i := slices.Index(ids, e.id)
		if i < 0 || i >= len(all) {
			continue // it was removed
		}
		merged, err := e.merge(all[i], v.Index(i))
		if err != nil {
			return nil, err
		}
		all[i] = merged
	}
	return json.Marshal(all)
}

// idsOf are the ids of a list's elements.
func idsOf(list reflect.Value) []id {
	ids, seen := make([]id, list.Len()), map[string]int{}
	for i := range ids {
		key := keyOf(list.Index(i))
		ids[i] = id{key, seen[key]}
		seen[key]++
	}
	return ids
}

// keyOf is what an element is known by.
func keyOf(v reflect.Value) string {
	v = deref(v)
	if !v.IsValid() {
		return "null"
	}
	var keys []any
	if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("record") == "key" {
				keys = append(keys, v.Field(i).Interface())
			}
		}
	}
	var body []byte
	if len(keys) > 0 {
		body, _ = json.Marshal(keys) // what cannot be written fails in Encode
	} else {
		body, _ = json.Marshal(v.Interface())
	}
	return string(body)
}

// fieldNamed finds a field by its JSON name, as encoding/json does: without
// regard to case, and in embedded structs, too.
func fieldNamed(v reflect.Value, name string) (own string, field reflect.Value, known bool) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		own, _, _ = strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case own == "-":
		case f.Anonymous && own == "" && f.Type.Kind() == reflect.Struct:
			if own, field, known = fieldNamed(v.Field(i), name); known {
				return own, field, true
			}
		case f.IsExported():
			if own == "" {
				own = f.Name
			}
			if strings.EqualFold(own, name) {
				return own, v.Field(i), true
			}
		}
	}
	return "", reflect.Value{}, false
}

// deref follows pointers; of a nil one it returns the invalid value.
func deref(v reflect.Value) reflect.Value {
	for v.IsValid() && v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	return v
}

var (
	marshaler   = reflect.TypeFor[json.Marshaler]()
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
)

// kindOf is the kind of a value that can have unknown parts: a struct, a map
// with text keys or a list. Types that read or write themselves, such as times,
// are values.
func kindOf(v reflect.Value) reflect.Kind {
	if !v.IsValid() {
		return reflect.Invalid
	}
	t := v.Type()
	if p := reflect.PointerTo(t); p.Implements(marshaler) || p.Implements(unmarshaler) {
		return reflect.Invalid
	}
	switch {
	case t.Kind() == reflect.Array:
		return reflect.Slice
	case t.Kind() == reflect.Map && t.Key().Kind() != reflect.String:
		return reflect.Invalid
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8: // written as text
		return reflect.Invalid
	}
	return t.Kind()
}
