package redact

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Programs differ in what they escape for URLs: Python leaves "/" as it is, JavaScript
// "/+=" or "!*'()", others escape all of it. So what is escaped is read, and compared
// with the secrets themselves; what was escaped once more (in a URL that is part of a
// URL) is read twice.

// readTwice is how often.
const readTwice = 2

// longestFirst are secrets in the order in which they are looked for.
func longestFirst(known map[string]bool) []string {
	return slices.SortedFunc(maps.Keys(known), func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b)) })
}

// escaped is s without secrets of which some characters are escaped for URLs.
func (f *finder) escaped(s string) string {
	text, at := s, []int(nil)
	for range readTwice {
		read, from := unescaped(text)
		if from == nil {
			return s
		}
		if at != nil {
			for i := range from {
				from[i] = at[from[i]]
			}
		}
		text, at = read, from
		s, text, at = f.takeOut(s, text, at)
	}
	return s
}

// takeOut takes the secrets out of a text that was read, and what they were read from
// out of s. at is where each byte of the text, and its end, comes from.
func (f *finder) takeOut(s, text string, at []int) (clean, rest string, from []int) {
	var out, left strings.Builder
	copied := 0 // of s
	for i := 0; i < len(text); {
		n := f.beginning(text[i:])
		if n == 0 {
			left.WriteByte(text[i])
			from = append(from, out.Len()+at[i]-copied)
			i++
			continue
		}
		out.WriteString(s[copied:at[i]])
		for range len(Mark) {
			from = append(from, out.Len())
		}
		left.WriteString(Mark)
		out.WriteString(Mark)
		i += n
		copied = at[i]
	}
	end := out.Len() + at[len(text)] - copied
	out.WriteString(s[copied:])
	return out.String(), left.String(), append(from, end)
}

// beginning is the length of the longest secret with which a text begins.
func (f *finder) beginning(text string) int {
	for _, secret := range f.secrets {
		if strings.HasPrefix(text, secret) {
			return len(secret)
		}
	}
	return 0
}

// unescaped reads what is escaped by %XX, and tells where each byte of it, and its end,
// comes from; nil if nothing is.
func unescaped(s string) (read string, from []int) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	var b strings.Builder
	some := false
	for i := 0; i < len(s); i++ {
		from = append(from, i)
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				some, i = true, i+2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	if !some {
		return s, nil
	}
	return b.String(), append(from, len(s))
}
