package order

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// meant are words of the clouds' consoles for what a field has another name for.
var meant = map[string]string{"instance": "resource", "certificate": "resource"}

// Closest returns the word among known that was probably meant, or "".
func Closest(word string, known []string) string {
	word = strings.ToLower(word)
	if m := meant[word]; slices.Contains(known, m) {
		return m
	}
	best, distance := "", len(word)/3+2
	if len(word) > 64 {
		return ""
	}
	for _, k := range known {
		if d := edits(word, strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// edits counts the letters to insert, delete or replace (Levenshtein).
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// unknown explains a name that is not among the known ones.
func unknown(what, word string, known []string) string {
	if k := Closest(word, known); k != "" {
		return fmt.Sprintf("unknown %s: did you mean %q?", what, k)
	}
	return fmt.Sprintf("unknown %s: known are %s", what, strings.Join(known, ", "))
}

// fieldNames are the JSON names of a struct's fields.
func fieldNames[T any]() []string {
	var names []string
	for t, i := reflect.TypeFor[T](), 0; i < t.NumField(); i++ {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// Quote quotes what somebody wrote, short enough for a sentence. A private key
// that stands in the wrong place is not repeated: sentences are stored and
// logged.
func Quote(s string) string {
	const most = 80
	if HoldsSecret(s) {
		return "[a private key, not shown]"
	}
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return strconv.Quote(s)
}
