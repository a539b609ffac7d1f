package certstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/certmill/certmill/pkg/order"
)

// maxSecret bounds what is sealed; a key of RSA 4096 in PEM has 3 KiB.
const maxSecret = 64 << 10

// ageHeader begins every age file in binary form.
const ageHeader = "age-encryption.org/v1\n"

// isSealed tells an age file from a key in clear text.
func isSealed(data []byte) bool { return bytes.HasPrefix(data, []byte(ageHeader)) }

// Recipients are those that sealed keys can be opened by. They are public.
type Recipients struct {
	all   []age.Recipient
	lines []string
}

// nobodys are recipients that stand in documentation: what is sealed to them is lost.
var nobodys = []string{ // those of age's own pages
	"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
	"age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg",
}

// ParseRecipients reads age recipients (age1…), one a line; an argument may
// hold several lines. Empty lines and those that begin with # are skipped.
func ParseRecipients(lines ...string) (Recipients, error) {
	var r Recipients
	for _, line := range strings.Split(strings.Join(lines, "\n"), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.Contains(strings.ToUpper(line), "AGE-SECRET-KEY-") { // never repeated in the error; Bech32 is of either case
			return Recipients{}, errors.New("an age identity (AGE-SECRET-KEY-…) stands where a recipient is wanted: write its public half, age1…, as age-keygen -y prints it")
		}
		if slices.Contains(nobodys, line) {
			return Recipients{}, fmt.Errorf("%s stands in examples, and nobody has its identity: write the line age1… that certmill identity FILE prints", line)
		}
		parsed, err := age.ParseRecipients(strings.NewReader(line))
		if err != nil || len(parsed) != 1 {
			return Recipients{}, fmt.Errorf("%s is no age recipient: write the line age1… that certmill identity FILE prints, or age-keygen", order.Quote(line))
		}
		r.all, r.lines = append(r.all, parsed[0]), append(r.lines, line)
	}
	if len(r.all) == 0 {
		return Recipients{}, errors.New("there is no age recipient: write at least one, age1…, or nobody could open the keys")
	}
	// Age refuses some mixtures (post-quantum and classic) only when it
	// encrypts; an operator wants to know at start.
	if _, err := age.Encrypt(io.Discard, r.all...); err != nil {
		return Recipients{}, fmt.Errorf("these recipients cannot be used together: %w", err)
	}
	return r, nil
}

// String lists the recipients, one a line.
func (r Recipients) String() string { return strings.Join(r.lines, "\n") }

// Seal encrypts a private key to all recipients.
func (r Recipients) Seal(secret order.Secret) ([]byte, error) {
	switch {
	case len(r.all) == 0:
		return nil, errors.New("seal key: there are no recipients")
	case secret == "":
		return nil, errors.New("seal key: the key is empty")
	case len(secret) > maxSecret:
		return nil, fmt.Errorf("seal key: %d bytes are no private key", len(secret))
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, r.all...)
	if err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	if _, err := io.WriteString(w, secret.Reveal()); err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	return sealed.Bytes(), nil
}

// Identities open sealed keys. They are secret and never show themselves.
type Identities struct {
	all []age.Identity
	// text is as in the file. It is behind a pointer because fmt asks no method
	// of a value in an unexported field of the caller's struct: there it shows an
	// address.
	text *order.Secret
}

const hidden = "[age identities]"

func (Identities) String() string               { return hidden }
func (Identities) GoString() string             { return hidden }
func (Identities) LogValue() slog.Value         { return slog.StringValue(hidden) }
func (Identities) MarshalJSON() ([]byte, error) { return json.Marshal(hidden) }
func (Identities) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, hidden) }

// NewIdentity makes one.
func NewIdentity() (Identities, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return Identities{}, fmt.Errorf("make age identity: %w", err)
	}
	text := "# made by certmill; whoever has this file can open the private keys\n# public key: " + id.Recipient().String() + "\n" + id.String() + "\n"
	secret := order.Secret(text)
	return Identities{all: []age.Identity{id}, text: &secret}, nil
}

// ParseIdentities reads an identity file's content.
func ParseIdentities(text order.Secret) (Identities, error) {
	all, err := age.ParseIdentities(strings.NewReader(text.Reveal()))
	if err != nil { // age's own error may repeat what it could not read
		return Identities{}, errors.New("this is no age identity file: it must hold lines AGE-SECRET-KEY-…, as age-keygen writes them")
	}
	return Identities{all: all, text: &text}, nil
}

// JoinIdentities are several as one: they open what any of them opens.
func JoinIdentities(several ...Identities) Identities {
	var all Identities
	for _, i := range several {
		all.all = append(all.all, i.all...)
	}
	return all
}

// LoadIdentities reads an identity file.
func LoadIdentities(path string) (Identities, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Identities{}, fmt.Errorf("load age identity: %w", err)
	}
	i, err := ParseIdentities(order.Secret(text))
	if err != nil {
		return Identities{}, fmt.Errorf("%s: %w", path, err)
	}
	return i, nil
}

// Save writes the identity file, mode 0600. It never replaces one that is
// there, because that may be the only thing that opens earlier keys; the error
// then wraps fs.ErrExist.
func (i Identities) Save(path string) error {
	if i.text == nil {
		return errors.New("save age identity: there is none")
	}
	folder := filepath.Dir(path)
	if err := makeFolder(folder, 0o700); err != nil {
		return fmt.Errorf("save age identity: %w", err)
	}
	if err := createFile(folder, path, []byte(i.text.Reveal()), 0o600); err != nil {
		return fmt.Errorf("save age identity: %w", err)
	}
	return nil
}

// OpenIdentity loads the identity file, or makes one if there is none. Of two
// processes that do so at once, both get the one that was first.
func OpenIdentity(path string) (Identities, error) {
	i, err := LoadIdentities(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return i, err
	}
	if i, err = NewIdentity(); err != nil {
		return Identities{}, err
	}
	if err := i.Save(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return Identities{}, err
	}
	return LoadIdentities(path)
}

// Recipients are the public halves.
func (i Identities) Recipients() (Recipients, error) { return ParseRecipients(i.halves()...) }

func (i Identities) halves() []string {
	var lines []string
	for _, id := range i.all {
		switch id := id.(type) {
		case *age.X25519Identity:
			lines = append(lines, id.Recipient().String())
		case *age.HybridIdentity:
			lines = append(lines, id.Recipient().String())
		}
	}
	return lines
}

// Open decrypts a sealed key.
func (i Identities) Open(sealed []byte) (order.Secret, error) {
	if len(i.all) == 0 {
		return "", errors.New("open key: there is no age identity")
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), slices.Clone(i.all)...)
	if err != nil {
		return "", fmt.Errorf("open key: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("open key: %w", err)
	}
	if len(text) > maxSecret {
		return "", errors.New("open key: what was sealed is too large for a private key")
	}
	return order.Secret(text), nil
}
