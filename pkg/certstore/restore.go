package certstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/certmill/certmill/pkg/order"
)

// ErrDamaged is wrapped by the errors of a file that is there and does not say what it
// must.
var ErrDamaged = errors.New("is damaged")

// asidePrefix begins the names of damaged files that were put aside. Nobody reads them.
const asidePrefix = "damaged-"

// Restore stores a pair again in place of its damaged file, which is kept beside it.
// The caller knows that this very pair was stored for this very order: its record says
// so (order.Key.Stored). It is done only where that file must be the pair's: it is the
// only damaged one, and none of the others has the key. done tells whether it was; where
// it was not, the store is as before, and the error says why. Safe to repeat, and from
// several processes at once: each puts the same pair there.
func (s *KeyStore) Restore(ctx context.Context, r Ref, k order.Key) (done bool, err error) {
	if err := errors.Join(ctx.Err(), r.check(), s.Check()); err != nil {
		return false, fmt.Errorf("restore key of %s: %w", r.ID, err)
	}
	k.Stored = true
	if err := (pair{ID: r.ID, Hash: r.Hash, Main: r.Main, Names: r.Names, Key: k}).check(r); err != nil {
		return false, fmt.Errorf("restore key of %s: %w", r.ID, err)
	}
	damaged := ""
	for n := 1; n <= maxPairs; n++ {
		path := s.pairPath(r, n)
		p, err := s.readPair(r, path)
		switch {
		case errors.Is(err, ErrNoPair) && damaged == "":
			return false, nil
		case errors.Is(err, ErrNoPair):
			return s.replaceDamaged(ctx, r, k, damaged)
		case errors.Is(err, ErrDamaged) && damaged != "":
			return false, fmt.Errorf("restore key of %s: two of its files are damaged, and nobody can tell whose each is: %w",
				r.ID, err)
		case errors.Is(err, ErrDamaged):
			damaged = path
		case err != nil:
			return false, err
		case p.Key.Fingerprint == k.Fingerprint:
			return false, nil // it is there: the damaged file is another key's
		}
	}
	return false, nil
}

func (s *KeyStore) replaceDamaged(ctx context.Context, r Ref, k order.Key, path string) (done bool, err error) {
	aside := filepath.Join(filepath.Dir(path), asidePrefix+filepath.Base(path)+"-"+rand.Text()[:8])
	if err := os.Rename(path, aside); err != nil {
		return false, fmt.Errorf("put %s aside: %w", path, err)
	}
	// A crash here leaves an order without this pair, as if it were lost: the next one
	// stores it again from the record.
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return false, err
	}
	_, done, err = s.Put(ctx, r, k)
	return done, err
}
