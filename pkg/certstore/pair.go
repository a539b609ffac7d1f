package certstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/certmill/certmill/pkg/order"
)

// pair is the file of one order's key.
type pair struct {
	ID    string    `json:"id"`
	Hash  string    `json:"hash"`
	Main  string    `json:"main,omitempty"` // where the order stood when it was made
	Names []string  `json:"names"`
	Key   order.Key `json:"key"`
}

// Put stores the pair of an order, durably, and returns what is stored, read back
// from there. If a pair of this very order is here that asks for the same names,
// it wins and is returned, with won false: a certificate may have been bought for
// it. One that asks for others stays and is passed over. Of two seals of one key
// the one to the store's recipients stays; a key that is sealed to others is not
// taken: the error wraps ErrOtherRecipients.
func (s *KeyStore) Put(ctx context.Context, r Ref, k order.Key) (stored order.Key, won bool, err error) {
	k.Stored = true
	p := pair{ID: r.ID, Hash: r.Hash, Main: r.Main, Names: r.Names, Key: k}
	// What Get would call damaged must not get in: it could never be replaced.
	err = errors.Join(ctx.Err(), r.check(), s.Check())
	if err == nil {
		err = p.check(r)
	}
	if err != nil {
		return order.Key{}, false, fmt.Errorf("put key of %s: %w", r.ID, err)
	}
	data, err := json.Marshal(p)
	if err == nil {
		err = s.make(s.pairs(r))
	}
	if err != nil {
		return order.Key{}, false, fmt.Errorf("put key of %s: %w", r.ID, err)
	}
	to, err := s.Recipients()
	if err != nil {
		return order.Key{}, false, fmt.Errorf("put key of %s: %w", r.ID, err)
	}
	if !sealedTo(k, to.ID()) {
		is, _, err := s.find(r, func(is pair) bool { return is.Key.Fingerprint == k.Fingerprint && sealedTo(is.Key, to.ID()) })
		if err != nil {
			return order.Key{}, false, fmt.Errorf("put key of %s: %w", r.ID, ErrOtherRecipients)
		}
		return is.Key, false, nil
	}
	return s.put(r, p, data, to.ID())
}

// put takes the first pair that fits, or creates the next one. present are the
// recipients that it is sealed to.
func (s *KeyStore) put(r Ref, p pair, data []byte, present string) (stored order.Key, won bool, err error) {
	for n := 1; n <= maxPairs; n++ {
		path := s.pairPath(r, n)
		// A crash before this leaves an empty folder, which is an order without a
		// pair; after it, the pair, which the next Put returns.
		err := createFile(s.temp(), path, data, 0o600)
		if won = err == nil; err != nil && !errors.Is(err, fs.ErrExist) {
			return order.Key{}, false, fmt.Errorf("put key of %s: %w", r.ID, err)
		}
		is, err := s.readPair(r, path)
		if err = errors.Join(err, s.Check()); err != nil {
			return order.Key{}, false, err
		}
		switch {
		case won:
			return is.Key, true, nil
		case is.Key.Fingerprint == p.Key.Fingerprint && !sealedTo(is.Key, present):
			return p.Key, false, s.rewrite(path, p)
		case is.fits(p):
			return is.Key, false, nil
		}
	}
	return order.Key{}, false, fmt.Errorf("put key of %s: there are %d pairs that ask for other names", r.ID, maxPairs)
}

// maxPairs bounds how many pairs one order can have: each one more means that what
// its CSR must ask for was changed by hand (csr_sans of the account).
const maxPairs = 50

func (s *KeyStore) pairPath(r Ref, n int) string {
	return filepath.Join(s.pairs(r), fmt.Sprintf("%s%06d", pairPrefix, n))
}

// Get returns the order's pair: the latest, if there are several. The error wraps
// ErrNoPair if there is none.
func (s *KeyStore) Get(r Ref) (order.Key, error) {
	p, _, err := s.find(r, func(pair) bool { return true })
	return p.Key, err
}

// find returns the order's last pair that is wanted, and where it lies.
func (s *KeyStore) find(r Ref, wanted func(pair) bool) (found pair, path string, err error) {
	if err := r.check(); err != nil {
		return pair{}, "", fmt.Errorf("get key: %w", err)
	}
	for n := 1; ; n++ {
		at := s.pairPath(r, n)
		switch p, err := s.readPair(r, at); {
		case errors.Is(err, ErrNoPair):
			if path == "" {
				return pair{}, "", err
			}
			return found, path, nil
		case err != nil:
			return pair{}, "", err
		case wanted(p):
			found, path = p, at
		}
	}
}

// readPair reads one file.
func (s *KeyStore) readPair(r Ref, path string) (pair, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return pair{}, fmt.Errorf("get key of %s: %w", r.ID, ErrNoPair)
	}
	if err != nil {
		return pair{}, fmt.Errorf("get key of %s: %w", r.ID, err)
	}
	var p pair
	err = json.Unmarshal(data, &p)
	if err == nil {
		err = p.check(r)
	}
	if err != nil {
		return pair{}, fmt.Errorf("get key of %s: %s %w, restore it from a backup: %w", r.ID, path, ErrDamaged, err)
	}
	return p, found(path)
}

// check refuses what is not of this order, and what must not rest here: above all
// a private key in clear text.
func (p pair) check(r Ref) error {
	switch {
	case p.ID != r.ID || p.Hash != r.Hash:
		return fmt.Errorf("it is the pair of order %q with hash %q", p.ID, p.Hash)
	case !r.same(p.Names):
		return fmt.Errorf("it is the pair of %s", strings.Join(p.Names, " "))
	}
	if err := mayRest(p.Key); err != nil || p.Key.CSR == "" {
		return err
	}
	return CheckCSR(p.Key.CSR, p.Key.Fingerprint, p.Names)
}

// mayRest refuses what is no pair.
func mayRest(k order.Key) error {
	switch {
	case k.Fingerprint == "":
		return errors.New("the key has no fingerprint")
	case len(k.Sealed) == 0 && k.CSR == "":
		return errors.New("there is neither a sealed key nor a CSR")
	case len(k.Sealed) > 0 && !isSealed(k.Sealed):
		return errors.New("the private key is not sealed with age")
	case strings.Contains(k.CSR, "PRIVATE KEY"):
		return errors.New("there is a private key where the CSR should be")
	}
	return nil
}

// fits tells whether this pair serves where the other one was made: its CSR asks
// for the same names, and both are somebody's own key or both are ours.
func (p pair) fits(other pair) bool {
	if (len(p.Key.Sealed) > 0) != (len(other.Key.Sealed) > 0) || (p.Key.CSR == "") != (other.Key.CSR == "") {
		return false
	}
	if len(p.Key.Sealed) == 0 && p.Key.Fingerprint != other.Key.Fingerprint {
		return false // the user's: never another one
	}
	a, aerr := asksFor(p.Key.CSR)
	b, berr := asksFor(other.Key.CSR)
	return aerr == nil && berr == nil && a == b
}
