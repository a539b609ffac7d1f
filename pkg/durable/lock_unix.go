//go:build unix

package durable

import (
	"errors"
	"os"
	"syscall"
)

// Locks tells whether Lock keeps anybody out.
const Locks = true

// Lock takes a file for this process alone, until it is closed or the
// process ends, however it ends. taken tells that another process has it.
func Lock(f *os.File) (taken bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	return errors.Is(err, syscall.EWOULDBLOCK), err
}
