package certstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Clouds are what a folder's content was made with. Simulated ones and real
// accounts never share one: what was bought in a pilot would be taken for bought,
// and its numbers for those of purchases.
type Clouds string

// What a folder can be for.
const (
	Simulated Clouds = "simulated" // by the process that works in the folder
	Real      Clouds = "real"
)

// cloudsFile says what a folder is for.
const cloudsFile = "clouds"

// OtherClouds is the error of a folder that is for other clouds: nothing was
// changed in it.
type OtherClouds struct {
	Dir  string
	What string // the folder is, in words
	Is   Clouds // what it is for
	Do   string // what helps
}

func (e *OtherClouds) Error() string {
	is := "has what real accounts have left, and this config has none, so that the clouds would be simulated"
	if e.Is == Simulated {
		is = "has what a run on simulated clouds has left, and this config has real accounts: they need one of their own"
	}
	return fmt.Sprintf("%s %s %s; nothing was changed. %s", e.What, e.Dir, is, e.Do)
}

// Dedicate makes sure that a folder is for these clouds. Who asks first decides.
// The error is *OtherClouds if it is for others. what and do are words for that
// error.
func Dedicate(dir, what string, to Clouds, do string) error {
	// A crash before the file is linked leaves the folder for either.
	err := createFile(dir, filepath.Join(dir, cloudsFile), []byte(to+"\n"), 0o600)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	return MayDedicate(dir, what, to, do)
}

// MayDedicate is why Dedicate would refuse a folder; it changes nothing.
func MayDedicate(dir, what string, to Clouds, do string) error {
	data, err := os.ReadFile(filepath.Join(dir, cloudsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if is := Clouds(strings.TrimSpace(string(data))); is != to {
		return &OtherClouds{Dir: dir, What: what, Is: is, Do: do}
	}
	return nil
}

// Dedicate is the store's: who buys in it first decides.
func (s *KeyStore) Dedicate(to Clouds) error {
	return Dedicate(s.dir, storeWord, to, otherStore)
}

const otherStore = "Name another folder in keys.store"

// MayDedicateStore is MayDedicate for a folder that is, or will be, a key store.
func MayDedicateStore(dir string, to Clouds) error {
	return MayDedicate(dir, storeWord, to, otherStore)
}
