package certstore

import (
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

// Raised is an attempt's number as it rests here.
type Raised struct {
	Attempt  int       // 0: none was raised
	Purchase int       // what it was raised for
	Resource string    // instance or certificate id that the attempt uses; empty for one that spends
	Main     string    // main account that the attempt is made at
	Caller   string    // who calls there, as the cloud said; empty if that is not known
	At       time.Time // when, on the clock of whoever raised it

	// GaveBack says that nothing is used or bought under the number: it ends the use
	// of the resource of an earlier one.
	GaveBack bool

	// Fingerprint is of the key that the attempt is for: Raise wants that pair to be
	// here. Empty where the cloud makes the key.
	Fingerprint string

	// Hash and Names are of the order that it was raised for, which in another life
	// of the streams was another one under the same id.
	Hash  string
	Names []string
}

// attempt is the file of one number. The time stands in it because a backup may
// not bring the file's own back.
type attempt struct {
	ID          string    `json:"id"`
	Attempt     int       `json:"attempt"`
	Purchase    int       `json:"purchase"`
	At          time.Time `json:"at"`
	Main        string    `json:"main"`
	Caller      string    `json:"caller,omitempty"`
	Resource    string    `json:"resource,omitempty"`
	GaveBack    bool      `json:"gave_back,omitempty"`
	Hash        string    `json:"hash"`
	Names       []string  `json:"names"`
	Fingerprint string    `json:"fingerprint,omitempty"`
}

// Number is the highest attempt that was raised under the order's id, for
// whatever order and at whatever account: the next one is above it.
func (s *KeyStore) Number(r Ref) (Raised, error) {
	numbers, err := s.numbers(r)
	if err != nil || len(numbers) == 0 {
		return Raised{}, err
	}
	return s.readNumber(r, numbers[len(numbers)-1])
}

// Numbers are the highest attempts that were raised for the order's names under
// its id, one for each main account, the latest first. Numbers that the ledger of
// their account does not know have an unknown outcome there.
func (s *KeyStore) Numbers(r Ref) ([]Raised, error) {
	numbers, err := s.numbers(r)
	if err != nil {
		return nil, err
	}
	var all []Raised
	for _, n := range slices.Backward(numbers) {
		raised, err := s.readNumber(r, n)
		if err != nil {
			return nil, err
		}
		known := slices.ContainsFunc(all, func(o Raised) bool { return o.Main == raised.Main })
		if !known && r.same(raised.Names) {
			all = append(all, raised)
		}
	}
	return all, nil
}

// numbers lists the numbers under an id, the lowest first.
func (s *KeyStore) numbers(r Ref) ([]int, error) {
	if !order.ValidID(r.ID) { // it becomes a path
		return nil, fmt.Errorf("read attempt number: %q is no order id", r.ID)
	}
	entries, err := os.ReadDir(s.idFolder(r.ID))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read attempt number of %s: %w", r.ID, err)
	}
	var all []int
	for _, e := range entries {
		if n, ok := attemptOf(e.Name()); ok {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

func attemptOf(file string) (int, bool) {
	digits, ok := strings.CutPrefix(file, attemptPrefix)
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n > 0
}

func (s *KeyStore) numberPath(id string, n int) string {
	return filepath.Join(s.idFolder(id), fmt.Sprintf("%s%06d", attemptPrefix, n))
}

func (s *KeyStore) readNumber(r Ref, n int) (Raised, error) {
	path := s.numberPath(r.ID, n)
	data, err := os.ReadFile(path)
	if err != nil {
		return Raised{}, fmt.Errorf("read attempt number of %s: %w", r.ID, err)
	}
	var a attempt
	if err := json.Unmarshal(data, &a); err != nil || !a.whole(r.ID, n) {
		return Raised{}, fmt.Errorf("read attempt number of %s: %s is damaged, restore it from a backup: %.40q does not say what attempt %d was for",
			r.ID, path, data, n)
	}
	return Raised{Attempt: a.Attempt, Purchase: a.Purchase, Resource: a.Resource, Main: a.Main, Caller: a.Caller, At: a.At,
		GaveBack: a.GaveBack, Fingerprint: a.Fingerprint, Hash: a.Hash, Names: a.Names}, nil
}

// whole tells whether a file says all that a number must.
func (a attempt) whole(id string, n int) bool {
	return a.ID == id && a.Attempt == n && a.Purchase > 0 && !a.At.IsZero() && a.Main != "" && a.Hash != "" && len(a.Names) > 0
}

// Raise stores an attempt's number with all that it is for, durably; the time is
// now. If it is for a pair (Fingerprint), that one must be here and is read back
// first: the error wraps ErrNoPair if it is not. It succeeds for one caller only:
// if the number is there, the error wraps ErrExists, and if a higher one is,
// ErrLower too. Of two callers that raise different numbers at once, the higher
// one succeeds; the lower one may fail although its number was written, which
// costs an attempt and no money.
func (s *KeyStore) Raise(r Ref, to Raised) error {
	fail := func(err error) error {
		return fmt.Errorf("raise attempt number of %s to %d: %w", r.ID, to.Attempt, err)
	}
	a := attempt{ID: r.ID, Attempt: to.Attempt, Purchase: to.Purchase, At: time.Now().UTC().Truncate(time.Second), Main: to.Main,
		Caller: to.Caller, Resource: to.Resource, GaveBack: to.GaveBack, Hash: r.Hash, Names: r.Names, Fingerprint: to.Fingerprint}
	if a.Main == "" {
		a.Main = r.Main
	}
	err := errors.Join(r.check(), s.Check())
	if err == nil && (to.Attempt < 1 || !a.whole(r.ID, to.Attempt)) {
		err = fmt.Errorf("purchase %d at main account %q cannot be", a.Purchase, a.Main)
	}
	if err == nil && to.Fingerprint != "" {
		err = s.readBack(r, to.Fingerprint)
	}
	if err == nil {
		err = s.make(s.idFolder(r.ID))
	}
	if err == nil {
		err = s.below(r, to.Attempt, to.Attempt-1)
	}
	if err != nil {
		return fail(err)
	}
	data, err := json.Marshal(a)
	if err != nil {
		return fail(err)
	}
	err = createFile(s.temp(), s.numberPath(r.ID, to.Attempt), append(data, '\n'), 0o600)
	if errors.Is(err, fs.ErrExist) {
		err = ErrExists
	}
	if err != nil {
		return fail(err)
	}
	// A rival may have created a higher number since the first look. The files
	// are there in some order, so at least the higher one passes here.
	if err := errors.Join(s.below(r, to.Attempt, to.Attempt), s.Check()); err != nil {
		return fail(err)
	}
	return nil
}

// readBack makes sure that the pair is here that money is about to be spent for,
// and can be opened by those who should.
func (s *KeyStore) readBack(r Ref, fingerprint string) error {
	p, _, err := s.find(r, func(p pair) bool { return p.Key.Fingerprint == fingerprint })
	if err != nil {
		return err
	}
	to, err := s.Recipients()
	if err == nil && !sealedTo(p.Key, to.ID()) {
		err = ErrOtherRecipients
	}
	return err
}

// below returns an error unless the highest number is at most the given one, or
// if that cannot be read.
func (s *KeyStore) below(r Ref, attempt, most int) error {
	switch highest, err := s.Number(r); {
	case err != nil:
		return err
	case highest.Attempt > attempt:
		return fmt.Errorf("%d is there: %w", highest.Attempt, ErrLower)
	case highest.Attempt > most:
		return ErrExists
	}
	return nil
}

// RaisedSince are the numbers that were raised under an id from that second on, for
// whatever orders: the highest at each main account. A number that is damaged is left
// to the order that meets it.
func (s *KeyStore) RaisedSince(id string, since time.Time) ([]Raised, error) {
	r := Ref{ID: id}
	numbers, err := s.numbers(r)
	if err != nil {
		return nil, err
	}
	var all []Raised
	for _, n := range slices.Backward(numbers) {
		raised, err := s.readNumber(r, n)
		if err != nil {
			continue
		}
		if raised.At.Before(since.Truncate(time.Second)) {
			break // and the lower ones were raised before it
		}
		if !slices.ContainsFunc(all, func(o Raised) bool { return o.Main == raised.Main }) {
			all = append(all, raised)
		}
	}
	return all, nil
}
