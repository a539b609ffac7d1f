package order

import (
	"encoding/json"
	"fmt"
	"log/slog"
)

// Secret is text that must never be shown: a private key, an access key. It
// redacts itself in logs, errors, formatted output and JSON; only Reveal gives
// it out.
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

// Format redacts under every verb, %x and %d included.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }
