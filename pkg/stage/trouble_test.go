package stage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
)

// What these tests count: with one account's cloud hanging, how much of another
// account's work is done while so many of its calls run into their time-out.
const (
	timeouts   = 3
	besideEach = 80               // calls of the other account for each time-out
	patience   = 10 * time.Second // only a test that fails comes to its end
)

// silent is a cloud that answers nothing. Its calls end in a time-out when the
// test says so.
type silent struct {
	issuer.Flow
	timeout chan struct{}
	calls   sync.WaitGroup
}

var errTimeout = errors.New("no answer in time")

func (s *silent) Action() string { return "Order" }

func (s *silent) hang(ctx context.Context) error {
	select {
	case <-s.timeout:
		return &issuer.Error{Kind: issuer.Unavailable, Err: errTimeout}
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *silent) Usage(ctx context.Context, _ string) (issuer.Usage, error) {
	return issuer.Usage{}, s.hang(ctx)
}

func (s *silent) Unused(ctx context.Context) ([]issuer.Row, error) { return nil, s.hang(ctx) }

// lively is one that answers.
type lively struct{ issuer.Flow }

func (lively) Action() string { return "Order" }

func (lively) Usage(context.Context, string) (issuer.Usage, error) { return issuer.Usage{Used: 7}, nil }

func (lively) Unused(context.Context) ([]issuer.Row, error) { return []issuer.Row{{CloudID: "x"}}, nil }

// besides runs b again and again while sixteen hands of another account run a,
// which hangs, and counts how often b ended within the time-outs.
func besides(t *testing.T, cloud *silent, a, b func(context.Context, int) error) (done int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer cloud.calls.Wait()
	defer stop()
	for range 16 {
		cloud.calls.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				_ = a(ctx, n)
				time.Sleep(10 * time.Millisecond) // no order is tried again sooner
			}
		})
	}
	for range timeouts {
		for range besideEach {
			ended := make(chan error, 1)
			go func() { ended <- b(ctx, done) }()
			select {
			case err := <-ended:
				if err != nil {
					t.Fatalf("call %d of the other account: %v", done, err)
				}
				done++
			case <-time.After(patience):
				return done
			}
		}
		select {
		case cloud.timeout <- struct{}{}:
		case <-time.After(patience):
			t.Fatal("nobody asks the cloud that hangs")
		}
	}
	return done
}

func TestUsagesOfOneAccount(t *testing.T) {
	t.Parallel()
	u := Usages{Now: func(context.Context) (time.Time, error) { return time.Now(), nil }}
	a, b := &Account{Label: "a", Main: "1"}, &Account{Label: "b", Main: "2"}
	cloud := &silent{timeout: make(chan struct{})}
	done := besides(t, cloud,
		func(ctx context.Context, _ int) error { _, err := u.Before(ctx, a, cloud, "product"); return err },
		func(ctx context.Context, n int) error {
			_, err := u.Before(ctx, b, lively{}, fmt.Sprint("product", n))
			return err
		})
	if done != timeouts*besideEach {
		t.Errorf("another account's quota was read %d times, want %d, while %d calls of the one that hangs timed out",
			done, timeouts*besideEach, timeouts)
	}
}

func TestPoolsOfOneAccount(t *testing.T) {
	t.Parallel()
	var p Pools
	a := &Account{Label: "a", Main: "1"}
	cloud := &silent{timeout: make(chan struct{})}
	done := besides(t, cloud,
		func(ctx context.Context, _ int) error { _, err := p.unused(ctx, a, cloud); return err },
		func(ctx context.Context, n int) error {
			_, err := p.unused(ctx, &Account{Label: fmt.Sprint("b", n), Main: "2"}, lively{})
			return err
		})
	if done != timeouts*besideEach {
		t.Errorf("other accounts' pools were read %d times, want %d, while %d calls of the one that hangs timed out",
			done, timeouts*besideEach, timeouts)
	}
}
