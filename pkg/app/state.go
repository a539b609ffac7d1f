package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/durable"
)

// lives are the names of what a life of certmill run leaves in its state folder.
// An identity is not among them: a person may have put it there first.
var lives = []string{"nats", accessDir, "keys", "cloudsim", "placed", "files", ConfigName}

// claimState makes the state folder, or makes sure that what an earlier life left
// in it is of this format. It comes before anything else touches the folder: a
// server that only opens its streams writes there. It also makes sure that what is
// there was made with clouds of the same kind: what was bought on simulated ones
// would be taken for bought.
func claimState(c Config) error {
	if err := durable.MakeFolder(c.State, 0o700); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	durable.RemoveTorn(c.State)
	err := certstore.ClaimFolder(c.State, stateWord, "name another folder with --state and hand the order files in again",
		func(name string) bool { return ofARun(c.State, name) })
	if err != nil {
		return err
	}
	// A crash here leaves a folder for either kind, without anything in it.
	return certstore.Dedicate(c.State, stateWord, c.clouds(), otherFolder)
}

const otherFolder = "Name another folder with --state, or state in the config"

// MayRun is why a run with this config would not begin in its folders. It changes
// nothing.
func (c Config) MayRun() error {
	return errors.Join(certstore.MayDedicate(c.State, stateWord, c.clouds(), otherFolder),
		certstore.MayDedicateStore(absolute(c.Keys.Store), c.clouds()))
}

// ofARun tells whether a run has left what is in the folder. A key store says itself
// of which format it is, and certmill init makes one, too; workers on another server
// leave files of challenges.
func ofARun(state, name string) bool {
	switch name {
	case "keys":
		return !certstore.Claimed(filepath.Join(state, name))
	case "placed", "files":
		return false
	}
	return slices.Contains(lives, name)
}

// trace is what a state folder had before somebody began there, so that one who is
// refused takes away again what he began, and nothing else.
type trace struct {
	dir   string
	made  bool            // there was no such folder
	had   map[string]bool // what lay in it
	fresh bool            // no life of certmill run had left anything there
}

// traceOf looks at the folder. It comes before claimState.
func traceOf(c Config) trace {
	t := trace{dir: c.State, had: map[string]bool{}}
	entries, err := os.ReadDir(c.State)
	t.made = errors.Is(err, fs.ErrNotExist)
	for _, e := range entries {
		t.had[e.Name()] = true
	}
	t.fresh = !t.lived() && !certstore.Claimed(c.State)
	return t
}

// lived tells whether the folder has what a life leaves.
func (t trace) lived() bool {
	return slices.ContainsFunc(lives, func(name string) bool {
		_, err := os.Lstat(filepath.Join(t.dir, name))
		return err == nil
	})
}

// locked comes with the folder's lock: whoever was there in between has lived there.
func (t trace) locked() trace {
	t.fresh = t.fresh && !t.lived()
	return t
}

// undo takes away what was begun since, where the folder was new. It MUST come with the
// folder's lock, and when nothing works in it any more. What it cannot remove stays: a
// begun folder does no harm to who begins there with clouds of the same kind.
func (t trace) undo() {
	if !t.fresh {
		return
	}
	entries, _ := os.ReadDir(t.dir)
	for _, e := range entries {
		if !t.had[e.Name()] {
			_ = os.RemoveAll(filepath.Join(t.dir, e.Name()))
		}
	}
	if t.made {
		_ = os.Remove(t.dir)
	}
}

const stateWord = "state folder"

// clouds are what a run in this folder buys at.
func (c Config) clouds() certstore.Clouds {
	if len(c.Accounts) == 0 {
		return certstore.Simulated
	}
	return certstore.Real
}

// lockState keeps every other certmill run out of the folder until the file that
// it returns is closed, or this process ends. Two embedded servers on one store
// would each write what the other does not know: both would acknowledge orders,
// and hand out the same permits.
func lockState(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	taken, err := durable.Lock(f)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if taken {
		return nil, fmt.Errorf("%w %s: hand order files in to that one (certmill order FILE), "+
			"stop it first, or name another folder with --state", errWorksThere, absolute(dir))
	}
	return nil, fmt.Errorf("lock the state folder: %w", err)
}

var errWorksThere = errors.New("another certmill run works in the state folder")

// lockName is a file without content; who works in the folder holds its lock.
const lockName = "lock"
