package app

import (
	"fmt"
	"os"
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
