//go:build !linux

package smalldisk

// Mount cannot do it here.
func Mount(string) (*Disk, error) { return nil, ErrNotPermitted }

// Fill is for a disk that Mount returned.
func (d *Disk) Fill(int64) error { return ErrNotPermitted }

// Free is for a disk that Mount returned.
func (d *Disk) Free() error { return ErrNotPermitted }

// Close is for a disk that Mount returned.
func (d *Disk) Close() error { return ErrNotPermitted }
