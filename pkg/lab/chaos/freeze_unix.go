//go:build unix

package chaos

import (
	"os"
	"syscall"
)

func suspend(p *os.Process) error { return p.Signal(syscall.SIGSTOP) }
func resume(p *os.Process) error  { return p.Signal(syscall.SIGCONT) }

// freezeSelf stops this process until somebody lets it go on.
func freezeSelf() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }
