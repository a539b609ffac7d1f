package smalldisk

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestFullAndFree: what does not fit is refused, and fits again later.
func TestFullAndFree(t *testing.T) {
	d, err := Mount(filepath.Join(t.TempDir(), "disk"))
	if errors.Is(err, ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(d.Dir, "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Fill(8 << 10); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+"2", make([]byte, 64<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing to a full disk: %v", err)
	}
	if err := d.Free(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+"2", make([]byte, 64<<10), 0o600); err != nil {
		t.Error(err)
	}
}
