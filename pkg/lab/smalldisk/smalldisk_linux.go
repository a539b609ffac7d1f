package smalldisk

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// Mount makes the folder if need be and mounts a disk with room there. The caller
// MUST Close it. What a process leaves that is killed before it could, the next one
// takes away that calls Mount.
func Mount(dir string) (*Disk, error) {
	clearUp()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	err := syscall.Mount(sourceOf(os.Getpid()), dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", int64(roomy)))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		return nil, fmt.Errorf("%w: %w", ErrNotPermitted, err)
	}
	if err != nil {
		return nil, fmt.Errorf("mount a small disk at %s: %w", dir, err)
	}
	return &Disk{dir}, nil
}

// sourceOf is what a process's disks have as their source in the list of mounts.
func sourceOf(pid int) string { return fmt.Sprintf("smalldisk-%d", pid) }

// mounted is how the list of mounts writes the characters that separate its fields.
var mounted = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// clearUp takes away the disks of processes that are no more. One that cannot be
// taken away is no trouble of the caller's.
func clearUp() {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		var pid int
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "tmpfs" {
			continue
		}
		if _, err := fmt.Sscanf(f[0], "smalldisk-%d", &pid); err != nil || pid <= 0 || f[0] != sourceOf(pid) {
			continue
		}
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = syscall.Unmount(mounted.Replace(f[1]), syscall.MNT_DETACH)
		}
	}
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
	err := syscall.Mount(sourceOf(os.Getpid()), d.Dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", size))
	if err != nil {
		return fmt.Errorf("resize %s to %d: %w", d.Dir, size, err)
	}
	return nil
}

// Close takes the disk away, with all that lies on it, also from under files
// that are still open.
func (d *Disk) Close() error { return syscall.Unmount(d.Dir, syscall.MNT_DETACH) }
