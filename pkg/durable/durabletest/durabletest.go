// Package durabletest lets the disk fail at every step of some work, one after
// another.
package durabletest

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/certmill/certmill/pkg/durable"
)

// Each runs work in a new folder again and again, while the disk fails there at
// the first step of writing a file, then at the second, and so on to the last:
// once, and is well again. after gets the folder and the error that work had.
func Each(t *testing.T, work func(dir string) error, after func(t *testing.T, dir string, err error)) {
	t.Helper()
	for n := 1; ; n++ {
		dir := t.TempDir()
		failed, mend := At(dir, n)
		err := work(dir)
		mend()
		if failed() == "" {
			if n == 1 {
				t.Error("no step was tried")
			}
			return
		}
		t.Run(fmt.Sprintf("%d %s", n, failed()), func(t *testing.T) { after(t, dir, err) })
	}
}

// At lets the n-th step below a folder fail. failed is what it was, "" before.
func At(dir string, n int) (failed func() durable.Step, mend func()) {
	var was durable.Step
	done := 0
	mend = durable.Break(dir, func(s durable.Step, path string) error {
		if done++; done != n {
			return nil
		}
		was = s
		return fmt.Errorf("%s %s: %w", s, path, syscall.ENOSPC)
	})
	return func() durable.Step { return was }, mend
}

// Failed tells whether an error is that of the disk.
func Failed(err error) bool { return errors.Is(err, syscall.ENOSPC) }
