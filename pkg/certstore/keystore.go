package certstore

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/certmill/certmill/pkg/order"
)

// ErrExists is wrapped by the error of Raise when this attempt's number is there
// already: the caller did not create it and must not spend under it.
var ErrExists = errors.New("this attempt's number is taken")

// ErrLower is wrapped by the error of Raise when a higher number is there. It
// wraps ErrExists.
var ErrLower = fmt.Errorf("a higher number is there: %w", ErrExists)

// ErrGone is wrapped by the errors of a store that is not there any more.
var ErrGone = errors.New("it is not the one any more that this process began with: it was removed or unmounted, or another one lies there; " +
	"bring it back, and start again")

// ErrNoPair is wrapped by the error of Get when the order has no pair here, and by
// that of Raise when the pair that it is for is not here.
var ErrNoPair = errors.New("the order's key is not in the key store")

// KeyStore is a folder, on a file system that all submitters share, with what
// must outlast a lost JetStream. <id> lies below the first two hex digits of its
// SHA-256:
//
//	<dir>/<xx>/<id>/<hash>/pair-000001   of the order with this id and hash: sealed key, fingerprint, CSR
//	<dir>/<xx>/<id>/attempt-000007       attempt 7 under this id: of which order, for what, where, when
//	<dir>/installation                   id of the store, which is that of the installation
//	<dir>/tmp/                           files being written
//	<dir>/format                         number of the format of all this
//
// The same id may have been another order in another life of the streams: a pair
// is of one order, and is used for that one only; the numbers of attempts are one
// series for all of them, because none is ever used twice.
//
// Files are only ever created, never changed and never removed (but a damaged pair,
// which Restore puts aside), so any number
// of processes may use it at once. It needs hard links and create-exclusive
// semantics: every local file system and NFS from version 3 have them.
type KeyStore struct{ dir, id string }

const (
	pairPrefix    = "pair-"
	attemptPrefix = "attempt-"
	tempFolder    = "tmp"
	idFile        = "installation"
)

// Ref is an order as the key store knows it.
type Ref struct {
	ID    string
	Hash  string   // of what is ordered (order.Request.Hash)
	Main  string   // main account that it stands at
	Names []string // ordered names
}

// check refuses what must not become a path, and what would tell nobody what an
// entry is of.
func (r Ref) check() error {
	switch {
	case !order.ValidID(r.ID):
		return fmt.Errorf("%q is no order id", r.ID)
	case !hashForm.MatchString(r.Hash):
		return fmt.Errorf("%.80q is no hash of order %s", r.Hash, r.ID)
	case len(r.Names) == 0:
		return fmt.Errorf("order %s has no names", r.ID)
	}
	return nil
}

// same tells whether an entry is of these names, whatever order it was made for.
func (r Ref) same(names []string) bool { return order.NamesHash(r.Names) == order.NamesHash(names) }

var hashForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{7,99}$`)

// MakeKeyStore opens the store, as OpenKeyStore does, and makes it first where the
// folder is missing or empty, with an id that no other has: for those who set an
// installation up. made tells whether this very call did. Safe to repeat, and to
// run from several processes at once.
func MakeKeyStore(dir string) (s *KeyStore, made bool, err error) {
	if dir == "" {
		return nil, false, errors.New("make key store: no folder is given")
	}
	err = makeFolder(dir, 0o700)
	if err == nil {
		err = ClaimFolder(dir, storeWord, storeHelp, isShard)
	}
	// A crash here leaves a folder of this format without an id; the next one makes
	// it.
	if err == nil {
		err = createFile(dir, filepath.Join(dir, idFile), []byte(rand.Text()+"\n"), 0o600)
		if made = err == nil; errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("make key store: %w", err)
	}
	s, err = OpenKeyStore(dir)
	return s, made, err
}

// OpenKeyStore opens the store for a submitter. It tries out at once whether the
// file system can do what the store relies on. The error wraps ErrNoStore if there
// is none: a volume that is not mounted looks like that. It is *OtherFormat,
// wrapped, if another build's keys are there. Then nothing was changed.
func OpenKeyStore(dir string) (*KeyStore, error) {
	s, err := FindKeyStore(dir)
	if err != nil {
		return nil, err
	}
	if s.id == "" { // whoever was to make it died
		return nil, fmt.Errorf("open key store %s: %w", dir, ErrNoStore)
	}
	if err := makeFolder(s.temp(), 0o700); err != nil {
		return nil, fmt.Errorf("open key store: %w", err)
	}
	removeTorn(s.temp())
	if err := s.probe(); err != nil {
		return nil, fmt.Errorf("open key store %s: it needs a writable file system with hard links: %w", dir, err)
	}
	return s, nil
}

// FindKeyStore opens the store for those who look or decide. It makes and writes
// nothing: a store that somebody makes by looking for one would say that nothing
// was ever bought. The error wraps ErrNoStore if there is none, *OtherFormat if it
// is another build's.
func FindKeyStore(dir string) (*KeyStore, error) {
	is, err := formatOf(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNoStore
		entries, _ := os.ReadDir(dir)
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return isShard(e.Name()) }) {
			err = &OtherFormat{Dir: dir, What: storeWord, Do: storeHelp}
		}
	}
	s := &KeyStore{dir: dir}
	if err = checkFormat(dir, storeWord, storeHelp, is, err); err == nil {
		s.id, err = s.readID()
	}
	if err != nil {
		return nil, fmt.Errorf("look for the key store at %s: %w", dir, err)
	}
	return s, nil
}

// ID is what tells this store from every other one: that of the installation. Of a
// store that was only looked for it may be empty.
func (s *KeyStore) ID() string { return s.id }

// Dir is where it lies.
func (s *KeyStore) Dir() string { return s.dir }

// readID is the id that the folder has now, empty if it has none.
func (s *KeyStore) readID() (string, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, idFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(data)), err
}

// Check makes sure that the folder is still the store that was opened. The error
// wraps ErrGone if it is not: it was removed or unmounted, or another one lies
// there. What is written then would be lost, or nobody's.
func (s *KeyStore) Check() error {
	is, err := s.readID()
	if err == nil && is != s.id {
		return fmt.Errorf("key store %s: %w", s.dir, ErrGone)
	}
	return err
}

// Words of errors.
const (
	storeWord = "key store"
	storeHelp = "once all its orders have ended, name a new folder in keys.store"
)

// isShard tells the folders that the ids' folders lie in. A store without any
// holds nothing.
func isShard(name string) bool {
	_, err := hex.DecodeString(name)
	return err == nil && len(name) == 2
}

func (s *KeyStore) temp() string { return filepath.Join(s.dir, tempFolder) }

// Try tells whether the store takes a file of so many bytes, which it removes again.
// The error wraps ErrGone if it is not the store any more.
func (s *KeyStore) Try(bytes int) error {
	err := errors.Join(s.Check(), s.probe())
	if err != nil {
		return err
	}
	file, err := writeTemp(s.temp(), make([]byte, bytes), 0o600)
	if err == nil {
		err = os.Remove(file)
	}
	return err
}

// probe creates a file as Put does, and checks that the second of two loses.
func (s *KeyStore) probe() error {
	file, err := writeTemp(s.temp(), nil, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file) }()
	linked := strings.TrimSuffix(file, ".tmp") + "-probe.tmp"
	defer func() { _ = os.Remove(linked) }()
	if err := createFile(s.temp(), linked, nil, 0o600); err != nil {
		return err
	}
	switch err := createFile(s.temp(), linked, nil, 0o600); {
	case err == nil:
		return errors.New("creating a file twice was not refused")
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	return nil
}

// idFolder is where all is that was ever kept under an id. The id is checked by
// the caller, because it becomes a path.
func (s *KeyStore) idFolder(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:1]), id)
}

// pairs is the folder of an order's pairs.
func (s *KeyStore) pairs(r Ref) string { return filepath.Join(s.idFolder(r.ID), r.Hash) }

// make makes a folder of the store. Those above it are synced even if it is there:
// who made it may have died before it synced them. If the store went away meanwhile,
// nothing of it stays where it was: a folder below an unmounted volume's place looks
// like what an earlier certmill has left.
func (s *KeyStore) make(folder string) error {
	err := makeIn(s.dir, folder, 0o700)
	for above := filepath.Dir(folder); err == nil && len(above) >= len(s.dir); above = filepath.Dir(above) {
		err = syncFolder(above)
	}
	// A crash here may leave such a folder, empty.
	if gone := s.Check(); gone != nil {
		for at := folder; len(at) > len(s.dir); at = filepath.Dir(at) {
			_ = os.Remove(at) // only what is empty
		}
		return gone
	}
	return err
}

// IDs lists the orders that have a folder here, sorted.
func (s *KeyStore) IDs() ([]string, error) {
	return s.ids(func(os.DirEntry) bool { return true })
}

// ids lists the orders whose folder here is wanted, sorted.
func (s *KeyStore) ids(wanted func(os.DirEntry) bool) ([]string, error) {
	shards, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list key store: %w", err)
	}
	var ids []string
	for _, shard := range shards {
		if !isShard(shard.Name()) || !shard.IsDir() {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(s.dir, shard.Name()))
		if err != nil {
			return nil, fmt.Errorf("list key store: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() && order.ValidID(e.Name()) && wanted(e) {
				ids = append(ids, e.Name())
			}
		}
	}
	slices.Sort(ids)
	return ids, nil
}
