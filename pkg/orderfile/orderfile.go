// Package orderfile reads orders as people write them: CSV, JSON lines and
// YAML. Every bad line is explained with its number and does not stop the
// others.
//
// An order without an id gets one from what it buys (order.Request.DerivedID), so
// that the same list, downloaded again under another name, sorted, shortened or
// with a row more, orders nothing twice. Two lines that buy for the same set of
// names are one purchase: the second is refused with the line of the first,
// unless it says "again".
package orderfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/certmill/certmill/pkg/order"
)

// What a file may hold at most. With one order's bound (order.MaxRequest) they
// bound the memory that reading takes.
const (
	MaxSize = 64 << 20
	MaxRows = 1_000_000
)

// Format is how orders are written down.
type Format string

const (
	CSV  Format = "csv"  // a header line with the JSON field names, then one order a line
	JSON Format = "json" // one object a line, or objects one after the other, or one array
	YAML Format = "yaml" // a list, or one document for each order
)

// Line is one order of a file.
type Line struct {
	Number  int           // line of the file that it begins in, from 1
	Request order.Request // normal form; if Err is set, at most its id
	Err     error         // what is wrong and what to write instead
}

// FormatOf tells a file's format by the ending of its name.
func FormatOf(path string) (Format, error) {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv":
		return CSV, nil
	case ".json", ".jsonl", ".ndjson":
		return JSON, nil
	case ".yaml", ".yml":
		return YAML, nil
	}
	return "", fmt.Errorf("%s: the name does not tell the format: let it end in .csv, .jsonl, .json, .yaml or .yml", path)
}

// Read reads a file of orders, in the format that the ending of its name tells.
// The batch of orders that name none is the name of the file.
func Read(path string) ([]Line, error) { return ReadBatch(path, "") }

// ReadBatch is Read with a batch of the caller's choice.
func ReadBatch(path, batch string) ([]Line, error) { return (&Files{Batch: batch}).Read(path) }

// Files reads several files as one list: what one of them orders no other does.
type Files struct {
	Batch string // of orders that name none; "": each file's name

	first twins
}

// Read reads the next file. See ReadBatch.
func (f *Files) Read(path string) ([]Line, error) {
	format, err := FormatOf(path)
	if err != nil {
		return nil, err
	}
	data, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	defer func() { _ = data.Close() }()
	one := &file{path: path, batch: f.Batch, first: &f.first}
	if one.batch == "" {
		one.batch = slug(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	}
	lines, err := one.decode(data, format)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return lines, nil
}

// Decode reads orders from a stream. There is no file name to make a batch of.
func Decode(r io.Reader, format Format) ([]Line, error) { return DecodeBatch(r, format, "") }

// DecodeBatch is Decode with a batch for the orders that name none. The error
// is about the file as a whole; a bad order is in its Line.
func DecodeBatch(r io.Reader, format Format, batch string) ([]Line, error) {
	return (&file{batch: batch, first: &twins{}}).decode(r, format)
}

func (f *file) decode(r io.Reader, format Format) ([]Line, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("the file has more than %d MiB: split it", MaxSize>>20)
	}
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return nil, errors.New("the file is in UTF-16: save it as UTF-8 (in Excel: CSV UTF-8)")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	switch format {
	case CSV:
		err = f.readCSV(data)
	case JSON:
		err = f.readJSON(data)
	case YAML:
		err = f.readYAML(data)
	default:
		err = fmt.Errorf("unknown format %q: write csv, json or yaml", format)
	}
	if err != nil {
		return nil, err
	}
	return f.lines, nil
}

// file gathers the orders of one file.
type file struct {
	path  string // "" for a stream
	batch string
	lines []Line
	first *twins
}

var errTooManyRows = fmt.Errorf("the file has more than %d orders: split it", MaxRows)

