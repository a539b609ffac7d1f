package durable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Lines is a file that JSON documents are appended to, one a line. A document
// that could not be written as a whole leaves nothing: what is appended later
// never stands on the rest of a torn line.
type Lines struct {
	Torn int64 // bytes of a last document that was found half written: they were cut off

	f           *os.File
	end, synced int64 // of the whole documents, and of those that were flushed
	cut         bool  // what lies beyond end must go before anything is appended
}

// OpenLines opens a file for this process alone, or makes one, and cuts off a last
// document that was not written to its end.
func OpenLines(path string, mode fs.FileMode) (*Lines, error) {
	if err := fails(Open, path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, mode)
	if err != nil {
		return nil, err
	}
	l := &Lines{f: f}
	taken, err := Lock(f)
	if taken {
		err = errors.New("another process appends to it")
	}
	if err == nil {
		err = errors.Join(l.begin(), SyncFolder(filepath.Dir(path)))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), f.Close())
	}
	return l, nil
}

// begin finds the end of the last whole document.
func (l *Lines) begin() error {
	size, err := l.f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	tail, err := l.tail(size)
	if err != nil {
		return err
	}
	l.end, l.synced = size, size-int64(len(tail))
	if len(tail) == 0 {
		return nil
	}
	if json.Valid(tail) { // only its newline is missing
		_, err := l.Write([]byte("\n"))
		return err
	}
	l.end, l.cut, l.Torn = size-int64(len(tail)), true, int64(len(tail))
	return l.trim()
}

// tail is what follows the last newline.
func (l *Lines) tail(size int64) (tail []byte, err error) {
	const step = 64 << 10
	for at := size; at > 0; {
		from := max(at-step, 0)
		part := make([]byte, at-from)
		if _, err := l.f.ReadAt(part, from); err != nil {
			return nil, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return append(part[i+1:], tail...), nil
		}
		tail, at = append(part, tail...), from
	}
	return tail, nil
}

// trim cuts off what is no whole document.
func (l *Lines) trim() error {
	if !l.cut {
		return nil
	}
	if err := l.f.Truncate(l.end); err != nil {
		return err
	}
	l.cut = false
	return nil
}

// Write appends whole lines. If it fails, nothing of them stays; if even that
// fails, nothing is appended before it has succeeded.
func (l *Lines) Write(whole []byte) (int, error) {
	if err := l.trim(); err != nil {
		return 0, err
	}
	data, broken := whole, fails(Write, l.f.Name())
	if broken != nil {
		data = whole[:len(whole)/2]
	}
	_, err := l.f.WriteAt(data, l.end)
	if err := errors.Join(broken, err); err != nil {
		l.cut = true
		return 0, errors.Join(err, l.trim())
	}
	l.end += int64(len(whole))
	return len(whole), nil
}

// Flush makes what was written durable. If it fails, what was written since the
// last time is taken back as far as possible: write it again.
func (l *Lines) Flush() error {
	if err := sync(l.f); err != nil {
		l.end, l.cut = l.synced, true
		return errors.Join(err, l.trim())
	}
	l.synced = l.end
	return nil
}

// Close does not flush.
func (l *Lines) Close() error { return l.f.Close() }
