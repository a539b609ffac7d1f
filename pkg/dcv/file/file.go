// Package file places FILE challenges in a folder that a web server of the
// deployer's, or Handler, serves: <dir>/<host>/<path>.
package file

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
)

// Solver writes the files. The folder must exist; several workers may share it.
// It is safe for concurrent use.
type Solver struct{ Dir string }

var _ dcv.Solver = Solver{}

// wellKnown is the only place that challenges may have (Baseline Requirements
// 3.2.2.4.18); the path comes from outside.
const wellKnown = "/.well-known/"

// maxContent bounds what is compared and served, in bytes.
const maxContent = 64 << 10

// Present writes the file, durably and mode 0644, so that it is never seen half
// written. A file with another content is Conflict: it may be another order's,
// for which the CA still looks.
func (s Solver) Present(ctx context.Context, c order.Challenge) error {
	name, err := locate(c)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return fmt.Errorf("place file: %w", err)
	}
	defer root.Close()
	for range 10 { // a clean-up may remove an empty folder that was just made
		if err = ctx.Err(); err == nil {
			err = place(root, name, c.Value)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return compare(root, name, c.Value)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: place file: %w", dcv.Denied, err)
	case err != nil:
		return fmt.Errorf("place file: %w", err)
	}
	return nil
}

// place creates the file; the error wraps fs.ErrExist if something is there. The
// link shows it only when it is whole. Temporary files lie above the hosts'
// folders, where nothing is served.
func place(root *os.Root, name, content string) error {
	if err := makeFolders(root, path.Dir(name)); err != nil {
		return err
	}
	temp := ".certmill-" + rand.Text() + ".tmp"
	defer root.Remove(temp)
	if err := write(root, temp, content); err != nil {
		return err
	}
	// A crash here leaves a temporary file of a few bytes, which nobody reads.
	if err := root.Link(temp, name); err != nil {
		return err
	}
	return sync(root, path.Dir(name))
}

func write(root *os.Root, name, content string) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()) // whatever the umask
}

// makeFolders makes a folder and those above it, each durably.
func makeFolders(root *os.Root, name string) error {
	if name == "." {
		return nil
	}
	if info, err := root.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	if err := makeFolders(root, path.Dir(name)); err != nil {
		return err
	}
	err := root.Mkdir(name, 0o755)
	if err == nil {
		err = root.Chmod(name, 0o755) // whatever the umask: a web server must get in
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return sync(root, path.Dir(name))
}

func sync(root *os.Root, folder string) error {
	d, err := root.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// compare makes a success of a file that was there already, as durable as one's
// own.
func compare(root *os.Root, name, content string) error {
	same, err := holds(root, name, content)
	switch {
	case err != nil:
		return fmt.Errorf("place file: %w", err)
	case !same:
		return fmt.Errorf("%w: %s holds something else; remove it if no order needs it any more", dcv.Conflict, name)
	}
	if err := sync(root, path.Dir(name)); err != nil {
		return fmt.Errorf("place file: %w", err)
	}
	return nil
}

// holds tells whether a file has exactly this content.
func holds(root *os.Root, name, content string) (bool, error) {
	f, err := root.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	got, err := io.ReadAll(io.LimitReader(f, maxContent+1))
	return bytes.Equal(got, []byte(content)), err
}

// CleanUp removes the file if it has the challenge's content, and the folders
// that are empty then, the host's included.
func (s Solver) CleanUp(ctx context.Context, c order.Challenge) error {
	name, err := locate(c)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return fmt.Errorf("remove file: %w", err)
	}
	defer root.Close()
	same, err := holds(root, name, c.Value)
	if err == nil && same {
		err = root.Remove(name)
		// A crash here leaves empty folders, which harm nobody.
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove file: %w", err)
	}
	if err == nil && !same {
		return nil
	}
	for folder := path.Dir(name); folder != "." && root.Remove(folder) == nil; {
		folder = path.Dir(folder)
	}
	return nil
}

// locate is the file's name below the folder. Host and path come from outside:
// what is not plainly a host and a file below wellKnown is refused, for good.
func locate(c order.Challenge) (string, error) {
	host := strings.ToLower(c.Host)
	switch {
	case c.Type != dcv.FILE:
		return "", fmt.Errorf("%w: a challenge of type %q is no file", dcv.Denied, c.Type)
	case !isHost(host):
		return "", fmt.Errorf("%w: %.100q is no host name", dcv.Denied, c.Host)
	case !isFile(c.Path):
		return "", fmt.Errorf("%w: %.100q is no path of a file below %s", dcv.Denied, c.Path, wellKnown)
	case len(c.Value) == 0 || len(c.Value) > maxContent:
		return "", fmt.Errorf("%w: a file of %d bytes is no challenge", dcv.Denied, len(c.Value))
	}
	return host + c.Path, nil
}

// isHost accepts host names of lower-case A-labels; so never "..".
func isHost(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

func isFile(p string) bool {
	return strings.HasPrefix(p, wellKnown) && len(p) > len(wellKnown) && len(p) < 512 &&
		path.Clean(p) == p && !strings.ContainsAny(p, "\\\x00")
}

// Handler serves the files of dir by the request's Host, as the web servers of
// all these hosts would: for simulated worlds, and for a proxy that passes
// /.well-known/pki-validation/ on.
func Handler(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		content, err := read(dir, r)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(content)
	})
}

func read(dir string, r *http.Request) ([]byte, error) {
	host := strings.ToLower(r.Host)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if !isHost(host) || !isFile(r.URL.Path) {
		return nil, fs.ErrNotExist
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(host + r.URL.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxContent))
}
