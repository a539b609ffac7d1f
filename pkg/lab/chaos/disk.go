package chaos

import (
	"context"
	"path/filepath"
	"syscall"
	"time"

	"github.com/certmill/certmill/pkg/lab/smalldisk"
	"github.com/certmill/certmill/pkg/stream"
)

// openDisk mounts the small disk that the server, the key store and what is
// delivered lie on.
func (s *site) openDisk() (err error) {
	s.disk, err = smalldisk.Mount(filepath.Join(s.dir, "disk"))
	return err
}

// store is where the server, the keys and the certificates are.
func (s *site) store(name string) string {
	if s.disk != nil {
		return filepath.Join(s.disk.Dir, name)
	}
	return filepath.Join(s.dir, name)
}

// fillDisk fills the disk again and again, for some seconds each time, with more
// or less room left for a last write. A server that met it refuses writes until
// it is started anew, which somebody does who reads what the workers say.
func fillDisk(ctx context.Context, s *site, _ int) error {
	all, err := s.requests(s.size.Orders, "disk")
	if err != nil {
		return err
	}
	return s.while(ctx, all, func(ctx context.Context) error {
		dice := s.dice("disk")
		for stream.Sleep(ctx, between(dice, time.Second, 4*time.Second)) == nil {
			s.tell("the disk is full")
			if err := s.disk.Fill(dice.Int64N(64 << 10)); err != nil {
				return err
			}
			s.count(func(r *Report) { r.Fills++ })
			_ = stream.Sleep(ctx, between(dice, 500*time.Millisecond, 4*time.Second))
			if err := s.disk.Free(); err != nil {
				return err
			}
			p := s.servers[0]
			if dice.IntN(3) == 0 {
				p.kill()
				s.count(func(r *Report) { r.Kills++ })
			} else {
				p.end(syscall.SIGTERM, 20*time.Second)
			}
			if err := p.start(); err != nil {
				return err
			}
		}
		return nil
	})
}