// add takes the next order, or what is wrong with it.
func (f *file) add(number int, r order.Request, err error) error {
	if len(f.lines) >= MaxRows {
		return errTooManyRows
	}
	if err == nil {
		r, err = f.complete(r, number)
	}
	if err != nil {
		r = order.Request{ID: usable(r.ID)}
	}
	f.lines = append(f.lines, Line{Number: number, Request: r, Err: err})
	return nil
}

// usable is the id of a bad order, if it can name the order at all.
func usable(id string) string {
	if id = strings.TrimSpace(id); order.ValidID(id) {
		return id
	}
	return ""
}

// complete fills in batch and id, and validates. What buys a named order again
// goes by that one's id.
func (f *file) complete(r order.Request, number int) (order.Request, error) {
	r = r.Normal()
	if r.Batch == "" {
		r.Batch = f.batch
	}
	r.Again = againWord(r.Again)
	if err := r.Validate(); err != nil {
		return r, err
	}
	switch {
	case r.ID != "":
	case r.Again == "" || r.Again == order.AgainLast:
		r.ID = r.DerivedID()
	default:
		r.ID = r.Again
	}
	return r, f.first.add(r, place{f.path, number})
}

// againWord takes the words of a table's cell for yes and no.
func againWord(text string) string {
	switch strings.ToLower(text) {
	case "true", "yes", "y", "1", "x", "是":
		return order.AgainLast
	case "false", "no", "n", "0", "否":
		return ""
	}
	return text
}

// twins knows where each set of names and each id was first.
type twins struct{ names, ids map[string]place }

type place struct {
	file string
	line int
}

// from tells the place to whoever is at another one.
func (p place) from(other place) string {
	if p.file == other.file {
		return fmt.Sprintf("line %d", p.line)
	}
	return fmt.Sprintf("line %d of %s", p.line, p.file)
}

// add takes an order that is right in itself. What says "again" has no twin: it is
// meant to be bought besides.
func (t *twins) add(r order.Request, at place) error {
	if r.Again != "" {
		return nil
	}
	if t.ids == nil {
		t.ids, t.names = map[string]place{}, map[string]place{}
	}
	set := order.NamesHash(r.Names)
	if first, twice := t.names[set]; twice {
		return &order.Invalid{Field: "names", Reason: fmt.Sprintf("the same names are in %s already: leave one of the two out, "+
			"or, if two certificates are wanted, %s", first.from(at), t.besides(r))}
	}
	if first, twice := t.ids[r.ID]; twice {
		return &order.Invalid{Field: "id", Reason: fmt.Sprintf("%q is in %s already: give each order an id of its own, or leave it out",
			r.ID, first.from(at))}
	}
	t.ids[r.ID], t.names[set] = at, at
	return nil
}

// besides is what an order needs to be bought besides its twin: "again", and, where
// it would be the very same order, another id.
func (t *twins) besides(r order.Request) string {
	if _, same := t.ids[r.ID]; same {
		return "give this one an id of its own and write true into \"again\""
	}
	return "write true into \"again\" of this one"
}

const maxSlug = 55 // of a batch's name

// slug makes a batch's name of a file's. Names that it would cut, empty or take
// letters from (those beyond ASCII) get a hash besides, so that two files are not
// one batch.
func slug(name string) string {
	s := strings.Trim(strings.Map(slugLetter, name), "-_")
	foreign := strings.ContainsFunc(name, func(c rune) bool { return slugLetter(c) < 0 })
	if len(s) > maxSlug || s == "" || foreign {
		sum := sha256.Sum256([]byte(name))
		s = strings.Trim(s[:min(len(s), maxSlug-9)]+"-"+hex.EncodeToString(sum[:4]), "-_")
	}
	return s
}

func slugLetter(c rune) rune {
	switch {
	case c >= 'A' && c <= 'Z':
		return c + 'a' - 'A'
	case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
		return c
	case c < 0x80:
		return '-'
	}
	return -1
}

// line cuts the first line off, with its end.
func line(data []byte) (first, rest []byte) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return data[:i+1], data[i+1:]
	}
	return data, nil
}

func blank(text []byte) bool { return len(bytes.TrimSpace(text)) == 0 }
