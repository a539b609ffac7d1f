package orderfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/certmill/certmill/pkg/order"
)

// readYAML takes a list of orders, or one document for each. The text is cut
// into documents and list elements first, and each is parsed alone: one with a
// mistake does not stop the others, and the syntax tree, which is many times
// larger than its text, is never that of more than one order.
func (f *file) readYAML(data []byte) error {
	var c cutter
	for number := 1; len(data) > 0; number++ {
		var text []byte
		text, data = line(data)
		if piece, at := c.next(text, number); piece != nil {
			if err := f.addYAML(piece, at); err != nil {
				return err
			}
		}
	}
	return f.addYAML(c.piece, c.start)
}

// cutter cuts YAML text into pieces of one order. It relies on two rules of
// YAML 1.2: "---" and "..." at the beginning of a line end a document whatever
// is open (9.1.2), and inside an element of a block list every line is indented
// deeper than its "-" (8.2.1).
type cutter struct {
	piece  []byte
	start  int // its first line
	indent int // of the list's "-"; -1: the document is no block list
}

var (
	documentMark = regexp.MustCompile(`^(---|\.\.\.)(\s|$)`)
	listMark     = regexp.MustCompile(`^( *)-(\s|$)`)
)

// next takes a line, and returns the piece that it ends.
func (c *cutter) next(text []byte, number int) (ended []byte, start int) {
	content := bytes.TrimLeft(text, " \t\r\n")
	mark := listMark.FindSubmatchIndex(text)
	switch {
	case documentMark.Match(text):
		ended, start = c.piece, c.start
		c.piece = nil
		if after := text[3:]; !blank(after) && text[0] == '-' { // content on the line of the mark
			c.begin(append([]byte("   "), after...), number)
		}
	case c.piece == nil && (len(content) == 0 || content[0] == '#' || text[0] == '%'):
		// Before a document's content: nothing, a comment or a directive.
	case c.piece == nil:
		c.begin(text, number)
	case mark != nil && mark[3] == c.indent:
		ended, start = c.piece, c.start
		c.piece, c.start = append([]byte(nil), text...), number
	default:
		c.piece = append(c.piece, text...)
	}
	return ended, start
}

func (c *cutter) begin(text []byte, number int) {
	c.piece, c.start, c.indent = append([]byte(nil), text...), number, -1
	if mark := listMark.FindSubmatchIndex(text); mark != nil {
		c.indent = mark[3]
	}
}

// addYAML takes the orders of one piece: one, or those of a list in brackets.
func (f *file) addYAML(piece []byte, start int) error {
	if piece == nil {
		return nil
	}
	root, err := parsePiece(piece, start)
	if err != nil {
		return f.add(start, order.Request{}, err)
	}
	if root == nil {
		return nil
	}
	elements := []ast.Node{root}
	if list, ok := root.(*ast.SequenceNode); ok {
		elements = list.Values
	}
	for _, e := range elements {
		r, err := fromNode(e)
		if err := f.add(start+lineIn(e, piece)-1, r, err); err != nil {
			return err
		}
	}
	return nil
}

// lineIn is the line of the piece that a node begins in. The parser takes a lone
// CR for the end of a line, as YAML does and editors do not.
func lineIn(n ast.Node, piece []byte) int {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 { // its own token is the colon or brace
		n = m.Values[0].Key
	}
	if n != nil && n.GetToken() != nil && n.GetToken().Position != nil {
		lines := bytes.Count(bytes.TrimSuffix(piece, []byte("\n")), []byte("\n")) + 1
		return min(max(n.GetToken().Position.Line, 1), lines)
	}
	return 1
}

