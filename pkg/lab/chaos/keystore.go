package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/stream"
)

// loseKeyStore takes the key store away in the midst of a run, in every way that a
// volume is missing: the folder is gone, it is empty, another store lies there
// (DESIGN 12.8). Nothing is paid for meanwhile whose pair is in no store, and whoever
// starts says what is wrong. The store is put back, or another one is accepted, in
// the end also an empty one: then every order ends.
func loseKeyStore(ctx context.Context, s *site, _ int) error {
	all, err := s.requests(s.size.Orders, "keystore")
	if err != nil {
		return err
	}
	k := &vault{site: s, path: s.cfg.Keys.Store}
	s.stores = []string{k.path}
	losses := []func(context.Context) error{k.removed, k.unmounted, k.replaced, k.gone}
	share, pace := len(all)/(len(losses)+1), s.size.For/time.Duration(2*len(losses))
	for i, lose := range losses {
		if err := s.publish(ctx, all[i*share:(i+1)*share], pace); err != nil {
			return err
		}
		if err := lose(ctx); err != nil {
			return err
		}
	}
	return s.publish(ctx, all[len(losses)*share:], pace)
}

// vault is the key store of a site, and where it lies when it is away.
type vault struct {
	*site
	path string
	n    int // how often it was taken away
}

// away moves the store to another place, as it is, and returns that.
func (k *vault) away() (string, error) {
	k.n++
	to := fmt.Sprintf("%s-%d", k.path, k.n)
	k.stores = append(k.stores, to)
	k.count(func(r *Report) { r.Vaults++ })
	return to, os.Rename(k.path, to)
}

func (k *vault) removed(ctx context.Context) error {
	k.tell("the key store is removed")
	from, err := k.away()
	if err != nil {
		return err
	}
	k.refused(ctx, "there is no key store at")
	return k.back(from)
}

func (k *vault) unmounted(ctx context.Context) error {
	k.tell("the key store is unmounted")
	from, err := k.away()
	if err != nil {
		return err
	}
	if err := os.Mkdir(k.path, 0o700); err != nil {
		return err
	}
	k.refused(ctx, "there is no key store at")
	return k.back(from)
}

// replaced puts another store there, which is accepted.
func (k *vault) replaced(ctx context.Context) error {
	k.tell("another key store lies where the key store was")
	if _, err := k.away(); err != nil {
		return err
	}
	if _, _, err := certstore.MakeKeyStore(k.path); err != nil {
		return err
	}
	k.refused(ctx, "these streams belong to the one with the id")
	return k.accept(ctx, false)
}

// gone takes the store away for good: an empty one is accepted in its place.
func (k *vault) gone(ctx context.Context) error {
	k.tell("the key store is lost for good")
	if _, err := k.away(); err != nil {
		return err
	}
	k.refused(ctx, "there is no key store at")
	return k.accept(ctx, true)
}

// back puts the store back, in the place of an empty folder at most.
func (k *vault) back(from string) error {
	err := os.Remove(k.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.complain("something was written where the key store was taken away: %v", err)
		err = os.Rename(k.path, from+"-false")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	k.stores = slices.DeleteFunc(k.stores, func(dir string) bool { return dir == from })
	return os.Rename(from, k.path)
}

// refused waits until workers and init have said what is wrong with the store, looks
// whether something was paid meanwhile whose pair is nowhere, and orders go on coming.
func (k *vault) refused(ctx context.Context, sentence string) {
	began := map[string]int64{}
	for _, p := range k.submitters {
		if info, err := os.Stat(p.log); err == nil {
			began[p.log] = info.Size()
		}
	}
	_, err := app.Init(ctx, k.cfg, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), sentence) {
		k.complain("init does not refuse the key store: %v", err)
	}
	err = k.await(ctx, 20*time.Second, "every submitter says what is wrong", func(context.Context) error {
		for _, p := range k.submitters {
			if text := since(p.log, began[p.log]); !strings.Contains(text, "key store") {
				return fmt.Errorf("%s says nothing of it", p.name)
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		k.complain("%v", err)
	}
	_ = stream.Sleep(ctx, 2*time.Second) // what was on its way lands
	stores := k.stores[1:]               // that at the path is none
	if _, err := certstore.FindKeyStore(k.path); err == nil {
		stores = k.stores
	}
	without, err := k.withoutPair(ctx, stores...)
	if err != nil {
		k.complain("the pairs cannot be read: %v", err)
	}
	for _, o := range without {
		k.complain("cloud order %s for %v was paid while the key store was away, and its pair is in none", o.ID, o.Names)
	}
}

// since is what was written to a log from a place on.
func since(path string, from int64) string {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return ""
	}
	defer f.Close()
	data, _ := io.ReadAll(io.NewSectionReader(f, from, 1<<24))
	return string(data)
}

// accept says that the store that lies there now is right, or begins an empty one.
func (k *vault) accept(ctx context.Context, anew bool) error {
	return k.await(ctx, time.Minute, "the key store is accepted", func(ctx context.Context) error {
		console, err := app.OpenConsole(ctx, k.cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer console.Close()
		done, err := console.AcceptStore(ctx, anew)
		if err == nil && len(done.Filled.Left) > 0 {
			err = errors.New(strings.Join(done.Filled.Left, "; "))
		}
		return err
	})
}
