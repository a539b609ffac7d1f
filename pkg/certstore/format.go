package certstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Format is the number of the format of what this program keeps in folders: the
// key store, and the state folder of certmill run. It is that of the streams,
// too (stream.Format): whoever changes one changes both.
const Format = 2

// formatFile holds the number of a folder's format.
const formatFile = "format"

// ErrNoStore is wrapped by the error of FindKeyStore where no key store is.
var ErrNoStore = errors.New("no key store is there")

// OtherFormat is the error of a folder whose content this program does not know:
// nothing was changed in it.
type OtherFormat struct {
	Dir  string
	What string // the folder is, in words
	Is   string // what its file says, quoted; empty: there is none
	Do   string // what helps, besides the build that made it
}

func (e *OtherFormat) Error() string {
	is := "has format " + e.Is
	if e.Is == "" {
		is = "has no file \"" + formatFile + "\": an earlier certmill made it"
	}
	return fmt.Sprintf("%s %s %s, and this one knows format %d only; nothing was changed. Use the build that made it, or %s",
		e.What, e.Dir, is, Format, e.Do)
}

// ClaimFolder makes sure that a folder, which must be there, is of this format,
// before anything else is done with it. If it has none of the content that ours
// tells by its name, it is new, and gets the file that says so, durably. The
// error is *OtherFormat for any other content; then nothing was changed. what
// and do are words for that error. Safe to repeat, and to run from several
// processes at once.
func ClaimFolder(dir, what, do string, ours func(name string) bool) error {
	is, err := formatOf(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return checkFormat(dir, what, do, is, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ours(e.Name()) {
			return &OtherFormat{Dir: dir, What: what, Do: do}
		}
	}
	// A crash before the file is linked leaves a temporary one, which is no
	// content; after it, a new folder of this format.
	err = createFile(dir, filepath.Join(dir, formatFile), fmt.Appendf(nil, "%d\n", Format), 0o600)
	if errors.Is(err, fs.ErrExist) { // another process was first
		is, err = formatOf(dir)
		return checkFormat(dir, what, do, is, err)
	}
	return err
}

// Claimed tells whether a folder says of which format it is.
func Claimed(dir string) bool {
	_, err := formatOf(dir)
	return !errors.Is(err, fs.ErrNotExist)
}

// formatOf reads the number of a folder's format, as it stands there.
func formatOf(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, formatFile))
	return strings.TrimSpace(string(data)), err
}

// checkFormat judges what formatOf returned.
func checkFormat(dir, what, do, is string, err error) error {
	if err == nil && is != strconv.Itoa(Format) {
		return &OtherFormat{Dir: dir, What: what, Is: strconv.Quote(is), Do: do}
	}
	return err
}
