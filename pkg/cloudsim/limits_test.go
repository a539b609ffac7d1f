package cloudsim

import (
	"testing"
	"testing/synctest"
	"time"
)

// arrivals calls at the given times and tells which calls pass.
func arrivals(t *testing.T, mode string, throttledCount bool, at ...time.Duration) (passed []bool, g gauge) {
	synctest.Test(t, func(t *testing.T) {
		m, start, a := newMeter(), time.Now(), api{owner{cloudTencent, "1"}, "A"}
		for _, d := range at {
			time.Sleep(time.Until(start.Add(d)))
			passed = append(passed, m.arrive(a, 2, mode, throttledCount))
		}
		g = *m.apis[a]
	})
	return passed, g
}

func TestMeter(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name, mode     string
		throttledCount bool
		at             []time.Duration
		want           []bool
		violations     int
	}{
		{"within", "both", false, []time.Duration{0, 500 * ms, 1000 * ms}, []bool{true, true, true}, 0},
		{"sliding sees across the second", "sliding", false, []time.Duration{900 * ms, 950 * ms, 1050 * ms}, []bool{true, true, false}, 1},
		{"fixed does not", "fixed", false, []time.Duration{900 * ms, 950 * ms, 1050 * ms}, []bool{true, true, true}, 1},
		{"a second later is a second later", "sliding", false, []time.Duration{0, 10 * ms, 999 * ms, 1000 * ms}, []bool{true, true, false, true}, 2},
		{"throttled calls are free", "sliding", false, []time.Duration{0, 0, 900 * ms, 1100 * ms}, []bool{true, true, false, true}, 1},
		{"throttled calls count", "sliding", true, []time.Duration{0, 0, 900 * ms, 950 * ms, 1100 * ms}, []bool{true, true, false, false, false}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, g := arrivals(t, tt.mode, tt.throttledCount, tt.at...)
			for i := range tt.want {
				if got[i] != tt.want[i] {
					t.Errorf("call %d at %v: passed %v, want %v", i, tt.at[i], got[i], tt.want[i])
				}
			}
			if g.violations != tt.violations || g.calls != len(tt.at) {
				t.Errorf("%d calls, %d violations, want %d", g.calls, g.violations, tt.violations)
			}
		})
	}
}
