package durable

import (
	"strings"
	"sync/atomic"

	gosync "sync"
)

// Step is one of the steps by which a file comes to be.
type Step string

// The steps at which a disk may fail.
const (
	Open   Step = "open"   // of a temporary file
	Write  Step = "write"  // half of it is written then
	Sync   Step = "sync"   // of a file or a folder: it may be on disk, or not
	Link   Step = "link"   // of the complete file to its name
	Rename Step = "rename" // the same
	Mkdir  Step = "mkdir"
)

// Steps are all of them.
var Steps = []Step{Open, Write, Sync, Link, Rename, Mkdir}

// breaks are the folders whose disk is broken, for tests.
var breaks struct {
	any atomic.Bool // production asks no more than this

	mu  gosync.Mutex
	all []*broken
}

type broken struct {
	folder string
	f      func(step Step, path string) error
}

// Break is for tests: f is asked before each step below a folder, and an error of
// it is that step's. mend ends it.
func Break(folder string, f func(step Step, path string) error) (mend func()) {
	b := &broken{folder, f}
	breaks.mu.Lock()
	defer breaks.mu.Unlock()
	breaks.all = append(breaks.all, b)
	breaks.any.Store(true)
	return func() {
		breaks.mu.Lock()
		defer breaks.mu.Unlock()
		for i, other := range breaks.all {
			if other == b {
				breaks.all = append(breaks.all[:i:i], breaks.all[i+1:]...)
				break
			}
		}
		breaks.any.Store(len(breaks.all) > 0)
	}
}

// fails is the error that a step shall have.
func fails(step Step, path string) error {
	if !breaks.any.Load() {
		return nil
	}
	breaks.mu.Lock()
	defer breaks.mu.Unlock()
	for _, b := range breaks.all {
		if strings.HasPrefix(path, b.folder) {
			if err := b.f(step, path); err != nil {
				return err
			}
		}
	}
	return nil
}
