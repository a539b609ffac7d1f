package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/certmill/certmill/pkg/durable"
)

// Copy is a folder with a copy of what the book of placements has of ours, one
// small file for each, for the case that JetStream is lost and the records stay.
// It is shared by all who place and take back. The book decides; the copy only
// says what the book may have forgotten, so it is written before the record and
// goes after it, and one too many does no harm: what it tells of is looked for
// by its exact value, and not found.
//
// The nil Copy keeps nothing.
type Copy struct{ dir string }

// OpenCopy makes the folder if it is not there, and removes from it what writers
// that were killed left half written, a day ago or longer.
func OpenCopy(dir string) (*Copy, error) {
	if err := durable.MakeFolder(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the copies of what was placed: %w", err)
	}
	durable.RemoveTorn(dir)
	return &Copy{dir}, nil
}

const copySuffix = ".json"

// path is the file of an entry: its subject, which is a name as good as any.
func (c *Copy) path(subject string) string { return filepath.Join(c.dir, subject+copySuffix) }

// keep writes an entry, safe to repeat. A reader finds all of it or nothing.
func (c *Copy) keep(pl Placement) error {
	if c == nil || pl.Found {
		return nil
	}
	data, err := pl.encode()
	if err != nil {
		return err
	}
	if err := durable.Replace(c.path(placedSubject(pl.Challenge)), data, 0o600); err != nil {
		return fmt.Errorf("copy of a placement: %w", err)
	}
	return nil
}

// forget removes the copy of an entry; it is gone is a success.
func (c *Copy) forget(subject string) error {
	if c == nil {
		return nil
	}
	if err := os.Remove(c.path(subject)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copy of a placement: %w", err)
	}
	return nil
}

// read returns what is kept under a subject, and whether anything is. The error
// says why what is there cannot be read as its entry; it wraps record.ErrNewer
// if a newer program wrote it.
func (c *Copy) read(subject string) (pl Placement, kept bool, err error) {
	if c == nil {
		return Placement{}, false, nil
	}
	data, err := os.ReadFile(c.path(subject))
	if errors.Is(err, fs.ErrNotExist) {
		return Placement{}, false, nil
	}
	if err != nil {
		return Placement{}, false, fmt.Errorf("copy of a placement: %w", err)
	}
	if pl, err = decodePlacement(data, 0); err != nil {
		return Placement{}, false, fmt.Errorf("copy of a %w", err)
	}
	if placedSubject(pl.Challenge) != subject {
		return Placement{}, false, errors.New("copy of a placement: it is of another place than its file's name says")
	}
	return pl, true, nil
}

// subjects are those of all entries that are kept.
func (c *Copy) subjects() ([]string, error) {
	if c == nil {
		return nil, nil
	}
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("folder of the copies of what was placed: %w", err)
	}
	var all []string
	for _, f := range files {
		if subject, ok := strings.CutSuffix(f.Name(), copySuffix); ok {
			all = append(all, subject)
		}
	}
	return all, nil
}
