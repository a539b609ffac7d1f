package certstore

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/order"
)

// Touched lists the orders whose folder here got a file since a time, by the file
// system's clock, sorted: those of whom something was stored then.
func (s *KeyStore) Touched(since time.Time) ([]string, error) {
	shards, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list key store: %w", err)
	}
	var ids []string
	for _, shard := range shards {
		if !isShard(shard.Name()) || !shard.IsDir() {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(s.dir, shard.Name()))
		if err != nil {
			return nil, fmt.Errorf("list key store: %w", err)
		}
		for _, e := range entries {
			if !e.IsDir() || !order.ValidID(e.Name()) {
				continue
			}
			if info, err := e.Info(); err == nil && !info.ModTime().Before(since) {
				ids = append(ids, e.Name())
			}
		}
	}
	slices.Sort(ids)
	return ids, nil
}
