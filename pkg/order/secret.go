package order

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
)

// Secret is text that must never be shown: a private key, an access key. It
// redacts itself in logs, errors, formatted output and JSON; only Reveal gives
// it out.
//
// It is a string, so that it is decoded and compared like one, and the language
// leaves three ways around its methods: fmt does not ask unexported fields of a
// struct, nor anything under %p and %w (go vet refuses these two), and
// encoding/json does not ask the keys of a map. A struct that keeps a secret in
// an unexported field keeps a pointer to it.
type Secret string

const redacted = "[redacted]"

// Reveal returns the text. Call it where the secret is used, never to store it.
func (s Secret) Reveal() string { return string(s) }

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Secret) MarshalYAML() (any, error)    { return redacted, nil }

// HoldsSecret tells whether a text has a private key in it: PEM of any kind, or
// an age identity (both spellings of Bech32). One that was put into the wrong
// field must not get into sentences and records.
func HoldsSecret(s string) bool {
	s = strings.ToUpper(s)
	return strings.Contains(s, "PRIVATE KEY-----") || strings.Contains(s, "AGE-SECRET-KEY-")
}

// Format redacts under every verb, %x and %d included.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }
