package orderfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/certmill/certmill/pkg/order"
)

// readJSON takes objects one after the other, or one array of them.
func (f *file) readJSON(data []byte) error {
	if start := bytes.TrimLeft(data, " \t\r\n"); len(start) > 0 && start[0] == '[' {
		return f.readArray(data)
	}
	for number := 1; len(data) > 0; {
		object, rest, lines := cutObject(data)
		if !blank(object) {
			r, err := order.DecodeRequestAt(number, object)
			if err := f.add(number, r, err); err != nil {
				return err
			}
		}
		data, number = rest, number+lines
	}
	return nil
}

// cutObject cuts the first line off, and with it those that follow while its
// braces are open, so that indented objects may be written too. A line that
// begins with a brace begins an object: an object that is cut off in the middle
// of a file of JSON lines does not swallow the next one.
func cutObject(data []byte) (object, rest []byte, lines int) {
	first, rest := line(data)
	var b braces
	b.scan(first)
	end := len(first)
	for lines = 1; b.open() && len(rest) > 0 && rest[0] != '{' && end <= order.MaxRequest; lines++ {
		var next []byte
		next, rest = line(rest)
		b.scan(next)
		end += len(next)
	}
	return data[:end], rest, lines
}

// braces follows the depth of JSON text without reading it.
type braces struct {
	depth           int
	quoted, escaped bool
}

func (b *braces) open() bool { return b.depth > 0 }

func (b *braces) scan(text []byte) {
	for _, c := range text {
		switch {
		case b.escaped:
			b.escaped = false
		case b.quoted:
			b.escaped = c == '\\'
			// JSON has no line break in a string: a quote is not closed.
			b.quoted = c != '"' && c != '\n'
		case c == '"':
			b.quoted = true
		case c == '{' || c == '[':
			b.depth++
		case c == '}' || c == ']':
			b.depth--
		}
	}
}

// readArray takes the elements of one array. Where its syntax breaks, nothing
// after it can be told apart: that is said at the line it happens.
func (f *file) readArray(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	at := counted{data: data, line: 1}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("line 1: the file is not JSON: %w", err)
	}
	for dec.More() {
		var element json.RawMessage
		if err := dec.Decode(&element); err != nil {
			return f.broken(at.lineOf(nextElement(data, dec.InputOffset())), err)
		}
		number := at.lineOf(int(dec.InputOffset()) - len(element))
		r, err := order.DecodeRequestAt(number, element)
		if err := f.add(number, r, err); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return f.broken(at.lineOf(nextElement(data, dec.InputOffset())), err)
	}
	if end := int(dec.InputOffset()); !blank(data[end:]) {
		return f.broken(at.lineOf(end), errors.New("more follows after the array"))
	}
	return nil
}

// nextElement is where the element begins that could not be read; the decoder
// stands behind the one before it.
func nextElement(data []byte, offset int64) int {
	rest := bytes.TrimLeft(data[offset:], " \t\r\n,")
	return len(data) - len(rest)
}

func (f *file) broken(number int, err error) error {
	return f.add(number, order.Request{}, fmt.Errorf("the array is broken here or soon after (%w), and the orders from here on were not read: mend it, or write one object a line", err))
}

// counted tells lines of rising offsets without counting from the start each
// time.
type counted struct {
	data         []byte
	offset, line int
}

func (p *counted) lineOf(offset int) int {
	offset = max(p.offset, min(offset, len(p.data)))
	p.line += bytes.Count(p.data[p.offset:offset], []byte{'\n'})
	p.offset = offset
	return p.line
}
