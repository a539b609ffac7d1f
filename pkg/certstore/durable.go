package certstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// tempPattern marks files that are being written. After a crash one may be left
// over; nobody reads it.
const (
	tempPattern = ".certmill-*.tmp"
	tempAge     = 24 * time.Hour // no write takes so long: older ones are torn
)

// removeTorn removes what processes that were killed left half written. It may
// fail: nobody reads these files.
func removeTorn(folder string) {
	entries, _ := os.ReadDir(folder)
	for _, e := range entries {
		if torn, _ := filepath.Match(tempPattern, e.Name()); !torn {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > tempAge {
			_ = os.Remove(filepath.Join(folder, e.Name()))
		}
	}
}

// writeTemp writes a complete, synced file under a name of its own and returns
// it. The caller links or renames it, and removes what is left.
func writeTemp(folder string, data []byte, mode fs.FileMode) (path string, err error) {
	f, err := os.CreateTemp(folder, tempPattern)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	return f.Name(), err
}

// createFile makes a file that must not be there yet; the error wraps
// fs.ErrExist if it is. Temp is a folder on the same file system. A link is
// used instead of O_EXCL on the name itself, because the name then never shows
// a file that is not complete, and it is exclusive on NFS too.
func createFile(temp, path string, data []byte, mode fs.FileMode) error {
	file, err := writeTemp(temp, data, mode)
	if err != nil {
		return err
	}
	// A crash here leaves a temporary file, which removeTorn finds a day
	// later.
	err = os.Link(file, path)
	_ = os.Remove(file)
	if err != nil {
		return err
	}
	// A crash here leaves a name that a power cut may take away again. Whoever
	// made it has not returned, so nobody relies on it; whoever finds it syncs
	// the folder itself before relying on it (see found).
	return syncFolder(filepath.Dir(path))
}

// replaceFile writes a file in place of what may be there.
func replaceFile(path string, data []byte, mode fs.FileMode) error {
	folder := filepath.Dir(path)
	file, err := writeTemp(folder, data, mode)
	if err != nil {
		return err
	}
	// A crash here leaves the old file and a temporary one.
	if err := os.Rename(file, path); err != nil {
		_ = os.Remove(file)
		return err
	}
	return syncFolder(folder)
}

// found makes a file that another process created as durable as one's own.
func found(path string) error { return syncFolder(filepath.Dir(path)) }

// makeFolder makes a folder and its parents, and syncs every folder that got a
// new entry: a synced file in a folder that is not linked durably is lost.
func makeFolder(path string, mode fs.FileMode) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is not a folder", path)
		}
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := makeFolder(parent, mode); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(parent)
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
