package orderfile

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/certmill/certmill/pkg/order"
)

// columns are the names a header may have, with what each puts into a request.
var columns = map[string]func(r *order.Request, cell string) error{
	"id":               text(func(r *order.Request) *string { return &r.ID }),
	"again":            text(func(r *order.Request) *string { return &r.Again }),
	"names":            func(r *order.Request, cell string) error { r.Names = splitNames(cell); return nil },
	"account":          text(func(r *order.Request) *string { return &r.Account }),
	"product":          text(func(r *order.Request) *string { return &r.Product }),
	"validation":       text(func(r *order.Request) *string { return (*string)(&r.Validation) }),
	"contact_name":     text(func(r *order.Request) *string { return &r.Contact.Name }),
	"contact_email":    text(func(r *order.Request) *string { return &r.Contact.Email }),
	"contact_phone":    text(func(r *order.Request) *string { return &r.Contact.Phone }),
	"contact_province": text(func(r *order.Request) *string { return &r.Contact.Province }),
	"contact_city":     text(func(r *order.Request) *string { return &r.Contact.City }),
	"company":          text(func(r *order.Request) *string { return &r.Company }),
	"key":              text(func(r *order.Request) *string { return &r.Key }),
	"csr":              csrCell,
	"resource":         text(func(r *order.Request) *string { return &r.Resource }),
	"batch":            text(func(r *order.Request) *string { return &r.Batch }),
	"labels":           labelsCell,
	"deadline":         deadlineCell,
}

func text(field func(*order.Request) *string) func(*order.Request, string) error {
	return func(r *order.Request, cell string) error { *field(r) = cell; return nil }
}

// splitNames takes names separated by spaces, ';', commas (in quotes) or lines.
func splitNames(cell string) []string {
	return strings.FieldsFunc(cell, func(c rune) bool { return strings.ContainsRune(" ;,\t\r\n", c) })
}

// csrCell takes PEM with real line breaks (in quotes) or with \n.
func csrCell(r *order.Request, cell string) error {
	r.CSR = strings.ReplaceAll(cell, `\n`, "\n")
	return nil
}

func labelsCell(r *order.Request, cell string) error {
	for part := range strings.SplitSeq(cell, ";") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		name = strings.TrimSpace(name)
		if _, twice := r.Labels[name]; !ok || twice {
			return &order.Invalid{Field: "labels", Reason: fmt.Sprintf("%s is no label: write team=web;stage=prod, each name once", order.Quote(part))}
		}
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		r.Labels[name] = strings.TrimSpace(value)
	}
	return nil
}

func deadlineCell(r *order.Request, cell string) error {
	if cell = strings.TrimSpace(cell); cell == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, cell)
	if err != nil {
		return &order.Invalid{Field: "deadline", Reason: fmt.Sprintf("%s is no time of RFC 3339: write for example 2027-01-31T12:00:00Z", order.Quote(cell))}
	}
	r.Deadline = &t
	return nil
}

// readCSV takes one record after the other. encoding/csv sees one record at a
// time, so that a quote that is never closed costs its own line and not the
// rest of the file.
func (f *file) readCSV(data []byte) error {
	if end := bytes.TrimRight(data, "\r"); bytes.IndexByte(end, '\r') >= 0 && bytes.IndexByte(data, '\n') < 0 {
		return errors.New("line 1: its lines end with CR alone: save the file with the line ends of Windows (CRLF) or Unix (LF)")
	}
	var header []string
	for number := 1; len(data) > 0; {
		record, rest, lines := cutRecord(data)
		cells, err := parseRecord(record)
		if err != nil && lines > 1 { // a stray quote, not a cell of several lines
			record, rest = line(data)
			lines = 1
		}
		switch {
		case blank(record) || err == nil && emptyCells(cells):
		case header == nil:
			if err == nil {
				header, err = parseHeader(cells)
			}
			if err != nil {
				return fmt.Errorf("line %d: %w", number, err)
			}
		default:
			r := order.Request{}
			if err == nil {
				r, err = fromCells(header, cells)
			}
			if err := f.add(number, r, err); err != nil {
				return err
			}
		}
		data, number = rest, number+lines
	}
	if header == nil {
		return errors.New("the file is empty: write a header line such as names,account and one order a line")
	}
	return nil
}

