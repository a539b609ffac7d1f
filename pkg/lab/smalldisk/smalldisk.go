// Package smalldisk is a disk in memory that is full at a word, and has room
// again at another: for what certmill does when a disk is full.
//
// It needs the right to mount (Linux, as root). Where that is missing Mount
// returns ErrNotPermitted, and whoever wanted it says that nothing was tried.
package smalldisk

import "errors"

// ErrNotPermitted is wrapped by the error of Mount where nothing may be mounted.
var ErrNotPermitted = errors.New("mounting a small disk needs Linux and the right to mount (root)")

// roomy is the size of a disk that is not full. Nothing of it is used before it
// is written to.
const roomy = 16 << 30

// Disk is a mounted one.
type Disk struct{ Dir string }
