package app

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/certmill/certmill/pkg/stage"
)

// A removed order is told within seconds where looking costs nothing, and a sweep that
// takes long does not become a load.
func TestPace(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		time.Millisecond: paceLeast, 100 * time.Millisecond: 20 * time.Second, 12 * time.Second: removedEvery,
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &pace{}
			_ = p.timed(func(context.Context, *stage.Account) error { time.Sleep(took); return nil })(t.Context(), nil)
			if is := p.every(removedEvery); is != want {
				t.Errorf("after one of %v the next comes in %v, and not in %v", took, is, want)
			}
		})
	}
}
