// Package file places FILE challenges in a folder that a web server of the
// deployer's, or Handler, serves: <dir>/<host>/<path>. Its subfolders place them
// elsewhere: bucket in an object store, shared in NATS, from where any worker
// serves them.
//
// All keep the same rules (file_test.go): what is placed is never replaced by
// another content; only exactly one's own content is removed; host and path,
// which come from outside, never lead anywhere else.
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
	"path/filepath"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
)

// Solver writes the files. The folder must exist; several workers may share it.
// It is safe for concurrent use.
type Solver struct{ Dir string }

var _ dcv.Solver = Solver{}

// Open returns the solver for a folder, and removes from it what writers that
// were killed left half written, a day ago or longer.
func Open(dir string) Solver {
	torn, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*")) // a folder that cannot be read is found out when it is written to
	for _, path := range torn {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			_ = os.Remove(path) // nobody reads it
		}
	}
	return Solver{dir}
}

const tempPrefix = ".certmill-"

// wellKnown is the only place that challenges may have (Baseline Requirements
// 3.2.2.4.18); the path comes from outside.
const wellKnown = "/.well-known/"

// maxContent bounds what is compared and served, in bytes.
const maxContent = 64 << 10

// Present writes the file, durably and mode 0644, so that it is never seen half
// written. A file with another content is Conflict: it may be another order's,
// for which the CA still looks.
func (s Solver) Present(ctx context.Context, c order.Challenge) error {
	name, err := Locate(c)
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
	temp := tempPrefix + rand.Text() + ".tmp"
	defer root.Remove(temp)
	if err := write(root, temp, content); err != nil {
		return err
	}
	// A crash here leaves a temporary file of a few bytes, which nobody reads and
	// Open removes.
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
	name, err := Locate(c)
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

// Locate is the name of a challenge's file: <host>/<path>. Host and path come
// from outside: what is not plainly a host and a file below /.well-known/ is
// refused, for good (dcv.Denied).
func Locate(c order.Challenge) (string, error) {
	host := strings.ToLower(c.Host)
	switch {
	case c.Type != dcv.FILE:
		return "", fmt.Errorf("%w: a challenge of type %q is no file", dcv.Denied, c.Type)
	case !dcv.HostName(host):
		return "", fmt.Errorf("%w: %.100q is no host name", dcv.Denied, c.Host)
	case !isFile(c.Path):
		return "", fmt.Errorf("%w: %.100q is no path of a file below %s", dcv.Denied, c.Path, wellKnown)
	case len(c.Value) == 0 || len(c.Value) > maxContent:
		return "", fmt.Errorf("%w: a file of %d bytes is no challenge", dcv.Denied, len(c.Value))
	}
	return host + c.Path, nil
}

func isFile(p string) bool {
	return strings.HasPrefix(p, wellKnown) && len(p) > len(wellKnown) && len(p) < 512 &&
		path.Clean(p) == p && !strings.ContainsAny(p, "\\\x00")
}

// Handler serves the files of dir by the request's Host, as the web servers of
// all these hosts would: for simulated worlds, and for a proxy that passes
// /.well-known/pki-validation/ on.
func Handler(dir string) http.Handler {
	return Serve(func(_ context.Context, name string) ([]byte, error) { return read(dir, name) })
}

// Serve answers GET and HEAD for files below /.well-known/ with what content
// returns for <host>/<path>, 404 if that is fs.ErrNotExist, 503 for any other
// error, and nothing else: no list, no reason, no other method.
func Serve(content func(ctx context.Context, name string) ([]byte, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		name, ok := asked(r)
		if !ok {
			http.NotFound(w, r)
			return
		}
		data, err := content(r.Context(), name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			http.NotFound(w, r)
			return
		case err != nil:
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store") // the next order's content stands at the same path
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(data)
	})
}

// asked is the name of the file that a request is for.
func asked(r *http.Request) (string, bool) {
	host := strings.ToLower(r.Host)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(host, ".")
	return host + r.URL.Path, dcv.HostName(host) && isFile(r.URL.Path)
}

// read returns a file. Whatever cannot be opened is not there, for the public.
func read(dir, name string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxContent))
	if err != nil { // a folder
		return nil, fs.ErrNotExist
	}
	return data, nil
}