// parsePiece returns the root node, or nil if there is only a comment.
func parsePiece(piece []byte, start int) (root ast.Node, err error) {
	switch {
	case len(piece) > order.MaxRequest:
		return nil, fmt.Errorf("one order, or one list in brackets, has more than %d bytes: write a list with one \"- \" for each order", order.MaxRequest)
	case !utf8.Valid(piece):
		return nil, errors.New("this order is not UTF-8: save the file as UTF-8")
	case tooDeep(piece):
		return nil, errors.New("it is nested more deeply than any order is: write one mapping of fields for each order")
	}
	// The parser is a stranger's: a mistake in it must cost one order only.
	defer func() {
		if p := recover(); p != nil {
			root, err = nil, errors.New("this cannot be read as YAML: mend its indentation and quotes")
		}
	}()
	parsed, err := parser.ParseBytes(piece, 0)
	if err != nil {
		return nil, syntaxError(err, start)
	}
	if len(parsed.Docs) != 1 || parsed.Docs[0].Body == nil {
		return nil, nil
	}
	return parsed.Docs[0].Body, nil
}

func syntaxError(err error, start int) error {
	var bad yaml.Error
	if !errors.As(err, &bad) || bad.GetToken() == nil || bad.GetToken().Position == nil {
		return errors.New("this cannot be read as YAML: mend its indentation and quotes")
	}
	at := bad.GetToken().Position
	return fmt.Errorf("this cannot be read as YAML (line %d, column %d: %s): mend its indentation and quotes", start+at.Line-1, at.Column, order.Quote(bad.GetMessage()))
}

// tooDeep keeps the parser's recursion small, whose depth the text decides.
func tooDeep(piece []byte) bool {
	const most = 16
	depth, marks := 0, 0
	newLine := true
	for i, c := range piece {
		switch {
		case c == '\n':
			newLine, marks = true, 0
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case newLine && (c == '-' || c == '?' || c == ':') && i+1 < len(piece) && strings.IndexByte(" \t", piece[i+1]) >= 0:
			marks++
		case c != ' ' && c != '\t':
			newLine = false
		}
		if depth > most || marks > most {
			return true
		}
	}
	return false
}

// fromNode turns a mapping into a request by way of its JSON, so that there is
// one set of rules.
func fromNode(n ast.Node) (order.Request, error) {
	value, err := plainValue(n, 0)
	if err != nil {
		return order.Request{}, err
	}
	if _, ok := value.(map[string]any); !ok {
		return order.Request{}, errors.New("this is no order: write its fields, names: [example.com]")
	}
	body, err := json.Marshal(value)
	if err != nil {
		return order.Request{}, fmt.Errorf("read order: %w", err)
	}
	return order.DecodeRequest(body)
}

// plainValue turns a node into what encoding/json knows. A scalar is taken as
// the text that was written: all fields of an order are texts, and YAML would
// otherwise make numbers of phone numbers and a boolean of the province NO.
func plainValue(n ast.Node, depth int) (any, error) {
	if depth > 4 {
		return nil, errors.New("it is nested more deeply than any order is: write one mapping of fields for each order")
	}
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return nil, nil
	case *ast.MappingNode:
		return plainMapping(n.Values, depth)
	case *ast.MappingValueNode:
		return plainMapping([]*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		list := []any{}
		for _, e := range n.Values {
			v, err := plainValue(e, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.StringNode:
		return n.Value, nil
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, nil
	}
	return nil, errors.New("anchors (&), aliases (*), merges (<<) and tags (!) are not taken: write the values out; put text that begins with one of these signs in quotes, such as \"*.example.com\"")
}

func plainMapping(values []*ast.MappingValueNode, depth int) (any, error) {
	m := map[string]any{}
	for _, v := range values {
		key, err := plainValue(v.Key, depth+1)
		if err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, errors.New("the name of a field must be a text: write names: [example.com]")
		}
		if _, twice := m[name]; twice {
			return nil, fmt.Errorf("%s is there twice: write it once", order.Quote(name))
		}
		if m[name], err = plainValue(v.Value, depth+1); err != nil {
			return nil, err
		}
		if m[name] == nil {
			delete(m, name)
		}
	}
	return m, nil
}
