package stream

import (
	"encoding/hex"
	"regexp"
)

var (
	plain = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	inHex = regexp.MustCompile(`^x([0-9a-f]{2})*$`)
)

// Token writes a text as one token of a subject; two texts never meet. A plain
// one stays as it is. Anything else is written in hex after an x, because a dot
// or a wildcard would name another subject, and so is what looks like that.
func Token(s string) string {
	if plain.MatchString(s) && !inHex.MatchString(s) {
		return s
	}
	return "x" + hex.EncodeToString([]byte(s))
}
