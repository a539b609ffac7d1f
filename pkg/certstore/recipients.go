package certstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/certmill/certmill/pkg/order"
)

// ErrOtherRecipients is wrapped by the errors of Put and Raise where a key is sealed
// to other recipients than those that are kept with the store: nobody may be able to
// open it any more.
var ErrOtherRecipients = errors.New("the key is sealed to other recipients than those of the key store: certmill reseal")

// recipientsFile holds those that the store's keys are sealed to, one a line.
const recipientsFile = "recipients"

// ID tells one set of recipients from another. It stands beside what was sealed to
// them, because that itself does not tell.
func (r Recipients) ID() string {
	if len(r.lines) == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join(slices.Sorted(slices.Values(r.lines)), "\n")))
	return hex.EncodeToString(sum[:8])
}

// OpenedBy tells whether what is sealed to these is opened by one of the identities.
func (r Recipients) OpenedBy(i Identities) bool {
	return slices.ContainsFunc(i.halves(), func(half string) bool { return slices.Contains(r.lines, half) })
}

// Recipients are those that the store's keys are sealed to; none if nobody has said
// so yet.
func (s *KeyStore) Recipients() (Recipients, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, recipientsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Recipients{}, nil
	}
	if err != nil {
		return Recipients{}, fmt.Errorf("recipients of the key store: %w", err)
	}
	r, err := ParseRecipients(string(data))
	if err != nil {
		return Recipients{}, fmt.Errorf("%s: %w", filepath.Join(s.dir, recipientsFile), err)
	}
	return r, nil
}

// KeepRecipients says, for a store without any, whom its keys are sealed to, and
// returns those that are kept there: of two that say so at once, the first
// decides.
func (s *KeyStore) KeepRecipients(to Recipients) (kept Recipients, err error) {
	kept, err = s.Recipients()
	if err != nil || kept.ID() != "" {
		return kept, err
	}
	if err := s.Check(); err != nil {
		return Recipients{}, err
	}
	err = createFile(s.temp(), filepath.Join(s.dir, recipientsFile), []byte(to.String()+"\n"), 0o600)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return Recipients{}, fmt.Errorf("recipients of the key store: %w", err)
	}
	return s.Recipients()
}

// ChangeRecipients is the first step of sealing everything anew. From here on the
// store takes no key that is sealed to others, and no number for one.
func (s *KeyStore) ChangeRecipients(to Recipients) error {
	kept, err := s.Recipients()
	if err != nil || kept.ID() == to.ID() {
		return err
	}
	if err := s.Check(); err != nil {
		return err
	}
	if err := s.replace(filepath.Join(s.dir, recipientsFile), []byte(to.String()+"\n")); err != nil {
		return fmt.Errorf("recipients of the key store: %w", err)
	}
	return nil
}

// replace writes a file of the store in place of what is there.
func (s *KeyStore) replace(path string, data []byte) error {
	file, err := writeTemp(s.temp(), data, 0o600)
	if err != nil {
		return err
	}
	// A crash here leaves the old file, and a temporary one that removeTorn finds.
	if err := os.Rename(file, path); err != nil {
		_ = os.Remove(file)
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// sealedTo tells whether a key may rest in a store of these recipients. What holds
// no private key may, and any where nobody has said who they are.
func sealedTo(k order.Key, present string) bool {
	return len(k.Sealed) == 0 || present == "" || k.SealedTo == present
}

// EachPair calls f with every pair of the store and whose it is, until f returns an
// error. unread is called for each that cannot be read.
func (s *KeyStore) EachPair(f func(Ref, order.Key) error, unread func(path string, err error) error) error {
	ids, err := s.IDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		err := s.eachPairOf(id, func(path string) error {
			p, err := s.pairAt(path)
			if err != nil {
				return unread(path, err)
			}
			return f(p.ref(), p.Key)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachPairOf calls f with the path of each pair under an id.
func (s *KeyStore) eachPairOf(id string, f func(path string) error) error {
	hashes, err := os.ReadDir(s.idFolder(id))
	if err != nil {
		return fmt.Errorf("list key store: %w", err)
	}
	for _, h := range hashes {
		if !h.IsDir() || !hashForm.MatchString(h.Name()) {
			continue
		}
		folder := filepath.Join(s.idFolder(id), h.Name())
		files, err := os.ReadDir(folder)
		if err != nil {
			return fmt.Errorf("list key store: %w", err)
		}
		for _, file := range files {
			if strings.HasPrefix(file.Name(), pairPrefix) {
				if err := f(filepath.Join(folder, file.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// pairAt reads a pair of which only the path is known: that says whose it must be.
func (s *KeyStore) pairAt(path string) (pair, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return pair{}, err
	}
	var p pair
	if err := json.Unmarshal(data, &p); err != nil {
		return pair{}, err
	}
	if folder := filepath.Dir(path); p.Hash != filepath.Base(folder) || p.ID != filepath.Base(filepath.Dir(folder)) {
		return pair{}, fmt.Errorf("it is the pair of order %q with hash %q", p.ID, p.Hash)
	}
	return p, p.check(p.ref())
}

func (p pair) ref() Ref { return Ref{ID: p.ID, Hash: p.Hash, Main: p.Main, Names: p.Names} }

// Reopen seals a key anew: it opens it, makes sure that it is the one that its
// fingerprint says, and seals it to these recipients.
func Reopen(k order.Key, by Identities, to Recipients) (order.Key, error) {
	secret, err := by.Open(k.Sealed)
	if err != nil {
		return order.Key{}, err
	}
	pub, err := publicOf(secret)
	if err != nil {
		return order.Key{}, err
	}
	if Fingerprint(pub) != k.Fingerprint {
		return order.Key{}, errors.New("what was sealed is another key than its fingerprint says")
	}
	k.Sealed, err = to.Seal(secret)
	k.SealedTo = to.ID()
	return k, err
}

// Reseal seals every pair anew that is not sealed to these recipients, which the
// store must have by now (ChangeRecipients), and returns how many it did. Those that
// these identities do not open are left as they are, and told. Safe to repeat, and
// while others write.
func (s *KeyStore) Reseal(ctx context.Context, by Identities, to Recipients, left func(r Ref, err error)) (done int, err error) {
	ids, err := s.IDs()
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		err := s.eachPairOf(id, func(path string) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			p, err := s.pairAt(path)
			if err != nil {
				left(Ref{ID: id}, fmt.Errorf("%s is damaged, restore it from a backup: %w", path, err))
				return nil
			}
			if sealedTo(p.Key, to.ID()) {
				return nil
			}
			if p.Key, err = Reopen(p.Key, by, to); err != nil {
				left(p.ref(), err)
				return nil
			}
			done++
			return s.rewrite(path, p)
		})
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// rewrite replaces a pair by the same one with another seal.
func (s *KeyStore) rewrite(path string, p pair) error {
	data, err := json.Marshal(p)
	if err == nil {
		err = s.Check()
	}
	to, rerr := s.Recipients()
	if err = errors.Join(err, rerr); err == nil && !sealedTo(p.Key, to.ID()) {
		err = ErrOtherRecipients // they were changed once more: that pass decides
	}
	if err == nil {
		// A crash here leaves the old seal, which the next pass finds.
		err = s.replace(path, data)
	}
	if err != nil {
		return fmt.Errorf("seal key of %s anew: %w", p.ID, err)
	}
	return nil
}
