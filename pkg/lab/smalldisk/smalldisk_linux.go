package smalldisk

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Mount makes the folder if need be and mounts a disk with room there. The caller
// MUST Close it.
func Mount(dir string) (*Disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	err := syscall.Mount("smalldisk", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", int64(roomy)))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		return nil, fmt.Errorf("%w: %w", ErrNotPermitted, err)
	}
	if err != nil {
		return nil, fmt.Errorf("mount a small disk at %s: %w", dir, err)
	}
	return &Disk{dir}, nil
}

// Fill leaves so many bytes free, rounded up to pages. Somebody may use them up
// before it returns; it is then full all the same.
func (d *Disk) Fill(left int64) error {
	for {
		var s syscall.Statfs_t
		if err := syscall.Statfs(d.Dir, &s); err != nil {
			return fmt.Errorf("fill %s: %w", d.Dir, err)
		}
		used := int64(s.Blocks-s.Bfree) * s.Bsize
		err := d.resize(max(used+left, s.Bsize))
		if !errors.Is(err, syscall.EINVAL) { // smaller than what is used by now
			return err
		}
	}
}

// Free gives it room again.
func (d *Disk) Free() error { return d.resize(roomy) }

func (d *Disk) resize(size int64) error {
	err := syscall.Mount("smalldisk", d.Dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", size))
	if err != nil {
		return fmt.Errorf("resize %s to %d: %w", d.Dir, size, err)
	}
	return nil
}

// Close takes the disk away, with all that lies on it, also from under files
// that are still open.
func (d *Disk) Close() error { return syscall.Unmount(d.Dir, syscall.MNT_DETACH) }
