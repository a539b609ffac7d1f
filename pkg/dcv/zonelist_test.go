package dcv_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// sick is a DNS API that lets every question run into its time-out, as long as it
// is sick.
type sick struct {
	dcv.Provider
	ill   atomic.Bool
	asked atomic.Int32
}

func (s *sick) Zones(ctx context.Context, _ string) ([]string, error) {
	s.asked.Add(1)
	if !s.ill.Load() {
		return []string{"example.com"}, nil
	}
	select {
	case <-time.After(3 * time.Second):
		return nil, &issuer.Error{Kind: issuer.Unavailable, Err: errors.New("no answer in time")}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *sick) Add(context.Context, string, dcv.Record) error { return nil }

// TestZonesOfASilentAPI: a hundred orders that need the list of zones of an API
// that does not answer, which may be another account's, wait for one time-out and
// are free to do something else then; and that it answers again is noticed.
func TestZonesOfASilentAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &sick{}
		api.ill.Store(true)
		s := dcv.NewRecords(api)
		present := func() (failed int) {
			var wg sync.WaitGroup
			var n atomic.Int32
			for i := range 100 {
				wg.Go(func() {
					if s.Present(t.Context(), order.Challenge{Type: "TXT", Host: fmt.Sprintf("_a%d.example.com", i),
						Value: "v"}) != nil {
						n.Add(1)
					}
				})
			}
			wg.Wait()
			return int(n.Load())
		}
		began := time.Now()
		if failed := present(); failed != 100 || api.asked.Load() != 1 {
			t.Errorf("%d of 100 failed by %d questions", failed, api.asked.Load())
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a hundred waited %v", took)
		}
		api.ill.Store(false)
		time.Sleep(2 * time.Second)
		if failed := present(); failed != 0 || api.asked.Load() != 2 {
			t.Errorf("when it answers again: %d of 100 failed by %d questions", failed, api.asked.Load())
		}
	})
}
