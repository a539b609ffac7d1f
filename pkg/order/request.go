package order

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxRequest bounds an order message in bytes; the intake stream refuses what
// is larger when it is published.
const MaxRequest = 64 << 10

// Invalid says what is wrong with a request, and what to write instead.
type Invalid struct {
	Field  string // JSON name of the field, "contact.email"; empty: the message as a whole
	Reason string
}

func (e *Invalid) Error() string {
	if e.Field == "" {
		return e.Reason
	}
	return e.Field + ": " + e.Reason
}

// ParseRequest reads, normalises and validates an order message, and derives the
// id that it does not bring; one that orders again keeps without one, because its
// id follows from its predecessor's. The error is an *Invalid. The request
// returned with it holds the id, if a usable one could be read, so that the
// refusal can name the order.
func ParseRequest(data []byte) (Request, error) {
	r, err := DecodeRequest(data)
	if err != nil {
		return r, err
	}
	r = r.Normal()
	if err = r.Validate(); err == nil && r.Again == AgainLast {
		err = &Invalid{"again", "is true, which only files and the command know: write the id of the order that is to be bought once more"}
	}
	if err != nil {
		if !ValidID(r.ID) {
			r.ID = ""
		}
		return Request{ID: r.ID}, err
	}
	if r.ID == "" && r.Again == "" {
		r.ID = r.DerivedID()
	}
	return r, nil
}

// DecodeRequest reads an order message strictly and as it is: unknown and
// repeated fields are refused, nothing is normalised or validated. Fields must
// be spelled exactly, although encoding/json alone would take "ID" for "id":
// two spellings of one field would otherwise be two values of which one wins.
func DecodeRequest(data []byte) (Request, error) { return DecodeRequestAt(1, data) }

// DecodeRequestAt is DecodeRequest for an order that begins in that line of a
// file, so that the error tells the line of the file.
func DecodeRequestAt(line int, data []byte) (Request, error) {
	if len(data) > MaxRequest {
		return Request{}, &Invalid{Reason: fmt.Sprintf("the message has %d bytes, at most %d are taken: send one order a message, without attachments", len(data), MaxRequest)}
	}
	if err := checkSyntax(line, data); err != nil {
		return Request{}, err
	}
	if err := checkObject(data, "", requestFields); err != nil {
		return Request{ID: peekID(data)}, err
	}
	var w written
	if err := json.Unmarshal(data, &w); err != nil {
		return Request{ID: peekID(data)}, wrongType(err)
	}
	w.Request.Again = string(w.Again)
	return w.Request, nil
}

// written is a request as it is written: again may be the JSON value true.
type written struct {
	Request
	Again again `json:"again"`
}

type again string

func (a *again) UnmarshalJSON(data []byte) error {
	switch string(data) {
	case "true":
		*a = AgainLast
		return nil
	case "false":
		return nil
	}
	return json.Unmarshal(data, (*string)(a))
}

// checkSyntax makes sure that data is one JSON object and nothing else.
func checkSyntax(line int, data []byte) error {
	if !utf8.Valid(data) {
		return &Invalid{Reason: "the message is not UTF-8 text: publish the order as a JSON object in UTF-8"}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	var value json.RawMessage
	switch err := dec.Decode(&value); {
	case errors.Is(err, io.EOF):
		return &Invalid{Reason: `the message is empty: publish a JSON object, at least {"names": ["example.com"]}`}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &Invalid{Reason: "the message ends in the middle of its JSON: publish the whole object"}
	case err != nil:
		return &Invalid{Reason: notJSON(line, data, err)}
	}
	if value[0] != '{' {
		return &Invalid{Reason: `the message is JSON but no object: publish each order as a message of its own, {"names": ["example.com"]}`}
	}
	if rest := bytes.TrimSpace(data[dec.InputOffset():]); len(rest) > 0 {
		return &Invalid{Reason: fmt.Sprintf("more follows after the JSON object (%s): publish one order a message", Quote(string(rest)))}
	}
	return nil
}

func notJSON(line int, data []byte, err error) string {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return "the message is not JSON: " + Quote(err.Error())
	}
	before := data[:min(int(syntax.Offset), len(data))]
	line += bytes.Count(before, []byte("\n"))
	column := len(before) - 1 - bytes.LastIndexByte(before, '\n')
	return fmt.Sprintf("the message is not JSON (line %d, column %d: %v): write strings in double quotes, and no comma after the last value", line, column, syntax)
}

