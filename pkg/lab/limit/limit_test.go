package limit

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if Child() {
		return
	}
	os.Exit(m.Run())
}

// TestRun measures a small table and looks at what must hold at any speed: the
// ring stays within the limit, and the provider sees that the others do not.
func TestRun(t *testing.T) {
	rows, err := Run(t.Context(), Options{Limiters: []string{"ring", "x/time/rate each", "kv token bucket", "redis gcra"},
		Replicas: []int{4}, Jitters: []string{"uniform"}, Duration: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]Row{}
	for _, r := range rows {
		by[r.Limiter] = r
	}
	if r := by["ring"]; r.Violations > 0 || r.Throttled > 0 || r.Calls < 20 || r.MessagesPerPermit < 1 || r.MeanRTT <= 0 {
		t.Errorf("ring: %+v", r)
	}
	if r := by["x/time/rate each"]; r.Violations == 0 || r.FixedViolations == 0 || r.Throttled == 0 {
		t.Errorf("x/time/rate each: %+v", r)
	}
	if r := by["kv token bucket"]; r.Calls < 20 || r.MessagesPerPermit < 1 {
		t.Errorf("kv token bucket: %+v", r)
	}
	if r := by["redis gcra"]; r.Skipped == "" {
		t.Errorf("redis gcra without a helper: %+v", r)
	}
	var b bytes.Buffer
	if err := WriteJSON(&b, rows); err != nil {
		t.Fatal(err)
	}
	var back []map[string]any
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"limiter", "replicas", "jitter", "calls", "violations", "throttled", "utilisation", "of_bound", "messages_per_permit"} {
		if _, ok := back[0][k]; !ok {
			t.Errorf("no %s in %v", k, back[0])
		}
	}
	b.Reset()
	if err := WriteTable(&b, rows); err != nil || !strings.Contains(b.String(), "left out") {
		t.Errorf("table: %v\n%s", err, b.String())
	}
}

func TestUnknownNames(t *testing.T) {
	for _, o := range []Options{{Limiters: []string{"x"}}, {Jitters: []string{"x"}}, {Disturbances: []string{"x"}}} {
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), `"x"`) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestCounter counts arrivals that the real clock brings, in a fixed pattern.
func TestCounter(t *testing.T) {
	c := &counter{}
	base := time.Now()
	for i := range allowed { // ten calls, the oldest 999 ms old
		at := base.Add(-999*time.Millisecond + time.Duration(i)*time.Millisecond)
		c.arrivals, c.accepted = append(c.arrivals, at), append(c.accepted, at)
	}
	var r Row
	if !c.count() {
		// only a pause of a millisecond between the two clock readings allows this
		if time.Since(base) < time.Millisecond {
			t.Error("the 11th call in a second was accepted")
		}
		t.Skip("the machine paused")
	}
	if c.read(&r, time.Time{}); r.Violations != 1 || r.Throttled != 1 || r.Calls != 11 {
		t.Errorf("%+v", r)
	}
}

func TestSlope(t *testing.T) {
	var at []time.Time
	for i := range 50 {
		at = append(at, time.Unix(0, 0).Add(time.Duration(i)*100*time.Millisecond))
	}
	if s := slope(at); s < 9.99 || s > 10.01 {
		t.Errorf("slope %v, want 10", s)
	}
}
