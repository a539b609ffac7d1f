// Package orderfile reads orders as people write them: CSV, JSON lines and
// YAML. Every bad line is explained with its number and does not stop the
// others.
//
// An order without an id gets one from its batch and its row: the first order
// of shop.csv becomes "shop-1". The row counts the orders of the file, the bad
// ones too and empty lines not, so that mending a line or adding one at the end
// changes no other id, and handing the same file in twice orders nothing twice.
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
	"strconv"
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
func ReadBatch(path, batch string) ([]Line, error) {
	format, err := FormatOf(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	defer func() { _ = f.Close() }()
	if batch == "" {
		batch = slug(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	}
	lines, err := DecodeBatch(f, format, batch)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return lines, nil
}

// Decode reads orders from a stream. There is no file name to make a batch of,
// so every order needs an id or a batch.
func Decode(r io.Reader, format Format) ([]Line, error) { return DecodeBatch(r, format, "") }

// DecodeBatch is Decode with a batch for the orders that name none. The error
// is about the file as a whole; a bad order is in its Line.
func DecodeBatch(r io.Reader, format Format, batch string) ([]Line, error) {
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
	f := &file{batch: batch, ids: map[string]int{}}
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
	batch string
	lines []Line
	ids   map[string]int // line of each id's first use
}

var errTooManyRows = fmt.Errorf("the file has more than %d orders: split it", MaxRows)

// add takes the next order, or what is wrong with it.
func (f *file) add(number int, r order.Request, err error) error {
	if len(f.lines) >= MaxRows {
		return errTooManyRows
	}
	row := len(f.lines) + 1
	if err == nil {
		r, err = f.complete(r, row, number)
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

// complete fills in batch and id, and validates.
func (f *file) complete(r order.Request, row, number int) (order.Request, error) {
	r = r.Normal()
	if r.Batch == "" {
		r.Batch = f.batch
	}
	if r.ID == "" && r.Batch != "" {
		r.ID = slug(r.Batch) + "-" + strconv.Itoa(row)
	}
	if err := r.Validate(); err != nil {
		return r, err
	}
	if first, twice := f.ids[r.ID]; twice {
		return r, &order.Invalid{Field: "id", Reason: fmt.Sprintf("%q is in line %d already: give each order an id of its own", r.ID, first)}
	}
	f.ids[r.ID] = number
	return r, nil
}

// maxSlug leaves room for "-" and a row below MaxRows in an id of 63.
const maxSlug = 55

// slug makes the beginning of an id of a batch's name. Names that it would cut,
// empty or take letters from (those beyond ASCII) get a hash besides, so that two
// files do not share their ids.
func slug(name string) string {
	s := strings.Trim(strings.Map(slugLetter, name), "-_")
	foreign := strings.ContainsFunc(name, func(c rune) bool { return slugLetter(c) < 0 })
	if len(s) > maxSlug || s == "" || foreign {
		sum := sha256.Sum256([]byte(name))
		s = strings.Trim(s[:min(len(s), maxSlug-9)]+"-"+hex.EncodeToString(sum[:4]), "-_")
	}
	if strings.HasPrefix(s+"-", order.BadPrefix) { // kept for unreadable messages
		s = "batch-" + s[:min(len(s), maxSlug-6)]
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
