//go:build unix

package app

import (
	"errors"
	"os"
	"syscall"
)

// lockFile takes a file for this process alone, until it is closed or the
// process ends, however it ends. taken tells that another process has it.
func lockFile(f *os.File) (taken bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	return errors.Is(err, syscall.EWOULDBLOCK), err
}
