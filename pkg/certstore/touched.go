package certstore

import (
	"os"
	"time"
)

// Touched lists the orders whose folder here got a file since a time, by the file
// system's clock, sorted: those of whom something was stored then.
func (s *KeyStore) Touched(since time.Time) ([]string, error) {
	return s.ids(func(e os.DirEntry) bool {
		info, err := e.Info()
		return err == nil && !info.ModTime().Before(since)
	})
}
