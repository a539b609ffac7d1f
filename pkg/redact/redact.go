// Package redact takes out of texts what this process knows as secret: access
// keys, tokens, passwords, TSIG keys, identities. What comes from outside may
// repeat them, because a cloud quotes the request, a web service prints what it was
// given, a name server serves what somebody put there; so everything that comes
// from outside passes here before it is stored, logged or shown.
//
// Whoever reads a secret makes it known (Learn). What was learnt once is taken out
// for as long as the process lives, in clear and in the spellings in which a text
// may carry it: base64 at any offset, hexadecimal, and escaped for URLs, JSON,
// HTML and Go.
//
// Three lines of defence stand one behind the other: where an answer comes in (the
// clouds' transport, the DNS solvers, the sinks), where something is stored (package
// stream), and the log.
package redact

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Mark stands in place of a secret. It is neither an id nor a name.
const Mark = "[redacted]"

// shortest is how long a secret is at least that is looked for, in bytes: shorter
// ones are parts of words, and none that protects anything is so short.
const shortest = 8

// Words are secrets, and how they are found. The zero value knows none. It is safe
// for concurrent use.
type Words struct {
	mu       sync.Mutex // guards known
	known    map[string]bool
	replaced atomic.Pointer[finder]
}

// finder finds the spellings of all that is known.
type finder struct {
	secrets   []string // as they are, the longest first
	spellings []string
	replacer  *strings.Replacer
}

// known are the secrets of this process.
var known Words

// Learn makes secrets known to this process.
func Learn(secrets ...string) { known.Learn(secrets...) }

// Text is s without the secrets of this process.
func Text(s string) string { return known.Text(s) }

// Bytes is b without the secrets of this process; b itself where it has none.
func Bytes(b []byte) []byte { return known.Bytes(b) }

// JSON is a document without the secrets of this process, also where characters of
// them are escaped.
func JSON(doc []byte) []byte { return known.JSON(doc) }

// Head is the beginning of a text that may be broken off, in at most n bytes: a
// secret of which only the beginning came is taken out as well.
func Head(text []byte, n int) string { return known.Head(text, n) }

// Error is err with a text without the secrets of this process.
func Error(err error) error { return known.Error(err) }

// Clean tells whether a text has none of the secrets of this process, and was not
// rid of one: what an id must be.
func Clean(s string) bool { return !strings.Contains(s, Mark) && Text(s) == s }

// Learn makes secrets known.
func (w *Words) Learn(secrets ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := false
	for _, s := range secrets {
		s = strings.TrimSpace(s)
		if len(s) < shortest || w.known[s] {
			continue
		}
		if w.known == nil {
			w.known = map[string]bool{}
		}
		w.known[s], fresh = true, true
	}
	if fresh {
		w.replaced.Store(newFinder(w.known))
	}
}

func newFinder(known map[string]bool) *finder {
	f, in := &finder{secrets: longestFirst(known)}, map[string]string{}
	for s := range known {
		maps.Copy(in, spellings(s))
	}
	for s := range in {
		f.spellings = append(f.spellings, s)
	}
	// The longest first: of two that begin alike, it is the whole.
	slices.SortFunc(f.spellings, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b)) })
	var pairs []string
	for _, s := range f.spellings {
		pairs = append(pairs, s, in[s])
	}
	f.replacer = strings.NewReplacer(pairs...)
	return f
}

// spellings are the forms in which a text may carry a secret, and what stands in
// place of each: where something encoded is around it, as much of that encoding,
// so that what holds it can still be read.
func spellings(s string) map[string]string {
	b, all := []byte(s), map[string]string{}
	for _, form := range []string{hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b))} {
		all[form] = strings.Repeat("0", len(form))
	}
	for offset := range 3 {
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			form := inBase64(b, offset, enc)
			all[form] = strings.Repeat("redacted", len(form)/8+1)[:len(form)]
		}
	}
	quoted, _ := json.Marshal(s)
	forms := []string{s, html.EscapeString(s), strings.ReplaceAll(s, "/", `\/`)}
	for _, inQuotes := range []string{string(quoted), strconv.Quote(s), strconv.QuoteToASCII(s)} {
		forms = append(forms, strings.Trim(inQuotes, `"`))
	}
	for _, escaped := range []string{url.QueryEscape(s), url.PathEscape(s), percent(s)} {
		forms = append(forms, escaped, smallEscapes(escaped))
	}
	for _, form := range forms {
		all[form] = Mark
	}
	maps.DeleteFunc(all, func(form, _ string) bool { return len(form) < shortest })
	return all
}

