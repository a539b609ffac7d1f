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
	"strconv"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/order"
)

// ErrExists is wrapped by the error of Raise when this attempt's number is there
// already: the caller did not create it and must not spend under it.
var ErrExists = errors.New("this attempt's number is taken")

// ErrLower is wrapped by the error of Raise when a higher number is there. It
// wraps ErrExists.
var ErrLower = fmt.Errorf("a higher number is there: %w", ErrExists)

// ErrNoPair is wrapped by the error of Get when there is no pair under the id.
var ErrNoPair = errors.New("there is no key under this id")

// KeyStore is a folder, on a file system that all submitters share, with what
// must outlast a lost JetStream:
//
//	<dir>/<2 hex of SHA-256 of the id>/<id>/pair.json        sealed key, fingerprint, CSR
//	<dir>/<2 hex of SHA-256 of the id>/<id>/attempt-000007   attempt 7; its content: the purchase, the time
//	<dir>/tmp/                                               files being written
//	<dir>/format                                             number of the format of all this
//
// Files are only ever created, never changed and never removed, so any number
// of processes may use it at once. It needs hard links and create-exclusive
// semantics: every local file system and NFS from version 3 have them.
type KeyStore struct{ dir string }

const (
	pairFile      = "pair.json"
	attemptPrefix = "attempt-"
	tempFolder    = "tmp"
)

// pair is the file of one order's key.
type pair struct {
	ID  string    `json:"id"`
	Key order.Key `json:"key"`
}

// OpenKeyStore opens the folder for a submitter, and makes it if it is missing or
// empty. It tries out at once whether the file system can do what the store
// relies on. The error is *OtherFormat, wrapped, if another build's keys are
// there; then nothing was changed.
func OpenKeyStore(dir string) (*KeyStore, error) {
	if dir == "" {
		return nil, errors.New("open key store: no folder is given")
	}
	s := &KeyStore{dir}
	if err := makeFolder(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open key store: %w", err)
	}
	if err := ClaimFolder(dir, storeWord, storeHelp, isShard); err != nil {
		return nil, fmt.Errorf("open key store: %w", err)
	}
	// A crash here leaves a store without keys; the next one makes the rest.
	if err := makeFolder(s.temp(), 0o700); err != nil {
		return nil, fmt.Errorf("open key store: %w", err)
	}
	removeTorn(s.temp())
	if err := s.probe(); err != nil {
		return nil, fmt.Errorf("open key store %s: it needs a writable file system with hard links: %w", dir, err)
	}
	return s, nil
}

// FindKeyStore opens the store that submitters have made, for those who look or
// decide. It makes and writes nothing: a store that somebody makes by looking for
// one would say that nothing was ever bought. The error wraps ErrNoStore if there
// is none, *OtherFormat if it is another build's.
func FindKeyStore(dir string) (*KeyStore, error) {
	is, err := formatOf(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNoStore
		entries, _ := os.ReadDir(dir)
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return isShard(e.Name()) }) {
			err = &OtherFormat{Dir: dir, What: storeWord, Do: storeHelp}
		}
	}
	if err := checkFormat(dir, storeWord, storeHelp, is, err); err != nil {
		return nil, fmt.Errorf("look for the key store at %s: %w", dir, err)
	}
	return &KeyStore{dir}, nil
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
	if err := createFile(s.temp(), linked, nil, 0o600); !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("creating a file twice was not refused (%v)", err)
	}
	return nil
}

// folder is where an id's files are. The id is checked here, because it becomes
// a path.
func (s *KeyStore) folder(id string) (string, error) {
	if !order.ValidID(id) {
		return "", fmt.Errorf("%q is no order id", id)
	}
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:1]), id), nil
}

// makeFolder makes an id's folder and returns it. The folders above are synced
// even if it is there: who made it may have died before it synced them.
func (s *KeyStore) makeFolder(id string) (string, error) {
	folder, err := s.folder(id)
	if err != nil {
		return "", err
	}
	if err := makeFolder(folder, 0o700); err != nil {
		return "", err
	}
	return folder, errors.Join(syncFolder(filepath.Dir(folder)), syncFolder(s.dir))
}

// Put stores the pair of an order, durably. If there is one under this id
// already, it wins and is returned, with won false: a certificate may have been
// bought for it.
func (s *KeyStore) Put(ctx context.Context, id string, k order.Key) (stored order.Key, won bool, err error) {
	k.Stored = true
	p := pair{id, k}
	// What Get would call damaged must not get in: it could never be replaced.
	if err := errors.Join(ctx.Err(), p.check(id)); err != nil {
		return order.Key{}, false, fmt.Errorf("put key of %s: %w", id, err)
	}
	data, err := json.Marshal(p)
	if err != nil {
		return order.Key{}, false, fmt.Errorf("put key of %s: %w", id, err)
	}
	folder, err := s.makeFolder(id)
	if err != nil {
		return order.Key{}, false, fmt.Errorf("put key of %s: %w", id, err)
	}
	// A crash here leaves an empty folder, which is an id without a pair.
	err = createFile(s.temp(), filepath.Join(folder, pairFile), data, 0o600)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return order.Key{}, false, fmt.Errorf("put key of %s: %w", id, err)
	}
	// A crash here leaves the pair; the next Put under this id returns it.
	stored, getErr := s.Get(id)
	return stored, err == nil && getErr == nil, getErr
}

// mayRest refuses what is no pair, and above all a private key in clear text.
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

