package issuer

import (
	"strings"

	"github.com/certmill/certmill/pkg/redact"
)

// ID is an id of a cloud as it may be kept: empty, and so none, where it repeats a
// secret or is not one word, as all ids of clouds are.
func ID(s string) string {
	if strings.ContainsAny(s, " .*>\t\r\n") || !redact.Clean(s) {
		return ""
	}
	return s
}