// smallEscapes writes %2F as %2f.
func smallEscapes(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] == '%' && i+2 < len(b) {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// inBase64 is the part of a base64 text that the secret alone decides, where it
// begins at an offset of bytes in what was encoded.
func inBase64(secret []byte, offset int, enc *base64.Encoding) string {
	whole := enc.EncodeToString(append(make([]byte, offset), secret...))
	from := (8*offset + 5) / 6
	to := 8 * (offset + len(secret)) / 6
	return whole[from:to]
}

// percent escapes every byte that is no letter and no digit.
func percent(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			b.WriteByte(c)
			continue
		}
		b.WriteString("%" + strings.ToUpper(hex.EncodeToString([]byte{c})))
	}
	return b.String()
}

// Text is s without the secrets.
func (w *Words) Text(s string) string {
	f := w.replaced.Load()
	if f == nil {
		return s
	}
	return f.escaped(f.replacer.Replace(s))
}

// Bytes is b without the secrets; b itself where it has none.
func (w *Words) Bytes(b []byte) []byte {
	if w.replaced.Load() == nil {
		return b
	}
	was := string(b)
	if s := w.Text(was); s != was {
		return []byte(s)
	}
	return b
}

// JSON is a document without the secrets. Characters of it that are escaped
// without need are written out first, as every reader would.
func (w *Words) JSON(doc []byte) []byte {
	if w.replaced.Load() == nil {
		return doc
	}
	return w.Bytes(written(doc))
}

// written writes out escapes of printable ASCII, but for those that JSON needs.
func written(doc []byte) []byte {
	if !strings.Contains(string(doc), `\u00`) {
		return doc
	}
	out := make([]byte, 0, len(doc))
	for i := 0; i < len(doc); i++ {
		if doc[i] != '\\' || i+1 == len(doc) {
			out = append(out, doc[i])
			continue
		}
		if doc[i+1] == 'u' && i+6 <= len(doc) {
			n, err := strconv.ParseUint(string(doc[i+2:i+6]), 16, 32)
			if err == nil && n > 0x20 && n < 0x7f && n != '"' && n != '\\' {
				out, i = append(out, byte(n)), i+5
				continue
			}
		}
		out, i = append(out, doc[i], doc[i+1]), i+1
	}
	return out
}

// leastPart is how much of a secret's beginning is told at most, where a text
// breaks off.
const leastPart = 4

// Head is the beginning of a text that may be broken off.
func (w *Words) Head(text []byte, n int) string {
	s := w.Text(string(text))
	if f := w.replaced.Load(); f != nil {
		s = f.cut(s)
	}
	return s[:min(len(s), n)]
}

// cut takes off the beginning of a spelling at the end of a text.
func (f *finder) cut(s string) string {
	for from := max(0, len(s)-len(f.spellings[0])); from <= len(s)-leastPart; from++ {
		rest := s[from:]
		if slices.ContainsFunc(f.spellings, func(x string) bool { return strings.HasPrefix(x, rest) }) {
			return s[:from] + Mark
		}
	}
	return s
}

// Error is err with a text without the secrets. errors.Is and errors.As find in it
// what they found in err.
func (w *Words) Error(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if clean := w.Text(text); clean != text {
		return &cleaned{clean, err}
	}
	return err
}

// cleaned is an error with another text. The cause is for errors.Is and errors.As,
// not for printing.
type cleaned struct {
	text  string
	cause error
}

func (c *cleaned) Error() string { return c.text }
func (c *cleaned) Unwrap() error { return c.cause }