// Get returns the pair under an id. The error wraps ErrNoPair if there is none.
func (s *KeyStore) Get(id string) (order.Key, error) {
	folder, err := s.folder(id)
	if err != nil {
		return order.Key{}, fmt.Errorf("get key: %w", err)
	}
	path := filepath.Join(folder, pairFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return order.Key{}, fmt.Errorf("get key of %s: %w", id, ErrNoPair)
	}
	if err != nil {
		return order.Key{}, fmt.Errorf("get key of %s: %w", id, err)
	}
	var p pair
	if err := json.Unmarshal(data, &p); err != nil {
		return order.Key{}, fmt.Errorf("get key of %s: %s is damaged, restore it from a backup: %w", id, path, err)
	}
	if err := p.check(id); err != nil {
		return order.Key{}, fmt.Errorf("get key of %s: %s is damaged, restore it from a backup: %w", id, path, err)
	}
	return p.Key, found(path)
}

func (p pair) check(id string) error {
	if p.ID != id {
		return fmt.Errorf("it is the pair of %q", p.ID)
	}
	if err := mayRest(p.Key); err != nil || p.Key.CSR == "" {
		return err
	}
	fp, err := FingerprintOfCSR(p.Key.CSR)
	if err == nil && fp != p.Key.Fingerprint {
		err = errors.New("its fingerprint is not that of its CSR")
	}
	return err
}

// Raised is an attempt's number as it rests here.
type Raised struct {
	Attempt  int       // 0: none was raised
	Purchase int       // what it was raised for
	Resource string    // instance or certificate id that the attempt uses; empty for one that spends
	At       time.Time // when, on the clock of whoever raised it
}

// Number is the highest attempt that was raised for an order.
func (s *KeyStore) Number(id string) (Raised, error) {
	folder, err := s.folder(id)
	if err != nil {
		return Raised{}, fmt.Errorf("read attempt number: %w", err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Raised{}, fmt.Errorf("read attempt number of %s: %w", id, err)
	}
	highest, name := 0, ""
	for _, e := range entries {
		if n, ok := attemptOf(e.Name()); ok && n > highest {
			highest, name = n, e.Name()
		}
	}
	if highest == 0 {
		return Raised{}, nil
	}
	content, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		return Raised{}, fmt.Errorf("read attempt number of %s: %w", id, err)
	}
	r, ok := parseRaised(highest, string(content))
	if !ok {
		return Raised{}, fmt.Errorf("read attempt number of %s: %s is damaged, restore it from a backup: %.20q is no number of a purchase and its time", id, name, content)
	}
	return r, nil
}

// parseRaised reads the content of an attempt's file: purchase, time and
// resource. The time stands in the file because a backup may not bring the
// file's own back.
func parseRaised(attempt int, content string) (Raised, bool) {
	words := strings.Fields(content)
	if len(words) != 2 && len(words) != 3 {
		return Raised{}, false
	}
	purchase, err := strconv.Atoi(words[0])
	at, terr := time.Parse(time.RFC3339, words[1])
	r := Raised{Attempt: attempt, Purchase: purchase, At: at}
	if len(words) == 3 {
		r.Resource = words[2]
	}
	return r, err == nil && terr == nil && purchase > 0
}

func attemptOf(file string) (int, bool) {
	digits, ok := strings.CutPrefix(file, attemptPrefix)
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n > 0
}

// Raise stores an attempt's number with its purchase, its resource and the time, durably. It succeeds for
// one caller only: if the number is there, the error wraps ErrExists, and if a
// higher one is, ErrLower too. Of two callers that raise different numbers at
// once, the higher one succeeds; the lower one may fail although its number was
// written, which costs an attempt and no money.
func (s *KeyStore) Raise(id string, attempt, purchase int, resource string) error {
	if attempt < 1 || purchase < 1 || len(strings.Fields(resource)) > 1 || strings.TrimSpace(resource) != resource {
		return fmt.Errorf("raise attempt number of %s: attempt %d of purchase %d with %.80q cannot be", id, attempt, purchase, resource)
	}
	folder, err := s.makeFolder(id)
	if err != nil {
		return fmt.Errorf("raise attempt number of %s: %w", id, err)
	}
	if err := s.below(id, attempt, attempt-1); err != nil {
		return err
	}
	path := filepath.Join(folder, fmt.Sprintf("%s%06d", attemptPrefix, attempt))
	err = createFile(s.temp(), path, fmt.Appendf(nil, "%d %s %s\n", purchase, time.Now().UTC().Format(time.RFC3339), resource), 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("raise attempt number of %s to %d: %w", id, attempt, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("raise attempt number of %s: %w", id, err)
	}
	// A rival may have created a higher number since the first look. The files
	// are there in some order, so at least the higher one passes here.
	return s.below(id, attempt, attempt)
}

// below returns an error unless the highest number is at most the given one.
func (s *KeyStore) below(id string, attempt, most int) error {
	switch r, err := s.Number(id); {
	case err != nil:
		return err
	case r.Attempt > attempt:
		return fmt.Errorf("raise attempt number of %s to %d while %d is there: %w", id, attempt, r.Attempt, ErrLower)
	case r.Attempt > most:
		return fmt.Errorf("raise attempt number of %s to %d: %w", id, attempt, ErrExists)
	}
	return nil
}

// IDs lists the orders that have a folder here, sorted.
func (s *KeyStore) IDs() ([]string, error) {
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
			if e.IsDir() && order.ValidID(e.Name()) {
				ids = append(ids, e.Name())
			}
		}
	}
	slices.Sort(ids)
	return ids, nil
}
