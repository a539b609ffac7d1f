//go:build linux

package smalldisk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestKilledProcessesDisk: a disk whose process was killed is taken away by the next
// one that mounts, and a disk in use is not.
func TestKilledProcessesDisk(t *testing.T) {
	over := exec.Command("true")
	if err := over.Run(); err != nil {
		t.Skip(err)
	}
	inUse, err := Mount(filepath.Join(t.TempDir(), "in use"))
	if errors.Is(err, ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(t.TempDir(), "left over")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(sourceOf(over.Process.Pid), left, "tmpfs", 0, "size=65536,mode=0700"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{left, inUse.Dir} {
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next, err := Mount(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(left, "file")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the disk of a process that is no more is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(inUse.Dir, "file")); err != nil {
		t.Errorf("a disk in use: %v", err)
	}
	if err := errors.Join(inUse.Close(), next.Close()); err != nil {
		t.Error(err)
	}
}
