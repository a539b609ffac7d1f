package cloudsim

import (
	"fmt"
	"strings"
	"time"
)

// Duration is a time.Duration that is written "15m" in JSON and YAML.
type Duration time.Duration

// MarshalText writes the form of time.Duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads the form of time.ParseDuration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration: %w", err)
	}
	*d = Duration(v)
	return nil
}

// Range is a random delay, written "100ms..800ms", or "2s" for a fixed one. The
// zero value means the default of its setting; None means no delay.
type Range struct{ Min, Max time.Duration }

// None is no delay at all.
var None = Range{Min: -1, Max: -1}

// Between is a delay from lo to hi.
func Between(lo, hi time.Duration) Range { return Range{Min: lo, Max: hi} }

// Exactly is a fixed delay; zero means None.
func Exactly(d time.Duration) Range {
	if d == 0 {
		return None
	}
	return Range{Min: d, Max: d}
}

// MarshalText writes "min..max".
func (r Range) MarshalText() ([]byte, error) {
	if r == None {
		return []byte("none"), nil
	}
	return []byte(r.Min.String() + ".." + r.Max.String()), nil
}

// UnmarshalText reads "min..max", a single duration, or "none".
func (r *Range) UnmarshalText(text []byte) error {
	if string(text) == "none" {
		*r = None
		return nil
	}
	low, high, both := strings.Cut(string(text), "..")
	if !both {
		high = low
	}
	lo, err := time.ParseDuration(low)
	if err != nil {
		return fmt.Errorf("range: %w", err)
	}
	hi, err := time.ParseDuration(high)
	if err != nil {
		return fmt.Errorf("range: %w", err)
	}
	if hi < lo {
		return fmt.Errorf("range %q: the end lies before the beginning", text)
	}
	*r = Between(lo, hi)
	if lo == 0 && hi == 0 {
		*r = None
	}
	return nil
}
