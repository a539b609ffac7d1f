package cloudsim

import (
	"sync"
	"time"
)

// api is what the clouds limit: one action of one main account. CAS counts per
// regionId, API and ParentUid, so that RAM users share one bucket.
type api struct {
	Owner  owner
	Action string
}

// meter counts every call at its arrival and says which ones are too many.
type meter struct {
	mu   sync.Mutex
	apis map[api]*gauge
}

// gauge is what the meter knows of one api.
type gauge struct {
	calls, throttled, violations int
	peakSliding, peakFixed       int

	arrivals window // every call, for the peaks
	admitted window // what counts against the limit
}

// window holds the calls of the last second, and of the present wall-clock one.
type window struct {
	last   []time.Time
	second int64
	fixed  int
}

func newMeter() *meter { return &meter{apis: map[api]*gauge{}} }

// arrive counts a call and says whether it is within the limit. The time is taken
// under the lock, so that the order of calls is the order of their times.
func (m *meter) arrive(a api, limit int, mode string, throttledCount bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	g := m.apis[a]
	if g == nil {
		g = &gauge{}
		m.apis[a] = g
	}
	g.calls++
	sliding, fixed := g.arrivals.add(now)
	g.peakSliding, g.peakFixed = max(g.peakSliding, sliding), max(g.peakFixed, fixed)
	if sliding > limit {
		g.violations++
	}
	return g.admit(now, limit, mode, throttledCount)
}

func (g *gauge) admit(now time.Time, limit int, mode string, throttledCount bool) bool {
	sliding, fixed := g.admitted.count(now)
	full := (mode != "fixed" && sliding >= limit) || (mode != "sliding" && fixed >= limit)
	if !full || throttledCount {
		g.admitted.add(now)
	}
	if full {
		g.throttled++
	}
	return !full
}

// count forgets what is a second old or older and says how many calls are left,
// sliding and in this wall-clock second.
func (w *window) count(now time.Time) (sliding, fixed int) {
	i := 0
	for i < len(w.last) && now.Sub(w.last[i]) >= time.Second {
		i++
	}
	w.last = w.last[i:]
	if second := now.Unix(); second != w.second {
		w.second, w.fixed = second, 0
	}
	return len(w.last), w.fixed
}

func (w *window) add(now time.Time) (sliding, fixed int) {
	w.count(now)
	w.last = append(w.last, now)
	w.fixed++
	return len(w.last), w.fixed
}

// refuse counts a call that a fault throttled.
func (m *meter) refuse(a api) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if g := m.apis[a]; g != nil {
		g.throttled++
	}
}

func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.apis)
}

// limit is the number of calls per second that an action of a cloud may have.
func (c *Config) limit(cloud, action string) int {
	for _, name := range []string{actionAt(cloud, action), action} {
		if n, own := c.Limits[name]; own {
			return n
		}
	}
	return c.Limits["default"]
}
