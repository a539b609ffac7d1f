package app

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/certmill/certmill/pkg/certstore"
)

// lives are the names of what a life of certmill run leaves in its state folder.
// An identity is not among them: a person may have put it there first.
var lives = []string{"nats", "keys", "cloudsim", "placed", "files", ConfigName}

// claimState makes the state folder, or makes sure that what an earlier life left
// in it is of this format. It comes before anything else touches the folder: a
// server that only opens its streams writes there.
func claimState(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	return certstore.ClaimFolder(dir, "state folder",
		"name another folder with --state and hand the order files in again",
		func(name string) bool { return slices.Contains(lives, name) })
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
	taken, err := lockFile(f)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if taken {
		return nil, fmt.Errorf("another certmill run works in the state folder %s: hand order files in to that one (certmill order FILE), "+
			"stop it first, or name another folder with --state", absolute(dir))
	}
	return nil, fmt.Errorf("lock the state folder: %w", err)
}

// lockName is a file without content; who works in the folder holds its lock.
const lockName = "lock"