// cutRecord cuts the lines off that belong together because a quote is open at
// the end of each but the last. A record is at most one order long.
func cutRecord(data []byte) (record, rest []byte, lines int) {
	first, rest := line(data)
	end, quotes := len(first), bytes.Count(first, []byte{'"'})
	for lines = 1; quotes%2 == 1 && len(rest) > 0 && end <= order.MaxRequest; lines++ {
		var next []byte
		next, rest = line(rest)
		end, quotes = end+len(next), quotes+bytes.Count(next, []byte{'"'})
	}
	return data[:end], rest, lines
}

func parseRecord(record []byte) ([]string, error) {
	if blank(record) {
		return nil, nil
	}
	if len(record) > order.MaxRequest {
		return nil, fmt.Errorf("the line has more than %d bytes, or a quote in it is not closed: write one order a line", order.MaxRequest)
	}
	if !utf8.Valid(record) {
		return nil, errors.New("the line is not UTF-8: save the file as UTF-8")
	}
	r := csv.NewReader(bytes.NewReader(record))
	r.FieldsPerRecord, r.TrimLeadingSpace = -1, true
	cells, err := r.Read()
	var bad *csv.ParseError
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil
	case errors.As(err, &bad):
		return nil, fmt.Errorf(`the quotes do not match (column %d): write a cell with quotes or commas as "…", and a quote inside it twice`, bad.Column)
	case err != nil:
		return nil, fmt.Errorf("the line cannot be read as CSV: %w", err)
	case r.InputOffset() < int64(len(record)):
		return nil, errors.New("the quotes do not match: write a cell with quotes or commas as \"…\", and a quote inside it twice")
	}
	return cells, nil
}

// emptyCells tells whether a spreadsheet wrote an empty row.
func emptyCells(cells []string) bool {
	return !slices.ContainsFunc(cells, func(c string) bool { return strings.TrimSpace(c) != "" })
}

func parseHeader(cells []string) ([]string, error) {
	known := make([]string, 0, len(columns))
	for name := range columns {
		known = append(known, name)
	}
	slices.Sort(known)
	header := make([]string, len(cells))
	for i, c := range cells {
		name := strings.ToLower(strings.TrimSpace(c))
		switch {
		case len(cells) == 1 && strings.ContainsAny(name, ";\t"):
			return nil, errors.New("the columns are not separated by commas: save the file as CSV with commas")
		case columns[name] == nil:
			return nil, unknownColumn(name, known)
		case slices.Contains(header[:i], name):
			return nil, fmt.Errorf("the column %q is there twice: leave one out", name)
		}
		header[i] = name
	}
	if !slices.Contains(header, "names") {
		return nil, errors.New("there is no column \"names\": the first line must be a header such as names,account")
	}
	return header, nil
}

func unknownColumn(name string, known []string) error {
	if k := order.Closest(name, known); k != "" {
		return fmt.Errorf("unknown column %s: did you mean %q?", order.Quote(name), k)
	}
	return fmt.Errorf("unknown column %s: known are %s", order.Quote(name), strings.Join(known, ", "))
}

func fromCells(header, cells []string) (order.Request, error) {
	var r order.Request
	if len(cells) != len(header) {
		return r, fmt.Errorf("the line has %d cells, the header %d: put cells with commas in quotes, and write empty cells as ,,", len(cells), len(header))
	}
	var wrong error
	for i, name := range header {
		if err := columns[name](&r, cells[i]); err != nil && wrong == nil {
			wrong = err
		}
	}
	return r, wrong
}
