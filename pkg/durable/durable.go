// Package durable writes files that are there as a whole or not at all, whatever
// stops the writer: a kill, a power cut, a disk that is full at any of the steps.
// What was there before stays until what takes its place is complete.
//
// A file is written under a name of its own, synced, and then linked or renamed;
// the folder is synced last. An error says that what is there afterwards is the
// old content or the new one, and that the caller should do it again.
package durable

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

// RemoveTorn removes what processes that were killed left half written. It may
// fail: nobody reads these files.
func RemoveTorn(folder string) {
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

// Temp writes a complete, synced file under a name of its own and returns it. The
// caller links or renames it, and removes what is left. What fails leaves nothing
// behind, or a torn file that nobody reads.
func Temp(folder string, data []byte, mode fs.FileMode) (path string, err error) {
	if err := fails(Open, folder); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(folder, tempPattern)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	err = write(f, data)
	err = errors.Join(err, f.Chmod(mode), sync(f), f.Close())
	return f.Name(), err
}

// Create makes a file that must not be there yet; the error wraps fs.ErrExist if
// it is. temp is a folder on the same file system. A link is used instead of
// O_EXCL on the name itself, because the name then never shows a file that is not
// complete, and it is exclusive on NFS too.
func Create(temp, path string, data []byte, mode fs.FileMode) error {
	file, err := Temp(temp, data, mode)
	if err != nil {
		return err
	}
	// A crash here leaves a temporary file, which RemoveTorn finds a day later.
	if err = fails(Link, path); err == nil {
		err = os.Link(file, path)
	}
	_ = os.Remove(file)
	if err != nil {
		return err
	}
	// A crash here leaves a name that a power cut may take away again. Whoever
	// made it has not returned, so nobody relies on it; whoever finds it syncs
	// the folder itself before relying on it (see Found).
	return SyncFolder(filepath.Dir(path))
}

// Replace writes a file in place of what may be there.
func Replace(path string, data []byte, mode fs.FileMode) error {
	folder := filepath.Dir(path)
	file, err := Temp(folder, data, mode)
	if err != nil {
		return err
	}
	// A crash here leaves the old file and a temporary one.
	if err = fails(Rename, path); err == nil {
		err = os.Rename(file, path)
	}
	if err != nil {
		_ = os.Remove(file)
		return err
	}
	return SyncFolder(folder)
}

// Found makes a file that another process created as durable as one's own.
func Found(path string) error { return SyncFolder(filepath.Dir(path)) }

// MakeFolder makes a folder and its parents, and syncs every folder that got a
// new entry: a synced file in a folder that is not linked durably is lost.
func MakeFolder(path string, mode fs.FileMode) error { return MakeFolderIn("", path, mode) }

// MakeFolderIn is MakeFolder for a folder inside root, which is not made: where root
// is gone, what lay there is not begun anew.
func MakeFolderIn(root, path string, mode fs.FileMode) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%s is not a folder", path)
	case err == nil:
		return nil
	case path == root:
		return err
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MakeFolderIn(root, parent, mode); err != nil {
			return err
		}
	}
	if err := fails(Mkdir, path); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncFolder(parent)
}

// SyncFolder makes the names in a folder durable.
func SyncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(sync(d), d.Close())
}

func write(f *os.File, data []byte) error {
	if err := fails(Write, f.Name()); err != nil { // half of it is there then
		_, werr := f.Write(data[:len(data)/2])
		return errors.Join(err, werr)
	}
	_, err := f.Write(data)
	return err
}

func sync(f *os.File) error {
	if err := fails(Sync, f.Name()); err != nil {
		return err
	}
	return f.Sync()
}