var (
	requestFields = fieldNames[Request]()
	contactFields = fieldNames[Contact]()
)

// checkObject refuses unknown and repeated names. known nil takes every name.
func checkObject(data []byte, path string, known []string) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil // not an object: its type is refused when it is decoded
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		name, _ := t.(string)
		var value json.RawMessage
		if err == nil {
			err = dec.Decode(&value)
		}
		switch {
		case err != nil:
			return &Invalid{Reason: "the message is not JSON: " + Quote(err.Error())}
		case known != nil && !slices.Contains(known, name):
			return &Invalid{Field: path + Quote(name), Reason: unknown("field", name, known)}
		case seen[name]:
			return &Invalid{Field: path + Quote(name), Reason: "is there twice: write it once"}
		}
		seen[name] = true
		if err := checkInner(value, path+name); err != nil {
			return err
		}
	}
	return nil
}

func checkInner(value []byte, path string) error {
	switch path {
	case "contact":
		return checkObject(value, "contact.", contactFields)
	case "labels":
		return checkObject(value, "labels.", nil)
	}
	return nil
}

// peekID reads the id of a message that is otherwise wrong.
func peekID(data []byte) string {
	var r struct {
		ID any `json:"id"`
	}
	_ = json.Unmarshal(data, &r)
	if id, ok := r.ID.(string); ok && ValidID(strings.TrimSpace(id)) {
		return strings.TrimSpace(id)
	}
	return ""
}

// wrongType explains a value of the wrong JSON type.
func wrongType(err error) error {
	var t *json.UnmarshalTypeError
	if !errors.As(err, &t) { // deadline is the only field that parses itself
		return &Invalid{Field: "deadline", Reason: `is no time of RFC 3339: write for example "2027-01-31T12:00:00Z"`}
	}
	field := strings.TrimPrefix(t.Field, "Request.") // of the type written
	want := "a text in double quotes"
	switch {
	case field == "names":
		want = `a list of texts: write "names": ["example.com"]`
	case field == "contact":
		want = `an object: write "contact": {"name": "…", "email": "…", "phone": "…"}`
	case strings.HasPrefix(field, "labels"):
		want = `an object of texts: write "labels": {"team": "web"}`
	}
	return &Invalid{Field: field, Reason: fmt.Sprintf("is a %s, but must be %s", t.Value, want)}
}

// Normal returns the request in its normal form: white space around values and
// a trailing dot gone, names in lower case, defaults filled in, times in UTC.
// Doing it twice changes nothing.
func (r Request) Normal() Request {
	for _, text := range []*string{&r.ID, &r.Again, &r.Account, &r.Product, &r.Company, &r.Key, &r.CSR, &r.Resource, &r.Batch,
		&r.Contact.Name, &r.Contact.Email, &r.Contact.Phone, &r.Contact.Province, &r.Contact.City} {
		*text = strings.TrimSpace(*text)
	}
	r.Names = slices.Clone(r.Names)
	for i, n := range r.Names {
		r.Names[i] = normalName(n)
	}
	if len(r.Names) == 0 {
		r.Names = nil
	}
	r.Validation = Validation(strings.ToUpper(strings.TrimSpace(string(r.Validation))))
	if r.Validation == "" {
		r.Validation = DNS
	}
	if r.Account == "" {
		r.Account = AnyAccount
	}
	r.Key = asciiLower(r.Key)
	if r.Key == "" && r.CSR == "" {
		r.Key = KeyAlgorithms[0]
	}
	r.Labels = maps.Clone(r.Labels)
	if len(r.Labels) == 0 {
		r.Labels = nil
	}
	if r.Deadline != nil {
		utc := r.Deadline.UTC().Truncate(time.Second)
		r.Deadline = &utc
	}
	return r
}
