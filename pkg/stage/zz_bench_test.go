package stage_test

import (
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	for range 5 {
		s := time.Now()
		w := newWorld(t, setup{})
		a := time.Since(s)
		s = time.Now()
		w.order("a", "a.example.com")
		b := time.Since(s)
		s = time.Now()
		w.worker().drive("a", "issued", "failed")
		t.Log(a, b, time.Since(s))
	}
}
