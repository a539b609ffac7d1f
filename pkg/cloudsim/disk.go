package cloudsim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// disk is what the simulator's files lie on. fail, for tests, is asked before
// each step of writing one, and its error is that step's.
type disk struct{ fail func(step string) error }

func (d disk) fails(step string) error {
	if d.fail == nil {
		return nil
	}
	return d.fail(step)
}

// write writes all of it, or, as a disk that fills up does, a part.
func (d disk) write(f *os.File, data []byte) error {
	if err := d.fails("write"); err != nil {
		_, werr := f.Write(data[:len(data)/2])
		return errors.Join(err, werr)
	}
	_, err := f.Write(data)
	return err
}

// replace puts a new file in place of what may be there: the old content or all
// of the new one is there, whatever fails.
func (d disk) replace(path string, mode fs.FileMode, fill func(*os.File) error) error {
	err := d.fails("open")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	err = errors.Join(fill(f), f.Close())
	if err == nil {
		err = d.fails("rename")
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		_ = os.Remove(path + ".new") // it would only take up room
	}
	return err
}

// put is replace with a content.
func (d disk) put(dir, name string, mode fs.FileMode, data []byte) error {
	return d.replace(filepath.Join(dir, name), mode, func(f *os.File) error { return d.write(f, data) })
}
